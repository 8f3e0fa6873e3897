// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/identity"
	"hallig/sync/p2p"
	"hallig/sync/peer"
)

// boxIdentity is who box i is, the same in every process.
func boxIdentity(i int) identity.Identity {
	seed := func(what string) []byte {
		h := sha256.Sum256(fmt.Append(nil, what, i))
		return h[:]
	}
	return identity.Identity{Box: ed25519.NewKeyFromSeed(seed("box")), Signing: identity.Signing{Server: boxName(i), Key: event.Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(seed("signing"))}}}
}

// taken counts what came to boxes: once for each transaction, and how often again.
type taken struct {
	mu          sync.Mutex
	keys        map[string]bool
	last        map[string]int64 // by box, the newest number that came
	again, late int64            // late: came for the first time, and after one that was sent later
	worst       int64            // milliseconds from the sender to the box, since the last word
}

func (t *taken) note(box, path string, number, sent int64) {
	took := time.Now().UnixMilli() - sent
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.keys[box+path] {
		t.again++
		return
	}
	t.keys[box+path] = true
	if number < t.last[box] {
		t.late++
	}
	t.last[box] = number
	t.worst = max(t.worst, took)
}

func (t *taken) say() {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Printf("taken %d\nagain %d\nlate %d\nworst %d\n", len(t.keys), t.again, t.late, t.worst)
	t.worst = 0
}

// boxesRole runs some of the boxes: each a libp2p host of its own that knows the hub, makes contact when it is there, and takes what comes.
func boxesRole(args []string) error {
	f := flag.NewFlagSet("boxes", flag.ContinueOnError)
	from, to := f.Int("from", 0, ""), f.Int("to", 0, "")
	hub := f.String("hub", "", "file with the hub's statement")
	at := f.String("at", "", "addresses of its nodes, by commas")
	if err := f.Parse(args); err != nil {
		return err
	}
	raw, err := os.ReadFile(*hub)
	if err != nil {
		return err
	}
	p, err := peer.ReadStatement(raw)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	t := &taken{keys: make(map[string]bool), last: make(map[string]int64)}
	var c counts
	var wg sync.WaitGroup
	for i := *from; i < *to; i++ {
		b := &simBox{id: boxIdentity(i), taken: t, counts: &c}
		if err := b.start(p, strings.Split(*at, ",")); err != nil {
			return err
		}
		wg.Go(func() { b.run(ctx) })
	}
	for tick := time.NewTicker(200 * time.Millisecond); ctx.Err() == nil; {
		fmt.Printf("connected %d\ncontacts %d\nheard %d\nfailed %d\n", c.connected.Load(), c.contacts.Load(), c.heard.Load(), c.failed.Load())
		t.say()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	wg.Wait()
	return nil
}

// simBox is a box without phones and database.
type simBox struct {
	id       identity.Identity
	document []byte // of its keys, as boxes sign it once a day
	host     *p2p.Host
	taken    *taken
	*counts
}

// counts are of boxes: those connected now, contacts made after coming, those connected whose contact was answered, contacts that failed.
type counts struct{ connected, contacts, heard, failed atomic.Int64 }

func (b *simBox) start(hub peer.Peer, at []string) error {
	l := federation.Local{Server: b.id.Server, Key: b.id.Key}
	statement, err := b.id.Statement()
	if err == nil {
		b.document, err = federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(l)}).Document(l)
	}
	if err != nil {
		return err
	}
	b.host, err = p2p.New(p2p.Config{Box: b.id.Box, Statement: statement, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true, Static: at, Through: hubName,
		Roster: peer.NewRoster(hub), Log: slog.New(slog.DiscardHandler)})
	return err
}

func (b *simBox) run(ctx context.Context) {
	srv := &http.Server{Handler: b, ReadHeaderTimeout: time.Minute}
	var loops sync.WaitGroup
	loops.Go(func() { _ = srv.Serve(b.host.Listener()) }) // until Close
	var there atomic.Pointer[context.CancelFunc]          // ends what goes on while the box is connected
	up := func(string, int, int) {
		b.connected.Add(1)
		ctx, gone := context.WithCancel(ctx)
		there.Store(&gone)
		loops.Go(func() { b.tell(ctx) })
	}
	down := func(string) {
		b.connected.Add(-1)
		(*there.Load())()
	}
	if err := b.host.Serve(ctx, up, down, func(string, []byte) {}, func(string) {}); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
	}
	srv.Close()
	_ = b.host.Close() // all is over
	loops.Wait()
}

// tell makes contact when the box has come, and from time to time, as boxes do.
func (b *simBox) tell(ctx context.Context) {
	for heard := false; ctx.Err() == nil; {
		err := b.contact(ctx)
		switch {
		case err != nil:
			b.failed.Add(1) // the connection has gone, mostly; with the next one it makes contact again
			pause(ctx, contactAgain)
			continue
		case !heard:
			heard = true
			b.contacts.Add(1)
			b.heard.Add(1)
			defer b.heard.Add(-1)
		}
		pause(ctx, contactEvery)
	}
}

// As in appliance.
const (
	contactEvery = 10 * time.Minute
	contactAgain = 30 * time.Second
)

// contact is what a box tells its hub when it comes.
func (b *simBox) contact(ctx context.Context) error {
	statement, err := b.id.Statement()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(api.Contact{Version: "sim", Mode: api.Sealed, Statement: statement, KeyDocument: b.document, Health: "ok", Clock: time.Now().UnixMilli(), ClockGood: true})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, federation.Scheme+"://"+hubName+api.ContactPath, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	resp, err := b.host.RoundTripper().RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("the hub answered %s %s", resp.Status, text)
	}
	return nil
}

// ServeHTTP takes a transaction as a box would, less the database, and answers questions.
func (b *simBox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"box":%q}`, b.id.Server)
		return
	}
	if r.URL.Path == api.PlayPath {
		b.play(w, r)
		return
	}
	var txn struct {
		Sent int64 `json:"origin_server_ts"`
		EDUs []struct {
			Content struct {
				Number int64 `json:"n"`
			} `json:"content"`
		} `json:"edus"`
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(raw, &txn) != nil || len(txn.EDUs) != 1 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	b.taken.note(b.id.Server, r.URL.Path, txn.EDUs[0].Content.Number, txn.Sent)
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"pdus":{}}`)
}

// play takes many requests at once.
func (b *simBox) play(w http.ResponseWriter, r *http.Request) {
	p, err := api.ReadPlay(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var out api.Played
	for _, q := range p.Requests {
		one, answer := httptest.NewRequest(q.Method, q.URI, strings.NewReader(q.Body)), httptest.NewRecorder()
		b.ServeHTTP(answer, one)
		out.Answers = append(out.Answers, api.PlayedOne{Status: answer.Code, Text: answer.Body.String()})
		if answer.Code != http.StatusOK {
			break
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // who asks has gone: it plays them again
}
