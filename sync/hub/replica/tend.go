// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"context"
	"slices"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// This file keeps the copies within their bounds: what no box lists any more goes, and a room that has grown too large is copied anew, from its newest events on.

const (
	weighStep  = 20_000    // numbers of events that are weighed in one snapshot
	backDelay  = time.Hour // before a room is copied anew that had been too much
	staleAfter = time.Hour // what has waited so long for its ancestors is given up; it is wanted again when a box has something new
	backSeldom = 4         // a room that has no more than so many times Recent is not worth it
)

// scales say what the rooms take: as weighed at the start, and what was added since. An event that was known by name before it came counts twice until the next start.
type scales struct {
	mu sync.Mutex
	of map[event.RoomID]store.Weight
}

func (s *scales) add(id event.RoomID, w store.Weight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[event.RoomID]store.Weight{}
	}
	t := s.of[id]
	s.of[id] = store.Weight{Events: t.Events + w.Events, Bytes: t.Bytes + w.Bytes}
}

func (s *scales) remove(id event.RoomID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, id)
}

func (s *scales) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.of)
}

func (s *scales) room(id event.RoomID) store.Weight {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[id]
}

func (s *scales) all() (w store.Weight, rooms []event.RoomID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, t := range s.of {
		w.Events, w.Bytes = w.Events+t.Events, w.Bytes+t.Bytes
		rooms = append(rooms, id)
	}
	return w, rooms
}

// appended has those tried that waited for an event, and counts it.
func (r *Replica) appended(tx *store.Tx, a room.AppendInfo) error {
	r.scales.add(a.Room, store.Weight{Events: 1, Bytes: int64(len(a.PDU.JSON()))})
	return r.intake.Appended(tx, a)
}

// weigh finds out what the rooms take that are here since before the start.
func (r *Replica) weigh(ctx context.Context) error {
	r.scales.clear()
	var last int64
	err := r.c.DB.View(ctx, func(rd *store.Read) (err error) {
		last, _, err = rd.LastNumbers()
		return err
	})
	for from := int64(0); err == nil && from <= last; from += weighStep {
		err = r.c.DB.View(ctx, func(rd *store.Read) error { return rd.Weights(from, min(from+weighStep, last+1), r.scales.add) })
	}
	return err
}

// tend looks at the bounds until ctx ends.
func (r *Replica) tend(ctx context.Context) {
	tick := time.NewTicker(r.c.Limits.Tend)
	defer tick.Stop()
	for {
		if err := r.tendOnce(ctx); err != nil && ctx.Err() == nil {
			r.log.Error("look after the copies of the boxes' rooms; it is tried again", "err", err)
		}
		select {
		case <-tick.C:
		case <-r.tidy:
		case <-ctx.Done():
			return
		}
	}
}

// watch looks at the disk until ctx ends, whatever tend waits for.
func (r *Replica) watch(ctx context.Context) {
	for pause(ctx, r.c.Limits.Tend) {
		if _, err := r.weighDisk(ctx); err != nil && ctx.Err() == nil {
			r.log.Error("look how much disk the copies of the boxes' rooms leave; it is tried again", "err", err)
		}
	}
}

// weighDisk says how large the database is, and has no more copied while it is too large or others need the disk.
func (r *Replica) weighDisk(ctx context.Context) (size int64, err error) {
	err = r.c.DB.View(ctx, func(rd *store.Read) (err error) {
		size, err = rd.Size()
		return err
	})
	if err != nil {
		return 0, err
	}
	r.size.Store(size)
	free, err := r.c.Free()
	if err != nil {
		return 0, err
	}
	full := size > r.c.Limits.Bytes || free < r.c.Limits.Free
	if was := r.full.Swap(full); full && !was {
		r.log.Error("no more is copied of the boxes' rooms, to leave the disk to what waits for boxes: questions about what is new are answered with 404 while their box is away; give the hub more disk",
			"copies_bytes", size, "most", r.c.Limits.Bytes, "disk_free", free)
	} else if was && !full {
		poke(r.wake)
		r.log.Info("the boxes' rooms are copied again", "copies_bytes", size, "disk_free", free)
	}
	return size, nil
}

