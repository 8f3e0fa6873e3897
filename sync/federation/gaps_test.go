// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
)

// TestForkFromBeforeOurTime: what others wrote before we came, and bring in only afterwards, must not stop what builds on it.
func TestForkFromBeforeOurTime(t *testing.T) {
	ca := testCA(t)
	a, b, c := newTestBox(t, ca), newTestBox(t, ca), newTestBox(t, ca)
	anna, bert, cora := a.user("anna"), b.user("bert"), c.user("cora")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(cora.Join(t.Context(), id, a.name))
	warm := say(t, cora, id, 1, "warm")
	a.await("cora", func() bool { return a.has(id, warm) })
	c.link.Cut()
	a.link.Cut()
	fromC := say(t, cora, id, 5, "auf der Sandbank")
	say(t, anna, id, 10, "vor bert")
	a.link.Join()
	must[string](t)(bert.Join(t.Context(), id, a.name))
	fromB := say(t, bert, id, 3, "bert ist da")
	a.await("bert's messages", func() bool { return a.has(id, fromB) })
	c.link.Join()
	c.sender.LinkUp("")
	a.sender.LinkUp("")
	a.await("cora's messages", func() bool { return a.has(id, fromC) })
	c.await("bert's messages", func() bool { return c.has(id, fromB) })
	last := say(t, anna, id, 1, "alle beisammen")
	b.await("the message that builds on cora's", func() bool { return b.has(id, last) })
	c.await("anna's last message", func() bool { return c.has(id, last) })
	sameState(t, id, a, b, c)
	if _, meta, err := b.rooms.Event(t.Context(), event.ID(warm[0])); err == nil && meta.Pos > 0 {
		t.Error("history from before the join became new")
	}
}

// TestStagedSurvivesRestart: what was answered with 200 is there after a restart, and goes on when its ancestors can be had.
func TestStagedSurvivesRestart(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	warm := say(t, anna, id, 1, "warm")
	b.await("the first message", func() bool { return b.has(id, warm) })
	b.link.Cut()
	lost := say(t, anna, id, 5, "unterwegs")
	a.link.Cut()
	p, _, err := a.rooms.Event(t.Context(), event.ID(lost[4]))
	if err != nil {
		t.Fatal(err)
	}
	still := NewIntake(b.intake.c) // never run: the process that took the event in and died
	if err := still.Take(t.Context(), a.name, p); err != nil {
		t.Fatal(err)
	}
	var staged []store.StagedPDU
	if err := b.db.View(t.Context(), func(r *store.Read) (err error) { staged, err = r.Staged(event.RoomID(id)); return err }); err != nil {
		t.Fatal(err)
	}
	if len(staged) != 1 || staged[0].ID != p.ID {
		t.Fatalf("staged: %v", staged)
	}
	a.link.Join()
	again := NewIntake(b.intake.c)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = again.Run(ctx) })
	b.await("all five", func() bool { return b.has(id, lost) })
	stop()
	wg.Wait()
	if err := b.db.View(t.Context(), func(r *store.Read) (err error) { staged, err = r.Staged(event.RoomID(id)); return err }); err != nil {
		t.Fatal(err)
	}
	if len(staged) != 0 {
		t.Errorf("still staged: %d", len(staged))
	}
}

