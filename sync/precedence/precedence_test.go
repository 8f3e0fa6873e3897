// SPDX-License-Identifier: EUPL-1.2

package precedence

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// court is a judge over a real store and real rooms.
type court struct {
	t     *testing.T
	db    *store.DB
	rooms *room.Rooms
	judge *Judge
	deaf  bool // the judge does not hear of what comes in
	fail  bool // what comes in is not stored after all
}

func newCourt(t *testing.T) *court {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	c := &court{t: t, db: db, judge: New()}
	key := event.Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(make([]byte, 32))}
	c.rooms = room.New(db, room.Identity{Server: "box.test", Key: key}, room.Options{OnAppend: func(tx *store.Tx, e room.AppendInfo) error {
		if c.deaf {
			return nil
		}
		if err := c.judge.Appended(tx, e); err != nil || !c.fail {
			return err
		}
		return errors.New("the disk does not take it")
	}})
	return c
}

func (c *court) send(id event.RoomID, by event.UserID, typ string, key *string, content string) event.ID {
	c.t.Helper()
	e, err := c.rooms.Send(c.t.Context(), room.Draft{Room: id, Sender: by, Type: typ, StateKey: key, Content: json.RawMessage(content)})
	if err != nil {
		c.t.Fatal(err)
	}
	return e
}

func (c *court) level(id event.ID) (l priority.Level) {
	c.t.Helper()
	p, _, err := c.rooms.Event(c.t.Context(), id)
	if err != nil {
		c.t.Fatal(err)
	}
	err = c.db.View(context.Background(), func(r *store.Read) (err error) {
		l, err = c.judge.Level(r, p)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return l
}

func (c *court) want(what string, id event.ID, want priority.Level) {
	c.t.Helper()
	if got := c.level(id); got != want {
		c.t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestJudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		defer c.db.Close()
		const chief, crew = event.UserID("@chief:box.test"), event.UserID("@crew:box.test")
		id, err := c.rooms.Create(t.Context(), room.CreateRequest{Creator: chief, Preset: "public_chat"})
		if err != nil {
			t.Fatal(err)
		}
		crewKey, empty := string(crew), ""
		c.want("a join", c.send(id, crew, "m.room.member", &crewKey, `{"membership":"join"}`), priority.Priority)
		const flash = `{"body":"x","msgtype":"m.text","org.hallig.priority":"flash"}`
		c.want("plain text", c.send(id, chief, "m.room.message", nil, `{"body":"x","msgtype":"m.text"}`), priority.Routine)
		first := c.send(id, chief, "m.room.message", nil, flash)
		c.want("flash of the creator", first, priority.Flash)
		c.want("flash without power", c.send(id, crew, "m.room.message", nil, flash), priority.Priority)
		c.want("encrypted", c.send(id, chief, "m.room.encrypted", nil, `{"ciphertext":"x","org.hallig.priority":"immediate"}`), priority.Immediate)
		c.want("the word inside the text", c.send(id, chief, "m.room.message", nil, `{"body":"org.hallig.priority flash","msgtype":"m.text"}`), priority.Routine)
		c.want("no level", c.send(id, chief, "m.room.message", nil, `{"body":"x","msgtype":"m.text","org.hallig.priority":"SOS"}`), priority.Routine)
		c.want("a redaction", c.send(id, chief, "m.room.redaction", nil, `{"redacts":"`+string(first)+`","org.hallig.priority":"flash"}`), priority.Routine)

		c.send(id, chief, priority.Type, &empty, `{"default":"immediate","power":{"immediate":0},"per_10_min":{"immediate":2},"lifetime_min":{"immediate":30}}`)
		var said []event.ID
		for range 3 {
			said = append(said, c.send(id, crew, "m.room.message", nil, `{"body":"x","msgtype":"m.text"}`))
		}
		c.want("the room's default", said[0], priority.Immediate)
		c.want("the room's default, again", said[1], priority.Immediate)
		c.want("beyond the limit", said[2], priority.Priority)
		c.want("the same, asked again", said[2], priority.Priority)
		c.want("a reaction has no default", c.send(id, crew, "m.reaction", nil, `{}`), priority.Routine)
		c.want("lowered by the sender", c.send(id, crew, "m.room.message", nil, `{"body":"x","msgtype":"m.text","org.hallig.priority":"bulk"}`), priority.Bulk)

		time.Sleep(29 * time.Minute)
		c.want("just before its time is over", said[0], priority.Immediate)
		time.Sleep(2 * time.Minute)
		c.want("after its time", said[0], priority.Routine)
		c.judge = New()
		c.want("after a restart", said[0], priority.Routine)

		c.send(id, chief, priority.Type, &empty, `{"power":{"flash":0}}`)
		late := c.send(id, crew, "m.room.message", nil, flash)
		c.judge = New()
		c.want("after a restart, still young", late, priority.Flash)
	})
}

// What came in raised is told once, and only when it is in the stream.
func TestNews(t *testing.T) {
	c := newCourt(t)
	defer c.db.Close()
	id, err := c.rooms.Create(t.Context(), room.CreateRequest{Creator: "@chief:box.test"})
	if err != nil {
		t.Fatal(err)
	}
	c.send(id, "@chief:box.test", "m.room.message", nil, `{"body":"x","msgtype":"m.text"}`)
	before := c.db.Published()
	e := c.send(id, "@chief:box.test", "m.room.message", nil, `{"body":"x","msgtype":"m.text","org.hallig.priority":"flash"}`)
	if n := c.judge.News(before); len(n) != 0 {
		t.Errorf("told too early: %+v", n)
	}
	n := c.judge.News(c.db.Published())
	if len(n) != 1 || n[0].Event != e || n[0].Room != id || n[0].Level != priority.Flash || n[0].Quiet != 5*time.Minute {
		t.Errorf("news: %+v", n)
	}
	if n := c.judge.News(1 << 62); len(n) != 0 {
		t.Errorf("told twice: %+v", n)
	}
	c.fail = true
	const flash = `{"body":"y","msgtype":"m.text","org.hallig.priority":"flash"}`
	for range 50 {
		if _, err := c.rooms.Send(t.Context(), room.Draft{Room: id, Sender: "@chief:box.test", Type: "m.room.message", Content: json.RawMessage(flash)}); err == nil {
			t.Fatal("stored all the same")
		}
	}
	c.fail = false
	e = c.send(id, "@chief:box.test", "m.room.message", nil, flash)
	if n := c.judge.News(1 << 62); len(n) != 1 || n[0].Event != e {
		t.Errorf("what was not stored is told, or counts: %+v", n)
	}
	c.want("after many that were not stored", e, priority.Flash)
}
