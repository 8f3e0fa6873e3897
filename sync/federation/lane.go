// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// This file is the work of a lane: it tries staged events page by page, notes in the database what each of them lacks, and tries those again that lacked
// what has come. What a lane keeps in memory does not grow with what is staged.

// lane is the work in one room.
type lane struct {
	room    event.RoomID
	wake    chan struct{}       // capacity 1
	running bool                // guarded by Intake.mu
	wants   map[event.ID]string // ids that a server named as its newest: id to server; a hint only. Guarded by Intake.mu
	gap     map[string]int      // about how many events lack before those that came from a server. Guarded by Intake.mu
	sooner  func()              // ends the question to a slow server that is under way; nil: there is none. Guarded by Intake.mu

	// The lane's own:
	rank             int64             // which room comes first: that in which something was written last, as far as is known here when the lane begins
	asked, noHistory map[string]bool   // servers asked before; those that gave no history
	short            map[string]bool   // servers whose answer about a gap did not close it though it was not full
	unhad            map[event.ID]bool // authorising events that somebody in reach says it does not have
	away             map[string]outage // servers that did not answer when they were last asked for ancestors
	hungUp           bool              // a question to a slow server was ended by us
	authAt           time.Time         // when what rejected events wait for is asked for again
	authDelay        time.Duration
}

const (
	retryFirst = time.Second
	retryMost  = time.Minute
	authFirst  = 10 * time.Second // for what rejected events wait for, which blocks nothing
	authMost   = time.Hour
	keysAtOnce = 500 // events tried again per round for which a key was not to be had
)

// work is a lane's life: it ends when nothing waits in the room any more.
func (in *Intake) work(ctx context.Context, l *lane) {
	delay := retryFirst
	l.authDelay = authFirst
	l.rank = in.rank(ctx, l.room)
	for {
		select {
		case <-l.wake:
		default:
		}
		left, progress, err := in.round(ctx, l)
		if err != nil && ctx.Err() == nil {
			in.log.Warn("taking in events", "room", l.room, "err", err)
		}
		if left == 0 && err == nil {
			if in.retire(l) {
				if in.c.Closed != nil {
					in.c.Closed(l.room)
				}
				return
			}
			continue
		}
		if progress {
			delay = retryFirst
			continue
		}
		wait := delay
		if left == onlyAuthority {
			wait = max(retryFirst, time.Until(l.authAt))
		} else {
			in.log.Info("events wait for their ancestors", "room", l.room, "events", left, "again", delay)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-timer.C:
			if delay = min(2*delay, retryMost); delay == retryMost { // much may have changed
				l.asked, l.noHistory, l.short = nil, nil, nil
			}
		}
		timer.Stop()
		if ctx.Err() != nil {
			in.mu.Lock()
			l.running = false
			in.mu.Unlock()
			return
		}
	}
}

// rank puts the rooms that people use first. Their gaps are closed one after the other, since what is shown of a room is whole and in order, and line and server are the same for all: the first
// room is there after a moment in place of all of them at the end.
func (in *Intake) rank(ctx context.Context, id event.RoomID) (pos int64) {
	err := in.c.DB.View(ctx, func(r *store.Read) (err error) {
		pos, err = r.LastPos(id, math.MaxInt64)
		return err
	})
	if err != nil {
		in.log.Debug("newest event not found", "room", id, "err", err) // it is one order or another
	}
	return pos
}

// retire ends a lane unless something came meanwhile.
func (in *Intake) retire(l *lane) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(l.wants) > 0 || len(l.wake) > 0 {
		return false
	}
	l.running = false
	delete(in.lanes, l.room)
	return true
}

// onlyAuthority is what round leaves when nothing is staged but rejected events wait for authorising events.
const onlyAuthority = -1

