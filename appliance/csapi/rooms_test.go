// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/tools/matrixclient"
)

func TestRegisterToTalking(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	room := b.room(alice, matrixclient.CreateRoom{Name: "Deich", Invite: []string{bob.UserID}})
	s, err := bob.Sync(b.ctx, matrixclient.SyncOptions{})
	b.ok(err)
	inv, ok := s.Rooms.Invite[room]
	if !ok {
		t.Fatalf("bob sees no invite: %+v", s.Rooms)
	}
	if !slices.ContainsFunc(inv.State.Events, func(e matrixclient.Event) bool { return e.Type == "m.room.name" }) {
		t.Errorf("the invite does not show the room's name: %+v", inv.State.Events)
	}
	if id, err := bob.Join(b.ctx, room); err != nil || id != room {
		t.Fatalf("join: %q, %v", id, err)
	}
	s, err = bob.Sync(b.ctx, matrixclient.SyncOptions{Since: s.NextBatch})
	b.ok(err)
	if _, ok := s.Rooms.Join[room]; !ok {
		t.Fatalf("bob is not in the room: %+v", s.Rooms)
	}
	// A waiting poll wakes when alice writes.
	type got struct {
		e   matrixclient.Event
		err error
	}
	heard := make(chan got, 1)
	go func() {
		e, _, err := bob.WaitEvent(b.ctx, s.NextBatch, room, func(e matrixclient.Event) bool { return e.Type == "m.room.message" })
		heard <- got{e, err}
	}()
	id, err := alice.SendText(b.ctx, room, "Land unter")
	b.ok(err)
	if g := <-heard; g.err != nil || g.e.ID != id || g.e.Body() != "Land unter" || g.e.Sender != alice.UserID {
		t.Errorf("bob hears %+v, %v", g.e, g.err)
	}
	all, err := bob.AllMessages(b.ctx, room)
	b.ok(err)
	if n := count(all, func(e matrixclient.Event) bool { return e.ID == id }); n != 1 {
		t.Errorf("the message is %d times in the history", n)
	}
	e, err := bob.Event(b.ctx, room, id)
	b.ok(err)
	if e.RoomID != room || e.Body() != "Land unter" {
		t.Errorf("event: %+v", e)
	}
	var around struct {
		Event  matrixclient.Event   `json:"event"`
		Before []matrixclient.Event `json:"events_before"`
	}
	b.ok(bob.Do(b.ctx, "GET", matrixclient.Path("rooms", room, "context", id), nil, &around))
	if around.Event.ID != id || len(around.Before) == 0 {
		t.Errorf("context: %+v", around)
	}
}

func count[T any](list []T, ok func(T) bool) int {
	n := 0
	for _, v := range list {
		if ok(v) {
			n++
		}
	}
	return n
}

