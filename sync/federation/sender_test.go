// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
)

// strict stands before a server and plays the faults of central servers. It fails in two ways: nothing happened, and it happened but nobody
// was told. It counts what is unconfirmed, and complains when that is too much.
type strict struct {
	mu          sync.Mutex
	next        http.Handler
	lose        int // so many transactions are answered with 200 and forgotten
	deaf        int // so many transactions are done and answered with 502
	refuse      event.ID
	hidden      map[event.ID]bool // taken, and not through yet
	barred      map[event.ID]bool // of which it tells nothing
	reveals     event.ID          // whoever has asked for it in vain finds all through the next time
	txns        []sentTxn
	unconfirmed map[event.RoomID]int
	most        int
}

type sentTxn struct {
	id   string
	body string
	pdus []event.ID
}

func (s *strict) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.Contains(r.URL.Path, "/v1/send/"):
		s.send(w, r)
	case strings.Contains(r.URL.Path, "/v1/event/"):
		s.mu.Lock()
		id := event.ID(path.Base(r.URL.Path))
		hidden, barred := s.hidden[id], s.barred[id]
		if id == s.reveals {
			clear(s.hidden)
		}
		s.mu.Unlock()
		if hidden {
			answer(w, http.StatusNotFound, errorBody{"M_NOT_FOUND", "not yet"})
			return
		}
		if barred {
			answer(w, http.StatusForbidden, errorBody{"M_FORBIDDEN", "you are out"})
			return
		}
		s.next.ServeHTTP(w, r)
		s.mu.Lock()
		clear(s.unconfirmed) // one room in these tests
		s.mu.Unlock()
	default:
		s.next.ServeHTTP(w, r)
	}
}

func (s *strict) send(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(raw))
	var t incomingTransaction
	_ = json.Unmarshal(raw, &t)
	s.mu.Lock()
	txn := sentTxn{id: path.Base(r.URL.Path), body: string(raw)}
	refused := false
	for _, p := range t.PDUs {
		var head struct {
			Room event.RoomID `json:"room_id"`
		}
		_ = json.Unmarshal(p, &head)
		if pdu, err := event.Parse(event.Default(), p); err == nil {
			txn.pdus = append(txn.pdus, pdu.ID)
			refused = refused || pdu.ID == s.refuse
		}
		s.unconfirmed[head.Room]++
		s.most = max(s.most, s.unconfirmed[head.Room])
	}
	s.txns = append(s.txns, txn)
	lose, deaf := s.lose > 0 && len(t.PDUs) > 0, s.deaf > 0 && len(t.PDUs) > 0
	if lose {
		s.lose--
	}
	if deaf {
		s.deaf--
	}
	s.mu.Unlock()
	switch {
	case refused:
		answer(w, http.StatusBadRequest, errorBody{"M_BAD_JSON", "I do not like it"})
	case lose:
		answer(w, http.StatusOK, map[string]any{"pdus": map[string]any{}})
	case deaf:
		s.next.ServeHTTP(discard{}, r)
		answer(w, http.StatusBadGateway, errorBody{"M_UNKNOWN", "bad gateway"})
	default:
		s.next.ServeHTTP(w, r)
	}
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// strictPair is a box of ours and one behind a strict door, with a room.
func strictPair(t *testing.T) (a, b *testBox, anna *matrixclient.Client, id string, s *strict) {
	t.Helper()
	ca := testCA(t)
	a, b = newTestBox(t, ca), newTestBox(t, ca)
	anna = a.user("anna")
	bert := b.user("bert")
	id = must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	warm := say(t, anna, id, 1, "warm")
	b.await("the first message", func() bool { return b.has(id, warm) })
	b.sender.silent.Store(true) // it must not pull what it is not given
	s = &strict{next: b.handler, unconfirmed: map[event.RoomID]int{}}
	b.seen.mu.Lock()
	b.seen.next = s
	b.seen.mu.Unlock()
	return a, b, anna, id, s
}

