// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"slices"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// maxLookBack bounds how many events are searched for one that builds on an event which has lost its descendant.
const maxLookBack = 2000

// pass judges, ancestors first, what is dirty and what builds on a change.
func (r *rethink) pass() error {
	for _, it := range r.order {
		it.changed = false
	}
	for _, it := range r.order {
		if !it.dirty && !r.builtOnChange(it) {
			continue
		}
		if it.dirty {
			it.dirty = false
			r.dirty--
		}
		waited, was := r.waiting(it), it.outcome
		after, err := r.after(it)
		if err != nil {
			return err
		}
		if err := r.judge(it); err != nil {
			return err
		}
		it.changed = was != it.outcome || after.nid != it.after.nid && !after.state.Equal(it.after.state)
		flipped := (was == Rejected) != (it.outcome == Rejected)
		if waited && len(it.waits) == 0 || flipped {
			if err := r.settled(it.pdu.ID); err != nil {
				return err
			}
		}
		if flipped {
			if err := r.flipped(it.pdu.ID, it.row.NID, it.outcome == Rejected); err != nil {
				return err
			}
		}
	}
	return nil
}

// waiting reports whether an item is still rejected for want of authorising events, as far as is known.
func (r *rethink) waiting(it *item) bool {
	if it.p != nil {
		return len(it.waits) > 0
	}
	return it.outcome == Rejected
}

func (r *rethink) builtOnChange(it *item) bool {
	return !it.u.Given && slices.ContainsFunc(it.pdu.Prev, func(id event.ID) bool {
		up := r.byID[id]
		return up != nil && up.changed
	})
}

// before finds the state before an item anew. When it is what it was, the old group stays.
func (r *rethink) before(it *item, p *prepared) (group, error) {
	old := group{nid: it.row.Before}
	var err error
	if old.state, err = r.k.rd.Group(it.row.Before); err != nil {
		return old, err
	}
	if it.u.Given {
		return r.withoutFallen(p, old), nil
	}
	var groups []group
	for _, id := range it.pdu.Prev {
		if up := r.byID[id]; up != nil {
			g, err := r.after(up)
			if err != nil {
				return group{}, err
			}
			groups = append(groups, g)
			continue
		}
		g, ok, err := r.l.stateAfter(r.k, id)
		if err != nil {
			return group{}, err
		}
		if ok {
			groups = append(groups, g)
		}
	}
	if len(groups) == 0 {
		return old, nil
	}
	g, err := r.l.resolve(r.k, p, groups)
	if err == nil && g.state.Equal(old.state) {
		return old, nil
	}
	return g, err
}

// judge decides about a placed event anew.
func (r *rethink) judge(it *item) error {
	p, auth, err := r.prepare(it.row, it.pdu)
	if err != nil {
		return err
	}
	if it.p != nil {
		p.groups = it.p.groups // what others' groups may be told by
	}
	before, err := r.before(it, p)
	if err != nil {
		return err
	}
	it.waits = p.waits
	reason, outcome, err := r.l.law(r.k, p, auth, before, true, nil, Incoming{PDU: it.pdu, Backfill: true}) // the current state is asked below
	if err != nil {
		return err
	}
	shown := it.row.Pos != 0
	if outcome == Accepted && it.row.Is(store.SoftFailed) && !strings.HasPrefix(it.row.Reason, offState) { // a policy server's word stands
		outcome, reason = SoftFailed, it.row.Reason
	} else if outcome == Accepted && !shown {
		cur, err := r.current(it, p)
		if err != nil {
			return err
		}
		denied, err := r.k.allowed(p.thin, cur.state)
		if err != nil {
			return err
		}
		if denied != nil {
			outcome, reason = SoftFailed, offState+denied.Error()
		}
	}
	switch outcome {
	case Rejected:
		p.row.Flags |= store.Rejected
		p.thin.Rejected = true
	case SoftFailed:
		p.row.Flags |= store.SoftFailed
	}
	p.row.Reason = reason
	p.row.Before, p.row.After = before.nid, before.nid
	after := before
	if it.pdu.StateKey != nil && outcome != Rejected {
		key, err := r.l.r.db.StateKey(it.pdu.Type, *it.pdu.StateKey)
		if err != nil {
			return err
		}
		after = r.l.newGroup(p, before, before.state.With(key, it.row.NID))
		p.row.After = after.nid
	}
	p.result = Result{Outcome: outcome, Reason: reason}
	p.info.Outcome, p.info.Servers = outcome, r.l.serverList()
	p.again.kept = shown && outcome == Accepted
	p.again.quiet = p.again.kept || outcome == Rejected || outcome == outcomeOf(it.row)
	if !p.again.kept {
		p.row.Pos = 0
	}
	it.p, it.outcome, it.after = p, outcome, after
	r.l.keep(p)
	return nil
}

