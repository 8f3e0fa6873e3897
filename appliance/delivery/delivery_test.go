// SPDX-License-Identifier: EUPL-1.2

package delivery

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// stage is a box with a room: anna is here, bert is on a paired box, cora on another, dora on a server that is no box.
type stage struct {
	t     *testing.T
	db    *store.DB
	rooms *room.Rooms
	room  event.RoomID
	log   int64
	boxes map[string]string
	path  string
}

const (
	anna = event.UserID("@anna:here.test")
	bert = event.UserID("@bert:bert.test")
	cora = event.UserID("@cora:cora.test")
	dora = event.UserID("@dora:central.test")
)

func newStage(t *testing.T) *stage {
	s := &stage{t: t, boxes: map[string]string{"12D3bert": "bert.test", "12D3cora": "cora.test"}, path: filepath.Join(t.TempDir(), "hallig.db")}
	s.open()
	var err error
	if s.room, err = s.rooms.Create(t.Context(), room.CreateRequest{Creator: anna, Preset: "public_chat"}); err != nil {
		t.Fatal(err)
	}
	for _, u := range []event.UserID{bert, cora, dora} {
		s.join(u)
	}
	return s
}

func (s *stage) open() {
	var err error
	if s.db, err = store.Open(s.t.Context(), s.path, store.Options{Reserve: -1}); err != nil {
		s.t.Fatal(err)
	}
	s.do(func(tx *store.Tx) error { _, err := tx.OpenExchange("12D3here", 7); return err })
	s.rooms = room.New(s.db, room.Identity{Server: "here.test", Key: key("here")}, room.Options{OnAppend: func(tx *store.Tx, e room.AppendInfo) error {
		_, err := tx.NumberEvent(e.Room, e.NID)
		return err
	}})
}

func key(of string) event.Key {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, of)
	return event.Key{ID: "ed25519:" + of, Private: ed25519.NewKeyFromSeed(seed)}
}

func (s *stage) do(f func(*store.Tx) error) {
	s.t.Helper()
	if err := s.db.Do(s.t.Context(), f); err != nil {
		s.t.Fatal(err)
	}
}

// join lets a user of another server come in through this box.
func (s *stage) join(u event.UserID) {
	s.t.Helper()
	who := string(u)
	tpl, v, err := s.rooms.Template(s.t.Context(), room.Draft{Room: s.room, Sender: u, Type: "m.room.member", StateKey: &who, Content: json.RawMessage(`{"membership":"join"}`)})
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := event.FromTemplate(v, tpl, u.Server(), key(u.Server()))
	if err != nil {
		s.t.Fatal(err)
	}
	if res, err := s.rooms.Accept(s.t.Context(), room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: u.Server()}}); err != nil || res.Outcome != room.Accepted {
		s.t.Fatal(res, err)
	}
}

