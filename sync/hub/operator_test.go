// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"hallig/appliance/cert"
	"hallig/appliance/health"
	"hallig/sync/hub/api"
	"hallig/sync/hub/fleet"
	"hallig/sync/hub/spool"
)

// api asks the API at the port of the pages.
func (w *world) api(method, path, token, body string, into any) int {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, w.hub.Page()+"api/v1/"+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && into != nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		w.Fatalf("%s %s: %s: %v", method, path, raw, err)
	}
	return resp.StatusCode
}

// The operator sees what boxes said and what waits for them, and turns one away; the federation port shows nothing of it.
func TestOperator(t *testing.T) {
	w := newWorld(t)
	b, other := w.newBox("box1.test"), w.newBox("box2.test")
	c := b.contact()
	c.Health, c.Sentence, c.SentenceDE, c.ClockGood, c.Clock, c.Board, c.Release = "trouble", "No network.", "Kein Netz.", true, time.Now().Add(2*time.Hour).UnixMilli(), "amd64", 3
	c.ClockQuality = "exact"
	if status, _ := b.deposit(c); status != 200 {
		t.Fatal(status)
	}
	c = other.contact()
	c.Health, c.ClockGood, c.Clock, c.Board, c.Release = "ok", true, time.Now().UnixMilli(), "amd64", 4
	if status, _ := other.deposit(c); status != 200 {
		t.Fatal(status)
	}
	w.far.mu.Lock()
	w.far.next = func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadGateway) } // so that a letter stays
	w.far.mu.Unlock()
	if status, text := b.leave(b.letter(1)); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	b.away()
	for n := range 2 {
		uri, header, body := w.far.transaction("box1.test", n)
		if status, out := w.ask("box1.test", "PUT", uri, header, body); status != 200 {
			t.Fatalf("%d %s", status, out)
		}
	}
	if err := w.spool.PutKeys(t.Context(), "box1.test", "@u:box1.test", "D", map[string]json.RawMessage{"signed:1": []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	if status := w.api("GET", "boxes", "", "", nil); status != 401 {
		t.Errorf("before there is a token: %d", status)
	}
	var token Token
	if err := Ask(t.Context(), w.dir, "POST", "/token", struct{}{}, &token); err != nil || token.Page != w.hub.Page() {
		t.Fatalf("%+v %v", token, err)
	}
	w.stop()
	w.start() // the token outlives a restart
	var list struct{ Boxes []fleet.Box }
	if status := w.api("GET", "boxes", token.Token, "", &list); status != 200 || len(list.Boxes) != 2 {
		t.Fatalf("boxes: %d %+v", status, list)
	}
	got := list.Boxes[0]
	if got.Server != "box1.test" || got.Connected || got.Version != "v1" || got.Way != "p2p" || got.State != health.Trouble || got.Said.SentenceDE != "Kein Netz." || got.Said.ClockQuality != "exact" || got.Behind != 1 ||
		got.Off().Round(time.Hour) != 2*time.Hour || got.Keys.Left != 1 || got.KeyUntil.Before(time.Now()) {
		t.Errorf("the box with trouble comes first, as it said: %+v", got)
	}
	if len(got.Waiting) != 1 || got.Waiting[0].Server != "far.test" || got.Waiting[0].Count != 2 || len(got.Letters) != 1 || got.Letters[0].Server != "far.test" || got.Full <= 0 {
		t.Errorf("what waits: %+v, %+v, %g", got.Waiting, got.Letters, got.Full)
	}
	if list.Boxes[1].Server != "box2.test" || list.Boxes[1].Behind != 0 {
		t.Errorf("the other one: %+v", list.Boxes[1])
	}
	for _, path := range []string{"/", "/login", "/api/v1/boxes", "/box/box1.test"} {
		for _, name := range []string{"hub.test", "box1.test"} {
			if status, out := w.ask(name, "GET", path, http.Header{"Authorization": {"Bearer " + token.Token}}, nil); status != 404 || strings.Contains(string(out), "far.test") {
				t.Errorf("the federation port answers %s for %s: %d %s", path, name, status, out)
			}
		}
	}
	if status := w.api("POST", "boxes/box2.test/revoke", token.Token, `{"reason":"stolen"}`, nil); status != 200 {
		t.Errorf("revoke: %d", status)
	}
	w.await("the box to be cut off", func() bool { return !w.hub.p2p.InReach("box2.test") })
	if status := w.api("POST", "boxes/box9.test/revoke", token.Token, `{"reason":"stolen"}`, nil); status != 400 {
		t.Errorf("revoke of a stranger: %d", status)
	}
	var code fleet.Code
	if status := w.api("POST", "pair", token.Token, `{}`, &code); status != 200 || code.Code == "" || code.Expires.Before(time.Now()) {
		t.Errorf("pair: %d %+v", status, code)
	}
	if err := Ask(t.Context(), w.dir, "POST", "/token", struct{}{}, &token); err != nil {
		t.Fatal(err)
	}
	if status := w.api("GET", "hub", token.Token[1:]+"x", "", nil); status != 401 {
		t.Errorf("another token: %d", status)
	}
}

// What a box may not say of itself changes nothing.
func TestContactBounds(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	for name, change := range map[string]func(*api.Contact){
		"sentence": func(c *api.Contact) { c.SentenceDE = strings.Repeat("x", 501) },
		"board":    func(c *api.Contact) { c.Board = strings.Repeat("x", 21) },
		"release":  func(c *api.Contact) { c.Release = -1 },
		"update":   func(c *api.Contact) { c.Update = &api.UpdateState{Error: strings.Repeat("x", 501)} },
		"quality":  func(c *api.Contact) { c.ClockQuality = strings.Repeat("x", 101) },
	} {
		c := b.contact()
		change(&c)
		if status, _ := b.deposit(c); status != 400 {
			t.Errorf("%s: %d", name, status)
		}
	}
	if row, err := w.spool.Box(t.Context(), "box1.test"); err != nil || !row.Seen.IsZero() {
		t.Errorf("%+v %v", row, err)
	}
}

// The room of a box is as full as the fullest of its bounds: in all, or of one queue.
func TestUsed(t *testing.T) {
	limits := spool.Limits{Bytes: 1000, Requests: 100}
	queue := func(other string, in bool, count, bytes int64) spool.Waiting {
		return spool.Waiting{Queue: spool.Queue{Box: "b", Other: other, In: in}, Count: count, Bytes: bytes}
	}
	for _, tt := range []struct {
		waiting []spool.Waiting
		want    float64
	}{
		{nil, 0}, {[]spool.Waiting{queue("x", true, 10, 100)}, 0.2}, {[]spool.Waiting{queue("x", true, 1, 450)}, 0.9}, {[]spool.Waiting{queue("x", true, 30, 0), queue("y", false, 40, 0), queue("z", true, 10, 0)}, 0.8},
		{[]spool.Waiting{queue("x", true, 90, 900)}, 1}, {[]spool.Waiting{{Queue: spool.Queue{Box: "gone"}, Count: 99}}, 0},
	} {
		boxes := []fleet.Box{{Server: "b"}}
		used(boxes, map[string]int{"b": 0}, tt.waiting, limits)
		if boxes[0].Full != tt.want {
			t.Errorf("%+v: %g, want %g", tt.waiting, boxes[0].Full, tt.want)
		}
	}
}

// Pages at an address that others reach speak TLS; a taken port keeps the hub from its work only when it was asked for.
func TestPagePort(t *testing.T) {
	w := newWorld(t)
	taken := strings.TrimSuffix(strings.TrimPrefix(w.hub.Page(), "http://"), "/")
	h := &Hub{cfg: Config{Data: t.TempDir(), Page: taken}, log: w.hub.log, now: time.Now}
	if err := h.openPages(w.hub.certs); err == nil || !strings.Contains(err.Error(), "hub.json") {
		t.Errorf("a taken port: %v", err)
	}
	h.cfg.Page = pageOff
	if err := h.openPages(w.hub.certs); err != nil || h.Page() != "" {
		t.Errorf("off: %v %s", err, h.Page())
	}
	h.cfg.Page = "0.0.0.0:0"
	if err := h.openPages(w.hub.certs); err != nil || !strings.HasPrefix(h.Page(), "https://") {
		t.Errorf("open to others: %v %s", err, h.Page())
	}
	if _, plain := h.page.(*net.TCPListener); plain {
		t.Error("open to others without TLS")
	}
	h.page.Close()
	for _, bad := range []Config{{Page: "8449"}, {Page: "no"}} {
		bad.Spool, bad.TLS = w.spool, []cert.Files{{Certificate: "c", Key: "k"}}
		if err := bad.check(); err == nil || !strings.Contains(err.Error(), "page") {
			t.Errorf("%q: %v", bad.Page, err)
		}
	}
	if _, ok := w.hub.page.(*net.TCPListener); !ok {
		t.Errorf("on loopback: %T", w.hub.page)
	}
}
