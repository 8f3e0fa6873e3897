// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/sync/peer"
)

func testCodec(t testing.TB) *Codec {
	t.Helper()
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testBox is a box with a Matrix server.
type testBox struct {
	id     peer.ID
	server string
	key    event.Key
}

func newBox(seed byte) testBox {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	public := private.Public().(ed25519.PublicKey)
	return testBox{peer.IDOf(public), peer.DefaultServer(public), event.Key{ID: fmt.Sprintf("ed25519:h%d", seed), Private: private}}
}

// testRoom makes events that hang together as those of a real room do.
type testRoom struct {
	t       testing.TB
	version *event.Version
	id      event.RoomID
	boxes   []testBox
	create  event.ID
	power   event.ID
	rules   event.ID
	member  map[string]event.ID
	heads   []event.ID
	depth   int64
	ts      int64
	seq     []uint64
	rnd     *rand.Rand
	events  []*Event
}

func ptr(s string) *string { return &s }

func newRoom(t testing.TB, version string, seed uint64) *testRoom {
	v, ok := event.Lookup(version)
	if !ok {
		t.Fatalf("no version %s", version)
	}
	r := &testRoom{t: t, version: v, boxes: []testBox{newBox(1), newBox(2)}, member: map[string]event.ID{}, ts: 1790000000000,
		seq: make([]uint64, 2), rnd: rand.New(rand.NewPCG(seed, 7))}
	r.id = event.RoomID("!abcDEFghiJKLmnoPQR:" + r.boxes[0].server)
	create := r.add(0, "anna", "m.room.create", ptr(""), `{"room_version":"`+version+`","creator":"@anna:`+r.boxes[0].server+`"}`, nil)
	r.create = create.ID
	if r.version.CreateIsRoomID {
		r.id = event.RoomID("!" + string(create.ID)[1:])
	}
	r.member["anna"] = r.add(0, "anna", "m.room.member", ptr("@anna:"+r.boxes[0].server), `{"displayname":"Anna","membership":"join"}`, nil).ID
	r.power = r.add(0, "anna", "m.room.power_levels", ptr(""), `{"ban":50,"events":{"m.room.name":50},"users":{},"users_default":0}`, nil).ID
	r.rules = r.add(0, "anna", "m.room.join_rules", ptr(""), `{"join_rule":"public"}`, nil).ID
	r.member["björn"] = r.add(1, "björn", "m.room.member", ptr("@björn:"+r.boxes[1].server), `{"avatar_url":"mxc://x/y","displayname":"Björn \"der Bär\"","membership":"join"}`, nil).ID
	return r
}

func (r *testRoom) sender(box int, user string) string { return "@" + user + ":" + r.boxes[box].server }

func (r *testRoom) add(box int, user, typ string, key *string, content string, change func(*event.Proto)) *event.PDU {
	r.t.Helper()
	r.depth++
	r.ts += 1000 + r.rnd.Int64N(200_000)
	p := event.Proto{RoomID: r.id, Sender: event.UserID(r.sender(box, user)), Type: typ, StateKey: key, Content: json.RawMessage(content),
		Prev: append([]event.ID(nil), r.heads...), Depth: r.depth, TS: r.ts}
	auth := []event.ID{r.create, r.power, r.member[user]}
	if r.version.CreateIsRoomID {
		auth = auth[1:]
	}
	if typ == "m.room.member" {
		auth = append(auth, r.rules)
	}
	for _, id := range auth {
		if id != "" {
			p.Auth = append(p.Auth, id)
		}
	}
	if change != nil {
		change(&p)
	}
	pdu, err := event.Build(r.version, p, r.boxes[box].server, r.boxes[box].key)
	if err != nil {
		r.t.Fatalf("build %s: %v", typ, err)
	}
	r.heads = []event.ID{pdu.ID}
	r.seq[box]++
	r.events = append(r.events, &Event{Log: LogRef{r.boxes[box].id, 77, r.seq[box]}, PDU: pdu})
	return pdu
}

// say adds a message and gives its parcel.
func (r *testRoom) say(box int, text string) *Event {
	user := []string{"anna", "björn"}[box]
	body, _ := json.Marshal(text)
	r.add(box, user, "m.room.message", nil, `{"body":`+string(body)+`,"m.mentions":{},"msgtype":"m.text"}`, nil)
	return r.events[len(r.events)-1]
}

// megolm adds an encrypted message as Element writes it for a plain text of so many bytes.
func (r *testRoom) megolm(box int, plain int) *Event {
	user := []string{"anna", "björn"}[box]
	size := (plain/16 + 1) * 16
	raw := binary.AppendUvarint([]byte{3, 8, byte(r.seq[box] & 0x7f), 0x12}, uint64(size))
	for range size + 8 + 64 {
		raw = append(raw, byte(r.rnd.Uint32()))
	}
	if plain%7 == 0 {
		raw[0] = 4 // not the form that is known
	}
	b64 := func(n int, c byte) string {
		return base64.RawStdEncoding.EncodeToString(bytes.Repeat([]byte{c}, n))
	}
	r.add(box, user, "m.room.encrypted", nil, `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"`+base64.RawStdEncoding.EncodeToString(raw)+
		`","device_id":"GHTYAJCE`+user[:1]+`","sender_key":"`+b64(32, user[0])+`","session_id":"`+b64(32, user[0]+1)+`"}`, nil)
	return r.events[len(r.events)-1]
}

var words = strings.Fields("Einsatz Lage Pegel Damm Trupp fährt zum Deich und meldet: „alles ruhig“ \\ \"Zitat\" <b> & \t\u0007 👍🏽 Straße 12:45 Uhr the road is closed")

func (r *testRoom) text() string {
	var b []string
	for range 1 + r.rnd.IntN(30) {
		b = append(b, words[r.rnd.IntN(len(words))])
	}
	return strings.Join(b, " ")
}

// corpus is a room's life with every common kind of event.
func corpus(t testing.TB, version string, seed uint64, n int) *testRoom {
	r := newRoom(t, version, seed)
	users := []string{"anna", "björn"}
	quote := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	for range n {
		box := r.rnd.IntN(2)
		user := users[box]
		last := r.events[r.rnd.IntN(len(r.events))].PDU.ID
		switch r.rnd.IntN(17) {
		case 0, 1, 2:
			r.say(box, r.text())
		case 3:
			r.add(box, user, "m.room.message", nil, `{"body":`+quote(r.text())+`,"msgtype":"m.text"}`, nil)
		case 4:
			r.add(box, user, "m.room.message", nil, `{"body":`+quote(r.text())+`,"format":"org.matrix.custom.html","formatted_body":`+quote("<p>"+r.text()+"</p>")+`,"msgtype":"m.notice"}`, nil)
		case 5:
			r.add(box, user, "m.room.message", nil, `{"body":`+quote(r.text())+`,"m.relates_to":{"m.in_reply_to":{"event_id":"`+string(last)+`"}},"msgtype":"m.text"}`, nil)
		case 6:
			r.add(box, user, "m.reaction", nil, `{"m.relates_to":{"event_id":"`+string(last)+`","key":"👍️","rel_type":"m.annotation"}}`, nil)
		case 7:
			r.add(box, user, "m.room.redaction", nil, `{"reason":"Tippfehler"}`, func(p *event.Proto) { p.Redacts = last })
		case 8:
			r.megolm(box, 100+r.rnd.IntN(200))
		case 9:
			r.add(box, user, "m.room.name", ptr(""), `{"name":`+quote(r.text())+`}`, nil)
		case 10:
			r.add(box, user, "m.room.topic", ptr(""), `{"topic":`+quote(r.text())+`}`, nil)
		case 11:
			r.member[user] = r.add(box, user, "m.room.member", ptr(r.sender(box, user)), `{"displayname":`+quote(r.text())+`,"membership":"join"}`, nil).ID
		case 12: // a fork: two heads
			other := r.heads
			r.say(box, r.text())
			mine := r.heads
			r.heads = other
			r.depth--
			r.say(1-box, r.text())
			r.heads = append(r.heads, mine...)
		case 13:
			r.add(box, user, "m.room.message", nil, `{"body":"karte.png","info":{"h":480,"mimetype":"image/png","size":31037,"w":640},"msgtype":"m.image","url":"mxc://x/abc"}`, nil)
		case 14:
			r.add(box, user, "org.example.unknown", ptr("a\nb"), `{"body":12,"list":[1,-5,null,true,{"x":"\u2028"}]}`, nil)
		case 15: // signed by both, as invites are
			pdu := r.add(box, user, "m.room.member", ptr("@carl:"+r.boxes[1-box].server), `{"membership":"invite"}`, nil)
			pdu, err := pdu.Sign(r.boxes[1-box].server, r.boxes[1-box].key)
			if err != nil {
				t.Fatal(err)
			}
			r.events[len(r.events)-1].PDU = pdu
		case 16: // redacted: the content hash no longer fits
			pdu := r.say(box, r.text())
			red, err := pdu.PDU.Redacted()
			if err != nil {
				t.Fatal(err)
			}
			pdu.PDU = red
		}
	}
	return r
}

// exchange is two ends of a conversation over a line that loses and reorders.
type exchange struct {
	t    *testing.T
	ends [2]*Session
	loss float64
	rnd  *rand.Rand
}

func newExchange(t *testing.T, loss float64) *exchange {
	c := testCodec(t)
	e := &exchange{t: t, ends: [2]*Session{c.Session(1, 2), c.Session(2, 1)}, loss: loss, rnd: rand.New(rand.NewPCG(3, 4))}
	for _, s := range e.ends {
		s.UseModel(true)
		s.UseVersion2(true)
	}
	return e
}

// send carries parcels from one end to the other and gives what arrived there and the bytes it took.
func (e *exchange) send(from int, parcels ...Parcel) ([]Parcel, int) {
	e.t.Helper()
	msg, took, ticket, err := e.ends[from].Encode(MaxMessage, parcels...)
	if err != nil || took != len(parcels) {
		e.t.Fatalf("Encode took %d of %d: %v", took, len(parcels), err)
	}
	if e.rnd.Float64() < e.loss {
		return nil, len(msg)
	}
	got, err := e.ends[1-from].Decode(msg)
	if err != nil {
		e.t.Fatalf("Decode: %v", err)
	}
	if e.rnd.Float64() >= e.loss { // else the word of its arrival is lost
		e.ends[from].Arrived(ticket)
	}
	return got, len(msg)
}

func sameEvent(t *testing.T, got Parcel, want *Event) {
	t.Helper()
	e, ok := got.(*Event)
	if !ok {
		t.Fatalf("event %s (%s) came out as %#v", want.PDU.ID, want.PDU.Type, got)
	}
	if e.PDU.ID != want.PDU.ID || !bytes.Equal(e.PDU.JSON(), want.PDU.JSON()) || e.Log != want.Log {
		t.Fatalf("event came out changed:\n%s\n%s\n%v %v", e.PDU.JSON(), want.PDU.JSON(), e.Log, want.Log)
	}
}

// TestEventsComeOutTheSame: every event of every common kind, byte for byte, whatever the line loses.
func TestEventsComeOutTheSame(t *testing.T) {
	for _, version := range []string{"10", "11", "12", "6", "3"} {
		for _, loss := range []float64{0, 0.3} {
			t.Run(fmt.Sprintf("v%s loss %v", version, loss), func(t *testing.T) {
				r := corpus(t, version, 11, 400)
				e := newExchange(t, loss)
				bytes, plain, compact := 0, 0, 0
				for _, ev := range r.events {
					from := 0
					if ev.Log.Box == r.boxes[1].id {
						from = 1
					}
					for {
						got, n := e.send(from, ev)
						if got == nil {
							continue
						}
						sameEvent(t, got[0], ev)
						bytes, plain = bytes+n, plain+len(ev.PDU.JSON())
						break
					}
				}
				for _, ev := range r.events { // anew and raw, as a Want with Raw gets them
					raw := *ev
					raw.Raw = true
					msg, _, _, err := e.ends[0].Encode(MaxMessage, &raw)
					if err != nil {
						t.Fatal(err)
					}
					stranger := testCodecSession(t, e)
					msg[0] = stranger.tag
					got, err := stranger.Decode(msg)
					if err != nil {
						t.Fatal(err)
					}
					sameEvent(t, got[0], ev)
					w := &writer{s: e.ends[0]} // as if alone
					if e.ends[0].encodeCompact(w, ev) {
						compact++
					}
				}
				t.Logf("%d events, %d compact, %.1f %% of JSON", len(r.events), compact, 100*float64(bytes)/float64(plain))
				if compact < len(r.events)*95/100 {
					t.Errorf("only %d of %d events take the compact form", compact, len(r.events))
				}
			})
		}
	}
}

// testCodecSession is a session that knows nothing.
func testCodecSession(t *testing.T, e *exchange) *Session {
	t.Helper()
	return e.ends[0].codec.Session(88, 99)
}

// TestNothingUnknownIsUsed: messages that overtake each other in any order are read, as long as what they lean on was
// told to have arrived.
func TestNothingUnknownIsUsed(t *testing.T) {
	r := corpus(t, "12", 5, 300)
	e := newExchange(t, 0)
	type flight struct {
		msg    []byte
		ticket Ticket
		ev     *Event
	}
	var air []flight
	land := func() {
		i := e.rnd.IntN(len(air))
		f := air[i]
		air = append(air[:i], air[i+1:]...)
		got, err := e.ends[1].Decode(f.msg)
		if err != nil {
			t.Fatal(err)
		}
		sameEvent(t, got[0], f.ev)
		e.ends[0].Arrived(f.ticket)
	}
	for _, ev := range r.events {
		msg, _, ticket, err := e.ends[0].Encode(MaxMessage, ev)
		if err != nil {
			t.Fatal(err)
		}
		air = append(air, flight{msg, ticket, ev})
		if len(air) > 12 {
			land()
		}
	}
	for len(air) > 0 {
		land()
	}
}

// TestLoneMessageSize is the budget of a lone message over an established link; the bench measures it on real texts.
func TestLoneMessageSize(t *testing.T) {
	r := newRoom(t, "12", 1)
	e := newExchange(t, 0)
	for _, ev := range r.events {
		e.send(0, ev)
	}
	for i := range 2 {
		e.send(i, r.say(i, "Hallo"))
		e.send(i, r.megolm(i, 180))
		e.send(i, r.megolm(i, 180))
	}
	text := "Pegel Nord 4,12 m, steigend. Deichwache meldet Sickerwasser, wir brauchen 200 Sandsäcke bis 18 Uhr."
	_, n := e.send(0, r.say(0, text))
	if n > 12+64+38 {
		t.Errorf("a text of %d bytes takes %d", len(text), n)
	}
	ev := r.megolm(1, 230)
	_, m := e.send(1, ev)
	if m > 400 {
		t.Errorf("an encrypted text takes %d bytes", m)
	}
	k := &Kept{Vectors: []Vector{{Room: r.id, Box: ev.Log.Box, Epoch: ev.Log.Epoch, Upto: ev.Log.Seq}}}
	got, l := e.send(0, k)
	if !reflect.DeepEqual(got[0], k) {
		t.Errorf("Kept came out as %+v, want %+v", got[0], k)
	}
	if l > 7 {
		t.Errorf("a receipt takes %d bytes", l)
	}
	receipt := func(id event.ID) *EDU {
		return &EDU{Seq: 5, Type: "m.receipt", Content: receipt{r.id, r.sender(0, "anna"), id, r.ts + 3000, "main"}.json()}
	}
	e.send(0, receipt(ev.PDU.ID))
	read := receipt(ev.PDU.ID)
	got, o := e.send(0, read)
	if !reflect.DeepEqual(got[0], read) {
		t.Errorf("m.receipt came out as %s, want %s", got[0].(*EDU).Content, read.Content)
	}
	if o > 18 {
		t.Errorf("a read receipt takes %d bytes", o)
	}
	r.add(0, "anna", "m.room.redaction", nil, `{"reason":"Tippfehler"}`, func(p *event.Proto) { p.Redacts = ev.PDU.ID })
	e.send(0, r.events[len(r.events)-1])
	r.add(0, "anna", "m.reaction", nil, `{"m.relates_to":{"event_id":"`+string(ev.PDU.ID)+`","key":"👍️","rel_type":"m.annotation"}}`, nil)
	e.send(0, r.events[len(r.events)-1])
	r.add(0, "anna", "m.reaction", nil, `{"m.relates_to":{"event_id":"`+string(ev.PDU.ID)+`","key":"👍️","rel_type":"m.annotation"}}`, nil)
	_, q := e.send(0, r.events[len(r.events)-1])
	if q > 130 {
		t.Errorf("a reaction takes %d bytes", q)
	}
	t.Logf("text %d bytes, encrypted %d, kept %d, m.receipt %d, reaction %d", n, m, l, o, q)
}

// others is one parcel of each other kind, and more than one where forms differ.
func others() []Parcel {
	b := newBox(1)
	id := event.ID("$" + base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	sig := base64.RawStdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 64))
	return []Parcel{
		&Hello{From: b.id.Brief(), Step: 2, Session: 5, Yours: 6, Clock: 3, Features: FeatureZstd | FeatureModel, Model: [4]byte{1, 2, 3, 4}, Noise: []byte("noise")},
		&EDU{Seq: 9, Type: "m.direct_to_device", Origin: "a.example", Content: []byte(`{"message_id":"x"}`)},
		&EDU{Content: []byte{0, 1, 2}},
		&EDU{Seq: 1, Type: "m.receipt", Content: receipt{"!r:a.example", "@u:a.example", id, 1790000000000, ""}.json()},
		&EDU{Seq: 2, Type: "m.receipt", Content: receipt{"!r:a.example", "@u:a.example", "$old:x", -5, "main"}.json()},
		&EDU{Seq: 3, Type: "m.receipt", Content: []byte(`{"!r:a":{"m.read":{"@u":{"event_ids":["$x"],"data":{"ts":1}}}}}`)},
		&Request{ID: 3, To: "b.example", Method: "PUT", Target: "/_matrix/federation/v2/invite/%21a/%24b", Body: []byte(`{"a":1}`), Header: []Field{
			{"Authorization", `X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="` + sig + `"`},
			{"Content-Type", "application/json"}, {"X-Other", "1"}}},
		&Request{ID: 4, To: "b.example", Method: "GET", Target: "/", More: true, Body: []byte{1, 2, 3}, Header: []Field{
			{"Authorization", `X-Matrix origin=a.example,key="ed25519:1",sig="` + sig + `"`}}},
		&Response{ID: 3, Status: 200, Header: []Field{{"Content-Type", "application/json"}}, Body: bytes.Repeat([]byte("[{}]"), 500)},
		&Response{ID: 4, Status: 404, More: true, Body: []byte("x")},
		&Chunk{ID: 4, Answer: true, Offset: 1 << 20, Last: true, Data: []byte("data")},
		&Kept{All: true, EDUs: 12, Vectors: []Vector{{"!r:a.example", b.id, 4, 1 << 40}, {"!s:a.example", b.id, 4, 1}}},
		&Kept{},
		&Seen{Marks: []Mark{{"!r:a.example", b.id, 4, 1 << 40, "c.example"}, {"!r:a.example", b.id, 4, 7, "@antje:c.example"}}},
		&Want{Room: "!r:a.example", IDs: []event.ID{id, "$old:a.example"}, Ranges: []Range{{"!r:a.example", b.id, 4, 5, 9}}, Raw: true},
		&Want{},
		&Keys{Document: []byte(`{"server_name":"a.example"}`)},
		&Bye{Lost: true, Reason: "restart"},
		&Bye{},
	}
}

