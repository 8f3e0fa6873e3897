// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// This file is the part of the contract that is about what waits.

func testOrder(t *testing.T, p place) {
	s := with(t, p, "a.example")
	q := in("a.example")
	var wanted []string
	for i := range 300 {
		wanted = append(wanted, fmt.Sprint("k", (i*7)%300))
	}
	appended(t, s, q, wanted[:20]...)
	var rest []Request
	for _, k := range wanted[20:] {
		rest = append(rest, request(k))
	}
	n, err := s.Append(t.Context(), q, t0, rest...)
	must(t, err)
	want(t, "fresh", n, 280)
	want(t, "order", keys(all(t, s, q)), wanted)
	out := Queue{Box: "a.example", Other: "central.example"}
	want(t, "the other direction", len(all(t, s, out)), 0)
	appended(t, s, out, "k0")
	want(t, "the other direction", keys(all(t, s, out)), []string{"k0"})

	one := request("k0")
	few, err := s.Next(t.Context(), q, 0, int(one.size()*3))
	must(t, err)
	if len(few) < 2 || len(few) > 3 {
		t.Errorf("%d requests in room for three", len(few))
	}
	few, err = s.Next(t.Context(), q, 0, 1)
	must(t, err)
	want(t, "in room for none", keys(few), wanted[:1])
	few, err = s.Next(t.Context(), q, few[0].Seq, 1)
	must(t, err)
	want(t, "the second", keys(few), wanted[1:2])
}

// What comes from outside comes out byte by byte.
func testBytes(t *testing.T, p place) {
	s := with(t, p, "a.example")
	q := in("a.example")
	big := bytes.Repeat([]byte{0, 1, 0xff, '{'}, 300_000)
	rs := []Request{
		{Key: "\x00\xff'", Method: "\xc3", URI: "/?\x00\xfe", Authorization: "\xf0\x28", Body: big, Received: t0.Add(-time.Second)},
		{Key: strings.Repeat("long", 5000), Body: []byte{}},
		{},
	}
	n, err := s.Append(t.Context(), q, t0, rs...)
	must(t, err)
	want(t, "fresh", n, 3)
	got := all(t, s, q)
	if len(got) != 3 {
		t.Fatalf("%d requests", len(got))
	}
	for i, r := range rs {
		g := got[i]
		if r.Received.IsZero() {
			r.Received = t0
		}
		if g.Key != r.Key || g.Method != r.Method || g.URI != r.URI || g.Authorization != r.Authorization || !bytes.Equal(g.Body, r.Body) || !g.Received.Equal(r.Received) {
			t.Errorf("request %d has changed: %.200q", i, fmt.Sprintf("%+v", g))
		}
	}
}

func testIdempotent(t *testing.T, p place) {
	s := with(t, p, "a.example")
	q := in("a.example")
	ctx := t.Context()
	n, err := s.Append(ctx, q, t0, request("1"), request("2"), request("1"))
	must(t, err)
	want(t, "fresh of three with a twin", n, 2)
	changed := request("2")
	changed.Body = []byte("another")
	n, err = s.Append(ctx, q, t0, changed, request("3"))
	must(t, err)
	want(t, "fresh of two", n, 1)
	got := all(t, s, q)
	want(t, "order", keys(got), []string{"1", "2", "3"})
	want(t, "the first one stays", string(got[1].Body), string(request("2").Body))
	ws, err := s.Waiting(ctx, "")
	must(t, err)
	if len(ws) != 1 || ws[0].Count != 3 {
		t.Errorf("waiting: %+v", ws)
	}

	// Twenty at once with one key.
	var wg sync.WaitGroup
	total := make(chan int, 20)
	for range 20 {
		wg.Go(func() {
			n, err := s.Append(ctx, q, t0, request("same"))
			if err != nil {
				t.Error(err)
			}
			total <- n
		})
	}
	wg.Wait()
	close(total)
	sum := 0
	for n := range total {
		sum += n
	}
	want(t, "fresh of twenty twins", sum, 1)
}

