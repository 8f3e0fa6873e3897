// SPDX-License-Identifier: EUPL-1.2

package dhcp

import (
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Bounds and times of a Server. A stranger gets an address for two minutes at first; who comes back for it gets ten at a time. So what a flood
// of invented clients takes is free again two minutes later, and phones move on within five minutes when the box stops being host. Strangers are
// let in at a rate (a burst, then one a second) that leaves some of a /24 free under the longest flood; clients that are known pass always.
// Who answers ARP for every address, or floods faster than phones ask, keeps new phones out as long as he does so: Ethernet knows no remedy.
const (
	Length      = 10 * time.Minute
	trialLength = 2 * time.Minute
	offerLength = 20 * time.Second
	askTime     = 400 * time.Millisecond // for an answer to the ARP question whether an address is in use
	askAgain    = 3                      // addresses that are tried for one client
	blockTime   = 10 * time.Minute       // for an address that others use
	burst       = 64
	maxPending  = 32
	perNeighbor = 64 // addresses behind one Ethernet address: a Wi-Fi repeater and its phones
	maxPool     = 1000
)

// Server gives the addresses of one network. It is not safe for concurrent use.
type Server struct {
	Portal string // of DHCP option 114; "": none

	self    netip.Prefix
	mac     MAC
	lo, n   uint32 // the pool: n addresses from lo
	clients map[MAC]*client
	owner   map[netip.Addr]MAC // of each address that was given; at most n
	blocked map[netip.Addr]time.Time
	pending []pending
	tokens  float64
	filled  time.Time // when tokens was counted
	closed  bool
	foreign netip.Addr

	out  []Packet
	asks []netip.Addr
}

type client struct {
	addr   netip.Addr
	behind MAC // the Ethernet address its packets come from
	until  time.Time
	kept   bool // it has accepted the address
}

// pending is a question to the network whether somebody uses an address; the answer to the client waits for it.
type pending struct {
	m    *Message
	from MAC
	addr netip.Addr
	at   time.Time
	try  int
}

// NewServer makes a server for the network of its own address.
func NewServer(now time.Time, self netip.Prefix, mac MAC) *Server {
	s := &Server{self: self, mac: mac, clients: map[MAC]*client{}, owner: map[netip.Addr]MAC{}, blocked: map[netip.Addr]time.Time{},
		tokens: burst, filled: now}
	first, last := ends(self)
	s.lo, s.n = first+1, last-first-1
	if s.n > 50 { // leave room for machines with fixed addresses
		s.lo, s.n = first+10, min(last-first-14, maxPool)
	}
	return s
}

// Self gives the server's address and network.
func (s *Server) Self() netip.Prefix { return s.self }

// Capacity is the number of addresses that can be in use.
func (s *Server) Capacity() int {
	n := int(s.n)
	if own := number(s.self.Addr()); own >= s.lo && own < s.lo+s.n {
		n--
	}
	return n
}

// Clients counts the addresses in use.
func (s *Server) Clients(now time.Time) int {
	n := 0
	for _, c := range s.clients {
		if c.kept && now.Before(c.until) {
			n++
		}
	}
	return n
}

// Close stops giving: nobody gets an address any more, and who comes back for his is told to look for another server.
func (s *Server) Close() { s.closed, s.pending = true, nil }

// Open gives again.
func (s *Server) Open() { s.closed = false }

// Last says when the last address that was given is no longer in use, at most Length from now.
func (s *Server) Last(now time.Time) time.Time {
	last := now
	for _, c := range s.clients {
		if c.kept && c.until.After(last) {
			last = c.until
		}
	}
	return last
}

// Foreign gives a server that a client has chosen instead of this one, once.
func (s *Server) Foreign() (a netip.Addr) {
	a, s.foreign = s.foreign, netip.Addr{}
	return a
}

// Drain gives what there is to send, and the addresses to ask for by ARP.
func (s *Server) Drain() (out []Packet, asks []netip.Addr) {
	out, asks = s.out, s.asks
	s.out, s.asks = nil, nil
	return out, asks
}

// Wake says when Tick is due; zero: never.
func (s *Server) Wake() (at time.Time) {
	for _, p := range s.pending {
		if at.IsZero() || p.at.Before(at) {
			at = p.at
		}
	}
	return at
}

// Tick answers the clients whose address nobody else uses.
func (s *Server) Tick(now time.Time) {
	var due []pending
	s.pending = slices.DeleteFunc(s.pending, func(p pending) bool {
		if p.at.After(now) {
			return false
		}
		due = append(due, p)
		return true
	})
	for _, p := range due {
		if !s.free(now, p.addr, p.m.Client) {
			continue // it was given meanwhile; the client asks again
		}
		if p.m.Type == dhcpv4.MessageTypeDiscover {
			s.hold(p.m.Client, p.addr, p.from, now.Add(offerLength))
			s.answer(p.m, p.from, dhcpv4.MessageTypeOffer, p.addr, Length)
		} else {
			s.grant(now, p.m, p.from, p.addr)
		}
	}
}

// InUse is told who has an address, as ARP says.
func (s *Server) InUse(now time.Time, a netip.Addr, mac MAC) {
	var again []pending
	s.pending = slices.DeleteFunc(s.pending, func(p pending) bool {
		// A client that still uses the address, itself or through its repeater, is no stranger to it.
		if p.addr != a || mac == p.m.Client || mac == p.from {
			return false
		}
		again = append(again, p)
		return true
	})
	for _, p := range again {
		s.block(now, a)
		switch {
		case p.m.Type != dhcpv4.MessageTypeDiscover:
			s.refuse(p.m)
		case p.try < askAgain:
			if next, ok := s.choose(now, p.m.Client, netip.Addr{}); ok {
				s.question(now, p.m, p.from, next, p.try+1)
			}
		}
	}
}

func (s *Server) block(now time.Time, a netip.Addr) {
	if uint32(len(s.blocked)) >= s.n/2 { // who claims everything shall not close the house
		var oldest netip.Addr
		for b, t := range s.blocked {
			if !oldest.IsValid() || t.Before(s.blocked[oldest]) {
				oldest = b
			}
		}
		delete(s.blocked, oldest)
	}
	s.blocked[a] = now.Add(blockTime)
	if m, ok := s.owner[a]; ok {
		s.forget(m)
	}
}

func (s *Server) forget(m MAC) {
	if c := s.clients[m]; c != nil {
		delete(s.owner, c.addr)
		delete(s.clients, m)
	}
}

// hold notes who has an address, or is being offered it.
func (s *Server) hold(m MAC, a netip.Addr, behind MAC, until time.Time) *client {
	if o, ok := s.owner[a]; ok && o != m {
		s.forget(o)
	}
	c := s.clients[m]
	if c == nil || c.addr != a {
		s.forget(m)
		c = &client{addr: a}
		s.clients[m], s.owner[a] = c, m
	}
	c.behind, c.until = behind, until
	return c
}

// free says whether a client may have an address.
func (s *Server) free(now time.Time, a netip.Addr, m MAC) bool {
	n := number(a)
	if n < s.lo || n >= s.lo+s.n || a == s.self.Addr() {
		return false
	}
	if t, ok := s.blocked[a]; ok {
		if now.Before(t) {
			return false
		}
		delete(s.blocked, a)
	}
	o, ok := s.owner[a]
	return !ok || o == m || !now.Before(s.clients[o].until)
}

// choose finds an address: the one that the client had, the one that it wishes, the one that its MAC leads to (so that a phone keeps its
// address over a restart of the box without anything being stored), the next one that nobody remembers, the one that was left the longest ago.
func (s *Server) choose(now time.Time, m MAC, wish netip.Addr) (netip.Addr, bool) {
	if c := s.clients[m]; c != nil && s.free(now, c.addr, m) {
		return c.addr, true
	}
	if wish.IsValid() && s.free(now, wish, m) {
		return wish, true
	}
	h := fnv.New32a()
	h.Write(m[:])
	start := h.Sum32() % s.n
	var oldest netip.Addr
	var left time.Time
	for i := range s.n {
		a := address(s.lo + (start+i)%s.n)
		if !s.free(now, a, m) {
			continue
		}
		o, remembered := s.owner[a]
		if !remembered {
			return a, true
		}
		if until := s.clients[o].until; !oldest.IsValid() || until.Before(left) {
			oldest, left = a, until
		}
	}
	return oldest, oldest.IsValid()
}

// stranger takes a token of the rate at which strangers are let in.
func (s *Server) stranger(now time.Time, m MAC, behind MAC) bool {
	if c := s.clients[m]; c != nil && c.kept {
		return true
	}
	n := 0
	for _, c := range s.clients {
		if c.behind == behind && now.Before(c.until) {
			n++
		}
	}
	s.tokens = min(burst, s.tokens+now.Sub(s.filled).Seconds())
	s.filled = now
	if n >= perNeighbor || s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}

func (s *Server) question(now time.Time, m *Message, from MAC, a netip.Addr, try int) {
	if len(s.pending) >= maxPending {
		return
	}
	s.pending = append(s.pending, pending{m, from, a, now.Add(askTime), try})
	s.asks = append(s.asks, a)
}

// Take takes a request of a client; from is the Ethernet address it came from.
func (s *Server) Take(now time.Time, m *Message, from MAC) {
	if m.OpCode != dhcpv4.OpcodeBootRequest || m.Client == s.mac || !from.Single() {
		return
	}
	if slices.ContainsFunc(s.pending, func(p pending) bool { return p.m.Client == m.Client }) {
		return // its last question is being looked into
	}
	switch m.Type {
	case dhcpv4.MessageTypeDiscover:
		if s.closed || !s.stranger(now, m.Client, from) {
			return
		}
		a, ok := s.choose(now, m.Client, m.Wanted)
		if !ok {
			return
		}
		if c := s.clients[m.Client]; c != nil && c.addr == a && now.Before(c.until) {
			s.answer(m, from, dhcpv4.MessageTypeOffer, a, Length)
			return
		}
		s.question(now, m, from, a, 1)
	case dhcpv4.MessageTypeRequest:
		s.request(now, m, from)
	case dhcpv4.MessageTypeDecline:
		if c := s.clients[m.Client]; c != nil && m.Server == s.self.Addr() && m.Wanted == c.addr && now.Before(c.until) {
			s.block(now, c.addr)
		}
	case dhcpv4.MessageTypeRelease:
		if c := s.clients[m.Client]; c != nil && m.Server == s.self.Addr() && ip(m.ClientIPAddr) == c.addr && c.until.After(now) {
			c.until = now // remembered, but free
		}
	case dhcpv4.MessageTypeInform:
		if a := ip(m.ClientIPAddr); !s.closed && inside(s.self, a) {
			s.answer(m, from, dhcpv4.MessageTypeAck, netip.IPv4Unspecified(), 0)
		}
	}
}

// request answers a REQUEST in the four states a client can be in. https://www.rfc-editor.org/rfc/rfc2131#section-4.3.2
func (s *Server) request(now time.Time, m *Message, from MAC) {
	a, has := ip(m.ClientIPAddr), true
	if a.IsUnspecified() {
		a, has = m.Wanted, false
	}
	c := s.clients[m.Client]
	switch {
	case m.Server.IsValid() && m.Server != s.self.Addr():
		if !has {
			s.foreign = m.Server
			if c != nil && !c.kept {
				s.forget(m.Client)
			}
		}
	case s.closed:
		if has && inside(s.self, a) || c != nil {
			s.forget(m.Client)
			s.refuse(m)
		}
	case !a.IsValid():
	case c != nil && c.addr == a && now.Before(c.until):
		s.grant(now, m, from, a)
	case !s.free(now, a, m.Client):
		s.refuse(m) // of another network, or another's
	case !s.stranger(now, m.Client, from):
	case has:
		s.grant(now, m, from, a) // it lives there already; we have been restarted
	default:
		s.question(now, m, from, a, askAgain)
	}
}

func (s *Server) grant(now time.Time, m *Message, from MAC, a netip.Addr) {
	length := trialLength
	if c := s.clients[m.Client]; c != nil && c.kept && c.addr == a {
		length = Length
	}
	s.hold(m.Client, a, from, now.Add(length)).kept = true
	s.answer(m, from, dhcpv4.MessageTypeAck, a, length)
}

// refuse sends a NAK: to all, as the client may not have the address it speaks from.
func (s *Server) refuse(m *Message) {
	d := message(dhcpv4.OpcodeBootReply, m.TransactionID, m.Client, dhcpv4.OptMessageType(dhcpv4.MessageTypeNak),
		dhcpv4.OptServerIdentifier(s.self.Addr().AsSlice()))
	d.SetBroadcast()
	s.send(m, d, everyone, address(0xffffffff))
}

func (s *Server) answer(m *Message, from MAC, t dhcpv4.MessageType, a netip.Addr, length time.Duration) {
	self := s.self.Addr().AsSlice()
	d := message(dhcpv4.OpcodeBootReply, m.TransactionID, m.Client, dhcpv4.OptMessageType(t), dhcpv4.OptServerIdentifier(self),
		dhcpv4.OptSubnetMask(mask(s.self)))
	d.Flags, d.YourIPAddr, d.ClientIPAddr, d.NumSeconds = m.Flags, a.AsSlice(), m.ClientIPAddr, 0
	if length > 0 {
		d.UpdateOption(dhcpv4.OptIPAddressLeaseTime(length))
	}
	if m.Hallig {
		d.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte(marked(roleBox))))
	} else {
		// A phone believes in a network only if it has a router and a DNS server.
		d.UpdateOption(dhcpv4.OptRouter(self))
		d.UpdateOption(dhcpv4.OptDNS(self))
		if s.Portal != "" {
			d.UpdateOption(dhcpv4.OptGeneric(optionPortal, []byte(s.Portal)))
		}
	}
	to, dst := everyone, address(0xffffffff)
	switch has := ip(m.ClientIPAddr); {
	case !has.IsUnspecified():
		to, dst = from, has
	case !m.IsBroadcast() && from == m.Client:
		to, dst = from, a
	}
	s.send(m, d, to, dst)
}

