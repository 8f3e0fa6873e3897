// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
)

// Whoever has the highest rank comes first, then who came first; who gives up leaves no hole, not even when his place came in that very moment.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces(2)
		ctx := t.Context()
		for range 2 {
			if err := p.take(ctx, 0); err != nil {
				t.Fatal(err)
			}
		}
		var order []string
		came := make(chan string, 10)
		wait := func(ctx context.Context, name string, rank int64) {
			go func() { // ends with its place or its context
				if p.take(ctx, rank) == nil {
					came <- name
				}
			}()
			synctest.Wait()
		}
		given, giveUp := context.WithCancel(ctx)
		wait(ctx, "low", 1)
		wait(ctx, "high", 9)
		wait(given, "gives up", 8)
		wait(ctx, "high, later", 9)
		wait(ctx, "middle", 5)
		giveUp()
		synctest.Wait()
		for range 4 {
			p.leave()
			order = append(order, <-came)
		}
		if want := []string{"high", "high, later", "middle", "low"}; !slices.Equal(order, want) {
			t.Errorf("%q, want %q", order, want)
		}

		late, end := context.WithCancel(ctx)
		taken := make(chan error, 1)
		go func() { taken <- p.take(late, 0) }()
		synctest.Wait()
		end()
		p.leave() // both at once: whichever the waiting one sees first
		if err := <-taken; err == nil {
			p.leave()
		}
		p.leave()
		if p.free != 2 {
			t.Errorf("%d places are free, want 2", p.free)
		}
	})
}
