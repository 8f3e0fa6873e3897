// SPDX-License-Identifier: EUPL-1.2

// Package p2p is libp2p as a transport between boxes on IP networks. It keeps one connection to each paired box that is
// in reach, carries messages over one long-lived stream on it, HTTP over further streams both ways, and pairs boxes.
//
// It promises: a box that is not in the roster gets nothing but the pairing protocol, and that only while a code is on
// show; a lost box is dialled again about every second, at once when something shows that it is back, a hub after a random time, since all its boxes lose it together (crowd.go); memory and
// connections have explicit limits. There is no DHT, NAT probing or gossip: a host talks to the addresses it was
// given and to those it hears by mDNS, and to nobody else.
//
// Where boxes do not reach each other they meet through a hub, if they have one: circuits, encrypted from box to box, within limits of the hub (relay.go, circuit.go). Both ends then look for
// a straight way, also by punching holes through their routers (punch.go, door.go), and what goes on takes it as soon as it is there.
//
// It leaves to others: what the messages mean (sync/link), who is paired for good (the caller keeps the roster and is
// told of new pairs), what HTTP answers.
//
// Protocols: /hallig/parcel/1 (stream.go), /hallig/http/1 (plain HTTP/1.1), /hallig/http/2 (the same, packed: packed.go), /hallig/pair/1 (pair.go); of libp2p circuit relay v2 and DCUtR.
package p2p

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	libpeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	ma "github.com/multiformats/go-multiaddr"

	"hallig/sync/peer"
)

const (
	protocolParcel protocol.ID = "/hallig/parcel/1"
	protocolHTTP   protocol.ID = "/hallig/http/1"
	protocolPacked protocol.ID = "/hallig/http/2"
	protocolPair   protocol.ID = "/hallig/pair/1"
)

// Config is what a host needs. Box and Statement are required; the zero value of the rest is right for a box in the
// field, but for Paired: without it pairs are forgotten at the next start.
type Config struct {
	Box       ed25519.PrivateKey
	Statement []byte                // peer.State of Box: name and signing keys as others will know them
	Roster    peer.Roster           // boxes paired so far
	Paired    func(peer.Peer) error // stores a new pair; an error undoes the pairing

	Listen []string // multiaddrs; default TCP port 4001 on every interface; a "/udp/N/quic-v1" address adds QUIC
	Static []string // where paired boxes may be found: "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."
	// Announce, if set, is what others are told in place of the addresses listened on: a forwarded port, the host of a container.
	Announce []string
	// Meeting says that boxes come here and are never looked for: a hub with a name on the Internet. It dials nobody but who shows a code to it, and has limits for thousands.
	Meeting bool
	// Relay bounds what such a place carries between boxes that do not reach each other.
	Relay Relaying
	// Through is the server name of a paired host, a meeting place, through which boxes may reach each other. "": there is none.
	Through string
	NoMDNS  bool // neither announce this box nor look for others on the local network

	// Reached, if set, is told the address at which this box reached a paired one, in the form of Static: whoever keeps
	// it and gives it back finds the box again after a restart without mDNS. "": through the hub, where it may be again.
	Reached func(id peer.ID, addr string)

	Log *slog.Logger

	noPunch bool // tests: boxes of one machine that shall not find each other
}

// Host is this box on IP networks. Its methods are safe for concurrent use.
type Host struct {
	cfg      Config
	id       peer.ID
	host     host.Host
	relay    *relay // nil: nobody meets here
	log      *slog.Logger
	start    time.Time // zero of the monotonic clock that codes expire by
	accept   chan net.Conn
	asking   *roundTripper
	announce []ma.Multiaddr // empty: what is listened on
	kick     chan struct{}  // something changed: look at once whom to dial
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup // goroutines of ours that outlive a call
	life     time.Duration  // how often a sign of life is given
	quiet    time.Duration  // a far end unheard for so long is gone, whatever TCP hopes for

	unpackers sync.Pool // of *unpacker

	mu      sync.Mutex // guards all below; no callback is called under it
	roster  peer.Roster
	offer   *peer.Offer
	taking  map[libpeer.ID]int // unpaired boxes that this box asks to pair
	wires   map[peer.ID]*wire
	dialing map[peer.ID]context.CancelFunc
	refused map[peer.ID]int          // attempts that the far end turned down, since it last wanted anything of us
	tried   map[peer.ID]time.Time    // when the last attempt began: two that fail at once must not become a storm
	rests   map[peer.ID]time.Time    // no attempt before
	found   map[libpeer.ID]time.Time // heard by mDNS, paired or not
	views   map[libpeer.ID]view      // how connected far ends see this box
	through through
	serving *callbacks
	closed  bool
}

// callbacks are what Serve was given.
type callbacks struct {
	up       func(addr string, bitsPerSecond, mtu int)
	down     func(addr string)
	received func(addr string, message []byte)
	ready    func(addr string)
}

var errClosed = errors.New("p2p host is closed")

