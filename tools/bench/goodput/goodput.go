// SPDX-License-Identifier: EUPL-1.2

// Package goodput measures what a radio link delivers, by simulation: two radio/arq ends over a radio/ether medium under
// a clock moved by hand. Hours of line time take well under a second and every run with the same seed is the same.
package goodput

import (
	"container/heap"
	"math/rand/v2"
	"time"

	"hallig/radio/airtime"
	"hallig/radio/arq"
	"hallig/radio/ether"
	"hallig/radio/frame"
)

// Goodput is the share of the line rate that arrives as payload: messages of 2 KB queued without end in one direction,
// half duplex, for an hour of line time. All that the link itself needs is counted against it: hellos, headers, tags,
// acknowledgements, the turns, 300 ms of TXDELAY before every transmission up to 1200 bit/s (50 ms above), repetitions. Line
// rate is in bytes: bit/s divided by the 10 bits of 8N1. loss is the probability that a frame, in either direction,
// vanishes. The bench lines goodput_1200_lossN are the mean over seeds 1..20.
func Goodput(bitsPerSecond int, loss float64, seed uint64) float64 {
	turn := 50 * time.Millisecond
	if bitsPerSecond <= 1200 {
		turn = 300 * time.Millisecond
	}
	s := New(Setup{BitsPerSecond: bitsPerSecond, TurnDelay: turn, FrameLoss: loss, Seed: seed})
	const size = 2000
	return s.Saturate(size, time.Hour)
}

// Wire is Goodput of a null-modem cable: 8N1, both directions at once, one of them saturated; loss hits frames as damage, both ways. The
// bench lines goodput_wire_lossN are the lowest mean over seeds 1..5 of 9600, 57600 and 115200 bit/s.
func Wire(bitsPerSecond int, loss float64, seed uint64) float64 {
	s := New(Setup{BitsPerSecond: bitsPerSecond, FullDuplex: true, FrameLoss: loss, LossAs: ether.Damage, Delay: time.Millisecond, Seed: seed})
	return s.Saturate(2000, time.Duration(int64(time.Hour)*4800/int64(bitsPerSecond)))
}

// Setup of a simulated link; both ends are alike.
type Setup struct {
	BitsPerSecond int
	TurnDelay     time.Duration
	FullDuplex    bool
	FrameLoss     float64
	LossAs        ether.Loss
	BitErrors     float64
	BurstEvery    int // of ether.Config
	BurstLength   int
	KeyDown       time.Duration // 0: the link's own choice
	Delay         time.Duration // propagation
	Lag           time.Duration // an end acts late by up to so much, as on a busy machine
	Correct       bool          // frames may go coded
	Plain         int           // with Correct: this end cannot, if it is not 0
	CorrectAlways bool
	Packets       bool // a modem hands over whole frames only
	MTU           int    // 0: the link's own choice
	Band          string // of radio/airtime; "": without a duty cycle
	Watch         bool   // OnAir is kept
	Seed          uint64
}

// Sim is two ends, a medium and a clock.
type Sim struct {
	Now      time.Time
	Air      *ether.Air
	Ends     [2]*arq.Link
	Lose     func(end int, wire []byte) bool // sees each frame as it is sent; true loses it. nil: nothing is lost so
	On       func(end int, e arq.Event)      // nil: events are dropped
	decoders [2]frame.Decoder
	wakes    [2]time.Time
	arrivals arrivals
	count    uint64
	lag      time.Duration
	rng      *rand.Rand
	watch    bool
	packets  bool
	held     [2][]byte
	OnAir    [2][]Span    // with Watch: when each end transmitted, as the medium saw it
	heard    [2]time.Time // when the last piece comes to an end's notice
}

// New makes a simulation; the ports open at its beginning.
func New(s Setup) *Sim {
	sim := &Sim{
		Now: time.Unix(1, 0),
		Air: ether.NewAir(ether.Config{BitsPerSecond: s.BitsPerSecond, TurnDelay: s.TurnDelay, FullDuplex: s.FullDuplex,
			FrameLoss: s.FrameLoss, LossAs: s.LossAs, BitErrors: s.BitErrors, BurstEvery: s.BurstEvery, BurstLength: s.BurstLength, Delay: s.Delay, Seed: s.Seed}),
		lag: s.Lag, rng: rand.New(rand.NewPCG(s.Seed, 2)), watch: s.Watch, packets: s.Packets,
	}
	band, known := airtime.Lookup(s.Band)
	if !known {
		panic("no band is called " + s.Band)
	}
	for i := range sim.Ends {
		sim.Ends[i] = arq.New(arq.Config{BitsPerSecond: s.BitsPerSecond, TurnDelay: s.TurnDelay, FullDuplex: s.FullDuplex,
			KeyDown: s.KeyDown, MTU: s.MTU, Correct: s.Correct && (s.Plain == 0 || s.Plain != i), CorrectAlways: s.CorrectAlways, Packets: s.Packets, Seed: s.Seed<<1 | uint64(i), Budget: airtime.New(band)})
		if s.Correct && (s.Plain == 0 || s.Plain != i) {
			sim.decoders[i].Framing = frame.Coded
		}
		sim.Ends[i].Start(sim.Now)
		sim.Kick(i)
	}
	return sim
}

