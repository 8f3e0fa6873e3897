// SPDX-License-Identifier: EUPL-1.2

package channel

import (
	"time"

	"hallig/radio/arq"
	"hallig/radio/frame"
)

// medium is what is known of the channel.
type medium struct {
	heardAt time.Time     // bytes came in, or a frame ended
	quiet   time.Duration // so long after heardAt nobody but those concerned begins
	frameAt time.Time     // a whole frame came in
	noiseAt time.Time     // bytes have come in without a frame since
	txFree  time.Time     // when our own bytes have left
	slotAt  time.Time     // the next slot in which we may begin
	p       float64       // the chance to begin in a slot
}

// Heard says that bytes have just come in. It goes before Receive.
func (c *Channel) Heard(now time.Time) {
	m := &c.medium
	if now.Sub(m.heardAt) > time.Second {
		m.noiseAt = now
	}
	m.heardAt = now
	// Whose bytes they are is not known before the frame is whole, and never if it is damaged: leave time for an answer.
	m.quiet = c.cfg.Link.Patience()
	if now.Sub(m.noiseAt) > c.noiseTime() && now.Sub(m.frameAt) > c.noiseTime() {
		m.quiet = 0 // bytes without end and no frame among them: a receiver without squelch
	}
	for _, s := range c.order {
		s.link.Heard(now)
	}
	c.heardInTurn(now)
}

// noiseTime is how long bytes may come without a frame among them before they count as noise.
func (c *Channel) noiseTime() time.Duration { return 2*c.cfg.Link.KeyDown + 5*time.Second }

// Receive takes one frame as it came out of the framing. raw is overwritten.
func (c *Channel) Receive(now time.Time, raw []byte) {
	if !c.open {
		return
	}
	f, err := frame.Parse(raw)
	if err != nil {
		c.stats.FramesRefused++
		return
	}
	if f.Type == frame.Hello {
		c.hello(now, raw, &f)
		return
	}
	for _, s := range c.order {
		if s.link.Taken(now, raw) {
			c.medium.frameAt = now
			c.took(now, s, &f)
			return
		}
	}
	c.overhear(now, &f)
}

// took notes a frame of a station to us.
func (c *Channel) took(now time.Time, s *station, f *frame.Frame) {
	c.alive(now, s)
	for _, o := range c.order[1:] {
		o.link.Interrupt(now)
	}
	c.medium.quiet = c.cfg.Link.CarrierGap() // what comes next is for its link to say
	if c.ex != s && (c.ex == nil || f.Poll) {
		c.engage(s, false)
	}
	if f.Poll {
		s.answerBy = now.Add(c.cfg.Link.Patience())
	}
	if s.upAt.IsZero() && s.link.Up() {
		s.upAt, s.calls = now, 0
	}
}

// overhear learns from a frame between two others when they will have done.
func (c *Channel) overhear(now time.Time, f *frame.Frame) {
	c.stats.Overheard++
	c.medium.frameAt, c.rival = now, now
	for _, s := range c.order {
		s.link.Interrupt(now)
	}
	answer := c.cfg.Link.Patience()
	switch {
	case f.Poll:
		c.medium.quiet = answer
	case f.Type == frame.Control && f.Heard:
		// The asker goes on, and we may not be able to hear it.
		c.medium.quiet = c.cfg.Link.KeyDown + answer
	case f.Type == frame.Control || f.End:
		c.medium.quiet = c.cfg.Link.CarrierGap()
	default:
		c.medium.quiet = c.cfg.Link.BurstGap() // in the middle of a transmission
	}
}

// hello takes a hello of a link or a frame of the channel's own.
func (c *Channel) hello(now time.Time, raw []byte, f *frame.Frame) {
	if frame.Open(raw, f, frame.Context{}, nil) != nil {
		c.stats.FramesRefused++
		return
	}
	c.medium.frameAt = now
	if from, to, ok := arq.Names(f.Body); ok {
		switch {
		case from == c.cfg.Station:
			c.stats.Namesake++
		case to != c.cfg.Station:
			c.overhear(now, f)
			if !f.Poll {
				c.medium.quiet = c.cfg.Link.CarrierGap()
			}
		default:
			c.called(now, from, raw, f)
		}
		return
	}
	o, ok := parseOwn(f.Body)
	_, call := frame.CallOf(f)
	switch {
	case call: // another station tells who it is; more follows
	case !ok:
		c.stats.FramesRefused++
	case o.from == c.cfg.Station:
		c.stats.Namesake++
	default:
		c.stats.FramesReceived++
		c.medium.quiet = c.cfg.Link.CarrierGap()
		c.ownFrame(now, o)
	}
}

// called takes a hello for us.
func (c *Channel) called(now time.Time, from uint32, raw []byte, f *frame.Frame) {
	s := c.meet(now, from)
	if s == nil {
		c.stats.Strangers++
		return
	}
	s.link.Start(now) // no effect where there is contact, or the search for it
	if !s.link.Taken(now, raw) {
		return
	}
	c.took(now, s, f)
}

// ownFrame takes one of the channel's own frames of another station.
func (c *Channel) ownFrame(now time.Time, o own) {
	s := c.meet(now, o.from)
	if s == nil {
		c.stats.Strangers++
		return
	}
	c.alive(now, s)
	s.link.Alive(now)
	s.turn.missed, s.turn.skip = 0, 0
	if !s.link.Up() && !s.link.Seeking() && !s.callAt.After(now) {
		s.link.Start(now)
		s.calls = 0
		s.retryAt = now.Add(c.random(8 * c.slot())) // others have heard it, too
	}
	switch o.kind {
	case kindPiece:
		c.pieceFrame(now, s, o)
	case kindReport:
		c.reportFrame(now, s, o)
	}
	c.polledFrame(now, s, o)
}
