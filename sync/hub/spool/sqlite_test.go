// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// oneFile is a spool in one file.
type oneFile struct{ path string }

func (p oneFile) nodes() bool { return false }

func (p oneFile) open(t *testing.T, l Limits) Spool {
	t.Helper()
	s, err := Open(p.path, l, testLog(t))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func (p oneFile) copy(t *testing.T) place {
	t.Helper()
	raw, err := os.ReadFile(p.path)
	must(t, err)
	must(t, os.WriteFile(p.path+".copy", raw, 0o600))
	return oneFile{p.path + ".copy"}
}

func readFile(path string) (string, error) {
	raw, err := os.ReadFile(path)
	return string(raw), err
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func newFile(t *testing.T) place { return oneFile{filepath.Join(t.TempDir(), "spool.db")} }

func TestSQLite(t *testing.T) { contract(t, newFile) }

// rows counts what is kept of queues, requests and nodes.
func rows(t *testing.T, s Spool) []int {
	t.Helper()
	var q, r, n int
	const text = `SELECT (SELECT count(*) FROM queue), (SELECT count(*) FROM request), (SELECT count(*) FROM node)`
	switch s := s.(type) {
	case *file:
		_, err := s.one(t.Context(), text, nil, &q, &r, &n)
		must(t, err)
	case *server:
		_, err := s.one(t.Context(), text, nil, &q, &r, &n)
		must(t, err)
	}
	return []int{q, r, n}
}

// A batch that cannot be committed answers everybody with the error and leaves nothing behind; one act that fails leaves the others alone.
func TestBatch(t *testing.T) {
	f := with(t, newFile(t), "a.example").(*file)
	broken := errors.New("no")
	f.w.fail = func() error { return broken }
	_, err := f.Append(t.Context(), in("a.example"), t0, request("1"))
	wantErr(t, "append", err, broken)
	f.w.fail = nil
	want(t, "what waits", len(all(t, f, in("a.example"))), 0)

	hold, held := make(chan struct{}), make(chan struct{})
	go f.w.do(t.Context(), false, func(*act) error { close(held); <-hold; return nil })
	<-held // what comes now is one batch
	errs := make(chan error, 3)
	for _, box := range []string{"a.example", "nobody.example", "a.example"} {
		n := len(f.w.queued())
		go func() {
			_, err := f.Append(t.Context(), in(box), t0, request(box+string(rune('0'+n))))
			errs <- err
		}()
		for len(f.w.queued()) == n {
		}
	}
	close(hold)
	var failed []error
	for range 3 {
		if err := <-errs; err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) != 1 || !errors.Is(failed[0], ErrUnknown) {
		t.Errorf("errors: %v", failed)
	}
	want(t, "what waits", len(all(t, f, in("a.example"))), 2)
}

func (w *writer) queued() []*op {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting
}

// On a full disk nothing new is taken in, but what is there can be worked off.
func TestFullDisk(t *testing.T) {
	f := with(t, newFile(t), "a.example").(*file)
	ctx := t.Context()
	appended(t, f, in("a.example"), "1")
	f.free = func(string) (int64, error) { return reserve - 1, nil }
	_, err := f.Append(ctx, in("a.example"), t0, request("2"))
	wantErr(t, "append", err, ErrNoSpace)
	wantErr(t, "deposit", f.Deposit(ctx, "a.example", "k", "v", []byte("x")), ErrNoSpace)
	_, ok, err := f.Acquire(ctx, "a.example", "n", t0, 1, false)
	if err != nil || !ok {
		t.Error(ok, err)
	}
	must(t, f.Settle(ctx, in("a.example"), 1<<40, t0, Lease{}))
	want(t, "what waits", len(all(t, f, in("a.example"))), 0)
}

// Files that are not ours, newer than us, damaged or in use are left as they are, with a word on what to do.
func TestForeignFile(t *testing.T) {
	dir := t.TempDir()
	fresh := func(name string) string {
		path := filepath.Join(dir, name)
		s, err := Open(path, Limits{}, testLog(t))
		must(t, err)
		must(t, s.PutBox(t.Context(), Box{Server: "a.example", ID: "A"}))
		must(t, s.Close())
		return path
	}
	refused := func(path string, wanted error, text string) {
		t.Helper()
		before, err := os.ReadFile(path)
		must(t, err)
		s, err := Open(path, Limits{}, testLog(t))
		if err == nil {
			s.Close()
			t.Fatalf("%s was opened", path)
		}
		if wanted != nil && !errors.Is(err, wanted) || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v", err)
		}
		after, err := os.ReadFile(path)
		must(t, err)
		if string(before) != string(after) {
			t.Errorf("%s was changed", path)
		}
	}
	alter := func(path, script string) {
		t.Helper()
		f, err := openFile(path, Limits{}, testLog(t))
		must(t, err)
		must(t, (&act{w: f.w}).exec(script))
		must(t, f.Close())
	}
	newer := fresh("newer.db")
	alter(newer, `PRAGMA user_version=2`)
	refused(newer, ErrNewer, "schema 2")

	other := fresh("other.db")
	alter(other, `PRAGMA application_id=7`)
	refused(other, nil, "not a hub's spool")

	text := filepath.Join(dir, "text.db")
	must(t, os.WriteFile(text, []byte(strings.Repeat("this is a letter to my aunt\n", 200)), 0o600))
	refused(text, ErrDamaged, "newest copy")

	torn := fresh("torn.db")
	raw, err := os.ReadFile(torn)
	must(t, err)
	for i := 100; i < 2048; i++ {
		raw[i] ^= 0x5a
	}
	must(t, os.WriteFile(torn, raw, 0o600))
	refused(torn, ErrDamaged, "newest copy")

	used := fresh("used.db")
	s, err := Open(used, Limits{}, testLog(t))
	must(t, err)
	defer s.Close()
	refused(used, nil, "another process")
}

func TestSQLiteKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool.db")
	killed(t, oneFile{path}, path, 12)
}

