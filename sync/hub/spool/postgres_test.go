// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hallig/tools/testpostgres"
)

// cluster is the server that all tests share; stopCluster ends it.
var cluster struct {
	once   sync.Once
	server *testpostgres.Server
	err    error
	n      atomic.Int64
}

func postgresServer(t *testing.T) *testpostgres.Server {
	t.Helper()
	cluster.once.Do(func() { cluster.server, cluster.err = testpostgres.Start("fsync=off") }) // a killed server loses nothing by it, a power cut would
	if errors.Is(cluster.err, testpostgres.ErrMissing) {
		t.Skip(cluster.err)
	}
	must(t, cluster.err)
	return cluster.server
}

func stopCluster() {
	if cluster.server != nil {
		cluster.server.Stop()
	}
}

// database is a spool in a database of its own.
type database struct {
	server *testpostgres.Server
	name   string
}

func (d database) nodes() bool { return true }

func (d database) url() string { return d.server.URL(d.name) }

func (d database) open(t *testing.T, l Limits) Spool {
	t.Helper()
	s, err := Connect(t.Context(), d.url(), l, testLog(t))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func (d database) copy(t *testing.T) place {
	t.Helper()
	c := database{d.server, d.name + "_copy"}
	must(t, d.server.Create(c.name, d.name))
	return c
}

func newDatabase(t *testing.T) place {
	t.Helper()
	return databaseOf(t, postgresServer(t))
}

func databaseOf(t *testing.T, server *testpostgres.Server) database {
	t.Helper()
	d := database{server, fmt.Sprint("hub", cluster.n.Add(1))}
	must(t, d.server.Create(d.name, ""))
	return d
}

func TestPostgres(t *testing.T) { contract(t, newDatabase) }

func TestPostgresKilled(t *testing.T) {
	d := newDatabase(t).(database)
	killed(t, d, d.url(), 12)
}

// Three nodes start at once on an empty database.
func TestPostgresStart(t *testing.T) {
	d := newDatabase(t)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			s := d.open(t, Limits{})
			if err := s.PutBox(t.Context(), Box{Server: fmt.Sprint("box", i), ID: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
			if err := s.PutBox(t.Context(), Box{Server: "same", ID: "same"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	boxes, err := d.open(t, Limits{}).Boxes(t.Context())
	must(t, err)
	want(t, "boxes", len(boxes), 4)
}

func raw(t *testing.T, d database) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), d.url())
	must(t, err)
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

func TestPostgresNewer(t *testing.T) {
	d := newDatabase(t).(database)
	must(t, d.open(t, Limits{}).Close())
	_, err := raw(t, d).Exec(t.Context(), `UPDATE hallig_hub.spool SET version=2`)
	must(t, err)
	_, err = Connect(t.Context(), d.url(), Limits{}, nil)
	wantErr(t, "connect", err, ErrNewer)
}

// testdata/postgres-1.sql is the oldest schema that hubs may have, never changed: see TestOldestSchema.
func TestPostgresOldest(t *testing.T) {
	frozen, err := readFile("testdata/postgres-1.sql")
	must(t, err)
	old := newDatabase(t).(database)
	c := raw(t, old)
	_, err = c.Exec(t.Context(), `CREATE SCHEMA hallig_hub; SET search_path=hallig_hub;`+frozen+`;INSERT INTO spool VALUES (1, 'first', 0, 1);
		INSERT INTO box (server, id, statement, mode, revoked, added) VALUES ('a.example', 'A', '', 'sealed', '', 5)`)
	must(t, err)
	b, err := old.open(t, Limits{}).Box(t.Context(), "a.example")
	must(t, err)
	want(t, "the box", b.ID, "A")
	layout := func(d database) []string {
		rows, err := raw(t, d).Query(t.Context(), `SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(collation_name, '')
			FROM information_schema.columns WHERE table_schema='hallig_hub' UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname='hallig_hub' ORDER BY 1`)
		must(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(t, err)
		return lines
	}
	young := newDatabase(t).(database)
	young.open(t, Limits{})
	got, wanted := layout(old), layout(young)
	want(t, "layout", got, wanted)
	if len(wanted) < 60 {
		t.Errorf("only %d lines of layout", len(wanted))
	}
}

// What is there to be done stands in the error.
func TestPostgresAway(t *testing.T) {
	for url, text := range map[string]string{
		"postgres://hub:secret@/x?host=/nowhere": "is PostgreSQL running",
		"postgres://hub:secret@127.0.0.1:1/x":    "is PostgreSQL running",
		postgresServer(t).URL("nodatabase"):      "does not exist",
		"postgres://hub:secret@host:port/x":      "address of the hub's database",
	} {
		_, err := Connect(t.Context(), url, Limits{}, nil)
		if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", url, err)
		}
		if text == "is PostgreSQL running" {
			wantErr(t, url, err, ErrAway)
		}
	}
}

// A server that is set to lose what it promised (this one is, for the tests' speed) is named to the operator.
func TestPostgresUnsafe(t *testing.T) {
	d := newDatabase(t).(database)
	var log strings.Builder
	s, err := Connect(t.Context(), d.url(), Limits{}, slog.New(slog.NewTextHandler(&log, nil)))
	must(t, err)
	must(t, s.Close())
	if !strings.Contains(log.String(), "set fsync=on") {
		t.Errorf("log: %s", log.String())
	}
}

// Changes come from node to node: at once by a message, and without any message by the counters.
func TestPostgresNodes(t *testing.T) {
	d := newDatabase(t).(database)
	one := with(t, d, "a.example", "b.example", "c.example")
	two := d.open(t, Limits{})
	ch := two.Changes(t.Context())
	appended(t, one, in("a.example"), "1")
	drain(t, ch, "a.example")
	_, _, err := one.Acquire(t.Context(), "b.example", "n", t0, time.Minute, false)
	must(t, err)
	drain(t, ch, "b.example")

	// A node that dies between commit and message: the change is in the database only.
	silent := func() {
		_, err := raw(t, d).Exec(t.Context(), `UPDATE hallig_hub.tally SET changes=changes+1 WHERE box=(SELECT n FROM hallig_hub.box WHERE server='c.example')`)
		must(t, err)
		drain(t, ch, "c.example")
	}
	silent()
	must(t, one.Remove(t.Context(), "a.example"))
	drain(t, ch, "a.example")

	// Somebody sends nonsense: nothing that comes after it is lost.
	_, err = raw(t, d).Exec(t.Context(), `SELECT pg_notify('hallig_hub', E'x\n9000000000000000000 c.example\n5\n\n-1 c.example\n7 nobody')`)
	must(t, err)
	drain(t, ch, "c.example", "nobody")
	silent()
	appended(t, one, in("c.example"), "1")
	drain(t, ch, "c.example")
}

// The server goes at random moments, or one of its processes: acts fail with ErrAway meanwhile, tried again they go through, once; changes made while a node could not listen are heard.
func TestPostgresServerKilled(t *testing.T) {
	postgresServer(t) // or skip
	server, err := testpostgres.Start("fsync=off")
	must(t, err)
	defer server.Stop()
	d := databaseOf(t, server)
	one := with(t, d, "a.example", "b.example")
	two := d.open(t, Limits{})
	ch := two.Changes(t.Context())

	const writers, each = 4, 150
	var wg sync.WaitGroup
	var kept, failed atomic.Int64
	q := in("a.example")
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				for {
					_, err := one.Append(t.Context(), q, t0, request(fmt.Sprintf("%d-%d", w, i)))
					if err == nil {
						kept.Add(1)
						break
					}
					if failed.Add(1); !errors.Is(err, ErrAway) {
						t.Errorf("append: %v", err)
						return
					}
					time.Sleep(time.Millisecond) // the server is away in real time
				}
			}
		})
	}
	atLeast := func(n int64) {
		for kept.Load() < n && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
	}
	atLeast(60)
	must(t, server.Kill())
	must(t, server.Run())
	atLeast(200)
	var pid int
	must(t, raw(t, d).QueryRow(t.Context(), `SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'hallig-hub %' AND query NOT LIKE '%notify%' AND query NOT LIKE 'LISTEN%' LIMIT 1`).Scan(&pid))
	must(t, server.KillSession(pid))
	atLeast(350)
	must(t, server.Kill())
	must(t, server.Run())
	wg.Wait()
	got := keys(all(t, two, q))
	next := make([]int, writers)
	for _, k := range got {
		var w, i int
		fmt.Sscanf(k, "%d-%d", &w, &i)
		if next[w] != i {
			t.Fatalf("writer %d: %d came where %d was due", w, i, next[w])
		}
		next[w]++
	}
	want(t, "requests", len(got), writers*each)
	if failed.Load() == 0 {
		t.Error("nothing ever failed: the server was not away")
	}
	t.Logf("%d acts failed and were tried again", failed.Load())
	drain(t, ch, "a.example")
	appended(t, one, in("b.example"), "1")
	drain(t, ch, "b.example")
}

