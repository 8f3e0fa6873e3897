// SPDX-License-Identifier: EUPL-1.2

// Package store keeps everything a box must not lose, in one SQLite file, and is the only package that speaks SQL.
//
// It promises: what Do has answered is on the disk (WAL, synchronous=FULL; one flush per batch of whatever waited meanwhile); positions are handed out in
// commit order and published after the commit; a reader sees one consistent snapshot; a newer schema is refused; 64 MB of the disk stay free.
// It leaves to others what the rows mean: the law is in rules, the door is room.
//
// The file: application id "Hlg1", user_version = schema, schema/*.sql applied in name order in one transaction at creation.
// One goroutine owns the write connection; a few read connections are lent to View. Each owner of tables has its own file of methods beside its schema file.
package store

import (
	"context"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store/compact"
	"hallig/appliance/wayback"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

const (
	applicationID = 0x486c6731 // "Hlg1"
	schemaVersion = 18
	pageSize      = 1024
	walPages      = 8 << 20 / pageSize // the log is folded at this many pages: the more fold together, the less is written
	foldEvery     = 128                // acts between looks at the log's length
	posBlock      = 1 << 14            // positions reserved on disk at a time
	maxBatch      = 256
	maxWaiting    = 4096
	lazyDelay     = 2 * time.Second
	quietDelay    = 5 * time.Minute
	gatherMost    = 2 * time.Millisecond
)

// Options of Open. The zero value is right for a box.
type Options struct {
	Log     *slog.Logger
	Readers int                              // read connections; 0: 3
	Reserve int64                            // bytes of the disk that stay free; 0: wayback.Reserve, negative: none
	Free    func(dir string) (int64, error)  // how many bytes are free; nil: statfs
	Damaged func(err error)                  // told when the check after an unclean stop finds damage
	Trial   bool                             // an update is tried out: an older program may undo what Open does to the schema
	Schema  func() (names, scripts []string) // tests only: another schema
	newer   []string                         // tests only: migrations of a program that is newer than this one
	hooks   func(point string) error         // tests only: fails a batch at "commit"
}

// Full says that the disk has no room beyond the reserve. Nothing was written.
type Full struct{ Free int64 }

func (f *Full) Error() string {
	return fmt.Sprintf("store: disk is full (%d bytes free, reserve kept); delete media or enlarge the disk", f.Free)
}

// ErrClosed answers whoever comes after Close.
var ErrClosed = errors.New("store: closed")

// DB is the open database. All methods may be called from any goroutine.
type DB struct {
	path string
	opt  Options
	log  *slog.Logger
	lock *os.File // held with flock for the life of the DB: two boxes on one file would hand out the same positions

	note     wayback.Note // as found by Open
	restored bool

	published     atomic.Int64
	eventNID      atomic.Int64 // next numbers; in memory, because their rows come in the order the writer takes them
	groupNID      atomic.Int64
	flushes       atomic.Int64
	logsRefused   atomic.Int64
	logsRefusedAt time.Time    // when it was last told; the writer's
	gathering     atomic.Int32 // how many are about to queue more
	hurried       atomic.Int32 // how many wait for what is queued already
	// redactionsWait: there may be rows in redaction_wait. It spares every event a look.
	redactionsWait atomic.Bool
	// partials: there may be rows in partial. It spares every look at a room's servers a second table.
	partials  atomic.Bool
	stopCheck context.CancelFunc
	checked   chan struct{} // closed when the check after an unclean stop is over
	groups    *groupCache
	names     names
	ids       idCache
	servers   serverLists

	readers chan *conn // tokens: nil = not opened yet
	nread   int

	mu       sync.Mutex // guards the fields below
	waiting  []op
	lazy     []op
	closed   bool
	onCommit []func(Commit)

	wake   chan struct{} // capacity 1
	fold   chan struct{} // capacity 1: look at the log's length
	folded chan struct{} // the folder has stopped
	slots  chan struct{} // bounds what Do may have queued
	done   chan struct{} // writer has stopped
	w      *conn         // below: the writer's own
	pos    int64
	upTo   int64 // pos_ceiling as stored
	// written: numbers of events that the write in progress may refer to.
	written written
	ownLogs map[event.RoomID]*ownLog
	encoder compact.Encoder
	failed  error
}

// Open opens or creates the database file. Its directory must exist.
func Open(ctx context.Context, path string, opt Options) (*DB, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Readers <= 0 {
		opt.Readers = 3
	}
	if opt.Reserve == 0 {
		opt.Reserve = wayback.Reserve
	}
	if opt.Free == nil {
		opt.Free = freeBytes
	}
	db := &DB{path: path, opt: opt, log: opt.Log,
		checked: make(chan struct{}), wake: make(chan struct{}, 1), fold: make(chan struct{}, 1), folded: make(chan struct{}), slots: make(chan struct{}, maxWaiting), done: make(chan struct{}),
		ownLogs: make(map[event.RoomID]*ownLog), readers: make(chan *conn, opt.Readers), nread: opt.Readers, groups: newGroupCache(8 << 20)}
	if err := db.open(ctx); err != nil {
		if db.w != nil {
			db.w.close()
		}
		if db.lock != nil {
			db.lock.Close()
		}
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	for range opt.Readers {
		db.readers <- nil
	}
	go db.write()   // Close waits for it
	go db.folding() // and for it
	return db, nil
}

func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}

func (db *DB) open(ctx context.Context) error {
	fresh, err := db.openFile()
	if errors.Is(err, errNewer) {
		if err := db.putBack(); err != nil {
			return err
		}
		db.lock.Close()
		if fresh, err = db.openFile(); errors.Is(err, errNewer) {
			return errors.New("the copy that was put back is newer than this program")
		}
	}
	if err != nil {
		return err
	}
	if err := db.settleNote(); err != nil {
		return err
	}
	if err := db.w.script(fmt.Sprintf(`PRAGMA page_size=%d; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY;
		PRAGMA mmap_size=0; PRAGMA cache_size=-4000; PRAGMA cell_size_check=ON; PRAGMA wal_autocheckpoint=%d; PRAGMA journal_size_limit=%d`,
		pageSize, 4*walPages, 2*walPages*pageSize)); err != nil {
		return err
	}
	if fresh {
		if err := db.create(); err != nil {
			return fmt.Errorf("create schema: %w", err)
		}
	}
	if err := syncDir(filepath.Dir(db.path)); err != nil {
		return err
	}
	return db.start(ctx)
}

// openFile locks and opens the file as it is, and brings it to this program's schema; fresh: it is to be filled.
func (db *DB) openFile() (fresh bool, err error) {
	f, err := os.OpenFile(db.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	db.lock = f
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return false, fmt.Errorf("another process has it open: %w", err)
	}
	if err := f.Chmod(0o600); err != nil {
		return false, err
	}
	if db.note, err = wayback.ReadNote(db.path); err != nil {
		return false, err
	}
	if fresh, err = isEmpty(f); err != nil {
		return false, err
	}
	if db.w, err = openConn(db.dsn(false)); err != nil {
		return false, err
	}
	if db.note.Putting {
		return false, errNewer // begun and not finished
	}
	if !fresh {
		return db.checkIdentity()
	}
	return true, nil
}

func (db *DB) dsn(readOnly bool) string {
	q := "_mutex=no&_busy_timeout=10000&_cache_size=-1000"
	if readOnly {
		q += "&mode=ro&_query_only=1"
	} else {
		q += "&mode=rwc&_txlock=immediate"
	}
	return "file:" + (&url.URL{Path: db.path}).EscapedPath() + "?" + q
}

func isEmpty(f *os.File) (bool, error) {
	st, err := f.Stat()
	return err == nil && st.Size() == 0, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// checkIdentity refuses a file that is not ours or from a newer program. A creation that a power cut interrupted leaves a file without tables: it counts as fresh.
func (db *DB) checkIdentity() (fresh bool, err error) {
	r := &Read{db: db, c: db.w}
	var app, version, tables int64
	for sql, to := range map[string]*int64{`PRAGMA application_id`: &app, `PRAGMA user_version`: &version, `SELECT count(*) FROM sqlite_schema`: &tables} {
		if _, err := r.one(sql, nil, to); err != nil {
			return false, err
		}
	}
	switch {
	case app == 0 && version == 0 && tables == 0:
		return true, nil
	case app != applicationID:
		return false, fmt.Errorf("this is not a Hallig database (application id %#x)", app)
	case version > db.version():
		return false, db.newer(version)
	case version < db.version():
		if err := db.migrate(version); err != nil {
			return false, err
		}
	}
	return false, db.mendCustody()
}

// create applies every schema file in one transaction together with the application id, so that a half-made database cannot exist.
func (db *DB) create() error {
	names, scripts, err := db.schema()
	if err != nil {
		return err
	}
	if err := db.w.script("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for i, s := range scripts {
		if err := db.w.script(s); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", names[i], err), db.w.script("ROLLBACK"))
		}
	}
	return db.w.script(fmt.Sprintf(`PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT`, applicationID, schemaVersion))
}

func (db *DB) schema() (names, scripts []string, err error) {
	if db.opt.Schema != nil {
		names, scripts = db.opt.Schema()
		return names, scripts, nil
	}
	entries, err := schemaFiles.ReadDir("schema")
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	for _, n := range names {
		b, err := schemaFiles.ReadFile("schema/" + n)
		if err != nil {
			return nil, nil, err
		}
		scripts = append(scripts, string(b))
	}
	return names, scripts, nil
}

// start reads the counters and marks the database as in use.
func (db *DB) start(ctx context.Context) error {
	r := &Read{db: db, c: db.w}
	clean := int64(1)
	if _, err := r.one(`SELECT value FROM meta WHERE name='clean'`, nil, &clean); err != nil {
		return err
	}
	if _, err := r.one(`SELECT value FROM meta WHERE name='pos_ceiling'`, nil, &db.pos); err != nil {
		return err
	}
	last, group, err := r.LastNumbers()
	if err != nil {
		return err
	}
	var n int64
	waits, err := r.one(`SELECT redaction FROM redaction_wait LIMIT 1`, nil, &n)
	if err != nil {
		return err
	}
	db.redactionsWait.Store(waits)
	if waits, err = r.one(`SELECT room FROM partial LIMIT 1`, nil, &n); err != nil {
		return err
	}
	db.partials.Store(waits)
	db.eventNID.Store(last)
	db.groupNID.Store(group)
	db.upTo = db.pos + posBlock
	db.published.Store(db.pos)
	if err := db.names.open(db, r); err != nil {
		return err
	}
	tx := &Tx{Read: r}
	if err := tx.exec(`INSERT OR REPLACE INTO meta (name, value) VALUES ('clean', 0), ('pos_ceiling', ?)`, db.upTo); err != nil {
		return err
	}
	if clean != 0 {
		close(db.checked)
		return nil
	}
	ctx, db.stopCheck = context.WithCancel(context.WithoutCancel(ctx)) // it outlives Open
	go db.check(ctx)                                                   // Close ends it and waits for it through db.checked
	return nil
}

// check looks for damage after an unclean stop, while the box already works.
func (db *DB) check(ctx context.Context) {
	defer close(db.checked)
	c, err := openConn(db.dsn(true))
	if err != nil {
		db.log.Error("check database", "err", err)
		return
	}
	defer c.close()
	text, err := quickCheck(ctx, c)
	if ctx.Err() != nil {
		return
	}
	if err == nil && text != "ok" {
		err = errors.New(text)
	}
	if err != nil {
		db.log.Error("the database is damaged: restore the newest backup, then pair again", "err", err)
		if db.opt.Damaged != nil {
			db.opt.Damaged(err)
		}
		return
	}
	db.log.Info("database checked after an unclean stop: no damage")
}

// quickCheck is the one statement that can be interrupted: on a slow card it takes minutes.
func quickCheck(ctx context.Context, c *conn) (string, error) {
	rows, err := c.c.QueryContext(ctx, `PRAGMA quick_check(1)`, nil)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	vals := make([]driver.Value, 1)
	if err := rows.Next(vals); err != nil {
		return "", err
	}
	return asString(vals[0]), nil
}

// Checked is closed when the check after an unclean stop is over (at once after a clean one).
func (db *DB) Checked() <-chan struct{} { return db.checked }

// Published is the highest committed stream position: what a phone's token may say.
func (db *DB) Published() int64 { return db.published.Load() }

// Flushes counts, since Open, the flushes to the disk: one for each commit, two for each folding of the log into the file.
func (db *DB) Flushes() int64 { return db.flushes.Load() }

// LogsRefused counts, since Open, how often an event or word named a log that is one too many (ErrManyLogs).
func (db *DB) LogsRefused() int64 { return db.logsRefused.Load() }

// NextEvent and NextGroup hand out numbers for rows that are prepared before the writer takes them. A number that is not used leaves a hole.
func (db *DB) NextEvent() int64 { return db.eventNID.Add(1) }
func (db *DB) NextGroup() int64 { return db.groupNID.Add(1) }

// View gives f a consistent snapshot on a read connection. Keep it short: an open snapshot holds checkpoints up.
func (db *DB) View(ctx context.Context, f func(*Read) error) error {
	return db.lend(ctx, func(c *conn) error {
		if err := c.run(`BEGIN`, nil, nil); err != nil {
			return fmt.Errorf("begin read: %w", err)
		}
		defer c.run(`ROLLBACK`, nil, nil) // nothing to lose in a snapshot
		return f(&Read{db: db, c: c})
	})
}

// Peek is View for a single question: each one sees a snapshot of its own, at a third of the cost.
func (db *DB) Peek(ctx context.Context, f func(*Read) error) error {
	return db.lend(ctx, func(c *conn) error { return f(&Read{db: db, c: c}) })
}

// lend gives f a read connection.
func (db *DB) lend(ctx context.Context, f func(*conn) error) error {
	if err := ctx.Err(); err != nil { // a free reader would be as good a choice to select
		return err
	}
	var c *conn
	select {
	case c = <-db.readers:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.done:
		return ErrClosed
	}
	defer func() { db.readers <- c }()
	if c == nil {
		var err error
		if c, err = openConn(db.dsn(true)); err != nil {
			c = nil
			return fmt.Errorf("open read connection: %w", err)
		}
		if err := c.script(`PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0`); err != nil {
			return err
		}
	}
	return f(c)
}

// Close takes no more writes, finishes those that wait, folds the log into the file and closes it.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		<-db.done
		return nil
	}
	db.closed = true
	db.mu.Unlock()
	db.poke()
	<-db.done
	<-db.folded
	if db.stopCheck != nil {
		db.stopCheck()
	}
	<-db.checked
	for range db.nread {
		if c := <-db.readers; c != nil {
			c.close()
		}
	}
	db.names.close()
	tx := &Tx{Read: &Read{db: db, c: db.w}}
	err := db.failed
	if err == nil {
		err = tx.exec(`INSERT OR REPLACE INTO meta (name, value) VALUES ('clean', 1), ('pos_ceiling', ?)`, db.pos)
	}
	if err == nil {
		err = db.w.script(`PRAGMA wal_checkpoint(TRUNCATE)`)
	}
	return errors.Join(err, db.w.close(), db.lock.Close())
}

// Verify reads the whole file and reports damage. It takes as long as reading takes.
func (db *DB) Verify(ctx context.Context) error {
	return db.View(ctx, func(r *Read) error {
		var text string
		if _, err := r.one(`PRAGMA integrity_check(1)`, nil, &text); err != nil {
			return fmt.Errorf("check database: %w", err)
		}
		if text != "ok" {
			return fmt.Errorf("the database is damaged: %s", text)
		}
		return nil
	})
}
