// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"context"
	"fmt"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/recon"
)

// What a log's own box has called none of this box's business is a hole here, and what stands behind the hole goes no further: the peer may be
// owed what is in it. But the peer may have come past the hole by another way, of which nobody tells this box as long as the conversation lasts.
// So it is asked, by the comparison that is made daily anyway, once for each hole.

// before notes that a log goes no further than a place because of a hole.
func (f *Feed) before(room event.RoomID, log int64, at uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.cursors[log]
	if f.carry || c == nil || c.hole == at+1 {
		return
	}
	c.hole = at + 1
	f.stuck = append(f.stuck, room)
}

// Stuck gives the rooms in which a hole has been met since it was last called.
func (f *Feed) Stuck() []event.RoomID {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.stuck
	f.stuck = nil
	return out
}

// Compared takes from a comparison how far the peer is at least. It moves cursors forward only.
func (f *Feed) Compared(ctx context.Context, a recon.Audit) error {
	logs := make(map[int64]uint64)
	err := f.o.db.View(ctx, func(r *store.Read) error {
		rooms, err := r.DueRooms(f.p.Server)
		if err != nil {
			return err
		}
		said := make(map[recon.Room]recon.Holding, len(a.Rooms))
		for _, h := range a.Rooms {
			said[h.Room] = h
		}
		for _, id := range rooms {
			h, ok := said[recon.RoomOf(id)]
			if !ok {
				continue
			}
			if err := eachCommon(r, id, h, func(l store.Log, held recon.Held) error {
				logs[l.N] = min(held.UpTo, l.Top)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look how far %s is: %w", f.p.ID.Short(), err)
	}
	f.kept(logs, 0)
	f.remember(logs, 0, false)
	return nil
}
