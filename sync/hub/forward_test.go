// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"net/http"
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
		case <-time.After(2 * time.Second): // a broken connection is noticed in milliseconds
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
