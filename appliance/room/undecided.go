// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"fmt"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// This file keeps apart what the law has refused for good from what is refused only for want of an authorising event. The latter is looked at again,
// with all that descends from it, in the transaction that brings the event it waits for: reconsider.
//
// The same looking again takes back what rests on a state that a server told, or on an event that was believed before its place was known: see told.go.
//
// Known holes: a state that came with a join (Adopt) and held events that wait is not made anew when they are accepted; the word of a policy server about an
// event that waits is forgotten.

// lacksAuthority begins the reason of an event that is rejected for want of an authorising event.
const lacksAuthority = "authorising events are missing: "

// offState begins the reason of an event that the current state does not allow.
const offState = "current state: "

// maxAwaited is how many awaited events a room keeps in memory; beyond that the disk is asked.
const maxAwaited = 5000

// authority collects an event's authorising events. unknown are not here; waits are here but rejected only for want of others.
func (l *live) authority(k *look, ids []event.ID) (auth []*rules.Event, unknown, waits []event.ID, err error) {
	auth = make([]*rules.Event, 0, len(ids))
	for _, id := range ids {
		t, nid, err := k.thinID(id)
		if err != nil {
			return nil, nil, nil, err
		}
		if t == nil {
			unknown = append(unknown, id)
			continue
		}
		auth = append(auth, t)
		if !t.Rejected || t.Room != l.id {
			continue
		}
		w, err := k.waits(nid)
		if err != nil {
			return nil, nil, nil, err
		}
		if w {
			waits = append(waits, id)
		}
	}
	return auth, unknown, waits, nil
}

// waits reports whether a rejected event is rejected only for want of authorising events.
func (k *look) waits(nid int64) (bool, error) {
	if f := k.l.fresh[nid]; f != nil {
		return f.waits, nil
	}
	if k.rd == nil {
		return false, errNeedRead
	}
	return k.rd.AwaitsAuth(nid)
}

func (l *live) loadUndecided(rd *store.Read) error {
	ids, err := rd.AuthAwaited(l.id, maxAwaited+1)
	if err != nil {
		return err
	}
	l.many = len(ids) > maxAwaited
	for _, id := range ids {
		l.awaited[id] = true
	}
	us, err := rd.UnsureEvents(l.id)
	for _, u := range us {
		l.unsure[u.NID] = true
	}
	return err
}

// noteUnsure notes that what is being placed waits, or descends from an event that does.
func (l *live) noteUnsure(k *look, p *prepared) error {
	if p.again != nil || p.info.Backfill {
		return nil
	}
	covered := l.gaps[p.pdu.ID]
	if len(p.waits) > 0 || l.partial != nil {
		p.unsure = &store.Unsure{NID: p.row.NID, Given: p.given, Covered: covered}
		return nil
	}
	if len(l.unsure) == 0 || p.given {
		return nil
	}
	for _, id := range p.pdu.Prev {
		nid, err := l.prevNID(k, id)
		if err != nil {
			return err
		}
		if l.unsure[nid] {
			p.unsure = &store.Unsure{NID: p.row.NID, Covered: covered}
			return nil
		}
	}
	return nil
}

func (l *live) prevNID(k *look, id event.ID) (int64, error) {
	for _, t := range l.tips {
		if t.id == id {
			return t.nid, nil
		}
	}
	row, err := k.row(id)
	if row == nil || err != nil {
		return 0, err
	}
	return row.NID, nil
}

func (p *prepared) writeUndecided(tx *store.Tx) error {
	row := p.row
	if p.replace {
		if err := tx.DropAuthWaits(row.NID); err != nil {
			return err
		}
	}
	for _, id := range p.waits {
		if err := tx.AwaitAuth(row.Room, id, store.Waiter{NID: row.NID, History: p.info.Backfill}); err != nil {
			return err
		}
	}
	if p.unsure != nil {
		if err := tx.AddUnsure(row.Room, *p.unsure); err != nil {
			return err
		}
	}
	if p.again == nil {
		return nil
	}
	for _, u := range p.again.doubt {
		if err := tx.AddUnsure(row.Room, u); err != nil {
			return err
		}
	}
	for _, nid := range p.again.sure {
		if err := tx.DropUnsure(nid); err != nil {
			return err
		}
	}
	return nil
}

