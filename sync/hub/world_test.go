// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallig/appliance/cert"
	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
	"hallig/sync/identity"
	"hallig/sync/p2p"
	"hallig/tools/testpeer"
	"hallig/tools/testport"
)

// inTime bounds a wait for something that has to come; a test that runs into it fails.
const inTime = time.Minute

// world is a hub with a server far away, all on loopback.
type world struct {
	*testing.T
	ca    *testpeer.CA
	spool *breakable
	far   *farServer
	dir   string
	hub   *Hub
	with  func(*Config) // nil: as it is
	log   logged
	stop  func()

	meeting string // the port where boxes look for it, after a restart, too
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, nil)
}

// newWorldWith has the hub configured otherwise.
func newWorldWith(t *testing.T, with func(*Config)) *world {
	t.Helper()
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, ca: ca, dir: t.TempDir(), with: with}
	kept, err := spool.Open(filepath.Join(w.dir, "spool.db"), spool.Limits{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.spool = &breakable{Spool: kept}
	w.far = newFar(t, ca, "far.test")
	w.start()
	t.Cleanup(func() {
		w.stop()
		if err := kept.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// logged keeps what a hub has logged.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *logged) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// has says whether a sentence was logged at a level.
func (s *logged) has(level, sentence string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.text.String()) {
		if strings.Contains(line, "level="+level+" ") && strings.Contains(line, sentence) {
			return true
		}
	}
	return false
}

// breakable is a spool whose acts a test can have fail. It outlives the hubs that are opened on it.
type breakable struct {
	spool.Spool

	mu      sync.Mutex
	failing func(what string) error
}

// fail has acts fail from now on, before anything happens; nil: none.
func (b *breakable) fail(f func(what string) error) {
	b.mu.Lock()
	b.failing = f
	b.mu.Unlock()
}

func (b *breakable) try(what string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failing == nil {
		return nil
	}
	return b.failing(what)
}

func (b *breakable) Append(ctx context.Context, q spool.Queue, now time.Time, rs ...spool.Request) (int, error) {
	if err := b.try("Append"); err != nil {
		return 0, err
	}
	return b.Spool.Append(ctx, q, now, rs...)
}

func (b *breakable) Settle(ctx context.Context, q spool.Queue, through int64, now time.Time, l spool.Lease) error {
	if err := b.try("Settle"); err != nil {
		return err
	}
	return b.Spool.Settle(ctx, q, through, now, l)
}

// Close leaves the spool open, for the next hub and for the test.
func (b *breakable) Close() error { return nil }

// start opens the hub over the same spool and data directory.
func (w *world) start() {
	w.Helper()
	if w.meeting == "" {
		addr, err := testport.Take()
		if err != nil {
			w.Fatal(err)
		}
		_, w.meeting, _ = net.SplitHostPort(addr)
	}
	cfg := Config{
		Data: w.dir, Version: "test", Spool: w.spool, Server: "hub.test", Listen: "127.0.0.1:0", Host: "hub.test:8448", Page: "127.0.0.1:0", CAFile: w.ca.File,
		TLS: []cert.Files{{CACertificate: w.ca.File, CAKey: w.ca.KeyFile}}, P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/" + w.meeting}},
		ServerAddresses: map[string]string{"far.test": w.far.addr, "gone.test": "127.0.0.1:1"},
	}
	if w.with != nil {
		w.with(&cfg)
	}
	var err error
	if w.hub, err = Open(w.Context(), cfg, slog.New(slog.NewTextHandler(io.MultiWriter(w.Output(), &w.log), &slog.HandlerOptions{Level: slog.LevelDebug}))); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.hub.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
		if err := w.hub.Close(); err != nil {
			w.Error(err)
		}
	})
}

// client reaches a name at the hub.
func (w *world) client(name string) *http.Client {
	w.Helper()
	roots, err := cert.Roots(w.ca.File, "")
	if err != nil {
		w.Fatal(err)
	}
	conn := &tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: name}}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return conn.DialContext(ctx, network, w.hub.World().String())
	}}}
}

