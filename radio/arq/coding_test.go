// SPDX-License-Identifier: EUPL-1.2

package arq_test

import (
	"testing"
	"time"

	"hallig/tools/bench/goodput"
)

// Where bits are wrong, coding delivers more than plain frames of whatever length; where frames vanish, or nothing is lost, it stays off.
func TestCoding(t *testing.T) {
	wire := goodput.Setup{BitsPerSecond: 9600, FullDuplex: true, Seed: 1}
	radio := goodput.Setup{BitsPerSecond: 9600, TurnDelay: 50 * time.Millisecond, Seed: 2}
	for _, c := range []struct {
		name   string
		setup  goodput.Setup
		errors float64
		loss   float64
		burst  int // mean length of a burst, one in 300 bytes
		coded  bool
		plain  float64 // at least so much better than plain
		least  float64
	}{
		{"clean", radio, 0, 0, 0, false, 0.99, 0.92},
		{"fades", radio, 0, 0.2, 0, false, 0.97, 0.70},
		{"1e-5", radio, 1e-5, 0, 0, false, 0.98, 0.90},
		{"3e-4", radio, 3e-4, 0, 0, true, 1.1, 0.70},
		{"1e-3", radio, 1e-3, 0, 0, true, 1.5, 0.67},
		{"1e-3, wire", wire, 1e-3, 0, 0, true, 1.5, 0.73},
		{"4e-3", radio, 4e-3, 0, 0, true, 4, 0.60},
		{"bursts of 4 bytes", wire, 0, 0, 4, true, 1.15, 0.75},
		{"bursts of 12 bytes", wire, 0, 0, 12, false, 0.95, 0.58}, // more than the check bytes can bear
	} {
		c.setup.BitErrors, c.setup.FrameLoss, c.setup.BurstLength = c.errors, c.loss, c.burst
		if c.burst > 0 {
			c.setup.BurstEvery = 300
		}
		plain := goodput.New(c.setup).Saturate(2000, 6*time.Minute)
		c.setup.Correct = true
		s := goodput.New(c.setup)
		got := s.Saturate(2000, 6*time.Minute)
		t.Logf("%s: goodput %.3f, plain frames only %.3f, coded %v", c.name, got, plain, s.Ends[0].Coded())
		if s.Ends[0].Coded() != c.coded || got < c.least || got < plain*c.plain {
			t.Errorf("%s: goodput %.3f, plain frames only %.3f, coded %v; want at least %.2f, %.2f times as much, %v", c.name, got, plain, s.Ends[0].Coded(), c.least, c.plain, c.coded)
		}
	}
}

// The air gets bad and good again: coding begins and ends, and does not swing in between.
func TestCodingEnds(t *testing.T) {
	s := goodput.New(goodput.Setup{BitsPerSecond: 9600, FullDuplex: true, BitErrors: 1e-3, Correct: true, Seed: 3})
	s.Saturate(1000, 5*time.Minute)
	if !s.Ends[0].Coded() {
		t.Fatal("plain frames at a bit error rate of a thousandth")
	}
	s.Air.SetBitErrors(0)
	s.Saturate(1000, 15*time.Minute)
	if s.Ends[0].Coded() {
		t.Error("coded 15 minutes after the air got clean")
	}
	if got := s.Saturate(1000, 10*time.Minute); got < 0.95 {
		t.Errorf("goodput on the clean line again %.3f", got)
	}
}

// Both ends talk, under the same errors; and an end that cannot read coded frames gets none.
func TestCodingNeedsBoth(t *testing.T) {
	setup := goodput.Setup{BitsPerSecond: 9600, TurnDelay: 50 * time.Millisecond, BitErrors: 7e-4, Correct: true, Seed: 4}
	b := newBusy(t, "coded both ways", setup)
	b.saturate(5*time.Minute, 1)
	if !b.Ends[0].Coded() || !b.Ends[1].Coded() {
		t.Errorf("coded: %v and %v", b.Ends[0].Coded(), b.Ends[1].Coded())
	}
	setup.Plain = 1 // end 1 cannot
	b = newBusy(t, "one end plain", setup)
	b.saturate(5*time.Minute, 1)
	if b.Ends[0].Coded() || b.Ends[1].Coded() {
		t.Errorf("coded although one end cannot: %v and %v", b.Ends[0].Coded(), b.Ends[1].Coded())
	}
}
