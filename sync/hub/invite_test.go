// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

// hasUser has a box deposit somebody.
func (b *testBox) hasUser(user string) {
	b.t.Helper()
	_, a := b.deposit(b.contact())
	raw, err := json.Marshal(api.User{Profile: json.RawMessage(`{}`)})
	if err != nil {
		b.t.Fatal(err)
	}
	if status, out := b.ask("hub.test", "PUT", api.UserPath+url.PathEscape(user)+"?epoch="+url.QueryEscape(a.Epoch), nil, raw); status != 200 {
		b.t.Fatalf("deposit of %s: %d %s", user, status, out)
	}
}

// invite is one that the far server's carl makes for somebody.
type invite struct {
	user, sender, room string
	origin             federation.Local
	change             func(body []byte) []byte
}

// ask sends the invite as its server does; the event is what was sent.
func (w *world) invite(i invite) (status int, answer []byte, sent *event.PDU) {
	w.Helper()
	if i.origin.Server == "" {
		i.origin = w.far.Local
	}
	if i.sender == "" {
		i.sender = "@carl:" + i.origin.Server
	}
	if i.room == "" {
		i.room = "!lage:far.test"
	}
	v, _ := event.Lookup("11")
	p, err := event.Build(v, event.Proto{RoomID: event.RoomID(i.room), Sender: event.UserID(i.sender), Type: "m.room.member", StateKey: &i.user, Content: json.RawMessage(`{"membership":"invite"}`),
		Prev: []event.ID{"$prev"}, Auth: []event.ID{"$auth"}, Depth: 7, TS: time.Now().UnixMilli()}, i.origin.Server, i.origin.Key)
	if err != nil {
		w.Fatal(err)
	}
	name := strings.Repeat("ä", 300)
	body, err := json.Marshal(map[string]any{"event": json.RawMessage(p.JSON()), "room_version": "11", "invite_room_state": []any{
		map[string]any{"type": "m.room.topic", "state_key": "", "content": map[string]string{"topic": "nichts"}},
		map[string]any{"type": "m.room.name", "state_key": "", "content": map[string]string{"name": name}}}})
	if err != nil {
		w.Fatal(err)
	}
	if i.change != nil {
		body = i.change(body)
	}
	box := event.UserID(i.user).Server()
	uri := "/_matrix/federation/v2/invite/" + url.PathEscape(i.room) + "/" + url.PathEscape(string(p.ID))
	status, answer = w.ask(box, "PUT", uri, signed(w.T, i.origin, box, "PUT", uri, body), body)
	return status, answer, p
}

// An invite for somebody whose box is away is refused, and the box hears of it: once, of whom it knows, from whom signs, and not without bounds.
func TestMissedInvite(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	b.hasUser("@anna:box1.test")
	b.away()
	stranger := w.far.Local
	stranger.Key.Private = w.hub.id.Key.Private
	began := time.Now()
	for name, tt := range map[string]struct {
		invite
		told bool
	}{
		"as it should":  {invite{user: "@anna:box1.test"}, true},
		"once more":     {invite{user: "@anna:box1.test"}, true},
		"nobody":        {invite{user: "@bert:box1.test"}, false},
		"wrong key":     {invite{user: "@anna:box1.test", origin: stranger, room: "!a:far.test"}, false},
		"other's user":  {invite{user: "@anna:box1.test", sender: "@carl:else.test", room: "!b:far.test"}, false},
		"not an invite": {invite{user: "@anna:box1.test", room: "!c:far.test", change: func(b []byte) []byte { return []byte(strings.Replace(string(b), `"invite"`, `"joined"`, 1)) }}, false},
	} {
		status, out, _ := w.invite(tt.invite)
		if status != 403 || !strings.Contains(string(out), "gerade nicht erreichbar") || strings.Contains(string(out), "erfährt davon") != tt.told {
			t.Errorf("%s: %d %s, want told %v", name, status, out, tt.told)
		}
	}
	if got := w.waiting("box1.test"); got != 1 {
		t.Errorf("%d words wait, want 1", got)
	}
	w.stop() // it outlives the hub
	w.start()
	b.back()
	w.await("the word to be taken", func() bool { return w.waiting("box1.test") == 0 })
	heard := b.heard()
	f := strings.SplitN(heard[len(heard)-1], " ", 3)
	auth, body, _ := strings.Cut(f[2], "{")
	a, err := federation.ParseAuthorization(strings.TrimSpace(auth))
	if err != nil || a.Origin != "hub.test" || a.Destination != "box1.test" {
		t.Fatalf("the box was given %q: %+v, %v", heard, a, err)
	}
	body = "{" + body
	pub, err := w.hub.ring.Key(t.Context(), "hub.test", a.Key, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := federation.VerifyRequest(a, f[0], f[1], []byte(body), pub); err != nil {
		t.Error(err)
	}
	var txn struct {
		EDUs []struct {
			Kind    string          `json:"edu_type"`
			Content json.RawMessage `json:"content"`
		} `json:"edus"`
	}
	if err := json.Unmarshal([]byte(body), &txn); err != nil || len(txn.EDUs) != 1 || txn.EDUs[0].Kind != api.MissedInviteEDU || federation.CheckTransaction([]byte(body)) != nil {
		t.Fatalf("the box was given %s", body)
	}
	m, err := api.ReadMissedInvite(txn.EDUs[0].Content)
	if want := strings.Repeat("ä", api.MaxRoomName/2); err != nil || m.User != "@anna:box1.test" || m.Sender != "@carl:far.test" || m.Room != "!lage:far.test" || m.Name != want || m.At().Before(began.Add(-time.Second)) || m.At().After(time.Now()) {
		t.Errorf("the box hears %+v, %v", m, err)
	}
}

// One server cannot fill what a box is told, and all together cannot either.
func TestMissedInvitesBounded(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	b.hasUser("@anna:box1.test")
	b.away()
	told := func(origin string, n int) (noted int) {
		for i := range n {
			key := "@anna:box1.test"
			v, _ := event.Lookup("11")
			p := &event.PDU{Version: v, RoomID: event.RoomID(fmt.Sprintf("!%d:%s", i, origin)), Sender: event.UserID("@carl:" + origin), StateKey: &key}
			if w.hub.noteMissed(t.Context(), "box1.test", origin, federation.Invite{Event: p}) {
				noted++
			}
		}
		return noted
	}
	if got := told("far.test", missedOfOne+5); got != missedOfOne {
		t.Errorf("%d noted of one server, want %d", got, missedOfOne)
	}
	for i := range 4 {
		told(fmt.Sprintf("far%d.test", i), missedOfOne)
	}
	if got := w.waiting("box1.test"); got != missedMost {
		t.Errorf("%d words wait, want %d", got, missedMost)
	}
	rs, err := w.spool.Next(t.Context(), spool.Queue{Box: "box1.test", Other: "hub.test", In: true}, 0, missedReading)
	if err != nil || len(rs) != missedMost {
		t.Errorf("one reading sees %d of them, %v", len(rs), err)
	}
}