func TestOtherParcels(t *testing.T) {
	e := newExchange(t, 0)
	bare := e.ends[0].codec.Bare()
	for range 2 {
		got, n := e.send(0, others()...)
		for i, want := range others() {
			if !reflect.DeepEqual(got[i], want) {
				t.Errorf("parcel %d came out as %+v, want %+v", i, got[i], want)
			}
			msg, took, _, err := bare.Encode(MaxMessage, want)
			if err != nil || took != 1 {
				t.Fatal(err)
			}
			back, err := e.ends[1].Decode(msg)
			if err != nil || !reflect.DeepEqual(back[0], want) {
				t.Errorf("bare parcel %d came out as %+v, %v, want %+v", i, back, err, want)
			}
		}
		t.Logf("all kinds: %d bytes", n)
	}
	if _, err := e.ends[0].codec.Session(7, 8).Decode([]byte{e.ends[0].tag, 0xa8, 0}); !errors.Is(err, ErrSession) {
		t.Errorf("a message of another session: %v", err)
	}
}

func TestEncodeLimit(t *testing.T) {
	e := newExchange(t, 0)
	many := others()
	for limit := 1; limit < 600; limit += 7 {
		for rest := many; len(rest) > 0; {
			msg, took, _, err := e.ends[0].Encode(limit, rest...)
			if err != nil {
				t.Fatal(err)
			}
			if took == 0 || len(msg) > limit && took > 1 {
				t.Fatalf("limit %d: %d parcels in %d bytes", limit, took, len(msg))
			}
			got, err := e.ends[1].Decode(msg)
			if err != nil || len(got) != took {
				t.Fatalf("limit %d: %d parcels, %v", limit, len(got), err)
			}
			for i := range got {
				if !reflect.DeepEqual(got[i], rest[i]) {
					t.Errorf("got %+v, want %+v", got[i], rest[i])
				}
			}
			rest = rest[took:]
		}
	}
	if _, _, _, err := e.ends[0].Encode(10); err == nil {
		t.Error("nothing was encoded without complaint")
	}
	if _, _, _, err := e.ends[0].Encode(10, &Chunk{Data: make([]byte, MaxMessage)}); err == nil {
		t.Error("a parcel larger than a message was encoded")
	}
}

