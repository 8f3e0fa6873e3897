// SPDX-License-Identifier: EUPL-1.2

package lan

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"hallig/appliance/lan/dhcp"
	"hallig/appliance/lan/mdns"
)

// wire is an Ethernet of virtual machines under a clock moved by hand: what one sends all others hear, a millisecond later.
type wire struct {
	t     *testing.T
	now   time.Time
	nodes []node
	sent  []sent // all that was ever sent
	queue []sent
}

type sent struct {
	at   time.Time
	from node
	mac  dhcp.MAC
	dhcp *dhcp.Packet
	arp  *ARP
	mdns *mdns.Packet
	src  netip.AddrPort // of mdns
}

// node is a machine on the wire.
type node interface {
	take(now time.Time, s sent)
	tick(now time.Time)
	wake() time.Time
	frames() []sent
}

func newWire(t *testing.T) *wire {
	return &wire{t: t, now: time.Unix(0, 0).Add(time.Hour)} // a box may wake up in 1970
}

// run lets time pass.
func (w *wire) run(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for steps := 0; ; steps++ {
		if steps > 2_000_000 {
			w.t.Fatal("the story does not go on: somebody wakes without end")
		}
		for _, n := range w.nodes {
			for _, f := range n.frames() {
				f.at, f.from = w.now, n
				w.sent = append(w.sent, f)
				w.queue = append(w.queue, f)
			}
		}
		next := end
		if len(w.queue) > 0 {
			next = w.queue[0].at.Add(time.Millisecond)
		}
		for _, n := range w.nodes {
			if at := n.wake(); !at.IsZero() && at.Before(next) {
				next = at
			}
		}
		if next.After(w.now) {
			w.now = next
		}
		if !w.now.Before(end) {
			w.now = end
			return
		}
		for len(w.queue) > 0 && !w.queue[0].at.Add(time.Millisecond).After(w.now) {
			f := w.queue[0]
			w.queue = w.queue[1:]
			for _, n := range w.nodes {
				if n != f.from || isBox(n) {
					n.take(w.now, f)
				}
			}
		}
		for _, n := range w.nodes {
			if at := n.wake(); !at.IsZero() && !at.After(w.now) {
				n.tick(w.now)
			}
		}
	}
}

func isBox(n node) bool { _, ok := n.(*testBox); return ok }

func (w *wire) remove(n node) {
	w.nodes = slices.DeleteFunc(w.nodes, func(o node) bool { return o == n })
	w.queue = slices.DeleteFunc(w.queue, func(s sent) bool { return s.from == n })
}

// testBox is a Machine with those of its interfaces on this wire that are in links and have a carrier.
type testBox struct {
	*Machine
	w     *wire
	links []Link
}

func (w *wire) box(cfg Config, last ...byte) *testBox {
	w.t.Helper()
	m, err := New(cfg, rand.New(rand.NewPCG(1, uint64(last[0]))))
	if err != nil {
		w.t.Fatal(err)
	}
	b := &testBox{Machine: m, w: w}
	for i, l := range last {
		b.links = append(b.links, Link{Index: i + 2, Name: fmt.Sprintf("eth%d", i), MAC: dhcp.MAC{2, 0, 0, 0, 0, l}, Carrier: true})
	}
	b.SetNames(w.now, Names{Names: []string{"hallig.local"}})
	b.plug(true)
	w.nodes = append(w.nodes, b)
	return b
}

func (b *testBox) plug(carrier bool) {
	for i := range b.links {
		b.links[i].Carrier = carrier
	}
	b.SetLinks(b.w.now, slices.Clone(b.links))
}

func (b *testBox) wake() time.Time { return b.Wake() }
func (b *testBox) tick(now time.Time) {
	b.Tick(now)
}

func (b *testBox) frames() (out []sent) {
	for _, f := range b.Frames() {
		if i := slices.IndexFunc(b.links, func(l Link) bool { return l.Index == f.Index }); i >= 0 && b.links[i].Carrier {
			s := sent{mac: b.links[i].MAC, dhcp: f.DHCP, arp: f.ARP, mdns: f.MDNS}
			if f.MDNS != nil {
				s.src = netip.AddrPortFrom(b.port(f.Index).addrs()[0].Addr(), mdns.Port)
			}
			out = append(out, s)
		}
	}
	return out
}

