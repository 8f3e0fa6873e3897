// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/room"
)

// Two clients find each other's keys and talk in an encrypted room: the whole way that a stock client takes.
func TestEncryptedRoom(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	anna, bert := h.person("anna"), h.person("bert")
	publish := func(p *person) {
		t.Helper()
		counts, err := h.accounts.UploadKeys(ctx, p.s, account.KeyUpload{
			DeviceKeys:  json.RawMessage(fmt.Sprintf(`{"user_id":%q,"device_id":%q,"algorithms":["m.megolm.v1.aes-sha2"],"keys":{"curve25519:%s":"c"}}`, p.id, p.dev, p.dev)),
			OneTimeKeys: map[string]json.RawMessage{"signed_curve25519:AAAAAQ": json.RawMessage(fmt.Sprintf(`{"key":"of %s"}`, p.dev))},
		})
		ok(t, err)
		if counts["signed_curve25519"] != 1 {
			t.Fatalf("counts %v", counts)
		}
	}
	publish(anna)
	publish(bert)
	id := anna.create("private_chat", room.StateDraft{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)})
	anna.must(id, bert, "invite")
	if inv := bert.sync("").Rooms.Invite[id]; inv == nil || find(inv.Invite.Events, "m.room.encryption", "") == nil {
		t.Fatal("the invite does not say that the room is encrypted")
	}
	anna.sync("")
	bert.join(id)
	if s := anna.sync(""); !slices.Contains(s.DeviceLists.Changed, bert.id) {
		t.Fatalf("anna is not told to ask for bert's keys: %+v", s.DeviceLists)
	}
	keys, remote, err := h.accounts.QueryKeys(ctx, anna.id, map[event.UserID][]string{bert.id: nil})
	ok(t, err)
	if len(keys.DeviceKeys[bert.id]) != 1 || len(remote) != 0 {
		t.Fatalf("keys %+v", keys)
	}
	claimed, err := h.accounts.ClaimKeys(ctx, map[event.UserID]map[string]string{bert.id: {bert.dev: "signed_curve25519"}})
	ok(t, err)
	if string(claimed[bert.id][bert.dev]["signed_curve25519:AAAAAQ"]) != `{"key":"of Dbert"}` {
		t.Fatalf("claimed %v", claimed)
	}
	if s := bert.sync(""); s.Keys["signed_curve25519"] != 0 || s.room(id).Timeline.Events == nil {
		t.Errorf("bert is not told that the keys are used up: %v", s.Keys)
	}
	ok(t, h.accounts.SendToDevice(ctx, anna.s, "m.room.encrypted", "k1", map[event.UserID]map[string]json.RawMessage{bert.id: {bert.dev: json.RawMessage(`{"ciphertext":"room key"}`)}}))
	_, err = anna.draft(room.Draft{Room: id, Type: "m.room.encrypted", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"xyz"}`)})
	ok(t, err)
	s := bert.sync("")
	if len(s.ToDevice.Events) != 1 || len(s.room(id).Timeline.Events) != 1 || s.room(id).Timeline.Events[0].Type != "m.room.encrypted" {
		t.Fatalf("bert got %+v", s)
	}
	if s.room(id).Unread.Notifications != 1 {
		t.Errorf("unread %+v", s.room(id).Unread)
	}
	// A new device of bert's is heard of by anna, and hears nothing that was for the old one.
	second, err := h.accounts.LoginTrusted(ctx, bert.id, "DNEW", "", false)
	ok(t, err)
	newer := &person{h: h, id: bert.id, dev: second.Device, s: second}
	publish(newer)
	if s := anna.sync(""); !slices.Equal(s.DeviceLists.Changed, []event.UserID{bert.id}) {
		t.Errorf("anna does not hear of the new device: %+v", s.DeviceLists)
	}
	if s := newer.sync(""); len(s.ToDevice.Events) != 0 || s.Keys["signed_curve25519"] != 1 {
		t.Errorf("the new device got %+v, keys %v", s.ToDevice, s.Keys)
	}
	// Nothing else happens on the box, and it learns that its key is gone.
	newer.sync("")
	if _, err = h.accounts.ClaimKeys(ctx, map[event.UserID]map[string]string{bert.id: {newer.dev: "signed_curve25519"}}); err != nil {
		t.Fatal(err)
	}
	if s := newer.sync(""); s.Keys["signed_curve25519"] != 0 {
		t.Errorf("the new device is not told that its key is used up: %v", s.Keys)
	}
	ok(t, h.accounts.Logout(ctx, second))
	if s := anna.sync(""); !slices.Equal(s.DeviceLists.Changed, []event.UserID{bert.id}) {
		t.Errorf("anna does not hear of the logout: %+v", s.DeviceLists)
	}
}
