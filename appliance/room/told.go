// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// This file takes back what rests on hearsay.
//
// An event whose ancestors could not be had was placed by the state that a server said was before it. That server may
// have been wrong, and what builds on the event has inherited it. Once all its prev events have found their places, what they come to counts, for the event
// and for all that descends from it.
//
// An event that is known by name only is believed when its authorising events allow it. When it finds its place and the law refuses it there, all that names it
// as its authority is looked at again, and told states lose it.

// maxFollow bounds how many events are looked at again at once. A told state that more events follow stays: a room is not stopped for that long.
const maxFollow = 5000

// endsTelling reports whether an event may find its place for whose want others were placed by a told state.
func (l *live) endsTelling(ctx context.Context, in Incoming) (may bool, err error) {
	if _, gap := l.gaps[in.PDU.ID]; !gap || in.Outlier {
		return false, nil
	}
	if !in.Backfill {
		return true, nil
	}
	err = l.r.view(ctx, func(rd *store.Read) (err error) {
		may, err = l.placed(&look{l: l, rd: rd}, in.PDU.Prev)
		return err
	})
	return may, err
}

// untell looks again at the events that were placed by a told state for want of the event id, which is being placed.
func (r *rethink) untell(id event.ID) error {
	children, err := r.k.rd.ChildrenOfGap(r.l.id, id)
	if err != nil {
		return err
	}
	for _, child := range children {
		wrong, err := r.wronglyTold(child)
		if err != nil {
			return err
		}
		if !wrong {
			continue
		}
		whole, err := r.follow(child, true)
		if err != nil {
			return err
		}
		if !whole {
			continue
		}
		it := r.items[child.NID]
		it.u.Given = false
		r.soil(it)
	}
	return nil
}

func (r *rethink) soil(it *item) {
	if !it.dirty {
		it.dirty = true
		r.dirty++
	}
}

// wronglyTold reports whether the ancestors of a placed event, all of them placed by now, come to another state than it was placed by, or may yet.
func (r *rethink) wronglyTold(child *store.Event) (bool, error) {
	if child.Flags&(store.Outlier|store.Guessed) != 0 || child.Before == 0 {
		return false, nil
	}
	p, err := event.ParseTrusted(r.l.version, child.ID, child.JSON)
	if err != nil {
		return false, err
	}
	if ours, err := r.l.placed(r.k, p.Prev); !ours || err != nil {
		return false, err
	}
	for _, id := range p.Prev {
		nid, err := r.l.prevNID(r.k, id)
		if err != nil || r.l.unsure[nid] { // so is this one from now on
			return true, err
		}
	}
	now, _, _, err := r.l.stateBefore(r.k, Incoming{PDU: p})
	if err != nil {
		return false, err
	}
	was, err := r.k.rd.Group(child.Before)
	return !now.state.Equal(was), err
}

// follow makes items of all that may descend from an event or rest on it, and of itself. whole: these were not too many.
func (r *rethink) follow(first *store.Event, self bool) (whole bool, err error) {
	rows, err := r.k.rd.PlacedSince(first, maxFollow)
	if err != nil {
		return false, err
	}
	if len(rows) == maxFollow {
		r.l.r.log.Warn("what rests on hearsay stays, too many events follow", "room", r.l.id, "event", first.ID)
		return false, nil
	}
	if self {
		rows = append(rows, first)
	}
	for _, row := range rows {
		if r.items[row.NID] != nil {
			continue
		}
		if err := r.add(row, store.Unsure{NID: row.NID}, false); err != nil {
			return false, err
		}
	}
	r.order = upFirst(r.order, r.byID, func(it *item) []event.ID { return it.pdu.Prev })
	if r.hearsay == nil {
		r.hearsay, err = r.k.rd.OutliersSince(first, maxFollow)
	}
	return true, err
}

// fallen looks again at what rests on an outlier that is being placed and was refused.
func (r *rethink) fallen(p *prepared) error {
	first, err := r.k.rd.EventByNID(p.row.NID)
	if err != nil {
		return err
	}
	first.Depth = -1 // a told state may hold what descends from it
	if whole, err := r.follow(first, false); !whole || err != nil {
		return err
	}
	return r.flipped(p.pdu.ID, p.row.NID, true)
}

// overtaken reports whether the state after an ancestor of an event that is being placed has changed by what was looked at again: the event was judged too soon.
func (r *rethink) overtaken(p *prepared) bool {
	return slices.ContainsFunc(p.pdu.Prev, func(id event.ID) bool {
		it := r.byID[id]
		return it != nil && it.p != nil && it.after.nid != it.row.After
	})
}

// flipped has those looked at again that name an event which was accepted and is rejected now (fell), or the other way round.
func (r *rethink) flipped(id event.ID, nid int64, fell bool) error {
	if r.fell == nil {
		r.fell = make(map[int64]bool)
	}
	r.fell[nid] = fell
	clear(r.l.resolved) // on what was believed before
	for _, it := range r.order {
		rests := slices.Contains(it.pdu.Auth, id)
		if !rests && it.u.Given && fell {
			told, err := r.k.rd.Group(it.row.Before)
			if err != nil {
				return err
			}
			rests = slices.ContainsFunc(told, func(e store.StateEntry) bool { return e.Event == nid })
		}
		if rests {
			r.soil(it)
		}
	}
	for _, row := range r.hearsay {
		p, err := event.ParseTrusted(r.l.version, row.ID, row.JSON)
		if err != nil {
			return err
		}
		if !slices.Contains(p.Auth, id) || row.Is(store.Rejected) == fell {
			continue
		}
		again, err := r.looseAgain(store.Waiter{NID: row.NID})
		if err != nil {
			return err
		}
		if again == nil || again.result.Outcome == outcomeOf(row) {
			continue
		}
		r.loose = append(r.loose, again)
		r.l.keep(again)
		if err := r.flipped(row.ID, row.NID, again.result.Outcome == Rejected); err != nil {
			return err
		}
	}
	return nil
}

// withoutFallen is a told state without the events that the law refuses by now.
func (r *rethink) withoutFallen(p *prepared, told group) group {
	s := slices.DeleteFunc(slices.Clone(told.state), func(e store.StateEntry) bool { return r.fell[e.Event] })
	if len(s) == len(told.state) {
		return told
	}
	return r.l.newGroup(p, told, s)
}
