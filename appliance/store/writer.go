// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"hallig/appliance/event"
)

// Commit tells subscribers what a batch changed. The slices may hold a name more than once only across batches, never within one.
type Commit struct {
	Pos   int64
	Rooms []event.RoomID // rooms with new events
	Users []event.UserID // to-device, account data, keys, invites
	Dests []string       // servers with something new to send
	Kinds uint32
}

// op is one act: a function for the writer and whoever waits for it.
type op struct {
	f     func(*Tx) error
	done  func(error)
	small bool // may use the reserve: it frees more than it takes, or is a few bytes that must not be lost
}

// Tx is a write in progress. It is valid inside the function it was given to and sees its own changes.
type Tx struct {
	*Read
	rooms []event.RoomID
	users []event.UserID
	dests []string
	kinds uint32
	fresh []*name // interned names whose rows this batch wrote
	then  []func()
}

// NextPos hands out the next stream position. Positions of a failed op are handed out again.
func (tx *Tx) NextPos() int64 {
	tx.db.pos++
	return tx.db.pos
}

// TouchRoom, TouchUser, TouchDest and TouchKind say what the Commit will list.
func (tx *Tx) TouchRoom(r event.RoomID) { tx.rooms = append(tx.rooms, r) }
func (tx *Tx) TouchUser(u event.UserID) { tx.users = append(tx.users, u) }
func (tx *Tx) TouchDest(server string)  { tx.dests = append(tx.dests, server) }
func (tx *Tx) TouchKind(kinds uint32)   { tx.kinds |= kinds }

// Then has f called from the writer's goroutine when the write is committed, before whoever waits for it is told, and not at all when it is not. f must not
// block.
func (tx *Tx) Then(f func()) { tx.then = append(tx.then, f) }

// exec runs one statement that changes data.
func (tx *Tx) exec(sql string, args ...any) error { return tx.c.run(sql, args, nil) }

// execN is exec that also says how many rows it changed.
func (tx *Tx) execN(sql string, args ...any) (int64, error) {
	if err := tx.c.run(sql, args, nil); err != nil {
		return 0, err
	}
	var n int64
	_, err := tx.one(`SELECT changes()`, nil, &n)
	return n, err
}

// Do queues f for the one writer and returns after the COMMIT that holds it. An f that returns an error is rolled back alone.
// ctx bounds only the wait to be queued: what is queued is decided by the writer. Not to be called from OnCommit or a done function.
func (db *DB) Do(ctx context.Context, f func(*Tx) error) error { return db.do(ctx, op{f: f}) }

// DoSmall is Do for acts that free space or store a few bytes (cursors, receipts, deletions): they may use the reserve of a full disk.
func (db *DB) DoSmall(ctx context.Context, f func(*Tx) error) error {
	return db.do(ctx, op{f: f, small: true})
}

func (db *DB) do(ctx context.Context, o op) error {
	select {
	case db.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-db.slots }()
	answer := make(chan error, 1)
	o.done = func(err error) { answer <- err }
	db.queue(o)
	return <-answer
}

// Queue is Do without waiting: done is called once, from the writer's goroutine, after commit or failure, and must not block. Ops run in the order queued.
func (db *DB) Queue(f func(*Tx) error, done func(error)) { db.queue(op{f: f, done: done}) }

func (db *DB) queue(o op) {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		o.done(ErrClosed)
		return
	}
	db.waiting = append(db.waiting, o)
	db.mu.Unlock()
	if db.gathering.Load() == 0 {
		db.poke()
	}
}

// Gather tells the writer that more acts are about to be queued, which may as well share a flush: it waits for them until release is called, a
// moment at most. release must be called before one waits for an answer.
func (db *DB) Gather() (release func()) {
	if db.gathering.Add(1) == 1 {
		db.poke() // the writer must know, as those who queue do not wake it now
	}
	return func() {
		db.gathering.Add(-1)
		db.poke()
	}
}

// Hurry tells the writer that somebody who holds a lock waits for what is queued: it does not wait for more until done is called.
func (db *DB) Hurry() (done func()) {
	db.hurried.Add(1)
	db.poke()
	return func() { db.hurried.Add(-1) }
}

