// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
)

// This file is the part of the contract that is about what boxes deposit, and keys that go once.

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

// Many change one value at once, also from several nodes: no change is lost.
func testAmend(t *testing.T, p place) {
	s := with(t, p, "a.example")
	ctx := t.Context()
	get := func() string {
		t.Helper()
		v, err := s.Deposited(ctx, "a.example", "list", "")
		must(t, err)
		return string(v)
	}
	odd := errors.New("odd")
	wantErr(t, "its own error", s.Amend(ctx, "a.example", "list", "", func(old []byte) ([]byte, error) {
		want(t, "at first", old == nil, true)
		return []byte("x"), odd
	}), odd)
	want(t, "after an error", get(), "")
	wantErr(t, "of nobody", s.Amend(ctx, "x.example", "list", "", func([]byte) ([]byte, error) { return []byte("x"), nil }), ErrUnknown)
	spools := []Spool{s}
	if p.nodes() {
		spools = append(spools, p.open(t, Limits{}))
	}
	const hands, times = 6, 10
	var wg sync.WaitGroup
	for w := range hands {
		wg.Go(func() {
			for range times {
				if err := spools[w%len(spools)].Amend(ctx, "a.example", "list", "", func(old []byte) ([]byte, error) { return append(bytes.Clone(old), 'x'), nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want(t, "changes", len(get()), hands*times)
	must(t, s.Amend(ctx, "a.example", "list", "", func([]byte) ([]byte, error) { return nil, nil }))
	want(t, "removed", get(), "")
	must(t, s.Close())
	s = p.open(t, Limits{DepositBytes: 10})
	err := s.Amend(ctx, "a.example", "user", "@u", func([]byte) ([]byte, error) { return make([]byte, 20), nil })
	wantErr(t, "too much", err, ErrTooMuch)
	if errors.Is(err, ErrAway) {
		t.Errorf("it is not that the database is away: %v", err)
	}
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

// What the box has crossed out needs no place here; the rest is told and kept as before.
func testForgetTaken(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example")
	ctx := t.Context()
	for _, box := range []string{"a.example", "b.example"} {
		must(t, s.PutKeys(ctx, box, "@u", "D", map[string]json.RawMessage{"a:1": nil, "a:2": nil, "a:3": nil, "a:4": nil}))
		for range 3 {
			_, _, err := s.TakeKey(ctx, box, "@u", "D", "a")
			must(t, err)
		}
	}
	taken := func(box string, after int64) (ids []string, places []int64) {
		t.Helper()
		list, err := s.TakenKeys(ctx, box, after, 10)
		must(t, err)
		for _, k := range list {
			ids, places = append(ids, k.ID), append(places, k.Place)
		}
		return ids, places
	}
	_, places := taken("a.example", 0)
	must(t, s.ForgetTaken(ctx, "a.example", places[1]))
	must(t, s.ForgetTaken(ctx, "a.example", places[0]))
	ids, left := taken("a.example", 0)
	want(t, "what is left", ids, []string{"a:3"})
	want(t, "its place", left, places[2:])
	ids, _ = taken("b.example", 0)
	want(t, "another box's", ids, []string{"a:1", "a:2", "a:3"})
	must(t, s.PutKeys(ctx, "a.example", "@u", "D", map[string]json.RawMessage{"a:3": nil}))
	id, _, err := s.TakeKey(ctx, "a.example", "@u", "D", "a")
	must(t, err)
	want(t, "what is here stays, and what is not forgotten never comes back", id, "a:4")
	_, left = taken("a.example", places[2])
	if len(left) != 1 || left[0] <= places[2] {
		t.Errorf("places go on after %d: %d", places[2], left)
	}
	wantErr(t, "of nobody", s.ForgetTaken(ctx, "x.example", 1), ErrUnknown)
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

// The stock counts what is left and what went, by box.
func testKeyStock(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example", "c.example")
	ctx := t.Context()
	for _, k := range [][3]string{{"a.example", "@u", "D"}, {"a.example", "@u", "E"}, {"a.example", "@v", "D"}, {"b.example", "@w", "F"}} {
		must(t, s.PutKeys(ctx, k[0], k[1], k[2], map[string]json.RawMessage{"signed:1": []byte(`{}`), "plain:2": []byte(`{}`)}))
	}
	for _, alg := range []string{"signed", "plain"} {
		_, _, err := s.TakeKey(ctx, "a.example", "@u", "E", alg)
		must(t, err)
	}
	_, _, err := s.TakeKey(ctx, "b.example", "@w", "F", "signed")
	must(t, err)
	got, err := s.KeyStock(ctx, "")
	must(t, err)
	want(t, "all", got, map[string]Stock{"a.example": {Devices: 2, Left: 4, Given: 2}, "b.example": {Devices: 1, Left: 1, Given: 1}})
	got, err = s.KeyStock(ctx, "b.example")
	must(t, err)
	want(t, "one", got, map[string]Stock{"b.example": {Devices: 1, Left: 1, Given: 1}})
	want(t, "bounds", s.Bounds(), Limits{}.orDefault())
}

// One question gives a kind of all boxes, and nothing else.
func testDepositedOf(t *testing.T, p place) {
	s := with(t, p, "a.example", "b.example", "c.example")
	ctx := t.Context()
	for _, d := range [][4]string{{"a.example", "k", "", "1"}, {"a.example", "k", "x", "2"}, {"a.example", "l", "", "3"}, {"b.example", "k", "", "4"}, {"c.example", "l", "", "5"}} {
		must(t, s.Deposit(ctx, d[0], d[1], d[2], []byte(d[3])))
	}
	got, err := s.DepositedOf(ctx, "k")
	must(t, err)
	want(t, "of k", got, map[string][]byte{"a.example": []byte("1"), "b.example": []byte("4")})
	got, err = s.DepositedOf(ctx, "nothing")
	must(t, err)
	want(t, "of nothing", got, map[string][]byte{})
}
