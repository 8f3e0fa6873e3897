// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// killed gives the house that a kill right now would leave behind: the files as they are, opened anew.
func (h *house) killed() *house {
	h.t.Helper()
	k := &house{t: h.t, path: filepath.Join(h.t.TempDir(), "hallig.db"), now: h.now}
	for _, end := range []string{"", "-wal"} {
		b, err := os.ReadFile(h.path + end)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		ok(h.t, err)
		ok(h.t, os.WriteFile(k.path+end, b, 0o600))
	}
	k.open()
	return k
}

// What was answered is there after a kill, and what was taken is gone.
func TestAnsweredIsKept(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	var anna Session
	check := func(what string, holds func(*house) (bool, error)) {
		t.Helper()
		k := h.killed()
		defer k.db.Close()
		good, err := holds(k)
		if err != nil || !good {
			t.Errorf("%s: not kept (%v)", what, err)
		}
	}
	anna = h.register("anna")
	check("registration", func(k *house) (bool, error) {
		s, err := k.Auth(ctx, anna.AccessToken)
		return s.User == anna.User, err
	})
	_, err := h.UploadKeys(ctx, anna, KeyUpload{OneTimeKeys: map[string]json.RawMessage{"a:1": raw(`{"n":1}`), "a:2": raw(`{"n":2}`)}})
	ok(t, err)
	got, err := h.ClaimKeys(ctx, map[event.UserID]map[string]string{anna.User: {anna.Device: "a"}})
	ok(t, err)
	check("claim", func(k *house) (bool, error) {
		again, err := k.ClaimKeys(ctx, map[event.UserID]map[string]string{anna.User: {anna.Device: "a"}})
		return got[anna.User][anna.Device]["a:1"] != nil && again[anna.User][anna.Device]["a:2"] != nil, err
	})
	ok(t, h.ReceiveToDevice(ctx, "far.test", raw(`{"sender":"@z:far.test","type":"m.x","message_id":"1","messages":{%q:{"*":{}}}}`, anna.User)))
	check("letter", func(k *house) (bool, error) {
		n := 0
		err := k.db.View(ctx, func(r *store.Read) error {
			rows, err := r.ToDevice(anna.User, anna.Device, 0, 1<<60, 9)
			n = len(rows)
			return err
		})
		return n == 1, err
	})
	ok(t, h.SetAccountData(ctx, anna.User, "", "x", raw(`{"v":1}`)))
	check("account data", func(k *house) (bool, error) {
		v, err := k.AccountData(ctx, anna.User, "", "x")
		return string(v) == `{"v":1}`, err
	})
	ok(t, h.Logout(ctx, anna))
	check("logout", func(k *house) (bool, error) {
		_, err := k.Auth(ctx, anna.AccessToken)
		return code(err) == "M_UNKNOWN_TOKEN", nil
	})
}
