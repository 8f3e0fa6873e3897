// SPDX-License-Identifier: EUPL-1.2

package conflict

import (
	"encoding/json"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// Who was invited while the box was away is told, unless there is nothing to tell any more.
func TestMissedInvites(t *testing.T) {
	h := newHouse(t, "b.test", "anna", "bert", "cora", "dora", "emil")
	h.speaks("anna", "de")
	h.speaks("bert", "en")
	at := time.Date(2026, 11, 27, 3, 12, 0, 0, time.Local)
	miss := func(name string, id event.RoomID, called string) {
		t.Helper()
		if err := h.conflicts.Missed(t.Context(), Missed{User: h.user(name), By: "@carl:far.test", Room: id, Name: called, At: at}); err != nil {
			t.Error(err)
		}
	}
	id, err := h.rooms.Create(t.Context(), room.CreateRequest{Creator: h.user("cora"), Preset: "private_chat", Invite: []event.UserID{h.user("dora")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.accounts.SetAccountData(t.Context(), h.user("emil"), "", "m.ignored_user_list", json.RawMessage(`{"ignored_users":{"@carl:far.test":{}}}`)); err != nil {
		t.Fatal(err)
	}
	miss("anna", "!r:far.test", "Lage\n Nord")
	miss("bert", "!r:far.test", "")
	for _, there := range []string{"cora", "dora"} {
		miss(there, id, "hier")
	}
	miss("emil", "!r:far.test", "Lage")
	miss("nobody", "!r:far.test", "Lage")
	h.settle()
	h.tells("anna", "@carl:far.test wollte Sie am 27.11. 03:12 in den Raum „Lage Nord“ einladen.", "Schreiben Sie @carl:far.test")
	h.tells("bert", "@carl:far.test wanted to invite you to a room on 27 Nov 03:12.", "ask for a new one")
	h.silent("cora", "dora", "emil")
}
