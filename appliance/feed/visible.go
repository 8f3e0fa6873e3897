// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"context"
	"encoding/json"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// fact is what a state event says about who may see what.
type fact struct {
	member  string // content.membership
	history string // content.history_visibility
}

// fact reads a state event by its number.
func (l *look) fact(nid int64) (fact, error) {
	if x, ok := l.f.facts.find(nid); ok {
		return x, nil
	}
	e, err := l.EventByNID(nid)
	if err != nil || e == nil {
		return fact{}, err
	}
	b, err := l.body(e)
	if err != nil {
		return fact{}, err
	}
	x := fact{member: b.member}
	if e.Type == "m.room.history_visibility" {
		var c struct {
			History any `json:"history_visibility"`
		}
		if json.Unmarshal(b.content, &c) == nil {
			x.history, _ = c.History.(string)
		}
	}
	l.f.facts.put(nid, x)
	return x, nil
}

// stateFact reads what holds (typ, key) in a state group.
func (l *look) stateFact(group int64, typ, key string) (fact, error) {
	k, err := l.f.db.FindStateKey(typ, key)
	if err != nil || k == 0 {
		return fact{}, err
	}
	s, err := l.Group(group)
	if err != nil {
		return fact{}, err
	}
	nid := s.Find(k)
	if nid == 0 {
		return fact{}, nil
	}
	return l.fact(nid)
}

// groups gives the state before and after an event; for history of which the state is not known, that of the nearest later
// event that has one.
func (l *look) groups(e *store.Event) (before, after int64, err error) {
	if e.Before != 0 || e.After != 0 {
		return e.Before, e.After, nil
	}
	if e.Pos == 0 {
		return 0, 0, nil
	}
	n, err := l.Neighbour(e.Room, e.Pos)
	if err != nil || n == nil {
		return 0, 0, err
	}
	return n.Before, n.Before, nil
}

// own says whether an event is the reader's own membership.
func (l *look) own(e *store.Event) bool {
	return e.StateKey != nil && e.Type == "m.room.member" && *e.StateKey == string(l.user)
}

// membershipAt is the reader's membership at an event; at the own member event it is that event's.
func (l *look) membershipAt(e *store.Event) (string, error) {
	if l.own(e) {
		b, err := l.body(e)
		if err != nil {
			return "", err
		}
		return orLeave(b.member), nil
	}
	before, _, err := l.groups(e)
	if err != nil {
		return "", err
	}
	x, err := l.stateFact(before, "m.room.member", string(l.user))
	return orLeave(x.member), err
}

func orLeave(m string) string {
	if m == "" {
		return "leave"
	}
	return m
}

// past is what the reader's way through a room means for the history that is shared with members.
type past struct {
	now    store.Membership
	joined bool  // is in the room, or was until then
	until  int64 // when the last stay ended; no limit for members
}

// maxSteps bounds how many own memberships are looked through for the last stay.
const maxSteps = 50

// past finds the reader's way through a room. A ban may follow a leave, a leave may follow an invite that was never taken:
// what counts is the last time the reader was in.
func (l *look) past(id event.RoomID) (past, error) {
	m, err := l.MembershipOf(id, l.user)
	if err != nil {
		return past{}, err
	}
	p := past{now: m, joined: m.Membership == "join", until: 1 << 62}
	if m.Membership != "leave" && m.Membership != "ban" {
		return p, nil
	}
	e, err := l.EventByNID(m.Event)
	for range maxSteps {
		if err != nil || e == nil {
			return p, err
		}
		var before *store.Event
		if before, err = l.Replaced(e); err != nil || before == nil {
			return p, err
		}
		x, err := l.fact(before.NID)
		if err != nil {
			return p, err
		}
		if x.member == "join" {
			p.joined, p.until = true, e.Pos
			return p, nil
		}
		e = before
	}
	return p, nil
}

// visible applies https://spec.matrix.org/latest/client-server-api/#server-behaviour-4 to one event.
func (l *look) visible(e *store.Event, p past) (bool, error) {
	if e.Is(store.Rejected) || e.Is(store.SoftFailed) {
		return false, nil
	}
	if l.own(e) {
		return true, nil
	}
	before, after, err := l.groups(e)
	if err != nil {
		return false, err
	}
	member, err := l.stateFact(before, "m.room.member", string(l.user))
	if err != nil {
		return false, err
	}
	if member.member == "join" {
		return true, nil
	}
	history, err := l.stateFact(before, "m.room.history_visibility", "")
	if err != nil {
		return false, err
	}
	if rules.CanSee(history.history, member.member, p.since(e.Pos)) {
		return true, nil
	}
	if e.Type == "m.room.history_visibility" && e.StateKey != nil {
		// The event that changes the setting is seen under the more open of the two.
		history, err = l.stateFact(after, "m.room.history_visibility", "")
		if err != nil {
			return false, err
		}
		return rules.CanSee(history.history, member.member, p.since(e.Pos)), nil
	}
	return false, nil
}

// since says whether the reader is in the room now, or joined it at some time after a position.
func (p past) since(pos int64) bool {
	return p.joined && pos < p.until
}

// ignored lists whom the reader does not want to hear.
func (l *look) ignored() (map[event.UserID]bool, error) {
	raw, err := l.AccountData(l.user, "", "m.ignored_user_list")
	if err != nil || raw == nil {
		return nil, err
	}
	var c struct {
		Users map[event.UserID]json.RawMessage `json:"ignored_users"`
	}
	if json.Unmarshal(raw, &c) != nil || len(c.Users) == 0 {
		return nil, nil
	}
	out := make(map[event.UserID]bool, len(c.Users))
	for u := range c.Users {
		out[u] = u != l.user
	}
	return out, nil
}

// readable says up to which position the reader may read a room at all: its end for members, the leaving for those who
// left, M_FORBIDDEN for strangers unless the room is open to the world.
func (l *look) readable(id event.RoomID) (past, int64, error) {
	p, err := l.past(id)
	if err != nil {
		return p, 0, err
	}
	switch {
	case p.now.Membership == "join":
		return p, l.pos, nil
	case p.joined:
		return p, p.until, nil
	}
	open, err := l.open(id)
	if err != nil {
		return p, 0, err
	}
	if open {
		return p, l.pos, nil
	}
	return p, 0, &room.Error{Code: "M_FORBIDDEN", Status: 403, Text: "you are not in this room"}
}

// open says whether anybody may read a room.
func (l *look) open(id event.RoomID) (bool, error) {
	row, err := l.Room(id)
	if err != nil || row == nil || row.Cur == 0 {
		return false, err
	}
	x, err := l.stateFact(row.Cur, "m.room.history_visibility", "")
	return x.history == "world_readable", err
}

// CanSee says whether a user may see an event.
func (f *Feed) CanSee(ctx context.Context, user event.UserID, p *event.PDU) (bool, error) {
	ok := false
	err := f.view(ctx, user, "", func(l *look) error {
		e, err := l.Event(p.ID)
		if err != nil || e == nil {
			return err
		}
		way, err := l.past(e.Room)
		if err != nil {
			return err
		}
		ok, err = l.visible(e, way)
		return err
	})
	return ok, err
}
