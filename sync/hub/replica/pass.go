// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// This file looks at the transactions that pass through the hub, so that what it tells is up to date for what a server has just sent, or was just sent.

const (
	passers   = 4 // goroutines; each origin has one, so that its events come in order
	passWaits = 512
)

// passing is a transaction that has passed.
type passing struct {
	box, origin string
	body        []byte
}

// Passed notes a transaction on its way to a box, or from one, whose origin is proven; body is not changed any more. It never waits: what cannot be looked at is asked of
// the box, later.
func (r *Replica) Passed(box, origin string, body []byte) {
	r.mu.Lock()
	l := r.lists[box]
	if l == nil || len(l.rooms) == 0 {
		r.mu.Unlock()
		return
	}
	if box == origin {
		l.sent = r.c.Now()
	}
	fits := r.passBytes+int64(len(body)) <= r.c.Limits.Passing && !r.full.Load() && !l.over
	if fits {
		select {
		case r.passers[maphash.String(r.seed, origin)%passers] <- passing{box, origin, body}:
			r.passBytes += int64(len(body))
		default:
			fits = false
		}
	}
	r.mu.Unlock()
	if !fits {
		r.count.dropped.Add(1)
	}
}

// pass looks at what has passed until ctx ends.
func (r *Replica) pass(ctx context.Context, wg *sync.WaitGroup) {
	for _, c := range r.passers {
		wg.Go(func() {
			for {
				select {
				case p := <-c:
					r.passOne(ctx, p)
				case <-ctx.Done():
					return
				}
			}
		})
	}
}

func (r *Replica) passOne(ctx context.Context, p passing) {
	err := r.archive.Take(ctx, p.box, p.origin, p.body)
	r.mu.Lock()
	r.passBytes -= int64(len(p.body))
	r.mu.Unlock()
	if err == nil {
		r.count.passed.Add(1)
	} else if ctx.Err() == nil {
		r.count.dropped.Add(1)
		r.log.Debug("a transaction that passed was not taken into the copies", "box", p.box, "origin", p.origin, "err", err)
	}
}

// MayWrite says whether the access list of a room lets a server take part, as far as the room is known here. Central servers apply it to the origin of a transaction alone: who
// sends a box's events on in the hub's name asks here first.
func (r *Replica) MayWrite(ctx context.Context, id event.RoomID, server string) bool {
	ok, err := r.archive.Admits(ctx, id, server)
	var unknown *room.Error
	return ok || errors.As(err, &unknown)
}
