// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"hallig/sync/hub/spool"
)

// turns says whose queue a carrier plays next. A box does not take everything: a stranger may withdraw the key that a transaction was signed with, and send under many names. So what was not taken
// rests and then comes after what flows, and never has more than half of the places; and whoever sends without end comes after those who have waited.
type turns struct {
	mu      sync.Mutex
	playing map[string]bool // by far server; true: its last turn failed
	past    map[string]turn // of queues that are not empty
	count   int             // of turns so far
}

// turn is how the last turn of a queue ended.
type turn struct {
	at   int           // place among all turns
	wait time.Duration // of the rest that followed; 0: the box took what it was given
	rest time.Time     // until when
}

const (
	playQueues = 8 // far servers at a time
	playFailed = playQueues / 2
)

func newTurns() *turns { return &turns{playing: map[string]bool{}, past: map[string]turn{}} }

// next gives the queues whose turns begin now, of those that wait, and in how long one has rested that does not play yet; 0: none rests.
func (t *turns) next(waiting []spool.Waiting, now time.Time) (begin []spool.Queue, again time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	there := make(map[string]bool, len(waiting))
	var ready []spool.Queue
	for _, q := range waiting {
		if !q.In {
			continue
		}
		there[q.Other] = true
		if _, playing := t.playing[q.Other]; playing {
			continue
		}
		if left := t.past[q.Other].rest.Sub(now); left > 0 {
			if again == 0 || left < again {
				again = left
			}
			continue
		}
		ready = append(ready, q.Queue)
	}
	maps.DeleteFunc(t.past, func(other string, _ turn) bool {
		_, playing := t.playing[other]
		return !there[other] && !playing
	})
	slices.SortStableFunc(ready, func(a, b spool.Queue) int {
		pa, pb := t.past[a.Other], t.past[b.Other]
		return cmp.Or(cmp.Compare(pa.wait, pb.wait), cmp.Compare(pa.at, pb.at))
	})
	failed := 0
	for _, f := range t.playing {
		if f {
			failed++
		}
	}
	for _, q := range ready {
		bad := t.past[q.Other].wait > 0
		if len(t.playing) >= playQueues || bad && failed >= playFailed {
			break // what failed is last in the order
		}
		if bad {
			failed++
		}
		t.playing[q.Other] = bad
		begin = append(begin, q)
	}
	return begin, again
}

// over notes how a turn ended: moved says whether anything was taken, failed whether something was not.
func (t *turns) over(other string, moved, failed bool, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.playing, other)
	t.count++
	next := turn{at: t.count}
	if failed {
		next.wait = againFirst
		if before := t.past[other].wait; !moved && before > 0 {
			next.wait = min(2*before, againMost)
		}
		next.rest = now.Add(next.wait)
	}
	t.past[other] = next
}
