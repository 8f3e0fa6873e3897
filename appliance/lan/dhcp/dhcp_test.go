// SPDX-License-Identifier: EUPL-1.2

package dhcp

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var (
	start   = time.Unix(1000, 0)
	boxMAC  = MAC{2, 0, 0, 0, 0, 1}
	phone   = MAC{2, 0, 0, 0, 2, 1}
	self    = netip.MustParsePrefix("10.83.7.1/24")
	selfOpt = dhcpv4.OptServerIdentifier([]byte{10, 83, 7, 1})
)

func random() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func fromWire(t testing.TB, p Packet) *Message {
	t.Helper()
	m, err := Parse(p.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// request makes a client's message as it comes from the wire.
func request(t testing.TB, mac MAC, typ dhcpv4.MessageType, ciaddr string, opts ...dhcpv4.Option) *Message {
	t.Helper()
	d := message(dhcpv4.OpcodeBootRequest, dhcpv4.TransactionID{1, 2, 3, 4}, mac, append(opts, dhcpv4.OptMessageType(typ))...)
	if ciaddr != "" {
		d.ClientIPAddr = netip.MustParseAddr(ciaddr).AsSlice()
	}
	return fromWire(t, Packet{Payload: d.ToBytes()})
}

func wanted(a string) dhcpv4.Option {
	return dhcpv4.OptRequestedIPAddress(netip.MustParseAddr(a).AsSlice())
}

// reply makes a server's message.
func reply(t testing.TB, to *Message, typ dhcpv4.MessageType, yiaddr string, opts ...dhcpv4.Option) *Message {
	t.Helper()
	d := message(dhcpv4.OpcodeBootReply, to.TransactionID, to.Client, append([]dhcpv4.Option{dhcpv4.OptMessageType(typ),
		dhcpv4.OptServerIdentifier([]byte{192, 168, 7, 1}), dhcpv4.OptSubnetMask([]byte{255, 255, 255, 0}), dhcpv4.OptIPAddressLeaseTime(time.Hour)}, opts...)...)
	d.YourIPAddr = netip.MustParseAddr(yiaddr).AsSlice()
	return fromWire(t, Packet{Payload: d.ToBytes()})
}

var routerMAC = MAC{2, 0, 0, 0, 1, 1}

// sent gives the one message that a client has to send.
func sent(t *testing.T, c *Client) (Packet, *Message) {
	t.Helper()
	out, _ := c.Drain()
	if len(out) != 1 {
		t.Fatalf("%d messages", len(out))
	}
	return out[0], fromWire(t, out[0])
}

// TestClientLife is a lease from the first question to its end: asked for, checked, renewed at the server, asked of anyone, lost.
func TestClientLife(t *testing.T) {
	c, now := NewClient(phone, random()), start
	c.Start(now)
	p, m := sent(t, c)
	if m.Type != dhcpv4.MessageTypeDiscover || p.To != Everyone() || p.Src != netip.IPv4Unspecified() || !m.Hallig || m.HostRole {
		t.Fatalf("first: %+v", m)
	}
	c.Take(now, reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50"), routerMAC)
	_, m = sent(t, c)
	if m.Type != dhcpv4.MessageTypeRequest || m.Wanted.String() != "192.168.7.50" || m.Server.String() != "192.168.7.1" {
		t.Fatalf("second: %+v", m)
	}
	c.Take(now, reply(t, m, dhcpv4.MessageTypeAck, "192.168.7.50"), routerMAC)
	if c.Lease() != nil {
		t.Fatal("used before it was checked")
	}
	asked := 0
	for c.Lease() == nil {
		_, asks := c.Drain()
		asked += len(asks)
		now = c.Wake()
		c.Tick(now)
	}
	if asked != checks || now.Sub(start) > time.Second {
		t.Errorf("checked %d times in %s", asked, now.Sub(start))
	}
	got := now
	now = c.Wake()
	if d := now.Sub(got); d < 29*time.Minute || d > 30*time.Minute {
		t.Errorf("renewed after %s", d)
	}
	var unicast, broadcast int
	for c.Lease() != nil {
		c.Tick(now)
		out, _ := c.Drain()
		for _, p := range out {
			if m := fromWire(t, p); m.Type != dhcpv4.MessageTypeRequest || ip(m.ClientIPAddr).String() != "192.168.7.50" || m.Server.IsValid() {
				if c.Lease() != nil {
					t.Fatalf("renewal: %+v", m)
				}
				continue
			}
			if p.Dst.String() == "192.168.7.1" && p.To == routerMAC {
				unicast++
			} else if p.To == Everyone() {
				broadcast++
			}
		}
		now = c.Wake()
	}
	if unicast < 2 || unicast > 10 || broadcast < 2 || broadcast > 10 {
		t.Errorf("%d renewals at the server, %d at anyone", unicast, broadcast)
	}
	if d := now.Sub(got); d > time.Hour+5*time.Second || d < time.Hour-5*time.Second {
		t.Errorf("lost after %s", d)
	}
}

// TestClientRenews: an answer to a renewal keeps the address, from whomever when anyone was asked; a refusal ends it.
func TestClientRenews(t *testing.T) {
	for _, c := range []struct {
		name   string
		wait   time.Duration
		typ    dhcpv4.MessageType
		addr   string
		server dhcpv4.Option
		has    bool
	}{
		{"same server", 31 * time.Minute, dhcpv4.MessageTypeAck, "192.168.7.50", dhcpv4.OptServerIdentifier([]byte{192, 168, 7, 1}), true},
		{"refused", 31 * time.Minute, dhcpv4.MessageTypeNak, "0.0.0.0", dhcpv4.OptServerIdentifier([]byte{192, 168, 7, 1}), false},
		{"refused by another", 31 * time.Minute, dhcpv4.MessageTypeNak, "0.0.0.0", dhcpv4.OptServerIdentifier([]byte{192, 168, 7, 9}), true},
		{"refused by another when anyone is asked", 58 * time.Minute, dhcpv4.MessageTypeNak, "0.0.0.0", dhcpv4.OptServerIdentifier([]byte{192, 168, 7, 9}), false},
		{"another server", 58 * time.Minute, dhcpv4.MessageTypeAck, "192.168.7.50", dhcpv4.OptServerIdentifier([]byte{192, 168, 7, 9}), true},
	} {
		cl, now := tenant(t)
		end := now.Add(c.wait)
		var m *Message
		for at := cl.Wake(); !at.After(end); at = cl.Wake() {
			now = at
			cl.Tick(now)
			_, m = sent(t, cl)
		}
		old := cl.Lease()
		cl.Take(now, reply(t, m, c.typ, c.addr, c.server), routerMAC)
		if (cl.Lease() != nil) != c.has {
			t.Errorf("%s: lease %+v", c.name, cl.Lease())
		}
		if renewed := c.typ == dhcpv4.MessageTypeAck; renewed && !cl.Lease().End().After(old.End()) {
			t.Errorf("%s: the lease is not longer than before", c.name)
		}
	}
}

// tenant gives a client with the address 192.168.7.50 for an hour.
func tenant(t *testing.T) (*Client, time.Time) {
	t.Helper()
	c, now := NewClient(phone, random()), start
	c.Start(now)
	_, m := sent(t, c)
	c.Take(now, reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50"), routerMAC)
	_, m = sent(t, c)
	c.Take(now, reply(t, m, dhcpv4.MessageTypeAck, "192.168.7.50"), routerMAC)
	for c.Lease() == nil {
		now = c.Wake()
		c.Tick(now)
	}
	c.Drain()
	return c, now
}

// TestClientDeclines: an address that answers ARP is not used, and the server is told.
func TestClientDeclines(t *testing.T) {
	c, now := NewClient(phone, random()), start
	c.Start(now)
	_, m := sent(t, c)
	c.Take(now, reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50"), routerMAC)
	_, m = sent(t, c)
	c.Take(now, reply(t, m, dhcpv4.MessageTypeAck, "192.168.7.50"), routerMAC)
	c.Drain()
	c.InUse(now, netip.MustParseAddr("192.168.7.50"), phone) // that is us
	c.InUse(now, netip.MustParseAddr("192.168.7.51"), MAC{2, 9})
	if out, _ := c.Drain(); len(out) != 0 {
		t.Fatal("declined for nothing")
	}
	c.InUse(now, netip.MustParseAddr("192.168.7.50"), MAC{2, 9})
	_, m = sent(t, c)
	if m.Type != dhcpv4.MessageTypeDecline || m.Wanted.String() != "192.168.7.50" || m.Server.String() != "192.168.7.1" || c.Lease() != nil {
		t.Errorf("declined: %+v", m)
	}
	if d := c.Wake().Sub(now); d != afterClash {
		t.Errorf("asks again after %s", d)
	}
}

// TestClientIgnores: what was not asked for, and what no machine can live by.
func TestClientIgnores(t *testing.T) {
	mask := func(b ...byte) dhcpv4.Option { return dhcpv4.OptGeneric(dhcpv4.OptionSubnetMask, b) }
	c := NewClient(phone, random())
	c.Start(start)
	_, m := sent(t, c)
	other := *m
	other.DHCPv4 = message(dhcpv4.OpcodeBootRequest, dhcpv4.TransactionID{9, 9, 9, 9}, phone)
	stranger := *m
	stranger.Client = MAC{2, 9}
	for name, r := range map[string]*Message{
		"another question": reply(t, &other, dhcpv4.MessageTypeOffer, "192.168.7.50"),
		"another client":   reply(t, &stranger, dhcpv4.MessageTypeOffer, "192.168.7.50"),
		"an ACK first":     reply(t, m, dhcpv4.MessageTypeAck, "192.168.7.50"),
		"no address":       reply(t, m, dhcpv4.MessageTypeOffer, "0.0.0.0"),
		"loopback":         reply(t, m, dhcpv4.MessageTypeOffer, "127.0.0.1"),
		"multicast":        reply(t, m, dhcpv4.MessageTypeOffer, "224.0.0.251"),
		"the network":      reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.0"),
		"the broadcast":    reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.255"),
		"mask with holes":  reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50", mask(255, 0, 255, 0)),
		"mask of zeros":    reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50", mask(0, 0, 0, 0)),
		"mask of ones":     reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50", mask(255, 255, 255, 255)),
		"mask too long":    reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50", mask(255, 255, 255, 0, 0)),
		"no time":          reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50", dhcpv4.OptIPAddressLeaseTime(0)),
		"a second":         reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50", dhcpv4.OptIPAddressLeaseTime(time.Second)),
		"no server":        reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50", dhcpv4.OptGeneric(dhcpv4.OptionServerIdentifier, nil)),
		"server 0.0.0.0":   reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50", dhcpv4.OptServerIdentifier([]byte{0, 0, 0, 0})),
	} {
		c.Take(start, r, routerMAC)
		if out, _ := c.Drain(); len(out) != 0 {
			t.Errorf("%s: took it", name)
		}
	}
	// What can be left out is left out.
	l := terms(start, reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50", dhcpv4.OptRouter([]byte{10, 0, 0, 1}), dhcpv4.OptDNS([]byte{0, 0, 0, 0}, []byte{9, 9, 9, 9}),
		dhcpv4.OptRenewTimeValue(2*time.Hour), dhcpv4.OptIPAddressLeaseTime(0xffffffff*time.Second)), routerMAC)
	if l == nil || l.Gateway.IsValid() || len(l.DNS) != 1 || l.Length != longest || l.t1.After(l.t2) {
		t.Errorf("terms: %+v", l)
	}
}

// TestClientPrefersServers: the offer of a box waits a second for one of a real server.
func TestClientPrefersServers(t *testing.T) {
	mark := dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte(marked(roleBox)))
	c := NewClient(phone, random())
	c.Start(start)
	_, m := sent(t, c)
	c.Take(start, reply(t, m, dhcpv4.MessageTypeOffer, "10.83.9.50", dhcpv4.OptServerIdentifier([]byte{10, 83, 9, 1}), mark), MAC{2, 8})
	if out, _ := c.Drain(); len(out) != 0 {
		t.Fatal("took the box at once")
	}
	c.Take(start.Add(500*time.Millisecond), reply(t, m, dhcpv4.MessageTypeOffer, "192.168.7.50"), routerMAC)
	if _, r := sent(t, c); r.Server.String() != "192.168.7.1" {
		t.Errorf("chose %s", r.Server)
	}
}

// TestParse is the wire.
func TestParse(t *testing.T) {
	good := message(dhcpv4.OpcodeBootRequest, dhcpv4.TransactionID{1, 2, 3, 4}, phone, dhcpv4.OptMessageType(dhcpv4.MessageTypeDiscover)).ToBytes()
	if _, err := Parse(good); err != nil {
		t.Fatal(err)
	}
	for n := range 240 {
		if _, err := Parse(good[:n]); err == nil {
			t.Errorf("%d bytes were taken", n)
		}
	}
	change := func(at int, to ...byte) []byte {
		b := append([]byte(nil), good...)
		copy(b[at:], to)
		return b
	}
	for name, b := range map[string][]byte{
		"operation 3": change(0, 3), "not Ethernet": change(1, 6), "short address": change(2, 5), "from a relay": change(24, 10, 0, 0, 1),
		"client is a group": change(28, 3), "client is nobody": change(28, 0, 0, 0, 0, 0, 0), "no cookie": change(236, 0),
		"too long": make([]byte, 1501),
	} {
		if _, err := Parse(b); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// FuzzParse: what can be read neither breaks a client nor a server, and a server answers within its network only.
func FuzzParse(f *testing.F) {
	for _, m := range []*Message{
		request(f, phone, dhcpv4.MessageTypeDiscover, ""), request(f, phone, dhcpv4.MessageTypeRequest, "", selfOpt, wanted("10.83.7.50")),
		request(f, phone, dhcpv4.MessageTypeRequest, "10.83.7.50"), request(f, phone, dhcpv4.MessageTypeRelease, "10.83.7.50", selfOpt),
		request(f, phone, dhcpv4.MessageTypeDecline, "", selfOpt, wanted("10.83.7.50")), request(f, phone, dhcpv4.MessageTypeInform, "10.83.7.60"),
		reply(f, request(f, phone, dhcpv4.MessageTypeDiscover, ""), dhcpv4.MessageTypeOffer, "192.168.7.50"),
		reply(f, request(f, phone, dhcpv4.MessageTypeDiscover, ""), dhcpv4.MessageTypeAck, "192.168.7.50"),
	} {
		f.Add(m.ToBytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		s := NewServer(start, self, boxMAC)
		s.Take(start, m, m.Client)
		s.Tick(start.Add(time.Second))
		s.Take(start.Add(2*time.Second), m, m.Client)
		out, _ := s.Drain()
		for _, p := range out {
			a := fromWire(t, p)
			if got := ip(a.YourIPAddr); !got.IsUnspecified() && (!inside(self, got) || got == self.Addr()) {
				t.Fatalf("gave %s", got)
			}
			if len(p.Payload) > maxMessage {
				t.Fatalf("an answer of %d bytes", len(p.Payload))
			}
		}
		c := NewClient(m.Client, random())
		c.Start(start)
		c.xid = m.TransactionID
		c.Take(start, m, routerMAC)
		for range 5 {
			c.Take(start, m, routerMAC)
			c.Tick(c.Wake())
		}
		if l := c.Lease(); l != nil && (!inside(l.Addr, l.Addr.Addr()) || l.Gateway.IsValid() && !inside(l.Addr, l.Gateway)) {
			t.Fatalf("lives by %+v", l)
		}
	})
}
