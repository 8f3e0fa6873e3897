// SPDX-License-Identifier: EUPL-1.2

package mdns

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// host is a responder on a network of the test.
type host struct {
	*Responder
	src netip.AddrPort
}

// net is a network under a clock moved by hand, where all hear all.
type net struct {
	t     *testing.T
	now   time.Time
	hosts []*host
	sent  []Packet
}

func newNet(t *testing.T) *net { return &net{t: t, now: time.Unix(1000, 0)} }

func (n *net) host(last byte, names ...string) *host {
	h := &host{New(rand.New(rand.NewPCG(uint64(last), 1))), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, last}), Port)}
	h.Shared = "hallig.local"
	h.Set(n.now, names, []netip.Addr{h.src.Addr()}, Equal)
	n.hosts = append(n.hosts, h)
	return h
}

func (n *net) run(d time.Duration) {
	n.t.Helper()
	for end, steps := n.now.Add(d), 0; ; steps++ {
		if steps > 100_000 {
			n.t.Fatal("no end")
		}
		for _, h := range n.hosts {
			for _, p := range h.Drain() {
				n.sent = append(n.sent, p)
				if p.Dst == Group() {
					for _, o := range n.hosts {
						if o != h {
							o.Take(n.now, p.Payload, h.src)
						}
					}
				}
			}
		}
		next := end
		for _, h := range n.hosts {
			if at := h.Wake(); !at.IsZero() && at.Before(next) {
				next = at
			}
		}
		if next.After(n.now) {
			n.now = next
		}
		if !n.now.Before(end) {
			return
		}
		for _, h := range n.hosts {
			h.Tick(n.now)
		}
	}
}

// ask sends a message from outside and gives what comes back.
func (n *net) ask(h *host, src string, m *dns.Msg) (out []*dns.Msg, to []netip.AddrPort) {
	n.t.Helper()
	b, err := m.Pack()
	if err != nil {
		n.t.Fatal(err)
	}
	h.Take(n.now, b, netip.MustParseAddrPort(src))
	for _, p := range h.Drain() {
		var a dns.Msg
		if err := a.Unpack(p.Payload); err != nil {
			n.t.Fatal(err)
		}
		out, to = append(out, &a), append(to, p.Dst)
	}
	return out, to
}

func question(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg)
	m.Question = []dns.Question{{Name: name, Qtype: qtype, Qclass: dns.ClassINET}}
	return m
}

func (n *net) expect(h *host, names ...string) {
	n.t.Helper()
	if got := h.Names(); !slices.Equal(got, names) {
		n.t.Errorf("%s has %v, want %v", h.src, got, names)
	}
}

// TestAlone: three questions, then the name; afterwards silence.
func TestAlone(t *testing.T) {
	n := newNet(t)
	h := n.host(1, "hallig.local", "box1.local", "box1.feuerwehr.example")
	n.expect(h)
	n.run(3 * time.Second)
	n.expect(h, "hallig.local", "box1.local")
	if len(n.sent) != 2*(probes+announcements) {
		t.Errorf("%d messages", len(n.sent))
	}
	sent := len(n.sent)
	n.run(24 * time.Hour)
	if len(n.sent) != sent {
		t.Errorf("%d messages unasked", len(n.sent)-sent)
	}
}

