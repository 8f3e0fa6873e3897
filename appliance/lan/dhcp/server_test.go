// SPDX-License-Identifier: EUPL-1.2

package dhcp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// office is a Server under a clock moved by hand.
type office struct {
	*Server
	t   *testing.T
	now time.Time
}

func open(t *testing.T) *office { return &office{NewServer(start, self, boxMAC), t, start} }

// hand hands in a message and gives the answer; what is to be checked by ARP is free.
func (o *office) hand(m *Message, from MAC) *Message {
	o.t.Helper()
	o.Take(o.now, m, from)
	o.now = o.now.Add(askTime)
	o.Tick(o.now)
	out, _ := o.Drain()
	var answer *Message
	for _, p := range out {
		a := fromWire(o.t, p)
		if a.OpCode != dhcpv4.OpcodeBootReply || a.Server != self.Addr() {
			o.t.Fatalf("answers %+v", a)
		}
		if a.Client == m.Client {
			if answer != nil {
				o.t.Fatal("two answers")
			}
			answer = a
		}
	}
	return answer
}

// lease lets a client in; nil: it was not.
func (o *office) lease(mac MAC) *Message {
	o.t.Helper()
	offer := o.hand(request(o.t, mac, dhcpv4.MessageTypeDiscover, ""), mac)
	if offer == nil {
		return nil
	}
	return o.hand(request(o.t, mac, dhcpv4.MessageTypeRequest, "", selfOpt, wanted(ip(offer.YourIPAddr).String())), mac)
}

// TestGiving: what a phone gets, and for how long.
func TestGiving(t *testing.T) {
	o := open(t)
	o.Portal = "https://box1.feuerwehr.example/portal"
	a := o.lease(phone)
	addr := ip(a.YourIPAddr)
	if a.Type != dhcpv4.MessageTypeAck || !inside(self, addr) || a.IPAddressLeaseTime(0) != trialLength || len(a.Router()) != 1 || len(a.DNS()) != 1 ||
		string(a.Options.Get(optionPortal)) != o.Portal {
		t.Fatalf("ACK: %s", a.Summary())
	}
	renew := o.hand(request(t, phone, dhcpv4.MessageTypeRequest, addr.String()), phone)
	if renew.Type != dhcpv4.MessageTypeAck || ip(renew.YourIPAddr) != addr || renew.IPAddressLeaseTime(0) != Length {
		t.Errorf("renewal: %s", renew.Summary())
	}
	if o.Clients(o.now) != 1 || o.Capacity() != 241 {
		t.Errorf("%d of %d", o.Clients(o.now), o.Capacity())
	}
	o.now = o.now.Add(Length + time.Second)
	if o.Clients(o.now) != 0 {
		t.Error("a lease does not end")
	}
	if again := o.lease(phone); ip(again.YourIPAddr) != addr {
		t.Errorf("comes back and gets %s, had %s", ip(again.YourIPAddr), addr)
	}
	// A box is told that it is one, and gets no way out of us.
	b := o.hand(request(t, MAC{2, 0, 0, 0, 0, 9}, dhcpv4.MessageTypeDiscover, "", dhcpv4.OptClassIdentifier(vendor)), MAC{2, 0, 0, 0, 0, 9})
	if !b.Hallig || len(b.Router()) != 0 || len(b.DNS()) != 0 {
		t.Errorf("to a box: %s", b.Summary())
	}
}

