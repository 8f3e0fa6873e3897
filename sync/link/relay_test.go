// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/relay"
)

// tap remembers all that went over wires.
type tap struct {
	mu   sync.Mutex
	said [][]byte
}

func (x *tap) on(w *wire) *wire {
	w.fate = func(_, _ string, msg []byte) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.said = append(x.said, bytes.Clone(msg))
		return nil
	}
	return w
}

func (x *tap) heard(what string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range x.said {
		if bytes.Contains(m, []byte(what)) {
			return true
		}
	}
	return false
}

// row makes boxes that carry for each other, each wired to the next; neighbours are paired.
func row(w *world, x *tap, bps int, names ...string) (boxes []*box, nets []*wire) {
	for i, name := range names {
		b := w.box(name)
		b.carries = true
		boxes = append(boxes, b)
		if i > 0 {
			net := x.on(newWire(fmt.Sprint("net", i), bps, 10*time.Millisecond))
			pair(boxes[i-1], b)
			boxes[i-1].on(net)
			b.on(net)
			nets = append(nets, net)
		}
	}
	return boxes, nets
}

// holds says whether a box's files hold a text.
func (b *box) holds(t *testing.T, what string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.dir, "hallig.db*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("files of %s: %v, %v", b.name, files, err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(what)) {
			return true
		}
	}
	return false
}

// edu queues an EDU for another box.
func (b *box) edu(to *box, content string) {
	b.w.t.Helper()
	err := b.db.Do(b.w.t.Context(), func(tx *store.Tx) error { return tx.EnqueueEDU(to.name, "m.direct_to_device", "", []byte(content)) })
	if err != nil {
		b.w.t.Fatal(err)
	}
}

// Five boxes in a chain; the two at the ends are in a room, the three between are not and read nothing of it.
func TestRelayChain(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		x := &tap{}
		boxes, _ := row(w, x, 1e6, "anna", "berta", "carla", "dora", "emma")
		a, e := boxes[0], boxes[4]
		pair(a, e)
		w.start()
		pass(30 * time.Second)
		id := a.create("anna")
		e.join(a, id, "emma")
		pass(time.Minute)
		var msgs []event.ID
		for i := range 20 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("Deichbruch Nummer ", i)), e.text(id, "emma", fmt.Sprint("Verstanden Nummer ", i)))
			a.edu(e, fmt.Sprintf(`{"n":%d,"secret":"Lagewort"}`, i))
		}
		pass(5 * time.Minute)
		want(t, id, msgs, a, e)
		if got := len(e.took()); got != 20 {
			t.Errorf("%d EDUs arrived, want 20", got)
		}
		for _, b := range []*box{a, e} {
			for _, s := range b.link.Status() {
				if s.InFlight != 0 {
					t.Errorf("%s: %d events for %s are without a receipt", b.name, s.InFlight, s.Peer.Server)
				}
			}
		}
		for _, b := range boxes[1:4] {
			s, err := b.relay.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if s.Counts.Taken == 0 || len(s.Carrying) > 0 {
				t.Errorf("%s has carried %d parcels and still holds %v", b.name, s.Counts.Taken, s.Carrying)
			}
			b.halt()
			for _, what := range []string{"Deichbruch", "Verstanden", "Lagewort", string(id), strings.TrimPrefix(string(id), "!"), string(a.user("anna")), string(msgs[0])} {
				if b.holds(t, what) {
					t.Errorf("%s's database holds %q", b.name, what)
				}
			}
		}
		for _, what := range []string{"Deichbruch", "Verstanden", "Lagewort", string(id)} {
			if x.heard(what) {
				t.Errorf("%q went over a wire in clear", what)
			}
		}
		if !a.holds(t, string(id)) || !e.holds(t, "Lagewort") && !a.holds(t, "Lagewort") {
			t.Error("the test looks in the wrong place: not even the boxes in the room hold what they have")
		}
	})
}

