// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// Accept takes an event in, wherever it comes from: known already? ancestors here? allowed by its authorising events, by the state before it, by the current state?
// Then it is stored in one transaction. What the outcome says is on the disk when Accept returns; an error means that nothing could be decided.
// https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu
func (r *Rooms) Accept(ctx context.Context, in Incoming) (Result, error) {
	for try := 0; ; try++ {
		w := make([]waiting, 1)
		r.takeRun(ctx, []Incoming{in}, w)
		err := w[0].wait()
		if errors.Is(err, errStale) && try < maxTries {
			continue
		}
		return w[0].result(), tellable(err)
	}
}

// AcceptAll is Accept for many events in order, with one flush for as many as the writer takes at once. What stands together and is of one room
// is written as one act. Each gets its own answer, as if Accept had been called for one after the other.
func (r *Rooms) AcceptAll(ctx context.Context, ins []Incoming) ([]Result, error) {
	ws := make([]waiting, len(ins))
	release := func() {}
	if len(ins) > 1 {
		release = r.db.Gather()
	}
	for i := 0; i < len(ins); {
		n := 1
		for i+n < len(ins) && ins[i+n].PDU.RoomID == ins[i].PDU.RoomID {
			n++
		}
		r.takeRun(ctx, ins[i:i+n], ws[i:i+n])
		i += n
	}
	release()
	results := make([]Result, len(ins))
	for i, w := range ws {
		err := w.wait()
		results[i] = w.result()
		if errors.Is(err, errStale) {
			results[i], err = r.Accept(ctx, ins[i])
		}
		if err != nil {
			for _, rest := range ws[i+1:] {
				rest.wait()
			}
			return results[:i], tellable(err)
		}
	}
	return results, nil
}

// waiting is an event that is decided but may still be with the writer.
type waiting struct {
	p      *prepared // nil: nothing to store
	decide Result
	answer *answer
	err    error
}

// answer is the writer's, for all events of one act. It is waited for by one goroutine.
type answer struct {
	c    <-chan error
	err  error
	came bool
}

func (w waiting) wait() error {
	a := w.answer
	if a == nil {
		return w.err
	}
	if !a.came {
		a.err, a.came = <-a.c, true
	}
	return a.err
}

func (w waiting) result() Result {
	if w.p != nil {
		return w.p.result
	}
	return w.decide
}

// takeRun decides about events of one room and queues them.
func (r *Rooms) takeRun(ctx context.Context, ins []Incoming, ws []waiting) {
	l, err := r.enter(ctx, ins[0].PDU.RoomID)
	if err != nil {
		for i := range ws {
			ws[i].err = err
		}
		return
	}
	if !l.in() || l.servers[r.id.Server] == 0 && ins[0].From.Kind == "federation" {
		l.mu.Unlock()
		r.takeOutside(ctx, ins, ws)
		return
	}
	defer l.mu.Unlock()
	t := taker{l: l}
	if err := t.lookUp(ctx, ins); err != nil {
		for i := range ws {
			ws[i].err = err
		}
		return
	}
	for i, in := range ins {
		t.note(ctx, in, &ws[i])
	}
	t.submit()
}

// takeOutside takes events of a room in which this server has nobody, one by one.
func (r *Rooms) takeOutside(ctx context.Context, ins []Incoming, ws []waiting) {
	for i, in := range ins {
		now := !in.Backfill && !in.Outlier && in.State == nil
		if now && in.PDU.Type == "m.room.member" && in.PDU.StateKey != nil && event.UserID(*in.PDU.StateKey).Server() == r.id.Server {
			if in, refused := hashed(in); refused != nil {
				ws[i].decide = *refused
			} else if ws[i], ws[i].err = r.takenBack(ctx, in); ws[i].err != nil {
				ws[i] = waiting{err: ws[i].err}
			}
			continue
		}
		l, err := r.enter(ctx, in.PDU.RoomID)
		if err != nil {
			ws[i].err = err
			continue
		}
		t := taker{l: l}
		if ws[i].err = t.lookUp(ctx, ins[i:i+1]); ws[i].err == nil {
			t.note(ctx, in, &ws[i])
			t.submit()
		}
		l.mu.Unlock()
	}
}

