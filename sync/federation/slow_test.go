// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

// slowStory is a room of three servers; b lacks what c has written, and has its newest event from a, which only a narrow line leads to.
type slowStory struct {
	a, b, c *testBox
	id      string
	lost    []string
	in      *Intake
	last    *event.PDU
}

func newSlowStory(t *testing.T) slowStory {
	ca := testCA(t)
	s := slowStory{a: newTestBox(t, ca), b: newTestBox(t, ca), c: newTestBox(t, ca)}
	anna, bert, cora := s.a.user("anna"), s.b.user("bert"), s.c.user("cora")
	s.id = must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), s.id, s.a.name))
	must[string](t)(cora.Join(t.Context(), s.id, s.a.name))
	warm := say(t, cora, s.id, 1, "warm")
	s.b.await("the first message", func() bool { return s.b.has(s.id, warm) })
	s.b.link.Cut() // nobody reaches it any more; it reaches the others
	s.b.sender.silent.Store(true)
	s.lost = say(t, cora, s.id, 3, "unterwegs")
	s.a.await("all three", func() bool { return s.a.has(s.id, s.lost) })
	s.c.sender.silent.Store(true)
	last, _, err := s.c.rooms.Event(t.Context(), event.ID(s.lost[2]))
	if err != nil {
		t.Fatal(err)
	}
	s.last = last
	s.b.client.c.Longer = func(server, _ string) time.Duration {
		if server == s.a.name {
			return time.Hour
		}
		return 0
	}
	s.in = NewIntake(s.b.intake.c) // never run: the rounds are ours
	return s
}

// rounds goes on until nothing lacks.
func (s slowStory) rounds(t *testing.T, l *lane) {
	t.Helper()
	for range 20 {
		if _, _, err := s.in.round(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if s.b.has(s.id, s.lost) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("not all three came")
}

func askedFor(b *testBox) int { return b.seen.count("/get_missing_events") + b.seen.count("/backfill") }

// Who is in reach by a wide way is asked before the one behind a narrow line that has brought the event.
func TestWideBeforeNarrow(t *testing.T) {
	s := newSlowStory(t)
	if err := s.in.Take(t.Context(), s.a.name, s.last); err != nil {
		t.Fatal(err)
	}
	l, before := s.in.lane(event.RoomID(s.id)), askedFor(s.a)
	s.rounds(t, l)
	if n := askedFor(s.a) - before; n != 0 {
		t.Errorf("the server behind the narrow line was asked %d times", n)
	}
}

// A question that goes over a narrow line for minutes is given up when somebody with a wide way comes in reach.
func TestNarrowQuestionEndsSooner(t *testing.T) {
	s := newSlowStory(t)
	hangs, release := make(chan struct{}, 8), make(chan struct{})
	defer close(release)
	s.a.seen.mu.Lock()
	s.a.seen.fail = func(r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/get_missing_events") || strings.Contains(r.URL.Path, "/backfill") {
			hangs <- struct{}{}
			<-release
		}
		return false
	}
	s.a.seen.mu.Unlock()
	s.c.link.Cut()
	if err := s.in.Take(t.Context(), s.a.name, s.last); err != nil {
		t.Fatal(err)
	}
	l := s.in.lane(event.RoomID(s.id))
	round := make(chan error, 1)
	go func() { // waited for below
		_, _, err := s.in.round(t.Context(), l)
		round <- err
	}()
	<-hangs
	s.c.link.Join()
	s.in.Reachable(s.a.name) // another slow one changes nothing
	select {
	case err := <-round:
		t.Fatalf("ended without reason: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	s.in.Reachable(s.c.name)
	if err := <-round; err != nil {
		t.Fatal(err)
	}
	if _, away := l.away[s.a.name]; away {
		t.Error("the server that we hung up on counts as away")
	}
	s.rounds(t, l)
	if n := len(hangs); n != 0 {
		t.Errorf("the server behind the narrow line was asked %d times more", n)
	}
}