func TestPresets(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	for _, version := range []string{"", "10", "11", "12"} {
		for _, tc := range []struct{ preset, visibility, rule, history, guests string }{
			{"", "", "invite", "shared", "can_join"},
			{"", "public", "public", "shared", "forbidden"},
			{"private_chat", "public", "invite", "shared", "can_join"},
			{"trusted_private_chat", "", "invite", "shared", "can_join"},
			{"public_chat", "", "public", "shared", "forbidden"},
		} {
			room := b.room(alice, matrixclient.CreateRoom{
				Version: version, Preset: tc.preset, Visibility: tc.visibility, Name: "N", Topic: "T", Invite: []string{bob.UserID}, IsDirect: true,
				InitialState: []map[string]any{{"type": "m.room.encryption", "state_key": "", "content": map[string]string{"algorithm": "m.megolm.v1.aes-sha2"}}},
			})
			var create struct {
				Version    string   `json:"room_version"`
				Additional []string `json:"additional_creators"`
			}
			b.ok(alice.StateEvent(b.ctx, room, "m.room.create", "", &create))
			want := version
			if want == "" {
				want = "12"
			}
			if create.Version != want || strings.Contains(room, ":") == (want == "12") {
				t.Errorf("%q %q: version %q, id %s", version, tc.preset, create.Version, room)
			}
			for typ, kv := range map[string][2]string{
				"m.room.join_rules":         {"join_rule", tc.rule},
				"m.room.history_visibility": {"history_visibility", tc.history},
				"m.room.guest_access":       {"guest_access", tc.guests},
				"m.room.name":               {"name", "N"},
				"m.room.topic":              {"topic", "T"},
				"m.room.encryption":         {"algorithm", "m.megolm.v1.aes-sha2"},
			} {
				var m map[string]any
				err := alice.StateEvent(b.ctx, room, typ, "", &m)
				if matrixclient.Status(err) == 404 && typ == "m.room.guest_access" && kv[1] == "forbidden" {
					continue // absent means forbidden
				}
				if err != nil || m[kv[0]] != kv[1] {
					t.Errorf("%q %q %q: %s is %v, %v; want %s", version, tc.preset, tc.visibility, typ, m, err, kv[1])
				}
			}
			var pl struct {
				Users map[string]int `json:"users"`
			}
			b.ok(alice.StateEvent(b.ctx, room, "m.room.power_levels", "", &pl))
			if want != "12" && (pl.Users[alice.UserID] != 100 || (pl.Users[bob.UserID] == 100) != (tc.preset == "trusted_private_chat")) {
				t.Errorf("%q %q: power %v", version, tc.preset, pl.Users)
			}
			if want == "12" && (len(pl.Users) != 0 || slices.Contains(create.Additional, bob.UserID) != (tc.preset == "trusted_private_chat")) {
				t.Errorf("%q %q: power %v, additional creators %v", version, tc.preset, pl.Users, create.Additional)
			}
			var member map[string]any
			b.ok(alice.StateEvent(b.ctx, room, "m.room.member", bob.UserID, &member))
			if member["membership"] != "invite" || member["is_direct"] != true {
				t.Errorf("%q %q: bob's member event %v", version, tc.preset, member)
			}
		}
	}
}

func TestTransactionIDs(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	one, two := b.room(alice, matrixclient.CreateRoom{}), b.room(alice, matrixclient.CreateRoom{})
	text := func(s string) map[string]string { return map[string]string{"msgtype": "m.text", "body": s} }
	first, err := alice.Send(b.ctx, one, "m.room.message", "tx", text("a"))
	b.ok(err)
	again, err := alice.Send(b.ctx, one, "m.room.message", "tx", text("a"))
	if err != nil || again != first {
		t.Errorf("repeated: %s, %v; want %s", again, err, first)
	}
	other, err := alice.Send(b.ctx, two, "m.room.message", "tx", text("a"))
	if err != nil || other == first {
		t.Errorf("another room: %s, %v", other, err)
	}
	second := matrixclient.New(b.url)
	b.ok(second.Login(b.ctx, "alice", "password-alice", ""))
	dev, err := second.Send(b.ctx, one, "m.room.message", "tx", text("b"))
	if err != nil || dev == first {
		t.Errorf("another device: %s, %v", dev, err)
	}
	var red [2]struct {
		ID string `json:"event_id"`
	}
	for i := range red {
		b.ok(alice.Do(b.ctx, "PUT", matrixclient.Path("rooms", one, "redact", dev, "rx"), nil, &red[i]))
	}
	if red[0] != red[1] {
		t.Errorf("repeated redaction: %v", red)
	}
	all, err := alice.AllMessages(b.ctx, one)
	b.ok(err)
	if n := count(all, func(e matrixclient.Event) bool { return e.Type == "m.room.message" }); n != 2 {
		t.Errorf("%d messages in the room, want 2", n)
	}
	// The sender's device, and no other, sees its transaction id.
	for c, want := range map[*matrixclient.Client]bool{alice: true, second: false} {
		e, err := c.Event(b.ctx, one, first)
		b.ok(err)
		if got := strings.Contains(string(e.Unsigned), `"transaction_id":"tx"`); got != want {
			t.Errorf("device %s: unsigned %s", c.DeviceID, e.Unsigned)
		}
	}
}

