// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"
)

//go:embed schema/sqlite.sql
var sqliteSchema string

const (
	sqliteID      = 0x486c6753 // "HlgS"
	sqliteVersion = 1
	reserve       = 64 << 20 // of the disk stay free for what ends things: settling, leases
)

// ErrDamaged says that the file cannot be read any more.
var ErrDamaged = errors.New("the hub's spool is damaged: stop the hub, put the file and its -wal aside, put the newest copy in its place and say so to the hub; without a copy start it with no file: " +
	"boxes pair again, and what central servers had sent to boxes that were away is lost")

// file is the spool of a hub on one machine: one SQLite file, one writer, one flush for whatever waits.
type file struct {
	watch  *watch
	hourly hourly
	path   string
	limits Limits
	log    *slog.Logger
	lock   *os.File // held with flock: two hubs on one file would both believe that they are alone
	free   func(dir string) (int64, error)
	seen   seen

	read    *sql.DB
	write   *sql.DB
	w       *writer
	stop    context.CancelFunc // ends the check and the lazy writes
	checked chan struct{}      // closed when the look for damage is over
	running sync.WaitGroup
	closing sync.Once
	closed  error
}

// Open opens or makes the spool of a hub on one machine. Its directory must exist. A file from a newer program: ErrNewer; one that cannot be read: ErrDamaged.
func Open(path string, limits Limits, log *slog.Logger) (Spool, error) {
	f, err := openFile(path, limits, log)
	if err != nil {
		err = errors.Join(sqliteError(err), f.closeFiles())
		return nil, fmt.Errorf("open the hub's spool %s: %w", path, err)
	}
	return f, nil
}

// openFile gives the file also with an error: it is to be closed then.
func openFile(path string, limits Limits, log *slog.Logger) (*file, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &file{watch: newWatch(), path: path, limits: limits.orDefault(), log: log, free: freeBytes, checked: make(chan struct{})}
	var err error
	if f.lock, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return f, err
	}
	if err := syscall.Flock(int(f.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return f, fmt.Errorf("another process has it open: %w", err)
	}
	if err := f.lock.Chmod(0o600); err != nil {
		return f, err
	}
	if f.write, err = sql.Open("sqlite3", f.dsn(false)); err != nil {
		return f, err
	}
	f.write.SetMaxOpenConns(1)
	if f.read, err = sql.Open("sqlite3", f.dsn(true)); err != nil {
		return f, err
	}
	f.read.SetMaxOpenConns(4)
	f.read.SetMaxIdleConns(4)
	conn, err := f.write.Conn(context.Background())
	if err != nil {
		return f, err
	}
	f.w = newWriter(conn, f)
	clean, err := f.prepare()
	if err != nil {
		return f, err
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	f.running.Go(f.w.run)
	f.running.Go(func() { f.lazily(ctx) })
	f.running.Go(func() {
		defer close(f.checked)
		if !clean {
			f.check(ctx)
		}
	})
	return f, nil
}

func (f *file) dsn(readOnly bool) string {
	q := "_mutex=no&_busy_timeout=10000&_cache_size=-4000"
	if readOnly {
		q += "&mode=ro&_query_only=1"
	} else {
		q += "&mode=rwc"
	}
	return "file:" + (&url.URL{Path: f.path}).EscapedPath() + "?" + q
}

func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// prepare brings the file to this program's schema; clean: the last stop was orderly.
func (f *file) prepare() (clean bool, err error) {
	tx := &act{w: f.w}
	var app, version, tables int64
	for q, to := range map[string]*int64{`PRAGMA application_id`: &app, `PRAGMA user_version`: &version, `SELECT count(*) FROM sqlite_schema`: &tables} {
		if _, err := tx.one(q, nil, to); err != nil {
			return false, err
		}
	}
	fresh := app == 0 && version == 0 && tables == 0
	switch {
	case fresh:
	case app != sqliteID:
		return false, fmt.Errorf("this is not a hub's spool (application id %#x)", app)
	case version > sqliteVersion:
		return false, fmt.Errorf("%w (schema %d, this program's is %d)", ErrNewer, version, sqliteVersion)
	}
	if err := tx.exec(`PRAGMA page_size=1024; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0; PRAGMA cell_size_check=ON;
		PRAGMA wal_autocheckpoint=8192; PRAGMA journal_size_limit=33554432`); err != nil {
		return false, err
	}
	if fresh { // in one transaction with the application id: a half-made file cannot be
		err := tx.exec(fmt.Sprintf("BEGIN IMMEDIATE;%s;INSERT INTO spool (one, epoch, floor, clean) VALUES (1, '%s', 0, 1);PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT",
			sqliteSchema, newEpoch(), sqliteID, sqliteVersion))
		if err != nil {
			return false, fmt.Errorf("make schema: %w", err)
		}
		if err := syncDir(filepath.Dir(f.path)); err != nil {
			return false, err
		}
	}
	if _, err := tx.one(`SELECT clean FROM spool`, nil, &clean); err != nil {
		return false, err
	}
	return clean, tx.exec(`UPDATE spool SET clean=0`)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// check looks for damage after an unclean stop, while the hub already works.
func (f *file) check(ctx context.Context) {
	var text string
	err := f.read.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&text)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		f.log.Error("check the spool after an unclean stop", "err", sqliteError(err))
	case text != "ok":
		f.log.Error(ErrDamaged.Error(), "found", text)
	default:
		f.log.Info("the spool was checked after an unclean stop: no damage")
	}
}

// lazily writes down contacts from time to time.
func (f *file) lazily(ctx context.Context) {
	t := time.NewTicker(seenEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := f.writeSeen(); err != nil {
				f.log.Warn("write down the boxes' last contacts", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// Close finishes what waits, folds the log into the file and closes it.
func (f *file) Close() error {
	f.closing.Do(func() {
		err := f.writeSeen()
		f.stop()
		f.w.close()
		f.running.Wait()
		f.watch.close()
		tx := &act{w: f.w}
		err = errors.Join(err, tx.exec(`UPDATE spool SET clean=1`), tx.exec(`PRAGMA wal_checkpoint(TRUNCATE)`))
		f.closed = errors.Join(err, f.closeFiles())
	})
	return f.closed
}

func (f *file) closeFiles() (err error) {
	if f.w != nil {
		err = errors.Join(err, f.w.conn.Close())
	}
	for _, db := range []*sql.DB{f.read, f.write} {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	if f.lock != nil { // last: to close it drops SQLite's own locks on the file
		err = errors.Join(err, f.lock.Close())
	}
	return err
}

// Changes is part of Spool.
func (f *file) Changes(ctx context.Context) <-chan string { return f.watch.changes(ctx) }

// sqliteError says in our words what operators can do something about.
func sqliteError(err error) error {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code {
	case sqlite3.ErrFull:
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}
