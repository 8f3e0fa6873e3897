// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"path/filepath"
	"testing"
)

func TestBackup(t *testing.T) {
	db := fresh(t)
	if err := db.Do(t.Context(), func(tx *Tx) error { _, err := tx.SetAlias("#a:x", "!r:x", "@u:x"); return err }); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := db.Backup(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if err := db.Backup(t.Context(), path); err == nil {
		t.Error("a backup was written over")
	}
	copied := open(t, path, Options{})
	if err := copied.View(t.Context(), func(r *Read) error {
		room, _, err := r.Alias("#a:x")
		if room != "!r:x" {
			t.Errorf("alias leads to %q", room)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := copied.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}
