// SPDX-License-Identifier: EUPL-1.2

package lan

import (
	"net/netip"
	"slices"
	"time"

	"hallig/appliance/lan/dhcp"
	"hallig/appliance/lan/mdns"
)

// step is where a port is. Those from claiming on have, or are about to have, a network of their own; it stays through yielding.
type step uint8

const (
	down     step = iota // no carrier
	left                 // off: none of our business
	static               // as configured
	asking               // for a server
	guest                // has a lease
	doubting             // has a lease, and its server no longer answers
	claiming             // asking by ARP whether the address of a host is free
	hosting              // gives addresses
	yielding             // another server was seen: gives no addresses while it is asked
)

// port is one interface.
type port struct {
	m    *Machine
	link Link
	mode Mode         // as configured
	addr netip.Prefix // as configured
	step step

	names  *mdns.Responder
	called called // what names was told last

	client   *dhcp.Client
	scout    *dhcp.Client // looks for servers without taking anything from them
	lease    *dhcp.Lease  // in use; also beside a network of our own, until it is over
	deadline time.Time    // of asking, doubting and yielding; zero: none
	final    time.Time    // of asking, even if a server has begun to answer

	aliveAt time.Time // of the next ARP question for the server
	missed  int
	mute    bool // the server does not answer ARP, though it lives

	hostNet   netip.Prefix // the address as host
	tries     int
	nth       int // which candidate
	claimAt   time.Time
	server    *dhcp.Server // also while it is left, until the last lease is over
	hostSince time.Time
	probeAt   time.Time
	probed    time.Time
	nthProbe  int
	drainTill time.Time // guest again: until when the old network lives on

	foreign     netip.Addr // another server
	foreignTill time.Time  // until when that is news
	clash       bool       // somebody else uses our address
	clashTill   time.Time
	defended    time.Time
	twin        string // the interface that is on the same wire
	twinTill    time.Time
}

func (m *Machine) newPort(l Link) *port {
	p := &port{m: m, link: l, names: mdns.New(m.rnd), client: dhcp.NewClient(l.MAC, m.rnd), scout: dhcp.NewClient(l.MAC, m.rnd)}
	p.client.Hostname, p.names.Shared = m.hostname(), Shared
	return p
}

// up begins on a network of which nothing is known.
func (p *port) up(now time.Time) {
	switch p.mode {
	case Off:
		p.step = left
	case Static:
		p.step = static
		p.announce(p.addr.Addr())
	case Host:
		p.claim(now)
	default:
		if p.m.resume(p) { // the process was restarted, not the network
			p.claim(now)
			return
		}
		p.ask(now)
	}
}

func (p *port) down(now time.Time) {
	p.client.Stop()
	if p.server != nil {
		p.server.Close() // what it has given is kept for the case that the same network comes back
	}
	*p = port{m: p.m, link: p.link, mode: p.mode, addr: p.addr, names: p.names, client: p.client, scout: p.scout, server: p.server}
}

// ask looks for a server.
func (p *port) ask(now time.Time) {
	p.step, p.deadline = asking, time.Time{}
	if p.mode == Auto {
		p.deadline, p.final = now.Add(hostAfter), now.Add(hostAfter*3/2)
	}
	p.client.Start(now)
}

// twinOf is told that this port is on the same wire as a port of ours with a lower index: only that one gives addresses there.
func (p *port) twinOf(now time.Time, a, b *port) {
	other := a
	if other == p {
		other = b
	}
	if p.mode != Auto || p.step != asking && p.step < claiming {
		return
	}
	if p.step >= claiming {
		p.leave()
		p.ask(now)
	}
	p.twin, p.twinTill = other.link.Name, now.Add(twinFor)
	p.deadline = p.twinTill
}

// untwin is told that the other interface is no longer on this wire.
func (p *port) untwin(now time.Time) {
	p.twin, p.twinTill = "", time.Time{}
	if p.step == asking {
		p.ask(now)
	}
}

