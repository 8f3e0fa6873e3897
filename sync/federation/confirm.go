// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// This file keeps the books of one server: what was looked through, sent, confirmed, parked.

// markRooms makes ledgers dirty; a room without one gets it, from the position at which the server came in.
func (d *dest) markRooms(r *store.Read, marked map[event.RoomID]bool) error {
	for id := range marked {
		f := d.rooms[id]
		if f == nil {
			start, err := d.start(r, id)
			if err != nil {
				return err
			}
			if start < 0 {
				continue // nobody there, and nothing owed
			}
			f = &ledger{cursor: start, sent: start}
			d.rooms[id] = f
		}
		f.dirty = true
	}
	return nil
}

// start gives the position from which on a server is owed our events of a room; negative when it is owed nothing.
func (d *dest) start(r *store.Read, id event.RoomID) (int64, error) {
	cursors, err := r.FederationCursors(d.name)
	if err != nil {
		return 0, err
	}
	for _, c := range cursors {
		if c.Room == id {
			return c.Pos, nil
		}
	}
	departed, err := r.DepartedAt(d.name, id)
	if err != nil || departed >= 0 {
		return -1, err
	}
	// No cursor was made when it joined: we came into the room after it. A repetition of the first events costs nothing.
	since, err := r.JoinedSince(d.name, id)
	return max(0, since-1), err
}

// collectRoom adds what the server is owed of one room, as far as the window has room.
func (d *dest) collectRoom(r *store.Read, id event.RoomID, f *ledger, to int64, out *outgoing) error {
	free := window - len(f.window)
	if !f.dirty || free <= 0 {
		return nil
	}
	departed, err := r.DepartedAt(d.name, id)
	if err != nil {
		return err
	}
	f.gone = departed >= 0
	upper := to
	if f.gone {
		upper = min(to, departed)
	}
	if len(f.carry) > 0 {
		evs, err := d.nextCarried(r, f, free)
		for _, e := range evs {
			out.pdus = append(out.pdus, owed{room: id, Outgoing: e})
		}
		return err
	}
	var with []string
	if f.relay {
		if with, err = d.boxesIn(r, id); err != nil {
			return err
		}
	}
	evs, err := r.OutgoingEvents(d.s.c.Local.Server, d.name, with, id, f.sent, upper, free)
	if err != nil {
		return err
	}
	all, held := len(evs) < free, false
	if !f.relay {
		if evs, held, err = d.upToHold(r, id, f, evs); err != nil {
			return err
		}
	}
	for _, e := range evs {
		out.pdus = append(out.pdus, owed{room: id, Outgoing: e})
	}
	if all && !held {
		out.looked[id] = upper
	}
	return nil
}

// lookedThrough notes rooms in which nothing more is owed for now.
func (d *dest) lookedThrough(out *outgoing) {
	for id, upper := range out.looked {
		f := d.rooms[id]
		f.sent = max(f.sent, upper)
		f.dirty, f.relay = false, false
		if f.gone && len(f.window) == 0 && f.left == 0 {
			delete(d.rooms, id)
			d.s.c.DB.Lazy(func(tx *store.Tx) error { return tx.DropFederationCursor(d.name, id) })
		}
	}
}

