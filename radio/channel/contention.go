// SPDX-License-Identifier: EUPL-1.2

package channel

import (
	"time"

	"hallig/radio/airtime"
	"hallig/radio/arq"
)

const (
	mostEager  = 63.0 / 256 // chance to begin in a slot, as KISS modems have it by default
	leastEager = 1.0 / 32
	mostCalls  = 5 // hellos to a station that does not answer
	urgent     = 1 // up to this priority a station may begin in the first slot
)

// slot is how long a station that has begun may be unheard.
func (c *Channel) slot() time.Duration {
	return c.cfg.Link.TurnDelay + c.cfg.Link.Airtime(12) + 25*time.Millisecond
}

// Next gives the bytes of one frame to write now. If there are none, it says when to ask again (zero: only after something
// else has happened).
func (c *Channel) Next(now time.Time) ([]byte, time.Time) {
	if !c.open {
		return nil, time.Time{}
	}
	wire, wake := c.next(now)
	if wire == nil && !wake.IsZero() && !wake.After(now) {
		wake = now.Add(time.Millisecond) // whatever it is, it must not take all of the processor
	}
	return wire, wake
}

func (c *Channel) next(now time.Time) ([]byte, time.Time) {
	if start := c.medium.txFree.Add(-c.cfg.Link.Lead); start.After(now) {
		return nil, start
	}
	if c.speak != nil {
		if c.speakAt.After(now) {
			return nil, c.speakAt
		}
		wire := c.speak
		c.speak = nil
		return c.sent(now, wire, true), now
	}
	if wire, wake, busy := c.casting(now); busy {
		return wire, wake
	}
	if wire, wake, busy := c.engaged(now); busy {
		return wire, wake
	}
	return c.contend(now)
}

// engaged serves what cannot wait: our transmission, an answer that is due, and listening for one.
func (c *Channel) engaged(now time.Time) (wire []byte, wake time.Time, busy bool) {
	for _, s := range c.order {
		intent, at := s.link.Intent(now)
		if s.link.Seeking() && !s.answerBy.Before(now) && !at.After(now) {
			intent = arq.Answer // to a hello
		}
		switch intent {
		case arq.Carry:
			wire, wake = c.let(now, s)
			return wire, wake, true
		case arq.Await:
			return nil, at, true
		case arq.Answer:
			if s.answerBy.Before(now) {
				continue // it does not wait any more: as a beginning
			}
			if at.After(now) {
				return nil, at, true
			}
			wire, wake = c.answer(now, s)
			return wire, wake, wire != nil || !wake.IsZero()
		case arq.Retry:
			if c.ex == s {
				c.failed(now, s)
			}
		case arq.Begin:
			if c.ex != s {
				continue
			}
			if c.goesOn(now, s, at) {
				c.bursts++
				wire, wake = c.let(now, s)
				return wire, wake, true
			}
			c.part(now, s)
		}
	}
	return nil, time.Time{}, false
}

// answer lets a link answer; with data if it has not had its share.
func (c *Channel) answer(now time.Time, s *station) ([]byte, time.Time) {
	if c.ex != s {
		c.engage(s, false)
	}
	hold := c.bursts > 0 && c.crowded(now)
	s.link.Hold(hold)
	if _, _, work := s.link.Urgent(); work && !hold {
		c.bursts++
	}
	if s.link.Seeking() {
		s.answerBy = time.Time{}
	}
	return c.let(now, s)
}

// goesOn says whether an exchange that we began is to go on: our question has been answered and our data have not gone.
func (c *Channel) goesOn(now time.Time, s *station, at time.Time) bool {
	_, _, work := s.link.Urgent()
	return c.mine && work && !at.After(now) && (c.bursts == 0 || !c.crowded(now))
}

// engage begins an exchange with a station.
func (c *Channel) engage(s *station, mine bool) {
	if c.ex != nil {
		c.ex.link.Hold(false)
	}
	c.serial++
	c.ex, c.mine, c.bursts, s.served = s, mine, 0, c.serial
	s.link.Hold(false)
}

