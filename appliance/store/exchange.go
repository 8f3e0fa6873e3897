// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"hallig/appliance/event"
)

// Log is one numbering of one room's events: that of Box in Epoch. Top is how far we are done with it without holes;
// of our own log, the number given out last.
type Log struct {
	N     int64
	Room  event.RoomID
	Box   string
	Epoch uint32
	Own   bool
	Top   uint64
}

// LogEntry is one place of a log. Event is the event's number here, 0 when we are done with the place without having
// the event. Gap counts the numbers before Seq that are not for this box.
type LogEntry struct {
	Seq   uint64
	Event int64
	Gap   uint64
}

// PeerRow is a paired box; Record is what sync/peer wrote about it.
type PeerRow struct {
	Box    string
	Server string
	Record []byte
}

func (tx *Tx) boxN(id string) (int64, error) {
	var n int64
	if ok, err := tx.one(`SELECT n FROM box WHERE id = ?`, args(id), &n); ok || err != nil {
		return n, err
	}
	_, err := tx.one(`INSERT INTO box (id) VALUES (?) RETURNING n`, args(id), &n)
	return n, err
}

// OpenExchange says who this box is and gives the epoch of its logs: the stored one, or draw when there is none yet or
// the data directory has come from another box.
func (tx *Tx) OpenExchange(box string, draw uint32) (epoch uint32, err error) {
	n, err := tx.boxN(box)
	if err != nil {
		return 0, fmt.Errorf("open exchange: %w", err)
	}
	if ok, err := tx.one(`SELECT epoch FROM exchange_self WHERE box = ?`, args(n), &epoch); ok || err != nil {
		return epoch, err
	}
	clear(tx.db.ownLogs)
	return draw, tx.exec(`INSERT OR REPLACE INTO exchange_self (one, box, epoch) VALUES (1, ?, ?)`, n, draw)
}

// NewEpoch begins new logs and a new numbering of EDUs: to be called after every restore, because numbers may have been
// given away since the backup was made.
func (tx *Tx) NewEpoch(draw uint32) error {
	clear(tx.db.ownLogs)
	// What was our own log is one like others' from now on, and those say in kept how far they go. Peers may know more of it than we.
	err := tx.exec(`UPDATE log SET kept = coalesce((SELECT max(e.seq) FROM log_entry e WHERE e.log = log.n), 0)
		FROM exchange_self s WHERE s.box = log.box AND s.epoch = log.epoch`)
	if err != nil {
		return fmt.Errorf("close the logs of the old epoch: %w", err)
	}
	return tx.exec(`UPDATE exchange_self SET epoch = ?`, draw)
}

// UnprovenEpochs counts the epochs that were begun by somebody's word alone.
func (r *Read) UnprovenEpochs() (n int, err error) {
	_, err = r.one(`SELECT unproven FROM exchange_claim`, nil, &n)
	return n, err
}

// SetUnprovenEpochs sets what UnprovenEpochs gives.
func (tx *Tx) SetUnprovenEpochs(n int) error {
	return tx.exec(`INSERT OR REPLACE INTO exchange_claim (one, unproven) VALUES (1, ?)`, n)
}

// PutPeer stores a paired box in place of an older entry of the same box or the same server name.
func (tx *Tx) PutPeer(box, server string, record []byte) error {
	n, err := tx.boxN(box)
	if err != nil {
		return err
	}
	if err := tx.exec(`DELETE FROM peer WHERE box = ? OR server = ?`, n, server); err != nil {
		return err
	}
	return tx.exec(`INSERT INTO peer (box, server, record) VALUES (?, ?, ?)`, n, server, record)
}

// DeletePeer forgets that a box is paired. What its logs brought stays.
func (tx *Tx) DeletePeer(box string) error {
	if err := tx.exec(`DELETE FROM peer_address WHERE box = (SELECT n FROM box WHERE id = ?)`, box); err != nil {
		return err
	}
	return tx.exec(`DELETE FROM peer WHERE box = (SELECT n FROM box WHERE id = ?)`, box)
}