// TestAnswers are the questions that there are, and who gets the answer.
func TestAnswers(t *testing.T) {
	n := newNet(t)
	h := n.host(1, "hallig.local")
	n.run(time.Minute)
	a := func(q *dns.Msg, src string) (*dns.Msg, string) {
		n.run(time.Minute)
		out, to := n.ask(h, src, q)
		if len(out) != 1 {
			return nil, ""
		}
		return out[0], to[0].String()
	}
	const group, peer, old = "224.0.0.251:5353", "10.0.0.9:5353", "10.0.0.9:40000"
	m, to := a(question("Hallig.Local.", dns.TypeA), peer)
	if m == nil || to != group || len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "10.0.0.1" || m.Answer[0].Header().Class != dns.ClassINET|flush || !m.Authoritative {
		t.Errorf("A: %v to %s", m, to)
	}
	if m, to = a(question("hallig.local.", dns.TypeAAAA), peer); m == nil || to != group || m.Answer[0].Header().Rrtype != dns.TypeNSEC {
		t.Errorf("AAAA: %v", m)
	}
	if m, _ = a(question("other.local.", dns.TypeA), peer); m != nil {
		t.Errorf("another's name: %v", m)
	}
	if m, _ = a(question("hallig-2.local.", dns.TypeA), peer); m != nil {
		t.Errorf("a name that it does not have: %v", m)
	}
	q := question("hallig.local.", dns.TypeA)
	q.Id = 77
	if m, to = a(q, old); m == nil || to != old || m.Id != 77 || len(m.Question) != 1 || m.Answer[0].Header().Ttl > legacyTTL || m.Answer[0].Header().Class != dns.ClassINET {
		t.Errorf("an old resolver: %v to %s", m, to)
	}
	q = question("hallig.local.", dns.TypeA)
	q.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "hallig.local.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: []byte{10, 0, 0, 1}}}
	if m, _ = a(q, peer); m != nil {
		t.Errorf("what the asker knows: %v", m)
	}
	q.Answer[0].Header().Ttl = 10
	if m, _ = a(q, peer); m == nil {
		t.Error("what the asker will soon forget is not told again")
	}
	q = question("hallig.local.", dns.TypeA)
	q.Question[0].Qclass |= flush
	if m, to = a(q, peer); m == nil || to != group {
		t.Errorf("wishes unicast after a long silence: to %s", to)
	}
	if out, to := n.ask(h, peer, q); len(out) != 1 || to[0].String() != peer {
		t.Errorf("wishes unicast: %v", to)
	}
	if out, _ := n.ask(h, peer, question("hallig.local.", dns.TypeA)); len(out) != 0 {
		t.Errorf("asked twice in a second: %v", out)
	}
	n.run(time.Minute)
	q = question("hallig.local.", dns.TypeA)
	q.Response = true
	if out, _ := n.ask(h, peer, q); len(out) != 0 {
		t.Errorf("answers an answer: %v", out)
	}
}

// TestSecond: who comes second takes the next name, and gets the first one when its owner says farewell.
func TestSecond(t *testing.T) {
	n := newNet(t)
	a := n.host(1, "hallig.local")
	n.run(time.Minute)
	b := n.host(2, "hallig.local")
	c := n.host(3, "hallig.local")
	n.run(time.Minute)
	n.expect(a, "hallig.local")
	if got := slices.Sorted(slices.Values(append(b.Names(), c.Names()...))); !slices.Equal(got, []string{"hallig-2.local", "hallig-3.local"}) {
		t.Errorf("the others: %v", got)
	}
	a.Bye()
	n.run(time.Minute)
	n.expect(a)
	if got := slices.Sorted(slices.Values(append(b.Names(), c.Names()...))); len(got) != 2 || got[1] != "hallig.local" || got[0] == got[1] {
		t.Errorf("after the farewell: %v", got)
	}
}

// TestAtOnce: a school of boxes that is switched on at once ends with a name each.
func TestAtOnce(t *testing.T) {
	for seed := range byte(20) {
		n := newNet(t)
		for i := range byte(6) {
			n.host(1+seed*10+i, "hallig.local")
		}
		n.run(5 * time.Minute)
		names := map[string]bool{}
		for _, h := range n.hosts {
			for _, name := range h.Names() {
				names[name] = true
			}
		}
		if len(names) != 6 || !names["hallig.local"] {
			t.Fatalf("seed %d: %v", seed, names)
		}
	}
}

// TestJoined: two networks that are joined by a cable, each with a hallig.local, come to two names when one of them is asked.
func TestJoined(t *testing.T) {
	n, m := newNet(t), newNet(t)
	a, b := n.host(1, "hallig.local"), m.host(2, "hallig.local")
	n.run(time.Minute)
	m.run(time.Minute)
	n.hosts = append(n.hosts, b)
	q, _ := question("hallig.local.", dns.TypeA).Pack()
	a.Take(n.now, q, netip.MustParseAddrPort("10.0.0.9:5353"))
	n.run(time.Minute)
	if got := slices.Sorted(slices.Values(append(a.Names(), b.Names()...))); !slices.Equal(got, []string{"hallig-2.local", "hallig.local"}) {
		t.Errorf("%v", got)
	}
}

