// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"encoding/json"
	"testing"

	"hallig/appliance/event"
)

// FuzzEDUs hands in what another server may send: nothing of it is an error here, and nothing makes the box stumble.
func FuzzEDUs(f *testing.F) {
	h := newHouse(f)
	anna := h.register("anna")
	for _, s := range []string{
		`{"sender":"@z:far.test","type":"m.test","message_id":"m1","messages":{"@anna:box.test":{"*":{"n":3}}}}`,
		`{"user_id":"@z:far.test","device_id":"B","stream_id":6,"prev_id":[5],"keys":{"b":1}}`,
		`{"user_id":"@z:far.test","master_key":{"keys":{"ed25519:a":"a"}},"self_signing_key":null}`,
		`{"!r:far.test":{"m.read":{"@z:far.test":{"event_ids":["$e"],"data":{"ts":1,"thread_id":"main"}}}}}`,
		`{"user_id":"@z:far.test","stream_id":5,"devices":[{"device_id":"A","keys":{"a":1}}]}`,
		`{"device_keys":{"@z:far.test":{"A":{"a":1}}}}`, `[]`, `null`, `{"messages":{"":{"":null}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ctx := context.Background()
		ok(t, h.ReceiveToDevice(ctx, "far.test", raw))
		_, err := h.ReceiveDeviceList(ctx, "far.test", raw)
		ok(t, err)
		ok(t, h.ReceiveSigningKeys(ctx, "far.test", raw))
		ok(t, h.ReceiveReceipts(ctx, "far.test", raw))
		if err := h.UpdateRemoteDevices(ctx, "@z:far.test", raw); err != nil {
			wantCode(t, err, "M_BAD_JSON")
		}
		out := newKeyAnswer()
		users := []event.UserID{"@z:far.test"}
		if _, err := h.MergeRemoteKeys(ctx, anna.User, users, map[event.UserID][]string{users[0]: nil}, raw, &out); err != nil {
			wantCode(t, err, "M_BAD_JSON")
		}
		if _, err := json.Marshal(out); err != nil {
			t.Fatalf("answer cannot be written: %v", err)
		}
	})
}

// FuzzUploads hands in what a client may send.
func FuzzUploads(f *testing.F) {
	h := newHouse(f)
	anna := h.register("anna")
	f.Add([]byte(`{"device_keys":{"user_id":"@anna:box.test"},"one_time_keys":{"a:b":{}},"fallback_keys":{"a:c":{}}}`))
	f.Add([]byte(`{"master_key":{"user_id":"@anna:box.test","usage":["master"],"keys":{"a":"b"}}}`))
	f.Add([]byte(`{"@anna:box.test":{"D":{"signatures":{"@anna:box.test":{"ed25519:x":"y"}}}}}`))
	f.Add([]byte(`{"actions":["notify"],"conditions":[{"kind":"event_match"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ctx := context.Background()
		refused := func(err error) {
			t.Helper()
			if c := code(err); len(c) > 12 && c[:12] == "not tellable" {
				t.Fatal(err)
			}
		}
		var up KeyUpload
		if json.Unmarshal(raw, &up) == nil {
			_, err := h.UploadKeys(ctx, anna, up)
			refused(err)
		}
		var cross CrossSigningUpload
		if json.Unmarshal(raw, &cross) == nil {
			refused(h.UploadCrossSigning(ctx, anna, cross))
		}
		var sigs map[event.UserID]map[string]json.RawMessage
		if json.Unmarshal(raw, &sigs) == nil {
			_, err := h.UploadSignatures(ctx, anna, sigs)
			refused(err)
		}
		refused(h.SetPushRule(ctx, anna.User, "override", "mine", raw, "", ""))
		refused(h.SetPusher(ctx, anna, raw))
		refused(h.SetAccountData(ctx, anna.User, "", "x", raw))
	})
}
