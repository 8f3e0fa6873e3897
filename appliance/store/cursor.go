// SPDX-License-Identifier: EUPL-1.2

package store

import "hallig/appliance/event"

// Span is a stay of a server in a room, in event numbers: what came after First and not after Last is due to it. An
// open stay has Last 0.
type Span struct{ First, Last int64 }

// Holds says whether an event number falls into the stay.
func (s Span) Holds(nid int64) bool { return nid > s.First && (s.Last == 0 || nid <= s.Last) }

// OpenSpan notes that a server is in a room from the event after first on.
func (tx *Tx) OpenSpan(server string, room event.RoomID, first int64) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	return tx.exec(`INSERT OR IGNORE INTO span (server, room, first) VALUES (?, ?, ?)`, server, nid, first)
}

// CloseSpan notes that a server has left a room with the event last; a server without a stay was there before us.
func (tx *Tx) CloseSpan(server string, room event.RoomID, last int64) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	n, err := tx.execN(`UPDATE span SET last = ? WHERE server = ? AND room = ? AND last IS NULL`, last, server, nid)
	if err != nil || n > 0 {
		return err
	}
	return tx.exec(`INSERT OR IGNORE INTO span (server, room, first, last) VALUES (?, ?, 0, ?)`, server, nid, last)
}

// Spans lists the stays of a server in a room, oldest first. None means that it was in the room before us.
func (r *Read) Spans(server string, room event.RoomID) ([]Span, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	var out []Span
	err = r.each(`SELECT first, coalesce(last, 0) FROM span WHERE server = ? AND room = ? ORDER BY first`, args(server, nid), func(row *Row) error {
		var s Span
		if err := row.Scan(&s.First, &s.Last); err != nil {
			return err
		}
		out = append(out, s)
		return nil
	})
	return out, err
}

// SetPeerKept moves a peer's cursor in a log. down allows it to move back, which only the peer's own greeting may do.
func (tx *Tx) SetPeerKept(box string, log int64, kept uint64, down bool) error {
	n, err := tx.boxN(box)
	if err != nil {
		return err
	}
	return tx.exec(`INSERT INTO peer_kept (box, log, kept) VALUES (?1, ?2, ?3)
		ON CONFLICT (box, log) DO UPDATE SET kept = excluded.kept WHERE ?4 OR kept < excluded.kept`, n, log, kept, down)
}

// EDUsKept says up to which number the EDUs of a peer's epoch have had their effect here.
func (r *Read) EDUsKept(box string, epoch uint32) (uint64, error) {
	var kept int64
	_, err := r.one(`SELECT i.kept FROM edu_in i JOIN box b ON b.n = i.box WHERE b.id = ? AND i.epoch = ?`, args(box, epoch), &kept)
	return uint64(kept), err
}

// EDUEpochs tells how far the EDUs of each epoch of a peer have had their effect; mostly there is one.
func (r *Read) EDUEpochs(box string, f func(epoch uint32, kept uint64)) error {
	return r.each(`SELECT i.epoch, i.kept FROM edu_in i JOIN box b ON b.n = i.box WHERE b.id = ?`, args(box), func(row *Row) error {
		var epoch uint32
		var kept int64
		if err := row.Scan(&epoch, &kept); err != nil {
			return err
		}
		f(epoch, uint64(kept))
		return nil
	})
}

// Boxes lists the ids of all boxes that were ever heard of.
func (r *Read) Boxes() ([]string, error) {
	var out []string
	err := r.each(`SELECT id FROM box ORDER BY n`, nil, func(row *Row) error {
		var s string
		err := row.Scan(&s)
		out = append(out, s)
		return err
	})
	return out, err
}

// KeepEDUs notes that the EDUs of a peer's epoch up to a number have had their effect. It says whether that is news:
// false means that they were taken before.
func (tx *Tx) KeepEDUs(box string, epoch uint32, upTo uint64) (bool, error) {
	b, err := tx.boxN(box)
	if err != nil {
		return false, err
	}
	n, err := tx.execN(`INSERT INTO edu_in (box, epoch, kept) VALUES (?1, ?2, ?3)
		ON CONFLICT (box, epoch) DO UPDATE SET kept = excluded.kept WHERE kept < excluded.kept`, b, epoch, upTo)
	return n > 0, err
}

// Queued counts the events of this box's own logs, in rooms where the server is now, that the box has not said it keeps. It
// counts no further than most.
func (r *Read) Queued(server, box string, most int) (n int, err error) {
	_, err = r.one(`SELECT count(*) FROM (SELECT 1 FROM span s
		JOIN log l ON l.room = s.room AND l.box = (SELECT box FROM exchange_self)
		JOIN log_entry e ON e.log = l.n AND e.event > s.first
		LEFT JOIN peer_kept k ON k.log = l.n AND k.box = (SELECT n FROM box WHERE id = ?)
		WHERE s.server = ? AND s.last IS NULL AND e.seq > coalesce(k.kept, 0) LIMIT ?)`, args(box, server, most), &n)
	return n, err
}
