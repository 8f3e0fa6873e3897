// SPDX-License-Identifier: EUPL-1.2

package nic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hallig/appliance/lan"
	"hallig/appliance/lan/dhcp"
	"hallig/appliance/lan/mdns"
)

// hub carries frames between the boxes and the machines that live in the test.
type hub struct {
	mu       sync.Mutex
	plugs    []*plug
	machines []machine
	frames   []frame // that boxes have sent
	readers  sync.WaitGroup
}

// frame is an Ethernet frame.
type frame struct {
	to, from dhcp.MAC
	proto    uint16
	body     []byte
}

func (f frame) bytes() []byte {
	b := append(append([]byte(nil), f.to[:]...), f.from[:]...)
	return append(binary.BigEndian.AppendUint16(b, f.proto), f.body...)
}

// machine is something in the test that is plugged into the hub; the hub's lock is held.
type machine interface {
	take(now time.Time, f frame)
	tick(now time.Time) []frame
}

func newHub(t *testing.T) *hub {
	h := &hub{}
	done := make(chan struct{})
	h.readers.Go(func() {
		for {
			select {
			case <-done:
				return
			case now := <-time.After(20 * time.Millisecond):
				h.mu.Lock()
				h.turn(now)
				h.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() {
		close(done)
		for _, p := range h.plugs {
			p.file.Close()
		}
		h.readers.Wait()
	})
	return h
}

func (h *hub) turn(now time.Time) {
	for _, m := range h.machines {
		for _, f := range m.tick(now) {
			h.carry(now, f, nil, m)
		}
	}
}

// carry brings a frame to all but its sender.
func (h *hub) carry(now time.Time, f frame, from *plug, sender machine) {
	for _, p := range h.plugs {
		if p != from {
			p.write(f)
		}
	}
	for _, m := range h.machines {
		if m != sender {
			m.take(now, f)
		}
	}
}

func (h *hub) remove(m machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.machines = slices.DeleteFunc(h.machines, func(o machine) bool { return o == m })
}

func (h *hub) add(m machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.machines = append(h.machines, m)
}

// until waits for something that is looked at under the hub's lock.
func (h *hub) until(t *testing.T, what string, in time.Duration, ok func() bool, got func() any) {
	t.Helper()
	for end := time.Now().Add(in); ; time.Sleep(20 * time.Millisecond) {
		h.mu.Lock()
		done := ok()
		h.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(end) {
			if got != nil {
				t.Fatalf("%s did not come to be in %s: %+v", what, in, got())
			}
			t.Fatalf("%s did not come to be in %s", what, in)
		}
	}
}

// plug is the hub's end of a cable to a box.
type plug struct {
	link netlink.Link
	file *os.File
}

// cable plugs an interface of a box into the hub.
func (h *hub) cable(b *box, eth string, mac dhcp.MAC) *plug {
	t := b.t
	t.Helper()
	name := fmt.Sprintf("hub%d", mac[5])
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: eth, PeerHardwareAddr: net.HardwareAddr(mac[:]), PeerNamespace: netlink.NsPid(b.cmd.Process.Pid)}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatalf("%s: %v", noRights, err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatalf("%s: %v", noRights, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network(unix.ETH_P_ALL), Ifindex: link.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	p := &plug{link, os.NewFile(uintptr(fd), name)}
	// The hub's own end says nothing by itself.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644); err != nil {
		t.Logf("the hub may speak IPv6: %v", err)
	}
	h.mu.Lock()
	h.plugs = append(h.plugs, p)
	h.mu.Unlock()
	h.readers.Go(func() { h.read(p) })
	p.carrier(t, true)
	return p
}

func (p *plug) carrier(t *testing.T, up bool) {
	t.Helper()
	set := netlink.LinkSetDown
	if up {
		set = netlink.LinkSetUp
	}
	if err := set(p.link); err != nil {
		t.Fatal(err)
	}
}

func (p *plug) write(f frame) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.Sendto(int(fd), f.bytes(), unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Ifindex: p.link.Attrs().Index})
	})
}

func (h *hub) read(p *plug) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 2048)
	for {
		var n int
		var from unix.Sockaddr
		var rerr error
		if raw.Read(func(fd uintptr) bool {
			n, from, rerr = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(rerr, unix.EAGAIN)
		}) != nil {
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if rerr != nil || !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < 14 {
			continue
		}
		f := frame{dhcp.MAC(buf[:6]), dhcp.MAC(buf[6:12]), binary.BigEndian.Uint16(buf[12:]), append([]byte(nil), buf[14:n]...)}
		if _, err := parseDatagram(f.body); f.proto == unix.ETH_P_IP && err == nil {
			// A virtual cable carries UDP without a checksum in it, which is no cable's way; zero says that there is none.
			hl := int(f.body[0]&0xf) * 4
			f.body[hl+6], f.body[hl+7] = 0, 0
		}
		h.mu.Lock()
		h.frames = append(h.frames, f)
		h.carry(time.Now(), f, p, nil)
		h.mu.Unlock()
	}
}

