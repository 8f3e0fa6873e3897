// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// This file is the work of a lane: accept what can be accepted, ask for what lacks, and, where history before our time
// in the room would be needed, ask for the state instead.

// waiting is one staged event in memory.
type waiting struct {
	pdu      *event.PDU
	origin   string
	verified bool
	vetted   bool       // the policy server was asked
	unwanted string     // its refusal
	lacks    []event.ID // ancestors that are neither known nor staged; after a try
}

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
	staged, err := in.load(ctx, l, v)
	if err != nil {
		return 1, false, err
	}
	done, err := in.acceptAll(ctx, staged)
	if err != nil {
		return len(staged), done > 0, err
	}
	want := in.wanted(ctx, l, staged)
	if len(staged) == 0 && len(want) == 0 {
		return 0, done > 0, nil
	}
	got, err := in.fill(ctx, l, v, staged, want)
	return len(staged) + len(want), done > 0 || got, err
}

// forget drops what waits for a room that is no longer ours.
func (in *Intake) forget(ctx context.Context, l *lane) error {
	in.mu.Lock()
	clear(l.wants)
	in.mu.Unlock()
	return in.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.UnstageRoom(l.room) })
}

// load reads the room's staged events.
func (in *Intake) load(ctx context.Context, l *lane, v *event.Version) (map[event.ID]*waiting, error) {
	var rows []store.StagedPDU
	err := in.c.DB.View(ctx, func(r *store.Read) (err error) {
		rows, err = r.Staged(l.room)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read staged events: %w", err)
	}
	staged := make(map[event.ID]*waiting, len(rows))
	for _, row := range rows {
		p, err := event.ParseTrusted(v, row.ID, row.JSON)
		if err != nil {
			return nil, fmt.Errorf("read staged event %s: %w", row.ID, err)
		}
		staged[row.ID] = &waiting{pdu: p, origin: row.Origin, verified: row.Verified}
	}
	return staged, nil
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

const acceptAtOnce = 64 // events that share flushes

// acceptAll hands everything to the room that it can decide now, ancestors first, and takes it out of staged.
func (in *Intake) acceptAll(ctx context.Context, staged map[event.ID]*waiting) (done int, err error) {
	blocked := map[event.ID]bool{}
	var batch []*waiting
	flush := func() error {
		n, err := in.acceptBatch(ctx, batch, staged, blocked)
		done += n
		batch = batch[:0]
		return err
	}
	for _, w := range causal(staged) {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		if slices.ContainsFunc(w.pdu.Prev, func(p event.ID) bool { return blocked[p] }) {
			blocked[w.pdu.ID] = true
			continue
		}
		ready, gone, err := in.ready(ctx, w)
		if err != nil {
			return done, err
		}
		switch {
		case gone:
			delete(staged, w.pdu.ID)
			done++
		case !ready:
			blocked[w.pdu.ID] = true
		default:
			batch = append(batch, w)
		}
		if len(batch) == acceptAtOnce {
			if err := flush(); err != nil {
				return done, err
			}
		}
	}
	return done, flush()
}

func (in *Intake) acceptBatch(ctx context.Context, batch []*waiting, staged map[event.ID]*waiting, blocked map[event.ID]bool) (done int, err error) {
	if len(batch) == 0 {
		return 0, nil
	}
	ins := make([]room.Incoming, len(batch))
	for i, w := range batch {
		ins[i] = in.incoming(w, nil)
	}
	results, err := in.c.Rooms.AcceptAll(ctx, ins)
	for i, res := range results {
		w := batch[i]
		if in.settled(w, res) {
			delete(staged, w.pdu.ID)
			done++
		} else {
			blocked[w.pdu.ID] = true
		}
	}
	if err == nil || len(results) == len(batch) {
		return done, err
	}
	// The one after the last result could not be decided. What the room refuses outright must not stop the rest for ever.
	w := batch[len(results)]
	ok, one := in.acceptOne(ctx, w, nil)
	if one != nil || !ok {
		return done, err
	}
	delete(staged, w.pdu.ID)
	return done + 1, nil
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
	in.log.Info("staged event refused", "room", w.pdu.RoomID, "event", w.pdu.ID, "err", err)
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

// settled notes a result; false means that the event waits on, with what it lacks.
func (in *Intake) settled(w *waiting, res room.Result) bool {
	switch res.Outcome {
	case room.Missing:
		w.lacks = res.Missing
		return false
	case room.Rejected:
		in.log.Info("event rejected", "room", w.pdu.RoomID, "event", w.pdu.ID, "reason", res.Reason)
	}
	return true
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
			in.log.Info("staged event refused", "room", w.pdu.RoomID, "event", w.pdu.ID, "err", err)
			return true, in.unstage(ctx, w)
		}
		return false, fmt.Errorf("accept %s: %w", w.pdu.ID, err)
	}
	return in.settled(w, res), nil
}

// wanted gives the tips that servers named and that we still lack.
func (in *Intake) wanted(ctx context.Context, l *lane, staged map[event.ID]*waiting) map[event.ID]string {
	in.mu.Lock()
	defer in.mu.Unlock()
	out := map[event.ID]string{}
	for id, server := range l.wants {
		if staged[id] != nil || in.known(ctx, id) {
			delete(l.wants, id)
			continue
		}
		out[id] = server
	}
	return out
}

// fill asks other servers for what lacks. True means that something new came.
func (in *Intake) fill(ctx context.Context, l *lane, v *event.Version, staged map[event.ID]*waiting, want map[event.ID]string) (bool, error) {
	floor, edge, err := in.edge(ctx, l.room)
	if err != nil {
		return false, err
	}
	walk := map[string]*question{} // by server to ask first
	var byState []*waiting
	asked := map[event.ID]bool{}
	for _, w := range causal(staged) {
		if len(w.lacks) == 0 {
			continue
		}
		old := w.pdu.Depth <= floor
		for _, id := range w.lacks {
			if edge[id] || !slices.Contains(w.pdu.Prev, id) {
				old = true // an ancestor from before our time, or an authorising event alone
			}
		}
		if old {
			byState = append(byState, w)
			continue
		}
		for _, id := range w.lacks {
			if staged[id] == nil && !asked[id] {
				asked[id] = true
				walk[w.origin] = walk[w.origin].add(id, w.pdu.ID)
			}
		}
	}
	for id, server := range want {
		if !asked[id] {
			asked[id] = true
			walk[server] = walk[server].add(id, "")
		}
	}
	progress := false
	for server, q := range walk {
		got, err := in.walk(ctx, l, v, server, q, staged, floor)
		if err != nil {
			return progress, err
		}
		progress = progress || got
	}
	if progress {
		return true, nil
	}
	// Nobody gives the ancestors: the state before the oldest of the waiting must do.
	for _, w := range causal(staged) {
		if len(w.lacks) > 0 && !slices.Contains(byState, w) {
			byState = append(byState, w)
		}
	}
	for _, w := range byState {
		ok, err := in.byState(ctx, l, v, w)
		if err != nil {
			in.log.Info("state before an event could not be had", "room", l.room, "event", w.pdu.ID, "err", err)
			continue
		}
		if ok {
			return true, nil // its descendants may go on by themselves
		}
	}
	return in.giveUpWants(ctx, l, want), nil
}

// giveUpWants drops tips that no server gives out: the one who named them will name others.
func (in *Intake) giveUpWants(_ context.Context, l *lane, want map[event.ID]string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for id := range want {
		delete(l.wants, id)
	}
	return false
}

// edge gives the depth at which our knowledge of a room begins, and the ancestors that we lack there on purpose.
func (in *Intake) edge(ctx context.Context, id event.RoomID) (floor int64, edge map[event.ID]bool, err error) {
	gaps, err := in.c.Rooms.Gaps(ctx, id)
	if err != nil {
		return 0, nil, err
	}
	edge = make(map[event.ID]bool, len(gaps))
	for _, g := range gaps {
		edge[g] = true
	}
	err = in.c.DB.View(ctx, func(r *store.Read) (err error) {
		floor, err = r.GapDepth(id)
		return err
	})
	return floor, edge, err
}

const askAtOnce = 100 // events per question; what central servers allow at most

// question is what one server is asked for: events that lack, and those we have that build on them.
type question struct {
	lacks, heads []event.ID
}

func (q *question) add(id, head event.ID) *question {
	if q == nil {
		q = &question{}
	}
	q.lacks = append(q.lacks, id)
	if head != "" && !slices.Contains(q.heads, head) {
		q.heads = append(q.heads, head)
	}
	return q
}

// walk asks for events and their ancestors: first the server that named them, then the rest of the room.
func (in *Intake) walk(ctx context.Context, l *lane, v *event.Version, first string, q *question, staged map[event.ID]*waiting, floor int64) (bool, error) {
	servers, err := in.c.Rooms.Servers(ctx, l.room)
	if err != nil {
		return false, err
	}
	order := []string{first}
	for _, s := range servers {
		if s != first && s != in.c.Local.Server {
			order = append(order, s)
		}
	}
	for _, server := range order {
		var good []*event.PDU
		for _, p := range in.askFor(ctx, l, v, server, q) {
			// What lies before our time in the room is history, for those who page back; only what something new builds on is needed.
			needed := p.Depth > floor || slices.Contains(q.lacks, p.ID)
			if needed && staged[p.ID] == nil && !in.known(ctx, p.ID) {
				good = append(good, p)
			}
		}
		if len(good) > 0 {
			return true, in.take(ctx, server, good)
		}
	}
	return false, ctx.Err()
}

// askFor asks one server. The gap comes first: that is cheap when it is small. History is next, a hundred at a time, which not every
// server gives for every room; single events are last.
func (in *Intake) askFor(ctx context.Context, l *lane, v *event.Version, server string, q *question) []*event.PDU {
	if l.asked == nil {
		l.asked, l.noHistory = map[string]bool{}, map[string]bool{}
	}
	gap := func() ([]*event.PDU, error) {
		if len(q.heads) == 0 {
			return nil, nil
		}
		ends, err := in.c.Rooms.Extremities(ctx, l.room)
		if err != nil {
			return nil, err
		}
		return in.c.Client.Missing(ctx, server, l.room, v, ends, q.heads[:min(len(q.heads), 20)], askAtOnce)
	}
	history := func() ([]*event.PDU, error) {
		pdus, err := in.c.Client.History(ctx, server, l.room, v, q.lacks, askAtOnce)
		if final(err) {
			l.noHistory[server] = true
		}
		return pdus, err
	}
	ways := []func() ([]*event.PDU, error){gap, history}
	if l.asked[server] {
		ways = []func() ([]*event.PDU, error){history, gap}
	}
	if l.noHistory[server] {
		ways = []func() ([]*event.PDU, error){gap}
	}
	l.asked[server] = true
	for _, ask := range ways {
		pdus, err := ask()
		if err != nil {
			in.log.Info("ancestors not given", "server", server, "room", l.room, "err", err)
			if !final(err) {
				return nil // not in reach: other questions would fare no better
			}
		}
		if len(pdus) > 0 {
			return pdus
		}
	}
	var out []*event.PDU
	for _, id := range q.lacks[:min(len(q.lacks), 20)] {
		p, err := in.c.Client.One(ctx, server, l.room, v, id)
		if err == nil {
			out = append(out, p)
		} else if !final(err) {
			break
		}
	}
	return out
}

// take verifies and stages events that we asked for. Those with a bad signature are left out.
func (in *Intake) take(ctx context.Context, server string, pdus []*event.PDU) error {
	var good, unsure []*event.PDU
	for _, p := range pdus {
		ready, err := in.c.Client.checked(ctx, server, p)
		switch {
		case err == nil:
			good = append(good, ready)
		case errors.Is(err, ErrKeyUnavailable):
			unsure = append(unsure, p)
		default:
			in.log.Info("event left out", "server", server, "room", p.RoomID, "event", p.ID, "err", err)
		}
	}
	if err := in.stage(ctx, server, true, good...); err != nil {
		return err
	}
	return in.stage(ctx, server, false, unsure...)
}