func TestNeverMoreThanFiftyUnconfirmed(t *testing.T) {
	a, b, anna, id, s := strictPair(t)
	b.link.Cut()
	ids := say(t, anna, id, 170, "viel")
	b.link.Join()
	a.sender.LinkUp(b.name)
	b.await("all", func() bool { return b.has(id, ids) })
	a.await("the cursor's move", func() bool { return a.cursor(b.name, id) >= a.pos(ids[169]) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.most > 50 {
		t.Errorf("%d events were unconfirmed at once", s.most)
	}
	var order []event.ID
	for _, txn := range s.txns {
		if len(txn.pdus) > 50 {
			t.Errorf("a transaction of %d", len(txn.pdus))
		}
		order = append(order, txn.pdus...)
	}
	for i, e := range ids {
		if j := slices.Index(order, event.ID(e)); i > 0 && j <= slices.Index(order, event.ID(ids[i-1])) {
			t.Fatal("not oldest first")
		}
	}
}

func TestAnswerLostThenRepeated(t *testing.T) {
	a, b, anna, id, s := strictPair(t)
	s.mu.Lock()
	s.deaf = 2
	s.mu.Unlock()
	ids := say(t, anna, id, 1, "zweimal")
	b.await("it", func() bool { return b.has(id, ids) })
	a.await("the cursor's move", func() bool { return a.cursor(b.name, id) >= a.pos(ids[0]) })
	s.mu.Lock()
	defer s.mu.Unlock()
	var with []sentTxn
	for _, txn := range s.txns {
		if slices.Contains(txn.pdus, event.ID(ids[0])) {
			with = append(with, txn)
		}
	}
	if len(with) != 3 {
		t.Fatalf("sent %d times, want 3", len(with))
	}
	for _, txn := range with[1:] {
		if txn.id != with[0].id || txn.body != with[0].body {
			t.Error("the repetition is another transaction")
		}
	}
}

func TestTakenAndThrownAway(t *testing.T) {
	a, b, anna, id, s := strictPair(t)
	a.sender.resendAfter.Store(int64(300 * time.Millisecond))
	s.mu.Lock()
	s.lose = 2
	s.mu.Unlock()
	ids := say(t, anna, id, 3, "verschluckt")
	b.await("all", func() bool { return b.has(id, ids) })
	a.await("the cursor's move", func() bool { return a.cursor(b.name, id) >= a.pos(ids[2]) })
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, txn := range s.txns {
		if seen[txn.id] {
			t.Error("sent again under the same id: that is answered from a cache")
		}
		seen[txn.id] = true
	}
}

// A server that is slow is given nothing twice: what it is through with counts, the rest is waited for.
func TestSlowIsNotDeaf(t *testing.T) {
	a, b, anna, id, s := strictPair(t)
	a.sender.resendAfter.Store(int64(300 * time.Millisecond))
	b.link.Cut()
	ids := say(t, anna, id, 40, "langsam")
	s.mu.Lock()
	s.hidden = map[event.ID]bool{}
	for _, e := range ids[23:] {
		s.hidden[event.ID(e)] = true
	}
	s.reveals = event.ID(ids[23]) // by then the half that is known has been found
	s.mu.Unlock()
	b.link.Join()
	a.sender.LinkUp(b.name)
	a.await("all", func() bool { return a.cursor(b.name, id) >= a.pos(ids[39]) })
	s.mu.Lock()
	defer s.mu.Unlock()
	times := map[event.ID]int{}
	for _, txn := range s.txns {
		for _, e := range txn.pdus {
			if times[e]++; times[e] > 1 {
				t.Fatalf("%s was sent again", e)
			}
		}
	}
}

// A server that took very long in the end knows what was parked: it is offered again when all else is through, without a new link.
func TestParkedForSlownessIsOfferedAgain(t *testing.T) {
	a, b, anna, id, s := strictPair(t)
	a.sender.resendAfter.Store(int64(50 * time.Millisecond))
	b.link.Cut()
	ids := say(t, anna, id, 2, "sehr langsam")
	s.mu.Lock()
	s.hidden = map[event.ID]bool{event.ID(ids[0]): true, event.ID(ids[1]): true}
	s.mu.Unlock()
	b.link.Join()
	a.sender.LinkUp(b.name)
	a.await("the offer of each alone after both together, and the unparking", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		together, alone := false, 0
		for _, txn := range s.txns {
			switch len(txn.pdus) {
			case 2:
				together = true
			case 1:
				if together {
					alone++
				}
			}
		}
		return alone == 2 && len(a.parked(b.name)) == 0
	})
}

// A server that has put us out of a room says so of what it has taken, and has never heard of what it has thrown away. The latter is parked; neither keeps the server from
// getting anything else.
func TestBarredInTheMiddle(t *testing.T) {
	a, b, anna, id, s := strictPair(t)
	a.sender.resendAfter.Store(int64(50 * time.Millisecond))
	b.link.Cut()
	ids := say(t, anna, id, 8, "draussen")
	s.mu.Lock()
	s.barred, s.hidden = map[event.ID]bool{}, map[event.ID]bool{event.ID(ids[7]): true}
	for _, e := range ids[:7] {
		s.barred[event.ID(e)] = true
	}
	s.mu.Unlock()
	b.link.Join()
	a.sender.LinkUp(b.name)
	a.await("the end of the room", func() bool { return a.cursor(b.name, id) >= a.pos(ids[7]) })
	if _, told := a.refusals.Load(b.name + " " + id); !told {
		t.Error("nobody was told that the server says nothing")
	}
}

func TestOneBadEventDoesNotStopTheRoom(t *testing.T) {
	a, b, anna, id, s := strictPair(t)
	a.sender.retry.Store(int64(20 * time.Millisecond))
	a.sender.resendAfter.Store(int64(300 * time.Millisecond))
	b.link.Cut()
	ids := say(t, anna, id, 6, "eins davon mag er nicht")
	s.mu.Lock()
	s.refuse = event.ID(ids[2])
	s.mu.Unlock()
	b.link.Join()
	a.sender.LinkUp(b.name)
	a.await("the parking", func() bool { return slices.Equal(a.parked(b.name), []event.ID{event.ID(ids[2])}) })
	b.await("what does not build on it, and by asking what does", func() bool { return b.has(id, ids) })
	s.mu.Lock()
	s.refuse = ""
	s.mu.Unlock()
	a.sender.LinkUp(b.name)
	a.await("the unparking", func() bool { return len(a.parked(b.name)) == 0 })
}

func (b *testBox) parked(dest string) (out []event.ID) {
	b.Helper()
	if err := b.db.View(b.Context(), func(r *store.Read) (err error) { out, err = r.ParkedPDUs(dest); return err }); err != nil {
		b.Fatal(err)
	}
	return out
}

func (b *testBox) cursor(dest, id string) (pos int64) {
	b.Helper()
	err := b.db.View(b.Context(), func(r *store.Read) error {
		cs, err := r.FederationCursors(dest)
		for _, c := range cs {
			if string(c.Room) == id {
				pos = c.Pos
			}
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return pos
}

func (b *testBox) pos(id string) int64 {
	b.Helper()
	_, meta, err := b.rooms.Event(b.Context(), event.ID(id))
	if err != nil {
		b.Fatal(err)
	}
	return meta.Pos
}

// Who keeps what a server told is told when that server may have forgotten to tell more: after the start, and after an outage, but not each time that it stumbled.
func TestBackAfterAnOutage(t *testing.T) {
	var told []string
	s := NewSender(SenderConfig{DB: newTestBox(t, testCA(t)).db, Intake: NewIntake(IntakeConfig{}), Back: func(_ context.Context, server string) { told = append(told, server) }})
	d := newDest(s, "far.test")
	for _, step := range []struct {
		name    string
		failing bool
		since   time.Duration
		want    int
	}{
		{"the first answer since the start", false, 0, 1},
		{"an answer", false, 0, 1},
		{"after a stumble", true, networkOut / 2, 1},
		{"after an outage", true, 2 * networkOut, 2},
	} {
		d.failing.Store(step.failing)
		d.since = time.Now().Add(-step.since)
		d.recovered(t.Context())
		if len(told) != step.want {
			t.Errorf("%s: told %d times, want %d", step.name, len(told), step.want)
		}
	}
}
