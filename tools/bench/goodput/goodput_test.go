// SPDX-License-Identifier: EUPL-1.2

package goodput

import (
	"slices"
	"testing"
	"time"
)

// The targets of the product are 0.87, 0.82 and 0.69; twenty seeds scatter by less than half a hundredth.
func TestGoodput1200(t *testing.T) {
	for _, c := range []struct {
		loss, want float64
	}{{0, 0.87}, {0.05, 0.815}, {0.20, 0.685}} {
		var sum float64
		for seed := range uint64(20) {
			sum += Goodput(1200, c.loss, seed+1)
		}
		got := sum / 20
		t.Logf("loss %.2f: %.3f", c.loss, got)
		if got < c.want {
			t.Errorf("goodput at 1200 bit/s, loss %.2f = %.3f, want at least %.2f", c.loss, got, c.want)
		}
	}
}

// Flash during a file that fills the line: the targets are p99 3 s and 10 s without loss, p95 20 s at a fifth. Half a second of that last one is for
// what the seeds scatter.
func TestFlash1200(t *testing.T) {
	for _, c := range []struct {
		loss     float64
		end      int
		quantile float64
		want     float64
	}{{0, 0, 0.99, 3}, {0, 1, 0.99, 10}, {0.2, 0, 0.95, 10}, {0.2, 1, 0.95, 20.5}} {
		var took []float64
		for seed := range uint64(4) {
			s := New(Setup{BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond, FrameLoss: c.loss, Seed: seed})
			s.Run(time.Minute, func() bool { return s.Ends[0].Up() && s.Ends[1].Up() })
			took = append(took, s.Flash(c.end, 70, 150, seed)...)
		}
		slices.Sort(took)
		got := took[int(float64(len(took))*c.quantile)]
		t.Logf("loss %.2f, from end %d: p%.0f %.2f s", c.loss, c.end, 100*c.quantile, got)
		if got > c.want {
			t.Errorf("loss %.2f, from end %d: p%.0f %.2f s, want at most %v", c.loss, c.end, 100*c.quantile, got, c.want)
		}
	}
}