// enter makes the port a guest. A network of our own lives on without new phones until its last lease is over: those that have one go on
// reaching the box, and are sent to the new server when they come back for more time.
func (p *port) enter(now time.Time, l *dhcp.Lease) {
	p.step, p.lease, p.deadline, p.twin, p.clash = guest, l, time.Time{}, "", false
	p.aliveAt, p.missed, p.mute, p.foreign, p.foreignTill, p.clashTill = now.Add(aliveEvery), 0, false, netip.Addr{}, time.Time{}, time.Time{}
	p.announce(l.Addr.Addr())
	if !p.serving() {
		p.leave()
		return
	}
	p.server.Close()
	p.drainTill = p.server.Last(now)
	if !p.drainTill.After(now) || p.hostNet.Overlaps(l.Addr) {
		p.leave()
	}
}

// dhcp takes a message of a client or a server.
func (p *port) dhcp(now time.Time, msg *dhcp.Message, from dhcp.MAC) {
	if l := p.scout.Offer(now, msg, from); l != nil {
		p.found(now, l)
	}
	p.client.Take(now, msg, from)
	p.look(now)
	if !p.serving() {
		return
	}
	p.server.Take(now, msg, from)
	if a := p.server.Foreign(); a.IsValid() && p.step == hosting {
		p.stranger(now, a)
		p.probeSoon(now)
	}
	if msg.HostRole && from.Less(p.link.MAC) && p.step == hosting {
		p.probeSoon(now)
	}
}

// look follows what the client has come to.
func (p *port) look(now time.Time) {
	l := p.client.Lease()
	switch {
	case l == p.lease:
	case l != nil:
		p.enter(now, l)
	default: // it is over
		p.lease = nil
		switch p.step {
		case guest, doubting:
			p.ask(now)
		case hosting:
			p.client.Stop()
		}
	}
}

// tick does what is due.
func (p *port) tick(now time.Time) {
	if p.step == down || p.step == left {
		return
	}
	p.names.Tick(now)
	if due(p.twinTill, now) {
		p.untwin(now)
	}
	if due(p.foreignTill, now) {
		p.foreign, p.foreignTill = netip.Addr{}, time.Time{}
	}
	if due(p.clashTill, now) {
		p.clash, p.clashTill = false, time.Time{}
	}
	p.client.Tick(now)
	p.look(now)
	if p.server != nil {
		p.server.Tick(now)
	}
	switch p.step {
	case asking:
		if due(p.deadline, now) {
			if p.client.Busy() && now.Before(p.final) {
				p.deadline = p.final
				return
			}
			p.client.Stop()
			p.claim(now)
			p.claiming(now)
		}
	case guest:
		p.alive(now)
		if due(p.drainTill, now) {
			p.leave()
		}
	case doubting:
		p.doubt(now)
	case claiming:
		p.claiming(now)
	case hosting:
		if due(p.probeAt, now) {
			p.probe(now, true)
			p.nthProbe++
			pause := probeEvery
			if now.Sub(p.hostSince) < early {
				pause = probeEarly
			}
			p.probeAt = now.Add(pause - time.Duration(p.m.rnd.Int64N(int64(time.Second))))
		}
	case yielding:
		if due(p.deadline, now) {
			p.client.Stop()
			p.lease = nil
			p.step, p.deadline = hosting, time.Time{}
			p.server.Open()
			p.probeAt = now.Add(probeEvery)
		}
	}
}

// alive asks by ARP whether the server is still there, if it is on this network.
func (p *port) alive(now time.Time) {
	if !due(p.aliveAt, now) || p.mute || p.mode != Auto {
		return
	}
	target := p.watched()
	if !target.IsValid() {
		p.aliveAt = time.Time{}
		return
	}
	if p.missed == aliveTries {
		p.step, p.deadline, p.nthProbe, p.probeAt = doubting, now.Add(hostAfter), 0, now
		p.doubt(now)
		return
	}
	p.missed++
	p.sendARP(whoHas(p.link.MAC, p.lease.Addr.Addr(), target))
	p.aliveAt = now.Add(aliveAgain)
}

func (p *port) watched() netip.Addr {
	if p.lease.Addr.Contains(p.lease.Server) && p.lease.Server != p.lease.Addr.Addr() {
		return p.lease.Server
	}
	return p.lease.Gateway
}

// doubt asks whether any server is there; if not the box becomes one, and keeps its address of the old network while the lease lasts.
func (p *port) doubt(now time.Time) {
	switch {
	case due(p.deadline, now):
		p.probeAt = time.Time{}
		p.claim(now)
		p.claiming(now)
	case due(p.probeAt, now):
		p.probe(now, false)
		p.nthProbe++
		p.probeAt = now.Add(time.Duration(1+p.nthProbe) * time.Second)
	}
}