func (b *testBox) take(now time.Time, s sent) {
	for _, l := range b.links {
		if !l.Carrier || l.MAC == s.mac {
			continue
		}
		switch {
		case s.dhcp != nil && (s.dhcp.To == l.MAC || s.dhcp.To == dhcp.Everyone()):
			b.TakeDHCP(now, l.Index, s.dhcp.Payload, s.mac)
		case s.mdns != nil:
			b.TakeMDNS(now, l.Index, s.mdns.Payload, s.src)
		case s.arp != nil && (s.arp.To == l.MAC || s.arp.To == dhcp.Everyone()):
			b.TakeARP(now, l.Index, *s.arp)
			if s.arp.Op == arpRequest && !b.own(s.mac) { // as the kernel does
				for _, p := range b.port(l.Index).addrs() {
					if p.Addr() == s.arp.Target {
						b.answer(l, *s.arp)
					}
				}
			}
		}
	}
}

func (b *testBox) answer(l Link, q ARP) {
	b.w.queue = append(b.w.queue, sent{at: b.w.now, from: b, mac: l.MAC, arp: &ARP{To: q.MAC, Op: arpReply, MAC: l.MAC, IP: q.Target, Target: q.IP, TargetDevice: q.MAC}})
}

func (b *testBox) iface(i int) Interface { return b.State(b.w.now).Interfaces[i] }

func (b *testBox) expect(i int, m Mode, addrs ...string) {
	b.w.t.Helper()
	f := b.iface(i)
	var want []netip.Prefix
	for _, a := range addrs {
		want = append(want, netip.MustParsePrefix(a))
	}
	if f.Mode != m || len(addrs) > 0 && !slices.Equal(f.Addresses, want) {
		b.w.t.Fatalf("after %s: %s is %s with %v, want %s with %v", b.w.now.Sub(time.Unix(3600, 0)), f.Name, f.Mode, f.Addresses, m, addrs)
	}
}

// router is an ordinary DHCP server: our own Server would give no router to boxes, so it is told apart by its answers being changed.
type router struct {
	*dhcp.Server
	mac dhcp.MAC
	arp []sent
}

func (w *wire) router(self string, last byte) *router {
	mac := dhcp.MAC{2, 0, 0, 0, 1, last}
	r := &router{Server: dhcp.NewServer(w.now, netip.MustParsePrefix(self), mac), mac: mac}
	w.nodes = append(w.nodes, r)
	return r
}

func (r *router) wake() time.Time    { return r.Wake() }
func (r *router) tick(now time.Time) { r.Tick(now) }
func (r *router) frames() []sent {
	out := r.arp
	r.arp = nil
	packets, asks := r.Drain()
	for _, p := range packets {
		out = append(out, sent{mac: r.mac, dhcp: &p})
	}
	for _, a := range asks {
		q := whoHas(r.mac, netip.IPv4Unspecified(), a)
		out = append(out, sent{mac: r.mac, arp: &q})
	}
	return out
}

func (r *router) take(now time.Time, s sent) {
	switch {
	case s.dhcp != nil:
		if m, err := dhcp.Parse(s.dhcp.Payload); err == nil {
			m.Hallig = false // it knows no boxes
			r.Take(now, m, s.mac)
		}
	case s.arp == nil:
	case s.arp.Op == arpRequest && s.arp.Target == r.Self().Addr() && s.mac != r.mac:
		r.arp = append(r.arp, sent{mac: r.mac, arp: &ARP{To: s.mac, Op: arpReply, MAC: r.mac, IP: s.arp.Target, Target: s.arp.IP, TargetDevice: s.mac}})
	case s.arp.Op == arpReply:
		r.InUse(now, s.arp.IP, s.arp.MAC)
	}
}

// phone is a DHCP client that answers ARP.
type phone struct {
	*dhcp.Client
	mac dhcp.MAC
	arp []sent
}

func (w *wire) phone(last byte) *phone {
	mac := dhcp.MAC{2, 0, 0, 0, 2, last}
	p := &phone{Client: dhcp.NewClient(mac, rand.New(rand.NewPCG(2, uint64(last)))), mac: mac}
	p.Start(w.now)
	w.nodes = append(w.nodes, p)
	return p
}

func (p *phone) wake() time.Time    { return p.Wake() }
func (p *phone) tick(now time.Time) { p.Tick(now) }
func (p *phone) frames() []sent {
	out := p.arp
	p.arp = nil
	packets, asks := p.Drain()
	for _, d := range packets {
		if m, err := dhcp.Parse(d.Payload); err == nil { // it is no box
			m.DeleteOption(dhcpv4.OptionClassIdentifier)
			d.Payload = m.ToBytes()
		}
		out = append(out, sent{mac: p.mac, dhcp: &d})
	}
	for _, a := range asks {
		q := whoHas(p.mac, netip.IPv4Unspecified(), a)
		out = append(out, sent{mac: p.mac, arp: &q})
	}
	return out
}

