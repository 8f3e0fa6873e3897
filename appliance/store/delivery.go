// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"fmt"

	"hallig/appliance/event"
)

// Place is where an event stands in a log.
type Place struct {
	Log Log
	Seq uint64
}

// PlacesOf finds an event in its room's logs, our own first. The newest places are looked at first.
func (r *Read) PlacesOf(room event.RoomID, nid int64) ([]Place, error) {
	logs, err := r.Logs(room)
	if err != nil {
		return nil, err
	}
	var out []Place
	for _, l := range logs {
		var seq int64
		ok, err := r.one(`SELECT seq FROM log_entry WHERE log = ? AND event = ? ORDER BY seq DESC LIMIT 1`, args(l.N, nid), &seq)
		if err != nil {
			return nil, fmt.Errorf("find event in a log: %w", err)
		}
		if ok {
			out = append(out, Place{l, uint64(seq)})
		}
	}
	return out, nil
}

// Reach is how far somebody has got in a log.
type Reach struct {
	Who  string // a server name, or a user id
	By   string // the server whose box says so; "" where it is their own
	Upto uint64
	At   int64 // ms, when this became known here; 0: not known
}

// keptMoves is how many moves of each are kept.
const keptMoves = 16

// Reached lists how far others are known to have got in a log: for each, by the word of each who has said something, the last.
func (r *Read) Reached(log int64) ([]Reach, error) {
	return r.reach(`SELECT who, by, max(upto), at FROM word WHERE log = ? GROUP BY who, by ORDER BY who, by`, log)
}

// ReachedPlace lists who has got as far as a place of a log, and when that became known. The time of the oldest move is unknown where older ones may have been dropped.
func (r *Read) ReachedPlace(log int64, seq uint64) ([]Reach, error) {
	return r.reach(`SELECT who, by, min(upto), CASE WHEN EXISTS (SELECT 1 FROM word o WHERE o.log = w.log AND o.who = w.who AND o.by = w.by AND o.upto < ?2)
		OR (SELECT count(*) FROM word o WHERE o.log = w.log AND o.who = w.who AND o.by = w.by) < ?3 THEN at ELSE 0 END
		FROM word w WHERE log = ?1 AND upto >= ?2 GROUP BY who, by ORDER BY who, by`, log, seq, keptMoves)
}

