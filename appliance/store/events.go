// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store/compact"
)

// Flags of an event's row.
type Flags uint32

const (
	Outlier    Flags = 1 << iota // known by name (auth chain, state elsewhere); its place in the graph and the state before it are not
	Rejected                     // the law refused it; kept so that it is not asked for again; never shown, never an authority
	SoftFailed                   // allowed where it stands in the graph, refused by the current state: not shown, but an ancestor of others
	Local                        // made by a user of this box
	Guessed                      // before is taken from a later neighbour (history): good enough to decide who may see it, not to be told to servers
	Redacted                     // json is the redacted form
)

// Event is one row with its names. Pos: 0 not in the timeline, > 0 stream position, < 0 history.
// Before and After are state groups (0 unknown); After is filled in for every event whose Before is known.
type Event struct {
	NID        int64
	ID         event.ID
	RoomNID    int64
	Room       event.RoomID
	Type       string
	Sender     event.UserID
	StateKey   *string
	Depth      int64
	TS         int64
	Pos        int64
	Before     int64
	After      int64
	Flags      Flags
	RedactedBy int64 // row of the redaction, 0 if none
	TxnDevice  string
	TxnID      string
	Reason     string
	JSON       []byte
}

// Is reports whether all the flags are set.
func (e *Event) Is(f Flags) bool { return e.Flags&f == f }

// idBytes is the stored form of an event id: the 32 bytes of the hash, or the text where that would not give the same text back (old room versions).
func idBytes(id event.ID) []byte {
	s := string(id)
	if len(s) == 44 && s[0] == '$' {
		var b [33]byte
		if n, err := base64.RawURLEncoding.Strict().Decode(b[:], []byte(s[1:])); err == nil && n == 32 {
			return b[:32]
		}
	}
	return []byte(s)
}

func idText(b []byte) event.ID {
	if len(b) != 32 {
		return event.ID(b)
	}
	var s [44]byte
	s[0] = '$'
	base64.RawURLEncoding.Encode(s[1:], b)
	return event.ID(s[:])
}

// eventColumns are what scanEvent reads. json is as package compact writes it: only scanEvent makes JSON of it.
const eventColumns = `nid, id, room, type, sender, skey, depth, ts, pos, before, after, flags, redacted, txn, reason, json`

func (r *Read) scanEvent(row *Row) (*Event, error) {
	var e Event
	var id []byte
	var typ, sender, skey int64
	var txn string
	if err := row.Scan(&e.NID, &id, &e.RoomNID, &typ, &sender, &skey, &e.Depth, &e.TS, &e.Pos, &e.Before, &e.After, &e.Flags, &e.RedactedBy, &txn, &e.Reason, &e.JSON); err != nil {
		return nil, err
	}
	e.ID = idText(id)
	var err error
	if e.Room, err = r.roomText(e.RoomNID); err != nil {
		return nil, err
	}
	if e.Sender, err = r.userText(sender); err != nil {
		return nil, err
	}
	t, err := r.db.names.byNID(kindType, typ)
	if err != nil {
		return nil, err
	}
	e.Type = t.text
	if skey != 0 {
		k, err := r.db.names.byNID(kindStateKey, skey)
		if err != nil {
			return nil, err
		}
		e.StateKey = &k.text
	}
	if e.After == 0 {
		e.After = e.Before
	}
	if txn != "" {
		e.TxnDevice, e.TxnID, _ = strings.Cut(txn, "\x00")
	}
	r.db.ids.put(e.NID, e.ID)
	return &e, r.unpack(&e)
}

func (r *Read) event(sql string, args ...any) (e *Event, err error) {
	err = r.each(sql, args, func(row *Row) error {
		if e, err = r.scanEvent(row); err != nil {
			return err
		}
		return errStop
	})
	return e, err
}

func (r *Read) events(sql string, args ...any) (es []*Event, err error) {
	err = r.each(sql, args, func(row *Row) error {
		e, err := r.scanEvent(row)
		es = append(es, e)
		return err
	})
	return es, err
}

// Event gives the row of an event id; nil when we do not have it.
func (r *Read) Event(id event.ID) (*Event, error) {
	b := idBytes(id)
	return r.event(`SELECT `+eventColumns+` FROM event WHERE substr(id, 1, 8)=substr(?1, 1, 8) AND id=?1`, b)
}