// takeAwaited takes in an event that others may wait for, or whose absence had others placed by a told state. They are looked at again in the same transaction, on nothing that is in flight, and the room's
// memory is made anew afterwards: this is rare. The caller holds l.mu.
func (l *live) takeAwaited(ctx context.Context, in Incoming) (waiting, error) {
	l.drain()
	if l.flight.failed(l.gen) {
		return waiting{}, errStale
	}
	w := waiting{}
	var ps []*prepared
	soon := false
	err := l.r.view(ctx, func(rd *store.Read) (err error) {
		k := &look{l: l, rd: rd}
		if w.p, w.decide, err = l.judge(k, in); w.p == nil || err != nil {
			return err
		}
		l.keep(w.p)
		again, overtaken, err := l.reconsider(k, []*prepared{w.p}, true)
		if ps = append([]*prepared{w.p}, again...); overtaken {
			soon, ps = true, again
			l.unsaved = append(l.unsaved, w.p.groups...) // what the others rest on may be among them
		}
		return err
	})
	if err != nil {
		l.forget()
		return waiting{}, err
	}
	if w.p == nil {
		if in.ExtraTx != nil && w.decide.Outcome != Missing {
			w.answer = &answer{c: l.submit(nil, in.ExtraTx)}
		}
		return w, nil
	}
	err = l.await(l.submit(ps, nil))
	l.r.rethought.Add(1)
	l.forget()
	if soon && err == nil {
		return waiting{}, errStale // what it stands on is in order now
	}
	return waiting{p: w.p, err: err}, nil
}

// again says what stays of an event that is looked at again.
type again struct {
	kept  bool           // it was shown and still is: its position stays
	quiet bool           // nobody is to be told
	sure  []int64        // events that are decided for good by now
	doubt []store.Unsure // events that are not, and were not known to be in doubt
}

// rethink is one act of looking again.
type rethink struct {
	l       *live
	k       *look
	placed  bool // placed events too, not only outliers
	order   []*item
	items   map[int64]*item
	byID    map[event.ID]*item
	dirty   int
	over    map[event.ID]bool // what the accepted items built on before
	fell    map[int64]bool    // accepted events that are rejected now
	hearsay []*store.Event    // outliers that may rest on those
	loose   []*prepared       // outliers and history
}

// item is a placed event that may change.
type item struct {
	u       store.Unsure
	listed  bool         // as unsure
	row     *store.Event // as it was
	pdu     *event.PDU
	outcome Outcome
	waits   []event.ID
	after   group
	dirty   bool // to be judged
	changed bool // in this pass: its descendants are to be judged
	p       *prepared
}

// reconsider looks again at all that waits for events which were just kept, and at what descends from that, and prepares what changes. placed: not only outliers.
// overtaken: one of the firsts was judged too soon, see rethink.overtaken.
func (l *live) reconsider(k *look, firsts []*prepared, placed bool) (ps []*prepared, overtaken bool, err error) {
	r := &rethink{l: l, k: k, placed: placed, items: make(map[int64]*item), byID: make(map[event.ID]*item)}
	if err := r.load(); err != nil {
		return nil, false, err
	}
	for _, p := range firsts {
		if p.closeGap && placed {
			if err := r.untell(p.pdu.ID); err != nil {
				return nil, false, err
			}
		}
		if p.fell && placed {
			if err := r.fallen(p); err != nil {
				return nil, false, err
			}
		}
		if len(p.waits) > 0 {
			continue
		}
		if err := r.settled(p.pdu.ID); err != nil {
			return nil, false, err
		}
	}
	if r.dirty > 0 {
		if err := r.lookOver(); err != nil {
			return nil, false, err
		}
	}
	for r.dirty > 0 {
		if err := r.pass(); err != nil {
			return nil, false, err
		}
	}
	ps, err = r.finish(firsts)
	return ps, slices.ContainsFunc(firsts, r.overtaken), err
}

// lookOver notes, before anything changes, what the accepted items build on.
func (r *rethink) lookOver() error {
	r.over = make(map[event.ID]bool)
	for _, it := range r.order {
		if it.outcome == Accepted {
			if err := r.cover(r.over, it.pdu.Prev, 0); err != nil {
				return err
			}
		}
	}
	for _, it := range r.order { // what none of them builds on and is no end all the same, others build on
		if !it.listed && it.outcome == Accepted && !r.over[it.pdu.ID] && !r.l.isTip(it.pdu.ID) {
			it.u.Covered = true
		}
	}
	return nil
}