// hashed takes an event whose content does not match its hash as what redaction leaves of it.
func hashed(in Incoming) (_ Incoming, refused *Result) {
	if in.From.Kind == "local" || in.PDU.CheckHash() == nil {
		return in, nil
	}
	red, err := in.PDU.Redacted()
	if err != nil {
		return in, &Result{Outcome: Rejected, Reason: "content hash does not match: " + err.Error()}
	}
	in.PDU = red
	return in, nil
}

// taker takes events into a room whose lock is held. What it has decided is submitted together.
type taker struct {
	l      *live
	absent map[event.ID]bool // not in the database when the lock was taken: nobody else brings an event of the room meanwhile
	ps     []*prepared
	answer *answer // of ps, once they are submitted
}

// lookUp finds out, in one snapshot, which of the events are not in the database.
func (t *taker) lookUp(ctx context.Context, ins []Incoming) error {
	look := t.l.r.db.View
	if len(ins) == 1 {
		look = t.l.r.db.Peek
	}
	t.absent = make(map[event.ID]bool, len(ins))
	return look(ctx, func(rd *store.Read) error {
		for _, in := range ins {
			nid, err := rd.EventNID(in.PDU.ID)
			if err != nil {
				return err
			}
			t.absent[in.PDU.ID] = nid == 0
		}
		return nil
	})
}

func (t *taker) submit() {
	if len(t.ps) > 0 {
		t.answer.c = t.l.submit(t.ps, nil)
		t.ps, t.answer = nil, nil
	}
}

// note takes one event and notes what waits for its answer.
func (t *taker) note(ctx context.Context, in Incoming, w *waiting) {
	in, refused := hashed(in)
	if refused != nil {
		w.decide = *refused
		return
	}
	var err error
	if *w, err = t.take(ctx, in); err != nil {
		*w = waiting{err: err}
	}
}

func (t *taker) take(ctx context.Context, in Incoming) (waiting, error) {
	l := t.l
	if !l.loaded { // an awaited event came before this one
		if err := l.settle(ctx); err != nil {
			return waiting{}, err
		}
	}
	again := l.many || l.awaited[in.PDU.ID]
	if !again {
		var err error
		if again, err = l.endsTelling(ctx, in); err != nil {
			return waiting{}, err
		}
	}
	if again {
		t.submit()
		return l.takeAwaited(ctx, in)
	}
	unsaved := len(l.unsaved)
	w := waiting{}
	var err error
	if w.p, w.decide, err = l.decide(ctx, in, t.absent[in.PDU.ID]); err != nil {
		return waiting{}, err
	}
	if w.p != nil && w.p.fell { // it has changed nothing yet
		t.submit()
		return l.takeAwaited(ctx, in)
	}
	if len(l.unsaved) > unsaved { // they may rest on states that events not yet submitted bring
		made := l.unsaved[unsaved:]
		l.unsaved = l.unsaved[:unsaved:unsaved]
		t.submit()
		l.unsaved = append(l.unsaved, made...)
	}
	switch {
	case w.p != nil:
		l.keep(w.p)
		if t.answer == nil {
			t.answer = &answer{}
		}
		t.ps, w.answer = append(t.ps, w.p), t.answer
	case w.decide.Outcome == Missing:
	case in.ExtraTx != nil: // nothing new, but the giver's cursor moves; after what is queued, on which "duplicate" rests
		t.submit()
		w.answer = &answer{c: l.submit(nil, in.ExtraTx)}
	default:
		if t.submit(); l.flight.count() > 0 {
			l.drain()
			if l.flight.failed(l.gen) {
				return waiting{}, errStale
			}
		}
	}
	return w, nil
}

