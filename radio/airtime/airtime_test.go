// SPDX-License-Identifier: EUPL-1.2

package airtime

import (
	"math/rand/v2"
	"testing"
	"time"
)

var epoch = time.Unix(1_800_000_000, 0)

// worst is the most air time in any window, computed without the book: the maximum is reached where a window ends with a transmission.
func worst(spans []span) (most time.Duration) {
	first, sum := 0, time.Duration(0)
	for _, s := range spans {
		sum += s.air
		begin := s.end().Add(-Window)
		for !spans[first].end().After(begin) {
			sum -= spans[first].air
			first++
		}
		cut := time.Duration(0)
		if spans[first].from.Before(begin) {
			cut = begin.Sub(spans[first].from)
		}
		most = max(most, sum-cut)
	}
	return most
}

func TestWorst(t *testing.T) {
	at := func(from, air int) span {
		return span{epoch.Add(time.Duration(from) * time.Second), time.Duration(air) * time.Second}
	}
	for _, c := range []struct {
		spans []span
		want  int
	}{
		{[]span{at(0, 100)}, 100},
		{[]span{at(0, 100), at(3600, 100)}, 100},
		{[]span{at(0, 100), at(3550, 100)}, 150},
		{[]span{at(0, 10), at(3591, 10), at(3602, 10), at(9000, 5)}, 20},
	} {
		if got := worst(c.spans); got != time.Duration(c.want)*time.Second {
			t.Errorf("worst(%v) = %v, want %d s", c.spans, got, c.want)
		}
	}
}

// life is a transmitter under random load, with a book that may be lost and found.
type life struct {
	rng   *rand.Rand
	b     *Budget
	now   time.Time
	boot  time.Time
	bootN int
	kept  []byte
	air   []span // what really went out
	saves int
}

func (l *life) moment() Moment {
	return Moment{Boot: string(rune('a' + l.bootN)), Since: l.now.Sub(l.boot)}
}

// restart ends the process: without a word, or in order; with the machine, or without.
func (l *life) restart(t *testing.T) {
	if l.rng.IntN(2) == 0 {
		l.kept = l.b.State(l.now, l.moment(), true)
	}
	l.now = l.now.Add(time.Duration(l.rng.IntN(60_000)) * time.Millisecond)
	if l.rng.IntN(3) == 0 {
		l.bootN++
		l.boot = l.now
		l.now = l.now.Add(time.Duration(l.rng.IntN(90_000)) * time.Millisecond)
	}
	l.b = New(l.b.Band())
	if err := l.b.Restore(l.now, l.moment(), l.kept); err != nil {
		t.Fatal(err)
	}
}

func (l *life) send(class Class, air, latest time.Duration) bool {
	if l.b.NeedsLease() {
		l.kept = l.b.State(l.now, l.moment(), false)
		l.b.Leased(true)
		l.saves++
	}
	at, ok := l.b.Earliest(l.now, class, air)
	if l.rng.IntN(2) == 0 {
		at, ok = l.b.Paced(l.now, class, air)
	}
	if !ok || at.Sub(l.now) > latest {
		return false
	}
	l.now = at
	if !l.b.Fits(at, class, air) {
		return false
	}
	l.b.Use(at, air)
	// The modem dallies, but keeps the order.
	real := span{at.Add(time.Duration(l.rng.Int64N(int64(Slip)))), air}
	if n := len(l.air); n > 0 && real.from.Before(l.air[n-1].end()) {
		real.from = l.air[n-1].end()
		if real.from.After(at.Add(Slip)) {
			real.from = at.Add(Slip)
		}
	}
	l.air = append(l.air, real)
	l.now = at.Add(air)
	return true
}

