// SPDX-License-Identifier: EUPL-1.2

package ether

import (
	"math/rand/v2"
	"time"
)

// Loss is how a lost frame shows at the receiver.
type Loss uint8

const (
	Vanish Loss = iota // as behind a modem with a checksum: silence
	Damage             // as on a bare line: some bytes are wrong
)

// Config of a medium.
type Config struct {
	Ends          int           // how many there are; 0: 2
	BitsPerSecond int           // 0: 9600
	BitsPerByte   int           // 0: 10, as in 8N1
	TurnDelay     time.Duration // from the first byte written on a silent line to its begin on the air
	Delay         time.Duration // propagation
	FullDuplex    bool          // both ends can be heard at once; otherwise an end that sends hears nothing
	FrameLoss     float64       // 0..1, for each frame (what stands between two delimiters)
	LossAs        Loss
	BitErrors     float64 // 0..1, for each bit
	BurstEvery    int     // bytes from one burst of errors to the next, on average; 0: none
	BurstLength   int     // bytes of a burst, on average; half of its bits are wrong
	Delimiter     byte    // what ends a frame: 0 for COBS, 0xC0 for KISS
	Seed          uint64
}

func (c *Config) fill() {
	if c.Ends < 2 {
		c.Ends = 2
	}
	if c.BitsPerSecond <= 0 {
		c.BitsPerSecond = 9600
	}
	if c.BitsPerByte <= 0 {
		c.BitsPerByte = 10
	}
}

// Counters of one direction.
type Counters struct {
	Bytes, Frames, Lost uint64 // given to the medium; frames hit by FrameLoss
	Collided            uint64 // pieces not heard because the receiver, or another end that it hears, was sending
	Busy                time.Duration
}

// Air is the medium as a value: time is an argument, nothing waits. Send says what arrives when; whoever drives it
// calls Hear at those times, in order. It must not be used concurrently.
type Air struct {
	cfg  Config
	rng  *rand.Rand
	cut  bool
	ends []airEnd
}

type airEnd struct {
	from, free time.Time // the current or last transmission
	paths      []path    // to each end
	counters   Counters
}

// path is how one end is heard at another.
type path struct {
	deaf    bool // out of reach
	inFrame bool
	losing  bool
	burst   bool
}

// Arrival is a piece of a transmission at its receiver.
type Arrival struct {
	From, To   int
	Begin, End time.Time // when its first bit begins and its last bit ends there
	Bytes      []byte
}

// NewAir makes a medium.
func NewAir(cfg Config) *Air {
	cfg.fill()
	a := &Air{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x6574686572)), ends: make([]airEnd, cfg.Ends)}
	for i := range a.ends {
		a.ends[i].paths = make([]path, cfg.Ends)
		a.ends[i].paths[i].deaf = true
	}
	return a
}

// SetReach says whether two ends can hear each other. At first all can.
func (a *Air) SetReach(x, y int, reach bool) {
	a.ends[x].paths[y].deaf, a.ends[y].paths[x].deaf = !reach, !reach
}

// Cut takes the medium away (everything is lost) or gives it back.
func (a *Air) Cut(cut bool) { a.cut = cut }

// SetFrameLoss changes the rate of loss.
func (a *Air) SetFrameLoss(p float64) { a.cfg.FrameLoss = p }

// SetBitErrors changes the rate of errors.
func (a *Air) SetBitErrors(p float64) { a.cfg.BitErrors = p }

// Counters of what one end has sent.
func (a *Air) Counters(from int) Counters { return a.ends[from].counters }

// Free is when everything that an end has sent will have left.
func (a *Air) Free(from int) time.Time { return a.ends[from].free }

func (a *Air) airtime(n int) time.Duration {
	return time.Duration(int64(n) * int64(a.cfg.BitsPerByte) * int64(time.Second) / int64(a.cfg.BitsPerSecond))
}

// Send puts bytes on the air, behind what the same end is still sending. The arrivals are in the order of their End.
func (a *Air) Send(now time.Time, from int, b []byte) []Arrival {
	e := &a.ends[from]
	if e.free.Before(now) {
		e.from = now
		e.free = now.Add(a.cfg.TurnDelay)
	}
	e.counters.Bytes += uint64(len(b))
	e.counters.Busy += a.airtime(len(b))
	// Pieces of about 20 ms, so that a listener notices that somebody is sending.
	piece := max(8, int(int64(20*time.Millisecond)*int64(a.cfg.BitsPerSecond)/int64(a.cfg.BitsPerByte)/int64(time.Second)))
	var out []Arrival
	for len(b) > 0 {
		n := min(piece, len(b))
		begin := e.free.Add(a.cfg.Delay)
		e.free = e.free.Add(a.airtime(n))
		first := true
		for to := range e.paths {
			if e.paths[to].deaf {
				continue
			}
			arrival := Arrival{From: from, To: to, Begin: begin, End: e.free.Add(a.cfg.Delay)}
			arrival.Bytes = a.weather(&e.paths[to], &e.counters, first, b[:n])
			first = false
			if len(arrival.Bytes) > 0 {
				out = append(out, arrival)
			}
		}
		b = b[n:]
	}
	return out
}

// weather is what the medium does to a piece on its way to one end; with count its frames are counted.
func (a *Air) weather(p *path, c *Counters, count bool, b []byte) []byte {
	out := make([]byte, 0, len(b))
	for _, x := range b {
		p.burst = a.bursts(p.burst)
		if x != a.cfg.Delimiter && !p.inFrame {
			p.inFrame = true
			p.losing = a.rng.Float64() < a.cfg.FrameLoss
			if count {
				c.Frames++
			}
			if p.losing {
				c.Lost++
			}
		}
		lost := p.losing
		if x == a.cfg.Delimiter {
			p.inFrame, p.losing = false, false
		}
		switch {
		case lost && a.cfg.LossAs == Vanish:
			continue
		case lost && x != a.cfg.Delimiter:
			x ^= byte(1 + a.rng.IntN(255)) // may make a delimiter: frames break in two, too
		case p.burst:
			x ^= byte(a.rng.IntN(256))
		case a.cfg.BitErrors > 0:
			for bit := range 8 {
				if a.rng.Float64() < a.cfg.BitErrors {
					x ^= 1 << bit
				}
			}
		}
		out = append(out, x)
	}
	return out
}

// bursts says whether the next byte is in a burst (the model of Gilbert and Elliott).
func (a *Air) bursts(in bool) bool {
	switch {
	case a.cfg.BurstEvery <= 0:
		return false
	case in:
		return a.rng.Float64() >= 1/float64(max(1, a.cfg.BurstLength))
	}
	return a.rng.Float64() < 1/float64(a.cfg.BurstEvery)
}

// Hear says at an arrival's End whether its receiver hears it.
func (a *Air) Hear(r Arrival) bool {
	if a.cut || a.ends[r.From].paths[r.To].deaf {
		return false
	}
	if a.cfg.FullDuplex {
		return true
	}
	for i := range a.ends {
		e := &a.ends[i]
		if i == r.From || i != r.To && e.paths[r.To].deaf {
			continue
		}
		if e.from.Before(r.End) && e.free.After(r.Begin) {
			a.ends[r.From].counters.Collided++
			return false
		}
	}
	return true
}
