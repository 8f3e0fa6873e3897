// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"hallig/sync/federation"
)

// A transaction that a server works on is seen through when its box goes; a question is not.
func TestTransactionSeenThrough(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	began, ended := make(chan string, 2), make(chan error, 2)
	gone := make(chan struct{})
	w.far.mu.Lock()
	w.far.next = func(_ http.ResponseWriter, r *http.Request) {
		began <- r.Method
		<-gone
		select {
		case <-r.Context().Done():
			ended <- r.Context().Err()
		case <-time.After(map[string]time.Duration{"PUT": 2 * time.Second, "GET": inTime}[r.Method]): // a broken connection is noticed in milliseconds, where there is time for it
			ended <- nil
		}
	}
	w.far.mu.Unlock()
	for _, tt := range []struct {
		method, uri string
		want        error
	}{{"PUT", sendPath + "1", nil}, {"GET", "/_matrix/federation/v1/event/$x", context.Canceled}} {
		ctx, hangUp := context.WithCancel(t.Context())
		req, err := verbatim("hub.test", sealed{method: tt.method, uri: tt.uri, authorization: signed(t, federation.Local{Server: b.id.Server, Key: b.id.Key}, "far.test", tt.method, tt.uri, nil).Values("Authorization")})
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "far.test"
		done := make(chan struct{})
		go func() { // waited for below
			defer close(done)
			if resp, err := b.host.RoundTripper().RoundTrip(req.WithContext(ctx)); err == nil {
				resp.Body.Close()
			}
		}()
		<-began
		hangUp()
		<-done
		gone <- struct{}{}
		if err := <-ended; (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", tt.method, err, tt.want)
		}
	}
}

// A transaction that was answered is not sent out again when its box, which may have died before it heard the answer, sends the same once more; another one under its id, another box's, and what was refused are.
func TestTransactionOnce(t *testing.T) {
	w := newWorld(t)
	b, other := w.newBox("box1.test"), w.newBox("box2.test")
	status := 200
	w.far.mu.Lock()
	w.far.next = func(rw http.ResponseWriter, _ *http.Request) {
		answer(rw, status, map[string]any{"pdus": map[string]any{"$x": struct{}{}}})
	}
	w.far.mu.Unlock()
	send := func(b *testBox, uri, body string) (int, string) {
		l := federation.Local{Server: b.id.Server, Key: b.id.Key}
		code, text := b.ask("far.test", "PUT", uri, signed(t, l, "far.test", "PUT", uri, []byte(body)), []byte(body))
		return code, string(text)
	}
	for n, tt := range []struct {
		b         *testBox
		uri, body string
		status    int
		out       int // so often the far server has been asked by then
	}{
		{b, sendPath + "1", `{"a":1}`, 200, 1},
		{b, sendPath + "1", `{"a":1}`, 200, 1},
		{b, sendPath + "1", `{"a":2}`, 200, 2},
		{b, sendPath + "2", `{"a":1}`, 200, 3},
		{other, sendPath + "1", `{"a":1}`, 200, 4},
		{b, sendPath + "3", `{"a":1}`, 403, 5},
		{b, sendPath + "3", `{"a":1}`, 403, 6},
	} {
		status = tt.status
		code, text := send(tt.b, tt.uri, tt.body)
		if code != tt.status || !strings.Contains(text, "$x") || len(w.far.heard()) != tt.out {
			t.Errorf("%d: %d %s, %d came to the far server, want %d", n, code, text, len(w.far.heard()), tt.out)
		}
	}
}

// An answer that is too long to be kept reaches its box whole. When it was a 200, so does that it was one when the box sends the same once more.
func TestLongAnswerToTransaction(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	status := 200
	long := map[string]any{"pdus": map[string]any{"$x": map[string]string{"error": strings.Repeat("x", 5*onceAnswer)}}}
	w.far.mu.Lock()
	w.far.next = func(rw http.ResponseWriter, _ *http.Request) { answer(rw, status, long) }
	w.far.mu.Unlock()
	l := federation.Local{Server: b.id.Server, Key: b.id.Key}
	body := []byte(`{"a":1}`)
	for n, tt := range []struct {
		uri    string
		status int
		whole  bool
		out    int // so often the far server has been asked by then
	}{
		{sendPath + "1", 200, true, 1},
		{sendPath + "1", 200, false, 1},
		{sendPath + "2", 403, true, 2},
		{sendPath + "2", 403, true, 3},
	} {
		status = tt.status
		code, text := b.ask("far.test", "PUT", tt.uri, signed(t, l, "far.test", "PUT", tt.uri, body), body)
		var got struct {
			PDUs map[string]struct{ Error string }
		}
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%d: %d, %v", n, code, err)
		}
		if whole := len(got.PDUs["$x"].Error) == 5*onceAnswer; code != tt.status || whole != tt.whole || len(w.far.heard()) != tt.out {
			t.Errorf("%d: %d, %d bytes, %d came to the far server, want %+v", n, code, len(text), len(w.far.heard()), tt)
		}
	}
}

// The memory of answers has an end, and forgets what is old before what is not answered yet.
func TestOncesAreBounded(t *testing.T) {
	var o onces
	now := time.Now()
	under := onceOf("box", "far", "under way", nil)
	way, _ := o.begin(under, now)
	for n := range onceMost + 10 {
		k := onceOf("box", "far", fmt.Sprint(n), nil)
		if one, mine := o.begin(k, now); mine {
			o.end(k, one, 200, nil, nil)
		}
	}
	if len(o.known) > onceMost {
		t.Errorf("%d are remembered", len(o.known))
	}
	if again, mine := o.begin(under, now); mine || again != way {
		t.Error("one that is under way was forgotten")
	}
}
