// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"encoding/json"
	"fmt"

	"hallig/appliance/event"
)

// Conflict is a room in which branches met whose states differ, and of which nobody has been told yet.
type Conflict struct {
	Room   event.RoomID
	Since  int64 // the stream position at which they met: what has less was here before
	Ours   int64 // group of the state in force until then
	Theirs int64 // the event by which the other branch came
}

// OpenConflict notes a conflict; a room that has one keeps the first.
func (tx *Tx) OpenConflict(c Conflict) error {
	room, err := tx.roomNID(c.Room, "")
	if err != nil {
		return err
	}
	return tx.exec(`INSERT OR IGNORE INTO conflict (room, since, ours, theirs) VALUES (?, ?, ?, ?)`, room, c.Since, c.Ours, c.Theirs)
}

// CloseConflict forgets a conflict: what there was to tell is owed as letters.
func (tx *Tx) CloseConflict(room event.RoomID) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	return tx.exec(`DELETE FROM conflict WHERE room=?`, nid)
}

// Conflicts lists the rooms that have one.
func (r *Read) Conflicts() (cs []Conflict, err error) {
	err = r.each(`SELECT room, since, ours, theirs FROM conflict ORDER BY since`, nil, func(row *Row) error {
		var c Conflict
		var room int64
		if err := row.Scan(&room, &c.Since, &c.Ours, &c.Theirs); err != nil {
			return err
		}
		var err error
		c.Room, err = r.roomText(room)
		cs = append(cs, c)
		return err
	})
	return cs, err
}

// StateSince gives the state events of a room that are shown at a position or later, in their order; members are left out. At most limit.
func (r *Read) StateSince(room event.RoomID, pos int64, limit int) ([]*Event, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	var members int64 // a type that no event has yet matches none
	if t, err := r.db.names.find(kindType, "m.room.member", nil); err != nil {
		return nil, err
	} else if t != nil {
		members = t.nid
	}
	return r.events(`SELECT `+eventColumns+` FROM event WHERE room=? AND pos>=? AND skey IS NOT NULL AND type<>? ORDER BY pos LIMIT ?`, nid, pos, members, limit)
}

// LocalBetween gives the shown events of users of this box with after < Pos <= to, oldest first; at most limit. only (""): of one user.
func (r *Read) LocalBetween(room event.RoomID, only event.UserID, after, to int64, limit int) ([]*Event, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	var sender int64
	if only != "" {
		if sender, err = r.findUser(only); sender == 0 || err != nil {
			return nil, err
		}
	}
	return r.events(`SELECT `+eventColumns+` FROM event WHERE room=?1 AND pos>?2 AND pos<=?3 AND flags & ?4 <> 0 AND (?5=0 OR sender=?5) ORDER BY pos LIMIT ?6`,
		nid, after, to, Local, sender, limit)
}

// CountUnshown counts an event that the current state refuses. first says that its sender was not told of since a time (ms), and has no other one waiting to be.
func (tx *Tx) CountUnshown(room event.RoomID, user event.UserID, since int64) (first bool, err error) {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return false, err
	}
	usr, err := tx.userNID(user)
	if err != nil {
		return false, err
	}
	var n, told int64
	_, err = tx.one(`INSERT INTO conflict_unshown (room, usr, n, told) VALUES (?, ?, 1, 0) ON CONFLICT DO UPDATE SET n=n+1 RETURNING n, told`, args(nid, usr), &n, &told)
	return n == 1 && told < since, err
}

// Unshown is how many events of a user the current state of a room has refused since that was told last.
type Unshown struct {
	User event.UserID
	N    int
}

// Unshown lists those of a room that were not told of since a time (ms).
func (r *Read) Unshown(room event.RoomID, since int64) (us []Unshown, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	err = r.each(`SELECT usr, n FROM conflict_unshown WHERE room=? AND n>0 AND told<? ORDER BY n DESC`, args(nid, since), func(row *Row) error {
		var u Unshown
		var usr int64
		if err := row.Scan(&usr, &u.N); err != nil {
			return err
		}
		var err error
		u.User, err = r.userText(usr)
		us = append(us, u)
		return err
	})
	return us, err
}

// ToldUnshown notes that so many of a user's were told at a time (ms).
func (tx *Tx) ToldUnshown(room event.RoomID, u Unshown, at int64) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	usr, err := tx.userNID(u.User)
	if err != nil {
		return err
	}
	return tx.exec(`UPDATE conflict_unshown SET n=max(0, n-?), told=? WHERE room=? AND usr=?`, u.N, at, nid, usr)
}

// Barred says for which of our events of a room a server refuses to answer since that was told last.
type Barred struct {
	Server      string
	First, Last int64 // stream positions; First is 0: for none
	Told        int64 // ms; 0: never
}

// NoteBarred adds events with positions from first to last, and gives all since it was told last.
func (tx *Tx) NoteBarred(room event.RoomID, server string, first, last int64) (b Barred, err error) {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return b, err
	}
	b.Server = server
	_, err = tx.one(`INSERT INTO conflict_barred (room, server, first, last, told) VALUES (?1, ?2, ?3, ?4, 0) ON CONFLICT DO UPDATE SET
		first=CASE WHEN first=0 THEN excluded.first ELSE min(first, excluded.first) END, last=max(last, excluded.last) RETURNING first, last, told`,
		args(nid, server, first, last), &b.First, &b.Last, &b.Told)
	return b, err
}

