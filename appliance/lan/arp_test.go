// SPDX-License-Identifier: EUPL-1.2

package lan

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"hallig/appliance/lan/dhcp"
	"hallig/appliance/lan/mdns"
)

func TestARPWire(t *testing.T) {
	const text = "0001080006040001" + "020000000001" + "0a530701" + "000000000000" + "0a530702"
	raw, _ := hex.DecodeString(text)
	a, err := ParseARP(append(slices.Clone(raw), make([]byte, 18)...)) // a frame is at least 60 bytes long
	want := ARP{Op: arpRequest, MAC: dhcp.MAC{2, 0, 0, 0, 0, 1}, IP: netip.MustParseAddr("10.83.7.1"), Target: netip.MustParseAddr("10.83.7.2")}
	if err != nil || a != want {
		t.Fatalf("read %+v, %v", a, err)
	}
	if got := a.Bytes(); !bytes.Equal(got, raw) {
		t.Errorf("wrote %x", got)
	}
	for n := range arpLength {
		if _, err := ParseARP(raw[:n]); err == nil {
			t.Errorf("%d bytes were taken", n)
		}
	}
	for at, to := range map[int]byte{1: 2, 3: 1, 4: 8, 5: 16, 7: 3, 8: 3} { // hardware, protocol, lengths, operation, a group's address
		b := slices.Clone(raw)
		b[at] = to
		if _, err := ParseARP(b); err == nil {
			t.Errorf("byte %d = %d was taken", at, to)
		}
	}
}

