// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/cert"
	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
	"hallig/tools/testpeer"
)

// farServers are servers on the Internet that note who asked what.
type farServers struct {
	mu    sync.Mutex
	asked []string
}

// start opens one, and says where it is.
func (f *farServers) start(t *testing.T, ca *testpeer.CA, name string) string {
	t.Helper()
	certFile, keyFile := filepath.Join(t.TempDir(), "c"), filepath.Join(t.TempDir(), "k")
	if err := ca.Issue(name, certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		f.asked = append(f.asked, fmt.Sprintf("%s: %s %s by %s", name, r.RequestURI, body, r.UserAgent()))
		f.mu.Unlock()
		fmt.Fprint(w, `{"pdus":{}}`)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// take gives what was asked, and forgets it.
func (f *farServers) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.asked = nil }()
	return f.asked
}

// startHub runs a hub that knows where some servers are.
func startHub(t *testing.T, ca *testpeer.CA, servers map[string]string) (h *hub.Hub, dir string, stop func()) {
	t.Helper()
	dir = t.TempDir()
	_, meeting, _ := net.SplitHostPort(freePort(t)) // it may be started again where it was
	h, stop = startHubAt(t, ca, servers, dir, freePort(t), "/ip4/127.0.0.1/tcp/"+meeting)
	return h, dir, stop
}

// startHubAt runs one on a directory and at addresses.
func startHubAt(t *testing.T, ca *testpeer.CA, servers map[string]string, dir, world, meeting string, change ...func(*hub.Config)) (h *hub.Hub, stop func()) {
	t.Helper()
	kept, err := spool.Open(filepath.Join(dir, "spool.db"), spool.Limits{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := hub.Config{Data: dir, Spool: kept, Server: "hub.test", Listen: world, CAFile: ca.File, ServerAddresses: servers,
		TLS: []cert.Files{{CACertificate: ca.File, CAKey: ca.KeyFile}}, P2P: hub.P2PConfig{Listen: []string{meeting}}}
	for _, f := range change {
		f(&cfg)
	}
	h, err = hub.Open(t.Context(), cfg, hubLog())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }() // stop waits for it
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return h, stop
}

func hubLog() *slog.Logger {
	if os.Getenv("HALLIG_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("box", "hub")
	}
	return slog.New(slog.DiscardHandler)
}

func awaitHub(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(inTime); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// TestBoxWithHub: which way requests go, and whose word counts.
func TestBoxWithHub(t *testing.T) {
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var far farServers
	farAt, nearAt := far.start(t, ca, "far.test"), far.start(t, ca, "near.test")
	h, dir, stopHub := startHub(t, ca, map[string]string{"far.test": farAt, "near.test": "127.0.0.1:1"})
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "box1.test", CAFile: ca.File, ServerAddresses: map[string]string{"far.test": farAt, "near.test": nearAt},
		P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}, Hub: HubConfig{Server: "hub.test"}})
	if s := b.hubStatus(); s == nil || s.Paired || s.InReach {
		t.Errorf("before the pairing: %+v", s)
	}
	push := func(to string) error {
		_, err := b.fed.client.Push(t.Context(), to, "t1", []byte(`{"pdus":[]}`))
		return err
	}
	asked := func(who string) string { return "far.test: /_matrix/federation/v1/send/t1 {\"pdus\":[]} by " + who }
	if err := push("far.test"); err != nil || !slices.Equal(far.take(), []string{asked("Hallig")}) {
		t.Errorf("without the hub: %v", err)
	}
	var code hub.Code
	if err := hub.Ask(t.Context(), dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		t.Fatal(err)
	}
	if p, err := b.takeCode(t.Context(), code.Code, h.Addrs()[0]); err != nil || p.NotHub != "" || len(b.hubStatus().Others) != 0 {
		t.Fatal(p, err)
	}
	if err := hub.Ask(t.Context(), dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		t.Fatal(err)
	}
	wrong := startWith(t, Config{Data: t.TempDir(), ServerName: "box2.test", Hub: HubConfig{Server: "hubb.test"}, P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}})
	if p, err := wrong.takeCode(t.Context(), code.Code, h.Addrs()[0]); err != nil || p.NotHub != "hubb.test" || p.ServerName != "hub.test" {
		t.Errorf("a hub of another name than the configuration has: %+v, %v", p, err)
	}
	if s := wrong.hubStatus(); s.Paired || !slices.Equal(s.Others, []string{"hub.test"}) {
		t.Errorf("and then: %+v", s)
	}
	if err := hub.Ask(t.Context(), dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		t.Fatal(err)
	}
	twin := startWith(t, Config{Data: t.TempDir(), ServerName: "box1.test", P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}})
	var no *admin.Refusal
	if _, err := twin.takeCode(t.Context(), code.Code, h.Addrs()[0]); !errors.As(err, &no) || !strings.Contains(no.Text, "hallig-hub revoke --forget") || !strings.Contains(no.DE, "hallig-hub revoke --forget") {
		t.Errorf("a second box of one name is told %v", err)
	}
	awaitHub(t, "the contact", func() bool { s := b.hubStatus(); return s.InReach && s.Mode == api.Sealed && !s.Told.IsZero() })
	far.take()

	if err := push("far.test"); err != nil {
		t.Error(err)
	}
	if got := far.take(); !slices.Equal(got, []string{asked("Hallig-Hub")}) {
		t.Errorf("through the hub: %q", got)
	}
	if err := push("near.test"); err != nil {
		t.Errorf("what the hub does not reach, and the box does: %v", err)
	}
	if got := far.take(); len(got) != 1 || !strings.HasPrefix(got[0], `near.test: /_matrix/federation/v1/send/t1 {"pdus":[]} by Hallig`) {
		t.Errorf("straight: %q", got)
	}
	if b.exchange.isBox("hub.test") || b.exchange.paired().Len() != 0 || len(b.exchange.link.Status()) != 0 {
		t.Error("the hub counts as a box")
	}
	for server, want := range map[string]string{"far.test": federation.SourceBox + string(b.exchange.everybody().All()[0].ID), "near.test": federation.SourceTLS} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, federation.Scheme+"://"+server+"/_matrix/key/v2/server", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, source, err := b.exchange.byHub(req, b.fed.discovery)
		if err != nil || source != want {
			t.Fatalf("keys of %s: %q, %v; want %q", server, source, err, want)
		}
		resp.Body.Close()
	}
	far.take()

	heardByHub(t, b)

	stopHub()
	awaitHub(t, "the hub to be gone", func() bool { return !b.hubStatus().InReach })
	if err := push("far.test"); err != nil || !slices.Equal(far.take(), []string{asked("Hallig")}) {
		t.Errorf("without the hub again: %v", err)
	}
	if err := b.forgetPeer(t.Context(), "hub.test"); err != nil {
		t.Error(err)
	}
	if s := b.hubStatus(); s.Paired {
		t.Errorf("after the pairing: %+v", s)
	}
}

