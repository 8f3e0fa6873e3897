// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// maxPrev is how many ends one event joins.
const maxPrev = 10

// maxTries bounds how often an act is prepared again because another one of its room failed.
const maxTries = 20

// Send makes, signs, checks and stores an event of a local user. It is durable when Send returns.
func (r *Rooms) Send(ctx context.Context, d Draft) (event.ID, error) {
	if d.Txn != nil {
		if id := r.txns.find(txnHash(d.Sender, d.Txn)); id != "" {
			return id, nil
		}
	}
	for try := 0; ; try++ {
		id, err := r.sendOnce(ctx, d)
		var seen *txnSeen
		switch {
		case errors.As(err, &seen):
			return seen.id, nil
		case errors.Is(err, errStale) && try < maxTries:
			continue
		case err != nil:
			return "", tellable(err)
		}
		if d.Txn != nil {
			r.txns.put(txnHash(d.Sender, d.Txn), id)
		}
		return id, nil
	}
}

func (r *Rooms) sendOnce(ctx context.Context, d Draft) (event.ID, error) {
	if vets, err := r.vets(ctx, d); err != nil {
		return "", err
	} else if vets {
		return r.sendVetted(ctx, d)
	}
	l, err := r.enter(ctx, d.Room)
	if err != nil {
		return "", err
	}
	p, id, err := l.draft(ctx, d)
	if err != nil || p == nil {
		l.mu.Unlock()
		return id, err
	}
	l.keep(p)
	answer := l.submit([]*prepared{p}, nil)
	l.mu.Unlock()
	return p.pdu.ID, <-answer
}

// draft prepares a local event, from memory alone if that suffices. A nil prepared with an id means: the state is so already.
func (l *live) draft(ctx context.Context, d Draft) (p *prepared, same event.ID, err error) {
	p, same, err = l.make(&look{l: l}, d, true)
	if errors.Is(err, errNeedRead) {
		err = l.r.view(ctx, func(rd *store.Read) (err error) {
			p, same, err = l.make(&look{l: l, rd: rd}, d, true)
			return err
		})
	}
	return p, same, err
}

// make builds the event at the room's ends, asks the law and, with keep, places it.
func (l *live) make(k *look, d Draft, place bool) (*prepared, event.ID, error) {
	if !l.in() {
		return nil, "", notFound("this server is not in room %s", d.Room)
	}
	if d.Type == "m.room.create" && len(l.cur.state) > 0 {
		return nil, "", refuse(http.StatusBadRequest, "M_BAD_JSON", "the room exists already: it has one create event")
	}
	if err := l.checkRedaction(k, d); err != nil {
		return nil, "", err
	}
	content, err := l.fillJoin(k, d)
	if err != nil {
		return nil, "", err
	}
	d.Content = content
	if d.StateKey != nil && place {
		if id, err := l.sameState(k, d); id != "" || err != nil {
			return nil, id, err
		}
	}
	ends, before, err := l.ends(k)
	if err != nil {
		return nil, "", err
	}
	pdu, thin, err := l.build(k, d, ends, before)
	if err != nil {
		return nil, "", err
	}
	if err := checkCreators(k, thin, before); err != nil {
		return nil, "", err
	}
	denied, err := k.allowed(thin, before.state)
	if err != nil {
		return nil, "", err
	}
	if denied != nil {
		return nil, "", forbidden("%s", denied)
	}
	p := &prepared{r: l.r, version: l.version, pdu: pdu, thin: thin, txn: d.Txn, result: Result{Outcome: Accepted}}
	p.row = rowOf(pdu, l.r.db.NextEvent())
	p.row.Flags = store.Local
	if d.Txn != nil {
		p.row.TxnDevice, p.row.TxnID = d.Txn.Device, d.Txn.ID
	}
	p.info = AppendInfo{PDU: pdu, Room: l.id, From: Source{Kind: "local", Server: l.r.id.Server}, Outcome: Accepted}
	if !place {
		return p, "", nil
	}
	return p, "", l.place(k, p, before, Accepted)
}

func rowOf(p *event.PDU, nid int64) *store.Event {
	return &store.Event{NID: nid, ID: p.ID, Room: p.RoomID, Type: p.Type, Sender: p.Sender, StateKey: p.StateKey, Depth: p.Depth, TS: p.TS, JSON: p.JSON()}
}

// ends are the room's forward extremities that a new event joins, the deepest ones if there are many, and the state they come to.
func (l *live) ends(k *look) ([]tip, group, error) {
	if len(l.tips) <= maxPrev {
		return l.tips, l.cur, nil
	}
	tips := slices.Clone(l.tips)
	slices.SortStableFunc(tips, func(a, b tip) int { return int(min(1, max(-1, b.depth-a.depth))) })
	tips = tips[:maxPrev]
	before, err := l.resolveTips(k, nil, tips)
	return tips, before, err
}

