// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/radio"
	"hallig/sync/inbox"
	"hallig/sync/peer"
	"hallig/sync/relay"
)

// world is some boxes that know each other's keys.
type world struct {
	t     *testing.T
	boxes []*box
	quiet slog.LevelVar // what a long story leaves out of its log
}

// box is a real store, real rooms, a real link; its phones are function calls.
type box struct {
	w       *world
	name    string // server name
	dir     string
	key     ed25519.PrivateKey
	sign    event.Key
	peer    peer.Peer
	roster  peer.Roster
	handler http.Handler // nil: serve
	carries bool         // it carries for others
	asks    bool         // it asks others for what lies between events, as a whole box does

	plugs  []func() Transport // what it is plugged into; a port belongs to one life of a box
	db     *store.DB
	rooms  *room.Rooms
	link   *Link
	relay  *relay.Relay // where it carries
	graph  *graph       // where it asks
	stop   context.CancelFunc
	ended  chan struct{}
	halted bool

	mu   sync.Mutex
	edus []string // "kind content" of EDUs taken, in order
	seen []Event
	port *radio.Port             // the newest, where there is one
	fail func(kind string) error // of EDUs
	mail func(content []byte)    // is told of messages between devices instead of edus
	now  func() time.Time        // its clock; nil: the right time

	shown map[event.UserID]int64 // what its users' devices were shown
}

func newWorld(t *testing.T) *world {
	w := &world{t: t}
	w.quiet.Set(slog.LevelDebug)
	if long := os.Getenv("HALLIG_LAB")+os.Getenv("HALLIG_MEASURE") != ""; long && os.Getenv("HALLIG_LOG") == "" {
		w.quiet.Set(silent)
	}
	return w
}

const silent = slog.LevelError + 1

// box makes a box of a name; it does not run yet.
func (w *world) box(name string) *box {
	seed := bytes.Repeat([]byte(name[:1]), ed25519.SeedSize)
	b := &box{w: w, name: name + ".test", dir: w.t.TempDir(), key: ed25519.NewKeyFromSeed(seed)}
	b.sign = event.Key{ID: "ed25519:" + name, Private: ed25519.NewKeyFromSeed(bytes.Repeat([]byte(name[1:2]), ed25519.SeedSize))}
	public := b.key.Public().(ed25519.PublicKey)
	b.peer = peer.Peer{ID: peer.IDOf(public), Server: b.name, BoxKey: public,
		SigningKeys: map[string]ed25519.PublicKey{b.sign.ID: b.sign.Private.Public().(ed25519.PublicKey)}}
	w.boxes = append(w.boxes, b)
	return b
}

// pair lets two boxes know each other.
func pair(a, b *box) {
	a.roster, b.roster = a.roster.With(b.peer), b.roster.With(a.peer)
}

// on plugs a box into a wire.
func (b *box) on(w *wire) *box {
	b.plugs = append(b.plugs, func() Transport { return w.port(string(b.peer.ID)) })
	return b
}

func (b *box) logger() *slog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return slog.New(slog.NewTextHandler(testWriter{b.w.t, b.name}, &slog.HandlerOptions{Level: &b.w.quiet}))
}

type testWriter struct {
	t    *testing.T
	name string
}

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s %s: %s", time.Now().Format("02 15:04:05.000"), w.name, strings.TrimSpace(string(p)))
	return len(p), nil
}