// TestHostHasTheName: a box that becomes guest of another one leaves the shared name to it at once, and takes it back as host.
func TestHostHasTheName(t *testing.T) {
	n := newNet(t)
	a := n.host(1, "hallig.local", "box1.local")
	n.run(time.Minute)
	a.Set(n.now, []string{"hallig.local", "box1.local"}, []netip.Addr{a.src.Addr()}, Second)
	n.run(time.Minute)
	n.expect(a, "hallig-2.local", "box1.local")
	a.Set(n.now, []string{"hallig.local", "box1.local"}, []netip.Addr{a.src.Addr()}, Equal)
	n.run(time.Minute)
	n.expect(a, "hallig.local", "box1.local")
}

// TestNewHost: a box that becomes host asks again for the name whose owner was unplugged without a word, and does without if he is still there.
func TestNewHost(t *testing.T) {
	for _, gone := range []bool{true, false} {
		n := newNet(t)
		a := n.host(1, "hallig.local")
		n.run(time.Minute)
		b := n.host(2, "hallig.local")
		n.run(time.Minute)
		n.expect(b, "hallig-2.local")
		want := "hallig-2.local"
		if gone {
			n.hosts = slices.DeleteFunc(n.hosts, func(h *host) bool { return h == a })
			want = "hallig.local"
		}
		b.Set(n.now, []string{"hallig.local"}, []netip.Addr{b.src.Addr()}, First)
		n.run(time.Minute)
		n.expect(b, want)
	}
}

// TestBully: a machine that claims every name is answered slowly.
func TestBully(t *testing.T) {
	n := newNet(t)
	h := n.host(1, "hallig.local")
	end := n.now.Add(10 * time.Minute)
	for n.now.Before(end) {
		n.run(100 * time.Millisecond)
		m := response()
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: h.claims[0].name(), Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 120}, A: []byte{10, 0, 0, 66}}}
		n.ask(h, "10.0.0.66:5353", m)
	}
	if len(n.sent) > 10*60 {
		t.Errorf("%d messages in ten minutes", len(n.sent))
	}
	n.run(time.Minute)
	if len(h.Names()) != 1 {
		t.Errorf("after the bully: %v", h.Names())
	}
}

// FuzzTake: whatever comes in, the responder says only what it may.
func FuzzTake(f *testing.F) {
	seed := func(m *dns.Msg) {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint16(5353))
		f.Add(b, uint16(999))
	}
	seed(question("hallig.local.", dns.TypeANY))
	m := response()
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "hallig.local.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 120}, A: []byte{10, 0, 0, 66}}}
	seed(m)
	q := question("hallig.local.", dns.TypeANY)
	q.Ns = m.Answer
	seed(q)
	f.Fuzz(func(t *testing.T, b []byte, port uint16) {
		r := New(rand.New(rand.NewPCG(1, 1)))
		now := time.Unix(1000, 0)
		r.Set(now, []string{"hallig.local"}, []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Equal)
		for range 20 {
			r.Take(now, b, netip.AddrPortFrom(netip.MustParseAddr("10.0.0.9"), port))
			r.Tick(now)
			now = now.Add(200 * time.Millisecond)
		}
		out := r.Drain()
		if len(out) > 60 {
			t.Fatalf("%d messages", len(out))
		}
		for _, p := range out {
			var a dns.Msg
			if err := a.Unpack(p.Payload); err != nil {
				t.Fatal(err)
			}
			for _, rr := range slices.Concat(a.Answer, a.Ns, a.Extra) {
				if !strings.HasPrefix(strings.ToLower(rr.Header().Name), "hallig") {
					t.Fatalf("says %v", rr)
				}
			}
		}
	})
}
