// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/store"
	"hallig/tools/matrixclient"
)

// verdicts stands before a server: verdict says of each transaction whether it is done, and what is answered in place of the truth (0: the truth).
type verdicts struct {
	mu      sync.Mutex
	next    http.Handler
	verdict func(body string) (done bool, status int)
	txns    []sentTxn
	news    chan struct{} // capacity 1
}

// await waits until what came by satisfies cond.
func (g *verdicts) await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	late := time.After(60 * time.Second)
	for !cond() {
		select {
		case <-g.news:
		case <-late:
			t.Fatal("waited in vain for ", what)
		}
	}
}

func (g *verdicts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.URL.Path, "/v1/send/") {
		g.next.ServeHTTP(w, r)
		return
	}
	raw, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(raw))
	g.mu.Lock()
	g.txns = append(g.txns, sentTxn{id: path.Base(r.URL.Path), body: string(raw)})
	done, status := g.verdict(string(raw))
	g.mu.Unlock()
	poke(g.news)
	switch {
	case done && status == 0:
		g.next.ServeHTTP(w, r)
	case done:
		g.next.ServeHTTP(discard{}, r)
		fallthrough
	default:
		answer(w, status, errorBody{"M_UNKNOWN", "so says the gate"})
	}
}

func (g *verdicts) set(verdict func(string) (bool, int)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.verdict = verdict
}

// with gives the transactions so far whose body holds a word.
func (g *verdicts) with(word string) (out []sentTxn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.txns {
		if strings.Contains(t.body, word) {
			out = append(out, t)
		}
	}
	return out
}

func allow(string) (bool, int) { return true, 0 }

func gatedPair(t *testing.T) (a, b *testBox, anna, bert *matrixclient.Client, id string, g *verdicts) {
	t.Helper()
	ca := testCA(t)
	a, b = newTestBox(t, ca), newTestBox(t, ca)
	anna, bert = a.user("anna"), b.user("bert")
	id = must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	warm := say(t, anna, id, 1, "warm")
	b.await("the first message", func() bool { return b.has(id, warm) })
	b.sender.silent.Store(true)
	g = &verdicts{next: b.handler, verdict: allow, news: make(chan struct{}, 1)}
	b.seen.mu.Lock()
	b.seen.next = g
	b.seen.mu.Unlock()
	a.sender.retry.Store(int64(20 * time.Millisecond))
	return a, b, anna, bert, id, g
}

