// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

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

// BenchmarkSend is a message through the door: built, signed, judged, stored, flushed; one room with 8 members.
func BenchmarkSend(b *testing.B) {
	for _, senders := range []int{1, 10} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			db, err := store.Open(b.Context(), filepath.Join(b.TempDir(), "hallig.db"), store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			r := New(db, Identity{Server: "a", Key: testKey("a")}, Options{})
			users := make([]event.UserID, 8)
			room, err := r.Create(b.Context(), CreateRequest{Creator: alice, Preset: "public_chat"})
			if err != nil {
				b.Fatal(err)
			}
			for i := range users {
				users[i] = event.UserID(fmt.Sprintf("@u%d:a", i))
				if _, err := r.Send(b.Context(), member(room, users[i], users[i], "join")); err != nil {
					b.Fatal(err)
				}
			}
			var commits, next atomic.Int64
			db.OnCommit(func(store.Commit) { commits.Add(1) })
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
						d := text(room, users[s%8], strings.Repeat("Das Wasser steigt. ", 5))
						d.Txn = &Txn{Device: "DEVICE", ID: fmt.Sprint("m", i), Path: "/send"}
						if _, err := r.Send(context.Background(), d); err != nil {
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

// BenchmarkAccept is a message of another server through the door, one after the other, without its signature check: on the only end, and on one of two
// ends after a partition.
func BenchmarkAccept(b *testing.B) {
	for _, fork := range []bool{false, true} {
		b.Run(fmt.Sprintf("fork=%v", fork), func(b *testing.B) {
			x, y := newBox(b, "a"), newBox(b, "b")
			room := x.create(CreateRequest{Creator: alice, Preset: "public_chat"})
			joinRemote(b, x, y, room, carol)
			for i := range 200 {
				u := event.UserID(fmt.Sprintf("@m%d:a", i))
				p := x.pdu(x.send(member(room, u, u, "join")))
				if _, err := y.Accept(b.Context(), Incoming{PDU: p, From: Source{"link", "a"}}); err != nil {
					b.Fatal(err)
				}
			}
			if fork {
				x.send(text(room, alice, "allein"))
				x.send(state(room, alice, "m.room.topic", "", `{"topic":"allein"}`))
			}
			ps := make([]*event.PDU, b.N)
			for i := range ps {
				ps[i] = y.pdu(y.send(text(room, carol, strings.Repeat("Das Wasser steigt. ", 5))))
			}
			cpu, written := usage(b)
			b.ResetTimer()
			for _, p := range ps {
				if res, err := x.Accept(b.Context(), Incoming{PDU: p, From: Source{"link", "b"}}); err != nil || res.Outcome != Accepted {
					b.Fatal(res, err)
				}
			}
			b.StopTimer()
			cpu2, written2 := usage(b)
			b.ReportMetric(float64(cpu2-cpu)/float64(b.N), "cpu-us/op")
			b.ReportMetric(float64(written2-written)/float64(b.N), "disk-B/op")
		})
	}
}

// BenchmarkMerge is a state event on one of two ends in a room of 200: each one is a state resolution.
func BenchmarkMerge(b *testing.B) {
	x, y := newBox(b, "a"), newBox(b, "b")
	room := x.create(CreateRequest{Creator: alice, Preset: "public_chat"})
	joinRemote(b, x, y, room, carol)
	for i := range 200 {
		u := event.UserID(fmt.Sprintf("@m%d:a", i))
		p := x.pdu(x.send(member(room, u, u, "join")))
		if _, err := y.Accept(b.Context(), Incoming{PDU: p, From: Source{"link", "a"}}); err != nil {
			b.Fatal(err)
		}
	}
	x.send(state(room, alice, "m.room.topic", "", `{"topic":"allein"}`))
	ps := make([]*event.PDU, b.N)
	for i := range ps {
		ps[i] = y.pdu(y.send(state(room, carol, "m.room.member", string(carol), fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i))))
	}
	cpu, written := usage(b)
	b.ResetTimer()
	for _, p := range ps {
		if res, err := x.Accept(b.Context(), Incoming{PDU: p, From: Source{"link", "b"}}); err != nil || res.Outcome != Accepted {
			b.Fatal(res, err)
		}
	}
	b.StopTimer()
	cpu2, written2 := usage(b)
	b.ReportMetric(float64(cpu2-cpu)/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(written2-written)/float64(b.N), "disk-B/op")
}
