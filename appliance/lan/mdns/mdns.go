// SPDX-License-Identifier: EUPL-1.2

// Package mdns answers for a box's names under .local on one network (RFC 6762), as values: a Responder is told of messages and the time and
// answers with packets to send. It asks whether a name is free before it uses it, gives way to another machine that has it, and takes the next
// one: hallig.local, hallig-2.local, hallig-3.local. It says nothing unasked but that: three questions and two announcements per network, and a
// question every five minutes while the name as wished is another's.
//
// Only IPv4 addresses are published; that there is nothing else is said too (NSEC), as phones wait for it. Services are not announced, and
// other machines' names are not looked up. Questions are asked and answered by multicast, except for those who ask from another port or, after
// a recent multicast, wish it otherwise: port 5353 is shared with other programs of this machine, and a unicast answer may reach the wrong one.
package mdns

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Port of mDNS.
const Port = 5353

// Group is where all hear it.
func Group() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{224, 0, 0, 251}), Port)
}

// Times and bounds, as RFC 6762 has them.
const (
	ttl           = 120
	legacyTTL     = 10
	probeEvery    = 250 * time.Millisecond
	probes        = 3
	announceEvery = time.Second
	announcements = 2
	afterDefeat   = time.Second
	sayLeast      = time.Second            // between two multicasts of one record
	defendLeast   = 250 * time.Millisecond // if somebody asks whether the name is free
	recently      = ttl / 4 * time.Second
	manyConflicts = 15 // within manyIn: then slowly
	manyIn        = 10 * time.Second
	slowly        = 5 * time.Second
	lastNumber    = 99
	wishEvery     = 5 * time.Minute // while the first name is another's: its owner may be unplugged without a word
	wishTime      = 2 * time.Second // for his answer
	maxMessage    = 9000
	flush         = 1 << 15 // the bit of a class that means: only these
)

// Packet is a message on its way.
type Packet struct {
	Dst     netip.AddrPort
	Payload []byte
}

type state uint8

const (
	silent state = iota // there is no address
	probing
	announcing
	held
)

// claim is one name.
type claim struct {
	base      string // as wished, without .local
	number    int    // 1: as wished
	state     state
	step      int
	at        time.Time // of the next step
	conflicts []time.Time
	said      time.Time // when all were last told
	rank      Rank
	wishAt    time.Time // of the next look whether the first name is free, while it has another
	wished    bool      // the question is out
}

func (c *claim) name() string {
	if c.number == 1 {
		return c.base + ".local."
	}
	first, rest, more := strings.Cut(c.base, ".")
	suffix := fmt.Sprintf("-%d", c.number)
	first = first[:min(len(first), 63-len(suffix))] + suffix
	if more {
		first += "." + rest
	}
	return first + ".local."
}

// Rank is the right of a box to the name that all boxes share.
type Rank uint8

// Ranks.
const (
	Equal  Rank = iota // who comes first has it
	First              // the box is host on the network
	Second             // it is another box's, which is host
)

// Responder answers for names on one network. It is not safe for concurrent use.
type Responder struct {
	// Shared is the name that all boxes have, like "hallig.local". It belongs to the box that is host on a network; others begin with the next one.
	Shared string

	rnd    *rand.Rand
	claims []*claim
	addrs  []netip.Addr // sorted
	out    []Packet
}

// New makes a responder without names.
func New(rnd *rand.Rand) *Responder { return &Responder{rnd: rnd} }

