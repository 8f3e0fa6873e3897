// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"encoding/json"
	"testing"
)

func FuzzContact(f *testing.F) {
	f.Add([]byte(`{"version":"1","mode":"sealed","statement":"AA==","key_document":{},"clock":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ReadContact(raw)
		if err != nil {
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) <= MaxContact {
			if _, err := ReadContact(again); err != nil {
				t.Errorf("%s reads, %s does not: %v", raw, again, err)
			}
		}
	})
}

func FuzzUser(f *testing.F) {
	f.Add([]byte(`{"profile":{},"one_time":{"D":{"signed_curve25519:A":{}}},"fallback":{"D":{"a:b":1}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		u, err := ReadUser(raw)
		if err != nil {
			return
		}
		again, err := json.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) <= MaxUser {
			if _, err := ReadUser(again); err != nil {
				t.Errorf("%s reads, %s does not: %v", raw, again, err)
			}
		}
	})
}

func FuzzMissedInvite(f *testing.F) {
	f.Add([]byte(`{"user_id":"@anna:box1.test","sender":"@carl:far.test","room_id":"!r:far.test","room_name":"Lage","ts":1790000000000}`))
	f.Add([]byte(`{"user_id":"anna","sender":"@carl:far.test","room_id":"!","ts":-1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := ReadMissedInvite(raw)
		if err != nil {
			return
		}
		if m.User.Server() == "" || m.Sender.Server() == "" || m.Room[0] != '!' || len(m.Name) > MaxRoomName {
			t.Errorf("%s reads as %+v", raw, m)
		}
	})
}