func (r *rethink) load() error {
	us, err := r.k.rd.UnsureEvents(r.l.id)
	if err != nil {
		return err
	}
	for _, u := range us {
		row, err := r.k.rd.EventByNID(u.NID)
		if err != nil {
			return err
		}
		if row == nil {
			return fmt.Errorf("unsure event %d is not there", u.NID)
		}
		if err := r.add(row, u, true); err != nil {
			return err
		}
	}
	return nil
}

func (r *rethink) add(row *store.Event, u store.Unsure, listed bool) (err error) {
	it := &item{u: u, listed: listed, row: row, outcome: outcomeOf(row)}
	if it.pdu, err = event.ParseTrusted(r.l.version, row.ID, row.JSON); err != nil {
		return err
	}
	it.after.nid = row.After // its state, which may be big, is read when it is asked for
	if u.Given || !listed {  // or was it, and its ancestors have come?
		ours, err := r.l.placed(r.k, it.pdu.Prev)
		if err != nil {
			return err
		}
		it.u.Given = !ours
	}
	r.order, r.items[u.NID], r.byID[row.ID] = append(r.order, it), it, it
	return nil
}

// after gives the state after an item.
func (r *rethink) after(it *item) (group, error) {
	if it.after.state != nil || it.after.nid == 0 {
		return it.after, nil
	}
	s, err := r.k.rd.Group(it.after.nid)
	return group{nid: it.after.nid, state: s}, err
}

func outcomeOf(row *store.Event) Outcome {
	switch {
	case row.Is(store.Rejected):
		return Rejected
	case row.Is(store.SoftFailed):
		return SoftFailed
	}
	return Accepted
}

// settled has those looked at that wait for id, which is decided for good.
func (r *rethink) settled(id event.ID) error {
	for todo := []event.ID{id}; len(todo) > 0; todo = todo[1:] {
		ws, err := r.k.rd.AuthWaiters(r.l.id, todo[0])
		if err != nil {
			return err
		}
		for _, w := range ws {
			if it := r.items[w.NID]; it != nil {
				if r.placed && !it.dirty {
					it.dirty = true
					r.dirty++
				}
				continue
			}
			p, err := r.looseAgain(w)
			if err != nil {
				return err
			}
			if p != nil {
				r.loose = append(r.loose, p)
				r.l.keep(p)
				todo = append(todo, p.pdu.ID)
			}
		}
	}
	return nil
}

// looseAgain judges an outlier, or history, anew; nil when it still waits.
func (r *rethink) looseAgain(w store.Waiter) (*prepared, error) {
	if slices.ContainsFunc(r.loose, func(p *prepared) bool { return p.row.NID == w.NID }) {
		return nil, nil
	}
	row, err := r.k.rd.EventByNID(w.NID)
	if row == nil || err != nil {
		return nil, err
	}
	pdu, err := event.ParseTrusted(r.l.version, row.ID, row.JSON)
	if err != nil {
		return nil, err
	}
	p, auth, err := r.prepare(row, pdu)
	if err != nil || len(p.waits) > 0 {
		return nil, err
	}
	in := Incoming{PDU: pdu, Outlier: row.Is(store.Outlier), Backfill: w.History}
	reason, outcome, err := r.l.law(r.k, p, auth, group{}, false, nil, in)
	if err != nil {
		return nil, err
	}
	p.info.Backfill = w.History
	return p, r.l.settleOutcome(r.k, p, in, group{}, false, outcome, reason)
}

// prepare begins to judge a stored event anew.
func (r *rethink) prepare(row *store.Event, pdu *event.PDU) (*prepared, []*rules.Event, error) {
	thin, err := rules.Thin(pdu)
	if err != nil {
		return nil, nil, err // such an event never waits
	}
	auth, unknown, waits, err := r.l.authority(r.k, pdu.Auth)
	if err != nil {
		return nil, nil, err
	}
	copied := *row
	p := &prepared{r: r.l.r, version: r.l.version, pdu: pdu, thin: thin, row: &copied, replace: true, waits: append(waits, unknown...), again: &again{}}
	p.row.Flags &^= store.Rejected | store.SoftFailed | store.Guessed
	p.row.Reason = ""
	p.info = AppendInfo{PDU: pdu, Room: r.l.id, From: Source{Kind: "federation", Server: pdu.Sender.Server()}, Outlier: row.Is(store.Outlier), Again: true}
	return p, auth, nil
}
