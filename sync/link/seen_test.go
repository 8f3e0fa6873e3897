// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/store"
	"hallig/radio/ether"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// knows says by whose word a box knows that somebody has got as far as an event; "" with ok is their own.
func (b *box) knows(id event.RoomID, e event.ID, who string) (by string, ok bool) {
	b.w.t.Helper()
	err := b.db.View(b.w.t.Context(), func(r *store.Read) error {
		nid, err := r.EventNID(e)
		if err != nil {
			return err
		}
		places, err := r.PlacesOf(id, nid)
		if err != nil {
			return err
		}
		for _, p := range places {
			reached, err := r.ReachedPlace(p.Log.N, p.Seq)
			if err != nil {
				return err
			}
			for _, x := range reached {
				if x.Who == who && (!ok || x.By == "") {
					by, ok = x.By, true
				}
			}
		}
		return nil
	})
	if err != nil {
		b.w.t.Fatal(err)
	}
	return by, ok
}

// On an idle narrow line receipts do not wait long: it is shown at once that a text is kept, soon that a device was shown it, also in the quiet after a flash; nothing that
// moves while something is told is forgotten.
func TestReceiptsOnAnIdleLine(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 7})
		pass(5 * time.Minute)
		for _, level := range []priority.Level{priority.Routine, priority.Flash} {
			e := a.says(id, "anna", "Wie weit?", level)
			until(t, time.Minute, "event", func() bool { return b.shows(id, e) })
			kept := until(t, time.Minute, "receipt", func() bool { _, ok := a.knows(id, e, b.name); return ok })
			b.syncs("bert")
			seen := until(t, 3*time.Minute, "seen", func() bool { _, ok := a.knows(id, e, string(b.user("bert"))); return ok })
			t.Logf("%v: kept known after %v, seen after %v", level, kept, seen)
			if kept > 5*time.Second || seen > 8*time.Second {
				t.Errorf("%v: kept is known after %v, seen after another %v", level, kept, seen)
			}
			pass(3 * time.Minute)
		}
		if a.link.Quiet().IsZero() {
			t.Fatal("there is no quiet")
		}
		e := a.says(id, "anna", "zwei Geräte", priority.Flash)
		until(t, time.Minute, "event", func() bool { return b.shows(id, e) })
		b.in(func(l *Link) { // told while the parcel before is under way
			f := l.fars[a.peer.ID]
			f.seenBusy = true
			f.tellSeen()
		})
		b.syncs("bert")
		b.in(func(l *Link) {
			f := l.fars[a.peer.ID]
			f.seenTimer.Stop()
			f.seenTimer = nil
			f.seenBusy = false
			f.seenAgain()
		})
		until(t, time.Minute, "seen, told again", func() bool { _, ok := a.knows(id, e, string(b.user("bert"))); return ok })
		e = a.says(id, "anna", "und noch einer", priority.Flash)
		until(t, time.Minute, "event", func() bool { return b.shows(id, e) })
		b.syncs("bert")
		if seen := until(t, 3*time.Minute, "seen", func() bool { _, ok := a.knows(id, e, string(b.user("bert"))); return ok }); seen > 30*time.Second {
			t.Errorf("shortly after the one before, in the quiet: seen is known after %v", seen)
		}
	})
}

// A message is followed over a box in between: a member tells what the last box keeps and whose device there was shown it, and it is known by whose word; where the one in
// between only carries, the last box says so itself.
func TestFollowedOverABoxInBetween(t *testing.T) {
	for _, c := range []struct {
		how           string
		paired, leave bool
		word          string
	}{{"a member", false, false, "bert.test"}, {"a member, the ends are paired", true, false, "bert.test"}, {"a carrier", true, true, ""}} {
		t.Run(c.how, func(t *testing.T) {
			run(t, func(t *testing.T, w *world) {
				boxes, _ := row(w, &tap{}, 1e5, "anna", "bert", "cora")
				a, b, last := boxes[0], boxes[1], boxes[2]
				if c.paired {
					pair(a, last)
				}
				w.start()
				pass(time.Minute)
				id := a.create("anna")
				b.join(a, id, "bert")
				last.join(b, id, "cora")
				pass(time.Minute)
				whose := []string{b.name, last.name, string(last.user("cora"))}
				if c.leave {
					b.state(id, "bert", "m.room.member", string(b.user("bert")), map[string]string{"membership": "leave"})
					pass(5 * time.Minute)
					whose = whose[1:]
				}
				e := a.text(id, "anna", "Wie weit?")
				until(t, 10*time.Minute, "event at the last box", func() bool { return last.shows(id, e) })
				last.syncs("cora")
				for _, who := range whose {
					took := until(t, time.Hour, who, func() bool { _, ok := a.knows(id, e, who); return ok })
					by, _ := a.knows(id, e, who)
					t.Logf("%s after %v by the word of %q", who, took, by)
					if word := c.word; by != word && who != b.name {
						t.Errorf("%s has it by the word of %q, want %q", who, by, word)
					}
				}
			})
		})
	}
}