// SetPeerAddress notes where a paired box was reached.
func (tx *Tx) SetPeerAddress(box, address string) error {
	return tx.exec(`INSERT OR REPLACE INTO peer_address (box, address) SELECT n, ?2 FROM box WHERE id = ?1`, box, address)
}

// PeerAddresses lists where paired boxes were reached last.
func (r *Read) PeerAddresses() (out []string, err error) {
	err = r.each(`SELECT a.address FROM peer_address a JOIN peer p ON p.box = a.box ORDER BY a.box`, nil, func(row *Row) error {
		var s string
		err := row.Scan(&s)
		out = append(out, s)
		return err
	})
	return out, err
}

// Peers lists the paired boxes.
func (r *Read) Peers() ([]PeerRow, error) {
	var out []PeerRow
	err := r.each(`SELECT b.id, p.server, p.record FROM peer p JOIN box b ON b.n = p.box ORDER BY b.id`, nil, func(row *Row) error {
		var p PeerRow
		if err := row.Scan(&p.Box, &p.Server, &p.Record); err != nil {
			return err
		}
		out = append(out, p)
		return nil
	})
	return out, err
}

const selectLogs = `SELECT l.n, l.room, b.id, l.epoch, s.one IS NOT NULL,
	CASE WHEN s.one IS NULL THEN l.kept ELSE coalesce((SELECT max(e.seq) FROM log_entry e WHERE e.log = l.n), 0) END
	FROM log l JOIN box b ON b.n = l.box LEFT JOIN exchange_self s ON s.box = l.box AND s.epoch = l.epoch `

func (r *Read) logs(where string, a ...any) ([]Log, error) {
	var out []Log
	err := r.each(selectLogs+where, a, func(row *Row) error {
		var l Log
		var room, top int64
		if err := row.Scan(&l.N, &room, &l.Box, &l.Epoch, &l.Own, &top); err != nil {
			return err
		}
		l.Top = uint64(top)
		var err error
		if l.Room, err = r.roomText(room); err != nil {
			return err
		}
		out = append(out, l)
		return nil
	})
	return out, err
}

// Logs lists the logs of a room, our own first, then the others in the order in which we heard of them.
func (r *Read) Logs(room event.RoomID) ([]Log, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	return r.logs(`WHERE l.room = ? ORDER BY s.one IS NULL, l.n`, nid)
}

// LogOf finds one log; false when we never heard of it.
func (r *Read) LogOf(room event.RoomID, box string, epoch uint32) (Log, bool, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return Log{}, false, err
	}
	l, err := r.logs(`WHERE l.room = ? AND b.id = ? AND l.epoch = ?`, nid, box, epoch)
	if err != nil || len(l) == 0 {
		return Log{}, false, err
	}
	return l[0], true, nil
}

func (tx *Tx) findLog(room event.RoomID, box string, epoch uint32) (roomN, boxN, n int64, err error) {
	if roomN, err = tx.roomNID(room, ""); err != nil {
		return 0, 0, 0, err
	}
	if _, err = tx.one(`SELECT n FROM box WHERE id = ?`, args(box), &boxN); boxN == 0 || err != nil {
		return roomN, 0, 0, err
	}
	_, err = tx.one(`SELECT n FROM log WHERE room = ? AND box = ? AND epoch = ?`, args(roomN, boxN, epoch), &n)
	return roomN, boxN, n, err
}

// logN finds or makes a log. What others name goes through namedLog.
func (tx *Tx) logN(room event.RoomID, box string, epoch uint32) (int64, error) {
	roomN, _, n, err := tx.findLog(room, box, epoch)
	if n != 0 || err != nil {
		return n, err
	}
	b, err := tx.boxN(box)
	if err != nil {
		return 0, err
	}
	_, err = tx.one(`INSERT INTO log (room, box, epoch) VALUES (?, ?, ?) RETURNING n`, args(roomN, b, epoch), &n)
	return n, err
}

