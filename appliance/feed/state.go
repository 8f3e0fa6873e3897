// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"context"
	"encoding/json"
	"errors"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// MembersRequest is GET /members.
type MembersRequest struct {
	At            string // token; "": now
	Membership    string
	NotMembership string
}

// stateGroup is the state that the reader may ask for: the current one for members and open rooms, that of the leaving for
// those who left.
func (l *look) stateGroup(id event.RoomID) (int64, error) {
	p, _, err := l.readable(id)
	if err != nil {
		return 0, err
	}
	if p.now.Membership != "join" && p.joined {
		es, err := l.RoomEventsBetween(id, p.until-1, p.until, 1, false)
		if err != nil {
			return 0, err
		}
		if len(es) == 1 && es[0].After != 0 {
			return es[0].After, nil
		}
	}
	row, err := l.Room(id)
	if err != nil {
		return 0, err
	}
	if row == nil {
		return 0, &room.Error{Code: "M_NOT_FOUND", Status: 404, Text: "there is no such room here"}
	}
	return row.Cur, nil
}

// Members answers GET /members as {"chunk":[…]}.
func (f *Feed) Members(ctx context.Context, user event.UserID, device string, id event.RoomID, req MembersRequest) (json.RawMessage, error) {
	var out struct {
		Chunk []json.RawMessage `json:"chunk"`
	}
	err := f.view(ctx, user, device, func(l *look) error {
		group, err := l.stateGroup(id)
		if err != nil {
			return err
		}
		s, err := l.Group(group)
		if err != nil {
			return err
		}
		if req.At != "" {
			t, err := parseToken(req.At)
			if err != nil {
				return err
			}
			if s, err = l.rewind(id, s, group, t.pos); err != nil {
				return err
			}
			if had, err := l.hasMembers(s); err != nil {
				return err
			} else if !had {
				if s, err = l.beginning(id); err != nil {
					return err
				}
			}
		}
		out.Chunk, err = l.memberChunk(s, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// rewind gives the state as it was at a position, from a later one.
func (l *look) rewind(id event.RoomID, s store.State, group, pos int64) (store.State, error) {
	if pos <= 0 {
		e, err := l.RoomEventsBetween(id, store.MinPos, pos, 1, true)
		if err != nil || len(e) == 0 {
			return nil, err // before all we have of the room
		}
		_, after, err := l.groups(e[0])
		if err != nil {
			return s, err
		}
		return l.Group(after)
	}
	deltas, err := l.StateDeltas(id, pos, l.pos)
	if err != nil {
		return nil, err
	}
	for i := len(deltas) - 1; i >= 0; i-- {
		k, err := l.f.db.StateKey(deltas[i].Type, deltas[i].StateKey)
		if err != nil {
			return nil, err
		}
		s = s.With(k, deltas[i].Old)
	}
	return s, nil
}

// hasMembers says whether a state names any member.
func (l *look) hasMembers(s store.State) (bool, error) {
	for _, x := range s {
		typ, _, err := l.f.db.StateKeyText(x.Key)
		if err != nil || x.Event != 0 && typ == "m.room.member" {
			return err == nil, err
		}
	}
	return false, nil
}

// beginning is the first state of a room that has a member: what a token stands for that lies before all we have of the
// room, as the prev_batch of a timeline that shows the creation does.
func (l *look) beginning(id event.RoomID) (store.State, error) {
	es, err := l.RoomEventsBetween(id, store.MinPos, l.pos, defaultTimeline, false)
	if err != nil {
		return nil, err
	}
	for _, e := range es {
		_, after, err := l.groups(e)
		if err != nil {
			return nil, err
		}
		s, err := l.Group(after)
		if err != nil {
			return nil, err
		}
		if had, err := l.hasMembers(s); had || err != nil {
			return s, err
		}
	}
	return nil, nil
}

func (l *look) memberChunk(s store.State, req MembersRequest) ([]json.RawMessage, error) {
	out := []json.RawMessage{}
	for _, x := range s {
		typ, _, err := l.f.db.StateKeyText(x.Key)
		if err != nil {
			return nil, err
		}
		if typ != "m.room.member" || x.Event == 0 {
			continue
		}
		e, err := l.EventByNID(x.Event)
		if err != nil {
			return nil, err
		}
		if e == nil {
			continue
		}
		b, err := l.body(e)
		if err != nil {
			return nil, err
		}
		if req.Membership != "" && b.member != req.Membership || req.NotMembership != "" && b.member == req.NotMembership {
			continue
		}
		raw, err := l.client(e, shape{room: true})
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

// State answers GET /state as an array.
func (f *Feed) State(ctx context.Context, user event.UserID, id event.RoomID) (json.RawMessage, error) {
	var out []json.RawMessage
	err := f.view(ctx, user, "", func(l *look) error {
		group, err := l.stateGroup(id)
		if err != nil {
			return err
		}
		out, err = l.state(group, func(string, string) bool { return true })
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// StateEvent answers GET /state/{type}/{key}: the content, or the whole event.
func (f *Feed) StateEvent(ctx context.Context, user event.UserID, id event.RoomID, typ, key string, whole bool) (json.RawMessage, error) {
	var out json.RawMessage
	err := f.view(ctx, user, "", func(l *look) error {
		group, err := l.stateGroup(id)
		if err != nil {
			return err
		}
		e, err := l.StateEventAt(group, typ, key)
		if err != nil {
			return err
		}
		if e == nil {
			return &room.Error{Code: "M_NOT_FOUND", Status: 404, Text: "the room has no such state"}
		}
		if whole {
			out, err = l.client(e, shape{room: true})
			return err
		}
		b, err := l.body(e)
		if err == nil {
			out = b.content
		}
		return err
	})
	return out, err
}

// JoinedMembers answers GET /joined_members; for members only.
func (f *Feed) JoinedMembers(ctx context.Context, user event.UserID, id event.RoomID) (json.RawMessage, error) {
	type profile struct {
		Name   json.RawMessage `json:"display_name"`
		Avatar json.RawMessage `json:"avatar_url"`
	}
	out := struct {
		Joined map[event.UserID]profile `json:"joined"`
	}{map[event.UserID]profile{}}
	err := f.view(ctx, user, "", func(l *look) error {
		m, err := l.MembershipOf(id, user)
		if err != nil {
			return err
		}
		if m.Membership != "join" {
			return &room.Error{Code: "M_FORBIDDEN", Status: 403, Text: "you are not in this room"}
		}
		all, err := l.Read.Members(id, "join")
		if err != nil {
			return err
		}
		for _, o := range all {
			e, err := l.EventByNID(o.Event)
			if err != nil {
				return err
			}
			var c struct {
				Name   json.RawMessage `json:"displayname"`
				Avatar json.RawMessage `json:"avatar_url"`
			}
			if e != nil {
				b, err := l.body(e)
				if err != nil {
					return err
				}
				if json.Unmarshal(b.content, &c) != nil {
					c.Name, c.Avatar = nil, nil
				}
			}
			out.Joined[o.User] = profile{c.Name, c.Avatar}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// Forget hides a room that the user has left; M_UNKNOWN while the user is in it.
func (f *Feed) Forget(ctx context.Context, user event.UserID, id event.RoomID) error {
	errIn := errors.New("still in the room")
	err := f.db.Do(ctx, func(tx *store.Tx) error {
		m, err := tx.MembershipOf(id, user)
		if err != nil {
			return err
		}
		switch m.Membership {
		case "leave", "ban":
			_, err = tx.Forget(id, user)
			return err
		case "":
			return nil
		}
		return errIn
	})
	if errors.Is(err, errIn) {
		return &room.Error{Code: "M_UNKNOWN", Status: 400, Text: "leave the room before forgetting it"}
	}
	return err
}
