// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"encoding/json"
	"math"

	"hallig/appliance/event"
)

// ServerKey is one verify key of another server, with where we have it from. Times are in milliseconds.
type ServerKey struct {
	Server     string
	KeyID      string
	Key        []byte // Ed25519 public key
	ValidUntil int64  // of the document that told of it last
	ExpiredAt  int64  // not 0: retired then
	LearntAt   int64  // last attestation
	Source     string
	Document   []byte // the signed document, current keys only
}

// SaveServerKeys stores keys as they are given: whose word counts is not decided here. Keys that are not named stay, as old events are still verified with them.
func (tx *Tx) SaveServerKeys(keys []ServerKey) error {
	for _, k := range keys {
		err := tx.exec(`INSERT OR REPLACE INTO server_key (server, key_id, key, valid_until, expired_at, learnt_at, source, document) VALUES (?,?,?,?,?,?,?,?)`,
			k.Server, k.KeyID, k.Key, k.ValidUntil, k.ExpiredAt, k.LearntAt, k.Source, k.Document)
		if err != nil {
			return err
		}
	}
	return nil
}

// ServerKeys gives all keys known of a server.
func (r *Read) ServerKeys(server string) ([]ServerKey, error) {
	var out []ServerKey
	err := r.each(`SELECT key_id, key, valid_until, expired_at, learnt_at, source, document FROM server_key WHERE server=?`, args(server), func(row *Row) error {
		k := ServerKey{Server: server}
		err := row.Scan(&k.KeyID, &k.Key, &k.ValidUntil, &k.ExpiredAt, &k.LearntAt, &k.Source, &k.Document)
		out = append(out, k)
		return err
	})
	return out, err
}

// StagedPDU is an event from another server that waits to be accepted.
type StagedPDU struct {
	N        int64 // order of arrival
	Room     event.RoomID
	ID       event.ID
	Origin   string // whom to ask for its ancestors
	Verified bool
	JSON     []byte
}

// StagePDU keeps an event until it can be accepted, and has it tried; one that is there already stays as it is.
func (tx *Tx) StagePDU(p StagedPDU) error {
	var n int64
	_, err := tx.one(`INSERT INTO fed_in (room, id, origin, verified, json) VALUES (?,?,?,?,?) ON CONFLICT (room, id) DO UPDATE SET origin=excluded.origin RETURNING n`,
		args(string(p.Room), string(p.ID), p.Origin, p.Verified, p.JSON), &n)
	if err != nil {
		return err
	}
	if err := tx.exec(`DELETE FROM fed_lack WHERE child=?`, n); err != nil {
		return err
	}
	return tx.exec(`INSERT OR IGNORE INTO fed_todo (room, n) VALUES (?,?)`, string(p.Room), n)
}

// UnstagePDU forgets a staged event, which is accepted or refused, and has those tried that waited for it.
func (tx *Tx) UnstagePDU(room event.RoomID, id event.ID) error {
	var n int64
	found, err := tx.one(`DELETE FROM fed_in WHERE room=? AND id=? RETURNING n`, args(string(room), string(id)), &n)
	if err != nil {
		return err
	}
	if found {
		if err := tx.exec(`DELETE FROM fed_todo WHERE room=? AND n=?`, string(room), n); err != nil {
			return err
		}
		if err := tx.exec(`DELETE FROM fed_lack WHERE child=?`, n); err != nil {
			return err
		}
	}
	return tx.RetryStaged(room, id)
}

// StagedRooms lists the rooms in which events wait.
func (r *Read) StagedRooms() ([]event.RoomID, error) {
	var out []event.RoomID
	err := r.each(`SELECT DISTINCT room FROM fed_in`, nil, func(row *Row) error {
		var room string
		err := row.Scan(&room)
		out = append(out, event.RoomID(room))
		return err
	})
	return out, err
}

// scanStaged reads n, id, origin, verified and json, the first columns of a row.
func scanStaged(row *Row, room event.RoomID) (StagedPDU, error) {
	p := StagedPDU{Room: room}
	err := (&Row{vals: row.vals[:5]}).Scan(&p.N, &p.ID, &p.Origin, &p.Verified, &p.JSON)
	return p, err
}