// onlyManners looks at every frame the boxes have sent: DHCP, ARP, mDNS, and what the kernel says of IPv6. Answers to questions (DNS) are none of
// these; a test that asks gives them.
func (h *hub) onlyManners(t *testing.T, answers ...uint16) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	count := map[string]int{}
	for _, f := range h.frames {
		kind := fmt.Sprintf("unknown: protocol %04x %x", f.proto, f.body[:min(len(f.body), 48)])
		d, err := parseDatagram(f.body)
		switch {
		case f.proto == unix.ETH_P_ARP:
			kind = "ARP"
		case f.proto == unix.ETH_P_IP && err == nil && (d.dstPort == 67 && d.srcPort == 68 || d.dstPort == 68 && d.srcPort == 67):
			kind = "DHCP"
		case f.proto == unix.ETH_P_IP && err == nil && d.dstPort == 5353 && d.srcPort == 5353:
			kind = "mDNS"
		case f.proto == unix.ETH_P_IP && err == nil && slices.Contains(answers, d.srcPort):
			kind = "answer"
		case f.proto == unix.ETH_P_IP && f.body[9] == unix.IPPROTO_IGMP:
			kind = "IGMP" // the kernel joins mDNS's group
		case f.proto == unix.ETH_P_IPV6 && len(f.body) > 48 && (f.body[6] == unix.IPPROTO_ICMPV6 || f.body[6] == unix.IPPROTO_HOPOPTS):
			kind = "IPv6 neighbour discovery"
		}
		count[kind]++
	}
	t.Logf("sent: %v", count)
	for kind, n := range count {
		if len(kind) > 30 {
			t.Errorf("%d frames %s", n, kind)
		}
	}
	if count["ARP"] == 0 || count["DHCP"] == 0 {
		t.Error("the hub heard nothing: the test looks at the wrong place")
	}
}

// asksARP asks who has an address and wants the answer of the kernel there.
func (h *hub) asksARP(t *testing.T, a netip.Addr, want dhcp.MAC) {
	t.Helper()
	q := &asker{question: lan.ARP{To: dhcp.Everyone(), Op: 1, MAC: dhcp.MAC{2, 0, 0, 0, 9, 9}, IP: netip.IPv4Unspecified(), Target: a}}
	h.add(q)
	defer h.remove(q)
	h.until(t, "an ARP answer for "+a.String(), inTime, func() bool { return q.answer == want }, func() any { return q.answer })
}

type asker struct {
	question lan.ARP
	asked    time.Time
	answer   dhcp.MAC
}

func (q *asker) tick(now time.Time) []frame {
	if now.Sub(q.asked) < 300*time.Millisecond {
		return nil
	}
	q.asked = now
	return []frame{arpFrame(q.question)}
}

func (q *asker) take(_ time.Time, f frame) {
	if a, err := lan.ParseARP(f.body); f.proto == unix.ETH_P_ARP && err == nil && a.Op == 2 && a.IP == q.question.Target {
		q.answer = a.MAC
	}
}

func arpFrame(a lan.ARP) frame { return frame{a.To, a.MAC, unix.ETH_P_ARP, a.Bytes()} }

func dhcpFrames(from dhcp.MAC, packets []dhcp.Packet, asks []netip.Addr) (out []frame) {
	for _, p := range packets {
		out = append(out, frame{p.To, from, unix.ETH_P_IP, datagramOf(&p).bytes()})
	}
	for _, a := range asks {
		out = append(out, arpFrame(lan.ARP{To: dhcp.Everyone(), Op: 1, MAC: from, IP: netip.IPv4Unspecified(), Target: a}))
	}
	return out
}

// heard reads what of a frame is for DHCP.
func heard(f frame, mac dhcp.MAC) *dhcp.Message {
	d, err := parseDatagram(f.body)
	if f.proto != unix.ETH_P_IP || err != nil || d.dstPort != 67 && d.dstPort != 68 || f.to != mac && f.to != dhcp.Everyone() {
		return nil
	}
	m, err := dhcp.Parse(d.payload)
	if err != nil {
		return nil
	}
	m.Hallig = false // neither routers nor phones know boxes
	return m
}

// router is a DHCP server of others.
type router struct {
	*dhcp.Server
	mac dhcp.MAC
	arp []frame
}

func (h *hub) router(self string, n byte) *router {
	mac := dhcp.MAC{2, 0, 0, 0, 1, n}
	r := &router{Server: dhcp.NewServer(time.Now(), netip.MustParsePrefix(self), mac), mac: mac}
	h.add(r)
	return r
}

func (r *router) tick(now time.Time) []frame {
	r.Tick(now)
	out := r.arp
	r.arp = nil
	packets, asks := r.Drain()
	return append(out, dhcpFrames(r.mac, packets, asks)...)
}

