// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/store"
	"hallig/radio/ether"
	"hallig/sync/parcel"
)

// notices lists what a box shows as not yet verified.
func (b *box) notices(id event.RoomID) (out []store.Notice) {
	b.w.t.Helper()
	err := b.db.View(b.w.t.Context(), func(r *store.Read) (err error) {
		out, err = r.Notices(id)
		return err
	})
	if err != nil {
		b.w.t.Fatal(err)
	}
	return out
}

// A flash text is shown before its signature is there, as not verified and outside the room; the signature makes the event of it, and the notice is gone.
func TestNoticeGoesAhead(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 1})
		a.says(id, "anna", "macht die Namen bekannt", priority.Flash)
		pass(2 * time.Minute)
		const text = "Deich bricht bei Kilometer 7, alle zum Siel"
		e := a.says(id, "anna", text, priority.Flash)
		shown := until(t, time.Minute, "notice", func() bool { return len(b.notices(id)) == 1 })
		if b.shows(id, e) {
			t.Error("the event was there before its notice: nothing went ahead")
		}
		n := b.notices(id)[0]
		var c struct {
			Body string `json:"body"`
		}
		if err := json.Unmarshal(n.Content, &c); err != nil || c.Body != text || n.Sender != a.user("anna") || n.Box != string(a.peer.ID) || n.Expired {
			t.Errorf("notice: %+v, %v", n, err)
		}
		verified := shown + until(t, time.Minute, "event", func() bool { return b.shows(id, e) })
		if left := b.notices(id); len(left) != 0 {
			t.Errorf("the event is there and its notice still shown: %+v", left)
		}
		if verified-shown < 300*time.Millisecond {
			t.Errorf("shown after %v, verified after %v: the signature cost no time", shown, verified)
		}
		t.Logf("at 1200 bit/s: shown after %v, verified after %v", shown, verified)
	})
}

// Behind a long backlog of its own room a flash is shown within seconds, survives a restart of the box that shows it, and becomes an event in its turn.
func TestNoticeOverBacklog(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 2})
		a.state(id, "anna", priority.Type, "", map[string]any{"quiet_min": 0})
		pass(time.Minute)
		var msgs []event.ID
		msgs = append(msgs, b.timeline(id)...)
		for i := range 100 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprintf("Meldung %d aus der Zeit, in der die Leitung tot war", i)))
		}
		pass(10 * time.Second)
		e := a.says(id, "anna", "Damm gebrochen", priority.Flash)
		msgs = append(msgs, e)
		took := until(t, time.Minute, "notice", func() bool { return len(b.notices(id)) == 1 })
		if took > 12*time.Second {
			t.Errorf("a flash was shown after %v", took)
		}
		if b.shows(id, e) || len(b.timeline(id)) > 60 {
			t.Errorf("there was no backlog: %d texts are there", len(b.timeline(id)))
		}
		b.halt()
		b.start()
		if n := b.notices(id); len(n) != 1 {
			t.Errorf("after a restart %d notices are shown, want 1", len(n))
		}
		until(t, 10*time.Minute, "event", func() bool { return b.shows(id, e) })
		pass(2 * time.Minute)
		if n := b.notices(id); len(n) != 0 {
			t.Errorf("still shown as not verified: %+v", n)
		}
		want(t, id, msgs, a, b)
	})
}

// What a hostile box claims ahead of events is not shown.
func TestHostileNotices(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 3})
		secret := a.create("anna")
		b.join(a, secret, "bert")
		a.state(secret, "anna", "m.room.encryption", "", map[string]string{"algorithm": "m.megolm.v1.aes-sha2"})
		pass(5 * time.Minute)
		const flash = `{"body":"x","msgtype":"m.text","org.hallig.priority":"flash"}`
		fine := parcel.Notice{Log: parcel.LogRef{Box: a.peer.ID, Epoch: 7, Seq: 1000}, Room: id, Sender: a.user("anna"), TS: 1, Content: []byte(flash)}
		try := func(from, at *box, change func(*parcel.Notice)) string {
			t.Helper()
			n := fine
			change(&n)
			f := at.link.fars[from.peer.ID] // at rest: nobody else works on it
			_, why, err := f.keepNotice(t.Context(), &n)
			if err != nil {
				t.Fatal(err)
			}
			return why
		}
		for what, change := range map[string]func(*parcel.Notice){
			"of another server's user":   func(n *parcel.Notice) { n.Sender = b.user("bert") },
			"at a place of another box":  func(n *parcel.Notice) { n.Log.Box = b.peer.ID },
			"in a room that is not here": func(n *parcel.Notice) { n.Room = "!nowhere" },
			"of somebody who is not in":  func(n *parcel.Notice) { n.Sender = a.user("nobody") },
			"in an encrypted room":       func(n *parcel.Notice) { n.Room = secret },
			"that is no flash":           func(n *parcel.Notice) { n.Content = []byte(`{"body":"x","msgtype":"m.text"}`) },
			"that is no JSON":            func(n *parcel.Notice) { n.Content = []byte(`{"body":"x"`) },
			"that is no text":            func(n *parcel.Notice) { n.Content = []byte(`{"org.hallig.priority":"flash"}`) },
		} {
			if why := try(a, b, change); why == "" {
				t.Errorf("a notice %s was taken", what)
			}
		}
		if why := try(b, a, func(n *parcel.Notice) { n.Log.Box, n.Sender = b.peer.ID, b.user("bert") }); why == "" {
			t.Error("a notice of a user without power was taken")
		}
		if n := append(b.notices(id), a.notices(id)...); len(n) != 0 {
			t.Errorf("shown: %+v", n)
		}
		taken := 0
		for i := range 20 {
			if try(a, b, func(n *parcel.Notice) { n.Log.Seq += uint64(i) }) == "" {
				taken++
			}
		}
		if taken != 5 {
			t.Errorf("%d of 20 notices of one user were taken, want 5: the limit of a room without a policy", taken)
		}
		pass(61 * time.Minute)
		shown := b.notices(id)
		for _, n := range shown {
			if !n.Expired {
				t.Errorf("after an hour without a signature a notice is not marked: %+v", n)
			}
		}
		if len(shown) != 5 {
			t.Errorf("after an hour %d notices are shown, want 5", len(shown))
		}
		pass(24 * time.Hour)
		if n := b.notices(id); len(n) != 0 {
			t.Errorf("after a day %d notices are shown, want none", len(n))
		}
	})
}
