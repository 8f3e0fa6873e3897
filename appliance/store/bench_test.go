// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"hallig/appliance/event"
)

// usage gives the process's CPU time in microseconds and the bytes it caused to be written.
func usage(b *testing.B) (cpu, written int64) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	raw, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		fmt.Sscanf(line, "write_bytes: %d", &written)
	}
	return (u.Utime.Nano() + u.Stime.Nano()) / 1000, written
}

// BenchmarkInsert is the store's share of a message: event row, indexes, transaction id, in one room.
func BenchmarkInsert(b *testing.B) {
	for _, senders := range []int{1, 10} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			db, err := Open(b.Context(), filepath.Join(b.TempDir(), "hallig.db"), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			body := []byte(strings.Repeat("x", 700))
			var commits, next atomic.Int64
			db.OnCommit(func(Commit) { commits.Add(1) })
			cpu, written := usage(b)
			b.ResetTimer()
			var wg sync.WaitGroup
			for s := range senders {
				wg.Go(func() {
					for {
						i := next.Add(1)
						if i > int64(b.N) {
							return
						}
						h := sha256.Sum256(fmt.Append(nil, s, i))
						e := &Event{NID: db.NextEvent(), ID: event.ID("$" + base64.RawURLEncoding.EncodeToString(h[:])), Room: "!r:x", Type: "m.room.message",
							Sender: event.UserID(fmt.Sprintf("@u%d:x", s)), Depth: i, TS: 1e12 + i, Before: 1, TxnDevice: "DEVICE", TxnID: fmt.Sprint("m", i), JSON: body}
						if err := db.Do(context.Background(), func(tx *Tx) error {
							e.Pos = tx.NextPos()
							if _, err := tx.UseTxn(e.Sender, e.TxnDevice, "/send", e.TxnID, e.NID); err != nil {
								return err
							}
							return tx.InsertEvent(e, false)
						}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			cpu2, written2 := usage(b)
			b.ReportMetric(float64(cpu2-cpu)/float64(b.N), "cpu-us/op")
			b.ReportMetric(float64(written2-written)/float64(b.N), "disk-B/op")
			b.ReportMetric(float64(commits.Load())/float64(b.N), "flushes/op")
		})
	}
}

// BenchmarkTimeline reads 20 events of a room's middle, as a client that pages back does, from rows as they are written now and as the first
// release wrote them.
func BenchmarkTimeline(b *testing.B) {
	for _, plain := range []bool{false, true} {
		b.Run(fmt.Sprintf("plain=%t", plain), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "hallig.db")
			db, err := Open(b.Context(), path, Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			const n, page = 4000, 20
			es := []*Event{rowFor(b, db, `{}`)}
			for i := range n {
				es = append(es, rowFor(b, db, fmt.Sprintf(`{"body":"%d %s","msgtype":"m.text"}`, i, strings.Repeat("Sand ", 60)), es[i].ID))
			}
			insert(b, db, es...)
			if plain {
				if err := db.Do(b.Context(), func(tx *Tx) error {
					for _, e := range es {
						if err := tx.exec(`UPDATE event SET json=? WHERE nid=?`, e.JSON, e.NID); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			at := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				at = (at + 997) % (n - page)
				if err := db.View(b.Context(), func(r *Read) error {
					got, err := r.RoomEventsBetween("!r:a.example", 0, at+page, page, true)
					if len(got) != page {
						b.Fatalf("%d events", len(got))
					}
					return err
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*page), "ns/event")
		})
	}
}
