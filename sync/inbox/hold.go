// SPDX-License-Identifier: EUPL-1.2

package inbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// missing holds an event until its ancestors are here and says which to ask for; a chain of asking that has become too
// long is handed to whoever can walk the graph.
func (b *Inbox) missing(ctx context.Context, h *held, ids []event.ID, t *Taken) (done bool, err error) {
	b.mu.Lock()
	for _, child := range b.waits[h.pdu.ID] {
		if c := b.held[child]; c != nil && len(h.refs) == 0 {
			h.depth = max(h.depth, c.depth+1)
		}
	}
	b.mu.Unlock()
	if h.depth >= maxDepth {
		b.handOn(ctx, h)
		return false, nil
	}
	now := b.c.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.held) >= maxHeld || b.bytes+len(h.pdu.JSON()) > maxHeldBytes {
		b.c.Log.Warn("too many events wait for ancestors; one more is dropped and will come again", "room", h.pdu.RoomID, "held", len(b.held))
		return false, nil
	}
	if b.held[h.pdu.ID] == nil {
		b.held[h.pdu.ID] = h
		b.rooms[h.pdu.RoomID]++
		b.bytes += len(h.pdu.JSON())
	}
	h.lacks = ids
	for _, id := range ids {
		if !slices.Contains(b.waits[id], h.pdu.ID) {
			b.waits[id] = append(b.waits[id], h.pdu.ID)
		}
		if b.held[id] == nil && now.Sub(b.asked[id]) >= askAgain {
			b.asked[id] = now
			t.Want = append(t.Want, id)
		}
	}
	return false, nil
}

// release gives the events that waited for one that has come, oldest first. They may still lack others.
func (b *Inbox) release(id event.ID) []*held {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.asked, id)
	var out []*held
	for _, w := range b.waits[id] {
		if h := b.held[w]; h != nil {
			b.dropLocked(h)
			out = append(out, h)
		}
	}
	delete(b.waits, id)
	slices.SortStableFunc(out, func(a, b *held) int { return a.since.Compare(b.since) })
	return out
}

func (b *Inbox) dropLocked(h *held) {
	delete(b.held, h.pdu.ID)
	b.bytes -= len(h.pdu.JSON())
	if b.rooms[h.pdu.RoomID]--; b.rooms[h.pdu.RoomID] <= 0 {
		delete(b.rooms, h.pdu.RoomID)
	}
}

// Sweep hands events that have waited for longer than most to whoever can walk the graph: the giver had no answer to a
// want, or the answer was lost.
func (b *Inbox) Sweep(ctx context.Context, most time.Duration) error {
	if b.c.Stage == nil {
		return nil
	}
	now := b.c.Now()
	b.mu.Lock()
	var late []*held
	for _, h := range b.held {
		if now.Sub(h.since) > most {
			late = append(late, h)
		}
	}
	for _, h := range late {
		b.dropLocked(h)
	}
	for id, at := range b.asked {
		if now.Sub(at) > most {
			delete(b.asked, id)
		}
	}
	b.mu.Unlock()
	for _, h := range late {
		b.c.Log.Info("event has waited long for its ancestors; asking further", "event", h.pdu.ID, "room", h.pdu.RoomID, "from", h.from.Server)
		b.handOn(ctx, h)
	}
	return nil
}

// handOn gives an event to whoever can walk the graph. What is not taken there has no receipt and comes again; what came with it must not
// wait for that.
func (b *Inbox) handOn(ctx context.Context, h *held) {
	if b.c.Stage == nil {
		b.c.Log.Warn("nobody can ask for the ancestors of an event", "event", h.pdu.ID, "room", h.pdu.RoomID, "from", h.from.Server)
		return
	}
	if err := b.c.Stage(ctx, h.from.Server, h.pdu); err != nil {
		b.c.Log.Warn("waiting event refused", "event", h.pdu.ID, "from", h.from.Server, "err", err)
	}
}

// Waiting says whether events of a room are held.
func (b *Inbox) Waiting(id event.RoomID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rooms[id] > 0
}

// Retry looks again at the events held of a room: something else may have brought their ancestors, or the room itself.
func (b *Inbox) Retry(ctx context.Context, id event.RoomID) (Taken, error) {
	t := Taken{Room: id}
	come, err := b.come(ctx, id)
	if err != nil || len(come) == 0 {
		return t, err
	}
	b.mu.Lock()
	var again []*held
	for _, h := range come {
		if b.held[h.pdu.ID] == h {
			b.dropLocked(h)
			again = append(again, h)
		}
	}
	b.mu.Unlock()
	slices.SortStableFunc(again, func(a, b *held) int { return int(a.pdu.Depth - b.pdu.Depth) })
	for _, h := range again {
		if err := b.take(ctx, h, &t); err != nil {
			return t, fmt.Errorf("retry %s: %w", id, err)
		}
	}
	return t, nil
}

// come lists the held events of a room that lack something which is here now.
func (b *Inbox) come(ctx context.Context, id event.RoomID) ([]*held, error) {
	b.mu.Lock()
	lacking := make(map[event.ID][]*held)
	var out []*held
	for _, h := range b.held {
		if h.pdu.RoomID != id {
			continue
		}
		if len(h.lacks) == 0 {
			out = append(out, h) // it waited for the room
		}
		for _, l := range h.lacks {
			lacking[l] = append(lacking[l], h)
		}
	}
	b.mu.Unlock()
	err := b.c.DB.View(ctx, func(r *store.Read) error {
		if len(out) > 0 {
			if rm, err := r.Room(id); err != nil || rm == nil || rm.Cur == 0 {
				out = nil
				return err
			}
		}
		for l, hs := range lacking {
			nid, err := r.EventNID(l)
			if err != nil {
				return err
			}
			if nid != 0 {
				out = append(out, hs...)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for ancestors: %w", err)
	}
	return out, nil
}

// stateAtBase gives the state before an event that was written while this box joined: its prev events are those of our
// own join, which we do not have, but the state there is what the join was given.
func (b *Inbox) stateAtBase(ctx context.Context, p *event.PDU, missing []event.ID) ([]event.ID, error) {
	var base event.ID
	err := b.c.DB.View(ctx, func(r *store.Read) error {
		gaps, err := r.Gaps(p.RoomID)
		if err != nil {
			return err
		}
		for _, id := range p.Prev {
			if !slices.Contains(gaps, id) {
				return nil
			}
		}
		for _, id := range missing {
			if !slices.Contains(p.Prev, id) {
				return nil
			}
		}
		base, err = r.ChildOfGaps(p.RoomID, p.Prev)
		return err
	})
	if base == "" || err != nil {
		return nil, err
	}
	state, err := b.c.Rooms.StateBefore(ctx, base)
	if err != nil {
		return nil, fmt.Errorf("state before %s: %w", base, err)
	}
	out := make([]event.ID, 0, len(state))
	for _, id := range state {
		out = append(out, id)
	}
	return out, nil
}