// heardByHub: the hub's word on when a request came in counts, nobody else's does; and who comes by the hub gets to the Server-Server API only.
func heardByHub(t *testing.T, b *running) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	gone := federation.Local{Server: "gone.test", Key: event.Key{ID: "ed25519:gone", Private: private}}
	then := time.Now().AddDate(-1, -1, 0) // its document ended a month ago
	doc, err := federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(gone), Now: func() time.Time { return then }}).Document(gone)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.fed.ring.Learn(t.Context(), doc, federation.SourceBox+"hub"); err != nil {
		t.Fatal(err)
	}
	const uri = "/_matrix/federation/v1/send/1"
	body := []byte(`{"pdus":[]}`)
	a, err := federation.SignRequest(gone, "box1.test", "PUT", uri, body)
	if err != nil {
		t.Fatal(err)
	}
	others := 0
	handler := b.fromHub(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		others++
		b.fed.handler.ServeHTTP(w, r)
	}))
	for _, tt := range []struct {
		from, received string
		want           int
	}{
		{"hub.test", fmt.Sprint(then.Add(time.Hour).UnixMilli()), 200},
		{"hub.test", "", 401},
		{"hub.test", fmt.Sprint(time.Now().Add(-time.Hour).UnixMilli()), 401},
		{"box2.test", fmt.Sprint(then.Add(time.Hour).UnixMilli()), 401},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "PUT", uri, bytes.NewReader(body))
		r.Header.Set("Authorization", a.String())
		r.Header.Set(api.Received, tt.received)
		r.RemoteAddr = tt.from
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("from %s, received %q: %d %s, want %d", tt.from, tt.received, w.Code, w.Body, tt.want)
		}
	}
	if others != 1 {
		t.Errorf("%d requests got beyond the Server-Server API, want the box's only", others)
	}
}