func TestStateOverHTTP(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	room := b.room(alice, matrixclient.CreateRoom{})
	for _, key := range []string{"", "a/b", "ä ö", "..", "%2F"} {
		id, err := alice.SetState(b.ctx, room, "org.example.x", key, map[string]string{"key": key})
		b.ok(err)
		var m map[string]string
		if err := alice.StateEvent(b.ctx, room, "org.example.x", key, &m); err != nil || m["key"] != key {
			t.Errorf("state key %q: %v, %v", key, m, err)
		}
		same, err := alice.SetState(b.ctx, room, "org.example.x", key, map[string]string{"key": key})
		if err != nil || same != id {
			t.Errorf("state key %q again: %s, %v; want %s", key, same, err, id)
		}
	}
	var m map[string]string
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("rooms", room, "state", "org.example.x"), nil, &m)) // without the trailing slash
	if key, ok := m["key"]; !ok || key != "" {
		t.Errorf("state without a key: %v", m)
	}
	var full matrixclient.Event
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("rooms", room, "state", "m.room.create", "")+"?format=event", nil, &full))
	if full.Type != "m.room.create" || full.Sender != alice.UserID {
		t.Errorf("format=event: %+v", full)
	}
	all, err := alice.State(b.ctx, room)
	b.ok(err)
	if n := count(all, func(e matrixclient.Event) bool { return e.Type == "org.example.x" }); n != 5 {
		t.Errorf("%d of 5 events in the whole state", n)
	}
	b.refused("state absent", alice.StateEvent(b.ctx, room, "none", "", &m), 404, "M_NOT_FOUND")
	b.refused("state of a stranger", bob.StateEvent(b.ctx, room, "m.room.create", "", &m), 403, "M_FORBIDDEN")
	_, err = bob.SendText(b.ctx, room, "x")
	b.refused("message of a stranger", err, 403, "M_FORBIDDEN")
	_, err = alice.Send(b.ctx, room, "m.room.message", "", map[string]string{"body": strings.Repeat("x", 65_000)})
	b.refused("large event", err, 413, "M_TOO_LARGE")
	_, err = alice.Send(b.ctx, room, "m.room.message", "", map[string]any{"body": 1.5})
	b.refused("a float", err, 400, "M_BAD_JSON")
}

func TestModeration(t *testing.T) {
	b := newBox(t)
	alice, bob, carol := b.user("alice"), b.user("bob"), b.user("carol")
	room := b.room(alice, matrixclient.CreateRoom{Preset: "public_chat"})
	for _, c := range []*matrixclient.Client{bob, carol} {
		_, err := c.Join(b.ctx, room)
		b.ok(err)
	}
	b.refused("kick by a member", bob.Kick(b.ctx, room, carol.UserID, ""), 403, "M_FORBIDDEN")
	b.ok(alice.Kick(b.ctx, room, carol.UserID, "zu laut"))
	var m map[string]any
	b.ok(alice.StateEvent(b.ctx, room, "m.room.member", carol.UserID, &m))
	if m["membership"] != "leave" || m["reason"] != "zu laut" {
		t.Errorf("kicked: %v", m)
	}
	b.refused("kick of who has left", alice.Kick(b.ctx, room, carol.UserID, ""), 403, "M_FORBIDDEN")
	b.refused("kick of who never came", alice.Kick(b.ctx, room, "@nobody:box.example", ""), 403, "M_FORBIDDEN")
	b.refused("unban of who is not banned", alice.Unban(b.ctx, room, carol.UserID), 403, "M_FORBIDDEN")
	b.ok(alice.Ban(b.ctx, room, bob.UserID, ""))
	_, err := bob.Join(b.ctx, room)
	b.refused("join of who is banned", err, 403, "M_FORBIDDEN")
	b.refused("invite of who is banned", alice.Invite(b.ctx, room, bob.UserID), 403, "M_FORBIDDEN")
	b.ok(alice.Unban(b.ctx, room, bob.UserID))
	_, err = bob.Join(b.ctx, room)
	b.ok(err)
	b.refused("forget while in", bob.Forget(b.ctx, room), 400, "M_UNKNOWN")
	b.ok(bob.Leave(b.ctx, room))
	b.ok(bob.Leave(b.ctx, room))
	b.ok(bob.Forget(b.ctx, room))
	s, err := bob.Sync(b.ctx, matrixclient.SyncOptions{Filter: `{"room":{"include_leave":true}}`})
	b.ok(err)
	if _, ok := s.Rooms.Leave[room]; ok {
		t.Error("a forgotten room is still shown")
	}
	var joined struct {
		Rooms []string `json:"joined_rooms"`
	}
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("joined_rooms"), nil, &joined))
	if !slices.Equal(joined.Rooms, []string{room}) {
		t.Errorf("joined rooms: %v", joined.Rooms)
	}
	b.refused("leave of a stranger", carol.Leave(b.ctx, "!unknown:box.example"), 403, "M_FORBIDDEN")
}

