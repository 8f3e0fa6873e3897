// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"cmp"
	"context"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// MissingEvents walks back from latest (not included) to earliest (not included) and gives up to limit events, ancestors first.
func (r *Rooms) MissingEvents(ctx context.Context, room event.RoomID, earliest, latest []event.ID, limit, minDepth int) ([]*event.PDU, error) {
	stop := make(map[event.ID]bool, len(earliest))
	for _, id := range earliest {
		stop[id] = true
	}
	var out []*event.PDU
	err := r.view(ctx, func(rd *store.Read) error {
		v, err := versionOf(rd, room)
		if err != nil {
			return err
		}
		seen := make(map[event.ID]bool)
		var todo []event.ID
		for _, id := range latest {
			seen[id] = true
			todo = append(todo, id)
		}
		for first := len(todo); len(todo) > 0 && len(out) < limit; first-- {
			id := todo[0]
			todo = todo[1:]
			p, err := placed(rd, v, room, id)
			if err != nil {
				return err
			}
			if p == nil || stop[id] || p.Depth < int64(minDepth) {
				continue
			}
			if first <= 0 {
				out = append(out, p)
			}
			for _, prev := range p.Prev {
				if !seen[prev] && !stop[prev] {
					seen[prev] = true
					todo = append(todo, prev)
				}
			}
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b *event.PDU) int { return cmp.Compare(a.Depth, b.Depth) })
	return out, err
}

// Backfill gives up to limit events that lead to from, these included, latest first.
func (r *Rooms) Backfill(ctx context.Context, room event.RoomID, from []event.ID, limit int) ([]*event.PDU, error) {
	var out []*event.PDU
	err := r.view(ctx, func(rd *store.Read) error {
		v, err := versionOf(rd, room)
		if err != nil {
			return err
		}
		seen := make(map[event.ID]bool)
		var heads []*event.PDU // the deepest of these comes next
		add := func(ids []event.ID) error {
			for _, id := range ids {
				if seen[id] {
					continue
				}
				seen[id] = true
				p, err := placed(rd, v, room, id)
				if err != nil {
					return err
				}
				if p != nil {
					heads = append(heads, p)
				}
			}
			return nil
		}
		if err := add(from); err != nil {
			return err
		}
		for len(heads) > 0 && len(out) < limit {
			i := 0
			for j, h := range heads {
				if h.Depth > heads[i].Depth {
					i = j
				}
			}
			p := heads[i]
			heads = slices.Delete(heads, i, i+1)
			out = append(out, p)
			if err := add(p.Prev); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// placed gives an event whose place in the room's graph we know and that the law did not refuse; nil otherwise.
func placed(rd *store.Read, v *event.Version, room event.RoomID, id event.ID) (*event.PDU, error) {
	row, err := rd.Event(id)
	if row == nil || err != nil || row.Room != room || row.Flags&(store.Outlier|store.Rejected) != 0 {
		return nil, err
	}
	return event.ParseTrusted(v, row.ID, row.JSON)
}
