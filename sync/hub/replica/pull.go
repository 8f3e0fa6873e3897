// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// This file gets from boxes what is not here.

const (
	pullEvery   = 30 * time.Second // how often what has failed is looked at again
	pullFirst   = 30 * time.Second // after a failure
	pullMost    = 6 * time.Hour
	pullLongest = 10 * time.Minute // for one room
	closing     = time.Minute      // for what was copied to find its place, before it is told
	sayAgain    = 10 * time.Minute
	leftAlone   = 10 * time.Minute // at most, a box that goes on sending, with a room that is not here
	leftLonger  = time.Hour        // and with one that is: what it sends brings what lacks
)

// job is a room that is to be got from a box.
type job struct {
	d       *duplicate
	box     string
	version string
	tips    []event.ID
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
		l := r.soonest(d)
		if l == nil {
			delete(r.pending, id) // the box tells it anew when it is back
			continue
		}
		due := r.due(d, l)
		if left := due.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		if r.busy[l.box] || r.lists[l.box].over {
			continue // it is looked at again when that has ended
		}
		r.busy[l.box], d.working = true, true
		return &job{d: d, box: l.box, version: l.version, tips: slices.Clone(l.tips)}, 0
	}
	return nil, wait
}

// soonest is the box that is asked first for what lacks of a room; nil: none is connected that has told something.
func (r *Replica) soonest(d *duplicate) (first *lister) {
	for i := range d.boxes {
		l := &d.boxes[i]
		if len(l.tips) == 0 || !r.c.InReach(l.box) {
			continue
		}
		if first == nil || r.lists[first.box].over && !r.lists[l.box].over || r.lists[first.box].over == r.lists[l.box].over && l.due.Before(first.due) {
			first = l
		}
	}
	return first
}

// due is when a room is got from a box. What it sends out passes by here anyway; to ask for the same meanwhile would cost its line twice.
func (r *Replica) due(d *duplicate, l *lister) time.Time {
	patience := leftAlone
	if d.here {
		patience = leftLonger
	}
	due := l.due
	if quiet, end := r.lists[l.box].sent.Add(r.c.Limits.Settle), l.since.Add(patience); quiet.After(due) && end.After(due) {
		due = quiet
		if quiet.After(end) {
			due = end
		}
	}
	if !d.here && d.not.After(due) {
		due = d.not
	}
	return due
}

// get copies a room, or has its lane get what lacks.
func (r *Replica) get(ctx context.Context, j *job) error {
	r.mu.Lock()
	here := j.d.here
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
	v, ok := event.Lookup(j.version)
	if !ok {
		return fmt.Errorf("rooms of version %q are not spoken", j.version)
	}
	ctx, stop := context.WithTimeout(ctx, pullLongest)
	defer stop()
	if held, err := r.rooms.Knows(ctx, j.d.id); held || err != nil { // a copy that was begun and did not succeed
		if err = errors.Join(err, r.clear(ctx, j.d.id)); err != nil {
			return err
		}
	}
	if err := r.intake.Copy(ctx, j.box, j.d.id, v, j.tips, r.c.Limits.Recent); err != nil {
		return err
	}
	for end := time.Now().Add(closing); time.Now().Before(end); {
		staged := 0
		err := r.c.DB.View(ctx, func(rd *store.Read) (err error) { staged, err = rd.StagedCount(j.d.id); return err })
		if err != nil {
			return err
		}
		if staged == 0 && !r.intake.Busy(j.d.id) {
			break
		}
		if !pause(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
	st, err := r.rooms.Standing(ctx, j.d.id, j.box)
	if err == nil && !st.Resident {
		err = errors.New("by what it tells it is not in the room itself")
		err = errors.Join(err, r.clear(ctx, j.d.id))
	}
	if err == nil {
		r.count.copied.Add(1)
	}
	return err
}

// clear deletes rooms that nobody is told of.
func (r *Replica) clear(ctx context.Context, ids ...event.RoomID) error {
	var errs []error
	for _, id := range ids {
		errs = append(errs, r.intake.Abandon(ctx, id))
	}
	if err := errors.Join(append(errs, r.rooms.Purge(ctx, ids))...); err != nil {
		return err
	}
	for _, id := range ids {
		r.scales.remove(id)
	}
	return nil
}

// over notes how a job went.
func (r *Replica) over(j *job, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := j.d
	d.working = false
	delete(r.busy, j.box)
	i := slices.IndexFunc(d.boxes, func(l lister) bool { return l.box == j.box })
	if err != nil {
		r.count.failed.Add(1)
		level, now, again := slog.LevelDebug, r.c.Now(), time.Duration(0)
		if i >= 0 {
			l := &d.boxes[i]
			again = max(l.delay, pullFirst)
			l.due, l.delay = now.Add(again), min(2*again, pullMost)
		}
		if l := r.lists[j.box]; l != nil && now.Sub(l.said) > sayAgain {
			level, l.said = slog.LevelInfo, now
		}
		r.log.Log(context.Background(), level, "a box's room was not copied; it is tried again", "box", j.box, "room", d.id, "again", again, "err", err)
		return
	}
	d.here = true
	if i >= 0 {
		l := &d.boxes[i]
		if l.delay = 0; slices.Equal(l.tips, j.tips) {
			l.tips = nil
		}
	} else if len(d.boxes) == 0 { // meanwhile
		poke(r.tidy)
	}
	if !slices.ContainsFunc(d.boxes, func(l lister) bool { return len(l.tips) > 0 }) {
		delete(r.pending, d.id)
	}
}