// That somebody has read a message is told soon over an idle narrow line, in the quiet after a flash, too; then once a minute at most, however fast they read.
func TestReadOnAnIdleLine(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 10})
		n := 0
		reads := func() {
			n++
			body := fmt.Sprintf(`{"n":%d}`, n)
			if err := b.db.Do(t.Context(), func(tx *store.Tx) error { return tx.EnqueueEDU(a.name, "m.receipt", "x", []byte(body)) }); err != nil {
				t.Fatal(err)
			}
		}
		told := func(most time.Duration) time.Duration {
			t.Helper()
			return until(t, most, "receipt", func() bool { return slices.Contains(a.took(), fmt.Sprintf(`%s m.receipt {"n":%d}`, b.name, n)) })
		}
		reads()
		first := told(10 * time.Second)
		a.says(id, "anna", "Ruhe im Kanal", priority.Flash)
		pass(80 * time.Second)
		reads()
		quiet := told(10 * time.Second)
		if a.link.Quiet().IsZero() {
			t.Fatal("there is no quiet")
		}
		before := len(a.took())
		for range 20 {
			reads()
			pass(5 * time.Second)
		}
		took := len(a.took()) - before
		last := told(time.Minute)
		t.Logf("told after %v, in the quiet after %v; while 20 messages were read in 100 s %d times, the last after another %v", first, quiet, took, last)
		if took < 1 || took > 3 {
			t.Errorf("while 20 messages were read in 100 s it was told %d times, want 1 to 3", took)
		}
	})
}

// Receipts that wait already when a flash comes are not held by its quiet; what else waits is.
func TestQuietRaisesReceipts(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 11})
		a.in(func(l *Link) {
			f := l.fars[b.peer.ID]
			f.enqueue(parcel.Bulk, &parcel.Seen{}, nil)
			f.enqueue(parcel.Bulk, &parcel.Chunk{}, nil)
			f.enqueue(parcel.Routine, &parcel.Kept{}, nil)
			l.hush(id, time.Minute)
			if n, m, k := len(f.queues[parcel.Priority]), len(f.queues[parcel.Routine]), len(f.queues[parcel.Bulk]); n != 2 || m != 0 || k != 1 {
				t.Errorf("%d wait as priority, %d as routine, %d as bulk; want 2, 0, 1", n, m, k)
			}
			f.queues = [parcel.Bulk + 1][]entry{}
		})
	})
}

// What a conversation remembers of marks is bounded: beyond that nobody new is told of, and who is known still moves.
func TestMarksAreBounded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		net := newWire("p2p", 1e6, 20*time.Millisecond)
		a, b, c := w.box("anna").on(net), w.box("bert").on(net), w.box("cora").on(net)
		pair(a, b)
		pair(a, c)
		w.start()
		pass(time.Minute)
		id := a.create("anna")
		b.join(a, id, "bert")
		c.join(a, id, "cora")
		pass(time.Minute)
		b.text(id, "bert", "Moin")
		pass(time.Minute)
		marks := func(told outbox.Told) (out []parcel.Mark) {
			out, err := a.link.out.Feed(b.peer).Marks(t.Context(), a.roster, func(peer.ID) bool { return true }, nil, told)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		told := outbox.NewTold()
		all := marks(told)
		if len(all) != 1 || all[0].Who != c.name {
			t.Fatalf("marks: %+v", all)
		}
		for i := range 5000 {
			k := outbox.Mark{Room: id, Box: b.peer.ID, Who: fmt.Sprint(i)}
			if told.Places[k] = 1; len(told.Places) == 4096 {
				break
			}
		}
		if got := marks(told); len(got) != 0 {
			t.Errorf("somebody new is told of although the memory is full: %+v", got)
		}
		full := len(told.Places)
		x := all[0]
		delete(told.Places, outbox.Mark{Room: id, Box: b.peer.ID, Who: "0"})
		x.Upto--
		told.Note([]parcel.Mark{x})
		if got := marks(told); len(got) != 1 || got[0] != all[0] || len(told.Places) != full {
			t.Errorf("who is known does not move in a full memory: %+v, %d", got, len(told.Places))
		}
	})
}

// A paired box says that a third one has everything, which that one denies by its own receipts: its word stands beside, and displaces nothing.
func TestHostileMarks(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		net := newWire("p2p", 1e6, 20*time.Millisecond)
		a, b, c := w.box("anna").on(net), w.box("bert").on(net), w.box("cora").on(net)
		pair(a, b)
		pair(a, c)
		w.start()
		pass(time.Minute)
		id := a.create("anna")
		b.join(a, id, "bert")
		c.join(a, id, "cora")
		pass(time.Minute)
		c.halt()
		pass(time.Minute)
		e := a.text(id, "anna", "das hat cora nicht")
		pass(time.Minute)
		var log parcel.Mark
		err := a.db.View(t.Context(), func(r *store.Read) error {
			nid, err := r.EventNID(e)
			if err != nil {
				return err
			}
			places, err := r.PlacesOf(id, nid)
			if err == nil {
				log = parcel.Mark{Room: id, Box: a.peer.ID, Epoch: places[0].Log.Epoch, Upto: places[0].Seq + 1000, Who: c.name}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		user, own, nobody := log, log, log
		user.Who, own.Who, nobody.Who = string(c.user("cora")), string(a.user("anna")), "dora.test"
		if news, err := a.link.out.TakeMarks(t.Context(), b.peer, []parcel.Mark{log, user, own, nobody}); err != nil || !news {
			t.Fatal(news, err)
		}
		for who, by := range map[string]string{c.name: b.name, string(c.user("cora")): b.name} {
			if got, ok := a.knows(id, e, who); !ok || got != by {
				t.Errorf("%s has it by the word of %q, %v, want %q", who, got, ok, by)
			}
		}
		for _, who := range []string{own.Who, nobody.Who} {
			if _, ok := a.knows(id, e, who); ok {
				t.Errorf("a box was believed about %s", who)
			}
		}
		c.start()
		until(t, time.Minute, "event", func() bool { return c.shows(id, e) })
		until(t, time.Minute, "own word", func() bool { by, ok := a.knows(id, e, c.name); return ok && by == "" })
	})
}
