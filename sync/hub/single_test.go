// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"hallig/sync/federation"
)

// strict is a far server that takes one transaction of an origin at a time, as a Synapse does.
type strict struct {
	t      *testing.T
	mu     sync.Mutex
	active map[string]string // transaction by origin
	most   int               // active at once
	hold   chan struct{}     // transactions whose id has "held" in it wait for its end
}

func (s *strict) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut {
		answer(w, 200, map[string]any{"pdus": []string{}})
		return
	}
	a, err := federation.ParseAuthorization(r.Header.Get("Authorization"))
	if err != nil {
		s.t.Error(err)
	}
	id := r.URL.Path
	s.mu.Lock()
	other, busy := s.active[a.Origin]
	if !busy {
		s.active[a.Origin] = id
		s.most = max(s.most, len(s.active))
	}
	s.mu.Unlock()
	if busy {
		s.t.Errorf("%s of %s comes while %s is under way", id, a.Origin, other)
		refuse(w, http.StatusTooManyRequests, "M_UNKNOWN", "Too many concurrent transactions")
		return
	}
	if strings.Contains(id, "held") {
		<-s.hold
	}
	s.mu.Lock()
	delete(s.active, a.Origin)
	s.mu.Unlock()
	answer(w, 200, map[string]any{"pdus": struct{}{}})
}

// goes sends a transaction of the box in the background; what comes of it is told.
func (b *testBox) goes(ctx context.Context, id string) <-chan int {
	b.t.Helper()
	body, uri := []byte(`{"pdus":[],"edus":[]}`), sendPath+id
	req, err := verbatim("hub.test", sealed{method: "PUT", uri: uri, body: body,
		authorization: signed(b.t, federation.Local{Server: b.id.Server, Key: b.id.Key}, "far.test", "PUT", uri, body).Values("Authorization")})
	if err != nil {
		b.t.Fatal(err)
	}
	req.Host = "far.test"
	by, told := b.host.RoundTripper(), make(chan int, 1)
	go func() { // ends with the test's server
		status := 0
		if resp, err := by.RoundTrip(req.WithContext(ctx)); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			status = resp.StatusCode
		}
		told <- status
	}()
	return told
}

// One transaction of a box is under way to a server at a time: what a box has left there when its connection broke in the middle, what it sends when it is back, a sign of life, and letters. Nothing waits for ever, and nobody waits for
// another box's.
func TestOneTransactionAtATime(t *testing.T) {
	w := newWorld(t)
	far := &strict{t: t, active: map[string]string{}, hold: make(chan struct{})}
	w.far.mu.Lock()
	w.far.next = far.ServeHTTP
	w.far.mu.Unlock()
	free := sync.OnceFunc(func() { close(far.hold) })
	defer free()
	b, other := w.newBox("box1.test"), w.newBox("box2.test")
	under := func() int { // with those that wait
		w.hub.singles.mu.Lock()
		defer w.hub.singles.mu.Unlock()
		if s := w.hub.singles.of[pair{"box1.test", "far.test"}]; s != nil {
			return s.all
		}
		return 0
	}
	sends := func() (n int) {
		for _, line := range w.far.heard() {
			if strings.HasPrefix(line, "PUT ") {
				n++
			}
		}
		return n
	}
	dies := b.goes(t.Context(), "held")
	w.await("the first to be under way", func() bool { return sends() == 1 })
	b.away() // in the middle
	if status := <-dies; status != 0 {
		t.Errorf("the box that has gone hears %d", status)
	}
	b.back()
	back := b.goes(t.Context(), "back")
	w.await("the next to wait", func() bool { return under() == 2 })
	if status, text := b.leave(b.letter(1)); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	w.await("the letter to wait, too", func() bool { return under() == 3 })
	ctx, leave := context.WithCancel(t.Context())
	gives := b.goes(ctx, "gives-up")
	w.await("the sign of life to wait", func() bool { return under() == 4 })
	leave()
	<-gives
	w.await("nobody to wait for one who has gone", func() bool { return under() == 3 })
	if status := <-other.goes(t.Context(), "of-another"); status != 200 {
		t.Errorf("another box hears %d", status)
	}
	if n := sends(); n != 2 {
		t.Errorf("%d transactions have come", n)
	}
	w.await("the letter to give its place back", func() bool { return strings.Contains(w.hub.mail.Why("box1.test", "far.test"), "under way") })
	free()
	if status := <-back; status != 200 {
		t.Errorf("back again the box hears %d", status)
	}
	w.await("the letter to be through", func() bool { return w.hub.mail.Count.Done.Load() == 1 })
	if n := sends(); n != 4 {
		t.Errorf("%d transactions have come, want 4", n)
	}
	if far.most != 2 {
		t.Errorf("%d were under way at once, of two boxes", far.most)
	}
	if n := under(); n != 0 {
		t.Errorf("%d are under way in the end", n)
	}
}

// Whoever enters is alone, and what nobody uses any more is forgotten.
func TestSingles(t *testing.T) {
	var s singles
	var wg sync.WaitGroup
	inside := map[string]int{}
	var mu sync.Mutex
	for i := range 60 {
		wg.Go(func() {
			to := fmt.Sprint("far", i%3)
			leave, err := s.enter(t.Context(), "box", to)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			inside[to]++
			alone := inside[to] == 1
			mu.Unlock()
			if !alone {
				t.Error("two at once")
			}
			mu.Lock()
			inside[to]--
			mu.Unlock()
			leave()
		})
	}
	wg.Wait()
	if len(s.of) != 0 {
		t.Errorf("%d are remembered", len(s.of))
	}
}
