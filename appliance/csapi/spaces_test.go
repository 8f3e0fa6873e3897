// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

func TestSpace(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	space := b.room(alice, matrixclient.CreateRoom{Name: "Watt", Preset: "public_chat", CreationContent: map[string]any{"type": "m.space"}})
	sub := b.room(alice, matrixclient.CreateRoom{Name: "Unterraum", Preset: "public_chat", CreationContent: map[string]any{"type": "m.space"}})
	open := b.room(alice, matrixclient.CreateRoom{Name: "Offen", Preset: "public_chat"})
	closed := b.room(alice, matrixclient.CreateRoom{Name: "Zu"})
	members := b.room(alice, matrixclient.CreateRoom{Name: "Nur Watt", InitialState: []map[string]any{{"type": "m.room.join_rules", "content": map[string]any{
		"join_rule": "restricted", "allow": []map[string]string{{"type": "m.room_membership", "room_id": space}}}}}})
	put := func(parent, child, order string, suggested bool) {
		_, err := alice.SetState(b.ctx, parent, "m.space.child", child, object{"via": []string{boxName}, "order": order, "suggested": suggested})
		b.ok(err)
	}
	put(space, members, "", false)
	put(space, sub, "a", true)
	put(space, closed, "b", false)
	put(sub, open, "", false)
	put(sub, space, "", false) // a circle
	_, err := alice.SetState(b.ctx, space, "m.space.child", "!gone:box.example", object{})
	b.ok(err)

	walk := func(c *matrixclient.Client, query string) (names []string, next string) {
		var out struct {
			Rooms []struct {
				Name     string   `json:"name"`
				Children []object `json:"children_state"`
			} `json:"rooms"`
			Next string `json:"next_batch"`
		}
		b.ok(c.Do(b.ctx, "GET", "/_matrix/client/v1/rooms/"+space+"/hierarchy"+query, nil, &out))
		for _, r := range out.Rooms {
			names = append(names, r.Name)
		}
		if len(out.Rooms) > 0 && out.Rooms[0].Name == "Watt" && query == "" && len(out.Rooms[0].Children) != 3 {
			t.Errorf("children of the space: %v", out.Rooms[0].Children)
		}
		return names, out.Next
	}
	for _, tc := range []struct {
		c     *matrixclient.Client
		query string
		want  []string
	}{
		{alice, "", []string{"Watt", "Unterraum", "Offen", "Zu", "Nur Watt"}},
		{bob, "", []string{"Watt", "Unterraum", "Offen"}},
		{alice, "?max_depth=1", []string{"Watt", "Unterraum", "Zu", "Nur Watt"}},
		{alice, "?suggested_only=true", []string{"Watt", "Unterraum"}},
	} {
		if got, _ := walk(tc.c, tc.query); !slices.Equal(got, tc.want) {
			t.Errorf("%s sees %v%s, want %v", tc.c.UserID, got, tc.query, tc.want)
		}
	}
	_, err = bob.Join(b.ctx, space)
	b.ok(err)
	if got, _ := walk(bob, ""); !slices.Contains(got, "Nur Watt") {
		t.Errorf("a member of the space sees %v", got)
	}
	first, next := walk(alice, "?limit=2")
	second, end := walk(alice, "?limit=3&from="+next)
	if all := append(first, second...); len(all) != 5 || end != "" {
		t.Errorf("in pages: %v, then %q", all, end)
	}
	b.refused("a room nobody knows", bob.Do(b.ctx, "GET", "/_matrix/client/v1/rooms/!x:y/hierarchy", nil, nil), 403, "M_FORBIDDEN")

	var sum object
	b.ok(bob.Do(b.ctx, "GET", "/_matrix/client/v1/room_summary/"+open, nil, &sum))
	if sum["name"] != "Offen" || sum["membership"] != "leave" || sum["join_rule"] != "public" || sum["num_joined_members"] != 1.0 {
		t.Errorf("summary: %v", sum)
	}
	b.refused("summary of a closed room", bob.Do(b.ctx, "GET", "/_matrix/client/v1/room_summary/"+closed, nil, nil), 404, "M_NOT_FOUND")
}

// A space that lives on another server is asked for there; what the user may not enter is left out, whatever the other server says.
func TestSpaceElsewhere(t *testing.T) {
	b, _ := newFarBox(t, time.Minute)
	alice := b.user("alice")
	space := b.room(alice, matrixclient.CreateRoom{Name: "Watt", CreationContent: map[string]any{"type": "m.space"}})
	_, err := alice.SetState(b.ctx, space, "m.space.child", farSpace, object{"via": []string{boxName, "far.example"}})
	b.ok(err)
	var out struct {
		Rooms []struct {
			Name     string   `json:"name"`
			Children []object `json:"children_state"`
		} `json:"rooms"`
	}
	b.ok(alice.Do(b.ctx, "GET", "/_matrix/client/v1/rooms/"+space+"/hierarchy", nil, &out))
	var names []string
	for _, r := range out.Rooms {
		names = append(names, r.Name)
	}
	if !slices.Equal(names, []string{"Watt", "Fern", "Weit"}) || len(out.Rooms[1].Children) != 2 {
		t.Errorf("got %v, children %v", names, out.Rooms)
	}
	var sum object
	b.ok(alice.Do(b.ctx, "GET", "/_matrix/client/v1/room_summary/"+farSpace+"?via=far.example", nil, &sum))
	if sum["name"] != "Fern" || sum["membership"] != "leave" || sum["room_type"] != "m.space" {
		t.Errorf("summary: %v", sum)
	}
}

// What another server is shown of a space: rooms that are open, those its users are in, and the names of those it may not see.
func TestHierarchyForServers(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	space := b.room(alice, matrixclient.CreateRoom{Name: "Watt", Preset: "public_chat", CreationContent: map[string]any{"type": "m.space"}})
	open := b.room(alice, matrixclient.CreateRoom{Name: "Offen", Preset: "public_chat"})
	closed := b.room(alice, matrixclient.CreateRoom{Name: "Zu"})
	for _, child := range []string{open, closed, "!elsewhere:far.example"} {
		_, err := alice.SetState(b.ctx, space, "m.space.child", child, object{"via": []string{boxName}})
		b.ok(err)
	}
	raw, err := b.h.Hierarchy(b.ctx, event.RoomID(space), "far.example", false)
	b.ok(err)
	var out struct {
		Room struct {
			Name     string   `json:"name"`
			Children []object `json:"children_state"`
		} `json:"room"`
		Children []struct {
			Name string `json:"name"`
		} `json:"children"`
		Hidden []string `json:"inaccessible_children"`
	}
	b.ok(json.Unmarshal(raw, &out))
	if out.Room.Name != "Watt" || len(out.Room.Children) != 3 || len(out.Children) != 1 || out.Children[0].Name != "Offen" || !slices.Equal(out.Hidden, []string{closed}) {
		t.Errorf("got %s", raw)
	}
	if raw, err := b.h.Hierarchy(b.ctx, event.RoomID(closed), "far.example", false); err == nil {
		t.Errorf("a closed room: %s", raw)
	}
}
