// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

func version(t testing.TB, id string) *Version {
	t.Helper()
	v, ok := Lookup(id)
	if !ok {
		t.Fatalf("no version %s", id)
	}
	return v
}

// raw is the text of an event that every version from 3 on accepts; more are members to add or replace, without value: to remove.
func raw(t testing.TB, more ...string) []byte {
	t.Helper()
	m := map[string]json.RawMessage{}
	base := `{"type":"m.room.message","room_id":"!r:a.example","sender":"@u:a.example","content":{"body":"x"},"prev_events":["$p"],"auth_events":["$a","$b"],"depth":5,
		"origin_server_ts":1000,"hashes":{"sha256":"aaaa"},"signatures":{"a.example":{"ed25519:1":"AAAA"}}}`
	if err := json.Unmarshal([]byte(base), &m); err != nil {
		t.Fatal(err)
	}
	for _, kv := range more {
		k, v, _ := strings.Cut(kv, "=")
		if m[k] = json.RawMessage(v); v == "" {
			delete(m, k)
		}
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%q: %s", k, m[k]))
	}
	slices.Reverse(out)
	return []byte("{" + strings.Join(out, ", ") + "}")
}

func TestParse(t *testing.T) {
	p, err := Parse(version(t, "10"), raw(t, `unsigned={"age":1}`, `state_key="k\u00e9\n"`, `vendor.field=[1,{"b":1,"a":2}]`, `zz=1`))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"auth_events":["$a","$b"],"content":{"body":"x"},"depth":5,"hashes":{"sha256":"aaaa"},"origin_server_ts":1000,"prev_events":["$p"],"room_id":"!r:a.example",` +
		`"sender":"@u:a.example","signatures":{"a.example":{"ed25519:1":"AAAA"}},"state_key":"ké\n","type":"m.room.message","vendor.field":[1,{"a":2,"b":1}],"zz":1}`
	if err == nil && string(p.JSON()) != want {
		t.Errorf("JSON\ngot  %s\nwant %s", p.JSON(), want)
	}
	got := fmt.Sprint(p.RoomID, p.Sender, p.Type, *p.StateKey, string(p.Content), p.Prev, p.Auth, p.Depth, p.TS, string(p.Unsigned))
	if want := fmt.Sprint("!r:a.example", "@u:a.example", "m.room.message", "ké\n", `{"body":"x"}`, []ID{"$p"}, []ID{"$a", "$b"}, 5, 1000, `{"age":1}`); got != want {
		t.Errorf("fields\ngot  %s\nwant %s", got, want)
	}
	if !p.Is("m.room.message", "ké\n") || p.Is("m.room.message", "") || !p.IsState() {
		t.Error("Is or IsState is wrong")
	}
	if h := p.Hash(); ID("$"+p.Version.idEncoding().EncodeToString(h[:])) != p.ID {
		t.Errorf("Hash does not spell %s", p.ID)
	}
	if len(p.ID) != 44 || p.Redacts != "" {
		t.Errorf("id %q, redacts %q", p.ID, p.Redacts)
	}
	again, err := Parse(p.Version, p.JSON())
	if err != nil || again.ID != p.ID || !bytes.Equal(again.JSON(), p.JSON()) {
		t.Errorf("parsing JSON() again gives %v, %v", again, err)
	}
}

func TestFloatInUnsigned(t *testing.T) {
	// unsigned is no part of the event, yet servers check the JSON of all they get: a float anywhere is refused from version 6 on.
	if _, err := Parse(version(t, "6"), raw(t, `unsigned={"age":1.5}`)); err == nil {
		t.Error("version 6 takes a float")
	}
	if _, err := Parse(version(t, "5"), raw(t, `unsigned={"age":1.5}`)); err != nil {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, c := range []struct {
		name, version string
		raw           []byte
	}{
		{"no JSON", "11", []byte("nonsense")},
		{"no object", "11", []byte("[]")},
		{"empty", "11", nil},
		{"key twice", "11", []byte(strings.Replace(string(raw(t)), "{", `{"depth":5,`, 1))},
		{"key twice, escaped", "11", []byte(strings.Replace(string(raw(t)), "{", `{"dept\u0068":5,`, 1))},
		{"no type", "11", raw(t, `type=`)},
		{"other case", "11", raw(t, `type=`, `Type="m.room.message"`)},
		{"type null", "11", raw(t, `type=null`)},
		{"long type", "11", raw(t, `type="`+long+`"`)},
		{"no room", "11", raw(t, `room_id=`)},
		{"bad room", "11", raw(t, `room_id="r:a.example"`)},
		{"long room", "11", raw(t, `room_id="!`+long+`"`)},
		{"no sender", "11", raw(t, `sender=`)},
		{"bad sender", "11", raw(t, `sender="u:a.example"`)},
		{"sender without server", "11", raw(t, `sender="@u"`)},
		{"sender with bad server", "11", raw(t, `sender="@u:a b"`)},
		{"long sender", "11", raw(t, `sender="@u:`+long+`"`)},
		{"state_key number", "11", raw(t, `state_key=1`)},
		{"long state_key", "11", raw(t, `state_key="`+long+`"`)},
		{"long in bytes", "11", raw(t, `state_key="`+strings.Repeat("é", 128)+`"`)},
		{"long in code points", "10", raw(t, `state_key="`+strings.Repeat("é", 256)+`"`)},
		{"no content", "11", raw(t, `content=`)},
		{"content list", "11", raw(t, `content=[]`)},
		{"no prev", "11", raw(t, `prev_events=`)},
		{"prev object", "11", raw(t, `prev_events={}`)},
		{"prev number", "11", raw(t, `prev_events=[1]`)},
		{"prev pairs", "11", raw(t, `prev_events=[["$a",{}]]`)},
		{"prev no id", "11", raw(t, `prev_events=["a"]`)},
		{"prev empty id", "11", raw(t, `prev_events=[""]`)},
		{"21 prev", "11", raw(t, `prev_events=["$a"`+strings.Repeat(`,"$a"`, 20)+`]`)},
		{"11 auth", "11", raw(t, `auth_events=["$a"`+strings.Repeat(`,"$a"`, 10)+`]`)},
		{"no auth", "11", raw(t, `auth_events=`)},
		{"no depth", "11", raw(t, `depth=`)},
		{"depth text", "11", raw(t, `depth="5"`)},
		{"depth float", "11", raw(t, `depth=5.0`)},
		{"depth float, old", "3", raw(t, `depth=5.5`)},
		{"depth huge", "11", raw(t, `depth=9007199254740992`)},
		{"no time", "11", raw(t, `origin_server_ts=`)},
		{"signatures list", "11", raw(t, `signatures=[]`)},
		{"hashes text", "11", raw(t, `hashes="x"`)},
		{"float", "6", raw(t, `content={"a":1.0}`)},
		{"exponent", "6", raw(t, `content={"a":1e3}`)},
		{"large integer", "12", raw(t, `content={"a":9007199254740992}`)},
		{"minus zero", "12", raw(t, `content={"a":-0}`)},
		{"event_id", "11", raw(t, `event_id="$x"`)},
		{"no event_id", "1", raw(t, `prev_events=[]`, `auth_events=[]`)},
		{"prev without hashes", "2", raw(t, `event_id="$x:a.example"`)},
		{"create with room", "12", raw(t, `type="m.room.create"`, `state_key=""`)},
		{"too large", "12", raw(t, `content={"a":"`+strings.Repeat("x", 65536)+`"}`)},
		{"far too large", "12", raw(t, `content={"a":"`+strings.Repeat("x", maxRaw)+`"}`)},
	} {
		if p, err := Parse(version(t, c.version), c.raw); err == nil {
			t.Errorf("%s: taken as %s", c.name, p.JSON())
		}
	}
}

func TestParseLimits(t *testing.T) {
	frame, err := Parse(version(t, "12"), raw(t, `content={"a":""}`))
	if err != nil {
		t.Fatal(err)
	}
	room := MaxSize - len(frame.JSON())
	exactly := raw(t, `content={"a":"`+strings.Repeat("x", room)+`"}`, `unsigned={"much":"`+strings.Repeat("y", 1000)+`"}`)
	if p, err := Parse(version(t, "12"), exactly); err != nil || len(p.JSON()) != MaxSize {
		t.Errorf("65,536 bytes: %v", err)
	}
	if _, err := Parse(version(t, "12"), raw(t, `content={"a":"`+strings.Repeat("x", room+1)+`"}`)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("65,537 bytes: got %v, want ErrTooLarge", err)
	}
	if _, err := Parse(version(t, "10"), raw(t, `state_key="`+strings.Repeat("é", 255)+`"`)); err != nil {
		t.Errorf("255 code points in version 10: %v", err)
	}
	if _, err := Parse(version(t, "11"), raw(t, `prev_events=["$a"`+strings.Repeat(`,"$a"`, 19)+`]`, `auth_events=["$a"`+strings.Repeat(`,"$a"`, 9)+`]`)); err != nil {
		t.Errorf("20 prev and 10 auth events: %v", err)
	}
	for _, ok := range []string{"@:a.example", "@ü x\u0001:a.example:8448", "@u:[::1]:80", "@u:1.2.3.4"} {
		b, _ := json.Marshal(ok)
		if p, err := Parse(version(t, "11"), raw(t, "sender="+string(b))); err != nil || string(p.Sender) != ok {
			t.Errorf("sender %q: %v", ok, err)
		}
	}
	if p, err := Parse(version(t, "5"), raw(t, `content={"a":1E5,"b":0.0,"c":123456789012345678901}`)); err != nil || string(p.Content) != `{"a":1E5,"b":0.0,"c":123456789012345678901}` {
		t.Errorf("numbers in version 5: %v", err)
	}
}

func TestOldEvents(t *testing.T) {
	p, err := Parse(version(t, "1"), raw(t, `event_id="$x:b.example"`, `prev_events=[["$p:a",{"sha256":"x"}],["$q:a",{}]]`, `auth_events=[["$a:a",{"sha256":"x"}]]`))
	if err != nil {
		t.Fatal(err)
	}
	if p.ID != "$x:b.example" || fmt.Sprint(p.Prev, p.Auth) != "[$p:a $q:a] [$a:a]" || !p.Version.Readable {
		t.Errorf("got %s %v %v", p.ID, p.Prev, p.Auth)
	}
	if got := fmt.Sprint(p.SignedBy()); got != "[a.example b.example]" {
		t.Errorf("SignedBy: %s", got)
	}
	if p.Hash() == [32]byte{} {
		t.Error("no reference hash")
	}
	if _, err := Build(p.Version, Proto{}, "a", specKey(t)); err == nil {
		t.Error("Build made an event of version 1")
	}
}

func TestIDs(t *testing.T) {
	// One event, whose reference hash has + and / in base64 when the depth is right: the versions spell it differently.
	for depth := 0; ; depth++ {
		text := raw(t, fmt.Sprintf("depth=%d", depth))
		p3, err := Parse(version(t, "3"), text)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(p3.ID), "/") || !strings.Contains(string(p3.ID), "+") {
			continue
		}
		p4, err := Parse(version(t, "4"), text)
		if want := strings.NewReplacer("/", "_", "+", "-").Replace(string(p3.ID)); err != nil || string(p4.ID) != want {
			t.Errorf("version 4: %s, %v; want %s", p4.ID, err, want)
		}
		if p3.Hash() != p4.Hash() {
			t.Error("hashes differ")
		}
		return
	}
}

func TestCreateIsRoomID(t *testing.T) {
	k := specKey(t)
	key := ""
	p, err := Build(Default(), Proto{RoomID: "!ignored", Sender: "@a:domain", Type: "m.room.create", StateKey: &key, Content: json.RawMessage(`{"room_version":"12"}`), Depth: 1, TS: 1}, "domain", k)
	if err != nil {
		t.Fatal(err)
	}
	if string(p.RoomID) != "!"+string(p.ID[1:]) || bytes.Contains(p.JSON(), []byte("room_id")) {
		t.Errorf("room %s of %s", p.RoomID, p.JSON())
	}
	q, err := ParseTrusted(p.Version, p.ID, p.JSON())
	if err != nil || q.RoomID != p.RoomID {
		t.Errorf("stored: %v, %v", q, err)
	}
	for _, room := range []RoomID{p.RoomID, "!short", "!with:server.example"} { // no shape is prescribed to the hash; rules look it up
		if m, err := Build(Default(), Proto{RoomID: room, Sender: "@a:domain", Type: "m.x", Depth: 1, TS: 1}, "domain", k); err != nil || m.RoomID != room {
			t.Errorf("event in %s: %v", room, err)
		}
	}
}

func TestBuildPlacesRedacts(t *testing.T) {
	k := specKey(t)
	for _, id := range Known()[2:] {
		v := version(t, id)
		p, err := Build(v, Proto{RoomID: "!r:d", Sender: "@a:d", Type: "m.room.redaction", Content: json.RawMessage(`{"zeal":1,"reason":"r"}`), Redacts: "$x", Depth: 1, TS: 1}, "d", k)
		if err != nil {
			t.Fatal(err)
		}
		want := `{"reason":"r","zeal":1}`
		if v.RedactsInContent {
			want = `{"reason":"r","redacts":"$x","zeal":1}`
		}
		if p.Redacts != "$x" || string(p.Content) != want {
			t.Errorf("version %s: redacts %q, content %s", id, p.Redacts, p.Content)
		}
		r, err := p.Redacted()
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Redacts == "$x"; got != v.keepRedactsTarget {
			t.Errorf("version %s: redacted redaction names %q", id, r.Redacts)
		}
	}
	p, err := Parse(version(t, "11"), raw(t, `redacts="$x"`, `content={"redacts":"$y"}`))
	if err != nil || p.Redacts != "" {
		t.Errorf("a message redacts %q, %v", p.Redacts, err)
	}
	if _, err := Build(Default(), Proto{RoomID: "!r:d", Sender: "@a:d", Type: "m.x", Content: json.RawMessage(`{"a":1.5}`)}, "d", k); err == nil {
		t.Error("Build took a float")
	}
	if _, err := Build(Default(), Proto{RoomID: "!r:d", Sender: "@a:d", Type: "m.x", Content: json.RawMessage(`{"a":"` + strings.Repeat("x", MaxSize) + `"}`)}, "d", k); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Build of a large event: %v", err)
	}
}

func TestSignaturesOfEvents(t *testing.T) {
	k := specKey(t)
	pub := k.Private.Public().(ed25519.PublicKey)
	key := "@b:other"
	p, err := Build(Default(), Proto{RoomID: "!r", Sender: "@a:domain", Type: "m.room.member", StateKey: &key,
		Content: json.RawMessage(`{"membership":"invite","displayname":"B"}`), Depth: 1, TS: 1}, "domain", k)
	if err != nil {
		t.Fatal(err)
	}
	q, err := p.Sign("other", Key{ID: "ed25519:two", Private: k.Private})
	if err != nil {
		t.Fatal(err)
	}
	if q.ID != p.ID || len(q.Signatures()) != 2 || len(p.Signatures()) != 1 {
		t.Errorf("after Sign: id %s, %d signatures", q.ID, len(q.Signatures()))
	}
	red, err := q.Redacted()
	if err != nil || red.ID != p.ID || red.CheckHash() == nil || !errors.Is(red.CheckHash(), ErrHash) {
		t.Errorf("redacted: %v, %v", red.CheckHash(), err)
	}
	for _, e := range []*PDU{q, red} {
		for server, id := range map[string]string{"domain": "ed25519:1", "other": "ed25519:two"} {
			if err := e.VerifySignature(server, id, pub); err != nil {
				t.Error(err)
			}
		}
		for _, bad := range [][2]string{{"domain", "ed25519:two"}, {"other", "ed25519:1"}, {"third", "ed25519:1"}, {"DOMAIN", "ed25519:1"}} {
			if e.VerifySignature(bad[0], bad[1], pub) == nil {
				t.Errorf("verified %v", bad)
			}
		}
		if e.VerifySignature("domain", "ed25519:1", pub[:31]) == nil || e.VerifySignature("domain", "ed25519:1", make([]byte, 32)) == nil {
			t.Error("verified with a wrong key")
		}
	}
	// What the signature covers cannot be changed; what redaction takes away can, but then the hash fails.
	for _, c := range []struct{ old, new string }{{`"membership":"invite"`, `"membership":"join"`}, {`"depth":1`, `"depth":2`}, {`"state_key":"@b`, `"state_key":"@c`}, {`"displayname":"B"`, `"displayname":"C"`}} {
		changed, err := Parse(q.Version, bytes.Replace(q.JSON(), []byte(c.old), []byte(c.new), 1))
		if err != nil {
			t.Fatal(err)
		}
		sig := changed.VerifySignature("domain", "ed25519:1", pub)
		if covered := c.old != `"displayname":"B"`; covered != (sig != nil) || covered != (changed.ID != q.ID) || changed.CheckHash() == nil {
			t.Errorf("%s: signature %v, id changed %t", c.new, sig, changed.ID != q.ID)
		}
	}
}

func TestSignedBy(t *testing.T) {
	member := func(v, content string) []byte {
		return raw(t, `type="m.room.member"`, `state_key="@t:t.example"`, "content="+content)
	}
	for _, c := range []struct{ version, content, want string }{
		{"11", `{"membership":"join"}`, "[a.example]"},
		{"9", `{"membership":"join","join_authorised_via_users_server":"@x:b.example"}`, "[a.example b.example]"},
		{"8", `{"membership":"join","join_authorised_via_users_server":"@x:b.example"}`, "[a.example]"}, // its hash is wrong, and redaction takes the key
		{"7", `{"membership":"join","join_authorised_via_users_server":"@x:b.example"}`, "[a.example]"},
		{"11", `{"membership":"join","join_authorised_via_users_server":"@x:a.example"}`, "[a.example]"},
		{"11", `{"membership":"invite"}`, "[a.example]"},
		{"11", `{"membership":"invite","third_party_invite":{}}`, "[]"},
		{"11", `{"membership":"join","third_party_invite":{}}`, "[a.example]"},
	} {
		p, err := Parse(version(t, c.version), member(c.version, c.content))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(p.SignedBy()); got != c.want {
			t.Errorf("%s in version %s: %s, want %s", c.content, c.version, got, c.want)
		}
	}
	key := "@t:t.example"
	p, err := Build(version(t, "8"), Proto{RoomID: "!r:a.example", Sender: "@u:a.example", Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"membership":"join","join_authorised_via_users_server":"@x:b.example"}`)}, "a.example", specKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.SignedBy()); got != "[a.example b.example]" {
		t.Errorf("version 8, with its hash: %s", got)
	}
}

