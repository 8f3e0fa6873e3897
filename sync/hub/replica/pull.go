// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hallig/appliance/event"
)

// This file gets from boxes what is not here.

const (
	pullEvery   = 30 * time.Second // how often what has failed is looked at again
	pullFirst   = 30 * time.Second // after a failure
	pullMost    = 6 * time.Hour
	pullLongest = 10 * time.Minute // for one room
	sayAgain    = 10 * time.Minute
	leftAlone   = 10 * time.Minute // at most, a box that goes on sending
)

// job is a room that is to be got from a box.
type job struct {
	d    *duplicate
	box  string
	tips []event.ID
}

// pull works until ctx ends.
func (r *Replica) pull(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, r.c.Limits.AtOnce)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-timer.C:
		}
		for {
			j, wait := r.next()
			if j == nil {
				timer.Reset(wait)
				break
			}
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return
			}
			wg.Go(func() {
				r.over(j, r.get(ctx, j))
				<-places
				poke(r.wake)
			})
		}
	}
}

// next takes a room that is due, of a box that is not busy; nil: there is none for so long.
func (r *Replica) next() (*job, time.Duration) {
	now := r.c.Now()
	wait := pullEvery
	if r.full.Load() {
		return nil, wait
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, d := range r.pending {
		if d.working || !d.here && r.intake.Busy(id) { // a lane may still have something of what was begun before
			continue
		}
		i := slices.IndexFunc(d.boxes, func(l lister) bool { return len(l.tips) > 0 && r.c.InReach(l.box) })
		if i < 0 {
			delete(r.pending, id) // the box tells it anew when it is back
			continue
		}
		box := d.boxes[i].box
		// What it sends out passes by here anyway; to ask for the same meanwhile would cost its line twice.
		if quiet := r.lists[box].sent.Add(r.c.Limits.Settle); quiet.After(d.due) && quiet.Before(d.told.Add(leftAlone)) {
			d.due = quiet
		}
		if left := d.due.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		if r.busy[box] {
			continue // it is looked at again when that is over
		}
		r.busy[box], d.working = true, true
		return &job{d: d, box: box, tips: slices.Clone(d.boxes[i].tips)}, 0
	}
	return nil, wait
}

// get copies a room, or has its lane get what lacks.
func (r *Replica) get(ctx context.Context, j *job) error {
	r.mu.Lock()
	here, version := j.d.here, j.d.version
	r.mu.Unlock()
	if here {
		known, err := r.rooms.Known(ctx, j.tips...)
		if err != nil {
			return err
		}
		lack := slices.DeleteFunc(slices.Clone(j.tips), func(id event.ID) bool { return known[id] })
		if len(lack) > 0 {
			r.intake.Want(j.d.id, j.box, lack)
		}
		return nil
	}
	v, ok := event.Lookup(version)
	if !ok {
		return nil // Told has seen to it
	}
	ctx, stop := context.WithTimeout(ctx, pullLongest)
	defer stop()
	if err := r.intake.Copy(ctx, j.box, j.d.id, v, j.tips, r.c.Limits.Recent); err != nil {
		return err
	}
	r.count.copied.Add(1)
	return nil
}

// over notes how a job went.
func (r *Replica) over(j *job, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := j.d
	d.working = false
	delete(r.busy, j.box)
	if err != nil {
		if d.delay == 0 {
			d.delay = pullFirst
		}
		d.due, d.delay = r.c.Now().Add(d.delay), min(2*d.delay, pullMost)
		r.count.failed.Add(1)
		level, now := slog.LevelDebug, r.c.Now()
		if l := r.lists[j.box]; l != nil && now.Sub(l.said) > sayAgain {
			level, l.said = slog.LevelInfo, now
		}
		r.log.Log(context.Background(), level, "a box's room was not copied; it is tried again", "box", j.box, "room", d.id, "again", d.delay/2, "err", err)
		return
	}
	if len(d.boxes) == 0 { // meanwhile
		poke(r.tidy)
	}
	d.here, d.delay = true, 0
	for i := range d.boxes {
		if d.boxes[i].box == j.box && slices.Equal(d.boxes[i].tips, j.tips) {
			d.boxes[i].tips = nil
		}
	}
	if !slices.ContainsFunc(d.boxes, func(l lister) bool { return len(l.tips) > 0 }) {
		delete(r.pending, d.id)
	}
}
