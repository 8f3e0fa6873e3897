// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// letter makes a letter with one event for the far server, for the hub's memory as it is.
func (b *testBox) letter(n int64) api.Letter {
	b.t.Helper()
	epoch, err := b.w.spool.Epoch(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	local := federation.Local{Server: b.id.Server, Key: b.id.Key}
	sign := func(method, uri string, body []byte) api.Signed {
		return api.Signed{URI: uri, Auth: signed(b.t, local, "far.test", method, uri, body).Get("Authorization")}
	}
	l := api.Letter{To: "far.test", Series: "s", N: n, Epoch: epoch, Events: []string{fmt.Sprintf("$e%d", n)}, Body: fmt.Appendf(nil, `{"pdus":[{"room_id":"!r","n":%d}]}`, n)}
	for i := range 2 {
		l.Sends = append(l.Sends, sign("PUT", fmt.Sprintf("%st%d.%d", sendPath, n, i), l.Body))
	}
	l.Asks = []api.Ask{{Signed: sign("GET", "/_matrix/federation/v1/event/"+l.Events[0], nil), Room: "!r", Event: l.Events[0]}}
	return l
}

// leave leaves one with the hub.
func (b *testBox) leave(l api.Letter) (int, string) {
	b.t.Helper()
	raw, err := l.Append(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	status, text := b.ask("hub.test", "PUT", api.LetterPath, nil, raw)
	return status, string(text)
}

// A box leaves letters and goes; they get to their server over HTTPS as the box signed them when that is in reach, through a restart of the hub as well. The box hears of it when it is back, and at once while it is there.
func TestLetters(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	var mu sync.Mutex
	there := false
	w.far.mu.Lock()
	w.far.next = func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case !there:
			rw.WriteHeader(http.StatusBadGateway)
		case r.Method == "GET":
			answer(rw, 200, map[string]any{"pdus": []string{}})
		default:
			answer(rw, 200, map[string]any{"pdus": struct{}{}})
		}
	}
	w.far.mu.Unlock()
	first := b.letter(1)
	if status, text := b.leave(first); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	if status, answer := b.deposit(b.contact()); status != 200 || answer.Letters == nil || len(answer.Letters.To) != 1 || answer.Letters.To[0].Waiting != 1 {
		t.Errorf("the box hears %d %+v", status, answer.Letters)
	}
	w.await("a try", func() bool { return len(w.far.heard()) > 0 })
	w.await("word of why it waits", func() bool { return strings.Contains(w.hub.mail.Why("box1.test", "far.test"), "answers 502") })
	s, err := w.hub.state(t.Context())
	if err != nil || len(s.Boxes[0].Letters) != 1 || s.Boxes[0].Letters[0].Why == "" {
		t.Errorf("the operator is told %+v, %v", s.Boxes[0].Letters, err)
	}
	b.away()
	w.stop()
	w.start()
	mu.Lock()
	there = true
	mu.Unlock()
	uri, header, body := w.far.transaction("box1.test", 1) // the far server speaks: it is in reach
	w.ask("box1.test", "PUT", uri, header, body)
	w.await("the letter to be through", func() bool { return w.hub.mail.Count.Done.Load() == 1 })
	want := "PUT " + first.Sends[0].URI + " " + first.Sends[0].Auth + " " + string(first.Body)
	heard := w.far.heard()
	if heard[len(heard)-2] != want || heard[len(heard)-1] != "GET "+first.Asks[0].URI+" "+first.Asks[0].Auth+" " {
		t.Errorf("the far server was asked\n%s\nwant at the end\n%s\nand the question", strings.Join(heard, "\n"), want)
	}
	b.back()
	if status, a := b.deposit(b.contact()); status != 200 || len(a.Letters.To) != 1 || a.Letters.To[0].Waiting != 0 || len(a.Letters.To[0].Done) != 1 || a.Letters.To[0].Done[0].N != 1 {
		t.Errorf("back again the box hears %d %+v", status, a.Letters)
	}
	if status, text := b.leave(b.letter(2)); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	w.await("word of the second letter", func() bool {
		for _, r := range b.heard() {
			if strings.HasPrefix(r, "PUT "+api.StandingPath+" ") && strings.Contains(r, `"n":2`) {
				return true
			}
		}
		return false
	})
	status, text := b.ask("hub.test", "GET", api.LettersPath, nil, nil)
	var l api.Letters
	if err := json.Unmarshal(text, &l); err != nil || status != 200 || len(l.To) != 1 || l.To[0].Done[0].N != 2 {
		t.Errorf("asked for: %d %s %v", status, text, err)
	}
}

