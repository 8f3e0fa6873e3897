// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"bytes"
	"strings"
	"testing"
)

// contents has for each type everything that some version keeps, and more.
var contents = map[string]string{
	"m.room.member":             `{"displayname":"x","join_authorised_via_users_server":"@a:b","membership":"join","third_party_invite":{"display_name":"d","signed":{"token":"t"}}}`,
	"m.room.create":             `{"creator":"@a:b","m.federate":true,"room_version":"9"}`,
	"m.room.join_rules":         `{"allow":[],"join_rule":"public","x":1}`,
	"m.room.power_levels":       `{"ban":1,"events":{},"events_default":2,"invite":3,"kick":4,"notifications":{},"redact":5,"state_default":6,"users":{},"users_default":7}`,
	"m.room.aliases":            `{"aliases":[],"x":1}`,
	"m.room.history_visibility": `{"history_visibility":"shared","x":1}`,
	"m.room.redaction":          `{"reason":"r","redacts":"$x"}`,
	"m.room.message":            `{"body":"b"}`,
}

func TestRedactedContent(t *testing.T) {
	level := func(invite string) string {
		return `{"ban":1,"events":{},"events_default":2,` + invite + `"kick":4,"redact":5,"state_default":6,"users":{},"users_default":7}`
	}
	want := func(v int, typ string) string {
		switch typ {
		case "m.room.member":
			switch {
			case v >= 11:
				return `{"join_authorised_via_users_server":"@a:b","membership":"join","third_party_invite":{"signed":{"token":"t"}}}`
			case v >= 9:
				return `{"join_authorised_via_users_server":"@a:b","membership":"join"}`
			}
			return `{"membership":"join"}`
		case "m.room.create":
			if v >= 11 {
				return contents[typ]
			}
			return `{"creator":"@a:b"}`
		case "m.room.join_rules":
			if v >= 8 {
				return `{"allow":[],"join_rule":"public"}`
			}
			return `{"join_rule":"public"}`
		case "m.room.power_levels":
			if v >= 11 {
				return level(`"invite":3,`)
			}
			return level("")
		case "m.room.aliases":
			if v <= 5 {
				return `{"aliases":[]}`
			}
		case "m.room.history_visibility":
			return `{"history_visibility":"shared"}`
		case "m.room.redaction":
			if v >= 11 {
				return `{"redacts":"$x"}`
			}
		}
		return `{}`
	}
	for i, id := range Known() {
		v := version(t, id)
		for typ, content := range contents {
			more := []string{`type="` + typ + `"`, "content=" + content, `origin="b"`, `membership="join"`, `prev_state=[]`, `redacts="$x"`, `vendor=1`, `unsigned={}`, `state_key=""`}
			if v.Readable {
				more = append(more, `event_id="$e:a.example"`, `prev_events=[]`, `auth_events=[]`)
			}
			if v.CreateIsRoomID && typ == "m.room.create" {
				more = append(more, `room_id=`)
			}
			p, err := Parse(v, raw(t, more...))
			if err != nil {
				t.Fatal(err)
			}
			r, err := p.Redacted()
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(r.Content), want(i+1, typ); got != want {
				t.Errorf("version %s, %s:\ngot  %s\nwant %s", id, typ, got, want)
			}
			if r.ID != p.ID || r.RoomID != p.RoomID {
				t.Errorf("version %s, %s: redaction changes the id", id, typ)
			}
			for _, key := range []string{"origin", "membership", "prev_state"} {
				if _, ok := Field(r.JSON(), key); ok != (i+1 < 11) {
					t.Errorf("version %s: %s kept: %t", id, key, ok)
				}
			}
			for _, key := range []string{"redacts", "vendor", "unsigned"} {
				if _, ok := Field(r.JSON(), key); ok {
					t.Errorf("version %s: %s kept", id, key)
				}
			}
			if _, ok := Field(r.JSON(), "state_key"); !ok || r.StateKey == nil {
				t.Errorf("version %s: state_key lost", id)
			}
			twice, err := r.Redacted()
			if err != nil || !bytes.Equal(twice.JSON(), r.JSON()) {
				t.Errorf("version %s, %s: redacting twice differs: %v", id, typ, err)
			}
			if v.Readable {
				continue
			}
			again, err := Parse(v, r.JSON())
			if err != nil || again.ID != p.ID {
				t.Errorf("version %s, %s: a redacted copy gets another id: %v", id, typ, err)
			}
		}
	}
}

func TestRedactOddContent(t *testing.T) {
	for in, want := range map[string]string{
		`{"membership":"invite","third_party_invite":{"display_name":"x"}}`: `{"membership":"invite","third_party_invite":{}}`,
		`{"membership":"invite","third_party_invite":"x"}`:                  `{"membership":"invite"}`,
		`{"membership":{"deep":[1]}}`:                                       `{"membership":{"deep":[1]}}`,
		`{"a":1}`:                                                           `{}`,
	} {
		p, err := Parse(version(t, "11"), raw(t, `type="m.room.member"`, `state_key="@u:a"`, "content="+in))
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.Redacted()
		if err != nil || string(r.Content) != want {
			t.Errorf("%s: got %s, %v; want %s", in, r.Content, err, want)
		}
	}
	p, err := Parse(version(t, "11"), raw(t, `state_key=`))
	if err != nil || strings.Contains(string(p.JSON()), "state_key") || p.IsState() {
		t.Errorf("message: %v", err)
	}
}
