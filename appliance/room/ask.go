// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"fmt"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// Version gives a room's version; *Error M_NOT_FOUND when the room is unknown.
func (r *Rooms) Version(ctx context.Context, room event.RoomID) (v *event.Version, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		v, err = versionOf(rd, room)
		return err
	})
	return v, err
}

func versionOf(rd *store.Read, room event.RoomID) (*event.Version, error) {
	row, err := rd.Room(room)
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, notFound("room %s is unknown", room)
	}
	v, ok := event.Lookup(row.Version)
	if !ok {
		return nil, notFound("room %s is of unknown version %q", room, row.Version)
	}
	return v, nil
}

// Standing is what a server's door asks of a room before anything else.
type Standing struct {
	Version  *event.Version
	Resident bool // the server that was asked about has a joined member
	ACL      bool // the current state holds an m.room.server_acl
}

// Standing says how a room stands to one of the names that this process answers under. It answers from memory while the room is there; *Error M_NOT_FOUND when the room is unknown.
func (r *Rooms) Standing(ctx context.Context, room event.RoomID, server string) (s Standing, err error) {
	acl, err := r.db.FindStateKey("m.room.server_acl", "")
	if err != nil {
		return s, err
	}
	r.mu.Lock()
	l := r.live[room] // a name that a stranger made up must not push a room out of memory
	r.mu.Unlock()
	if l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.dead && l.loaded && l.in() && !l.flight.failed(l.gen) {
			return Standing{Version: l.version, Resident: l.servers[server] > 0, ACL: acl != 0 && l.cur.state.Find(acl) != 0}, nil
		}
	}
	err = r.view(ctx, func(rd *store.Read) error {
		if s.Version, err = versionOf(rd, room); err != nil {
			return err
		}
		if s.Resident, err = rd.Resident(room, server); err != nil {
			return err
		}
		e, err := rd.CurrentStateEvent(room, "m.room.server_acl", "")
		s.ACL = e != nil
		return err
	})
	return s, err
}

// Knows reports whether we hold the room's state (are or were in it).
func (r *Rooms) Knows(ctx context.Context, room event.RoomID) (ok bool, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		row, err := rd.Room(room)
		ok = row != nil && row.Cur != 0
		return err
	})
	return ok, err
}

// Event gives an event and what we think of it; *Error M_NOT_FOUND when we do not have it.
func (r *Rooms) Event(ctx context.Context, id event.ID) (p *event.PDU, m Meta, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		row, err := rd.Event(id)
		if err != nil {
			return err
		}
		if row == nil {
			return notFound("event %s is unknown", id)
		}
		if p, err = pduOf(rd, row); err != nil {
			return err
		}
		m = Meta{NID: row.NID, Pos: row.Pos, Outlier: row.Is(store.Outlier), Rejected: row.Is(store.Rejected), SoftFailed: row.Is(store.SoftFailed), Reason: row.Reason}
		if row.RedactedBy != 0 {
			m.RedactedBy, err = rd.EventID(row.RedactedBy)
		}
		return err
	})
	return p, m, err
}

// Known tells which of the events are here with their place in the graph, accepted or not: nobody needs to look at them again.
func (r *Rooms) Known(ctx context.Context, ids ...event.ID) (known map[event.ID]bool, err error) {
	known = make(map[event.ID]bool)
	err = r.view(ctx, func(rd *store.Read) error {
		for _, id := range ids {
			nid, flags, err := rd.EventFlags(id)
			if err != nil {
				return err
			}
			if nid != 0 && flags&store.Outlier == 0 {
				known[id] = true
			}
		}
		return nil
	})
	return known, err
}

func pduOf(rd *store.Read, row *store.Event) (*event.PDU, error) {
	v, err := versionOf(rd, row.Room)
	if err != nil {
		return nil, err
	}
	return event.ParseTrusted(v, row.ID, row.JSON)
}

// State gives the room's current state; empty when we hold none.
func (r *Rooms) State(ctx context.Context, room event.RoomID) (m map[rules.Key]event.ID, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		s, err := rd.CurrentState(room)
		if err != nil {
			return err
		}
		m, err = stateIDs(rd, s)
		return err
	})
	return m, err
}

func stateIDs(rd *store.Read, s store.State) (map[rules.Key]event.ID, error) {
	m := make(map[rules.Key]event.ID, len(s))
	err := rd.Named(s, func(typ, key string, id event.ID) { m[rules.Key{Type: typ, StateKey: key}] = id })
	if err == nil && len(m) < len(s) {
		err = fmt.Errorf("read state: %d of %d events are missing", len(s)-len(m), len(s))
	}
	return m, err
}

// StateEvent gives the event that holds (typ, key) in the current state; nil when none does.
func (r *Rooms) StateEvent(ctx context.Context, room event.RoomID, typ, key string) (p *event.PDU, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		row, err := rd.CurrentStateEvent(room, typ, key)
		if row == nil || err != nil {
			return err
		}
		p, err = pduOf(rd, row)
		return err
	})
	return p, err
}

