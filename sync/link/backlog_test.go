// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/room"
	"hallig/radio/ether"
)

// backlog lets anna write texts that nobody hears yet.
func backlog(a *box, id event.RoomID, n int) (out []event.ID) {
	for i := range n {
		out = append(out, a.text(id, "anna", fmt.Sprintf("Meldung %d aus der Zeit, in der das Kabel nicht steckte", i)))
	}
	return out
}

// sends sends an event of any type.
func (b *box) sends(id event.RoomID, by, typ string, content any) event.ID {
	b.w.t.Helper()
	body, _ := json.Marshal(content)
	eid, err := b.rooms.Send(b.w.t.Context(), room.Draft{Room: id, Sender: b.user(by), Type: typ, Content: body})
	if err != nil {
		b.w.t.Fatalf("%s sends %s: %v", b.user(by), typ, err)
	}
	return eid
}

// What a flash builds on goes with it: the quiet that the flash itself begins holds back what other rooms have, and nothing that the flash needs.
func TestFlashTakesItsBacklogAlong(t *testing.T) {
	for _, way := range []string{"plugged in later", "under way", "after a restart", "encrypted"} {
		t.Run(way, func(t *testing.T) {
			run(t, func(t *testing.T, w *world) {
				a, b, id, air := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 1})
				other := a.create("anna")
				b.join(a, other, "bert")
				pass(5 * time.Minute)
				if way != "under way" {
					air.Cut(true)
					pass(5 * time.Minute)
				}
				msgs := b.timeline(id)
				elsewhere := backlog(a, other, 20)
				msgs = append(msgs, backlog(a, id, 60)...)
				var e event.ID
				if way == "encrypted" { // no text can go ahead
					e = a.sends(id, "anna", "m.room.encrypted", map[string]string{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgA", priority.Type: "flash"})
				} else {
					e = a.says(id, "anna", "Damm gebrochen", priority.Flash)
					msgs = append(msgs, e)
				}
				if way == "after a restart" {
					a.halt()
					a.start()
				}
				pass(time.Second)
				air.Cut(false)
				there := func() bool { return len(b.all(id, "m.room.encrypted")) == 1 || b.shows(id, e) }
				shown := until(t, 3*time.Minute, "notice or event", func() bool { return len(b.notices(id)) == 1 || there() })
				took := shown + until(t, 3*time.Minute, "signed event", there)
				t.Logf("shown after %v, signed after %v", shown, took)
				if shown > 30*time.Second && way != "encrypted" {
					t.Errorf("the flash was shown after %v", shown)
				}
				if n := count(elsewhere, b.timeline(other)); way != "after a restart" && n < 10 {
					t.Errorf("%d of 20 routine texts of another room wait: there was no quiet", n)
				}
				pass(10 * time.Minute)
				want(t, id, msgs, a, b)
				want(t, other, append(elsewhere, b.timeline(other)[20:]...), a, b)
			})
		})
	}
}

// An immediate text in the quiet after a flash takes along what it builds on, however much that is.
func TestImmediateTakesItsBacklogAlong(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 2})
		other := a.create("anna")
		b.join(a, other, "bert")
		pass(5 * time.Minute)
		a.says(other, "anna", "Ruhe im Kanal", priority.Flash)
		pass(30 * time.Second)
		elsewhere := backlog(a, other, 20)
		msgs := append(b.timeline(id), backlog(a, id, 60)...)
		pass(20 * time.Second)
		if n := count(msgs, b.timeline(id)); n != 60 {
			t.Fatalf("%d of 60 texts wait: there is no quiet", n)
		}
		e := a.says(id, "anna", "Brauchen zwei Boote am Siel", priority.Immediate)
		msgs = append(msgs, e)
		took := until(t, 3*time.Minute, "event", func() bool { return b.shows(id, e) })
		t.Logf("there after %v", took)
		if n := count(elsewhere, b.timeline(other)); n != 20 || a.link.Quiet().IsZero() {
			t.Errorf("%d of 20 routine texts of another room wait in the quiet", n)
		}
		want(t, id, msgs, a, b)
	})
}

// A flash of the far box's own user raises nothing of what that box lacks: it was written without it.
func TestFlashOfOthersRaisesNothing(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, air := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 3})
		a.state(id, "anna", priority.Type, "", map[string]any{"power": map[string]int{"flash": 0}, "quiet_min": 20})
		pass(time.Minute)
		air.Cut(true)
		pass(5 * time.Minute)
		texts := backlog(a, id, 100)
		e := b.says(id, "bert", "Ruhe im Kanal", priority.Flash)
		air.Cut(false)
		until(t, time.Minute, "flash", func() bool { return a.shows(id, e) })
		air.Cut(true)
		pass(5 * time.Minute)
		air.Cut(false) // what is owed is read anew
		pass(3 * time.Minute)
		if n := count(texts, b.timeline(id)); n < 60 || b.link.Quiet().IsZero() {
			t.Errorf("%d of 100 texts wait in the quiet", n)
		}
		pass(20 * time.Minute)
		want(t, id, append(texts, e), a, b)
	})
}

// The first flash after the cable is plugged in does not wait until both ends have told each other where they stand.
func TestFlashGoesBeforeTheGreeting(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, air := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 6})
		old := a.says(id, "anna", "ein älterer Blitz", priority.Flash)
		until(t, time.Minute, "event", func() bool { return b.shows(id, old) })
		pass(time.Minute)
		air.Cut(true)
		pass(5 * time.Minute)
		e := a.says(id, "anna", "Damm gebrochen", priority.Flash)
		air.Cut(false)
		up := until(t, time.Minute, "contact", func() bool { return a.link.Status()[0].Carries != "" })
		shown := until(t, time.Minute, "notice", func() bool { return len(b.notices(id)) > 0 })
		t.Logf("contact after %v, shown after another %v", up, shown)
		if shown > 3500*time.Millisecond {
			t.Errorf("a flash was shown %v after contact", shown)
		}
		if n := b.notices(id); len(n) != 1 {
			t.Errorf("%d notices, want 1: what is known to be there is not told again", len(n))
		}
		until(t, time.Minute, "event", func() bool { return b.shows(id, e) })
	})
}

// A box in between that has only the text of a flash passes on what that builds on while it comes in, through the quiet that the text has begun.
func TestBacklogPassesABoxInBetween(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		cfg := ether.Config{BitsPerSecond: 1200, Seed: 5}
		near, far := ether.New(cfg), ether.New(cfg)
		a, b, c := w.box("anna"), w.box("bert"), w.box("cora")
		pair(a, b)
		pair(b, c)
		radioed(near, cfg, a, b)
		radioed(far, cfg, b, c)
		w.start()
		pass(5 * time.Minute)
		id := a.create("anna")
		b.join(a, id, "bert")
		c.join(b, id, "cora")
		pass(10 * time.Minute)
		near.Cut(true)
		pass(5 * time.Minute)
		msgs := append(backlog(a, id, 60), a.says(id, "anna", "Damm gebrochen", priority.Flash))
		e := msgs[60]
		near.Cut(false)
		first := until(t, 3*time.Minute, "flash at the box in between", func() bool { return b.shows(id, e) })
		second := until(t, 3*time.Minute, "flash at the last box", func() bool { return c.shows(id, e) })
		t.Logf("%v to the box in between, another %v to the last", first, second)
		if second > first/2+5*time.Second {
			t.Errorf("the flash took %v to the box in between and another %v to the last: what it builds on waited there", first, second)
		}
		pass(10 * time.Minute)
		want(t, id, msgs, a, b, c)
	})
}