// says lets anna write a text and gives its place in this box's log.
func (s *stage) says(text string) (id event.ID, seq uint64, pos int64) {
	s.t.Helper()
	content, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	id, err := s.rooms.Send(s.t.Context(), room.Draft{Room: s.room, Sender: anna, Type: "m.room.message", Content: content})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.db.View(s.t.Context(), func(r *store.Read) error {
		e, err := r.Event(id)
		if err != nil {
			return err
		}
		places, err := r.PlacesOf(s.room, e.NID)
		if err == nil {
			s.log, seq, pos = places[0].Log.N, places[0].Seq, e.Pos
		}
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	return id, seq, pos
}

func (s *stage) config() Config {
	return Config{DB: s.db, Server: "here.test", Boxes: func() map[string]string { return s.boxes }}
}

// ladder gives servers and people as lines.
func (s *stage) ladder(d *Delivery, id event.ID) string {
	s.t.Helper()
	l, ok, err := d.Ladder(s.t.Context(), s.room, id)
	if err != nil || !ok {
		s.t.Fatal(ok, err)
	}
	var b strings.Builder
	line := func(x any) {
		raw, err := json.Marshal(x)
		if err != nil {
			s.t.Fatal(err)
		}
		b.Write(raw)
		b.WriteByte('\n')
	}
	for _, x := range l.Servers {
		line(x)
	}
	for _, x := range l.People {
		line(x)
	}
	line(l.Summary)
	return b.String()
}

// TestLadder: what the ladder shows for what the box has been told. Each case begins with a text of which nobody knows; two texts follow it.
func TestLadder(t *testing.T) {
	const (
		bertWaits = `{"server_name":"bert.test","box":true,"state":"waiting"}`
		doraWaits = `{"server_name":"central.test","box":false,"state":"waiting"}`
		coraWaits = `{"server_name":"cora.test","box":true,"state":"waiting"}`
		nobody    = `{"servers":3,"kept":0,"members":3,"seen":0,"read":0}`
	)
	for _, c := range []struct {
		what string
		told func(s *stage, seq uint64, pos int64) func(*store.Tx) error
		conf func(*Config, event.ID)
		want []string
	}{
		{what: "nothing", want: []string{bertWaits, doraWaits, coraWaits, nobody}},
		{what: "it left", told: func(s *stage, seq uint64, _ int64) func(*store.Tx) error {
			return func(tx *store.Tx) error {
				return errors.Join(tx.Left("12D3bert", s.log, seq-1, seq, "p2p", 100), tx.Left("12D3bert", s.log, seq+1, seq+2, "serial:radio", 9000))
			}
		}, want: []string{`{"server_name":"bert.test","box":true,"state":"left","via":"p2p","left_ts":100}`, doraWaits, coraWaits, nobody}},
		{what: "a direct peer keeps it", told: func(s *stage, seq uint64, _ int64) func(*store.Tx) error {
			return func(tx *store.Tx) error {
				err := errors.Join(tx.Left("12D3bert", s.log, seq, seq, "p2p", 100), tx.SetPeerKept("12D3bert", s.log, seq+2, false))
				for i, upto := range []uint64{seq - 1, seq, seq + 2} {
					_, e := tx.Reached(s.log, store.Reach{Who: "bert.test", Upto: upto, At: int64(200 + i)})
					err = errors.Join(err, e)
				}
				return err
			}
		}, want: []string{`{"server_name":"bert.test","box":true,"state":"kept","via":"p2p","left_ts":100,"kept_ts":201}`, doraWaits, coraWaits,
			`{"servers":3,"kept":1,"members":3,"seen":0,"read":0}`}},
		{what: "it keeps what was before", told: func(s *stage, seq uint64, _ int64) func(*store.Tx) error {
			return func(tx *store.Tx) error {
				_, err := tx.Reached(s.log, store.Reach{Who: "bert.test", Upto: seq - 1, At: 200})
				return errors.Join(err, tx.SetPeerKept("12D3bert", s.log, seq-1, false))
			}
		}, want: []string{bertWaits, doraWaits, coraWaits, nobody}},
		{what: "one says of another", told: func(s *stage, seq uint64, _ int64) func(*store.Tx) error {
			return func(tx *store.Tx) error {
				_, err := tx.Reached(s.log, store.Reach{Who: "cora.test", By: "bert.test", Upto: seq, At: 300})
				_, e := tx.Reached(s.log, store.Reach{Who: string(cora), By: "bert.test", Upto: seq, At: 301})
				return errors.Join(err, e)
			}
		}, want: []string{bertWaits, doraWaits, `{"server_name":"cora.test","box":true,"state":"kept","kept_ts":300,"reported_by":["bert.test"]}`,
			`{"user_id":"@cora:cora.test","state":"seen","ts":301,"reported_by":["bert.test"]}`, `{"servers":3,"kept":1,"members":3,"seen":1,"read":0}`}},
		{what: "one says of another, who says so itself", told: func(s *stage, seq uint64, _ int64) func(*store.Tx) error {
			return func(tx *store.Tx) error {
				_, err := tx.Reached(s.log, store.Reach{Who: "cora.test", By: "bert.test", Upto: seq, At: 300})
				_, e := tx.Reached(s.log, store.Reach{Who: "cora.test", Upto: seq + 1, At: 400})
				return errors.Join(err, e)
			}
		}, want: []string{bertWaits, doraWaits, `{"server_name":"cora.test","box":true,"state":"kept","kept_ts":400}`, `{"servers":3,"kept":1,"members":3,"seen":0,"read":0}`}},
		{what: "somebody says so who is not paired", told: func(s *stage, seq uint64, _ int64) func(*store.Tx) error {
			return func(tx *store.Tx) error {
				_, err := tx.Reached(s.log, store.Reach{Who: "cora.test", By: "emil.test", Upto: seq, At: 300})
				return err
			}
		}, want: []string{bertWaits, doraWaits, coraWaits, nobody}},
		{what: "a server has confirmed it", told: func(s *stage, _ uint64, pos int64) func(*store.Tx) error {
			return func(tx *store.Tx) error { return tx.SetFederationCursor("central.test", s.room, pos) }
		}, want: []string{bertWaits, `{"server_name":"central.test","box":false,"state":"kept","via":"federation"}`, coraWaits, `{"servers":3,"kept":1,"members":3,"seen":0,"read":0}`}},
		{what: "its text has gone ahead", conf: func(c *Config, id event.ID) {
			c.Notice = func(server string, of event.ID) (Notice, bool) {
				return Notice{Via: "serial:radio", At: 500, Arrived: true}, server == "bert.test" && of == id
			}
		}, want: []string{`{"server_name":"bert.test","box":true,"state":"left","via":"serial:radio","left_ts":500,"notice":"arrived"}`, doraWaits, coraWaits, nobody}},
		{what: "its text has gone ahead and it is there", told: func(s *stage, seq uint64, _ int64) func(*store.Tx) error {
			return func(tx *store.Tx) error { return tx.SetPeerKept("12D3bert", s.log, seq, false) }
		}, conf: func(c *Config, _ event.ID) {
			c.Notice = func(server string, _ event.ID) (Notice, bool) {
				return Notice{Via: "serial:radio"}, server == "bert.test"
			}
		}, want: []string{`{"server_name":"bert.test","box":true,"state":"kept"}`, doraWaits, coraWaits, `{"servers":3,"kept":1,"members":3,"seen":0,"read":0}`}},
		{what: "when it will be there", told: func(s *stage, seq uint64, _ int64) func(*store.Tx) error {
			return func(tx *store.Tx) error { return tx.SetPeerKept("12D3bert", s.log, seq-3, false) }
		}, conf: func(c *Config, _ event.ID) {
			c.Level = func(*store.Read, *store.Event) (priority.Level, error) { return priority.Immediate, nil }
			c.Expect = func(d Due) Outlook {
				if d.Server == "cora.test" {
					return Outlook{WaitsFor: WaitsForLink}
				}
				if d.Level != priority.Immediate || d.Ahead != 2 || d.Bytes < 100 || d.Room == "" {
					t.Errorf("asked for %+v", d)
				}
				return Outlook{In: 90 * time.Second, WaitsFor: WaitsForQuiet}
			}
		}, want: []string{`{"server_name":"bert.test","box":true,"state":"waiting","expected_in_ms":90000,"waits_for":"quiet"}`, doraWaits,
			`{"server_name":"cora.test","box":true,"state":"waiting","waits_for":"link"}`, nobody}},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newStage(t)
			defer func() { s.db.Close() }()
			id, seq, pos := s.says("Wie weit?")
			s.says("noch einer")
			s.says("und noch einer")
			if c.told != nil {
				s.do(c.told(s, seq, pos))
			}
			conf := s.config()
			if c.conf != nil {
				c.conf(&conf, id)
			}
			want := strings.Join(c.want, "\n") + "\n"
			if got := s.ladder(New(conf), id); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			if c.conf != nil {
				return // what links know is gone with them
			}
			if err := s.db.Close(); err != nil {
				t.Fatal(err)
			}
			s.open()
			if got := s.ladder(New(s.config()), id); got != want {
				t.Errorf("after a restart: got\n%swant\n%s", got, want)
			}
		})
	}
}

