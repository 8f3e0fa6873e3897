// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"encoding/json"

	"hallig/appliance/event"
)

// ToDeviceRow is one letter in a device's box.
type ToDeviceRow struct {
	Pos  int64
	Body json.RawMessage // the event as /sync shows it
}

// ToDevice lists letters in (after, upTo], oldest first.
func (r *Read) ToDevice(user event.UserID, device string, after, upTo int64, limit int) ([]ToDeviceRow, error) {
	var out []ToDeviceRow
	err := r.each(`SELECT pos, body FROM to_device WHERE user_id = ? AND device_id = ? AND pos > ? AND pos <= ? ORDER BY pos LIMIT ?`,
		args(user, device, after, upTo, limit), func(row *Row) error {
			var d ToDeviceRow
			err := row.Scan(&d.Pos, &d.Body)
			out = append(out, d)
			return err
		})
	return out, err
}

// HasToDevice says whether letters up to a position still lie there.
func (r *Read) HasToDevice(user event.UserID, device string, upTo int64) (bool, error) {
	var one int64
	return r.one(`SELECT 1 FROM to_device WHERE user_id = ? AND device_id = ? AND pos <= ? LIMIT 1`, args(user, device, upTo), &one)
}

// PutToDevice puts a letter into a device's box and wakes its user; device "*" is every device the user has now.
func (tx *Tx) PutToDevice(user event.UserID, device string, body json.RawMessage) error {
	var ids []string
	if err := tx.each(`SELECT device_id FROM device WHERE user_id = ?1 AND (?2 = '*' OR device_id = ?2) ORDER BY device_id`,
		args(user, device), func(row *Row) error {
			var id string
			err := row.Scan(&id)
			ids = append(ids, id)
			return err
		}); err != nil {
		return err
	}
	for _, id := range ids {
		if err := tx.exec(`INSERT INTO to_device (user_id, device_id, pos, body) VALUES (?, ?, ?, ?)`, user, id, tx.NextPos(), body); err != nil {
			return err
		}
	}
	if len(ids) > 0 {
		tx.TouchUser(user)
	}
	return nil
}

// DeleteToDevice empties a device's box up to a position: the device has shown that it has them. It touches nobody.
func (tx *Tx) DeleteToDevice(user event.UserID, device string, upTo int64) error {
	return tx.exec(`DELETE FROM to_device WHERE user_id = ? AND device_id = ? AND pos <= ?`, user, device, upTo)
}

// keptOnce is how many message ids of one origin are remembered. An origin repeats only what it has no answer to, and it
// sends in order: far fewer than these are ever unanswered.
const keptOnce = 10_000

// TakeOnce says whether a message id of an origin is new, and remembers it among the newest of that origin.
func (tx *Tx) TakeOnce(origin, message string) (bool, error) {
	taken, err := tx.execN(`INSERT OR IGNORE INTO to_device_seen (origin, message_id, n)
		VALUES (?1, ?2, 1 + (SELECT coalesce(max(n), 0) FROM to_device_seen WHERE origin = ?1))`, origin, message)
	if err != nil || taken == 0 {
		return false, err
	}
	return true, tx.exec(`DELETE FROM to_device_seen WHERE origin = ?1 AND n <= (SELECT max(n) FROM to_device_seen WHERE origin = ?1) - ?2`, origin, keptOnce)
}

// ReceiptRow is how far a user has read a room, or a thread of it.
type ReceiptRow struct {
	Room   event.RoomID
	Type   string // m.read, m.read.private
	User   event.UserID
	Thread string // "": unthreaded
	Event  event.ID
	TS     int64
	Pos    int64
}

const receiptSelect = `SELECT room_id, type, user_id, thread, event_id, ts, pos FROM receipt`

func (r *Read) receipts(sql string, a []any) ([]ReceiptRow, error) {
	var out []ReceiptRow
	err := r.each(sql, a, func(row *Row) error {
		var x ReceiptRow
		err := row.Scan(&x.Room, &x.Type, &x.User, &x.Thread, &x.Event, &x.TS, &x.Pos)
		out = append(out, x)
		return err
	})
	return out, err
}

// Receipts lists a room's receipts that changed in (after, upTo].
func (r *Read) Receipts(room event.RoomID, after, upTo int64) ([]ReceiptRow, error) {
	return r.receipts(receiptSelect+` WHERE room_id = ? AND pos > ? AND pos <= ? ORDER BY pos`, args(room, after, upTo))
}

// ReceiptsOf lists one user's receipts in a room.
func (r *Read) ReceiptsOf(room event.RoomID, user event.UserID) ([]ReceiptRow, error) {
	return r.receipts(receiptSelect+` WHERE room_id = ? AND type IN ('m.read', 'm.read.private') AND user_id = ?`, args(room, user))
}

// PutReceipt sets a receipt and wakes the room: who looks finds it, or, when it is private, only its user does.
func (tx *Tx) PutReceipt(x ReceiptRow) error {
	tx.TouchRoom(x.Room)
	return tx.exec(`INSERT OR REPLACE INTO receipt (room_id, type, user_id, thread, event_id, ts, pos) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		x.Room, x.Type, x.User, x.Thread, x.Event, x.TS, tx.NextPos())
}
