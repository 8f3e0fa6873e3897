// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	sqlite3 "github.com/mattn/go-sqlite3"
)

const maxBatch = 256

// writer owns the one connection that writes. It takes whatever waits, commits it with one flush, and answers; while that flush runs the next batch gathers.
type writer struct {
	f     *file
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	wake  chan struct{} // capacity 1
	fail  func() error  // tests only: fails a batch before its commit

	mu      sync.Mutex // guards the fields below
	waiting []*op
	closed  bool
}

// op is one act and whoever waits for it.
type op struct {
	f      func(*act) error
	small  bool // may use the reserve of a full disk: it frees more than it takes, or is a few bytes that must not be lost
	answer chan error
	err    error
	names  []string
}

// act is a write in progress; it sees its own changes.
type act struct {
	w     *writer
	names []string // boxes that Changes is to name after the commit
}

func newWriter(conn *sql.Conn, f *file) *writer {
	return &writer{f: f, conn: conn, stmts: make(map[string]*sql.Stmt), wake: make(chan struct{}, 1)}
}

// do queues f and returns after the commit that holds it. An f that fails is rolled back alone. ctx bounds nothing once it is queued: a caller that went would not know what happened.
func (w *writer) do(ctx context.Context, small bool, f func(*act) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o := &op{f: f, small: small, answer: make(chan error, 1)}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	w.waiting = append(w.waiting, o)
	w.mu.Unlock()
	w.poke()
	return <-o.answer
}

func (w *writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *writer) isClosed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed
}

func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.poke()
}

func (w *writer) run() {
	for {
		w.mu.Lock()
		n := min(len(w.waiting), maxBatch)
		batch := w.waiting[:n:n]
		if w.waiting = w.waiting[n:]; len(w.waiting) == 0 {
			w.waiting = nil
		}
		closed := w.closed
		w.mu.Unlock()
		switch {
		case n > 0:
			w.commit(batch)
		case closed:
			return
		default:
			<-w.wake
		}
	}
}

func (w *writer) commit(batch []*op) {
	err := sqliteError(w.transact(batch))
	if err != nil {
		w.f.log.Error("write to the hub's spool", "acts", len(batch), "err", err)
	}
	for _, o := range batch {
		if err == nil && o.err == nil {
			w.f.watch.tell(o.names...)
		}
		o.answer <- errors.Join(o.err, err)
	}
}

func (w *writer) transact(batch []*op) (err error) {
	free, err := w.f.free(filepath.Dir(w.f.path))
	if err != nil {
		return fmt.Errorf("ask for free disk space: %w", err)
	}
	tx := &act{w: w}
	if err := tx.exec(`BEGIN IMMEDIATE`); err != nil {
		return err
	}
	defer func() {
		if err != nil && !w.given() {
			err = errors.Join(err, tx.exec(`ROLLBACK`))
		}
	}()
	for _, o := range batch {
		if free < reserve && !o.small {
			o.err = fmt.Errorf("%w (%d bytes are free)", ErrNoSpace, free)
			continue
		}
		if err := w.step(o); err != nil {
			return err
		}
	}
	if w.fail != nil {
		if err := w.fail(); err != nil {
			return err
		}
	}
	return tx.exec(`COMMIT`)
}

// step runs one act in a savepoint of its own. Its error is the batch's.
func (w *writer) step(o *op) error {
	tx := &act{w: w}
	if err := tx.exec(`SAVEPOINT act`); err != nil {
		return err
	}
	if o.err = sqliteError(o.f(tx)); o.err != nil {
		if w.given() { // SQLite gave the whole transaction up (disk full, I/O error)
			return o.err
		}
		if err := tx.exec(`ROLLBACK TO act`); err != nil {
			return err
		}
	}
	o.names = tx.names
	return tx.exec(`RELEASE act`)
}

// given says that no transaction is open.
func (w *writer) given() (none bool) {
	err := w.conn.Raw(func(c any) error {
		none = c.(*sqlite3.SQLiteConn).AutoCommit()
		return nil
	})
	return none || err != nil
}

func (tx *act) tell(box string) { tx.names = append(tx.names, box) }

// stmt keeps prepared statements for the connection's life.
func (tx *act) stmt(q string) (*sql.Stmt, error) {
	if s := tx.w.stmts[q]; s != nil {
		return s, nil
	}
	s, err := tx.w.conn.PrepareContext(context.Background(), q)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", q, err)
	}
	tx.w.stmts[q] = s
	return s, nil
}

// exec runs a statement, or without arguments a script.
func (tx *act) exec(q string, args ...any) error {
	_, err := tx.execN(q, args...)
	return err
}

// execN also says how many rows changed.
func (tx *act) execN(q string, args ...any) (int64, error) {
	var res sql.Result
	var err error
	if len(args) == 0 {
		res, err = tx.w.conn.ExecContext(context.Background(), q)
	} else {
		var s *sql.Stmt
		if s, err = tx.stmt(q); err == nil {
			res, err = s.ExecContext(context.Background(), args...)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("run %.60q: %w", q, err)
	}
	return res.RowsAffected()
}

// one reads a single row; false: there is none.
func (tx *act) one(q string, args []any, dest ...any) (bool, error) {
	s, err := tx.stmt(q)
	if err != nil {
		return false, err
	}
	return scanned(q, s.QueryRowContext(context.Background(), args...).Scan(dest...))
}

func scanned(q string, err error) (bool, error) {
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %.60q: %w", q, err)
	}
	return true, nil
}

// one reads a single row outside of writes; false: there is none.
func (f *file) one(ctx context.Context, q string, args []any, dest ...any) (bool, error) {
	ok, err := scanned(q, f.read.QueryRowContext(ctx, q, args...).Scan(dest...))
	return ok, f.failed(err)
}

// each reads rows outside of writes until there are none or row says stop.
func (f *file) each(ctx context.Context, q string, args []any, row func(*sql.Rows) (stop bool, err error)) error {
	rows, err := f.read.QueryContext(ctx, q, args...)
	if err != nil {
		return f.failed(fmt.Errorf("read %.60q: %w", q, err))
	}
	defer rows.Close()
	for rows.Next() {
		stop, err := row(rows)
		if err != nil {
			return fmt.Errorf("read %.60q: %w", q, err)
		}
		if stop {
			return nil
		}
	}
	return f.failed(rows.Err())
}

// failed says what an error of a read means.
func (f *file) failed(err error) error {
	if err != nil && f.w.isClosed() {
		return ErrClosed
	}
	return sqliteError(err)
}