// reach reads rows; of each group the columns besides are those of the row with the least or greatest upto (SQLite: bare columns of min and max).
func (r *Read) reach(sql string, a ...any) (out []Reach, err error) {
	err = r.each(sql, a, func(row *Row) error {
		var x Reach
		var upto int64
		err := row.Scan(&x.Who, &x.By, &upto, &x.At)
		x.Upto = uint64(upto)
		out = append(out, x)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look how far others have got: %w", err)
	}
	return out, nil
}

// Reached notes how far somebody has got in a log, by somebody's word; it never moves back. It says whether it moved.
func (tx *Tx) Reached(log int64, x Reach) (bool, error) {
	n, err := tx.execN(`INSERT INTO word (log, who, by, upto, at) SELECT ?1, ?2, ?3, ?4, ?5
		WHERE NOT EXISTS (SELECT 1 FROM word WHERE log = ?1 AND who = ?2 AND by = ?3 AND upto >= ?4)`, log, x.Who, x.By, x.Upto, x.At)
	if n == 0 || err != nil {
		return false, err
	}
	return true, tx.exec(`DELETE FROM word WHERE log = ?1 AND who = ?2 AND by = ?3 AND upto <=
		(SELECT upto FROM word WHERE log = ?1 AND who = ?2 AND by = ?3 ORDER BY upto DESC LIMIT 1 OFFSET ?4)`, log, x.Who, x.By, keptMoves)
}

// ReachedOnly notes that somebody says of themselves that they have got no further in a log: they have lost what they had.
func (tx *Tx) ReachedOnly(log int64, who string, upto uint64) error {
	return tx.exec(`DELETE FROM word WHERE log = ? AND who = ? AND by = '' AND upto > ?`, log, who, upto)
}

// Shown lists up to which stream position devices of this box's users were shown everything.
func (r *Read) Shown() (map[event.UserID]int64, error) {
	out := make(map[event.UserID]int64)
	err := r.each(`SELECT user, pos FROM shown`, nil, func(row *Row) error {
		var user string
		var pos int64
		err := row.Scan(&user, &pos)
		out[event.UserID(user)] = pos
		return err
	})
	return out, err
}

// Shown notes up to which stream position a device of a user was shown everything.
func (tx *Tx) Shown(user event.UserID, pos int64) error {
	return tx.exec(`INSERT INTO shown (user, pos) VALUES (?1, ?2) ON CONFLICT (user) DO UPDATE SET pos = excluded.pos WHERE pos < excluded.pos`, string(user), pos)
}

// KeptBy lists how far paired boxes have said that they keep a log, by box id.
func (r *Read) KeptBy(log int64) (map[string]uint64, error) {
	out := make(map[string]uint64)
	err := r.each(`SELECT b.id, k.kept FROM peer_kept k JOIN box b ON b.n = k.box WHERE k.log = ?`, args(log), func(row *Row) error {
		var box string
		var kept int64
		err := row.Scan(&box, &kept)
		out[box] = uint64(kept)
		return err
	})
	return out, err
}

// Leave is how a place of a log left towards a box.
type Leave struct {
	Box string
	Way string
	At  int64 // ms; 0: not known
}

// Left tells by which way a place of a log left last, for each box that it left to.
func (r *Read) Left(log int64, seq uint64) ([]Leave, error) {
	var out []Leave
	err := r.each(`SELECT b.id, l.way, l.at FROM left_by l JOIN box b ON b.n = l.box
		WHERE l.log = ?1 AND l.first <= ?2 AND l.last >= ?2 ORDER BY b.id`, args(log, seq), func(row *Row) error {
		var x Leave
		err := row.Scan(&x.Box, &x.Way, &x.At)
		out = append(out, x)
		return err
	})
	return out, err
}

// Left notes that the places first to last of a log left by a way. What follows on by the same way within leftTogether makes the newest range longer; anything else cuts what
// it covers out of the older ranges. Of what the box is known to keep the newest keptLeft ranges stay.
func (tx *Tx) Left(box string, log int64, first, last uint64, way string, at int64) error {
	b, err := tx.boxN(box)
	if err != nil {
		return err
	}
	var topLast, topAt int64
	var topWay string
	ok, err := tx.one(`SELECT last, way, at FROM left_by WHERE box = ? AND log = ? ORDER BY last DESC LIMIT 1`, args(b, log), &topLast, &topWay, &topAt)
	if err != nil {
		return fmt.Errorf("note which way events left: %w", err)
	}
	if ok && topWay == way && first == uint64(topLast)+1 && at >= topAt && at-topAt <= leftTogether {
		return tx.exec(`UPDATE left_by SET last = ? WHERE box = ? AND log = ? AND last = ?`, last, b, log, topLast)
	}
	if ok && first <= uint64(topLast) {
		if err := tx.cutLeft(b, log, first, last); err != nil {
			return err
		}
	}
	if err := tx.exec(`INSERT INTO left_by (box, log, last, first, way, at) VALUES (?, ?, ?, ?, ?, ?)`, b, log, last, first, way, at); err != nil {
		return err
	}
	return tx.exec(`DELETE FROM left_by WHERE box = ?1 AND log = ?2 AND last <= min((SELECT kept FROM peer_kept WHERE box = ?1 AND log = ?2),
		(SELECT last FROM left_by WHERE box = ?1 AND log = ?2 ORDER BY last DESC LIMIT 1 OFFSET ?3))`, b, log, keptLeft)
}

const (
	leftTogether = 2000 // ms: what left within is one range, and has the time of its first
	keptLeft     = 64
)

// cutLeft takes the places first to last out of what is noted.
func (tx *Tx) cutLeft(box, log int64, first, last uint64) error {
	// A range that reaches over both ends keeps its head here; the tail stays where it is, its key being its end.
	if err := tx.exec(`INSERT INTO left_by (box, log, last, first, way, at) SELECT box, log, ?3 - 1, first, way, at FROM left_by
		WHERE box = ?1 AND log = ?2 AND first < ?3 AND last > ?4`, box, log, first, last); err != nil {
		return err
	}
	if err := tx.exec(`DELETE FROM left_by WHERE box = ?1 AND log = ?2 AND first >= ?3 AND last <= ?4`, box, log, first, last); err != nil {
		return err
	}
	if err := tx.exec(`UPDATE left_by SET first = ?4 + 1 WHERE box = ?1 AND log = ?2 AND first <= ?4 AND last > ?4`, box, log, first, last); err != nil {
		return err
	}
	return tx.exec(`UPDATE left_by SET last = ?3 - 1 WHERE box = ?1 AND log = ?2 AND first < ?3 AND last >= ?3 AND last <= ?4`, box, log, first, last)
}

// Shows is somebody who was shown everything up to a stream position. Upto is a place up to which they are known to have seen a log.
type Shows struct {
	Who  event.UserID
	Pos  int64
	Upto uint64
}

// ShownUpTo raises Upto of each to how far they have seen a log. What has no position (refused, not for this box, state from before) counts as seen.
func (r *Read) ShownUpTo(log int64, all []Shows) error {
	if len(all) == 0 {
		return nil
	}
	from := all[0].Upto
	for _, x := range all {
		from = min(from, x.Upto)
	}
	at, stopped := from, make([]bool, len(all))
	return r.each(`SELECT l.seq, l.gap, coalesce(e.pos, 0) FROM log_entry l LEFT JOIN event e ON e.nid = l.event
		WHERE l.log = ? AND l.seq > ? ORDER BY l.seq`, args(log, from), func(row *Row) error {
		var seq, gap, pos int64
		if err := row.Scan(&seq, &gap, &pos); err != nil {
			return err
		}
		if uint64(seq-gap-1) > at {
			return errStop
		}
		at = uint64(seq)
		left := false
		for i := range all {
			if stopped[i] = stopped[i] || pos > all[i].Pos && at > all[i].Upto; stopped[i] {
				continue
			}
			left, all[i].Upto = true, max(all[i].Upto, at)
		}
		if !left {
			return errStop
		}
		return nil
	})
}

// ConfirmedUpTo says up to which stream position a server that is no box of ours has confirmed our users' events of a room; false when nothing was
// ever owed to it.
func (r *Read) ConfirmedUpTo(dest string, room event.RoomID) (pos int64, ok bool, err error) {
	ok, err = r.one(`SELECT pos FROM fed_cursor WHERE dest = ? AND room = ?`, args(dest, room), &pos)
	return pos, ok, err
}
