// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurns: somebody who sends codes without end does not keep the one out who has the right one.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		try := func(who string) bool {
			done, ok := turns.take(ctx, who)
			if ok {
				time.Sleep(time.Second) // the derivation of the key
				done()
			}
			return ok
		}
		for range 50 {
			go func() { // ends with ctx
				for ctx.Err() == nil {
					if !try("192.168.7.66") {
						time.Sleep(10 * time.Millisecond)
					}
				}
			}()
		}
		time.Sleep(10 * time.Second)
		began := time.Now()
		if !try("192.168.7.20") {
			t.Fatal("the right code was not even tried")
		}
		if waited := time.Since(began); waited > 3*time.Second {
			t.Errorf("it had to wait for %s", waited)
		}
		stop()
		synctest.Wait()
		time.Sleep(time.Minute)
		if len(turns.waiting) != 0 || len(turns.turn) != 0 {
			t.Errorf("left behind: %v, %d", turns.waiting, len(turns.turn))
		}
		done, _ := turns.take(t.Context(), "a")
		began = time.Now()
		if _, ok := turns.take(t.Context(), "b"); ok || time.Since(began) != patience {
			t.Errorf("it waited %s, and its turn came: %v", time.Since(began), ok)
		}
		done()
	})
}