// A ring: there are two ways round. What goes by both is read once, and when one is cut the other carries.
func TestRelayRing(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		x := &tap{}
		boxes, nets := row(w, x, 1e5, "anna", "berta", "carla", "dora", "emma")
		a, c, e := boxes[0], boxes[2], boxes[4]
		close := x.on(newWire("net5", 1e5, 10*time.Millisecond))
		pair(a, e)
		a.on(close)
		e.on(close)
		pair(a, c)
		w.start()
		pass(30 * time.Second)
		id := a.create("anna")
		c.join(a, id, "carla")
		pass(time.Minute)
		var msgs []event.ID
		say := func(what string) {
			for i := range 5 {
				msgs = append(msgs, a.text(id, "anna", fmt.Sprint(what, i)), c.text(id, "carla", fmt.Sprint(what, i)))
				a.edu(c, fmt.Sprintf(`{"n":"%s%d"}`, what, i))
			}
		}
		say("both ways ")
		pass(5 * time.Minute)
		want(t, id, msgs, a, c)
		nets[0].setCut(true)
		say("the long way ")
		pass(10 * time.Minute)
		want(t, id, msgs, a, c)
		nets[0].setCut(false)
		nets[2].setCut(true)
		say("the short way ")
		pass(10 * time.Minute)
		want(t, id, msgs, a, c)
		nets[1].setCut(true)
		say("no way ")
		pass(10 * time.Minute)
		nets[2].setCut(false)
		pass(30 * time.Minute)
		want(t, id, msgs, a, c)
		if got := len(c.took()); got != 20 {
			t.Errorf("%d EDUs had an effect, want 20, each once", got)
		}
		bytes := 0
		for _, n := range append(nets, close) {
			bytes += n.bytes()
		}
		pass(24 * time.Hour)
		for _, n := range append(nets, close) {
			bytes -= n.bytes()
		}
		if bytes < -2000 {
			t.Errorf("%d bytes went round an idle ring in a day", -bytes)
		}
	})
}

// A mule: a box that is sometimes here and sometimes there. The two ends never have a way between them.
func TestRelayMule(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		x := &tap{}
		boxes, nets := row(w, x, 1e6, "anna", "mia", "dora")
		a, d := boxes[0], boxes[2]
		pair(a, d)
		w.start()
		pass(30 * time.Second)
		id := a.create("anna")
		d.join(a, id, "dora")
		pass(time.Minute)
		nets[0].setCut(true)
		nets[1].setCut(true)
		var msgs []event.ID
		visit := func(net *wire) {
			net.setCut(false)
			pass(2 * time.Minute)
			net.setCut(true)
			pass(3 * time.Hour)
		}
		for day := range 3 {
			for i := range 10 {
				msgs = append(msgs, a.text(id, "anna", fmt.Sprint("day ", day, " from the coast ", i)))
				a.edu(d, fmt.Sprintf(`{"day":%d,"n":%d}`, day, i))
				if i%2 == 0 {
					msgs = append(msgs, d.text(id, "dora", fmt.Sprint("day ", day, " from the island ", i)))
				}
			}
			visit(nets[0])
			visit(nets[1])
			if got := len(d.timeline(id)); got != len(msgs) {
				t.Errorf("day %d: the island shows %d messages after one journey, want %d", day, got, len(msgs))
			}
			visit(nets[0])
			want(t, id, msgs, a, d)
		}
		// Receipts travel, too: in the end nobody carries anything and nothing is due.
		visit(nets[1])
		visit(nets[0])
		visit(nets[1])
		if got := len(d.took()); got != 30 {
			t.Errorf("%d EDUs had an effect, want 30", got)
		}
		for _, b := range []*box{a, d} {
			for _, s := range b.link.Status() {
				if s.InFlight > 0 {
					t.Errorf("%s: %d events for %s are without a receipt", b.name, s.InFlight, s.Peer.Server)
				}
			}
		}
		a.halt()
		d.halt()
		visit(nets[0])
		s, err := boxes[1].relay.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the mule has carried %d parcels; still there: %v", s.Counts.Taken, s.Carrying)
	})
}