// decide judges an event, from memory alone if that suffices. absent: it is not in the database.
func (l *live) decide(ctx context.Context, in Incoming, absent bool) (p *prepared, res Result, err error) {
	k := &look{l: l}
	if absent {
		k.absent = in.PDU.ID
	}
	if p, res, err = l.judge(k, in); errors.Is(err, errNeedRead) {
		err = l.r.view(ctx, func(rd *store.Read) (err error) {
			p, res, err = l.judge(&look{l: l, rd: rd}, in)
			return err
		})
	}
	return p, res, err
}

// judge comes to a decision. A prepared event is to be stored; without one the result is the answer.
func (l *live) judge(k *look, in Incoming) (*prepared, Result, error) {
	if l.version == nil || l.cur.nid == 0 && !in.Outlier {
		return nil, Result{Outcome: Rejected, Reason: "this server is not in the room"}, nil
	}
	if in.PDU.Version.ID != l.version.ID {
		return nil, Result{Outcome: Rejected, Reason: "the event is of another room version"}, nil
	}
	old, err := k.row(in.PDU.ID)
	if err != nil {
		return nil, Result{}, err
	}
	if old != nil && (in.Outlier || !old.Is(store.Outlier)) {
		return nil, duplicateOf(old), nil
	}
	thin, err := rules.Thin(in.PDU)
	invalid := err
	if invalid != nil {
		thin = &rules.Event{ID: in.PDU.ID, Version: l.version, Room: l.id, Sender: in.PDU.Sender, Type: in.PDU.Type, StateKey: in.PDU.StateKey,
			TS: in.PDU.TS, Depth: in.PDU.Depth, Prev: in.PDU.Prev, Auth: in.PDU.Auth}
	}
	if in.State != nil {
		ours, err := l.placed(k, in.PDU.Prev)
		if err != nil {
			return nil, Result{}, err
		}
		if ours { // no server knows better what its prev events come to
			in.State = nil
		}
	}
	before, known, missing, err := l.stateBefore(k, in)
	if err != nil {
		return nil, Result{}, err
	}
	auth, unknown, waits, err := l.authority(k, in.PDU.Auth)
	if err != nil {
		return nil, Result{}, err
	}
	if in.NoAuth {
		waits = append(waits, unknown...)
	} else {
		missing = append(missing, unknown...)
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, Result{Outcome: Missing, Missing: slices.Compact(missing)}, nil
	}
	p := l.incoming(in, thin, old)
	p.waits = waits
	reason, outcome, err := l.law(k, p, auth, before, known, invalid, in)
	if err != nil {
		return nil, Result{}, err
	}
	return p, Result{}, l.settleOutcome(k, p, in, before, known, outcome, reason)
}

func duplicateOf(old *store.Event) Result {
	return Result{Outcome: Duplicate, Reason: old.Reason, Pos: old.Pos}
}

func (l *live) incoming(in Incoming, thin *rules.Event, old *store.Event) *prepared {
	p := &prepared{r: l.r, version: l.version, pdu: in.PDU, thin: thin, extra: in.ExtraTx}
	if old != nil {
		p.replace, p.believed = true, !old.Is(store.Rejected)
		p.row = rowOf(in.PDU, old.NID)
		if old.Is(store.Redacted) { // what was removed does not come back
			p.row.JSON, p.row.RedactedBy, p.row.Flags = old.JSON, old.RedactedBy, store.Redacted
		}
	} else {
		p.row = rowOf(in.PDU, l.r.db.NextEvent())
	}
	if in.PDU.Sender.Server() == l.r.id.Server {
		p.row.Flags |= store.Local
	}
	if in.txn != nil {
		p.txn, p.row.TxnDevice, p.row.TxnID = in.txn, in.txn.Device, in.txn.ID
	}
	p.info = AppendInfo{PDU: in.PDU, Room: l.id, From: in.From, Log: in.Log, Backfill: in.Backfill, Outlier: in.Outlier}
	return p
}