func TestTakeOut(t *testing.T) {
	for _, c := range []struct {
		content, frame, text string
		ok                   bool
	}{
		{`{"body":"x","msgtype":"m.text"}`, `{"body":,"msgtype":"m.text"}`, "x", true},
		{`{"a":{"body":"x"},"body":"x"}`, `{"a":{"body":"x"},"body":}`, "x", true},
		{`{"a":"\"body\":\"x\"","body":"x"}`, `{"a":"\"body\":\"x\"","body":}`, "x", true},
		{`{"body":1}`, "", "", false},
		{`{}`, "", "", false},
		{`{"body":"\u001f\"\\"}`, `{"body":}`, "\x1f\"\\", true},
	} {
		f, text, ok := takeOut("m.room.message", []byte(c.content), "body")
		if ok != c.ok || f.json != c.frame || text != c.text {
			t.Errorf("takeOut(%s) = %q, %q, %v", c.content, f.json, text, ok)
		}
		if ok && string(f.fill(appendString(nil, text))) != c.content {
			t.Errorf("%s does not go together again", c.content)
		}
	}
}

func FuzzDecode(f *testing.F) {
	c := testCodec(f)
	s := c.Session(1, 2)
	s.UseModel(true)
	s.UseVersion2(true)
	r := corpus(f, "12", 3, 40)
	for _, ev := range r.events {
		msg, _, ticket, err := s.Encode(MaxMessage, ev)
		if err != nil {
			f.Fatal(err)
		}
		s.Arrived(ticket)
		f.Add(msg)
	}
	more := others()
	for _, p := range newLife(f, "12", 1).queue() {
		more = append(more, p)
	}
	for _, p := range more {
		for _, from := range []*Session{s, c.Bare()} {
			msg, _, _, err := from.Encode(MaxMessage, p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(msg)
		}
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		far := c.Session(2, 1)
		for range 2 { // the second time with what the first left behind
			got, err := far.Decode(msg)
			if err != nil {
				continue
			}
			for _, p := range got {
				if e, ok := p.(*Event); ok && e.PDU == nil {
					t.Error("an event without an event")
				}
			}
		}
	})
}

