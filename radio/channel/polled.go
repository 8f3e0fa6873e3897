// SPDX-License-Identifier: EUPL-1.2

package channel

import (
	"encoding/binary"
	"time"
)

// On an RS-485 bus nobody hears whether somebody else is about to speak, and on a wire there is no need to find out: one
// station, the master, gives out turns. Whoever has the turn begins exchanges with any station until its time is over or it
// has nothing more, and says how much it could not send; those with more get more time in the next round. Stations that the
// master does not know yet answer its question who is there, in slots drawn at random. A station that does not hear a
// master, or not any more, goes by contention: a bus whose master fails still works.

// turn is what the master knows of a station's turns.
type turn struct {
	backlog int // bytes that it could not send
	missed  int // turns in a row that it did not take
	skip    int // rounds in which it is left out
}

// polled is the state of turns, the master's and the others'.
type polled struct {
	// master
	round    []*station // still to come in this round
	self     bool       // our own turn is still to come
	idle     int        // rounds in a row in which nobody had anything
	had      bool       // somebody had something in this round
	given    *station   // who has the turn
	waitTo   time.Time  // without a sign of life the turn comes back then
	ownTo    time.Time  // our own turn ends
	restTo   time.Time  // pause between rounds
	whoAt    time.Time  // next question who is there
	whoTimes int
	spoke    bool // the station that has the turn was heard

	// others
	masterAt time.Time // last word of a master
	master   uint32
	turnTo   time.Time // our turn ends
	asked    time.Time // we were given a turn
	hadTurn  bool
	listenTo time.Time
}

const mostShare = 4 // a station with much gets at most so many times the usual turn

// turnGap is how long a silence in a turn may be: an answer that does not come, and a frame that was lost.
func (c *Channel) turnGap() time.Duration { return c.cfg.Link.Patience() + c.cfg.Link.BurstGap() }

// masterGone is after which silence a master does not count any more.
func (c *Channel) masterGone() time.Duration {
	return max(15*time.Second, 20*(c.turnGap()+c.cfg.Link.KeyDown))
}

// whoSlots is in how many slots new stations answer.
const whoSlots = 8

func (c *Channel) whoSlot() time.Duration {
	return c.cfg.Link.TurnDelay + c.cfg.Link.Airtime(ownSize+9) + 25*time.Millisecond
}

// polledFrame takes what one of the channel's own frames means for turns.
func (c *Channel) polledFrame(now time.Time, s *station, o own) {
	p := &c.polled
	if o.flags&flagMaster != 0 && !c.cfg.Polls {
		if p.master == o.from || now.Sub(p.masterAt) > c.masterGone() {
			p.master, p.masterAt = o.from, now
		}
	}
	switch o.kind {
	case kindWho:
		if len(o.rest) < 1 || o.rest[0] == 0 || c.cfg.Polls {
			return
		}
		slots := time.Duration(min(int(o.rest[0]), 64))
		c.medium.quiet = slots * c.whoSlot()
		if o.from == p.master && now.Sub(p.asked) > c.masterGone() {
			c.speak = own{kind: kindBeacon, from: c.cfg.Station}.wire(c.cfg.Link.Framing)
			c.speakAt = now.Add(time.Duration(c.rng.Int64N(int64(slots))) * c.whoSlot())
		}
	case kindTurn:
		if len(o.rest) < 6 || c.cfg.Polls || o.from != p.master {
			return
		}
		c.medium.quiet = c.cfg.Link.Patience()
		p.turnTo = time.Time{}
		if binary.LittleEndian.Uint32(o.rest) == c.cfg.Station {
			p.turnTo = now.Add(time.Duration(binary.LittleEndian.Uint16(o.rest[4:])) * time.Millisecond)
			p.asked, p.hadTurn, c.medium.quiet = now, true, 0
		}
	case kindDone:
		if len(o.rest) >= 2 && c.cfg.Polls && s == p.given {
			s.turn.backlog = 16 * int(binary.LittleEndian.Uint16(o.rest))
			p.had = p.had || s.turn.backlog > 0
			p.given = nil
		}
	}
}

// heardInTurn notes that the station that has the turn speaks. Called for all bytes.
func (c *Channel) heardInTurn(now time.Time) {
	if c.polled.given != nil {
		c.polled.spoke = true
		c.polled.waitTo = now.Add(c.turnGap())
	}
}

// polledNext is contend where turns are given out; false: they are not.
func (c *Channel) polledNext(now time.Time) ([]byte, time.Time, bool) {
	if c.cfg.Polls {
		wire, wake := c.master(now)
		return wire, wake, true
	}
	p := &c.polled
	if p.masterAt.IsZero() || now.Sub(p.masterAt) >= c.masterGone() {
		return nil, time.Time{}, false
	}
	switch {
	case !p.hadTurn:
		return nil, p.masterAt.Add(c.masterGone()), true
	case c.wait(now).After(now):
		return nil, c.wait(now), true
	}
	if p.turnTo.After(now) {
		if due := c.castDue(now); !due.IsZero() && !due.After(now) {
			if wire, wake := c.castBegin(now); wire != nil {
				return wire, wake, true
			}
		}
		if s, _, _ := c.candidate(now); s != nil {
			if wire, wake := c.begin(now, s); wire != nil {
				return wire, wake, true
			}
		}
	}
	p.hadTurn, p.turnTo = false, time.Time{}
	done := own{kind: kindDone, from: c.cfg.Station, rest: binary.LittleEndian.AppendUint16(nil, uint16(min(c.backlog()/16, 0xFFFF)))}
	return c.sent(now, done.wire(c.cfg.Link.Framing), true), now, true
}

