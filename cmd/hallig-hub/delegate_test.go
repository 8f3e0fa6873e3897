// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"hallig/appliance"
	"hallig/tools/matrixclient"
)

// TestInvitesThroughTheHub: people on a box that lets its hub sign are invited by a central server while the box is away, and find the invites when it is back, whatever was killed meanwhile.
func TestInvitesThroughTheHub(t *testing.T) {
	for name, start := range map[string]func(*testing.T) central{"dendrite": dendrite, "synapse": synapse} {
		t.Run(name, func(t *testing.T) { invitesThroughTheHub(newHome(t, start(t), "delegate")) })
	}
}

func invitesThroughTheHub(h *home) {
	t := h.T
	ctx, began := t.Context(), time.Now()
	room, err := h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Preset: "public_chat", Name: "Lage", Alias: "vollmacht" + strings.ReplaceAll(h.world, ":", "-")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.anna.Join(ctx, "#vollmacht"+strings.ReplaceAll(h.world, ":", "-")+":"+h.name); err != nil {
		t.Fatal("join through the hub: ", err)
	}
	anna, carl := h.reader(h.anna), h.reader(h.carl)
	carl.sees("talk", h.say(h.anna, room, 1, "von der Box")...)
	first := h.agreed(began)

	h.stopBox()
	h.await("the hub to notice", func() bool { s, err := h.hubStatus(); return err == nil && !s.Boxes[0].Connected })
	invited := map[string]string{} // by room version
	for _, version := range []string{"10", "11", "12"} {
		id, err := h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: version, Preset: "private_chat", Name: "Fassung " + version})
		if err != nil {
			t.Logf("the central server makes no rooms of version %s: %v", version, err)
			continue
		}
		if err := h.carl.Invite(ctx, id, h.anna.UserID); err != nil {
			t.Errorf("an invite into a room of version %s: %v", version, err)
			continue
		}
		invited[version] = id
	}
	if len(invited) == 0 {
		t.Fatal("nobody was invited anywhere")
	}
	nobody := "@nobody:" + h.world
	if err := h.carl.Invite(ctx, must(t)(h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10"})), nobody); matrixclient.Status(err) != http.StatusForbidden {
		t.Errorf("an invite for nobody: %v", err)
	}
	h.killHub()
	h.startHub()
	h.startBox()

	find := func(id string) func(*matrixclient.SyncResponse) bool {
		return func(s *matrixclient.SyncResponse) bool { _, there := s.Rooms.Invite[id]; return there }
	}
	for version, id := range invited {
		if _, err := h.anna.Follow(ctx, "", find(id)); err != nil {
			t.Fatalf("the invite into the room of version %s: %v", version, err)
		}
		if _, err := h.anna.Join(ctx, id); err != nil {
			t.Fatalf("join the room of version %s: %v", version, err)
		}
		carl.sees("version "+version, h.say(h.anna, id, 2, "bin da")...)
		anna.sees("version "+version, h.say(h.carl, id, 2, "willkommen")...)
	}
	h.await("the hub to have nothing left", func() bool { s, err := h.hubStatus(); return err == nil && len(s.Boxes[0].Waiting) == 0 })

	// The key is taken back with the box's own. The central server goes on with the new one, and the hub gets another.
	h.stopBox()
	if _, err := appliance.RotateKey(ctx, h.boxConfig(), h.boxLog()); err != nil {
		t.Fatal(err)
	}
	rotated := time.Now()
	h.startBox()
	carl.sees("after the rotation", h.say(h.anna, room, 2, "mit neuem Schlüssel")...)
	anna.sees("after the rotation", h.say(h.carl, room, 2, "verstanden")...)
	if second := h.agreed(rotated); second == first {
		t.Errorf("the hub signs with %s as before", first)
	}
	h.stopBox()
	h.await("the hub to notice", func() bool { s, err := h.hubStatus(); return err == nil && !s.Boxes[0].Connected })
	id := must(t)(h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Preset: "private_chat", Name: "Zweiter Schlüssel"}))
	if err := h.carl.Invite(ctx, id, h.anna.UserID); err != nil {
		t.Fatal("an invite under the second key: ", err)
	}
	h.startBox()
	if _, err := h.anna.Follow(ctx, "", find(id)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.anna.Join(ctx, id); err != nil {
		t.Fatal(err)
	}
	carl.sees("the second key", h.say(h.anna, id, 1, "bin da")...)
}

// agreed waits until the hub may sign for the box, and knows its users, since a time.
func (h *home) agreed(since time.Time) (key string) {
	h.Helper()
	h.await("the hub's key to be listed", func() bool {
		s, err := h.hubStatus()
		if err != nil {
			return false
		}
		key = s.Boxes[0].Key
		return key != "" && h.boxStatus().Hub.Key == key && h.boxStatus().Hub.Told.After(since)
	})
	return key
}
