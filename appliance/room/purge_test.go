// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// TestPurge: nothing is left of a room that was purged, the others stay, and it can be had anew, over and over, also when the program starts in between.
func TestPurge(t *testing.T) {
	const bob = event.UserID("@bob:b")
	a, b := newBox(t, "a"), newBox(t, "b")
	gone, stays := a.create(CreateRequest{Creator: alice, Preset: "public_chat", Version: "11"}), a.create(CreateRequest{Creator: alice, Preset: "public_chat", Version: "12"})
	for i := range 3 {
		joinRemote(t, a, b, gone, bob)
		if i == 0 {
			joinRemote(t, a, b, stays, bob)
		}
		if i == 2 {
			b.reopen() // what was had anew after a purge names nothing that is gone
		}
		for _, id := range b.state(gone) {
			if got, want := string(b.pdu(id).JSON()), string(a.pdu(id).JSON()); got != want {
				t.Errorf("had anew: %s, want %s", got, want)
			}
		}
		late := a.send(text(gone, alice, "wird gelöscht, bevor es da ist"))
		red := a.pdu(a.send(Draft{Room: gone, Sender: alice, Type: "m.room.redaction", Redacts: late, Content: []byte(fmt.Sprintf(`{"redacts":%q}`, late))}))
		st, _ := a.stateAndAuth(red.ID)
		var ids []event.ID
		for _, p := range st {
			ids = append(ids, p.ID)
		}
		b.mustAccept(Incoming{PDU: red, From: Source{"federation", "a"}, State: ids}, Accepted) // its target and another event lack
		other := b.send(text(stays, bob, "bleibt"))
		own := b.send(state(gone, bob, "m.room.member", string(bob), `{"membership":"join","displayname":"Bob"}`))
		want, err := b.State(t.Context(), stays)
		if err != nil {
			t.Fatal(err)
		}

		were := slices.AppendSeq([]event.ID{own, red.ID}, maps.Values(b.state(gone)))
		last := b.lastNumbers()
		if err := b.Purge(t.Context(), []event.RoomID{gone}); err != nil {
			t.Fatal(err)
		}
		for _, id := range were {
			if thin, _ := b.thins.id(id); thin != nil {
				t.Errorf("%s is still in memory", id)
			}
		}
		if i == 0 {
			b.reopen()
		}
		if now := b.lastNumbers(); now[0] < last[0] || now[1] < last[1] {
			t.Errorf("after %v the next numbers come after %v", last, now)
		}
		if ok, err := b.Knows(t.Context(), gone); ok || err != nil {
			t.Errorf("the room is still held: %v", err)
		}
		for _, id := range were {
			if known, err := b.Lacks(t.Context(), []event.ID{id}); err != nil || len(known) != 1 {
				t.Errorf("%s is still here: %v", id, err)
			}
		}
		if res := b.accept(Incoming{PDU: red, From: Source{"federation", "a"}}); res.Outcome != Rejected {
			t.Errorf("an event of a purged room: %v", res.Outcome)
		}
		if got, err := b.State(t.Context(), stays); err != nil || !maps.Equal(got, want) {
			t.Errorf("the other room's state: %v, %v", got, err)
		}
		if p := b.pdu(other); p == nil {
			t.Error("the other room has lost an event")
		}
		if err := b.db.Verify(t.Context()); err != nil {
			t.Error(err)
		}
		err = b.db.View(t.Context(), func(r *store.Read) error {
			events := map[event.RoomID]int64{}
			err := r.Weights(0, 1<<40, func(id event.RoomID, w store.Weight) { events[id] += w.Events })
			if events[gone] != 0 || events[stays] == 0 {
				t.Errorf("events in the table: %v", events)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// lastNumbers are those of the newest event and state group that were ever given.
func (b *box) lastNumbers() (n [2]int64) {
	b.t.Helper()
	err := b.db.View(b.t.Context(), func(r *store.Read) (err error) {
		n[0], n[1], err = r.LastNumbers()
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}
