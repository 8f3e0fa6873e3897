// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"path/filepath"
	"strconv"
	"testing"
)

// The newest message ids of each origin are remembered, and no more.
func TestTakeOnceKeepsTheNewest(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "once.db"), Options{})
	take := func(tx *Tx, origin, id string, want bool) {
		t.Helper()
		if got, err := tx.TakeOnce(origin, id); err != nil || got != want {
			t.Fatalf("%s %s: got %v, %v, want %v", origin, id, got, err, want)
		}
	}
	err := db.Do(t.Context(), func(tx *Tx) error {
		take(tx, "quiet.test", "0", true)
		for i := range keptOnce + 5 {
			take(tx, "busy.test", strconv.Itoa(i), true)
		}
		for i := 5; i < keptOnce+5; i += 999 {
			take(tx, "busy.test", strconv.Itoa(i), false)
		}
		take(tx, "quiet.test", "0", false)
		var n int64
		if _, err := tx.one(`SELECT count(*) FROM to_device_seen`, nil, &n); err != nil {
			return err
		}
		if n != keptOnce+1 {
			t.Errorf("kept %d, want %d", n, keptOnce+1)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
