// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"encoding/json"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

// TestPutOutMeanwhile: a box's only user in a room is banned while the box is away. The other server sends the ban alone, as Synapse does when it catches up, and tells nothing
// of what came before it, for the box is out. The ban holds all the same, and the sender tells that its questions are refused. A ban by somebody without power does not hold.
func TestPutOutMeanwhile(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, alf, bert := a.user("anna"), a.user("alf"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat", Version: "11"}))
	must[string](t)(alf.Join(t.Context(), id))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	warm := say(t, bert, id, 1, "warm")
	a.await("the first message", func() bool { return a.has(id, warm) })
	if _, err := anna.SetState(t.Context(), id, "m.room.power_levels", "", map[string]any{"users": map[string]int{anna.UserID: 100, alf.UserID: 50}}); err != nil {
		t.Fatal(err)
	}
	powerful := a.stateID(id, "m.room.power_levels", "")
	b.await("alf's power", func() bool { return b.has(id, []string{string(powerful)}) })
	if _, err := anna.SetState(t.Context(), id, "m.room.power_levels", "", map[string]any{"users": map[string]int{anna.UserID: 100}}); err != nil {
		t.Fatal(err)
	}
	b.await("alf's fall", func() bool { return b.has(id, []string{string(a.stateID(id, "m.room.power_levels", ""))}) })

	a.link.Cut()
	b.link.Cut()
	alone := say(t, bert, id, 3, "allein")
	say(t, anna, id, 3, "dort")
	if err := anna.Ban(t.Context(), id, bert.UserID, "genug"); err != nil {
		t.Fatal(err)
	}
	ban, _, err := a.rooms.Event(t.Context(), a.stateID(id, "m.room.member", bert.UserID))
	if err != nil {
		t.Fatal(err)
	}
	forged := alfBans(t, a, ban, alf.UserID, powerful)
	a.link.Join()               // the box asks, nobody sends to it
	in := NewIntake(b.intake.c) // never run: the rounds are ours
	l := in.lane(event.RoomID(id))
	membership := func() string {
		return must[map[event.UserID]string](t)(b.rooms.Members(t.Context(), event.RoomID(id)))[event.UserID(bert.UserID)]
	}
	for _, p := range []*event.PDU{forged, ban} {
		if got := membership(); got != "join" {
			t.Fatalf("bert's membership is %q before the ban", got)
		}
		if err := in.Take(t.Context(), a.name, p); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, _, err := in.round(t.Context(), l); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := membership(); got != "ban" {
		t.Errorf("bert's membership is %q after the ban", got)
	}
	if _, meta, err := b.rooms.Event(t.Context(), forged.ID); err != nil || !meta.Rejected {
		t.Errorf("the ban without power was not looked at: %+v, %v", meta, err)
	}
	b.await("the refusal to be told", func() bool {
		span, ok := b.refusals.Load(a.name + " " + id)
		return ok && span == [2]int64{b.posOf(alone[0]), b.posOf(alone[2])}
	})
}

func (b *testBox) posOf(id string) int64 {
	b.Helper()
	_, meta, err := b.rooms.Event(b.Context(), event.ID(id))
	if err != nil {
		b.Fatal(err)
	}
	return meta.Pos
}

func (b *testBox) stateID(id, typ, key string) event.ID {
	b.Helper()
	p := must[*event.PDU](b.T)(b.rooms.StateEvent(b.Context(), event.RoomID(id), typ, key))
	return p.ID
}

// alfBans makes a ban by somebody who had the power once, with the power levels of then and ancestors that nobody has.
func alfBans(t *testing.T, a *testBox, like *event.PDU, alf string, levels event.ID) *event.PDU {
	t.Helper()
	p := event.Proto{RoomID: like.RoomID, Sender: event.UserID(alf), Type: like.Type, StateKey: like.StateKey, Content: json.RawMessage(`{"membership":"ban"}`), TS: like.TS, Depth: like.Depth + 1,
		Prev: []event.ID{event.ID("$" + strings.Repeat("A", 43))}, Auth: []event.ID{a.stateID(string(like.RoomID), "m.room.create", ""), levels, a.stateID(string(like.RoomID), "m.room.member", alf)}}
	for _, id := range like.Auth { // bert's own membership
		if q, _, err := a.rooms.Event(t.Context(), id); err == nil && q.Is("m.room.member", *like.StateKey) {
			p.Auth = append(p.Auth, id)
		}
	}
	pdu, err := event.Build(like.Version, p, a.name, a.local.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pdu
}