// Staged gives the waiting events of a room, oldest arrival first.
func (r *Read) Staged(room event.RoomID) ([]StagedPDU, error) {
	var out []StagedPDU
	err := r.each(`SELECT n, id, origin, verified, json FROM fed_in WHERE room=? ORDER BY n`, args(string(room)), func(row *Row) error {
		p, err := scanStaged(row, room)
		out = append(out, p)
		return err
	})
	return out, err
}

// keptAnswers is how many answers to transactions are kept for all servers together; a server repeats only its newest.
const keptAnswers = 5000

// SaveTxnAnswer keeps the answer to a transaction.
func (tx *Tx) SaveTxnAnswer(origin, txn string, answer []byte) error {
	if err := tx.exec(`INSERT OR IGNORE INTO fed_txn (origin, txn, answer) VALUES (?,?,?)`, origin, txn, answer); err != nil {
		return err
	}
	return tx.exec(`DELETE FROM fed_txn WHERE n <= (SELECT max(n) FROM fed_txn) - ?`, keptAnswers)
}

// TxnAnswer gives the answer to a transaction that was seen before; nil when it was not.
func (r *Read) TxnAnswer(origin, txn string) ([]byte, error) {
	var answer []byte
	_, err := r.one(`SELECT answer FROM fed_txn WHERE origin=? AND txn=?`, args(origin, txn), &answer)
	return answer, err
}

// Cursor says up to which position a server has our events of a room.
type Cursor struct {
	Room event.RoomID
	Pos  int64
}

// FederationCursors lists a server's cursors.
func (r *Read) FederationCursors(dest string) ([]Cursor, error) {
	var out []Cursor
	err := r.each(`SELECT room, pos FROM fed_cursor WHERE dest=?`, args(dest), func(row *Row) error {
		var room string
		var c Cursor
		err := row.Scan(&room, &c.Pos)
		c.Room = event.RoomID(room)
		out = append(out, c)
		return err
	})
	return out, err
}

// FederationDests lists the servers that have a cursor, a waiting EDU or a letter.
func (r *Read) FederationDests() ([]string, error) {
	return r.texts(`SELECT dest FROM fed_cursor UNION SELECT dest FROM edu_out UNION SELECT dest FROM fed_letter`)
}

// CursorServers lists the servers that have a cursor in a room.
func (r *Read) CursorServers(room event.RoomID) ([]string, error) {
	return r.texts(`SELECT dest FROM fed_cursor WHERE room=?`, string(room))
}

func (r *Read) texts(sql string, a ...any) ([]string, error) {
	var out []string
	err := r.each(sql, a, func(row *Row) error {
		var s string
		err := row.Scan(&s)
		out = append(out, s)
		return err
	})
	return out, err
}

// SetFederationCursor moves or makes a cursor. It never goes back.
func (tx *Tx) SetFederationCursor(dest string, room event.RoomID, pos int64) error {
	return tx.exec(`INSERT INTO fed_cursor (dest, room, pos) VALUES (?,?,?) ON CONFLICT (dest, room) DO UPDATE SET pos=max(pos, excluded.pos)`, dest, string(room), pos)
}

// DropFederationCursor forgets a cursor: the server has left the room and knows it.
func (tx *Tx) DropFederationCursor(dest string, room event.RoomID) error {
	return tx.exec(`DELETE FROM fed_cursor WHERE dest=? AND room=?`, dest, string(room))
}

// AddFederationCursor makes a cursor where there is none.
func (tx *Tx) AddFederationCursor(dest string, room event.RoomID, pos int64) error {
	return tx.exec(`INSERT OR IGNORE INTO fed_cursor (dest, room, pos) VALUES (?,?,?)`, dest, string(room), pos)
}

// Owe notes an event of another server's user that was made through us, so that the rest of the room gets it from us.
func (tx *Tx) Owe(room event.RoomID, id event.ID) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	return tx.exec(`INSERT OR IGNORE INTO fed_owed (room, id) VALUES (?,?)`, nid, idBytes(id))
}

