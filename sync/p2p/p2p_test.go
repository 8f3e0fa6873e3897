// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/libp2p/go-libp2p/core/network"
	libpeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"hallig/sync/peer"
)

// inTime bounds a wait for something that has to come; a test that runs into it fails.
const inTime = time.Minute

// testHost is a host with what it told its user.
type testHost struct {
	*Host
	t        *testing.T
	up, down chan string
	received chan string
	stored   chan peer.Peer
	reached  chan string // addresses of others that it was told to keep
	stop     context.CancelFunc
}

func newHost(t *testing.T, change func(*Config)) *testHost {
	t.Helper()
	public, box, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	statement, err := peer.State(box, peer.Peer{Server: peer.DefaultServer(public), Serial: 1, SigningKeys: map[string]ed25519.PublicKey{"ed25519:1": public}})
	if err != nil {
		t.Fatal(err)
	}
	th := &testHost{t: t, up: make(chan string, 64), down: make(chan string, 64), received: make(chan string, 4096), stored: make(chan peer.Peer, 4), reached: make(chan string, 256)}
	cfg := Config{
		Box: box, Statement: statement, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true,
		Paired: func(p peer.Peer) error { th.stored <- p; return nil },
		Reached: func(_ peer.ID, addr string) {
			select {
			case th.reached <- addr:
			default:
			}
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	th.Host, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- th.Serve(ctx, func(addr string, rate, mtu int) { th.up <- addr }, func(addr string) { th.down <- addr },
			func(_ string, m []byte) { th.received <- string(m) }, func(string) {})
	}()
	th.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := th.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(th.stop)
	return th
}

// await takes the next value, which must come in time.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(inTime):
		t.Fatalf("no %s after %s", what, inTime)
		panic("unreachable")
	}
}

