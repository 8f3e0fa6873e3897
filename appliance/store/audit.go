// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"fmt"

	"hallig/appliance/event"
)

// EachPlace goes through the places of a log from 1 up to upTo that are filled, in order. n is the event's number, 0 for a place that
// we are done with without having an event; id is "" when we have no event there, also when we should.
func (r *Read) EachPlace(log int64, upTo uint64, f func(seq uint64, n int64, id event.ID) error) error {
	return r.each(`SELECT e.seq, e.event, v.id FROM log_entry e LEFT JOIN event v ON v.nid = e.event WHERE e.log = ? AND e.seq <= ? ORDER BY e.seq`,
		args(log, upTo), func(row *Row) error {
			var seq, n int64
			var raw []byte
			if err := row.Scan(&seq, &n, &raw); err != nil {
				return err
			}
			var id event.ID
			if len(raw) > 0 {
				id = idText(raw)
			}
			return f(uint64(seq), n, id)
		})
}

// OwnerMark is MarkEntry by the word of the log's own box: it also takes a place from the event that somebody else has put there. That
// event gets a place in our own log where it has no other.
func (tx *Tx) OwnerMark(room event.RoomID, box string, epoch uint32, seq, gap uint64, nid int64) (kept uint64, err error) {
	n, err := tx.namedLog(room, box, epoch, true)
	if err != nil {
		return 0, err
	}
	var was int64 // mostly there is none: looked for first
	found, err := tx.one(`SELECT event FROM log_entry WHERE log = ? AND seq = ?`, args(n, seq), &was)
	if err != nil {
		return 0, err
	}
	if found && nid != 0 && was != 0 && was != nid {
		l, ok, err := tx.LogOf(room, box, epoch)
		if err != nil {
			return 0, err
		}
		if ok && !l.Own {
			if err := tx.exec(`UPDATE log_entry SET event = ? WHERE log = ? AND seq = ?`, nid, l.N, seq); err != nil {
				return 0, fmt.Errorf("correct log entry: %w", err)
			}
			if err := tx.place(room, was); err != nil {
				return 0, err
			}
		}
	}
	return tx.markEntry(n, room, seq, gap, nid)
}

// place gives an event a place in our own log if it stands in none of the room's logs.
func (tx *Tx) place(room event.RoomID, nid int64) error {
	n, err := tx.Places(room, nid)
	if n > 0 || err != nil {
		return err
	}
	if row, err := tx.EventByNID(nid); row == nil || err != nil {
		return err
	}
	_, err = tx.NumberEvent(room, nid)
	return err
}

// SecondPlace gives an event a place in our own log when the place that its giver named is another event's: otherwise it would go on to
// nobody.
func (tx *Tx) SecondPlace(room event.RoomID, box string, epoch uint32, seq uint64, nid int64) error {
	var there int64
	l, ok, err := tx.LogOf(room, box, epoch)
	if err != nil {
		return err
	}
	if ok {
		if _, err := tx.one(`SELECT event FROM log_entry WHERE log = ? AND seq = ?`, args(l.N, seq), &there); err != nil {
			return err
		}
	}
	if there == nid {
		return nil
	}
	return tx.place(room, nid)
}
