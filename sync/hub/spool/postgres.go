// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed schema/postgres.sql
var postgresSchema string

const (
	postgresVersion = 1
	schemaLock      = 0x486c6753 // advisory lock of whoever makes or changes the schema
	postgresPool    = 16         // connections of a node, unless pool_max_conns says otherwise
	actLimit        = 20 * time.Second
)

// settings of each session. A node that dies in the middle of an act holds a box up only until the server notices.
var settings = map[string]string{
	"search_path":                         "hallig_hub",
	"synchronous_commit":                  "on",
	"idle_in_transaction_session_timeout": "4000",
	"lock_timeout":                        "10000",
	"tcp_keepalives_idle":                 "5",
	"tcp_keepalives_interval":             "2",
	"tcp_keepalives_count":                "2",
}

// server is the spool of several nodes behind one name, in a PostgreSQL database. Each node has a pool of connections and one more that listens.
type server struct {
	watch  *watch
	hourly hourly
	limits Limits
	log    *slog.Logger
	pool   *pgxpool.Pool
	where  string // host and database, for people
	seen   seen
	news   *news

	ctx     context.Context // ends with Close; for the loops alone
	stop    context.CancelFunc
	running sync.WaitGroup
	closing sync.Once
	closed  error
}

// Connect opens the spool in a PostgreSQL database (12 or newer), and makes or migrates its schema, hallig_hub, under a lock, so that nodes may start at once. url is
// postgres://USER@HOST/DATABASE or what else libpq takes; with several hosts add target_session_attrs=read-write. No pooler may stand between: LISTEN and the settings of a session must
// work. A schema from a newer program: ErrNewer; no database: ErrAway.
func Connect(ctx context.Context, url string, limits Limits, log *slog.Logger) (Spool, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("address of the hub's database: %w", err) // pgx leaves the password out
	}
	for name, value := range settings {
		config.ConnConfig.RuntimeParams[name] = value
	}
	name := "hallig-hub " + newEpoch()[:8] // another one for each node, for Restored and for who looks at the server
	config.ConnConfig.RuntimeParams["application_name"] = name
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	if !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = postgresPool
	}
	p := &server{watch: newWatch(), limits: limits.orDefault(), log: log, where: config.ConnConfig.Host + "/" + config.ConnConfig.Database}
	p.ctx, p.stop = context.WithCancel(context.Background())
	if p.pool, err = pgxpool.NewWithConfig(p.ctx, config); err != nil {
		p.stop()
		return nil, p.failed(ctx, err)
	}
	if err := p.prepare(ctx); err != nil {
		p.stop()
		p.pool.Close()
		return nil, fmt.Errorf("open the hub's spool: %w", err)
	}
	p.news = newNews(p)
	p.running.Go(func() { p.news.run(p.ctx) })
	p.running.Go(p.lazily)
	return p, nil
}

// prepare brings the database to this program's schema.
func (p *server) prepare(ctx context.Context) error {
	return p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(schemaLock)); err != nil {
			return err
		}
		var there bool
		var fsync, pages string
		if err := tx.QueryRow(ctx, `SELECT to_regclass('hallig_hub.spool') IS NOT NULL, current_setting('fsync'), current_setting('full_page_writes')`).Scan(&there, &fsync, &pages); err != nil {
			return err
		}
		if fsync != "on" || pages != "on" {
			p.log.Error("the database server is set not to flush what it promises: a power cut may lose or damage everything; set fsync=on and full_page_writes=on in postgresql.conf and restart it", "at", p.where)
		}
		if !there {
			return p.create(ctx, tx)
		}
		var version int
		if err := tx.QueryRow(ctx, `SELECT version FROM spool`).Scan(&version); err != nil {
			return err
		}
		if version > postgresVersion {
			return fmt.Errorf("%w (schema %d in %s, this program's is %d)", ErrNewer, version, p.where, postgresVersion)
		}
		return nil
	})
}