// EventBeginning gives the row of the one event whose id begins with these 5 bytes; nil when there is none, or several.
func (r *Read) EventBeginning(id [5]byte) (*Event, error) {
	low, high := make([]byte, 8), bytes.Repeat([]byte{0xff}, 8)
	copy(low, id[:])
	copy(high, id[:])
	es, err := r.events(`SELECT `+eventColumns+` FROM event WHERE substr(id, 1, 8) BETWEEN ? AND ? LIMIT 2`, low, high)
	if len(es) != 1 || err != nil {
		return nil, err
	}
	return es[0], nil
}

// EventByNID gives the row of a number; nil when there is none.
func (r *Read) EventByNID(nid int64) (*Event, error) {
	return r.event(`SELECT `+eventColumns+` FROM event WHERE nid=?`, nid)
}

// EventNID is the number of an event id; 0 when we do not have it.
func (r *Read) EventNID(id event.ID) (nid int64, err error) {
	_, err = r.one(`SELECT nid FROM event WHERE substr(id, 1, 8)=substr(?1, 1, 8) AND id=?1`, args(idBytes(id)), &nid)
	return nid, err
}

// EventFlags gives the number and flags of an event id; 0 when we do not have it.
func (r *Read) EventFlags(id event.ID) (nid int64, flags Flags, err error) {
	_, err = r.one(`SELECT nid, flags FROM event WHERE substr(id, 1, 8)=substr(?1, 1, 8) AND id=?1`, args(idBytes(id)), &nid, &flags)
	return nid, flags, err
}

// Authority gives the numbers of the events that an event names as those that authorise it, as far as we have them.
func (r *Read) Authority(nid int64) ([]int64, error) {
	var row []byte
	if found, err := r.one(`SELECT json FROM event WHERE nid=?`, args(nid), &row); !found || err != nil {
		return nil, err
	}
	nids, hashes, ok := compact.Authority(row, nid)
	if ok {
		for _, h := range hashes {
			n, err := r.EventNID(idText(h[:]))
			if err != nil {
				return nil, err
			}
			if n != 0 {
				nids = append(nids, n)
			}
		}
		return nids, nil
	}
	e, err := r.EventByNID(nid)
	if e == nil || err != nil {
		return nil, err
	}
	var named struct {
		Auth []event.ID `json:"auth_events"`
	}
	if err := json.Unmarshal(e.JSON, &named); err != nil {
		return nil, fmt.Errorf("read what authorises event %s: %w", e.ID, err)
	}
	for _, id := range named.Auth {
		n, err := r.EventNID(id)
		if err != nil {
			return nil, err
		}
		if n != 0 {
			nids = append(nids, n)
		}
	}
	return nids, nil
}

// EventID is the id of a number; "" when there is none.
func (r *Read) EventID(nid int64) (event.ID, error) {
	var b []byte
	found, err := r.one(`SELECT id FROM event WHERE nid=?`, args(nid), &b)
	if !found || err != nil {
		return "", err
	}
	return idText(b), nil
}

// RoomEventsBetween gives the room's shown events with after < Pos <= to, oldest first, or newest first if backwards; at most limit (0: all).
// History has negative positions: to page back to the first event we have, let after be MinPos.
func (r *Read) RoomEventsBetween(room event.RoomID, after, to int64, limit int, backwards bool) ([]*Event, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	if limit <= 0 {
		limit = -1
	}
	if backwards {
		return r.events(`SELECT `+eventColumns+` FROM event WHERE room=? AND pos>? AND pos<=? ORDER BY pos DESC LIMIT ?`, nid, after, to, limit)
	}
	return r.events(`SELECT `+eventColumns+` FROM event WHERE room=? AND pos>? AND pos<=? ORDER BY pos LIMIT ?`, nid, after, to, limit)
}

// EventsNear gives the room's shown events from a time on, nearest first: at or after ts, or at or before it if backwards; skip of them are left out.
func (r *Read) EventsNear(room event.RoomID, ts int64, skip, limit int, backwards bool) ([]*Event, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	if backwards {
		return r.events(`SELECT `+eventColumns+` FROM event WHERE room=? AND pos IS NOT NULL AND ts<=? ORDER BY ts DESC, pos DESC LIMIT ? OFFSET ?`, nid, ts, limit, skip)
	}
	return r.events(`SELECT `+eventColumns+` FROM event WHERE room=? AND pos IS NOT NULL AND ts>=? ORDER BY ts, pos LIMIT ? OFFSET ?`, nid, ts, limit, skip)
}

