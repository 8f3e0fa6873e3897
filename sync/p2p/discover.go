// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	libpeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	serviceName    = "_hallig._udp"
	interfaceEvery = time.Second
	askAgainEvery  = 30 * time.Second
)

// discover announces this box on the local networks and listens for others, until ctx ends. libp2p's service binds to
// the interfaces that exist when it starts, and does not start where there is none: so it is started anew whenever the
// interfaces change, and now and then while a paired box is missing.
func (h *Host) discover(ctx context.Context) {
	var service mdns.Service
	stop := func() {
		if service != nil {
			if err := service.Close(); err != nil {
				h.log.Debug("stop mDNS", "err", err)
			}
			service = nil
		}
	}
	defer stop()
	tick := time.NewTicker(interfaceEvery)
	defer tick.Stop()
	last, asked := "", time.Time{}
	for {
		now := Interfaces()
		if now != last || service == nil || h.missing() && time.Since(asked) > askAgainEvery {
			stop()
			s := mdns.NewMdnsService(announcer{h.host}, serviceName, listener{h})
			if err := s.Start(); err != nil {
				h.log.Debug("start mDNS", "err", err) // no network yet; the next tick tries again
				s.Close()
			} else {
				service = s
			}
			if now != last && last != "" {
				h.log.Info("network interfaces changed, announcing anew")
				h.look()
			}
			last, asked = now, time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// missing says whether a paired box has no stream.
func (h *Host) missing() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.wires) < h.roster.Len()
}

// Interfaces is a text that changes when an interface or an address of this machine comes or goes.
func Interfaces() string {
	ifaces, err := net.Interfaces()
	if err != nil {
		return ""
	}
	var all []string
	for _, i := range ifaces {
		addrs, err := i.Addrs()
		if err != nil || i.Flags&net.FlagUp == 0 {
			continue
		}
		for _, a := range addrs {
			all = append(all, i.Name+" "+a.String()+" "+i.Flags.String())
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// listener takes what mDNS finds.
type listener struct{ h *Host }

func (l listener) HandlePeerFound(info libpeer.AddrInfo) { l.h.heard(info) }

// announcer is a host whose listen addresses are those of this moment: libp2p caches them for a minute, which is how a
// box comes to announce an address it has lost.
type announcer struct{ host.Host }

func (a announcer) Network() network.Network { return freshNetwork{a.Host.Network()} }

type freshNetwork struct{ network.Network }

func (n freshNetwork) InterfaceListenAddresses() ([]ma.Multiaddr, error) {
	ifaces, err := manet.InterfaceMultiaddrs()
	if err != nil {
		return nil, err
	}
	var out []ma.Multiaddr
	for _, a := range n.ListenAddresses() {
		resolved, err := manet.ResolveUnspecifiedAddress(a, ifaces)
		if err != nil {
			continue // a protocol that cannot be resolved is not announced
		}
		out = append(out, resolved...)
	}
	return out, nil
}
