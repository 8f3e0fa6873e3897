// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	libpeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"hallig/sync/peer"
)

const (
	lookEvery      = 500 * time.Millisecond
	retryEvery     = 700 * time.Millisecond
	firstAnswer    = 1200 * time.Millisecond // how long the first attempt at an address waits
	connectTimeout = 6 * time.Second         // all attempts at an address
	dialTimeout    = 15 * time.Second        // with the handshakes, over a slow satellite
	openTimeout    = 6 * time.Second
	addressTTL     = 24 * time.Hour
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
	for _, s := range static {
		h.host.Peerstore().AddAddrs(s.ID, s.Addrs, peerstore.PermanentAddrTTL)
	}

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
	for ctx.Err() == nil && h.ctx.Err() == nil {
		began := time.Now()
		h.dropStrangers()
		h.reserve(ctx)
		h.dialMissing(ctx)
		h.straighten(ctx)
		h.untilNextLook(ctx, tick.C, time.Since(began))
	}
	cancel()
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

// CheckStatic refuses what Config.Static cannot hold.
func CheckStatic(addrs []string) error {
	_, err := parseStatic(addrs)
	return err
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
func (h *Host) dialMissing(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	by, relay := h.theRelay()
	relay = relay && h.direct(by) != nil
	for _, p := range h.worthDialling() {
		if h.wires[p.ID] != nil || h.dialing[p.ID] != nil || p.ID == h.id || time.Since(h.tried[p.ID]) < patience(h.refused[p.ID]) || time.Now().Before(h.rests[p.ID]) {
			continue
		}
		far, err := libpeer.Decode(string(p.ID))
		if err != nil || h.taking[far] > 0 {
			continue // no id, which cannot be in a roster; or pairing still, and one of the two has not stored the other
		}
		if h.cfg.Meeting && h.host.Network().Connectedness(far) != network.Connected {
			continue // it comes to us
		}
		if !(relay && by != far && !time.Now().Before(h.through.detours[p.ID].next)) && len(h.host.Peerstore().Addrs(far)) == 0 && !h.connected(far) {
			continue // nobody knows where it is: a fleet may have hundreds of those
		}
		h.tried[p.ID] = time.Now()
		dial, cancel := context.WithCancel(ctx)
		h.dialing[p.ID] = cancel
		h.wg.Go(func() {
			defer cancel()
			h.reach(ctx, dial, p.ID, far)
			h.mu.Lock()
			delete(h.dialing, p.ID)
			h.scatter(p.ID)
			h.mu.Unlock()
		})
	}
}

// worthDialling are the boxes that may want an attempt, under h.mu. At a meeting place these are the connected ones: of the thousands that may come most are away.
func (h *Host) worthDialling() []peer.Peer {
	if !h.cfg.Meeting {
		return h.roster.All()
	}
	var there []peer.Peer
	for _, id := range h.host.Network().Peers() {
		if p, ok := h.roster.ByID(peer.ID(id.String())); ok {
			there = append(there, p)
		}
	}
	return there
}

// patience is how long to wait after an attempt, if the box was reached and has refused so often since.
func patience(refused int) time.Duration {
	return min(lookEvery/2<<min(refused, 10), 15*time.Second)
}

// reach tries to connect to a box, and to open the parcel stream where this side is the one to open it; then it stays
// as long as that stream lives. dial ends the trying early.
func (h *Host) reach(ctx, dial context.Context, id peer.ID, far libpeer.ID) {
	links := h.host.Network()
	if !h.connected(far) && !h.dial(dial, id, far) && !h.detour(dial, id, far) {
		return
	}
	h.noteReached(id, far)
	if !peer.Initiates(h.id, id) {
		h.expect(dial, id, far)
		return
	}
	stream, err := h.open(dial, far)
	if err != nil {
		h.log.Debug("open parcel stream", "peer", id.Short(), "err", err)
		if errors.Is(err, context.DeadlineExceeded) {
			_ = links.ClosePeer(far) // a dead connection that nobody has noticed; closed already is fine
			return
		}
		h.mu.Lock() // the far end does not want us, or not yet: it may be about to store the pair
		h.refused[id]++
		h.mu.Unlock()
		return
	}
	h.run(id, stream)
}

// open opens the parcel stream and waits for the far end's first word: until then nobody knows whether it takes part.
func (h *Host) open(ctx context.Context, far libpeer.ID) (network.Stream, error) {
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(network.WithNoDial(ctx, "connected above"), "a straight one comes first"), openTimeout)
	defer cancel()
	s, err := h.host.NewStream(ctx, far, protocolParcel)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() }) // frees the read below
	defer stop()
	word := []byte{1} // "nothing has arrived here"
	if _, err = s.Write(word); err == nil {
		_, err = io.ReadFull(s, word)
	}
	if err == nil && word[0] != 1 {
		err = fmt.Errorf("first word of the far end is %d", word[0])
	}
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = s.Reset()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("open parcel stream: %w", err)
	}
	return s, nil
}