// round does one pass: accept, then ask. It says how many events still wait and whether it got any further.
func (in *Intake) round(ctx context.Context, l *lane) (left int, progress bool, err error) {
	v, err := in.c.Rooms.Version(ctx, l.room)
	if err != nil {
		var refused *room.Error
		if errors.As(err, &refused) { // a room we have left for good and forgotten: nobody reads it here
			return 0, false, in.forget(ctx, l)
		}
		return 1, false, err
	}
	if err := in.retryKeys(ctx, l); err != nil {
		return 1, false, err
	}
	done, err := in.drain(ctx, l, v)
	if err != nil {
		return 1, done > 0, err
	}
	want := in.wanted(ctx, l)
	staged, awaited, err := in.waitsFor(ctx, l)
	if err != nil {
		return 1, done > 0, err
	}
	got := false
	if staged > 0 || len(want) > 0 {
		got, err = in.fill(ctx, l, v, want)
	}
	if err == nil && len(awaited) > 0 && !time.Now().Before(l.authAt) {
		var had bool
		had, err = in.askAwaited(ctx, l, v, awaited)
		got = got || had
	}
	left = staged + len(want)
	if left == 0 && len(awaited) > 0 && !got {
		left = onlyAuthority
	} else if left == 0 && got {
		left = 1 // look again
	}
	return left, done > 0 || got, err
}

func (in *Intake) waitsFor(ctx context.Context, l *lane) (staged int, awaited []event.ID, err error) {
	err = in.c.DB.View(ctx, func(r *store.Read) (err error) {
		if staged, err = r.StagedCount(l.room); err == nil {
			awaited, err = r.MissingAuth(l.room, 20)
		}
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("read what waits: %w", err)
	}
	return staged, awaited, nil
}

// forget drops what waits for a room that is no longer ours.
func (in *Intake) forget(ctx context.Context, l *lane) error {
	in.mu.Lock()
	clear(l.wants)
	in.mu.Unlock()
	return in.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.UnstageRoom(l.room) })
}

// retryKeys has events tried again for which a key was not to be had.
func (in *Intake) retryKeys(ctx context.Context, l *lane) error {
	var lacks []store.StagedLack
	err := in.c.DB.View(ctx, func(r *store.Read) (err error) {
		lacks, err = r.StagedLacks(l.room, store.LackKey, 1)
		return err
	})
	if err != nil || len(lacks) == 0 {
		return err
	}
	return in.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.RetryKeys(l.room, keysAtOnce) })
}

// page is how many staged events are in memory at once: 4 MB at most.
const page = 64

// drain tries staged events until none is left that is worth it. It counts those that are done with.
func (in *Intake) drain(ctx context.Context, l *lane, v *event.Version) (done int, err error) {
	for {
		var rows []store.StagedPDU
		err := in.c.DB.View(ctx, func(r *store.Read) (err error) {
			rows, err = nextPage(r, l.room)
			return err
		})
		if err != nil {
			return done, fmt.Errorf("read staged events: %w", err)
		}
		if len(rows) == 0 {
			return done, nil
		}
		n, err := in.tryPage(ctx, l, v, rows)
		done += n
		if err != nil {
			return done, err
		}
		if err := ctx.Err(); err != nil {
			return done, err
		}
	}
}

// nextPage gives what is to be tried, with what may follow when that is taken in: a chain is not gone through one by one.
func nextPage(r *store.Read, id event.RoomID) ([]store.StagedPDU, error) {
	rows, err := r.StagedTodo(id, page)
	if err != nil {
		return nil, err
	}
	seen := make(map[int64]bool, len(rows))
	for _, row := range rows {
		seen[row.N] = true
	}
	for i := 0; i < len(rows) && len(rows) < page; i++ {
		more, err := r.StagedChildren(id, rows[i].ID, page-len(rows))
		if err != nil {
			return nil, err
		}
		for _, row := range more {
			if !seen[row.N] {
				seen[row.N] = true
				rows = append(rows, row)
			}
		}
	}
	return rows, nil
}

// waiting is one staged event in memory.
type waiting struct {
	n        int64
	pdu      *event.PDU
	origin   string
	verified bool
	vetted   bool   // the policy server was asked
	unwanted string // its refusal
}

