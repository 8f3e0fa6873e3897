// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"slices"

	"hallig/appliance/event"
)

// Partial is a room that was joined before all its members were known.
type Partial struct {
	Room  event.RoomID
	Join  int64  // number of the join
	Via   string // the server that was joined through
	Pos   int64  // where the join stands in the stream
	Whole int64  // where the rest of the state came; 0: it is still lacking
}

// StartPartial notes that a room is joined without all its members, and which servers are said to be in it. What was noted of an earlier stay is replaced.
func (tx *Tx) StartPartial(p Partial, servers []string) error {
	room, err := tx.roomNID(p.Room, "")
	if err != nil {
		return err
	}
	tx.db.partials.Store(true)
	if err := tx.exec(`DELETE FROM partial_server WHERE room=?`, room); err != nil {
		return err
	}
	for _, s := range servers {
		n, err := tx.db.names.intern(kindServer, s, nil, "")
		if err != nil {
			return err
		}
		if err := tx.ensure(n); err != nil {
			return err
		}
		if err := tx.exec(`INSERT OR IGNORE INTO partial_server (room, server) VALUES (?, ?)`, room, n.nid); err != nil {
			return err
		}
	}
	return tx.exec(`INSERT OR REPLACE INTO partial (room, event, via, pos, whole) VALUES (?, ?, ?, ?, 0)`, room, p.Join, p.Via, p.Pos)
}

// EndPartial notes that all members of a room are known from a position on.
func (tx *Tx) EndPartial(room event.RoomID, pos int64) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	if err := tx.exec(`DELETE FROM partial_server WHERE room=?`, nid); err != nil {
		return err
	}
	return tx.exec(`UPDATE partial SET whole=? WHERE room=?`, pos, nid)
}

// DropPartial forgets that a room was ever joined without all its members: it is joined anew, or nobody is left in it. What was placed meanwhile has
// no state that others could be told.
func (tx *Tx) DropPartial(room event.RoomID) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	if err := tx.exec(`UPDATE event SET flags=flags|? WHERE nid IN (SELECT event FROM unsure WHERE room=?)`, Guessed, nid); err != nil {
		return err
	}
	for _, sql := range []string{`DELETE FROM unsure WHERE room=?`, `DELETE FROM partial_server WHERE room=?`, `DELETE FROM partial WHERE room=?`} {
		if err := tx.exec(sql, nid); err != nil {
			return err
		}
	}
	return nil
}

// Partial gives what is noted of a room that was joined without all its members; nil when it never was.
func (r *Read) Partial(room event.RoomID) (*Partial, error) {
	if !r.db.partials.Load() {
		return nil, nil
	}
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	p := &Partial{Room: room}
	found, err := r.one(`SELECT event, via, pos, whole FROM partial WHERE room=?`, args(nid), &p.Join, &p.Via, &p.Pos, &p.Whole)
	if !found || err != nil {
		return nil, err
	}
	return p, nil
}

// Partials lists the rooms that were joined without all their members.
func (r *Read) Partials() (ps []Partial, err error) {
	if !r.db.partials.Load() {
		return nil, nil
	}
	err = r.each(`SELECT room, event, via, pos, whole FROM partial`, nil, func(row *Row) error {
		var p Partial
		var room int64
		if err := row.Scan(&room, &p.Join, &p.Via, &p.Pos, &p.Whole); err != nil {
			return err
		}
		var err error
		p.Room, err = r.roomText(room)
		ps = append(ps, p)
		return err
	})
	return ps, err
}

// PartialServers lists the servers that are said to be in a room of which not all members are known.
func (r *Read) PartialServers(room event.RoomID) ([]string, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil || !r.db.partials.Load() {
		return nil, err
	}
	return r.partialServers(nid)
}

func (r *Read) partialServers(room int64) (servers []string, err error) {
	err = r.each(`SELECT s.name FROM partial_server p JOIN server s ON s.nid=p.server WHERE p.room=? ORDER BY s.name`, args(room), func(row *Row) error {
		var s string
		err := row.Scan(&s)
		servers = append(servers, s)
		return err
	})
	return servers, err
}

// MayBeIn says whether a user is joined to a room, or may be for all that is known while not all members are.
func (r *Read) MayBeIn(room event.RoomID, user event.UserID) (bool, error) {
	m, err := r.MembershipOf(room, user)
	if err != nil || m.Membership != "" || !r.db.partials.Load() {
		return m.Membership == "join", err
	}
	servers, err := r.PartialServers(room)
	return slices.Contains(servers, user.Server()), err
}

// Placed is what a state is made of: an event's number, flags and state key, without its text.
type Placed struct {
	NID   int64
	Room  event.RoomID
	Key   int64 // as in StateEntry; 0: no state event
	Flags Flags
}

// Placed gives the short form of an event; NID 0 when we do not have it.
func (r *Read) Placed(id event.ID) (p Placed, err error) {
	var room, key int64
	found, err := r.one(`SELECT nid, room, skey, flags FROM event WHERE substr(id, 1, 8)=substr(?1, 1, 8) AND id=?1`, args(idBytes(id)), &p.NID, &room, &key, &p.Flags)
	if !found || err != nil {
		return Placed{}, err
	}
	p.Key = key
	p.Room, err = r.roomText(room)
	return p, err
}

// MoveEvent gives an event another state before and after it; nothing else of it changes.
func (tx *Tx) MoveEvent(nid, before, after int64) error {
	if after == before {
		after = 0 // read back as before
	}
	return tx.exec(`UPDATE event SET before=?, after=? WHERE nid=?`, before, after, nid)
}