// A carrier burns with all that it answered for. Nothing is lost: the writer still has it in its log.
func TestRelayBurns(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		x := &tap{}
		boxes, nets := row(w, x, 1e6, "anna", "mia", "dora")
		a, m, d := boxes[0], boxes[1], boxes[2]
		pair(a, d)
		w.start()
		pass(30 * time.Second)
		id := a.create("anna")
		d.join(a, id, "dora")
		pass(time.Minute)
		nets[1].setCut(true)
		pass(time.Minute)
		var msgs []event.ID
		for i := range 10 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("into the fire ", i)))
			a.edu(d, fmt.Sprint(`{"n":`, i, `}`))
		}
		pass(5 * time.Minute)
		if s, err := m.relay.Status(t.Context()); err != nil || len(s.Carrying) == 0 {
			t.Fatalf("the carrier carries %v, %v; want parcels for dora", s.Carrying, err)
		}
		m.halt()
		m.dir = t.TempDir() // another machine under the same key, from an empty disk
		m.start()
		nets[1].setCut(false)
		pass(48 * time.Hour)
		want(t, id, msgs, a, d)
		if got := len(d.took()); got != 10 {
			t.Errorf("%d EDUs had an effect, want 10", got)
		}
	})
}

// Everybody restarts at some time: what was carried, read or answered stays so.
func TestRelayRestarts(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		x := &tap{}
		boxes, nets := row(w, x, 1e5, "anna", "berta", "carla", "dora")
		a, d := boxes[0], boxes[3]
		pair(a, d)
		w.start()
		pass(30 * time.Second)
		id := a.create("anna")
		d.join(a, id, "dora")
		pass(time.Minute)
		var msgs []event.ID
		chance := dice(5)
		for round := range 24 {
			for i := range 3 {
				msgs = append(msgs, a.text(id, "anna", fmt.Sprint("a ", round, i)), d.text(id, "dora", fmt.Sprint("d ", round, i)))
				a.edu(d, fmt.Sprintf(`{"n":"%d/%d"}`, round, i))
			}
			pass(time.Duration(chance.IntN(30000)) * time.Millisecond)
			b := boxes[chance.IntN(4)]
			net := nets[chance.IntN(3)]
			b.halt()
			net.setCut(true)
			pass(time.Duration(chance.IntN(90000)) * time.Millisecond)
			b.start()
			net.setCut(false)
			pass(time.Duration(chance.IntN(10000)) * time.Millisecond)
		}
		pass(48 * time.Hour)
		want(t, id, msgs, a, d)
		took := map[string]int{}
		for _, e := range d.took() {
			took[e]++
		}
		if len(took) != 72 {
			t.Errorf("%d different EDUs arrived, want 72", len(took))
		}
		for _, b := range boxes {
			s, err := b.relay.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Carrying) > 0 || len(s.Mail) > 0 {
				t.Errorf("%s still carries %+v, %+v", b.name, s.Carrying, s.Mail)
			}
		}
	})
}

// sentTo counts the events that a box has sent to another one in full since forgetSeen.
func (b *box) sentTo(to *box) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.seen {
		if e.What == "sent" && e.Peer.ID == to.peer.ID {
			n++
		}
	}
	return n
}

