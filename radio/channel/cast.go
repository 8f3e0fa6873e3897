// SPDX-License-Identifier: EUPL-1.2

package channel

import (
	"encoding/binary"
	"math"
	"time"

	"hallig/radio/airtime"
	"hallig/radio/arq"
	"hallig/radio/cast"
	"hallig/radio/frame"
)

// A broadcast is one message for several stations (radio/cast). Its pieces go out in transmissions of their own, each of which takes part in the
// contention as any exchange does. The last two pieces of a transmission name the stations, and each of them says in a time of its own, in that
// order, how many pieces it lacks; the sender goes on with as much parity as the worst of them needs. A station that says nothing several times is
// given up.

const (
	// A piece; when flagReport is set, the names of the stations that are to report behind it, how many there are, and how many pieces follow.
	kindPiece  = 5
	kindReport = 6 // to 4, id 2, missing 1: I lack so many pieces

	flagReport = 2

	mostRounds = 12 // transmissions of one broadcast
	mostSilent = 4  // reports in a row that did not come
)

// outCast is a broadcast on its way out.
type outCast struct {
	sender   *cast.Sender
	id       uint16
	priority int
	token    any
	to       []*castTo
	left     int     // pieces still to send
	next     []byte  // the next piece of the transmission under way
	loss     float64 // share of the pieces that the worst station lost
	burst    bool
	stop     bool // the next piece is the transmission's last
	rounds   int
	reportTo time.Time // until then reports may come
	retryAt  time.Time
}

type castTo struct {
	station *station
	missing int
	silent  int
	heard   bool // in this round
}

// CastRoom is how long a message may be that is sent to several stations now; 0: another is under way, or one of them is out of reach.
func (c *Channel) CastRoom(stations []int) int {
	if c.cast != nil || len(stations) == 0 {
		return 0
	}
	for _, n := range stations {
		if !c.Up(n) {
			return 0
		}
	}
	l := &c.cfg.Link
	perTurn := int(l.KeyDown * time.Duration(l.BitsPerSecond) / time.Duration(l.BitsPerByte) / time.Second)
	return min(3*perTurn, 60*l.MTU, cast.MaxMessage)
}

// Cast sends a message to several stations at once. A Done event with the token comes once for each of them.
func (c *Channel) Cast(stations []int, priority int, message []byte, token any) {
	fail := func(n int) {
		c.events = append(c.events, Event{Station: n, Event: arq.Event{Kind: arq.Done, Token: token, Err: arq.ErrDown}})
	}
	var s *cast.Sender
	var err error
	c.castID++
	if len(message) <= c.CastRoom(stations) {
		s, err = cast.NewSender(c.castID, message, min(c.cfg.Link.MTU, frame.MaxBody-ownSize-4*len(stations)))
	}
	if s == nil || err != nil {
		for _, n := range stations {
			fail(n)
		}
		return
	}
	c.cast = &outCast{sender: s, id: c.castID, priority: priority, token: token, left: s.Pieces()}
	for _, n := range stations {
		c.cast.to = append(c.cast.to, &castTo{station: c.at(n), missing: s.Pieces()})
	}
}

// castDone settles stations of the broadcast; those that are not done or given up stay.
func (c *Channel) castDone(over bool) {
	o := c.cast
	if o == nil {
		return
	}
	keep := o.to[:0]
	for _, t := range o.to {
		gone := c.stations[t.station.number] != t.station || !t.station.link.Up() || t.silent >= mostSilent
		if t.missing > 0 && !gone && !over {
			keep = append(keep, t)
			continue
		}
		e := arq.Event{Kind: arq.Done, Token: o.token}
		if t.missing > 0 {
			e.Err = arq.ErrDown
		}
		c.events = append(c.events, Event{Station: t.station.number, Event: e})
	}
	if o.to = keep; len(keep) == 0 {
		c.cast = nil
	}
}

// reportSlot is how long a report takes, with its key-up time.
func (c *Channel) reportSlot() time.Duration {
	return c.cfg.Link.TurnDelay + c.cfg.Link.Airtime(ownSize+7+8) + 30*time.Millisecond
}

// casting serves the broadcast that has the channel: the next piece, or waiting for reports.
func (c *Channel) casting(now time.Time) (wire []byte, wake time.Time, busy bool) {
	o := c.cast
	if o == nil {
		return nil, time.Time{}, false
	}
	if o.burst {
		return c.piece(now), now, true
	}
	if o.reportTo.IsZero() {
		return nil, time.Time{}, false
	}
	if o.reportTo.After(now) {
		return nil, o.reportTo, true
	}
	c.reported(now)
	return nil, time.Time{}, false
}

// reported ends a round.
func (c *Channel) reported(now time.Time) {
	o := c.cast
	o.reportTo = time.Time{}
	worst := 0
	for _, t := range o.to {
		if t.silent++; t.heard {
			t.silent = 0
		}
		if t.heard = false; t.silent > 0 && o.left == 0 {
			worst = max(worst, 1) // it may lack much, or its report was lost: one more piece asks again
			continue
		}
		worst = max(worst, t.missing)
	}
	if o.left == 0 {
		if o.loss == 0 {
			o.loss = min(float64(worst)/float64(o.sender.Pieces()), 0.5)
		}
		o.left = worst + int(math.Ceil(float64(worst)*o.loss))
	}
	o.retryAt = now.Add(c.random(2 * c.slot()))
	c.medium.slotAt = now.Add(c.slot())
	c.castDone(o.rounds >= mostRounds)
}

