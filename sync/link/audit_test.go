// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/sync/outbox"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// observed counts what a box has seen happen.
func (b *box) observed(what string) (notes []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.seen {
		if e.What == what {
			notes = append(notes, e.Note)
		}
	}
	return notes
}

// logOf finds a box's present log of a room in another one's store.
func (b *box) logOf(id event.RoomID, of *box) store.Log {
	b.w.t.Helper()
	var l store.Log
	err := b.db.View(b.w.t.Context(), func(r *store.Read) (err error) {
		logs, err := r.Logs(id)
		for _, x := range logs {
			if x.Box == string(of.peer.ID) {
				l = x
			}
		}
		return err
	})
	if err != nil {
		b.w.t.Fatal(err)
	}
	return l
}

func (b *box) do(f func(*store.Tx) error) {
	b.w.t.Helper()
	if err := b.db.Do(b.w.t.Context(), f); err != nil {
		b.w.t.Fatal(err)
	}
}

// What a box believes to be done with, and is not, is found within a day although both say that they have the same; and a
// day on which nothing is wrong costs next to nothing.
func TestAuditFindsWhatTheLogsHide(t *testing.T) {
	for _, n := range []int{60, 300} { // with 300, more differ than a sketch is worth
		run(t, func(t *testing.T, w *world) { hidden(t, w, n) })
	}
}

func hidden(t *testing.T, w *world, n int) {
	net := newWire("p2p", 1e6, 5*time.Millisecond)
	a, b, id := two(w, net)
	var msgs []event.ID
	for i := range 150 {
		msgs = append(msgs, a.text(id, "anna", fmt.Sprint("before ", i)))
	}
	pass(time.Minute)
	idle := net.bytes()
	pass(30 * time.Hour)
	if got := net.bytes() - idle; got == 0 || got > 600 {
		t.Errorf("%d bytes in a day on which all was well, want some and at most 600", got)
	}
	if got := b.observed("compared"); len(a.observed("compared"))+len(got) == 0 || len(a.observed("differs"))+len(b.observed("differs")) > 0 {
		t.Errorf("compared %v and %v, found differences", a.observed("compared"), got)
	}
	net.setCut(true)
	pass(time.Second)
	l := b.logOf(id, a)
	for i := range n {
		msgs = append(msgs, a.text(id, "anna", fmt.Sprint("hidden ", i)))
	}
	top := a.logOf(id, a).Top
	b.do(func(tx *store.Tx) error { // some: not for you; the others: it is one that you have
		mid := l.Top + 30 // the rest of them is named wrongly
		if _, err := tx.MarkEntry(id, l.Box, l.Epoch, mid, mid-l.Top-1, 0); err != nil {
			return err
		}
		nid, err := tx.EventNID(msgs[0])
		for seq := mid + 1; seq <= top && err == nil; seq++ {
			_, err = tx.MarkEntry(id, l.Box, l.Epoch, seq, 0, nid)
		}
		return err
	})
	net.setCut(false)
	pass(50 * time.Hour)
	want(t, id, msgs, a, b)
	found := append(a.observed("differs"), b.observed("differs")...)
	if listed := len(found) > 0 && !strings.Contains(found[0], "list of 0"); len(found) == 0 || listed != (n == 300) {
		t.Errorf("%d events hidden: found %q, want a list only when many differ", n, found)
	}
	rest := net.bytes()
	pass(24 * time.Hour)
	if got := net.bytes() - rest; got > 1000 {
		t.Errorf("%d bytes in the day after, want at most 1000", got)
	}
}

// lied is a story of a box that tells lies about another one's log.
func lied(t *testing.T, lie func(a, b, m *box, id event.RoomID, l store.Log)) {
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
		msgs := []event.ID{a.text(id, "anna", "first")}
		pass(time.Minute)
		west.setCut(true)
		pass(time.Second)
		lie(a, b, m, id, b.logOf(id, a))
		pass(time.Minute)
		for i := range 30 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("a ", i)))
		}
		west.setCut(false)
		pass(time.Minute)
		msgs = append(msgs, a.text(id, "anna", "last"), b.text(id, "bert", "I hear you"))
		pass(50 * time.Hour)
		want(t, id, msgs, a, b)
		want(t, id, msgs, m)
	})
}

func (b *box) note(from *box, n recon.Note) {
	b.w.t.Helper()
	resolve, err := b.link.out.Resolver(b.w.t.Context(), from.peer)
	if err != nil {
		b.w.t.Fatal(err)
	}
	if _, _, _, err := b.link.c.Inbox.Note(b.w.t.Context(), from.peer, n, resolve.Log); err != nil {
		b.w.t.Fatal(err)
	}
}