// dropStrangers closes connections that were let in for pairing once there is no code to take any more.
func (h *Host) dropStrangers() {
	for _, id := range h.host.Network().Peers() {
		if !(*gate)(h).admits(id) {
			_ = h.host.Network().ClosePeer(id) // closed already is fine
		}
	}
}

// dial tries all known addresses of a box until one answers, for at most connectTimeout and a handshake. It goes through no relay.
func (h *Host) dial(ctx context.Context, id peer.ID, far libpeer.ID) bool {
	if len(h.host.Peerstore().Addrs(far)) == 0 {
		return false // nobody knows where it is; mDNS will say
	}
	if s, ok := h.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(far) // libp2p would wait ever longer; a field unit wants it now
	}
	ctx, cancel := context.WithTimeout(network.WithForceDirectDial(ctx, "straight ways first"), dialTimeout)
	defer cancel()
	if err := h.host.Connect(ctx, libpeer.AddrInfo{ID: far}); err != nil {
		h.log.Debug("dial box", "peer", id.Short(), "err", err)
		return false
	}
	return true
}

// noteReached keeps the address at which this box has reached another one.
func (h *Host) noteReached(id peer.ID, far libpeer.ID) {
	for _, c := range h.host.Network().ConnsToPeer(far) {
		if relayed(c) && h.cfg.Reached != nil {
			h.cfg.Reached(id, "")
		}
		if c.Stat().Direction != network.DirOutbound || relayed(c) || h.punched(c) {
			continue
		}
		at := c.RemoteMultiaddr()
		h.host.Peerstore().AddAddr(far, at, peerstore.PermanentAddrTTL)
		if h.cfg.Reached != nil {
			h.cfg.Reached(id, at.String()+"/p2p/"+string(id))
		}
	}
}

// expect waits for the far end to open the parcel stream. If it does not, the connection is as good as none.
func (h *Host) expect(ctx context.Context, id peer.ID, far libpeer.ID) {
	tick := time.NewTicker(openTimeout / 50)
	defer tick.Stop()
	for end := time.Now().Add(openTimeout); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		h.mu.Lock()
		w := h.wires[id]
		h.mu.Unlock()
		if w != nil && (!w.relayed || h.direct(far) == nil) || !h.connected(far) {
			return
		}
	}
	_ = h.host.Network().ClosePeer(far) // closed already is fine
}

// heard notes an address of a box, paired or not.
func (h *Host) heard(info libpeer.AddrInfo) {
	if info.ID == h.host.ID() || len(info.Addrs) == 0 {
		return
	}
	addrs := info.Addrs[:min(len(info.Addrs), 16)]
	known := h.host.Peerstore().Addrs(info.ID)
	news := slices.ContainsFunc(addrs, func(a ma.Multiaddr) bool { return !slices.ContainsFunc(known, a.Equal) })
	h.host.Peerstore().AddAddrs(info.ID, addrs, addressTTL)
	h.mu.Lock()
	if len(h.found) > 256 { // somebody floods; old ones announce themselves again
		clear(h.found)
	}
	h.found[info.ID] = time.Now()
	if cancel := h.dialing[peer.ID(info.ID.String())]; cancel != nil && news && h.wires[peer.ID(info.ID.String())] == nil {
		cancel() // an attempt at the old addresses would keep the new ones waiting
	}
	if news {
		delete(h.through.straight, peer.ID(info.ID.String()))
	}
	h.mu.Unlock()
	h.look()
}
