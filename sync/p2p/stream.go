// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"hallig/sync/peer"
)

// The parcel stream carries frames: a uvarint of length<<1 and the message, or a uvarint of count<<1|1: so many messages
// have arrived here since the stream began. An unchanged count is a sign of life. The stream keeps the order of what
// was written, so a count acknowledges without numbers.
const (
	maxMessage   = 64 << 10
	window       = 512 << 10 // bytes queued or on the way, per peer
	priorities   = 5
	signOfLife   = 1500 * time.Millisecond
	silenceLimit = 4 * time.Second
	bitRate      = 50_000_000 // what link is told; only the order of transports matters
)

var (
	errDown     = errors.New("box is not in reach")
	errReplaced = errors.New("a newer connection took over")
	errSilent   = errors.New("nothing heard")
)

// item is one message on its way.
type item struct {
	message []byte
	done    func(error)
}

// wire is one parcel stream to a paired box.
type wire struct {
	h       *Host
	peer    peer.ID
	stream  network.Stream
	relayed bool          // through a relay
	life    time.Duration // how often a sign of life is given
	quiet   time.Duration // how long the far end may be silent
	calls   *callbacks
	wake    chan struct{}
	gone    chan struct{} // closed by close
	ended   chan struct{} // closed when all callbacks of this wire have been made

	mu       sync.Mutex
	queues   [priorities][]item
	sent     []item // written, not yet counted by the far end
	bytes    int    // of all in queues and sent
	full     bool   // Free said no since the last ready
	counted  uint64 // messages the far end has counted
	arrived  uint64 // messages that arrived here
	told     uint64 // of which the far end knows
	err      error
	lastWord time.Time
}

// Name names the transport.
func (h *Host) Name() string { return "p2p" }

// handleParcel takes a stream that a paired box opened.
func (h *Host) handleParcel(s network.Stream) {
	p, ok := h.paired(s.Conn().RemotePeer())
	if !ok {
		_ = s.Reset() // a stranger; there is nothing to tell it
		return
	}
	h.noteReached(p.ID, s.Conn().RemotePeer()) // the dialler may not have looked since the connection was made, as after a pairing
	h.run(p.ID, s)
}

// run serves a parcel stream until it ends.
func (h *Host) run(id peer.ID, s network.Stream) {
	w := &wire{h: h, peer: id, stream: s, wake: make(chan struct{}, 1), gone: make(chan struct{}), ended: make(chan struct{}), lastWord: time.Now(), life: h.life, quiet: h.quiet}
	if w.relayed = relayed(s.Conn()); w.relayed {
		w.life, w.quiet = w.life*relayedSlower, w.quiet*relayedSlower
	}
	defer close(w.ended)
	for {
		h.mu.Lock()
		if h.closed || h.serving == nil {
			h.mu.Unlock()
			_ = s.Reset()
			return
		}
		old := h.wires[id]
		if old == nil {
			w.calls = h.serving
			delete(h.refused, id)
			h.wires[id] = w
			h.wg.Add(1)
			h.mu.Unlock()
			break
		}
		h.mu.Unlock()
		old.close(errReplaced)
		<-old.ended
	}
	defer h.wg.Done()
	if _, still := h.paired(s.Conn().RemotePeer()); !still {
		w.close(errDown) // removed while the stream was being set up
	}
	h.log.Info("box in reach", "peer", id.Short(), "addr", s.Conn().RemoteMultiaddr().String())
	h.spawn(func() { h.single(w) })
	w.calls.up(string(id), bitRate, maxMessage)
	wrote := make(chan struct{})
	go func() { // waited for below
		defer close(wrote)
		w.close(w.write())
	}()
	w.close(w.read())
	<-wrote
	h.mu.Lock()
	if h.wires[id] == w {
		delete(h.wires, id)
		h.scatter(id)
	}
	h.mu.Unlock()
	if errors.Is(w.err, errSilent) {
		_ = h.host.Network().ClosePeer(s.Conn().RemotePeer()) // TCP would go on hoping for minutes; closed already is fine
	}
	w.giveUp()
	h.log.Info("box out of reach", "peer", id.Short(), "err", w.err)
	w.calls.down(string(id))
	h.look()
}

// close ends the wire; the first reason counts.
func (w *wire) close(err error) {
	w.mu.Lock()
	first := w.err == nil
	if first {
		w.err = err
		close(w.gone)
	}
	w.mu.Unlock()
	if first {
		_ = w.stream.Reset()
	}
}

// giveUp tells the senders of everything that has not arrived.
func (w *wire) giveUp() {
	w.mu.Lock()
	lost := w.sent
	for p := range w.queues {
		lost = append(lost, w.queues[p]...)
		w.queues[p] = nil
	}
	w.sent, w.bytes = nil, 0
	err := w.err
	w.mu.Unlock()
	for _, it := range lost {
		it.done(err)
	}
}