// TestSentences: what the held-out texts of 100 characters take as lone messages over an established session, clear and
// as the ciphertext that a common client makes of them. `make bench` adds framing and acknowledgements.
func TestSentences(t *testing.T) {
	file, err := os.ReadFile("../../tools/bench/testdata/sentences_de.txt")
	if err != nil {
		t.Fatal(err)
	}
	r := newRoom(t, "12", 1)
	e := newExchange(t, 0)
	for range 2 {
		e.send(0, r.say(0, "Hallo"))
		e.send(0, r.megolm(0, 10))
	}
	n, clear, encrypted := 0, 0, 0
	for s := range strings.Lines(string(file)) {
		s = strings.TrimSpace(s)
		plain, err := json.Marshal(map[string]any{"type": "m.room.message", "room_id": r.id,
			"content": map[string]any{"body": s, "msgtype": "m.text", "m.mentions": map[string]any{}}})
		if err != nil {
			t.Fatal(err)
		}
		_, c := e.send(0, r.say(0, s))
		_, m := e.send(0, r.megolm(0, len(plain)))
		n, clear, encrypted = n+1, clear+c, encrypted+m
	}
	c, m := float64(clear)/float64(n), float64(encrypted)/float64(n)
	t.Logf("%d sentences: %.1f bytes clear, %.1f encrypted", n, c, m)
	if n < 200 || c > 115 || m > 405 {
		t.Errorf("%d sentences take %.1f bytes clear, %.1f encrypted", n, c, m)
	}
}

