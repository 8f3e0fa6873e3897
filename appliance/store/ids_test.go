// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"hallig/appliance/event"
)

func testID(n int) event.ID {
	return event.ID("$" + base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{byte(n)}, 32)))
}

var testKey = event.Key{ID: "ed25519:a_1", Private: ed25519.NewKeyFromSeed(make([]byte, 32))}

// rowFor builds a real event on others and its row.
func rowFor(t testing.TB, db *DB, content string, prev ...event.ID) *Event {
	t.Helper()
	p, err := event.Build(event.Default(), event.Proto{RoomID: "!r:a.example", Sender: "@u:a.example", Type: "m.room.message", Content: json.RawMessage(content),
		Prev: prev, Auth: prev, Depth: 7, TS: 1_700_000_000_000}, "a.example", testKey)
	if err != nil {
		t.Fatal(err)
	}
	return &Event{NID: db.NextEvent(), ID: p.ID, Room: p.RoomID, Type: p.Type, Sender: p.Sender, Depth: p.Depth, TS: p.TS, JSON: p.JSON()}
}

func insert(t testing.TB, db *DB, es ...*Event) {
	t.Helper()
	if err := db.Do(t.Context(), func(tx *Tx) error {
		for _, e := range es {
			e.Pos = tx.NextPos()
			if err := tx.InsertEvent(e, false); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// stored gives the bytes of an event's row and its JSON as read.
func stored(t *testing.T, db *DB, e *Event) (row, text []byte) {
	t.Helper()
	if err := db.View(t.Context(), func(r *Read) error {
		if _, err := r.one(`SELECT json FROM event WHERE nid=?`, args(e.NID), &row); err != nil {
			return err
		}
		got, err := r.EventByNID(e.NID)
		if err == nil {
			text = got.JSON
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return row, text
}

// Events refer to what is stored by number and to everything else by id; both come back exactly, also after a restart.
func TestCompactRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hallig.db")
	db := open(t, path, Options{})
	long := `{"body":"` + strings.Repeat("Sand ", 60) + `","msgtype":"m.text"}`
	a := rowFor(t, db, long, testID(1), testID(2)) // ancestors we lack
	b := rowFor(t, db, long, a.ID)
	c := rowFor(t, db, long, b.ID, a.ID, testID(3))
	insert(t, db, a, b)
	insert(t, db, c)
	check := func(db *DB) {
		for i, e := range []*Event{a, b, c} {
			row, text := stored(t, db, e)
			if !bytes.Equal(text, e.JSON) {
				t.Errorf("event %d reads %s\nwant %s", i, text, e.JSON)
			}
			if most := []int{520, 400, 470}[i]; len(row) > most {
				t.Errorf("row %d has %d bytes, want at most %d", i, len(row), most)
			}
		}
	}
	check(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	check(open(t, path, Options{}))
}

// The number of an event whose write was undone must not get into a row that stays.
func TestCompactRowsAfterUndone(t *testing.T) {
	fail := false
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{hooks: func(string) error {
		if fail {
			return errors.New("power cut")
		}
		return nil
	}})
	no := errors.New("no")
	lost := rowFor(t, db, `{}`)
	err := db.Do(t.Context(), func(tx *Tx) error { return errors.Join(tx.InsertEvent(lost, false), no) })
	if !errors.Is(err, no) {
		t.Fatal(err)
	}
	child := rowFor(t, db, `{"n":1}`, lost.ID)
	insert(t, db, child)
	lost2 := rowFor(t, db, `{"n":2}`)
	fail = true
	if err := db.Do(t.Context(), func(tx *Tx) error { return tx.InsertEvent(lost2, false) }); err == nil {
		t.Fatal("the commit did not fail")
	}
	fail = false
	child2 := rowFor(t, db, `{"n":3}`, lost2.ID)
	insert(t, db, child2)
	for _, e := range []*Event{child, child2} {
		if _, text := stored(t, db, e); !bytes.Equal(text, e.JSON) {
			t.Errorf("reads %s\nwant %s", text, e.JSON)
		}
	}
}

func TestCompactRowsReplacedAndRedacted(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
	a := rowFor(t, db, `{"body":"secret","n":1}`, testID(9))
	insert(t, db, a)
	parent := rowFor(t, db, `{"n":5}`)
	insert(t, db, parent)
	p, err := event.ParseTrusted(event.Default(), a.ID, a.JSON)
	if err != nil {
		t.Fatal(err)
	}
	red, err := p.Redacted()
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Do(t.Context(), func(tx *Tx) error { return tx.Redact(a.NID, parent.NID, red.JSON()) }); err != nil {
		t.Fatal(err)
	}
	row, text := stored(t, db, a)
	if !bytes.Equal(text, red.JSON()) || bytes.Contains(row, []byte("secret")) || len(row) > len(text)/2 {
		t.Errorf("redacted: %s\nrow of %d bytes", text, len(row))
	}
	// An outlier finds its place: its row is written anew, and may now name a parent with a greater number.
	out := rowFor(t, db, `{"n":2}`, testID(7))
	insert(t, db, out)
	late := rowFor(t, db, `{"n":3}`)
	insert(t, db, late)
	q, err := event.Build(event.Default(), event.Proto{RoomID: "!r:a.example", Sender: "@u:a.example", Type: "m.x", Prev: []event.ID{late.ID}}, "a.example", testKey)
	if err != nil {
		t.Fatal(err)
	}
	again := &Event{NID: out.NID, ID: q.ID, Room: q.RoomID, Type: q.Type, Sender: q.Sender, JSON: q.JSON()}
	if err := db.Do(t.Context(), func(tx *Tx) error { return tx.InsertEvent(again, true) }); err != nil {
		t.Fatal(err)
	}
	if _, text := stored(t, db, again); !bytes.Equal(text, q.JSON()) {
		t.Errorf("replaced: %s\nwant %s", text, q.JSON())
	}
	if err := db.Do(t.Context(), func(tx *Tx) error { return tx.Redact(1<<40, 1, []byte(`{}`)) }); err == nil {
		t.Error("redacted an event that is not there")
	}
}

// What servers are owed comes out as JSON.
func TestOutgoingEventsAreJSON(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
	a := rowFor(t, db, `{"n":1}`)
	b := rowFor(t, db, `{"n":2}`, a.ID)
	insert(t, db, a, b)
	if err := db.View(t.Context(), func(r *Read) error {
		out, err := r.OutgoingEvents("a.example", "b.example", nil, "!r:a.example", 0, 100, 10)
		if err == nil && (len(out) != 2 || !bytes.Equal(out[0].JSON, a.JSON) || !bytes.Equal(out[1].JSON, b.JSON) || out[1].ID != b.ID || out[1].Pos != b.Pos) {
			t.Errorf("got %+v", out)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