// Outgoing is an event that a server is owed.
type Outgoing struct {
	ID   event.ID
	Pos  int64
	JSON []byte
}

// OutgoingEvents gives what a server is owed of a room's events with after < pos <= to: those of our own users, those
// of others (but not the server's own) that were made through us, and those of users of the servers in with; oldest first.
func (r *Read) OutgoingEvents(own, dest string, with []string, room event.RoomID, after, to int64, limit int) ([]Outgoing, error) {
	where, params, err := r.outgoing(own, dest, with, room, after, to)
	if where == "" || err != nil {
		return nil, err
	}
	var out []Outgoing
	events, err := r.events(`SELECT `+eventColumns+` FROM event WHERE `+where+` ORDER BY pos LIMIT ?6`, append(params, limit)...)
	for _, e := range events {
		out = append(out, Outgoing{ID: e.ID, Pos: e.Pos, JSON: e.JSON})
	}
	return out, err
}

// CountOutgoing counts the events that OutgoingEvents gives, without those of other servers' users, after a position; it counts no further than most.
func (r *Read) CountOutgoing(own, dest string, room event.RoomID, after int64, most int) (n int, err error) {
	where, params, err := r.outgoing(own, dest, nil, room, after, math.MaxInt64)
	if where == "" || err != nil {
		return 0, err
	}
	_, err = r.one(`SELECT count(*) FROM (SELECT 1 FROM event WHERE `+where+` LIMIT ?6)`, append(params, most), &n)
	return n, err
}

// outgoing says which events of a room a server is owed, as a condition; "" when none.
func (r *Read) outgoing(own, dest string, with []string, room event.RoomID, after, to int64) (where string, params []any, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return "", nil, err
	}
	us, err := r.db.names.find(kindServer, own, nil)
	if us == nil || err != nil {
		return "", nil, err
	}
	var them int64
	if n, err := r.db.names.find(kindServer, dest, nil); err != nil {
		return "", nil, err
	} else if n != nil {
		them = n.nid
	}
	servers := []int64{us.nid}
	for _, name := range with {
		n, err := r.db.names.find(kindServer, name, nil)
		if err != nil {
			return "", nil, err
		}
		if n != nil {
			servers = append(servers, n.nid)
		}
	}
	list, err := json.Marshal(servers)
	if err != nil {
		return "", nil, err
	}
	return `room=?1 AND pos>?2 AND pos<=?3 AND EXISTS (SELECT 1 FROM usr u WHERE u.nid=event.sender
		AND (u.server IN (SELECT value FROM json_each(?4)) OR u.server<>?5 AND EXISTS (SELECT 1 FROM fed_owed o WHERE o.room=?1 AND o.id=event.id)))`,
		args(nid, after, to, string(list), them), nil
}

// NewestDepth gives the depth of the newest event by a server's users that the room took in among its last thousand; 0 when there is none.
func (r *Read) NewestDepth(room event.RoomID, server string) (depth int64, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return 0, err
	}
	n, err := r.db.names.find(kindServer, server, nil)
	if n == nil || err != nil {
		return 0, err
	}
	_, err = r.one(`SELECT e.depth FROM (SELECT pos, depth, sender FROM event WHERE room=? AND pos>0 ORDER BY pos DESC LIMIT 1000) e
		JOIN usr u ON u.nid=e.sender AND u.server=? ORDER BY e.pos DESC LIMIT 1`, args(nid, n.nid), &depth)
	return depth, err
}

// StagedByOrigin says how many events wait in a room, by the server that gave them.
func (r *Read) StagedByOrigin(room event.RoomID) (map[string]int, error) {
	out := map[string]int{}
	err := r.each(`SELECT origin, count(*) FROM fed_in WHERE room=? GROUP BY origin`, args(string(room)), func(row *Row) error {
		var origin string
		var n int
		err := row.Scan(&origin, &n)
		out[origin] = n
		return err
	})
	return out, err
}

