// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
	"hallig/sync/peer"
)

// What a box has deposited about its users is answered while it is away, to whoever signs the question; one-time keys go once, in no way twice, and then the fallback key.
func TestUsersOfABoxThatIsAway(t *testing.T) {
	w := newWorld(t)
	b, other := w.newBox("box1.test"), w.newBox("box2.test")
	_, a := b.deposit(b.contact())
	const user = "@anna:box1.test"
	put := func(from *testBox, user, epoch string, u api.User) int {
		raw, err := json.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		status, _ := from.ask("hub.test", "PUT", api.UserPath+url.PathEscape(user)+"?epoch="+url.QueryEscape(epoch), nil, raw)
		return status
	}
	key := func(n int) json.RawMessage { return json.RawMessage(fmt.Sprintf(`{"key":"%d"}`, n)) }
	deposit := api.User{
		Profile: json.RawMessage(`{"displayname":"Anna","avatar_url":"mxc://box1.test/a"}`),
		Devices: json.RawMessage(`{"user_id":"@anna:box1.test","stream_id":1,"devices":[]}`),
		Keys: &api.UserKeys{Devices: map[string]json.RawMessage{"A": json.RawMessage(`{"device_id":"A"}`), "B": json.RawMessage(`{"device_id":"B"}`)},
			Master: json.RawMessage(`{"usage":["master"]}`)},
		OneTime:  map[string]map[string]json.RawMessage{"A": {"signed_curve25519:1": key(1), "signed_curve25519:2": key(2)}},
		Fallback: map[string]map[string]json.RawMessage{"A": {"signed_curve25519:F": key(9)}},
	}
	for name, tt := range map[string]struct {
		from        *testBox
		user, epoch string
		want        int
	}{
		"another box":    {other, user, a.Epoch, 400},
		"another memory": {b, user, a.Epoch + "x", 409},
		"as it should":   {b, user, a.Epoch, 200},
	} {
		if got := put(tt.from, tt.user, tt.epoch, deposit); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	if got := put(b, user, a.Epoch, api.User{OneTime: map[string]map[string]json.RawMessage{"A": {"signed_curve25519:3": json.RawMessage(`"` + strings.Repeat("x", 9<<10) + `"`)}}}); got != 413 || w.hub.count.tooMuch.Load() != 1 {
		t.Errorf("more than is kept: %d, counted %d", got, w.hub.count.tooMuch.Load())
	}
	b.away()
	ask := func(method, uri, body string) (int, string) {
		status, out := w.ask("box1.test", method, uri, signed(t, w.far.Local, "box1.test", method, uri, []byte(body)), []byte(body))
		return status, string(out)
	}
	const base = "/_matrix/federation/v1/"
	for _, tt := range []struct{ method, uri, body, want string }{
		{"GET", base + "query/profile?user_id=%40anna%3Abox1.test", "", `200 {"displayname":"Anna","avatar_url":"mxc://box1.test/a"}`},
		{"GET", base + "query/profile?user_id=%40anna%3Abox1.test&field=displayname", "", `200 {"displayname":"Anna"}`},
		{"GET", base + "query/profile?user_id=%40anna%3Abox1.test&field=nothing", "", `404 `},
		{"GET", base + "query/profile?user_id=%40bert%3Abox1.test", "", `404 `},
		{"GET", base + "query/directory?room_alias=%23a%3Abox1.test", "", `404 `},
		{"GET", base + "user/devices/%40anna%3Abox1.test", "", `200 {"user_id":"@anna:box1.test","stream_id":1,"devices":[]}`},
		{"POST", base + "user/keys/query", `{"device_keys":{"@anna:box1.test":["B","C"],"@bert:box1.test":[],"@cora:box2.test":[]}}`,
			`200 {"device_keys":{"@anna:box1.test":{"B":{"device_id":"B"}}},"master_keys":{"@anna:box1.test":{"usage":["master"]}},"self_signing_keys":{}}`},
		{"POST", base + "user/keys/query", `[]`, `404 `},
	} {
		status, out := ask(tt.method, tt.uri, tt.body)
		if got := fmt.Sprintf("%d %s", status, out); got != tt.want && !(strings.HasSuffix(tt.want, " ") && strings.HasPrefix(got, tt.want)) {
			t.Errorf("%s %s: got %s, want %s", tt.method, tt.uri, got, tt.want)
		}
	}
	claim := func() string {
		status, out := ask("POST", base+"user/keys/claim", `{"one_time_keys":{"@anna:box1.test":{"A":"signed_curve25519","B":"signed_curve25519"}}}`)
		if status != 200 {
			t.Errorf("claim: %d %s", status, out)
		}
		return out
	}
	body := `{"one_time_keys":{"@anna:box1.test":{"A":"signed_curve25519"}}}`
	if status, _ := w.ask("box1.test", "POST", base+"user/keys/claim", nil, []byte(body)); status != 401 {
		t.Errorf("a claim that nobody has signed: %d", status)
	}
	got := []string{claim(), claim()}
	slices.Sort(got)
	if want := []string{`{"one_time_keys":{"@anna:box1.test":{"A":{"signed_curve25519:1":{"key":"1"}}}}}`, `{"one_time_keys":{"@anna:box1.test":{"A":{"signed_curve25519:2":{"key":"2"}}}}}`}; !slices.Equal(got, want) {
		t.Errorf("claimed %s", got)
	}
	for range 2 {
		if got := claim(); got != `{"one_time_keys":{"@anna:box1.test":{"A":{"signed_curve25519:F":{"key":"9"}}}}}` {
			t.Errorf("when no key is left: %s", got)
		}
	}
	w.stop()
	w.start()
	b.back()
	given := func() (g api.Given) {
		_, raw := b.ask("hub.test", "GET", api.GivenPath+"?after=0", nil, nil)
		if err := json.Unmarshal(raw, &g); err != nil {
			t.Fatal(err)
		}
		return g
	}
	if g := given(); len(g.Keys) != 2 || g.Keys[0].User != user || g.Keys[0].Device != "A" || g.Keys[0].ID == g.Keys[1].ID || g.Epoch != a.Epoch ||
		len(g.Fallback) != 1 || g.Fallback[0].ID != "signed_curve25519:F" {
		t.Errorf("the box hears %+v", g)
	}
	// What was given away does not come back by being deposited again, and a new fallback key begins anew.
	deposit.Fallback["A"] = map[string]json.RawMessage{"signed_curve25519:G": key(8)}
	if got := put(b, user, a.Epoch, deposit); got != 200 {
		t.Errorf("again: %d", got)
	}
	if g := given(); len(g.Fallback) != 0 {
		t.Errorf("the box hears %+v", g)
	}
	b.away()
	if got := claim(); got != `{"one_time_keys":{"@anna:box1.test":{"A":{"signed_curve25519:G":{"key":"8"}}}}}` {
		t.Errorf("after the same deposit: %s", got)
	}
	b.back()
	if got := put(b, user, a.Epoch, api.User{}); got != 200 {
		t.Errorf("the user is gone: %d", got)
	}
	b.away()
	if status, _ := ask("GET", base+"query/profile?user_id=%40anna%3Abox1.test", ""); status != 404 {
		t.Errorf("a user that is gone: %d", status)
	}
}

// What a box has crossed out is forgotten, a day later and not before; a box that speaks of another memory changes nothing.
func TestGivenKeysAreForgotten(t *testing.T) {
	kept, err := spool.Open(filepath.Join(t.TempDir(), "spool.db"), spool.Limits{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	ctx, now := t.Context(), time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC)
	h := &Hub{spool: kept, now: func() time.Time { return now }}
	if err := kept.PutBox(ctx, spool.Box{Server: "box1.test", ID: "id", Mode: spool.Sealed}); err != nil {
		t.Fatal(err)
	}
	epoch, err := kept.Epoch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	give := func(id string) {
		t.Helper()
		if err := kept.PutKeys(ctx, "box1.test", "@u:box1.test", "D", map[string]json.RawMessage{"a:" + id: json.RawMessage(`1`)}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := kept.TakeKey(ctx, "box1.test", "@u:box1.test", "D", "a"); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(after int64, epoch string) api.Given {
		t.Helper()
		rec := httptest.NewRecorder()
		h.given(rec, httptest.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s?after=%d&epoch=%s", api.GivenPath, after, epoch), nil), entry{Peer: peer.Peer{Server: "box1.test"}})
		var g api.Given
		if err := json.Unmarshal(rec.Body.Bytes(), &g); err != nil || rec.Code != 200 {
			t.Fatalf("%d %s: %v", rec.Code, rec.Body, err)
		}
		return g
	}
	count := func(what string, want int) {
		t.Helper()
		if taken, err := kept.TakenKeys(ctx, "box1.test", 0, 100); err != nil || len(taken) != want {
			t.Errorf("%s: %d are remembered, want %d; %v", what, len(taken), want, err)
		}
	}
	give("1")
	give("2")
	last := hear(0, epoch).Keys[1].Place
	hear(last, "another")
	now = now.Add(25 * time.Hour)
	hear(last, epoch)
	count("just crossed out", 2)
	give("3")
	now = now.Add(23 * time.Hour)
	hear(last, epoch)
	count("after 23 hours", 3)
	now = now.Add(time.Hour)
	if g := hear(last, epoch); len(g.Keys) != 1 || g.Keys[0].ID != "a:3" {
		t.Errorf("the box hears %+v", g)
	}
	count("after a day", 1)
}

// Two nodes that give fallback keys away at the same time both have it written down.
func TestFallbackKeysOfTwoNodes(t *testing.T) {
	kept, err := spool.Open(filepath.Join(t.TempDir(), "spool.db"), spool.Limits{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	if err := kept.PutBox(t.Context(), spool.Box{Server: "box1.test", ID: "id", Mode: spool.Sealed}); err != nil {
		t.Fatal(err)
	}
	nodes := []*Hub{{spool: kept}, {spool: kept}}
	const each = 20
	var all sync.WaitGroup
	for n, h := range nodes {
		all.Go(func() {
			for i := range each {
				u := &api.User{Fallback: map[string]map[string]json.RawMessage{fmt.Sprint("D", n, i): {"a:F": json.RawMessage(`1`)}}}
				if id, _, err := h.giveKey(t.Context(), "box1.test", "@u:box1.test", fmt.Sprint("D", n, i), "a", u); id != "a:F" || err != nil {
					t.Error(id, err)
				}
			}
		})
	}
	all.Wait()
	g, err := nodes[0].tellGiven(t.Context(), "box1.test", 0)
	if err != nil || len(g.Fallback) != 2*each {
		t.Errorf("%d of %d are written down, %v", len(g.Fallback), 2*each, err)
	}
}
