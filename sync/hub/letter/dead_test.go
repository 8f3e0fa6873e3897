// SPDX-License-Identifier: EUPL-1.2

package letter

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"hallig/sync/hub/spool"
)

// Many servers that are away do not fill what is kept for a box: one that is in reach has room.
func TestDeadFillNothing(t *testing.T) {
	for name, sequence := range map[string]func(i int) (server int){
		"one server after the other":  func(i int) int { return i / 20 },
		"one message after the other": func(i int) int { return i % 40 },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.config = func(c *Config) { c.Limits.Letters = 100 }
				w.start("node1")
				w.centre.dead = "dead"
				w.leave("box1.test", farAway, "b/first")
				w.after(5 * time.Second)
				full := 0
				for i := range 800 {
					to := fmt.Sprintf("dead%d.test", sequence(i))
					err := w.take("box1.test", w.letter("box1.test", to, fmt.Sprintf("a/%d", i)))
					if errors.Is(err, spool.ErrFull) {
						full++
					} else if err != nil {
						t.Fatal(err)
					}
					if i%20 == 0 {
						w.after(20 * time.Second)
					}
				}
				if full < 700 {
					t.Errorf("%d of 800 letters were refused", full)
				}
				for i := range 30 {
					w.leave("box1.test", farAway, fmt.Sprintf("b/%d", i))
					w.after(time.Second)
				}
				w.after(10 * time.Second)
				if n := w.standing("box1.test", farAway).Waiting; n > 0 || len(w.centre.events) != 31 {
					t.Errorf("%d letters wait, %d events arrived", n, len(w.centre.events))
				}
			})
		})
	}
}

// Many servers that are away hold a part of the places only; they are tried less and less, and at once when they speak.
func TestDeadHoldFewPlaces(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.dead = "dead"
		for i := range 100 { // more than allAtOnce, else they could not take all places
			w.leave("box1.test", fmt.Sprintf("dead%d.test", i), fmt.Sprintf("a/%d", i))
		}
		w.after(10 * time.Minute)
		w.centre.set(func(c *centre) { c.tried = 0 })
		for i := range 20 {
			w.leave("box1.test", farAway, fmt.Sprintf("b/%d", i))
			w.after(2 * time.Second)
			if n := len(w.centre.events); n != i+1 {
				t.Fatalf("letter %d waits for the servers that are away", i+1)
			}
		}
		w.leave("box2.test", "dead-too.test", "c/1")
		w.after(10 * time.Minute)
		w.centre.set(func(c *centre) {
			if c.tried > badAtOnce+1 || c.tried < badAtOnce { // and the other box's first
				t.Errorf("%d servers that are away were tried at once", c.tried)
			}
		})
		w.after(9 * time.Hour) // each is tried once an hour now
		before := 0
		w.centre.set(func(c *centre) { before = c.atDead })
		w.after(10 * time.Hour)
		w.centre.set(func(c *centre) {
			if n := c.atDead - before; n < 101*8 || n > 101*11 {
				t.Errorf("%d tries of 101 servers in ten hours", n)
			}
			c.dead = "dead1" // the rest is back, and one of them says so
		})
		w.mail.Heard("dead20.test")
		w.after(5 * time.Second)
		if n := w.standing("box1.test", "dead20.test").Waiting; n != 0 {
			t.Error("a server that has spoken is not tried at once")
		}
	})
}

// Boxes that have something to go share the places.
func TestPlaces(t *testing.T) {
	p := places{most: 5, of: map[string]int{}}
	p.give("a", 3)
	if !p.free("a") {
		t.Error("a box alone has not all")
	}
	p.give("b", 0)
	if p.free("a") || !p.free("b") {
		t.Errorf("of two boxes each has not the half: %+v", p)
	}
	p.give("b", 2)
	if p.free("b") {
		t.Error("more than there are")
	}
}