func TestInviteRefused(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	room := b.room(alice, matrixclient.CreateRoom{Invite: []string{bob.UserID}})
	b.ok(bob.Leave(b.ctx, room))
	_, err := bob.Join(b.ctx, room)
	b.refused("join after refusing", err, 403, "M_FORBIDDEN")
	b.refused("invite of nobody", alice.Invite(b.ctx, room, "@nobody:box.example"), 404, "M_NOT_FOUND")
	b.refused("invite elsewhere, alone", alice.Invite(b.ctx, room, "@x:far.example"), 404, "M_NOT_FOUND")
	b.refused("invite without a user", alice.Do(b.ctx, "POST", matrixclient.Path("rooms", room, "invite"), map[string]string{}, nil), 400, "M_MISSING_PARAM")
}

func TestKnock(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	room := b.room(alice, matrixclient.CreateRoom{})
	_, err := bob.Knock(b.ctx, room)
	b.refused("knock where nobody may", err, 403, "M_FORBIDDEN")
	_, err = alice.SetState(b.ctx, room, "m.room.join_rules", "", map[string]string{"join_rule": "knock"})
	b.ok(err)
	_, err = bob.Knock(b.ctx, room)
	b.ok(err)
	s, err := bob.Sync(b.ctx, matrixclient.SyncOptions{})
	b.ok(err)
	if _, ok := s.Rooms.Knock[room]; !ok {
		t.Errorf("bob does not see his knock: %+v", s.Rooms)
	}
	b.ok(alice.Invite(b.ctx, room, bob.UserID))
	_, err = bob.Join(b.ctx, room)
	b.ok(err)
}

func TestRestrictedJoin(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	hall := b.room(alice, matrixclient.CreateRoom{Preset: "public_chat"})
	for _, version := range []string{"10", "12"} {
		room := b.room(alice, matrixclient.CreateRoom{Version: version, InitialState: []map[string]any{{"type": "m.room.join_rules", "content": map[string]any{
			"join_rule": "restricted", "allow": []map[string]string{{"type": "m.room_membership", "room_id": hall}},
		}}}})
		_, err := bob.Join(b.ctx, room)
		b.refused("join from nowhere", err, 403, "M_FORBIDDEN")
		_, err = bob.Join(b.ctx, hall)
		b.ok(err)
		_, err = bob.Join(b.ctx, room)
		b.ok(err)
		b.ok(bob.Leave(b.ctx, hall))
	}
}

func TestRedaction(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	for _, version := range []string{"10", "11", "12"} {
		room := b.room(alice, matrixclient.CreateRoom{Version: version, Preset: "public_chat"})
		_, err := bob.Join(b.ctx, room)
		b.ok(err)
		mine, err := alice.SendText(b.ctx, room, "geheim")
		b.ok(err)
		_, err = bob.Redact(b.ctx, room, mine, "")
		b.refused("redact another's event", err, 403, "M_FORBIDDEN")
		his, err := bob.SendText(b.ctx, room, "Unsinn")
		b.ok(err)
		_, err = alice.Redact(b.ctx, room, his, "bitte nicht")
		b.ok(err)
		e, err := bob.Event(b.ctx, room, his)
		b.ok(err)
		if string(e.Content) != "{}" || !strings.Contains(string(e.Unsigned), "bitte nicht") {
			t.Errorf("version %s: redacted event is %s, unsigned %s", version, e.Content, e.Unsigned)
		}
		_, err = bob.Redact(b.ctx, room, "$nothing", "") // it may be on its way: the redaction waits for it
		b.ok(err)
	}
}

