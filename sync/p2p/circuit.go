// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	libpeer "github.com/libp2p/go-libp2p/core/peer"
	pbv2 "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/util"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	ma "github.com/multiformats/go-multiaddr"

	"hallig/sync/peer"
)

// This file is the box's side of a relay: being reached through it, reaching others through it when there is no straight way, and leaving it as soon as there is one.

const (
	reserveEvery = reservationLife / 3
	reserveAgain = time.Minute // after a refusal
	detourFirst  = time.Second
	detourMost   = time.Minute
	// The box that does not open the parcel stream waits with a circuit of its own: else there would be two most of the time.
	detourLater    = 10 * time.Second
	straightFirst  = 30 * time.Second
	straightMost   = 10 * time.Minute
	circuitNew     = 5 * time.Second // for so long an idle circuit may be one that somebody is about to use
	relayedSlower  = 5               // signs of life come so much more seldom through a relay, which pays for both of its lines
	maxHopMessage  = 4096
	circuitTimeout = 15 * time.Second
)

// through is what a box knows of its ways through the relay; guarded by Host.mu.
type through struct {
	punching *holepunch.Service   // nil: not yet
	seen     []ma.Multiaddr       // where a hole to this box can be made, or could be last
	by       string               // the connection to the relay by which this box can be reached
	again    time.Time            // of the next reservation
	asking   bool                 //
	detours  map[peer.ID]attempts // at circuits
	straight map[peer.ID]attempts // at a straight way, to boxes that are reached by a circuit
	moving   map[peer.ID]bool     // at work on that
}

// attempts are those that failed in a row.
type attempts struct {
	wait time.Duration
	next time.Time
}

func (a attempts) failed(first, most time.Duration, now time.Time) attempts {
	a.wait = min(max(first, 2*a.wait), most)
	a.next = now.Add(a.wait)
	return a
}