func (p *phone) take(now time.Time, s sent) {
	switch {
	case s.dhcp != nil && (s.dhcp.To == p.mac || s.dhcp.To == dhcp.Everyone()):
		if m, err := dhcp.Parse(s.dhcp.Payload); err == nil {
			m.Hallig = false
			p.Take(now, m, s.mac)
		}
	case s.arp != nil && s.arp.Op == arpReply:
		p.InUse(now, s.arp.IP, s.arp.MAC)
	case s.arp != nil && p.Lease() != nil && s.arp.Target == p.Lease().Addr.Addr():
		p.arp = append(p.arp, sent{mac: p.mac, arp: &ARP{To: s.mac, Op: arpReply, MAC: p.mac, IP: s.arp.Target, Target: s.arp.IP, TargetDevice: s.mac}})
	}
}

func (p *phone) addr(t *testing.T) netip.Addr {
	t.Helper()
	if p.Lease() == nil {
		t.Fatal("the phone has no address")
	}
	return p.Lease().Addr.Addr()
}

// TestGuest: where there is a server the box is its guest within two seconds, keeps its address for a day, and says who gave it.
func TestGuest(t *testing.T) {
	w := newWire(t)
	r := w.router("192.168.7.1/24", 1)
	b := w.box(Config{}, 1)
	b.expect(0, Waiting)
	w.run(2 * time.Second)
	f := b.iface(0)
	if f.Mode != Guest || f.Lease == nil || f.Lease.Server != r.Self().Addr() || f.Lease.Hallig || f.Gateway != r.Self().Addr() || len(f.DNS) != 1 {
		t.Fatalf("as guest: %+v", f)
	}
	first := f.Addresses
	w.run(24 * time.Hour)
	b.expect(0, Guest, first[0].String())
	if s := b.Wants()[0]; s.DNS.IsValid() {
		t.Error("a guest answers DNS")
	}
	if got := b.Resolvers(); len(got) != 1 || got[0] != r.Self().Addr() {
		t.Errorf("resolvers %v", got)
	}
}

// TestHost: where there is none the box is host after ten seconds, phones get addresses, keep them, and get the same ones after a restart.
func TestHost(t *testing.T) {
	w := newWire(t)
	b := w.box(Config{}, 1)
	phones := []*phone{w.phone(1), w.phone(2), w.phone(3)}
	w.run(hostAfter - time.Second)
	b.expect(0, Waiting)
	w.run(3 * time.Second)
	b.expect(0, Host)
	own := b.iface(0).Addresses[0]
	if own.Bits() != 24 || !own.Addr().IsPrivate() {
		t.Errorf("host with %s", own)
	}
	w.run(30 * time.Second)
	had := map[netip.Addr]bool{}
	for _, p := range phones {
		a := p.addr(t)
		if had[a] || !own.Contains(a) || a == own.Addr() || p.Lease().Gateway != own.Addr() || len(p.Lease().DNS) != 1 {
			t.Errorf("phone: %+v", p.Lease())
		}
		had[a] = true
	}
	if s := b.iface(0).Serving; s == nil || s.Clients != 3 {
		t.Errorf("serving %+v", s)
	}
	w.run(24 * time.Hour)
	for _, p := range phones {
		if !had[p.addr(t)] {
			t.Errorf("a phone moved to %s", p.addr(t))
		}
	}
	// The machine is restarted; nothing of the leases is left. Phones that come back for more time keep their address, one that asks anew too.
	w.remove(b)
	again := w.box(Config{}, 1)
	phones[0].Start(w.now)
	w.run(5 * time.Minute)
	again.expect(0, Host, own.String())
	for _, p := range phones {
		if !had[p.addr(t)] {
			t.Errorf("after the restart a phone moved to %s", p.addr(t))
		}
	}
	w.run(10 * time.Minute)
	if s := again.iface(0).Serving; s.Clients != 3 {
		t.Errorf("after the restart: serving %+v", s)
	}
}