// TestOriginIsWaitedFor: while the server that sent an event is out of reach, no other server's state stands in for its ancestors.
func TestOriginIsWaitedFor(t *testing.T) {
	ca := testCA(t)
	a, b, c := newTestBox(t, ca), newTestBox(t, ca), newTestBox(t, ca)
	anna, bert, cora := a.user("anna"), b.user("bert"), c.user("cora")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	must[string](t)(cora.Join(t.Context(), id, a.name))
	warm := say(t, cora, id, 1, "warm")
	b.await("the first message", func() bool { return b.has(id, warm) })
	a.await("the first message", func() bool { return a.has(id, warm) })
	a.link.Cut()
	b.link.Cut()
	lost := say(t, cora, id, 3, "unterwegs")
	c.link.Cut()
	c.sender.silent.Store(true) // its next try would bring the other server what lacks
	last, _, err := c.rooms.Event(t.Context(), event.ID(lost[2]))
	if err != nil {
		t.Fatal(err)
	}
	a.link.Join()
	in := NewIntake(b.intake.c) // never run: the rounds are ours
	if err := in.Take(t.Context(), c.name, last); err != nil {
		t.Fatal(err)
	}
	l := in.lane(event.RoomID(id))
	before := a.seen.count("/state")
	for range 2 {
		if left, progress, err := in.round(t.Context(), l); left != 1 || progress || err != nil {
			t.Fatalf("%d events wait, progress %v, %v", left, progress, err)
		}
	}
	if n := a.seen.count("/state") - before; n != 0 {
		t.Errorf("the other server was asked for state %d times", n)
	}
	if b.has(id, lost[2:]) {
		t.Error("the last message is shown without those before it")
	}
	c.link.Join()
	b.await("all three", func() bool {
		if _, _, err := in.round(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		return b.has(id, lost)
	})

	// Nobody waits for ever: a server that stays away has its events shown with what others know.
	l.away = map[string]outage{c.name: {since: time.Now().Add(-originPatience)}}
	if in.awaits(l, c.name) {
		t.Error("a server that has been away for long is still waited for")
	}
}

// TestOriginThatFailsAtGaps: a server that is in reach and breaks at the question about ancestors every time is asked for the state itself.
func TestOriginThatFailsAtGaps(t *testing.T) {
	ca := testCA(t)
	a, b, c := newTestBox(t, ca), newTestBox(t, ca), newTestBox(t, ca)
	anna, bert, cora := a.user("anna"), b.user("bert"), c.user("cora")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	must[string](t)(cora.Join(t.Context(), id, a.name))
	warm := say(t, cora, id, 1, "warm")
	b.await("the first message", func() bool { return b.has(id, warm) })
	a.await("the first message", func() bool { return a.has(id, warm) })
	a.link.Cut()
	b.link.Cut()
	lost := say(t, cora, id, 3, "unterwegs")
	last, _, err := c.rooms.Event(t.Context(), event.ID(lost[2]))
	if err != nil {
		t.Fatal(err)
	}
	a.link.Join()
	c.seen.mu.Lock()
	c.seen.fail = func(r *http.Request) bool {
		return strings.Contains(r.URL.Path, "/get_missing_events") || strings.Contains(r.URL.Path, "/backfill")
	}
	c.seen.mu.Unlock()
	in := NewIntake(b.intake.c) // never run: the rounds are ours
	if err := in.Take(t.Context(), c.name, last); err != nil {
		t.Fatal(err)
	}
	l := in.lane(event.RoomID(id))
	before := a.seen.count("/state")
	if left, progress, err := in.round(t.Context(), l); left != 1 || progress || err != nil {
		t.Fatalf("after one failure %d events wait, progress %v, %v", left, progress, err)
	}
	for n := 0; !b.has(id, lost[2:]); n++ {
		if _, _, err := in.round(t.Context(), l); err != nil || n > 3 {
			t.Fatalf("the last message is not shown after %d rounds more: %v", n, err)
		}
	}
	if n := a.seen.count("/state") - before; n != 0 {
		t.Errorf("the other server was asked for state %d times", n)
	}
}

func TestCausalOrder(t *testing.T) {
	mk := func(id event.ID, depth int64, prev ...event.ID) *waiting {
		return &waiting{pdu: &event.PDU{ID: id, Depth: depth, Prev: prev}}
	}
	staged := map[event.ID]*waiting{}
	for _, w := range []*waiting{mk("$d", 1, "$c"), mk("$a", 9), mk("$b", 5, "$a", "$gone"), mk("$c", 5, "$b", "$a"), mk("$x", 2, "$y"), mk("$y", 3, "$x")} {
		staged[w.pdu.ID] = w // depths lie; $x and $y form a ring, which hashes make impossible but which must not hang
	}
	var got []event.ID
	for _, w := range causal(staged) {
		got = append(got, w.pdu.ID)
	}
	if len(got) != len(staged) {
		t.Fatalf("got %v", got)
	}
	for _, pair := range [][2]event.ID{{"$a", "$b"}, {"$b", "$c"}, {"$c", "$d"}} {
		if slices.Index(got, pair[0]) > slices.Index(got, pair[1]) {
			t.Errorf("%s after %s in %v", pair[0], pair[1], got)
		}
	}
}
