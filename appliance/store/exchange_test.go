// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"errors"
	"path/filepath"
	"testing"
)

// Numbers in our own logs have no hole after a write that was undone, begin anew in a new epoch, and go on after a restart.
func TestNumberEventWithoutHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	db := open(t, path, Options{})
	number := func(want uint64, fail error) {
		t.Helper()
		err := db.Do(t.Context(), func(tx *Tx) error {
			got, err := tx.NumberEvent("!r:a.example", db.NextEvent())
			if got != want {
				t.Errorf("number %d, want %d", got, want)
			}
			return errors.Join(err, fail)
		})
		if !errors.Is(err, fail) {
			t.Fatal(err)
		}
	}
	number(0, nil)
	do := func(f func(*Tx) error) {
		t.Helper()
		if err := db.Do(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	do(func(tx *Tx) error { _, err := tx.OpenExchange("box", 1); return err })
	number(1, nil)
	number(2, errors.New("undone"))
	number(2, nil)
	number(3, nil)
	do(func(tx *Tx) error { _, err := tx.MarkEntry("!r:a.example", "box", 1, 4, 0, 99); return err })
	number(5, nil)
	do(func(tx *Tx) error { return tx.NewEpoch(2) })
	number(1, nil)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path, Options{})
	number(2, nil)
}