// wait is until when what we have said may be answered.
func (c *Channel) wait(now time.Time) time.Time { return c.medium.heardAt.Add(c.medium.quiet) }

// backlog is how many bytes wait here for anybody.
func (c *Channel) backlog() (n int) {
	for _, s := range c.order {
		if _, bytes, ok := s.link.Urgent(); ok {
			n += bytes
		}
	}
	if c.cast != nil {
		n += max(c.cast.left, 0) * c.cast.sender.Size()
	}
	return n
}

// master gives out turns, its own among them.
func (c *Channel) master(now time.Time) ([]byte, time.Time) {
	p := &c.polled
	if s := p.given; s != nil {
		if p.waitTo.After(now) {
			return nil, p.waitTo
		}
		p.given = nil
		if !p.spoke {
			s.turn.missed++
			s.turn.backlog, s.turn.skip = 0, min(1<<s.turn.missed, 32)-1
		}
	}
	if at := c.wait(now); at.After(now) {
		return nil, at
	}
	if p.ownTo.After(now) {
		if due := c.castDue(now); !due.IsZero() && !due.After(now) {
			if wire, wake := c.castBegin(now); wire != nil {
				p.had = true
				return wire, wake
			}
		}
		if s, _, _ := c.candidate(now); s != nil {
			if wire, wake := c.begin(now, s); wire != nil {
				p.had = true
				return wire, wake
			}
		}
		p.ownTo = now
	}
	if !p.whoAt.After(now) {
		return c.who(now), now
	}
	if len(p.round) == 0 && !p.self {
		if p.restTo.After(now) {
			if s, _, wake := c.candidate(now); s == nil {
				return nil, earliest(earliest(p.restTo, p.whoAt), wake)
			}
		}
		c.newRound(now)
	}
	if p.self {
		p.self, p.ownTo = false, now.Add(c.share(c.backlog()))
		return c.master(now)
	}
	for len(p.round) > 0 {
		s := p.round[0]
		p.round = p.round[1:]
		if c.stations[s.number] != s {
			continue // it had to make room
		}
		if s.turn.skip > 0 {
			s.turn.skip--
			continue
		}
		return c.give(now, s), now
	}
	return c.master(now)
}

// newRound begins a round. When nobody had anything in the last one, there is a rest after this one.
func (c *Channel) newRound(now time.Time) {
	p := &c.polled
	if p.idle++; p.had {
		p.idle = 0
	}
	p.had, p.self = false, true
	p.round = append(p.round[:0], c.order...)
	one := 2*c.cfg.Link.TurnDelay + c.cfg.Link.Airtime(40)
	p.restTo = now.Add(one * time.Duration(min(p.idle, 10)))
}

// share is how long a turn is for who has so much to say.
func (c *Channel) share(backlog int) time.Duration {
	n, sum := 1, c.backlog()
	for _, s := range c.order {
		if s.turn.backlog > 0 {
			n, sum = n+1, sum+s.turn.backlog
		}
	}
	usual := c.cfg.Link.KeyDown
	if sum == 0 {
		return usual
	}
	return min(max(usual*time.Duration(backlog*n)/time.Duration(sum), usual/2), mostShare*usual)
}

// give lets a station speak.
func (c *Channel) give(now time.Time, s *station) []byte {
	p := &c.polled
	rest := binary.LittleEndian.AppendUint32(nil, s.name)
	rest = binary.LittleEndian.AppendUint16(rest, uint16(min(c.share(s.turn.backlog).Milliseconds(), 0xFFFF)))
	o := own{kind: kindTurn, flags: flagMaster, from: c.cfg.Station, rest: rest}
	wire := c.sent(now, o.wire(c.cfg.Link.Framing), true)
	p.given, p.spoke = s, false
	p.waitTo = c.medium.txFree.Add(c.cfg.Link.Patience())
	return wire
}

// who asks who else is there.
func (c *Channel) who(now time.Time) []byte {
	o := own{kind: kindWho, flags: flagMaster, from: c.cfg.Station, rest: []byte{whoSlots}}
	wire := c.sent(now, o.wire(c.cfg.Link.Framing), true)
	c.medium.heardAt, c.medium.quiet = c.medium.txFree, whoSlots*c.whoSlot()+c.cfg.Link.CarrierGap()
	p := &c.polled
	p.whoTimes++
	p.whoAt = now.Add(whoSlots * c.whoSlot() * time.Duration(min(5*p.whoTimes, 50)))
	return wire
}
