// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"fmt"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/sync/parcel"
)

// When the memory of names is nearly full, both ends begin a new one, and nothing is lost or doubled.
func TestWornSessionIsRenewed(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b := w.box("anna"), w.box("bert")
		pair(a, b)
		wire := newWire("w", 9600, 50*time.Millisecond)
		a.on(wire)
		b.on(wire)
		w.start()
		pass(time.Minute)
		id := a.create("anna")
		b.join(a, id, "bert")
		pass(time.Minute)
		var msgs []event.ID
		talk := func() {
			for i := range 5 {
				msgs = append(msgs, a.text(id, "anna", fmt.Sprint("links ", i)), b.text(id, "bert", fmt.Sprint("rechts ", i)))
			}
		}
		session := func() (s *parcel.Session) {
			done := make(chan struct{})
			a.link.post(func() {
				for _, f := range a.link.fars {
					s = f.session
				}
				close(done)
			})
			<-done
			return s
		}
		talk()
		pass(time.Minute)
		old := session()
		worn := make(chan struct{})
		a.link.post(func() {
			defer close(worn)
			for i := 0; !old.Worn(); i++ {
				if _, _, _, err := old.Encode(parcel.MaxMessage, &parcel.EDU{Type: fmt.Sprint("name ", i)}); err != nil || i > 1<<16 {
					t.Errorf("%d names: %v", i, err)
					return
				}
			}
		})
		<-worn
		talk()
		pass(2 * time.Minute)
		if s := session(); s == old || s == nil || s.Worn() {
			t.Error("the session was not renewed")
		}
		want(t, id, msgs, a, b)
	})
}