// New makes a host and listens. It dials nobody before Serve.
func New(cfg Config) (*Host, error) {
	if len(cfg.Box) != ed25519.PrivateKeySize {
		return nil, errors.New("start p2p: no box key")
	}
	if _, err := peer.ReadStatement(cfg.Statement); err != nil {
		return nil, fmt.Errorf("start p2p: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Listen) == 0 {
		cfg.Listen = []string{"/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"}
	}
	h := &Host{
		cfg: cfg, id: peer.IDOf(cfg.Box.Public().(ed25519.PublicKey)), log: cfg.Log, start: time.Now(), life: signOfLife, quiet: silenceLimit,
		accept: make(chan net.Conn), kick: make(chan struct{}, 1),
		roster: cfg.Roster, taking: make(map[libpeer.ID]int), wires: make(map[peer.ID]*wire),
		dialing: make(map[peer.ID]context.CancelFunc), tried: make(map[peer.ID]time.Time), rests: make(map[peer.ID]time.Time), refused: make(map[peer.ID]int), found: make(map[libpeer.ID]time.Time),
		views: make(map[libpeer.ID]view), through: through{detours: make(map[peer.ID]attempts), straight: make(map[peer.ID]attempts), moving: make(map[peer.ID]bool)},
	}
	h.asking = h.newRoundTripper()
	h.ctx, h.stop = context.WithCancel(context.Background())
	if err := h.listen(); err != nil {
		h.stop()
		return nil, err
	}
	return h, nil
}

func (h *Host) listen() error {
	var err error
	if h.announce, err = parseAddrs(h.cfg.Announce); err != nil {
		return fmt.Errorf("start p2p: %w", err)
	}
	n, err := newNode(h.cfg, (*gate)(h), h.announce, &door{port: h.punchPort})
	if err != nil {
		return fmt.Errorf("start p2p on %v: %w", h.cfg.Listen, err)
	}
	h.host = n
	h.host.SetStreamHandler(protocolParcel, h.handleParcel)
	h.host.SetStreamHandler(protocolHTTP, h.handleHTTP)
	h.host.SetStreamHandler(protocolPacked, h.handlePacked)
	h.host.SetStreamHandler(protocolPair, func(s network.Stream) { h.spawn(func() { h.handlePair(s) }) }) // libp2p waits for no handler, and this one writes down who is paired
	h.host.Network().Notify(&network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) {
			if c.Stat().Direction == network.DirInbound {
				h.welcome(peer.ID(c.RemotePeer().String()))
			}
			h.look()
		},
		DisconnectedF: func(_ network.Network, c network.Conn) {
			h.forget(c)
			h.look()
		},
	})
	if err := h.meet(n); err != nil {
		return errors.Join(err, n.Close())
	}
	return nil
}

// meet starts what boxes need that do not reach each other.
func (h *Host) meet(n *node) (err error) {
	if h.cfg.Meeting && !h.cfg.Relay.Off {
		h.relay, err = newRelay(h, n, h.cfg.Relay)
		return err
	}
	if h.cfg.Through == "" {
		return nil
	}
	return h.watchViews()
}

func parseAddrs(texts []string) ([]ma.Multiaddr, error) {
	var out []ma.Multiaddr
	for _, s := range texts {
		a, err := ma.NewMultiaddr(s)
		if err != nil {
			return nil, fmt.Errorf("read address %q (like /ip4/192.0.2.7/tcp/4001): %w", s, err)
		}
		out = append(out, a)
	}
	return out, nil
}

func isQUIC(s string) bool {
	a, err := ma.NewMultiaddr(s)
	if err != nil {
		return false
	}
	_, err = a.ValueForProtocol(ma.P_QUIC_V1)
	return err == nil
}

// Close ends everything. Serve must have returned or return soon after.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	wires, punching := h.wires, h.through.punching
	h.wires = make(map[peer.ID]*wire)
	h.mu.Unlock()
	h.stop()
	for _, w := range wires {
		w.close(errClosed)
	}
	var err error
	if h.relay != nil {
		err = h.relay.service.Close()
	}
	if punching != nil {
		err = errors.Join(err, punching.Close())
	}
	err = errors.Join(err, h.host.Close())
	h.wg.Wait()
	if err != nil {
		return fmt.Errorf("close p2p: %w", err)
	}
	return nil
}

// ID is this box's id.
func (h *Host) ID() peer.ID { return h.id }

// Addrs are the addresses this box can be reached at now, each with its peer id.
func (h *Host) Addrs() []string {
	addrs := h.announce
	if len(addrs) == 0 {
		var err error
		if addrs, err = h.host.Network().InterfaceListenAddresses(); err != nil {
			return nil
		}
	}
	var out []string
	for _, a := range addrs {
		if _, err := a.ValueForProtocol(ma.P_CIRCUIT); err == nil {
			continue // says no more than that this host speaks through relays
		}
		out = append(out, a.String()+"/p2p/"+string(h.id))
	}
	return out
}

// Neighbour is one paired box as the host sees it.
type Neighbour struct {
	Peer peer.Peer
	Up   bool
	// Relayed: through a hub, as there is no straight way.
	Relayed bool
	Addr    string // of the connection, while there is one
}