// law runs the checks of the law in their order.
func (l *live) law(k *look, p *prepared, auth []*rules.Event, before group, known bool, invalid error, in Incoming) (reason string, o Outcome, err error) {
	if invalid != nil {
		p.waits = nil
		return invalid.Error(), Rejected, nil
	}
	if foreign, err := l.foreign(k, p.pdu.Prev); foreign || err != nil {
		p.waits = nil
		return "a prev event is of another room", Rejected, err
	}
	if len(p.waits) > 0 {
		return lacksAuthority + string(p.waits[0]), Rejected, nil
	}
	state := l.cur.state
	if len(state) == 0 { // an outlier of a room we only hear about: its create event comes with the authorising ones or not at all
		state = before.state
	}
	create, err := k.create(state)
	if err != nil {
		return "", 0, err
	}
	if denied := rules.CheckAuthEvents(p.thin, auth, create); denied != nil {
		return "authorising events: " + denied.Error(), Rejected, nil
	}
	if in.Outlier || !known {
		return "", Accepted, nil
	}
	denied, err := k.allowed(p.thin, before.state)
	if err != nil {
		return "", 0, err
	}
	if denied != nil {
		return "state before: " + denied.Error(), Rejected, nil
	}
	if in.Unwanted != "" && !in.Backfill {
		return in.Unwanted, SoftFailed, nil
	}
	if in.Backfill || before.nid == l.cur.nid {
		return "", Accepted, nil
	}
	if denied, err = k.allowed(p.thin, l.cur.state); err != nil {
		return "", 0, err
	}
	if denied != nil {
		return offState + denied.Error(), SoftFailed, nil
	}
	return "", Accepted, nil
}

// foreign reports whether one of the events is known to be of another room.
func (l *live) foreign(k *look, ids []event.ID) (bool, error) {
	for _, id := range ids {
		if l.isTip(id) {
			continue
		}
		row, err := k.row(id)
		if err != nil || row != nil && row.Room != l.id {
			return err == nil, err
		}
	}
	return false, nil
}

// settleOutcome gives the event its flags and its place.
func (l *live) settleOutcome(k *look, p *prepared, in Incoming, before group, known bool, o Outcome, reason string) error {
	p.result = Result{Outcome: o, Reason: reason}
	p.info.Outcome = o
	p.row.Reason = reason
	switch o {
	case Rejected:
		p.row.Flags |= store.Rejected
		p.thin.Rejected = true
		p.fell = p.believed
	case SoftFailed:
		p.row.Flags |= store.SoftFailed
	}
	if in.Outlier {
		p.row.Flags |= store.Outlier
		return nil
	}
	_, p.closeGap = l.gaps[p.pdu.ID]
	for _, id := range p.pdu.Prev {
		if l.isTip(id) {
			continue
		}
		row, err := k.row(id)
		if err != nil {
			return err
		}
		if row == nil || row.Is(store.Outlier) {
			p.gaps = append(p.gaps, id)
		}
	}
	if !known {
		return l.placeHistory(k, p)
	}
	if p.given = in.State != nil; p.given {
		if err := l.saveGiven(p, before); err != nil {
			return err
		}
	}
	return l.place(k, p, before, o)
}

// placeHistory places an event whose state nobody told: the nearest later event's state decides who may see it.
func (l *live) placeHistory(k *look, p *prepared) error {
	p.info.Servers = l.serverList()
	if k.rd == nil {
		return errNeedRead
	}
	near, err := k.rd.Neighbour(l.id, store.HistoryPos(p.row.Depth, p.row.NID))
	if near == nil || err != nil {
		return err
	}
	p.row.Before, p.row.After = near.Before, near.Before
	p.row.Flags |= store.Guessed
	return nil
}

// saveGiven writes the state that came with the event unless it is one we have.
func (l *live) saveGiven(p *prepared, before group) error {
	p.groups = append(p.groups, newGroup{group: before, parent: l.cur})
	return nil
}

