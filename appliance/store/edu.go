// SPDX-License-Identifier: EUPL-1.2

package store

import "fmt"

// EDU is one entry of the queue towards another server. Body is the EDU's content, JSON.
type EDU struct {
	Seq  int64
	Kind string // "m.direct_to_device"
	Key  string
	Body []byte
}

// EnqueueEDU queues an EDU for a server. With an empty key it is appended and stays until it is kept there; with a
// key it takes the place of the waiting EDU of the same kind and key, at the end of the queue (receipts: only the
// newest counts). The commit wakes whoever serves dest.
func (tx *Tx) EnqueueEDU(dest, kind, key string, body []byte) error {
	var seq int64
	if _, err := tx.one(`INSERT INTO edu_seq (dest, last) VALUES (?, 1)
		ON CONFLICT (dest) DO UPDATE SET last = last + 1 RETURNING last`, args(dest), &seq); err != nil {
		return fmt.Errorf("number EDU: %w", err)
	}
	if key != "" {
		if err := tx.exec(`DELETE FROM edu_out WHERE dest = ? AND kind = ? AND key = ?`, dest, kind, key); err != nil {
			return fmt.Errorf("replace EDU: %w", err)
		}
	}
	if err := tx.exec(`INSERT INTO edu_out (dest, seq, kind, key, body) VALUES (?, ?, ?, ?, ?)`, dest, seq, kind, key, body); err != nil {
		return fmt.Errorf("queue EDU: %w", err)
	}
	tx.TouchDest(dest)
	return nil
}

// PendingEDUs gives up to limit queued EDUs for a server with numbers above after, in order.
func (r *Read) PendingEDUs(dest string, after int64, limit int) ([]EDU, error) {
	var out []EDU
	err := r.each(`SELECT seq, kind, key, body FROM edu_out WHERE dest = ? AND seq > ? ORDER BY seq LIMIT ?`,
		args(dest, after, limit), func(row *Row) error {
			var e EDU
			if err := row.Scan(&e.Seq, &e.Kind, &e.Key, &e.Body); err != nil {
				return err
			}
			out = append(out, e)
			return nil
		})
	return out, err
}

// DropEDUs forgets the EDUs for a server up to and including a number: they are kept there.
func (tx *Tx) DropEDUs(dest string, upTo int64) error {
	return tx.exec(`DELETE FROM edu_out WHERE dest = ? AND seq <= ?`, dest, upTo)
}

// DropEDUsOf forgets single EDUs: they are worth nothing any more.
func (tx *Tx) DropEDUsOf(dest string, seqs []int64) error {
	for _, seq := range seqs {
		if err := tx.exec(`DELETE FROM edu_out WHERE dest = ? AND seq = ?`, dest, seq); err != nil {
			return err
		}
	}
	return nil
}

// OutgoingTxn is a transaction under way to a server that must not be another one when it is repeated.
type OutgoingTxn struct {
	ID    string
	EDUTo int64 // it brings the EDUs up to this one
	Body  []byte
}

// SaveOutgoingTxn keeps the transaction that is sent next, in place of the one before.
func (tx *Tx) SaveOutgoingTxn(dest string, t OutgoingTxn) error {
	return tx.exec(`INSERT OR REPLACE INTO fed_out (dest, id, edu_to, body) VALUES (?, ?, ?, ?)`, dest, t.ID, t.EDUTo, t.Body)
}

// DropOutgoingTxn forgets a transaction: it was answered, or is given up in this form.
func (tx *Tx) DropOutgoingTxn(dest, id string) error {
	return tx.exec(`DELETE FROM fed_out WHERE dest = ? AND id = ?`, dest, id)
}

// OutgoingTxn gives the transaction that was under way to a server; nil when there is none.
func (r *Read) OutgoingTxn(dest string) (*OutgoingTxn, error) {
	var t OutgoingTxn
	found, err := r.one(`SELECT id, edu_to, body FROM fed_out WHERE dest = ?`, args(dest), &t.ID, &t.EDUTo, &t.Body)
	if !found || err != nil {
		return nil, err
	}
	return &t, nil
}

// ParkEDU takes an EDU that a server refuses out of its queue.
func (tx *Tx) ParkEDU(dest string, seq int64, reason string) error {
	err := tx.exec(`INSERT OR REPLACE INTO edu_parked (dest, seq, kind, body, reason) SELECT dest, seq, kind, body, ? FROM edu_out WHERE dest = ? AND seq = ?`, reason, dest, seq)
	if err != nil {
		return fmt.Errorf("park EDU: %w", err)
	}
	return tx.exec(`DELETE FROM edu_out WHERE dest = ? AND seq = ?`, dest, seq)
}

// UnparkEDUs puts the parked EDUs of a server at the end of its queue.
func (tx *Tx) UnparkEDUs(dest string) error {
	var parked []EDU
	err := tx.each(`DELETE FROM edu_parked WHERE dest = ? RETURNING kind, body`, args(dest), func(row *Row) error {
		var e EDU
		err := row.Scan(&e.Kind, &e.Body)
		parked = append(parked, e)
		return err
	})
	if err != nil {
		return fmt.Errorf("unpark EDUs: %w", err)
	}
	for _, e := range parked {
		if err := tx.EnqueueEDU(dest, e.Kind, "", e.Body); err != nil {
			return err
		}
	}
	return nil
}

// Parked counts the events and EDUs that a server does not take.
func (r *Read) Parked(dest string) (pdus, edus int, err error) {
	_, err = r.one(`SELECT (SELECT count(*) FROM fed_parked WHERE dest = ?1), (SELECT count(*) FROM edu_parked WHERE dest = ?1)`, args(dest), &pdus, &edus)
	return pdus, edus, err
}