// Whatever is offered, however modems dally and processes die: no window of an hour holds more than the duty cycle.
func TestNeverExceeded(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		band := Bands()[1+rng.IntN(3)]
		l := &life{rng: rng, b: New(band), now: epoch, boot: epoch.Add(-time.Minute)}
		if err := l.b.Restore(l.now, l.moment(), nil); err != nil {
			t.Fatal(err)
		}
		longest := int64(band.Limit()) / int64(1+rng.IntN(40))
		restarts := rng.IntN(3) * rng.IntN(40)
		sent := 0
		for end := epoch.Add(12 * time.Hour); l.now.Before(end); {
			if rng.IntN(1000) < restarts {
				l.restart(t)
			}
			if rng.IntN(3) == 0 {
				l.now = l.now.Add(time.Duration(rng.Int64N(int64(Window) / int64(1+rng.IntN(500)))))
			}
			air := time.Duration(1 + rng.Int64N(longest))
			if l.send(Class(rng.IntN(4)), air, time.Duration(rng.Int64N(int64(20*time.Minute)))) {
				sent++
			} else {
				l.now = l.now.Add(time.Second)
			}
		}
		if got := worst(l.air); got > band.Limit() {
			t.Errorf("seed %d, %s: %v in one hour, %v allowed", seed, band.Name, got, band.Limit())
		}
		if sent < 20 {
			t.Errorf("seed %d, %s: only %d transmissions: nothing was tried", seed, band.Name, sent)
		}
		if l.saves > 12*40 {
			t.Errorf("seed %d, %s: the book was kept %d times in 12 hours", seed, band.Name, l.saves)
		}
	}
}

// Under constant load nearly everything is used, evenly once the first hours are over, and the reserve stays.
func TestConstantLoad(t *testing.T) {
	for _, c := range []struct {
		class Class
		share float64 // of the limit
		pause time.Duration
	}{{Talk, 0.9, 6 * time.Minute}, {Bulk, 0.9, 2 * time.Minute}} {
		l := &life{rng: rand.New(rand.NewPCG(1, 1)), b: New(Bands()[1]), now: epoch}
		var used, pause time.Duration
		last := epoch
		const burst = 8 * time.Second
		for l.now.Before(epoch.Add(24 * time.Hour)) {
			at, ok := l.b.Paced(l.now, c.class, burst)
			if !ok {
				t.Fatal("never")
			}
			if at.After(epoch.Add(6 * time.Hour)) {
				pause = max(pause, at.Sub(last))
			}
			if left := l.b.Left(at, Flash); left < 36*time.Second {
				t.Fatalf("class %d: %v left for flash, want the reserve of 36 s", c.class, left)
			}
			l.b.Use(at, burst)
			used += burst
			l.now, last = at.Add(burst), at.Add(burst)
		}
		open := time.Duration(float64(24*360*time.Second) * c.share)
		t.Logf("class %d: %.1f %% of the open air time used, longest pause after 6 hours %v", c.class, 100*used.Seconds()/open.Seconds(), pause)
		if used < open*95/100 || used > open+18*time.Second || pause > c.pause {
			t.Errorf("class %d: used %v of %v; longest pause %v, want at most %v", c.class, used, open, pause, c.pause)
		}
	}
}

// The reserve is for flash and acknowledgements, flash last.
func TestReserve(t *testing.T) {
	b := New(Bands()[1])
	b.Use(epoch, 324*time.Second)
	now := epoch.Add(324 * time.Second)
	for c, want := range []time.Duration{36 * time.Second, 18 * time.Second, 0, 0} {
		if got := b.Left(now, Class(c)); got != want {
			t.Errorf("class %d: %v left, want %v", c, got, want)
		}
	}
	if at, ok := b.Earliest(now, Talk, 10*time.Second); !ok || at.Sub(epoch) != Window+Slip {
		t.Errorf("talk again %v after the begin (%v), want %v", at.Sub(epoch), ok, Window+Slip)
	}
	if _, ok := b.Earliest(now, Talk, 325*time.Second); ok {
		t.Error("a transmission longer than the hour's budget is promised")
	}
	if b.Fits(now, Talk, time.Second) || !b.Fits(now, Flash, 36*time.Second) || b.Fits(now, Flash, 37*time.Second) {
		t.Error("what fits does not agree with what is left")
	}
	var none *Budget
	if at, ok := none.Earliest(now, Bulk, time.Hour); !ok || at != now || none.Limited() {
		t.Error("no budget limits")
	}
}