// TestProcessRestart: when only the process is restarted the box goes on as host within a second, with the same phones.
func TestProcessRestart(t *testing.T) {
	w := newWire(t)
	b := w.box(Config{}, 1)
	p := w.phone(1)
	w.run(time.Minute)
	own := b.iface(0).Addresses[0]
	kept := b.Kept(w.now)
	text, err := json.Marshal(kept)
	if err != nil {
		t.Fatal(err)
	}
	w.remove(b)
	again, err := New(Config{}, rand.New(rand.NewPCG(1, 9)))
	if err != nil {
		t.Fatal(err)
	}
	var read map[string]Kept
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	again.Restore(read)
	b2 := &testBox{Machine: again, w: w, links: b.links}
	b2.plug(true)
	w.nodes = append(w.nodes, b2)
	w.run(time.Second)
	b2.expect(0, Host, own.String())
	if s := b2.iface(0).Serving; s.Clients != 1 {
		t.Errorf("serving %+v", s)
	}
	had := p.addr(t)
	w.run(time.Hour)
	if p.addr(t) != had {
		t.Error("the phone moved")
	}
	// But only once: after the cable was pulled the network may be another one.
	b2.plug(false)
	b2.plug(true)
	w.run(time.Second)
	b2.expect(0, Waiting)
}

// TestServerAppears: a router that is switched on later is found within a minute; the box becomes its guest, gives no more addresses, stays
// reachable for the phones it had, and these are with the router when their time is up.
func TestServerAppears(t *testing.T) {
	w := newWire(t)
	b := w.box(Config{}, 1)
	p := w.phone(1)
	w.run(time.Hour)
	own := b.iface(0).Addresses[0]
	old := p.addr(t)
	r := w.router("192.168.7.1/24", 1)
	w.run(probeEvery + 3*time.Second)
	f := b.iface(0)
	if f.Mode != Guest || len(f.Addresses) != 2 || f.Addresses[1] != own {
		t.Fatalf("after a minute: %+v", f)
	}
	late := w.phone(2)
	w.run(10 * time.Second)
	if a := late.addr(t); !r.Self().Contains(a) {
		t.Errorf("a new phone got %s", a)
	}
	if p.addr(t) != old {
		t.Error("the old phone moved before its time")
	}
	w.run(dhcp.Length)
	if a := p.addr(t); !r.Self().Contains(a) {
		t.Errorf("the old phone is still at %s", a)
	}
	if f := b.iface(0); len(f.Addresses) != 1 || f.Serving != nil {
		t.Errorf("the old network is still there: %+v", f)
	}
}

// TestServerGone: the router is switched off while its leases last. The box is host within two minutes and keeps its old address beside, so that
// phones of both networks reach it; when the router is back so is the guest.
func TestServerGone(t *testing.T) {
	w := newWire(t)
	r := w.router("192.168.7.1/24", 1)
	b := w.box(Config{}, 1)
	w.run(10 * time.Second)
	b.expect(0, Guest)
	old := b.iface(0).Addresses[0]
	w.remove(r)
	p := w.phone(1)
	w.run(aliveEvery + aliveTries*aliveAgain + hostAfter + 3*time.Second)
	f := b.iface(0)
	if f.Mode != Host || len(f.Addresses) != 2 || f.Addresses[0] != old || f.Gateway.IsValid() {
		t.Fatalf("after the router is gone: %+v", f)
	}
	w.run(time.Minute)
	p.addr(t)
	w.run(10 * time.Minute) // the router's lease is over
	if f := b.iface(0); f.Mode != Host || len(f.Addresses) != 1 {
		t.Fatalf("after the lease: %+v", f)
	}
	w.nodes = append(w.nodes, r)
	w.run(probeEvery + 3*time.Second)
	b.expect(0, Guest)
}

// TestServerDoesNotAnswerARP: that alone is no reason to take its place.
func TestServerDoesNotAnswerARP(t *testing.T) {
	w := newWire(t)
	r := w.router("192.168.7.1/24", 1)
	b := w.box(Config{}, 1)
	w.run(5 * time.Second)
	w.remove(r)
	w.nodes = append(w.nodes, deaf{r})
	for range 240 {
		w.run(15 * time.Second)
		b.expect(0, Guest)
	}
}

// deaf is a router that hears no ARP.
type deaf struct{ *router }

func (d deaf) take(now time.Time, s sent) {
	if s.arp == nil {
		d.router.take(now, s)
	}
}