func TestFromTemplate(t *testing.T) {
	k := specKey(t)
	p, err := FromTemplate(version(t, "11"), raw(t, `type="m.room.member"`, `state_key="@u:a.example"`, `content={"membership":"join"}`, `event_id="$old"`, `unsigned={"age":1}`), "a.example", k)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.CheckHash(); err != nil {
		t.Error(err)
	}
	if err := p.VerifySignature("a.example", "ed25519:1", k.Private.Public().(ed25519.PublicKey)); err != nil {
		t.Error(err)
	}
	if p.Unsigned != nil || len(p.Signatures()) != 1 {
		t.Errorf("kept unsigned %s, %d signatures", p.Unsigned, len(p.Signatures()))
	}
	for _, bad := range []string{`[]`, `{`, `{"type":"x"}`} {
		if _, err := FromTemplate(version(t, "11"), []byte(bad), "a.example", k); err == nil {
			t.Errorf("took %s", bad)
		}
	}
}

func TestParseTrusted(t *testing.T) {
	p := message(t)
	q, err := ParseTrusted(p.Version, p.ID, bytes.Clone(p.JSON()))
	if err != nil {
		t.Fatal(err)
	}
	if q.ID != p.ID || q.RoomID != p.RoomID || string(q.Content) != string(p.Content) || fmt.Sprint(q.Prev, q.Auth) != fmt.Sprint(p.Prev, p.Auth) {
		t.Errorf("got %+v", q)
	}
	if _, err := ParseTrusted(p.Version, p.ID, []byte(`{"b":1,"a":2}`)); err == nil {
		t.Error("took what is not canonical")
	}
}

