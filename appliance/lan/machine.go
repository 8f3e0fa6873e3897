// SPDX-License-Identifier: EUPL-1.2

package lan

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"hallig/appliance/lan/dhcp"
	"hallig/appliance/lan/mdns"
)

// Times of a Machine.
const (
	// hostAfter is how long a network is asked for a server before the box becomes one: four DISCOVERs. Servers answer within a second, slow
	// ones that ping an address first within three; phones go on asking for half a minute and more, so they still get an address at their first
	// try. A managed switch may keep a port silent for 30 s after the cable is plugged: the box is then host to nobody, and finds the server
	// with one of the early probes.
	hostAfter = 10 * time.Second
	// A host looks for other servers, often at first.
	probeEarly = 8 * time.Second
	early      = 2 * time.Minute
	probeEvery = time.Minute
	probeLeast = 3 * time.Second
	// A guest asks by ARP whether its server is still there. A lease may last for days after the router was switched off, and new phones would
	// find no address all the while.
	aliveEvery = time.Minute
	aliveAgain = 3 * time.Second
	aliveTries = 3
	// An address is probed by ARP before it is used.
	claimEvery  = 250 * time.Millisecond
	claims      = 3
	claimPause  = 30 * time.Second // when all were in use
	defendLeast = 10 * time.Second // RFC 5227 section 2.4
	// Two of our own interfaces were heard on one wire; the second one asks a server every 64 s, which refreshes this.
	twinFor = 150 * time.Second
	newsFor = 5 * time.Minute // a server of others or a clash that is not seen again is forgotten
)

// Link is an Ethernet interface as the kernel shows it.
type Link struct {
	Index    int
	Name     string
	MAC      dhcp.MAC
	Carrier  bool
	Wireless bool // only listed, never used
}

// Frame is something to send; exactly one of its parts is set. There is no other kind.
type Frame struct {
	Index int
	DHCP  *dhcp.Packet
	ARP   *ARP
	MDNS  *mdns.Packet
}

// Want is what shall be on an interface.
type Want struct {
	Link    Link
	Leave   bool           // it is none of our business
	Addrs   []netip.Prefix // all IPv4 addresses that it shall have
	Gateway netip.Addr
	DNS     netip.Addr // answer DNS here as host; invalid: do not
}

// Machine decides for all interfaces. It is not safe for concurrent use; now never goes back.
type Machine struct {
	cfg   Config
	plan  plan
	rnd   *rand.Rand
	names Names
	ports []*port // by index
	wifi  bool    // there is a wireless interface
	kept  map[string]Kept

	frames []Frame
}

// New makes a machine for a checked Config.
func New(cfg Config, rnd *rand.Rand) (*Machine, error) {
	p, err := cfg.plan()
	if err != nil {
		return nil, err
	}
	return &Machine{cfg: cfg, plan: p, rnd: rnd, names: Names{Names: []string{Shared}}}, nil
}