// Three boxes in a row that are all in the room pass events on by their logs: nobody writes by mail what a nearer neighbour has anyway.
func TestRelayLeavesToLogs(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		x := &tap{}
		boxes, nets := row(w, x, 1e5, "anna", "berta", "carla")
		a, b, c := boxes[0], boxes[1], boxes[2]
		pair(a, c)
		w.start()
		pass(30 * time.Second)
		id := a.create("anna")
		b.join(a, id, "berta")
		c.join(b, id, "carla")
		pass(5 * time.Minute)
		a.forgetSeen()
		c.forgetSeen()
		var msgs []event.ID
		for i := range 10 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("a", i)), b.text(id, "berta", fmt.Sprint("b", i)), c.text(id, "carla", fmt.Sprint("c", i)))
		}
		a.edu(c, `{"to":"carla"}`)
		pass(5 * time.Minute)
		want(t, id, msgs, a, b, c)
		if n, m := a.sentTo(c), c.sentTo(a); n+m > 0 {
			t.Errorf("%d and %d events went by mail, too", n, m)
		}
		if len(c.took()) != 1 {
			t.Errorf("carla's box took %q, want the one EDU", c.took())
		}
		// The middle one leaves the room: now it carries what it may not read.
		b.state(id, "berta", "m.room.member", string(b.user("berta")), map[string]string{"membership": "leave"})
		pass(5 * time.Minute)
		for i := range 5 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("among two ", i)), c.text(id, "carla", fmt.Sprint("just us ", i)))
		}
		pass(10 * time.Minute)
		want(t, id, msgs, a, c)
		if n := a.sentTo(c); n < 5 || n > 6 { // the leaving may go as well
			t.Errorf("%d events went by mail, want 5", n)
		}
		// And what was on its way when the way changed is there as well, once.
		nets[0].setCut(true)
		msgs = append(msgs, a.text(id, "anna", "alone"))
		pass(time.Minute)
		nets[0].setCut(false)
		pass(10 * time.Minute)
		want(t, id, msgs, a, c)
	})
}

// A neighbour that came back into the room does not have what was written while it was out, and sends nothing that stands behind that: it is not
// left to it. What it has is, and is due again when it is no longer nearer.
func TestLeftIsOnlyWhatIsHeld(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		boxes, nets := row(w, &tap{}, 1e6, "anna", "berta", "carla")
		a, b, c := boxes[0], boxes[1], boxes[2]
		pair(a, c)
		w.start()
		pass(30 * time.Second)
		id := a.create("anna")
		b.join(a, id, "berta")
		c.join(b, id, "carla")
		pass(5 * time.Minute)
		nets[1].setCut(true)
		pass(5 * time.Second)
		both := a.text(id, "anna", "berta is here")
		pass(5 * time.Second)
		b.state(id, "berta", "m.room.member", string(b.user("berta")), map[string]string{"membership": "leave"})
		pass(5 * time.Second)
		rest := []event.ID{a.text(id, "anna", "berta is out")}
		pass(5 * time.Second)
		b.join(a, id, "berta")
		pass(5 * time.Second)
		rest = append(rest, a.text(id, "anna", "berta is back"))

		f := a.link.Outbox().Feed(c.peer)
		nearer := []peer.Peer{b.peer}
		if err := f.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		due := func(what string, want ...event.ID) (last parcel.LogRef) {
			t.Helper()
			if err := f.TouchAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			items, err := f.Next(t.Context(), 100)
			if err != nil {
				t.Fatal(err)
			}
			var got []event.ID
			for _, it := range items {
				if it.Event != nil && it.Event.PDU.Type == "m.room.message" {
					got, last = append(got, it.ID), it.Event.Log
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %d messages are due, want %d: %v, want %v", what, len(got), len(want), got, want)
			}
			return last
		}
		f.LeaveTo(nearer, true)
		due("with berta's box in between", rest...)
		due("and no more")
		f.LeaveTo(nil, true)
		last := due("without it", append([]event.ID{both}, rest...)...)
		f.LeaveTo(nearer, true)
		due("with it again, all being under way")
		kept := parcel.Vector{Room: id, Box: last.Box, Epoch: last.Epoch, Upto: last.Seq}
		if _, err := f.Kept(t.Context(), &parcel.Kept{Vectors: []parcel.Vector{kept}}); err != nil {
			t.Fatal(err)
		}
		next := a.text(id, "anna", "behind all that")
		due("behind what is kept")
		f.LeaveTo(nil, true)
		due("behind what is kept, without berta's box", next)
	})
}

