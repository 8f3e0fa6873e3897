// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
)

// A kept connection that turns out to be dead costs a question nothing, whatever its method; what has an effect each time it arrives is not repeated.
func TestDeadConnection(t *testing.T) {
	var n atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 2 { // as a link that was cut between two requests
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
			return
		}
		w.Write([]byte(`{}`))
	}))
	defer server.Close()
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, once := range []bool{false, true} {
		n.Store(0)
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		c := NewClient(ClientConfig{Local: Local{Server: "a.example", Key: testKey(0)}, Transport: roundTripFunc(func(r *http.Request) (*http.Response, error) {
			r.URL.Scheme, r.URL.Host = target.Scheme, target.Host
			return transport.RoundTrip(r)
		})})
		q := call{method: http.MethodPost, path: v1("x"), body: map[string]int{"a": 1}, once: once}
		if err := c.ask(t.Context(), "b.example", q, nil); err != nil {
			t.Fatal(err)
		}
		if err := c.ask(t.Context(), "b.example", q, nil); (err != nil) != once {
			t.Errorf("once %t: %v after %d requests", once, err, n.Load())
		}
	}
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
