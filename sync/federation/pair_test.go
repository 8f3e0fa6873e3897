// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

func testCA(t *testing.T) *testpeer.CA {
	t.Helper()
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func sameState(t *testing.T, id string, boxes ...*testBox) {
	t.Helper()
	for _, b := range boxes {
		b.await("the members", func() bool { return !must[bool](t)(b.rooms.NotWhole(t.Context(), event.RoomID(id))) })
	}
	first := must[map[rules.Key]event.ID](t)(boxes[0].rooms.State(t.Context(), event.RoomID(id)))
	for _, b := range boxes[1:] {
		got := must[map[rules.Key]event.ID](t)(b.rooms.State(t.Context(), event.RoomID(id)))
		if !maps.Equal(got, first) {
			for k, v := range first {
				if got[k] != v {
					t.Errorf("state %v: %s has %s, %s has %s", k, boxes[0].name, v, b.name, got[k])
				}
			}
			for k, v := range got {
				if _, there := first[k]; !there {
					t.Errorf("state %v: %s alone has %s", k, b.name, v)
				}
			}
			t.Errorf("states differ: %d and %d entries", len(first), len(got))
		}
	}
}

func say(t *testing.T, c *matrixclient.Client, id string, n int, what string) []string {
	t.Helper()
	var ids []string
	for i := range n {
		e, err := c.SendText(t.Context(), id, fmt.Sprintf("%s %d", what, i))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, e)
	}
	return ids
}

func TestJoinAndTalk(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	for _, version := range []string{"6", "10", "11", "12"} {
		id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Version: version, Preset: "public_chat", Name: "Deich", Alias: "deich" + version}))
		if got := must[string](t)(bert.Join(t.Context(), "#deich"+version+":"+a.name)); got != id {
			t.Fatalf("version %s: joined %s, want %s", version, got, id)
		}
		fromA, fromB := say(t, anna, id, 3, "moin"), say(t, bert, id, 3, "moin moin")
		a.await("bert's messages", func() bool { return a.has(id, fromB) })
		b.await("anna's messages", func() bool { return b.has(id, fromA) })
		if _, err := anna.Redact(t.Context(), id, fromA[0], "typo"); err != nil {
			t.Fatal(err)
		}
		b.await("the redaction", func() bool {
			_, meta, err := b.rooms.Event(t.Context(), event.ID(fromA[0]))
			return err == nil && meta.RedactedBy != ""
		})
		if _, err := bert.SetState(t.Context(), id, "m.room.topic", "", map[string]string{"topic": "Flut"}); err == nil {
			t.Error("bert has no power and set the topic")
		}
		sameState(t, id, a, b)
		if err := bert.Leave(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		a.await("bert's leaving", func() bool {
			m := must[map[event.UserID]string](t)(a.rooms.Members(t.Context(), event.RoomID(id)))
			return m[event.UserID(bert.UserID)] == "leave"
		})
	}
}

func TestInviteJoinRefuseWithdraw(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	invited := func(id string) func(*matrixclient.SyncResponse) bool {
		return func(r *matrixclient.SyncResponse) bool { _, ok := r.Rooms.Invite[id]; return ok }
	}
	for _, version := range []string{"10", "12"} {
		id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Version: version, Preset: "private_chat", Invite: []string{bert.UserID}}))
		if _, err := bert.Follow(t.Context(), "", invited(id)); err != nil {
			t.Fatal(err)
		}
		if err := bert.Leave(t.Context(), id); err != nil {
			t.Fatal("refuse: ", err)
		}
		a.await("the refusal", func() bool {
			m := must[map[event.UserID]string](t)(a.rooms.Members(t.Context(), event.RoomID(id)))
			return m[event.UserID(bert.UserID)] == "leave"
		})
		if err := anna.Invite(t.Context(), id, bert.UserID); err != nil {
			t.Fatal(err)
		}
		if err := anna.Kick(t.Context(), id, bert.UserID, "not you"); err != nil {
			t.Fatal(err)
		}
		if err := anna.Invite(t.Context(), id, bert.UserID); err != nil {
			t.Fatal(err)
		}
		if _, err := bert.Follow(t.Context(), "", invited(id)); err != nil {
			t.Fatal(err)
		}
		if _, err := bert.Join(t.Context(), id, a.name); err != nil {
			t.Fatal("join: ", err)
		}
		fromB := say(t, bert, id, 1, "da bin ich")
		a.await("bert's message", func() bool { return a.has(id, fromB) })
		sameState(t, id, a, b)
		if err := anna.Ban(t.Context(), id, bert.UserID, "genug"); err != nil {
			t.Fatal(err)
		}
		b.await("the ban", func() bool {
			m := must[map[event.UserID]string](t)(b.rooms.Members(t.Context(), event.RoomID(id)))
			return m[event.UserID(bert.UserID)] == "ban"
		})
	}
	if err := anna.Invite(t.Context(), must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{})), "@nobody:"+b.name); err == nil {
		t.Error("somebody who does not exist was invited")
	}
}

