// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// inviteOf makes the request of an invite by @carl:far.example.
func inviteOf(t testing.TB, version, user string, content string) (path string, body []byte) {
	v, _ := event.Lookup(version)
	p, err := event.Build(v, event.Proto{RoomID: "!r:far.example", Sender: "@carl:far.example", Type: "m.room.member", StateKey: &user, Content: json.RawMessage(content),
		Prev: []event.ID{"$p"}, Auth: []event.ID{"$a"}, Depth: 3, TS: 1_800_000_000_000}, "far.example", testKey(5))
	if err != nil {
		t.Fatal(err)
	}
	body, err = json.Marshal(map[string]any{"event": json.RawMessage(p.JSON()), "room_version": version, "invite_room_state": []any{}})
	if err != nil {
		t.Fatal(err)
	}
	return "/_matrix/federation/v2/invite/" + url.PathEscape("!r:far.example") + "/" + url.PathEscape(string(p.ID)), body
}

// TestReadInvite: nothing but an invite by a user of the server that asks, which fits the path, is read as one.
func TestReadInvite(t *testing.T) {
	const user = "@anna:a.example"
	path, body := inviteOf(t, "11", user, `{"membership":"invite"}`)
	i, err := ReadInvite(path, "far.example", body)
	if err != nil || i.User() != user || i.Event.RoomID != "!r:far.example" || i.Event.Sender != "@carl:far.example" {
		t.Fatalf("%+v, %v", i, err)
	}
	joinPath, join := inviteOf(t, "11", user, `{"membership":"join"}`)
	other := strings.Replace(path, "/v2/", "/v1/", 1)
	for name, tt := range map[string]struct {
		path, origin string
		body         []byte
		want         string
	}{
		"another server":  {path, "b.example", body, "the sender does not live"},
		"a join":          {joinPath, "far.example", join, "no invite"},
		"another room":    {strings.Replace(path, "%21r", "%21s", 1), "far.example", body, "does not fit"},
		"another event":   {path + "x", "far.example", body, "does not fit"},
		"a long path":     {path + "/x", "far.example", body, "no path"},
		"no path":         {"/_matrix/federation/v2/invites/a/b", "far.example", body, "no path"},
		"bad escape":      {"/_matrix/federation/v2/invite/%zz/b", "far.example", body, "no path"},
		"the older form":  {other, "far.example", body, "version 1"},
		"no body":         {path, "far.example", nil, "needed"},
		"no JSON":         {path, "far.example", []byte(`{`), "form"},
		"unknown version": {path, "far.example", []byte(strings.Replace(string(body), `"room_version":"11"`, `"room_version":"99"`, 1)), "version 99"},
		"changed":         {path, "far.example", []byte(strings.Replace(string(body), `"depth":3`, `"depth":4`, 1)), "does not fit"},
	} {
		if _, err := ReadInvite(tt.path, tt.origin, tt.body); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestCosignInvite: in a server's place nothing is signed that it would refuse later for what stands in it.
func TestCosignInvite(t *testing.T) {
	as := Local{Server: "a.example", Key: testKey(1)}
	far := Local{Server: "far.example", Key: testKey(5)}
	ring := NewKeyRing(KeyRingConfig{Locals: Only(Local{Server: "hub.example", Key: testKey(2)}), DB: keyStore(t), Now: func() time.Time { return time.UnixMilli(1_800_000_000_000) }})
	path, body := inviteOf(t, "11", "@anna:a.example", `{"membership":"invite"}`)
	i := must[Invite](t)(ReadInvite(path, "far.example", body))
	if _, err := i.Cosign(t.Context(), ring, as); !errors.Is(err, ErrKeyUnavailable) {
		t.Errorf("without the sender's key: %v", err)
	}
	if err := ring.Learn(t.Context(), must[[]byte](t)(NewKeyRing(KeyRingConfig{Locals: Only(far), Now: func() time.Time { return time.UnixMilli(1_800_000_000_000) }}).Document(far)), SourceTLS); err != nil {
		t.Fatal(err)
	}
	signed, err := i.Cosign(t.Context(), ring, as)
	if err != nil || signed.Event.VerifySignature(as.Server, as.Key.ID, publicOf(as.Key)) != nil || signed.Event.ID != i.Event.ID {
		t.Errorf("signed %v, %v", signed.Event, err)
	}
	var no *room.Error
	if _, err := i.Cosign(t.Context(), ring, Local{Server: "b.example", Key: testKey(1)}); !errors.As(err, &no) || no.Status != 404 {
		t.Errorf("for a user of another server: %v", err)
	}
	forged := must[Invite](t)(ReadInvite(path, "far.example", []byte(strings.Replace(string(body), `"signatures":{"far.example"`, `"signatures":{"fur.example"`, 1))))
	if _, err := forged.Cosign(t.Context(), ring, as); !errors.As(err, &no) || no.Status != 400 {
		t.Errorf("not signed by its sender's server: %v", err)
	}
	// Since version 12 a room must be told by its creation, as the box itself wants it.
	v, _ := event.Lookup("12")
	twelve := i
	e := *i.Event
	e.Version, twelve.Event = v, &e
	twelve.Stripped = []json.RawMessage{json.RawMessage(fmt.Sprintf(`{"type":"m.room.name","state_key":"","content":{"name":%q}}`, "Lage"))}
	if _, err := twelve.Cosign(t.Context(), ring, as); !errors.As(err, &no) || !strings.Contains(no.Text, "creation") {
		t.Errorf("a room of version 12 that is not told: %v", err)
	}
}

func FuzzReadInvite(f *testing.F) {
	path, body := inviteOf(f, "11", "@anna:a.example", `{"membership":"invite"}`)
	f.Add(path, body)
	path, body = inviteOf(f, "10", "@anna:a.example", `{"membership":"invite","third_party_invite":{}}`)
	f.Add(path, body)
	f.Add("/_matrix/federation/v1/invite/!a/$b", []byte(`{"unsigned":{"invite_room_state":[]}}`))
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		i, err := ReadInvite(path, "far.example", body)
		if err != nil {
			return
		}
		if i.Event.Type != "m.room.member" || i.Event.StateKey == nil || i.Event.Sender.Server() != "far.example" || i.Event.CheckHash() != nil {
			t.Errorf("%s %s reads as %+v", path, body, i.Event)
		}
	})
}
