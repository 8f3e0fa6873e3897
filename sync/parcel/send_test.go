// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"hallig/appliance/event"
)

// body writes a transaction as federation does: canonical JSON.
func body(t testing.TB, origin string, ts int64, edus string, evs ...*Event) []byte {
	t.Helper()
	m := map[string]any{"origin": origin, "origin_server_ts": ts}
	pdus := []json.RawMessage{}
	for _, e := range evs {
		pdus = append(pdus, e.PDU.JSON())
	}
	m["pdus"] = pdus
	if edus != "" {
		m["edus"] = json.RawMessage(edus)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	raw, err = event.CanonicalLoose(raw)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// sendOf is a transaction of events that are named by their places.
func sendOf(t testing.TB, whole []byte, evs ...*Event) *Send {
	t.Helper()
	tx, ok := TakeTransaction(whole)
	if !ok {
		t.Fatalf("not taken apart: %.200s", whole)
	}
	p := &Send{ID: 7, To: "matrix.example.org", Txn: "aB3-_x9qYw2k.1f", Key: "ed25519:h1", Sig: bytes.Repeat([]byte{0xa5}, 64), TS: tx.TS, EDUs: tx.EDUs, Sum: SumOf(whole)}
	for _, e := range evs {
		p.Events = append(p.Events, Entry{Room: e.PDU.RoomID, Log: e.Log})
	}
	return p
}

func crossing(t testing.TB, s, far *Session, p *Send) (*Send, int) {
	t.Helper()
	msg, _, ticket, err := s.Encode(MaxMessage, p)
	if err != nil {
		t.Fatal(err)
	}
	s.Arrived(ticket)
	got, err := far.Decode(msg)
	if err != nil {
		t.Fatal(err)
	}
	out, ok := got[0].(*Send)
	if !ok {
		t.Fatalf("%+v", got[0])
	}
	return out, len(msg)
}

// A transaction comes out byte for byte, whatever its events are named by, and is a fraction of what it was.
func TestSendCrosses(t *testing.T) {
	c := testCodec(t)
	s, far := c.Session(1, 2), c.Session(2, 1)
	s.UseVersion2(true)
	far.UseVersion2(true)
	r, o := newRoom(t, "11", 3), newRoom(t, "4", 4)
	for n := range 120 {
		r.say(n%3/2, fmt.Sprintf("Pegel <%d> & \u2028 \"Hooge\" 🌊", n))
		o.say(0, "drüben")
	}
	mine := func(r *testRoom) (own []*Event) {
		for _, e := range r.events {
			if e.Log.Box == r.boxes[0].id {
				own = append(own, e)
			}
		}
		return own
	}
	a, b := mine(r), mine(o)
	edus := `[{"content":{"org.example":[1.50,"ü"]},"edu_type":"m.direct_to_device"}]`
	byID := func(p *Send) {
		for i, e := range a[:len(p.Events)] {
			p.Events[i] = Entry{ID: e.PDU.ID}
		}
	}
	backwards := []*Event{a[9], a[8], b[3], a[2], a[3], a[7]}
	for name, tt := range map[string]struct {
		events []*Event
		edus   string
		change func(*Send)
		most   int // bytes, the second time
	}{
		"fifty of one room":  {events: a[:50], most: 115},
		"two rooms":          {events: append(append([]*Event{}, a[10:30]...), b[:30]...), most: 120},
		"with holes":         {events: []*Event{a[1], a[2], a[4], a[5], a[9], a[40]}, most: 125},
		"backwards":          {events: backwards, most: 150},
		"by id":              {events: a[:3], change: byID, most: 215},
		"none":               {most: 110},
		"with EDUs":          {events: a[:2], edus: edus, most: 200},
		"nothing but EDUs":   {edus: edus, most: 200},
		"an empty EDU array": {edus: "[]", most: 115},
	} {
		t.Run(name, func(t *testing.T) {
			whole := body(t, r.boxes[0].server, 1790000123456, tt.edus, tt.events...)
			p := sendOf(t, whole, tt.events...)
			if tt.change != nil {
				tt.change(p)
			}
			crossing(t, s, far, p)
			got, size := crossing(t, s, far, p)
			if !reflect.DeepEqual(got, p) {
				t.Fatalf("got %+v\nwant %+v", got, p)
			}
			if size > tt.most {
				t.Errorf("%d bytes, want at most %d", size, tt.most)
			}
			var pdus [][]byte
			for _, e := range tt.events {
				pdus = append(pdus, e.PDU.JSON())
			}
			again, ok := got.Put(r.boxes[0].server, pdus)
			if !ok || !bytes.Equal(again, whole) {
				t.Errorf("put together: %v\n%s\nwant\n%s", ok, again, whole)
			}
			if _, ok := got.Put("another.example.org", pdus); ok {
				t.Error("another box's name fits")
			}
			if len(pdus) > 1 {
				pdus[0], pdus[1] = pdus[1], pdus[0]
				if _, ok := got.Put(r.boxes[0].server, pdus); ok {
					t.Error("another order fits")
				}
			}
		})
	}
}

// What would not come out again is not taken apart.
func TestTakeTransaction(t *testing.T) {
	for text, want := range map[string]bool{
		`{"origin":"a","origin_server_ts":1,"pdus":[]}`:                  true,
		`{"edus":[],"origin":"a","origin_server_ts":1,"pdus":[{"a":1}]}`: true,
		`{"origin":"a","origin_server_ts":1,"pdus":[] }`:                 false,
		`{"origin_server_ts":1,"origin":"a","pdus":[]}`:                  false,
		`{"more":1,"origin":"a","origin_server_ts":1,"pdus":[]}`:         false,
		`{"origin":"a","origin_server_ts":1}`:                            false,
		`{"origin":"a","origin_server_ts":1.0,"pdus":[]}`:                false,
		`{"origin":"\u0061","origin_server_ts":1,"pdus":[]}`:             false,
		`{"edus":null,"origin":"a","origin_server_ts":1,"pdus":[]}`:      true,
		`{"origin":"a","origin":"b","origin_server_ts":1,"pdus":[]}`:     false,
		`[]`: false, ``: false,
	} {
		tx, ok := TakeTransaction([]byte(text))
		if ok != want || ok && string(tx.Body()) != text {
			t.Errorf("%s: %v", text, ok)
		}
	}
}

func TestSendNotFit(t *testing.T) {
	s := testCodec(t).Session(1, 2)
	for _, p := range []*Send{{Sig: make([]byte, 63)}, {Sig: make([]byte, 64), Events: make([]Entry, 51)}} {
		if _, _, _, err := s.Encode(MaxMessage, p); err == nil {
			t.Errorf("%d bytes of signature and %d events are written", len(p.Sig), len(p.Events))
		}
	}
}

func FuzzSend(f *testing.F) {
	c := testCodec(f)
	s := c.Session(1, 2)
	r := newRoom(f, "11", 3)
	for range 10 {
		r.say(0, "Text")
	}
	own := r.events[5:]
	for _, evs := range [][]*Event{own, {own[1], own[4], own[2]}, nil} {
		msg, _, _, err := s.Encode(MaxMessage, sendOf(f, body(f, "a.example", 5, "", evs...), evs...))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(msg)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, err := c.Session(2, 1).Decode(msg)
		if err != nil {
			return
		}
		for _, p := range got {
			q, ok := p.(*Send)
			if !ok {
				continue
			}
			if len(q.Events) > maxSent || len(q.Sig) != 64 {
				t.Fatalf("%+v", q)
			}
			again, _, _, err := c.Session(1, 2).Encode(MaxMessage, q)
			if err != nil {
				continue // ids and names may be longer than they were
			}
			back, err := c.Session(2, 1).Decode(again)
			if err != nil || !reflect.DeepEqual(back[0], p) {
				t.Errorf("%+v came back as %+v, %v", q, back, err)
			}
		}
	})
}

func FuzzTakeTransaction(f *testing.F) {
	f.Add([]byte(`{"edus":[],"origin":"a","origin_server_ts":1,"pdus":[{"a":1}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if tx, ok := TakeTransaction(text); ok && !bytes.Equal(tx.Body(), text) {
			t.Errorf("%s is not %s", tx.Body(), text)
		}
	})
}

// TestSendMeasure prints what a transaction of fifty events takes, whole and without them; tools/bench shows it.
func TestSendMeasure(t *testing.T) {
	c := testCodec(t)
	s, far := c.Session(1, 2), c.Session(2, 1)
	s.UseVersion2(true)
	far.UseVersion2(true)
	r := corpus(t, "12", 5, 400)
	var own []*Event
	for _, e := range r.events {
		if e.Log.Box == r.boxes[0].id {
			own = append(own, e)
		}
	}
	if len(own) < 150 {
		t.Fatalf("%d events of one box", len(own))
	}
	var short, packed, whole int
	const times = 3
	for n := range times {
		evs := own[n*maxSent : (n+1)*maxSent]
		raw := body(t, r.boxes[0].server, 1790000123456+int64(n)*60000, "", evs...)
		p := sendOf(t, raw, evs...)
		got, size := crossing(t, s, far, p)
		var pdus [][]byte
		for _, e := range evs {
			pdus = append(pdus, e.PDU.JSON())
		}
		if again, ok := got.Put(r.boxes[0].server, pdus); !ok || !bytes.Equal(again, raw) {
			t.Fatal("not put together")
		}
		short, packed, whole = short+size, packed+len(s.Pack(raw)), whole+len(raw)
	}
	fmt.Printf("measured send50_bytes %.0f of a signed transaction of 50 events that the far end has, over a narrow link, from its id to its signature; whole it is %.0f bytes of JSON, and %.0f packed event by event\n",
		float64(short)/times, float64(whole)/times, float64(packed)/times)
	fmt.Printf("measured send50_whole_bytes %.0f the same transaction as it crosses when the far end lacks one of its events\n", float64(packed)/times)
}
