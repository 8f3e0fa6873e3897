// SPDX-License-Identifier: EUPL-1.2

package arq

import (
	"time"

	"hallig/radio/airtime"
	"hallig/radio/frame"
)

// usualLead is how long before the line falls silent the next frame is handed over: long enough that no gap opens on a busy
// machine, short enough that urgent messages overtake.
const usualLead = 20 * time.Millisecond

// slack is what a deadline allows for schedulers, USB adapters and buffers before any of it has been measured.
const slack = 50 * time.Millisecond

// carrierGap is the silence after which somebody who was sending has stopped. UARTs hand over up to 8 bytes at once.
func (l *Link) carrierGap() time.Duration { return l.cfg.airtime(8) + slack }

// farAir is the air time of the far end's longest frame.
func (l *Link) farAir() time.Duration {
	c := l.cfg
	if c.Correct {
		c.Framing = frame.COBS
		if l.coding.heard {
			c.Framing = frame.Coded
		}
	}
	return c.frameAir()
}

// burstGap is the silence after which a transmission is over although its last frame has not been seen: a frame may
// have been lost whole in the middle. Bytes behind the last good frame show a line on which nothing vanishes unheard.
func (l *Link) burstGap() time.Duration {
	if l.heardAt.After(l.frameAt) {
		return l.carrierGap() + l.cfg.TurnDelay
	}
	return l.farAir() + l.carrierGap()
}

// patience is how long after our last byte the answer must have begun, and, if it is short, be complete.
func (l *Link) patience() time.Duration {
	short := l.cfg.airtime(28)
	if l.coding.heard || l.coding.own {
		short = l.cfg.airtime(28 + 26) // what coding adds to an acknowledgement
	}
	t := l.cfg.TurnDelay*5/4 + short + slack
	if !l.askedMore {
		t += l.cfg.AnswerDelay
	}
	if l.peerMore || l.cfg.Packets && !l.cfg.FullDuplex {
		t += l.farAir()
	}
	learned := l.srtt + 4*l.dev + short
	return max(t, min(learned, t+3*time.Second))
}

// slot is how much later the end with the larger epoch tries again, so that it hears the other.
func (l *Link) slot() time.Duration { return l.cfg.TurnDelay + l.cfg.airtime(16) + slack/2 }

// backoff spreads the two ends after trouble that may have been a collision.
func (l *Link) backoff() time.Duration {
	if l.cfg.FullDuplex || l.cfg.Shared || l.fails == 0 && !l.contended {
		return 0
	}
	var d time.Duration
	if l.my > l.peer {
		d = l.slot()
	}
	if l.contended && l.fails > 0 || l.fails > 2 {
		d += l.random(l.slot() * time.Duration(min(1<<l.fails-1, 6)))
	}
	return d
}

// Next gives the bytes of one frame to write now. If there are none, it says when to ask again (zero: only after
// something else has happened). After each call of another method Next is to be asked until it has none.
func (l *Link) Next(now time.Time) (wire []byte, wake time.Time) {
	if l.state == closed {
		return nil, time.Time{}
	}
	if start := l.txFree.Add(-l.cfg.Lead); start.After(now) {
		return nil, start
	}
	if l.state == seeking {
		return l.nextHello(now)
	}
	if l.late(now) {
		return l.Next(now) // the contact was lost
	}
	if l.cfg.FullDuplex {
		return l.nextFull(now)
	}
	return l.nextHalf(now)
}

// late acts on deadlines that have passed and says whether the contact was lost over it.
func (l *Link) late(now time.Time) bool {
	waiting := l.turn == wait || l.cfg.FullDuplex && l.asked
	if !waiting || l.deadline.After(now) {
		return false
	}
	l.fails++
	l.stats.Unanswered++
	l.calm = 0
	l.turn, l.asked = idle, false
	contended := l.contended
	if suspect := l.suspect; suspect != 0 && l.fails >= 2 || l.fails >= maxFails && now.Sub(l.lastValid) >= 3*time.Second {
		l.lose()
		l.seek(now)
		l.peer = suspect
		return true
	}
	if l.cfg.Shared {
		l.question(now) // two may have begun at once: what that cost once must not be lost a second time
		return false
	}
	n, one := l.unresolved()
	if _, work := l.pending(); n > 1 && work && l.fails == 1 && !l.cfg.FullDuplex {
		// Of several frames some will have arrived, so it is the answer that was lost: the next one will tell of both.
		l.begin(now, false)
		return false
	}
	if n == 1 && l.fails == 1 && !l.cfg.FullDuplex {
		// A question costs about as much as this frame: send it again at once.
		if l.cfg.airtime(one.size(&l.cfg)) <= l.cfg.airtime(32)+l.cfg.TurnDelay {
			one.state = lost
			l.begin(now, false)
			l.contended = contended
			return false
		}
	}
	l.question(now)
	l.contended = contended
	return false
}

