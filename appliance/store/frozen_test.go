// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// oldest makes a database as the first released program made it, with one event in it.
func oldest(t *testing.T, path string, row []byte) {
	t.Helper()
	frozen, err := filepath.Glob("testdata/schema-1/*.sql")
	if err != nil || len(frozen) == 0 {
		t.Fatalf("frozen schema: %v, %v", frozen, err)
	}
	c, err := openConn("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	run := func(sql string) {
		if err := c.script(sql); err != nil {
			t.Fatalf("%v: %s", err, sql)
		}
	}
	run(fmt.Sprintf(`PRAGMA page_size=%d; PRAGMA journal_mode=WAL`, pageSize))
	for _, f := range frozen {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		run(string(b))
	}
	run(fmt.Sprintf(`PRAGMA application_id=%d; PRAGMA user_version=1`, applicationID))
	run(`INSERT INTO server (nid, name) VALUES (1, 'a.example'); INSERT INTO usr (nid, id, server) VALUES (1, '@u:a.example', 1);
		INSERT INTO etype (nid, name) VALUES (1, 'm.x'); INSERT INTO room (nid, id, version) VALUES (1, '!r:a.example', '11')`)
	err = c.run(`INSERT INTO event (nid, id, room, type, sender, depth, ts, pos, before, after, flags, json) VALUES (1, ?, 1, 1, 1, 5, 6, 1, 0, 0, 0, ?)`,
		[]any{idBytes(testID(1)), row}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

// layout lists the tables, columns and indices of a database.
func layout(t *testing.T, db *DB) (lines []string) {
	t.Helper()
	err := db.View(t.Context(), func(r *Read) error {
		return r.each(`SELECT m.type, m.name, m.tbl_name, coalesce(c.name, ''), coalesce(c.type, ''), coalesce(c."notnull", 0), coalesce(c.dflt_value, ''), coalesce(c.pk, 0),
			CASE m.type WHEN 'index' THEN coalesce(m.sql, '') ELSE '' END FROM sqlite_schema m LEFT JOIN pragma_table_info(m.name) c ON m.type='table'`, nil, func(row *Row) error {
			var s [9]string
			for i, v := range row.vals {
				s[i] = fmt.Sprint(v)
			}
			lines = append(lines, strings.Join(strings.Fields(strings.Join(s[:], " | ")), " "))
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// testdata/schema-1 holds the oldest schema that boxes in the field may have. A database made with it must open, keep what it holds, and must
// then be what a new one is. A file that is frozen there is never changed: a new table or column is a new schemaVersion with a step in migrations.
func TestOldestSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "old.db")
	text := []byte(`{"content":{"old":true},"depth":5}`)
	oldest(t, path, text)
	old := open(t, path, Options{})
	got := layout(t, old)
	want := layout(t, open(t, filepath.Join(t.TempDir(), "new.db"), Options{}))
	for _, l := range want {
		if !slices.Contains(got, l) {
			t.Errorf("an old database lacks  %s", l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			t.Errorf("an old database still has  %s", l)
		}
	}
	err := old.View(t.Context(), func(r *Read) error {
		var version int
		if _, err := r.one(`PRAGMA user_version`, nil, &version); err != nil || version != schemaVersion {
			t.Errorf("version %d, %v", version, err)
		}
		e, err := r.Event(testID(1))
		if err == nil && (e == nil || string(e.JSON) != string(text)) {
			t.Errorf("the old event reads %+v", e)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