// TestRefusals: who may not have what he asks for hears it at once, so that he asks anew.
func TestRefusals(t *testing.T) {
	nak, ack, nothing := dhcpv4.MessageTypeNak, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNone
	other := MAC{2, 0, 0, 0, 2, 2}
	for _, c := range []struct {
		name string
		m    func(addr string) *Message
		want dhcpv4.MessageType
	}{
		{"another network", func(string) *Message { return request(t, other, dhcpv4.MessageTypeRequest, "", wanted("192.168.1.5")) }, nak},
		{"lives in another network", func(string) *Message { return request(t, other, dhcpv4.MessageTypeRequest, "192.168.1.5") }, nak},
		{"another's", func(a string) *Message { return request(t, other, dhcpv4.MessageTypeRequest, "", wanted(a)) }, nak},
		{"lives in another's", func(a string) *Message { return request(t, other, dhcpv4.MessageTypeRequest, a) }, nak},
		{"the box's own", func(string) *Message { return request(t, other, dhcpv4.MessageTypeRequest, "10.83.7.1") }, nak},
		{"outside the pool", func(string) *Message { return request(t, other, dhcpv4.MessageTypeRequest, "", wanted("10.83.7.2")) }, nak},
		{"free, after our restart", func(string) *Message { return request(t, other, dhcpv4.MessageTypeRequest, "10.83.7.77") }, ack},
		{"free, asked for", func(string) *Message { return request(t, other, dhcpv4.MessageTypeRequest, "", wanted("10.83.7.77")) }, ack},
		{"of another server", func(string) *Message {
			return request(t, other, dhcpv4.MessageTypeRequest, "", wanted("10.83.7.77"), dhcpv4.OptServerIdentifier([]byte{10, 9, 9, 9}))
		}, nothing},
		{"nothing at all", func(string) *Message { return request(t, other, dhcpv4.MessageTypeRequest, "") }, nothing},
		{"the box itself", func(string) *Message { return request(t, boxMAC, dhcpv4.MessageTypeDiscover, "") }, nothing},
		{"information", func(string) *Message { return request(t, other, dhcpv4.MessageTypeInform, "10.83.7.5") }, ack},
		{"information of another network", func(string) *Message { return request(t, other, dhcpv4.MessageTypeInform, "10.9.9.9") }, nothing},
	} {
		o := open(t)
		addr := ip(o.lease(phone).YourIPAddr).String()
		got := nothing
		m := c.m(addr)
		if a := o.hand(m, m.Client); a != nil {
			got = a.Type
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if back := o.hand(request(t, phone, dhcpv4.MessageTypeRequest, addr), phone); back == nil || back.Type != ack {
			t.Errorf("%s: the phone lost its address", c.name)
		}
	}
	o := open(t)
	o.hand(request(t, other, dhcpv4.MessageTypeRequest, "", wanted("10.83.7.77"), dhcpv4.OptServerIdentifier([]byte{10, 9, 9, 9})), other)
	if a := o.Foreign(); a.String() != "10.9.9.9" || o.Foreign().IsValid() {
		t.Errorf("another server was chosen, and we know %s", a)
	}
}

// TestClosed: who comes back for time is sent away, new ones are not heard.
func TestClosed(t *testing.T) {
	o := open(t)
	addr := ip(o.lease(phone).YourIPAddr).String()
	o.Close()
	if last := o.Last(o.now); !last.After(o.now) || last.Sub(o.now) > Length {
		t.Errorf("the last lease ends %s", last)
	}
	if a := o.hand(request(t, MAC{2, 7}, dhcpv4.MessageTypeDiscover, ""), MAC{2, 7}); a != nil {
		t.Error("still gives")
	}
	if a := o.hand(request(t, phone, dhcpv4.MessageTypeRequest, addr), phone); a == nil || a.Type != dhcpv4.MessageTypeNak {
		t.Error("the phone is not sent away")
	}
	if !o.Last(o.now).Equal(o.now) {
		t.Error("still waits for the phone that was sent away")
	}
}

// TestAddressInUse: an address that somebody has without having asked is not given.
func TestAddressInUse(t *testing.T) {
	o := open(t)
	o.Take(o.now, request(t, phone, dhcpv4.MessageTypeDiscover, "", wanted("10.83.7.77")), phone)
	_, asks := o.Drain()
	if len(asks) != 1 || asks[0].String() != "10.83.7.77" {
		t.Fatalf("asks for %v", asks)
	}
	o.InUse(o.now, asks[0], phone) // the phone itself
	o.InUse(o.now, asks[0], MAC{2, 9})
	_, asks = o.Drain()
	if len(asks) != 1 || asks[0].String() == "10.83.7.77" {
		t.Fatalf("then asks for %v", asks)
	}
	o.now = o.now.Add(askTime)
	o.Tick(o.now)
	out, _ := o.Drain()
	if a := fromWire(t, out[0]); ip(a.YourIPAddr) != asks[0] {
		t.Errorf("offers %s", ip(a.YourIPAddr))
	}
}

// TestFlood: a machine that invents clients does not take addresses from those who have one, and when it stops there are addresses again within
// minutes; all the while nothing grows.
func TestFlood(t *testing.T) {
	o := open(t)
	addr := ip(o.lease(phone).YourIPAddr).String()
	refused := 0
	for i := range 20_000 {
		mac := MAC{2, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
		o.Take(o.now, request(t, mac, dhcpv4.MessageTypeDiscover, ""), mac)
		if i%4 == 0 {
			o.now = o.now.Add(100 * time.Millisecond)
		}
		o.Tick(o.now)
		out, _ := o.Drain()
		for _, p := range out {
			m := fromWire(t, p)
			if m.Type == dhcpv4.MessageTypeOffer {
				o.Take(o.now, request(t, m.Client, dhcpv4.MessageTypeRequest, "", selfOpt, wanted(ip(m.YourIPAddr).String())), m.Client)
			}
		}
		if i%1000 == 999 {
			if a := o.hand(request(t, phone, dhcpv4.MessageTypeRequest, addr), phone); a == nil || a.Type != dhcpv4.MessageTypeAck || ip(a.YourIPAddr).String() != addr {
				refused++
			}
		}
	}
	if refused > 0 {
		t.Errorf("the phone was refused %d times", refused)
	}
	if len(o.clients) > 241 || len(o.owner) > 241 || len(o.blocked) > 121 || len(o.pending) > maxPending {
		t.Errorf("grew to %d clients, %d owners, %d blocked, %d pending", len(o.clients), len(o.owner), len(o.blocked), len(o.pending))
	}
	if n := o.Clients(o.now); n >= o.Capacity() {
		t.Errorf("all %d addresses are gone", n)
	}
	o.now = o.now.Add(trialLength)
	for i := range byte(60) {
		if a := o.lease(MAC{2, 0, 0, 0, 3, i}); a == nil || a.Type != dhcpv4.MessageTypeAck {
			t.Fatalf("phone %d after the flood: %v", i, a)
		}
	}
}

// TestHostileNeighbours: what one machine can say in the name of others, or of too many.
func TestHostileNeighbours(t *testing.T) {
	o := open(t)
	addr := ip(o.lease(phone).YourIPAddr)
	evil := MAC{2, 6, 6, 6, 6, 6}
	// A stranger's RELEASE and DECLINE count for nothing.
	o.hand(request(t, evil, dhcpv4.MessageTypeRelease, addr.String(), selfOpt), evil)
	o.hand(request(t, evil, dhcpv4.MessageTypeDecline, "", selfOpt, wanted(addr.String())), evil)
	if o.Clients(o.now) != 1 || len(o.blocked) != 0 {
		t.Error("a stranger gave the phone's address away")
	}
	// Declining all one is offered uses up addresses only up to half, and for a while.
	for i := range 1000 {
		mac := MAC{2, 5, 0, 0, byte(i >> 8), byte(i)}
		o.now = o.now.Add(time.Second)
		if a := o.lease(mac); a != nil {
			o.hand(request(t, mac, dhcpv4.MessageTypeDecline, "", selfOpt, wanted(ip(a.YourIPAddr).String())), mac)
		}
	}
	if len(o.blocked) > int(o.n/2) {
		t.Errorf("%d addresses blocked", len(o.blocked))
	}
	if a := o.lease(MAC{2, 0, 0, 0, 3, 1}); a == nil {
		t.Error("no address left for a phone")
	}
	// One Ethernet address stands for so many clients only.
	o = open(t)
	got := 0
	for i := range 200 {
		o.now = o.now.Add(time.Second / 2)
		m := request(t, MAC{2, 4, 0, 0, byte(i >> 8), byte(i)}, dhcpv4.MessageTypeDiscover, "")
		if a := o.hand(m, evil); a != nil {
			o.hand(request(t, m.Client, dhcpv4.MessageTypeRequest, "", selfOpt, wanted(ip(a.YourIPAddr).String())), evil)
			got++
		}
	}
	if n := o.Clients(o.now); n > perNeighbor {
		t.Errorf("%d clients behind one address (%d let in)", n, got)
	}
	// Who is nobody gets nothing.
	if a := o.hand(request(t, phone, dhcpv4.MessageTypeDiscover, ""), Everyone()); a != nil {
		t.Error("answered the broadcast address")
	}
}

// TestSmallNetworks: the smallest networks that may be configured have addresses too.
func TestSmallNetworks(t *testing.T) {
	for text, want := range map[string]int{"192.168.7.1/30": 1, "192.168.7.2/30": 1, "192.168.7.1/29": 5, "192.168.7.1/26": 49, "192.168.7.1/24": 241, "172.16.0.1/16": maxPool, "192.168.7.50/24": 240} {
		s := NewServer(start, netip.MustParsePrefix(text), boxMAC)
		n := 0
		for i := range 2000 {
			mac := MAC{2, 3, 0, 0, byte(i >> 8), byte(i)}
			if a, ok := s.choose(start, mac, netip.Addr{}); ok {
				if !inside(s.self, a) || a == s.self.Addr() {
					t.Fatalf("%s gives %s", text, a)
				}
				s.hold(mac, a, mac, start.Add(time.Hour))
				n++
			}
		}
		if n != want || s.Capacity() != want {
			t.Errorf("%s has %d addresses (says %d), want %d", text, n, s.Capacity(), want)
		}
	}
}
