// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"context"
	"fmt"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
)

// TouchFirst notes that a room has something urgent for the peer: it is looked at before the others, even when as much is under way as else may be.
func (f *Feed) TouchFirst(id event.RoomID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rooms = slices.DeleteFunc(slices.Clone(f.rooms), func(o event.RoomID) bool { return o == id })
	f.rooms = slices.Insert(f.rooms, 0, id)
	f.extra = 16
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