func stagedEvent(v *event.Version, row store.StagedPDU) (*waiting, error) {
	p, err := event.ParseTrusted(v, row.ID, row.JSON)
	if err != nil {
		return nil, fmt.Errorf("read staged event %s: %w", row.ID, err)
	}
	return &waiting{n: row.N, pdu: p, origin: row.Origin, verified: row.Verified}, nil
}

// blocked is a staged event that was tried, with what it lacks.
type blocked struct {
	n    int64
	kind int
	ids  []event.ID
}

// tryPage tries some staged events, ancestors first.
func (in *Intake) tryPage(ctx context.Context, l *lane, v *event.Version, rows []store.StagedPDU) (done int, err error) {
	if err := in.turn(ctx); err != nil {
		return 0, err
	}
	defer in.turnOver()
	staged := make(map[event.ID]*waiting, len(rows))
	for _, row := range rows {
		w, err := stagedEvent(v, row)
		if err != nil {
			return 0, err
		}
		staged[row.ID] = w
	}
	var block []blocked
	var batch []*waiting
	for _, w := range causal(staged) {
		ready, gone, err := in.ready(ctx, w)
		switch {
		case err != nil:
			return done, err
		case gone:
			done++
		case !ready:
			block = append(block, blocked{n: w.n, kind: store.LackKey})
		default:
			batch = append(batch, w)
		}
	}
	n, more, err := in.acceptBatch(ctx, l, batch)
	done += n
	block = append(block, more...)
	if len(block) > 0 {
		berr := in.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
			for _, b := range block {
				if err := tx.BlockStaged(l.room, b.n, b.kind, b.ids); err != nil {
					return err
				}
			}
			return nil
		})
		err = errors.Join(err, berr)
	}
	return done, err
}

// acceptBatch hands events to the room. What waits on is given with what it lacks.
func (in *Intake) acceptBatch(ctx context.Context, l *lane, batch []*waiting) (done int, block []blocked, err error) {
	if len(batch) == 0 {
		return 0, nil, nil
	}
	ins := make([]room.Incoming, len(batch))
	for i, w := range batch {
		ins[i] = in.incoming(w, nil)
	}
	results, err := in.c.Rooms.AcceptAll(ctx, ins)
	for i, res := range results {
		w := batch[i]
		if res.Outcome == room.Missing && in.unhad(l, w, res.Missing) {
			again := ins[i]
			again.NoAuth = true
			if res, err = in.c.Rooms.Accept(ctx, again); err != nil {
				return done, block, err
			}
		}
		if b := in.settled(w, res); b != nil {
			block = append(block, *b)
		} else {
			done++
		}
	}
	if err == nil || len(results) == len(batch) {
		return done, block, err
	}
	// The one after the last result could not be decided. What the room refuses outright must not stop the rest for ever.
	w := batch[len(results)]
	ok, one := in.acceptOne(ctx, w, nil)
	if one != nil || !ok {
		return done, block, err
	}
	return done + 1, block, nil
}

// unhad reports whether an event lacks nothing but authorising events which cannot be had.
func (in *Intake) unhad(l *lane, w *waiting, missing []event.ID) bool {
	return !slices.ContainsFunc(missing, func(id event.ID) bool { return !l.unhad[id] || slices.Contains(w.pdu.Prev, id) })
}

// ready verifies an event that was staged before its keys were known. gone: it is no good and was dropped.
func (in *Intake) ready(ctx context.Context, w *waiting) (ready, gone bool, err error) {
	if w.verified {
		err := in.vet(ctx, w)
		return err == nil, false, err
	}
	p, err := in.c.Client.checked(ctx, w.origin, w.pdu)
	switch {
	case err == nil:
		w.pdu, w.verified = p, true
		err := in.vet(ctx, w)
		return err == nil, false, err
	case errors.Is(err, ErrKeyUnavailable):
		return false, false, nil
	case ctx.Err() != nil:
		return false, false, ctx.Err()
	}
	in.c.Trouble.Note(w.origin, BadSignature, w.pdu.RoomID, w.pdu.ID, err)
	return false, true, in.unstage(ctx, w)
}

