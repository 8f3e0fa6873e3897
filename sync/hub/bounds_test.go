// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A question that names more people than any box has is not answered: each of them would cost a look into the spool.
func TestUsersAtOnce(t *testing.T) {
	devices, keys := map[string][]string{}, map[string]map[string]string{}
	for i := range usersAtOnce + 1 {
		user := fmt.Sprintf("@u%d:box.test", i)
		devices[user], keys[user] = []string{}, map[string]string{"D": "signed_curve25519"}
	}
	query, err := json.Marshal(map[string]any{"device_keys": devices})
	if err != nil {
		t.Fatal(err)
	}
	claim, err := json.Marshal(map[string]any{"one_time_keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	h := &Hub{} // without a spool: whoever looks there falls over
	if out, err := h.keysQuery(t.Context(), nil, "box.test", query); out != nil || err != nil {
		t.Errorf("query: %v, %v", out, err)
	}
	if out, err := h.keysClaim(t.Context(), nil, "box.test", claim); out != nil || err != nil {
		t.Errorf("claim: %v, %v", out, err)
	}
}

// stuck is a body that does not come.
type stuck struct{ ctx context.Context }

func (s stuck) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

// The world may fill all places that there are for its bodies: boxes have theirs.
func TestFloodFromTheWorldKeepsNoBoxOut(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	for range 300 { // of small bodies, which a box's are
		r := httptest.NewRequestWithContext(ctx, http.MethodPut, "/", stuck{ctx})
		r.ContentLength = 64 << 10
		go func() { // ends with ctx
			if _, _, err := w.hub.verifier(r).Body(httptest.NewRecorder(), r); err == nil {
				t.Error("a body that never came was read")
			}
		}()
	}
	uri, header, body := w.far.transaction("box1.test", 1)
	w.await("the world to be told to come again", func() bool {
		r := httptest.NewRequestWithContext(ctx, http.MethodPut, "https://box1.test"+uri, bytes.NewReader(body))
		r.Header = header
		short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
		defer stop()
		rec := httptest.NewRecorder()
		w.hub.fromWorld(rec, r.WithContext(short))
		return rec.Code == http.StatusTooManyRequests
	})
	if status, _ := b.deposit(b.contact()); status != 200 { // who waits in vain for a place is told to come again
		t.Errorf("the box: %d", status)
	}
}
