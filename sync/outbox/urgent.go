// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"context"
	"fmt"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/precedence"
)

// TouchFirst notes that a room has something urgent for the peer: it is looked at before the others, even when as much is under way as else may be.
func (f *Feed) TouchFirst(id event.RoomID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rooms = slices.DeleteFunc(slices.Clone(f.rooms), func(o event.RoomID) bool { return o == id })
	f.rooms = slices.Insert(f.rooms, 0, id)
	f.extra = 16
}

// Raised names a raised event.
type Raised struct {
	Room  event.RoomID
	Event event.ID
	Own   bool // of a user of this box
}

// urgentFirst puts the rooms first in which something raised waits for the peer, the most urgent first. On an error it gives the rooms as they were.
func (f *Feed) urgentFirst(ctx context.Context, rooms []event.RoomID) ([]event.RoomID, error) {
	_, level, err := f.waiting(ctx, rooms)
	if err != nil || len(level) == 0 {
		return rooms, err
	}
	of := func(id event.RoomID) int {
		if l, ok := level[id]; ok {
			return l
		}
		return parcel.Routine
	}
	out := slices.Clone(rooms)
	slices.SortStableFunc(out, func(a, b event.RoomID) int { return of(a) - of(b) })
	return out, nil
}

// press notes what is raised and still waits to be given.
func (f *Feed) press(ctx context.Context) error {
	f.mu.Lock()
	rooms := f.rooms
	f.mu.Unlock()
	beyond, level, err := f.waiting(ctx, rooms)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beyond, f.pressing = beyond, parcel.Routine
	for _, l := range level {
		f.pressing = min(f.pressing, l)
	}
	return nil
}

// waiting looks for what is raised in rooms and was not given yet: each flash, and how urgent the most urgent is in each room that has something.
func (f *Feed) waiting(ctx context.Context, rooms []event.RoomID) (flashes []Raised, level map[event.RoomID]int, err error) {
	level = make(map[event.RoomID]int)
	if len(rooms) == 0 {
		return nil, level, nil
	}
	err = f.o.db.View(ctx, func(r *store.Read) error {
		noticed, err := r.NoticeRooms()
		if err != nil {
			return err
		}
		for _, id := range rooms {
			some, looked := f.o.judge.Rushes(id)
			if !some && !noticed[id] && looked {
				continue
			}
			if lacks, err := f.lacks(r, id); !lacks || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			rush, err := f.rush(r, id)
			if err != nil {
				return err
			}
			f.mu.Lock()
			rush = rush.Behind(f.given[id])
			f.mu.Unlock()
			for _, x := range rush {
				if l, ok := level[id]; !ok || int(x.Level) < l {
					level[id] = int(x.Level)
				}
				if x.Level == priority.Flash && x.Event != "" {
					flashes = append(flashes, Raised{id, x.Event, x.Sender.Server() == f.o.server})
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("look for what is urgent to %s: %w", f.p.ID.Short(), err)
	}
	return flashes, level, nil
}

// rush is what is raised in a room, without what the peer's own users wrote: it builds on nothing that the peer lacks.
func (f *Feed) rush(r *store.Read, id event.RoomID) (precedence.Rush, error) {
	rush, err := f.o.judge.Rush(r, id)
	return slices.DeleteFunc(rush, func(x precedence.Raised) bool { return x.Sender.Server() == f.p.Server }), err
}

// lacks says whether there may be something in a room that the peer was not sent.
func (f *Feed) lacks(r *store.Read, id event.RoomID) (bool, error) {
	logs, err := r.Logs(id)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(logs, func(l store.Log) bool { return l.Box != string(f.p.ID) && l.Top > f.position(l.N) }), nil
}

// Flashes lists what of this box's users is a flash now, in rooms of the peer and not known to be there: what could be told ahead before the peer has said where it stands.
func (f *Feed) Flashes(ctx context.Context) ([]Raised, error) {
	var rooms []event.RoomID
	err := f.o.db.View(ctx, func(r *store.Read) (err error) {
		rooms, err = r.DueRooms(f.p.Server)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the rooms of %s: %w", f.p.ID.Short(), err)
	}
	flashes, _, err := f.waiting(ctx, rooms)
	return slices.DeleteFunc(flashes, func(x Raised) bool { return !x.Own }), err
}

// Pressing says how urgent the most urgent is that the peer lacks and that Next has not given yet, Routine when there is nothing raised, and names what of it is a flash.
// It is as of the last Next.
func (f *Feed) Pressing() (level int, flashes []Raised) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pressing, f.beyond
}

// Lift makes what was given of a room as urgent as an event that has come in since and builds on it; the caller arranges the items again.
func Lift(items []Item, room event.RoomID, level int, of event.ID, own bool) {
	for i, it := range items {
		if it.Room == room && level < it.Priority {
			items[i].Priority, items[i].For, items[i].ForOwn = level, of, own
		}
	}
}

// Arrange puts the more urgent items first and keeps each room's in order: what an urgent event of a room builds on goes with it, as urgent as itself. It gives
// the same slice.
func Arrange(items []Item) []Item {
	most := map[event.RoomID]int{}
	for i, it := range slices.Backward(items) {
		if p, ok := most[it.Room]; !ok || it.Priority < p {
			most[it.Room] = it.Priority
		} else {
			items[i].Priority = p
		}
	}
	slices.SortStableFunc(items, func(a, b Item) int { return a.Priority - b.Priority })
	return items
}

// Ahead gives an event of this box's own log of a room as it would be sent, if the peer may see it and has not been sent it: to tell of it before its turn. It does not
// count as sent. nil: there is nothing to tell.
func (f *Feed) Ahead(ctx context.Context, room event.RoomID, id event.ID) (e *parcel.Event, err error) {
	err = f.o.db.View(ctx, func(r *store.Read) error {
		row, err := r.Event(id)
		if row == nil || err != nil || row.Sender.Server() != f.o.server {
			return err
		}
		ok, err := f.may(r, row)
		if !ok || err != nil {
			return err
		}
		logs, err := r.Logs(room)
		if err != nil {
			return err
		}
		for _, l := range logs {
			if !l.Own {
				continue
			}
			seq, err := r.PlaceOf(l.N, row.NID)
			if err != nil || seq == 0 || seq <= f.position(l.N) {
				return err
			}
			kept, err := r.KeptBy(l.N)
			if err != nil || seq <= kept[string(f.p.ID)] {
				return err
			}
			if e, err = f.o.load(r, row); e != nil {
				e.Log = logRef(l, seq)
			}
			return err
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s to tell %s of it: %w", id, f.p.ID.Short(), err)
	}
	return e, nil
}
