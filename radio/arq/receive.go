// SPDX-License-Identifier: EUPL-1.2

package arq

import (
	"time"

	"hallig/radio/frame"
)

// inFrame is a frame that has arrived and whose place in the window is kept until all before it have arrived too.
type inFrame struct {
	have, delivered bool
	typ             frame.Type
	priority, after uint8
	body            []byte
}

// assembly is the message of a priority that is being put together.
type assembly struct {
	open bool
	data []byte
}

// widen finds the 32-bit number nearest to near whose low 8 bits are given.
func widen(near, low uint32) uint32 {
	return near + uint32(int32(int8(byte(low)-byte(near))))
}

// Heard says that bytes have just come in: somebody is sending. It goes before Receive.
func (l *Link) Heard(now time.Time) {
	l.heardAt = now
	if l.turn == wait || l.asked {
		l.deadline = later(l.deadline, earlier(now.Add(l.carrierGap()), l.lastAsk))
	}
}

// Receive takes one frame as it came out of the framing. raw is overwritten.
func (l *Link) Receive(now time.Time, raw []byte) {
	if l.state == closed {
		return
	}
	f, err := frame.Parse(raw)
	if err != nil {
		l.stats.FramesRefused++
		return
	}
	if f.Type == frame.Hello {
		if frame.Open(raw, &f, frame.Context{}, nil) != nil {
			l.stats.FramesRefused++
			return
		}
		l.stats.FramesReceived++
		l.hello(now, &f)
		return
	}
	f.Seq, f.Next = widen(l.rnext, f.Seq), widen(l.una, f.Next)
	if l.peer == 0 || !l.open(raw, &f) {
		l.stats.FramesRefused++
		return
	}
	l.stats.FramesReceived++
	l.coding.received(&f)
	if l.state != up {
		l.contact(now) // it knows our epoch: as good as a hello
	}
	answer := f.Ack && l.answers(&f)
	if answer {
		l.measure(now, &f, len(raw))
	}
	if l.calm++; f.Type == frame.Control && f.Poll && now.Sub(l.lastValid) < l.cfg.KeepAlive/2 {
		l.calm = 0 // it has missed an answer, or we its frame
	}
	l.fails, l.lastValid, l.frameAt = 0, now, now
	l.peerMore = f.More
	if f.Ack {
		l.acknowledge(f.Next, f.Bitmap, answer)
		if l.hopeless(now) {
			l.lose()
			l.seek(now)
			return
		}
	}
	if f.Type != frame.Control {
		l.ackDue, l.rideDue = true, l.rideDue || f.End
		l.accept(&f)
	}
	if f.Poll {
		l.heard = f.Odd || l.cfg.Shared && f.More && f.Type == frame.Control
	}
	l.pass(now, &f, answer)
}

// answers says whether an acknowledgement was written when our last question had been heard. With turns nothing else can be.
func (l *Link) answers(f *frame.Frame) bool {
	return !l.cfg.FullDuplex || l.unanswered && f.Heard == l.odd
}

// pass decides whose turn it is after a frame.
func (l *Link) pass(now time.Time, f *frame.Frame, answer bool) {
	if l.cfg.FullDuplex {
		if answer {
			l.asked, l.unanswered = false, false
		}
		if f.Poll {
			l.oweAnswer(now, f.More, f.Type == frame.Control)
		}
		return
	}
	if l.turn == mine && !l.fresh {
		// We are sending ourselves (a wire that is faster than its configuration); the poll at our end settles it.
		l.owe, l.ackDue = l.owe || f.Poll, l.ackDue || f.Poll
		return
	}
	l.turn, l.inBurst = idle, false
	l.twice = l.twice && f.Type == frame.Control && !f.Poll
	switch {
	case f.Poll:
		l.oweAnswer(now, f.More, f.Type == frame.Control)
	case f.Type == frame.Control && f.Odd:
		l.inBurst = true
	case f.Type == frame.Control:
		l.holdUntil, l.owe = now, false // the turn is given back
		second := l.twice
		if l.twice = doubled(f) && !second; !l.twice {
			l.heardAt = time.Time{} // nothing more comes: no need to listen before we go on
		}
	case f.End:
		l.holdUntil, l.owe, l.heardAt = now, false, time.Time{}
	default:
		l.inBurst = true
	}
}

