// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// This file makes transactions and sees them through.
//
// A PDU or a receipt that arrives twice does no harm. A to-device message is appended where it arrives, and not every server knows one
// again: so a transaction that brings such EDUs brings nothing else, is stored before it is sent, and goes again with the same id and the same body
// until it is answered, through restarts as well. Ids begin with a word that is drawn at each start: no restart and no restored copy gives one out twice.

// push sends one transaction; false means that there was nothing to send. must sends even an empty one.
func (d *dest) push(ctx context.Context, must bool) (bool, error) {
	if d.posts() {
		if !must && (d.post.gone.IsZero() || len(d.post.left) == 0 || time.Since(d.post.gone) < time.Duration(d.s.hubGone.Load())) {
			return false, nil
		}
		return true, d.probe(ctx)
	}
	if d.pending == nil && len(d.post.again) > 0 {
		d.pending, d.post.again = d.post.again[0], d.post.again[1:]
	}
	if d.pending == nil {
		out, err := d.collect(ctx)
		if err != nil {
			return false, err
		}
		if out.empty {
			d.narrow = false
		}
		if out.empty && !must {
			d.lookedThrough(out)
			return false, nil
		}
		if out.full() && !d.narrow && d.open(time.Now()) != "" { // there is more: all of it goes to the hub, at once
			d.post.backlog = true
			if must {
				return true, d.probe(ctx)
			}
			return !d.unconfirmed(), nil
		}
		d.pending = out
	}
	if err := d.keepLasting(ctx, d.pending); err != nil {
		return false, err
	}
	errs, err := d.send(ctx, d.pending.id, d.pending.body)
	if err != nil {
		return false, d.notTaken(ctx, err)
	}
	if len(d.pending.pdus) > 0 {
		sent := Travel{What: "sent", Server: d.name, Bytes: len(d.pending.body)}
		for _, o := range d.pending.pdus {
			sent.Events = append(sent.Events, o.ID)
		}
		d.s.c.Observe(sent)
	}
	d.taken(errs)
	return true, nil
}

// keepLasting stores a transaction that must be the same one in each repetition, before it is sent.
func (d *dest) keepLasting(ctx context.Context, out *outgoing) error {
	if !out.lasting || out.stored {
		return nil
	}
	err := d.s.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
		return tx.SaveOutgoingTxn(d.name, store.OutgoingTxn{ID: out.id, EDUTo: out.eduTo, Body: out.body})
	})
	if err != nil {
		return fmt.Errorf("keep a transaction for %s: %w", d.name, err)
	}
	out.stored = true
	return nil
}

// full says whether a transaction brings as much as one can: there is likely more.
func (o *outgoing) full() bool { return len(o.pdus) >= MaxPDUs || o.edus >= MaxEDUs }

// send has one transaction under way.
func (d *dest) send(ctx context.Context, id string, body json.RawMessage) (map[event.ID]string, error) {
	once, done := d.underWay(ctx)
	d.s.sem <- struct{}{}
	errs, err := d.s.c.Client.Push(once, d.name, id, body)
	<-d.s.sem
	done()
	if err == nil {
		d.contact = time.Now()
		d.mu.Lock()
		d.st.Answered = d.contact
		d.mu.Unlock()
	}
	return errs, err
}

