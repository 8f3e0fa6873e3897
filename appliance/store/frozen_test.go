// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"os"
	"path/filepath"
	"testing"
)

// testdata/schema-1 holds the oldest schema that boxes in the field may have. A database made with it must open, and must then be what a new one is.
// A file that is frozen there is never changed: a new table or column is a new schemaVersion with a step in migrate.
func TestOldestSchema(t *testing.T) {
	frozen, err := filepath.Glob("testdata/schema-1/*.sql")
	if err != nil || len(frozen) == 0 {
		t.Fatalf("frozen schema: %v, %v", frozen, err)
	}
	old := make(map[string]string)
	for _, f := range frozen {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		old[filepath.Base(f)] = string(b)
	}
	path := filepath.Join(t.TempDir(), "old.db")
	db := open(t, path, Options{})
	names, scripts, err := db.schema()
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if schemaVersion == 1 {
		for i, n := range names {
			if o, ok := old[n]; ok && o != scripts[i] {
				t.Errorf("schema/%s was changed after it was frozen: raise schemaVersion and write the migration instead", n)
			}
			delete(old, n)
		}
		for n := range old {
			t.Errorf("schema/%s is gone", n)
		}
		return
	}
	t.Error("schema version 1 has a successor: open a database made from testdata/schema-1 here and compare its tables with a new one's")
}
