// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"encoding/json"
	"fmt"

	"hallig/appliance/event"
)

// This file removes rooms that are copies of what others have. A box never does: what is in its log stays.

// Weight is what a room takes: events, with those that are known by name only, and the bytes of their JSON as they are kept.
type Weight struct{ Events, Bytes int64 }

// Weights adds up what rooms have among the events that are numbered from..to-1.
func (r *Read) Weights(from, to int64, add func(event.RoomID, Weight)) error {
	return r.each(`SELECT r.id, count(*), sum(length(e.json)) FROM event e JOIN room r ON r.nid=e.room WHERE e.nid>=? AND e.nid<? GROUP BY e.room`, args(from, to), func(row *Row) error {
		var id string
		var w Weight
		err := row.Scan(&id, &w.Events, &w.Bytes)
		if err == nil {
			add(event.RoomID(id), w)
		}
		return err
	})
}

// LastNumbers gives the highest number of an event and of a state group that was ever given.
func (r *Read) LastNumbers() (events, groups int64, err error) {
	for table, n := range map[string]*int64{"event": &events, "sgroup": &groups} {
		if _, err = r.one(`SELECT max(coalesce((SELECT max(nid) FROM `+table+`), 0), coalesce((SELECT value FROM meta WHERE name='swept_`+table+`'), 0))`, nil, n); err != nil {
			break
		}
	}
	return events, groups, err
}

// Size is how many bytes of the database file hold something.
func (r *Read) Size() (n int64, err error) {
	_, err = r.one(`SELECT (SELECT page_count FROM pragma_page_count()) * (SELECT page_size FROM pragma_page_size()) - (SELECT freelist_count FROM pragma_freelist_count()) * (SELECT page_size FROM pragma_page_size())`, nil, &n)
	return n, err
}

// StagedCounts says how many events wait for their ancestors, by room.
func (r *Read) StagedCounts() (map[event.RoomID]int, error) {
	out := map[event.RoomID]int{}
	err := r.each(`SELECT room, count(*) FROM fed_in GROUP BY room`, nil, func(row *Row) error {
		var id string
		var n int
		err := row.Scan(&id, &n)
		out[event.RoomID(id)] = n
		return err
	})
	return out, err
}

// DropRoom makes a room one that is not held: without state, ends, members, and what waits for it. Its events and states are left to Sweep.
func (tx *Tx) DropRoom(room event.RoomID) error {
	nid, err := tx.findRoom(room)
	if nid == 0 || err != nil {
		return err
	}
	for _, table := range []string{"gap", "state_log", "member", "stripped", "auth_wait", "unsure", "early", "partial", "partial_server", "fed_owed"} {
		if err := tx.exec(`DELETE FROM `+table+` WHERE room=?`, nid); err != nil {
			return err
		}
	}
	if err := tx.exec(`UPDATE room SET cur=0, tips=NULL WHERE nid=?`, nid); err != nil {
		return err
	}
	tx.TouchRoom(room)
	return tx.UnstageRoom(room)
}

// Sweep deletes the events and states of dropped rooms that are numbered from..to-1. Their numbers are not given again.
func (tx *Tx) Sweep(rooms []event.RoomID, from, to int64) error {
	raw, err := json.Marshal(rooms)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	events, groups, err := tx.LastNumbers()
	if err != nil {
		return err
	}
	if err := tx.exec(`INSERT OR REPLACE INTO meta (name, value) VALUES ('swept_event', ?), ('swept_sgroup', ?)`, events, groups); err != nil {
		return err
	}
	const these = `nid>=?1 AND nid<?2 AND room IN (SELECT r.nid FROM json_each(?3) j JOIN room r ON r.id=j.value WHERE r.cur=0)`
	for _, sql := range []string{
		`DELETE FROM redaction_wait WHERE redaction IN (SELECT nid FROM event WHERE ` + these + `)`,
		`DELETE FROM event WHERE ` + these,
		`DELETE FROM sgroup WHERE ` + these,
	} {
		if err := tx.exec(sql, from, to, string(raw)); err != nil {
			return err
		}
	}
	tx.db.written = nil // it names events that are gone
	return nil
}
