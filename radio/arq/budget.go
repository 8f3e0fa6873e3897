// SPDX-License-Identifier: EUPL-1.2

package arq

import (
	"time"

	"hallig/radio/airtime"
	"hallig/radio/frame"
)

// How the air time's budget is kept: every frame is booked as it is handed over, with the key-up time before it. Before a transmission
// begins, and before each further frame of it, the budget is asked. When there is too little for data, an answer that is owed still
// goes out of the reserve. What only keeps a contact (hellos into the void, questions in silence) takes at most a hundredth.

const helloWire = 20 // bytes of a hello on the wire

// class of the air time that a priority may use.
func class(priority int) airtime.Class {
	switch {
	case priority == 0:
		return airtime.Flash
	case priority == frame.Priorities-1:
		return airtime.Bulk
	}
	return airtime.Talk
}

// fillAir takes the rate of a frame of usual length for that of the line.
func (c *Config) fillAir() {
	const usual = 200
	c.BitsPerSecond, c.BitsPerByte = max(1, int(usual*8*time.Second/c.Air(usual))), 8
	if c.MTU <= 0 {
		c.MTU = 238 // with all around it, 255 bytes: the longest packet of LoRa
	}
}

// fillBudget fits transmissions and questions to the hour's air time.
func (c *Config) fillBudget() {
	if !c.Budget.Limited() {
		return
	}
	limit := c.Budget.Band().Limit()
	for c.MTU > 28 && c.TurnDelay+c.frameAir() > limit/5 {
		c.MTU = max(28, c.MTU*3/4)
	}
	c.KeyDown = max(min(c.KeyDown, limit/10), c.frameAir())
	c.KeepAlive = max(c.KeepAlive, c.idlePause(8))
	c.Budget.Lease(2 * (c.TurnDelay + c.KeyDown))
}

// idlePause is how often n bytes may be sent that only keep a contact.
func (c *Config) idlePause(n int) time.Duration {
	return (c.TurnDelay + c.airtime(n)) * 100 * 1000 / time.Duration(c.Budget.Band().Permille)
}

// beaconPause is how long to wait after a hello that nobody may hear: short at first, then longer where air time is scarce.
func (l *Link) beaconPause() time.Duration {
	pause := l.cfg.Beacon
	if l.cfg.Budget.Limited() {
		pause = max(pause, min(pause<<min(l.beacons, 16), l.cfg.idlePause(helloWire)))
		l.beacons++
	}
	return pause*3/4 + l.random(pause/2)
}

// earliest is when n bytes may be sent as a transmission.
func (l *Link) earliest(now time.Time, c airtime.Class, n int) time.Time {
	return l.start(now, c, n, false)
}

// start is earliest, with the pauses that spread data over the hour if it is paced.
func (l *Link) start(now time.Time, c airtime.Class, n int, paced bool) time.Time {
	if !l.cfg.Budget.Limited() {
		return now
	}
	air := l.cfg.TurnDelay + l.cfg.airtime(n)
	at, ok := l.cfg.Budget.Earliest(now, c, air)
	if paced {
		at, ok = l.cfg.Budget.Paced(now, c, air)
	}
	if !ok {
		return now.Add(airtime.Window) // never, at this length
	}
	if !at.After(now) && !l.cfg.Budget.Fits(now, c, air) {
		return now.Add(time.Second) // it waits for a lease, which comes with the next look
	}
	return at
}

// allowed is when what is to be sent next may go, by the air time left. If only the answer may, ackOnly is set.
func (l *Link) allowed(now time.Time) time.Time {
	l.ackOnly = false
	if !l.cfg.Budget.Limited() {
		return now
	}
	if !l.fresh && l.turn == mine {
		return l.within(now)
	}
	priority, size, work := l.upcoming()
	c, data := class(priority), work && !l.askOnly
	if !data {
		c, size = l.openClass(), 16
	}
	at := l.start(now, c, size+frame.MaxAckSize, data)
	if !at.After(now) || !l.owe {
		l.waited = l.waited || at.After(now)
		return at
	}
	l.ackOnly, l.waited = true, true
	return earlier(at, l.earliest(now, airtime.Ack, 24))
}

// within checks the next frame of a transmission under way. What does not fit, as a more urgent and longer frame has come, ends it.
func (l *Link) within(now time.Time) time.Time {
	priority, size, work := l.upcoming()
	if !work || l.cfg.Budget.Fits(later(now, l.txFree), class(priority), l.cfg.airtime(size+frame.MaxAckSize)) {
		return now
	}
	l.turn = idle
	return l.earliest(now, class(priority), size)
}

// openClass is the air time that a question may use: that of the most urgent frame whose fate is open.
func (l *Link) openClass() airtime.Class {
	c := airtime.Bulk
	if l.owe {
		c = airtime.Ack
	}
	for s := l.una; s != l.nxt; s++ {
		if o := &l.out[s%window]; o.state != acked {
			c = min(c, class(int(o.frame.Priority)))
		}
	}
	return c
}

// book accounts for a frame that is handed over now.
func (l *Link) book(now time.Time, air time.Duration) {
	from := l.txFree
	if l.txFree.Before(now) {
		from, l.txFree = now, now
		if !l.cfg.FullDuplex {
			l.txFree = now.Add(l.cfg.TurnDelay)
		}
	}
	l.txFree = l.txFree.Add(air)
	l.cfg.Budget.Use(from, l.txFree.Sub(from))
	l.stats.Airtime += l.txFree.Sub(from)
}

// Air is what is left of the hour's air time.
type Air struct {
	Limited     bool
	Limit       time.Duration
	Left, Flash time.Duration // that the hour still allows: for messages, for flash
	SendIn      time.Duration // until the next frame may go
}

// Air says what is left.
func (l *Link) Air(now time.Time) Air {
	b := l.cfg.Budget
	if !b.Limited() {
		return Air{}
	}
	priority, size, work := l.upcoming()
	if !work {
		priority, size = 3, l.cfg.Framing.Size(l.cfg.MTU)
	}
	at := l.start(now, class(priority), size, true)
	return Air{Limited: true, Limit: b.Band().Limit(), Left: b.Room(now, airtime.Talk), Flash: b.Room(now, airtime.Flash), SendIn: max(0, at.Sub(now))}
}