// MinPos is below every position of history.
const MinPos = -1 << 62

// HistoryPos is the position of an event that is fetched after later ones: it orders history by depth, before everything that came live.
func HistoryPos(depth, nid int64) int64 {
	depth = max(0, min(depth, 1<<40))
	return -1<<61 + depth<<20 + nid&(1<<20-1)
}

// LastPos is the position of the newest shown event of a room up to and including to; 0 when there is none.
func (r *Read) LastPos(room event.RoomID, to int64) (pos int64, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return 0, err
	}
	_, err = r.one(`SELECT pos FROM event WHERE room=? AND pos<=? AND pos IS NOT NULL ORDER BY pos DESC LIMIT 1`, args(nid, to), &pos)
	return pos, err
}

// Neighbour gives the nearest later event of the room whose state is known; nil when there is none.
func (r *Read) Neighbour(room event.RoomID, pos int64) (*Event, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	return r.event(`SELECT `+eventColumns+` FROM event WHERE room=? AND pos>? AND before<>0 ORDER BY pos LIMIT 1`, nid, pos)
}

// InsertEvent writes an event's row and the rows of the names in it. RoomNID is filled in. With replace the row with e.NID is written anew: an outlier
// that has found its place.
func (tx *Tx) InsertEvent(e *Event, replace bool) error {
	if e.NID == 0 {
		return errors.New("insert event: no number")
	}
	room, err := tx.roomNID(e.Room, "")
	if err != nil {
		return err
	}
	e.RoomNID = room
	sender, err := tx.userNID(e.Sender)
	if err != nil {
		return err
	}
	typ, err := tx.db.names.intern(kindType, e.Type, nil, "")
	if err != nil {
		return err
	}
	if err := tx.ensure(typ); err != nil {
		return err
	}
	var skey *int64
	if e.StateKey != nil {
		k, err := tx.db.names.intern(kindStateKey, *e.StateKey, typ, "")
		if err != nil {
			return err
		}
		if err := tx.ensure(k); err != nil {
			return err
		}
		skey = &k.nid
	}
	after := e.After
	if after == e.Before {
		after = 0 // read back as before
	}
	row, err := tx.packed(e, e.JSON)
	if err != nil {
		return err
	}
	verb := `INSERT`
	if replace {
		verb = `INSERT OR REPLACE`
	}
	err = tx.exec(verb+` INTO event (`+eventColumns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		e.NID, idBytes(e.ID), room, typ.nid, sender, skey, e.Depth, e.TS, orNull(e.Pos), e.Before, after, e.Flags, orNull(e.RedactedBy),
		txnColumn(e), textOrNull(e.Reason), row)
	if err == nil {
		tx.db.written.put(e.NID, e.ID)
	}
	return err
}

func orNull(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func txnColumn(e *Event) any {
	if e.TxnID == "" {
		return nil
	}
	return e.TxnDevice + "\x00" + e.TxnID
}

// Redact puts the redacted form in place of an event: what was removed is gone from the row.
func (tx *Tx) Redact(nid, by int64, json []byte) error {
	e, err := tx.EventByNID(nid)
	if err != nil {
		return err
	}
	if e == nil {
		return fmt.Errorf("redact event number %d: it is missing", nid)
	}
	row, err := tx.packed(e, json)
	if err != nil {
		return err
	}
	return tx.exec(`UPDATE event SET json=?, redacted=?, flags=flags|? WHERE nid=?`, row, by, Redacted, nid)
}

// AwaitRedaction remembers a redaction whose target is not here yet.
func (tx *Tx) AwaitRedaction(target event.ID, redaction int64) error {
	tx.db.redactionsWait.Store(true)
	return tx.exec(`INSERT OR IGNORE INTO redaction_wait (target, redaction) VALUES (?, ?)`, idBytes(target), redaction)
}

// WaitingRedactions lists the redactions that wait for an event, oldest first.
func (r *Read) WaitingRedactions(target event.ID) (nids []int64, err error) {
	if !r.db.redactionsWait.Load() {
		return nil, nil
	}
	err = r.each(`SELECT redaction FROM redaction_wait WHERE target=? ORDER BY redaction`, args(idBytes(target)), func(row *Row) error {
		var n int64
		err := row.Scan(&n)
		nids = append(nids, n)
		return err
	})
	return nids, err
}

// DropWaitingRedactions forgets them: they were looked at.
func (tx *Tx) DropWaitingRedactions(target event.ID) error {
	return tx.exec(`DELETE FROM redaction_wait WHERE target=?`, idBytes(target))
}

// AddGap notes that child names a prev event we do not have.
func (tx *Tx) AddGap(room event.RoomID, id event.ID, child int64) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	return tx.exec(`INSERT OR IGNORE INTO gap (room, id, child) VALUES (?, ?, ?)`, nid, idBytes(id), child)
}

