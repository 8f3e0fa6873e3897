// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"fmt"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// sweepAtOnce is how many numbers of events one act looks at; others write in between.
const sweepAtOnce = 5000

// Purge removes rooms as if they had never been here. It is for copies, which can be had anew. What is handed in for one of them meanwhile is refused, as it is for rooms that
// are not held; nobody may be reading one, or learn one anew, before Purge returns.
func (r *Rooms) Purge(ctx context.Context, rooms []event.RoomID) error {
	for _, id := range rooms {
		if err := r.drop(ctx, id); err != nil {
			return fmt.Errorf("purge room %s: %w", id, err)
		}
	}
	var events, groups int64
	err := r.view(ctx, func(rd *store.Read) (err error) {
		events, groups, err = rd.LastNumbers()
		return err
	})
	for from := int64(0); err == nil && from <= max(events, groups); from += sweepAtOnce {
		err = r.db.DoSmall(ctx, func(tx *store.Tx) error { return tx.Sweep(rooms, from, from+sweepAtOnce) })
	}
	r.thins.clear()
	if err != nil {
		return fmt.Errorf("purge rooms: %w", err)
	}
	return nil
}

// drop forgets a room's state, on the disk and in memory.
func (r *Rooms) drop(ctx context.Context, id event.RoomID) error {
	l, err := r.enter(ctx, id)
	if err != nil {
		return err
	}
	defer l.mu.Unlock()
	l.drain()
	err = r.db.DoSmall(ctx, func(tx *store.Tx) error { return tx.DropRoom(id) })
	l.forget()
	return err
}