// What cannot be read counts as a full hour; what is not there, as nothing.
func TestRestoreDamaged(t *testing.T) {
	b := New(Bands()[1])
	b.Use(epoch, time.Minute)
	good := b.State(epoch.Add(2*time.Minute), Moment{Boot: "x", Since: time.Hour}, true)
	for n := range len(good) - 1 {
		c := New(Bands()[1])
		if err := c.Restore(epoch, Moment{}, good[:n]); err == nil || c.used(epoch) != 360*time.Second {
			t.Fatalf("a book cut to %d bytes: error %v, %v used", n, err, c.used(epoch))
		}
	}
	for _, m := range []struct {
		moment Moment
		at     time.Duration // after the state was written
		want   time.Duration
	}{
		{Moment{"x", time.Hour + 30*time.Minute}, 30 * time.Minute, time.Minute},
		{Moment{"x", 3 * time.Hour}, 2 * time.Hour, 0},
		{Moment{"y", 10 * time.Second}, 99 * time.Hour, time.Minute}, // rebooted: who knows how long it was off
		{Moment{"y", 61 * time.Minute}, 99 * time.Hour, 0},
		{Moment{"x", time.Minute}, 0, time.Minute}, // time cannot go back
	} {
		c := New(Bands()[1])
		now := epoch.Add(m.at)
		if err := c.Restore(now, m.moment, good); err != nil || c.used(now) != m.want {
			t.Errorf("%+v: %v used, error %v; want %v", m.moment, c.used(now), err, m.want)
		}
	}
}

func FuzzRestore(f *testing.F) {
	b := New(Bands()[2])
	b.Use(epoch, time.Second)
	b.Use(epoch.Add(time.Minute), time.Second)
	f.Add(b.State(epoch.Add(2*time.Minute), Moment{Boot: "x", Since: time.Hour}, false))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := New(Bands()[2])
		_ = b.Restore(epoch, Moment{Boot: "x", Since: 2 * time.Hour}, raw)
		for i := 1; i < len(b.spans); i++ {
			if b.spans[i].from.Before(b.spans[i-1].end()) {
				t.Fatal("entries overlap")
			}
		}
		if at, ok := b.Earliest(epoch, Flash, time.Second); !ok || at.Before(epoch) {
			t.Fatalf("earliest %v, %v", at, ok)
		}
	})
}

// Air times that Semtech's calculator gives.
func TestLoRaAirtime(t *testing.T) {
	for _, c := range []struct {
		m    LoRa
		n    int
		want time.Duration
	}{
		{LoRa{SpreadingFactor: 7, BandwidthHz: 125000, CodingRate: 5}, 110, 184576 * time.Microsecond},
		{LoRa{SpreadingFactor: 7, BandwidthHz: 125000, CodingRate: 5}, 255, 399616 * time.Microsecond},
		{LoRa{SpreadingFactor: 9, BandwidthHz: 125000, CodingRate: 5}, 110, 594944 * time.Microsecond},
		{LoRa{SpreadingFactor: 12, BandwidthHz: 125000, CodingRate: 5}, 51, 2465792 * time.Microsecond},
		{LoRa{SpreadingFactor: 11, BandwidthHz: 250000, CodingRate: 5, Preamble: 16}, 40, 0},
		{LoRa{SpreadingFactor: 10, BandwidthHz: 125000, CodingRate: 8, Implicit: true, NoCRC: true}, 16, 0},
	} {
		got := c.m.Airtime(c.n)
		if c.want == 0 {
			if got <= 0 || got >= c.m.Airtime(c.n+16) {
				t.Errorf("%+v: %d bytes take %v, 16 more %v", c.m, c.n, got, c.m.Airtime(c.n+16))
			}
			continue
		}
		if got != c.want {
			t.Errorf("%+v: %d bytes take %v, want %v", c.m, c.n, got, c.want)
		}
	}
	if d := (LoRa{SpreadingFactor: 12, BandwidthHz: 125000, CodingRate: 5}).Symbol(); d != 32768*time.Microsecond {
		t.Errorf("symbol of SF12: %v", d)
	}
}

// TestRoom: what people are told of the hour is not cut down to the lease, which only says how much is written down ahead.
func TestRoom(t *testing.T) {
	band, ok := Lookup("eu868-10")
	if !ok {
		t.Fatal("no such band")
	}
	b, now := New(band), time.Unix(1_000_000, 0)
	b.Lease(time.Second)
	b.State(now, Moment{Boot: "a"}, false)
	b.Leased(true)
	b.Use(now, 4*time.Second)
	if got, want := b.Room(now, Talk), 320*time.Second; got != want {
		t.Errorf("the hour allows %v more, want %v", got, want)
	}
	if left := b.Left(now, Talk); left >= b.Room(now, Talk) {
		t.Errorf("%v may go at once, no less than the hour's %v: there was no lease", left, b.Room(now, Talk))
	}
}