// DepartedAt gives the position of the last change of membership of a server's users in a room in which it has nobody joined; 0 when
// it never had one, -1 when somebody is joined, or is said to be while not all members are known.
func (r *Read) DepartedAt(server string, room event.RoomID) (int64, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return 0, err
	}
	n, err := r.db.names.find(kindServer, server, nil)
	if n == nil || err != nil {
		return 0, err
	}
	if here, err := r.Resident(room, server); here || err != nil {
		return -1, err
	}
	of, err := r.membersOf(nid, n.nid)
	if err != nil {
		return 0, err
	}
	var pos int64
	_, err = r.one(`SELECT coalesce(max(m.pos), 0) FROM `+of+` WHERE m.room=? AND u.server=?`, args(nid, n.nid), &pos)
	return pos, err
}

// JoinedSince gives the least position at which a joined user of a server last changed membership in a room; 0 when unknown. Where we came in before all
// members were known it is no later than behind our join.
func (r *Read) JoinedSince(server string, room event.RoomID) (int64, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return 0, err
	}
	n, err := r.db.names.find(kindServer, server, nil)
	if n == nil || err != nil {
		return 0, err
	}
	of, err := r.membersOf(nid, n.nid)
	if err != nil {
		return 0, err
	}
	var pos int64
	_, err = r.one(`SELECT coalesce(min(m.pos), 0) FROM `+of+` WHERE m.room=? AND u.server=? AND m.membership=2`, args(nid, n.nid), &pos)
	if err != nil {
		return 0, err
	}
	if p, err := r.Partial(room); p == nil || err != nil || pos != 0 && pos <= p.Pos {
		return pos, err
	} else if pos != 0 || p.Whole == 0 {
		pos = p.Pos + 1
	}
	return pos, nil
}

// ParkPDU notes that a server does not take an event.
func (tx *Tx) ParkPDU(dest string, id event.ID, room event.RoomID, reason string) error {
	return tx.exec(`INSERT OR REPLACE INTO fed_parked (dest, id, room, reason) VALUES (?,?,?,?)`, dest, string(id), string(room), reason)
}

// UnparkPDU forgets that.
func (tx *Tx) UnparkPDU(dest string, id event.ID) error {
	return tx.exec(`DELETE FROM fed_parked WHERE dest=? AND id=?`, dest, string(id))
}

// ParkedPDUs lists what a server did not take.
func (r *Read) ParkedPDUs(dest string) ([]event.ID, error) {
	ids, err := r.texts(`SELECT id FROM fed_parked WHERE dest=? LIMIT 50`, dest)
	out := make([]event.ID, len(ids))
	for i, id := range ids {
		out[i] = event.ID(id)
	}
	return out, err
}

// UnstageRoom forgets all staged events of a room that we have nobody in any more.
func (tx *Tx) UnstageRoom(room event.RoomID) error {
	for _, sql := range []string{`DELETE FROM fed_in WHERE room=?`, `DELETE FROM fed_todo WHERE room=?`, `DELETE FROM fed_lack WHERE room=?`} {
		if err := tx.exec(sql, string(room)); err != nil {
			return err
		}
	}
	return nil
}

// GapDepth gives the least depth of an event here that has an ancestor we lack: where our knowledge of a room begins. 0 when
// nothing lacks.
func (r *Read) GapDepth(room event.RoomID) (int64, error) {
	nid, err := r.findRoom(room)
	if err != nil || nid == 0 {
		return 0, err
	}
	var depth int64
	_, err = r.one(`SELECT coalesce(min(e.depth), 0) FROM gap g JOIN event e ON e.nid = g.child WHERE g.room=?`, args(nid), &depth)
	return depth, err
}

// GapHeads gives up to 20 events of a room that have ancestors which lack.
func (r *Read) GapHeads(room event.RoomID) ([]event.ID, error) {
	nid, err := r.findRoom(room)
	if err != nil || nid == 0 {
		return nil, err
	}
	var out []event.ID
	err = r.each(`SELECT DISTINCT e.id FROM gap g JOIN event e ON e.nid = g.child WHERE g.room=? ORDER BY e.depth DESC LIMIT 20`, args(nid), func(row *Row) error {
		var id []byte
		err := row.Scan(&id)
		out = append(out, idText(id))
		return err
	})
	return out, err
}