// question begins a transmission that only asks.
func (l *Link) question(now time.Time) {
	l.begin(now, true)
}

func (l *Link) begin(now time.Time, askOnly bool) {
	l.turn, l.fresh, l.askOnly, l.contended = mine, true, askOnly, false
	l.waited, l.ackOnly, l.inBurst, l.room = false, false, false, 0
}

func (l *Link) nextHello(now time.Time) ([]byte, time.Time) {
	if quiet := l.heardAt.Add(l.carrierGap()); quiet.After(now) && !l.cfg.FullDuplex && !l.cfg.Shared && l.peer == 0 {
		if l.helloAt.Before(quiet) {
			l.helloAt = quiet.Add(l.random(l.slot()))
		}
	}
	if l.helloAt.After(now) {
		return nil, l.helloAt
	}
	if at := l.earliest(now, airtime.Ack, helloWire); at.After(now) {
		return nil, at
	}
	l.fresh = true
	f := l.helloFrame(true)
	wire := l.transmit(now, &f, nil)
	pause := l.beaconPause()
	if l.peer != 0 && l.helloTry < 6 {
		l.helloTry++
		pause = l.cfg.TurnDelay*5/4 + l.cfg.airtime(20) + slack + l.random(l.slot()*time.Duration(l.helloTry+1))
	} else if l.peer != 0 {
		l.peer, l.helloTry = 0, 0 // it went away again
	}
	l.helloAt = l.txFree.Add(pause)
	return wire, now
}

// askAt is when to ask the far end although there is nothing to send.
func (l *Link) askAt() time.Time {
	t := l.lastValid.Add(l.cfg.KeepAlive)
	if !l.tinyAt.IsZero() {
		t = earlier(t, l.tinyAt)
	}
	return t
}

// nextHalf is Next with contact, half duplex.
func (l *Link) nextHalf(now time.Time) ([]byte, time.Time) {
	quiet := l.heardAt.Add(l.carrierGap())
	if l.cfg.Shared {
		quiet = now // the channel has seen to it
	}
	if l.inBurst {
		if over := l.heardAt.Add(l.burstGap()); over.After(now) {
			return nil, over
		}
		// The end of its transmission was lost: it waits for us.
		l.inBurst, l.owe, l.ackDue, l.answerAt = false, true, true, now
	}
	switch {
	case l.turn == mine:
		// After trouble, listen before talking; in the middle of a transmission and as an answer, never.
		if l.fresh && (l.fails > 0 || l.waited) && quiet.After(now) {
			return nil, quiet
		}
	case l.turn == wait:
		return nil, l.deadline
	case l.helloOwed:
		if at := l.earliest(now, airtime.Ack, helloWire); at.After(now) {
			return nil, at
		}
		l.helloOwed, l.fresh = false, true
		f := l.helloFrame(false)
		return l.transmit(now, &f, nil), now
	case l.owe:
		if l.notBefore.After(now) {
			return nil, l.notBefore
		}
		if l.answerAt.After(now) {
			if _, work := l.pending(); !work {
				return nil, l.answerAt
			}
		}
		l.begin(now, false)
	default:
		free := later(quiet, l.holdUntil)
		_, work := l.pending()
		unknown, _ := l.unresolved()
		keepAlive := l.askAt()
		switch {
		case (work || unknown > 0) && !free.After(now):
			l.begin(now, false)
			l.contended = true
		case work || unknown > 0:
			return nil, free
		case !keepAlive.After(now) && !free.After(now):
			l.question(now)
			l.contended = true
		default:
			return nil, later(keepAlive, free)
		}
	}
	if at := l.allowed(now); at.After(now) {
		return nil, at
	}
	return l.burst(now)
}

