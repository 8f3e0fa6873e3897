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
	Upto uint64
	At   int64 // ms; 0: not known
}

// Reached lists how far others are known to have got in a log.
func (r *Read) Reached(log int64) ([]Reach, error) {
	var out []Reach
	err := r.each(`SELECT who, upto, at FROM reached WHERE log = ? ORDER BY who`, args(log), func(row *Row) error {
		var x Reach
		var upto int64
		err := row.Scan(&x.Who, &upto, &x.At)
		x.Upto = uint64(upto)
		out = append(out, x)
		return err
	})
	return out, err
}

// Reached notes how far somebody has got in a log; it never moves back. It says whether it moved.
func (tx *Tx) Reached(log int64, x Reach) (bool, error) {
	n, err := tx.execN(`INSERT INTO reached (log, who, upto, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (log, who) DO UPDATE
		SET upto = excluded.upto, at = excluded.at WHERE upto < excluded.upto`, log, x.Who, x.Upto, x.At)
	return n > 0, err
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

// Left notes that the places first to last of a log left by a way. What follows on, or repeats the newest range, by the same way makes it longer;
// anything else cuts what it covers out of the older ranges.
func (tx *Tx) Left(box string, log int64, first, last uint64, way string, at int64) error {
	b, err := tx.boxN(box)
	if err != nil {
		return err
	}
	var topFirst, topLast int64
	var topWay string
	ok, err := tx.one(`SELECT first, last, way FROM left_by WHERE box = ? AND log = ? ORDER BY last DESC LIMIT 1`, args(b, log), &topFirst, &topLast, &topWay)
	if err != nil {
		return fmt.Errorf("note which way events left: %w", err)
	}
	if ok && topWay == way && uint64(topFirst) <= first && first <= uint64(topLast)+1 && last >= uint64(topLast) {
		return tx.exec(`UPDATE left_by SET last = ?, at = ? WHERE box = ? AND log = ? AND last = ?`, last, at, b, log, topLast)
	}
	if ok && first <= uint64(topLast) {
		if err := tx.cutLeft(b, log, first, last); err != nil {
			return err
		}
	}
	return tx.exec(`INSERT INTO left_by (box, log, last, first, way, at) VALUES (?, ?, ?, ?, ?, ?)`, b, log, last, first, way, at)
}

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