func TestLiesAboutLogs(t *testing.T) {
	wire := func(id event.RoomID, l store.Log) recon.Log {
		return recon.Log{Room: recon.RoomOf(id), Box: recon.Box(peer.ID(l.Box).Brief()), Epoch: l.Epoch}
	}
	for name, lie := range map[string]func(a, b, m *box, id event.RoomID, l store.Log){
		"not for you": func(a, b, m *box, id event.RoomID, l store.Log) {
			b.note(m, recon.Note{Skips: []recon.Range{{Log: wire(id, l), After: l.Top, UpTo: l.Top + 20}}})
		},
		"not for you, for ever": func(a, b, m *box, id event.RoomID, l store.Log) {
			b.note(m, recon.Note{Skips: []recon.Range{{Log: wire(id, l), After: l.Top, UpTo: 1 << 39}}})
		},
		"beyond all numbers": func(a, b, m *box, id event.RoomID, l store.Log) {
			b.note(m, recon.Note{Skips: []recon.Range{{Log: wire(id, l), After: l.Top, UpTo: 1<<64 - 1}}})
		},
		"it is one that you have": func(a, b, m *box, id event.RoomID, l store.Log) {
			h := recon.Have{Log: wire(id, l)}
			for i := range uint64(25) {
				h.Places = append(h.Places, recon.Place{Seq: l.Top + 1 + i, Event: recon.ShortOf(b.timeline(id)[0])})
			}
			b.note(m, recon.Note{Haves: []recon.Have{h}})
		},
		"it is one of mine": func(a, b, m *box, id event.RoomID, l store.Log) {
			p, _, err := m.rooms.Event(m.w.t.Context(), m.state(id, "mala", "m.room.member", string(m.user("mala")), map[string]string{"membership": "join", "displayname": "M"}))
			if err != nil {
				m.w.t.Fatal(err)
			}
			inc := room.Incoming{PDU: p, From: room.Source{Kind: "link", Server: m.name}, Log: &room.LogRef{Box: l.Box, Epoch: uint64(l.Epoch), Seq: l.Top + 1}}
			if _, err := b.rooms.Accept(m.w.t.Context(), inc); err != nil {
				m.w.t.Fatal(err)
			}
		},
		"your own log is longer": func(a, b, m *box, id event.RoomID, _ store.Log) {
			own := b.logOf(id, b)
			b.note(m, recon.Note{Skips: []recon.Range{{Log: wire(id, own), After: own.Top, UpTo: 1 << 39}},
				Haves: []recon.Have{{Log: wire(id, own), Places: []recon.Place{{Seq: own.Top + 7, Event: recon.ShortOf(b.timeline(id)[0])}}}}})
			if got := b.logOf(id, b).Top; got != own.Top {
				b.w.t.Errorf("somebody else moved our own log from %d to %d", own.Top, got)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { lied(t, lie) })
	}
}

// What a box says in its greeting about others' logs, and a claim to have more than there is, hurts only itself.
func TestLiesInGreetings(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		west, east := newWire("west", 1e6, 5*time.Millisecond), newWire("east", 1e6, 5*time.Millisecond)
		a, b, m := w.box("anna"), w.box("bert"), w.box("mala")
		pair(a, b)
		pair(a, m)
		a.on(west).on(east)
		b.on(west)
		m.on(east)
		w.start()
		pass(time.Second)
		id := a.create("anna")
		b.join(a, id, "bert")
		m.join(a, id, "mala")
		pass(time.Minute)
		epoch := a.link.out.Epoch()
		msgs := []event.ID{}
		for round, h := range []recon.Hello{
			{Session: 1, Epoch: 5, Last: true},
			{Session: 2, Epoch: epoch, Last: true, EDUs: []recon.EDUKept{{Epoch: epoch, Kept: 1<<64 - 1}}, Rooms: []recon.RoomState{{Room: recon.RoomOf(id), Logs: []recon.LogKept{
				{Box: recon.Box(a.peer.ID.Brief()), Epoch: epoch, Kept: 1<<64 - 1}, {Box: recon.Box(b.peer.ID.Brief()), Epoch: b.link.out.Epoch(), Kept: 1 << 50}}}}},
			{Session: 3, Epoch: 9, Last: true, Rooms: []recon.RoomState{{Room: recon.RoomOf(id), Logs: []recon.LogKept{{Box: recon.Box(a.peer.ID.Brief()), Epoch: epoch}}}, {Room: recon.Room{9}}}},
		} {
			a.link.post(func() { a.link.fars[m.peer.ID].greeted(a.link.fars[m.peer.ID].active, h) })
			pass(time.Second)
			for i := range 10 {
				msgs = append(msgs, a.text(id, "anna", fmt.Sprint(round, i)), b.text(id, "bert", fmt.Sprint("b", round, i)))
			}
			pass(time.Minute)
		}
		want(t, id, msgs, a, b)
		first := a.link.out.Epoch()
		if first == epoch {
			t.Error("a box that has more of our log than we: no new epoch")
		}
		h := recon.Hello{Session: 4, Epoch: 5, Last: true, Rooms: []recon.RoomState{{Room: recon.RoomOf(id), Logs: []recon.LogKept{{Box: recon.Box(a.peer.ID.Brief()), Epoch: first, Kept: 1 << 30}}}}}
		a.link.post(func() { a.link.fars[m.peer.ID].greeted(a.link.fars[m.peer.ID].active, h) })
		pass(time.Minute)
		if a.link.out.Epoch() != first {
			t.Error("a second new epoch on the same day: a liar could make our logs many")
		}
		msgs = append(msgs, a.text(id, "anna", "the end"))
		pass(50 * time.Hour)
		want(t, id, msgs, a, b, m) // even the liar, once it is honest
	})
}