// LawState gives the current state in the law's terms: for UserLevel, NeededLevel and the like. It is a copy of what holds now.
func (r *Rooms) LawState(ctx context.Context, room event.RoomID, keys ...rules.Key) (s rules.State, err error) {
	held := make(map[rules.Key]*rules.Event, len(keys)+2)
	keys = append(keys, rules.Key{Type: "m.room.create"}, rules.Key{Type: "m.room.power_levels"}, rules.Key{Type: "m.room.join_rules"},
		rules.Key{Type: "m.room.history_visibility"})
	err = r.view(ctx, func(rd *store.Read) error {
		v, err := versionOf(rd, room)
		if err != nil {
			return err
		}
		cur, err := rd.CurrentState(room)
		if err != nil {
			return err
		}
		k := &look{l: &live{r: r, version: v}, rd: rd}
		state := k.state(cur)
		for _, key := range keys {
			held[key] = state(key)
		}
		return k.err
	})
	return func(k rules.Key) *rules.Event { return held[k] }, err
}

// StateBefore gives the state before an event; *Error M_NOT_FOUND when we do not know it.
func (r *Rooms) StateBefore(ctx context.Context, id event.ID) (map[rules.Key]event.ID, error) {
	return r.stateAt(ctx, id, func(e *store.Event) int64 { return e.Before })
}

// StateAfter gives the state after an event.
func (r *Rooms) StateAfter(ctx context.Context, id event.ID) (map[rules.Key]event.ID, error) {
	return r.stateAt(ctx, id, func(e *store.Event) int64 { return e.After })
}

func (r *Rooms) stateAt(ctx context.Context, id event.ID, pick func(*store.Event) int64) (m map[rules.Key]event.ID, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		row, err := standsAt(rd, id)
		if err != nil {
			return err
		}
		s, err := rd.Group(pick(row))
		if err != nil {
			return err
		}
		m, err = stateIDs(rd, s)
		return err
	})
	return m, err
}

// standsAt gives an event of which we know the state before it; *Error M_NOT_FOUND when we do not.
func standsAt(rd *store.Read, id event.ID) (*store.Event, error) {
	row, err := rd.Event(id)
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, notFound("event %s is unknown", id)
	}
	if row.Flags&(store.Outlier|store.Guessed) != 0 || row.Before == 0 && row.Type != "m.room.create" {
		return nil, notFound("the state at event %s is unknown", id)
	}
	return row, nil
}

// Extremities gives the ends of the room's graph: what a new event would name as prev.
func (r *Rooms) Extremities(ctx context.Context, room event.RoomID) (ids []event.ID, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		tips, err := rd.Tips(room)
		for _, t := range tips {
			ids = append(ids, t.ID)
		}
		return err
	})
	return ids, err
}

// Gaps gives the prev events we lack.
func (r *Rooms) Gaps(ctx context.Context, room event.RoomID) (ids []event.ID, err error) {
	err = r.view(ctx, func(rd *store.Read) (err error) { ids, err = rd.Gaps(room); return err })
	return ids, err
}

// Joined lists the joined members.
func (r *Rooms) Joined(ctx context.Context, room event.RoomID) (us []event.UserID, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		ms, err := rd.Members(room, "join")
		for _, m := range ms {
			us = append(us, m.User)
		}
		return err
	})
	return us, err
}

// JoinedFrom lists the joined members of one server.
func (r *Rooms) JoinedFrom(ctx context.Context, room event.RoomID, server string) (us []event.UserID, err error) {
	err = r.view(ctx, func(rd *store.Read) (err error) { us, err = rd.JoinedFrom(room, server); return err })
	return us, err
}

// Members gives every known membership of a room.
func (r *Rooms) Members(ctx context.Context, room event.RoomID) (all map[event.UserID]string, err error) {
	all = make(map[event.UserID]string)
	err = r.view(ctx, func(rd *store.Read) error {
		ms, err := rd.Members(room, "")
		for _, m := range ms {
			all[m.User] = m.Membership
		}
		return err
	})
	return all, err
}

// Servers lists the servers with a joined member.
func (r *Rooms) Servers(ctx context.Context, room event.RoomID) (ss []string, err error) {
	err = r.view(ctx, func(rd *store.Read) (err error) { ss, err = rd.Servers(room); return err })
	return ss, err
}

// RoomsWith lists the rooms in which a server has a joined member.
func (r *Rooms) RoomsWith(ctx context.Context, server string) (rs []event.RoomID, err error) {
	err = r.view(ctx, func(rd *store.Read) (err error) { rs, err = rd.RoomsWith(server); return err })
	return rs, err
}

// Forget hides a left room from its user.
func (r *Rooms) Forget(ctx context.Context, room event.RoomID, user event.UserID) error {
	return tellable(r.db.DoSmall(ctx, func(tx *store.Tx) error {
		m, err := tx.MembershipOf(room, user)
		if err != nil {
			return err
		}
		switch m.Membership {
		case "leave", "ban":
		case "":
			return notFound("you were never in room %s", room)
		default:
			return refuse(400, "M_UNKNOWN", "you have not left room %s", room)
		}
		_, err = tx.Forget(room, user)
		return err
	}))
}
