// SPDX-License-Identifier: EUPL-1.2

package arq

import (
	"fmt"
	"time"

	"hallig/radio/frame"
)

// message is one message on its way out.
type message struct {
	data       []byte
	token      any
	framed     int  // bytes already in frames
	frames     int  // frames under way that hold a part of it
	generation int  // of the keys it was queued under
	last       bool // all of it is in frames
	done       bool
}

func (m *message) finish(l *Link, err error) {
	if m.done {
		return
	}
	m.done = true
	if err == nil {
		l.stats.MessagesSent++
	}
	l.events = append(l.events, Event{Kind: Done, Token: m.token, Err: err})
}

type outState uint8

const (
	free  outState = iota
	sent           // under way, fate unknown
	lost           // to be sent again
	acked          // arrived
)

// outFrame is a frame whose number is bound to its body until it is acknowledged.
type outFrame struct {
	state      outState
	frame      frame.Frame
	messages   []*message
	generation int
	tries      int
	order      uint64    // of its last transmission
	bound      time.Time // when it was first sent
	quiet      bool      // sent without asking for an answer
	copies     int       // still to be sent in this go
	coded      bool      // its last transmission was
	copied     bool      // there were any
}

// Send queues a message. It is kept, not copied. The Done event with its token comes exactly once.
func (l *Link) Send(priority int, data []byte, token any) {
	m := &message{data: data, token: token, generation: l.generation}
	switch {
	case priority < 0 || priority >= frame.Priorities:
		m.finish(l, fmt.Errorf("send message: no priority %d", priority))
	case len(data) > MaxMessage:
		m.finish(l, fmt.Errorf("send message: %d bytes, at most %d", len(data), MaxMessage))
	case l.state != up:
		m.finish(l, ErrDown)
	default:
		l.queue[priority] = append(l.queue[priority], m)
		l.queued[priority] += len(data) + 1
	}
}

// choose finds what to send next: a lost frame, or else the priority to make a new frame of (-1: nothing).
func (l *Link) choose() (again *outFrame, fresh int) {
	if fresh = -1; l.held {
		return nil, fresh
	}
	if l.nxt-l.una < window {
		fresh = l.freshest()
	}
	var copied *outFrame
	for s := l.una; s != l.nxt; s++ {
		o := &l.out[s%window]
		if o.state == lost && (again == nil || o.frame.Priority < again.frame.Priority) {
			again = o
		}
		if o.state == sent && o.copies > 0 {
			copied = o
		}
	}
	// A copy goes behind another frame, if there is one: what hits the one may miss the other.
	if copied != nil && (copied.order < l.order || again == nil && fresh < 0) {
		return copied, -1
	}
	if again != nil && fresh >= 0 && fresh < int(again.frame.Priority) {
		again = nil
	}
	if again != nil {
		fresh = -1
	}
	return again, fresh
}

// splinter is the body of a frame that fills what is left of a transmission, if the next new frame may be shorter than usual; 0: no.
func (l *Link) splinter(left time.Duration) int {
	again, p := l.choose()
	if again != nil || p < 0 || l.cfg.Air != nil {
		return 0
	}
	bytes := int(left * time.Duration(l.cfg.BitsPerSecond) / time.Duration(l.cfg.BitsPerByte) / time.Second)
	n := bytes - l.cfg.Framing.Size(frame.HeaderSize+l.mtu()+frame.TagSize) + l.mtu()
	m := l.queue[p][0]
	if whole := m.framed == 0 && len(m.data) < l.mtu(); whole || n < l.mtu()/2 || n < leastMTU {
		return 0
	}
	return n
}

// take returns the frame to send next, making it if it is new.
func (l *Link) take() *outFrame {
	o, p := l.choose()
	if o == nil && p >= 0 {
		o = l.bind(p)
	}
	switch {
	case o == nil:
	case o.state == sent:
		o.copies--
	default:
		o.copies = l.copies(o) - 1
		o.copied = o.copies > 0
	}
	return o
}