// CloseGap notes that the event is here.
func (tx *Tx) CloseGap(room event.RoomID, id event.ID) error {
	nid, err := tx.findRoom(room)
	if nid == 0 || err != nil {
		return err
	}
	return tx.exec(`DELETE FROM gap WHERE room=? AND id=?`, nid, idBytes(id))
}

// Gaps lists the prev events we lack: the backward extremities.
func (r *Read) Gaps(room event.RoomID) ([]event.ID, error) {
	children, err := r.GapChildren(room)
	return slices.Sorted(maps.Keys(children)), err
}

// ChildrenOfGap gives the events that name a prev event we lack, or lacked until this transaction, in order of arrival.
func (r *Read) ChildrenOfGap(room event.RoomID, id event.ID) ([]*Event, error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	return r.events(`SELECT `+eventColumns+` FROM event WHERE nid IN (SELECT child FROM gap WHERE room=? AND id=?) ORDER BY nid`, nid, idBytes(id))
}

// CameEarly notes that an event which is being placed may have a lower number than its ancestors.
func (tx *Tx) CameEarly(room event.RoomID, child int64) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	return tx.exec(`INSERT OR IGNORE INTO early (event, room) VALUES (?, ?)`, child, nid)
}

// PlacedSince gives the events of a room whose place is known and that may descend from an event: all since it, since what is shown after it, and since what came
// early and may descend from it. Up to limit, in order of arrival.
func (r *Read) PlacedSince(e *Event, limit int) ([]*Event, error) {
	pos := e.Pos
	if pos <= 0 {
		pos = 1 << 62
	}
	from := e.NID
	if _, err := r.one(`SELECT min(?3, coalesce((SELECT min(t.event) FROM early t JOIN event e ON e.nid=t.event WHERE t.room=?1 AND e.depth>?2), ?3),
		coalesce((SELECT min(nid) FROM event WHERE room=?1 AND pos>?4), ?3))`, args(e.RoomNID, e.Depth, e.NID, pos), &from); err != nil {
		return nil, err
	}
	return r.events(`SELECT `+eventColumns+` FROM event WHERE nid>=? AND nid<>? AND room=? AND flags & ? = 0 ORDER BY nid LIMIT ?`,
		from, e.NID, e.RoomNID, Outlier|Guessed, limit)
}

// OutliersSince gives the events of a room that are known by name only and came after an event, up to limit, in order of arrival.
func (r *Read) OutliersSince(e *Event, limit int) ([]*Event, error) {
	return r.events(`SELECT `+eventColumns+` FROM event WHERE nid>? AND room=? AND flags & ? <> 0 ORDER BY nid LIMIT ?`, e.NID, e.RoomNID, Outlier, limit)
}

// AboveGaps gives the numbers of the events that name prev events we lack.
func (r *Read) AboveGaps(room event.RoomID) (nids map[int64]bool, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	err = r.each(`SELECT child FROM gap WHERE room=?`, args(nid), func(row *Row) error {
		var n int64
		if err := row.Scan(&n); err != nil {
			return err
		}
		if nids == nil {
			nids = make(map[int64]bool)
		}
		nids[n] = true
		return nil
	})
	return nids, err
}

// GapChildren is Gaps that also says whether an event that was accepted names it (true) or only refused ones.
func (r *Read) GapChildren(room event.RoomID) (gaps map[event.ID]bool, err error) {
	gaps = make(map[event.ID]bool)
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return gaps, err
	}
	err = r.each(`SELECT g.id, max(e.flags & ? = 0) FROM gap g JOIN event e ON e.nid=g.child WHERE g.room=? GROUP BY g.id`,
		args(Rejected|SoftFailed, nid), func(row *Row) error {
			var b []byte
			var accepted bool
			err := row.Scan(&b, &accepted)
			gaps[idText(b)] = accepted
			return err
		})
	return gaps, err
}