// BarredBy lists the servers that have refused since a room was told of last.
func (r *Read) BarredBy(room event.RoomID) (bs []Barred, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	err = r.each(`SELECT server, first, last, told FROM conflict_barred WHERE room=? AND first>0`, args(nid), func(row *Row) error {
		var b Barred
		err := row.Scan(&b.Server, &b.First, &b.Last, &b.Told)
		bs = append(bs, b)
		return err
	})
	return bs, err
}

// ToldBarred notes that what is known of a server was told at a time (ms). Events after b.Last are still to be told.
func (tx *Tx) ToldBarred(room event.RoomID, b Barred, at int64) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	return tx.exec(`UPDATE conflict_barred SET first=CASE WHEN last>?1 THEN ?1+1 ELSE 0 END, told=?2 WHERE room=?3 AND server=?4`, b.Last, at, nid, b.Server)
}

// Follow is a user who is to be brought into the room that replaces another.
type Follow struct {
	Room  event.RoomID // the old one
	User  event.UserID
	Next  event.RoomID
	By    event.UserID // who closed the old one
	Via   []string     // servers to ask
	Tries int
	At    int64 // ms, of the last try
}

// PutFollow notes a user to be brought on, or another try; who was to be brought elsewhere goes here.
func (tx *Tx) PutFollow(f Follow) error {
	via, err := json.Marshal(f.Via)
	if err != nil {
		return fmt.Errorf("note who is to follow: %w", err)
	}
	return tx.exec(`INSERT OR REPLACE INTO conflict_follow (room, user, next, by, via, tries, at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		string(f.Room), string(f.User), string(f.Next), string(f.By), string(via), f.Tries, f.At)
}

// DropFollow forgets one.
func (tx *Tx) DropFollow(room event.RoomID, user event.UserID) error {
	return tx.exec(`DELETE FROM conflict_follow WHERE room=? AND user=?`, string(room), string(user))
}

// Follows lists all of them.
func (r *Read) Follows() (fs []Follow, err error) {
	err = r.each(`SELECT room, user, next, by, via, tries, at FROM conflict_follow ORDER BY room, user`, nil, func(row *Row) error {
		var f Follow
		var room, user, next, by, via string
		var tries int64
		if err := row.Scan(&room, &user, &next, &by, &via, &tries, &f.At); err != nil {
			return err
		}
		f.Room, f.User, f.Next, f.By, f.Tries = event.RoomID(room), event.UserID(user), event.RoomID(next), event.UserID(by), int(tries)
		if err := json.Unmarshal([]byte(via), &f.Via); err != nil {
			return fmt.Errorf("read who is to follow: %w", err)
		}
		fs = append(fs, f)
		return nil
	})
	return fs, err
}

// CountConflicts adds to what whoever runs the box is shown.
func (tx *Tx) CountConflicts(what string, n int) error {
	if n == 0 {
		return nil
	}
	return tx.exec(`INSERT INTO conflict_count (what, n) VALUES (?, ?) ON CONFLICT DO UPDATE SET n=n+excluded.n`, what, n)
}

// ConflictCounts gives the sums.
func (r *Read) ConflictCounts() (map[string]int64, error) {
	counts := make(map[string]int64)
	return counts, r.each(`SELECT what, n FROM conflict_count`, nil, func(row *Row) error {
		var what string
		var n int64
		err := row.Scan(&what, &n)
		counts[what] = n
		return err
	})
}

// Letter is a text for a user that is not in their room yet.
type Letter struct {
	N    int64 // never given twice
	User event.UserID
	Body []byte // content of a message, JSON
}

// PutLetter owes a user a text.
func (tx *Tx) PutLetter(user event.UserID, body []byte) error {
	return tx.exec(`INSERT INTO letter (user, body) VALUES (?, ?)`, string(user), body)
}

// DropLetter forgets a letter: it is in its user's room.
func (tx *Tx) DropLetter(n int64) error { return tx.exec(`DELETE FROM letter WHERE n=?`, n) }

// Letters lists what is owed, oldest first; at most limit.
func (r *Read) Letters(limit int) (ls []Letter, err error) {
	err = r.each(`SELECT n, user, body FROM letter ORDER BY n LIMIT ?`, args(limit), func(row *Row) error {
		var l Letter
		var user string
		if err := row.Scan(&l.N, &user, &l.Body); err != nil {
			return err
		}
		l.User = event.UserID(user)
		ls = append(ls, l)
		return nil
	})
	return ls, err
}

// GapSince says whether an event that is shown at a position or later names prev events we lack.
func (r *Read) GapSince(room event.RoomID, pos int64) (yes bool, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return false, err
	}
	var one int
	return r.one(`SELECT 1 FROM gap g JOIN event e ON e.nid=g.child WHERE g.room=? AND e.pos>=? LIMIT 1`, args(nid, pos), &one)
}