func (p *server) create(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS hallig_hub`); err != nil {
		return fmt.Errorf("make the schema (the database must belong to the user: CREATE DATABASE %s OWNER %s): %w", tx.Conn().Config().Database, tx.Conn().Config().User, err)
	}
	if _, err := tx.Exec(ctx, postgresSchema); err != nil {
		return fmt.Errorf("make the tables: %w", err)
	}
	_, err := tx.Exec(ctx, `INSERT INTO spool (one, epoch, floor, version) VALUES (1, $1, 0, $2)`, newEpoch(), postgresVersion)
	return err
}

// act runs f in one transaction. Its error says whether the database was there. f may be run more than once.
func (p *server) act(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	return p.on(ctx, func(ctx context.Context, conn *pgxpool.Conn) (bool, error) {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return true, err
		}
		if err := f(ctx, tx); err != nil {
			_ = tx.Rollback(ctx) // what is not committed goes with the connection as well
			return true, err
		}
		err = tx.Commit(ctx)
		return pgconn.SafeToRetry(err), err
	})
}

// on has f work on a connection. A pool learns that a connection is dead (the server was restarted, somebody ended the session) when it is used: then f is run again on another one, as long as f says
// that nothing of it can have happened.
func (p *server) on(ctx context.Context, f func(context.Context, *pgxpool.Conn) (harmless bool, err error)) error {
	limited, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	for left := p.pool.Config().MaxConns; ; left-- {
		conn, err := p.pool.Acquire(limited)
		if err != nil {
			return p.failed(ctx, err)
		}
		harmless, err := f(limited, conn)
		dead := conn.Conn().IsClosed()
		conn.Release()
		if err == nil || !dead || !harmless || left == 0 || limited.Err() != nil {
			return p.failed(ctx, err)
		}
	}
}

// one reads a single row; false: there is none.
func (p *server) one(ctx context.Context, q string, args []any, dest ...any) (bool, error) {
	return found(p.on(ctx, func(ctx context.Context, conn *pgxpool.Conn) (bool, error) {
		return true, conn.QueryRow(ctx, q, args...).Scan(dest...)
	}))
}

// found turns "no rows" into false.
func found(err error) (bool, error) {
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// rowsOf reads all rows.
func rowsOf[T any](ctx context.Context, p *server, row func(pgx.CollectableRow) (T, error), q string, args ...any) (list []T, err error) {
	err = p.on(ctx, func(ctx context.Context, conn *pgxpool.Conn) (bool, error) {
		rows, err := conn.Query(ctx, q, args...)
		if err != nil {
			return true, err
		}
		list, err = pgx.CollectRows(rows, row)
		return true, err
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list, nil
}

// failed says in our words what operators can do something about, and what may be tried again.
func (p *server) failed(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if caller := (callers{}); errors.As(err, &caller) {
		return caller.error
	}
	for _, ours := range []error{ErrUnknown, ErrTaken, ErrFenced, ErrFull, ErrTooMuch, ErrNewer, ErrInUse} {
		if errors.Is(err, ours) {
			return err
		}
	}
	if p.ctx.Err() != nil {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) { // the connection failed
		return fmt.Errorf("%w: %s: is PostgreSQL running there, and is the hub let in? %w", ErrAway, p.where, err)
	}
	switch {
	case e.Code == "53100":
		return fmt.Errorf("%w: %s: %w", ErrNoSpace, p.where, err)
	case e.Code == "25006":
		return fmt.Errorf("%w: %s takes no writes: name the primary too and add target_session_attrs=read-write: %w", ErrAway, p.where, err)
	case e.Code == "55P03", e.Code == "25P03", e.Code == "57014", strings.HasPrefix(e.Code, "08"), strings.HasPrefix(e.Code, "40"), strings.HasPrefix(e.Code, "53"), strings.HasPrefix(e.Code, "57P"):
		return fmt.Errorf("%w: %s: %w", ErrAway, p.where, err)
	}
	return fmt.Errorf("database %s: %w", p.where, err)
}

// callers is an error of whoever called, to be given back as it is.
type callers struct{ error }

// lazily writes down contacts from time to time.
func (p *server) lazily() {
	t := time.NewTicker(seenEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := p.writeSeen(p.ctx); err != nil && p.ctx.Err() == nil {
				p.log.Warn("write down the boxes' last contacts", "err", err)
			}
		case <-p.ctx.Done():
			return
		}
	}
}

// Close is part of Spool.
func (p *server) Close() error {
	p.closing.Do(func() {
		p.closed = p.writeSeen(p.ctx)
		p.stop()
		p.running.Wait()
		p.watch.close()
		p.pool.Close()
	})
	return p.closed
}
