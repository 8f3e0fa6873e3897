// SPDX-License-Identifier: EUPL-1.2

package store

import "hallig/appliance/event"

// Waiter is an event that is rejected for want of an authorising event.
type Waiter struct {
	NID     int64
	History bool
}

// AwaitAuth notes that child is rejected only because the authorising event id is missing, or is rejected for that reason itself.
func (tx *Tx) AwaitAuth(room event.RoomID, id event.ID, w Waiter) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	return tx.exec(`INSERT OR IGNORE INTO auth_wait (room, id, child, history) VALUES (?, ?, ?, ?)`, nid, idBytes(id), w.NID, w.History)
}

// DropAuthWaits forgets what an event waits for.
func (tx *Tx) DropAuthWaits(child int64) error {
	return tx.exec(`DELETE FROM auth_wait WHERE child=?`, child)
}

// AuthWaiters lists the events of a room that wait for an authorising event, in order of arrival.
func (r *Read) AuthWaiters(room event.RoomID, id event.ID) (ws []Waiter, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	err = r.each(`SELECT child, history FROM auth_wait WHERE room=? AND id=? ORDER BY child`, args(nid, idBytes(id)), func(row *Row) error {
		var w Waiter
		err := row.Scan(&w.NID, &w.History)
		ws = append(ws, w)
		return err
	})
	return ws, err
}

// AwaitsAuth reports whether an event is rejected only for want of authorising events.
func (r *Read) AwaitsAuth(child int64) (bool, error) {
	var n int64
	return r.one(`SELECT child FROM auth_wait WHERE child=? LIMIT 1`, args(child), &n)
}

// MissingAuth lists authorising events of a room that events wait for and that we do not have at all, in no order.
func (r *Read) MissingAuth(room event.RoomID, limit int) (ids []event.ID, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	err = r.each(`SELECT DISTINCT id FROM auth_wait w WHERE room=? AND NOT EXISTS (SELECT 1 FROM event e WHERE substr(e.id, 1, 8)=substr(w.id, 1, 8) AND e.id=w.id)
		LIMIT ?`, args(nid, limit), func(row *Row) error {
		var b []byte
		err := row.Scan(&b)
		ids = append(ids, idText(b))
		return err
	})
	return ids, err
}

// AuthAwaited lists the authorising events of a room that events wait for, up to limit.
func (r *Read) AuthAwaited(room event.RoomID, limit int) (ids []event.ID, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	err = r.each(`SELECT DISTINCT id FROM auth_wait WHERE room=? LIMIT ?`, args(nid, limit), func(row *Row) error {
		var b []byte
		err := row.Scan(&b)
		ids = append(ids, idText(b))
		return err
	})
	return ids, err
}

// AuthWaitRooms lists the rooms in which events wait for authorising events.
func (r *Read) AuthWaitRooms() ([]event.RoomID, error) {
	return r.roomList(`SELECT DISTINCT room FROM auth_wait`)
}

// Unsure is a placed event whose verdict or state may change.
type Unsure struct {
	NID     int64
	Given   bool // the state before it was told, it does not follow from its prev events
	Covered bool // an accepted event named it before it came: it will be no end of the graph
}

// AddUnsure puts an event behind the room's other unsure ones.
func (tx *Tx) AddUnsure(room event.RoomID, u Unsure) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	bits := 0
	if u.Given {
		bits |= 1
	}
	if u.Covered {
		bits |= 2
	}
	return tx.exec(`INSERT OR IGNORE INTO unsure (room, event, given) VALUES (?, ?, ?)`, nid, u.NID, bits)
}

// DropUnsure notes that an event's verdict and state are for good.
func (tx *Tx) DropUnsure(event int64) error {
	return tx.exec(`DELETE FROM unsure WHERE event=?`, event)
}

// UnsureEvents lists a room's unsure events, ancestors first.
func (r *Read) UnsureEvents(room event.RoomID) (us []Unsure, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	err = r.each(`SELECT event, given FROM unsure WHERE room=? ORDER BY n`, args(nid), func(row *Row) error {
		var u Unsure
		var bits int64
		err := row.Scan(&u.NID, &bits)
		u.Given, u.Covered = bits&1 != 0, bits&2 != 0
		us = append(us, u)
		return err
	})
	return us, err
}

// Kinds of what a staged event lacks.
const (
	LackPrev = iota
	LackAuth
	LackKey
)