// taken notes that the pending transaction was answered.
func (d *dest) taken(errs map[event.ID]string) {
	out := d.pending
	d.pending, d.refused = nil, 0
	now := time.Now()
	for _, o := range out.pdus {
		f := d.rooms[o.room]
		f.sent = max(f.sent, o.Pos)
		d.carried(f, o.ID)
		if f.relay {
			d.learn(o.ID)
		}
		f.window = append(f.window, store.Outgoing{ID: o.ID, Pos: o.Pos})
		f.sentAt, f.wait = now, checkIdle
		if len(f.window) >= window {
			f.wait = checkFull
		}
		f.checkAt = now.Add(f.wait)
		if text := errs[o.ID]; text != "" {
			if f.errs == nil {
				f.errs = map[event.ID]string{}
			}
			f.errs[o.ID] = text
			d.log.Info("server said no to an event", "room", o.room, "event", o.ID, "err", text)
		}
	}
	d.lookedThrough(out)
	if out.eduTo > 0 {
		d.eduAfter = out.eduTo
		d.s.c.DB.Lazy(func(tx *store.Tx) error { // together, so that nothing is left to be repeated
			if err := tx.DropEDUs(d.name, out.eduTo); err != nil || !out.stored {
				return err
			}
			if err := tx.DropLetterTxn(d.name, out.id); err != nil {
				return err
			}
			return tx.DropOutgoingTxn(d.name, out.id)
		})
	}
	d.mu.Lock()
	d.st.Unconfirmed = 0
	for _, f := range d.rooms {
		d.st.Unconfirmed += len(f.window)
	}
	d.mu.Unlock()
}

// confirm asks for the last event of each room that is due. done says that a window opened; wait, when to ask again.
func (d *dest) confirm(ctx context.Context) (wait time.Duration, done bool, err error) {
	wait = retryMost
	for id, f := range d.rooms {
		if len(f.hold) > 0 {
			left, free, err := d.release(ctx, id, f)
			if err != nil {
				return 0, false, err
			}
			if done = done || free; !free {
				wait = min(wait, left)
			}
		}
		if len(f.window) == 0 {
			continue
		}
		if left := time.Until(f.checkAt); left > 0 {
			wait = min(wait, left)
			continue
		}
		full := len(f.window) >= window
		last := f.window[len(f.window)-1]
		known, err := d.s.c.Client.Knows(ctx, d.name, last.ID)
		switch {
		case final(err): // it will not tell us: it has nobody in the room any more, or thinks that we have not
			if err := d.barred(ctx, id, f, err); err != nil {
				return 0, false, err
			}
			known = true
		case tooMany(err): // it wants fewer questions: pace by time instead
			known = time.Since(f.sentAt) > 30*time.Millisecond*time.Duration(len(f.window))
		case err != nil:
			return 0, false, err
		}
		if known {
			d.confirmed(id, f)
			done = done || full || f.dirty
			continue
		}
		if out, patience := time.Since(f.sentAt), time.Duration(d.s.resendAfter.Load())<<f.tries; out > patience {
			part, err := d.confirmPart(ctx, id, f)
			if err != nil {
				return 0, false, err
			}
			if done = done || part; part {
				continue
			}
			if busy := d.advanced.After(f.sentAt); !busy || out > slowMost*patience { // it may be busy with other rooms
				if err := d.resend(ctx, id, f); err != nil {
					return 0, false, err
				}
				done = true
				continue
			}
			f.checkAt = time.Now().Add(patience / 4)
			wait = min(wait, patience/4)
			continue
		}
		f.wait = min(f.wait*3/2, checkMost)
		f.checkAt = time.Now().Add(f.wait)
		wait = min(wait, f.wait)
	}
	return wait, done, nil
}

func tooMany(err error) bool {
	var ref *Refusal
	return errors.As(err, &ref) && ref.Status == http.StatusTooManyRequests
}

// confirmPart is for a server that is slow, not deaf: it may have got through a part of what it was given, which is not to be given to it again. It takes in what it gets in order, so
// the half that is known is looked for. false: it knows none of it.
func (d *dest) confirmPart(ctx context.Context, id event.RoomID, f *ledger) (bool, error) {
	known, unknown := 0, len(f.window)-1 // the last one was asked for
	for known < unknown {
		half := (known + unknown) / 2
		ok, err := d.s.c.Client.Knows(ctx, d.name, f.window[half].ID)
		switch {
		case final(err): // as with the last one: it has it, and does not say more
			if err := d.barred(ctx, id, f, err); err != nil {
				return false, err
			}
			ok = true
		case tooMany(err):
			return false, nil
		case err != nil:
			return false, err
		}
		if ok {
			known = half + 1
		} else {
			unknown = half
		}
	}
	if known == 0 {
		return false, nil
	}
	rest := slices.Clone(f.window[known:])
	errs := f.errs
	f.window = f.window[:known]
	dirty := f.dirty
	f.dirty = true // there is more: the room is not done with
	d.confirmed(id, f)
	f.window, f.errs, f.dirty = rest, errs, dirty
	f.sentAt, f.wait = time.Now(), checkMost
	f.checkAt = f.sentAt.Add(f.wait)
	return true, nil
}

