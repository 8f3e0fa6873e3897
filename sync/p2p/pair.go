// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/libp2p/go-libp2p/core/network"
	libpeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"hallig/sync/peer"
)

// Declined is why the box that shows the code does not want to be paired with this one, in its own words.
type Declined struct{ Reason string }

func (d *Declined) Error() string { return "the other box declines: " + d.Reason }

// ErrNotKept is that this box itself does not want to be paired with the one that it has met.
var ErrNotKept = errors.New("this box does not take the other one")

// On the pairing stream each message of peer's exchange goes with a status byte (0: a message follows) and a uvarint
// length in front.
const (
	statusOK    = 0
	statusNone  = 1 // no code on show
	statusSpent = 2
	statusWrong = 3
	statusFail  = 4 // the message, if any, says why; only who has proven to know the code is told

	maxReason = 1 << 10

	pairTimeout = 15 * time.Second
)

// ShowCode shows a new code, which makes an older one void. It gives the code and the text for a QR code, which names
// this box's addresses too.
func (h *Host) ShowCode(lifetime time.Duration) (peer.Code, string, error) {
	o, err := peer.NewOffer(h.cfg.Box.Public().(ed25519.PublicKey), h.now(), lifetime, h.random())
	if err != nil {
		return peer.Code{}, "", err
	}
	h.mu.Lock()
	h.offer = o
	h.mu.Unlock()
	return o.Code, o.Code.URI(h.Addrs()...), nil
}

// HideCode makes the code on show void.
func (h *Host) HideCode() {
	h.mu.Lock()
	h.offer = nil
	h.mu.Unlock()
}

// CodeOpen says whether a code is on show and not spent.
func (h *Host) CodeOpen() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.offer != nil && h.offer.Open(h.now())
}

// handlePair is the side that shows the code.
func (h *Host) handlePair(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(pairTimeout)) // a stream without deadlines ends with its connection
	far := s.Conn().RemotePeer()
	h.allow(far, 1)
	p, err := h.show(s, far)
	switch {
	case err != nil:
		h.log.Info("pairing failed", "peer", peer.ID(far.String()).Short(), "err", err)
		var why []byte
		if errors.Is(err, ErrNotKept) {
			why = []byte(reason(strings.TrimPrefix(err.Error(), ErrNotKept.Error()+": ")))
		}
		_ = writePair(s, statusOf(err), why) // the far end sees the stream end anyway
		h.spawn(func() { h.release(far) })
	default:
		h.log.Info("paired", "peer", p.ID.Short(), "server", p.Server)
		h.allow(far, -1)
		h.look()
	}
}

// release lets go of a box that was admitted for pairing, a moment later so that the last word gets through. If it is no
// pair now, the connection goes with the next look.
func (h *Host) release(id libpeer.ID) {
	wait := time.NewTimer(time.Second)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-h.ctx.Done():
	}
	h.allow(id, -1)
	h.look()
}