// Set tells the names, those under .local of which are answered for, and the addresses of the box on this network. Without an address it is
// silent; with the first one everything begins anew, as this may be another network.
func (r *Responder) Set(now time.Time, names []string, addrs []netip.Addr, rank Rank) {
	addrs = slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
	moved := !slices.Equal(addrs, r.addrs)
	began := moved && len(r.addrs) == 0
	r.addrs = addrs
	var claims []*claim
	for _, n := range names {
		base, ok := strings.CutSuffix(strings.ToLower(n), ".local")
		if !ok || base == "" || slices.ContainsFunc(claims, func(c *claim) bool { return c.base == base }) {
			continue
		}
		i := slices.IndexFunc(r.claims, func(c *claim) bool { return c.base == base })
		if i < 0 {
			claims = append(claims, &claim{base: base, number: 1})
			continue
		}
		claims = append(claims, r.claims[i])
	}
	if len(r.addrs) > 0 {
		r.bye(slices.DeleteFunc(slices.Clone(r.claims), func(c *claim) bool { return slices.Contains(claims, c) }))
	}
	r.claims = claims
	for _, c := range r.claims {
		lowest, was := 1, c.rank
		if c.rank = Equal; c.base+".local" == r.Shared {
			c.rank = rank
		}
		if c.rank == Second {
			lowest = 2
		}
		// Who may have the first name now, and could not before, asks for it; its owner may have gone without a word.
		risen := c.number > 1 && c.rank != was && (was == Second || c.rank == First)
		switch {
		case len(r.addrs) == 0:
			c.state, c.number, c.conflicts = silent, lowest, nil
		case c.number < lowest || risen:
			r.bye([]*claim{c})
			c.number = lowest
			r.probe(c, now.Add(time.Duration(r.rnd.Int64N(int64(probeEvery)))))
		case began || c.state == silent:
			r.probe(c, now.Add(time.Duration(r.rnd.Int64N(int64(probeEvery)))))
		case moved && c.state != probing:
			c.state, c.step, c.at = announcing, 0, now
		}
	}
}

// Bye tells the network that the names are gone.
func (r *Responder) Bye() {
	r.bye(r.claims)
	for _, c := range r.claims {
		c.state = silent
	}
}

func (r *Responder) bye(claims []*claim) {
	m := response()
	for _, c := range claims {
		if c.state == announcing || c.state == held {
			for _, rr := range r.records(c, 0) {
				m.Answer = append(m.Answer, rr)
			}
		}
	}
	if len(m.Answer) > 0 {
		r.send(m, Group())
	}
}

// Names lists the names that are the box's on this network.
func (r *Responder) Names() []string {
	var out []string
	for _, c := range r.claims {
		if c.state == announcing || c.state == held {
			out = append(out, strings.TrimSuffix(c.name(), "."))
		}
	}
	return out
}

// Wake says when Tick is due; zero: never.
func (r *Responder) Wake() (at time.Time) {
	for _, c := range r.claims {
		if next := c.wakes(); !next.IsZero() && (at.IsZero() || next.Before(at)) {
			at = next
		}
	}
	return at
}

// wakes says when something is due for a name; zero: nothing.
func (c *claim) wakes() time.Time {
	switch {
	case c.state == probing || c.state == announcing:
		return c.at
	case c.wishes():
		return c.wishAt
	}
	return time.Time{}
}

// wishes says whether the name may be changed for the first one, if that is free.
func (c *claim) wishes() bool { return c.state == held && c.number > 1 && c.rank != Second }

// wish asks for the owner of the first name, and takes it if there is none.
func (r *Responder) wish(c *claim, now time.Time) {
	if c.wished {
		r.rise(c, now)
		return
	}
	m := new(dns.Msg)
	m.Question = []dns.Question{{Name: c.base + ".local.", Qtype: dns.TypeA, Qclass: dns.ClassINET}}
	r.send(m, Group())
	c.wished, c.wishAt = true, now.Add(wishTime)
}

// rise gives a name up for the first one.
func (r *Responder) rise(c *claim, at time.Time) {
	r.bye([]*claim{c})
	c.number = 1
	r.probe(c, at)
}

// Drain gives what there is to send.
func (r *Responder) Drain() []Packet {
	out := r.out
	r.out = nil
	return out
}

func (r *Responder) probe(c *claim, at time.Time) { c.state, c.step, c.at = probing, 0, at }

// Tick does what is due.
func (r *Responder) Tick(now time.Time) {
	for _, c := range r.claims {
		if c.wakes().After(now) {
			continue
		}
		if c.state == probing {
			if c.step < probes {
				r.ask(c)
				c.step++
				c.at = now.Add(probeEvery)
				continue
			}
			c.state, c.step = announcing, 0
		}
		if c.state == announcing {
			m := response()
			r.tell(m, c, now)
			r.send(m, Group())
			c.step++
			if c.at = now.Add(announceEvery); c.step == announcements {
				c.state, c.wishAt, c.wished = held, now.Add(wishEvery), false
			}
		}
		if c.wishes() && !c.wishAt.After(now) {
			r.wish(c, now)
		}
	}
}

// ask asks whether a name is free, and says what would be its records. https://www.rfc-editor.org/rfc/rfc6762#section-8.1
func (r *Responder) ask(c *claim) {
	m := new(dns.Msg)
	m.Question = []dns.Question{{Name: c.name(), Qtype: dns.TypeANY, Qclass: dns.ClassINET}}
	for _, rr := range r.records(c, ttl) {
		rr.Hdr.Class = dns.ClassINET
		m.Ns = append(m.Ns, rr)
	}
	r.send(m, Group())
}

