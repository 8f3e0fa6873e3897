// SPDX-License-Identifier: EUPL-1.2

package conflict

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// upgrade replaces a room by one that somebody of the house makes.
func (h *house) upgrade(old event.RoomID, who, preset string, claims event.RoomID) event.RoomID {
	h.t.Helper()
	next, err := h.rooms.Create(h.t.Context(), room.CreateRequest{Creator: h.user(who), Preset: preset, Name: "Lage neu",
		CreationContent: json.RawMessage(`{"predecessor":{"room_id":"` + string(claims) + `"}}`)})
	if err != nil {
		h.t.Fatal(err)
	}
	h.set(old, who, "m.room.tombstone", "", `{"body":"weiter","replacement_room":"`+string(next)+`"}`)
	return next
}

// The room is replaced at the centre. The people of the box are brought along and told so; while the centre is out of reach again, that waits.
func TestFollowUpgrade(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "bob", "hier")
	next := z.upgrade(id, "alice", "public_chat", id)
	b.meet(z, id)
	b.others = map[string]*house{}
	b.settle()
	b.silent("bob", "carl")
	b.again()
	b.others["z"] = z
	b.now = b.now.Add(followMost)
	b.settle()
	for n, part := range map[string]string{"bob": "hat den Raum anderswo durch einen neuen ersetzt", "carl": "has replaced the room"} {
		b.tells(n, part, "https://matrix.to/#/"+string(next)+"?via=z", "Lage")
		if got := b.membership(next, b.user(n)); got != "join" {
			t.Errorf("%s: %q in the new room", n, got)
		}
	}
	b.silent("dora")
	if n := b.counts(); n[CountFollowed] != 2 || n[CountStayed] != 0 {
		t.Errorf("counted %v", n)
	}
	b.again()
	b.settle()
	b.tells("bob")
}

// While the new room stays out of reach people are told so, once; the box goes on trying.
func TestFollowOutOfReach(t *testing.T) {
	z, b, id := lage(t)
	next := z.upgrade(id, "alice", "public_chat", id)
	b.meet(z, id)
	b.others = map[string]*house{}
	b.settle()
	for range 20 {
		b.now = b.now.Add(10 * time.Minute)
		b.settle()
	}
	b.tells("bob", "noch nicht erreicht", string(next))
	b.others["z"] = z
	b.now = b.now.Add(followMost)
	b.settle()
	if got := b.told("bob"); len(got) != 2 || !strings.Contains(got[1], "eintreten lassen") {
		t.Errorf("told %q", got)
	}
}

// The new room lets nobody in without an invite: people are told whom to ask. Who has been invited is brought along.
func TestFollowOnlyWhereLetIn(t *testing.T) {
	z, b, id := lage(t)
	next := z.upgrade(id, "alice", "private_chat", id)
	b.meet(z, id)
	b.settle()
	for _, n := range []string{"bob", "carl"} {
		b.tells(n, "@alice:z")
		if got := b.membership(next, b.user(n)); got == "join" {
			t.Errorf("%s is in", n)
		}
	}
	b.tells("carl", "does not let you in without an invite")
	if n := b.counts(); n[CountStayed] != 2 {
		t.Errorf("counted %v", n)
	}
}

// A room that does not say that it replaces the old one is left again: whoever closes a room could send its people anywhere.
func TestFollowNoStranger(t *testing.T) {
	z, b, id := lage(t)
	next := z.upgrade(id, "alice", "public_chat", "!anderer:z")
	b.meet(z, id)
	b.conflicts.c.Leave = func(context.Context, event.UserID, event.RoomID) error { return errors.New("the disk is full") }
	b.settle()
	b.silent("bob")
	b.conflicts.c.Leave = b.leave
	b.now = b.now.Add(followFirst)
	b.settle()
	for _, n := range []string{"bob", "carl"} {
		if got := b.membership(next, b.user(n)); got == "join" {
			t.Errorf("%s is in", n)
		}
	}
	b.tells("carl", "does not say it replaces it")
}

// Both sides replace the room. One new room holds, on both sides alike; the people of the other are brought into it, and told.
func TestUpgradedTwice(t *testing.T) {
	z, b, id := lage(t)
	z.set(id, "alice", "m.room.power_levels", "", `{"users":{"@bob:b":100},"events":{"m.room.tombstone":100}}`)
	b.meet(z, id)
	theirs := z.upgrade(id, "alice", "public_chat", id)
	z.now = z.now.Add(-time.Hour) // the box's comes later, and so does not hold
	ours := b.upgrade(id, "bob", "public_chat", id)
	if _, err := b.join(t.Context(), b.user("carl"), ours, nil); err != nil {
		t.Fatal(err)
	}
	b.meet(z, id)
	for _, h := range []*house{z, b} {
		if got := replacement(h.pdu(h.holder(id, "m.room.tombstone")).Content); got != theirs {
			t.Fatalf("at %s %s holds, want %s", h.name, got, theirs)
		}
	}
	b.settle()
	z.settle()
	for _, n := range []string{"bob", "carl"} {
		if got := b.membership(theirs, b.user(n)); got != "join" {
			t.Errorf("%s: %q in the room that holds", n, got)
		}
		got := b.told(n)
		if len(got) != 2 || !strings.Contains(got[0], string(theirs)) || !strings.Contains(got[1], string(theirs)) {
			t.Errorf("%s was told %q", n, got)
		}
	}
	if got := b.told("carl")[0]; !strings.Contains(got, "on two sides") {
		t.Errorf("carl was not told that there are two:\n%s", got)
	}
	z.tells("alice", "Nachfolger des Raums: Es gilt „"+string(theirs), "Nicht mehr: „"+string(ours))
	z.silent("zoe")
}