// gather waits while somebody is about to queue more, and nobody is in a hurry.
func (db *DB) gather() {
	if db.gathering.Load() == 0 {
		return
	}
	most := time.NewTimer(gatherMost)
	defer most.Stop()
	for db.gathering.Load() > 0 && db.hurried.Load() == 0 {
		select {
		case <-db.wake:
		case <-most.C:
			return
		}
	}
}

// Lazy is for data that a power cut may take back (receipts, last-seen): it joins the next batch, or one of its own within 2 s.
func (db *DB) Lazy(f func(*Tx) error) {
	db.mu.Lock()
	if !db.closed {
		db.lazy = append(db.lazy, op{f: f})
	}
	db.mu.Unlock()
	db.poke()
}

// Hasten commits what was handed to Lazy before, for somebody who wants to see it now; it waits for that.
func (db *DB) Hasten(ctx context.Context) error {
	if !db.hasLazy() {
		return nil
	}
	return db.DoSmall(ctx, func(*Tx) error { return nil })
}

// OnCommit registers f to be told after each commit, from the writer's goroutine. f must not block.
func (db *DB) OnCommit(f func(Commit)) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.onCommit = append(db.onCommit, f)
}

func (db *DB) poke() {
	select {
	case db.wake <- struct{}{}:
	default:
	}
}

