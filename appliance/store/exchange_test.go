// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"hallig/appliance/event"
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
	// Nobody else numbers for us.
	do(func(tx *Tx) error { _, err := tx.MarkEntry("!r:a.example", "box", 1, 4000, 0, 99); return err })
	number(4, nil)
	do(func(tx *Tx) error { return tx.NewEpoch(2) })
	err := db.View(t.Context(), func(r *Read) error {
		l, ok, err := r.LogOf("!r:a.example", "box", 1)
		if !ok || l.Own || l.Top != 4 {
			t.Errorf("the log of the old epoch: %+v, %v, want one of ours no more, up to 4", l, ok)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	number(1, nil)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path, Options{})
	number(2, nil)
}

// What others say about a log does not stand against the word of its own box, and no event loses its last place by it.
func TestOwnersWord(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
	const room = "!r:a.example"
	do := func(f func(*Tx) error) {
		t.Helper()
		if err := db.Do(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	mark := func(seq, gap uint64, nid int64, want uint64) {
		t.Helper()
		do(func(tx *Tx) error {
			kept, err := tx.MarkEntry(room, "far", 7, seq, gap, nid)
			if kept != want {
				t.Errorf("place %d marked: kept %d, want %d", seq, kept, want)
			}
			return err
		})
	}
	places := func(want ...any) {
		t.Helper()
		var got []any
		do(func(tx *Tx) error {
			for _, box := range []string{"far", "box"} {
				epoch := uint32(7)
				if box == "box" {
					epoch = 1
				}
				l, ok, err := tx.LogOf(room, box, epoch)
				if err != nil {
					return err
				}
				if !ok {
					continue
				}
				got = append(got, box, l.Top)
				err = tx.EachPlace(l.N, 1<<62, func(seq uint64, n int64, _ event.ID) error { got = append(got, seq, n); return nil })
				if err != nil {
					return err
				}
			}
			return nil
		})
		if !slices.Equal(texts(got), texts(want)) {
			t.Errorf("places %v, want %v", got, want)
		}
	}
	var nids []int64
	do(func(tx *Tx) error {
		if _, err := tx.OpenExchange("box", 1); err != nil {
			return err
		}
		for i := range 5 {
			e := &Event{NID: db.NextEvent(), ID: event.ID(fmt.Sprint("$", i)), Room: room, Type: "m.room.message", Sender: "@u:far.example", JSON: []byte(`{}`)}
			nids = append(nids, e.NID)
			if err := tx.InsertEvent(e, false); err != nil {
				return err
			}
		}
		return nil
	})
	mark(1, 0, nids[0], 1)
	mark(2, 0, nids[1], 2)
	mark(2, 0, nids[2], 2) // the first word stands
	places("far", 2, 1, nids[0], 2, nids[1])
	do(func(tx *Tx) error { _, err := tx.OwnerMark(room, "far", 7, 2, 0, nids[2]); return err })
	places("far", 2, 1, nids[0], 2, nids[2], "box", 1, 1, nids[1])
	mark(3, 0, 1<<40, 3) // an event whose row is not there
	mark(3, 0, nids[3], 3)
	mark(1000, 900, 0, 3)
	mark(99, 95, nids[4], 1000)
	do(func(tx *Tx) error {
		if _, err := tx.MarkEntry(room, "far", 7, MaxSeq+1, 0, 0); err == nil {
			t.Error("a number that no log reaches was marked")
		}
		return nil
	})
	places("far", 1000, 1, nids[0], 2, nids[2], 3, nids[3], 99, nids[4], 1000, 0, "box", 1, 1, nids[1])
}

func texts(vs []any) (out []string) {
	for _, v := range vs {
		out = append(out, fmt.Sprint(v))
	}
	return out
}