// Connections that died while nobody used them are replaced without a word: neither a question nor an act fails for one.
func TestPostgresStaleConnections(t *testing.T) {
	d := newDatabase(t).(database)
	s := with(t, d, "a.example").(*server)
	admin := raw(t, d)
	for what, use := range map[string]func(i int) error{
		"questions": func(int) error { _, err := s.Next(t.Context(), in("a.example"), 0, 100); return err },
		"one row":   func(int) error { _, err := s.Epoch(t.Context()); return err },
		"acts": func(i int) error {
			_, err := s.Append(t.Context(), in("a.example"), t0, request(fmt.Sprint(i)))
			return err
		},
	} {
		var open []*pgxpool.Conn
		for range 5 {
			c, err := s.pool.Acquire(t.Context())
			must(t, err)
			open = append(open, c)
		}
		for _, c := range open {
			c.Release()
		}
		_, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname=current_database() AND application_name LIKE 'hallig-hub %' AND query NOT LIKE 'LISTEN%'`)
		must(t, err)
		for i := range 10 {
			if err := use(i); err != nil {
				t.Errorf("%s, the %d. after: %v", what, i+1, err)
			}
		}
	}
	want(t, "requests", len(all(t, s, in("a.example"))), 10)
}

// A node that stops in the middle of an act, with a lock in its hand, holds the box up for seconds only.
func TestPostgresDeadNode(t *testing.T) {
	d := newDatabase(t).(database)
	one := with(t, d, "a.example").(*server)
	two := d.open(t, Limits{})
	tx, err := one.pool.Begin(t.Context())
	must(t, err)
	defer tx.Rollback(context.Background())
	_, err = lock(t.Context(), tx, "a.example")
	must(t, err)
	appended(t, two, in("a.example"), "1") // who waits for longer than the server's lock_timeout, 10 s, is refused
}

// A copy is not worked on while a node goes on with what it knew before.
func TestPostgresRestoredInUse(t *testing.T) {
	d := newDatabase(t)
	one := with(t, d, "a.example")
	two := d.open(t, Limits{})
	epoch, err := one.Epoch(t.Context())
	must(t, err)
	if err := one.Restored(t.Context()); !errors.Is(err, ErrInUse) || errors.Is(err, ErrAway) {
		t.Errorf("with another node: %v", err)
	}
	e, err := two.Epoch(t.Context())
	must(t, err)
	want(t, "epoch", e, epoch)
}

func FuzzNotice(f *testing.F) {
	f.Add("node\n5 a.example\n0 b.example")
	f.Add("\n\n-5 x\n9999999999999999999 y\n3")
	f.Fuzz(func(t *testing.T, text string) {
		boxes := map[string]int64{}
		node := readNotice(text, func(box string, changes int64) {
			if box == "" || changes < 0 {
				t.Fatalf("%q %d", box, changes)
			}
			boxes[box] = changes
		})
		if strings.Contains(node, "\n") {
			t.Fatalf("node %q", node)
		}
		again := map[string]int64{}
		for _, n := range notices("self", boxes) {
			if got := readNotice(n, func(box string, changes int64) { again[box] = changes }); got != "self" {
				t.Fatalf("node %q", got)
			}
		}
		want(t, "written and read", again, boxes)
	})
}

// Many boxes take several messages, none longer than the server allows.
func TestNotices(t *testing.T) {
	boxes := map[string]int64{}
	for i := range 2000 {
		boxes[fmt.Sprintf("box%d.%s.example", i, strings.Repeat("x", 50))] = int64(i)
	}
	var got []string
	texts := notices("self", boxes)
	for _, text := range texts {
		if len(text) >= 8000 {
			t.Errorf("a message of %d bytes", len(text))
		}
		readNotice(text, func(box string, changes int64) {
			if boxes[box] != changes {
				t.Errorf("%s: %d", box, changes)
			}
			got = append(got, box)
		})
	}
	slices.Sort(got)
	want(t, "boxes", len(slices.Compact(got)), 2000)
	want(t, "messages", len(texts) > 10, true)
}
