// SPDX-License-Identifier: EUPL-1.2

package compact

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/event"
)

func key() event.Key {
	return event.Key{ID: "ed25519:a_Bc", Private: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))}
}

func id(n int) event.ID {
	return event.ID("$" + base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{byte(n), byte(n >> 8), 0xfb, 0xff}, 8)))
}

// book knows events by number, as a database does.
type book map[string]int64

func (b book) nid(id []byte) int64 { return b[string(id)] }

func (b book) id(nid int64) (string, error) {
	for id, n := range b {
		if n == nid {
			return id, nil
		}
	}
	return "", fmt.Errorf("no event %d", nid)
}

func columns(p *event.PDU, nid int64) *Columns {
	return &Columns{NID: nid, ID: string(p.ID), Room: string(p.RoomID), Sender: string(p.Sender), Type: p.Type, StateKey: p.StateKey, Depth: p.Depth, TS: p.TS}
}

// back proves that text comes back from the row and gives the row.
func back(t testing.TB, text []byte, c *Columns, b book) []byte {
	t.Helper()
	row := bytes.Clone(new(Encoder).Encode(text, c, b.nid))
	if IsCompact(text) || !IsCompact(row) { // the former is no JSON
		if !bytes.Equal(row, text) {
			t.Fatalf("a row that is neither compact nor the text: %q for %q", row, text)
		}
		return row
	}
	got, err := Decode(row, c, b.id)
	if err != nil || !bytes.Equal(got, text) {
		t.Fatalf("came back as %q, %v\nof %q", got, err, text)
	}
	return row
}

// sameAuthority proves that Authority says the same as the whole event.
func sameAuthority(t testing.TB, row []byte, c *Columns, b book, text []byte) {
	t.Helper()
	nids, hashes, ok := Authority(row, c.NID)
	if !ok {
		return // it says so, and the whole is read
	}
	var got []string
	for _, n := range nids {
		s, err := b.id(n)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s)
	}
	for _, h := range hashes {
		got = append(got, "$"+base64.RawURLEncoding.EncodeToString(h[:]))
	}
	var want struct {
		Auth []string `json:"auth_events"`
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(want.Auth)
	if !slices.Equal(got, want.Auth) {
		t.Fatalf("authority %v, want %v", got, want.Auth)
	}
}

func build(t testing.TB, v *event.Version, p event.Proto) *event.PDU {
	t.Helper()
	pdu, err := event.Build(v, p, p.Sender.Server(), key())
	if err != nil {
		t.Fatal(err)
	}
	return pdu
}

func message(t testing.TB, v *event.Version, content string) *event.PDU {
	return build(t, v, event.Proto{RoomID: "!room:a.example", Sender: "@user:a.example", Type: "m.room.message", Content: json.RawMessage(content),
		Prev: []event.ID{id(1)}, Auth: []event.ID{id(2), id(3), id(4)}, Depth: 77, TS: 1_700_000_000_123})
}

func known(ids ...int) book {
	b := book{}
	for _, n := range ids {
		b[string(id(n))] = int64(n)
	}
	return b
}

func TestSizes(t *testing.T) {
	text := strings.Repeat("Der Pegel steigt, wir brauchen Sand. ", 9)[:300]
	sealed := `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"` + strings.Repeat("abCD+/", 50) + `","device_id":"ABCDEFGHIJ","sender_key":"` +
		strings.Repeat("x", 43) + `","session_id":"` + strings.Repeat("Y", 43) + `"}`
	for _, c := range []struct {
		name, content string
		most          int
	}{
		{"text of 300", `{"body":"` + text + `","msgtype":"m.text"}`, 300 + 64 + 22},
		{"sealed 300", sealed, 225 + 66 + 10 + 64 + 35},
		{"empty", `{}`, 64 + 22},
	} {
		p := message(t, event.Default(), c.content)
		row := back(t, p.JSON(), columns(p, 100), known(1, 2, 3, 4))
		if len(row) > c.most {
			t.Errorf("%s: %d bytes of %d, want at most %d", c.name, len(row), len(p.JSON()), c.most)
		}
	}
}

