// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"errors"
	"fmt"

	"hallig/appliance/event"
)

// Notice is a text that came ahead of its signature: what a paired box says that one of its users wrote. Box, Epoch and Seq are the place of the log that its
// event will have.
type Notice struct {
	Room    event.RoomID
	Box     string
	Epoch   uint32
	Seq     uint64
	Sender  event.UserID
	TS      int64
	Content []byte
	Since   int64 // ms, when it came
	Expired bool  // its event is long overdue
}

// PutNotice keeps a notice, unless the place has its event or a notice, or the box has most notices or too many logs already; it says whether it is new.
func (tx *Tx) PutNotice(n Notice, most int) (bool, error) {
	log, err := tx.namedLog(n.Room, n.Box, n.Epoch, true)
	if errors.Is(err, ErrManyLogs) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var there, open int
	if _, err := tx.one(`SELECT (SELECT count(*) FROM log_entry WHERE log = ?1 AND seq = ?2) + (SELECT count(*) FROM notice WHERE log = ?1 AND seq = ?2),
		(SELECT count(*) FROM notice n JOIN log l ON l.n = n.log WHERE l.box = (SELECT box FROM log WHERE n = ?1))`, args(log, n.Seq), &there, &open); err != nil {
		return false, fmt.Errorf("look for notice: %w", err)
	}
	if there > 0 || open >= most {
		return false, nil
	}
	if err := tx.exec(`INSERT INTO notice (log, seq, sender, ts, content, since) VALUES (?, ?, ?, ?, ?, ?)`, log, n.Seq, string(n.Sender), n.TS, n.Content, n.Since); err != nil {
		return false, fmt.Errorf("keep notice: %w", err)
	}
	return true, tx.noticesChanged(n.Room)
}

func (tx *Tx) noticesChanged(room event.RoomID) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	tx.TouchRoom(room)
	return tx.exec(`INSERT OR REPLACE INTO notice_change (room, pos) VALUES (?, ?)`, nid, tx.NextPos())
}

// settleNotice takes the notice of a place away, whose event has come or will not come.
func (tx *Tx) settleNotice(room event.RoomID, log int64, seq uint64) error {
	var one int
	found, err := tx.one(`DELETE FROM notice WHERE log = ? AND seq = ? RETURNING 1`, args(log, seq), &one)
	if !found || err != nil {
		return err
	}
	return tx.noticesChanged(room)
}

const noticeSelect = `SELECT l.room, b.id, l.epoch, n.seq, n.sender, n.ts, n.content, n.since, n.expired
	FROM notice n JOIN log l ON l.n = n.log JOIN box b ON b.n = l.box `

func (r *Read) notices(where string, a ...any) (out []Notice, err error) {
	err = r.each(noticeSelect+where, a, func(row *Row) error {
		var n Notice
		var room, seq, expired int64
		var sender string
		err := row.Scan(&room, &n.Box, &n.Epoch, &seq, &sender, &n.TS, &n.Content, &n.Since, &expired)
		if err != nil {
			return err
		}
		n.Seq, n.Sender, n.Expired = uint64(seq), event.UserID(sender), expired != 0
		n.Room, err = r.roomText(room)
		out = append(out, n)
		return err
	})
	return out, err
}

// Notices lists the notices of a room in the order in which they came.
func (r *Read) Notices(room event.RoomID) ([]Notice, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	return r.notices(`WHERE l.room = ? ORDER BY n.since, n.log, n.seq`, nid)
}

// NoticeRooms lists the rooms that have notices whose event is not overdue.
func (r *Read) NoticeRooms() (map[event.RoomID]bool, error) {
	live, err := r.notices(`WHERE n.expired = 0`)
	if err != nil {
		return nil, fmt.Errorf("look for rooms with notices: %w", err)
	}
	out := make(map[event.RoomID]bool, len(live))
	for _, n := range live {
		out[n.Room] = true
	}
	return out, nil
}

// NoticesChanged is the stream position at which a room's notices changed last, 0 when it never had any.
func (r *Read) NoticesChanged(room event.RoomID) (pos int64, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return 0, err
	}
	_, err = r.one(`SELECT pos FROM notice_change WHERE room = ?`, args(nid), &pos)
	return pos, err
}

// OverdueNotices says whether ExpireNotices would change anything.
func (r *Read) OverdueNotices(overdue, gone int64) (yes bool, err error) {
	var one int
	return r.one(`SELECT 1 FROM notice WHERE since < ?1 AND expired = 0 OR since < ?2 LIMIT 1`, args(overdue, gone), &one)
}

// ExpireNotices marks notices that came before overdue (ms) and forgets those that came before gone.
func (tx *Tx) ExpireNotices(overdue, gone int64) error {
	late, err := tx.notices(`WHERE n.since < ?1 AND n.expired = 0 OR n.since < ?2`, overdue, gone)
	if err != nil {
		return fmt.Errorf("look for overdue notices: %w", err)
	}
	rooms := map[event.RoomID]bool{}
	for _, n := range late {
		rooms[n.Room] = true
	}
	if err := tx.exec(`DELETE FROM notice WHERE since < ?`, gone); err != nil {
		return fmt.Errorf("forget notices: %w", err)
	}
	if err := tx.exec(`UPDATE notice SET expired = 1 WHERE since < ? AND expired = 0`, overdue); err != nil {
		return fmt.Errorf("mark overdue notices: %w", err)
	}
	for room := range rooms {
		if err := tx.noticesChanged(room); err != nil {
			return err
		}
	}
	return nil
}