func (h *Host) show(s network.Stream, far libpeer.ID) (peer.Peer, error) {
	key, err := peer.ID(far.String()).Key()
	if err != nil {
		return peer.Peer{}, err
	}
	in := bufio.NewReader(s)
	msg, err := readPair(in)
	if err != nil {
		return peer.Peer{}, err
	}
	h.mu.Lock()
	if h.offer == nil {
		h.mu.Unlock()
		return peer.Peer{}, peer.ErrNoCode
	}
	showing, reply, err := h.offer.Answer(h.self(), key, msg, h.now(), h.random())
	h.mu.Unlock()
	if err != nil {
		return peer.Peer{}, err
	}
	if err := writePair(s, statusOK, reply); err != nil {
		return peer.Peer{}, err
	}
	if msg, err = readPair(in); err != nil {
		return peer.Peer{}, err
	}
	h.mu.Lock()
	p, reply, err := showing.Confirm(msg)
	h.mu.Unlock()
	if err != nil {
		return peer.Peer{}, err
	}
	if err := h.keep(p); err != nil {
		return peer.Peer{}, err
	}
	if err := writePair(s, statusOK, reply); err != nil {
		return p, err
	}
	if msg, err = readPair(in); err != nil {
		return p, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return p, showing.Done(msg)
}

func (h *Host) self() peer.Self { return peer.Self{Box: h.cfg.Box, Statement: h.cfg.Statement} }

// keep stores a new pair, then lets it in.
func (h *Host) keep(p peer.Peer) error {
	if h.cfg.Paired != nil {
		if err := h.cfg.Paired(p); err != nil {
			return fmt.Errorf("%w: %w", ErrNotKept, err)
		}
	}
	h.mu.Lock()
	h.roster = h.roster.With(p)
	delete(h.refused, p.ID)
	h.mu.Unlock()
	h.look()
	return nil
}

// Take pairs with the box that shows the code. Where it is comes from the code if that was a QR code's text, else from
// addr ("192.0.2.7:4001" or a multiaddr, with or without the peer id), else from mDNS; ctx bounds the search.
func (h *Host) Take(ctx context.Context, code string, addr string) (peer.Peer, error) {
	c, addrs, err := peer.ParseCode(code)
	if err != nil {
		return peer.Peer{}, err
	}
	if addr != "" {
		addrs = append(addrs, addr)
	}
	var last error
	for _, a := range addrs {
		info, err := h.whoIs(ctx, a)
		if err != nil {
			last = err
			continue
		}
		p, err := h.takeFrom(ctx, c, info)
		if err == nil || !errors.Is(err, errUnreachable) {
			return p, err
		}
		last = err
	}
	if addr != "" || last != nil && h.cfg.NoMDNS {
		return peer.Peer{}, last
	}
	return h.takeFromAnybody(ctx, c, last)
}

// takeFromAnybody waits for a box on the local network that the code hints at.
func (h *Host) takeFromAnybody(ctx context.Context, c peer.Code, last error) (peer.Peer, error) {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, id := range h.candidates(c) {
			p, err := h.takeFrom(ctx, c, libpeer.AddrInfo{ID: id})
			if err == nil || !errors.Is(err, errUnreachable) {
				return p, err
			}
			last = err
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return peer.Peer{}, last
			}
			return peer.Peer{}, errors.New("no box with that code on this network; check that the other box is on and shows it, or give its address")
		case <-tick.C:
		}
	}
}

// candidates are boxes heard by mDNS that the code may be of.
func (h *Host) candidates(c peer.Code) []libpeer.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []libpeer.ID
	for id := range h.found {
		if key, err := peer.ID(id.String()).Key(); err == nil && c.MayBe(key) {
			out = append(out, id)
		}
	}
	return out
}

var errUnreachable = errors.New("box cannot be reached, or shows no code")

// takeFrom runs the exchange with one box.
func (h *Host) takeFrom(ctx context.Context, c peer.Code, info libpeer.AddrInfo) (peer.Peer, error) {
	key, err := peer.ID(info.ID.String()).Key()
	if err != nil {
		return peer.Peer{}, fmt.Errorf("pair with %s: %w", info.ID, err)
	}
	if !c.MayBe(key) {
		return peer.Peer{}, peer.ErrWrongCode // not worth a try of the other box's
	}
	h.allow(info.ID, 1)
	defer h.look() // after the next line's: as a pair, or no longer admitted
	defer h.allow(info.ID, -1)
	ctx, cancel := context.WithTimeout(ctx, pairTimeout)
	defer cancel()
	if s, ok := h.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(info.ID)
	}
	if err := h.host.Connect(ctx, info); err != nil {
		return peer.Peer{}, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	s, err := h.host.NewStream(ctx, info.ID, protocolPair)
	if err != nil {
		return peer.Peer{}, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(pairTimeout)) // a stream without deadlines ends with its connection
	p, err := h.exchange(s, c, key)
	if err != nil {
		return peer.Peer{}, err
	}
	h.log.Info("paired", "peer", p.ID.Short(), "server", p.Server)
	return p, nil
}

func (h *Host) exchange(s network.Stream, c peer.Code, key ed25519.PublicKey) (peer.Peer, error) {
	taking, msg, err := peer.Take(c, h.self(), key, h.random())
	if err != nil {
		return peer.Peer{}, err
	}
	in := bufio.NewReader(s)
	if err := writePair(s, statusOK, msg); err != nil {
		return peer.Peer{}, err
	}
	if msg, err = readPair(in); err != nil {
		return peer.Peer{}, err
	}
	if msg, err = taking.Answer(msg); err != nil {
		return peer.Peer{}, err
	}
	if err := writePair(s, statusOK, msg); err != nil {
		return peer.Peer{}, err
	}
	if msg, err = readPair(in); err != nil {
		return peer.Peer{}, err
	}
	p, msg, err := taking.Finish(msg)
	if err != nil {
		return peer.Peer{}, err
	}
	if err := h.keep(p); err != nil {
		return peer.Peer{}, err
	}
	if err := writePair(s, statusOK, msg); err != nil {
		h.log.Debug("last message of pairing", "err", err) // both have stored the pair; only the code stays open
	}
	return p, nil
}