// TestPeople: a device that has synchronised past an event has seen it, who has read it or what follows has read it; private receipts tell nothing, and what is handed to the store without haste is
// shown at once.
func TestPeople(t *testing.T) {
	s := newStage(t)
	defer func() { s.db.Close() }()
	first, _, pos := s.says("eins")
	second, seq, _ := s.says("zwei")
	d := New(s.config())
	people := func(id event.ID) (out string) {
		t.Helper()
		for _, x := range strings.Split(s.ladder(d, id), "\n") {
			if strings.Contains(x, "user_id") {
				out += x + "\n"
			}
		}
		return out
	}
	s.db.Lazy(func(tx *store.Tx) error {
		_, err := tx.Reached(s.log, store.Reach{Who: string(bert), Upto: seq, At: 100})
		return err
	})
	d.Noted(dora, pos) // as if she were here
	if got, want := people(first), `{"user_id":"@bert:bert.test","state":"seen","ts":100}
{"user_id":"@dora:central.test","state":"seen"}
`; got != want {
		t.Errorf("the first was seen by\n%swant\n%s", got, want)
	}
	if got, want := people(second), "{\"user_id\":\"@bert:bert.test\",\"state\":\"seen\",\"ts\":100}\n"; got != want {
		t.Errorf("the second was seen by\n%swant\n%s", got, want)
	}
	s.do(func(tx *store.Tx) error {
		return errors.Join(tx.PutReceipt(store.ReceiptRow{Room: s.room, Type: "m.read.private", User: cora, Event: second, TS: 300}),
			tx.PutReceipt(store.ReceiptRow{Room: s.room, Type: "m.read", User: bert, Event: second, TS: 400}),
			tx.PutReceipt(store.ReceiptRow{Room: s.room, Type: "m.read", User: anna, Event: second, TS: 500}))
	})
	s.do(func(tx *store.Tx) error {
		return tx.PutReceipt(store.ReceiptRow{Room: s.room, Type: "m.read", User: dora, Event: first, TS: 350})
	})
	if got, want := people(second), "{\"user_id\":\"@bert:bert.test\",\"state\":\"read\",\"ts\":400}\n"; got != want {
		t.Errorf("the second was read by\n%swant\n%s", got, want)
	}
	if got, want := people(first), `{"user_id":"@bert:bert.test","state":"read","ts":400}
{"user_id":"@dora:central.test","state":"read","ts":350}
`; got != want {
		t.Errorf("the first was read by\n%swant\n%s", got, want)
	}
	if l, ok, err := d.Ladder(t.Context(), s.room, "$nowhere"); ok || err != nil {
		t.Errorf("an event that is not here: %+v, %v, %v", l, ok, err)
	}
	if l, ok, err := d.Ladder(t.Context(), "!other:here.test", first); ok || err != nil {
		t.Errorf("an event of another room: %+v, %v, %v", l, ok, err)
	}
}

// TestMoved: others are told soon when a device was shown more, then only every few seconds however often devices ask; and what was shown is there after a restart.
func TestMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		defer func() { s.db.Close() }()
		_, _, pos := s.says("eins")
		began := time.Now()
		var told []time.Duration
		conf := s.config()
		conf.Moved = func() { told = append(told, time.Since(began)) }
		d := New(conf)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }() // waited for below
		time.Sleep(time.Minute)
		began = time.Now()
		for i := range 70 {
			d.Noted(bert, pos+int64(i))
			d.Noted(bert, pos-1) // an older device
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		if want := []time.Duration{300 * time.Millisecond, 5300 * time.Millisecond, 10300 * time.Millisecond}; !slices.Equal(told, want) {
			t.Errorf("told after %v, want %v", told, want)
		}
		d.Noted(bert, pos+100) // more than there is
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := s.db.Close(); err != nil {
			t.Fatal(err)
		}
		s.open()
		d = New(s.config())
		if err := d.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := d.Shown()[bert]; got != s.db.Published() || got < pos {
			t.Errorf("after a restart shown up to %d, want %d", got, s.db.Published())
		}
	})
}