func (r *Responder) records(c *claim, seconds uint32) (out []*dns.A) {
	for _, a := range r.addrs {
		out = append(out, &dns.A{Hdr: dns.RR_Header{Name: c.name(), Rrtype: dns.TypeA, Class: dns.ClassINET | flush, Ttl: seconds}, A: a.AsSlice()})
	}
	return out
}

// nothingElse says that a name has A records only. https://www.rfc-editor.org/rfc/rfc6762#section-6.1
func nothingElse(c *claim) dns.RR {
	return &dns.NSEC{Hdr: dns.RR_Header{Name: c.name(), Rrtype: dns.TypeNSEC, Class: dns.ClassINET | flush, Ttl: ttl}, NextDomain: c.name(), TypeBitMap: []uint16{dns.TypeA}}
}

// tell puts the records of a name into a message to all.
func (r *Responder) tell(m *dns.Msg, c *claim, now time.Time) {
	for _, rr := range r.records(c, ttl) {
		m.Answer = append(m.Answer, rr)
	}
	m.Extra = append(m.Extra, nothingElse(c))
	c.said = now
}

func response() *dns.Msg {
	m := new(dns.Msg)
	m.Response, m.Authoritative = true, true
	return m
}

func (r *Responder) send(m *dns.Msg, to netip.AddrPort) {
	if b, err := m.Pack(); err == nil {
		r.out = append(r.out, Packet{to, b})
	}
}

// Take takes a message of another machine on this network. What makes no sense is ignored.
func (r *Responder) Take(now time.Time, payload []byte, src netip.AddrPort) {
	if len(payload) > maxMessage || len(r.addrs) == 0 {
		return
	}
	var m dns.Msg
	if err := m.Unpack(payload); err != nil || m.Opcode != dns.OpcodeQuery || m.Rcode != dns.RcodeSuccess {
		return
	}
	if m.Response {
		if src.Port() == Port { // https://www.rfc-editor.org/rfc/rfc6762#section-6
			r.heard(now, &m)
		}
		return
	}
	r.rivals(now, &m)
	r.answer(now, &m, src)
}

// heard looks for our names in an answer of another machine. https://www.rfc-editor.org/rfc/rfc6762#section-9
func (r *Responder) heard(now time.Time, m *dns.Msg) {
	for _, c := range r.claims {
		if c.number > 1 && c.rank != Second && (c.state == announcing || c.state == held) && slices.ContainsFunc(m.Answer, func(rr dns.RR) bool {
			return rr.Header().Ttl == 0 && strings.EqualFold(rr.Header().Name, c.base+".local.")
		}) {
			r.rise(c, now.Add(afterDefeat)) // its owner has gone: the name that we wished for is free
			continue
		}
		if c.wished && slices.ContainsFunc(m.Answer, func(rr dns.RR) bool { return strings.EqualFold(rr.Header().Name, c.base+".local.") }) {
			c.wished, c.wishAt = false, now.Add(wishEvery)
		}
		for _, rr := range slices.Concat(m.Answer, m.Extra) {
			if c.state == silent || !theirs(rr, c) || rr.Header().Ttl == 0 {
				continue
			}
			switch a := rr.(type) {
			case *dns.A:
				if got, ok := netip.AddrFromSlice(a.A); ok && slices.Contains(r.addrs, got.Unmap()) {
					continue // the same, as from a reflector
				}
			case *dns.AAAA:
			default:
				continue
			}
			r.conflict(c, now)
			break
		}
	}
}

func theirs(rr dns.RR, c *claim) bool {
	return rr != nil && rr.Header().Class&^flush == dns.ClassINET && strings.EqualFold(rr.Header().Name, c.name())
}

// conflict is told that another machine has a name. One that we had is asked for anew; it may be a mistake, or it has come by a cable that now
// joins two networks. One that we were asking for is the other's.
func (r *Responder) conflict(c *claim, now time.Time) {
	c.conflicts = slices.DeleteFunc(append(c.conflicts, now), func(t time.Time) bool { return now.Sub(t) > manyIn })
	at := now.Add(time.Duration(r.rnd.Int64N(int64(probeEvery))))
	if c.state == probing {
		if c.number++; c.number > lastNumber {
			c.number = 2
		}
	}
	if len(c.conflicts) >= manyConflicts { // somebody plays with us
		at = now.Add(slowly)
	}
	r.probe(c, at)
}