// testdata/sqlite-1.sql is the oldest schema that hubs may have. A file made with it must open, keep what it holds, and then be what a new one is. It is never
// changed: a new table or column is a new sqliteVersion with a step that leads there.
func TestOldestSchema(t *testing.T) {
	frozen, err := readFile("testdata/sqlite-1.sql")
	must(t, err)
	path := filepath.Join(t.TempDir(), "old.db")
	db, err := sql.Open("sqlite3", path)
	must(t, err)
	_, err = db.Exec(fmt.Sprintf(`%s; INSERT INTO spool VALUES (1, 'first', 0, 1); PRAGMA application_id=%d; PRAGMA user_version=1;
		INSERT INTO box (server, id, statement, mode, revoked, added) VALUES ('a.example', 'A', x'00', 'sealed', '', 5)`, frozen, sqliteID))
	must(t, err)
	must(t, db.Close())
	old := oneFile{path}.open(t, Limits{}).(*file)
	b, err := old.Box(t.Context(), "a.example")
	must(t, err)
	want(t, "the box", b.ID, "A")
	layout := func(f *file) (out []string) {
		must(t, f.each(t.Context(), `SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY 1`, nil, func(r *sql.Rows) (bool, error) {
			var line string
			err := r.Scan(&line)
			out = append(out, line)
			return false, err
		}))
		return out
	}
	want(t, "layout", layout(old), layout(newFile(t).open(t, Limits{}).(*file)))
}

// A stop that was not orderly is followed by a look for damage.
func TestUncleanStop(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool.db")
	f, err := openFile(path, Limits{}, nil)
	must(t, err)
	must(t, f.Close())
	db, err := sql.Open("sqlite3", path)
	must(t, err)
	var clean bool
	must(t, db.QueryRow(`SELECT clean FROM spool`).Scan(&clean))
	want(t, "clean after Close", clean, true)
	_, err = db.Exec(`UPDATE spool SET clean=0`)
	must(t, err)
	must(t, db.Close())
	var log strings.Builder
	f, err = openFile(path, Limits{}, slog.New(slog.NewTextHandler(&log, nil)))
	must(t, err)
	<-f.checked
	must(t, f.Close())
	if !strings.Contains(log.String(), "no damage") {
		t.Errorf("log: %s", log.String())
	}
}