// A transaction of EDUs that a box has sent straight, died over, and leaves as a letter when it is back goes to its server once; a server may show what is in it twice. So it is the other way round.
func TestLetterSentStraightBefore(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	held := make(chan struct{})
	free := sync.OnceFunc(func() { close(held) })
	defer free()
	w.far.mu.Lock()
	w.far.next = func(rw http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "held") {
			<-held
		}
		answer(rw, 200, map[string]any{"pdus": struct{}{}, "long": strings.Repeat("x", 2*onceAnswer)})
	}
	w.far.mu.Unlock()
	local := federation.Local{Server: b.id.Server, Key: b.id.Key}
	edus := func(n int64, id string) api.Letter {
		l := b.letter(n)
		l.Once, l.Events, l.Asks = true, nil, nil
		l.Body = fmt.Appendf(nil, `{"pdus":[],"edus":[{"edu_type":"m.direct_to_device","content":{"n":%d}}]}`, n)
		uri := sendPath + id
		l.Sends = []api.Signed{{URI: uri, Auth: signed(t, local, "far.test", "PUT", uri, l.Body).Get("Authorization")}}
		return l
	}
	straight := func(ctx context.Context, l api.Letter) (status int) {
		req, err := verbatim("hub.test", sealed{method: "PUT", uri: l.Sends[0].URI, authorization: []string{l.Sends[0].Auth}, body: l.Body})
		if err != nil {
			t.Error(err)
			return 0
		}
		req.Host = "far.test"
		resp, err := b.host.RoundTripper().RoundTrip(req.WithContext(ctx))
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	puts := func(l api.Letter) (n int) {
		for _, line := range w.far.heard() {
			if strings.HasPrefix(line, "PUT "+l.Sends[0].URI+" ") {
				n++
			}
		}
		return n
	}
	first, second := edus(1, "held"), edus(2, "left")
	ctx, dies := context.WithCancel(t.Context())
	gone := make(chan int, 1)
	go func() { gone <- straight(ctx, first) }() // ends with its context
	w.await("the first to be under way", func() bool { return puts(first) == 1 })
	dies()
	if status := <-gone; status != 0 {
		t.Errorf("the box that has gone hears %d", status)
	}
	for _, l := range []api.Letter{first, second} {
		if status, text := b.leave(l); status != 200 {
			t.Fatalf("%d %s", status, text)
		}
	}
	free()
	w.await("the letters to be through", func() bool { return w.hub.mail.Count.Done.Load() == 2 })
	if status := straight(t.Context(), second); status != 200 {
		t.Errorf("sent straight after it was left: %d", status)
	}
	if puts(first) != 1 || puts(second) != 1 {
		t.Errorf("the far server was sent the one %d times and the other %d times", puts(first), puts(second))
	}
	w.hub.once.mu.Lock()
	defer w.hub.once.mu.Unlock()
	for k, known := range w.hub.once.known {
		if len(known.body) > onceAnswer {
			t.Errorf("of the answer to %s %d bytes are kept", k.uri, len(known.body))
		}
	}
}

// What a box says to have heard is not told it again; what is no such word changes nothing.
func TestLettersHeeded(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	w.far.mu.Lock()
	w.far.next = func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			refuse(rw, 403, "M_FORBIDDEN", "not for you")
			return
		}
		answer(rw, 200, map[string]any{"pdus": struct{}{}})
	}
	w.far.mu.Unlock()
	if status, text := b.leave(b.letter(1)); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	w.await("the letter to be through", func() bool { return w.hub.mail.Count.Done.Load() == 1 })
	ask := func(method string, body []byte, want int) []byte {
		status, text := b.ask("hub.test", method, api.LettersPath, nil, body)
		if status != want {
			t.Errorf("%s %.80s: %d %s", method, body, status, text)
		}
		return text
	}
	told := ask("GET", nil, 200)
	ask("PUT", []byte(`{"to":[{}]}`), 400)
	if again := ask("GET", nil, 200); !strings.Contains(string(again), api.Barred) {
		t.Errorf("it hears %s", again)
	}
	if again := ask("PUT", told, 200); strings.Contains(string(again), api.Barred) || !strings.Contains(string(again), `"done"`) {
		t.Errorf("after it has heard: %s", again)
	}
}

