// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hallig/sync/federation"
	"hallig/sync/hub"
	"hallig/sync/hub/api"
	"hallig/tools/testpeer"
)

// TestLettersWithHub: when letters can be left, what becomes of the hub's refusals, and whose word on them counts.
func TestLettersWithHub(t *testing.T) {
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var far farServers
	nearAt := far.start(t, ca, "near.test")
	h, dir, stopHub := startHub(t, ca, map[string]string{"near.test": "127.0.0.1:1", "gone.test": "127.0.0.1:1"})
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "box1.test", CAFile: ca.File, ServerAddresses: map[string]string{"near.test": nearAt, "gone.test": "127.0.0.1:1"},
		P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}, Hub: HubConfig{Server: "hub.test"}})
	post := hubPost{b.Box}
	if e := post.Open("gone.test"); e != "" {
		t.Errorf("without a hub letters can be left for %q", e)
	}
	var code hub.Code
	if err := hub.Ask(t.Context(), dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		t.Fatal(err)
	}
	if _, err := b.takeCode(t.Context(), code.Code, h.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	awaitHub(t, "the contact", func() bool { return post.Open("gone.test") != "" })
	push := func(to string) error {
		_, err := b.fed.client.Push(t.Context(), to, "t1", []byte(`{"pdus":[]}`))
		return err
	}
	if err := push("near.test"); err != nil {
		t.Fatal(err)
	}
	if post.Open("near.test") != "" {
		t.Error("letters for a server that only the box reaches")
	}
	if push("gone.test") == nil || post.Open("gone.test") == "" {
		t.Error("no letters for a server that nobody reaches")
	}

	letter := func(n int64, epoch string) api.Letter {
		sign := func(method, uri string, body []byte) api.Signed {
			a, err := federation.SignRequest(b.fed.local, "gone.test", method, uri, body)
			if err != nil {
				t.Fatal(err)
			}
			return api.Signed{URI: uri, Auth: a.String()}
		}
		l := api.Letter{To: "gone.test", Series: "s", N: n, Epoch: epoch, Events: []string{"$a"}, Body: []byte(`{"pdus":[{}]}`)}
		l.Sends = []api.Signed{sign("PUT", fmt.Sprintf("/_matrix/federation/v1/send/t%d", n), l.Body)}
		l.Asks = []api.Ask{{Signed: sign("GET", "/_matrix/federation/v1/event/$a", nil), Room: "!r", Event: "$a"}}
		return l
	}
	waiting := func() (n int64) {
		var s hub.Status
		if err := hub.Ask(t.Context(), dir, "GET", "/status", nil, &s); err != nil {
			t.Fatal(err)
		}
		for _, q := range s.Boxes[0].Letters {
			n += q.Count
		}
		return n
	}
	if err := post.Leave(t.Context(), letter(1, post.Open("gone.test"))); err != nil || waiting() != 1 {
		t.Errorf("left: %v, %d wait", err, waiting())
	}
	contact := b.hubStatus().Heard
	if err := post.Leave(t.Context(), letter(2, "another")); err == nil || waiting() != 1 {
		t.Errorf("left for another memory: %v, %d wait", err, waiting())
	}
	awaitHub(t, "the box to ask for the hub's memory", func() bool { return b.hubStatus().Heard.After(contact) })
	if err := post.TakeBack(t.Context(), "gone.test", "s"); err != nil {
		t.Error(err)
	}
	awaitHub(t, "what was taken back to be gone", func() bool { return waiting() == 0 })

	others := 0
	handler := b.fromHub(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { others++ }))
	for _, tt := range []struct {
		from, body string
		want       int
	}{{"hub.test", `{"epoch":"e","to":[]}`, 200}, {"hub.test", `{"to":[{}]}`, 400}, {"hub.test", strings.Repeat(" ", api.MaxLetters+1), 400}, {"box2.test", `{}`, 200}} {
		r := httptest.NewRequestWithContext(t.Context(), "PUT", api.StandingPath, strings.NewReader(tt.body))
		r.RemoteAddr = tt.from
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%s says %.40q: %d, want %d", tt.from, tt.body, w.Code, tt.want)
		}
	}
	if others != 1 {
		t.Errorf("%d words of others were passed over, want 1", others)
	}
	stopHub()
	awaitHub(t, "the hub to be gone", func() bool { return post.Open("gone.test") == "" })
	b.exchange.post.went("near.test", false)
	b.exchange.post.mu.Lock()
	_, still := b.exchange.post.straight["near.test"]
	b.exchange.post.mu.Unlock()
	if still {
		t.Error("a server that the hub has reached since still counts as out of its reach")
	}
}
