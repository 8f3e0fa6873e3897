// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"

	"hallig/sync/peer"
)

// This file keeps boxes that lose their hub at the same moment from falling upon what is left of it all together, and a hub from being busy with nothing but the crowd that comes.

const (
	scatterMost = 2 * time.Second // of the ten in which a box has to be with another node
	turnAfter   = 250 * time.Millisecond
)

// scatter has the next attempt at the hub wait for a random time, after the last one and after a connection; under h.mu. When a node of the hub dies thousands of boxes see it at once, and handshakes
// that are all begun together are all finished too late.
func (h *Host) scatter(id peer.ID) {
	if far, ok := h.theRelay(); ok && id == peer.ID(far.String()) && h.wires[id] == nil {
		h.rests[id] = time.Now().Add(rand.N(scatterMost))
	}
}

// single closes what else connects this box with its hub: other nodes, whose handshakes were done at the same moment. Each has the hub's key and would take the box for itself, one from the other,
// again and again.
func (h *Host) single(w *wire) {
	h.mu.Lock()
	far, ok := h.theRelay()
	h.mu.Unlock()
	if !ok || w.peer != peer.ID(far.String()) || w.relayed {
		return
	}
	for _, c := range h.host.Network().ConnsToPeer(far) {
		if c.ID() != w.stream.Conn().ID() && !relayed(c) {
			_ = c.Close() // closed already is fine
		}
	}
}

// inTurn orders the addresses of a box that are dialled: by chance, the first at once, the second a little later, all others after that. To dial all at once costs a handshake at each; and as the
// nodes of a hub are addresses of one name, most boxes would go to the one that stands first.
func inTurn(addrs []ma.Multiaddr) []network.AddrDelay {
	out := make([]network.AddrDelay, len(addrs))
	for i, n := range rand.Perm(len(addrs)) {
		out[i] = network.AddrDelay{Addr: addrs[n], Delay: turnAfter * time.Duration(min(i, 2))}
	}
	return out
}

// untilNextLook waits until it is time to look again whom to dial: at the tick, or when something has changed, but after nine times what the last look took. A hub looks at all the boxes that are connected, and of a
// crowd that comes each changes something.
func (h *Host) untilNextLook(ctx context.Context, tick <-chan time.Time, took time.Duration) {
	rest := time.NewTimer(min(9*took, lookEvery))
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-ctx.Done():
	case <-h.ctx.Done():
	}
	select {
	case <-h.kick:
	case <-tick:
	case <-ctx.Done():
	case <-h.ctx.Done():
	}
}