func TestEveryVersionComesBack(t *testing.T) {
	empty, weird := "", "ö\"\\\n\u0001 k"
	for _, name := range event.Known()[2:] {
		v, _ := event.Lookup(name)
		base := message(t, v, `{"body":"x","msgtype":"m.text"}`)
		all := []*event.PDU{base}
		add := func(p event.Proto) { all = append(all, build(t, v, p)) }
		add(event.Proto{RoomID: "!r:a", Sender: "@a:a", Type: "m.room.create", StateKey: &empty, Content: json.RawMessage(`{"room_version":"` + name + `"}`), Depth: 1})
		add(event.Proto{RoomID: "!r:a", Sender: "@a:a:8448", Type: "m.room.member", StateKey: &weird, Content: json.RawMessage(`{"displayname":"A","membership":"join"}`), Depth: 1<<53 - 1, TS: -5})
		add(event.Proto{RoomID: "!r:a", Sender: "@a:a", Type: "m.room.redaction", Redacts: id(9), Content: json.RawMessage(`{"reason":"x"}`), Prev: []event.ID{id(9), id(1), id(200)}})
		add(event.Proto{RoomID: "!r:a", Sender: "@a:a", Type: "m.room.redaction", Redacts: "$old:server", Content: json.RawMessage(`{}`)})
		add(event.Proto{RoomID: "!r:a", Sender: "@a:a", Type: "", Content: json.RawMessage(`{"":"","\u0000":"\u001f","\"":"\\","a":[1,[],{},null,true,-1]}`), Origin: "a"})
		red, err := base.Redacted()
		if err != nil {
			t.Fatal(err)
		}
		twice, err := base.Sign("b.example", event.Key{ID: "ed25519:two", Private: key().Private})
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range append(all, red, twice) {
			for _, b := range []book{{}, known(1, 2, 3, 4, 9), known(3, 200)} {
				for _, nid := range []int64{1, 100, 1 << 40} {
					if row := back(t, p.JSON(), columns(p, nid), b); !IsCompact(row) {
						t.Fatalf("version %s, event %d: kept as text: %s", name, i, p.JSON())
					}
				}
			}
		}
	}
}

// TestOddEventsComeBack takes one event apart in all ways that other servers, or files of theirs, might.
func TestOddEventsComeBack(t *testing.T) {
	p := message(t, event.Default(), `{"body":"hello"}`)
	c := columns(p, 50)
	for _, change := range [][2]string{
		{`"depth":77`, `"depth":78`}, {`"depth":77`, `"depth":077`}, {`"depth":77`, `"depth":7.7e1`}, {`"depth":77`, `"depth":"77"`}, {`"depth":77,`, ``},
		{`"sender":"@user`, `"sender":"@other`}, {`"sender":"@user`, `"sender":"@us\u0065r`}, {`"type":"m.room.message"`, `"type":"m.room.message","unsigned":{"age":1}`},
		{`"type":"m.room.message"`, `"type":"m.room.message","zz":"\n","zzz":{}`}, {`{"auth_events"`, `{"aaa":1,"aab":"x","auth_events"`},
		{`"depth":77`, `"depth":77,"event_id":"$x"`}, {`"depth":77`, `"depth":77,"event_id":"` + string(p.ID) + `"`}, {`"hashes":{"sha256":"`, `"hashes":{"md5":"","sha256":"`},
		{`"origin_server_ts"`, `"origin":"a.example","origin_server_ts"`}, {`"origin_server_ts"`, `"origin":"b.example","origin_server_ts"`},
		{`"prev_events":[`, `"prev_events":[[],{},`}, {`"prev_events":[`, `"prev_events":["$short",`}, {`"prev_events":[`, `"prev_events":["\"\\",`},
		{`"prev_events":[`, `"prev_events":[["$a:b",{"sha256":"x"}],`}, {`"prev_events":[`, `"prev_state":[],"prev_events":[`},
		{`"body":"hello"`, "\"body\":\"hel\x01lo\""}, {`"body":"hello"`, "\"body\":\"\xff\xc0\""}, {`"body":"hello"`, `"body": "hello"`},
		{`"room_id":"!room:a.example",`, ``}, {`"signatures":{"a.example"`, `"signatures":{"b.example"`}, {`ed25519:a_Bc`, `ed25518:a_Bc`}, {`ed25519:a_Bc`, `ed25519:`},
		{`"signatures":{`, `"signatures":{"a":{},`}, {`"signatures":{`, `"signatures":{"a":1,`}, {`"signatures":{"a.example":{`, `"signatures":{"a.example":{"curve":"x",`},
		{`"type":"m.room.message"`, `"state_key":"","type":"m.room.message"`}, {`"type":`, `"redacts":5,"type":`}, {`"room_id"`, `"redacts":"$é","room_id"`},
	} {
		text := strings.Replace(string(p.JSON()), change[0], change[1], 1)
		if text == string(p.JSON()) {
			t.Errorf("%q is not in the event", change[0])
		}
		back(t, []byte(text), c, known(1, 3))
	}
	for _, text := range []string{"", "{}", "{", "null", "\x01", "\x01{}", "[]", `{"content":{}}`, strings.Repeat("x", 70_000), `{"content":"` + strings.Repeat("x", 70_000) + `"}`} {
		back(t, []byte(text), c, nil)
	}
	wrong := *c
	wrong.TS, wrong.Room = 1, "!elsewhere"
	back(t, p.JSON(), &wrong, known(1))
}