// TestInviteOutlivesAnOutage: an invite to a box that is out of reach is kept over a restart, and handed on when the box is in reach.
func TestInviteOutlivesAnOutage(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "private_chat"}))
	b.link.Cut()
	if err := anna.Invite(t.Context(), id, bert.UserID); matrixclient.Status(err) != http.StatusGatewayTimeout {
		t.Fatalf("an invite to a box out of reach: %v", err)
	}
	a.stop()
	b.link.Join()
	a.start()
	if _, err := bert.Follow(t.Context(), "", func(r *matrixclient.SyncResponse) bool { _, ok := r.Rooms.Invite[id]; return ok }); err != nil {
		t.Fatal("no invite came: ", err)
	}
	a.await("the signed invite", func() bool {
		m := must[map[event.UserID]string](t)(a.rooms.Members(t.Context(), event.RoomID(id)))
		return m[event.UserID(bert.UserID)] == "invite"
	})
	if _, err := bert.Join(t.Context(), id, a.name); err != nil {
		t.Fatal("join: ", err)
	}
	sameState(t, id, a, b)
}

// TestThirdServerLearnsOfJoin: who joins through us is made known to the others by us.
// Who has just come in through us was told all there is: nobody asks it what else it has, and it does not give us our own answer back.
func TestQuietAfterAJoin(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	e, err := b.rooms.StateEvent(t.Context(), event.RoomID(id), "m.room.member", bert.UserID)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := b.cursor(a.name, id), b.pos(string(e.ID)); got < want {
		t.Errorf("the server that let us in is owed our events from %d, the join is %d", got, want)
	}
	fromA, fromB := say(t, anna, id, 3, "hin"), say(t, bert, id, 3, "her")
	a.await("bert's words", func() bool { return a.has(id, fromB) })
	b.await("anna's words", func() bool { return b.has(id, fromA) })
	if n := b.seen.count("/make_"); n != 0 {
		t.Errorf("the newcomer was asked %d times what it has", n)
	}
	if n := a.seen.count("/make_"); n != 1 { // the join itself
		t.Errorf("%d requests for templates", n)
	}
}

// Presence reaches the servers that share a room, even one that we have come to share it with in this very moment.
func TestPresenceGoesToSharedRooms(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	b.sender.Presence(t.Context(), event.UserID(bert.UserID), json.RawMessage(`{"user_id":"`+bert.UserID+`","presence":"online"}`))
	a.await("bert's presence", func() bool {
		a.users.mu.Lock()
		defer a.users.mu.Unlock()
		return slices.Contains(a.users.edus, "m.presence") && strings.Contains(a.users.last, bert.UserID)
	})
}

// The user directory knows users of other servers by the rooms that the asker may look into, and nobody's name of a room that the asker may not.
func TestDirectoryKnowsUsersOfOtherServers(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, doris, bert, cora := a.user("anna"), a.user("doris"), b.user("bert"), b.user("cora")
	find := func(who *matrixclient.Client, term string) (found []string) {
		var res struct {
			Results []struct {
				User string `json:"user_id"`
				Name string `json:"display_name"`
			}
		}
		if err := who.Do(t.Context(), "POST", matrixclient.Path("user_directory", "search"), map[string]string{"search_term": term}, &res); err != nil {
			t.Fatal(err)
		}
		for _, u := range res.Results {
			found = append(found, u.User+" "+u.Name)
		}
		return found
	}
	expect := func(who *matrixclient.Client, term string, want ...string) {
		t.Helper()
		if got := find(who, term); !slices.Equal(got, want) {
			t.Errorf("%s looks for %s: found %q, want %q", who.UserID, term, got, want)
		}
	}
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "private_chat", Invite: []string{bert.UserID}}))
	must[string](t)(anna.SetState(t.Context(), id, "m.room.member", anna.UserID, map[string]string{"membership": "join", "displayname": "Nur Hier"}))
	if _, err := bert.Join(t.Context(), id, a.name); err != nil {
		t.Fatal(err)
	}
	expect(bert, "nur hier", anna.UserID+" Nur Hier") // they share the room
	expect(bert, "@ANNA", anna.UserID+" Nur Hier")
	expect(cora, "nur hier")
	expect(cora, "@anna")
	expect(doris, "nur hier")
	expect(doris, "@anna", anna.UserID+" anna") // a colleague

	open := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	if _, err := bert.Join(t.Context(), open, a.name); err != nil {
		t.Fatal(err)
	}
	expect(cora, "@anna", anna.UserID+" anna") // anybody may join where she is
	expect(cora, "nur hier")
	if err := anna.Leave(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	b.await("anna's leaving", func() bool { return len(find(cora, "@anna")) == 0 })
}