// notTaken handles a transaction that failed. One that is refused for what is in it is cut smaller in the end, until what spoils it stands alone and
// can be parked; a server that refuses even an empty transaction is not offended by what is in them, and nothing is parked for that.
func (d *dest) notTaken(ctx context.Context, err error) error {
	if !final(err) {
		return err
	}
	if d.refused++; d.refused < refusalsMost {
		return err
	}
	d.refused = 0
	out := d.pending
	if _, perr := d.send(ctx, d.s.txnID(), d.transaction(nil, nil)); perr != nil {
		if final(perr) {
			d.log.Warn("server refuses everything that it is sent", "err", err)
		}
		return perr
	}
	if out.stored {
		derr := d.s.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
			for _, o := range append([]*outgoing{out}, d.post.again...) {
				if err := tx.DropLetterTxn(d.name, o.id); err != nil {
					return err
				}
			}
			return tx.DropOutgoingTxn(d.name, out.id)
		})
		if derr != nil {
			return fmt.Errorf("give a transaction up: %w", derr)
		}
		if out.again { // those behind it are collected anew as well, so that the order stays
			d.post.again, d.eduAfter = nil, 0
		}
	}
	d.pending = nil
	if len(out.pdus)+out.edus > 1 || out.edus == 1 && !d.narrow {
		d.narrow = true
		return err
	}
	for _, o := range out.pdus {
		if perr := d.park(ctx, o.room, o.ID, err.Error()); perr != nil {
			return perr
		}
		f := d.rooms[o.room]
		f.sent = max(f.sent, o.Pos)
		d.carried(f, o.ID)
		f.dirty = true
	}
	if out.edus == 1 && out.eduTo > 0 {
		if perr := d.parkEDU(ctx, out.eduTo, err.Error()); perr != nil {
			return perr
		}
	}
	d.narrow = false
	return err
}

// transaction makes a body: canonical JSON, which a box in between can put together from its parts (sync/link/through.go).
func (d *dest) transaction(pdus []json.RawMessage, edus []edu) json.RawMessage {
	t := transaction{Origin: d.s.c.Local.Server, TS: millis(d.s.c.Client.now()), PDUs: pdus, EDUs: edus}
	if pdus == nil {
		t.PDUs = []json.RawMessage{}
	}
	body, err := json.Marshal(t)
	if err != nil { // names, numbers and what is JSON already
		panic(err)
	}
	if canonical, err := event.CanonicalLoose(body); err == nil {
		return canonical
	}
	return body
}

// collect makes the next transaction: the oldest events that the server is owed, and EDUs.
func (d *dest) collect(ctx context.Context) (*outgoing, error) {
	out := &outgoing{looked: map[event.RoomID]int64{}}
	d.mu.Lock()
	marked := d.marked
	d.marked = map[event.RoomID]bool{}
	hints := slices.Collect(maps.Values(d.hints))
	clear(d.hints)
	d.mu.Unlock()
	if d.narrow || d.post.leaving {
		hints = nil
	}
	var edus []store.EDU
	to := d.s.c.DB.Published()
	err := d.s.c.DB.View(ctx, func(r *store.Read) (err error) {
		if err := d.markRooms(r, marked); err != nil {
			return err
		}
		if edus, err = r.PendingEDUs(d.name, d.eduAfter, MaxEDUs-len(hints)); err != nil {
			return err
		}
		out.lasting = slices.ContainsFunc(edus, func(e store.EDU) bool { return e.Key == "" || d.post.leaving })
		if (out.lasting || d.narrow && len(edus) > 0) && !d.edusLast {
			return nil // these go alone
		}
		if err := d.collectRooms(r, to, out); err != nil {
			return err
		}
		if len(out.pdus) > 0 && (out.lasting || d.narrow) {
			edus, out.lasting = nil, false // their turn comes next
		}
		return nil
	})
	if err != nil {
		for id := range marked {
			d.mark(id)
		}
		return nil, fmt.Errorf("collect what %s is owed: %w", d.name, err)
	}
	d.fill(out, edus, hints)
	return out, nil
}

// fill makes a transaction of what was collected.
func (d *dest) fill(out *outgoing, edus []store.EDU, hints []edu) {
	most := MaxPDUs
	if d.narrow {
		most = 1
		edus = edus[:min(1, len(edus))]
	}
	if len(out.pdus) > most {
		for _, o := range out.pdus[most:] {
			delete(out.looked, o.room) // not all of the room goes along
		}
		out.pdus = out.pdus[:most]
	}
	pdus := make([]json.RawMessage, 0, len(out.pdus))
	for _, o := range out.pdus {
		pdus = append(pdus, o.JSON)
	}
	var all []edu
	for _, e := range edus {
		all = append(all, edu{Kind: e.Kind, Content: e.Body})
		out.eduTo = e.Seq
	}
	all = append(all, hints...)
	out.edus, out.empty = len(all), len(pdus)+len(all) == 0
	out.lasting = out.lasting && len(edus) > 0
	d.edusLast = len(edus) > 0 && len(pdus) == 0
	out.id, out.body = d.s.txnID(), d.transaction(pdus, all)
}