func TestTimestampToEventAndReports(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	room := b.room(alice, matrixclient.CreateRoom{Preset: "private_chat"})
	one, err := alice.SendText(b.ctx, room, "eins")
	b.ok(err)
	first, err := alice.Event(b.ctx, room, one)
	b.ok(err)
	near := func(c *matrixclient.Client, ts int64, dir string) (id string, err error) {
		var out struct {
			ID string `json:"event_id"`
			TS int64  `json:"origin_server_ts"`
		}
		path := fmt.Sprintf("/_matrix/client/v1/rooms/%s/timestamp_to_event?ts=%d&dir=%s", room, ts, dir)
		err = c.Do(b.ctx, "GET", path, nil, &out)
		return out.ID, err
	}
	if id, err := near(alice, first.TS, "b"); err != nil || id != one {
		t.Errorf("backwards from its own time: %q, %v; want %q", id, err, one)
	}
	if id, err := near(alice, 0, "f"); err != nil || id == "" || id == one {
		t.Errorf("forwards from the beginning: %q, %v", id, err)
	}
	_, err = near(alice, first.TS+1<<40, "f")
	b.refused("forwards from the far future", err, 404, "M_NOT_FOUND")
	_, err = near(alice, 1, "x")
	b.refused("no direction", err, 400, "M_INVALID_PARAM")
	_, err = near(bob, first.TS, "b")
	b.refused("a stranger", err, 403, "M_FORBIDDEN")

	report := matrixclient.Path("rooms", room, "report", one)
	why := map[string]any{"reason": "unfreundlich"}
	b.ok(alice.Do(b.ctx, "POST", report, why, nil))
	b.refused("a stranger reports", bob.Do(b.ctx, "POST", report, why, nil), 404, "M_NOT_FOUND")
	b.refused("of no event", alice.Do(b.ctx, "POST", matrixclient.Path("rooms", room, "report", "$none"), why, nil), 404, "M_NOT_FOUND")
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("rooms", room, "report"), why, nil))
	b.refused("a stranger reports the room", bob.Do(b.ctx, "POST", matrixclient.Path("rooms", room, "report"), why, nil), 404, "M_NOT_FOUND")
}