func (r *router) take(now time.Time, f frame) {
	if m := heard(f, r.mac); m != nil {
		r.Take(now, m, f.from)
	}
	if a, err := lan.ParseARP(f.body); f.proto == unix.ETH_P_ARP && err == nil {
		r.InUse(now, a.IP, a.MAC)
		if a.Op == 1 && a.Target == r.Self().Addr() {
			r.arp = append(r.arp, arpFrame(lan.ARP{To: a.MAC, Op: 2, MAC: r.mac, IP: a.Target, TargetDevice: a.MAC, Target: a.IP}))
		}
	}
}

// phone is a DHCP client that answers ARP and can ask DNS.
type phone struct {
	*dhcp.Client
	mac     dhcp.MAC
	arp     []frame
	ask     *dns.Msg
	asked   time.Time
	gateway dhcp.MAC
	answer  *dns.Msg
}

func (h *hub) phone(n byte) *phone {
	mac := dhcp.MAC{2, 0, 0, 0, 2, n}
	p := &phone{Client: dhcp.NewClient(mac, rand.New(rand.NewPCG(3, uint64(n)))), mac: mac}
	p.Start(time.Now())
	h.add(p)
	return p
}

func (p *phone) tick(now time.Time) []frame {
	p.Tick(now)
	packets, asks := p.Drain()
	for i, d := range packets { // it is no box
		if m, err := dhcp.Parse(d.Payload); err == nil {
			delete(m.Options, 60)
			packets[i].Payload = m.ToBytes()
		}
	}
	out := append(p.arp, dhcpFrames(p.mac, packets, asks)...)
	p.arp = nil
	if p.ask != nil && p.answer == nil && now.Sub(p.asked) > 500*time.Millisecond {
		p.asked = now
		b, err := p.ask.Pack()
		if err != nil {
			panic(err)
		}
		out = append(out, frame{p.gateway, p.mac, unix.ETH_P_IP, datagram{p.Lease().Addr.Addr(), p.Lease().DNS[0], 40000, 53, b}.bytes()})
	}
	return out
}

func (p *phone) take(now time.Time, f frame) {
	if m := heard(f, p.mac); m != nil {
		p.Take(now, m, f.from)
	}
	if a, err := lan.ParseARP(f.body); f.proto == unix.ETH_P_ARP && err == nil && a.Op == 1 && p.Lease() != nil && a.Target == p.Lease().Addr.Addr() {
		p.arp = append(p.arp, arpFrame(lan.ARP{To: a.MAC, Op: 2, MAC: p.mac, IP: a.Target, TargetDevice: a.MAC, Target: a.IP}))
	}
	if d, err := parseDatagram(f.body); f.proto == unix.ETH_P_IP && err == nil && f.to == p.mac && d.srcPort == 53 && p.ask != nil {
		var m dns.Msg
		if err := m.Unpack(d.payload); err == nil && m.Id == p.ask.Id {
			p.answer = &m
		}
	}
}

// lookup asks the phone's DNS server for an address.
func (h *hub) lookup(t *testing.T, p *phone, server dhcp.MAC, name string) (string, int) {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(name+".", dns.TypeA)
	h.mu.Lock()
	p.ask, p.answer, p.gateway, p.asked = q, nil, server, time.Time{}
	h.mu.Unlock()
	var m *dns.Msg
	h.until(t, "an answer for "+name, inTime, func() bool { m = p.answer; return m != nil }, nil)
	if len(m.Answer) == 0 {
		return "", m.Rcode
	}
	return m.Answer[0].(*dns.A).A.String(), m.Rcode
}

// multicast asks by multicast who has a name.
func (h *hub) multicast(t *testing.T, from *phone, name string) netip.Addr {
	t.Helper()
	q := new(dns.Msg)
	q.Question = []dns.Question{{Name: name + ".", Qtype: dns.TypeA, Qclass: dns.ClassINET}}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	m := &mdnsAsker{src: from, name: name + ".", ask: frame{dhcp.MAC{1, 0, 0x5e, 0, 0, 251}, from.mac, unix.ETH_P_IP,
		datagram{from.Lease().Addr.Addr(), mdns.Group().Addr(), mdns.Port, mdns.Port, b}.bytes()}}
	h.add(m)
	defer h.remove(m)
	h.until(t, "an mDNS answer for "+name, inTime, func() bool { return m.got.IsValid() }, nil)
	return m.got
}

type mdnsAsker struct {
	src   *phone
	name  string
	ask   frame
	asked time.Time
	got   netip.Addr
}

func (m *mdnsAsker) tick(now time.Time) []frame {
	if now.Sub(m.asked) < time.Second {
		return nil
	}
	m.asked = now
	return []frame{m.ask}
}

func (m *mdnsAsker) take(_ time.Time, f frame) {
	d, err := parseDatagram(f.body)
	if f.proto != unix.ETH_P_IP || err != nil || d.dstPort != mdns.Port {
		return
	}
	var a dns.Msg
	if a.Unpack(d.payload) != nil || !a.Response {
		return
	}
	for _, rr := range a.Answer {
		if r, ok := rr.(*dns.A); ok && r.Hdr.Name == m.name && r.Hdr.Ttl > 0 {
			m.got, _ = netip.AddrFromSlice(r.A.To4())
		}
	}
}
