// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"hallig/appliance/event"
)

// both is the way to a handler in this process; the Host says which of its names is asked.
type both struct{ h http.Handler }

func (b both) RoundTrip(r *http.Request) (*http.Response, error) {
	in := httptest.NewRequestWithContext(r.Context(), r.Method, r.URL.RequestURI(), r.Body)
	in.Header = r.Header
	in.Host = r.URL.Host
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, in)
	return w.Result(), nil
}

// names answers for the users of several names.
type names struct{ Users }

func (names) Profile(_ context.Context, u event.UserID, _ string) (json.RawMessage, error) {
	return json.RawMessage(`{"displayname":"` + string(u) + `"}`), nil
}

func (names) OpenID(_ context.Context, local, token string) (event.UserID, error) {
	return event.UserID("@" + token + ":" + local), nil
}

// TestOneHandlerUnderTwoNames: each request picks the identity that answers it, by the destination that is signed, or by the Host where nothing is
// signed; each question is signed by whom it is asked as; keys are published under each name, also old ones.
func TestOneHandlerUnderTwoNames(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	clock := func() time.Time { return now }
	east := Local{Server: "east.example", Key: testKey(0)}
	west := Local{Server: "west.example:8448", Key: testKey(1), Old: map[string]OldKey{"ed25519:old": {Key: testKey(3).Private.Public().(ed25519.PublicKey), ExpiredTS: 5}}, At: "gate.example:443"}
	far := Local{Server: "far.example", Key: testKey(2)}
	ours := Locals(func(name string) (Local, bool) {
		for _, l := range []Local{east, west} {
			if l.Server == name {
				return l, true
			}
		}
		return Local{}, false
	})
	var ring *KeyRing
	fetch := func(_ context.Context, server string) ([]byte, error) { return ring.Document(far) }
	handlerRing := NewKeyRing(KeyRingConfig{Locals: ours, Fetch: fetch, Now: clock})
	ring = NewKeyRing(KeyRingConfig{Locals: Only(far), Now: clock})
	h := NewHandler(HandlerConfig{Locals: ours, Ring: handlerRing, Users: names{}, Now: clock})
	client := NewClient(ClientConfig{Local: far, Transport: both{h}, Ring: ring, Now: clock})

	for _, l := range []Local{east, west} {
		raw, err := FetchKeys(both{h})(t.Context(), l.Server)
		if err != nil {
			t.Fatal(err)
		}
		var doc keyDocument
		if err := json.Unmarshal(raw, &doc); err != nil || doc.ServerName != l.Server || len(doc.OldVerifyKeys) != len(l.Old) {
			t.Errorf("key document of %s: %s, %v", l.Server, raw, err)
		}
		resp, err := both{h}.RoundTrip(httptest.NewRequest("GET", Scheme+"://"+l.Server+wellKnownPath, nil))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(resp.Body); l.At != "" && string(got) != `{"m.server":"gate.example:443"}` || l.At == "" && resp.StatusCode != http.StatusNotFound {
			t.Errorf("well-known of %s: %d %s", l.Server, resp.StatusCode, got)
		}
		if err := ring.Learn(t.Context(), raw, SourceTLS); err != nil {
			t.Errorf("%s: %v", l.Server, err)
		}
		u := event.UserID("@uwe:" + l.Server)
		if got, err := client.Profile(t.Context(), u); err != nil || string(got) != `{"displayname":"`+string(u)+`"}` {
			t.Errorf("profile at %s: %s, %v", l.Server, got, err)
		}
		resp, err = both{h}.RoundTrip(httptest.NewRequest("GET", Scheme+"://"+l.Server+"/_matrix/federation/v1/openid/userinfo?access_token=tok", nil))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(resp.Body); string(got) != `{"sub":"@tok:`+l.Server+`"}` {
			t.Errorf("openid at %s: %s", l.Server, got)
		}
	}
	// A user of one name is none of the other's, and a question to a third is for nobody here.
	if err := client.ask(t.Context(), east.Server, call{method: "GET", path: v1("query", "profile"), query: map[string][]string{"user_id": {"@uwe:" + west.Server}}}, nil); !final(err) {
		t.Errorf("a user of another name: %v", err)
	}
	for _, path := range []string{"/_matrix/key/v2/server", "/_matrix/federation/v1/query/profile?user_id=%40uwe%3Athird.example"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", path, nil)
		r.Host = "third.example"
		if a, err := SignRequest(far, "third.example", "GET", path, nil); err != nil {
			t.Fatal(err)
		} else {
			r.Header.Set("Authorization", a.String())
		}
		if h.ServeHTTP(w, r); w.Code != http.StatusMisdirectedRequest && w.Code != http.StatusUnauthorized {
			t.Errorf("%s at a name that is none of ours: %d", path, w.Code)
		}
	}
	// What is asked as somebody else is signed by somebody else; and none of our names comes from outside.
	other := Local{Server: "other.example", Key: testKey(4)}
	ring2 := NewKeyRing(KeyRingConfig{Locals: Only(other), Now: clock})
	fetchOther := func(_ context.Context, server string) ([]byte, error) { return ring2.Document(other) }
	h2 := NewHandler(HandlerConfig{Locals: Only(east), Ring: NewKeyRing(KeyRingConfig{Locals: Only(east), Fetch: fetchOther, Now: clock}), Users: names{}, Now: clock})
	asks := NewClient(ClientConfig{Local: far, Transport: both{h2}, Ring: ring, Now: clock})
	if _, err := asks.As(other).Profile(t.Context(), "@uwe:east.example"); err != nil {
		t.Errorf("as somebody else: %v", err)
	}
	if _, err := asks.Profile(t.Context(), "@uwe:east.example"); err == nil {
		t.Error("as whose keys cannot be had: answered")
	}
	if _, err := NewClient(ClientConfig{Local: west, Transport: both{h}, Ring: handlerRing, Now: clock}).Profile(t.Context(), "@uwe:east.example"); err == nil {
		t.Error("one of our own names came from outside, and was answered")
	}
}
