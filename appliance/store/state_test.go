// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"hallig/appliance/event"
)

func TestStateDiff(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() State {
		var s State
		for k := range int64(30) {
			if rng.IntN(3) > 0 {
				s = append(s, StateEntry{k + 1, rng.Int64N(4) + 1})
			}
		}
		return s
	}
	for range 200 {
		a, b := random(), random()
		d := a.Diff(b)
		if got := a.lay(d); !got.Equal(b) {
			t.Fatalf("laying %v over %v gives %v, want %v", d, a, got, b)
		}
		back, err := decodeEntries(encodeEntries(d))
		if err != nil || !slices.Equal(back, d) {
			t.Fatalf("decoded %v, %v, want %v", back, err, d)
		}
	}
}

func FuzzDecodeEntries(f *testing.F) {
	f.Add(encodeEntries([]StateEntry{{1, 2}, {300, 70000}}))
	f.Add([]byte{0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := decodeEntries(b)
		if err != nil {
			return
		}
		again, err := decodeEntries(encodeEntries(es))
		if err != nil || !slices.Equal(again, es) {
			t.Errorf("%v became %v, %v", es, again, err)
		}
	})
}

// What a state leaves over without a type, and its names, are what a look at each key would give, however the numbers of the keys lie.
func TestStateInRuns(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
	rng := rand.New(rand.NewPCG(3, 4))
	var all State
	if err := db.Do(t.Context(), func(tx *Tx) error {
		for i := range int64(600) {
			typ := []string{"m.room.member", "m.room.member", "m.room.topic", "other"}[rng.IntN(4)]
			e := &Event{NID: i + 1, ID: event.ID(fmt.Sprint("$", i)), Room: "!r:x", Type: typ, Sender: "@u:x", StateKey: new(fmt.Sprint(i)), JSON: []byte("{}")}
			if err := tx.InsertEvent(e, false); err != nil {
				return err
			}
			k, err := db.FindStateKey(typ, fmt.Sprint(i))
			if err != nil {
				return err
			}
			all = append(all, StateEntry{k, i*7919%600 + 1}) // events lie in another order than keys
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		var s, want State
		rare := rng.IntN(60) + 1
		for _, e := range all {
			if rng.IntN(60) > rare {
				continue
			}
			s = append(s, e)
			if typ, _, err := db.StateKeyText(e.Key); err != nil {
				t.Fatal(err)
			} else if typ != "m.room.member" {
				want = append(want, e)
			}
		}
		if err := db.View(t.Context(), func(r *Read) error {
			got, err := r.Without(s, "m.room.member")
			if !got.Equal(want) {
				t.Errorf("of %d keys %d are left, want %d", len(s), len(got), len(want))
			}
			told := map[string]event.ID{}
			if err := r.Named(s, func(typ, key string, id event.ID) { told[typ+" "+key] = id }); err != nil {
				return err
			}
			for _, e := range s {
				typ, key, err := db.StateKeyText(e.Key)
				if err != nil {
					return err
				}
				if id, err := r.EventID(e.Event); err != nil || told[typ+" "+key] != id {
					t.Errorf("%s %s is held by %s, %v, told %s", typ, key, id, err, told[typ+" "+key])
				}
			}
			if len(told) != len(s) {
				t.Errorf("%d entries told of %d", len(told), len(s))
			}
			if same, err := r.Without(s, "never.seen"); err != nil || !same.Equal(s) {
				t.Errorf("without a type that nobody has: %d of %d, %v", len(same), len(s), err)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// A chain of groups far longer than maxHops reads back the same after a restart, with an empty cache.
func TestGroupChain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	db := open(t, path, Options{})
	want := map[int64]State{}
	var parent int64
	var state State
	for i := range int64(200) {
		g := db.NextGroup()
		next := state.With(i%70+1, i+1)
		if err := db.Do(t.Context(), func(tx *Tx) error { return tx.InsertGroup("!r:x", g, parent, state, next) }); err != nil {
			t.Fatal(err)
		}
		parent, state = g, next
		want[g] = next
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path, Options{})
	if err := db.View(t.Context(), func(r *Read) error {
		for g, s := range want {
			got, err := r.Group(g)
			if err != nil {
				return err
			}
			if !got.Equal(s) {
				t.Errorf("group %d: %v, want %v", g, got, s)
			}
		}
		_, err := r.Group(9999)
		if err == nil {
			t.Error("a missing group is no error")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestIDs(t *testing.T) {
	for _, id := range []event.ID{
		"$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "$-_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "$+/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "$old:server", "$",
		"$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB", // bits left over: not what an encoder makes
	} {
		if got := idText(idBytes(id)); got != id {
			t.Errorf("%s came back as %s", id, got)
		}
	}
}

// A name that was given out to an act that failed is written by the next one that uses it.
func TestNameOfFailedAct(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	db := open(t, path, Options{})
	boom := errors.New("no")
	insert := func(tx *Tx, id event.ID) error {
		key := "@bob:y"
		return tx.InsertEvent(&Event{NID: db.NextEvent(), ID: id, Room: "!r:x", Type: "m.room.member", Sender: "@bob:y", StateKey: &key, JSON: []byte(`{}`)}, false)
	}
	if err := db.Do(t.Context(), func(tx *Tx) error { return errors.Join(insert(tx, "$a"), boom) }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if err := db.Do(t.Context(), func(tx *Tx) error { return insert(tx, "$b") }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path, Options{})
	if err := db.View(t.Context(), func(r *Read) error {
		e, err := r.Event("$b")
		if err != nil {
			return err
		}
		if e == nil || e.Sender != "@bob:y" || e.Room != "!r:x" || e.Type != "m.room.member" || e.StateKey == nil || *e.StateKey != "@bob:y" {
			t.Errorf("got %+v", e)
		}
		if e, err := r.Event("$a"); e != nil || err != nil {
			t.Errorf("the failed act left %+v, %v", e, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// The cache of names forgets under pressure, but never a name without a row.
func TestNamesForget(t *testing.T) {
	db := fresh(t)
	if _, err := db.StateKey("m.pending", "never written"); err != nil {
		t.Fatal(err)
	}
	pending, err := db.StateKey("m.pending", "never written")
	if err != nil {
		t.Fatal(err)
	}
	ids := map[event.UserID]int64{}
	for base := 0; base < maxNames+500; base += 500 {
		if err := db.Do(context.Background(), func(tx *Tx) error {
			for i := range 500 {
				u := event.UserID(fmt.Sprintf("@u%d:x", base+i))
				n, err := tx.userNID(u)
				if err != nil {
					return err
				}
				ids[u] = n
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(db.names.kinds[kindUser].byText); n > maxNames {
		t.Errorf("%d names in memory", n)
	}
	if err := db.View(t.Context(), func(r *Read) error {
		for u, want := range ids {
			if got, err := r.findUser(u); got != want || err != nil {
				t.Fatalf("%s: %d, %v, want %d", u, got, err, want)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if again, err := db.StateKey("m.pending", "never written"); again != pending || err != nil {
		t.Errorf("number %d, %v, want %d", again, err, pending)
	}
}
