// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// maxTaken is how many segments are remembered; one that was forgotten is read again and brings nothing new.
const maxTaken = 20_000

// CourierSerial gives the number of the next index of this box: higher than any before it and than seen, which stands on a stick.
func (tx *Tx) CourierSerial(seen uint64) (serial uint64, err error) {
	var n int64
	_, err = tx.one(`INSERT INTO courier_self (one, serial) VALUES (1, ?1 + 1)
		ON CONFLICT (one) DO UPDATE SET serial = max(serial, ?1) + 1 RETURNING serial`, args(min(seen, 1<<62)), &n)
	return uint64(n), err
}

// FarLetter notes the letter of a box with an epoch and number. fresh: it is newer than all before it; anew: it is the first of an epoch, so what the box keeps may have become less.
func (tx *Tx) FarLetter(box string, epoch uint32, serial uint64) (fresh, anew bool, err error) {
	n, err := tx.boxN(box)
	if err != nil {
		return false, false, err
	}
	const epochs = 16
	var last, now int64
	var left []byte
	found, err := tx.one(`SELECT epoch, serial, left FROM courier_far WHERE box = ?`, args(n), &now, &last, &left)
	if err != nil {
		return false, false, err
	}
	switch {
	case !found:
		anew = true
	case now == int64(epoch):
		if serial <= uint64(last) {
			return false, false, nil
		}
	default:
		if leftEpoch(left, epoch) {
			return false, false, nil
		}
		left = binary.BigEndian.AppendUint32(left, uint32(now))
		left = left[max(0, len(left)-4*epochs):]
		anew = true
	}
	if left == nil {
		left = []byte{}
	}
	err = tx.exec(`INSERT OR REPLACE INTO courier_far (box, epoch, serial, left) VALUES (?, ?, ?, ?)`, n, epoch, min(serial, 1<<62), left)
	if err != nil {
		return false, false, fmt.Errorf("note letter: %w", err)
	}
	return true, anew, nil
}

// LetterOver says whether a letter with an epoch and number is older than what FarLetter has noted of the box.
func (r *Read) LetterOver(box string, epoch uint32, serial uint64) (bool, error) {
	var now, last int64
	var left []byte
	found, err := r.one(`SELECT f.epoch, f.serial, f.left FROM courier_far f JOIN box b ON b.n = f.box WHERE b.id = ?`, args(box), &now, &last, &left)
	if !found || err != nil {
		return false, err
	}
	return now == int64(epoch) && serial < uint64(last) || now != int64(epoch) && leftEpoch(left, epoch), nil
}

func leftEpoch(left []byte, epoch uint32) bool {
	for e := range slices.Chunk(left, 4) {
		if len(e) == 4 && binary.BigEndian.Uint32(e) == epoch {
			return true
		}
	}
	return false
}

// FarEpoch gives the epoch of the newest letter of a box, 0 when there was none.
func (r *Read) FarEpoch(box string) (epoch uint32, err error) {
	_, err = r.one(`SELECT f.epoch FROM courier_far f JOIN box b ON b.n = f.box WHERE b.id = ?`, args(box), &epoch)
	return epoch, err
}

// TakenSegment says whether a segment's whole content is here.
func (r *Read) TakenSegment(hash [32]byte) (bool, error) {
	var one int
	return r.one(`SELECT 1 FROM courier_taken WHERE hash = ?`, args(hash[:]), &one)
}

// TakeSegment notes that a segment's whole content is here for good.
func (tx *Tx) TakeSegment(hash [32]byte, box string) error {
	b, err := tx.boxN(box)
	if err != nil {
		return err
	}
	if err := tx.exec(`INSERT OR IGNORE INTO courier_taken (hash, box, n) SELECT ?, ?, coalesce(max(n), 0) + 1 FROM courier_taken`, hash[:], b); err != nil {
		return fmt.Errorf("note segment: %w", err)
	}
	return tx.exec(`DELETE FROM courier_taken WHERE n <= (SELECT max(n) FROM courier_taken) - ?`, maxTaken)
}

// PeerKept gives how far a peer has said that it is, by the number of the log here.
func (r *Read) PeerKept(box string) (map[int64]uint64, error) {
	out := make(map[int64]uint64)
	err := r.each(`SELECT k.log, k.kept FROM peer_kept k JOIN box b ON b.n = k.box WHERE b.id = ?`, args(box), func(row *Row) error {
		var log, kept int64
		if err := row.Scan(&log, &kept); err != nil {
			return err
		}
		out[log] = uint64(kept)
		return nil
	})
	return out, err
}

// ForgetSegments forgets which segments are here: all are read again.
func (tx *Tx) ForgetSegments() error { return tx.exec(`DELETE FROM courier_taken`) }