// part ends an exchange well.
func (c *Channel) part(now time.Time, s *station) {
	if c.mine {
		c.medium.p = min(c.medium.p*1.5, mostEager)
	}
	c.over(now, s)
}

// failed ends an exchange whose question was not answered.
func (c *Channel) failed(now time.Time, s *station) {
	fails := s.link.Unanswered() + 1
	c.stats.Failed++
	c.medium.p = max(c.medium.p/2, leastEager)
	s.failedAt, s.retryAt = now, now.Add(c.random(c.slot()*time.Duration(2<<min(fails, 5))))
	c.over(now, s)
}

func (c *Channel) over(now time.Time, s *station) {
	s.link.Hold(false)
	c.ex = nil
	c.medium.slotAt = now.Add(c.slot()) // others first
	if priority, _, work := s.link.Urgent(); work && priority <= urgent {
		c.medium.slotAt = now
	}
}

// crowded says whether there is anybody on the channel besides us and one other station.
func (c *Channel) crowded(now time.Time) bool {
	if !c.rival.IsZero() && now.Sub(c.rival) < time.Minute {
		return true
	}
	n := 0
	for _, s := range c.order {
		if s.link.Up() {
			n++
		}
	}
	return n > 1
}

// contend begins something new if there is anything, the channel is free and the dice say so.
func (c *Channel) contend(now time.Time) ([]byte, time.Time) {
	if wire, wake, polled := c.polledNext(now); polled {
		return wire, wake
	}
	s, priority, wake := c.candidate(now)
	beacon := !c.beaconAt.After(now)
	if beacon && !c.cfg.Link.Budget.Fits(now, airtime.Bulk, c.cfg.Link.TurnDelay+c.cfg.Link.Airtime(ownSize+8)) {
		c.beaconAt, beacon = now.Add(time.Minute), false // the air time is for messages
	}
	due := c.castDue(now)
	casts := !due.IsZero() && !due.After(now) && (s == nil || c.cast.priority <= priority)
	if casts {
		priority = c.cast.priority
	}
	if s == nil && !beacon && !casts {
		return nil, earliest(earliest(wake, c.beaconAt), due)
	}
	idle, p := c.medium.heardAt.Add(c.medium.quiet), c.medium.p
	switch {
	case priority <= urgent && (s != nil || casts):
		p = 0.7
	case !c.crowded(now):
		p = max(p, 0.5)
	default:
		idle = idle.Add(c.slot()) // the first slot is for what is urgent
	}
	if idle.After(now) {
		c.medium.slotAt = idle
		return nil, idle
	}
	if c.medium.slotAt.After(now) {
		return nil, c.medium.slotAt
	}
	if calm := c.medium.heardAt.Add(c.medium.quiet + 8*c.slot()); calm.Before(now) && now.Sub(c.medium.slotAt) > c.slot() {
		p = 1 // nobody has spoken for a while, and nobody was waiting here
	}
	if c.rng.Float64() >= p {
		c.medium.slotAt = now.Add(c.slot())
		return nil, c.medium.slotAt
	}
	if casts {
		return c.castBegin(now)
	}
	if s == nil {
		return c.beacon(now), now
	}
	return c.begin(now, s)
}

// candidate is the link that most deserves to begin, or when there may be one.
func (c *Channel) candidate(now time.Time) (best *station, priority int, wake time.Time) {
	priority = 99
	for _, s := range c.order {
		intent, at := s.link.Intent(now)
		if intent == arq.Rest || intent == arq.Carry || intent == arq.Await {
			continue
		}
		p, _, work := s.link.Urgent()
		if !work {
			p = 3
		}
		retry := s.retryAt
		if p <= urgent && work {
			retry = earliest(retry, s.failedAt.Add(3*c.slot()))
		}
		if at.Before(retry) {
			at = retry
		}
		if at.After(now) {
			wake = earliest(wake, at)
			continue
		}
		if best == nil || p < priority || p == priority && s.served < best.served {
			best, priority = s, p
		}
	}
	return best, priority, wake
}