// pairHosts pairs two hosts by a code and an address.
func pairHosts(t *testing.T, a, b *testHost) {
	t.Helper()
	code, _, err := a.ShowCode(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Take(t.Context(), code.String(), a.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	if p.ID != a.ID() {
		t.Fatalf("paired with %s, want %s", p.ID, a.ID())
	}
	if p := await(t, "stored pair", a.stored); p.ID != b.ID() {
		t.Fatalf("a stored %s, want %s", p.ID, b.ID())
	}
	if p := await(t, "stored pair", b.stored); p.ID != a.ID() {
		t.Fatalf("b stored %s, want %s", p.ID, a.ID())
	}
	await(t, "up", a.up)
	await(t, "up", b.up)
}

func (th *testHost) send(to *testHost, priority int, message string) chan error {
	done := make(chan error, 1)
	th.Send(string(to.ID()), priority, []byte(message), func(err error) { done <- err })
	return done
}

func TestIDsAreLibp2ps(t *testing.T) {
	h := newHost(t, nil)
	if got, want := string(h.ID()), h.host.ID().String(); got != want {
		t.Errorf("peer.IDOf = %s, libp2p says %s", got, want)
	}
}

func TestPairAndTalk(t *testing.T) {
	a, b := newHost(t, nil), newHost(t, nil)
	pairHosts(t, a, b)
	for _, dir := range []struct{ from, to *testHost }{{a, b}, {b, a}} {
		if err := await(t, "done", dir.from.send(dir.to, 3, "moin")); err != nil {
			t.Errorf("send: %v", err)
		}
		if got := await(t, "message", dir.to.received); got != "moin" {
			t.Errorf("received %q", got)
		}
	}
	if err := await(t, "done", a.send(b, 3, strings.Repeat("x", maxMessage+1))); err == nil {
		t.Error("a message that is too long was taken")
	}
	if err := await(t, "done", a.send(newHost(t, nil), 3, "x")); !errors.Is(err, errDown) {
		t.Errorf("send to a stranger: %v", err)
	}
	// Many messages arrive once each and, at one priority, in order; the window keeps the sender in check.
	const n = 2000
	dones := make(chan error, n)
	for i := range n {
		a.Send(string(b.ID()), 3, fmt.Appendf(nil, "%d", i), func(err error) { dones <- err })
	}
	for i := range n {
		if got, want := await(t, "message", b.received), fmt.Sprint(i); got != want {
			t.Fatalf("message %d is %q", i, got)
		}
		if err := await(t, "done", dones); err != nil {
			t.Fatal(err)
		}
	}
	for a.Free(string(b.ID()), 4) > 0 {
		a.Send(string(b.ID()), 4, make([]byte, 60<<10), func(error) {})
	}
	if free := a.Free(string(b.ID()), 0); free <= 0 {
		t.Errorf("no room for flash behind bulk: %d", free)
	}
}

func TestRemovedBoxIsCutOff(t *testing.T) {
	a, b := newHost(t, nil), newHost(t, nil)
	pairHosts(t, a, b)
	a.SetRoster(peer.Roster{})
	await(t, "down", a.down)
	await(t, "down", b.down)
	if err := await(t, "done", a.send(b, 0, "x")); err == nil {
		t.Error("sent to a removed box")
	}
	refused(t, b, a)
	select {
	case addr := <-b.up:
		t.Errorf("b believes that it has %s again", addr)
	default:
	}
}

// refused checks that a host gets no stream of any kind to another.
func refused(t *testing.T, from, to *testHost) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	info, err := libpeer.AddrInfoFromString(to.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	from.allow(info.ID, 1) // the stranger's own gate is its own affair
	defer from.allow(info.ID, -1)
	if from.host.Connect(ctx, *info) != nil {
		return
	}
	// libp2p lets the dialler believe in a connection until the other side's refusal arrives.
	for _, p := range []protocol.ID{protocolParcel, protocolHTTP, protocolPacked, protocolPair} {
		s, err := from.host.NewStream(network.WithNoDial(ctx, "test"), info.ID, p)
		if err != nil {
			continue
		}
		_ = s.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = s.Write([]byte("x"))
		if n, err := s.Read(make([]byte, 10)); err == nil {
			t.Errorf("a stranger read %d bytes over %s", n, p)
		}
	}
}

func TestStrangerGetsOnlyPairing(t *testing.T) {
	a, b, c := newHost(t, nil), newHost(t, nil), newHost(t, nil)
	pairHosts(t, a, b)
	refused(t, c, a)
	// While a code is on show a stranger may ask to pair, and nothing else.
	a.HideCode()
	_, _, err := a.ShowCode(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	info, err := libpeer.AddrInfoFromString(a.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	c.allow(info.ID, 1)
	if err := c.host.Connect(t.Context(), *info); err != nil {
		t.Fatalf("connect while a code is shown: %v", err)
	}
	for _, id := range []protocol.ID{protocolParcel, protocolHTTP, protocolPacked} {
		s, err := c.host.NewStream(t.Context(), info.ID, id)
		if err != nil {
			continue
		}
		_ = s.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = s.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		if n, err := s.Read(make([]byte, 1)); err == nil || n > 0 {
			t.Errorf("a stranger read %d bytes over %s", n, id)
		}
	}
	c.allow(info.ID, -1)
	// When the code is gone, so is the stranger's connection.
	gone := make(chan struct{}, 8)
	c.host.Network().Notify(&network.NotifyBundle{DisconnectedF: func(network.Network, network.Conn) { gone <- struct{}{} }})
	a.HideCode()
	a.look()
	await(t, "end of the stranger's connection", gone)
	code, _, err := a.ShowCode(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Take(t.Context(), code.String(), a.Addrs()[0]); err != nil {
		t.Errorf("pairing after all that: %v", err)
	}
}

func TestWrongCodeIsBurnt(t *testing.T) {
	a, b := newHost(t, nil), newHost(t, nil)
	code, _, err := a.ShowCode(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for i := range peer.MaxTries {
		wrong, err := peer.NewCode(a.cfg.Box.Public().(ed25519.PublicKey), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Take(t.Context(), wrong.String(), a.Addrs()[0]); !errors.Is(err, peer.ErrWrongCode) {
			t.Errorf("wrong code, try %d: %v", i, err)
		}
	}
	if a.CodeOpen() {
		t.Error("the code is still open after all tries")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := b.Take(ctx, code.String(), a.Addrs()[0]); err == nil {
		t.Error("the right code was taken after too many wrong ones")
	}
	select {
	case p := <-a.stored:
		t.Errorf("a stored %s", p.ID)
	default:
	}
}

// TestTakeByPlace: a person types an address without a peer id, and a QR code brings its own.
func TestTakeByPlace(t *testing.T) {
	a, b, c := newHost(t, nil), newHost(t, nil), newHost(t, nil)
	code, _, err := a.ShowCode(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	port, err := a.host.Addrs()[0].ValueForProtocol(6)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := b.Take(t.Context(), strings.ToLower(code.String()), net.JoinHostPort("127.0.0.1", port)); err != nil || p.ID != a.ID() {
		t.Fatalf("Take by host and port: %s, %v", p.ID, err)
	}
	_, uri, err := a.ShowCode(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := c.Take(t.Context(), uri, ""); err != nil || p.ID != a.ID() {
		t.Fatalf("Take by URI: %s, %v", p.ID, err)
	}
}

func TestComesBack(t *testing.T) {
	a, b := newHost(t, nil), newHost(t, nil)
	pairHosts(t, a, b)
	for range 3 {
		cut := time.Now()
		far, err := libpeer.Decode(string(b.ID()))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.host.Network().ClosePeer(far); err != nil {
			t.Fatal(err)
		}
		await(t, "down", a.down)
		await(t, "down", b.down)
		await(t, "up", a.up)
		await(t, "up", b.up)
		if took := time.Since(cut); took > 12*time.Second { // less than the longest pause between tries
			t.Errorf("connection came back after %s", took)
		}
		if err := await(t, "done", b.send(a, 3, "again")); err != nil {
			t.Error(err)
		}
		await(t, "message", a.received)
	}
}

// TestStaticAddress: a box that restarts is found again where the configuration says.
func TestStaticAddress(t *testing.T) {
	a := newHost(t, nil)
	self, err := peer.ReadStatement(a.cfg.Statement)
	if err != nil {
		t.Fatal(err)
	}
	b := newHost(t, func(c *Config) {
		c.Roster = peer.NewRoster(self)
		c.Static = a.Addrs()
	})
	far, err := peer.ReadStatement(b.cfg.Statement)
	if err != nil {
		t.Fatal(err)
	}
	a.SetRoster(peer.NewRoster(far))
	await(t, "up", a.up)
	await(t, "up", b.up)
	if n := b.Neighbours(); len(n) != 1 || !n[0].Up || n[0].Peer.ID != a.ID() {
		t.Errorf("Neighbours = %+v", n)
	}
}

func TestHTTP(t *testing.T) {
	a, b := newHost(t, nil), newHost(t, nil)
	pairHosts(t, a, b)
	serverOf := func(th *testHost) string { return peer.DefaultServer(th.cfg.Box.Public().(ed25519.PublicKey)) }
	for _, th := range []*testHost{a, b} {
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s from %s for %s: %d bytes", r.Method, r.URL.RequestURI(), r.RemoteAddr, r.Host, len(body))
		}), ReadHeaderTimeout: 5 * time.Second}
		ended := make(chan struct{})
		l := th.Listener()
		go func() {
			defer close(ended)
			_ = srv.Serve(l) // ends with ErrServerClosed
		}()
		t.Cleanup(func() { srv.Close(); <-ended })
	}
	for _, dir := range []struct{ from, to *testHost }{{a, b}, {b, a}} {
		client := &http.Client{Transport: dir.from.RoundTripper()}
		body := bytes.Repeat([]byte("x"), 3<<20)
		resp, err := client.Post("matrix-federation://"+serverOf(dir.to)+"/_matrix/federation/v1/x?a=%40b", "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		want := fmt.Sprintf("POST /_matrix/federation/v1/x?a=%%40b from %s for %s: %d bytes", serverOf(dir.from), serverOf(dir.to), len(body))
		if err != nil || string(got) != want {
			t.Errorf("got %q, %v\nwant %q", got, err, want)
		}
		if !dir.from.InReach(serverOf(dir.to)) {
			t.Error("InReach says no")
		}
	}
	client := &http.Client{Transport: a.RoundTripper()}
	if _, err := client.Get("matrix-federation://elsewhere.example/"); !errors.Is(err, ErrUnknownServer) {
		t.Errorf("asking a stranger: %v", err)
	}
}

// Whoever asks may lose interest in a long answer; the one who answers must notice, and not wait until somebody reads on.
func TestAnswerNobodyWants(t *testing.T) {
	a, b := newHost(t, nil), newHost(t, nil)
	pairHosts(t, a, b)
	ended := make(chan error, 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 64<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				ended <- err
				return
			}
		}
	}), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan struct{})
	l := b.Listener()
	go func() {
		defer close(served)
		_ = srv.Serve(l) // ends with ErrServerClosed
	}()
	t.Cleanup(func() { srv.Close(); <-served })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	server := peer.DefaultServer(b.cfg.Box.Public().(ed25519.PublicKey))
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+server+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := a.RoundTripper().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	stop()
	resp.Body.Close()
	await(t, "the end of the answer", ended)
}

// TestDeclined: who has the code is told why the other box does not want it, in one line; a stranger is not.
func TestDeclined(t *testing.T) {
	a := newHost(t, func(c *Config) { c.Paired = func(peer.Peer) error { return errors.New("the name\nis \x1b[1mtaken") } })
	b := newHost(t, nil)
	code, _, err := a.ShowCode(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var no *Declined
	if _, err := b.Take(t.Context(), code.String(), a.Addrs()[0]); !errors.As(err, &no) || no.Reason != "the name is  [1mtaken" {
		t.Errorf("got %v", err)
	}
	c := newHost(t, nil)
	wrong, err := peer.NewOffer(a.cfg.Box.Public().(ed25519.PublicKey), a.now(), time.Minute, a.random())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.ShowCode(time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Take(t.Context(), wrong.Code.String(), a.Addrs()[0]); err == nil || errors.As(err, &no) {
		t.Errorf("a stranger is told %v", err)
	}
}

func FuzzReadPair(f *testing.F) {
	f.Add([]byte{0, 3, 'a', 'b', 'c'})
	f.Add([]byte{statusSpent, 0})
	f.Add([]byte{statusFail, 5, 0xff, 0x1b, '\n', 'a', 0xe2})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReader(bytes.NewReader(b))
		msg, err := readPair(in)
		var no *Declined
		if errors.As(err, &no) && (len(no.Reason) > maxReason || strings.ContainsFunc(no.Reason, unicode.IsControl)) {
			t.Errorf("%q is shown", no.Reason)
		}
		if err == nil && len(msg) > len(b) {
			t.Error("more came out than went in")
		}
	})
}

func FuzzReadFrames(f *testing.F) {
	f.Add([]byte{6, 'a', 'b', 'c', 3, 2, 'x'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		err := readFrames(bufio.NewReader(bytes.NewReader(b)), func(uint64) error { return nil }, func(m []byte) { total += len(m) })
		if err == nil || total > len(b) {
			t.Errorf("%d bytes out of %d, %v", total, len(b), err)
		}
	})
}

// Where a box was reached is told also when the other end was quicker to open the stream, as it may be right after a pairing: without the address nothing leads there after a restart.
func TestReachedAfterPairing(t *testing.T) {
	reached := make(chan string, 16)
	b := newHost(t, func(c *Config) {
		c.Reached = func(_ peer.ID, addr string) { reached <- addr }
	})
	var a *testHost
	for a == nil || !peer.Initiates(a.ID(), b.ID()) {
		a = newHost(t, nil)
	}
	far, err := libpeer.Decode(string(a.ID()))
	if err != nil {
		t.Fatal(err)
	}
	b.allow(far, 1) // the pairing is not over for b's dialler, however long a takes
	pairHosts(t, a, b)
	if got := await(t, "address", reached); !strings.HasSuffix(got, "/p2p/"+string(a.ID())) {
		t.Errorf("reached %s", got)
	}
}
