// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// place is where a spool is kept in a test: it can be opened again and, if the implementation has several nodes, more than once at a time.
type place interface {
	open(t *testing.T, l Limits) Spool
	nodes() bool             // may be open more than once at a time
	copy(t *testing.T) place // as it is now; nobody has it open
}

// t0 is the time of the tests; it has microseconds.
var t0 = time.Date(2026, 3, 1, 3, 0, 0, 123456000, time.UTC)

// contract is what every Spool promises.
func contract(t *testing.T, make func(*testing.T) place) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, place)
	}{
		{"Roster", testRoster}, {"Seen", testSeen}, {"Remove", testRemove}, {"Order", testOrder}, {"Bytes", testBytes}, {"Idempotent", testIdempotent}, {"Remembered", testRemembered},
		{"Settle", testSettle}, {"Fence", testFence}, {"Limits", testLimits}, {"DepositLimits", testDepositLimits}, {"Waiting", testWaiting}, {"Deposits", testDeposits}, {"OneTimeKeys", testOneTimeKeys},
		{"OneTimeKeysOnce", testOneTimeKeysOnce}, {"Leases", testLeases}, {"Changes", testChanges}, {"ChangesSlow", testChangesSlow}, {"Writers", testWriters}, {"Reopen", testReopen},
		{"Restored", testRestored}, {"OldCopy", testOldCopy}, {"Names", testNames}, {"Sweep", testSweep}, {"Closed", testClosed}, {"Cancelled", testCancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // they wait for disks and processes, not for the processor
			c.f(t, make(t))
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want)
	if g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// with gives a spool with a box of each name.
func with(t *testing.T, p place, boxes ...string) Spool {
	t.Helper()
	s := p.open(t, Limits{})
	for _, b := range boxes {
		must(t, s.PutBox(t.Context(), Box{Server: b, ID: "id of " + b, Statement: []byte("{}"), Mode: Sealed, Added: t0}))
	}
	return s
}

func in(box string) Queue { return Queue{Box: box, Other: "central.example", In: true} }

func request(key string) Request {
	return Request{Key: key, Method: "PUT", URI: "/_matrix/federation/v1/send/" + key, Authorization: "X-Matrix origin=central.example", Body: []byte(`{"pdus":["` + key + `"]}`)}
}

func appended(t *testing.T, s Spool, q Queue, keys ...string) {
	t.Helper()
	for _, k := range keys {
		if n, err := s.Append(t.Context(), q, t0, request(k)); err != nil || n != 1 {
			t.Fatalf("append %s: %d, %v", k, n, err)
		}
	}
}

func keys(rs []Request) (out []string) {
	for _, r := range rs {
		out = append(out, r.Key)
	}
	return out
}

func all(t *testing.T, s Spool, q Queue) (rs []Request) {
	t.Helper()
	after := int64(0)
	for {
		next, err := s.Next(t.Context(), q, after, 1<<20)
		must(t, err)
		if len(next) == 0 {
			return rs
		}
		for _, r := range next {
			if r.Seq <= after {
				t.Fatalf("place %d comes after %d", r.Seq, after)
			}
			after = r.Seq
		}
		rs = append(rs, next...)
	}
}

func testRoster(t *testing.T, p place) {
	s := p.open(t, Limits{})
	ctx := t.Context()
	_, err := s.Box(ctx, "a.example")
	wantErr(t, "a box that nobody added", err, ErrUnknown)
	a := Box{Server: "a.example", ID: "A", Statement: []byte("one"), Mode: Sealed, Added: t0}
	must(t, s.PutBox(ctx, Box{Server: "b.example", ID: "B", Mode: Delegate, Added: t0}))
	must(t, s.PutBox(ctx, a))
	wantErr(t, "the name with another id", s.PutBox(ctx, Box{Server: "a.example", ID: "C"}), ErrTaken)
	wantErr(t, "the id with another name", s.PutBox(ctx, Box{Server: "c.example", ID: "A"}), ErrTaken)
	wantErr(t, "revoke a box that nobody added", s.Revoke(ctx, "c.example", "lost"), ErrUnknown)

	must(t, s.Revoke(ctx, "a.example", "lost in the flood"))
	must(t, s.PutBox(ctx, Box{Server: "a.example", ID: "A", Statement: []byte("two"), Mode: Delegate, Added: t0.Add(time.Hour)}))
	got, err := s.Box(ctx, "a.example")
	must(t, err)
	a.Statement, a.Mode, a.Revoked = []byte("two"), Delegate, "lost in the flood"
	if !got.Added.Equal(t0) {
		t.Errorf("added %v, want %v", got.Added, t0)
	}
	got.Added = t0
	want(t, "the box", got, a)
	boxes, err := s.Boxes(ctx)
	must(t, err)
	if len(boxes) != 2 || boxes[0].Server != "a.example" || boxes[1].Server != "b.example" || boxes[1].Mode != Delegate {
		t.Errorf("boxes: %+v", boxes)
	}
}

func testSeen(t *testing.T, p place) {
	s := with(t, p, "a.example")
	check := func(s Spool, at time.Time, way string) {
		t.Helper()
		boxes, err := s.Boxes(t.Context())
		must(t, err)
		b, err := s.Box(t.Context(), "a.example")
		must(t, err)
		want(t, "the list and the entry", boxes, []Box{b})
		if !b.Seen.Equal(at) || b.Way != way || b.Version != "1.2" || string(b.Health) != `{"ok":true}` {
			t.Errorf("got %v %q %q %s, want %v %q", b.Seen, b.Way, b.Version, b.Health, at, way)
		}
	}
	s.Saw("a.example", t0, "radio", "1.2", json.RawMessage(`{"ok":true}`))
	s.Saw("nobody.example", t0, "radio", "1.2", nil)
	check(s, t0, "radio")
	s.Saw("a.example", t0.Add(-time.Minute), "stick", "1.1", nil)
	check(s, t0, "radio")
	must(t, s.Close())
	s = p.open(t, Limits{})
	check(s, t0, "radio")
	s.Saw("a.example", t0.Add(-time.Minute), "stick", "1.1", nil)
	check(s, t0, "radio")
	must(t, s.Close()) // another node may have written a newer one: it stays
	s = p.open(t, Limits{})
	check(s, t0, "radio")
	s.Saw("a.example", t0.Add(time.Minute), "p2p", "1.2", json.RawMessage(`{"ok":true}`))
	check(s, t0.Add(time.Minute), "p2p")
	must(t, s.Close())
	check(p.open(t, Limits{}), t0.Add(time.Minute), "p2p")
}

func testRemove(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example")
	ctx := t.Context()
	wantErr(t, "a box that nobody added", s.Remove(ctx, "c.example"), ErrUnknown)
	for _, b := range []string{"a.example", "b.example"} {
		appended(t, s, in(b), "1", "2")
		must(t, s.Deposit(ctx, b, "keys", "@u", []byte("x")))
		must(t, s.PutKeys(ctx, b, "@u", "D", map[string]json.RawMessage{"alg:1": json.RawMessage("1"), "alg:2": json.RawMessage("1")}))
	}
	before := all(t, s, in("a.example"))
	lease, ok, err := s.Acquire(ctx, "a.example", "n", t0, time.Minute, false)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	_, _, err = s.TakeKey(ctx, "a.example", "@u", "D", "alg")
	must(t, err)
	must(t, s.Remove(ctx, "a.example"))

	want(t, "what waits", len(all(t, s, in("a.example"))), 0)
	_, err = s.Append(ctx, in("a.example"), t0, request("3"))
	wantErr(t, "append", err, ErrUnknown)
	wantErr(t, "settle", s.Settle(ctx, in("a.example"), 9, t0, Lease{}), ErrUnknown)
	wantErr(t, "deposit", s.Deposit(ctx, "a.example", "keys", "@u", []byte("x")), ErrUnknown)
	wantErr(t, "put keys", s.PutKeys(ctx, "a.example", "@u", "D", nil), ErrUnknown)
	_, _, err = s.TakeKey(ctx, "a.example", "@u", "D", "alg")
	wantErr(t, "take key", err, ErrUnknown)
	_, _, err = s.Acquire(ctx, "a.example", "n", t0, time.Minute, false)
	wantErr(t, "acquire", err, ErrUnknown)
	l, err := s.Holder(ctx, "a.example")
	must(t, err)
	want(t, "holder", l, Lease{})

	// A box of the same name begins anew, beyond everything that somebody may still know of the old one.
	must(t, s.PutBox(ctx, Box{Server: "a.example", ID: "another"}))
	appended(t, s, in("a.example"), "1")
	after := all(t, s, in("a.example"))
	if len(after) != 1 || after[0].Seq <= before[1].Seq {
		t.Errorf("%+v came after %+v", after, before)
	}
	v, err := s.Deposited(ctx, "a.example", "keys", "@u")
	must(t, err)
	want(t, "deposit", v, nil)
	taken, err := s.TakenKeys(ctx, "a.example", 0, 10)
	must(t, err)
	want(t, "taken", len(taken), 0)
	l, ok, err = s.Acquire(ctx, "a.example", "n", t0, time.Minute, false)
	if err != nil || !ok || l.Token <= lease.Token {
		t.Errorf("lease %+v after %+v, %v", l, lease, err)
	}
	// The other box is as it was.
	want(t, "b", keys(all(t, s, in("b.example"))), []string{"1", "2"})
	n, err := s.CountKeys(ctx, "b.example", "@u", "D")
	must(t, err)
	want(t, "keys of b", n, map[string]int{"alg": 2})
}

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

func testDeposits(t *testing.T, p place) {
	s := with(t, p, "a.example")
	ctx := t.Context()
	get := func(kind, key string) string {
		t.Helper()
		v, err := s.Deposited(ctx, "a.example", kind, key)
		must(t, err)
		if v == nil {
			return "nil"
		}
		return string(v)
	}
	want(t, "none", get("profile", "@u"), "nil")
	must(t, s.Deposit(ctx, "a.example", "profile", "@u", []byte("\x00\xff1")))
	must(t, s.Deposit(ctx, "a.example", "devices", "@u", []byte("2")))
	must(t, s.Deposit(ctx, "a.example", "profile", "@v", []byte{}))
	want(t, "kept", get("profile", "@u")+get("devices", "@u")+get("profile", "@v")+get("profile", "@w"), "\x00\xff12nil")
	must(t, s.Deposit(ctx, "a.example", "profile", "@u", []byte("3")))
	want(t, "in its place", get("profile", "@u"), "3")
	must(t, s.Deposit(ctx, "a.example", "profile", "@u", nil))
	must(t, s.Deposit(ctx, "a.example", "profile", "@u", nil))
	want(t, "removed", get("profile", "@u"), "nil")
	wantErr(t, "of nobody", s.Deposit(ctx, "x.example", "profile", "@u", nil), ErrUnknown)
	v, err := s.Deposited(ctx, "x.example", "profile", "@u")
	must(t, err)
	want(t, "of nobody", v, nil)
}

// What one box deposits ends somewhere; what is there stays, and other boxes have their own.
func testDepositLimits(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example")
	must(t, s.Close())
	s = p.open(t, Limits{DepositBytes: 100, Deposits: 3, Keys: 3})
	ctx := t.Context()
	put := func(box, key string, size int) error { return s.Deposit(ctx, box, "user", key, make([]byte, size)) }
	must(t, put("a.example", "@u", 48))
	must(t, put("a.example", "@v", 48))
	wantErr(t, "bytes", put("a.example", "@v", 49), ErrTooMuch)
	v, err := s.Deposited(ctx, "a.example", "user", "@v")
	must(t, err)
	want(t, "the old one stays", len(v), 48)
	must(t, put("a.example", "@v", 48))
	must(t, put("b.example", "@v", 48))
	must(t, put("a.example", "@v", 1))
	must(t, put("a.example", "@w", 1))
	wantErr(t, "count", put("a.example", "@x", 1), ErrTooMuch)
	must(t, s.Deposit(ctx, "a.example", "document", "", make([]byte, 200)))
	must(t, s.Deposit(ctx, "a.example", "user", "@u", nil))
	must(t, put("a.example", "@x", 1))

	keys := func(box, device string, ids ...string) error {
		m := map[string]json.RawMessage{}
		for _, id := range ids {
			m["signed:"+id] = json.RawMessage(`1`)
		}
		return s.PutKeys(ctx, box, "@u", device, m)
	}
	left := func(device string) int {
		t.Helper()
		n, err := s.CountKeys(ctx, "a.example", "@u", device)
		must(t, err)
		return n["signed"]
	}
	must(t, keys("a.example", "D", "1", "2"))
	wantErr(t, "keys", keys("a.example", "E", "1", "2"), ErrTooMuch)
	want(t, "none of the call", left("E"), 0)
	must(t, keys("a.example", "E", "1"))
	must(t, keys("a.example", "D", "1", "2"))
	must(t, keys("b.example", "D", "1", "2", "3"))
	_, _, err = s.TakeKey(ctx, "a.example", "@u", "D", "signed")
	must(t, err)
	must(t, keys("a.example", "D", "3"))
	_, _, err = s.TakeKey(ctx, "a.example", "@u", "D", "signed")
	must(t, err)
	wantErr(t, "a long one", s.PutKeys(ctx, "a.example", "@u", "D", map[string]json.RawMessage{"signed:9": make(json.RawMessage, longestKey+1)}), ErrTooMuch)
	want(t, "what is left", left("D"), 1)
}

func testOneTimeKeys(t *testing.T, p place) {
	s := with(t, p, "a.example")
	ctx := t.Context()
	put := func(device string, ids ...string) {
		t.Helper()
		m := map[string]json.RawMessage{}
		for _, id := range ids {
			m[id] = json.RawMessage(`"value of ` + id + `"`)
		}
		must(t, s.PutKeys(ctx, "a.example", "@u", device, m))
	}
	take := func(device, algorithm string) string {
		t.Helper()
		id, key, err := s.TakeKey(ctx, "a.example", "@u", device, algorithm)
		must(t, err)
		if id != "" && string(key) != `"value of `+id+`"` {
			t.Errorf("key of %s: %s", id, key)
		}
		return id
	}
	count := func(device string) map[string]int {
		t.Helper()
		n, err := s.CountKeys(ctx, "a.example", "@u", device)
		must(t, err)
		return n
	}
	put("D", "signed:1", "signed:2", "plain:3")
	put("E", "signed:1")
	want(t, "count", count("D"), map[string]int{"signed": 2, "plain": 1})
	want(t, "first", take("D", "signed"), "signed:1")
	put("D", "signed:1", "signed:2")
	want(t, "count", count("D"), map[string]int{"signed": 1, "plain": 1})
	want(t, "second", take("D", "signed"), "signed:2")
	want(t, "third", take("D", "signed"), "")
	put("D", "signed:1", "signed:2")
	want(t, "what went never comes back", take("D", "signed"), "")
	want(t, "another device", take("E", "signed"), "signed:1")
	put("D", "signed:0")
	want(t, "a new one", take("D", "signed"), "signed:0")

	var got []Taken
	after := int64(0)
	for {
		page, err := s.TakenKeys(ctx, "a.example", after, 3)
		must(t, err)
		if len(page) == 0 {
			break
		}
		for _, k := range page {
			if k.Place <= after {
				t.Fatalf("place %d after %d", k.Place, after)
			}
			after, k.Place = k.Place, 0
			got = append(got, k)
		}
	}
	want(t, "taken", got, []Taken{{0, "@u", "D", "signed:1"}, {0, "@u", "D", "signed:2"}, {0, "@u", "E", "signed:1"}, {0, "@u", "D", "signed:0"}})
	if err := s.PutKeys(ctx, "a.example", "@u", "D", map[string]json.RawMessage{"signed:9": nil, "noalgorithm": nil}); err == nil {
		t.Error("a key id without an algorithm was taken")
	}
	want(t, "and none of its call", count("D"), map[string]int{"plain": 1})
}

// Many claim at once, also from several nodes: each key goes once.
func testOneTimeKeysOnce(t *testing.T, p place) {
	s := with(t, p, "a.example")
	spools := []Spool{s}
	if p.nodes() {
		spools = append(spools, p.open(t, Limits{}))
	}
	const n = 200
	m := map[string]json.RawMessage{}
	for i := range n {
		m[fmt.Sprintf("signed:%d", i)] = json.RawMessage("{}")
	}
	must(t, s.PutKeys(t.Context(), "a.example", "@u", "D", m))
	var mu sync.Mutex
	got := map[string]int{}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for range n/8 + 5 {
				id, _, err := spools[w%len(spools)].TakeKey(t.Context(), "a.example", "@u", "D", "signed")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got[id]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	want(t, "askers too many", got[""], 40)
	delete(got, "")
	want(t, "keys", len(got), n)
	for id, times := range got {
		if times != 1 {
			t.Errorf("%s went %d times", id, times)
		}
	}
	taken, err := s.TakenKeys(t.Context(), "a.example", 0, 1000)
	must(t, err)
	want(t, "taken", len(taken), n)
}

func testLeases(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example")
	ctx := t.Context()
	l, err := s.Holder(ctx, "a.example")
	must(t, err)
	want(t, "at first", l, Lease{})
	acquire := func(box, node string, now time.Time, steal, wantOK bool) Lease {
		t.Helper()
		l, ok, err := s.Acquire(ctx, box, node, now, 10*time.Second, steal)
		must(t, err)
		if ok != wantOK {
			t.Errorf("acquire by %s at +%v: %v (%+v)", node, now.Sub(t0), ok, l)
		}
		if ok && (l.Node != node || l.Box != box || l.Until.Before(now.Add(5*time.Second)) || l.Until.After(now.Add(10*time.Second))) {
			t.Errorf("lease of %s at +%v: %+v", node, now.Sub(t0), l)
		}
		h, err := s.Holder(ctx, box)
		must(t, err)
		if h.Token != l.Token || h.Node != l.Node || !h.Until.Equal(l.Until) || h.Box != l.Box {
			t.Errorf("holder %+v, told %+v", h, l)
		}
		return l
	}
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	a1 := acquire("a.example", "n1", at(0), false, true)
	want(t, "refused names the holder", acquire("a.example", "n2", at(9), false, false).Node, "n1")
	a2 := acquire("a.example", "n1", at(9), false, true)
	want(t, "token of a renewal", a2.Token, a1.Token)
	acquire("a.example", "n2", at(18), false, false)
	b1 := acquire("b.example", "n1", at(18), false, true) // renews the node
	acquire("a.example", "n2", at(27), false, false)
	a3 := acquire("a.example", "n2", at(28), false, true)
	if a3.Token <= a2.Token {
		t.Errorf("token %d after %d", a3.Token, a2.Token)
	}
	acquire("a.example", "n1", at(29), false, false)
	a4 := acquire("a.example", "n1", at(29), true, true)
	if a4.Token <= a3.Token {
		t.Errorf("token %d after %d", a4.Token, a3.Token)
	}
	must(t, s.Renew(ctx, "n1", at(60), 10*time.Second))
	must(t, s.Renew(ctx, "n1", at(50), 10*time.Second)) // never back
	must(t, s.Renew(ctx, "unheard of", at(60), 10*time.Second))
	for _, box := range []string{"a.example", "b.example"} {
		acquire(box, "n2", at(69), false, false)
	}
	must(t, s.Release(ctx, a3)) // an older one
	acquire("a.example", "n2", at(69), false, false)
	must(t, s.Release(ctx, a4))
	h, err := s.Holder(ctx, "a.example")
	must(t, err)
	if h.Node != "n1" || h.Token <= a4.Token || !h.Until.IsZero() {
		t.Errorf("released: %+v", h)
	}
	acquire("b.example", "n2", at(69), false, false)
	a5 := acquire("a.example", "n1", at(69), false, true)
	if a5.Token <= h.Token {
		t.Errorf("token %d after %d", a5.Token, h.Token)
	}
	must(t, s.Release(ctx, a5))
	acquire("a.example", "n2", at(69), false, true)
	want(t, "b is where it was", acquire("b.example", "n1", at(69), false, true).Token, b1.Token)
}

// drain reads names until each of the wanted has come.
func drain(t *testing.T, ch <-chan string, wanted ...string) {
	t.Helper()
	left := map[string]bool{}
	for _, w := range wanted {
		left[w] = true
	}
	limit := time.After(30 * time.Second)
	for len(left) > 0 {
		select {
		case n, ok := <-ch:
			if !ok {
				t.Fatalf("the changes ended; still wanted: %v", left)
			}
			delete(left, n)
		case <-limit:
			t.Fatalf("no word of %v", left)
		}
	}
}

func testChanges(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example", "c.example")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	one, two := s.Changes(ctx), s.Changes(t.Context())
	appended(t, s, in("a.example"), "1")
	drain(t, one, "a.example")
	l, _, err := s.Acquire(t.Context(), "b.example", "n", t0, time.Minute, false)
	must(t, err)
	drain(t, one, "b.example")
	must(t, s.Release(t.Context(), l))
	drain(t, one, "b.example")
	must(t, s.Remove(t.Context(), "c.example"))
	drain(t, one, "c.example")
	drain(t, two, "a.example", "b.example", "c.example")
	cancel()
	for range one {
	}
	appended(t, s, in("a.example"), "2")
	drain(t, two, "a.example")
	must(t, s.Close())
	for range two {
	}
	for range s.Changes(t.Context()) {
		t.Error("changes of a closed spool")
	}
}

// A receiver that does not listen holds nobody up, and hears each name afterwards.
func testChangesSlow(t *testing.T, p place) {
	var boxes []string
	for i := range 50 {
		boxes = append(boxes, fmt.Sprintf("box%d.example", i))
	}
	s := with(t, p, boxes...)
	ch := s.Changes(t.Context())
	for i := range 4 {
		for _, b := range boxes {
			appended(t, s, in(b), fmt.Sprint(i))
		}
	}
	drain(t, ch, boxes...)
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
	case <-time.After(30 * time.Second):
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

func testReopen(t *testing.T, p place) {
	s := with(t, p, "a.example")
	ctx := t.Context()
	q := in("a.example")
	appended(t, s, q, "1", "2")
	must(t, s.Settle(ctx, q, all(t, s, q)[0].Seq, t0, Lease{}))
	must(t, s.Deposit(ctx, "a.example", "k", "v", []byte("x")))
	must(t, s.PutKeys(ctx, "a.example", "@u", "D", map[string]json.RawMessage{"a:1": json.RawMessage("1"), "a:2": json.RawMessage("2")}))
	_, _, err := s.TakeKey(ctx, "a.example", "@u", "D", "a")
	must(t, err)
	l, _, err := s.Acquire(ctx, "a.example", "n", t0, time.Minute, false)
	must(t, err)
	epoch, err := s.Epoch(ctx)
	must(t, err)
	must(t, s.Close())

	s = p.open(t, Limits{})
	want(t, "what waits", keys(all(t, s, q)), []string{"2"})
	n, err := s.Append(ctx, q, t0, request("1"))
	must(t, err)
	want(t, "settled before", n, 0)
	v, err := s.Deposited(ctx, "a.example", "k", "v")
	must(t, err)
	want(t, "deposit", string(v), "x")
	id, _, err := s.TakeKey(ctx, "a.example", "@u", "D", "a")
	must(t, err)
	want(t, "key", id, "a:2")
	h, err := s.Holder(ctx, "a.example")
	must(t, err)
	want(t, "token", h.Token, l.Token)
	e, err := s.Epoch(ctx)
	must(t, err)
	if e != epoch || e == "" {
		t.Errorf("epoch %q after %q", e, epoch)
	}
}

// After a copy was put back nothing that may have been given out since is given out again.
func testRestored(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example")
	ctx := t.Context()
	q := in("a.example")
	appended(t, s, q, "1", "2")
	before := all(t, s, q)
	m := map[string]json.RawMessage{}
	for i := range 3 {
		m[fmt.Sprint("a:", i)] = json.RawMessage("1")
	}
	must(t, s.PutKeys(ctx, "a.example", "@u", "D", m))
	_, _, err := s.TakeKey(ctx, "a.example", "@u", "D", "a")
	must(t, err)
	lease, _, err := s.Acquire(ctx, "a.example", "n", t0, time.Hour, false)
	must(t, err)
	epoch, err := s.Epoch(ctx)
	must(t, err)
	must(t, s.Restored(ctx))

	e, err := s.Epoch(ctx)
	must(t, err)
	if e == epoch || e == "" {
		t.Errorf("the epoch is still %q", e)
	}
	got := all(t, s, q)
	want(t, "what waits", keys(got), []string{"1", "2"})
	appended(t, s, q, "3")
	got = all(t, s, q)
	if got[2].Seq < before[1].Seq+1<<32 {
		t.Errorf("place %d may have been given out before", got[2].Seq)
	}
	wantErr(t, "an old lease", s.Settle(ctx, q, got[2].Seq, t0, lease), ErrFenced)
	l, ok, err := s.Acquire(ctx, "a.example", "other", t0, time.Hour, false)
	if err != nil || !ok || l.Token < lease.Token+1<<32 {
		t.Errorf("%+v, %v", l, err)
	}
	id, _, err := s.TakeKey(ctx, "a.example", "@u", "D", "a")
	must(t, err)
	want(t, "a key that may have gone", id, "")
	taken, err := s.TakenKeys(ctx, "a.example", 0, 10)
	must(t, err)
	var ids []string
	for _, k := range taken {
		ids = append(ids, k.ID)
	}
	want(t, "the box hears of all of them", ids, []string{"a:0", "a:1", "a:2"})
	must(t, s.PutKeys(ctx, "a.example", "@u", "D", map[string]json.RawMessage{"a:1": json.RawMessage("1"), "a:7": json.RawMessage("1")}))
	id, _, err = s.TakeKey(ctx, "a.example", "@u", "D", "a")
	must(t, err)
	want(t, "a new key", id, "a:7")
	newer, err := s.TakenKeys(ctx, "a.example", taken[2].Place, 10)
	must(t, err)
	want(t, "taken after it", len(newer), 1)
	must(t, s.PutBox(ctx, Box{Server: "c.example", ID: "c"}))
	appended(t, s, in("c.example"), "1")
	if seq := all(t, s, in("c.example"))[0].Seq; seq < 1<<32 {
		t.Errorf("place %d of a new box", seq)
	}
}

// A copy is put back after work went on without it: once that was said, nothing is given out a second time.
func testOldCopy(t *testing.T, p place) {
	s := with(t, p, "a.example")
	ctx := t.Context()
	must(t, s.PutKeys(ctx, "a.example", "@u", "D", map[string]json.RawMessage{"a:1": json.RawMessage("1"), "a:2": json.RawMessage("1")}))
	appended(t, s, in("a.example"), "1")
	must(t, s.Close())
	old := p.copy(t)
	work := func(s Spool) (places map[string]bool) {
		places = map[string]bool{}
		appended(t, s, in("a.example"), "2", "3")
		for _, r := range all(t, s, in("a.example")) {
			if r.Key != "1" {
				places[fmt.Sprint("place ", r.Seq)] = true
			}
		}
		for _, node := range []string{"n1", "n2", "n3"} {
			l, _, err := s.Acquire(ctx, "a.example", node, t0, time.Minute, true)
			must(t, err)
			places[fmt.Sprint("token ", l.Token)] = true
		}
		id, _, err := s.TakeKey(ctx, "a.example", "@u", "D", "a")
		must(t, err)
		places["key "+id] = id != ""
		return places
	}
	first := work(p.open(t, Limits{}))
	s = old.open(t, Limits{})
	must(t, s.Restored(ctx))
	for what, given := range work(s) {
		if given && first[what] {
			t.Errorf("%s was given out twice", what)
		}
	}
	want(t, "what was in the copy is there", keys(all(t, s, in("a.example"))), []string{"1", "2", "3"})
}

// Names that cannot be looked up are refused, and change nothing.
func testNames(t *testing.T, p place) {
	s := with(t, p, "a.example")
	ctx := t.Context()
	for _, bad := range []string{strings.Repeat("x", 5000), "nul\x00", "\xff"} {
		_, err1 := s.Append(ctx, Queue{Box: "a.example", Other: bad, In: true}, t0, request("1"))
		_, _, err2 := s.Acquire(ctx, "a.example", bad, t0, time.Minute, false)
		for what, err := range map[string]error{
			"append": err1, "acquire": err2, "box": s.PutBox(ctx, Box{Server: bad, ID: "x"}), "id": s.PutBox(ctx, Box{Server: "x", ID: bad}),
			"deposit": s.Deposit(ctx, "a.example", "kind", bad, []byte("x")), "key": s.PutKeys(ctx, "a.example", "@u", bad, map[string]json.RawMessage{"a:1": nil}),
			"key id": s.PutKeys(ctx, "a.example", "@u", "D", map[string]json.RawMessage{"a:" + bad: nil}),
		} {
			if err == nil || errors.Is(err, ErrAway) {
				t.Errorf("%s with %.20q: %v", what, bad, err)
			}
		}
		// To ask for them is no fault.
		if _, err := s.Deposited(ctx, "a.example", "kind", bad); err != nil {
			t.Error(err)
		}
		if rs, err := s.Next(ctx, Queue{Box: "a.example", Other: bad, In: true}, 0, 100); err != nil || len(rs) > 0 {
			t.Error(rs, err)
		}
		if _, err := s.Box(ctx, bad); !errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
		if id, _, err := s.TakeKey(ctx, "a.example", bad, bad, bad); id != "" || err != nil {
			t.Error(id, err)
		}
		if _, err := s.CountKeys(ctx, "a.example", bad, bad); err != nil {
			t.Error(err)
		}
		s.Saw("a.example", t0, bad, bad, nil)
	}
	must(t, s.Revoke(ctx, "a.example", "odd \x00\xff reason"))
	must(t, s.Close())
	s = p.open(t, Limits{})
	b, err := s.Box(ctx, "a.example")
	must(t, err)
	if !b.Seen.Equal(t0) || !strings.HasPrefix(b.Revoked, "odd ") {
		t.Errorf("%+v", b)
	}
	ws, err := s.Waiting(ctx, "")
	must(t, err)
	want(t, "queues", len(ws), 0)
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

func testClosed(t *testing.T, p place) {
	s := with(t, p, "a.example")
	must(t, s.Close())
	must(t, s.Close())
	_, err := s.Append(t.Context(), in("a.example"), t0, request("1"))
	wantErr(t, "append", err, ErrClosed)
	_, err = s.Next(t.Context(), in("a.example"), 0, 1)
	wantErr(t, "next", err, ErrClosed)
	_, err = s.Box(t.Context(), "a.example")
	wantErr(t, "box", err, ErrClosed)
}

func testCancelled(t *testing.T, p place) {
	s := with(t, p, "a.example")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Append(ctx, in("a.example"), t0, request("1"))
	wantErr(t, "append", err, context.Canceled)
	_, err = s.Next(ctx, in("a.example"), 0, 1)
	wantErr(t, "next", err, context.Canceled)
	want(t, "what waits", len(all(t, s, in("a.example"))), 0)
}
