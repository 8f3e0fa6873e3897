// SPDX-License-Identifier: EUPL-1.2

package arq

import (
	"encoding/binary"
	"time"
)

// A station on a channel with several others holds one Link for each. The channel above asks every link what it would do
// (Intent), lets one of them (Next), and keeps data back when a station has had its share (Hold). Hellos then carry the names
// of both stations, and an answer says by the bit that is free without full duplex (heard) that the asker goes on, so that
// stations that cannot hear the asker leave it the channel.

// Intent is what a link would do next, half duplex.
type Intent uint8

const (
	Rest   Intent = iota // nothing
	Begin                // a transmission that nobody waits for: hello, data, a question
	Answer               // the far end waits for it
	Carry                // the next frame of a transmission that has begun
	Await                // it listens: an answer, or the rest of a transmission, is due
	Retry                // as Begin, after no answer came
)

// Intent says what the link would do next, and when (zero: only after something else has happened). It changes nothing.
func (l *Link) Intent(now time.Time) (Intent, time.Time) {
	switch {
	case l.state == closed:
		return Rest, time.Time{}
	case l.state == seeking:
		return Begin, l.helloAt
	case l.turn == mine:
		return Carry, l.txFree.Add(-l.cfg.Lead)
	case l.turn == wait && l.deadline.After(now):
		return Await, l.deadline
	case l.turn == wait:
		return Retry, l.deadline
	case l.helloOwed:
		return Answer, now
	}
	_, work := l.pending()
	if l.inBurst {
		if over := l.heardAt.Add(l.burstGap()); over.After(now) {
			return Await, over
		}
		return Answer, now
	}
	if l.owe {
		if work {
			return Answer, l.notBefore
		}
		return Answer, later(l.notBefore, l.answerAt)
	}
	if unknown, _ := l.unresolved(); work || unknown > 0 {
		return Begin, l.holdUntil
	}
	return Begin, l.askAt()
}

// Urgent is the priority of the most urgent data that wait and how many bytes wait in all; ok: there are any.
func (l *Link) Urgent() (priority, bytes int, ok bool) {
	again, fresh := l.choose()
	switch {
	case again != nil:
		priority = int(again.frame.Priority)
	case fresh >= 0:
		priority = fresh
	default:
		return 0, 0, false
	}
	for s := l.una; s != l.nxt; s++ {
		if o := &l.out[s%window]; o.state == lost {
			bytes += len(o.frame.Body)
		}
	}
	return priority, bytes + l.Queued(), true
}

// Unanswered is how many questions in a row got no answer; Seeking says that there is a port and no contact.
func (l *Link) Unanswered() int { return l.fails }
func (l *Link) Seeking() bool   { return l.state == seeking }

// Hold keeps data back, so that an answer is bare and gives the turn away, until it is lifted.
func (l *Link) Hold(hold bool) { l.held = hold }

// Ask begins a transmission that is a question and nothing else; the far end's answer leaves the turn to us. It does nothing
// where Intent is not Begin or there is no contact.
func (l *Link) Ask(now time.Time) {
	if l.state == up && l.turn == idle && !l.owe && !l.inBurst && !l.helloOwed {
		l.question(now)
	}
}

// Alive says that the far end was heard, if not by this link.
func (l *Link) Alive(now time.Time) {
	if l.state == up {
		l.lastValid = now
	}
}

// Taken is Receive, and says whether the frame was one of this link. One that is not does not count as refused: others speak
// on the channel.
func (l *Link) Taken(now time.Time, raw []byte) bool {
	before := l.stats
	l.Receive(now, raw)
	if l.stats.FramesReceived != before.FramesReceived {
		return true
	}
	l.stats.FramesRefused = before.FramesRefused
	return false
}

// Patience is how long after a question's end its answer may take to begin, for those who only listen.
func (c *Config) Patience() time.Duration {
	whole := time.Duration(0)
	if c.Packets {
		whole = c.frameAir() // nothing is heard before
	}
	return whole + c.TurnDelay*5/4 + c.airtime(28) + c.AnswerDelay + slack
}

// CarrierGap is the silence after which somebody who was sending has stopped, BurstGap that in the middle of a transmission
// of which a frame was lost.
func (c *Config) CarrierGap() time.Duration { return c.airtime(4) + slack }
func (c *Config) BurstGap() time.Duration   { return c.frameAir() + c.CarrierGap() }

// Airtime is how long n bytes take on the line.
func (c *Config) Airtime(n int) time.Duration { return c.airtime(n) }

// namedSize is the length of a hello with the names of both stations at its end.
const namedSize = helloSize + 8

// Names says from which station to which a hello is.
func Names(body []byte) (from, to uint32, ok bool) {
	if len(body) < namedSize || body[0] != helloVersion {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint32(body[helloSize:]), binary.LittleEndian.Uint32(body[helloSize+4:]), true
}

// named adds both names to a hello where the channel is shared.
func (l *Link) named(body []byte) []byte {
	if !l.cfg.Shared {
		return body
	}
	body = binary.LittleEndian.AppendUint32(body, l.cfg.Station)
	return binary.LittleEndian.AppendUint32(body, l.cfg.Far)
}

// forUs says whether a hello is meant for this link.
func (l *Link) forUs(body []byte) bool {
	from, to, ok := Names(body)
	if !l.cfg.Shared {
		return !ok
	}
	return ok && from == l.cfg.Far && to == l.cfg.Station
}

// Fill puts what follows from the rate in place of zero values.
func (c *Config) Fill() { c.fill() }

// Interrupt says that others have begun to talk between themselves: the rest of a transmission to this link will not come.
func (l *Link) Interrupt(now time.Time) {
	l.inBurst = false
	if l.turn == wait {
		l.deadline = earlier(l.deadline, now)
	}
}