// begin lets a link begin.
func (c *Channel) begin(now time.Time, s *station) ([]byte, time.Time) {
	if s.link.Seeking() {
		return c.call(now, s)
	}
	c.engage(s, true)
	c.stats.Exchanges++
	_, bytes, work := s.link.Urgent()
	switch {
	case work && s.link.Unanswered() == 0 && c.probes(now, bytes):
		s.link.Ask(now)
	case work && s.link.Unanswered() == 0:
		c.bursts++
	}
	wire, wake := c.let(now, s)
	if wire == nil {
		c.ex = nil
		c.stats.Exchanges--
		if wake.IsZero() || !wake.After(now) {
			wake = now.Add(c.slot())
		}
	}
	return wire, wake
}

// probes says whether a bare question goes before so many bytes.
func (c *Channel) probes(now time.Time, bytes int) bool {
	return c.crowded(now) && c.cfg.Link.Airtime(bytes) > 4*(c.cfg.Link.TurnDelay+c.cfg.Link.Airtime(14))
}

// call says hello to a station that has shown itself.
func (c *Channel) call(now time.Time, s *station) ([]byte, time.Time) {
	if s.calls >= mostCalls {
		s.link.Stop()
		c.drain(s)
		s.callAt = now.Add(time.Minute)
		return nil, now
	}
	wire, wake := c.let(now, s)
	if wire != nil {
		s.calls++
		s.retryAt = now.Add(c.cfg.Link.Patience() + c.random(c.slot()*time.Duration(4<<s.calls)))
		c.medium.heardAt, c.medium.quiet = c.medium.txFree, c.cfg.Link.Patience()
	}
	return wire, wake
}

// let asks a link for its next frame.
func (c *Channel) let(now time.Time, s *station) ([]byte, time.Time) {
	if c.announce != nil {
		s.link.Announce(c.announce)
	}
	wire, wake := s.link.Next(now)
	if c.announce != nil {
		if s.link.Announced() {
			c.announce = nil
		}
		s.link.Announce(nil)
	}
	c.drain(s)
	if wire == nil {
		return nil, wake
	}
	return c.sent(now, wire, false), now
}

// sent keeps count of the line; own: the frame is not a link's, which counts itself.
func (c *Channel) sent(now time.Time, wire []byte, own bool) []byte {
	if own && c.announce != nil {
		wire, c.announce = append(c.announce, wire...), nil
	}
	air := c.cfg.Link.Airtime(len(wire))
	fresh := c.medium.txFree.Before(now)
	if fresh {
		c.medium.txFree = now.Add(c.cfg.Link.TurnDelay)
	}
	c.medium.txFree = c.medium.txFree.Add(air)
	if own {
		c.stats.FramesSent++
		c.stats.BytesSent += uint64(len(wire))
		c.stats.Airtime += air
		from := c.medium.txFree.Add(-air)
		if fresh {
			from = now
		}
		c.cfg.Link.Budget.Use(from, c.medium.txFree.Sub(from))
	}
	return wire
}

// beacon says that we are here.
func (c *Channel) beacon(now time.Time) []byte {
	o := own{kind: kindBeacon, flags: c.flags(), from: c.cfg.Station}
	wire := c.sent(now, o.wire(c.cfg.Link.Framing), true)
	pause := c.beaconEvery()
	if c.beacons++; c.beacons < 4 {
		pause = min(pause, c.cfg.Link.Beacon*time.Duration(c.beacons))
	}
	c.beaconAt = now.Add(pause*3/4 + c.random(pause/2))
	return wire
}

// beaconEvery is the time between beacons, so that those of all stations together take 2 % at most.
func (c *Channel) beaconEvery() time.Duration {
	one := c.cfg.Link.TurnDelay + c.cfg.Link.Airtime(ownSize+8)
	return max(time.Minute, one*time.Duration(50*(len(c.order)+1)))
}

func (c *Channel) flags() byte {
	if c.cfg.Polls {
		return flagMaster
	}
	return 0
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