// relayed says whether a connection goes through a relay.
func relayed(c network.Conn) bool {
	_, err := c.RemoteMultiaddr().ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

// direct gives a connection to a box that goes through nobody; nil: there is none.
func (h *Host) direct(far libpeer.ID) network.Conn {
	for _, c := range h.host.Network().ConnsToPeer(far) {
		if !c.IsClosed() && !relayed(c) {
			return c
		}
	}
	return nil
}

// connected says whether there is a connection of any kind.
func (h *Host) connected(far libpeer.ID) bool {
	now := h.host.Network().Connectedness(far)
	return now == network.Connected || now == network.Limited
}

// theRelay gives the host through which boxes may be reached, under h.mu.
func (h *Host) theRelay() (libpeer.ID, bool) {
	p, ok := h.roster.ByServer(h.cfg.Through)
	if h.cfg.Through == "" || !ok {
		return "", false
	}
	id, err := libpeer.Decode(string(p.ID))
	return id, err == nil
}

// reserve sees to it that others can reach this box through the relay.
func (h *Host) reserve(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	far, ok := h.theRelay()
	if !ok || h.closed || h.through.asking {
		return
	}
	c := h.direct(far)
	if c == nil || c.ID() == h.through.by && time.Now().Before(h.through.again) {
		return
	}
	if h.views[far].conn != c.ID() {
		return // not identified yet; that wakes the dialler
	}
	fresh := c.ID() != h.through.by
	h.through.asking = true
	h.wg.Go(func() {
		err := h.readyToPunch(far)
		if err == nil {
			err = h.askForPlace(ctx, far)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.through.asking, h.through.by = false, c.ID()
		h.through.again = time.Now().Add(reserveEvery)
		if err != nil {
			h.through.again = time.Now().Add(reserveAgain)
			h.log.Debug("be reached through the hub", "err", err)
			return
		}
		if fresh {
			clear(h.through.detours) // what was out of reach may be there as well
		}
	})
}

// askForPlace is the reservation itself. libp2p's own would refuse it when this machine's clock is ahead.
// https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
func (h *Host) askForPlace(ctx context.Context, far libpeer.ID) error {
	ctx, stop := context.WithTimeout(network.WithNoDial(ctx, "connected already"), openTimeout)
	defer stop()
	s, err := h.host.NewStream(ctx, far, proto.ProtoIDv2Hop)
	if err != nil {
		return fmt.Errorf("reserve: %w", err)
	}
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(openTimeout)) // a stream without deadlines ends with its connection
	answer := pbv2.HopMessage{}
	err = util.NewDelimitedWriter(s).WriteMsg(&pbv2.HopMessage{Type: pbv2.HopMessage_RESERVE.Enum()})
	if err == nil {
		in := util.NewDelimitedReader(s, maxHopMessage)
		defer in.Close()
		err = in.ReadMsg(&answer)
	}
	if err == nil && (answer.GetType() != pbv2.HopMessage_STATUS || answer.GetStatus() != pbv2.Status_OK) {
		err = errors.New(answer.GetStatus().String())
	}
	if err != nil {
		_ = s.Reset()
		return fmt.Errorf("reserve: %w", err)
	}
	return nil
}

// detour connects to a box through the relay.
func (h *Host) detour(ctx context.Context, id peer.ID, far libpeer.ID) bool {
	h.mu.Lock()
	by, ok := h.theRelay()
	ok = ok && by != far
	now := time.Now()
	tried, known := h.through.detours[id]
	if ok && !known && !peer.Initiates(h.id, id) {
		tried = attempts{next: now.Add(detourLater)}
		h.through.detours[id] = tried
	}
	h.mu.Unlock()
	if !ok || now.Before(tried.next) || h.direct(by) == nil {
		return false
	}
	at, err := ma.NewMultiaddr("/p2p/" + by.String() + "/p2p-circuit")
	if err == nil {
		ctx, stop := context.WithTimeout(network.WithAllowLimitedConn(ctx, "there is no straight way"), circuitTimeout)
		defer stop()
		err = h.host.Connect(ctx, libpeer.AddrInfo{ID: far, Addrs: []ma.Multiaddr{at}})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.through.detours[id] = tried.failed(detourFirst, detourMost, time.Now())
		h.log.Debug("reach box through the hub", "peer", id.Short(), "err", err)
		return false
	}
	delete(h.through.detours, id)
	return true
}

// straighten looks for a straight way to the boxes that are reached through the relay, and takes it where there is one: by an address that has become known, or by the hole that
// both ends have punched meanwhile. Circuits that nobody needs any more are closed.
func (h *Host) straighten(ctx context.Context) {
	if h.cfg.Through == "" {
		return
	}
	var idle []network.Conn
	h.mu.Lock()
	now := time.Now()
	for id, w := range h.wires {
		far := w.stream.Conn().RemotePeer()
		idle = append(idle, h.idle(far, w.stream.Conn(), now)...)
		if h.closed || !w.relayed || h.through.moving[id] || h.direct(far) == nil && now.Before(h.through.straight[id].next) {
			continue
		}
		h.through.moving[id] = true
		h.wg.Go(func() {
			moved := h.move(ctx, id, far)
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.through.moving, id)
			if moved {
				delete(h.through.straight, id)
			} else {
				h.through.straight[id] = h.through.straight[id].failed(straightFirst, straightMost, time.Now())
			}
		})
	}
	h.mu.Unlock()
	for _, c := range idle {
		_ = c.Close() // closed already is fine
	}
}

// idle are the circuits to a box that has a better connection.
func (h *Host) idle(far libpeer.ID, used network.Conn, now time.Time) (out []network.Conn) {
	for _, c := range h.host.Network().ConnsToPeer(far) {
		if c.ID() != used.ID() && relayed(c) && len(c.GetStreams()) == 0 && now.Sub(c.Stat().Opened) > circuitNew {
			out = append(out, c)
		}
	}
	return out
}

// move takes the parcel stream to a straight connection and stays as long as it lives. false: there is no such connection.
func (h *Host) move(ctx context.Context, id peer.ID, far libpeer.ID) bool {
	if h.direct(far) == nil && !h.dial(ctx, id, far) && !h.punch(far) {
		return false
	}
	h.noteReached(id, far)
	if !peer.Initiates(h.id, id) {
		h.expect(ctx, id, far)
		return true
	}
	s, err := h.open(ctx, far)
	if err != nil {
		h.log.Debug("take the straight way", "peer", id.Short(), "err", err)
		return false
	}
	if relayed(s.Conn()) { // the straight one is gone again
		_ = s.Reset()
		return false
	}
	h.run(id, s)
	return true
}
