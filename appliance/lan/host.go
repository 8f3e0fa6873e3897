// SPDX-License-Identifier: EUPL-1.2

package lan

import (
	"net/netip"
	"time"

	"hallig/appliance/lan/dhcp"
)

// claim looks for a free address as host.
func (p *port) claim(now time.Time) {
	p.step, p.deadline, p.tries, p.claimAt = claiming, time.Time{}, 0, now
	if p.server != nil {
		p.server.Close()
	}
	p.hostNet = p.candidate()
}

// candidates is how many addresses are tried before a pause.
const candidates = 16

// candidate is the next address that a host may take: derived from the MAC, so that a box has the same one each time and two boxes on one wire
// hardly ever have the same; none that overlaps another network of this box.
func (p *port) candidate() netip.Prefix {
	if p.addr.IsValid() {
		return p.addr
	}
	mac := p.link.MAC
	h := uint32(mac[3])<<16 | uint32(mac[4])<<8 | uint32(mac[5])
	h = (h ^ h>>11 ^ uint32(mac[2])<<7) * 0x9e3779b1
	for range candidates {
		k := uint32(p.nth % candidates)
		x := byte(1 + (h>>8+k*(1+h>>20&0x3f))%254)
		a := netip.AddrFrom4([4]byte{10, 83, x, 1})
		if k >= candidates/2 {
			a = netip.AddrFrom4([4]byte{172, 27, x, 1})
		}
		if c := netip.PrefixFrom(a, 24); !p.overlaps(c) {
			return c
		}
		p.nth++
	}
	return netip.Prefix{}
}

func (p *port) overlaps(c netip.Prefix) bool {
	if p.lease != nil && c.Overlaps(p.lease.Addr) {
		return true
	}
	for _, o := range p.m.ports {
		if o != p && (o.lease != nil && c.Overlaps(o.lease.Addr) || o.hostNet.IsValid() && c.Overlaps(o.hostNet) ||
			o.step == static && c.Overlaps(o.addr)) {
			return true
		}
	}
	return false
}

// host begins to give addresses.
func (p *port) host(now time.Time) {
	p.step, p.hostSince, p.nthProbe, p.foreign, p.drainTill = hosting, now, 0, netip.Addr{}, time.Time{}
	if p.server == nil || p.server.Self() != p.hostNet {
		p.server = dhcp.NewServer(now, p.hostNet, p.link.MAC)
		p.server.Restore(now, p.m.kept[p.link.Name].Clients)
		delete(p.m.kept, p.link.Name)
	}
	p.server.Portal = p.m.names.Portal
	p.server.Open()
	if p.lease == nil {
		p.client.Stop()
	}
	p.announce(p.hostNet.Addr())
	p.probeAt = now.Add(probeEarly)
}

// leave gives up the network of our own at once.
func (p *port) leave() {
	p.server, p.hostNet, p.drainTill, p.probeAt, p.claimAt = nil, netip.Prefix{}, time.Time{}, time.Time{}, time.Time{}
}

// yield asks a server that was seen for an address, and gives none meanwhile. If it does not keep its word we go on.
func (p *port) yield(now time.Time) {
	p.step, p.deadline = yielding, now.Add(hostAfter)
	p.server.Close()
	p.client.Start(now)
}

// claiming asks by ARP for the address of a host.
func (p *port) claiming(now time.Time) {
	if !due(p.claimAt, now) {
		return
	}
	if !p.hostNet.IsValid() {
		if p.hostNet = p.candidate(); !p.hostNet.IsValid() {
			p.claimAt = now.Add(claimPause)
			return
		}
	}
	if p.tries == claims {
		p.host(now)
		return
	}
	p.tries++
	p.sendARP(whoHas(p.link.MAC, netip.IPv4Unspecified(), p.hostNet.Addr()))
	p.claimAt = now.Add(claimEvery)
}

// found is told of a server that answers our scout.
func (p *port) found(now time.Time, l *dhcp.Lease) {
	switch p.step {
	case doubting:
		if l.Server == p.lease.Server {
			p.step, p.mute, p.deadline = guest, true, time.Time{}
		} else {
			p.step, p.deadline = guest, time.Time{}
			p.aliveAt, p.missed = now.Add(aliveEvery), 0
			p.client.Start(now)
		}
	case hosting:
		p.stranger(now, l.Server)
		// Of two boxes the lower one stays, and the other one finds this out the same way.
		if p.mode == Auto && (!l.Hallig || l.Next.Less(p.link.MAC)) {
			p.yield(now)
		}
	}
}

// stranger notes a server of others.
func (p *port) stranger(now time.Time, a netip.Addr) {
	p.foreign, p.foreignTill = a, now.Add(newsFor)
}

func (p *port) probeSoon(now time.Time) {
	if at := p.probed.Add(probeLeast); at.Before(p.probeAt) {
		if at.Before(now) {
			at = now
		}
		p.probeAt = at
	}
}

// probe asks for other servers.
func (p *port) probe(now time.Time, host bool) {
	pkt := p.scout.Probe(now, host)
	p.send(Frame{DHCP: &pkt})
	p.probed = now
}