func testRemembered(t *testing.T, p place) {
	s := with(t, p, "a.example")
	q := in("a.example")
	ctx := t.Context()
	appended(t, s, q, "1", "2", "3")
	rs := all(t, s, q)
	must(t, s.Settle(ctx, q, rs[1].Seq, t0.Add(time.Hour), Lease{}))
	n, err := s.Append(ctx, q, t0.Add(48*time.Hour), request("1"), request("2"))
	must(t, err)
	want(t, "fresh within 48 hours", n, 0)
	n, err = s.Append(ctx, q, t0.Add(50*time.Hour), request("1"))
	must(t, err)
	want(t, "fresh after 48 hours", n, 1)
	want(t, "order", keys(all(t, s, q)), []string{"3", "1"})
	n, err = s.Append(ctx, q, t0.Add(500*time.Hour), request("3"))
	must(t, err)
	want(t, "what waits is known for ever", n, 0)

	// Settled for good, the memory goes with the time, a few at a time.
	settle := func(key string, now time.Time) {
		t.Helper()
		_, err := s.Append(ctx, q, now, request(key))
		must(t, err)
		must(t, s.Settle(ctx, q, 1<<40, now, Lease{}))
	}
	for i := range 40 {
		settle(fmt.Sprint("x", i), t0.Add(time.Duration(500+i)*time.Hour))
	}
	for i := range 40 {
		n, err := s.Append(ctx, q, t0.Add(547*time.Hour), request(fmt.Sprint("x", i)))
		must(t, err)
		want(t, fmt.Sprint("fresh x", i), n, 0)
	}
	for i := range 10 {
		settle(fmt.Sprint("y", i), t0.Add(700*time.Hour))
	}
	want(t, "rows that are left", rows(t, s)[1], 10)
}

func testSettle(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example")
	q := in("a.example")
	ctx := t.Context()
	must(t, s.Settle(ctx, q, 5, t0, Lease{})) // nothing there
	appended(t, s, q, "1", "2", "3")
	appended(t, s, Queue{Box: "a.example", Other: "other.example", In: true}, "1")
	appended(t, s, in("b.example"), "1")
	rs := all(t, s, q)
	must(t, s.Settle(ctx, q, rs[0].Seq-1, t0, Lease{}))
	want(t, "before the first", keys(all(t, s, q)), []string{"1", "2", "3"})
	for range 2 {
		must(t, s.Settle(ctx, q, rs[1].Seq, t0, Lease{}))
		want(t, "after two", keys(all(t, s, q)), []string{"3"})
	}
	must(t, s.Settle(ctx, q, rs[0].Seq, t0, Lease{}))
	want(t, "an older place", keys(all(t, s, q)), []string{"3"})
	// A place beyond the end settles what is there, not what is to come.
	must(t, s.Settle(ctx, q, rs[2].Seq+1000, t0, Lease{}))
	appended(t, s, q, "4")
	got := all(t, s, q)
	want(t, "what came after", keys(got), []string{"4"})
	if got[0].Seq <= rs[2].Seq {
		t.Errorf("place %d was given out again", got[0].Seq)
	}
	ws, err := s.Waiting(ctx, "")
	must(t, err)
	want(t, "queues", len(ws), 3)
}

func testFence(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example")
	q := in("a.example")
	ctx := t.Context()
	appended(t, s, q, "1", "2", "3", "4")
	rs := all(t, s, q)
	wantErr(t, "a lease that nobody gave", s.Settle(ctx, q, rs[0].Seq, t0, Lease{Box: "a.example", Node: "n1", Token: 1}), ErrFenced)
	one, ok, err := s.Acquire(ctx, "a.example", "n1", t0, time.Minute, false)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	must(t, s.Settle(ctx, q, rs[0].Seq, t0, one))
	must(t, s.Settle(ctx, q, rs[1].Seq, t0.Add(time.Hour), one)) // its time is over, but nobody else has come
	two, ok, err := s.Acquire(ctx, "a.example", "n2", t0, time.Minute, true)
	if err != nil || !ok || two.Token <= one.Token {
		t.Fatalf("%+v after %+v, %v", two, one, err)
	}
	wantErr(t, "the older lease", s.Settle(ctx, q, rs[2].Seq, t0, one), ErrFenced)
	want(t, "nothing happened", keys(all(t, s, q)), []string{"3", "4"})
	must(t, s.Settle(ctx, q, rs[2].Seq, t0, two))
	must(t, s.Release(ctx, one)) // not the newest: nothing happens
	must(t, s.Settle(ctx, q, rs[2].Seq, t0, two))
	must(t, s.Release(ctx, two))
	wantErr(t, "a lease given up", s.Settle(ctx, q, rs[3].Seq, t0, two), ErrFenced)
	other, _, err := s.Acquire(ctx, "b.example", "n2", t0, time.Minute, true)
	must(t, err)
	other.Token = two.Token + 1
	wantErr(t, "a lease of another box", s.Settle(ctx, q, rs[3].Seq, t0, other), ErrFenced)
	want(t, "what waits", keys(all(t, s, q)), []string{"4"})
}