// pending says whether there is anything to send, and the size on the wire of the next frame (at most).
func (l *Link) pending() (size int, ok bool) {
	_, size, ok = l.upcoming()
	return size, ok
}

// upcoming is the priority of the next frame, and its size on the wire (at most).
func (l *Link) upcoming() (priority, size int, ok bool) {
	again, p := l.choose()
	switch {
	case again != nil:
		return int(again.frame.Priority), again.size(&l.cfg), true
	case p >= 0:
		n, mtu := 0, l.mtu()
		for _, m := range l.queue[p] {
			if n += len(m.data) - m.framed + 1; n >= mtu {
				n = mtu
				break
			}
		}
		return p, l.cfg.Framing.Size(frame.HeaderSize + n + frame.TagSize), true
	}
	return 0, 0, false
}

// size on the wire, without an acknowledgement.
func (o *outFrame) size(c *Config) int {
	return c.Framing.Size(frame.HeaderSize + len(o.frame.Body) + frame.TagSize)
}

// bind makes a new frame from the queue of a priority.
func (l *Link) bind(p int) *outFrame {
	mtu := l.mtu()
	o := &l.out[l.nxt%window]
	*o = outFrame{state: lost, generation: l.queue[p][0].generation}
	o.frame = frame.Frame{Type: frame.Data, Priority: uint8(p), Seq: l.nxt}
	if l.unacked[p] > 0 {
		o.frame.After = uint8(l.nxt - l.lastSeq[p])
	}
	l.unacked[p]++
	l.lastSeq[p] = l.nxt
	l.nxt++
	l.account(p, l.cfg.MTU)

	q := l.queue[p]
	if whole := q[0].framed == 0 && len(q[0].data) < mtu; l.room > 0 && !whole {
		mtu = min(mtu, l.room)
	}
	l.room = 0
	if m := q[0]; m.framed == 0 && len(m.data) <= mtu && !shares(q, mtu) {
		o.frame.Type, o.frame.Body = frame.Whole, m.data
		l.consume(p, o, len(m.data))
		return o
	}
	body := make([]byte, 0, mtu)
	for len(l.queue[p]) > 0 {
		q := l.queue[p]
		m, room := q[0], mtu-len(body)
		rest := len(m.data) - m.framed
		if len(body) > 0 && (m.generation != o.generation || !fits(m, room, mtu)) {
			break
		}
		n := min(rest, room-1)
		r := record{first: m.framed == 0, last: n == rest, toEnd: true}
		if head := recordHead(rest); len(q) > 1 && q[1].generation == o.generation && fits(q[1], room-head-rest, mtu) {
			r.toEnd = false
		}
		body = r.append(body, m.data[m.framed:m.framed+n])
		l.consume(p, o, n)
		if r.toEnd {
			break
		}
	}
	o.frame.Body = body
	return o
}

// shares says whether the second message of the queue fits behind the first in one frame.
func shares(q []*message, mtu int) bool {
	n := len(q[0].data)
	return len(q) > 1 && q[0].generation == q[1].generation && fits(q[1], mtu-recordHead(n)-n, mtu)
}

// fits says whether a record of m may go into the room left in a frame: a message that one frame can hold is never
// split (it would then need two frames to arrive), and no splinters are made of longer ones.
func fits(m *message, room, mtu int) bool {
	rest := len(m.data) - m.framed
	if rest+1 <= room {
		return true
	}
	return room >= 16 && (m.framed > 0 || rest+1 > mtu)
}

// consume moves n bytes of the first message of a queue into a frame.
func (l *Link) consume(p int, o *outFrame, n int) {
	m := l.queue[p][0]
	m.framed += n
	m.frames++
	o.messages = append(o.messages, m)
	l.queued[p] -= n
	if m.framed == len(m.data) {
		m.last = true
		l.queued[p]--
		l.queue[p][0] = nil
		l.queue[p] = l.queue[p][1:]
	}
}

