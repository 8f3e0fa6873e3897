// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	libpeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"hallig/sync/peer"
)

const (
	lookEvery   = time.Second
	dialTimeout = 2500 * time.Millisecond
	addressTTL  = time.Hour
)

// Serve keeps connections to the paired boxes until ctx ends; see link.Transport.
func (h *Host) Serve(ctx context.Context, up func(addr string, bitsPerSecond int, mtu int), down func(addr string),
	received func(addr string, message []byte), ready func(addr string)) error {
	static, err := parseStatic(h.cfg.Static)
	if err != nil {
		return err
	}
	h.mu.Lock()
	if h.closed || h.serving != nil {
		h.mu.Unlock()
		return errors.New("serve p2p: closed, or served already")
	}
	h.serving = &callbacks{up, down, received, ready}
	h.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	discovered := make(chan struct{})
	go func() { // waited for below
		defer close(discovered)
		if !h.cfg.NoMDNS {
			h.discover(ctx)
		}
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		h.dialMissing(ctx, static)
		select {
		case <-ctx.Done():
		case <-h.ctx.Done():
			cancel()
		case <-h.kick:
		case <-tick.C:
		}
	}
	<-discovered
	h.mu.Lock()
	h.serving = nil
	var wires []*wire
	for _, w := range h.wires {
		wires = append(wires, w)
	}
	h.mu.Unlock()
	for _, w := range wires {
		w.close(errClosed)
		<-w.ended
	}
	return nil
}

func parseStatic(addrs []string) ([]libpeer.AddrInfo, error) {
	var out []libpeer.AddrInfo
	for _, s := range addrs {
		info, err := libpeer.AddrInfoFromString(s)
		if err != nil {
			return nil, fmt.Errorf("read p2p address %q (like /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...): %w", s, err)
		}
		out = append(out, *info)
	}
	return out, nil
}

// dialMissing starts an attempt for each paired box that has no parcel stream.
func (h *Host) dialMissing(ctx context.Context, static []libpeer.AddrInfo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	for _, p := range h.roster.All() {
		if h.wires[p.ID] != nil || h.dialing[p.ID] || p.ID == h.id {
			continue
		}
		far, err := libpeer.Decode(string(p.ID))
		if err != nil {
			continue // a roster with such an entry was refused when it was read
		}
		h.dialing[p.ID] = true
		h.wg.Go(func() {
			h.reach(ctx, p.ID, far, static)
			h.mu.Lock()
			delete(h.dialing, p.ID)
			h.mu.Unlock()
		})
	}
}

// reach tries once to connect to a box and to open the parcel stream, where this side is the one to open it; it stays
// as long as that stream lives.
func (h *Host) reach(ctx context.Context, id peer.ID, far libpeer.ID, static []libpeer.AddrInfo) {
	net := h.host.Network()
	if net.Connectedness(far) != network.Connected {
		for _, s := range static {
			if s.ID == far {
				h.host.Peerstore().AddAddrs(far, s.Addrs, addressTTL)
			}
		}
		if len(h.host.Peerstore().Addrs(far)) == 0 {
			return // nobody knows where it is; mDNS will say
		}
		if s, ok := net.(*swarm.Swarm); ok {
			s.Backoff().Clear(far) // libp2p would wait ever longer; a field unit wants it now
		}
		dial, cancel := context.WithTimeout(ctx, dialTimeout)
		err := h.host.Connect(dial, libpeer.AddrInfo{ID: far})
		cancel()
		if err != nil {
			h.log.Debug("dial box", "peer", id.Short(), "err", err)
			return
		}
	}
	if !peer.Initiates(h.id, id) {
		return
	}
	h.openParcel(ctx, id, func(ctx context.Context) (network.Stream, error) {
		return h.host.NewStream(network.WithNoDial(ctx, "connected above"), far, protocolParcel)
	})
}

// heard notes an address of a box, paired or not.
func (h *Host) heard(info libpeer.AddrInfo) {
	if info.ID == h.host.ID() || len(info.Addrs) == 0 {
		return
	}
	addrs := info.Addrs
	if len(addrs) > 16 {
		addrs = addrs[:16]
	}
	h.mu.Lock()
	if len(h.found) > 256 { // somebody floods; old ones announce themselves again
		clear(h.found)
	}
	h.found[info.ID] = time.Now()
	h.mu.Unlock()
	h.host.Peerstore().AddAddrs(info.ID, append([]ma.Multiaddr(nil), addrs...), addressTTL)
	h.look()
}