// confirmed moves the cursor past the window. A cursor that a power cut takes back costs a repetition and nothing else.
func (d *dest) confirmed(id event.RoomID, f *ledger) {
	kept := Travel{What: "kept", Server: d.name}
	for _, o := range f.window {
		kept.Events = append(kept.Events, o.ID)
	}
	d.s.c.Observe(kept)
	d.advanced = time.Now()
	f.cursor = f.window[len(f.window)-1].Pos
	f.window, f.errs, f.tries = nil, nil, 0
	pos, gone := f.cursor, f.gone && !f.dirty && f.left == 0
	if gone {
		delete(d.rooms, id)
	}
	d.s.c.DB.Lazy(func(tx *store.Tx) error {
		if gone {
			return tx.DropFederationCursor(d.name, id)
		}
		return tx.SetFederationCursor(d.name, id, pos)
	})
}

// resend gives a room's unconfirmed events to the server again, under another transaction id. When that has been in vain
// too often, the events that the server does not know are parked, so that the room goes on.
func (d *dest) resend(ctx context.Context, id event.RoomID, f *ledger) error {
	if f.tries++; f.tries < resendsMost {
		d.log.Info("server has not kept what it took; sending again", "room", id, "events", len(f.window))
		for _, o := range f.window {
			delete(d.known, o.ID) // what was carried is to be asked for again
		}
		f.sent, f.window, f.dirty = f.cursor, nil, true
		return nil
	}
	for _, o := range f.window {
		known, err := d.s.c.Client.Knows(ctx, d.name, o.ID)
		if err != nil && !final(err) {
			return err
		}
		if known || err != nil {
			continue
		}
		reason := f.errs[o.ID]
		if reason == "" {
			reason = "taken and not kept, again and again"
		}
		if err := d.park(ctx, id, o.ID, reason); err != nil {
			return err
		}
		d.reoffer = true
	}
	d.confirmed(id, f)
	return nil
}

// offerAgain offers what a server has taken and not kept once more when nothing else is left for it: it may have been too slow, and is not any more.
func (d *dest) offerAgain(ctx context.Context) error {
	if !d.reoffer {
		return nil
	}
	for _, f := range d.rooms {
		if f.dirty || len(f.window) > 0 || f.left > 0 {
			return nil
		}
	}
	d.reoffer = false
	return d.offerParked(ctx)
}

func (d *dest) park(ctx context.Context, id event.RoomID, ev event.ID, reason string) error {
	d.log.Warn("server does not take an event; it is parked and offered again when the link comes up", "room", id, "event", ev, "reason", reason)
	err := d.s.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.ParkPDU(d.name, ev, id, reason) })
	if err != nil {
		return fmt.Errorf("park event: %w", err)
	}
	return d.countParked(ctx)
}

// pullPlan says when to look for what a server has and we lack: soon after it came into reach, every few seconds while
// something is found, then rarely.
type pullPlan struct {
	at   time.Time
	gap  time.Duration
	turn int // rotates through the rooms

	began time.Time // the first look since it came into reach
}

const (
	pullBusy  = 2 * time.Second
	pullFirst = 5 * time.Second
	pullMost  = 5 * time.Minute
	pullRooms = 10          // per look, in turn, unless the server has just come into reach
	pullLeave = time.Minute // so long, a room in which a gap is being closed is left alone
)

func (p *pullPlan) soon() { *p = pullPlan{} }

