// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// Arrival is a join through another server. All of the state, and what authorises it, is here already: Learn stored it.
type Arrival struct {
	Version *event.Version
	Join    *event.PDU // verified
	State   []event.ID // the state before the join
	From    Source
	Partial bool     // memberships lack in the state: Complete brings them
	Servers []string // who is said to be in the room, while they lack

	pdus []*event.PDU // authorising events and state that are stored with the join
}

// Adopt installs a room that was joined through another server: the state before the join, its authorising events (all verified) and the join itself.
// A room that we are still in keeps its own history; the join is one more end of its graph.
func (r *Rooms) Adopt(ctx context.Context, v *event.Version, join *event.PDU, state, auth []*event.PDU, from Source) error {
	a := Arrival{Version: v, Join: join, From: from, pdus: append(slices.Clone(auth), state...)}
	for _, p := range state {
		a.State = append(a.State, p.ID)
	}
	return r.Arrive(ctx, a)
}

// Arrive is Adopt for a room whose state was learnt before. A room in which not all memberships are known yet, and that is joined again on top of what is
// here, stays the same stay: what lacks is still the state before the first join.
func (r *Rooms) Arrive(ctx context.Context, a Arrival) error {
	for try := 0; ; try++ {
		err := r.arriveOnce(ctx, a)
		if errors.Is(err, errStale) && try < maxTries {
			continue
		}
		return tellable(err)
	}
}

func (r *Rooms) arriveOnce(ctx context.Context, a Arrival) error {
	l, err := r.enter(ctx, a.Join.RoomID)
	if err != nil {
		return err
	}
	l.drain() // a new beginning is not built on what is still in flight
	if l.flight.failed(l.gen) {
		l.mu.Unlock()
		return errStale
	}
	was := l.partial
	var ps []*prepared
	err = r.view(ctx, func(rd *store.Read) (err error) {
		ps, err = l.adopt(&look{l: l, rd: rd}, a)
		return err
	})
	if err != nil {
		l.forget()
		l.mu.Unlock()
		return fmt.Errorf("adopt room %s: %w", a.Join.RoomID, err)
	}
	answer := l.submit(ps, nil)
	if l.partial != was || slices.ContainsFunc(ps, func(p *prepared) bool { return p.again != nil }) {
		err = l.await(answer)
		l.forget()
		l.mu.Unlock()
		return err
	}
	l.mu.Unlock()
	return <-answer
}

func (l *live) adopt(k *look, a Arrival) ([]*prepared, error) {
	join, from := a.Join, a.From
	stay := false
	var err error
	if l.in() {
		users, err := k.rd.JoinedFrom(l.id, l.r.id.Server)
		if err != nil {
			return nil, err
		}
		stay = len(users) > 0
	}
	in := Incoming{PDU: join, From: from, State: a.State}
	if !stay && l.in() && l.partial != nil {
		ours, err := l.placed(k, join.Prev)
		if err != nil {
			return nil, err
		}
		if ours {
			stay, in.State = true, nil
		}
	}
	if !stay && l.in() && l.partial == nil && !a.Partial {
		if stay, err = l.ahead(k, join); err != nil {
			return nil, err
		}
	}
	anew := !stay && l.partial != nil
	if !stay {
		// A state we remember from an earlier stay is history; what readers are told is the difference to it.
		l.version, l.tips, l.gaps = a.Version, nil, make(map[event.ID]bool)
		l.partial = nil
	}
	var ps []*prepared
	if len(a.pdus) > 0 {
		if ps, err = l.outliers(k, a.pdus, from); err != nil {
			return nil, err
		}
	}
	old, err := k.row(join.ID)
	if err != nil {
		return nil, err
	}
	if old != nil && old.Flags&store.Outlier == 0 && stay {
		return l.adopted(k, ps, stay) // we have it already: it came another way
	}
	thin, err := rules.Thin(join)
	if err != nil {
		return nil, err
	}
	var before group
	var missing []event.ID
	if in.State != nil {
		before, _, missing, err = l.givenState(k, in.State, false)
	} else {
		before, _, missing, err = l.stateBefore(k, in)
	}
	if err != nil || len(missing) > 0 {
		return nil, errors.Join(err, lack(missing))
	}
	p := l.incoming(in, thin, old)
	if a.Partial && !stay {
		l.partial = &store.Partial{Room: l.id, Join: p.row.NID, Via: from.Server}
	}
	if denied, err := k.allowed(thin, before.state); err != nil {
		return nil, err
	} else if denied != nil {
		return nil, forbidden("the room does not let the user in: %s", denied)
	}
	if err := l.settleOutcome(k, p, in, before, true, Accepted, ""); err != nil {
		return nil, err
	}
	l.startPartial(p, a, anew)
	l.keep(p)
	return l.adopted(k, append(ps, p), stay)
}