// TestRandomEventsComeBack builds events of phrases, runs, ids and noise.
func TestRandomEventsComeBack(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	piece := func() string {
		switch r.IntN(8) {
		case 0:
			return strings.TrimSuffix(phrases[r.IntN(len(phrases))], "}")
		case 1:
			return base64.RawStdEncoding.EncodeToString(bytes.Repeat([]byte{byte(r.IntN(256)), 3}, r.IntN(60)))
		case 2:
			return string(id(r.IntN(1000)))
		case 3:
			return string(rune(r.IntN(0x3000)))
		case 4:
			return strings.Repeat("A", r.IntN(40))
		case 5:
			return "$" + strings.Repeat("_-", r.IntN(30))
		}
		return "wort "
	}
	compact := 0
	for i := range 5000 {
		var text strings.Builder
		for range r.IntN(12) {
			text.WriteString(piece())
		}
		body, _ := json.Marshal(text.String())
		content := `{"body":` + string(body) + `,"n":[` + fmt.Sprint(r.IntN(1000)) + `],"` + strings.Repeat("k", r.IntN(30)) + `":{"x":` + string(body) + `}}`
		v, _ := event.Lookup(event.Known()[2+i%(len(event.Known())-2)])
		p := message(t, v, content)
		c := columns(p, int64(r.IntN(1000)))
		row := back(t, p.JSON(), c, known(r.IntN(5), r.IntN(5)))
		if !IsCompact(row) {
			continue
		}
		compact++
		sameAuthority(t, row, c, known(0, 1, 2, 3, 4), p.JSON())
		if _, _, ok := Authority(row, c.NID); !ok {
			t.Errorf("the row of %s does not say what authorises it", p.JSON())
		}
	}
	if compact < 4990 {
		t.Errorf("only %d of 5000 rows became compact", compact)
	}
}

// TestFrozenRows reads rows that older programs wrote: the format is for ever.
func TestFrozenRows(t *testing.T) {
	text, err := os.ReadFile("testdata/rows")
	if err != nil {
		t.Fatal(err)
	}
	b := known(1, 2, 3, 4)
	n := 0
	for line := range strings.Lines(string(text)) {
		rowText, want, ok := strings.Cut(strings.TrimSpace(line), " ")
		row, err := hex.DecodeString(rowText)
		if !ok || err != nil {
			t.Fatal(err)
		}
		p, err := event.Parse(event.Default(), []byte(want))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(row, columns(p, 100), b.id)
		if err != nil || string(got) != want {
			t.Errorf("row %d\ngot  %s, %v\nwant %s", n, got, err, want)
		}
		n++
	}
	if n < 13 {
		t.Errorf("only %d rows", n)
	}
	if got := sha256.Sum256([]byte(strings.Join(phrases[:], "\x00"))); hex.EncodeToString(got[:8]) != "8756cd7cad59072b" {
		t.Errorf("the phrases have changed: %x", got[:8])
	}
}