// ends gives the ends of the graph when those items have come that stand before stop (nil: all). lost are ends that were none before.
func (r *rethink) ends(stop *item) (tips []tip, lost []tip, err error) {
	was := make(map[event.ID]bool)
	for _, t := range r.l.tips {
		was[t.id] = true
		if r.byID[t.id] == nil {
			tips = append(tips, t)
		}
	}
	for _, it := range r.order { // what the items build on stands bare until they come
		for _, id := range it.pdu.Prev {
			if r.byID[id] != nil || !r.over[id] || slices.ContainsFunc(tips, func(t tip) bool { return t.id == id }) {
				continue
			}
			row, err := r.k.row(id)
			if err != nil {
				return nil, nil, err
			}
			if row == nil || row.Pos <= 0 || outcomeOf(row) != Accepted || row.Room != r.l.id {
				continue
			}
			t := tip{nid: row.NID, id: id, depth: row.Depth, after: group{nid: row.After}}
			if t.after.state, err = r.k.rd.Group(row.After); err != nil {
				return nil, nil, err
			}
			tips = append(tips, t)
		}
	}
	for _, it := range r.order {
		if it == stop {
			break
		}
		if it.outcome != Accepted {
			continue
		}
		covered := make(map[event.ID]bool)
		if err := r.cover(covered, it.pdu.Prev, 0); err != nil {
			return nil, nil, err
		}
		tips = slices.DeleteFunc(tips, func(t tip) bool { return covered[t.id] })
		if !it.u.Covered {
			tips = append(tips, tip{nid: it.row.NID, id: it.pdu.ID, depth: it.pdu.Depth, after: it.after})
		}
	}
	for i := range tips {
		if it := r.byID[tips[i].id]; it != nil {
			if tips[i].after, err = r.after(it); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, t := range tips {
		if !was[t.id] && r.byID[t.id] == nil {
			lost = append(lost, t)
		}
	}
	return tips, lost, nil
}

// cover is live.cover that knows what became of the items.
func (r *rethink) cover(covered map[event.ID]bool, prev []event.ID, depth int) error {
	for _, id := range prev {
		if covered[id] || depth > 20 {
			continue
		}
		it := r.byID[id]
		if it == nil {
			if err := r.l.cover(r.k, covered, []event.ID{id}, depth); err != nil {
				return err
			}
			continue
		}
		covered[id] = true
		if it.outcome != Accepted {
			if err := r.cover(covered, it.pdu.Prev, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// current is the current state when the items before one have come.
func (r *rethink) current(it *item, p *prepared) (group, error) {
	tips, _, err := r.ends(it)
	if err != nil || len(tips) == 0 {
		return r.l.cur, err
	}
	groups := make([]group, len(tips))
	for i, t := range tips {
		groups[i] = t.after
	}
	return r.l.resolve(r.k, p, groups)
}

// finish gives what is to be written, ancestors first. The last of it brings the room's ends and its current state.
func (r *rethink) finish(firsts []*prepared) ([]*prepared, error) {
	ps := r.loose
	unsure := make(map[event.ID]bool)
	for _, p := range firsts {
		unsure[p.pdu.ID] = p.unsure != nil
	}
	var sure []int64
	var doubt []store.Unsure
	for _, it := range r.order {
		if it.p != nil {
			ps = append(ps, it.p)
		}
		still := r.waiting(it) && (it.p != nil || r.stillWaits(it))
		if !it.u.Given {
			still = still || slices.ContainsFunc(it.pdu.Prev, func(id event.ID) bool { return unsure[id] })
		}
		if unsure[it.pdu.ID] = still; !still {
			sure = append(sure, it.u.NID)
		} else if !it.listed {
			doubt = append(doubt, it.u)
		}
	}
	if len(ps) == 0 || len(ps) == len(r.loose) {
		return ps, nil
	}
	last := ps[len(ps)-1]
	last.again.doubt = doubt
	if r.l.partial == nil { // else all of them rest on memberships that lack
		last.again.sure = sure
	}
	tips, lost, err := r.ends(nil)
	if err != nil {
		return nil, err
	}
	for _, t := range lost {
		bare, err := r.bare(t)
		if err != nil {
			return nil, err
		}
		if !bare {
			tips = slices.DeleteFunc(tips, func(o tip) bool { return o.id == t.id })
		}
	}
	if len(tips) == 0 {
		return ps, nil // nothing is left to stand on: the room stays where it is
	}
	last.setTips, last.tips = true, nids(tips)
	cur := tips[0].after
	if len(tips) > 1 {
		if cur, err = r.l.resolveTips(r.k, last, tips); err != nil {
			return nil, err
		}
	}
	return ps, r.l.setCurrent(r.k, last, cur)
}

func (r *rethink) stillWaits(it *item) bool {
	w, err := r.k.rd.AwaitsAuth(it.u.NID)
	return w || err != nil
}

// bare reports whether no accepted event builds on one whose descendant was an item that is accepted no more.
func (r *rethink) bare(t tip) (bool, error) {
	row, err := r.k.rd.EventByNID(t.nid)
	if row == nil || err != nil {
		return false, err
	}
	rows, err := r.k.rd.RoomEventsBetween(r.l.id, row.Pos, 1<<62, maxLookBack, false)
	if err != nil || len(rows) == maxLookBack {
		return false, err // among so many some will
	}
	for _, row := range rows {
		it := r.items[row.NID]
		if it != nil {
			continue // its part is done
		}
		p, err := event.ParseTrusted(r.l.version, row.ID, row.JSON)
		if err != nil {
			return false, err
		}
		covered := make(map[event.ID]bool)
		if err := r.cover(covered, p.Prev, 0); err != nil {
			return false, err
		}
		if covered[t.id] {
			return false, nil
		}
	}
	return true, nil
}