// TestClaimsEachDay: who claims each day, over restarts too, to have more of a box's log than it wrote, gets few epochs by it.
func TestClaimsEachDay(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		west, east := newWire("west", 1e6, 5*time.Millisecond), newWire("east", 1e6, 5*time.Millisecond)
		a, b, m := w.box("anna"), w.box("bert"), w.box("mala")
		pair(a, b)
		pair(a, m)
		a.on(west).on(east)
		b.on(west)
		m.on(east)
		w.start()
		pass(time.Second)
		id := a.create("anna")
		b.join(a, id, "bert")
		m.join(a, id, "mala")
		pass(time.Minute)
		var msgs []event.ID
		for day := range 64 {
			if day%9 == 8 {
				a.halt()
				a.start()
				pass(time.Minute)
			}
			h := recon.Hello{Session: uint32(day + 1), Epoch: 5, Last: true, Rooms: []recon.RoomState{{Room: recon.RoomOf(id),
				Logs: []recon.LogKept{{Box: recon.Box(a.peer.ID.Brief()), Epoch: a.link.out.Epoch(), Kept: 1 << 30}}}}}
			a.link.post(func() { a.link.fars[m.peer.ID].greeted(a.link.fars[m.peer.ID].active, h) })
			pass(time.Minute)
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("day ", day)))
			pass(24*time.Hour + time.Minute)
		}
		epochs := 0
		b.do(func(tx *store.Tx) error {
			logs, err := tx.Logs(id)
			for _, l := range logs {
				if l.Box == string(a.peer.ID) {
					epochs++
				}
			}
			return err
		})
		if epochs < 3 || epochs > 8 { // with the first: after 0, 1, 2, 4, 8 ... days without a restart
			t.Errorf("%d epochs in 64 days", epochs)
		}
		want(t, id, msgs, a, b)
	})
}

// copied copies a box's directory, as a backup or a copy of its medium does.
func (b *box) copied() string {
	b.w.t.Helper()
	dir := b.w.t.TempDir()
	b.halt()
	if err := os.CopyFS(dir, os.DirFS(b.dir)); err != nil {
		b.w.t.Fatal(err)
	}
	b.start()
	return dir
}

// restore puts a copy in the place of a box's directory; begun says that it begins a new epoch, as a restore does.
func (b *box) restore(dir string, begun bool) {
	b.w.t.Helper()
	b.halt()
	b.dir = b.w.t.TempDir()
	if err := os.CopyFS(b.dir, os.DirFS(dir)); err != nil {
		b.w.t.Fatal(err)
	}
	if begun {
		db, err := store.Open(b.w.t.Context(), filepath.Join(b.dir, "hallig.db"), store.Options{Reserve: -1})
		if err != nil {
			b.w.t.Fatal(err)
		}
		if err := db.Do(b.w.t.Context(), func(tx *store.Tx) error { return tx.NewEpoch(draw() | 1) }); err != nil {
			b.w.t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			b.w.t.Fatal(err)
		}
	}
	b.start()
}

