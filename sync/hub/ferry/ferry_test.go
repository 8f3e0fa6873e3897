// SPDX-License-Identifier: EUPL-1.2

package ferry

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/sync/hub/api"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

func codec(t testing.TB) *parcel.Codec {
	t.Helper()
	c, err := parcel.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func seal(t testing.TB, own, far byte) *peer.Seal {
	t.Helper()
	s, err := peer.NewSeal(key(own), key(far).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const room = event.RoomID("!lage:central.example.org")

// transaction is one that a central server sends: n events of about 300 bytes of content, with what Synapse writes beside them, or not.
func transaction(t testing.TB, n int, unsigned string) (q api.Waited, stored map[[5]byte][]byte) {
	t.Helper()
	v := event.Default()
	stored = map[[5]byte][]byte{}
	var pdus []string
	prev := event.ID("$" + base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	for i := range n {
		content := fmt.Sprintf(`{"body":"Pegel %d cm, Pumpe %d läuft, Deich am Siel wird kontrolliert, Ablösung um %d Uhr am Gerätehaus","msgtype":"m.text"}`, 100+i, i%7, i%24)
		p, err := event.Build(v, event.Proto{RoomID: room, Sender: "@carl:central.example.org", Type: "m.room.message", Content: json.RawMessage(content), Prev: []event.ID{prev},
			Auth: []event.ID{prev}, Depth: int64(20 + i), TS: 1_700_000_000_000 + int64(i)*61_003}, "central.example.org", event.Key{ID: "ed25519:a_abcd", Private: key(9)})
		if err != nil {
			t.Fatal(err)
		}
		prev = p.ID
		var id [5]byte
		raw, _ := base64.RawURLEncoding.DecodeString(string(p.ID)[1:])
		copy(id[:], raw)
		stored[id] = p.JSON()
		text, ok := beside(p.JSON(), unsigned)
		if !ok {
			t.Fatal("no event")
		}
		pdus = append(pdus, text)
	}
	body := `{"origin":"central.example.org","origin_server_ts":1700000000123,"pdus":[` + strings.Join(pdus, ",") + `]}`
	sig := base64.RawStdEncoding.EncodeToString(ed25519.Sign(key(9), []byte(body)))
	return api.Waited{Method: "PUT", URI: "/_matrix/federation/v1/send/1700000000123-17", Received: 1_700_000_001_000, Body: body,
		Authorization: `X-Matrix origin="central.example.org",key="ed25519:a_abcd",sig="` + sig + `",destination="box1.example.org"`}, stored
}

func everywhere(event.RoomID) *event.Version { return event.Default() }
func nowhere(event.RoomID) *event.Version    { return nil }

// What waited comes out as it was, whole and narrow, and in how many bytes.
func TestPlay(t *testing.T) {
	c := codec(t)
	for _, tt := range []struct {
		n           int
		unsigned    string
		has         func(event.RoomID) *event.Version
		most, named int
	}{
		{1, `{"age_ts":1700000000123}`, nowhere, 560, 0},
		{50, `{"age_ts":1700000000123}`, nowhere, 5_500, 0},
		{1, `{"age_ts":1700000000123}`, everywhere, 300, 1},
		{50, `{"age_ts":1700000000123}`, everywhere, 700, 50},
		{50, "", nowhere, 11_000, 0},
		{50, "", everywhere, 650, 50},
	} {
		q, stored := transaction(t, tt.n, tt.unsigned)
		r := Narrow(q, tt.has)
		if named(r) != tt.named {
			t.Errorf("%d events: %d are named, want %d", tt.n, named(r), tt.named)
		}
		p := &Play{Word: Word{1, 2, 3}, Requests: []Request{r, {Waited: api.Waited{Method: "GET", URI: "/x", Authorization: "none", Received: 5}}}, Contact: true, About: 77, Keys: []string{`{"server_name":"x"}`}}
		one := &Play{Requests: []Request{r}}
		sealed, _, err := ClosePlay(seal(t, 1, 2), one.Pack(c))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%2d events, %5d bytes as they came, beside them %-26s: %5d sealed, %d events named", tt.n, len(q.Body)+len(q.URI)+len(q.Authorization), tt.unsigned, len(sealed), named(r))
		if len(sealed) > tt.most {
			t.Errorf("%d bytes, want at most %d", len(sealed), tt.most)
		}
		got, err := ReadPlay(c, p.Pack(c))
		if err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%d events: came out otherwise, %v", tt.n, err)
			continue
		}
		find := func(id [5]byte) ([]byte, error) { return stored[id], nil }
		back, ok, err := got.Requests[0].Fill(find)
		if !ok || err != nil || back != q {
			t.Errorf("%d events: filled %v, %v", tt.n, ok, err)
		}
		for id := range stored { // one is missing, or another one stands for it
			was := stored[id]
			stored[id] = nil
			if _, ok, err := got.Requests[0].Fill(find); tt.named > 0 && (ok || err != nil) {
				t.Errorf("a body without one of its events: %v, %v", ok, err)
			}
			stored[id] = bytes.Replace(was, []byte("Pegel"), []byte("Kegel"), 1)
			if _, ok, _ := got.Requests[0].Fill(find); tt.named > 0 && ok {
				t.Error("a body with another event counts as what was signed")
			}
			stored[id] = was
			break
		}
	}
}

// Bodies that are not written as expected go whole, or come out as they were.
func TestNarrowOdd(t *testing.T) {
	q, stored := transaction(t, 3, "")
	find := func(id [5]byte) ([]byte, error) { return stored[id], nil }
	for name, tt := range map[string]struct {
		change func(*api.Waited)
		named  int
	}{
		"spaces between":    {func(q *api.Waited) { q.Body = strings.Replace(q.Body, `"pdus":[`, "\"pdus\" : [\n ", 1) }, 3},
		"an event twice":    {func(q *api.Waited) { q.Body = strings.Replace(q.Body, `"pdus":`, `"edus":[],"pdus":`, 1) }, 3},
		"spaces in one":     {func(q *api.Waited) { q.Body = strings.Replace(q.Body, `"depth":20`, `"depth": 20`, 1) }, 2},
		"no JSON":           {func(q *api.Waited) { q.Body = "nonsense" }, 0},
		"a mark in it":      {func(q *api.Waited) { q.Body = strings.Replace(q.Body, "Pegel", "\x00", 1) }, 0},
		"no transaction":    {func(q *api.Waited) { q.URI = "/_matrix/federation/v2/invite/x/y" }, 0},
		"quoted in an EDU":  {func(q *api.Waited) { q.Body = `{"edus":[` + string(first(stored)) + `],` + q.Body[1:] }, 3},
		"events of no room": {func(q *api.Waited) { q.Body = strings.ReplaceAll(q.Body, `"room_id"`, `"room_it"`) }, 0},
	} {
		odd := q
		tt.change(&odd)
		r := Narrow(odd, everywhere)
		if named(r) != tt.named || r.Names() != (tt.named > 0) {
			t.Errorf("%s: %d events are named, want %d", name, named(r), tt.named)
		}
		if back, ok, err := r.Fill(find); !ok || err != nil || back != odd {
			t.Errorf("%s: does not come out as it was: %v %v", name, ok, err)
		}
	}
}

func named(r Request) (n int) {
	for _, p := range r.Parts {
		if p.Text == "" {
			n++
		}
	}
	return n
}

func first(stored map[[5]byte][]byte) []byte {
	for _, raw := range stored {
		return raw
	}
	return nil
}

func TestAnswer(t *testing.T) {
	c := codec(t)
	a := &Answer{Word: Word{9}, Of: 1 << 60, Played: []api.PlayedOne{{Status: 200}, {Status: 401, Text: `{"errcode":"M_UNAUTHORIZED","error":"no"}`}, {Status: Whole}}, Clock: 1_700_000_000_000, Contact: []byte(`{"version":"1"}`)}
	if got, err := ReadAnswer(c, a.Pack(c)); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%+v, %v", got, err)
	}
	many := &Answer{Of: 1}
	for range Most {
		many.Played = append(many.Played, api.PlayedOne{Status: 200})
	}
	if raw := many.Pack(c); len(raw) > 230 {
		t.Errorf("a hundred times yes takes %d bytes", len(raw))
	}
	long := strings.Repeat("ä", 4000)
	for _, text := range []string{`{"errcode":"M_BAD_JSON","error":"` + long + `"}`, long} {
		s := Short(api.PlayedOne{Status: 400, Text: text})
		if len(s.Text) > textMost || api.Considered([]byte(s.Text)) != api.Considered([]byte(text)) {
			t.Errorf("%d bytes of %d, considered %v", len(s.Text), len(text), api.Considered([]byte(s.Text)))
		}
	}
}

// Whoever is in between can neither read nor make nor bend anything, nor answer one thing with the answer to another.
func TestSeal(t *testing.T) {
	hub, box, between := seal(t, 1, 2), seal(t, 2, 1), seal(t, 3, 2)
	text := []byte("for the box alone")
	play, n, err := ClosePlay(hub, text)
	if err != nil || bytes.Contains(play, text) {
		t.Fatalf("%q, %v", play, err)
	}
	if got, number, err := OpenPlay(box, play); err != nil || number != n || !bytes.Equal(got, text) {
		t.Errorf("the box reads %q, %d, %v", got, number, err)
	}
	answer, err := CloseAnswer(box, n, []byte("taken"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenAnswer(hub, n, answer); err != nil || string(got) != "taken" {
		t.Errorf("the hub reads %q, %v", got, err)
	}
	forged, _ := CloseAnswer(between, n, []byte("taken"))
	bent := bytes.Clone(answer)
	bent[len(bent)-1] ^= 1
	for what, open := range map[string]func() ([]byte, error){
		"an answer of another one":  func() ([]byte, error) { return OpenAnswer(hub, n, forged) },
		"an answer to another play": func() ([]byte, error) { return OpenAnswer(hub, n+1, answer) },
		"an answer that was bent":   func() ([]byte, error) { return OpenAnswer(hub, n, bent) },
		"the hub's own play":        func() ([]byte, error) { return OpenAnswer(hub, n, play) },
		"nothing":                   func() ([]byte, error) { return OpenAnswer(hub, n, nil) },
		"an answer as a play":       func() ([]byte, error) { b, _, err := OpenPlay(hub, answer); return b, err },
		"a play of the one in between": func() ([]byte, error) {
			p, _, _ := ClosePlay(between, text)
			b, _, err := OpenPlay(box, p)
			return b, err
		},
		"a play by the one in between": func() ([]byte, error) { b, _, err := OpenPlay(seal(t, 3, 1), play); return b, err },
		"a play whose number was bent": func() ([]byte, error) {
			p := bytes.Clone(play)
			p[0] ^= 1
			b, _, err := OpenPlay(box, p)
			return b, err
		},
		"a play that was cut in middle": func() ([]byte, error) { b, _, err := OpenPlay(box, play[:12]); return b, err },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: opened as %q", what, got)
		}
	}
}

func FuzzReadPlay(f *testing.F) {
	c := codec(f)
	q, _ := transaction(f, 2, "")
	f.Add((&Play{Requests: []Request{Narrow(q, everywhere), {Waited: q}}, Keys: []string{"{}"}, About: 3}).Pack(c))
	f.Add((&Play{}).Pack(c))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := ReadPlay(c, raw)
		if err != nil {
			return
		}
		again, err := ReadPlay(c, p.Pack(c))
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%+v came out as %+v, %v", p, again, err)
		}
		for _, q := range p.Requests {
			_, _, _ = q.Fill(func([5]byte) ([]byte, error) { return []byte("{}"), nil })
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	c := codec(f)
	f.Add((&Answer{Played: []api.PlayedOne{{Status: 200}, {Status: 400, Text: "{}"}}, Contact: []byte("{}")}).Pack(c))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := ReadAnswer(c, raw)
		if err != nil {
			return
		}
		if again, err := ReadAnswer(c, a.Pack(c)); err != nil || !reflect.DeepEqual(again, a) {
			t.Errorf("%+v came out as %+v, %v", a, again, err)
		}
	})
}
