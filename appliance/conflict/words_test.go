// SPDX-License-Identifier: EUPL-1.2

package conflict

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"hallig/appliance/event"
	"hallig/appliance/herald"
)

func TestClip(t *testing.T) {
	for in, want := range map[string]string{"": "", "  a\n\tb ": "a b", "Wa\u202est": "Wa st", "sechs!": "sechs!", "sieben!": "siebe…", "äöüäöü": "äöüäöü", "a\x00\x1b[2J": "a [2J"} {
		if got := herald.OneLine(in, 6); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestReplacement(t *testing.T) {
	for content, want := range map[string]event.RoomID{`{"replacement_room":"!a:b"}`: "!a:b", `{"replacement_room":"#a:b"}`: "", `{"replacement_room":"!a\n:b"}`: "", `{"replacement_room":7}`: "",
		`{}`: "", `x`: "", `{"replacement_room":"!` + strings.Repeat("a", 255) + `"}`: ""} {
		if got := replacement([]byte(content)); got != want {
			t.Errorf("%s: %q, want %q", content, got, want)
		}
	}
}

// Whatever stands in an event, a letter has it on one line that is not long.
func FuzzWords(f *testing.F) {
	kinds := []string{"m.room.name", "m.room.topic", "m.room.power_levels", "m.room.tombstone", "m.room.server_acl", "org.hallig.priority", "unknown"}
	for i := range kinds {
		f.Add(uint8(i), []byte(`{"name":"a\nb","topic":"\u0000","users":{"@a\n:b":50},"events":{"m.x":7},"replacement_room":"!a:b"}`), []byte(`{"users":{"@c:d":100},"ban":"60"}`), "@ä\n:x")
		f.Add(uint8(i), []byte(`{`), []byte(`[]`), "")
	}
	v, _ := event.Lookup("11")
	f.Fuzz(func(t *testing.T, kind uint8, a, b []byte, by string) {
		typ, key := kinds[int(kind)%len(kinds)], ""
		pdu := func(content []byte) *event.PDU {
			return &event.PDU{Version: v, RoomID: "!r:x", Sender: event.UserID(by), Type: typ, StateKey: &key, Content: content}
		}
		p, q := pdu(a), pdu(b)
		x := fight{typ: typ, lost: []value{{by: p.Sender, at: time.UnixMilli(0), text: describe(p, q)}}, holds: value{by: q.Sender, text: describe(q, p)}}
		describe(p, nil)
		m := Missed{By: p.Sender, Name: string(a)}
		for _, s := range []string{x.words().De, x.words().En, m.words().De, m.words().En, string(replacement(a))} {
			if len([]rune(s)) > 3000 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%d letters: %q", len([]rune(s)), s)
			}
		}
	})
}