// stateBefore finds the state before an event: of its prev events, or as given. known is false for history whose ancestors we lack.
func (l *live) stateBefore(k *look, in Incoming) (g group, known bool, missing []event.ID, err error) {
	if in.Outlier {
		return group{}, false, nil, nil
	}
	if in.State != nil {
		return l.givenState(k, in.State, true)
	}
	var groups []group
	for _, id := range in.PDU.Prev {
		after, ok, err := l.stateAfter(k, id)
		if errors.Is(err, errForeign) {
			continue // the event is refused for it; what builds on it stands on the rest
		}
		if err != nil {
			return group{}, false, nil, err
		}
		if !ok {
			missing = append(missing, id)
			continue
		}
		groups = append(groups, after)
	}
	switch {
	case len(missing) > 0 && in.Backfill:
		return group{}, false, nil, nil
	case len(missing) > 0:
		return group{}, false, missing, nil
	case len(groups) == 0 && len(in.PDU.Prev) > 0:
		return l.cur, true, nil, nil
	case len(groups) == 0:
		return group{}, true, nil, nil // a create event: the empty state
	case len(groups) == len(l.tips) && len(groups) > 1 && l.allTips(in.PDU.Prev):
		return l.cur, true, nil, nil
	}
	g, err = l.resolve(k, nil, groups)
	return g, true, nil, err
}

func (l *live) allTips(ids []event.ID) bool {
	for _, id := range ids {
		if !l.isTip(id) {
			return false
		}
	}
	return true
}

// errForeign: an event of another room.
var errForeign = errors.New("room: an event of another room")

// placed reports whether the state after each of the events is known.
func (l *live) placed(k *look, ids []event.ID) (bool, error) {
	for _, id := range ids {
		_, ok, err := l.stateAfter(k, id)
		if !ok && !errors.Is(err, errForeign) {
			return false, err
		}
	}
	return true, nil
}

// stateAfter gives the state after an event whose place we know.
func (l *live) stateAfter(k *look, id event.ID) (group, bool, error) {
	for _, t := range l.tips {
		if t.id == id {
			return t.after, true, nil
		}
	}
	row, err := k.row(id)
	if row == nil || err != nil {
		return group{}, false, err
	}
	if row.Room != l.id {
		return group{}, false, errForeign
	}
	if row.Flags&(store.Outlier|store.Guessed) != 0 || row.After == 0 && row.Type != "m.room.create" {
		return group{}, false, nil
	}
	if k.rd == nil {
		return group{}, false, errNeedRead
	}
	s, err := k.rd.Group(row.After)
	return group{nid: row.After, state: s}, true, err
}

// givenState makes a state of the events that somebody says it consists of. Rejected ones have no say; with whole, those that are rejected only
// for want of authorising events count as missing.
func (l *live) givenState(k *look, ids []event.ID, whole bool) (g group, known bool, missing []event.ID, err error) {
	s := make(store.State, 0, len(ids))
	for _, id := range ids {
		e, err := k.entry(id)
		if err != nil {
			return group{}, false, nil, err
		}
		if e.NID == 0 || e.Room != l.id {
			missing = append(missing, id)
			continue
		}
		rejected := e.Flags&store.Rejected != 0
		if rejected && whole {
			if waits, err := k.waits(e.NID); err != nil {
				return group{}, false, nil, err
			} else if waits { // part of the state, or not? Its authorising events must come first
				missing = append(missing, id)
				continue
			}
		}
		if e.Key != 0 && !rejected {
			s = append(s, store.StateEntry{Key: e.Key, Event: e.NID})
		}
	}
	if len(missing) > 0 {
		return group{}, false, missing, nil
	}
	slices.SortStableFunc(s, func(a, b store.StateEntry) int { return cmp.Compare(a.Key, b.Key) })
	s = slices.CompactFunc(s, func(a, b store.StateEntry) bool { return a.Key == b.Key })
	g = group{nid: l.r.db.NextGroup(), state: s}
	l.r.db.CacheGroup(g.nid, s)
	return g, true, nil, nil
}