// ahead says that a user comes back through a server that has not heard of his going: what the join rests on leads back to the membership that his going
// ended, and not over his going. To the others both are news, and what the law makes of the two must be what we make of them: what we know of the room
// is no history then.
func (l *live) ahead(k *look, join *event.PDU) (bool, error) {
	row, err := k.rd.CurrentStateEvent(l.id, "m.room.member", *join.StateKey)
	if row == nil || err != nil {
		return false, err
	}
	going, _, err := k.thinID(row.ID)
	if going == nil || err != nil {
		return false, err
	}
	before, err := k.memberBefore(going.Auth, *join.StateKey)
	if before == nil || err != nil {
		return false, err
	}
	const most = 100 // comings and goings that we have not heard of, or that the other server has not
	auth := join.Auth
	for range most {
		m, err := k.memberBefore(auth, *join.StateKey)
		if m == nil || err != nil || m.ID == going.ID {
			return false, err
		}
		if m.ID == before.ID {
			return true, nil
		}
		auth = m.Auth
	}
	return false, nil
}

// memberBefore is a user's membership among authorising events; nil: there is none, or it is not here.
func (k *look) memberBefore(auth []event.ID, user string) (*rules.Event, error) {
	for _, id := range auth {
		e, _, err := k.thinID(id)
		if err != nil || e != nil && e.Type == "m.room.member" && e.StateKey != nil && *e.StateKey == user {
			return e, err
		}
	}
	return nil, nil
}

// adopted looks again at what waited for the room's events.
func (l *live) adopted(k *look, ps []*prepared, stay bool) ([]*prepared, error) {
	if !l.many && !slices.ContainsFunc(ps, func(p *prepared) bool { return l.awaited[p.pdu.ID] }) {
		return ps, nil
	}
	again, _, err := l.reconsider(k, ps, stay)
	return append(ps, again...), err
}

func lack(ids []event.ID) error {
	if len(ids) == 0 {
		return nil
	}
	return fmt.Errorf("%d events are missing, first %s", len(ids), ids[0])
}

// outliers prepares events that are known by name only, authorising ones first. What the law refuses is kept as rejected, so that nothing rests on it.
func (l *live) outliers(k *look, pdus []*event.PDU, from Source) ([]*prepared, error) {
	byID := make(map[event.ID]*event.PDU, len(pdus))
	for _, p := range pdus {
		if p.RoomID != l.id {
			return nil, fmt.Errorf("event %s is of another room", p.ID)
		}
		byID[p.ID] = p
	}
	var create *rules.Event
	for _, p := range pdus {
		if p.Is("m.room.create", "") {
			t, err := rules.Thin(p)
			if err != nil {
				return nil, err
			}
			create = t
		}
	}
	if create == nil {
		return nil, errors.New("the create event is missing")
	}
	var ps []*prepared
	for _, pdu := range authOrder(pdus, byID) {
		old, err := k.row(pdu.ID)
		if err != nil {
			return nil, err
		}
		if old != nil {
			continue
		}
		p, err := l.outlier(k, pdu, create, from)
		if err != nil {
			return nil, err
		}
		l.keep(p)
		ps = append(ps, p)
	}
	return ps, nil
}

