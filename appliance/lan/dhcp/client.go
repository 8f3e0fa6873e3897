// SPDX-License-Identifier: EUPL-1.2

package dhcp

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Lease is an address that a server gave, and what it said with it.
type Lease struct {
	Addr    netip.Prefix
	Server  netip.Addr
	Next    MAC // where the server's answer came from: the server, or the router on the way to it
	Gateway netip.Addr
	DNS     []netip.Addr
	NTP     []netip.Addr
	Hallig  bool
	Length  time.Duration

	t1, t2, end time.Time
}

// End says when the lease is over.
func (l *Lease) End() time.Time { return l.end }

type phase uint8

const (
	idle       phase = iota
	selecting        // asking for offers
	requesting       // asking for the chosen one
	checking         // asking by ARP whether somebody else has it
	bound
	renewing  // asking the server again
	rebinding // asking anyone again
)

// Times of a Client.
const (
	patience   = time.Second // a box's offer waits so long for one of a real server
	checkEvery = 250 * time.Millisecond
	checks     = 3
	afterClash = 10 * time.Second // RFC 2131 section 3.1: wait before asking again after a DECLINE
	longest    = 30 * 24 * time.Hour
	shortest   = 30 * time.Second
)

// pauses are the times between the first DISCOVERs: four within ten seconds, then ever rarer.
var pauses = [...]time.Duration{2 * time.Second, 3 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, 64 * time.Second}

// Client keeps an address from the network's server. It is not safe for concurrent use.
type Client struct {
	Hostname string // told to the server; "": none

	mac   MAC
	rnd   *rand.Rand
	phase phase
	xid   dhcpv4.TransactionID
	began time.Time
	try   int
	wake  time.Time
	last  netip.Addr // the address it had, asked for again
	offer *Lease     // of the chosen offer; in checking what the server has granted
	lease *Lease

	out  []Packet
	asks []netip.Addr
}

// NewClient makes a client that does nothing until Start.
func NewClient(mac MAC, rnd *rand.Rand) *Client { return &Client{mac: mac, rnd: rnd} }

// Start asks for an address anew; a lease that it has is given up only when the next one is there, or is over.
func (c *Client) Start(now time.Time) { c.discover(now, now) }

// Stop forgets the lease, without a word.
func (c *Client) Stop() {
	c.phase, c.lease, c.offer, c.wake = idle, nil, nil, time.Time{}
}

// Lease gives what the client has now, or nil. The value does not change.
func (c *Client) Lease() *Lease { return c.lease }

// Busy says whether a server has offered an address and the rest is under way.
func (c *Client) Busy() bool { return c.phase == requesting || c.phase == checking }

// Wake says when Tick is due; zero: never.
func (c *Client) Wake() time.Time {
	if c.lease != nil && (c.wake.IsZero() || c.lease.end.Before(c.wake)) {
		return c.lease.end
	}
	return c.wake
}

// Drain gives what there is to send, and the addresses to ask for by ARP.
func (c *Client) Drain() (out []Packet, asks []netip.Addr) {
	out, asks = c.out, c.asks
	c.out, c.asks = nil, nil
	return out, asks
}

func (c *Client) discover(now, at time.Time) {
	c.phase, c.offer, c.try, c.began, c.wake = selecting, nil, 0, now, at
	c.newXID()
	c.Tick(now)
}

func (c *Client) newXID() {
	x := c.rnd.Uint32()
	c.xid = dhcpv4.TransactionID{byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)}
}

// Tick does what is due.
func (c *Client) Tick(now time.Time) {
	if c.lease != nil && !now.Before(c.lease.end) {
		c.lease = nil
		if c.phase >= bound {
			c.discover(now, now)
			return
		}
	}
	if c.phase == idle || c.wake.After(now) {
		return
	}
	switch c.phase {
	case selecting:
		if c.offer != nil { // a box's, and no other came
			c.request(now)
			return
		}
		c.broadcast(c.ask(dhcpv4.MessageTypeDiscover, now))
		pause := pauses[min(c.try, len(pauses)-1)]
		if c.try >= 3 { // RFC 2131 section 4.1: spread by a second, so that a school of boxes does not ask in step
			pause += time.Duration(c.rnd.Int64N(int64(2*time.Second))) - time.Second
		}
		c.try++
		c.wake = now.Add(pause)
	case requesting:
		if c.try == 4 {
			c.discover(now, now)
			return
		}
		c.broadcast(c.ask(dhcpv4.MessageTypeRequest, now,
			dhcpv4.OptServerIdentifier(c.offer.Server.AsSlice()), dhcpv4.OptRequestedIPAddress(c.offer.Addr.Addr().AsSlice())))
		c.try++
		c.wake = now.Add(2 * time.Second)
	case checking:
		if c.try < checks {
			c.asks = append(c.asks, c.offer.Addr.Addr())
			c.try++
			c.wake = now.Add(checkEvery)
			return
		}
		c.keep(c.offer)
	case bound:
		c.phase, c.began = renewing, now
		c.newXID()
		c.renew(now)
	case renewing:
		if !now.Before(c.lease.t2) {
			c.phase = rebinding
		}
		c.renew(now)
	case rebinding:
		c.renew(now)
	}
}