func (w *wire) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Send queues a message; see link.Transport.
func (h *Host) Send(addr string, priority int, message []byte, done func(error)) {
	h.mu.Lock()
	w := h.wires[peer.ID(addr)]
	h.mu.Unlock()
	switch {
	case w == nil:
		done(errDown)
		return
	case len(message) == 0 || len(message) > maxMessage:
		done(fmt.Errorf("send message: %d bytes", len(message)))
		return
	}
	priority = min(max(priority, 0), priorities-1)
	w.mu.Lock()
	err := w.err
	if err == nil {
		w.queues[priority] = append(w.queues[priority], item{message, done})
		w.bytes += len(message)
	}
	w.mu.Unlock()
	if err != nil {
		done(err)
		return
	}
	w.nudge()
}

// Free says how much room there is; see link.Transport.
func (h *Host) Free(addr string, priority int) int {
	h.mu.Lock()
	w := h.wires[peer.ID(addr)]
	h.mu.Unlock()
	if w == nil {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0
	}
	room := window - w.bytes
	if priority <= 1 {
		room += maxMessage // what is urgent never waits for room
	}
	if room <= 0 {
		w.full = true
	}
	return room
}

// next takes what to write now: the most urgent message, and the count if it changed.
func (w *wire) next() (it item, ok bool, count uint64, tell bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	count, tell = w.arrived, w.arrived != w.told
	w.told = w.arrived
	for p := range w.queues {
		if q := w.queues[p]; len(q) > 0 {
			it, ok = q[0], true
			q[0] = item{}
			w.queues[p] = q[1:]
			w.sent = append(w.sent, it)
			break
		}
	}
	return it, ok, count, tell
}

func (w *wire) write() error {
	out := bufio.NewWriterSize(w.stream, 16<<10)
	tick := time.NewTicker(w.life)
	defer tick.Stop()
	var head [binary.MaxVarintLen64]byte
	uvarint := func(v uint64) error {
		_, err := out.Write(head[:binary.PutUvarint(head[:], v)])
		return err
	}
	for alive := true; ; {
		it, ok, count, tell := w.next()
		var err error
		if tell || alive {
			err = uvarint(count<<1 | 1)
		}
		alive = false
		if ok && err == nil {
			if err = uvarint(uint64(len(it.message)) << 1); err == nil {
				_, err = out.Write(it.message)
			}
		}
		if err != nil {
			return fmt.Errorf("write to box: %w", err)
		}
		if ok {
			continue
		}
		if err := out.Flush(); err != nil {
			return fmt.Errorf("write to box: %w", err)
		}
		select {
		case <-w.gone:
			return nil
		case <-w.wake:
		case <-tick.C:
			alive = true
			w.mu.Lock()
			silent := time.Since(w.lastWord)
			w.mu.Unlock()
			if silent > w.quiet {
				return fmt.Errorf("%w for %s", errSilent, silent.Round(time.Second))
			}
		}
	}
}

func (w *wire) read() error {
	return readFrames(bufio.NewReaderSize(w.stream, 16<<10), w.count, func(message []byte) {
		w.calls.received(string(w.peer), message)
		w.mu.Lock()
		w.arrived++
		w.lastWord = time.Now()
		w.mu.Unlock()
		w.nudge()
	})
}

// readFrames takes frames until one cannot be read.
func readFrames(in *bufio.Reader, count func(uint64) error, received func([]byte)) error {
	for {
		v, err := binary.ReadUvarint(in)
		if err != nil {
			return fmt.Errorf("read from box: %w", err)
		}
		if v&1 == 1 {
			if err := count(v >> 1); err != nil {
				return err
			}
			continue
		}
		n := v >> 1
		if n == 0 || n > maxMessage {
			return fmt.Errorf("read from box: message of %d bytes", n)
		}
		message := make([]byte, n)
		if _, err := io.ReadFull(in, message); err != nil {
			return fmt.Errorf("read from box: %w", err)
		}
		received(message)
	}
}

// count takes the far end's word on how many messages have arrived there.
func (w *wire) count(total uint64) error {
	w.mu.Lock()
	w.lastWord = time.Now()
	n := total - w.counted
	if total < w.counted || n > uint64(len(w.sent)) {
		w.mu.Unlock()
		return errors.New("read from box: it counts messages that nobody sent")
	}
	arrived := append([]item(nil), w.sent[:n]...)
	clear(w.sent[:n])
	w.sent = w.sent[n:]
	w.counted = total
	for _, it := range arrived {
		w.bytes -= len(it.message)
	}
	ready := w.full && w.bytes <= window/2
	if ready {
		w.full = false
	}
	w.mu.Unlock()
	for _, it := range arrived {
		it.done(nil)
	}
	if ready {
		w.calls.ready(string(w.peer))
	}
	return nil
}
