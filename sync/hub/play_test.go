// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

// What waits goes to the box many at a time, in order; what it does not take stops what is behind it and is given again; a box that takes one at a time gets them one by one.
func TestPlaysTogether(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprint("old box ", old), func(t *testing.T) {
			w := newWorld(t)
			b := w.newBox("box1.test")
			b.old.Store(old)
			b.away()
			const count = 250
			var want []string
			for n := range count {
				uri, header, body := w.far.transaction("box1.test", n)
				if status, out := w.ask("box1.test", "PUT", uri, header, body); status != 200 {
					t.Fatalf("%d %s", status, out)
				}
				want = append(want, uri)
			}
			refused := false
			b.answers(func(w http.ResponseWriter, r *http.Request) {
				if r.RequestURI == want[120] && !refused {
					refused = true
					http.Error(w, "not now", http.StatusServiceUnavailable)
					return
				}
				answer(w, 200, map[string]any{"pdus": struct{}{}})
			})
			b.back()
			w.await("the transactions to be taken", func() bool { return w.waiting("box1.test") == 0 })
			var got []string
			for _, a := range b.heard() {
				got = append(got, strings.Fields(a)[1])
			}
			if !refused || len(got) != count+1 {
				t.Fatalf("the box was given %d requests, want %d", len(got), count+1)
			}
			if got[120] != want[120] || got[121] != want[120] {
				t.Error("what was not taken was not the next to be given")
			}
			got = append(got[:120], got[121:]...)
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("at %d the box was given %s, want %s", i, got[i], want[i])
				}
			}
			if n := b.plays.Load(); old && n != 0 || !old && (n < 3 || n > 8) {
				t.Errorf("it was given many at once %d times", n)
			}
		})
	}
}

func TestTogether(t *testing.T) {
	text := func(n int) []byte { return []byte(strings.Repeat("x", n)) }
	for name, tt := range map[string]struct {
		bodies [][]byte
		want   int
	}{
		"small ones":          {[][]byte{text(1), text(2), text(3)}, 3},
		"as many as may":      {make([][]byte, api.PlayMost+5), api.PlayMost},
		"as much as may":      {[][]byte{text(api.PlayBytes - 1), text(1), text(1)}, 2},
		"one that is long":    {[][]byte{text(api.PlayBytes + 1), text(1)}, 0},
		"one that is no text": {[][]byte{text(1), {0xff}, text(1)}, 1},
	} {
		var rs []spool.Request
		for _, b := range tt.bodies {
			rs = append(rs, spool.Request{Body: b})
		}
		if got := len(together(rs)); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}
