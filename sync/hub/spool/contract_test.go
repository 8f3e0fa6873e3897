// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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
		{"Settle", testSettle}, {"Fence", testFence}, {"Limits", testLimits}, {"DepositLimits", testDepositLimits}, {"Waiting", testWaiting}, {"Deposits", testDeposits}, {"Amend", testAmend}, {"ForgetTaken", testForgetTaken}, {"OneTimeKeys", testOneTimeKeys}, {"KeyStock", testKeyStock}, {"DepositedOf", testDepositedOf},
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
