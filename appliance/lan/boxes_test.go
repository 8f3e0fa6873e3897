// SPDX-License-Identifier: EUPL-1.2

package lan

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"hallig/appliance/lan/dhcp"
)

// TestTwoBoxes: whatever the order of plugging, after a minute one of two boxes is host and the other its guest; if both are switched on at once it
// is the one with the lower address. If the host goes, the other one takes over.
func TestTwoBoxes(t *testing.T) {
	for _, order := range [][2]byte{{1, 2}, {2, 1}} {
		w := newWire(t)
		a, b := w.box(Config{}, order[0]), w.box(Config{}, order[1])
		w.run(time.Minute)
		low, high := a, b
		if order[0] > order[1] {
			low, high = b, a
		}
		low.expect(0, Host)
		f := high.iface(0)
		// The name that both wish for leads to the host, as does its DNS.
		if n := append(low.iface(0).Names, f.Names...); !slices.Equal(n, []string{"hallig.local", "hallig-2.local"}) {
			t.Errorf("names %v, notes %v", n, f.Note)
		}
		if f.Mode != Guest || !f.Lease.Hallig || f.Gateway.IsValid() || len(f.DNS) != 0 {
			t.Fatalf("the other box: %+v", f)
		}
		w.run(24 * time.Hour)
		low.expect(0, Host)
		high.expect(0, Guest)
		w.remove(low)
		w.run(2 * time.Minute)
		high.expect(0, Host)
		if n := high.iface(0).Names; !slices.Equal(n, []string{"hallig.local"}) {
			t.Errorf("the new host is %v", n)
		}
		w.nodes = append(w.nodes, low) // back after it saw nothing
		low.plug(false)
		low.plug(true)
		w.run(30 * time.Second)
		high.expect(0, Host)
		low.expect(0, Guest)
	}
}

// TestTwoHostsJoined: two hosts whose switches are joined by a cable settle on the lower one, and the other one's phones follow.
func TestTwoHostsJoined(t *testing.T) {
	w1, w2 := newWire(t), newWire(t)
	low, high := w1.box(Config{}, 1), w2.box(Config{}, 2)
	p := w2.phone(1)
	w1.run(time.Hour)
	w2.run(time.Hour)
	low.expect(0, Host)
	high.expect(0, Host)
	w1.nodes = append(w1.nodes, high, p)
	high.w = w1
	w1.run(90 * time.Second)
	low.expect(0, Host)
	high.expect(0, Guest)
	w1.run(dhcp.Length)
	if a := p.addr(t); !low.iface(0).Addresses[0].Contains(a) {
		t.Errorf("the phone stayed at %s", a)
	}
}

// TestTwoPortsOneWire: two interfaces of one box on one switch do not become two hosts, and no guests of each other.
func TestTwoPortsOneWire(t *testing.T) {
	w := newWire(t)
	b := w.box(Config{}, 1, 2)
	p := w.phone(1)
	for range 100 {
		w.run(time.Minute)
		b.expect(0, Host)
		b.expect(1, Waiting)
	}
	if n := b.iface(1).Note; n == nil || n.En != "Plugged into the same network as eth0; one cable is enough." {
		t.Errorf("note %v", n)
	}
	p.addr(t)
	// The second one is moved to a switch of its own.
	b.links[0].Carrier = false
	b.SetLinks(w.now, slices.Clone(b.links))
	w.run(hostAfter + 2*time.Second)
	b.expect(1, Host)
}

// TestOwnNetworksApart: an interface that becomes guest of a network which overlaps ours on another interface moves ours away.
func TestOwnNetworksApart(t *testing.T) {
	w := newWire(t)
	b := w.box(Config{}, 1, 2)
	b.links[0].Carrier = false
	b.SetLinks(w.now, slices.Clone(b.links))
	w.run(time.Minute)
	b.expect(1, Host)
	ours := b.iface(1).Addresses[0]
	w.remove(b)
	other := newWire(t)
	other.now = w.now
	other.router(netip.PrefixFrom(ours.Addr().Next(), 24).String(), 1)
	other.nodes = append(other.nodes, b)
	b.w = other
	b.links[0].Carrier, b.links[1].Carrier = true, true
	// eth1 stays on its own, quiet wire: it hears nothing of the other one
	b.SetLinks(w.now, slices.Clone(b.links))
	hide := b.links[1]
	b.links = b.links[:1]
	other.run(20 * time.Second)
	b.links = append(b.links, hide)
	b.expect(0, Guest)
	b.expect(1, Host)
	if now := b.iface(1).Addresses[0]; now.Overlaps(b.iface(0).Addresses[0]) {
		t.Errorf("%s overlaps %s", now, b.iface(0).Addresses[0])
	}
}