func (l *live) outlier(k *look, pdu *event.PDU, create *rules.Event, from Source) (*prepared, error) {
	if pdu.CheckHash() != nil {
		red, err := pdu.Redacted()
		if err != nil {
			return nil, err
		}
		pdu = red
	}
	in := Incoming{PDU: pdu, From: from, Outlier: true}
	reason := ""
	var waits []event.ID
	thin, err := rules.Thin(pdu)
	if err != nil {
		reason = err.Error()
		thin = &rules.Event{ID: pdu.ID, Version: l.version, Room: l.id, Sender: pdu.Sender, Type: pdu.Type, StateKey: pdu.StateKey, TS: pdu.TS, Depth: pdu.Depth,
			Prev: pdu.Prev, Auth: pdu.Auth}
	} else if !pdu.Is("m.room.create", "") {
		auth, unknown, lack, err := l.authority(k, pdu.Auth)
		if err != nil {
			return nil, err
		}
		if waits = append(lack, unknown...); len(waits) > 0 {
			reason = lacksAuthority + string(waits[0])
		} else if denied := rules.CheckAuthEvents(thin, auth, create); denied != nil {
			reason = "authorising events: " + denied.Error()
		}
	} else if denied, err := k.allowed(thin, nil); err != nil {
		return nil, err
	} else if denied != nil {
		return nil, denied
	}
	outcome := Accepted
	if reason != "" {
		outcome = Rejected
	}
	p := l.incoming(in, thin, nil)
	p.waits = waits
	return p, l.settleOutcome(k, p, in, group{}, false, outcome, reason)
}

// authOrder sorts events so that each comes after those that authorise it.
func authOrder(pdus []*event.PDU, byID map[event.ID]*event.PDU) []*event.PDU {
	once := make([]*event.PDU, len(pdus)) // the same event may have come twice
	for i, p := range pdus {
		once[i] = byID[p.ID]
	}
	return upFirst(once, byID, func(p *event.PDU) []event.ID { return p.Auth })
}

// upFirst sorts so that each comes after those of byID that up names. It keeps the order otherwise, names each once, and does not recurse: chains are long.
func upFirst[T comparable](all []T, byID map[event.ID]T, up func(T) []event.ID) []T {
	out := make([]T, 0, len(all))
	done := make(map[T]bool, len(all))
	type frame struct {
		t T
		i int
	}
	for _, t := range all {
		for stack := []frame{{t, 0}}; len(stack) > 0; {
			f := &stack[len(stack)-1]
			if f.i == 0 && done[f.t] {
				stack = stack[:len(stack)-1]
				continue
			}
			done[f.t] = true
			ids := up(f.t)
			if f.i == len(ids) {
				out = append(out, f.t)
				stack = stack[:len(stack)-1]
				continue
			}
			next, here := byID[ids[f.i]]
			f.i++
			if here && !done[next] {
				stack = append(stack, frame{next, 0})
			}
		}
	}
	return out
}

// AcceptInvite tells a local user of an invite to a room that we may not know. stripped is the state that came with it.
func (r *Rooms) AcceptInvite(ctx context.Context, v *event.Version, invite *event.PDU, stripped []json.RawMessage) error {
	return r.outOfBand(ctx, v, invite, stripped)
}

// AcceptKnock notes a local user's knock on a room that we do not hold.
func (r *Rooms) AcceptKnock(ctx context.Context, v *event.Version, knock *event.PDU, stripped []json.RawMessage) error {
	return r.outOfBand(ctx, v, knock, stripped)
}

// LeaveUnknown notes that a local user left (refused an invite to) a room that we do not hold. leave may be nil: the other server could not be asked.
func (r *Rooms) LeaveUnknown(ctx context.Context, room event.RoomID, user event.UserID, leave *event.PDU) error {
	if leave != nil {
		return r.outOfBand(ctx, leave.Version, leave, nil)
	}
	leave, err := r.ownLeave(ctx, room, user)
	if err != nil {
		return tellable(err)
	}
	return r.outOfBand(ctx, leave.Version, leave, nil)
}