// mail queues a to-device message from anna to bert.
func mail(t *testing.T, a *testBox, anna, bert *matrixclient.Client, b *testBox, word string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"sender": anna.UserID, "type": "m.test", "message_id": "m-" + word,
		"messages": map[string]any{bert.UserID: map[string]any{bert.DeviceID: map[string]string{"word": word}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.db.Do(t.Context(), func(tx *store.Tx) error { return tx.EnqueueEDU(b.name, "m.direct_to_device", "", body) }); err != nil {
		t.Fatal(err)
	}
}

// words gives the to-device messages that wait for bert, in order.
func words(t *testing.T, bert *matrixclient.Client) (out []string) {
	t.Helper()
	r, err := bert.Sync(t.Context(), matrixclient.SyncOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range r.ToDevice.Events {
		var c struct {
			Word string `json:"word"`
		}
		if err := json.Unmarshal(e.Content, &c); err != nil {
			t.Fatal(err)
		}
		out = append(out, c.Word)
	}
	return out
}

// TestToDeviceUnderWayThroughRestarts: a transaction with to-device messages fails in both ways, and we restart in between: it goes again with the same id and
// body until it is answered, and each message arrives once and in order.
func TestToDeviceUnderWayThroughRestarts(t *testing.T) {
	a, b, anna, bert, id, g := gatedPair(t)
	for round, happens := range []bool{false, true} {
		word := fmt.Sprintf("brief-%d", round)
		g.set(func(body string) (bool, int) {
			if strings.Contains(body, word) {
				return happens, http.StatusBadGateway
			}
			return true, 0
		})
		mail(t, a, anna, bert, b, word)
		g.await(t, "two attempts", func() bool { return len(g.with(word)) >= 2 })
		a.restart(anna)
		before := len(g.with(word))
		g.await(t, "another attempt after the restart", func() bool { return len(g.with(word)) > before })
		g.set(allow)
		a.sender.LinkUp(b.name)
		a.await("the end of the queue", func() bool {
			var left []store.EDU
			var under *store.OutgoingTxn
			err := a.db.View(t.Context(), func(r *store.Read) (err error) {
				if left, err = r.PendingEDUs(b.name, 0, 10); err == nil {
					under, err = r.OutgoingTxn(b.name)
				}
				return err
			})
			return err == nil && len(left) == 0 && under == nil
		})
		sent := g.with(word)
		for _, s := range sent[1:] {
			if s.id != sent[0].id || s.body != sent[0].body {
				t.Errorf("round %d: repeated as %s, first %s", round, s.id, sent[0].id)
			}
		}
	}
	if got, want := fmt.Sprint(words(t, bert)), "[brief-0 brief-1]"; got != want {
		t.Errorf("bert got %s, want %s", got, want)
	}
	after := say(t, anna, id, 1, "danach")
	b.await("a message afterwards", func() bool { return b.has(id, after) })
	seen := map[string]string{}
	for _, s := range g.with("") {
		if body, twice := seen[s.id]; twice && body != s.body {
			t.Errorf("transaction id %s was given to two bodies", s.id)
		}
		seen[s.id] = s.body
	}
}

// TestRefusedEDUIsParked: an EDU that a server refuses does not hold up what comes behind it, is kept, and is offered again.
func TestRefusedEDUIsParked(t *testing.T) {
	a, b, anna, bert, id, g := gatedPair(t)
	g.set(func(body string) (bool, int) {
		if strings.Contains(body, "anstoß") {
			return false, http.StatusBadRequest
		}
		return true, 0
	})
	b.link.Cut()
	mail(t, a, anna, bert, b, "erst")
	mail(t, a, anna, bert, b, "anstoß")
	mail(t, a, anna, bert, b, "dann")
	said := say(t, anna, id, 2, "und Worte")
	b.link.Join()
	a.sender.LinkUp(b.name)
	b.await("the messages", func() bool { return b.has(id, said) })
	a.await("the parking", func() bool {
		for _, s := range a.sender.Status() {
			if s.Server == b.name {
				return s.Parked == 1
			}
		}
		return false
	})
	b.await("the other mail", func() bool { return fmt.Sprint(words(t, bert)) == "[erst dann]" })
	g.set(allow)
	a.sender.LinkUp(b.name)
	b.await("what was refused", func() bool { return fmt.Sprint(words(t, bert)) == "[erst dann anstoß]" })
}

// TestServerThatRefusesAll: a server that answers 403 to whatever it is sent is not offended by single events: nothing is parked, and all arrives when it has
// thought better of it.
func TestServerThatRefusesAll(t *testing.T) {
	a, b, anna, bert, id, g := gatedPair(t)
	g.set(func(string) (bool, int) { return false, http.StatusForbidden })
	said := say(t, anna, id, 3, "unerwünscht")
	mail(t, a, anna, bert, b, "auch das")
	g.await(t, "many refusals", func() bool { return len(g.with("")) > 15 })
	var parked []int
	err := a.db.View(t.Context(), func(r *store.Read) error {
		pdus, edus, err := r.Parked(b.name)
		parked = []int{pdus, edus}
		return err
	})
	if err != nil || parked[0]+parked[1] > 0 {
		t.Errorf("parked %v, %v; want nothing", parked, err)
	}
	g.set(allow)
	a.sender.LinkUp(b.name)
	b.await("the messages", func() bool { return b.has(id, said) })
	b.await("the mail", func() bool { return fmt.Sprint(words(t, bert)) == "[auch das]" })
}

// TestRoomsInTurn: of rooms in which people wrote at the same time each is brought to its end once it was begun; and what was written in another room late
// does not wait for them.
func TestRoomsInTurn(t *testing.T) {
	a, b, anna, bert, quiet, g := gatedPair(t)
	var rooms []string
	for range 7 {
		id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
		must[string](t)(bert.Join(t.Context(), id, a.name))
		rooms = append(rooms, id)
	}
	a.sender.silent.Store(true)
	const each = 2*window + 10
	said := map[string][]string{}
	var late []string
	for n := range each {
		for _, id := range rooms {
			said[id] = append(said[id], say(t, anna, id, 1, "viel")...)
		}
		if n == each/2 {
			late = say(t, anna, quiet, 1, "viel später")
		}
	}
	a.sender.silent.Store(false)
	a.sender.LinkUp(b.name)
	for _, id := range rooms {
		b.await("a room's messages", func() bool { return b.has(id, said[id]) })
	}
	b.await("the late one", func() bool { return b.has(quiet, late) })
	came, most, before := map[string]int{}, 0, -1
	begun := func() (n int) {
		for _, id := range rooms {
			if came[id] > 0 && came[id] < each {
				n++
			}
		}
		return n
	}
	for _, s := range g.with("viel") {
		var body struct {
			PDUs []struct {
				Room string `json:"room_id"`
			} `json:"pdus"`
		}
		if err := json.Unmarshal([]byte(s.body), &body); err != nil {
			t.Fatal(err)
		}
		for _, p := range body.PDUs {
			if p.Room == quiet {
				before = begun()
			}
			came[p.Room]++
		}
		most = max(most, begun())
	}
	if most > roomsMost+1 { // one more when a backlog's short rest goes along
		t.Errorf("%d rooms were halfway at once", most)
	}
	if before != 0 {
		t.Errorf("what was written in a quiet room went after the backlogs of %d others", before)
	}
}

// TestNarrow: over a narrow line a server is given what it is owed, and asked whether it has come; what it has is not asked for before there is a wider way.
func TestNarrow(t *testing.T) {
	a, b, anna, bert, id, _ := gatedPair(t)
	a.narrow.Store(true)
	b.seen.mu.Lock()
	b.seen.list = nil
	b.seen.mu.Unlock()
	theirs := say(t, bert, id, 1, "ungehört")
	a.sender.LinkUp(b.name)
	for range 2 { // between the two it has had the time to ask
		said := say(t, anna, id, 3, "schmal")
		b.await("the messages", func() bool { return b.has(id, said) })
		a.await("the cursor's move", func() bool { return a.cursor(b.name, id) >= a.pos(said[2]) })
	}
	if n := b.seen.count("/make_join/") + b.seen.count("/backfill/"); n != 0 {
		t.Errorf("%d questions about what the server has", n)
	}
	a.narrow.Store(false)
	a.sender.LinkUp(b.name)
	a.await("what the server has", func() bool { return a.has(id, theirs) })
}

// TestFourRoomsAtATime: after a long silence the backlogs of many rooms go out a few at a time, and all arrives.
func TestFourRoomsAtATime(t *testing.T) {
	a, b, anna, bert, _, g := gatedPair(t)
	var rooms []string
	for range 7 {
		id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
		must[string](t)(bert.Join(t.Context(), id, a.name))
		rooms = append(rooms, id)
	}
	b.link.Cut()
	said := map[string][]string{}
	for _, id := range rooms {
		said[id] = say(t, anna, id, 60, "viel")
	}
	b.link.Join()
	a.sender.LinkUp(b.name)
	for _, id := range rooms {
		b.await("a room's messages", func() bool { return b.has(id, said[id]) })
	}
	open := map[string]int{}
	for _, s := range g.with("viel") {
		var body struct {
			PDUs []struct {
				Room string `json:"room_id"`
			} `json:"pdus"`
		}
		if err := json.Unmarshal([]byte(s.body), &body); err != nil {
			t.Fatal(err)
		}
		for _, p := range body.PDUs {
			open[p.Room]++
		}
		halfway := 0
		for _, n := range open {
			if n < 60 {
				halfway++
			}
		}
		if halfway > roomsMost+1 { // one more when a backlog's short rest goes along
			t.Errorf("%d rooms are halfway", halfway)
		}
	}
}
