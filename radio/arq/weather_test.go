// SPDX-License-Identifier: EUPL-1.2

package arq_test

import (
	"testing"
	"time"

	"hallig/radio/ether"
	"hallig/tools/bench/goodput"
)

// bodies keeps a link saturated and says how much of the data went in frames of which length, and how often the length changed.
func bodies(s goodput.Setup, d time.Duration) (share func(least, most int) float64, changes int, sim *goodput.Sim) {
	sim = goodput.New(s)
	sim.Run(time.Minute, func() bool { return sim.Ends[0].Up() && sim.Ends[1].Up() })
	spent := map[int]time.Duration{}
	last, total := 0, time.Duration(0)
	settle := sim.Now.Add(d / 4)
	for end := sim.Now.Add(d); sim.Now.Before(end); {
		for sim.Ends[0].Free(3) > 0 {
			sim.Ends[0].Send(3, make([]byte, 2000), nil)
		}
		sim.Kick(0)
		before := sim.Now
		sim.Step(sim.Now.Add(time.Second))
		m := sim.Ends[0].MTU()
		if sim.Now.After(settle) {
			spent[m] += sim.Now.Sub(before)
			total += sim.Now.Sub(before)
			if m != last && last != 0 {
				changes++
			}
		}
		last = m
	}
	return func(least, most int) float64 {
		sum := time.Duration(0)
		for m, t := range spent {
			if m >= least && m <= most {
				sum += t
			}
		}
		return sum.Seconds() / total.Seconds()
	}, changes, sim
}

// Bit errors make frames short, about as short as is best; losses that hit frames of any length leave them long. Neither swings.
func TestLengthFollowsBitErrors(t *testing.T) {
	wire := goodput.Setup{BitsPerSecond: 9600, FullDuplex: true, Seed: 1}
	radio := goodput.Setup{BitsPerSecond: 9600, TurnDelay: 50 * time.Millisecond, Seed: 2}
	for _, c := range []struct {
		name        string
		setup       goodput.Setup
		errors      float64
		loss        float64
		least, most int // the lengths within 3 % of the optimum
	}{
		{"clean wire", wire, 0, 0, 503, 503},
		{"clean radio", radio, 0, 0, 239, 239},
		{"1e-5 wire", wire, 1e-5, 0, 172, 503},
		{"1e-4 wire", wire, 1e-4, 0, 60, 245},
		{"1e-4 radio", radio, 1e-4, 0, 60, 239},
		{"3e-4 radio", radio, 3e-4, 0, 39, 120},
		{"1e-3 radio", radio, 1e-3, 0, 28, 60},
		{"1e-3 wire", wire, 1e-3, 0, 28, 60},
		{"5 % fades", radio, 0, 0.05, 200, 239},
		{"20 % fades", radio, 0, 0.2, 200, 239},
		{"30 % fades, wire", wire, 0, 0.3, 350, 503},
	} {
		c.setup.BitErrors, c.setup.FrameLoss = c.errors, c.loss
		share, changes, sim := bodies(c.setup, 20*time.Minute)
		if got := share(c.least, c.most); got < 0.8 || changes > 16 {
			t.Errorf("%s: %.2f of the time bodies of %d to %d bytes, %d changes in 15 minutes", c.name, got, c.least, c.most, changes)
		}
		if got := share(0, 27); got > 0 {
			t.Errorf("%s: bodies under 28 bytes", c.name)
		}
		if n := sim.Ends[0].Stats().Contacts; n > 1 && c.errors < 1e-3 || n > 6 {
			t.Errorf("%s: %d contacts", c.name, n)
		}
	}
}

// Bursts of errors that are far apart hit a long frame hardly more often than a short one for each of its bytes; whatever is chosen, it
// delivers no less than a fixed length would.
func TestLengthUnderBursts(t *testing.T) {
	for _, every := range []int{400, 1500, 6000} {
		setup := goodput.Setup{BitsPerSecond: 9600, FullDuplex: true, BurstEvery: every, BurstLength: 12, Seed: 3}
		got := goodput.New(setup).Saturate(2000, 10*time.Minute)
		t.Logf("a burst every %d bytes: goodput %.3f", every, got)
		if fair := []float64{0.65, 0.80, 0.88}[map[int]int{400: 0, 1500: 1, 6000: 2}[every]]; got < fair {
			t.Errorf("a burst every %d bytes: goodput %.3f, want at least %.2f", every, got, fair)
		}
	}
}

// The air gets so bad that the long frames under way can never arrive: they are given up, and shorter ones come through.
func TestLengthAfterSuddenErrors(t *testing.T) {
	s := goodput.New(goodput.Setup{BitsPerSecond: 9600, FullDuplex: true, LossAs: ether.Damage, Seed: 4})
	s.Run(time.Minute, func() bool { return s.Ends[0].Up() && s.Ends[1].Up() })
	if m := s.Ends[0].MTU(); m != 503 {
		t.Fatalf("bodies of %d bytes on a clean line", m)
	}
	s.Air.SetBitErrors(2e-3)
	got := s.Saturate(300, 20*time.Minute)
	if m := s.Ends[0].MTU(); m > 60 || got < 0.2 {
		t.Errorf("after 20 minutes at 2e-3: bodies of %d bytes, goodput %.2f", m, got)
	}
}
