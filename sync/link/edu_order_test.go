// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"hallig/appliance/event"
)

// in runs f in the loop of a box and waits for it.
func (b *box) in(f func(l *Link)) {
	done := make(chan struct{})
	b.link.post(func() { f(b.link); close(done) })
	<-done
}

// tookAll checks that a box took EDUs in order, each at least once and none too few.
func tookAll(t *testing.T, b *box, contents ...string) {
	t.Helper()
	var got []string
	for _, e := range b.took() {
		if len(got) == 0 || got[len(got)-1] != e {
			got = append(got, e)
		}
	}
	if len(got) != len(contents) {
		t.Fatalf("%q were taken, want %q", got, contents)
	}
	for i, c := range contents {
		if want := "anna.test m.direct_to_device " + c; got[i] != want {
			t.Errorf("%q was taken, want %q", got[i], want)
		}
	}
}

// What is under way is taken back while the queue is being read: what the reading gave goes nevertheless, and before what follows.
func TestEDUsTakenBackWhileRead(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		boxes, _ := row(w, &tap{}, 1e5, "anna", "dora")
		a, d := boxes[0], boxes[1]
		w.start()
		pass(30 * time.Second)
		var all []string
		for i := range 20 {
			first, second := fmt.Sprintf(`{"n":%d}`, 2*i), fmt.Sprintf(`{"n":%d}`, 2*i+1)
			all = append(all, first, second)
			a.in(func(l *Link) {
				a.edu(d, first) // the loop hears of it afterwards
				f := l.fars[d.peer.ID]
				f.edusDue = true
				f.read(f.active)
				f.forget()
				f.read(f.active)
				f.forget()
				f.read(f.active)
			})
			pass(time.Second)
			a.edu(d, second)
			pass(10 * time.Minute)
		}
		tookAll(t, d, all...)
	})
}

// The same of events: what a reading gave is not left as under way, to be missed only much later.
func TestEventsTakenBackWhileRead(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, d, id := two(w, newWire("p2p", 1e6, 5*time.Millisecond))
		pass(30 * time.Second)
		var msgs []event.ID
		for i := range 20 {
			a.in(func(l *Link) {
				msgs = append(msgs, a.text(id, "anna", fmt.Sprint(i))) // the loop hears of it afterwards
				f := l.fars[d.peer.ID]
				f.feed.Touch(id)
				f.more = true
				f.read(f.active)
				f.forget()
				f.feed.Touch(id) // as the greeting does that follows
				f.read(f.active)
				f.forget()
				f.feed.Touch(id)
				f.read(f.active)
			})
			pass(2 * time.Second)
			want(t, id, msgs, a, d)
			if t.Failed() {
				t.Fatalf("message %d", i)
			}
		}
	})
}

// A far box has answered for mail and cannot use it, as after a restart in between: nothing that follows may stand for it.
func TestEDUByMailNotTaken(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		boxes, _ := row(w, &tap{}, 1e5, "anna", "mia", "dora")
		a, d := boxes[0], boxes[2]
		pair(a, d)
		w.start()
		pass(time.Minute)
		failed := 0
		d.mu.Lock()
		d.fail = func(string) error {
			if failed++; failed == 1 {
				return errors.New("no")
			}
			return nil
		}
		d.mu.Unlock()
		a.edu(d, `{"n":1}`)
		pass(2 * time.Minute)
		a.edu(d, `{"n":2}`)
		pass(2 * time.Hour)
		if failed < 2 {
			t.Fatalf("%d EDUs came", failed)
		}
		tookAll(t, d, `{"n":1}`, `{"n":2}`)
	})
}