func testLimits(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example")
	must(t, s.Close())
	s = p.open(t, Limits{Requests: 10, Bytes: 1000})
	ctx := t.Context()
	from := func(o string) Queue { return Queue{Box: "a.example", Other: o, In: true} }
	small := func(k string) Request { return Request{Key: k} }
	for i := range 5 {
		_, err := s.Append(ctx, from("flood.example"), t0, small(fmt.Sprint(i)))
		must(t, err)
	}
	_, err := s.Append(ctx, from("flood.example"), t0, small("5"))
	wantErr(t, "more than half from one", err, ErrFull)
	n, err := s.Append(ctx, from("flood.example"), t0, small("1"))
	must(t, err)
	want(t, "what is known is no matter", n, 0)
	_, err = s.Append(ctx, from("quiet.example"), t0, small("0"), small("1"), small("2"), small("3"))
	must(t, err)
	_, err = s.Append(ctx, Queue{Box: "a.example", Other: "quiet.example"}, t0, small("8"), small("9"))
	wantErr(t, "more than all", err, ErrFull)
	want(t, "all or none", len(all(t, s, Queue{Box: "a.example", Other: "quiet.example"})), 0)
	_, err = s.Append(ctx, Queue{Box: "a.example", Other: "quiet.example"}, t0, small("8"))
	must(t, err)
	_, err = s.Append(ctx, in("b.example"), t0, Request{Key: "1", Body: make([]byte, 499)})
	must(t, err)
	_, err = s.Append(ctx, in("b.example"), t0, Request{Key: "2"})
	wantErr(t, "more than half of the bytes", err, ErrFull)
	_, err = s.Append(ctx, Queue{Box: "b.example", Other: "x", In: true}, t0, Request{Key: "2", URI: strings.Repeat("x", 400), Authorization: strings.Repeat("x", 99)})
	must(t, err)
	_, err = s.Append(ctx, Queue{Box: "b.example", Other: "y", In: true}, t0, Request{Key: "2"})
	wantErr(t, "more than all bytes", err, ErrFull)
	must(t, s.Settle(ctx, in("b.example"), all(t, s, in("b.example"))[0].Seq, t0, Lease{}))
	_, err = s.Append(ctx, Queue{Box: "b.example", Other: "y", In: true}, t0, Request{Key: "2"})
	must(t, err)
}

func testWaiting(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example")
	ctx := t.Context()
	ws, err := s.Waiting(ctx, "")
	must(t, err)
	want(t, "at first", len(ws), 0)
	out := Queue{Box: "b.example", Other: "x.example"}
	old := request("old")
	old.Received = t0.Add(-time.Hour)
	_, err = s.Append(ctx, in("b.example"), t0, old)
	must(t, err)
	_, err = s.Append(ctx, in("b.example"), t0, request("new"))
	must(t, err)
	appended(t, s, out, "1")
	appended(t, s, in("a.example"), "1")
	twoSize := old.size()
	if r := request("new"); true {
		twoSize += r.size()
	}
	r := request("1")
	check := func(box string, wanted ...Waiting) {
		t.Helper()
		ws, err := s.Waiting(ctx, box)
		must(t, err)
		if len(ws) != len(wanted) {
			t.Fatalf("waiting for %q: got %+v, want %+v", box, ws, wanted)
		}
		for i := range ws {
			if !ws[i].Oldest.Equal(wanted[i].Oldest) {
				t.Errorf("oldest of %+v: %v", wanted[i].Queue, ws[i].Oldest)
			}
			ws[i].Oldest = wanted[i].Oldest
			want(t, "waiting", ws[i], wanted[i])
		}
	}
	a := Waiting{in("a.example"), 1, r.size(), t0}
	b := []Waiting{{out, 1, r.size(), t0}, {in("b.example"), 2, twoSize, t0.Add(-time.Hour)}}
	check("", a, b[0], b[1])
	check("b.example", b...)
	check("c.example")
	must(t, s.Settle(ctx, in("b.example"), all(t, s, in("b.example"))[0].Seq, t0, Lease{}))
	must(t, s.Settle(ctx, out, 1<<40, t0, Lease{}))
	check("b.example", Waiting{in("b.example"), 1, twoSize - old.size(), t0})
}

