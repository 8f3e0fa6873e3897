// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
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
	if err := json.Unmarshal([]byte(body), &txn); err != nil || len(txn.EDUs) != 1 || txn.EDUs[0].Kind != api.MissedInviteEDU || !takeable(body) {
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

// An invite for somebody on a box that lets the hub sign is signed like the box would, kept over restarts, and given to the box as it came.
func TestSignsInvites(t *testing.T) {
	w := newWorld(t)
	d := w.newBox("box1.test").delegating()
	d.hasUser("@anna:box1.test")
	key := d.agrees()
	d.away()
	for range 2 { // the far server repeats itself
		status, out, sent := w.invite(invite{user: "@anna:box1.test"})
		var a struct{ Event json.RawMessage }
		if err := json.Unmarshal(out, &a); err != nil || status != 200 {
			t.Fatalf("%d %s", status, out)
		}
		p, err := event.Parse(sent.Version, a.Event)
		if err != nil || p.ID != sent.ID {
			t.Fatalf("the answer is %s, %v", out, err)
		}
		far, _ := w.far.Key.Private.Public().(ed25519.PublicKey)
		if err := errors.Join(p.VerifySignature("box1.test", key.ID, key.Key), p.VerifySignature("far.test", w.far.Key.ID, far)); err != nil {
			t.Error(err)
		}
	}
	for name, tt := range map[string]struct {
		invite
		want int
		text string
	}{
		"nobody":     {invite{user: "@bert:box1.test"}, 403, "später noch einmal"},
		"not signed": {invite{user: "@anna:box1.test", change: func(b []byte) []byte { return []byte(strings.Replace(string(b), `"signatures"`, `"unsigned"`, 1)) }}, 400, "not signed"},
		"room version": {invite{user: "@anna:box1.test", change: func(b []byte) []byte {
			return []byte(strings.Replace(string(b), `"room_version":"11"`, `"room_version":"99"`, 1))
		}}, 403, "nicht erreichbar"},
	} {
		if status, out, _ := w.invite(tt.invite); status != tt.want || !strings.Contains(string(out), tt.text) {
			t.Errorf("%s: %d %s, want %d %s", name, status, out, tt.want, tt.text)
		}
	}
	w.spool.fail(func(string) error { return spool.ErrNoSpace })
	if status, out, _ := w.invite(invite{user: "@anna:box1.test", room: "!b:far.test"}); status != 403 {
		t.Errorf("said yes to what cannot be kept: %d %s", status, out)
	}
	w.spool.fail(nil)
	if n := w.waiting("box1.test"); n != 2 {
		t.Errorf("%d requests wait, want the two forms of the invite", n)
	}
	w.stop()
	w.start()
	d.back()
	w.await("the invite to be taken", func() bool { return w.waiting("box1.test") == 0 })
	heard := d.heard()
	last := heard[len(heard)-1]
	if !strings.HasPrefix(last, "PUT /_matrix/federation/v2/invite/") || !strings.Contains(last, `origin="far.test"`) || !strings.Contains(last, `"room_version":"11"`) {
		t.Errorf("the box was given %s", last)
	}
	if head := d.heads[len(d.heads)-1]; head.Get(api.Received) == "" {
		t.Error("it was not said when the invite came in")
	}

	// The key is taken back: from then on invites are refused.
	d.retires()
	d.says(api.Sealed)
	d.away()
	if status, out, _ := w.invite(invite{user: "@anna:box1.test", room: "!c:far.test"}); status != 403 || !strings.Contains(string(out), "erfährt davon") {
		t.Errorf("after the key was taken back: %d %s", status, out)
	}
}

// What a box refuses all the same does not hold up what comes after it, and its user is told.
func TestSignedInviteIsRefusedByTheBox(t *testing.T) {
	w := newWorld(t)
	d := w.newBox("box1.test").delegating()
	d.hasUser("@anna:box1.test")
	d.agrees()
	d.away()
	if status, out, _ := w.invite(invite{user: "@anna:box1.test"}); status != 200 {
		t.Fatalf("%d %s", status, out)
	}
	var transactions atomic.Int64
	d.answers(func(rw http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/invite/") {
			refuse(rw, 403, "M_FORBIDDEN", "not here")
			return
		}
		transactions.Add(1)
		answer(rw, 200, map[string]any{"pdus": struct{}{}})
	})
	d.back()
	w.await("the user to be told", func() bool { return transactions.Load() == 1 && w.waiting("box1.test") == 0 })
	if heard := d.heard(); !strings.Contains(heard[len(heard)-1], api.MissedInviteEDU) {
		t.Errorf("the box was given %s", heard[len(heard)-1])
	}
}

func TestAllowance(t *testing.T) {
	var a allowance
	now := time.Unix(1_800_000_000, 0)
	count := func(what string) (n int) {
		for range 20 {
			if a.may(what, 5, now) {
				n++
			}
		}
		return n
	}
	if n, m := count("a"), count("b"); n != 5 || m != 5 {
		t.Errorf("%d and %d at once, want 5 each", n, m)
	}
	now = now.Add(2*time.Minute + time.Second)
	if n := count("a"); n != 2 {
		t.Errorf("%d after two minutes, want 2", n)
	}
	now = now.Add(24 * time.Hour)
	if n := count("a"); n != 5 {
		t.Errorf("%d after a day, want 5", n)
	}
}

// A room whose access list is known here and shuts the inviter's server or the box out is not one to be invited to.
func TestAccessListsOfInvites(t *testing.T) {
	w := newWorld(t)
	d := w.newBox("box1.test").delegating()
	d.hasUser("@anna:box1.test")
	d.agrees()
	d.away()
	rooms := room.New(w.hub.db, room.Identity{Server: "far.test", Key: w.far.Key}, room.Options{}) // as if copied from a box
	for list, want := range map[string]int{`{"allow":["*"]}`: 200, `{"allow":["*"],"deny":["far.*"]}`: 403, `{"allow":["*"],"deny":["box1.test"]}`: 403} {
		id, err := rooms.Create(t.Context(), room.CreateRequest{Creator: "@carl:far.test", Preset: "private_chat"})
		if err != nil {
			t.Fatal(err)
		}
		key := ""
		if _, err := rooms.Send(t.Context(), room.Draft{Room: id, Sender: "@carl:far.test", Type: "m.room.server_acl", StateKey: &key, Content: json.RawMessage(list)}); err != nil {
			t.Fatal(err)
		}
		if status, out, _ := w.invite(invite{user: "@anna:box1.test", room: string(id)}); status != want {
			t.Errorf("%s: %d %s, want %d", list, status, out, want)
		}
	}
}
