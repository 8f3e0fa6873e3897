// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// This file is the part of the contract that is about who the boxes are, and which node holds them.

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
	limit := time.After(time.Minute)
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