// rivals looks for machines that ask for one of our names at the same moment: the records that come later in the alphabet win, the others ask
// again a second later, and are then answered. https://www.rfc-editor.org/rfc/rfc6762#section-8.2
func (r *Responder) rivals(now time.Time, m *dns.Msg) {
	for _, c := range r.claims {
		if c.state != probing {
			continue
		}
		var other [][]byte
		for _, rr := range m.Ns {
			if theirs(rr, c) {
				other = append(other, weight(rr))
			}
		}
		if len(other) == 0 {
			continue
		}
		var own [][]byte
		for _, rr := range r.records(c, ttl) {
			own = append(own, weight(rr))
		}
		slices.SortFunc(other, bytes.Compare)
		slices.SortFunc(own, bytes.Compare)
		if slices.CompareFunc(own, other, bytes.Compare) < 0 {
			r.probe(c, now.Add(afterDefeat))
		}
	}
}

// weight gives class, type and data of a record as bytes.
func weight(rr dns.RR) []byte {
	h := rr.Header()
	out := []byte{byte(h.Class &^ flush >> 8), byte(h.Class), byte(h.Rrtype >> 8), byte(h.Rrtype)}
	switch a := rr.(type) {
	case *dns.A:
		if ip, ok := netip.AddrFromSlice(a.A); ok {
			return append(out, ip.Unmap().AsSlice()...)
		}
	case *dns.AAAA:
		return append(out, a.AAAA...)
	}
	return out
}

// answer answers questions for our names.
func (r *Responder) answer(now time.Time, m *dns.Msg, src netip.AddrPort) {
	all, one, old := response(), response(), response()
	for _, c := range r.claims {
		if c.state != announcing && c.state != held {
			continue
		}
		for _, q := range m.Question {
			if !strings.EqualFold(q.Name, c.name()) || q.Qclass&^flush != dns.ClassINET && q.Qclass&^flush != dns.ClassANY {
				continue
			}
			probed := slices.ContainsFunc(m.Ns, func(rr dns.RR) bool { return theirs(rr, c) })
			switch {
			case src.Port() != Port: // https://www.rfc-editor.org/rfc/rfc6762#section-6.7
				r.say(old, c, q.Qtype, legacyTTL)
			case !probed && r.known(m, c, q.Qtype):
			case q.Qclass&flush != 0 && !probed && now.Sub(c.said) < recently:
				r.say(one, c, q.Qtype, ttl)
			case now.Sub(c.said) >= sayLeast || probed && now.Sub(c.said) >= defendLeast:
				r.say(all, c, q.Qtype, ttl)
				c.said = now
			}
			break
		}
	}
	if len(all.Answer) > 0 {
		r.send(all, Group())
	}
	if len(one.Answer) > 0 {
		r.send(one, src)
	}
	if len(old.Answer) > 0 {
		old.Id, old.Question = m.Id, m.Question[:1]
		for _, rr := range old.Answer {
			rr.Header().Class &^= flush
		}
		old.Extra = nil
		r.send(old, src)
	}
}

// say answers one question.
func (r *Responder) say(m *dns.Msg, c *claim, qtype uint16, seconds uint32) {
	if qtype != dns.TypeA && qtype != dns.TypeANY {
		if seconds == ttl { // https://www.rfc-editor.org/rfc/rfc6762#section-6.1
			m.Answer = append(m.Answer, nothingElse(c))
		}
		return
	}
	for _, rr := range r.records(c, seconds) {
		m.Answer = append(m.Answer, rr)
	}
	m.Extra = append(m.Extra, nothingElse(c))
}

// known says whether the asker has the answer already. https://www.rfc-editor.org/rfc/rfc6762#section-7.1
func (r *Responder) known(m *dns.Msg, c *claim, qtype uint16) bool {
	if qtype != dns.TypeA {
		return false
	}
	var has []netip.Addr
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok && theirs(rr, c) && a.Hdr.Ttl >= ttl/2 {
			if ip, ok := netip.AddrFromSlice(a.A); ok {
				has = append(has, ip.Unmap())
			}
		}
	}
	return !slices.ContainsFunc(r.addrs, func(a netip.Addr) bool { return !slices.Contains(has, a) })
}