func (b *box) start() {
	t := b.w.t
	t.Helper()
	ctx := t.Context()
	var err error
	if b.db, err = store.Open(ctx, filepath.Join(b.dir, "hallig.db"), store.Options{Reserve: -1}); err != nil {
		t.Fatal(err)
	}
	err = b.db.Do(ctx, func(tx *store.Tx) error {
		for _, p := range b.roster.All() {
			if err := tx.PutPeer(string(p.ID), p.Server, []byte{0}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b.rooms = room.New(b.db, room.Identity{Server: b.name, Key: b.sign}, room.Options{OnAppend: b.appended(inbox.Number(b.name)), Clock: b.now})
	if b.asks {
		b.federate()
	}
	in := inbox.New(inbox.Config{DB: b.db, Rooms: b.rooms, Verify: b.verify, EDU: b.takeEDU, Stage: b.stage(), Log: b.logger()})
	var transports []Transport
	for _, plug := range b.plugs {
		transports = append(transports, plug())
	}
	var carrier Relay
	if b.carries {
		if b.relay, err = relay.New(ctx, relay.Config{Key: b.key, DB: b.db, Roster: func() peer.Roster { return b.roster }, Log: b.logger()}); err != nil {
			t.Fatal(err)
		}
		transports, carrier = append(transports, b.relay), b.relay
	}
	b.link, err = New(ctx, Config{Relay: carrier, Key: b.key, Server: b.name, DB: b.db, Inbox: in, Roster: func() peer.Roster { return b.roster },
		Transports: transports, Handler: b.answers(), Observe: b.observe, Shown: b.devices, Log: b.logger()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	b.ended, b.halted = make(chan struct{}), false
	if b.graph != nil {
		b.graph.run(ctx, func(what string, err error) { t.Errorf("%s: %s ended: %v", b.name, what, err) })
	}
	go func() { // halt waits for it
		defer close(b.ended)
		if err := b.link.Run(ctx); err != nil {
			t.Errorf("%s: link ended: %v", b.name, err)
		}
	}()
}

// appended is what composition does in the transaction that stores an event.
func (b *box) appended(number func(*store.Tx, room.AppendInfo) error) func(*store.Tx, room.AppendInfo) error {
	return func(tx *store.Tx, e room.AppendInfo) error {
		if err := number(tx, e); err != nil {
			return err
		}
		if err := b.link.Appended(tx, e); err != nil || b.graph == nil {
			return err
		}
		return b.graph.sender.Appended(tx, e)
	}
}

// devices tells what its users' devices were shown.
func (b *box) devices() map[event.UserID]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.shown)
}

// syncs shows a user's device everything.
func (b *box) syncs(local string) {
	b.mu.Lock()
	if b.shown == nil {
		b.shown = map[event.UserID]int64{}
	}
	b.shown[b.user(local)] = b.db.Published()
	b.mu.Unlock()
	b.link.Moved()
}

func (b *box) answers() http.Handler {
	if b.handler != nil {
		return b.handler
	}
	return b
}

// halt stops the box; its memory is lost, its disk stays.
func (b *box) halt() {
	b.halted = true
	b.stop()
	<-b.ended
	if b.graph != nil {
		b.graph.work.Wait()
	}
	if err := b.db.Close(); err != nil {
		b.w.t.Errorf("%s: close: %v", b.name, err)
	}
}

func (w *world) start() {
	for _, b := range w.boxes {
		b.start()
	}
}

func (w *world) halt() {
	for _, b := range w.boxes {
		if !b.halted {
			b.halt()
		}
	}
}

func (b *box) observe(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, e)
}

func (b *box) takeEDU(_ context.Context, origin, kind string, content []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		if err := b.fail(kind); err != nil {
			return err
		}
	}
	if b.mail != nil && kind == "m.direct_to_device" {
		b.mail(content)
		return nil
	}
	b.edus = append(b.edus, origin+" "+kind+" "+string(content))
	return nil
}

func (b *box) took() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.edus)
}

func (b *box) verify(_ context.Context, p *event.PDU) error {
	for _, server := range p.SignedBy() {
		ok := false
		for _, o := range b.w.boxes {
			if o.name != server {
				continue
			}
			for id, key := range o.peer.SigningKeys {
				ok = ok || p.VerifySignature(server, id, key) == nil
			}
		}
		if !ok {
			return fmt.Errorf("not signed by %s", server)
		}
	}
	return nil
}

// user is somebody on this box.
func (b *box) user(local string) event.UserID { return event.UserID("@" + local + ":" + b.name) }

func (b *box) create(by string) event.RoomID {
	b.w.t.Helper()
	id, err := b.rooms.Create(b.w.t.Context(), room.CreateRequest{Creator: b.user(by), Preset: "public_chat"})
	if err != nil {
		b.w.t.Fatal(err)
	}
	return id
}

