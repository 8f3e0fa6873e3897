// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	libpeer "github.com/libp2p/go-libp2p/core/peer"

	"hallig/sync/peer"
)

// self is a host as others know it.
func (th *testHost) self() peer.Peer {
	th.t.Helper()
	p, err := peer.ReadStatement(th.cfg.Statement)
	if err != nil {
		th.t.Fatal(err)
	}
	return p
}

// knows has hosts know each other as paired boxes, without any address.
func knows(hosts ...*testHost) {
	for _, h := range hosts {
		r := h.roster
		for _, o := range hosts {
			if o != h {
				r = r.With(o.self())
			}
		}
		h.SetRoster(r)
	}
}

func (th *testHost) far(o *testHost) libpeer.ID {
	th.t.Helper()
	id, err := libpeer.Decode(string(o.ID()))
	if err != nil {
		th.t.Fatal(err)
	}
	return id
}

// newHub is a meeting place.
func newHub(t *testing.T, r Relaying) *testHost {
	return newHost(t, func(c *Config) { c.Meeting, c.Relay = true, r })
}

// behind makes a box that is paired with a hub, and that nobody reaches straight unless open.
func behind(t *testing.T, hub *testHost, open bool) *testHost {
	t.Helper()
	h := newHost(t, func(c *Config) {
		c.Through, c.Static = hub.self().Server, hub.Addrs()
		if !open { // on one machine a hole is always there
			c.noPunch = true
			c.Announce = []string{"/ip4/127.0.0.1/tcp/1"}
		}
	})
	knows(hub, h)
	await(t, "up", hub.up)
	await(t, "up", h.up)
	return h
}

func (th *testHost) relayedTo(o *testHost) (up, relayed bool) {
	for _, n := range th.Neighbours() {
		if n.Peer.ID == o.ID() {
			return n.Up, n.Relayed
		}
	}
	return false, false
}

// eventually waits for something that is looked at.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(inTime); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not yet after %s: %s", inTime, what)
		}
	}
}

// talk sends a message each way.
func talk(t *testing.T, a, b *testHost) {
	t.Helper()
	for _, dir := range []struct{ from, to *testHost }{{a, b}, {b, a}} {
		if err := await(t, "done", dir.from.send(dir.to, 3, "moin")); err != nil {
			t.Errorf("send: %v", err)
		}
		if got := await(t, "message", dir.to.received); got != "moin" {
			t.Errorf("received %q", got)
		}
	}
}

// Two boxes that cannot reach each other speak through their hub: messages, HTTP. The hub counts what it carries.
func TestThroughTheHub(t *testing.T) {
	hub := newHub(t, Relaying{})
	a, b := behind(t, hub, false), behind(t, hub, false)
	if got := await(t, "address", a.reached); got != hub.Addrs()[0] {
		t.Errorf("told of %q, want the hub's address", got)
	}
	drain(a.reached)
	eventually(t, "the hub says how it sees a", func() bool { return a.punchPort() != 0 })
	if a.punched(a.direct(a.far(hub))) {
		t.Error("the connection to the hub counts as a hole: its address would not be kept")
	}
	knows(a, b)
	if got := await(t, "up", a.up); got != string(b.ID()) {
		t.Fatalf("%s is up, want b", got)
	}
	await(t, "up", b.up)
	for got := "x"; got != ""; { // the hub's may come once more
		if got = await(t, "word that it was through the hub", a.reached); strings.HasSuffix(got, string(b.ID())) {
			t.Errorf("told of %q", got)
		}
	}
	if up, relayed := a.relayedTo(b); !up || !relayed {
		t.Errorf("a has b: up %v, relayed %v", up, relayed)
	}
	talk(t, a, b)
	go func() {
		_ = http.Serve(b.Listener(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "from "+r.RemoteAddr) })) // ends with the host
	}()
	resp, err := (&http.Client{Transport: a.RoundTripper()}).Get("http://" + b.self().Server + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "from "+a.self().Server {
		t.Errorf("%q, %v", text, err)
	}
	if r := hub.Relayed(); r.Circuits != 1 || r.Opened != 1 || r.Refused != 0 || r.Bytes < 1000 {
		t.Errorf("the hub has carried %+v", r)
	}
	for _, addr := range append(a.Addrs(), b.Addrs()...) {
		if strings.Contains(addr, "p2p-circuit") {
			t.Errorf("a box is said to be at %s", addr)
		}
	}
	hub.stop()
	for range 2 { // the hub, and who was reached through it
		await(t, "down", a.down)
		await(t, "down", b.down)
	}
}

