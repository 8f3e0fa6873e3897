// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/store"
	"hallig/radio/ether"
)

// goesAs is how urgent a box says that an event goes.
func (b *box) goesAs(e event.ID) (l priority.Level) {
	b.w.t.Helper()
	err := b.db.View(b.w.t.Context(), func(r *store.Read) error {
		row, err := r.Event(e)
		if err != nil {
			return err
		}
		l, err = b.link.Urgency(r, row)
		return err
	})
	if err != nil {
		b.w.t.Fatal(err)
	}
	return l
}

// The forecast counts the quiet for what it holds, and only for that; it says when no way leads there. What goes with an urgent event has its forecast.
func TestForecastInQuiet(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, air := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 8})
		expect := func(l priority.Level, ahead int) Outlook { return a.link.Expect(b.name, id, l, ahead, 100) }
		before := expect(priority.Routine, 0)
		if before.In <= 0 || before.In > 5*time.Second || before.Quiet || before.Away {
			t.Errorf("on an idle line: %+v", before)
		}
		e := a.says(id, "anna", "Ruhe im Kanal", priority.Flash)
		until(t, time.Minute, "flash", func() bool { return b.shows(id, e) })
		pass(time.Minute)
		held := a.text(id, "anna", "gewöhnlicher Verkehr")
		if l := a.goesAs(held); l != priority.Routine {
			t.Errorf("a text after the flash goes as %v", l)
		}
		o := expect(priority.Routine, 0)
		left := time.Until(a.link.Quiet())
		if !o.Quiet || o.In < left || o.In > left+5*time.Second {
			t.Errorf("routine in a quiet of another %v: %+v", left, o)
		}
		if o := expect(priority.Priority, 0); o.Quiet || o.In <= 0 || o.In > 5*time.Second {
			t.Errorf("raised in the quiet: %+v", o)
		}
		came := until(t, 10*time.Minute, "held text", func() bool { return b.shows(id, held) })
		if off := came - o.In; off < -5*time.Second || off > 15*time.Second {
			t.Errorf("it came after %v, forecast was %v", came, o.In)
		}
		air.Cut(true)
		pass(5 * time.Minute)
		if o := expect(priority.Routine, 0); !o.Away || o.In != 0 {
			t.Errorf("with the line cut: %+v", o)
		}
		texts := backlog(a, id, 60)
		e = a.says(id, "anna", "Damm gebrochen", priority.Flash)
		if l, m := a.goesAs(texts[0]), a.goesAs(e); l != priority.Flash || m != priority.Flash {
			t.Errorf("a flash goes as %v, what it builds on as %v", m, l)
		}
		air.Cut(false)
		until(t, time.Minute, "contact", func() bool { return a.link.Status()[0].Carries != "" })
		o = expect(a.goesAs(e), 60)
		came = until(t, 10*time.Minute, "flash with its backlog", func() bool { return b.shows(id, e) })
		t.Logf("a flash and 60 texts: forecast %v, there after %v", o.In, came)
		if o.Quiet || o.In < came/2 || o.In > 3*came {
			t.Errorf("the forecast was %+v, it took %v", o, came)
		}
	})
}

// Who asks how far a flash has got hears that its text has gone ahead, and that it has arrived, while the signature waits behind a backlog.
func TestHeralded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 9})
		backlog(a, id, 40)
		pass(5 * time.Second)
		e := a.says(id, "anna", "Damm gebrochen", priority.Flash)
		until(t, time.Minute, "text goes ahead", func() bool { _, ok := a.link.Heralded(b.name, e); return ok })
		until(t, time.Minute, "notice", func() bool { return len(b.notices(id)) == 1 })
		until(t, 10*time.Second, "the answer to the notice", func() bool { h, _ := a.link.Heralded(b.name, e); return h.Arrived })
		if b.shows(id, e) {
			t.Error("the event was there as soon as its text: nothing went ahead")
		}
		if h, _ := a.link.Heralded(b.name, e); h.Transport != "serial:tty0" || h.Left.IsZero() || time.Since(h.Left) > time.Minute {
			t.Errorf("%+v", h)
		}
		if h, ok := a.link.Heralded("cora.test", e); ok {
			t.Errorf("to somebody else: %+v", h)
		}
		for i := range 300 {
			a.link.heralded(b.name, event.ID(rune(i)), "x", true)
		}
		if n, m := len(a.link.heralds), len(a.link.heraldOrder); n > mostHeralds || m != n {
			t.Errorf("%d are remembered, in an order of %d", n, m)
		}
	})
}
