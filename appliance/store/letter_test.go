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
