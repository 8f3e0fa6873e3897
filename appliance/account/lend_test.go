// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"encoding/json"
	"fmt"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// A key that was lent is never given out here, counts as the device's all the same, and is gone when it was given away there.
func TestLentKeys(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	s := h.register("anna")
	upload := func(from, to int) {
		up := KeyUpload{DeviceKeys: deviceKeysOf(s), OneTimeKeys: map[string]json.RawMessage{}, FallbackKeys: map[string]json.RawMessage{"signed_curve25519:F": raw(`{"key":"f"}`)}}
		for i := from; i < to; i++ {
			up.OneTimeKeys[fmt.Sprintf("signed_curve25519:K%02d", i)] = raw(`{"key":"%d"}`, i)
		}
		_, err := h.UploadKeys(ctx, s, up)
		ok(t, err)
	}
	holder := "a"
	lend := func(most int) map[string]json.RawMessage {
		l, err := h.LendKeys(ctx, s.User, holder, most)
		ok(t, err)
		if string(l.Fallback[s.Device]["signed_curve25519:F"]) != `{"key":"f"}` {
			t.Errorf("fallback keys %v", l.Fallback)
		}
		return l.OneTime[s.Device]
	}
	left := func() int {
		var n map[string]int
		ok(t, h.db.View(ctx, func(r *store.Read) (err error) { n, err = r.OneTimeKeyCounts(s.User, s.Device); return err }))
		if len(n) > 1 {
			t.Errorf("counts %v", n)
		}
		return n["signed_curve25519"]
	}
	given := func(gs ...GivenKey) { ok(t, h.KeysGiven(ctx, gs)) }
	upload(0, 10)
	if n := len(lend(20)); n != 5 {
		t.Errorf("lent %d of 10, want half", n)
	}
	upload(10, 20)
	first := lend(8)
	if len(first) != 8 {
		t.Errorf("lent %d, want 8", len(first))
	}
	h.restart()
	if again := lend(8); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("lent %v, after a restart %v", first, again)
	}
	if n := left(); n != 20 {
		t.Errorf("the device has %d, want 20", n)
	}
	upload(0, 20) // the same again, lent or not
	if n := left(); n != 20 {
		t.Errorf("the device has %d after a repetition", n)
	}
	for range 13 {
		got, err := h.ClaimKeys(ctx, map[event.UserID]map[string]string{s.User: {s.Device: "signed_curve25519"}})
		ok(t, err)
		for id := range got[s.User][s.Device] {
			if _, lent := first[id]; lent {
				t.Errorf("%s was lent and given out here", id)
			}
		}
	}
	if n := left(); n != 8 {
		t.Errorf("%d are left, want those that are lent", n)
	}
	for id := range first {
		given(GivenKey{User: s.User, Device: s.Device, ID: id})
		given(GivenKey{User: s.User, Device: s.Device, ID: id})
		break
	}
	if n := left(); n != 7 {
		t.Errorf("%d are left after one was given away there", n)
	}
	unused := func() (n int) {
		ok(t, h.db.View(ctx, func(r *store.Read) error {
			algs, err := r.UnusedFallback(s.User, s.Device)
			n = len(algs)
			return err
		}))
		return n
	}
	upload(20, 20)
	_, err := h.UploadKeys(ctx, s, KeyUpload{FallbackKeys: map[string]json.RawMessage{"signed_curve25519:F2": raw(`{"key":"f2"}`)}})
	ok(t, err)
	given(GivenKey{User: s.User, Device: s.Device, ID: "signed_curve25519:F", Fallback: true}) // an older one
	if unused() != 1 {
		t.Error("a fallback key counts as used that is not the one that was")
	}
	given(GivenKey{User: s.User, Device: s.Device, ID: "signed_curve25519:F2", Fallback: true})
	if unused() != 0 {
		t.Error("the fallback key does not count as used")
	}
	upload(20, 26)
	holder = "b" // the other one's memory is lost
	second := lend(8)
	for id := range second {
		if _, before := first[id]; before {
			t.Errorf("%s is lent twice", id)
		}
	}
	if n := left(); len(second) != 3 || n != 6 {
		t.Errorf("lent %d, %d are left, want 3 and 6", len(second), n)
	}
	ok(t, h.db.Do(ctx, func(tx *store.Tx) error { return tx.ForgetOneTimeKeys() }))
	if n := left(); n != 0 {
		t.Errorf("%d are left after a restore", n)
	}
}
