// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	libpeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"hallig/sync/peer"
)

// Hole punching: two boxes behind routers that let nothing in meet through the relay, tell each other as which address and port the relay sees them, and dial there at the same moment. Each router takes
// what comes from the other for the answer to what its own box has sent. libp2p settles the moment (DCUtR); ours are the addresses, and the port that is dialled from: the one of the connection to the
// relay, as most routers give a port of theirs to a port inside, wherever it speaks to. Meanwhile that port listens, too (door.go): who comes first finds it open.
// https://github.com/libp2p/specs/blob/master/relay/DCUtR.md

// view is how a far end sees this box.
type view struct {
	conn  string // id of the connection
	as    ma.Multiaddr
	local ma.Multiaddr
}

// watchViews notes how others see this box, until the host is closed.
func (h *Host) watchViews() error {
	sub, err := h.host.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
	if err != nil {
		return fmt.Errorf("listen to what others see: %w", err)
	}
	h.wg.Go(func() {
		defer sub.Close()
		for {
			select {
			case <-h.ctx.Done():
				return
			case e, ok := <-sub.Out():
				if !ok {
					return
				}
				told, _ := e.(event.EvtPeerIdentificationCompleted)
				if told.Conn == nil || told.ObservedAddr == nil || relayed(told.Conn) || told.Conn.Stat().Direction != network.DirOutbound {
					continue
				}
				h.mu.Lock()
				h.views[told.Peer] = view{told.Conn.ID(), told.ObservedAddr, told.Conn.LocalMultiaddr()}
				h.mu.Unlock()
				h.look()
			}
		}
	})
	return nil
}

// forget drops how a far end has seen this box by a connection that is over.
func (h *Host) forget(c network.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.views[c.RemotePeer()].conn == c.ID() {
		delete(h.views, c.RemotePeer())
	}
}

// seen is how the relay sees this box.
func (h *Host) seen() (view, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	by, ok := h.theRelay()
	if !ok {
		return view{}, false
	}
	v, ok := h.views[by]
	return v, ok
}

// readyToPunch begins hole punching, before anybody can come through the relay.
func (h *Host) readyToPunch(far libpeer.ID) error {
	if h.cfg.noPunch {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.views[far]
	if !ok {
		return errors.New("the connection is over")
	}
	h.through.seen = []ma.Multiaddr{v.as}
	if !v.as.Equal(v.local) {
		h.through.seen = append(h.through.seen, v.local) // for a box behind the same router
	}
	if h.through.punching != nil || h.closed {
		return nil
	}
	n, _ := h.host.(*node)
	s, err := holepunch.NewService(n.BasicHost, n.IDService(), h.punchAddrs)
	if err != nil {
		return fmt.Errorf("start hole punching: %w", err)
	}
	h.through.punching = s
	return nil
}

// punchAddrs are where a hole to this box can be made.
func (h *Host) punchAddrs() []ma.Multiaddr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.through.seen)
}

// punch makes a hole to a box that has come by a circuit; libp2p tries by itself when the circuit begins. false: it did not work, or it is for the other one to try.
func (h *Host) punch(far libpeer.ID) bool {
	h.mu.Lock()
	s, w := h.through.punching, h.wires[peer.ID(far.String())]
	h.mu.Unlock()
	if s == nil || w == nil || w.stream.Conn().Stat().Direction != network.DirInbound {
		return false
	}
	if err := s.DirectConnect(far); err != nil {
		h.log.Debug("punch a hole", "peer", w.peer.Short(), "err", err)
		return false
	}
	return h.direct(far) != nil
}

// punchPort is the local TCP port of the connection to the relay; 0: there is none.
func (h *Host) punchPort() int {
	v, ok := h.seen()
	if !ok {
		return 0
	}
	at, err := manet.ToNetAddr(v.local)
	if tcp, ok := at.(*net.TCPAddr); ok && err == nil {
		return tcp.Port
	}
	return 0
}

// punched says whether a connection was made through a hole: its far address is good for this once only.
func (h *Host) punched(c network.Conn) bool {
	h.mu.Lock()
	by, _ := h.theRelay()
	h.mu.Unlock()
	if c.RemotePeer() == by {
		return false // the one whose port it is
	}
	port, err := c.LocalMultiaddr().ValueForProtocol(ma.P_TCP)
	return err == nil && port == strconv.Itoa(h.punchPort())
}