// How many logs of a room others can make this box remember: each of them stands in all its greetings from then on. A box begins a new one after a restore.
const (
	maxNamed   = 256 // in a room, as far as somebody else than their box names them
	maxHearsay = 8   // of one box, the same
	maxOwned   = 32  // of one box, as far as it says so itself: what others say of it never keeps it from that
)

// ErrManyLogs says that a log is one more than this box remembers of a room: its events are taken in, its numbers are not.
var ErrManyLogs = errors.New("more logs of a room are named than a box remembers")

// namedLog finds a log that somebody names, or makes it, within bounds; byOwner says that its own box does.
func (tx *Tx) namedLog(room event.RoomID, box string, epoch uint32, byOwner bool) (int64, error) {
	roomN, b, n, err := tx.findLog(room, box, epoch)
	if n != 0 || err != nil {
		return n, err
	}
	var ofBox, ofRoom int
	if _, err := tx.one(`SELECT count(*) FILTER (WHERE box = ?2), count(*) FROM log WHERE room = ?1`, args(roomN, b), &ofBox, &ofRoom); err != nil {
		return 0, fmt.Errorf("count logs: %w", err)
	}
	if byOwner && ofBox >= maxOwned || !byOwner && (ofBox >= maxHearsay || ofRoom >= maxNamed) {
		tx.db.logsRefused.Add(1)
		if now := time.Now(); now.Sub(tx.db.logsRefusedAt) > time.Hour {
			tx.db.logsRefusedAt = now
			tx.db.log.Warn("a paired box names more logs of a room than there can be; their events are taken in, their numbers are not", "room", room, "box", box, "by_itself", byOwner, "of_the_box", ofBox, "of_the_room", ofRoom)
		}
		return 0, ErrManyLogs
	}
	return tx.logN(room, box, epoch)
}

// NumberEvent puts an event that this box takes in first into its own log of the room and gives its number there; 0
// before OpenExchange.
func (tx *Tx) NumberEvent(room event.RoomID, nid int64) (seq uint64, err error) {
	own := tx.db.ownLogs[room]
	if own == nil {
		if own, err = tx.ownLog(room); own == nil || err != nil {
			return 0, err
		}
		if len(tx.db.ownLogs) >= maxOwnLogs {
			clear(tx.db.ownLogs)
		}
		tx.db.ownLogs[room] = own
	}
	if err := tx.exec(`INSERT INTO log_entry (log, seq, event) VALUES (?, ?, ?)`, own.n, own.last+1, nid); err != nil {
		return 0, fmt.Errorf("number event: %w", err)
	}
	own.last++
	return uint64(own.last), nil
}

// ownLog is a log of this box and its last number: what the writer remembers of it.
type ownLog struct{ n, last int64 }

// maxOwnLogs bounds how many the writer remembers.
const maxOwnLogs = 1 << 10

// ownLog finds or makes this box's log of a room; nil before OpenExchange.
func (tx *Tx) ownLog(room event.RoomID) (*ownLog, error) {
	var epoch uint32
	var self string
	ok, err := tx.one(`SELECT b.id, s.epoch FROM exchange_self s JOIN box b ON b.n = s.box`, nil, &self, &epoch)
	if !ok || err != nil {
		return nil, err
	}
	var own ownLog
	if own.n, err = tx.logN(room, self, epoch); err != nil {
		return nil, err
	}
	_, err = tx.one(`SELECT coalesce(max(seq), 0) FROM log_entry WHERE log = ?`, args(own.n), &own.last)
	return &own, err
}

// MarkEntry notes that this box is done with a place of another box's log: it has the event (nid) or has refused it for
// good (nid 0). gap says how many numbers before seq the giver declared to be not for us. It gives how far we are now. ErrManyLogs changes nothing.
func (tx *Tx) MarkEntry(room event.RoomID, box string, epoch uint32, seq, gap uint64, nid int64) (kept uint64, err error) {
	log, err := tx.namedLog(room, box, epoch, false)
	if err != nil {
		return 0, err
	}
	return tx.markEntry(log, room, seq, gap, nid)
}