// Neighbours lists the paired boxes.
func (h *Host) Neighbours() []Neighbour {
	h.mu.Lock()
	roster, wires := h.roster, make(map[peer.ID]*wire)
	for id, w := range h.wires {
		wires[id] = w
	}
	h.mu.Unlock()
	var out []Neighbour
	for _, p := range roster.All() {
		n := Neighbour{Peer: p}
		if w := wires[p.ID]; w != nil {
			n.Up, n.Relayed, n.Addr = true, w.relayed, w.stream.Conn().RemoteMultiaddr().String()
		}
		out = append(out, n)
	}
	return out
}

// SetRoster replaces the roster: boxes that left it are cut off at once, new ones are dialled.
func (h *Host) SetRoster(r peer.Roster) {
	h.mu.Lock()
	var gone []peer.ID
	for _, p := range h.roster.All() {
		if _, still := r.ByID(p.ID); !still {
			gone = append(gone, p.ID)
		}
	}
	h.roster = r
	h.mu.Unlock()
	for _, id := range gone {
		h.cut(id)
	}
	h.look()
}

// cut closes all connections to a box.
func (h *Host) cut(id peer.ID) {
	h.mu.Lock()
	w := h.wires[id]
	h.mu.Unlock()
	if w != nil {
		w.close(errors.New("box was removed"))
	}
	if far, err := libpeer.Decode(string(id)); err == nil {
		if err := h.host.Network().ClosePeer(far); err != nil {
			h.log.Debug("close connection", "peer", id.Short(), "err", err)
		}
	}
}

// paired finds a box in the roster.
func (h *Host) paired(id libpeer.ID) (peer.Peer, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.roster.ByID(peer.ID(id.String()))
}

// welcome forgets that a box refused us.
func (h *Host) welcome(id peer.ID) {
	h.mu.Lock()
	delete(h.refused, id)
	h.mu.Unlock()
}

// look makes the dialler look again without waiting for its tick.
func (h *Host) look() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// spawn runs something that Close waits for; nothing once the host is closed.
func (h *Host) spawn(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.wg.Go(f)
	}
}

// now is the monotonic clock that codes expire by.
func (h *Host) now() time.Duration { return time.Since(h.start) }

// random is where nonces and keys come from.
func (h *Host) random() io.Reader { return rand.Reader }

// gate decides which connections may be: those with paired boxes, and, while a code is on show or being taken, those
// that may become pairs. It sees keys that libp2p has verified.
type gate Host

func (g *gate) admits(id libpeer.ID) bool {
	h := (*Host)(g)
	h.mu.Lock()
	defer h.mu.Unlock()
	_, paired := h.roster.ByID(peer.ID(id.String()))
	return paired || h.taking[id] > 0 || h.offer != nil && h.offer.Open(h.now())
}

func (g *gate) InterceptPeerDial(id libpeer.ID) bool {
	h := (*Host)(g)
	h.mu.Lock()
	defer h.mu.Unlock()
	_, paired := h.roster.ByID(peer.ID(id.String()))
	return paired || h.taking[id] > 0
}
func (g *gate) InterceptAddrDial(libpeer.ID, ma.Multiaddr) bool { return true }
func (g *gate) InterceptAccept(network.ConnMultiaddrs) bool     { return true }
func (g *gate) InterceptSecured(_ network.Direction, id libpeer.ID, _ network.ConnMultiaddrs) bool {
	return g.admits(id)
}
func (g *gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// limits are fixed: a small box must not scale them with memory that belongs to others, and overflow on 32 bit has
// stopped other programs from starting. Where boxes meet there is a machine for it.
func limits(meeting bool) rcmgr.ConcreteLimitConfig {
	many := 1
	if meeting {
		many = 128
	}
	return rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{Conns: rcmgr.LimitVal(128 * many), ConnsInbound: rcmgr.LimitVal(96 * many), ConnsOutbound: 64, FD: rcmgr.LimitVal(256 * many), Streams: rcmgr.LimitVal(1024 * many),
			StreamsInbound: rcmgr.LimitVal(768 * many), StreamsOutbound: rcmgr.LimitVal(512 * many), Memory: rcmgr.LimitVal64(64 << 20 * int64(many))},
		Transient: rcmgr.ResourceLimits{Conns: rcmgr.LimitVal(32 * many), ConnsInbound: rcmgr.LimitVal(24 * many), ConnsOutbound: 24, FD: rcmgr.LimitVal(64 * many), Streams: rcmgr.LimitVal(64 * many),
			StreamsInbound: rcmgr.LimitVal(48 * many), StreamsOutbound: rcmgr.LimitVal(48 * many), Memory: rcmgr.LimitVal64(8 << 20 * int64(many))},
		PeerDefault: rcmgr.ResourceLimits{Conns: 8, ConnsInbound: 6, ConnsOutbound: 6, FD: 8, Streams: 256, StreamsInbound: 160,
			StreamsOutbound: 160, Memory: 24 << 20},
		Conn: rcmgr.ResourceLimits{Memory: 16 << 20},
	}.Build(rcmgr.InfiniteLimits)
}
