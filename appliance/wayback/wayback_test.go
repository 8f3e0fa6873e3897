// SPDX-License-Identifier: EUPL-1.2

package wayback

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func put0(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func text(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(b)
}

// The power goes at each step of Put; what lies on the disk then is laid out by hand, and the next Put finishes. The log of the newer
// database must never lie beside the older one.
func TestPutAfterCuts(t *testing.T) {
	for _, act := range []Act{Trial, Back} {
		for what, state := range map[string]struct {
			db, wal, copied, aside bool // true: newer database, log, copy, second name are there
			putting                bool
		}{
			"nothing done":            {db: true, wal: true, copied: true},
			"the note says putting":   {db: true, wal: true, copied: true, putting: true},
			"set aside":               {db: true, wal: true, copied: true, putting: true, aside: act == Back},
			"the log is gone":         {db: true, copied: true, putting: true, aside: act == Back},
			"the copy is in place":    {putting: true, aside: act == Back},
			"begun a second time now": {db: true, wal: true, copied: true, putting: true, aside: act == Back},
		} {
			dir := t.TempDir()
			db := filepath.Join(dir, "h[a]llig.db")
			put0(t, db, "older")
			if state.db {
				put0(t, db, "newer")
			}
			if state.wal {
				put0(t, db+"-wal", "log of the newer one")
			}
			if state.copied {
				put0(t, db+".before-8", "older")
			}
			if state.aside && state.db {
				if err := os.Link(db, db+".after-1"); err != nil {
					t.Fatal(err)
				}
			} else if state.aside {
				put0(t, db+".after-1", "newer")
			}
			n := Note{Act: act, Schema: 8, Putting: state.putting}
			if err := Leave(db, n); err != nil {
				t.Fatal(err)
			}
			if err := Put(db, n); err != nil {
				t.Fatalf("%s, %s: %v", act, what, err)
			}
			if text(db) != "older" || text(db+"-wal") != "" || text(db+".before-8") != "" {
				t.Errorf("%s, %s: database %q, log %q, copy %q", act, what, text(db), text(db+"-wal"), text(db+".before-8"))
			}
			got, err := ReadNote(db)
			if err != nil || (act == Trial) != (got == Note{}) || act == Back && !got.Restored {
				t.Errorf("%s, %s: note %+v, %v", act, what, got, err)
			}
			aside, err := Aside(db)
			if err != nil || act == Back && (len(aside) != 1 || text(aside[0]) != "newer") || act == Trial && len(aside) != 0 {
				t.Errorf("%s, %s: aside %v, %v", act, what, aside, err)
			}
			if err := Put(db, got); act == Back && err != nil || text(db) != "older" {
				t.Errorf("%s, %s: again: %v", act, what, err)
			}
		}
	}
}

func TestPutWithoutACopy(t *testing.T) {
	db := filepath.Join(t.TempDir(), "hallig.db")
	put0(t, db, "newer")
	put0(t, db+"-wal", "log")
	if err := Put(db, Note{Act: Trial, Schema: 8}); err == nil || text(db) != "newer" || text(db+"-wal") != "log" {
		t.Errorf("%v, %q", err, text(db))
	}
}

// What is set aside does not replace what was set aside before.
func TestAsideTwice(t *testing.T) {
	db := filepath.Join(t.TempDir(), "hallig.db")
	for _, newer := range []string{"first", "second"} {
		put0(t, db+".tmp", newer)
		if err := os.Rename(db+".tmp", db); err != nil {
			t.Fatal(err)
		}
		put0(t, db+".before-8", "older")
		if err := Put(db, Note{Act: Back, Schema: 8}); err != nil {
			t.Fatal(err)
		}
	}
	if text(db+".after-1") != "first" || text(db+".after-2") != "second" || text(db) != "older" {
		t.Errorf("%q, %q, %q", text(db+".after-1"), text(db+".after-2"), text(db))
	}
}

func TestMakeAndChoose(t *testing.T) {
	db := filepath.Join(t.TempDir(), "hallig.db")
	put0(t, db, strings.Repeat("x", 5000))
	f, err := os.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var full *NoRoom
	if err := Make(f, db, 7, 5000); !errors.As(err, &full) || full.Need <= 5000 {
		t.Errorf("%v", err)
	}
	put0(t, db+".before-9.tmp", "half of one")
	for _, schema := range []int64{7, 8} {
		if err := Make(f, db, schema, 4<<20); err != nil {
			t.Fatal(err)
		}
	}
	list, err := Copies(db)
	if err != nil || len(list) != 1 || list[0].Schema != 8 || list[0].Size != 5000 {
		t.Errorf("%+v, %v", list, err)
	}
	for schema, want := range map[int64]bool{7: false, 8: true, 12: true} {
		if c, ok, err := For(db, schema); err != nil || ok != want || ok && c.Schema != 8 {
			t.Errorf("for %d: %+v, %v, %v", schema, c, ok, err)
		}
	}
}

func TestStrangeNote(t *testing.T) {
	db := filepath.Join(t.TempDir(), "hallig.db")
	for _, bad := range []string{"", "{", `{"act":"other","schema":3}`, `{"act":"back"}`} {
		put0(t, db+".note", bad)
		if n, err := ReadNote(db); err == nil {
			t.Errorf("%q: %+v", bad, n)
		}
	}
	if err := Settle(db); err != nil {
		t.Error(err)
	}
	if err := Settle(db); err != nil {
		t.Error(err)
	}
}

// The first process of an image is root; the note is for the box's own user.
func TestNoteOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(dir, "hallig.db")
	if err := Leave(db, Note{Act: Back, Schema: 8}); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(db + ".note")
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := st.Sys().(*syscall.Stat_t); !ok || s.Uid != 1000 || s.Gid != 1000 || st.Mode().Perm() != 0o600 {
		t.Errorf("%+v, mode %o", st.Sys(), st.Mode())
	}
}