// A hint for a server that the dispatcher has not met goes with its first transaction; one for a box or ourselves is not kept.
func TestHintsBeforeTheFirstTransaction(t *testing.T) {
	b := newTestBox(t, testCA(t))
	b.boxes.Store("box.example", true)
	s := NewSender(b.sender.c) // never run: nobody is met
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range 2 * maxHints {
		for _, name := range []string{b.name, "box.example", "new.example", "no name"} {
			s.hint(name, fmt.Sprint(i), edu{Kind: "m.typing"})
		}
	}
	if len(s.early) != 1 || len(s.early["new.example"]) != maxHints || !s.now["new.example"] || len(s.now) != 1 {
		t.Errorf("kept for %d servers, %d for the new one, %d to be met", len(s.early), len(s.early["new.example"]), len(s.now))
	}
}

func TestThirdServerLearnsOfJoin(t *testing.T) {
	ca := testCA(t)
	a, b, c := newTestBox(t, ca), newTestBox(t, ca), newTestBox(t, ca)
	anna, bert, cora := a.user("anna"), b.user("bert"), c.user("cora")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	must[string](t)(cora.Join(t.Context(), id, a.name))
	fromC := say(t, cora, id, 2, "hier cora")
	fromB := say(t, bert, id, 2, "hier bert")
	b.await("cora's messages", func() bool { return b.has(id, fromC) })
	c.await("bert's messages", func() bool { return c.has(id, fromB) })
	a.await("all messages", func() bool { return a.has(id, fromC) && a.has(id, fromB) })
	sameState(t, id, a, b, c)
}

// TestPartition: both sides write while the link is cut; afterwards both have everything as live timeline.
func TestPartition(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	var rooms []string
	for range 2 {
		id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat", PowerOverride: map[string]any{"users": map[string]int{bert.UserID: 50}}}))
		must[string](t)(bert.Join(t.Context(), id, a.name))
		warm := say(t, bert, id, 1, "warm")
		a.await("the first message", func() bool { return a.has(id, warm) })
		rooms = append(rooms, id)
	}
	a.link.Cut()
	b.link.Cut()
	fromA, fromB := map[string][]string{}, map[string][]string{}
	for _, id := range rooms {
		fromA[id] = say(t, anna, id, 130, "drinnen")
		fromB[id] = say(t, bert, id, 130, "draußen")
		for _, c := range []*matrixclient.Client{anna, bert} {
			if _, err := c.SetState(t.Context(), id, "m.room.topic", "", map[string]string{"topic": c.UserID}); err != nil {
				t.Fatal(err)
			}
		}
	}
	a.link.Join()
	b.link.Join()
	start := time.Now()
	a.sender.LinkUp(b.name)
	b.sender.LinkUp("")
	for _, id := range rooms {
		a.await("bert's messages", func() bool { return a.has(id, fromB[id]) })
		b.await("anna's messages", func() bool { return b.has(id, fromA[id]) })
	}
	t.Log("all there after", time.Since(start))
	for _, id := range rooms {
		// One more message joins the ends; then the states must be equal.
		last := say(t, anna, id, 1, "zusammen")
		b.await("the last message", func() bool { return b.has(id, last) })
		sameState(t, id, a, b)
	}
}

// TestOneWayLossIsPulled: what a server never pushes is pulled. B's pushes all fail; A looks for itself.
func TestOneWayLossIsPulled(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	warm := say(t, bert, id, 1, "warm")
	a.await("the first message", func() bool { return a.has(id, warm) })
	a.seen.mu.Lock()
	a.seen.fail = func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/send/") }
	a.seen.mu.Unlock()
	fromB := say(t, bert, id, 250, "ungehört")
	a.sender.LinkUp(b.name)
	a.await("all of bert's messages", func() bool { return a.has(id, fromB) })
	if n := b.seen.count("/backfill/"); n == 0 || n > 10 {
		t.Errorf("asked for history %d times", n)
	}
}

