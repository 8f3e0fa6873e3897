// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hallig/appliance/event"
)

func open(t *testing.T, path string, opt Options) *DB {
	t.Helper()
	db, err := Open(context.Background(), path, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func fresh(t *testing.T) *DB { return open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{}) }

func TestFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	open(t, path, Options{})
	for _, name := range []string{path, path + "-wal"} {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := st.Mode().Perm(); got != 0o600 {
			t.Errorf("%s: mode %o, want 600", filepath.Base(name), got)
		}
	}
}

func TestSettings(t *testing.T) {
	db := fresh(t)
	want := map[string]string{"synchronous": "2", "journal_mode": "wal", "page_size": fmt.Sprint(pageSize), "foreign_keys": "1", "mmap_size": "0"}
	for name, want := range want {
		if err := db.Do(t.Context(), func(tx *Tx) error {
			return tx.each(`PRAGMA `+name, nil, func(row *Row) error {
				if got := fmt.Sprint(row.vals[0]); got != want {
					t.Errorf("%s = %s, want %s", name, got, want)
				}
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	open(t, path, Options{})
	if _, err := Open(context.Background(), path, Options{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v", err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	db := open(t, path, Options{})
	if err := db.Do(t.Context(), func(tx *Tx) error { return tx.exec(`PRAGMA user_version=99`) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Open(context.Background(), path, Options{})
	if err == nil || !strings.Contains(err.Error(), "schema 99 is newer") {
		t.Errorf("got %v", err)
	}
}

func TestForeignFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), path, Options{}); err == nil {
		t.Error("a text file was opened as a database")
	}
}

// A creation that was interrupted before its transaction leaves no tables; the next start makes them.
func TestInterruptedCreation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	boom := errors.New("power cut")
	_, err := Open(context.Background(), path, Options{Schema: func() ([]string, []string) {
		return []string{"broken"}, []string{"CREATE TABLE a (b INTEGER) STRICT; " + boom.Error()}
	}})
	if err == nil {
		t.Fatal("a broken schema was accepted")
	}
	db := open(t, path, Options{})
	var n int64
	if err := db.View(t.Context(), func(r *Read) error {
		_, err := r.one(`SELECT count(*) FROM sqlite_schema WHERE name='event'`, nil, &n)
		return err
	}); err != nil || n != 1 {
		t.Errorf("event table: %d, %v", n, err)
	}
}

func TestFailedOpIsAlone(t *testing.T) {
	db := fresh(t)
	boom := errors.New("no")
	var wg sync.WaitGroup
	errs := make([]error, 20)
	var pos [20]int64
	for i := range errs {
		wg.Go(func() {
			errs[i] = db.Do(context.Background(), func(tx *Tx) error {
				pos[i] = tx.NextPos()
				if err := tx.exec(`INSERT INTO alias (alias, room, creator) VALUES (?, 1, 1)`, fmt.Sprint(i)); err != nil {
					return err
				}
				if i%3 == 0 {
					return boom
				}
				return nil
			})
		})
	}
	wg.Wait()
	var got int64
	if err := db.View(t.Context(), func(r *Read) error {
		_, err := r.one(`SELECT count(*) FROM alias`, nil, &got)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var kept []int64
	for i, err := range errs {
		if want := i%3 == 0; errors.Is(err, boom) != want {
			t.Errorf("op %d: %v", i, err)
		}
		if i%3 != 0 {
			kept = append(kept, pos[i])
		}
	}
	if got != int64(len(kept)) {
		t.Errorf("%d rows, want %d", got, len(kept))
	}
	slices.Sort(kept)
	if n := len(slices.Compact(kept)); int64(n) != got || db.Published() != kept[n-1] {
		t.Errorf("positions %v, published %d", kept, db.Published())
	}
}

// A batch whose commit fails tells every waiting caller so, and nothing of it is there; the next one works.
func TestFailedCommit(t *testing.T) {
	fail := true
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{hooks: func(string) error {
		if fail {
			return errors.New("disk says no")
		}
		return nil
	}})
	var told atomic.Int32
	db.OnCommit(func(Commit) { told.Add(1) })
	before := db.Published()
	add := func(tx *Tx) error {
		tx.NextPos()
		return tx.SetPublished("!r:x", true)
	}
	if err := db.Do(t.Context(), add); err == nil || !strings.Contains(err.Error(), "disk says no") {
		t.Errorf("got %v", err)
	}
	if db.Published() != before || told.Load() != 0 {
		t.Errorf("published %d, want %d; told %d times", db.Published(), before, told.Load())
	}
	fail = false
	if err := db.Do(t.Context(), add); err != nil {
		t.Fatal(err)
	}
	if db.Published() != before+1 {
		t.Errorf("published %d, want %d", db.Published(), before+1)
	}
	if err := db.View(t.Context(), func(r *Read) error {
		ok, err := r.Published("!r:x")
		if !ok {
			t.Error("row is missing: the room's name was not written again")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil { // the subscriber was told before the writer stopped
		t.Fatal(err)
	}
	if told.Load() != 1 {
		t.Errorf("told %d times, want once", told.Load())
	}
}

func TestFullDisk(t *testing.T) {
	free := int64(1 << 30)
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{Free: func(string) (int64, error) { return free, nil }})
	nothing := func(*Tx) error { return nil }
	if err := db.Do(t.Context(), nothing); err != nil {
		t.Fatal(err)
	}
	free = 63 << 20
	var full *Full
	if err := db.Do(t.Context(), nothing); !errors.As(err, &full) || full.Free != free {
		t.Errorf("got %v", err)
	}
	if err := db.DoSmall(t.Context(), nothing); err != nil {
		t.Errorf("the reserve is for small acts: %v", err)
	}
	free = 65 << 20
	if err := db.Do(t.Context(), nothing); err != nil {
		t.Errorf("after freeing space: %v", err)
	}
}

// Positions never go back, not even when the process died without a word.
func TestPositionsSurviveDeath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "hallig.db")
	db := open(t, path, Options{})
	var last int64
	for range 5 {
		if err := db.Do(t.Context(), func(tx *Tx) error { last = tx.NextPos(); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	copied := filepath.Join(t.TempDir(), "hallig.db")
	for _, end := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + end)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied+end, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db2 := open(t, copied, Options{})
	<-db2.Checked()
	var next int64
	if err := db2.Do(t.Context(), func(tx *Tx) error { next = tx.NextPos(); return nil }); err != nil {
		t.Fatal(err)
	}
	if next <= last {
		t.Errorf("position %d after %d", next, last)
	}
}

func TestDamageIsFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	db := open(t, path, Options{})
	for i := range 200 {
		if err := db.Do(t.Context(), func(tx *Tx) error {
			_, err := tx.SetAlias(fmt.Sprintf("#%d:%s", i, strings.Repeat("x", 100)), "!r:x", "@a:x")
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.DoSmall(t.Context(), func(tx *Tx) error { return tx.exec(`UPDATE meta SET value=0 WHERE name='clean'`) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(strings.Repeat("rotten", 300)), st.Size()-2*pageSize); err != nil {
		t.Fatal(err)
	}
	// Close marks the file as clean: take the mark away, as a crash would have.
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := openConn("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.script(`UPDATE meta SET value=0 WHERE name='clean'`); err != nil {
		t.Fatal(err)
	}
	c.close()
	var damage error
	db, err = Open(t.Context(), path, Options{Damaged: func(err error) { damage = err }})
	if err != nil {
		t.Fatal(err)
	}
	<-db.Checked()
	db.Close()
	if damage == nil {
		t.Error("damage was not found")
	}
}

func TestLazyJoinsOrComesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
		var commits, ran atomic.Int32
		db.OnCommit(func(Commit) { commits.Add(1) })
		lazy := func(*Tx) error { ran.Add(1); return nil }
		db.Lazy(lazy)
		synctest.Wait()
		if ran.Load() != 0 {
			t.Error("a lazy act did not wait for company")
		}
		if err := db.Do(t.Context(), func(*Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if ran.Load() != 1 || commits.Load() != 1 {
			t.Errorf("ran %d times in %d commits, want 1 in 1", ran.Load(), commits.Load())
		}
		db.Lazy(lazy)
		start := time.Now()
		for ran.Load() < 2 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		if d := time.Since(start); d > 2100*time.Millisecond || commits.Load() != 2 {
			t.Errorf("came alone after %v in %d commits", d, commits.Load())
		}
		db.Lazy(lazy)
		db.Close()
		if ran.Load() != 3 {
			t.Error("Close forgot a lazy act")
		}
	})
}

func TestCommitTellsOnce(t *testing.T) {
	db := fresh(t)
	var got Commit
	db.OnCommit(func(c Commit) { got = c })
	if err := db.Do(t.Context(), func(tx *Tx) error {
		tx.TouchRoom("!a:x")
		tx.TouchRoom("!b:x")
		tx.TouchRoom("!a:x")
		tx.TouchUser("@u:x")
		tx.TouchDest("y")
		tx.TouchKind(4)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil { // the subscriber ran before the writer stopped
		t.Fatal(err)
	}
	if !slices.Equal(got.Rooms, []event.RoomID{"!a:x", "!b:x"}) || len(got.Users) != 1 || len(got.Dests) != 1 || got.Kinds != 4 {
		t.Errorf("got %+v", got)
	}
}

// A snapshot does not move while writes go on.
func TestViewIsASnapshot(t *testing.T) {
	db := fresh(t)
	count := func(r *Read) (n int64) {
		if _, err := r.one(`SELECT count(*) FROM alias`, nil, &n); err != nil {
			t.Error(err)
		}
		return n
	}
	if err := db.View(t.Context(), func(r *Read) error {
		if n := count(r); n != 0 {
			t.Errorf("got %d", n)
		}
		if err := db.Do(context.Background(), func(tx *Tx) error { _, err := tx.SetAlias("#a:x", "!r:x", "@u:x"); return err }); err != nil {
			return err
		}
		if n := count(r); n != 0 {
			t.Errorf("the snapshot moved: %d", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.View(t.Context(), func(r *Read) error {
		if n := count(r); n != 1 {
			t.Errorf("got %d", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// The disk fills up behind our back: SQLite says so in the middle of a batch. The caller is told as of any full disk; afterwards the store works.
func TestDiskFullBehindOurBack(t *testing.T) {
	db := fresh(t)
	var pages int64
	limit := func(n string) {
		t.Helper()
		if err := db.Do(t.Context(), func(tx *Tx) error {
			_, err := tx.one(`PRAGMA max_page_count=`+n, nil, &pages)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	limit("1") // SQLite takes the present size as the least
	big := func(tx *Tx) error {
		_, err := tx.SetAlias(strings.Repeat("#", 100*pageSize), "!r:x", "@u:x")
		return err
	}
	var full *Full
	if err := db.Do(t.Context(), big); !errors.As(err, &full) {
		t.Errorf("got %v", err)
	}
	limit("1000000")
	if err := db.Do(t.Context(), big); err != nil {
		t.Error(err)
	}
}

// The writer waits for those who are about to queue more, but not while somebody waits for what is queued.
func TestHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
		for _, hurry := range []bool{false, true} {
			release := db.Gather()
			start := time.Now()
			answer := make(chan error, 1)
			db.Queue(func(*Tx) error { return nil }, func(err error) { answer <- err })
			done := func() {}
			if hurry {
				done = db.Hurry()
			}
			if err := <-answer; err != nil {
				t.Error(err)
			}
			if waited := time.Since(start) > 0; waited == hurry {
				t.Errorf("in a hurry %t: the writer waited %t", hurry, waited)
			}
			done()
			release()
			synctest.Wait()
		}
	})
}
