// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// What a log's own box has called none of their business stands in front of its next message at two boxes. The one in between knows that the other
// was before the hole when they greeted, and is not told that it has come past it: still the message goes on, in minutes, not with the next greeting.
func TestWhatStandsBehindAHoleGoesOn(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		west, east := newWire("west", 1e6, 5*time.Millisecond), newWire("east", 1e6, 5*time.Millisecond)
		a, b, m := w.box("anna"), w.box("bert"), w.box("mala")
		pair(a, b)
		pair(b, m)
		a.on(west)
		b.on(west).on(east)
		m.on(east)
		w.start()
		pass(time.Second)
		id := a.create("anna")
		b.join(a, id, "bert")
		pass(time.Second)
		m.join(b, id, "mala")
		msgs := []event.ID{m.text(id, "mala", "before")}
		pass(time.Minute)
		want(t, id, msgs, a, b, m)
		east.setCut(true)
		pass(time.Second)
		for _, s := range []string{"one", "two", "three"} {
			msgs = append(msgs, m.text(id, "mala", s))
		}
		l := m.logOf(id, m)
		for _, x := range []*box{a, b} {
			x.do(func(tx *store.Tx) error {
				_, err := tx.MarkEntry(id, l.Box, l.Epoch, l.Top, 2, 0)
				return err
			})
		}
		east.setCut(false)
		pass(time.Minute)
		msgs = append(msgs, m.text(id, "mala", "after"))
		pass(10 * time.Minute)
		want(t, id, msgs, m, b)
		want(t, id, msgs, a)
	})
}
