// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"fmt"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// A room with many members is adopted whole, forks and heals; its state groups are small changes, not copies.
func TestManyMembers(t *testing.T) {
	a, b := newBox(t, "a"), newBox(t, "b")
	room := a.create(CreateRequest{Creator: alice, Preset: "public_chat"})
	const n = 600
	for i := range n {
		u := event.UserID(fmt.Sprintf("@m%d:a", i))
		a.send(member(room, u, u, "join"))
	}
	joinRemote(t, a, b, room, carol)
	sameState(t, a, b, room)
	if us, err := b.Joined(t.Context(), room); err != nil || len(us) != n+2 {
		t.Fatalf("%d joined, %v", len(us), err)
	}
	bFrom := b.db.Published()
	a.send(state(room, alice, "m.room.topic", "", `{"topic":"a"}`))
	b.send(state(room, carol, "m.room.member", string(carol), `{"membership":"join","displayname":"Carol"}`))
	for _, p := range b.news(room, bFrom) {
		a.mustAccept(Incoming{PDU: p, From: Source{"link", "b"}}, Accepted)
	}
	for _, k := range []rules.Key{{Type: "m.room.topic"}, {Type: "m.room.member", StateKey: string(carol)}} {
		p, err := a.StateEvent(t.Context(), room, k.Type, k.StateKey)
		if err != nil || p == nil {
			t.Errorf("%v: %v, %v", k, p, err)
		}
	}
	var bytes int64
	if err := a.db.View(t.Context(), func(r *store.Read) (err error) { bytes, err = r.GroupBytes(); return err }); err != nil {
		t.Fatal(err)
	}
	if perEvent := bytes / n; perEvent > 200 {
		t.Errorf("state groups take %d bytes per state event", perEvent)
	}
}
