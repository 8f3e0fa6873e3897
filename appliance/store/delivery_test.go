// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
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
