// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// background is what every statement runs under: with a context that can be cancelled the driver would start a goroutine per statement.
var background = context.Background()

// conn is one raw SQLite connection with its prepared statements. It belongs to one goroutine at a time.
// The statements are kept for the connection's life; database/sql is left out because it costs as much as a point read.
type conn struct {
	c     *sqlite3.SQLiteConn
	stmts map[string]*stmt
}

type stmt struct {
	s    *sqlite3.SQLiteStmt
	args []driver.NamedValue
	vals []driver.Value
	busy bool
}

func openConn(dsn string) (*conn, error) {
	d := &sqlite3.SQLiteDriver{}
	dc, err := d.Open(dsn)
	if err != nil {
		return nil, err
	}
	return &conn{c: dc.(*sqlite3.SQLiteConn), stmts: make(map[string]*stmt)}, nil
}

func (c *conn) close() error {
	for _, s := range c.stmts {
		s.s.Close()
	}
	c.stmts = nil
	return c.c.Close()
}

// script runs several statements without arguments.
func (c *conn) script(sql string) error {
	_, err := c.c.ExecContext(background, sql, nil)
	return err
}

// stmt gives the prepared statement for sql; a statement that is still being read gets a twin.
func (c *conn) stmt(sql string) (*stmt, error) {
	if s := c.stmts[sql]; s != nil && !s.busy {
		return s, nil
	}
	ds, err := c.c.Prepare(sql)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", sql, err)
	}
	s := &stmt{s: ds.(*sqlite3.SQLiteStmt)}
	if c.stmts[sql] == nil {
		c.stmts[sql] = s
	}
	return s, nil
}

func (s *stmt) bind(args []any) error {
	if cap(s.args) < len(args) {
		s.args = make([]driver.NamedValue, len(args))
	}
	s.args = s.args[:len(args)]
	for i, a := range args {
		v, err := value(a)
		if err != nil {
			return err
		}
		s.args[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return nil
}

// value turns what a caller passes into one of the driver's types.
func value(a any) (driver.Value, error) {
	switch v := a.(type) {
	case nil, int64, string, []byte, float64:
		return v, nil
	case int:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case uint32:
		return int64(v), nil
	case uint64:
		return int64(v), nil
	case bool:
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	case *string:
		if v == nil {
			return nil, nil
		}
		return *v, nil
	case *int64:
		if v == nil {
			return nil, nil
		}
		return *v, nil
	}
	return otherValue(a)
}

// run steps the statement once or, with f, for every row. Data changes go this way too: the driver binds and steps in one cgo call here,
// where its Exec needs one per argument.
func (c *conn) run(sql string, args []any, f func(*Row) error) error {
	s, err := c.stmt(sql)
	if err != nil {
		return err
	}
	if err := s.bind(args); err != nil {
		return fmt.Errorf("bind %q: %w", sql, err)
	}
	s.busy = true
	defer func() {
		s.busy = false
		clear(s.args)
		if c.stmts[sql] != s {
			s.s.Close()
		}
	}()
	rows, err := s.s.QueryContext(background, s.args)
	if err != nil {
		return fmt.Errorf("query %q: %w", sql, err)
	}
	if f == nil {
		// The first step was taken by QueryContext. A statement without rows is done.
		return rows.Close()
	}
	if s.vals == nil {
		s.vals = make([]driver.Value, len(rows.Columns()))
	}
	row := Row{vals: s.vals}
	for {
		err := rows.Next(s.vals)
		if errors.Is(err, io.EOF) {
			return rows.Close()
		}
		if err == nil {
			err = f(&row)
		}
		if err != nil {
			rows.Close()
			if errors.Is(err, errStop) {
				return nil
			}
			return err
		}
	}
}

// errStop ends a loop over rows early without an error.
var errStop = errors.New("stop")

// Row is one row of an answer; it is valid until the callback returns (blobs and strings are copies and stay).
type Row struct{ vals []driver.Value }

// Scan copies the columns into *int64, *int, *string, *[]byte, *bool, **string or **int64 and the named string types of this package's callers.
func (r *Row) Scan(dest ...any) error {
	if len(dest) != len(r.vals) {
		return fmt.Errorf("scan: %d columns into %d places", len(r.vals), len(dest))
	}
	for i, d := range dest {
		if err := scanValue(d, r.vals[i]); err != nil {
			return fmt.Errorf("scan column %d: %w", i, err)
		}
	}
	return nil
}

func scanValue(dest any, v driver.Value) error {
	switch d := dest.(type) {
	case *int64:
		*d = asInt(v)
	case *int:
		*d = int(asInt(v))
	case *uint32:
		*d = uint32(asInt(v))
	case *bool:
		*d = asInt(v) != 0
	case *string:
		*d = asString(v)
	case *[]byte:
		*d = asBytes(v)
	case **string:
		if v == nil {
			*d = nil
		} else {
			s := asString(v)
			*d = &s
		}
	case **int64:
		if v == nil {
			*d = nil
		} else {
			n := asInt(v)
			*d = &n
		}
	default:
		return scanOther(dest, v)
	}
	return nil
}

func asInt(v driver.Value) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case float64:
		return int64(v)
	case bool:
		if v {
			return 1
		}
	}
	return 0
}

func asString(v driver.Value) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

func asBytes(v driver.Value) []byte {
	switch v := v.(type) {
	case []byte:
		return v
	case string:
		return []byte(v)
	}
	return nil
}