// vet asks the room's policy server about a staged event, once.
func (in *Intake) vet(ctx context.Context, w *waiting) (err error) {
	if !w.vetted {
		if w.pdu, w.unwanted, err = in.c.Client.vetter().vet(ctx, w.pdu); err == nil {
			w.vetted = true
		}
	}
	return err
}

func (in *Intake) unstage(ctx context.Context, w *waiting) error {
	return in.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.UnstagePDU(w.pdu.RoomID, w.pdu.ID) })
}

// incoming is the event with its row in the stage going in the same transaction.
func (in *Intake) incoming(w *waiting, state []event.ID) room.Incoming {
	return room.Incoming{PDU: w.pdu, From: room.Source{Kind: "federation", Server: w.origin}, State: state, Unwanted: w.unwanted,
		ExtraTx: func(tx *store.Tx) error { return tx.UnstagePDU(w.pdu.RoomID, w.pdu.ID) }}
}

// settled notes a result; not nil: the event waits on for that.
func (in *Intake) settled(w *waiting, res room.Result) *blocked {
	switch res.Outcome {
	case room.Missing:
		b := &blocked{n: w.n, kind: store.LackAuth}
		for _, id := range res.Missing {
			if slices.Contains(w.pdu.Prev, id) {
				b.kind = store.LackPrev
			}
		}
		for _, id := range res.Missing { // what lacks ancestors is not asked for its authority yet: that mostly comes with them
			if b.kind == store.LackAuth || slices.Contains(w.pdu.Prev, id) {
				b.ids = append(b.ids, id)
			}
		}
		return b
	case room.Rejected:
		in.c.Trouble.Note(w.origin, Refused, w.pdu.RoomID, w.pdu.ID, errors.New(res.Reason))
	}
	return nil
}

// acceptOne takes one staged event in, with a given state if need be; false means that it waits on.
func (in *Intake) acceptOne(ctx context.Context, w *waiting, state []event.ID) (bool, error) {
	ready, gone, err := in.ready(ctx, w)
	if err != nil || !ready {
		return gone, err
	}
	res, err := in.c.Rooms.Accept(ctx, in.incoming(w, state))
	if err != nil {
		var refused *room.Error
		if errors.As(err, &refused) && refused.Status/100 == 4 && refused.Code != "M_RESOURCE_LIMIT_EXCEEDED" {
			in.c.Trouble.Note(w.origin, Refused, w.pdu.RoomID, w.pdu.ID, err)
			return true, in.unstage(ctx, w)
		}
		return false, fmt.Errorf("accept %s: %w", w.pdu.ID, err)
	}
	return in.settled(w, res) == nil, nil
}

// causal sorts events so that ancestors come first; concurrent ones by depth, time and id.
func causal(staged map[event.ID]*waiting) []*waiting {
	order := make([]*waiting, 0, len(staged))
	for _, w := range staged {
		order = append(order, w)
	}
	slices.SortFunc(order, func(a, b *waiting) int {
		return cmp.Or(cmp.Compare(a.pdu.Depth, b.pdu.Depth), cmp.Compare(a.pdu.TS, b.pdu.TS), cmp.Compare(a.pdu.ID, b.pdu.ID))
	})
	out := make([]*waiting, 0, len(order))
	const open, done = 1, 2
	mark := make(map[event.ID]int, len(order))
	// Depths are what others claim; the edges decide. An explicit stack: a chain may be very long.
	for _, top := range order {
		stack := []*waiting{top}
		for len(stack) > 0 {
			w := stack[len(stack)-1]
			if mark[w.pdu.ID] != 0 {
				if mark[w.pdu.ID] == open {
					mark[w.pdu.ID] = done
					out = append(out, w)
				}
				stack = stack[:len(stack)-1]
				continue
			}
			mark[w.pdu.ID] = open
			for _, p := range w.pdu.Prev {
				if a := staged[p]; a != nil && mark[p] == 0 {
					stack = append(stack, a)
				}
			}
		}
	}
	return out
}
