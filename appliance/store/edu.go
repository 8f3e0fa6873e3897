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
