// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/wayback"
	"hallig/tools/released"
)

// atSchema makes a database as a program of an older schema left it: the frozen first schema, migrated step by step, with a row in each table.
func atSchema(t *testing.T, path string, schema int) {
	t.Helper()
	oldest(t, path, []byte(`{"content":{"old":true},"depth":5}`))
	c, err := openConn("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, step := range migrations[:schema-1] {
		if err := c.script(step); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.script(fmt.Sprintf(`PRAGMA foreign_keys=OFF; PRAGMA user_version=%d`, schema)); err != nil {
		t.Fatal(err)
	}
	r := &Read{c: c}
	for _, table := range tables(t, r) {
		var cols, vals []string
		err := r.each(fmt.Sprintf(`SELECT name, type FROM pragma_table_info('%s')`, table), nil, func(row *Row) error {
			var name, kind string
			if err := row.Scan(&name, &kind); err != nil {
				return err
			}
			cols = append(cols, `"`+name+`"`)
			vals = append(vals, map[string]string{"INTEGER": "77", "TEXT": "'@seventy:seven'", "BLOB": "x'7777777777777777'", "REAL": "7.7", "ANY": "7"}[strings.ToUpper(kind)])
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.script(fmt.Sprintf(`INSERT OR IGNORE INTO "%s" (%s) VALUES (%s)`, table, strings.Join(cols, ","), strings.Join(vals, ","))); err != nil {
			t.Fatalf("%s: %v", table, err)
		}
	}
}

func tables(t *testing.T, r *Read) (names []string) {
	t.Helper()
	err := r.each(`SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%' AND sql NOT LIKE 'CREATE VIRTUAL%' AND name NOT LIKE '%\_fts\_%' ESCAPE '\'`, nil, func(row *Row) error {
		var name string
		err := row.Scan(&name)
		names = append(names, name)
		return err
	})
	if err != nil || len(names) == 0 {
		t.Fatalf("tables: %v, %v", names, err)
	}
	return names
}

// rows gives every row of every table, as text by column name; what a start changes by itself is left out.
func rows(t *testing.T, path string) map[string][]string {
	t.Helper()
	c, err := openConn("file:" + path + "?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	r := &Read{c: c}
	all := make(map[string][]string)
	for _, table := range tables(t, r) {
		var cols []string
		err := r.each(fmt.Sprintf(`SELECT name FROM pragma_table_info('%s')`, table), nil, func(row *Row) error {
			var name string
			err := row.Scan(&name)
			cols = append(cols, name)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(cols)
		err = r.each(fmt.Sprintf(`SELECT "%s" FROM "%s"`, strings.Join(cols, `","`), table), nil, func(row *Row) error {
			line := fmt.Sprintf("%q", row.vals)
			if table != "meta" || !strings.Contains(line, "clean") && !strings.Contains(line, "pos_ceiling") {
				all[table] = append(all[table], line)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(all[table])
	}
	return all
}

// Every schema that ever was opens with every row that it held, and the copy from before is what it was.
func TestEverySchema(t *testing.T) {
	for schema := 1; schema <= schemaVersion; schema++ {
		t.Run(fmt.Sprint(schema), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "old.db")
			atSchema(t, path, schema)
			before := rows(t, path)
			if len(before) < 30 {
				t.Fatalf("only %d tables were filled", len(before))
			}
			db, err := Open(t.Context(), path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Verify(t.Context()); err != nil {
				t.Error(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			after := rows(t, path)
			for table, want := range before {
				if table == "reached" { // without who said it; others tell it again (migration 15)
					continue
				}
				for _, line := range want {
					if !slices.Contains(after[table], line) {
						t.Errorf("%s lost %s; it has %s", table, line, after[table])
					}
				}
			}
			copies, err := wayback.Copies(path)
			if err != nil {
				t.Fatal(err)
			}
			if schema == schemaVersion {
				if len(copies) != 0 {
					t.Errorf("a copy of what nobody changed: %v", copies)
				}
				return
			}
			if len(copies) != 1 || copies[0].Schema != int64(schema) {
				t.Fatalf("copies: %+v", copies)
			}
			if copied := rows(t, copies[0].Path); !maps.EqualFunc(before, copied, slices.Equal) {
				t.Error("the copy is not what the database was")
			}
		})
	}
}

// What was released must stay readable: each version of the list has a schema that this program migrates from, and no released schema is newer than this
// program's.
func TestReleasedSchemas(t *testing.T) {
	list, err := released.List("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range list {
		if v.Schema > schemaVersion {
			t.Errorf("%s was released with schema %d, and this program keeps %d", v.Name, v.Schema, schemaVersion)
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "old.db")
			atSchema(t, path, int(v.Schema))
			db, err := Open(t.Context(), path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Verify(t.Context()), db.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Logf("%d released versions", len(list))
}

const nextSchema = `CREATE TABLE novelty (n INTEGER PRIMARY KEY) STRICT; DELETE FROM alias`

// newerProgram is a program with one more migration, which even throws something away.
func newerProgram(trial bool) Options { return Options{newer: []string{nextSchema}, Trial: trial} }

func aliasIn(t *testing.T, path string, opt Options) (room string, restored bool) {
	t.Helper()
	db, err := Open(t.Context(), path, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(t.Context(), func(r *Read) error {
		id, _, err := r.Alias("#a:x")
		room = string(id)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return room, db.Restored()
}

func withAlias(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "hallig.db")
	db, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Do(t.Context(), func(tx *Tx) error { _, err := tx.SetAlias("#a:x", "!r:x", "@u:x"); return err }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func note(t *testing.T, path string) wayback.Note {
	t.Helper()
	n, err := wayback.ReadNote(path)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// An update on trial migrates; the box goes back by itself, and the older program finds what it left.
func TestTrialIsUndone(t *testing.T) {
	for _, how := range []string{"stopped", "killed", "tried twice"} {
		t.Run(how, func(t *testing.T) {
			path := withAlias(t)
			db, err := Open(t.Context(), path, newerProgram(true))
			if err != nil {
				t.Fatal(err)
			}
			if n := note(t, path); n.Act != wayback.Trial || n.Schema != schemaVersion {
				t.Errorf("note %+v", n)
			}
			if how == "killed" { // what lies on the disk while it runs, its log unfolded
				dir := t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(filepath.Dir(path))); err != nil {
					t.Fatal(err)
				}
				path = filepath.Join(dir, "hallig.db")
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if how == "tried twice" {
				if room, _ := aliasIn(t, path, newerProgram(true)); room != "" {
					t.Errorf("the migration was not made: %s", room)
				}
			}
			room, restored := aliasIn(t, path, Options{})
			if room != "!r:x" || restored {
				t.Errorf("the older program finds %q, restored %v", room, restored)
			}
			if n := note(t, path); n.Act != "" {
				t.Errorf("a note is left: %+v", n)
			}
			if list, err := wayback.Aside(path); err != nil || len(list) != 0 {
				t.Errorf("set aside %v, %v", list, err)
			}
		})
	}
}

// Once confirmed, the older program does not touch the newer database by itself. Told to, it takes the copy and keeps the newer one aside.
func TestConfirmedThenBack(t *testing.T) {
	for _, by := range []string{"the local door", "the firmware"} {
		t.Run(by, func(t *testing.T) {
			path := withAlias(t)
			db, err := Open(t.Context(), path, newerProgram(true))
			if err != nil {
				t.Fatal(err)
			}
			if by == "the local door" {
				if err := db.Confirm(); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			aliasIn(t, path, newerProgram(false)) // the firmware boots it
			if n := note(t, path); n.Act != "" {
				t.Fatalf("not settled: %+v", n)
			}
			before := rows(t, path)
			if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), "hallig update back") {
				t.Fatalf("the older program opens it: %v", err)
			}
			c, ok, err := wayback.For(path, schemaVersion)
			if err != nil || !ok {
				t.Fatalf("no copy: %v", err)
			}
			if err := wayback.Leave(path, wayback.Note{Act: wayback.Back, Schema: c.Schema}); err != nil {
				t.Fatal(err)
			}
			for range 2 { // restored until the box has begun a new epoch
				if room, restored := aliasIn(t, path, Options{}); room != "!r:x" || !restored {
					t.Errorf("the older program finds %q, restored %v", room, restored)
				}
			}
			db, err = Open(t.Context(), path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Settle(), db.Close()); err != nil {
				t.Fatal(err)
			}
			if _, restored := aliasIn(t, path, Options{}); restored {
				t.Error("restored for ever")
			}
			aside, err := wayback.Aside(path)
			if err != nil || len(aside) != 1 {
				t.Fatalf("set aside: %v, %v", aside, err)
			}
			if got := rows(t, aside[0]); !maps.EqualFunc(before, got, slices.Equal) {
				t.Error("what was set aside is not the newer database")
			}
		})
	}
}

// Somebody decided to go back, and then the newer system came up all the same: nothing is put back.
func TestBackNotCarriedOut(t *testing.T) {
	path := withAlias(t)
	aliasIn(t, path, newerProgram(false))
	if err := wayback.Leave(path, wayback.Note{Act: wayback.Back, Schema: schemaVersion}); err != nil {
		t.Fatal(err)
	}
	aliasIn(t, path, newerProgram(false))
	if n := note(t, path); n.Act != "" {
		t.Errorf("note %+v", n)
	}
}

// A trial that never came to the migration leaves nothing to undo.
func TestTrialWithoutMigration(t *testing.T) {
	path := withAlias(t)
	if err := wayback.Leave(path, wayback.Note{Act: wayback.Trial, Schema: schemaVersion}); err != nil {
		t.Fatal(err)
	}
	if room, _ := aliasIn(t, path, Options{}); room != "!r:x" || note(t, path).Act != "" {
		t.Errorf("room %q, note %+v", room, note(t, path))
	}
	if room, _ := aliasIn(t, path, Options{Trial: true}); room != "!r:x" || note(t, path).Act != "" {
		t.Errorf("a trial with the same schema: room %q, note %+v", room, note(t, path))
	}
}

// Without room for the copy nothing is changed, and the sentence says how much is missing.
func TestNoRoomForTheCopy(t *testing.T) {
	path := withAlias(t)
	opt := newerProgram(true)
	opt.Free = func(string) (int64, error) { return 64<<20 + 1000, nil }
	var full *wayback.NoRoom
	if _, err := Open(t.Context(), path, opt); !errors.As(err, &full) {
		t.Fatalf("%v", err)
	}
	if room, _ := aliasIn(t, path, Options{}); room != "!r:x" {
		t.Errorf("room %q", room)
	}
}

// The copy of the update before last makes room for the new one.
func TestOnlyTheLatestCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	atSchema(t, path, 3)
	aliasIn(t, path, Options{})
	aliasIn(t, path, newerProgram(true))
	list, err := wayback.Copies(path)
	if err != nil || len(list) != 1 || list[0].Schema != schemaVersion {
		t.Errorf("%+v, %v", list, err)
	}
	// an update without a migration, confirmed: the system before reads the database as it is, and no copy is needed
	db, err := Open(context.Background(), path, newerProgram(false))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Confirm(), db.Close()); err != nil {
		t.Fatal(err)
	}
	if list, err := wayback.Copies(path); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}