// A member, a member, a stranger, a member: the one next to the stranger writes for both.
func TestRelayBesideAMember(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		x := &tap{}
		boxes, _ := row(w, x, 1e5, "anna", "berta", "rosa", "carla")
		a, b, c := boxes[0], boxes[1], boxes[3]
		pair(a, c)
		pair(b, c)
		w.start()
		pass(30 * time.Second)
		id := a.create("anna")
		b.join(a, id, "berta")
		c.join(b, id, "carla")
		pass(20 * time.Minute)
		a.forgetSeen()
		b.forgetSeen()
		var msgs []event.ID
		for i := range 10 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("a", i)), b.text(id, "berta", fmt.Sprint("b", i)), c.text(id, "carla", fmt.Sprint("c", i)))
		}
		pass(5 * time.Minute)
		want(t, id, msgs, a, b, c)
		if a.sentTo(c) > 0 || b.sentTo(c) != 20 {
			t.Errorf("anna's box sent %d events to carla's, berta's %d; want 0 and 20", a.sentTo(c), b.sentTo(c))
		}
	})
}

// Flash goes to everybody, and a box that is not on the way at all carries it when the way is cut right after.
func TestRelayFlash(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		x := &tap{}
		boxes, nets := row(w, x, 1e5, "anna", "rosa", "dora")
		a, d := boxes[0], boxes[2]
		m := w.box("mia") // sometimes with anna, sometimes with dora
		m.carries = true
		pair(a, m)
		pair(m, d)
		pair(a, d)
		with, there := x.on(newWire("with", 1e5, time.Millisecond)), x.on(newWire("there", 1e5, time.Millisecond))
		a.on(with)
		m.on(with).on(there)
		d.on(there)
		w.start()
		there.setCut(true)
		pass(30 * time.Second)
		id := a.create("anna")
		d.join(a, id, "dora")
		pass(5 * time.Minute)
		nets[1].setCut(true) // rosa has lost dora, and does not know yet
		a.relay.Post(string(d.peer.ID), 0, 0, append(make([]byte, mailHead), 0), func(error) {})
		pass(time.Minute)
		s, err := m.relay.Status(t.Context())
		if err != nil || len(s.Carrying) != 1 || s.Carrying[0].For != d.peer.ID {
			t.Fatalf("mia carries %v, %v; want the flash", s.Carrying, err)
		}
		with.setCut(true)
		there.setCut(false)
		pass(time.Minute)
		if s, err = d.relay.Status(t.Context()); err != nil || s.Counts.Read == 0 {
			t.Errorf("dora's box has read %d messages, %v", s.Counts.Read, err)
		}
		nets[1].setCut(false)
		pass(10 * time.Minute)
		if s, err = m.relay.Status(t.Context()); err != nil || slices.ContainsFunc(s.Carrying, func(c relay.Carrying) bool { return c.For == d.peer.ID }) {
			t.Errorf("mia still carries %v, %v", s.Carrying, err)
		}
	})
}

// outlook is a way over boxes in between of which only the outlook is known.
type outlook struct {
	Mail
	answer time.Duration
	near   bool
}

func (o outlook) Outlook(string) (int, time.Duration, bool) { return 0, o.answer, o.near }

func TestMailPatience(t *testing.T) {
	for _, tc := range []struct {
		answer time.Duration
		near   bool
		stalls int
		want   time.Duration
	}{
		{0, true, 0, 15 * time.Minute},
		{20 * time.Minute, true, 0, time.Hour},
		{20 * time.Minute, true, 2, 4 * time.Hour},
		{20 * time.Minute, true, 9, 12 * time.Hour},
		{4 * time.Hour, false, 0, 12 * time.Hour},
		{4 * time.Hour, false, 3, 96 * time.Hour},
		{10 * 24 * time.Hour, false, 0, 7 * 24 * time.Hour},
	} {
		f := &far{stalls: tc.stalls}
		if got := f.mailPatience(&way{mail: outlook{answer: tc.answer, near: tc.near}}); got != tc.want {
			t.Errorf("answers take %v, near %v, %d stalls: waits %v, want %v", tc.answer, tc.near, tc.stalls, got, tc.want)
		}
	}
}
