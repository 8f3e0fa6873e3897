// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

func TestLeftLetters(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
	do := func(f func(tx *Tx) error) {
		t.Helper()
		if err := db.Do(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	list := func(dest string) (out []LeftLetter) {
		t.Helper()
		err := db.View(t.Context(), func(r *Read) (err error) {
			out, err = r.LeftLetters(dest)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	events := LeftLetter{Series: "s", Place: 1, Epoch: "e", Key: "ed25519:a", Txn: "t1", Events: []byte(`[1]`)}
	edus := LeftLetter{Series: "s", Place: 2, Epoch: "e", Key: "ed25519:a", Txn: "t2", EDUTo: 7, Events: []byte(`[]`), Body: []byte(`{}`)}
	last := LeftLetter{Series: "s", Place: 3, Epoch: "e", Key: "ed25519:a", Txn: "t3", Events: []byte(`[2]`)}
	do(func(tx *Tx) error {
		for _, l := range []LeftLetter{events, edus, last} {
			if err := tx.AddLetter("far.test", l); err != nil {
				return err
			}
		}
		return tx.AddLetter("other.test", events)
	})
	if got := list("far.test"); !reflect.DeepEqual(got, []LeftLetter{events, edus, last}) {
		t.Errorf("kept %+v", got)
	}
	anew := edus
	anew.Series, anew.Place = "s2", 1
	do(func(tx *Tx) error { return tx.AddLetter("far.test", anew) })
	if got := list("far.test"); !reflect.DeepEqual(got, []LeftLetter{events, last, anew}) {
		t.Errorf("left anew: %+v", got)
	}
	var dests []string
	if err := db.View(t.Context(), func(r *Read) (err error) {
		dests, err = r.FederationDests()
		return err
	}); err != nil || !slices.Equal(dests, []string{"far.test", "other.test"}) {
		t.Errorf("servers %q, %v", dests, err)
	}
	do(func(tx *Tx) error { return tx.TakeLettersBack("far.test") })
	anew.Place = 0
	if got := list("far.test"); !reflect.DeepEqual(got, []LeftLetter{anew}) {
		t.Errorf("without events: %+v", got)
	}
	do(func(tx *Tx) error { return tx.DropLetterTxn("far.test", "t2") })
	if len(list("far.test")) != 0 || !reflect.DeepEqual(list("other.test"), []LeftLetter{events}) {
		t.Error("not forgotten, or too much of it")
	}
}

// What travels on sticks is kept whole, in the order in which it was made, until the letter is over, taken back, or with the hub.
func TestBaggedLetters(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
	do := func(f func(tx *Tx) error) {
		t.Helper()
		if err := db.Do(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	bag := func() (out []string) {
		t.Helper()
		err := db.View(t.Context(), func(r *Read) error {
			for after := int64(0); ; {
				n, raw, err := r.BaggedAfter(after)
				if err != nil || n == 0 {
					return err
				}
				after, out = n, append(out, string(raw))
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	letter := func(dest, series string, place int64, txn string, edus int64) func(tx *Tx) error {
		l := LeftLetter{Series: series, Place: place, Epoch: "e", Key: "ed25519:a", Txn: txn, EDUTo: edus, Events: []byte(`[]`), Raw: []byte(dest + txn)}
		if edus > 0 {
			l.Body = []byte(`{}`)
		}
		return func(tx *Tx) error { return tx.AddLetter(dest, l) }
	}
	do(letter("a", "s", 1, "1", 0))
	do(letter("b", "s", 1, "1", 0))
	do(letter("a", "s", 2, "2", 7))
	do(letter("a", "s", 3, "3", 0))
	do(func(tx *Tx) error {
		return tx.AddLetter("c", LeftLetter{Series: "x", Epoch: "e", Txn: "back x", Events: []byte("[]"), Body: []byte("{}")})
	})
	if got := bag(); !slices.Equal(got, []string{"a1", "b1", "a2", "a3"}) {
		t.Errorf("bag %q", got)
	}
	err := db.View(t.Context(), func(r *Read) error {
		out, err := r.OutLetters()
		if want := []OutLetters{{"a", "s", "e", 1, 3}, {"b", "s", "e", 1, 1}, {"c", "x", "e", 0, 0}}; err != nil || !slices.Equal(out, want) {
			t.Errorf("out %+v, %v", out, err)
		}
		raw, err := r.BaggedLetter("a", "2")
		if err != nil || string(raw) != "a2" {
			t.Errorf("one: %q, %v", raw, err)
		}
		left, err := r.LeftLetters("a")
		if err != nil || len(left) != 3 || !left[0].Bagged || left[0].Raw != nil {
			t.Errorf("%+v, %v", left, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	do(func(tx *Tx) error { return tx.UnbagLetter("a", "1") })
	do(func(tx *Tx) error { return tx.DropLetterTxn("b", "1") })
	if got := bag(); !slices.Equal(got, []string{"a2", "a3"}) {
		t.Errorf("bag %q", got)
	}
	do(func(tx *Tx) error { return tx.TakeLettersBack("a") })
	if got := bag(); len(got) != 0 {
		t.Errorf("taken back: %q", got)
	}
	var state []byte
	do(func(tx *Tx) error { return tx.SetHubStick([]byte("1")) })
	do(func(tx *Tx) error { return tx.SetHubStick([]byte("2")) })
	if err := db.View(t.Context(), func(r *Read) (err error) { state, err = r.HubStick(); return err }); err != nil || string(state) != "2" {
		t.Errorf("state %q, %v", state, err)
	}
}