// collectRooms adds what the server is owed of each room. What is soon said comes first: who writes now does not wait for the backlogs of other rooms. Of the rooms with a long backlog only some are
// worked on at a time, so that a server that takes in one event after the other gets through with them; and what was begun is brought to its end, so that the first room is up to date
// early and not all at the end.
func (d *dest) collectRooms(r *store.Read, to int64, out *outgoing) error {
	const long = window / 2
	busy := 0
	for _, f := range d.rooms {
		if len(f.window) >= long {
			busy++
		}
	}
	var short, backlog []owed
	for _, id := range d.inTurn() {
		f := d.rooms[id]
		out.pdus = nil
		if err := d.collectRoom(r, id, f, to, out); err != nil {
			return err
		}
		n := len(out.pdus)
		if n >= long && len(f.window) < long {
			if busy++; busy > roomsMost {
				delete(out.looked, id)
				continue
			}
		}
		if n+len(f.window) < long {
			short = append(short, out.pdus...)
			continue
		}
		if f.turn == 0 && n > 0 {
			d.turns++
			f.turn, f.turnTo = d.turns, to
		}
		backlog = append(backlog, out.pdus...)
	}
	out.pdus = append(short, backlog...)
	return nil
}

// inTurn gives the rooms that were begun, in the order in which they were, and then the others, those first that are furthest behind. A turn ends where the room ended when it began: a room in which
// somebody writes without end does not keep the others waiting.
func (d *dest) inTurn() []event.RoomID {
	for _, f := range d.rooms {
		if f.sent >= f.turnTo {
			f.turn = 0
		}
	}
	return slices.SortedFunc(maps.Keys(d.rooms), func(a, b event.RoomID) int {
		x, y := d.rooms[a], d.rooms[b]
		if (x.turn == 0) != (y.turn == 0) {
			return cmp.Compare(y.turn, x.turn)
		}
		return cmp.Or(cmp.Compare(x.turn, y.turn), cmp.Compare(x.sent, y.sent))
	})
}

// offerParked offers what the server did not take once more, each alone; what it refuses again stays parked.
func (d *dest) offerParked(ctx context.Context) error {
	var parked []event.ID
	bodies := map[event.ID]json.RawMessage{}
	err := d.s.c.DB.View(ctx, func(r *store.Read) (err error) {
		if parked, err = r.ParkedPDUs(d.name); err != nil {
			return err
		}
		for _, id := range parked {
			e, err := r.Event(id)
			if err != nil {
				return err
			}
			if e != nil {
				bodies[id] = e.JSON
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look up what %s did not take: %w", d.name, err)
	}
	for _, id := range parked {
		if body := bodies[id]; body != nil {
			errs, err := d.send(ctx, d.s.txnID(), d.transaction([]json.RawMessage{body}, nil))
			if final(err) || errs[id] != "" {
				continue
			}
			if err != nil {
				return err
			}
		}
		if err := d.s.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.UnparkPDU(d.name, id) }); err != nil {
			return fmt.Errorf("unpark event: %w", err)
		}
	}
	if err := d.s.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.UnparkEDUs(d.name) }); err != nil {
		return err
	}
	return d.countParked(ctx)
}

func (d *dest) parkEDU(ctx context.Context, seq int64, reason string) error {
	d.log.Warn("server does not take an EDU; it is parked and offered again when the link comes up", "reason", reason)
	if err := d.s.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.ParkEDU(d.name, seq, reason) }); err != nil {
		return err
	}
	d.eduAfter = max(d.eduAfter, seq)
	return d.countParked(ctx)
}

// countParked tells the operator how much the server does not take.
func (d *dest) countParked(ctx context.Context) error {
	return d.s.c.DB.View(ctx, func(r *store.Read) error {
		pdus, edus, err := r.Parked(d.name)
		d.mu.Lock()
		d.st.Parked = pdus + edus
		d.mu.Unlock()
		return err
	})
}
