// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
)

func TestRestrictedJoin(t *testing.T) {
	ca := testCA(t)
	a, b, c := newTestBox(t, ca), newTestBox(t, ca), newTestBox(t, ca)
	anna, bert, cora := a.user("anna"), b.user("bert"), c.user("cora")
	for _, version := range []string{"8", "10", "12"} {
		club := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Version: version, Preset: "public_chat"}))
		inner := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Version: version, Preset: "private_chat", InitialState: []map[string]any{
			{"type": "m.room.join_rules", "state_key": "", "content": map[string]any{"join_rule": "restricted",
				"allow": []map[string]string{{"type": "m.room_membership", "room_id": club}}}}}}))
		if _, err := bert.Join(t.Context(), inner, a.name); matrixclient.Code(err) != "M_FORBIDDEN" {
			t.Errorf("version %s: who is not in the club: %v", version, err)
		}
		must[string](t)(bert.Join(t.Context(), club, a.name))
		if _, err := bert.Join(t.Context(), inner, a.name); err != nil {
			t.Fatalf("version %s: %v", version, err)
		}
		fromB := say(t, bert, inner, 1, "drin")
		a.await("bert's message", func() bool { return a.has(inner, fromB) })
		// Through b nobody can be let in: bert may not invite. Through a, named second, it works.
		must[string](t)(cora.Join(t.Context(), club, a.name))
		if _, err := cora.Join(t.Context(), inner, b.name, a.name); err != nil {
			t.Fatalf("version %s, second server: %v", version, err)
		}
		fromC := say(t, cora, inner, 1, "auch drin")
		b.await("cora's message", func() bool { return b.has(inner, fromC) })
		a.await("cora's message", func() bool { return a.has(inner, fromC) })
		sameState(t, inner, a, b, c)
	}
}

func TestKnock(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "private_chat", Name: "Tür", InitialState: []map[string]any{
		{"type": "m.room.join_rules", "state_key": "", "content": map[string]any{"join_rule": "knock"}}}}))
	must[string](t)(bert.Knock(t.Context(), id, a.name))
	if _, err := bert.Follow(t.Context(), "", func(r *matrixclient.SyncResponse) bool { _, ok := r.Rooms.Knock[id]; return ok }); err != nil {
		t.Fatal(err)
	}
	a.await("the knock", func() bool {
		return must[map[event.UserID]string](t)(a.rooms.Members(t.Context(), event.RoomID(id)))[event.UserID(bert.UserID)] == "knock"
	})
	if err := anna.Invite(t.Context(), id, bert.UserID); err != nil {
		t.Fatal(err)
	}
	must[string](t)(bert.Join(t.Context(), id, a.name))
	sameState(t, id, a, b)
}

func TestServerACLShutsOut(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	warm := say(t, bert, id, 1, "noch")
	a.await("the first message", func() bool { return a.has(id, warm) })
	list, err := anna.SetState(t.Context(), id, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = list
	b.sender.silent.Store(true)
	p, _, err := b.rooms.Event(t.Context(), event.ID(warm[0]))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := json.Marshal(transaction{Origin: b.name, PDUs: []json.RawMessage{p.JSON()}})
	errs, err := b.client.Push(t.Context(), a.name, "shut-out", body)
	if err != nil || errs[p.ID] == "" {
		t.Errorf("a shut-out server's event: %v %v", errs, err)
	}
	v := must[*event.Version](t)(b.rooms.Version(t.Context(), event.RoomID(id)))
	edus := fmt.Sprintf(`{"pdus":[],"edus":[{"edu_type":"m.typing","content":{"room_id":%q,"user_id":%q,"typing":true}},
		{"edu_type":"m.receipt","content":{%q:{"m.read":{%q:{"event_ids":[%q],"data":{}}}},"!other:x":{}}}]}`, id, bert.UserID, id, bert.UserID, warm[0])
	if _, err := b.client.Push(t.Context(), a.name, "shut-out-edus", json.RawMessage(edus)); err != nil {
		t.Fatal(err)
	}
	a.users.mu.Lock()
	if !slices.Equal(a.users.edus, []string{"m.receipt"}) || strings.Contains(a.users.last, id) {
		t.Errorf("a shut-out server's EDUs: %v %s", a.users.edus, a.users.last)
	}
	a.users.mu.Unlock()
	if _, err := b.client.History(t.Context(), a.name, event.RoomID(id), v, []event.ID{p.ID}, 10); !final(err) {
		t.Errorf("a shut-out server's question: %v", err)
	}
}

// shelf is local media of one file.
type shelf struct{ data []byte }

func (s shelf) Open(_ context.Context, _, id string) (io.ReadCloser, string, string, int64, error) {
	if id != "there" {
		return nil, "", "", 0, notFound("no such media")
	}
	return io.NopCloser(bytes.NewReader(s.data)), "image/png", "Wattenmeer \"bei Ebbe\".png", int64(len(s.data)), nil
}

func (s shelf) Thumbnail(context.Context, string, string, int, int, string) (io.ReadCloser, string, int64, error) {
	return nil, "", 0, notFound("no thumbnails")
}

func TestMediaBetweenServers(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	data := bytes.Repeat([]byte("\r\n--Schlick"), 100_000)
	a.handler.(*Handler).c.Media = shelf{data}
	body, typ, name, err := b.client.Media(t.Context(), a.name, "there")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(data))
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	if want := `Wattenmeer "bei Ebbe".png`; typ != "image/png" || name != want {
		t.Errorf("got %q, %q", typ, name)
	}
	if _, _, _, err := b.client.Media(t.Context(), a.name, "gone"); err == nil || fmt.Sprint(err) != "M_NOT_FOUND: no such media" {
		t.Errorf("missing media: %v", err)
	}
}

// TestInviteIsTakenBack: who was invited hears that the inviter thought better of it, though nobody of the server is in the room, or nobody any more.
func TestInviteIsTakenBack(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	for _, before := range []bool{false, true} {
		id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "private_chat", Invite: []string{bert.UserID}}))
		if before {
			must[string](t)(bert.Join(t.Context(), id, a.name))
			if err := bert.Leave(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			a.await("bert's leaving", func() bool {
				return must[map[event.UserID]string](t)(a.rooms.Members(t.Context(), event.RoomID(id)))[event.UserID(bert.UserID)] == "leave"
			})
			say(t, anna, id, 2, "ohne bert")
			if err := anna.Invite(t.Context(), id, bert.UserID); err != nil {
				t.Fatal(err)
			}
		}
		membership := func() (m string) {
			err := b.db.View(t.Context(), func(r *store.Read) error {
				row, err := r.MembershipOf(event.RoomID(id), event.UserID(bert.UserID))
				m = row.Membership
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		b.await("the invite", func() bool { return membership() == "invite" })
		if err := anna.Kick(t.Context(), id, bert.UserID, "doch nicht"); err != nil {
			t.Fatal(err)
		}
		b.await("that it is taken back", func() bool { return membership() == "leave" })
	}
}