// castDue is when the broadcast may begin its next transmission; zero: there is none.
func (c *Channel) castDue(now time.Time) time.Time {
	c.castDone(false)
	if c.cast == nil {
		return time.Time{}
	}
	return later(c.cast.retryAt, now)
}

// castBegin begins a transmission of the broadcast.
func (c *Channel) castBegin(now time.Time) ([]byte, time.Time) {
	o := c.cast
	l := &c.cfg.Link
	size := l.Framing.Size(1 + ownSize + o.sender.Size() + frame.TagSize)
	class := airtime.Talk
	if o.priority == frame.Priorities-1 {
		class = airtime.Bulk
	}
	if air := l.TurnDelay + l.Airtime(2*size); !l.Budget.Fits(now, class, air) {
		o.retryAt = now.Add(10 * time.Second)
		return nil, o.retryAt
	}
	o.rounds++
	o.burst, o.next = true, o.sender.Next()
	o.left--
	c.castTo = now.Add(l.TurnDelay + l.KeyDown)
	return c.piece(now), now
}

// piece sends one piece of the transmission under way.
func (c *Channel) piece(now time.Time) []byte {
	o := c.cast
	l := &c.cfg.Link
	p := own{kind: kindPiece, flags: c.flags(), from: c.cfg.Station, rest: o.next}
	o.next = nil
	size := l.Framing.Size(1 + ownSize + o.sender.Size() + 4*len(o.to) + frame.TagSize)
	end := later(now, c.medium.txFree).Add(l.Airtime(2 * size))
	if o.left > 0 && !o.stop && end.Before(c.castTo) && l.Budget.Fits(now, airtime.Bulk, l.Airtime(2*size)) {
		o.next = o.sender.Next()
	}
	follow := 0
	if o.next != nil {
		o.left--
		if follow = 1; o.left > 0 && end.Add(l.Airtime(size)).Before(c.castTo) {
			return c.sent(now, p.bare(l.Framing), true) // not the last but one
		}
	}
	p.flags |= flagReport
	for _, t := range o.to {
		p.rest = binary.LittleEndian.AppendUint32(p.rest, t.station.name)
	}
	p.rest = append(p.rest, byte(len(o.to)), byte(follow))
	if follow > 0 {
		o.left = max(o.left, 0)
		o.stop = true
		return c.sent(now, p.bare(l.Framing), true)
	}
	wire := c.sent(now, p.bare(l.Framing), true)
	o.burst, o.stop = false, false
	o.reportTo = c.medium.txFree.Add(time.Duration(len(o.to))*c.reportSlot() + l.CarrierGap() + l.TurnDelay/4)
	return wire
}

// pieceFrame takes a piece of somebody's broadcast.
func (c *Channel) pieceFrame(now time.Time, s *station, o own) {
	body := o.rest
	var names []byte
	follow := 0
	if o.flags&flagReport != 0 {
		if len(body) < 2 || len(body) < 2+4*int(body[len(body)-2]) || body[len(body)-1] > 1 {
			c.stats.FramesRefused++
			return
		}
		n := 4 * int(body[len(body)-2])
		follow = int(body[len(body)-1])
		names, body = body[len(body)-2-n:len(body)-2], body[:len(body)-2-n]
	}
	p, err := cast.Parse(body)
	if err != nil || !s.link.Up() { // from strangers nothing is taken
		c.stats.FramesRefused++
		return
	}
	if !c.full {
		if m := s.cast.Take(p); m != nil {
			c.stats.MessagesReceived++
			c.events = append(c.events, Event{Station: s.number, ToAll: true, Event: arq.Event{Kind: arq.Received, Message: m}})
		}
	}
	c.medium.quiet = c.cfg.Link.BurstGap()
	if names == nil {
		return
	}
	slots := len(names) / 4
	rest := time.Duration(follow) * c.cfg.Link.Airtime(c.cfg.Link.Framing.Size(len(o.rest)+1+ownSize+frame.TagSize))
	c.medium.quiet = rest + time.Duration(slots)*c.reportSlot() + c.cfg.Link.CarrierGap()
	for i := range slots {
		if binary.LittleEndian.Uint32(names[4*i:]) != c.cfg.Station {
			continue
		}
		missing, ok := s.cast.Missing(p.ID, p.Sum)
		if !ok {
			return
		}
		report := binary.LittleEndian.AppendUint32(nil, s.name)
		report = binary.LittleEndian.AppendUint16(report, p.ID)
		c.speak = own{kind: kindReport, flags: c.flags(), from: c.cfg.Station, rest: append(report, byte(missing))}.wire(c.cfg.Link.Framing)
		c.speakAt = now.Add(rest + time.Duration(i)*c.reportSlot())
		return
	}
}

// reportFrame takes a report.
func (c *Channel) reportFrame(now time.Time, s *station, o own) {
	if len(o.rest) < 7 || c.cast == nil || binary.LittleEndian.Uint32(o.rest) != c.cfg.Station || binary.LittleEndian.Uint16(o.rest[4:]) != c.cast.id {
		return
	}
	all := true
	for _, t := range c.cast.to {
		if t.station == s {
			t.missing, t.heard = min(t.missing, int(o.rest[6])), true
		}
		all = all && t.heard
	}
	if all && !c.cast.reportTo.IsZero() {
		c.cast.reportTo = now
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