// TestCable: pulled and plugged into another network, the box is what it must be there.
func TestCable(t *testing.T) {
	w := newWire(t)
	r := w.router("192.168.7.1/24", 1)
	b := w.box(Config{}, 1)
	w.run(5 * time.Second)
	b.expect(0, Guest)
	b.plug(false)
	b.expect(0, Waiting)
	if f := b.iface(0); len(f.Addresses) != 0 || f.Note == nil {
		t.Errorf("without cable: %+v", f)
	}
	w.remove(r)
	w.run(time.Minute)
	b.plug(true)
	w.run(hostAfter + 2*time.Second)
	b.expect(0, Host)
	own := b.iface(0).Addresses[0]
	p := w.phone(1)
	w.run(5 * time.Second)
	had := p.addr(t)
	b.plug(false)
	w.run(time.Second)
	b.plug(true)
	w.run(hostAfter + 5*time.Minute)
	b.expect(0, Host, own.String())
	if p.addr(t) != had {
		t.Error("the phone moved when the cable was pulled for a second")
	}
}

// TestModes: what the provisioning file asks for.
func TestModes(t *testing.T) {
	w := newWire(t)
	w.router("192.168.7.1/24", 1)
	s := w.box(Config{Mode: Static, Address: "192.168.7.2/24", Gateway: "192.168.7.1", DNS: []string{"192.168.7.1"}}, 1, 11)
	h := w.box(Config{Mode: Host, Address: "172.20.1.1/24"}, 2)
	o := w.box(Config{Mode: Off}, 3)
	w.run(20 * time.Minute)
	s.expect(0, Static, "192.168.7.2/24")
	s.expect(1, Guest)
	if f := s.iface(0); f.Gateway.String() != "192.168.7.1" || len(f.DNS) != 1 {
		t.Errorf("static: %+v", f)
	}
	h.expect(0, Host, "172.20.1.1/24")
	if f := h.iface(0); f.Note == nil || f.Server.String() != "192.168.7.1" {
		t.Errorf("a host by order does not say that there is another server: %+v", f)
	}
	o.expect(0, Off)
	if !o.Wants()[0].Leave {
		t.Error("off is not left alone")
	}

	w = newWire(t)
	a := w.box(Config{Address: "192.168.7.1/24"}, 1) // automatic, with a wish for the case that it is host
	w.run(time.Minute)
	a.expect(0, Host, "192.168.7.1/24")
	w.router("192.168.9.1/24", 1)
	w.run(15 * time.Minute)
	a.expect(0, Guest)

	w = newWire(t)
	g := w.box(Config{Mode: Guest}, 1)
	w.run(time.Hour)
	g.expect(0, Waiting)
}

// TestManners: an idle box says nothing in a day but DHCP, ARP and mDNS (there is no other kind of frame), and little of it. What the kernel adds
// by itself is watched in the tests of package nic.
func TestManners(t *testing.T) {
	for _, c := range []struct {
		name                     string
		router                   bool
		cfg                      Config
		dhcpMax, arpMax, mdnsMax int
	}{
		{"guest", true, Config{}, 24*12 + 10, 24*60 + 20, 6},                       // the router's leases are of ten minutes: a renewal each five
		{"host", false, Config{}, 24*62 + 30, 10, 6},                               // a probe a minute
		{"static", true, Config{Mode: Static, Address: "192.168.7.9/24"}, 0, 1, 6}, // nothing to ask
		{"nobody there", false, Config{Mode: Guest}, 24*60*2 + 10, 0, 0},
	} {
		w := newWire(t)
		if c.router {
			w.router("192.168.7.1/24", 1)
		}
		b := w.box(c.cfg, 1)
		w.run(24 * time.Hour)
		var nd, na, nm, bytes int
		for _, s := range w.sent {
			if s.from != b {
				continue
			}
			switch {
			case s.dhcp != nil && s.arp == nil && s.mdns == nil:
				nd++
				bytes += 28 + len(s.dhcp.Payload)
			case s.arp != nil && s.mdns == nil:
				na++
				bytes += 28
			case s.mdns != nil && s.mdns.Dst == mdns.Group():
				nm++
				bytes += 28 + len(s.mdns.Payload)
			default:
				t.Errorf("%s: a frame of another kind: %+v", c.name, s)
			}
		}
		t.Logf("%s: in 24 hours %d DHCP, %d ARP, %d mDNS, %d bytes", c.name, nd, na, nm, bytes)
		if nd > c.dhcpMax || na > c.arpMax || nm > c.mdnsMax || nd+na == 0 {
			t.Errorf("%s: in 24 hours %d DHCP, %d ARP, %d mDNS", c.name, nd, na, nm)
		}
	}
}
