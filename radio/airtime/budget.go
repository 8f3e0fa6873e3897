// SPDX-License-Identifier: EUPL-1.2

package airtime

import (
	"math"
	"time"
)

const (
	// Window is the time that a duty cycle is a share of.
	Window = time.Hour
	// Slip is how much later than booked a transmission may take place.
	Slip = 2 * time.Second

	mostSpans = 1024 // of the book; more are joined, at the cost of freeing some air time later
)

// Class is what a transmission is for; a lower one may use more of the budget.
type Class uint8

const (
	Flash Class = iota // all of the budget
	Ack                // all but half of the reserve
	Talk               // all but the reserve
	Bulk               // the same, but evenly over the hour
)

// span is one transmission.
type span struct {
	from time.Time
	air  time.Duration
}

func (s span) end() time.Time { return s.from.Add(s.air) }

// Budget is the book of one transmitter. It must not be used concurrently. A nil Budget allows everything.
type Budget struct {
	band   Band
	spans  []span        // in order, not overlapping
	leases bool          // air time must be leased before it is used
	lease  time.Duration // left
	size   time.Duration // of a lease
	paced  [2]time.Time  // Talk, Bulk: not before
}

// New makes an empty book: nothing was ever sent.
func New(band Band) *Budget { return &Budget{band: band, size: band.Limit() / 16} }

// Limited says whether there is anything to keep.
func (b *Budget) Limited() bool { return b != nil && b.band.Limited() }

// Band that the budget is for.
func (b *Budget) Band() Band { return b.band }

// limit of a class.
func (b *Budget) limit(c Class) time.Duration {
	all := b.band.Limit()
	switch c {
	case Flash:
		return all
	case Ack:
		return all * 95 / 100
	}
	return all * 90 / 100
}

// used is the air time within the book's window that ends at a time not before the last transmission's end.
func (b *Budget) used(end time.Time) (sum time.Duration) {
	begin := end.Add(-Window - Slip)
	for i := len(b.spans) - 1; i >= 0; i-- {
		s := b.spans[i]
		if !s.end().After(begin) {
			break
		}
		sum += s.air
		if s.from.Before(begin) {
			sum -= begin.Sub(s.from)
		}
	}
	return sum
}

// Left is what a class could send at once, in one piece.
func (b *Budget) Left(now time.Time, c Class) time.Duration {
	if !b.Limited() {
		return math.MaxInt64
	}
	left := b.Room(now, c)
	if b.leases {
		left = min(left, b.lease)
	}
	return left
}

// Room is what the sliding hour still allows a class, leased or not: what people are told. While it is sent, the window's begin moves on and may free
// more; that is not counted.
func (b *Budget) Room(now time.Time, c Class) time.Duration {
	if !b.Limited() {
		return math.MaxInt64
	}
	return max(0, b.limit(c)-b.used(b.after(now)))
}

// after is now, or the end of what is booked.
func (b *Budget) after(now time.Time) time.Time {
	if n := len(b.spans); n > 0 && b.spans[n-1].end().After(now) {
		return b.spans[n-1].end()
	}
	return now
}

// Fits says whether a transmission that begins at a time keeps the duty cycle, and has its lease.
func (b *Budget) Fits(at time.Time, c Class, air time.Duration) bool {
	return !b.Limited() || (!b.leases || air <= b.lease) && b.used(b.after(at).Add(air))+air <= b.limit(c)
}

// Earliest is when a transmission may begin by the duty cycle; false: never, it is longer than an hour's budget.
func (b *Budget) Earliest(now time.Time, c Class, air time.Duration) (time.Time, bool) {
	if !b.Limited() {
		return now, true
	}
	limit := b.limit(c)
	if air > limit {
		return time.Time{}, false
	}
	at := b.after(now)
	over := b.used(at.Add(air)) + air - limit
	if over <= 0 {
		return at, true
	}
	begin := at.Add(air - Window - Slip)
	for _, s := range b.spans {
		if !s.end().After(begin) {
			continue
		}
		from, left := s.from, s.air
		if from.Before(begin) {
			left -= begin.Sub(from)
			from = begin
		}
		if left >= over {
			// The window must begin where the rest of this span is what fits.
			return from.Add(over + Window + Slip - air), true
		}
		over -= left
	}
	return at, true
}

// Paced is Earliest, and not before the pause that keeps something for the rest of the hour.
func (b *Budget) Paced(now time.Time, c Class, air time.Duration) (time.Time, bool) {
	at, ok := b.Earliest(now, c, air)
	if ok && b.Limited() && c >= Talk && b.paced[c-Talk].After(at) {
		at = b.paced[c-Talk]
	}
	return at, ok
}

// pace lengthens the pause behind a transmission: the fuller the hour is, the more, up to what the duty cycle comes to when it is used
// evenly. Bulk is slow from the start, talk only once most of the hour is used.
func (b *Budget) pace(from time.Time, air time.Duration) {
	const full = 0.985 // with so much of the limit used, the pause is the even one
	limit := b.limit(Talk)
	even := float64(Window)/float64(limit)/full - 1
	fill := float64(b.used(b.after(from))) / float64(limit) / full
	for i, steep := range []float64{2.5, 1} {
		if b.paced[i].Before(from) {
			b.paced[i] = from
		}
		b.paced[i] = b.paced[i].Add(air + time.Duration(float64(air)*even*math.Pow(fill, steep)))
	}
}

// Use books a transmission, in order of time. One that begins where the last one ends continues it.
func (b *Budget) Use(from time.Time, air time.Duration) {
	if !b.Limited() || air <= 0 {
		return
	}
	if b.leases {
		b.lease = max(0, b.lease-air)
	}
	b.pace(from, air)
	if n := len(b.spans); n > 0 {
		last := &b.spans[n-1]
		if gap := from.Sub(last.end()); gap <= 0 {
			last.air += air // the transmitter cannot be on the air twice: it follows
			return
		}
	}
	old := 0
	for old < len(b.spans) && !b.spans[old].end().After(from.Add(-Window-Slip)) {
		old++
	}
	b.spans = append(b.spans[old:], span{from, air})
	if len(b.spans) > mostSpans {
		b.spans = joined(b.spans, mostSpans*3/4)
	}
}

// joined makes the book shorter: spans are moved up to the one behind them, so that they end later than they did, never sooner.
func joined(spans []span, most int) []span {
	gap := time.Millisecond
	for len(spans) > most {
		out := make([]span, 0, len(spans))
		for i := len(spans) - 1; i >= 0; i-- {
			s := spans[i]
			if n := len(out); n > 0 && out[n-1].from.Sub(s.end()) <= gap {
				out[n-1].from, out[n-1].air = out[n-1].from.Add(-s.air), out[n-1].air+s.air
				continue
			}
			out = append(out, s)
		}
		for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
			out[i], out[j] = out[j], out[i]
		}
		spans, gap = out, 2*gap
	}
	return spans
}

// Clone is a copy to try things out on; it knows no leases.
func (b *Budget) Clone() *Budget {
	if b == nil {
		return nil
	}
	return &Budget{band: b.band, spans: append([]span(nil), b.spans...), paced: b.paced}
}