func (b *box) text(id event.RoomID, by, text string) event.ID {
	b.w.t.Helper()
	body, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	eid, err := b.rooms.Send(b.w.t.Context(), room.Draft{Room: id, Sender: b.user(by), Type: "m.room.message", Content: body})
	if err != nil {
		b.w.t.Fatalf("%s says %q: %v", b.user(by), text, err)
	}
	return eid
}

func (b *box) state(id event.RoomID, by, typ, key string, content any) event.ID {
	b.w.t.Helper()
	body, _ := json.Marshal(content)
	eid, err := b.rooms.Send(b.w.t.Context(), room.Draft{Room: id, Sender: b.user(by), Type: typ, StateKey: &key, Content: body})
	if err != nil {
		b.w.t.Fatalf("%s sets %s %q: %v", b.user(by), typ, key, err)
	}
	return eid
}

// joined is what the resident box answers.
type joined struct {
	Version     string
	Join        json.RawMessage
	State, Auth []json.RawMessage
}

// serve is a thin make_join and send_join: enough law to move a room, none of federation's.
func (b *box) serve(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	fail := func(err error) { http.Error(w, err.Error(), http.StatusInternalServerError) }
	q := r.URL.Query()
	switch r.URL.Path {
	case "/make_join/":
		key := q.Get("user")
		tpl, v, err := b.rooms.Template(ctx, room.Draft{Room: event.RoomID(q.Get("room")), Sender: event.UserID(key), Type: "m.room.member", StateKey: &key,
			Content: json.RawMessage(`{"membership":"join"}`)})
		if err != nil {
			fail(err)
			return
		}
		_ = json.NewEncoder(w).Encode(joined{Version: v.ID, Join: tpl})
	case "/send_join/":
		raw, _ := io.ReadAll(r.Body)
		v, _ := event.Lookup(q.Get("version"))
		p, err := event.Parse(v, raw)
		if err != nil {
			fail(err)
			return
		}
		res, err := b.rooms.Accept(ctx, room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: p.Sender.Server()}})
		if err != nil || res.Outcome != room.Accepted && res.Outcome != room.Duplicate {
			fail(fmt.Errorf("join: %v %v", res, err))
			return
		}
		out := joined{Version: v.ID, Join: p.JSON()}
		told, err := b.rooms.TellJoin(ctx, p.ID, false)
		if err == nil {
			err = told.Each(ctx, told.State, func(raw json.RawMessage) error { out.State = append(out.State, raw); return nil })
		}
		if err == nil {
			err = told.Each(ctx, told.Auth, func(raw json.RawMessage) error { out.Auth = append(out.Auth, raw); return nil })
		}
		if err != nil {
			fail(err)
			return
		}
		_ = json.NewEncoder(w).Encode(out)
	default:
		http.NotFound(w, r)
	}
}

func (b *box) call(ctx context.Context, server, path string, body []byte, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, "matrix-federation://"+server+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := b.roundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %d: %s", path, resp.StatusCode, raw)
	}
	return json.Unmarshal(raw, into)
}

// roundTrip goes over the link, or straight to a box that is not paired: the central server of these tests.
func (b *box) roundTrip(r *http.Request) (*http.Response, error) {
	if _, ok := b.roster.ByServer(r.URL.Host); ok {
		return b.link.RoundTripper().RoundTrip(r)
	}
	for _, o := range b.w.boxes {
		if o.name == r.URL.Host {
			w := &recorder{header: http.Header{}}
			o.serve(w, r)
			return &http.Response{StatusCode: max(w.status, 200), Body: io.NopCloser(&w.body)}, nil
		}
	}
	return nil, fmt.Errorf("no box is called %s", r.URL.Host)
}

// push hands an event to another box as a central server does.
func (b *box) push(to *box, id event.ID) {
	b.w.t.Helper()
	p, _, err := b.rooms.Event(b.w.t.Context(), id)
	if err != nil {
		b.w.t.Fatal(err)
	}
	if _, err := to.rooms.Accept(b.w.t.Context(), room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: b.name}}); err != nil {
		b.w.t.Fatal(err)
	}
}

