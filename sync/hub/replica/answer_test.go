// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// hanging is a connection whose far end does not read.
type hanging struct {
	http.ResponseWriter
	began func()        // something is written
	gone  chan struct{} // closed: the far end has hung up

	mu   sync.Mutex
	over *time.Timer
	late chan struct{} // closed at the deadline
}

func newHanging() (h *hanging, began chan struct{}) {
	began = make(chan struct{})
	return &hanging{ResponseWriter: httptest.NewRecorder(), began: sync.OnceFunc(func() { close(began) }), gone: make(chan struct{}), late: make(chan struct{})}, began
}

func (h *hanging) Write([]byte) (int, error) {
	h.began()
	select {
	case <-h.gone:
	case <-h.late:
	}
	return 0, os.ErrDeadlineExceeded
}

// punctual is one that has deadlines.
type punctual struct{ *hanging }

func (p punctual) SetWriteDeadline(at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over != nil {
		p.over.Stop()
	}
	if !at.IsZero() {
		p.over = time.AfterFunc(time.Until(at), sync.OnceFunc(func() { close(p.late) }))
	}
	return nil
}

// put puts a question and says when it is over, and whether it was answered.
func (h *hub) put(ctx context.Context, w http.ResponseWriter, origin, uri string) chan bool {
	done := make(chan bool, 1)
	r := httptest.NewRequestWithContext(ctx, "GET", uri, nil)
	go func() { done <- h.Answer(w, r, federation.Question{Local: "box1.test", Origin: origin}) }() // the test waits for it
	return done
}

func eventURI(id event.ID) string {
	return "/_matrix/federation/v1/event/" + url.PathEscape(string(id))
}

// shared is a hub with a copy of a room of two boxes, a far server and more, and an event in it.
func shared(t *testing.T, limits Limits, more ...string) (*hub, *node, event.ID) {
	n := newNetwork()
	box, far, two := n.node(t, "box1.test"), n.node(t, "far.test"), n.node(t, "box2.test")
	id := box.create("12")
	far.join(id, "carl", "box1.test")
	two.join(id, "tom", "box1.test")
	for _, name := range more {
		n.node(t, name).join(id, "paul", "box1.test")
	}
	e := box.say(id, "anna", "Lage")
	h := newHub(t, n, limits, "box1.test")
	h.told(box, box.listing(true, id))
	h.settled(1)
	return h, box, e
}

// Who asks and does not read holds up neither the bounds nor the look at the disk, also where a connection has no deadlines.
func TestSlowReaderHoldsUpNothing(t *testing.T) {
	h, box, e := shared(t, Limits{Answer: 500 * time.Millisecond})
	slow, began := newHanging()
	done := h.put(t.Context(), slow, "far.test", eventURI(e))
	<-began
	h.told(box, api.Rooms{All: true})
	h.await("the room to be gone", func() bool { return h.Stats().Purged == 1 })
	close(slow.gone)
	<-done
}

// While the bounds wait for somebody to have heard an answer, the disk is looked at.
func TestDiskIsWatchedMeanwhile(t *testing.T) {
	h, box, e := shared(t, Limits{Answer: time.Hour, Tend: 10 * time.Millisecond})
	slow, began := newHanging()
	done := h.put(t.Context(), slow, "far.test", eventURI(e))
	<-began
	h.told(box, api.Rooms{All: true})
	h.await("the room to be out of use", func() bool {
		h.Replica.mu.Lock()
		defer h.Replica.mu.Unlock()
		for _, d := range h.copies {
			return d.working
		}
		return false
	})
	h.mu.Lock()
	h.free = 1 << 20
	h.mu.Unlock()
	h.await("the full disk to be seen", func() bool { return h.Stats().Full })
	if h.Stats().Purged != 0 {
		t.Error("a room was deleted of which somebody was being told")
	}
	close(slow.gone)
	<-done
	h.await("the room to be gone", func() bool { return h.Stats().Purged == 1 })
}

// An answer that is not read ends in time.
func TestAnswerEndsInTime(t *testing.T) {
	h, _, e := shared(t, Limits{Answer: 300 * time.Millisecond})
	slow, began := newHanging()
	done := h.put(t.Context(), punctual{slow}, "far.test", eventURI(e))
	<-began
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("it does not end")
		close(slow.gone)
		<-done
	}
}

// Servers that do not read, each with its share of the places, together keep nobody else out: who reads too slowly loses the place when somebody wants it, the slowest first, and nobody else does.
func TestSlowGiveWay(t *testing.T) {
	h, _, e := shared(t, Limits{Answers: 2}, "far2.test")
	var slow []*hanging
	var over []chan bool
	for _, origin := range []string{"far.test", "far2.test"} {
		w, began := newHanging()
		slow, over = append(slow, w), append(over, h.put(t.Context(), punctual{w}, origin, eventURI(e)))
		<-began
	}
	if got := h.event("box2.test", "box1.test", e); got != 200 {
		t.Errorf("one who reads is answered %d", got)
	}
	select {
	case <-over[0]:
	case <-time.After(20 * time.Second):
		t.Error("the slowest has kept its place")
	}
	select {
	case <-over[1]:
		t.Error("the other one has lost its place as well, which nobody wants")
	default:
	}
	for _, w := range slow {
		close(w.gone)
	}
	<-over[1]
}