func TestParseKeepsNothingOfItsInput(t *testing.T) {
	text := bytes.Clone(message(t).JSON())
	p, err := Parse(Default(), text)
	if err != nil {
		t.Fatal(err)
	}
	before := string(p.JSON())
	for i := range text {
		text[i] = 'x'
	}
	if string(p.JSON()) != before || !json.Valid(p.Content) || p.Sender != "@alice:box.hallig.internal" {
		t.Error("the event changed with the buffer it was read from")
	}
	if err := p.CheckHash(); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	for s, want := range map[string]bool{"matrix.org": true, "matrix.org:8888": true, "1.2.3.4:1234": true, "[1234:5678::abcd]": true, "[1234:5678::abcd]:5678": true, "localhost": true,
		"": false, ":80": false, "a:": false, "a:123456": false, "a:1b": false, "a b": false, "a/b": false, "[::1": false, "[x]": false, "[::1]80": false, "[1.2.3.4]": false, "[::1%eth0]": false, "a_b": false, "ä": false} {
		if got := ValidServerName(s); got != want {
			t.Errorf("ValidServerName(%q) = %t", s, got)
		}
	}
	for s, want := range map[string]bool{"@a:b": true, "@:b": true, "@A ö!:b:1": true, "a:b": false, "@a": false, "@a:": false, "@a\x00:b": false, "@\xff:b": false, "@" + strings.Repeat("a", 252) + ":b": true, "@" + strings.Repeat("a", 253) + ":b": false} {
		if _, err := ParseUserID(s); (err == nil) != want {
			t.Errorf("ParseUserID(%q): %v", s, err)
		}
	}
	u := UserID("@a:b:1")
	if u.Localpart() != "a" || u.Server() != "b:1" || UserID("x").Server() != "" || UserID("x").Localpart() != "" {
		t.Error("parts of user ids")
	}
}