// burst gives the next frame of our transmission; the last one asks for an answer or gives the turn back.
func (l *Link) burst(now time.Time) ([]byte, time.Time) {
	if l.fresh {
		l.keyDownTo = later(now, l.txFree).Add(l.cfg.TurnDelay + l.cfg.KeyDown)
	}
	var o *outFrame
	if !l.askOnly && !l.ackOnly {
		o = l.take()
	}
	if o == nil || l.owe && l.fresh && l.ackApart(o) {
		return l.bare(now), now
	}
	if l.fresh && l.owe && o.copies > 0 {
		o.state = lost // the next one
		return l.herald(now), now
	}
	o.state = sent // so that pending looks past it
	if _, work := l.pending(); !work && l.mayEnd(o) {
		return l.quietly(now, o), now
	}
	more, last := l.goesOn(now, o)
	return l.emit(now, o, last, l.ackDue && (l.fresh || last), more), now
}

// herald opens an answer with flash on a lossy line: an acknowledgement that says that data follow, twice. If the first frame were
// the flash, and lost, the far end would hear nothing and begin to speak itself, into the copies.
func (l *Link) herald(now time.Time) []byte {
	f := frame.Frame{Type: frame.Control, Ack: true, Next: l.rnext, Bitmap: l.bitmap(), Heard: l.heard, More: true, Odd: true}
	l.owe, l.ackDue = false, false
	key := l.controlKey(false)
	wire := l.transmit(now, &f, key)
	return append(wire, l.transmit(now, &f, key)...)
}

// goesOn says whether there is more to send behind o, and whether o is the last of this transmission all the same, as time is up.
func (l *Link) goesOn(now time.Time, o *outFrame) (more, last bool) {
	priority, size, work := l.upcoming()
	if !work {
		return false, true
	}
	start := later(now, l.txFree)
	air := l.cfg.airtime(o.size(&l.cfg))
	if l.fresh {
		air += l.cfg.TurnDelay
		if l.ackDue {
			air += l.cfg.airtime(frame.AckSize(l.bitmap()))
		}
	}
	if !l.cfg.Budget.Fits(start, class(priority), air+l.cfg.airtime(size)) {
		return true, true
	}
	left := l.keyDownTo.Sub(start.Add(air))
	if left >= l.cfg.airtime(size) {
		return true, false
	}
	l.room = l.splinter(left)
	return true, l.room == 0
}

// bare sends a control frame: a question if something is open, otherwise the turn goes back.
func (l *Link) bare(now time.Time) []byte {
	unknown, _ := l.unresolved()
	_, more := l.pending()
	f := frame.Frame{Type: frame.Control, Ack: true, Next: l.rnext, Bitmap: l.bitmap(), Heard: l.heard, More: more, Poll: l.askOnly || unknown > 0}
	key := l.controlKey(f.Poll)
	l.owe, l.ackDue = false, false
	wire := l.transmit(now, &f, key)
	if f.Poll {
		if l.fails > 1 {
			wire = append(wire, l.transmit(now, &f, key)...) // short, and its loss costs a whole wait
		}
		l.await(more)
	} else {
		if doubled(&f) {
			wire = append(wire, l.transmit(now, &f, key)...)
		}
		l.turn, l.holdUntil = idle, l.txFree
		if l.peerMore {
			l.holdUntil = l.txFree.Add(l.patience())
		}
	}
	return wire
}

// quietly sends a tiny message that asks for nothing; the turn goes back.
func (l *Link) quietly(now time.Time, o *outFrame) []byte {
	o.quiet = true
	wire := l.emit(now, o, false, l.ackDue, false)
	l.owe, l.ackDue = false, false
	if !l.cfg.FullDuplex {
		l.askedAt = l.order // any acknowledgement from now on tells of it
	}
	if l.tinyAt.IsZero() {
		l.tinyAt = l.txFree.Add(tinyWait + l.random(tinyWait/4))
	}
	if !l.cfg.FullDuplex {
		l.turn, l.holdUntil = idle, l.txFree
		if l.peerMore {
			l.holdUntil = l.txFree.Add(l.patience())
		}
	}
	return wire
}