// arp takes what is heard about who has which address.
func (p *port) arp(now time.Time, a ARP) {
	p.client.InUse(now, a.IP, a.MAC)
	p.look(now)
	if p.server != nil {
		p.server.InUse(now, a.IP, a.MAC)
	}
	switch {
	case p.step == claiming && p.hostNet.IsValid():
		rival := a.Op == arpRequest && a.IP.IsUnspecified() && a.Target == p.hostNet.Addr() && a.MAC.Less(p.link.MAC)
		if a.IP == p.hostNet.Addr() || rival {
			if p.addr.IsValid() {
				p.clash, p.clashTill = true, now.Add(newsFor)
			}
			p.nth++
			p.hostNet, p.tries, p.claimAt = netip.Prefix{}, 0, now
			if p.nth%candidates == 0 || p.addr.IsValid() {
				p.claimAt = now.Add(claimPause)
			}
		}
	case (p.step == guest || p.step == doubting) && a.IP == p.watched():
		p.aliveAt, p.missed = now.Add(aliveEvery), 0
		if p.step == doubting {
			p.step, p.deadline = guest, time.Time{}
		}
	}
	for _, own := range p.addrs() {
		if a.IP == own.Addr() {
			p.clash, p.clashTill = true, now.Add(newsFor)
			if now.Sub(p.defended) >= defendLeast {
				p.defended = now
				p.announce(own.Addr())
			}
		}
	}
}

// wake says when tick is due.
func (p *port) wake() (at time.Time) {
	if p.step == down || p.step == left {
		return time.Time{}
	}
	at = sooner(sooner(sooner(p.client.Wake(), p.twinTill), sooner(p.foreignTill, p.clashTill)), p.names.Wake())
	if p.server != nil {
		at = sooner(at, p.server.Wake())
	}
	switch p.step {
	case asking, yielding:
		at = sooner(at, p.deadline)
	case guest:
		if !p.mute && p.mode == Auto {
			at = sooner(at, p.aliveAt)
		}
		at = sooner(at, p.drainTill)
	case doubting:
		at = sooner(sooner(at, p.deadline), p.probeAt)
	case claiming:
		at = sooner(at, p.claimAt)
	case hosting:
		at = sooner(at, p.probeAt)
	}
	return at
}

func due(at, now time.Time) bool { return !at.IsZero() && !at.After(now) }

func (p *port) send(f Frame) {
	f.Index = p.link.Index
	p.m.frames = append(p.m.frames, f)
}

func (p *port) sendARP(a ARP) { p.send(Frame{ARP: &a}) }

// announce tells the neighbours an address (RFC 5227 section 2.3).
func (p *port) announce(a netip.Addr) { p.sendARP(whoHas(p.link.MAC, a, a)) }

// called is what the responder was told.
type called struct {
	names []string
	addrs []netip.Addr
	rank  mdns.Rank
}

// call tells the responder of names and addresses that have changed.
func (p *port) call(now time.Time) {
	var addrs []netip.Addr
	for _, a := range p.addrs() {
		addrs = append(addrs, a.Addr())
	}
	rank := mdns.Equal
	switch {
	case p.step == hosting || p.step == yielding:
		rank = mdns.First
	case p.lease != nil && p.lease.Hallig:
		rank = mdns.Second
	}
	if slices.Equal(addrs, p.called.addrs) && slices.Equal(p.m.names.Names, p.called.names) && rank == p.called.rank {
		return
	}
	p.called = called{p.m.names.Names, addrs, rank}
	p.names.Set(now, p.m.names.Names, addrs, rank)
}

// collect takes what client and server want to send.
func (p *port) collect() {
	if p.step == down {
		p.names.Drain()
		return
	}
	packets, asks := p.client.Drain()
	if p.server != nil {
		more, about := p.server.Drain()
		packets, asks = append(packets, more...), append(asks, about...)
	}
	for _, pkt := range packets {
		p.send(Frame{DHCP: &pkt})
	}
	for _, pkt := range p.names.Drain() {
		p.send(Frame{MDNS: &pkt})
	}
	for _, a := range asks {
		p.sendARP(whoHas(p.link.MAC, netip.IPv4Unspecified(), a))
	}
}
