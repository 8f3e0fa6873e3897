// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hallig/sync/hub/api"
)

// What waited at the hub is answered one after the other, as if each had come by itself, up to the first that is not dealt with.
func TestPlayed(t *testing.T) {
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "box1.test", P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}, Hub: HubConfig{Server: "hub.test"}})
	passed := false
	h := b.fromHub(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true }))
	play := func(from string, raw []byte) (int, api.Played) {
		t.Helper()
		r, w := httptest.NewRequest("POST", api.PlayPath, bytes.NewReader(raw)), httptest.NewRecorder()
		r.RemoteAddr, passed = from, false
		h.ServeHTTP(w, r)
		var p api.Played
		if w.Code == 200 && !passed {
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatal(err)
			}
		}
		return w.Code, p
	}
	key, unsigned := api.Waited{Method: "GET", URI: "/_matrix/key/v2/server"}, api.Waited{Method: "PUT", URI: "/_matrix/federation/v1/send/1", Authorization: "X-Matrix x", Body: "{}", Received: 5}
	raw, err := (&api.Play{Requests: []api.Waited{key, key, unsigned, key}}).Pack()
	if err != nil {
		t.Fatal(err)
	}
	code, p := play("hub.test", raw)
	if code != 200 || len(p.Answers) != 3 || p.Answers[0] != (api.PlayedOne{Status: 200}) || p.Answers[1].Status != 200 || p.Answers[2].Status != 401 || !strings.Contains(p.Answers[2].Text, "M_") {
		t.Errorf("%d %+v", code, p)
	}
	for _, uri := range []string{"no path", "http://elsewhere/x"} {
		raw, err := (&api.Play{Requests: []api.Waited{{Method: "GET", URI: uri}, key}}).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if code, p := play("hub.test", raw); code != 200 || len(p.Answers) != 2 || p.Answers[0].Status != 400 {
			t.Errorf("%q: %d %+v", uri, code, p)
		}
	}
	if code, _ := play("hub.test", []byte("nonsense")); code != http.StatusUnprocessableEntity {
		t.Errorf("nonsense: %d", code)
	}
	if play("box2.test", raw); !passed {
		t.Error("another one than the hub plays")
	}
}