func FuzzParseARP(f *testing.F) {
	f.Add(whoHas(dhcp.MAC{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.83.7.1"), netip.MustParseAddr("10.83.7.2")).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseARP(b)
		if err == nil && !bytes.Equal(a.Bytes(), b[:arpLength]) {
			t.Fatalf("%x is written as %x", b[:arpLength], a.Bytes())
		}
	})
}

// FuzzMachine hands a machine frames of a hostile network, in any order and at any time. It neither breaks nor wakes without end, and what it
// wants is possible.
func FuzzMachine(f *testing.F) {
	c := dhcp.NewClient(dhcp.MAC{2, 0, 0, 0, 2, 1}, rand.New(rand.NewPCG(1, 1)))
	probe := c.Probe(time.Unix(0, 0), true)
	f.Add([]byte{0, 1}, probe.Payload)
	f.Add([]byte{1, 200, 0, 1}, whoHas(dhcp.MAC{2, 9}, netip.MustParseAddr("10.83.7.1"), netip.MustParseAddr("10.83.7.2")).Bytes())
	f.Fuzz(func(t *testing.T, script, body []byte) {
		if len(script) > 100 {
			return
		}
		m, err := New(Config{}, rand.New(rand.NewPCG(1, 1)))
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(1000, 0)
		link := Link{Index: 2, Name: "eth0", MAC: dhcp.MAC{2, 0, 0, 0, 0, 1}, Carrier: true}
		m.SetLinks(now, []Link{link})
		evil := dhcp.MAC{2, 9, 9, 9, 9, 9}
		for _, b := range script {
			now = now.Add(time.Duration(b) * 100 * time.Millisecond)
			for n := 0; due(m.Wake(), now); n++ {
				if n > 10_000 {
					t.Fatal("wakes without end")
				}
				m.Tick(m.Wake())
			}
			switch b % 4 {
			case 0:
				m.TakeDHCP(now, 2, body, evil)
			case 1:
				if a, err := ParseARP(body); err == nil {
					m.TakeARP(now, 2, a)
				}
			case 2:
				m.TakeMDNS(now, 2, body, netip.AddrPortFrom(netip.MustParseAddr("10.83.7.9"), mdns.Port))
			case 3:
				link.Carrier = b < 200
				m.SetLinks(now, []Link{link})
			}
			m.Frames()
			for _, w := range m.Wants() {
				for _, a := range w.Addrs {
					if !usable(a) {
						t.Fatalf("wants %s", a)
					}
				}
			}
			m.State(now)
		}
	})
}

// TestBlackSheep: an offer that leads to nothing does not stop a host for longer than a moment, however often it is repeated.
func TestBlackSheep(t *testing.T) {
	w := newWire(t)
	b := w.box(Config{}, 1)
	p := w.phone(1)
	w.run(time.Minute)
	w.nodes = append(w.nodes, &liar{mac: dhcp.MAC{2, 6, 6, 6, 6, 6}})
	served := 0
	for range 60 {
		w.run(time.Minute)
		if f := b.iface(0); f.Mode == Host && f.Serving != nil {
			served++
		}
	}
	if served != 60 {
		t.Errorf("host in %d of 60 minutes", served)
	}
	p.addr(t)
	late := w.phone(2)
	w.run(2 * time.Minute)
	if late.Lease() == nil || late.Lease().Addr.Addr().String() == "" {
		t.Error("a new phone got no address")
	}
}

// TestBlackSheepFirst: nor does it keep the box from becoming host.
func TestBlackSheepFirst(t *testing.T) {
	w := newWire(t)
	w.nodes = append(w.nodes, &liar{mac: dhcp.MAC{2, 6, 6, 6, 6, 6}})
	b := w.box(Config{}, 1)
	p := w.phone(1)
	w.run(hostAfter*3/2 + time.Second)
	b.expect(0, Host)
	w.run(time.Minute)
	p.addr(t)
}

// liar offers addresses to boxes and never gives one.
type liar struct {
	mac dhcp.MAC
	out []sent
}

func (l *liar) wake() time.Time { return time.Time{} }
func (l *liar) tick(time.Time)  {}
func (l *liar) frames() []sent {
	out := l.out
	l.out = nil
	return out
}

func (l *liar) take(now time.Time, s sent) {
	if s.dhcp == nil {
		return
	}
	m, err := dhcp.Parse(s.dhcp.Payload)
	if err != nil || m.Type != 1 || !m.Hallig {
		return
	}
	srv := dhcp.NewServer(now, netip.MustParsePrefix("192.168.66.1/24"), l.mac)
	m.Hallig = false
	srv.Take(now, m, s.mac)
	srv.Tick(now.Add(time.Second))
	packets, _ := srv.Drain()
	for _, p := range packets {
		l.out = append(l.out, sent{mac: l.mac, dhcp: &p})
	}
}

// TestClash: who uses our address is told off, but not without end, and people are told.
func TestClash(t *testing.T) {
	w := newWire(t)
	b := w.box(Config{}, 1)
	w.run(time.Minute)
	own := b.iface(0).Addresses[0].Addr()
	before := len(w.sent)
	for range 100 {
		b.TakeARP(w.now, 2, whoHas(dhcp.MAC{2, 9}, own, own))
		w.run(100 * time.Millisecond)
	}
	arps := 0
	for _, s := range w.sent[before:] {
		if s.arp != nil {
			arps++
		}
	}
	if arps == 0 || arps > 2 {
		t.Errorf("told off %d times in ten seconds", arps)
	}
	if n := b.iface(0).Note; n == nil || b.iface(0).Mode != Host {
		t.Errorf("says %v", n)
	}
	w.run(2 * newsFor)
	if n := b.iface(0).Note; n != nil {
		t.Errorf("still says %v", n)
	}

	// An address that is taken before we use it is not used.
	w = newWire(t)
	r := w.router(own.String()+"/24", 1)
	r.Close() // it has our address and serves nobody
	b = w.box(Config{}, 1)
	w.run(time.Minute)
	if f := b.iface(0); f.Mode != Host || f.Addresses[0].Addr() == own {
		t.Errorf("%s at %v", f.Mode, f.Addresses)
	}
	// As configured it is waited for, and people are told.
	w = newWire(t)
	r = w.router("172.20.1.1/24", 1)
	r.Close()
	b = w.box(Config{Mode: Host, Address: "172.20.1.1/24"}, 1)
	w.run(time.Minute)
	b.expect(0, Waiting)
	if n := b.iface(0).Note; n == nil {
		t.Error("says nothing")
	}
	w.remove(r)
	w.run(time.Minute)
	b.expect(0, Host, "172.20.1.1/24")
}
