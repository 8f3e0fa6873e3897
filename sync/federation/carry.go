// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// Boxes talk with each other while a central server is out of reach, so an event of ours may build on one of another box that the
// central server has not seen. It would ask for the gap, up to ten or twenty events, and then take what follows with a state
// that somebody tells it, or mark what it cannot place as rejected for good (Dendrite does). So an event of ours
// waits until the server knows the other box's event; the other box may be bringing it this moment. If it does not, we
// bring it, and go on so until our backlog is gone: the event is signed by its own server, the central server needs it whoever
// carries it, and takes no notice of what it gets twice.

const (
	holdFor    = 400 * time.Millisecond // the other box's own way gets this much time
	carryMost  = 5000
	rememberIn = 10000 // ids of which we know that the server knows them
)

func (d *dest) knows(id event.ID) bool { return d.known[id] }

func (d *dest) learn(ids ...event.ID) {
	if d.known == nil || len(d.known) > rememberIn {
		d.known = map[event.ID]bool{}
	}
	for _, id := range ids {
		d.known[id] = true
	}
}

// boxesIn lists the other boxes in a room.
func (d *dest) boxesIn(r *store.Read, id event.RoomID) ([]string, error) {
	servers, err := r.Servers(id)
	return slices.DeleteFunc(servers, func(s string) bool { return !d.s.c.IsBox(s) }), err
}

// upToHold cuts a room's events before the first that builds on another box's event which the server may not know.
func (d *dest) upToHold(r *store.Read, id event.RoomID, f *ledger, evs []store.Outgoing) (_ []store.Outgoing, held bool, err error) {
	if len(evs) == 0 {
		return evs, false, nil
	}
	if boxes, err := d.boxesIn(r, id); err != nil || len(boxes) == 0 {
		return evs, false, err
	}
	for i, e := range evs {
		need, err := d.unknownOf(r, prevOf(e.JSON))
		if err != nil {
			return nil, false, err
		}
		if len(need) > 0 {
			if !slices.Equal(need, f.hold) {
				f.hold, f.holdAt, f.holdTries = need, time.Time{}, 0
			}
			return evs[:i], true, nil
		}
	}
	return evs, false, nil
}

// unknownOf picks the events of other boxes of which we do not know that the server knows them.
func (d *dest) unknownOf(r *store.Read, ids []event.ID) (out []event.ID, err error) {
	for _, id := range ids {
		if d.knows(id) {
			continue
		}
		row, err := r.Event(id)
		if err != nil {
			return nil, err
		}
		if row != nil && row.Pos > 0 && d.s.c.IsBox(row.Sender.Server()) {
			out = append(out, id)
		}
	}
	return out, nil
}

func prevOf(raw []byte) []event.ID {
	var head struct {
		Prev []event.ID `json:"prev_events"`
	}
	_ = json.Unmarshal(raw, &head) // our own store's bytes; without prevs nothing is held
	return head.Prev
}

// release asks whether the server knows by now what a room is held for, and has it carried otherwise.
func (d *dest) release(ctx context.Context, id event.RoomID, f *ledger) (wait time.Duration, done bool, err error) {
	if left := time.Until(f.holdAt); left > 0 {
		return left, false, nil
	}
	lack := f.hold[:0:0]
	for _, e := range f.hold {
		known, err := d.s.c.Client.Knows(ctx, d.name, e)
		switch {
		case known || final(err):
			d.learn(e)
		case err != nil:
			return 0, false, err
		default:
			lack = append(lack, e)
		}
	}
	if len(lack) > 0 && f.holdTries == 0 {
		f.holdTries, f.holdAt = 1, time.Now().Add(holdFor)
		return holdFor, false, nil
	}
	if len(lack) > 0 {
		if f.carry, err = d.toCarry(ctx, lack, f); err != nil {
			return 0, false, err
		}
		f.relay = true // until nothing waits any more: the rest of the backlog is of the same kind
		d.log.Info("carrying events of another box, on which ours build", "room", id, "events", len(f.carry))
	}
	d.learn(f.hold...)
	f.hold, f.holdTries = nil, 0
	return 0, true, nil
}

// toCarry gives events and those of their ancestors that the server may not know either, oldest first.
func (d *dest) toCarry(ctx context.Context, ids []event.ID, f *ledger) (out []store.Outgoing, err error) {
	err = d.s.c.DB.View(ctx, func(r *store.Read) error {
		seen := map[event.ID]bool{}
		for todo := slices.Clone(ids); len(todo) > 0 && len(out) < carryMost; todo = todo[1:] {
			if seen[todo[0]] || d.knows(todo[0]) {
				continue
			}
			seen[todo[0]] = true
			row, err := r.Event(todo[0])
			if err != nil {
				return err
			}
			if row == nil || row.Pos <= 0 || !d.s.c.IsBox(row.Sender.Server()) || row.Pos <= f.since {
				continue
			}
			out = append(out, store.Outgoing{ID: row.ID, Pos: row.Pos})
			todo = append(todo, prevOf(row.JSON)...)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b store.Outgoing) int { return int(min(1, max(-1, a.Pos-b.Pos))) })
	return out, err
}

// nextCarried gives as many of the events to carry as the window has room for.
func (d *dest) nextCarried(r *store.Read, f *ledger, free int) (out []store.Outgoing, err error) {
	for _, c := range f.carry[:min(free, len(f.carry))] {
		row, err := r.Event(c.ID)
		if err != nil {
			return nil, err
		}
		if row != nil {
			out = append(out, store.Outgoing{ID: c.ID, Pos: c.Pos, JSON: row.JSON})
		}
	}
	return out, nil
}

// carried notes that an event of another box was sent.
func (d *dest) carried(f *ledger, id event.ID) {
	if i := slices.IndexFunc(f.carry, func(c store.Outgoing) bool { return c.ID == id }); i >= 0 {
		f.carry = f.carry[i+1:]
		d.learn(id)
	}
}