// What cannot be brought is refused with a code that the box understands.
func TestLettersRefused(t *testing.T) {
	w := newWorld(t)
	b, other := w.newBox("box1.test"), w.newBox("box2.test")
	forged := b.letter(1)
	forged.Body = []byte(`{"pdus":[{"room_id":"!r","n":2}]}`)
	old := b.letter(1)
	old.Epoch = "before"
	for name, tt := range map[string]struct {
		by     *testBox
		letter api.Letter
		want   int
		code   string
	}{
		"forged":         {b, forged, 400, "M_BAD_JSON"},
		"of another box": {other, b.letter(1), 400, "M_BAD_JSON"},
		"other memory":   {b, old, 409, api.OtherMemory},
	} {
		if status, text := tt.by.leave(tt.letter); status != tt.want || !strings.Contains(text, tt.code) {
			t.Errorf("%s: %d %s, want %d %s", name, status, text, tt.want, tt.code)
		}
	}
	if n := w.waiting("box1.test") + w.waiting("box2.test"); n != 0 {
		t.Errorf("%d letters wait", n)
	}
	if status, _ := b.ask("hub.test", "DELETE", api.LetterPath+"?to=far.test", nil, nil); status != 400 {
		t.Errorf("taken back without a series: %d", status)
	}
	if status, _ := b.ask("hub.test", "DELETE", api.LetterPath+"?"+url.Values{"to": {"far.test"}, "series": {"s"}}.Encode(), nil, nil); status != 200 {
		t.Errorf("nothing taken back: %d", status)
	}
}

// A letter that waits for a new key document goes at once when the box brings one.
func TestLettersWaitForKeyDocument(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	var mu sync.Mutex
	good := false
	w.far.mu.Lock()
	w.far.next = func(rw http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !good {
			refuse(rw, 401, "M_UNAUTHORIZED", "no key")
			return
		}
		answer(rw, 200, map[string]any{"pdus": struct{}{}})
	}
	w.far.mu.Unlock()
	if status, text := b.leave(b.letter(1)); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	w.await("five tries, and the last answer", func() bool { // the next is 16 s later
		s, err := w.hub.mail.Standing(t.Context(), "box1.test")
		return len(w.far.heard()) >= 5 && err == nil && len(s.To) == 1 && s.To[0].Status == 401
	})
	mu.Lock()
	good = true
	mu.Unlock()
	began := time.Now()
	if status, a := b.deposit(b.contact()); status != 200 {
		t.Errorf("the box hears %d %+v", status, a.Letters)
	}
	w.await("the letter to be through", func() bool { return w.hub.mail.Count.Done.Load() == 1 })
	if took := time.Since(began); took > 14*time.Second {
		t.Errorf("it took %v", took)
	}
}

// The hub answers under its own name what lacks before events that it has sent, to nobody without a signature.
func TestMissingUnderOwnName(t *testing.T) {
	w := newWorld(t)
	uri, body := missingPath+"!r", []byte(`{"latest_events":["$b"],"earliest_events":[]}`)
	if status, text := w.ask("hub.test", "POST", uri, nil, body); status != 403 {
		t.Errorf("unsigned: %d %s", status, text)
	}
	if status, text := w.ask("hub.test", "POST", uri, signed(t, w.far.Local, "hub.test", "POST", uri, body), body); status != 200 || string(text) != `{"events":[]}` {
		t.Errorf("signed: %d %s", status, text)
	}
}

// A box that takes letters back while the hub keeps all that it may of what went wrong is told so, not that the hub's disk is full; when it has heard, it takes them back.
func TestTakeBackUnheard(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	w.far.mu.Lock()
	w.far.next = func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(http.StatusBadGateway) }
	w.far.mu.Unlock()
	if status, text := b.leave(b.letter(1)); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	amiss := map[string]any{}
	var heard api.Letters
	for i := range 40 {
		var all []api.Amiss
		for n := range int64(100) {
			all = append(all, api.Amiss{Series: strings.Repeat("s", 100), N: n, Event: "$" + strings.Repeat("e", 150), What: api.Unkept})
		}
		to := fmt.Sprintf("dead%d.test", i)
		amiss[to] = map[string]any{"amiss": all, "at": 1}
		heard.To = append(heard.To, api.Standing{To: to, Amiss: all})
	}
	raw, err := json.Marshal(amiss)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.spool.Amend(t.Context(), "box1.test", "letters", "", func([]byte) ([]byte, error) { return raw, nil }); err != nil {
		t.Fatal(err)
	}
	back := api.LetterPath + "?" + url.Values{"to": {"far.test"}, "series": {"s"}}.Encode()
	if status, text := b.ask("hub.test", "DELETE", back, nil, nil); status != 429 || !strings.Contains(string(text), api.NoRoom) || strings.Contains(string(text), "cannot keep") {
		t.Errorf("with all of it unheard: %d %s", status, text)
	}
	if !w.log.has("WARN", "it has to hear first") || w.log.has("ERROR", "disk") {
		t.Error("the log does not say why")
	}
	if heard.Epoch, err = w.spool.Epoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	if raw, err = json.Marshal(heard); err != nil {
		t.Fatal(err)
	}
	if status, text := b.ask("hub.test", "PUT", api.LettersPath, nil, raw); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	if status, text := b.ask("hub.test", "DELETE", back, nil, nil); status != 200 {
		t.Errorf("after it has heard: %d %s", status, text)
	}
}
