// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"encoding/json"
	"testing"
)

func FuzzContact(f *testing.F) {
	f.Add([]byte(`{"version":"1","mode":"sealed","statement":"AA==","key_document":{},"clock":1}`))
	f.Add([]byte(`{"version":"1","mode":"delegate","statement":"AA==","key_document":{},"proposal":{},"clock":1}`))
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

func FuzzRooms(f *testing.F) {
	f.Add([]byte(`{"all":true,"rooms":[{"id":"!a:b","version":"12","tips":["$c"]}],"gone":["!d:e"]}`))
	f.Add([]byte(`{"rooms":[{"id":"a","version":"12","tips":[]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := ReadRooms(raw)
		if err != nil {
			return
		}
		for _, r := range l.Rooms {
			if r.ID[0] != '!' || len(r.ID) > 255 || r.Version == "" || len(r.Tips) > MaxTips {
				t.Errorf("%s reads as %+v", raw, r)
			}
		}
		again, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) <= MaxRoomsBytes {
			if _, err := ReadRooms(again); err != nil {
				t.Errorf("%s reads, %s does not: %v", raw, again, err)
			}
		}
	})
}