// emit sends a data frame.
func (l *Link) emit(now time.Time, o *outFrame, poll, ack, more bool) []byte {
	f := o.frame
	f.Poll, f.More, f.End = poll, more, o.quiet
	if ack {
		f.Ack, f.Next, f.Bitmap, f.Heard = true, l.rnext, l.bitmap(), l.heard
	}
	l.number(&f)
	l.order++
	o.state, o.order, o.coded = sent, l.order, l.coding.own
	key := l.dataKey(o)
	if o.tries++; o.tries > 1 {
		l.stats.Retransmissions++
	} else {
		o.bound = now
	}
	wire := l.transmit(now, &f, key)
	if poll {
		l.owe, l.ackDue = false, false
		l.await(more)
	}
	return wire
}

// number gives a question its number; one that is asked again, as no answer came, keeps it.
func (l *Link) number(f *frame.Frame) {
	if !f.Poll || !l.cfg.FullDuplex {
		return
	}
	if !l.unanswered {
		l.odd = !l.odd
	}
	f.Odd = l.odd
}

// await begins to wait for an answer; more: the far end knows that we have more to send, and does not dally.
func (l *Link) await(more bool) {
	l.askedMore = more
	l.deadline = l.txFree.Add(l.patience() + l.backoff())
	if l.cfg.Budget.Limited() {
		l.deadline = l.deadline.Add(l.patience() * time.Duration(int(1)<<min(l.fails, 6)-1)) // the far end may have no air time left
	}
	if !l.cfg.FullDuplex {
		l.lastAsk = l.deadline.Add(2 * l.cfg.KeyDown)
		l.askedAt = l.order
		l.turn, l.askOnly = wait, false
		return
	}
	l.lastAsk = l.deadline.Add(2 * l.farAir()) // the frame it is sending, and the next with the answer
	if !l.unanswered {
		l.unanswered, l.askedAt = true, l.order
	}
	l.asked, l.sinceAsk = true, 0
}

// nextFull is Next with contact, full duplex: whoever has something sends it, and asks when its queue is empty or a
// quarter of a second has been sent. One question is open at a time.
func (l *Link) nextFull(now time.Time) ([]byte, time.Time) {
	if at := l.allowed(now); at.After(now) {
		return nil, at
	}
	if l.helloOwed {
		l.helloOwed, l.fresh = false, true
		f := l.helloFrame(false)
		return l.transmit(now, &f, nil), now
	}
	if l.turn == mine && l.askOnly {
		l.turn, l.askOnly = idle, false
		return l.control(now, true), now
	}
	l.turn = idle
	if l.ackOnly {
		l.ackOnly = false
		return l.control(now, false), now
	}
	if o := l.take(); o != nil {
		o.state = sent
		_, work := l.pending()
		if !work && !l.asked && l.mayEnd(o) {
			return l.quietly(now, o), now
		}
		l.sinceAsk += len(o.frame.Body)
		poll := !l.asked && (!work || l.cfg.airtime(l.sinceAsk) >= time.Second/4 || l.nxt-l.una >= window/4)
		if l.owe && l.ackApart(o) {
			o.state = lost // the next one
			return l.control(now, false), now
		}
		// While frames are being lost, an answer that is lost too is made good by the next frame.
		ack := l.owe || l.rideDue || l.peerMore && l.calm < calmAfter && !l.ackApart(o)
		l.owe, l.rideDue = false, false
		return l.emit(now, o, poll, ack, work), now
	}
	if l.owe && !l.answerAt.After(now) {
		return l.control(now, false), now
	}
	unknown, _ := l.unresolved()
	keepAlive := l.askAt()
	switch {
	case !l.asked && (unknown > 0 || !keepAlive.After(now)):
		return l.control(now, true), now
	case l.owe:
		return nil, l.answerAt
	case l.asked:
		return nil, l.deadline
	}
	return nil, keepAlive
}

// control is the bare frame of full duplex.
func (l *Link) control(now time.Time, poll bool) []byte {
	f := frame.Frame{Type: frame.Control, Ack: true, Next: l.rnext, Bitmap: l.bitmap(), Heard: l.heard, Poll: poll}
	l.number(&f)
	l.owe, l.ackDue = false, false
	wire := l.transmit(now, &f, l.controlKey(poll))
	if poll {
		l.await(false)
	}
	return wire
}
