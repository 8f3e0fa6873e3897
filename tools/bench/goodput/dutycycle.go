// SPDX-License-Identifier: EUPL-1.2

package goodput

import (
	"math/rand/v2"
	"time"

	"hallig/radio/airtime"
)

// Span is one stretch of transmission, from key-up to the last bit.
type Span struct{ From, To time.Time }

// keyed notes that an end was on the air until a time, from begin on if it was still, else from now.
func (s *Sim) keyed(end int, begin, to time.Time) {
	spans := s.OnAir[end]
	if n := len(spans); n > 0 && !begin.Before(s.Now) {
		spans[n-1].To = to
		return
	}
	s.OnAir[end] = append(spans, Span{s.Now, to})
}

// Worst is the most air time in any window of an hour, and how many windows hold more than the limit. The maximum is reached where a
// window ends with a transmission.
func Worst(spans []Span, limit time.Duration) (most time.Duration, violations int) {
	first, sum := 0, time.Duration(0)
	for _, s := range spans {
		sum += s.To.Sub(s.From)
		begin := s.To.Add(-time.Hour)
		for !spans[first].To.After(begin) {
			sum -= spans[first].To.Sub(spans[first].From)
			first++
		}
		cut := time.Duration(0)
		if spans[first].From.Before(begin) {
			cut = begin.Sub(spans[first].From)
		}
		most = max(most, sum-cut)
		if sum-cut > limit {
			violations++
		}
	}
	return most, violations
}

// Load is what an end is given to say.
type Load struct {
	Name     string
	Priority int           // saturated with messages of this priority; -1: with random bursts of all but flash
	Flash    time.Duration // and a flash message about so often; 0: none
	Both     bool          // both ends
}

// Loads are those that the duty cycle is tried with.
func Loads() []Load {
	return []Load{
		{Name: "routine", Priority: 3},
		{Name: "bulk, both ways", Priority: 4, Both: true},
		{Name: "flash without end", Priority: 0},
		{Name: "routine and flash", Priority: 3, Flash: 10 * time.Minute, Both: true},
		{Name: "random bursts", Priority: -1, Flash: time.Hour, Both: true},
	}
}

// DutyCycle is what came of a load.
type DutyCycle struct {
	Share float64 // of the air time open to the classes offered that end 0 used; not meaningful for random bursts
	Worst time.Duration
	Limit time.Duration

	Violations int // windows that held more than the limit
	Got        int // messages that arrived
}

// RunDutyCycle offers a load to a link of 9600 bit/s with 50 ms key-up for so many hours.
func RunDutyCycle(band string, load Load, hours int, loss float64, seed uint64) DutyCycle {
	s := New(Setup{BitsPerSecond: 9600, TurnDelay: 50 * time.Millisecond, FrameLoss: loss, Band: band, Watch: true, Seed: seed})
	b, _ := airtime.Lookup(band)
	out := DutyCycle{Limit: b.Limit()}
	rng := rand.New(rand.NewPCG(seed, 3))
	began := s.Now
	end := began.Add(time.Duration(hours) * time.Hour)
	var nextFlash, nextBurst [2]time.Time
	for s.Now.Before(end) {
		for i, l := range s.Ends {
			if !l.Up() || i == 1 && !load.Both {
				continue
			}
			for p := load.Priority; p >= 0 && l.Free(p) > 0; {
				l.Send(p, make([]byte, 1000), nil)
			}
			if load.Priority < 0 && !nextBurst[i].After(s.Now) {
				for range rng.IntN(200) {
					l.Send(1+rng.IntN(4), make([]byte, rng.IntN(2000)), nil)
				}
				nextBurst[i] = s.Now.Add(time.Duration(rng.IntN(2400)) * time.Second)
			}
			if load.Flash > 0 && !nextFlash[i].After(s.Now) {
				l.Send(0, make([]byte, 70), nil)
				nextFlash[i] = s.Now.Add(time.Duration(rng.Int64N(int64(2 * load.Flash))))
			}
			s.Kick(i)
		}
		s.Step(s.Now.Add(time.Second))
	}
	for i := range s.OnAir {
		worst, violations := Worst(s.OnAir[i], out.Limit)
		out.Worst, out.Violations = max(out.Worst, worst), out.Violations+violations
	}
	var used time.Duration
	for _, x := range s.OnAir[0] {
		used += x.To.Sub(x.From)
	}
	open := out.Limit
	if load.Priority != 0 {
		open = open * 9 / 10
	}
	out.Share = used.Seconds() / (open.Seconds() * float64(hours))
	out.Got = int(s.Ends[1].Stats().MessagesReceived)
	return out
}
