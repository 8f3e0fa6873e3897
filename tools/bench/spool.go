// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hallig/sync/hub/spool"
	"hallig/tools/testpostgres"
)

const spoolHow = "1000 boxes, 32 senders at once, requests of 2 kB, each answered after its flush; "

// spoolSQLite and spoolPostgres measure a hub's memory: how fast what the world sends is kept, and what one request costs the disk from its arrival until it is forgotten.
func spoolSQLite(ctx context.Context, b *bench) error {
	return b.inDir(func(dir string) error {
		s, err := spool.Open(filepath.Join(dir, "spool.db"), spool.Limits{}, nil)
		if err != nil {
			return err
		}
		defer s.Close()
		rate, written, err := spoolLoad(ctx, s, func() (int64, error) { return ioWritten(os.Getpid()) })
		b.say("spool_append_per_s_sqlite", rate, "1/s", spoolHow+"one SQLite file")
		b.say("spool_bytes_written_sqlite", written, "B", spoolHow+"write_bytes of the process for one request that comes, is handed on and settled, log and checkpoints included")
		return err
	})
}

func spoolPostgres(ctx context.Context, b *bench) error {
	server, err := testpostgres.Start()
	if errors.Is(err, testpostgres.ErrMissing) {
		fmt.Println("# spool_append_per_s_pg: not measured:", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer server.Stop()
	if err := server.Create("hub", ""); err != nil {
		return err
	}
	s, err := spool.Connect(ctx, server.URL("hub"), spool.Limits{}, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	rate, written, err := spoolLoad(ctx, s, server.Written)
	b.say("spool_append_per_s_pg", rate, "1/s", spoolHow+"PostgreSQL as Debian sets it, on the same machine over a unix socket, one node")
	b.say("spool_bytes_written_pg", written, "B", spoolHow+"log and pages, by the server's own count, for one request that comes, is handed on and settled, a checkpoint at the end included")
	return err
}

func spoolLoad(ctx context.Context, s spool.Spool, written func() (int64, error)) (rate, perRequest float64, err error) {
	const boxes, senders, n = 1000, 32, 12_000
	name := func(i int) string { return fmt.Sprintf("box%d.example", i%boxes) }
	for i := range boxes {
		if err := s.PutBox(ctx, spool.Box{Server: name(i), ID: name(i), Mode: spool.Sealed}); err != nil {
			return 0, 0, err
		}
	}
	before, err := written()
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	queue := func(i int) spool.Queue { return spool.Queue{Box: name(i), Other: "central.example", In: true} }
	err = many(senders, n, func(i int) error {
		_, err := s.Append(ctx, queue(i), begin, spool.Request{Key: fmt.Sprint(i), Method: "PUT", URI: fmt.Sprintf("/_matrix/federation/v1/send/%d", i),
			Authorization: "X-Matrix " + text(200), Body: []byte(text(1800))})
		return err
	})
	took := time.Since(begin)
	if err != nil {
		return 0, 0, err
	}
	if err := many(senders, boxes, func(i int) error {
		rs, err := s.Next(ctx, queue(i), 0, 1<<20)
		if err != nil || len(rs) != n/boxes {
			return errors.Join(err, fmt.Errorf("%d requests wait", len(rs)))
		}
		for _, r := range rs {
			if err := s.Settle(ctx, queue(i), r.Seq, begin, spool.Lease{}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return 0, 0, err
	}
	after, err := written()
	return n / took.Seconds(), float64(after-before) / n, err
}

// many does n things, some at once, until the first error.
func many(atOnce, n int, f func(i int) error) error {
	var next atomic.Int64
	errs := make([]error, atOnce)
	var wg sync.WaitGroup
	for w := range atOnce {
		wg.Go(func() {
			for errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				errs[w] = f(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// text is as hard to compress as base64.
func text(n int) string {
	var b strings.Builder
	for range n {
		b.WriteByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[rand.IntN(64)])
	}
	return b.String()
}

// ioWritten is write_bytes of a process.
func ioWritten(pid int) (n int64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if _, err := fmt.Sscanf(line, "write_bytes: %d", &n); err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("no write_bytes in /proc/%d/io", pid)
}