// ask sends a request to a name at the hub, over TLS as the world does.
func (w *world) ask(name, method, uri string, header http.Header, body []byte) (int, []byte) {
	w.Helper()
	client := w.client(name)
	req, err := http.NewRequestWithContext(w.Context(), method, "https://"+name+uri, bytes.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	req.Header = header.Clone()
	resp, err := client.Do(req)
	if err != nil {
		w.Fatalf("%s %s: %v", method, uri, err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode, out
}

// await waits for something that happens on other goroutines.
func (w *world) await(what string, cond func() bool) {
	w.Helper()
	for end := time.Now().Add(inTime); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("waited in vain for: %s", what)
		}
	}
}

// waiting counts what waits for a box.
func (w *world) waiting(box string) (n int) {
	w.Helper()
	ws, err := w.spool.Waiting(w.Context(), box)
	if err != nil {
		w.Fatal(err)
	}
	for _, q := range ws {
		n += int(q.Count)
	}
	return n
}

// farServer is a server on the Internet: it shows its keys, and notes what it is asked.
type farServer struct {
	federation.Local
	t    *testing.T
	addr string

	mu    sync.Mutex
	asked []string // method, URI, Authorization and body
	next  http.HandlerFunc
}

func newFar(t *testing.T, ca *testpeer.CA, name string) *farServer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &farServer{t: t, Local: federation.Local{Server: name, Key: event.Key{ID: "ed25519:far", Private: key}}}
	locals := federation.Only(f.Local)
	keys := federation.NewNotary(federation.HandlerConfig{Locals: locals, Ring: federation.NewKeyRing(federation.KeyRingConfig{Locals: locals})})
	certFile, keyFile := filepath.Join(t.TempDir(), "c"), filepath.Join(t.TempDir(), "k")
	if err := ca.Issue(name, certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/_matrix/key/") {
			keys.ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		f.asked = append(f.asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization")+" "+string(body))
		next := f.next
		f.mu.Unlock()
		if next == nil {
			next = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, map[string]any{"pdus": struct{}{}}) }
		}
		next(w, r)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	f.addr = s.Listener.Addr().String()
	return f
}

// signed is the header of a request that a server signs.
func signed(t *testing.T, l federation.Local, to, method, uri string, body []byte) http.Header {
	t.Helper()
	a, err := federation.SignRequest(l, to, method, uri, body)
	if err != nil {
		t.Fatal(err)
	}
	return http.Header{"Authorization": {a.String()}}
}

// transaction is one that the far server sends, with its number in it.
func (f *farServer) transaction(to string, n int) (uri string, header http.Header, body []byte) {
	uri = fmt.Sprintf("/_matrix/federation/v1/send/t%%2F%d?x=%d", n, n) // odd on purpose: it must come through as it is
	body = fmt.Appendf(nil, `{"origin":%q, "origin_server_ts":%d,"pdus":[],"edus":[{"edu_type":"m.presence","content":{"n":%d}}]}`, f.Server, n, n)
	return uri, signed(f.t, f.Local, to, "PUT", uri, body), body
}

// testBox is a box as the hub sees it: a paired libp2p host with an HTTP handler.
type testBox struct {
	old   atomic.Bool  // it takes one request at a time
	plays atomic.Int32 // how often it was given many

	t    *testing.T
	w    *world
	id   identity.Identity
	host *p2p.Host
	stop func()

	mu    sync.Mutex
	asked []string
	heads []http.Header
	next  http.HandlerFunc
	far   *beyondBox // the box that it reaches; nil: none
}

// newBox makes a box and pairs it with the hub.
func (w *world) newBox(name string) *testBox {
	w.Helper()
	id, err := identity.Load(w.TempDir(), name, false)
	if err != nil {
		w.Fatal(err)
	}
	b := &testBox{t: w.T, w: w, id: id}
	b.connect()
	code, _, err := w.hub.p2p.ShowCode(time.Minute)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := b.host.Take(w.Context(), code.String(), w.hub.Addrs()[0]); err != nil {
		w.Fatal(err)
	}
	w.await("the box to be connected", func() bool { return w.hub.p2p.InReach(name) })
	return b
}

