// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/tools/matrixclient"
)

// TestDescribedRooms: what tells an invited user about a room is taken as far as it can be proved.
func TestDescribedRooms(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna := a.user("anna")
	ctx := t.Context()
	for _, version := range []string{"10", "12"} {
		v, _ := event.Lookup(version)
		id := event.RoomID(must[string](t)(anna.CreateRoom(ctx, matrixclient.CreateRoom{Version: version, Name: "Deich"})))
		other := event.RoomID(must[string](t)(anna.CreateRoom(ctx, matrixclient.CreateRoom{Version: version, Name: "Düne"})))
		entry := func(id event.RoomID, typ string) json.RawMessage {
			p, err := a.rooms.StateEvent(ctx, id, typ, "")
			if err != nil {
				t.Fatal(err)
			}
			return p.JSON()
		}
		creation, name := entry(id, "m.room.create"), entry(id, "m.room.name")
		short := json.RawMessage(`{"type":"m.room.name","state_key":"","sender":"@a:b","content":{"name":"Deich"}}`)
		forged := json.RawMessage(bytes.Replace(name, []byte(`"depth":`), []byte(`"depth":1`), 1))
		elsewhere := entry(other, "m.room.name")
		strict := version == "12"
		for _, tc := range []struct {
			name string
			told []json.RawMessage
			want int // entries left; -1: refused
		}{
			{"whole events", []json.RawMessage{creation, name}, 2},
			{"no creation", []json.RawMessage{name}, map[bool]int{true: -1, false: 1}[strict]},
			{"nothing", nil, map[bool]int{true: -1, false: 0}[strict]},
			{"stripped form", []json.RawMessage{creation, short}, 2},
			{"forged", []json.RawMessage{creation, forged}, map[bool]int{true: -1, false: 1}[strict]},
			{"of another room", []json.RawMessage{creation, elsewhere}, map[bool]int{true: -1, false: 1}[strict]},
			{"creation of another room", []json.RawMessage{entry(other, "m.room.create"), name}, map[bool]int{true: -1, false: 1}[strict]},
		} {
			got, err := b.client.described(ctx, a.name, v, id, tc.told)
			var no *room.Error
			if tc.want < 0 && (err == nil || !errors.As(err, &no) || no.Code != "M_INVALID_PARAM") || tc.want >= 0 && (err != nil || len(got) != tc.want) {
				t.Errorf("version %s, %s: %d entries, %v", version, tc.name, len(got), err)
			}
			if slices.ContainsFunc(got, func(raw json.RawMessage) bool { return bytes.Equal(raw, forged) || bytes.Equal(raw, elsewhere) }) {
				t.Errorf("version %s, %s: what is not the room's was taken", version, tc.name)
			}
		}
	}
	// The creation is proved by the room's id though its signer's keys cannot be had: the island case.
	id := event.RoomID(must[string](t)(anna.CreateRoom(ctx, matrixclient.CreateRoom{Name: "Insel"})))
	p, err := a.rooms.StateEvent(ctx, id, "m.room.create", "")
	if err != nil {
		t.Fatal(err)
	}
	c := newTestBox(t, ca)
	a.link.Cut()
	if got, err := c.client.described(ctx, "", p.Version, id, []json.RawMessage{p.JSON()}); err != nil || len(got) != 1 || !strings.Contains(string(got[0]), "m.room.create") {
		t.Errorf("the creation alone: %s, %v", got, err)
	}
}