// Kick lets an end act on what the caller has done to it.
func (s *Sim) Kick(end int) {
	l := s.Ends[end]
	for {
		for _, e := range l.Events() {
			if s.On != nil {
				s.On(end, e)
			}
		}
		wire, wake := l.Next(s.Now)
		if wire == nil {
			s.wakes[end] = wake
			if !wake.IsZero() {
				s.wakes[end] = s.late(wake)
			}
			return
		}
		lost := s.Lose != nil && s.Lose(end, wire)
		begin := s.Air.Free(end)
		arrivals := s.Air.Send(s.Now, end, wire)
		if s.watch {
			s.keyed(end, begin, s.Air.Free(end))
		}
		for _, a := range arrivals {
			if lost {
				continue
			}
			a.End = s.late(a.End)
			if a.End.Before(s.heard[a.To]) {
				a.End = s.heard[a.To]
			}
			s.heard[a.To] = a.End
			s.count++
			heap.Push(&s.arrivals, numbered{a, s.count})
		}
	}
}

// late is when an end takes notice of something that is due.
func (s *Sim) late(due time.Time) time.Time {
	if s.lag <= 0 {
		return due
	}
	return due.Add(time.Duration(s.rng.Int64N(int64(s.lag))))
}

// Step goes to the next thing that happens, at most until the limit, and says whether there was one.
func (s *Sim) Step(until time.Time) bool {
	next, what := until.Add(1), -1
	for i, w := range s.wakes {
		if !w.IsZero() && w.Before(next) {
			next, what = w, i
		}
	}
	if len(s.arrivals) > 0 && !s.arrivals[0].End.After(next) {
		next, what = s.arrivals[0].End, 2
	}
	if what < 0 || next.After(until) {
		s.Now = until
		return false
	}
	if next.After(s.Now) {
		s.Now = next
	}
	if what < 2 {
		s.Kick(what)
		return true
	}
	a := heap.Pop(&s.arrivals).(numbered)
	if !s.Air.Hear(a.Arrival) {
		return true
	}
	if s.packets {
		s.held[a.To] = append(s.held[a.To], a.Bytes...)
		if a.Bytes[len(a.Bytes)-1] != 0 {
			return true // the modem has not got all of it
		}
		a.Bytes, s.held[a.To] = s.held[a.To], nil
	}
	l := s.Ends[a.To]
	l.Heard(s.Now)
	d := &s.decoders[a.To]
	d.Feed(a.Bytes, func(raw []byte) {
		l.Correcting(d.Coded)
		l.Receive(s.Now, raw)
	})
	s.Kick(a.To)
	return true
}

// Run runs for a while, or until stop says so.
func (s *Sim) Run(d time.Duration, stop func() bool) {
	until := s.Now.Add(d)
	for (stop == nil || !stop()) && s.Step(until) {
	}
}

// Saturate keeps the queue of end 0 filled with messages of the given size for a while after the contact is up and
// returns the share of the line rate that end 1 got as payload.
func (s *Sim) Saturate(size int, d time.Duration) float64 {
	got := 0
	rng := rand.New(rand.NewPCG(uint64(size), 1))
	s.On = func(end int, e arq.Event) {
		if end == 1 && e.Kind == arq.Received {
			got += len(e.Message)
		}
	}
	s.Run(time.Minute, func() bool { return s.Ends[0].Up() && s.Ends[1].Up() })
	began, end := s.Now, s.Now.Add(d)
	for {
		filled := false
		for s.Ends[0].Up() && s.Ends[0].Free(3) > 0 {
			b := make([]byte, size)
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			s.Ends[0].Send(3, b, nil)
			filled = true
		}
		if filled {
			s.Kick(0)
		}
		if !s.Step(end) {
			break
		}
	}
	c := s.Ends[0].Config()
	return float64(got) * float64(c.BitsPerByte) / float64(c.BitsPerSecond) / s.Now.Sub(began).Seconds()
}

type numbered struct {
	ether.Arrival
	n uint64
}

type arrivals []numbered

func (a arrivals) Len() int      { return len(a) }
func (a arrivals) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a arrivals) Less(i, j int) bool {
	if a[i].End.Equal(a[j].End) {
		return a[i].n < a[j].n
	}
	return a[i].End.Before(a[j].End)
}
func (a *arrivals) Push(x any) { *a = append(*a, x.(numbered)) }
func (a *arrivals) Pop() any {
	old := *a
	x := old[len(old)-1]
	*a = old[:len(old)-1]
	return x
}