func TestUnknownNumber(t *testing.T) {
	p := message(t, event.Default(), `{}`)
	row := new(Encoder).Encode(p.JSON(), columns(p, 50), known(1, 2).nid)
	if _, err := Decode(row, columns(p, 50), known(1).id); err == nil || err.Error() != "no event 2" {
		t.Errorf("a number without an event: %v", err)
	}
}

func TestTruncatedRows(t *testing.T) {
	p := message(t, event.Default(), `{"body":"x","other":"`+strings.Repeat("B", 64)+`"}`)
	text := bytes.Replace(p.JSON(), []byte(`"depth"`), []byte(`"dd":1,"depth"`), 1)
	row := back(t, text, columns(p, 50), known(2))
	for n := range row {
		Authority(row[:n], 50) // an answer or none, never a panic
		if got, err := Decode(row[:n], columns(p, 50), known(2).id); err == nil && bytes.Equal(got, text) {
			t.Errorf("%d of %d bytes were enough", n, len(row))
		}
	}
}

// FuzzDecode gives hostile rows: an error or at most an event's size.
func FuzzDecode(f *testing.F) {
	for _, v := range event.Known()[2:] {
		version, _ := event.Lookup(v)
		p := message(f, version, `{"body":"x","msgtype":"m.text","k":"`+strings.Repeat("Z", 80)+`"}`)
		f.Add(new(Encoder).Encode(p.JSON(), columns(p, 50), known(1, 2).nid))
		f.Add(new(Encoder).Encode(bytes.Replace(p.JSON(), []byte(`"depth"`), []byte(`"dd":1,"depth"`), 1), columns(p, 50), known(1).nid))
	}
	state := "k"
	c := &Columns{NID: 50, ID: "$x", Room: "!r:a", Sender: "@u:a", Type: "t", StateKey: &state, Depth: 1, TS: 2}
	f.Fuzz(func(t *testing.T, row []byte) {
		if nids, hashes, _ := Authority(row, c.NID); len(nids)+len(hashes) > len(row) {
			t.Errorf("%d events authorise from a row of %d bytes", len(nids)+len(hashes), len(row))
		}
		got, err := Decode(row, c, func(nid int64) (string, error) { return string(id(int(nid))), nil })
		if err == nil && len(got) > event.MaxSize {
			t.Errorf("%d bytes", len(got))
		}
	})
}

// FuzzEncode gives any text as an event.
func FuzzEncode(f *testing.F) {
	p := message(f, event.Default(), `{"body":"x","msgtype":"m.text"}`)
	f.Add(p.JSON())
	f.Add([]byte(`{"content":{},"hashes":{},"signatures":{"a.example":{"ed25519:1":""}}}`))
	f.Fuzz(func(t *testing.T, text []byte) { back(t, text, columns(p, 50), known(1, 2)) })
}

func BenchmarkEncode(b *testing.B) {
	p := message(b, event.Default(), `{"body":"`+strings.Repeat("Der Pegel steigt. ", 17)+`","msgtype":"m.text"}`)
	c, k := columns(p, 100), known(1, 2, 3, 4)
	b.ReportAllocs()
	var e Encoder
	for b.Loop() {
		e.Encode(p.JSON(), c, k.nid)
	}
}

func BenchmarkDecode(b *testing.B) {
	p := message(b, event.Default(), `{"body":"`+strings.Repeat("Der Pegel steigt. ", 17)+`","msgtype":"m.text"}`)
	c, k := columns(p, 100), known(1, 2, 3, 4)
	row := new(Encoder).Encode(p.JSON(), c, k.nid)
	ids := [5]string{"", string(id(1)), string(id(2)), string(id(3)), string(id(4))}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(row, c, func(n int64) (string, error) { return ids[n], nil }); err != nil {
			b.Fatal(err)
		}
	}
}