// write is the writer: it takes whatever waits, commits it in one transaction with one flush, and tells. There is no timer in the durable path:
// while one flush runs, the next batch collects by itself.
func (db *DB) write() {
	defer close(db.done)
	defer close(db.fold)
	acts := 0
	var lazyAt <-chan time.Time
	quiet := time.NewTimer(quietDelay)
	defer quiet.Stop()
	due, dirty := false, false
	for {
		db.gather()
		batch, closed := db.take(due)
		due = false
		if len(batch) > 0 {
			lazyAt = nil
			db.commit(batch)
			dirty = true
			quiet.Reset(quietDelay)
			if acts += len(batch); acts >= foldEvery {
				acts = 0
				select {
				case db.fold <- struct{}{}:
				default:
				}
			}
			continue
		}
		if closed {
			return
		}
		if db.gathering.Load() > 0 {
			continue
		}
		if lazyAt == nil && db.hasLazy() {
			lazyAt = time.After(lazyDelay)
		}
		select {
		case <-db.wake:
		case <-lazyAt:
			due, lazyAt = true, nil
		case <-quiet.C:
			if dirty {
				dirty = false
				if err := db.w.script(`PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
					db.log.Warn("fold the write-ahead log", "err", err)
				}
			}
		}
	}
}

// folding copies the write-ahead log into the file while the writer goes on: with a slow card that takes seconds, which nobody should wait for.
// Under load without a pause it cannot finish; then the writer itself does it (wal_autocheckpoint, at four times the length).
func (db *DB) folding() {
	defer close(db.folded)
	var c *conn
	defer func() {
		if c != nil {
			c.close()
		}
	}()
	for range db.fold {
		if c == nil {
			var err error
			if c, err = openConn(db.dsn(false)); err != nil {
				db.log.Warn("open connection to fold the write-ahead log", "err", err)
				c = nil
				continue
			}
		}
		if err := db.foldOnce(&Read{db: db, c: c}); err != nil {
			db.log.Warn("fold the write-ahead log", "err", err)
		}
	}
}

func (db *DB) foldOnce(r *Read) error {
	var busy, pages, done int64
	if _, err := r.one(`PRAGMA wal_checkpoint(NOOP)`, nil, &busy, &pages, &done); err != nil || pages-done < walPages {
		return err
	}
	_, err := r.one(`PRAGMA wal_checkpoint(PASSIVE)`, nil, &busy, &pages, &done)
	return err
}

func (db *DB) hasLazy() bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	return len(db.lazy) > 0
}

// take gives the next batch: durable ops with the lazy ones as companions, or the lazy ones alone when they are due or the store closes.
func (db *DB) take(due bool) (batch []op, closed bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	n := min(len(db.waiting), maxBatch)
	if n == 0 && !due && !db.closed {
		return nil, false
	}
	batch = append(batch, db.waiting[:n]...)
	db.waiting = db.waiting[n:]
	if len(db.waiting) == 0 {
		db.waiting = nil
	}
	batch = append(batch, db.lazy...)
	db.lazy = nil
	return batch, db.closed
}

// commit runs a batch and tells everyone about it.
func (db *DB) commit(batch []op) {
	tx := &Tx{Read: &Read{db: db, c: db.w}}
	errs := make([]error, len(batch))
	pos, upTo := db.pos, db.upTo
	err := db.transact(tx, batch, errs)
	if err != nil {
		db.pos, db.upTo = pos, upTo
		db.unlearn()
		err = fmt.Errorf("commit: %w", outOfSpace(err))
		db.log.Error("write to the database", "ops", len(batch), "err", err)
	} else {
		for _, n := range tx.fresh {
			n.stored.Store(true)
		}
		db.published.Store(db.pos)
		db.flushes.Add(1)
		for _, f := range tx.then {
			f()
		}
	}
	for i, o := range batch {
		if o.done == nil {
			if errs[i] != nil {
				db.log.Warn("lazy write", "err", errs[i])
			}
			continue
		}
		o.done(errors.Join(errs[i], err))
	}
	if err == nil {
		db.tell(tx)
	}
}

// outOfSpace says a full disk in our own words: another program may have taken the reserve.
func outOfSpace(err error) error {
	var e sqlite3.Error
	if errors.As(err, &e) && e.Code == sqlite3.ErrFull {
		return errors.Join(&Full{}, err)
	}
	return err
}

func (db *DB) transact(tx *Tx, batch []op, errs []error) (err error) {
	free, err := db.opt.Free(filepath.Dir(db.path))
	if err != nil {
		return fmt.Errorf("ask for free disk space: %w", err)
	}
	if err := db.w.run(`BEGIN IMMEDIATE`, nil, nil); err != nil {
		return err
	}
	defer func() {
		if err != nil && !db.w.c.AutoCommit() {
			err = errors.Join(err, db.w.run(`ROLLBACK`, nil, nil))
		}
	}()
	for i := range batch {
		if free < db.opt.Reserve && !batch[i].small {
			errs[i] = &Full{Free: free}
			continue
		}
		if errs[i], err = db.step(tx, batch[i].f); err != nil {
			return err
		}
	}
	if db.opt.hooks != nil {
		if err := db.opt.hooks("commit"); err != nil {
			return err
		}
	}
	return db.w.run(`COMMIT`, nil, nil)
}

// step runs one op in a savepoint of its own. The second error is the batch's.
func (db *DB) step(tx *Tx, f func(*Tx) error) (opErr, err error) {
	if err := db.w.run(`SAVEPOINT op`, nil, nil); err != nil {
		return nil, err
	}
	before, pos, upTo := *tx, db.pos, db.upTo
	opErr = outOfSpace(f(tx))
	if opErr == nil && db.pos > db.upTo {
		db.upTo = db.pos + posBlock
		opErr = tx.exec(`UPDATE meta SET value=? WHERE name='pos_ceiling'`, db.upTo)
	}
	if opErr != nil {
		*tx, db.pos, db.upTo = before, pos, upTo
		db.unlearn()
		if db.w.c.AutoCommit() { // SQLite gave the whole transaction up (disk full, I/O error)
			return opErr, opErr
		}
		if err := db.w.run(`ROLLBACK TO op`, nil, nil); err != nil {
			return opErr, err
		}
	}
	return opErr, db.w.run(`RELEASE op`, nil, nil)
}

// unlearn makes the writer forget what it knows of rows that it wrote: some of them are gone.
func (db *DB) unlearn() {
	clear(db.written)
	clear(db.ownLogs)
}

func (db *DB) tell(tx *Tx) {
	db.mu.Lock()
	subscribers := db.onCommit
	db.mu.Unlock()
	c := Commit{Pos: db.pos, Rooms: unique(tx.rooms), Users: unique(tx.users), Dests: unique(tx.dests), Kinds: tx.kinds}
	for _, f := range subscribers {
		f(c)
	}
}

// unique drops repetitions, in place and in order; batches are small.
func unique[T comparable](s []T) []T {
	if len(s) < 2 {
		return s
	}
	seen := make(map[T]struct{}, len(s))
	out := s[:0]
	for _, v := range s {
		if _, ok := seen[v]; !ok {
			seen[v] = struct{}{}
			out = append(out, v)
		}
	}
	return out
}