// sent counts the events that this box has sent in full since forgetSeen.
func (b *box) sent() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.seen {
		if e.What == "sent" {
			n++
		}
	}
	return n
}

func (b *box) forgetSeen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = nil
}

// join brings a user of this box into a room through another box, over the link.
func (b *box) join(through *box, id event.RoomID, local string) {
	b.w.t.Helper()
	if err := b.tryJoin(b.w.t.Context(), through, id, local); err != nil {
		b.w.t.Fatalf("%s joins: %v", b.user(local), err)
	}
}

func (b *box) tryJoin(ctx context.Context, through *box, id event.RoomID, local string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	var made, sent joined
	if err := b.call(ctx, through.name, "/make_join/?room="+string(id)+"&user="+string(b.user(local)), nil, &made); err != nil {
		return err
	}
	v, ok := event.Lookup(made.Version)
	if !ok {
		return fmt.Errorf("version %q", made.Version)
	}
	p, err := event.FromTemplate(v, made.Join, b.name, b.sign)
	if err != nil {
		return err
	}
	if err := b.call(ctx, through.name, "/send_join/?version="+v.ID, p.JSON(), &sent); err != nil {
		return err
	}
	parse := func(raws []json.RawMessage) (out []*event.PDU) {
		for _, raw := range raws {
			e, perr := event.Parse(v, raw)
			if perr != nil {
				err = perr
			}
			out = append(out, e)
		}
		return out
	}
	state, auth := parse(sent.State), parse(sent.Auth)
	if err != nil {
		return err
	}
	return b.rooms.Adopt(ctx, v, p, state, auth, room.Source{Kind: "federation", Server: through.name})
}

// timeline lists the shown messages of a room, in this box's order.
func (b *box) timeline(id event.RoomID) []event.ID { return b.all(id, "m.room.message") }

// all lists the events of one type that the box shows in a room, in its order.
func (b *box) all(id event.RoomID, typ string) (out []event.ID) {
	b.w.t.Helper()
	err := b.db.View(b.w.t.Context(), func(r *store.Read) error {
		rows, err := r.RoomEventsBetween(id, store.MinPos, 1<<62, 0, false)
		for _, e := range rows {
			if e.Type == typ {
				out = append(out, e.ID)
			}
		}
		return err
	})
	if err != nil {
		b.w.t.Fatal(err)
	}
	return out
}

// want checks that the boxes show exactly these messages, each once, and agree on the state.
func want(t *testing.T, id event.RoomID, msgs []event.ID, boxes ...*box) {
	t.Helper()
	msgs = slices.Sorted(slices.Values(msgs))
	for _, b := range boxes {
		got := slices.Sorted(slices.Values(b.timeline(id)))
		if !slices.Equal(got, msgs) {
			t.Errorf("%s shows %d messages, want %d (lost %d, more %d)", b.name, len(got), len(msgs), count(msgs, got), count(got, msgs))
		}
		a, err := boxes[0].rooms.State(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		s, err := b.rooms.State(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if len(a) != len(s) {
			t.Errorf("%s has %d state events, %s has %d", boxes[0].name, len(a), b.name, len(s))
		}
		for k, e := range a {
			if s[k] != e {
				t.Errorf("state %v: %s has %s, %s has %s", k, boxes[0].name, e, b.name, s[k])
			}
		}
	}
}

// count counts what is in a and not in b.
func count(a, b []event.ID) (n int) {
	for _, id := range a {
		if !slices.Contains(b, id) {
			n++
		}
	}
	return n
}

// run runs a story in a bubble of virtual time.
func run(t *testing.T, story func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.halt()
		story(t, w)
	})
}

// pass lets virtual time pass.
func pass(d time.Duration) {
	time.Sleep(d) // virtual: returns when everybody else has nothing to do
	synctest.Wait()
}

// dice gives a repeatable source of chance.
func dice(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }
