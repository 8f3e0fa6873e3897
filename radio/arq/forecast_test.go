// SPDX-License-Identifier: EUPL-1.2

package arq_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"hallig/radio/arq"
	"hallig/tools/bench/goodput"
)

// What was forecast, against what came: for messages of all sizes and priorities on lines of all kinds, behind whatever is queued. The
// middle of all ratios must be near one, and nine in ten within a factor: two where nothing is lost, three where a fifth is. Where a frame that
// is lost also has to wait for air time, those that are take many times as long, and no forecast can know which: there it is eight in ten.
func TestForecast(t *testing.T) {
	for _, c := range []struct {
		name   string
		setup  goodput.Setup
		factor float64
	}{
		{"radio 1200", goodput.Setup{BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond}, 2},
		{"radio 1200, a fifth lost", goodput.Setup{BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond, FrameLoss: 0.2}, 3},
		{"radio 9600, 3e-4", goodput.Setup{BitsPerSecond: 9600, TurnDelay: 50 * time.Millisecond, BitErrors: 3e-4}, 2.5},
		{"wire 9600", goodput.Setup{BitsPerSecond: 9600, FullDuplex: true}, 2},
		{"EU868 10 %", goodput.Setup{BitsPerSecond: 9600, TurnDelay: 50 * time.Millisecond, Band: "eu868-10"}, 2},
		{"EU868 1 %, a tenth lost", goodput.Setup{BitsPerSecond: 9600, TurnDelay: 50 * time.Millisecond, Band: "eu868-1", FrameLoss: 0.1}, 3},
	} {
		var ratios []float64
		for seed := range uint64(4) {
			c.setup.Seed = seed
			ratios = append(ratios, forecasts(t, c.setup, 60)...)
		}
		slices.Sort(ratios)
		n := len(ratios)
		tail := n / 20
		if c.setup.Band != "" && c.setup.FrameLoss > 0 {
			tail = n * 3 / 20
		}
		low, mid, high := ratios[n/20], ratios[n/2], ratios[n-1-tail]
		t.Logf("%s: took %.2f times what was forecast in the middle, 5 %% under %.2f, the longest %.2f (%d)", c.name, mid, low, high, n)
		if mid < 0.7 || mid > 1.4 || low < 1/c.factor || high > c.factor {
			t.Errorf("%s: took %.2f times what was forecast in the middle, 5 %% under %.2f, the longest %.2f; want 0.7 to 1.4, %.2f, %v", c.name, mid, low, high, 1/c.factor, c.factor)
		}
	}
}

// forecasts queues messages at random and divides the time each took by what was forecast.
func forecasts(t *testing.T, setup goodput.Setup, count int) (ratios []float64) {
	s := goodput.New(setup)
	s.Run(10*time.Minute, func() bool { return s.Ends[0].Up() && s.Ends[1].Up() })
	rng := rand.New(rand.NewPCG(setup.Seed, 11))
	type promise struct {
		sent time.Time
		due  time.Duration
	}
	open := map[int]promise{}
	s.On = func(end int, e arq.Event) {
		if end == 1 && e.Kind == arq.Received {
			k := int(e.Message[0])
			p, ours := open[k]
			if !ours {
				return // what stood before it
			}
			delete(open, k)
			// A fraction of a second is not worth a forecast.
			ratios = append(ratios, (s.Now.Sub(p.sent).Seconds()+0.5)/(p.due.Seconds()+0.5))
		}
	}
	for k := range count {
		n := 30 + rng.IntN(int(math.Pow(10, 2+2*rng.Float64())))
		for range rng.IntN(4) * rng.IntN(2) {
			s.Ends[0].Send(3, append([]byte{255}, make([]byte, rng.IntN(3000))...), nil)
		}
		at, ok := s.Ends[0].Forecast(s.Now, 3, n, 0)
		if !ok {
			t.Fatal("no forecast with contact")
		}
		open[k] = promise{s.Now, at.Sub(s.Now)}
		s.Ends[0].Send(3, append([]byte{byte(k)}, make([]byte, n-1)...), nil)
		s.Kick(0)
		s.Run(12*time.Hour, func() bool { return len(open) == 0 })
		s.Run(time.Duration(rng.IntN(20_000))*time.Millisecond, nil)
	}
	return ratios
}

func TestForecastWithoutContact(t *testing.T) {
	s := goodput.New(goodput.Setup{BitsPerSecond: 1200, Seed: 1})
	if _, ok := s.Ends[0].Forecast(s.Now, 3, 100, 0); ok {
		t.Error("a forecast without contact")
	}
	s.Run(time.Minute, func() bool { return s.Ends[0].Up() && s.Ends[1].Up() })
	for _, p := range []int{-1, 5} {
		if _, ok := s.Ends[0].Forecast(s.Now, p, 100, 0); ok {
			t.Errorf("a forecast for priority %d", p)
		}
	}
	near, _ := s.Ends[0].Forecast(s.Now, 3, 100, 0)
	far, _ := s.Ends[0].Forecast(s.Now, 3, 100, 10_000)
	if far.Sub(near) < 80*time.Second {
		t.Errorf("10 KB of others ahead at 120 B/s cost %v", far.Sub(near))
	}
}