// ownLeave makes the event of a leaving that no other server was told of: the user's clients want one to see.
func (r *Rooms) ownLeave(ctx context.Context, room event.RoomID, user event.UserID) (*event.PDU, error) {
	var was *store.Event
	var v *event.Version
	err := r.view(ctx, func(rd *store.Read) error {
		m, err := rd.MembershipOf(room, user)
		if err != nil {
			return err
		}
		if m.Membership == "" {
			return notFound("you have no invite to room %s", room)
		}
		if was, err = rd.EventByNID(m.Event); err != nil {
			return err
		}
		row, err := rd.Room(room)
		if err != nil {
			return err
		}
		if row != nil {
			v, _ = event.Lookup(row.Version)
		}
		if was == nil || v == nil {
			return fmt.Errorf("leave %s: the invite or the room's version is not known", room)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	key := string(user)
	return event.Build(v, event.Proto{RoomID: room, Sender: user, Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"membership":"leave"}`),
		Prev: []event.ID{was.ID}, Auth: []event.ID{was.ID}, Depth: was.Depth + 1, TS: r.opt.Clock().UnixMilli()}, r.id.Server, r.id.Key)
}

// takenBack hears that a local user was put out of a room that we do not hold: an invite is taken back, a knock is refused, a ban.
// Nobody here can ask the law; who invited may take it back, and for a knock the room's servers are believed, which cannot give anything but a leave or a ban.
func (r *Rooms) takenBack(ctx context.Context, in Incoming) (waiting, error) {
	w := waiting{decide: Result{Outcome: Rejected, Reason: "this server is not in the room"}}
	thin, err := rules.Thin(in.PDU)
	if err != nil || thin.Member == nil || thin.Member.Membership != "leave" && thin.Member.Membership != "ban" {
		return w, nil
	}
	user := event.UserID(*in.PDU.StateKey)
	believed, overtaken := false, false
	err = r.view(ctx, func(rd *store.Read) error {
		m, err := rd.MembershipOf(in.PDU.RoomID, user)
		if err != nil || m.Membership != "invite" && m.Membership != "knock" {
			return err
		}
		was, err := rd.EventByNID(m.Event)
		if err != nil {
			return err
		}
		// An invite is brought by a request of its own and overtakes what waits to be sent: a kick from before it takes nothing back.
		overtaken = m.Membership == "invite" && was != nil && was.Sender == in.PDU.Sender && in.PDU.Depth <= was.Depth
		believed = m.Membership == "knock" || in.PDU.Sender == user || was != nil && was.Sender == in.PDU.Sender
		return nil
	})
	if err != nil || !believed {
		return w, err
	}
	if !overtaken {
		if err := r.outOfBand(ctx, in.PDU.Version, in.PDU, nil); err != nil {
			return w, err
		}
	}
	w.decide = Result{Outcome: Accepted}
	if in.ExtraTx != nil {
		return w, r.db.Do(ctx, in.ExtraTx)
	}
	return w, nil
}

// outOfBand stores a membership event without a place in a graph and moves the user's membership.
func (r *Rooms) outOfBand(ctx context.Context, v *event.Version, pdu *event.PDU, stripped []json.RawMessage) error {
	if pdu.Type != "m.room.member" || pdu.StateKey == nil {
		return errors.New("membership event expected")
	}
	thin, err := rules.Thin(pdu)
	if err != nil || thin.Member == nil {
		return errors.Join(errors.New("membership event expected"), err)
	}
	l, err := r.enter(ctx, pdu.RoomID)
	if err != nil {
		return err
	}
	user := event.UserID(*pdu.StateKey)
	nid := r.db.NextEvent()
	l.flight.add()
	answer := make(chan error, 1)
	r.db.Queue(func(tx *store.Tx) error {
		return moveMember(tx, v, pdu, nid, store.Membership{Room: pdu.RoomID, User: user, Membership: thin.Member.Membership}, stripped)
	}, func(err error) {
		l.flight.land()
		answer <- err
	})
	err = l.await(answer) // still under the lock: nobody may prepare the same event meanwhile
	l.loaded = false
	l.mu.Unlock()
	if err != nil {
		return tellable(fmt.Errorf("note %s: %w", thin.Member.Membership, err))
	}
	return nil
}

// moveMember is the transaction of outOfBand.
func moveMember(tx *store.Tx, v *event.Version, pdu *event.PDU, nid int64, m store.Membership, stripped []json.RawMessage) error {
	old, err := tx.Event(pdu.ID)
	if err != nil {
		return err
	}
	if old != nil && !old.Is(store.Outlier) {
		return nil // it came through the front door meanwhile
	}
	room, err := tx.Room(m.Room)
	if err != nil {
		return err
	}
	if room == nil || room.Version == "" {
		if err := tx.SetRoom(m.Room, v.ID, 0); err != nil {
			return err
		}
	}
	if m.Event = nid; old != nil {
		m.Event = old.NID
	} else {
		row := rowOf(pdu, nid)
		row.Flags = store.Outlier
		if err := tx.InsertEvent(row, false); err != nil {
			return err
		}
	}
	now, err := tx.MembershipOf(m.Room, m.User)
	if err != nil || now.Membership == "join" {
		return err // we are in the room: what comes through the front door counts
	}
	m.Pos = tx.NextPos()
	tx.TouchUser(m.User)
	if err := tx.SetMember(m); err != nil || stripped == nil {
		return err
	}
	return tx.SetStripped(m.Room, m.User, stripped)
}
