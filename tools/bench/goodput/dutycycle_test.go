// SPDX-License-Identifier: EUPL-1.2

package goodput

import (
	"testing"
	"time"
)

// The measure itself must see a violation.
func TestWorst(t *testing.T) {
	at := func(from, seconds int) Span {
		begin := time.Unix(int64(from), 0)
		return Span{begin, begin.Add(time.Duration(seconds) * time.Second)}
	}
	worst, n := Worst([]Span{at(0, 100), at(3550, 100), at(3700, 1), at(9000, 160)}, 150*time.Second)
	if worst != 160*time.Second || n != 1 {
		t.Errorf("worst %v, %d violations; want 160 s and one", worst, n)
	}
}

// Whatever is offered, with and without loss: nothing sent beyond the duty cycle, and under constant load nearly all of it used.
func TestDutyCycle(t *testing.T) {
	for i, load := range Loads() {
		for _, band := range []string{"eu868-10", "eu868-1"} {
			loss := []float64{0, 0.1}[i%2]
			d := RunDutyCycle(band, load, 6, loss, uint64(i))
			t.Logf("%s, %s, loss %v: share %.3f, worst hour %v of %v, %d messages", band, load.Name, loss, d.Share, d.Worst, d.Limit, d.Got)
			if d.Worst > d.Limit || d.Violations > 0 {
				t.Errorf("%s, %s: %v in one hour, %v allowed", band, load.Name, d.Worst, d.Limit)
			}
			if load.Priority >= 0 && d.Share < 0.93 {
				t.Errorf("%s, %s: %.3f of the open air time used", band, load.Name, d.Share)
			}
			if d.Got < 20 {
				t.Errorf("%s, %s: only %d messages arrived", band, load.Name, d.Got)
			}
		}
	}
}
