// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/hub/api"
)

// This file takes in which rooms boxes list.

// kindRooms is the deposit with the ids of the rooms that a box lists, as a JSON array.
const kindRooms = "rooms"

// ErrAll: the box should list all of its rooms.
var ErrAll = errors.New("the hub does not know which rooms the box had listed before; it should list all")

// remember reads what boxes listed in an earlier life, and which of that is here.
func (r *Replica) remember(ctx context.Context, boxes []string) error {
	for _, box := range boxes {
		raw, err := r.c.Memory.Deposited(ctx, box, kindRooms, "")
		if err != nil {
			return err
		}
		var ids []event.RoomID
		if raw != nil && json.Unmarshal(raw, &ids) != nil {
			continue // it is told anew
		}
		l := &list{rooms: make(map[event.RoomID]struct{}, len(ids))}
		r.lists[box] = l
		for _, id := range ids {
			d := r.copies[id]
			if d == nil {
				d = &duplicate{id: id}
				if d.here, err = r.rooms.Knows(ctx, id); err != nil {
					return err
				}
				r.copies[id] = d
			}
			l.rooms[id] = struct{}{}
			d.boxes = append(d.boxes, lister{box: box})
		}
	}
	return nil
}

// Told takes in which rooms a box lists, and how far they are there. ErrAll: it should list all of them.
func (r *Replica) Told(ctx context.Context, box string, told api.Rooms) error {
	r.telling.Lock()
	defer r.telling.Unlock()
	now := r.c.Now()
	r.mu.Lock()
	l := r.lists[box]
	if l == nil {
		l = &list{rooms: map[event.RoomID]struct{}{}}
		r.lists[box] = l
	}
	if !told.All && !l.whole {
		r.mu.Unlock()
		return ErrAll
	}
	if told.All {
		l.sent = now
	}
	next := maps.Clone(l.rooms)
	if told.All {
		clear(next)
	}
	for _, id := range told.Gone {
		delete(next, event.RoomID(id))
	}
	for _, room := range told.Rooms {
		v, ok := event.Lookup(room.Version)
		if !ok || v.Readable || len(next) >= api.MaxRooms {
			r.count.refused.Add(1)
			continue
		}
		next[event.RoomID(room.ID)] = struct{}{}
	}
	changed := !maps.EqualFunc(next, l.rooms, func(a, b struct{}) bool { return true })
	r.mu.Unlock()
	if changed {
		if err := r.keep(ctx, box, next); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l.whole = true
	for id := range l.rooms {
		if _, still := next[id]; !still {
			r.unlist(box, id)
		}
	}
	l.rooms = next
	for _, room := range told.Rooms {
		if _, ok := next[event.RoomID(room.ID)]; ok {
			r.list(box, room, now)
		}
	}
	poke(r.wake)
	return nil
}

// keep has the memory know what a box lists.
func (r *Replica) keep(ctx context.Context, box string, rooms map[event.RoomID]struct{}) error {
	raw, err := json.Marshal(slices.Sorted(maps.Keys(rooms)))
	if err != nil {
		return err
	}
	if err := r.c.Memory.Deposit(ctx, box, kindRooms, "", raw); err != nil {
		return fmt.Errorf("keep which rooms a box lists: %w", err)
	}
	return nil
}

// list notes what a box says of a room. r.mu is held.
func (r *Replica) list(box string, room api.Room, now time.Time) {
	id := event.RoomID(room.ID)
	d := r.copies[id]
	if d == nil {
		d = &duplicate{id: id}
		r.copies[id] = d
	}
	i := slices.IndexFunc(d.boxes, func(l lister) bool { return l.box == box })
	if i < 0 {
		d.boxes = append(d.boxes, lister{box: box})
		i = len(d.boxes) - 1
	}
	l := &d.boxes[i]
	if len(l.tips) == 0 {
		l.since, l.due = now, now.Add(max(l.delay, r.c.Limits.Settle)) // who has failed before is not asked sooner because it says so
	}
	l.version, l.tips = room.Version, make([]event.ID, len(room.Tips))
	for i, t := range room.Tips {
		l.tips[i] = event.ID(t)
	}
	r.pending[id] = d
}

// unlist forgets that a box lists a room. r.mu is held.
func (r *Replica) unlist(box string, id event.RoomID) {
	d := r.copies[id]
	if d == nil {
		return
	}
	d.boxes = slices.DeleteFunc(d.boxes, func(l lister) bool { return l.box == box })
	if len(d.boxes) == 0 {
		delete(r.pending, id)
		poke(r.tidy)
	}
}

// Forget forgets a box, which is revoked or gone.
func (r *Replica) Forget(box string) {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lists[box]
	if l == nil {
		return
	}
	delete(r.lists, box)
	for id := range l.rooms {
		r.unlist(box, id)
	}
	poke(r.wake)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Shared says of which version a room is that all these boxes list; nil: they do not all list it, or nothing is known of it here.
func (r *Replica) Shared(ctx context.Context, id event.RoomID, boxes ...string) *event.Version {
	version := ""
	r.mu.Lock()
	d := r.copies[id]
	for _, box := range boxes {
		if d == nil {
			break
		}
		i := slices.IndexFunc(d.boxes, func(l lister) bool { return l.box == box })
		if i < 0 {
			d = nil
			break
		}
		version = cmp.Or(version, d.boxes[i].version)
	}
	r.mu.Unlock()
	if d == nil {
		return nil
	}
	if version == "" { // listed in an earlier life
		err := r.c.DB.View(ctx, func(rd *store.Read) error {
			row, err := rd.Room(id)
			if row != nil {
				version = row.Version
			}
			return err
		})
		if err != nil {
			return nil
		}
	}
	v, ok := event.Lookup(version)
	if !ok {
		return nil
	}
	return v
}

// holds says whether a box may be answered for about a room.
func (r *Replica) holds(box string, id event.RoomID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.copies[id]
	return d != nil && d.here && slices.ContainsFunc(d.boxes, func(l lister) bool { return l.box == box })
}