// pullWhenDue asks for the newest events of the shared rooms and says when to look again.
func (d *dest) pullWhenDue(ctx context.Context) (time.Duration, error) {
	left := time.Until(d.pull.at)
	if d.late.Swap(false) && left > pullFirst {
		left = pullFirst
		d.pull.at, d.pull.gap = time.Now().Add(left), pullBusy
	}
	if left > 0 {
		return left, nil
	}
	if d.pull.began.IsZero() {
		d.pull.began = time.Now()
	}
	found, err := d.look(ctx, d.pull.gap == 0)
	if err != nil {
		return 0, err
	}
	d.contact = time.Now()
	switch {
	case found:
		d.pull.gap = pullBusy
	case d.pull.gap < pullFirst:
		d.pull.gap = pullFirst
	default:
		d.pull.gap = min(3*d.pull.gap, pullMost)
	}
	d.pull.at = time.Now().Add(d.pull.gap)
	return d.pull.gap, nil
}

// look asks for a server's newest events in the rooms we share with it, and has the intake get what we lack.
func (d *dest) look(ctx context.Context, all bool) (found bool, err error) {
	var rooms []event.RoomID
	err = d.s.c.DB.View(ctx, func(r *store.Read) (err error) {
		rooms, err = r.RoomsWith(d.name)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look up shared rooms: %w", err)
	}
	slices.Sort(rooms)
	if all { // those first whose gaps are closed first
		rank := make(map[event.RoomID]int64, len(rooms))
		for _, id := range rooms {
			rank[id] = d.s.c.Intake.rank(ctx, id)
		}
		slices.SortStableFunc(rooms, func(a, b event.RoomID) int { return cmp.Compare(rank[b], rank[a]) })
	} else if len(rooms) > pullRooms {
		at := d.pull.turn % len(rooms)
		rooms = append(rooms[at:], rooms[:at]...)[:pullRooms]
		d.pull.turn += pullRooms
	}
	if all {
		n := min(len(rooms), headRooms)
		if found, err = d.lookAhead(ctx, rooms[:n]); err != nil {
			return found, err
		}
		rooms = rooms[n:]
	}
	var lack []tips
	for _, id := range rooms {
		t, busy, err := d.lookUnlessBusy(ctx, id)
		found = found || busy || len(t.ids) > 0
		if len(t.ids) > 0 {
			lack = append(lack, t)
		}
		if err != nil {
			return found, errors.Join(err, d.fetch(ctx, lack, nil))
		}
	}
	return found, d.fetch(ctx, lack, nil)
}

// lookUnlessBusy is lookIn for a room in which no gap is being closed. What the server refuses for good is no error.
func (d *dest) lookUnlessBusy(ctx context.Context, id event.RoomID) (t tips, busy bool, err error) {
	if d.s.c.Intake.Busy(id) && time.Since(d.pull.began) < pullLeave {
		return t, true, nil // the next look, when that is done; a question makes the server work
	}
	if t, err = d.lookIn(ctx, id); final(err) {
		d.log.Debug("newest events not told", "room", id, "err", err)
		err = nil
	}
	return t, false, err
}

// lookIn asks for a server's newest events in a room, and gives those that we lack.
func (d *dest) lookIn(ctx context.Context, id event.RoomID) (t tips, err error) {
	member, err := d.s.c.Client.ourMember(ctx, id)
	if err != nil || member == "" {
		return t, err
	}
	v, err := d.s.c.Rooms.Version(ctx, id)
	if err != nil {
		return t, err
	}
	d.s.sem <- struct{}{}
	ids, err := d.s.c.Client.Tips(ctx, d.name, id, v, member)
	<-d.s.sem
	if err != nil {
		return t, err
	}
	t = tips{room: id, v: v}
	for _, e := range ids {
		if !d.s.c.Intake.known(ctx, e) {
			t.ids = append(t.ids, e)
		}
	}
	return t, nil
}