func (tx *Tx) markEntry(log int64, room event.RoomID, seq, gap uint64, nid int64) (kept uint64, err error) {
	own, err := tx.isOwn(log)
	if err != nil {
		return 0, err
	}
	if own { // Nobody numbers for us; a place whose event we have lost may get it back.
		return 0, tx.exec(`UPDATE log_entry SET event = ?3 WHERE log = ?1 AND seq = ?2 AND ?3 <> 0 AND `+lostEvent, log, seq, nid)
	}
	if seq > MaxSeq {
		return 0, fmt.Errorf("mark log entry: no log is as long as %d", seq)
	}
	// A place is filled once; only an entry whose event we have not got may still get one, and a gap may become known later.
	if err := tx.exec(`INSERT INTO log_entry (log, seq, event, gap) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (log, seq) DO UPDATE
		SET event = CASE WHEN event = 0 OR excluded.event <> 0 AND `+lostEvent+` THEN excluded.event ELSE event END, gap = max(gap, excluded.gap)`, log, seq, nid, gap); err != nil {
		return 0, fmt.Errorf("mark log entry: %w", err)
	}
	if err := tx.settleNotice(room, log, seq); err != nil {
		return 0, err
	}
	return tx.raiseKept(log)
}

// MaxSeq is the highest number that a log may have: higher ones are lies.
const MaxSeq = 1 << 40

// lostEvent is true of an entry whose event's row is gone.
const lostEvent = `NOT EXISTS (SELECT 1 FROM event v WHERE v.nid = log_entry.event)`

// isOwn says whether a log is the one that this box numbers now.
func (tx *Tx) isOwn(log int64) (bool, error) {
	var one int
	return tx.one(`SELECT 1 FROM log l JOIN exchange_self s ON s.box = l.box AND s.epoch = l.epoch WHERE l.n = ?`, args(log), &one)
}

// raiseKept moves a log's kept up over entries without holes.
func (tx *Tx) raiseKept(log int64) (uint64, error) {
	var old int64
	if _, err := tx.one(`SELECT kept FROM log WHERE n = ?`, args(log), &old); err != nil {
		return 0, err
	}
	kept := old
	err := tx.each(`SELECT seq, gap FROM log_entry WHERE log = ? AND seq > ? ORDER BY seq`, args(log, old), func(row *Row) error {
		var seq, gap int64
		if err := row.Scan(&seq, &gap); err != nil {
			return err
		}
		if seq-gap-1 > kept {
			return errStop
		}
		kept = seq
		return nil
	})
	if err != nil || kept == old {
		return uint64(old), err
	}
	return uint64(kept), tx.exec(`UPDATE log SET kept = ? WHERE n = ?`, kept, log)
}

// LogEntries lists a log's places after a number, in order.
func (r *Read) LogEntries(log int64, after uint64, limit int) ([]LogEntry, error) {
	var out []LogEntry
	err := r.each(`SELECT seq, event, gap FROM log_entry WHERE log = ? AND seq > ? ORDER BY seq LIMIT ?`, args(log, after, limit), func(row *Row) error {
		var e LogEntry
		var seq, gap int64
		if err := row.Scan(&seq, &e.Event, &gap); err != nil {
			return err
		}
		e.Seq, e.Gap = uint64(seq), uint64(gap)
		out = append(out, e)
		return nil
	})
	return out, err
}

// DueRooms lists the rooms whose log entries may be due to a server: those it is in, and those it was in.
func (r *Read) DueRooms(server string) ([]event.RoomID, error) {
	return r.rooms(`SELECT DISTINCT m.room FROM member m JOIN usr u ON u.nid = m.usr JOIN server s ON s.nid = u.server
		WHERE s.name = ?1 AND m.membership = 2 UNION SELECT room FROM span WHERE server = ?1 ORDER BY 1`, server)
}