// renew asks for more time: the server itself until T2, then anyone. https://www.rfc-editor.org/rfc/rfc2131#section-4.4.5
func (c *Client) renew(now time.Time) {
	m := c.ask(dhcpv4.MessageTypeRequest, now)
	m.ClientIPAddr = c.lease.Addr.Addr().AsSlice()
	until := c.lease.end
	if c.phase == renewing {
		until = c.lease.t2
		c.out = append(c.out, Packet{To: c.lease.Next, Src: c.lease.Addr.Addr(), Dst: c.lease.Server,
			SrcPort: ClientPort, DstPort: ServerPort, Payload: m.ToBytes()})
	} else {
		c.out = append(c.out, Packet{To: everyone, Src: c.lease.Addr.Addr(), Dst: address(0xffffffff),
			SrcPort: ClientPort, DstPort: ServerPort, Payload: m.ToBytes()})
	}
	c.wake = now.Add(max(until.Sub(now)/2, min(time.Minute, until.Sub(now))))
	if c.wake.After(until) || !c.wake.After(now) {
		c.wake = until
	}
}

func (c *Client) keep(l *Lease) {
	c.lease, c.offer, c.phase, c.wake, c.last = l, nil, bound, l.t1, l.Addr.Addr()
}

// request asks for the chosen offer.
func (c *Client) request(now time.Time) {
	c.phase, c.try, c.wake = requesting, 0, now
	c.Tick(now)
}

// Take takes an answer of a server; from is the Ethernet address it came from. What was not asked for is ignored.
func (c *Client) Take(now time.Time, m *Message, from MAC) {
	if c.phase == idle || m.OpCode != dhcpv4.OpcodeBootReply || m.Client != c.mac || m.TransactionID != c.xid {
		return
	}
	switch {
	case m.Type == dhcpv4.MessageTypeOffer && c.phase == selecting:
		l := terms(now, m, from)
		if l == nil || c.offer != nil && l.Hallig {
			return
		}
		c.offer = l
		if c.wake = now.Add(patience); !l.Hallig {
			c.request(now)
		}
	case m.Type == dhcpv4.MessageTypeAck && c.phase == requesting:
		l := terms(now, m, from)
		if l == nil || l.Addr.Addr() != c.offer.Addr.Addr() || l.Server != c.offer.Server {
			return
		}
		if c.lease != nil && c.lease.Addr == l.Addr { // it was ours all the time
			c.keep(l)
			return
		}
		c.offer, c.phase, c.try, c.wake = l, checking, 0, now
		c.Tick(now)
	case m.Type == dhcpv4.MessageTypeAck && (c.phase == renewing || c.phase == rebinding):
		l := terms(now, m, from)
		if l == nil || l.Addr.Addr() != c.lease.Addr.Addr() || c.phase == renewing && l.Server != c.lease.Server {
			return
		}
		c.keep(l)
	case m.Type == dhcpv4.MessageTypeNak:
		switch c.phase {
		case requesting:
			if m.Server == c.offer.Server {
				c.last = netip.Addr{}
				c.discover(now, now.Add(time.Second)) // a server that offers and refuses in turn is not asked without end
			}
		case renewing, rebinding:
			if c.phase == rebinding || m.Server == c.lease.Server {
				c.lease, c.last = nil, netip.Addr{}
				c.discover(now, now)
			}
		}
	}
}