// A box is set back to an earlier day, by a restore that says so or by a copy of its medium that does not: what it wrote
// meanwhile comes back from the others, what it writes then reaches them, nothing twice. Three boxes in a row: the third
// hears of it only through the second.
func TestSetBack(t *testing.T) {
	for _, begun := range []bool{true, false} {
		for _, talk := range []bool{true, false} {
			t.Run(fmt.Sprint("new epoch ", begun, ", others write on ", talk), func(t *testing.T) {
				run(t, func(t *testing.T, w *world) { setBack(t, w, begun, talk, 0) })
			})
		}
	}
	t.Run("after many lies", func(t *testing.T) {
		run(t, func(t *testing.T, w *world) { setBack(t, w, false, true, 12) })
	})
}

// setBack tells the story where lies are so many epochs that were begun for nothing before.
func setBack(t *testing.T, w *world, begun, talk bool, lies int) {
	west, east := newWire("west", 1e6, 5*time.Millisecond), newWire("east", 1e6, 5*time.Millisecond)
	a, b, c := w.box("anna"), w.box("bert"), w.box("carl")
	pair(a, b)
	pair(b, c)
	a.on(west)
	b.on(west).on(east)
	c.on(east)
	w.start()
	pass(time.Second)
	id := a.create("anna")
	b.join(a, id, "bert")
	pass(time.Second)
	c.join(b, id, "carl")
	pass(time.Second)
	var msgs []event.ID
	say := func(n int, what string) {
		for i := range n {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint(what, " a ", i)))
			if talk {
				msgs = append(msgs, b.text(id, "bert", fmt.Sprint(what, " b ", i)), c.text(id, "carl", fmt.Sprint(what, " c ", i)))
			}
		}
	}
	say(10, "before")
	pass(time.Minute)
	a.do(func(tx *store.Tx) error { return tx.SetUnprovenEpochs(lies) })
	backup := a.copied()
	epoch := a.link.out.Epoch()
	pass(time.Minute)
	say(30, "forgotten")
	pass(time.Minute)
	a.restore(backup, begun)
	say(5, "on")
	pass(2 * time.Minute)
	say(40, "after")
	pass(50 * time.Hour)
	want(t, id, msgs, a, b, c)
	for _, x := range []*box{a, b, c} {
		for _, s := range x.link.Status() {
			if s.InFlight > 0 {
				t.Errorf("%s: %d events for %s are without a receipt", x.name, s.InFlight, s.Peer.Server)
			}
		}
	}
	if got := a.link.out.Epoch(); got == epoch || a.link.out.Unproven() != 0 {
		t.Errorf("epoch %d, was %d; %d count as not needed, want a new one that was", got, epoch, a.link.out.Unproven())
	}
	differ := strings.Join(append(a.observed("differs"), b.observed("differs")...), "; ")
	if begun && differ != "" {
		t.Errorf("a restore that says so needs no sketch: %s", differ)
	}
}

// TestWantsWithoutEnd: a box that goes on to want what is in a sketch gets each event named once, and the comparison ends.
func TestWantsWithoutEnd(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id := two(w, newWire("p2p", 1e6, 5*time.Millisecond))
		pass(time.Minute)
		taken := 0
		a.link.post(func() {
			f := a.link.fars[b.peer.ID]
			g := &giving{id: 7, set: &outbox.Set{Room: id, Elements: []recon.Element{1, 2, 3, 4}}}
			f.audit.give = g
			for range 10 {
				if f.audit.give != g {
					break
				}
				taken++
				f.sketchFound(recon.Found{ID: 7, More: true, Wants: []recon.Element{8, 9}})
			}
		})
		pass(time.Second)
		if taken != 3 {
			t.Errorf("%d answers were taken for a sketch of four elements, want two and one that is too much", taken)
		}
	})
}

// TestEmptySketchParts: parts of a sketch with nothing in them, and what comes behind the last, are not kept.
func TestEmptySketchParts(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, _ := two(w, newWire("p2p", 1e6, 5*time.Millisecond))
		pass(time.Minute)
		kept := map[string]int{}
		a.in(func(l *Link) {
			f := l.fars[b.peer.ID]
			for what, part := range map[string]recon.Sketch{"empty": {ID: 7}, "an empty list": {ID: 7, List: true}, "the last": {ID: 7, List: true, Last: true}} {
				x := &taking{id: 7, busy: true}
				f.audit.take = x
				for range 1000 {
					f.takeSketch(part)
				}
				kept[what] = len(x.parts)
			}
			f.audit.take = nil
		})
		if kept["empty"] != 0 || kept["an empty list"] != 0 || kept["the last"] != 1 {
			t.Errorf("kept: %v", kept)
		}
	})
}
