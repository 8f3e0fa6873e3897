// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"path/filepath"
	"testing"
)

// TestCarriedNumbers: the number of a carried parcel that has gone is never another's, also after a restart. A late answer about the one would end the
// other, and a stick would leave it out.
func TestCarriedNumbers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	db := open(t, path, Options{})
	carry := func(seq uint64) (n int64) {
		t.Helper()
		if err := db.Do(t.Context(), func(tx *Tx) (err error) {
			n, _, err = tx.Carry(Carried{Dest: []byte("d"), Source: []byte("s"), Epoch: 1, Seq: seq, Giver: []byte("g"), Body: []byte("b"), Mark: int64(seq)})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	old := carry(1)
	if err := db.Do(t.Context(), func(tx *Tx) error { return tx.DropCarriedUpTo([]byte("d"), []byte("s"), 1, 1) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path, Options{})
	fresh := carry(2)
	if err := db.Do(t.Context(), func(tx *Tx) error { return tx.DropCarried(old) }); err != nil { // it is late
		t.Fatal(err)
	}
	if err := db.View(t.Context(), func(r *Read) error {
		left, err := r.CarriedAfter(nil, old, 10)
		if err == nil && (len(left) != 1 || left[0].N != fresh || left[0].Seq != 2) {
			t.Errorf("numbers %d and %d, left %+v", old, fresh, left)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