func (r *Replica) tendOnce(ctx context.Context) error {
	size, err := r.weighDisk(ctx)
	if err != nil {
		return err
	}
	var staged map[event.RoomID]int
	err = r.c.DB.View(ctx, func(rd *store.Read) (err error) {
		staged, err = rd.StagedCounts()
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range r.stale(staged) {
		if err := r.intake.Abandon(ctx, id); err != nil {
			return err
		}
	}
	return r.purge(ctx, r.tooMuch(staged, size > r.c.Limits.Bytes))
}

// stale gives the rooms in which something has waited for too long.
func (r *Replica) stale(staged map[event.RoomID]int) (rooms []event.RoomID) {
	now := r.c.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, d := range r.copies {
		switch {
		case staged[id] == 0:
			d.waits = time.Time{}
		case d.waits.IsZero():
			d.waits = now
		case now.Sub(d.waits) > staleAfter:
			d.waits = time.Time{}
			rooms = append(rooms, id)
		}
	}
	return rooms
}

// tooMuch takes the rooms out of use that are to be deleted; afterwards those that boxes still list are copied anew.
func (r *Replica) tooMuch(staged map[event.RoomID]int, large bool) (rooms []*duplicate) {
	_, heavy := r.scales.all()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range heavy { // left over
		if r.copies[id] == nil {
			r.copies[id] = &duplicate{id: id}
		}
	}
	var heaviest *duplicate
	own := map[string]*duplicate{} // the heaviest of the rooms that one box alone lists
	takes := map[string]int64{}    // by box
	for id, d := range r.copies {
		w := r.scales.room(id)
		for _, l := range d.boxes {
			takes[l.box] += w.Bytes
		}
		if d.working {
			continue
		}
		if len(d.boxes) == 0 {
			if w.Events == 0 && !d.here {
				delete(r.copies, id)
				continue
			}
			rooms = append(rooms, d)
			continue
		}
		worth := d.here && w.Events > int64(backSeldom*r.c.Limits.Recent)
		reach := slices.ContainsFunc(d.boxes, func(l lister) bool { return r.c.InReach(l.box) })
		switch {
		case staged[id] > r.c.Limits.Staged:
			r.log.Warn("a room's gap does not close, so the copy is begun anew later; a box may be making up events", "room", id, "waiting", staged[id], "boxes", len(d.boxes))
			d.not = r.c.Now().Add(backDelay)
			rooms = append(rooms, d)
		case worth && w.Events > r.c.Limits.RoomRows && reach:
			rooms = append(rooms, d)
		case worth && large && (heaviest == nil || w.Bytes > r.scales.room(heaviest.id).Bytes):
			heaviest = d
		case worth && len(d.boxes) == 1 && (own[d.boxes[0].box] == nil || w.Bytes > r.scales.room(own[d.boxes[0].box].id).Bytes):
			own[d.boxes[0].box] = d
		}
	}
	for box, l := range r.lists {
		over := takes[box] > r.c.Limits.BoxBytes
		if over && !l.over {
			r.log.Warn("the rooms of a box take more than is kept of one box: they are begun anew, and no more of them are copied; if you do not know why it is so much, look at the box, or turn it away with hallig-hub revoke", "box", box, "bytes", takes[box])
		}
		if l.over && !over {
			poke(r.wake)
		}
		if l.over = over; over && own[box] != nil {
			rooms = append(rooms, own[box])
		}
	}
	if large && heaviest != nil && !slices.Contains(rooms, heaviest) {
		rooms = append(rooms, heaviest)
	}
	for _, d := range rooms {
		d.here, d.working = false, true
	}
	return rooms
}

// heard waits until who was being told of a room has heard it all, or hears no more of it because the time for an answer is over.
func (r *Replica) heard(ctx context.Context, begun *sync.WaitGroup) error {
	all := make(chan struct{})
	go func() { // ends with the answers
		begun.Wait()
		close(all)
	}()
	over := time.NewTimer(r.c.Limits.Answer)
	defer over.Stop()
	select {
	case <-all:
		return nil
	case <-over.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// purge deletes rooms that are out of use.
func (r *Replica) purge(ctx context.Context, rooms []*duplicate) error {
	if len(rooms) == 0 {
		return nil
	}
	r.mu.Lock()
	begun := r.answers
	r.answers = &sync.WaitGroup{}
	r.mu.Unlock()
	err := r.heard(ctx, begun)
	ids := make([]event.RoomID, len(rooms))
	tips := make([][]event.ID, len(rooms))
	for i, d := range rooms {
		ids[i] = d.id
		tips[i], _ = r.rooms.Extremities(ctx, d.id) // without them a box says where its room's ends are when something is new
	}
	if err == nil {
		err = r.clear(ctx, ids...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	defer poke(r.wake)
	defer poke(r.tidy) // it may not have been enough
	now := r.c.Now()
	for i, d := range rooms {
		d.working = false
		if err != nil {
			continue // it is not here, and found again
		}
		r.count.purged.Add(1)
		if len(d.boxes) == 0 {
			delete(r.copies, d.id)
			continue
		}
		for b := range d.boxes {
			if l := &d.boxes[b]; len(l.tips) == 0 {
				l.tips, l.since, l.due = tips[i], now, now.Add(max(l.delay, r.c.Limits.Settle))
			}
		}
		r.pending[d.id] = d
	}
	return err
}