// connect starts the box's libp2p.
func (b *testBox) connect() {
	b.t.Helper()
	statement, err := b.id.Statement()
	if err != nil {
		b.t.Fatal(err)
	}
	cfg := p2p.Config{Box: b.id.Box, Statement: statement, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true, Static: b.w.hub.Addrs()[:1], Log: slog.New(slog.DiscardHandler)}
	if b.host != nil {
		for _, n := range b.host.Neighbours() {
			cfg.Roster = cfg.Roster.With(n.Peer)
		}
	}
	if b.host, err = p2p.New(cfg); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	loops.Go(func() {
		_ = b.host.Serve(ctx, func(string, int, int) {}, func(string) {}, func(string, []byte) {}, func(string) {})
	})
	srv := &http.Server{Handler: b}
	loops.Go(func() { _ = srv.Serve(b.host.Listener()) })
	b.stop = sync.OnceFunc(func() {
		cancel()
		srv.Close()
		_ = b.host.Close()
		loops.Wait()
	})
	b.t.Cleanup(b.stop)
}

// away takes the box out of reach, until back.
func (b *testBox) away() {
	b.stop()
	b.w.await("the box to be gone", func() bool { return !b.w.hub.p2p.InReach(b.id.Server) })
}

func (b *testBox) back() {
	b.connect()
	b.w.await("the box to be back", func() bool { return b.w.hub.p2p.InReach(b.id.Server) })
}

func (b *testBox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == api.PlayPath {
		b.play(w, r)
		return
	}
	if b.far != nil && strings.HasPrefix(r.URL.Path, api.FerryPath) {
		b.far.serve(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	b.asked = append(b.asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization")+" "+string(body))
	b.heads = append(b.heads, r.Header)
	next := b.next
	b.mu.Unlock()
	if next == nil {
		next = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, map[string]any{"pdus": struct{}{}}) }
	}
	next(w, r)
}

// play takes many requests at once as a box does.
func (b *testBox) play(w http.ResponseWriter, r *http.Request) {
	if b.old.Load() {
		http.NotFound(w, r)
		return
	}
	p, err := api.ReadPlay(r.Body)
	if err != nil {
		b.t.Error(err)
		return
	}
	b.plays.Add(1)
	var out api.Played
	for _, q := range p.Requests {
		one, rec := httptest.NewRequest(q.Method, q.URI, strings.NewReader(q.Body)), httptest.NewRecorder()
		one.Header = http.Header{"Authorization": {q.Authorization}, api.Received: {fmt.Sprint(q.Received)}}
		b.ServeHTTP(rec, one)
		out.Answers = append(out.Answers, api.PlayedOne{Status: rec.Code, Text: rec.Body.String()})
		if rec.Code != 200 && !((rec.Code == 400 || rec.Code == 413) && api.Considered(rec.Body.Bytes())) {
			break
		}
	}
	answer(w, 200, out)
}

// answers has the box answer like this from now on.
func (b *testBox) answers(f http.HandlerFunc) {
	b.mu.Lock()
	b.next = f
	b.mu.Unlock()
}

func (b *testBox) heard() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.asked...)
}

// ask sends a request over libp2p to the hub, for a server.
func (b *testBox) ask(to, method, uri string, header http.Header, body []byte) (int, []byte) {
	b.t.Helper()
	req, err := verbatim("hub.test", sealed{method: method, uri: uri, authorization: header.Values("Authorization"), body: body})
	if err != nil {
		b.t.Fatal(err)
	}
	req.Host = to
	resp, err := b.host.RoundTripper().RoundTrip(req.WithContext(b.t.Context()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, out
}

// contact is what the box says of itself.
func (b *testBox) contact() api.Contact {
	b.t.Helper()
	l := federation.Local{Server: b.id.Server, Key: b.id.Key, Old: b.id.Old}
	doc, err := federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(l)}).Document(l)
	if err != nil {
		b.t.Fatal(err)
	}
	statement, err := b.id.Statement()
	if err != nil {
		b.t.Fatal(err)
	}
	return api.Contact{Version: "v1", Mode: api.Sealed, Statement: statement, KeyDocument: doc, Health: "ok", Clock: time.Now().UnixMilli(), ClockGood: true}
}

// deposit makes contact.
func (b *testBox) deposit(c api.Contact) (int, api.Answer) {
	b.t.Helper()
	raw, err := json.Marshal(c)
	if err != nil {
		b.t.Fatal(err)
	}
	status, body := b.ask("hub.test", "PUT", api.ContactPath, nil, raw)
	var out api.Answer
	if err := json.Unmarshal(body, &out); err != nil {
		b.t.Fatal(err)
	}
	return status, out
}

func (f *farServer) heard() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.asked...)
}