// SetLinks tells which interfaces there are now.
func (m *Machine) SetLinks(now time.Time, links []Link) {
	slices.SortFunc(links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	m.wifi = slices.ContainsFunc(links, func(l Link) bool { return l.Wireless })
	links = slices.DeleteFunc(links, func(l Link) bool { return l.Wireless || !l.MAC.Single() })
	var ports []*port
	for i, l := range links {
		j := slices.IndexFunc(m.ports, func(p *port) bool { return p.link.Index == l.Index && p.link.Name == l.Name && p.link.MAC == l.MAC })
		var p *port
		if j >= 0 {
			p = m.ports[j]
		} else {
			p = m.newPort(l)
		}
		if mode, addr := m.settings(i); mode != p.mode || addr != p.addr {
			p.down(now)
			p.mode, p.addr = mode, addr
		}
		ports = append(ports, p)
	}
	m.ports = ports
	for i, p := range m.ports {
		had := p.link.Carrier && p.step != down
		p.link = links[i]
		switch {
		case p.link.Carrier && !had:
			p.up(now)
		case !p.link.Carrier && had:
			p.down(now)
			for _, o := range m.ports {
				if o.twin == p.link.Name {
					o.untwin(now)
				}
			}
		}
	}
	m.settle(now)
}

// settings says what the Config means for the i-th interface.
func (m *Machine) settings(i int) (Mode, netip.Prefix) {
	switch {
	case i == 0:
		return m.plan.mode, m.plan.addr
	case m.plan.mode == Static:
		return Auto, netip.Prefix{}
	}
	return m.plan.mode, netip.Prefix{}
}

// SetNames tells what the box is called now; until then it is called hallig.local.
func (m *Machine) SetNames(now time.Time, n Names) {
	m.names = n
	for _, p := range m.ports {
		if p.server != nil {
			p.server.Portal = n.Portal
		}
		p.client.Hostname = m.hostname()
	}
	m.settle(now)
}

// Names gives what the box is called.
func (m *Machine) Names() []string { return m.names.Names }

// hostname is what a DHCP server may show its people.
func (m *Machine) hostname() string {
	if len(m.names.Names) == 0 {
		return ""
	}
	first, _, _ := strings.Cut(m.names.Names[0], ".")
	return first
}

func (m *Machine) port(index int) *port {
	for _, p := range m.ports {
		if p.link.Index == index {
			return p
		}
	}
	return nil
}

// TakeDHCP takes the payload of a DHCP packet that came in.
func (m *Machine) TakeDHCP(now time.Time, index int, payload []byte, from dhcp.MAC) {
	p := m.port(index)
	if p == nil || p.step == down {
		return
	}
	msg, err := dhcp.Parse(payload)
	if err != nil {
		return // noise of the network
	}
	for _, o := range m.ports {
		if o != p && o.link.MAC == msg.Client && from == msg.Client {
			later := o
			if o.link.Index < p.link.Index {
				later = p
			}
			later.twinOf(now, o, p)
			m.settle(now)
			return
		}
	}
	p.dhcp(now, msg, from)
	m.settle(now)
}

// TakeARP takes an ARP packet that came in.
func (m *Machine) TakeARP(now time.Time, index int, a ARP) {
	p := m.port(index)
	if p == nil || p.step == down || m.own(a.MAC) {
		return
	}
	p.arp(now, a)
	m.settle(now)
}

// TakeMDNS takes the payload of a packet to mDNS's group that came in. From which network its sender believes to be does not matter: two hosts on
// one wire have two networks (RFC 6762 section 11).
func (m *Machine) TakeMDNS(now time.Time, index int, payload []byte, src netip.AddrPort) {
	p := m.port(index)
	if p == nil || p.step == down {
		return
	}
	for _, o := range m.ports {
		for _, a := range o.addrs() {
			if a.Addr() == src.Addr() {
				return // we hear ourselves
			}
		}
	}
	p.names.Take(now, payload, src)
	m.settle(now)
}

// Bye takes leave of the networks before the process ends.
func (m *Machine) Bye() {
	for _, p := range m.ports {
		p.names.Bye()
		p.collect()
	}
}

func (m *Machine) own(mac dhcp.MAC) bool {
	return slices.ContainsFunc(m.ports, func(p *port) bool { return p.link.MAC == mac })
}

// Tick does what is due.
func (m *Machine) Tick(now time.Time) {
	for _, p := range m.ports {
		p.tick(now)
	}
	m.settle(now)
}

// Wake says when Tick is due; zero: never.
func (m *Machine) Wake() (at time.Time) {
	for _, p := range m.ports {
		at = sooner(at, p.wake())
	}
	return at
}

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Frames gives what there is to send.
func (m *Machine) Frames() []Frame {
	out := m.frames
	m.frames = nil
	return out
}

// settle collects what the parts have to say, and lets no two interfaces of the box be one network.
func (m *Machine) settle(now time.Time) {
	for _, p := range m.ports {
		for _, o := range m.ports {
			if p != o && p.step >= claiming && p.hostNet.IsValid() && !p.addr.IsValid() && o.lease != nil && p.hostNet.Overlaps(o.lease.Addr) {
				p.claim(now)
			}
		}
		p.call(now)
		p.collect()
	}
}

// Wants says what shall be, by index.
func (m *Machine) Wants() []Want {
	var out []Want
	for _, p := range m.ports {
		out = append(out, p.want())
	}
	return out
}

// Resolvers lists the DNS servers that the box itself may ask, those of the first interface first.
func (m *Machine) Resolvers() []netip.Addr {
	var out []netip.Addr
	for _, p := range m.ports {
		for _, a := range p.iface().DNS {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// Kept is what outlives a restart of the process: a network of our own, and who lives in it.
type Kept struct {
	Host    netip.Prefix `json:"host"`
	Clients []dhcp.Kept  `json:"clients"`
}

// Kept gives what is worth keeping, by interface name.
func (m *Machine) Kept(now time.Time) map[string]Kept {
	out := map[string]Kept{}
	for _, p := range m.ports {
		if p.step == hosting {
			out[p.link.Name] = Kept{p.hostNet, p.server.Kept(now)}
		}
	}
	return out
}

// Restore takes up what Kept gave before a restart; to be called before SetLinks.
func (m *Machine) Restore(kept map[string]Kept) { m.kept = kept }

// resume says, once, whether the box was host on a port before a restart.
func (m *Machine) resume(p *port) bool {
	k, ok := m.kept[p.link.Name]
	return ok && k.Host.IsValid() && p.server == nil && k.Host == p.candidate()
}

// State tells what is.
func (m *Machine) State(now time.Time) State {
	s := State{Interfaces: []Interface{}, WiFi: m.wireless()}
	for _, p := range m.ports {
		i := p.iface()
		if p.serving() {
			i.Serving = &Serving{Clients: p.server.Clients(now), Capacity: p.server.Capacity()}
		}
		s.Interfaces = append(s.Interfaces, i)
	}
	return s
}