// Writers on all nodes, a reader that follows with a cursor: it sees each request, in one order, and jumps over none.
func testWriters(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example")
	spools := []Spool{s}
	if p.nodes() {
		spools = append(spools, p.open(t, Limits{}), p.open(t, Limits{}))
	}
	const writers, each = 6, 40
	q := in("a.example")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				sp := spools[(w+i)%len(spools)]
				if _, err := sp.Append(ctx, q, t0, request(fmt.Sprintf("%d-%d", w, i))); err != nil {
					t.Error(err)
				}
				// another queue of the box, and another box, beside it
				if _, err := sp.Append(ctx, Queue{Box: "a.example", Other: fmt.Sprint(w)}, t0, request(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
				if _, err := sp.Append(ctx, in("b.example"), t0, request(fmt.Sprint(w, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var read []Request
	done := make(chan struct{})
	go func() {
		defer close(done)
		changes := spools[len(spools)-1].Changes(ctx)
		after := int64(0)
		for len(read) < writers*each {
			rs, err := spools[len(spools)-1].Next(ctx, q, after, 1<<20)
			if err != nil {
				t.Error(err)
				return
			}
			for _, r := range rs {
				after = r.Seq
			}
			if read = append(read, rs...); len(rs) == 0 {
				if _, ok := <-changes; !ok {
					return
				}
			}
		}
	}()
	wg.Wait()
	select {
	case <-done:
	case <-time.After(time.Minute):
		cancel()
		<-done
		t.Errorf("the reader has seen only %d of %d", len(read), writers*each)
	}
	want(t, "what was read on the way and what is there", keys(read), keys(all(t, s, q)))
	next := make([]int, writers)
	for _, k := range keys(read) {
		var w, i int
		fmt.Sscanf(k, "%d-%d", &w, &i)
		if i != next[w] {
			t.Fatalf("writer %d: %d came where %d was due", w, i, next[w])
		}
		next[w]++
	}
	ws, err := s.Waiting(ctx, "")
	must(t, err)
	for _, w := range ws {
		want(t, "count of "+w.Other, w.Count, int64(len(all(t, s, w.Queue))))
	}
	want(t, "queues", len(ws), writers+2)
}

// Queues that are empty for days cost nothing any more.
func testSweep(t *testing.T, p place) {
	s := with(t, p, "a.example")
	ctx := t.Context()
	from := func(i int) Queue { return Queue{Box: "a.example", Other: fmt.Sprintf("s%d.example", i), In: true} }
	for i := range 20 {
		appended(t, s, from(i), "1")
		if i > 0 {
			must(t, s.Settle(ctx, from(i), 1<<40, t0, Lease{}))
		}
	}
	_, _, err := s.Acquire(ctx, "a.example", "old", t0, time.Minute, false)
	must(t, err)
	_, _, err = s.Acquire(ctx, "a.example", "new", t0, time.Minute, true)
	must(t, err)
	want(t, "rows before", rows(t, s), []int{20, 20, 2})
	must(t, s.Settle(ctx, from(0), 0, t0.Add(47*time.Hour), Lease{}))
	want(t, "rows after 47 hours", rows(t, s), []int{20, 20, 2})
	must(t, s.Settle(ctx, from(0), 0, t0.Add(9*24*time.Hour), Lease{}))
	want(t, "rows after nine days", rows(t, s), []int{1, 1, 1})
	want(t, "what waits", keys(all(t, s, from(0))), []string{"1"})
}