// Once there is a straight way, what goes on takes it, and the circuit is closed. Nothing is lost on the way over.
func TestLeavesTheCircuit(t *testing.T) {
	hub := newHub(t, Relaying{})
	a, b := behind(t, hub, true), behind(t, hub, true)
	knows(a, b)
	straight := func() bool {
		up, relayed := a.relayedTo(b)
		back, relayedBack := b.relayedTo(a)
		return up && back && !relayed && !relayedBack
	}
	eventually(t, "the boxes reach each other straight", straight)
	eventually(t, "the circuit is closed", func() bool { return hub.Relayed().Circuits == 0 })
	if r := hub.Relayed(); r.Opened == 0 {
		t.Errorf("they never met: %+v", r)
	}
	if !straight() {
		t.Error("they went back to the circuit")
	}
	drain(a.up, a.down, b.up, b.down)
	before := hub.Relayed().Bytes
	talk(t, a, b)
	if after := hub.Relayed().Bytes; after != before {
		t.Errorf("%d bytes went through the hub", after-before)
	}
}

func drain(cs ...chan string) {
	for _, c := range cs {
		for len(c) > 0 {
			<-c
		}
	}
}

// The hub carries for boxes that are paired with it, and for nobody else: not for who is let in to pair, not for who was revoked.
func TestCarriesForPairedBoxesAlone(t *testing.T) {
	hub := newHub(t, Relaying{})
	a, b := behind(t, hub, false), behind(t, hub, false)
	stranger := newHost(t, func(c *Config) { c.Through = hub.self().Server })
	if _, _, err := hub.ShowCode(time.Minute); err != nil {
		t.Fatal(err)
	}
	stranger.allow(stranger.far(hub), 1)
	info, err := libpeer.AddrInfoFromString(hub.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.host.Connect(t.Context(), *info); err != nil {
		t.Fatalf("while a code is on show: %v", err)
	}
	if err := stranger.askForPlace(t.Context(), info.ID); err == nil || !strings.Contains(err.Error(), "PERMISSION_DENIED") {
		t.Errorf("a stranger asks to be reached: %v", err)
	}
	stranger.SetRoster(peer.NewRoster(hub.self(), a.self()))
	stranger.mu.Lock()
	stranger.through.detours[a.ID()] = attempts{}
	stranger.mu.Unlock()
	if stranger.detour(t.Context(), a.ID(), stranger.far(a)) {
		t.Error("a stranger reached a box")
	}
	if r := hub.Relayed(); r.Refused < 2 || r.Opened != 0 {
		t.Errorf("the hub has carried %+v", r)
	}
	hub.HideCode()

	knows(a, b)
	await(t, "up", a.up)
	await(t, "up", b.up)
	hub.SetRoster(peer.NewRoster(a.self())) // b was lost
	await(t, "down", a.down)
	for range 2 {
		await(t, "down", b.down)
	}
	eventually(t, "the circuit is closed", func() bool { return hub.Relayed().Circuits == 0 })
	if a.detour(t.Context(), b.ID(), a.far(b)) {
		t.Error("a box reached a revoked one through the hub")
	}
}

// What is carried at once is bounded, and a circuit ends when it has carried enough or lasted long enough; what had not arrived is told to the sender.
func TestRelayLimits(t *testing.T) {
	hub := newHub(t, Relaying{Circuits: 1, Bytes: 200 << 10})
	a, b, c := behind(t, hub, false), behind(t, hub, false), behind(t, hub, false)
	knows(a, b)
	await(t, "up", a.up)
	await(t, "up", b.up)
	knows(a, c)
	eventually(t, "a second circuit is refused", func() bool { return hub.Relayed().Refused > 0 })
	if up, _ := a.relayedTo(c); up || hub.Relayed().Circuits != 1 {
		t.Errorf("circuits: %+v", hub.Relayed())
	}
	arrived, failed := 0, 0
	for failed == 0 && arrived < 1000 {
		if err := await(t, "done", a.send(b, 3, strings.Repeat("x", 10<<10))); err != nil {
			failed++
		} else {
			arrived++
		}
	}
	if failed == 0 || arrived < 10 || arrived > 20 {
		t.Errorf("a circuit of 200 kB carried %d messages of 10 kB", arrived)
	}
	await(t, "down", a.down)
	eventually(t, "circuits are opened anew", func() bool { return hub.Relayed().Opened > 1 })

	short := newHub(t, Relaying{Duration: time.Second})
	a, b = behind(t, short, false), behind(t, short, false)
	knows(a, b)
	for range 2 {
		await(t, "up", a.up)
		await(t, "down", a.down)
	}
	off := newHub(t, Relaying{Off: true})
	a = behind(t, off, false)
	if err := a.askForPlace(t.Context(), a.far(off)); err == nil {
		t.Error("a hub that carries nothing gave a place")
	}
}

// Two boxes whose addresses lead nowhere punch a hole from both sides, at the port by which the hub knows them.
func TestPunch(t *testing.T) {
	hub := newHub(t, Relaying{})
	box := func() *testHost {
		h := newHost(t, func(c *Config) {
			c.Through, c.Static, c.Announce = hub.self().Server, hub.Addrs(), []string{"/ip4/127.0.0.1/tcp/1"}
		})
		knows(hub, h)
		await(t, "up", hub.up)
		await(t, "up", h.up)
		return h
	}
	a, b := box(), box()
	drain(a.reached, b.reached)
	knows(a, b)
	eventually(t, "a straight connection at both ends", func() bool {
		for _, dir := range []struct{ from, to *testHost }{{a, b}, {b, a}} {
			if up, r := dir.from.relayedTo(dir.to); !up || r || dir.from.direct(dir.from.far(dir.to)) == nil {
				return false
			}
		}
		return true
	})
	for _, dir := range []struct{ from, to *testHost }{{a, b}, {b, a}} {
		c := dir.from.direct(dir.from.far(dir.to))
		if c == nil || !dir.from.punched(c) {
			t.Fatalf("the straight connection is %v", c)
		}
		if c.Stat().Limited || c.Stat().Direction == network.DirUnknown {
			t.Errorf("%+v", c.Stat())
		}
	}
	eventually(t, "the circuit is closed", func() bool { return hub.Relayed().Circuits == 0 })
	for _, dir := range []struct{ from, to *testHost }{{a, b}, {b, a}} { // a stream that moves is away for a moment: who sends tries again
		eventually(t, "a message goes through the hole", func() bool {
			if len(dir.to.received) > 0 {
				return true
			}
			if up, r := dir.from.relayedTo(dir.to); up && !r {
				_ = await(t, "done", dir.from.send(dir.to, 3, "moin"))
			}
			return false
		})
		if got := await(t, "message", dir.to.received); got != "moin" {
			t.Errorf("received %q", got)
		}
	}
	for _, h := range []*testHost{a, b} {
		for len(h.reached) > 0 {
			if got := <-h.reached; got != "" && !strings.HasSuffix(got, string(hub.ID())) {
				t.Errorf("the hole at %s is told as an address", got)
			}
		}
	}
}