// doubled says whether a frame that gives the turn back is sent twice. Where frames are being lost, an acknowledgement
// that is lost too costs more than its few bytes.
func doubled(f *frame.Frame) bool { return f.Bitmap != 0 }

// oweAnswer notes that the far end waits for an answer, at once or, if nothing is at stake, a moment later, so that what
// the reader says to the message can ride along.
func (l *Link) oweAnswer(now time.Time, more, bare bool) {
	l.owe, l.ackDue, l.answerAt, l.notBefore = true, true, now, now
	if bare && !l.cfg.FullDuplex {
		// It may come a second time.
		l.notBefore = now.Add(l.cfg.airtime(l.farFraming().Size(2+frame.TagSize)) + slack/5)
	}
	if _, work := l.pending(); !work && !more {
		l.answerAt = now.Add(l.cfg.AnswerDelay)
	}
}

// gaps notes how many of the far end's new frames did not come, which tells what becomes of ours as long as we have sent few.
func (l *Link) gaps(seq uint32) {
	missed := int32(seq - l.newest - 1)
	if missed < 0 {
		return // a repetition
	}
	l.newest = seq
	for range missed {
		l.missed += (1 - l.missed) / 32
	}
	l.missed -= l.missed / 32
}

// accept takes a data frame into the window and delivers what can be delivered.
func (l *Link) accept(f *frame.Frame) {
	d := int32(f.Seq - l.rnext)
	if d < 0 || d >= window || l.full {
		return
	}
	slot := &l.in[f.Seq%window]
	if slot.have {
		return
	}
	l.gaps(f.Seq)
	*slot = inFrame{have: true, typ: f.Type, priority: f.Priority, after: f.After, body: append([]byte(nil), f.Body...)}
	for s := l.rnext; s != l.rnext+window; s++ {
		i := &l.in[s%window]
		if !i.have || i.delivered {
			continue
		}
		if before := s - uint32(i.after); i.after != 0 && int32(before-l.rnext) >= 0 && !l.in[before%window].delivered {
			continue
		}
		l.deliver(i)
		i.delivered, i.body = true, nil
	}
	for l.in[l.rnext%window].have {
		l.in[l.rnext%window] = inFrame{}
		l.rnext++
	}
}

func (l *Link) deliver(i *inFrame) {
	a := &l.asm[i.priority]
	if i.typ == frame.Whole {
		*a = assembly{}
		l.received(i.body)
		return
	}
	for b := i.body; len(b) > 0; {
		r, data, rest, ok := parseRecord(b)
		if !ok {
			*a = assembly{}
			return
		}
		b = rest
		if r.first {
			*a = assembly{open: true}
		}
		if !a.open || len(a.data)+len(data) > MaxMessage {
			*a = assembly{}
			continue
		}
		a.data = append(a.data, data...)
		if r.last {
			l.received(a.data)
			*a = assembly{}
		}
	}
}

func (l *Link) received(b []byte) {
	l.stats.MessagesReceived++
	l.events = append(l.events, Event{Kind: Received, Message: b})
}

// bitmap tells which numbers after rnext have arrived.
func (l *Link) bitmap() (m uint64) {
	for i := range uint32(window - 1) {
		if l.in[(l.rnext+1+i)%window].have {
			m |= 1 << i
		}
	}
	return m
}

// measure learns how long answers take beyond what the line explains.
func (l *Link) measure(now time.Time, f *frame.Frame, n int) {
	open := l.turn == wait || l.cfg.FullDuplex && l.asked
	if !open || l.fails > 0 || l.txFree.After(now) {
		return
	}
	took := max(0, now.Sub(l.txFree)-l.cfg.airtime(l.farFraming().Size(n)))
	if l.srtt == 0 {
		l.srtt, l.dev = took, took/4
		return
	}
	diff := took - l.srtt
	l.srtt += diff / 8
	l.dev += (max(diff, -diff) - l.dev) / 4
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