func TestSendIsRepeatable(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	a.await("bert", func() bool {
		return slices.Contains(must[[]event.UserID](t)(a.rooms.Joined(t.Context(), event.RoomID(id))), event.UserID(bert.UserID))
	})
	b.link.Cut() // so that b's own sender does not interfere: nothing new will be sent anyway
	body := json.RawMessage(fmt.Sprintf(`{"origin":%q,"origin_server_ts":1,"pdus":[{"room_id":%q,"bad":1},{}],"edus":[{"edu_type":"m.presence","content":{}}]}`, b.name, id))
	sum := must[string](t)(CheckTransaction(body))
	for range 2 {
		errs, err := b.client.Push(t.Context(), a.name, "t1", body)
		if err != nil || len(errs) != 0 {
			t.Fatalf("got %v, %v", errs, err)
		}
	}
	var stored []byte
	a.await("the answer", func() bool {
		err := a.db.View(t.Context(), func(r *store.Read) (err error) { stored, err = r.TxnAnswer(b.name, a.name+" t1 "+sum); return err })
		return err == nil && stored != nil
	})
	if got, want := string(stored), `{"pdus":{}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// The same id with more in it, as a server sends it that did not hear the answer; and once more at another time.
	for _, at := range []int{2, 3} {
		more := json.RawMessage(fmt.Sprintf(`{"origin":%q,"origin_server_ts":%d,"pdus":[{"room_id":%q,"bad":1},{}],"edus":[{"edu_type":"m.presence","content":{}},{"edu_type":"m.more","content":{}}]}`, b.name, at, id))
		if _, err := b.client.Push(t.Context(), a.name, "t1", more); err != nil {
			t.Fatal(err)
		}
		a.await("the answer", func() bool {
			err := a.db.View(t.Context(), func(r *store.Read) (err error) {
				stored, err = r.TxnAnswer(b.name, a.name+" t1 "+must[string](t)(CheckTransaction(more)))
				return err
			})
			return err == nil && stored != nil
		})
	}
	a.users.mu.Lock()
	n := 0
	for _, kind := range a.users.edus {
		if kind == "m.more" {
			n++
		}
	}
	a.users.mu.Unlock()
	if n != 1 {
		t.Errorf("what was new in it was taken %d times", n)
	}
	many := transaction{Origin: b.name, PDUs: slices.Repeat([]json.RawMessage{json.RawMessage(`{}`)}, 51)}
	raw, _ := json.Marshal(many)
	if _, err := b.client.Push(t.Context(), a.name, "t2", raw); !final(err) {
		t.Errorf("51 PDUs: %v", err)
	}
}

func TestHandlerRefuses(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna := a.user("anna")
	private := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "private_chat"}))
	srv := httptest.NewServer(a.handler)
	defer srv.Close()
	ask := func(method, path, auth string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if auth != "" {
			req.Header.Set("Authorization", auth)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		var e errorBody
		_ = json.Unmarshal(raw, &e)
		return resp.StatusCode, e.Code
	}
	sign := func(to, method, path string) string {
		au, err := SignRequest(b.client.c.Local, to, method, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		return au.String()
	}
	const version, profile = "/_matrix/federation/v1/version", "/_matrix/federation/v1/query/profile?user_id=%40nobody%3Aelsewhere"
	back := "/_matrix/federation/v1/backfill/" + private + "?v=%24x&limit=1"
	join := "/_matrix/federation/v1/make_join/" + private + "/@bert:" + b.name + "?ver=12"
	old := "/_matrix/federation/v1/make_join/" + private + "/@bert:" + b.name + "?ver=10"
	for _, tc := range []struct {
		method, path, auth string
		status             int
		code               string
	}{
		{"GET", version, "", 200, ""},
		{"GET", "/_matrix/federation/v1/nonsense", "", 404, "M_UNRECOGNIZED"},
		{"GET", "/_matrix/federation/v9/version", "", 404, "M_UNRECOGNIZED"},
		{"DELETE", version, "", 405, "M_UNRECOGNIZED"},
		{"GET", profile, "", 401, "M_UNAUTHORIZED"},
		{"GET", profile, sign("elsewhere.example", "GET", profile), 401, "M_UNAUTHORIZED"},
		{"GET", profile, sign(a.name, "GET", profile+"x"), 401, "M_UNAUTHORIZED"},
		{"GET", profile, sign(a.name, "GET", profile), 404, "M_NOT_FOUND"},
		{"GET", back, sign(a.name, "GET", back), 403, "M_FORBIDDEN"},
		{"GET", join, sign(a.name, "GET", join), 403, "M_FORBIDDEN"},
		{"GET", old, sign(a.name, "GET", old), 400, "M_INCOMPATIBLE_ROOM_VERSION"},
	} {
		if status, code := ask(tc.method, tc.path, tc.auth); status != tc.status || code != tc.code {
			t.Errorf("%s %s: got %d %s, want %d %s", tc.method, tc.path, status, code, tc.status, tc.code)
		}
	}
}

func TestQuestionsBetweenServers(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat", Alias: "watt"}))
	say(t, anna, id, 30, "vorher")
	must[string](t)(bert.Join(t.Context(), id, a.name))
	ctx := t.Context()
	if _, err := b.client.Profile(ctx, event.UserID(anna.UserID)); err != nil {
		t.Error("profile: ", err)
	}
	if _, err := b.client.Profile(ctx, event.UserID("@none:"+a.name)); err == nil {
		t.Error("a profile of nobody")
	}
	if got, servers, err := b.client.ResolveAlias(ctx, "#watt:"+a.name); err != nil || string(got) != id || !slices.Contains(servers, a.name) {
		t.Errorf("alias: %s %v %v", got, servers, err)
	}
	req := json.RawMessage(fmt.Sprintf(`{"device_keys":{%q:[]}}`, anna.UserID))
	if _, err := b.client.QueryKeys(ctx, a.name, req); err != nil {
		t.Error("device keys: ", err)
	}
	if _, err := b.client.PublicRooms(ctx, a.name, nil); err != nil {
		t.Error("public rooms: ", err)
	}
	if _, err := b.client.UserDevices(ctx, event.UserID(anna.UserID)); err != nil {
		t.Error("devices: ", err)
	}
	// History from before the join comes when a client pages back.
	if err := b.client.Backfill(ctx, event.RoomID(id), 100); err != nil {
		t.Fatal("history: ", err)
	}
	msgs := must[*matrixclient.Messages](t)(bert.Messages(ctx, id, "", "b", 100))
	n := 0
	for _, e := range msgs.Chunk {
		if strings.HasPrefix(e.Body(), "vorher") {
			n++
		}
	}
	if n != 30 {
		t.Errorf("got %d of 30 messages from before the join", n)
	}
	v := must[*event.Version](t)(b.rooms.Version(ctx, event.RoomID(id)))
	ends := must[[]event.ID](t)(b.rooms.Extremities(ctx, event.RoomID(id)))
	state, auth, err := b.client.StateIDs(ctx, a.name, event.RoomID(id), ends[0])
	if err != nil || len(state) == 0 || len(auth) == 0 {
		t.Errorf("state ids: %d %d %v", len(state), len(auth), err)
	}
	st, au, err := b.client.StateEvents(ctx, a.name, event.RoomID(id), v, ends[0])
	if err != nil || len(st) != len(state) || len(au) != len(auth) {
		t.Errorf("state: %d %d %v", len(st), len(au), err)
	}
}

// TestRoutesOfSpecialNames: what is signed must be what is sent, also with names that need escapes.
func TestRoutesOfSpecialNames(t *testing.T) {
	q := call{path: v1("event", "$a/b+c?#%"), query: map[string][]string{"v": {"$x/y", "ä&"}}}
	req, err := http.NewRequest("GET", Scheme+"://h:1"+q.uri(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := req.URL.RequestURI(), q.uri(); got != want {
		t.Errorf("sent %s, signed %s", got, want)
	}
}

// A server that comes into a room is owed what was written beside its join, whichever of the two came first: that is no part of the state it was given.
func TestNewcomerIsOwedWhatStandsBesideItsJoin(t *testing.T) {
	ca := testCA(t)
	a, b, c := newTestBox(t, ca), newTestBox(t, ca), newTestBox(t, ca)
	anna, bert, cora := a.user("anna"), b.user("bert"), c.user("cora")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	warm := say(t, bert, id, 1, "warm")
	a.await("bert", func() bool { return a.has(id, warm) })
	b.sender.silent.Store(true)
	beside := say(t, bert, id, 2, "daneben")
	must[string](t)(cora.Join(t.Context(), id, a.name))
	b.await("cora", func() bool {
		return slices.Contains(must[[]event.UserID](t)(b.rooms.Joined(t.Context(), event.RoomID(id))), event.UserID(cora.UserID))
	})
	c.sender.silent.Store(true) // it must be given them
	b.sender.silent.Store(false)
	b.sender.LinkUp("")
	c.await("what bert wrote", func() bool { return c.has(id, beside) })
}