func (s *Server) send(m *Message, d *dhcpv4.DHCPv4, to MAC, dst netip.Addr) {
	// https://www.rfc-editor.org/rfc/rfc6842#section-3
	if id := m.Options.Get(dhcpv4.OptionClientIdentifier); len(id) > 0 {
		d.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientIdentifier, id))
	}
	s.out = append(s.out, Packet{To: to, Src: s.self.Addr(), Dst: dst, SrcPort: ServerPort, DstPort: ClientPort, Payload: d.ToBytes()})
}

func mask(p netip.Prefix) []byte {
	m := address(^uint32(1<<(32-p.Bits()) - 1)).As4()
	return m[:]
}

// Kept is an address in use, as it outlives a restart of the process.
type Kept struct {
	Client MAC        `json:"client"`
	Addr   netip.Addr `json:"addr"`
}

// Kept lists the addresses in use, by address.
func (s *Server) Kept(now time.Time) []Kept {
	var out []Kept
	for m, c := range s.clients {
		if c.kept && now.Before(c.until) {
			out = append(out, Kept{m, c.addr})
		}
	}
	slices.SortFunc(out, func(a, b Kept) int { return a.Addr.Compare(b.Addr) })
	return out
}

// Restore takes up addresses that were in use before a restart; those of another network are left out.
func (s *Server) Restore(now time.Time, kept []Kept) {
	for _, k := range kept {
		if k.Client.Single() && s.free(now, k.Addr, k.Client) {
			s.hold(k.Client, k.Addr, k.Client, now.Add(Length)).kept = true
		}
	}
}
