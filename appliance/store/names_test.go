// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"fmt"
	"path/filepath"
	"testing"
)

// A write may bring far more names than the cache holds. Each is looked at a few times, not once for each that follows: otherwise this takes minutes. None
// is forgotten before it has a row, and when all have one the cache is small again.
func TestNamesOfOneLargeWrite(t *testing.T) {
	const many = 6 * maxNames
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
	numbers := make([]int64, many)
	for round := range 2 {
		for i := range numbers {
			n, err := db.names.intern(kindServer, fmt.Sprint("s", i), nil, "")
			if err != nil {
				t.Fatal(err)
			}
			if round == 1 && n.nid != numbers[i] {
				t.Fatalf("name %d was forgotten without a row: %d, want %d", i, n.nid, numbers[i])
			}
			numbers[i] = n.nid
		}
	}
	write := func(kind string, count int) {
		if err := db.Do(t.Context(), func(tx *Tx) error {
			for i := range count {
				n, err := db.names.intern(kindServer, fmt.Sprint(kind, i), nil, "")
				if err != nil {
					return err
				}
				if err := tx.ensure(n); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	write("s", many)
	for i := range numbers {
		n, err := db.names.find(kindServer, fmt.Sprint("s", i), nil)
		if err != nil || n == nil || n.nid != numbers[i] {
			t.Fatalf("name %d: %v, %v", i, n, err)
		}
	}
	for i := range 10 {
		write(fmt.Sprint("u", i, "-"), maxNames/2)
	}
	if n := len(db.names.kinds[kindServer].byText); n > 2*maxNames {
		t.Errorf("%d names are kept though all have rows", n)
	}
}