// acknowledge takes an acknowledgement: all before next have arrived, and those of the bitmap. If it answers our question,
// what was sent before that and is not named was lost.
func (l *Link) acknowledge(next uint32, bitmap uint64, answer bool) {
	if int32(next-l.una) < 0 || int32(l.nxt-next) < 0 {
		return // an old answer, or nonsense
	}
	var blocked [frame.Priorities]bool
	for s := l.una; s != l.nxt; s++ {
		o := &l.out[s%window]
		arrived := int32(s-next) < 0
		if d := s - next - 1; !arrived && s != next && d < 64 {
			arrived = bitmap>>d&1 != 0
		}
		p := o.frame.Priority
		switch {
		case arrived && o.state != acked:
			l.fate(o, false)
			o.state, o.frame.Body = acked, nil
			l.unacked[p]--
		case answer && !arrived && o.state == sent && o.order <= l.askedAt:
			l.fate(o, true)
			o.state, o.quiet, o.copies, l.calm = lost, false, 0, 0
		}
		if blocked[p] = blocked[p] || o.state != acked; blocked[p] {
			continue // the far end holds it back until what comes before it is there
		}
		for _, m := range o.messages {
			if m.frames--; m.last && m.frames == 0 {
				m.finish(l, nil)
			}
		}
		o.messages = nil
	}
	for l.una != l.nxt && l.out[l.una%window].state == acked {
		l.out[l.una%window] = outFrame{}
		l.una++
	}
	if l.una == l.nxt {
		l.tinyAt = time.Time{}
	}
}

// fate tells the weather what became of a frame's latest transmission. One that was sent several times in one go says nothing of one.
func (l *Link) fate(o *outFrame, lost bool) {
	if o.state == sent && !o.copied {
		if o.coded {
			l.coding.note(lost)
		} else {
			c := l.cfg
			if c.Correct {
				c.Framing = frame.COBS
			}
			l.weather.note(o.size(&c), lost)
		}
		l.coding.barred--
	}
}

// mayEnd says whether a frame, the last there is to send, may go without asking for an answer.
func (l *Link) mayEnd(o *outFrame) bool {
	return l.cfg.slow() && o.frame.Type == frame.Whole && len(o.frame.Body) <= tiny && o.frame.Priority >= 3 && o.tries == 0 &&
		l.fails == 0 && l.calm >= calmAfter && !l.ackApart(o) && l.onlyQuiet(o)
}

// onlyQuiet says whether nothing but o and what went quietly is under way.
func (l *Link) onlyQuiet(o *outFrame) bool {
	for s := l.una; s != l.nxt; s++ {
		if x := &l.out[s%window]; x != o && x.state != acked && !x.quiet {
			return false
		}
	}
	return true
}

// unresolved counts frames whose fate is not known and was asked for, and finds one.
func (l *Link) unresolved() (n int, one *outFrame) {
	for s := l.una; s != l.nxt; s++ {
		if o := &l.out[s%window]; o.state == sent && !o.quiet {
			n, one = n+1, o
		}
	}
	return n, one
}

// transmit seals, frames and accounts for one frame.
func (l *Link) transmit(now time.Time, f *frame.Frame, k *frame.Key) []byte {
	raw := frame.Seal(nil, f, frame.Context{Sender: l.my, Receiver: l.peer}, k)
	var wire []byte
	// A frame after trouble, or that nobody expects, is kept apart from noise before it.
	if l.fresh && (l.fails > 0 || f.Type == frame.Hello) {
		wire = append(wire, l.cfg.Framing.Resync()...)
	}
	if l.announce != nil && (l.fresh || l.cfg.FullDuplex) {
		wire, l.announce = append(wire, l.announce...), nil
	}
	wire = l.framing(f).Append(wire, raw)
	air := l.cfg.airtime(len(wire))
	if l.cfg.Air != nil {
		air = l.cfg.airtime(len(raw)) // what the modem strips is not on the air
	}
	l.book(now, air)
	l.fresh = false
	l.stats.FramesSent++
	l.stats.BytesSent += uint64(len(wire))
	return wire
}