// build makes the signed event on top of the given ends, with the authorising events of the state they come to.
func (l *live) build(k *look, d Draft, ends []tip, before group) (*event.PDU, *rules.Event, error) {
	proto := event.Proto{RoomID: d.Room, Sender: d.Sender, Type: d.Type, StateKey: d.StateKey, Content: d.Content, Redacts: d.Redacts, TS: d.TS}
	if proto.TS == 0 {
		proto.TS = l.r.opt.Clock().UnixMilli()
	}
	for _, t := range ends {
		proto.Prev = append(proto.Prev, t.id)
		proto.Depth = max(proto.Depth, t.depth)
	}
	proto.Depth = min(proto.Depth+1, 1<<53-1)
	draft := &event.PDU{Version: l.version, RoomID: d.Room, Sender: d.Sender, Type: d.Type, StateKey: d.StateKey, Content: d.Content, Prev: proto.Prev,
		Depth: proto.Depth, TS: proto.TS, Redacts: d.Redacts}
	thin, err := rules.Thin(draft)
	if err != nil {
		return nil, nil, refuse(http.StatusBadRequest, "M_BAD_JSON", "%s", err)
	}
	if proto.Auth, err = l.authFor(k, thin, before.state); err != nil {
		return nil, nil, err
	}
	pdu, err := event.Build(l.version, proto, l.r.id.Server, l.r.id.Key)
	if err != nil {
		return nil, nil, buildError(err)
	}
	if thin, err = rules.Thin(pdu); err != nil {
		return nil, nil, refuse(http.StatusBadRequest, "M_BAD_JSON", "%s", err)
	}
	return pdu, thin, nil
}

// authFor selects the authorising events from a state.
// https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection
func (l *live) authFor(k *look, thin *rules.Event, s store.State) ([]event.ID, error) {
	var ids []event.ID
	k.err = nil
	state := k.state(s)
	for _, key := range rules.AuthNeeded(thin) {
		if t := state(key); t != nil {
			ids = append(ids, t.ID)
		}
	}
	return ids, k.err
}

// sameState answers the id of the current state event if the draft would change nothing: a repeated join or topic needs no event.
func (l *live) sameState(k *look, d Draft) (event.ID, error) {
	key, err := l.r.db.FindStateKey(d.Type, *d.StateKey)
	if key == 0 || err != nil {
		return "", err
	}
	nid := l.cur.state.Find(key)
	if nid == 0 {
		return "", nil
	}
	var pdu *event.PDU
	if f := l.fresh[nid]; f != nil {
		pdu = f.pdu
	} else {
		if k.rd == nil {
			return "", errNeedRead
		}
		row, err := k.rd.EventByNID(nid)
		if row == nil || err != nil || row.Sender != d.Sender {
			return "", err
		}
		if pdu, err = event.ParseTrusted(l.version, row.ID, row.JSON); err != nil {
			return "", err
		}
	}
	content, err := l.version.Canonical(d.Content)
	if err != nil || pdu.Sender != d.Sender || !bytes.Equal(content, pdu.Content) {
		return "", nil // a content that is no canonical JSON is refused when the event is built
	}
	if l.fresh[nid] != nil {
		l.drain() // answered only when it is durable
		if l.flight.failed(l.gen) {
			return "", errStale
		}
	}
	return pdu.ID, nil
}

// checkRedaction refuses what the redaction rules would not apply: since room version 3 the law itself lets such events pass.
func (l *live) checkRedaction(k *look, d Draft) error {
	if d.Type != "m.room.redaction" || d.Redacts == "" {
		return nil
	}
	row, err := k.row(d.Redacts)
	if err != nil {
		return err
	}
	if row == nil {
		return nil // it may be on its way to us: the redaction waits for it
	}
	if row.Room != d.Room {
		return notFound("event %s is not in this room", d.Redacts)
	}
	if row.Sender == d.Sender {
		return nil
	}
	k.err = nil
	state := k.state(l.cur.state)
	may := rules.UserLevel(state, d.Sender) >= rules.Levels(state).Redact // of the same server is not enough for a client
	if k.err != nil {
		return k.err
	}
	if !may {
		return forbidden("your power level does not allow to redact others' events")
	}
	return nil
}

// checkCreators refuses power levels that list a creator: no power of the sender's would make them right.
// https://spec.matrix.org/v1.19/rooms/v12/#authorization-rules
func checkCreators(k *look, thin *rules.Event, before group) error {
	if thin.Power == nil || !thin.Version.Creators {
		return nil
	}
	create, err := k.create(before.state)
	if err != nil || create == nil || create.Create == nil {
		return err
	}
	for _, u := range create.Create.Creators {
		if _, ok := thin.Power.Users[u]; ok {
			return refuse(http.StatusBadRequest, "M_BAD_JSON", "room version %s: creators have no power level of their own", thin.Version.ID)
		}
	}
	return nil
}

// BuildEvent makes and checks an event that is not stored: an invite that another server signs first.
func (r *Rooms) BuildEvent(ctx context.Context, d Draft) (*event.PDU, *event.Version, error) {
	l, err := r.enter(ctx, d.Room)
	if err != nil {
		return nil, nil, err
	}
	defer l.mu.Unlock()
	l.drain() // what it names as prev must be askable
	var p *prepared
	err = r.view(ctx, func(rd *store.Read) (err error) {
		p, _, err = l.make(&look{l: l, rd: rd}, d, false)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return p.pdu, l.version, nil
}

// Template makes the unsigned event of make_join, make_leave and make_knock for a user of another server.
func (r *Rooms) Template(ctx context.Context, d Draft) ([]byte, *event.Version, error) {
	pdu, v, err := r.BuildEvent(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(pdu.JSON(), &m); err != nil {
		return nil, nil, fmt.Errorf("make template: %w", err)
	}
	delete(m, "hashes")
	delete(m, "signatures")
	raw, err := json.Marshal(m)
	return raw, v, err
}