// BlockStaged notes that a staged event was tried and what it lacks: it is tried again when one of these is taken in, at once if that has happened meanwhile.
// kind LackKey needs no ids.
func (tx *Tx) BlockStaged(room event.RoomID, n int64, kind int, ids []event.ID) error {
	for _, id := range ids {
		e, err := tx.Event(id)
		if err != nil {
			return err
		}
		if e != nil && e.Room == room && (kind == LackAuth || e.Flags&(Outlier|Guessed) == 0) {
			return nil
		}
	}
	if err := tx.exec(`DELETE FROM fed_todo WHERE room=? AND n=?`, string(room), n); err != nil {
		return err
	}
	if kind == LackKey {
		ids = []event.ID{""}
	}
	for _, id := range ids {
		if err := tx.exec(`INSERT OR IGNORE INTO fed_lack (room, id, child, kind) VALUES (?,?,?,?)`, string(room), string(id), n, kind); err != nil {
			return err
		}
	}
	return nil
}

// RetryStaged has the staged events of a room tried that lack id; "" those that lack a key.
func (tx *Tx) RetryStaged(room event.RoomID, id event.ID) error {
	err := tx.exec(`INSERT OR IGNORE INTO fed_todo (room, n) SELECT room, child FROM fed_lack WHERE room=? AND id=?`, string(room), string(id))
	if err != nil {
		return err
	}
	return tx.exec(`DELETE FROM fed_lack WHERE room=? AND id=?`, string(room), string(id))
}

// StagedTodo gives staged events of a room that are to be tried, oldest arrival first.
func (r *Read) StagedTodo(room event.RoomID, limit int) ([]StagedPDU, error) {
	var out []StagedPDU
	err := r.each(`SELECT f.n, f.id, f.origin, f.verified, f.json FROM fed_todo t JOIN fed_in f ON f.n=t.n WHERE t.room=? ORDER BY t.n LIMIT ?`,
		args(string(room), limit), func(row *Row) error {
			p, err := scanStaged(row, room)
			out = append(out, p)
			return err
		})
	return out, err
}

// StagedChildren gives staged events of a room that were found to lack id.
func (r *Read) StagedChildren(room event.RoomID, id event.ID, limit int) ([]StagedPDU, error) {
	var out []StagedPDU
	err := r.each(`SELECT f.n, f.id, f.origin, f.verified, f.json FROM fed_lack l JOIN fed_in f ON f.n=l.child WHERE l.room=? AND l.id=? LIMIT ?`,
		args(string(room), string(id), limit), func(row *Row) error {
			p, err := scanStaged(row, room)
			out = append(out, p)
			return err
		})
	return out, err
}

// StagedLack is an event that staged ones lack and that is not staged itself, with one of those.
type StagedLack struct {
	ID    event.ID
	Child StagedPDU
}

// StagedLacks lists what the staged events of a room lack, by kind.
func (r *Read) StagedLacks(room event.RoomID, kind, limit int) ([]StagedLack, error) {
	var out []StagedLack
	err := r.each(`SELECT f.n, f.id, f.origin, f.verified, f.json, l.id FROM fed_lack l JOIN fed_in f ON f.n=l.child
		WHERE l.room=?1 AND l.kind=?2 AND NOT EXISTS (SELECT 1 FROM fed_in s WHERE s.room=?1 AND s.id=l.id) GROUP BY l.id LIMIT ?3`,
		args(string(room), kind, limit), func(row *Row) error {
			p, err := scanStaged(row, room)
			out = append(out, StagedLack{ID: event.ID(asString(row.vals[5])), Child: p})
			return err
		})
	return out, err
}

// StagedCount says how many events wait in a room.
func (r *Read) StagedCount(room event.RoomID) (n int, err error) {
	_, err = r.one(`SELECT count(*) FROM fed_in WHERE room=?`, args(string(room)), &n)
	return n, err
}

// StagedBy says how many events of one origin wait in all rooms; it counts no further than most.
func (r *Read) StagedBy(origin string, most int) (n int, err error) {
	_, err = r.one(`SELECT count(*) FROM (SELECT 1 FROM fed_in WHERE origin=? LIMIT ?)`, args(origin, most), &n)
	return n, err
}

// IsStaged reports whether an event waits in a room.
func (r *Read) IsStaged(room event.RoomID, id event.ID) (bool, error) {
	var n int64
	return r.one(`SELECT n FROM fed_in WHERE room=? AND id=?`, args(string(room), string(id)), &n)
}

// RetryKeys has up to limit staged events of a room tried that lacked a key.
func (tx *Tx) RetryKeys(room event.RoomID, limit int) error {
	err := tx.exec(`INSERT OR IGNORE INTO fed_todo (room, n) SELECT room, child FROM fed_lack WHERE room=? AND id='' ORDER BY child LIMIT ?`, string(room), limit)
	if err != nil {
		return err
	}
	return tx.exec(`DELETE FROM fed_lack WHERE room=? AND id='' AND child IN (SELECT n FROM fed_todo WHERE room=?)`, string(room), string(room))
}
