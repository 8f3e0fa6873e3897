// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
)

// What a server has named and not given yet, and what waits for its ancestors, is still to come; how much lies before it is told by the depths.
func TestProgressOfWhatComes(t *testing.T) {
	a := newTestBox(t, testCA(t))
	anna := a.user("anna")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	in, room := a.intake, event.RoomID(id)
	v := must[*event.Version](t)(a.rooms.Version(t.Context(), room))
	have := must[[]event.ID](t)(a.rooms.Extremities(t.Context(), room))
	last, _, err := a.rooms.Event(t.Context(), have[0])
	if err != nil {
		t.Fatal(err)
	}
	staged := store.StagedPDU{Room: room, ID: last.ID, Origin: "far.test", JSON: last.JSON()}
	if err := a.db.Do(t.Context(), func(tx *store.Tx) error { return tx.StagePDU(staged) }); err != nil {
		t.Fatal(err)
	}
	child := *last
	child.Version, child.Depth = v, last.Depth+40
	in.mu.Lock()
	l := in.lane(room)
	l.wants["$tip"] = "other.test"
	in.mu.Unlock()
	in.measure(t.Context(), l, []lack{{id: "$gone", child: &waiting{pdu: &child, origin: "far.test"}}, {id: "$old", old: true, child: &waiting{pdu: last, origin: "far.test"}}})
	got := map[string]int{}
	for _, p := range must[[]Progress](t)(a.sender.Progress(t.Context())) {
		got[p.Server] = p.In
		if len(p.Rooms) != 1 || p.Rooms[0].Room != room || p.Rooms[0].In != p.In || p.Out != 0 {
			t.Errorf("%+v", p)
		}
	}
	// far.test has never given anything: all down to the room's beginning may lack, and one is here.
	if want := int(last.Depth) + 40 - 1 + 1; got["far.test"] != want || got["other.test"] != 1 || len(got) != 2 {
		t.Errorf("to come: %v, want %d and 1", got, want)
	}
}
