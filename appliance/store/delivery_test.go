// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
)

// TestLeft: whatever is sent again by which way, each place remembers its last way, as a plain list would.
func TestLeft(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
	rng := rand.New(rand.NewPCG(1, 2))
	const places = 40
	var want [places + 1]string
	for round := range 400 {
		first := 1 + rng.IntN(places)
		last := min(places, first+rng.IntN(8))
		way := fmt.Sprintf("way %d", rng.IntN(3))
		if err := db.Do(t.Context(), func(tx *Tx) error { return tx.Left("box", 7, uint64(first), uint64(last), way, int64(round)) }); err != nil {
			t.Fatal(err)
		}
		for seq := first; seq <= last; seq++ {
			want[seq] = way
		}
		if err := db.View(t.Context(), func(r *Read) error {
			for seq := 1; seq <= places; seq++ {
				got, err := r.Left(7, uint64(seq))
				switch {
				case err != nil:
					return err
				case want[seq] == "" && len(got) == 0:
				case len(got) != 1 || got[0].Way != want[seq] || got[0].Box != "box":
					t.Fatalf("round %d, places %d to %d by %s: place %d left by %+v, want %q", round, first, last, way, seq, got, want[seq])
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLeftAt: a place has the time at which it left, not that of what followed; what is kept and long ago is forgotten, what is not kept never is.
func TestLeftAt(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
	const minute = 60_000
	const moves = 200
	for i := range int64(moves) {
		if err := db.Do(t.Context(), func(tx *Tx) error {
			seq := uint64(3*i + 1)
			return errors.Join(tx.Left("box", 7, seq, seq, "p2p", i*minute), tx.Left("box", 7, seq+1, seq+2, "p2p", i*minute+1000), tx.SetPeerKept("box", 7, 60, false))
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.View(t.Context(), func(r *Read) error {
		for _, c := range []struct {
			seq  uint64
			at   int64
			none bool
		}{{seq: 1, none: true}, {seq: 60, none: true}, {seq: 61, at: 20 * minute}, {seq: 63, at: 20 * minute}, {seq: 64, at: 21 * minute}, {seq: 600, at: 199 * minute}, {seq: 601, none: true}} {
			got, err := r.Left(7, c.seq)
			if err != nil {
				return err
			}
			if (len(got) == 0) != c.none || len(got) > 0 && got[0].At != c.at {
				t.Errorf("place %d left %+v, want at %d", c.seq, got, c.at)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestReached: by each one's word the furthest place counts and never moves back, a place has the time at which it was reached first, and where the moves of that time
// were dropped it has none.
func TestReached(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
	say := func(who, by string, upto uint64, at int64) (moved bool) {
		t.Helper()
		if err := db.Do(t.Context(), func(tx *Tx) (err error) {
			moved, err = tx.Reached(7, Reach{who, by, upto, at})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return moved
	}
	wants := func(what string, get func(*Read) ([]Reach, error), want ...Reach) {
		t.Helper()
		if err := db.View(t.Context(), func(r *Read) error {
			got, err := get(r)
			if !slices.Equal(got, want) {
				t.Errorf("%s: %+v, want %+v", what, got, want)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	last := func(r *Read) ([]Reach, error) { return r.Reached(7) }
	at := func(seq uint64) func(r *Read) ([]Reach, error) {
		return func(r *Read) ([]Reach, error) { return r.ReachedPlace(7, seq) }
	}
	for _, m := range []struct {
		who, by string
		upto    uint64
		at      int64
		moves   bool
	}{
		{"b", "", 3, 100, true}, {"b", "", 3, 200, false}, {"b", "", 2, 300, false}, {"b", "", 9, 400, true}, {"b", "c", 12, 500, true}, {"@u:b", "", 5, 0, true},
	} {
		if got := say(m.who, m.by, m.upto, m.at); got != m.moves {
			t.Errorf("%+v: moved %v", m, got)
		}
	}
	wants("all", last, Reach{"@u:b", "", 5, 0}, Reach{"b", "", 9, 400}, Reach{"b", "c", 12, 500})
	wants("place 2", at(2), Reach{"@u:b", "", 5, 0}, Reach{"b", "", 3, 100}, Reach{"b", "c", 12, 500})
	wants("place 4", at(4), Reach{"@u:b", "", 5, 0}, Reach{"b", "", 9, 400}, Reach{"b", "c", 12, 500})
	wants("place 10", at(10), Reach{"b", "c", 12, 500})
	wants("place 13", at(13))
	if err := db.Do(t.Context(), func(tx *Tx) error { return tx.ReachedOnly(7, "b", 4) }); err != nil {
		t.Fatal(err)
	}
	wants("after it has lost some", last, Reach{"@u:b", "", 5, 0}, Reach{"b", "", 3, 100}, Reach{"b", "c", 12, 500})
	for i := range 40 {
		say("d", "", uint64(10*i+10), int64(i+1))
	}
	rows := 0
	if err := db.View(t.Context(), func(r *Read) error {
		_, err := r.one(`SELECT count(*) FROM word WHERE who = 'd'`, nil, &rows)
		return err
	}); err != nil || rows != keptMoves {
		t.Errorf("%d moves are kept, want %d (%v)", rows, keptMoves, err)
	}
	wants("long ago", at(20), Reach{"d", "", 250, 0})
	wants("the oldest that is known", at(251), Reach{"d", "", 260, 26})
	wants("the newest", at(400), Reach{"d", "", 400, 40})
}
