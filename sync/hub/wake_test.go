// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"strings"
	"testing"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// Servers that a box has talked with are woken when they say nothing: after the hub was down, and now and then; nobody else, and only for boxes that let the hub sign and are away.
func TestWakesServers(t *testing.T) {
	w := newWorld(t)
	d, sealed := w.newBox("box1.test").delegating(), w.newBox("box2.test").delegating()
	key := d.agrees()
	sealed.says(api.Sealed)
	for n, b := range []*testBox{d.testBox, sealed.testBox} { // both talk with the far server
		uri, header, body := w.far.transaction(b.id.Server, n)
		if status, out := w.ask(b.id.Server, "PUT", uri, header, body); status != 200 {
			t.Fatalf("%d %s", status, out)
		}
	}
	woken := func() (n int) {
		for _, asked := range w.far.heard() {
			if strings.HasPrefix(asked, "PUT "+sendPath+"wake-") {
				n++
			}
		}
		return n
	}
	shift := time.Duration(0)
	look := func(what string, after time.Duration, want int) {
		t.Helper()
		shift += after
		w.hub.wakeServers(t.Context(), time.Now().Add(shift))
		if got := woken(); got != want {
			t.Errorf("%s: woken %d times, want %d", what, got, want)
		}
	}
	look("the box is connected", 7*time.Hour, 0)
	d.away()
	sealed.away()
	shift = 0
	look("they have just talked", 2*time.Minute, 0)
	look("silent for long", 6*time.Hour, 1)
	look("just woken", time.Hour, 1)

	asked := w.far.heard()
	f := strings.SplitN(asked[len(asked)-1], " ", 3)
	auth, body, _ := strings.Cut(f[2], "{")
	body = "{" + body
	a, err := federation.ParseAuthorization(strings.TrimSpace(auth))
	if err != nil || a.Origin != "box1.test" || a.Destination != "far.test" || a.Key != key.ID {
		t.Errorf("woken by %+v, %v", a, err)
	}
	if err := federation.VerifyRequest(a, f[0], f[1], []byte(body), key.Key); err != nil || !takeable(body) {
		t.Errorf("woken with %s, %v", body, err)
	}

	w.stop() // the hub was down: whoever has tried in vain may have given up
	w.start()
	shift = 0
	look("just started", 0, 1)
	look("a minute later", 2*time.Minute, 2)
	look("awake", 2*time.Minute, 2)
}

// takeable says whether a body is one that a server takes in.
func takeable(body string) bool {
	_, err := federation.CheckTransaction([]byte(body))
	return err == nil
}
