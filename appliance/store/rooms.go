// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"crypto/sha256"
	"encoding/binary"

	"hallig/appliance/event"
)

// Room is one room's row. Cur is the group of the current state, 0 when we hold none (we have only an invite, or are not in it).
type Room struct {
	ID      event.RoomID
	Version string
	Cur     int64
	tips    []byte
}

// Room gives a room's row; nil when it was never heard of.
func (r *Read) Room(id event.RoomID) (*Room, error) {
	room := &Room{ID: id}
	found, err := r.one(`SELECT version, cur, tips FROM room WHERE id=?`, args(id), &room.Version, &room.Cur, &room.tips)
	if !found || err != nil {
		return nil, err
	}
	return room, nil
}

// Tips gives the forward extremities of a room.
func (r *Read) Tips(room event.RoomID) ([]*Event, error) {
	row, err := r.Room(room)
	if row == nil || err != nil || row.Cur == 0 {
		return nil, err
	}
	if row.tips == nil {
		pos, err := r.LastPos(room, 1<<62)
		if err != nil {
			return nil, err
		}
		return r.RoomEventsBetween(room, pos-1, pos, 1, true)
	}
	var es []*Event
	for b := row.tips; len(b) >= 8; b = b[8:] {
		e, err := r.EventByNID(int64(binary.BigEndian.Uint64(b)))
		if err != nil {
			return nil, err
		}
		if e != nil {
			es = append(es, e)
		}
	}
	return es, nil
}

// SetRoom writes a room's version and current state group.
func (tx *Tx) SetRoom(id event.RoomID, version string, cur int64) error {
	nid, err := tx.roomNID(id, version)
	if err != nil {
		return err
	}
	return tx.exec(`UPDATE room SET version=?, cur=? WHERE nid=?`, version, cur, nid)
}

// SetTips writes the forward extremities. nil: the newest shown event is the only one.
func (tx *Tx) SetTips(id event.RoomID, tips []int64) error {
	nid, err := tx.roomNID(id, "")
	if err != nil {
		return err
	}
	var b any
	if tips != nil {
		raw := make([]byte, 0, 8*len(tips))
		for _, t := range tips {
			raw = binary.BigEndian.AppendUint64(raw, uint64(t))
		}
		b = raw
	}
	return tx.exec(`UPDATE room SET tips=? WHERE nid=?`, b, nid)
}

// Rooms lists all rooms of which we hold state.
func (r *Read) Rooms() ([]event.RoomID, error) {
	return r.roomList(`SELECT nid FROM room WHERE cur<>0`)
}

// SetAlias makes an alias; false when it is taken.
func (tx *Tx) SetAlias(alias string, room event.RoomID, creator event.UserID) (bool, error) {
	rn, err := tx.roomNID(room, "")
	if err != nil {
		return false, err
	}
	un, err := tx.userNID(creator)
	if err != nil {
		return false, err
	}
	n, err := tx.execN(`INSERT OR IGNORE INTO alias (alias, room, creator) VALUES (?, ?, ?)`, alias, rn, un)
	return n > 0, err
}

// Alias resolves an alias of this box; room "" when there is none.
func (r *Read) Alias(alias string) (room event.RoomID, creator event.UserID, err error) {
	var rn, un int64
	found, err := r.one(`SELECT room, creator FROM alias WHERE alias=?`, args(alias), &rn, &un)
	if !found || err != nil {
		return "", "", err
	}
	if room, err = r.roomText(rn); err != nil {
		return "", "", err
	}
	creator, err = r.userText(un)
	return room, creator, err
}

// Aliases lists a room's aliases on this box.
func (r *Read) Aliases(room event.RoomID) (aliases []string, err error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return nil, err
	}
	err = r.each(`SELECT alias FROM alias WHERE room=? ORDER BY alias`, args(rn), func(row *Row) error {
		var a string
		err := row.Scan(&a)
		aliases = append(aliases, a)
		return err
	})
	return aliases, err
}

// DropAlias removes an alias; false when there was none.
func (tx *Tx) DropAlias(alias string) (bool, error) {
	n, err := tx.execN(`DELETE FROM alias WHERE alias=?`, alias)
	return n > 0, err
}

// SetPublished lists a room in the public directory or takes it out.
func (tx *Tx) SetPublished(room event.RoomID, on bool) error {
	rn, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	if on {
		return tx.exec(`INSERT OR IGNORE INTO published (room) VALUES (?)`, rn)
	}
	return tx.exec(`DELETE FROM published WHERE room=?`, rn)
}

// Published reports whether a room is in the public directory.
func (r *Read) Published(room event.RoomID) (bool, error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return false, err
	}
	var n int64
	return r.one(`SELECT room FROM published WHERE room=?`, args(rn), &n)
}

// PublishedRooms lists the public directory, in no order.
func (r *Read) PublishedRooms() ([]event.RoomID, error) {
	return r.roomList(`SELECT p.room FROM published p JOIN room r ON r.nid=p.room WHERE r.cur<>0`)
}

// txnKey is what a transaction id is kept under: device, path and id, hashed to 12 bytes.
func txnKey(device, path, id string) []byte {
	b := make([]byte, 0, len(device)+len(path)+len(id)+2)
	b = append(append(append(append(append(b, device...), 0), path...), 0), id...)
	h := sha256.Sum256(b)
	return h[:12]
}

// Txn gives the event that a transaction id made; 0 when it is new.
func (r *Read) Txn(user event.UserID, device, path, id string) (nid int64, err error) {
	un, err := r.findUser(user)
	if un == 0 || err != nil {
		return 0, err
	}
	_, err = r.one(`SELECT event FROM txn WHERE usr=? AND key=?`, args(un, txnKey(device, path, id)), &nid)
	return nid, err
}

// UseTxn remembers which event a transaction id makes; if it was used before, it answers the event of then instead.
func (tx *Tx) UseTxn(user event.UserID, device, path, id string, ev int64) (seen int64, err error) {
	un, err := tx.userNID(user)
	if err != nil {
		return 0, err
	}
	key := txnKey(device, path, id)
	var made int64
	fresh, err := tx.one(`INSERT INTO txn (usr, key, event) VALUES (?, ?, ?) ON CONFLICT DO NOTHING RETURNING event`, args(un, key, ev), &made)
	if fresh || err != nil {
		return 0, err
	}
	_, err = tx.one(`SELECT event FROM txn WHERE usr=? AND key=?`, args(un, key), &seen)
	return seen, err
}

// TipsListed reports whether the row lists the room's ends; otherwise the newest shown event is the only one.
func (r *Room) TipsListed() bool { return r.tips != nil }