func TestAliasesAndDirectory(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	room := b.room(alice, matrixclient.CreateRoom{Preset: "public_chat", Visibility: "public", Alias: "deich", Name: "Deichwacht", Topic: "Wasserstand"})
	quiet := b.room(alice, matrixclient.CreateRoom{Name: "Stille"})
	_, err := bob.CreateRoom(b.ctx, matrixclient.CreateRoom{Alias: "deich"})
	b.refused("alias twice", err, 400, "M_ROOM_IN_USE")
	_, err = bob.CreateRoom(b.ctx, matrixclient.CreateRoom{Alias: "a:b"})
	b.refused("alias with a colon", err, 400, "M_INVALID_PARAM")
	if id, err := bob.Join(b.ctx, "#deich:box.example"); err != nil || id != room {
		t.Errorf("join by alias: %s, %v", id, err)
	}
	put := func(c *matrixclient.Client, alias, room string) error {
		return c.Do(b.ctx, "PUT", matrixclient.Path("directory", "room", alias), map[string]string{"room_id": room}, nil)
	}
	del := func(c *matrixclient.Client, alias string) error {
		return c.Do(b.ctx, "DELETE", matrixclient.Path("directory", "room", alias), nil, nil)
	}
	b.ok(put(alice, "#Grün/1:box.example", room))
	b.refused("alias taken", put(alice, "#Grün/1:box.example", quiet), 409, "M_UNKNOWN")
	b.refused("alias elsewhere", put(alice, "#x:far.example", room), 400, "M_INVALID_PARAM")
	b.refused("alias without room", put(alice, "#y:box.example", ""), 400, "M_MISSING_PARAM")
	b.refused("alias of a room one is not in", put(bob, "#y:box.example", quiet), 403, "M_FORBIDDEN")
	var at struct {
		Room    string   `json:"room_id"`
		Servers []string `json:"servers"`
	}
	b.ok(bob.Do(b.ctx, "GET", matrixclient.Path("directory", "room", "#Grün/1:box.example"), nil, &at))
	if at.Room != room || !slices.Contains(at.Servers, boxName) {
		t.Errorf("alias leads to %+v", at)
	}
	var list struct {
		Aliases []string `json:"aliases"`
	}
	b.ok(bob.Do(b.ctx, "GET", matrixclient.Path("rooms", room, "aliases"), nil, &list))
	if slices.Sort(list.Aliases); !slices.Equal(list.Aliases, []string{"#Grün/1:box.example", "#deich:box.example"}) {
		t.Errorf("aliases: %v", list.Aliases)
	}
	_, err = alice.SetState(b.ctx, room, "m.room.canonical_alias", "", map[string]any{"alias": "#none:box.example"})
	b.refused("canonical alias that leads nowhere", err, 400, "M_BAD_ALIAS")
	_, err = alice.SetState(b.ctx, room, "m.room.canonical_alias", "", map[string]any{"alias": "#deich:box.example", "alt_aliases": []string{"#Grün/1:box.example"}})
	b.ok(err)
	b.refused("delete another's alias", del(bob, "#deich:box.example"), 403, "M_FORBIDDEN")
	b.ok(del(alice, "#deich:box.example"))
	b.refused("delete it twice", del(alice, "#deich:box.example"), 404, "M_NOT_FOUND")
	var canonical aliasContent
	b.ok(alice.StateEvent(b.ctx, room, "m.room.canonical_alias", "", &canonical))
	if canonical.Alias != "" || len(canonical.Alt) != 1 {
		t.Errorf("canonical alias after deletion: %+v", canonical)
	}
	b.ok(put(bob, "#bobs:box.example", room))
	b.ok(del(alice, "#bobs:box.example")) // by power in the room

	type directory struct {
		Chunk []publicRoom `json:"chunk"`
		Next  string       `json:"next_batch"`
		Total int          `json:"total_room_count_estimate"`
	}
	var d directory
	b.ok(matrixclient.New(b.url).Do(b.ctx, "GET", matrixclient.Path("publicRooms"), nil, &d))
	if len(d.Chunk) != 1 || string(d.Chunk[0].ID) != room || d.Chunk[0].Name != "Deichwacht" || d.Chunk[0].Joined != 2 || d.Total != 1 {
		t.Errorf("directory: %+v", d)
	}
	b.refused("publish by a member", bob.Do(b.ctx, "PUT", matrixclient.Path("directory", "list", "room", room), map[string]string{"visibility": "private"}, nil), 403, "M_FORBIDDEN")
	b.ok(alice.Do(b.ctx, "PUT", matrixclient.Path("directory", "list", "room", quiet), map[string]string{"visibility": "public"}, nil))
	for term, want := range map[string]int{"": 2, "WASSER": 1, "stil": 1, "zzz": 0} {
		d = directory{}
		b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("publicRooms"), map[string]any{"filter": map[string]string{"generic_search_term": term}}, &d))
		if len(d.Chunk) != want {
			t.Errorf("search %q finds %d, want %d", term, len(d.Chunk), want)
		}
	}
	var names []string
	for since := ""; ; since = d.Next {
		d = directory{}
		b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("publicRooms")+"?limit=1&since="+since, nil, &d))
		for _, r := range d.Chunk {
			names = append(names, r.Name)
		}
		if d.Next == "" {
			break
		}
	}
	if !slices.Equal(names, []string{"Deichwacht", "Stille"}) {
		t.Errorf("paged directory: %v", names)
	}
}

func TestTypingAndReceipts(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	room := b.room(alice, matrixclient.CreateRoom{Preset: "public_chat"})
	_, err := bob.Join(b.ctx, room)
	b.ok(err)
	id, err := alice.SendText(b.ctx, room, "x")
	b.ok(err)
	s, err := alice.Sync(b.ctx, matrixclient.SyncOptions{})
	b.ok(err)
	b.ok(bob.Do(b.ctx, "PUT", matrixclient.Path("rooms", room, "typing", bob.UserID), map[string]any{"typing": true, "timeout": 5000}, nil))
	b.refused("typing for another", bob.Do(b.ctx, "PUT", matrixclient.Path("rooms", room, "typing", alice.UserID), map[string]any{"typing": true}, nil), 403, "M_FORBIDDEN")
	b.ok(bob.Do(b.ctx, "POST", matrixclient.Path("rooms", room, "receipt", "m.read", id), nil, nil))
	b.refused("unknown receipt", bob.Do(b.ctx, "POST", matrixclient.Path("rooms", room, "receipt", "m.odd", id), nil, nil), 400, "M_INVALID_PARAM")
	seen := map[string]bool{}
	_, err = alice.Follow(b.ctx, s.NextBatch, func(r *matrixclient.SyncResponse) bool {
		for _, e := range r.Rooms.Join[room].Ephemeral.Events {
			if strings.Contains(string(e.Content), bob.UserID) {
				seen[e.Type] = true
			}
		}
		return seen["m.typing"] && seen["m.receipt"]
	})
	b.ok(err)
	b.ok(bob.Do(b.ctx, "POST", matrixclient.Path("rooms", room, "read_markers"), map[string]string{"m.fully_read": id, "m.read.private": id}, nil))
	var marker map[string]string
	b.ok(bob.Do(b.ctx, "GET", matrixclient.Path("user", bob.UserID, "rooms", room, "account_data", "m.fully_read"), nil, &marker))
	if marker["event_id"] != id {
		t.Errorf("read marker: %v", marker)
	}
}