// InUse is told who has an address, as ARP says. A granted address that somebody else has is declined.
func (c *Client) InUse(now time.Time, a netip.Addr, mac MAC) {
	if c.phase != checking || a != c.offer.Addr.Addr() || mac == c.mac {
		return
	}
	m := c.ask(dhcpv4.MessageTypeDecline, now, dhcpv4.OptServerIdentifier(c.offer.Server.AsSlice()), dhcpv4.OptRequestedIPAddress(a.AsSlice()))
	c.broadcast(m)
	c.last = netip.Addr{}
	c.discover(now, now.Add(afterClash))
}

// Probe is a DISCOVER that only looks for servers; host says that the box is host here itself. Its answers are read by Offer and lead to
// nothing. A client that probes does nothing else.
func (c *Client) Probe(now time.Time, host bool) Packet {
	c.newXID()
	c.phase, c.began = idle, now
	m := c.ask(dhcpv4.MessageTypeDiscover, now)
	if host {
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte(marked(roleHost))))
	}
	return toAll(m)
}

// Offer says whether a message is an acceptable answer to the last Probe.
func (c *Client) Offer(now time.Time, m *Message, from MAC) *Lease {
	if m.OpCode != dhcpv4.OpcodeBootReply || m.Type != dhcpv4.MessageTypeOffer || m.Client != c.mac || m.TransactionID != c.xid {
		return nil
	}
	return terms(now, m, from)
}

func (c *Client) ask(t dhcpv4.MessageType, now time.Time, opts ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	m := message(dhcpv4.OpcodeBootRequest, c.xid, c.mac, append(opts, dhcpv4.OptMessageType(t), dhcpv4.OptClassIdentifier(vendor))...)
	m.NumSeconds = secs(now.Sub(c.began))
	if t == dhcpv4.MessageTypeDecline {
		return m
	}
	m.UpdateOption(dhcpv4.OptParameterRequestList(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
		dhcpv4.OptionNTPServers, dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue,
		dhcpv4.OptionVendorSpecificInformation))
	m.UpdateOption(dhcpv4.OptMaxMessageSize(maxMessage - 28))
	if c.Hostname != "" {
		m.UpdateOption(dhcpv4.OptHostName(c.Hostname))
	}
	if t == dhcpv4.MessageTypeDiscover && c.last.IsValid() {
		m.UpdateOption(dhcpv4.OptRequestedIPAddress(c.last.AsSlice()))
	}
	return m
}

func (c *Client) broadcast(m *dhcpv4.DHCPv4) { c.out = append(c.out, toAll(m)) }

func toAll(m *dhcpv4.DHCPv4) Packet {
	return Packet{To: everyone, Src: netip.IPv4Unspecified(), Dst: address(0xffffffff), SrcPort: ClientPort, DstPort: ServerPort, Payload: m.ToBytes()}
}

// terms reads what an OFFER or ACK grants; nil if no machine could live by it.
func terms(now time.Time, m *Message, from MAC) *Lease {
	a := ip(m.YourIPAddr)
	bits, size := m.SubnetMask().Size()
	if size == 0 { // RFC 950 knew classes; a server that sends no mask means them
		switch b := a.As4()[0]; {
		case b < 128:
			bits = 8
		case b < 192:
			bits = 16
		default:
			bits = 24
		}
		if len(m.Options.Get(dhcpv4.OptionSubnetMask)) > 0 {
			return nil
		}
	}
	p := netip.PrefixFrom(a, bits)
	length := min(m.IPAddressLeaseTime(0), longest)
	if bits < 8 || bits > 30 || !inside(p, a) || !m.Server.IsValid() || !machine(m.Server) || length < shortest || !from.Single() {
		return nil
	}
	l := &Lease{Addr: p, Server: m.Server, Next: from, Hallig: m.Hallig, Length: length,
		DNS: list(m.DHCPv4, dhcpv4.OptionDomainNameServer, 3), NTP: list(m.DHCPv4, dhcpv4.OptionNTPServers, 4)}
	if gw := list(m.DHCPv4, dhcpv4.OptionRouter, 1); len(gw) == 1 && inside(p, gw[0]) && gw[0] != a && !m.Hallig {
		l.Gateway = gw[0]
	}
	t1, t2 := m.IPAddressRenewalTime(0), m.IPAddressRebindingTime(0)
	if t1 < shortest/2 || t2 <= t1 || t2 >= length {
		t1, t2 = length/2, length*7/8
	}
	l.t1, l.t2, l.end = now.Add(t1), now.Add(t2), now.Add(length)
	return l
}