func (r *Read) rooms(sql string, a ...any) ([]event.RoomID, error) {
	var nids []int64
	if err := r.each(sql, a, func(row *Row) error {
		var n int64
		err := row.Scan(&n)
		nids = append(nids, n)
		return err
	}); err != nil {
		return nil, err
	}
	out := make([]event.RoomID, 0, len(nids))
	for _, n := range nids {
		id, err := r.roomText(n)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, nil
}

// JoinedOf counts the joined members a server has in a room.
func (r *Read) JoinedOf(room event.RoomID, server string) (int, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return 0, err
	}
	var n int
	_, err = r.one(`SELECT count(*) FROM member m JOIN usr u ON u.nid = m.usr JOIN server s ON s.nid = u.server
		WHERE m.room = ? AND s.name = ? AND m.membership = 2`, args(nid, server), &n)
	return n, err
}

// HasEntry says whether a place of a log is filled with an event; nid 0: with whatever it may be.
func (r *Read) HasEntry(room event.RoomID, box string, epoch uint32, seq uint64, nid int64) (bool, error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return false, err
	}
	var one int
	return r.one(`SELECT 1 FROM log_entry e JOIN log l ON l.n = e.log JOIN box b ON b.n = l.box
		WHERE l.room = ?1 AND b.id = ?2 AND l.epoch = ?3 AND e.seq = ?4 AND ?5 IN (0, e.event)`, args(rn, box, epoch, seq, nid), &one)
}

// Places says in how many places of the logs of its room an event stands.
func (r *Read) Places(room event.RoomID, nid int64) (n int, err error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return 0, err
	}
	_, err = r.one(`SELECT count(*) FROM log l JOIN log_entry e ON e.log = l.n WHERE l.room = ? AND e.event = ?`, args(rn, nid), &n)
	return n, err
}

// EventByShort finds an event of a room by the first eight bytes of its id's hash; 0 when we do not have it for good.
func (r *Read) EventByShort(room event.RoomID, short [8]byte) (nid int64, err error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return 0, err
	}
	_, err = r.one(`SELECT nid FROM event WHERE substr(id, 1, 8) = ? AND room = ? AND flags & ? = 0`, args(short[:], rn, Outlier), &nid)
	return nid, err
}

// ChildOfGaps finds an event of ours whose prev events are exactly the given ones, all of which we lack; "" if there is
// none. The state before it is the state after them.
func (r *Read) ChildOfGaps(room event.RoomID, prev []event.ID) (event.ID, error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil || len(prev) == 0 {
		return "", err
	}
	var children []int64
	if err := r.each(`SELECT child FROM gap WHERE room = ? AND id = ?`, args(rn, idBytes(prev[0])), func(row *Row) error {
		var n int64
		err := row.Scan(&n)
		children = append(children, n)
		return err
	}); err != nil {
		return "", err
	}
	for _, n := range children {
		e, err := r.EventByNID(n)
		if err != nil {
			return "", err
		}
		if e == nil {
			continue
		}
		var body struct {
			Prev []event.ID `json:"prev_events"`
		}
		if json.Unmarshal(e.JSON, &body) == nil && sameIDs(body.Prev, prev) {
			return e.ID, nil
		}
	}
	return "", nil
}

func sameIDs(a, b []event.ID) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// OwnPlace is an event's number in this box's own log, in which events stand in the order of their numbers; 0 when it is not there.
func (r *Read) OwnPlace(log Log, nid int64) (seq uint64, err error) {
	for lo, hi := uint64(1), log.Top; lo <= hi && lo > 0; {
		half := lo + (hi-lo)/2
		var at int64
		if there, err := r.one(`SELECT event FROM log_entry WHERE log = ? AND seq = ?`, args(log.N, half), &at); err != nil || !there {
			return 0, err
		}
		switch {
		case at == nid:
			return half, nil
		case at < nid:
			lo = half + 1
		default:
			hi = half - 1
		}
	}
	return 0, nil
}

// PlaceOf is an event's number in a log; 0 when it has none. Events come into a log in the order of their numbers, so the place is near its end for a new event.
func (r *Read) PlaceOf(log, nid int64) (seq uint64, err error) {
	var n int64
	_, err = r.one(`SELECT seq FROM (SELECT seq, event FROM log_entry WHERE log = ? ORDER BY seq DESC LIMIT 256) WHERE event = ?`, args(log, nid), &n)
	return uint64(n), err
}