func TestMembersLists(t *testing.T) {
	b := newBox(t)
	alice, bob, carol := b.user("alice"), b.user("bob"), b.user("carol")
	room := b.room(alice, matrixclient.CreateRoom{Preset: "public_chat", Invite: []string{carol.UserID}})
	_, err := bob.Join(b.ctx, room)
	b.ok(err)
	for query, want := range map[string]int{"": 3, "?membership=join": 2, "?not_membership=join": 1, "?membership=ban": 0} {
		var out struct {
			Chunk []matrixclient.Event `json:"chunk"`
		}
		b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("rooms", room, "members")+query, nil, &out))
		if len(out.Chunk) != want {
			t.Errorf("members%s: %d, want %d", query, len(out.Chunk), want)
		}
	}
	b.ok(bob.Do(b.ctx, "PUT", matrixclient.Path("profile", bob.UserID, "displayname"), map[string]string{"displayname": "Bob der Bagger"}, nil))
	var joined struct {
		Joined map[string]map[string]string `json:"joined"`
	}
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("rooms", room, "joined_members"), nil, &joined))
	if len(joined.Joined) != 2 || joined.Joined[bob.UserID]["display_name"] != "Bob der Bagger" {
		t.Errorf("joined members: %v", joined.Joined)
	}
	b.refused("members for a stranger", carol.Do(b.ctx, "GET", matrixclient.Path("rooms", room, "joined_members"), nil, nil), 403, "M_FORBIDDEN")
}

func TestUpgrade(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	old := b.room(alice, matrixclient.CreateRoom{Version: "10", Preset: "public_chat", Visibility: "public", Alias: "alt", Name: "Alt"})
	_, err := bob.Join(b.ctx, old)
	b.ok(err)
	rule := func(room string) string { return matrixclient.Path("pushrules", "global", "room", room) }
	b.ok(bob.Do(b.ctx, "PUT", rule(old), object{"actions": []string{}}, nil))
	b.ok(bob.Do(b.ctx, "PUT", matrixclient.Path("user", bob.UserID, "rooms", old, "tags", "m.favourite"), object{"order": 0.1}, nil))
	b.refused("upgrade by a member", bob.Do(b.ctx, "POST", matrixclient.Path("rooms", old, "upgrade"), map[string]string{"new_version": "12"}, nil), 403, "M_FORBIDDEN")
	b.refused("upgrade to nothing", alice.Do(b.ctx, "POST", matrixclient.Path("rooms", old, "upgrade"), map[string]string{"new_version": "x"}, nil), 400, "M_UNSUPPORTED_ROOM_VERSION")
	for _, version := range []string{"11", "12"} {
		var out struct {
			Room string `json:"replacement_room"`
		}
		b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("rooms", old, "upgrade"), map[string]string{"new_version": version}, &out))
		var stone, create, name map[string]any
		b.ok(alice.StateEvent(b.ctx, old, "m.room.tombstone", "", &stone))
		b.ok(alice.StateEvent(b.ctx, out.Room, "m.room.create", "", &create))
		b.ok(alice.StateEvent(b.ctx, out.Room, "m.room.name", "", &name))
		pre, _ := create["predecessor"].(map[string]any)
		if stone["replacement_room"] != out.Room || create["room_version"] != version || pre["room_id"] != old || name["name"] != "Alt" {
			t.Errorf("version %s: tombstone %v, create %v, name %v", version, stone, create, name)
		}
		if id, err := bob.Join(b.ctx, "#alt:box.example"); err != nil || id != out.Room {
			t.Errorf("version %s: the alias leads to %s, %v", version, id, err)
		}
		b.ok(bob.Do(b.ctx, "GET", rule(out.Room), nil, nil))
		var tags struct {
			Tags object `json:"tags"`
		}
		b.ok(bob.Do(b.ctx, "GET", matrixclient.Path("user", bob.UserID, "rooms", out.Room, "tags"), nil, &tags))
		if tags.Tags["m.favourite"] == nil {
			t.Errorf("version %s: bob's tags are gone: %v", version, tags)
		}
		_, err := bob.SendText(b.ctx, old, "noch da?")
		b.refused("a message in the old room", err, 403, "M_FORBIDDEN")
		old = out.Room
	}
}