// TestMemoryIsBounded: whatever one end sends, the other remembers no more than it promised, and what is too much to
// remember still arrives.
func TestMemoryIsBounded(t *testing.T) {
	e := newExchange(t, 0)
	for i := range 3 * maxEntries {
		long := strings.Repeat("x", i%2000)
		want := &EDU{Seq: 1, Type: fmt.Sprint(i, long), Content: []byte("{}")}
		if got, _ := e.send(0, want); !reflect.DeepEqual(got[0], want) {
			t.Fatalf("EDU %d came out as %+v", i, got[0])
		}
	}
	s := e.ends[1]
	if n := len(s.in[tableText].names); n >= maxEntries {
		t.Errorf("%d names are remembered", n)
	}
	if s.size[1] > maxNames {
		t.Errorf("%d bytes of names are remembered", s.size[1])
	}
	hostile := &Session{codec: s.codec, tag: s.tag, trail: map[logName]*trail{}, byID: map[event.ID]place{}}
	for n := uint64(1); n < 3*maxEntries; n++ {
		w := writer{}
		w.uvarint(1)
		w.uvarint(n<<2 | 1)
		w.text(strings.Repeat("y", int(n%1500)))
		w.uvarint(1)
		w.text("")
		w.raw([]byte{0})
		if _, err := hostile.Decode(append([]byte{s.tag, byte(KindEDU)<<4 | lastBit}, w.b...)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(hostile.in[tableText].names); n >= maxEntries || hostile.size[1] > 2*maxNames+maxName {
		t.Errorf("%d names, %d bytes are remembered of a hostile box", n, hostile.size[1])
	}
}

// TestBatch: events that travel together lean on each other.
func TestBatch(t *testing.T) {
	r := newRoom(t, "12", 1)
	e := newExchange(t, 0)
	var batch []Parcel
	for range 20 {
		batch = append(batch, r.say(0, "Der Pegel steigt weiter, wir bleiben am Deich."))
	}
	got, n := e.send(0, batch...)
	for i, p := range batch {
		sameEvent(t, got[i], p.(*Event))
	}
	if n > 20*100+200 {
		t.Errorf("20 events take %d bytes", n)
	}
	// A second message before the first is known to have arrived may lean on nothing of it.
	msg, _, ticket, err := e.ends[0].Encode(MaxMessage, r.say(1, "eins"))
	if err != nil {
		t.Fatal(err)
	}
	next := r.say(1, "zwei")
	later, _, _, err := e.ends[0].Encode(MaxMessage, next)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := e.ends[1].Decode(later); err != nil {
		t.Fatal(err)
	} else {
		sameEvent(t, got[0], next)
	}
	if _, err := e.ends[1].Decode(msg); err != nil {
		t.Fatal(err)
	}
	e.ends[0].Arrived(ticket)
}
