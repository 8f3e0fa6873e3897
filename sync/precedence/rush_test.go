// SPDX-License-Identifier: EUPL-1.2

package precedence

import (
	"testing"
	"testing/synctest"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// What is in a room before a raised event is as urgent as that, for as long as it is raised; what came after it is not. A judge that was not there when it came finds it.
func TestRush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		defer c.db.Close()
		const chief = event.UserID("@chief:box.test")
		id, err := c.rooms.Create(t.Context(), room.CreateRequest{Creator: chief, Preset: "public_chat"})
		if err != nil {
			t.Fatal(err)
		}
		text := func(level string) event.ID {
			return c.send(id, chief, "m.room.message", nil, `{"body":"x","msgtype":"m.text","org.hallig.priority":"`+level+`"}`)
		}
		var said []event.ID
		for _, level := range []string{"routine", "immediate", "routine", "flash", "routine"} {
			said = append(said, text(level))
		}
		wants := func(when string, want ...priority.Level) {
			t.Helper()
			err := c.db.View(t.Context(), func(r *store.Read) error {
				rush, err := c.judge.Rush(r, id)
				if err != nil {
					return err
				}
				for i, e := range said {
					nid, err := r.EventNID(e)
					if err != nil {
						return err
					}
					got := rush.Of(nid)
					if got.Level != want[i] {
						t.Errorf("%s: text %d goes as %v, want %v", when, i, got.Level, want[i])
					}
					if got.Level < priority.Routine && (got.Event == "" || got.Sender != chief) {
						t.Errorf("%s: text %d goes for the sake of %+v", when, i, got)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		flash, immediate, routine := priority.Flash, priority.Immediate, priority.Routine
		wants("at once", flash, flash, flash, flash, routine)
		c.judge = New()
		wants("after a restart", flash, flash, flash, flash, routine)
		empty := ""
		c.send(id, chief, priority.Type, &empty, `{"power":{"flash":1000000}}`)
		time.Sleep(61 * time.Minute)
		wants("when the flash has run out", immediate, immediate, routine, routine, routine)
		c.judge = New()
		wants("then, after a restart", immediate, immediate, routine, routine, routine)
		time.Sleep(4 * time.Hour)
		wants("when all has run out", routine, routine, routine, routine, routine)
		if some, looked := c.judge.Rushes(id); some || !looked {
			t.Errorf("what has run out is remembered: %v, looked for: %v", some, looked)
		}
	})
}

// An event whose transaction does not come through raises nothing, whoever has its number afterwards.
func TestRushTakenBack(t *testing.T) {
	c := newCourt(t)
	defer c.db.Close()
	const chief = event.UserID("@chief:box.test")
	id, err := c.rooms.Create(t.Context(), room.CreateRequest{Creator: chief, Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	c.send(id, chief, "m.room.message", nil, `{"body":"x","msgtype":"m.text"}`)
	c.judge.mu.Lock()
	c.judge.rushed(id, raised{"$never", 1 << 40, priority.Flash, time.Now(), chief})
	c.judge.mu.Unlock()
	err = c.db.View(t.Context(), func(r *store.Read) error {
		rush, err := c.judge.Rush(r, id)
		if len(rush) > 0 {
			t.Errorf("raised: %+v", rush)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
