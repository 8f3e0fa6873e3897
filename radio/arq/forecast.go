// SPDX-License-Identifier: EUPL-1.2

package arq

import (
	"math"
	"time"

	"hallig/radio/airtime"
	"hallig/radio/frame"
)

// Forecast is when a message of n bytes, queued now at a priority, would have arrived at the far end; false: nobody knows, as there is no
// contact, or the air time of the coming days will not do. It is computed from what goes before it, the rate with its turns, the loss of late and
// the air time left. It takes the far end to be as busy as it was a moment ago, and what is unknown for even: half of all
// messages should come sooner. ahead is what else goes before it, of other links on the same channel.
func (l *Link) Forecast(now time.Time, priority, n, ahead int) (time.Time, bool) {
	if l.state != up || priority < 0 || priority >= frame.Priorities || n < 0 {
		return time.Time{}, false
	}
	const record = 1
	mtu := l.mtu()
	wire := func(body int) int { return l.cfg.Framing.Size(frame.HeaderSize + body + frame.TagSize) }
	loss := min(l.weather.loss(wire(mtu)), 0.9)
	total := n + ahead + l.before(priority)
	frames := max(1, (total+mtu-1)/mtu)
	each := min(mtu, total/frames+record)
	// Each frame is sent until it arrives.
	air := time.Duration(float64(l.cfg.airtime(wire(each))) * float64(frames) / (1 - loss))
	at := later(now, l.txFree)
	turn := 2*l.cfg.TurnDelay + l.cfg.airtime(12) + 2*slack/5
	if l.cfg.FullDuplex {
		turn = 0
	}
	if !l.cfg.FullDuplex {
		at = at.Add(l.untilTurn(now))
	}
	burst := max(l.cfg.KeyDown, l.cfg.frameAir())
	if l.peerMore && !l.cfg.FullDuplex {
		turn += burst // it says as much in between
	}
	at, ok := l.spend(at, class(priority), air, burst, turn)
	if !ok {
		return time.Time{}, false
	}
	// What is lost of the message itself, or before it in its priority, waits for an answer first.
	own := max(1, (n+mtu-1)/mtu)
	again := 1 - math.Pow(1-loss, float64(own))
	rounds := again / (1 - loss)
	if own > 1 {
		rounds = math.Log(float64(own))/-math.Log(max(loss, 1e-9)) + again/(1-loss)
	}
	wait := turn + min(burst, air)/2
	if l.cfg.FullDuplex {
		wait = l.cfg.airtime(wire(mtu)) * 2
	}
	return at.Add(time.Duration(rounds * float64(wait))), true
}

// before is how many bytes go before a message that is queued now.
func (l *Link) before(priority int) int {
	n := 0
	for p := range priority + 1 {
		n += l.queued[p]
	}
	for s := l.una; s != l.nxt; s++ {
		if o := &l.out[s%window]; o.state == lost && int(o.frame.Priority) <= priority {
			n += len(o.frame.Body)
		}
	}
	return n
}

// untilTurn is how long until we may begin, half duplex: what is left of an answer or of the far end's transmission.
func (l *Link) untilTurn(now time.Time) time.Duration {
	switch {
	case l.turn == mine:
		return 0
	case l.turn == wait:
		return max(0, l.deadline.Sub(now)) + l.cfg.TurnDelay
	case l.inBurst:
		return l.cfg.KeyDown/2 + l.cfg.TurnDelay
	}
	return max(0, l.holdUntil.Sub(now)) + l.cfg.TurnDelay
}

// mostSteps of trying out the budget; what is left then goes on at the pace of those.
const mostSteps = 500

// spend is when so much air time will have been spent, in transmissions of at most burst, with a turn between two.
func (l *Link) spend(at time.Time, c airtime.Class, air, burst, turn time.Duration) (time.Time, bool) {
	if !l.cfg.Budget.Limited() {
		return at.Add(air + turn*time.Duration(max(0, (air-1)/burst))), true
	}
	b, began, spent := l.cfg.Budget.Clone(), at, time.Duration(0)
	for step := 0; spent < air; step++ {
		if step == mostSteps {
			at = at.Add(time.Duration(float64(at.Sub(began)) * float64(air-spent) / float64(spent)))
			return at, at.Sub(began) < 7*24*time.Hour
		}
		part := min(burst, air-spent)
		start, ok := b.Paced(at, c, part+l.cfg.TurnDelay)
		if !ok {
			return time.Time{}, false
		}
		b.Use(start, part+l.cfg.TurnDelay)
		at = start.Add(part + turn)
		spent += part
	}
	return at.Add(-turn), true
}