func (h *Host) allow(id libpeer.ID, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taking[id] += n; h.taking[id] <= 0 {
		delete(h.taking, id)
	}
}

// whoIs reads an address and finds out which box is there, if the address does not say: libp2p dials keys, not places,
// so it is told a wrong one and says whose it met. Pairing then proves that box by the code.
func (h *Host) whoIs(ctx context.Context, addr string) (libpeer.AddrInfo, error) {
	if !strings.HasPrefix(addr, "/") {
		place, port, err := net.SplitHostPort(addr)
		if err != nil {
			place, port = strings.Trim(addr, "[]"), "4001"
		}
		kind := "dns"
		if ip := net.ParseIP(place); ip != nil && ip.To4() != nil {
			kind = "ip4"
		} else if ip != nil {
			kind = "ip6"
		}
		addr = "/" + kind + "/" + place + "/tcp/" + port
	}
	m, err := ma.NewMultiaddr(addr)
	if err != nil {
		return libpeer.AddrInfo{}, fmt.Errorf("read address %q: %w", addr, err)
	}
	if info, err := libpeer.AddrInfoFromP2pAddr(m); err == nil {
		return *info, nil
	}
	public, _, err := ed25519.GenerateKey(h.random())
	if err != nil {
		return libpeer.AddrInfo{}, fmt.Errorf("look who is at %s: %w", addr, err)
	}
	nobody, err := libpeer.Decode(string(peer.IDOf(public)))
	if err != nil {
		return libpeer.AddrInfo{}, fmt.Errorf("look who is at %s: %w", addr, err)
	}
	h.allow(nobody, 1)
	defer h.allow(nobody, -1)
	err = h.host.Connect(ctx, libpeer.AddrInfo{ID: nobody, Addrs: []ma.Multiaddr{m}})
	h.host.Peerstore().ClearAddrs(nobody)
	var mismatch sec.ErrPeerIDMismatch
	if !errors.As(err, &mismatch) {
		return libpeer.AddrInfo{}, fmt.Errorf("no box at %s: %w", addr, err)
	}
	return libpeer.AddrInfo{ID: mismatch.Actual, Addrs: []ma.Multiaddr{m}}, nil
}

func statusOf(err error) byte {
	switch {
	case errors.Is(err, peer.ErrNoCode):
		return statusNone
	case errors.Is(err, peer.ErrCodeSpent):
		return statusSpent
	case errors.Is(err, peer.ErrWrongCode):
		return statusWrong
	}
	return statusFail
}

// reason is a sentence as it may be shown: one line of bounded length.
func reason(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return !unicode.IsGraphic(r) }), " ")
	if r := []rune(s); len(r) > maxReason/4 {
		s = string(r[:maxReason/4])
	}
	return s
}

func writePair(w io.Writer, status byte, msg []byte) error {
	b := append(binary.AppendUvarint([]byte{status}, uint64(len(msg))), msg...)
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write pairing message: %w", err)
	}
	return nil
}

func readPair(r *bufio.Reader) ([]byte, error) {
	status, err := r.ReadByte()
	if err != nil {
		return nil, fmt.Errorf("read pairing message: %w", err)
	}
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, fmt.Errorf("read pairing message: %w", err)
	}
	switch {
	case status == statusNone:
		return nil, peer.ErrNoCode
	case status == statusSpent:
		return nil, peer.ErrCodeSpent
	case status == statusWrong:
		return nil, peer.ErrWrongCode
	case status == statusFail && n > 0 && n <= maxReason:
		why := make([]byte, n)
		if _, err := io.ReadFull(r, why); err != nil {
			return nil, fmt.Errorf("read pairing message: %w", err)
		}
		return nil, &Declined{Reason: reason(string(why))}
	case status != statusOK:
		return nil, errors.New("the other box could not go on")
	case n > peer.MaxPairingMessage:
		return nil, fmt.Errorf("read pairing message: %d bytes", n)
	}
	msg := make([]byte, n)
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil, fmt.Errorf("read pairing message: %w", err)
	}
	return msg, nil
}