func TestSyncTimesOut(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	s, err := alice.Sync(b.ctx, matrixclient.SyncOptions{})
	b.ok(err)
	next, err := alice.Sync(b.ctx, matrixclient.SyncOptions{Since: s.NextBatch, Timeout: 50 * time.Millisecond})
	b.ok(err)
	if next.NextBatch == "" || len(next.Rooms.Join) != 0 {
		t.Errorf("an empty sync says %+v", next)
	}
	status, _, body := b.raw("GET", "/_matrix/client/v3/sync?since=nonsense", alice.Token, "")
	if status != http.StatusBadRequest {
		t.Errorf("a broken token: %d %v", status, body)
	}
}

func TestPresenceStatus(t *testing.T) {
	b := newBox(t)
	alice, bob, carol := b.user("alice"), b.user("bob"), b.user("carol")
	room := b.room(alice, matrixclient.CreateRoom{Preset: "public_chat"})
	_, err := bob.Join(b.ctx, room)
	b.ok(err)
	s, err := bob.Sync(b.ctx, matrixclient.SyncOptions{})
	b.ok(err)
	at := matrixclient.Path("presence", alice.UserID, "status")
	b.ok(alice.Do(b.ctx, "PUT", at, map[string]string{"presence": "unavailable", "status_msg": "auf dem Deich"}, nil))
	b.refused("another's presence", bob.Do(b.ctx, "PUT", at, map[string]string{"presence": "online"}, nil), 403, "M_FORBIDDEN")
	b.refused("an odd presence", alice.Do(b.ctx, "PUT", at, map[string]string{"presence": "odd"}, nil), 400, "M_INVALID_PARAM")
	var p map[string]any
	b.ok(bob.Do(b.ctx, "GET", at, nil, &p))
	if p["presence"] != "unavailable" || p["status_msg"] != "auf dem Deich" {
		t.Errorf("presence: %v", p)
	}
	b.refused("presence of a stranger", carol.Do(b.ctx, "GET", at, nil, nil), 403, "M_FORBIDDEN")
	_, err = bob.Follow(b.ctx, s.NextBatch, func(r *matrixclient.SyncResponse) bool {
		return slices.ContainsFunc(r.Presence.Events, func(e matrixclient.Event) bool { return e.Sender == alice.UserID })
	})
	b.ok(err)
}

// Who invites an address hears that nobody here asks an identity server, and that nothing was done.
func TestInviteByAddress(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	address := object{"medium": "email", "address": "bob@example.org", "id_server": "id.example.org", "id_access_token": "x"}
	id := b.room(alice, matrixclient.CreateRoom{})
	b.refused("an invite", alice.Do(b.ctx, "POST", matrixclient.Path("rooms", id, "invite"), address, nil), 403, "M_SERVER_NOT_TRUSTED")
	b.refused("a room", alice.Do(b.ctx, "POST", "/_matrix/client/v3/createRoom", object{"invite_3pid": []object{address}}, nil), 403, "M_SERVER_NOT_TRUSTED")
	b.refused("neither user nor address", alice.Do(b.ctx, "POST", matrixclient.Path("rooms", id, "invite"), object{}, nil), 400, "M_MISSING_PARAM")
}
