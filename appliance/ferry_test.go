// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hallig/sync/hub/api"
	"hallig/sync/hub/ferry"
	"hallig/sync/identity"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// beyondHub is the hub of a box as the box hears it through another one.
type beyondHub struct {
	t     *testing.T
	box   *running
	by    *running
	seal  *peer.Seal
	codec *parcel.Codec
}

func newBeyondHub(t *testing.T) *beyondHub {
	t.Helper()
	h := &beyondHub{t: t, by: startBox(t, "b.test")}
	h.box = startWith(t, Config{Data: t.TempDir(), ServerName: "a.test", P2P: P2PConfig{Off: true}, Hub: HubConfig{Server: "hub.test"}})
	paired(t, h.box, h.by)
	id, err := identity.Load(t.TempDir(), "hub.test", false)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := id.Statement()
	if err != nil {
		t.Fatal(err)
	}
	p, err := peer.ReadStatement(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.box.addPeer(p); err != nil {
		t.Fatal(err)
	}
	h.seal = h.sealOf(id.Box)
	if h.codec, err = parcel.NewCodec(); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *beyondHub) sealOf(key ed25519.PrivateKey) *peer.Seal {
	h.t.Helper()
	s, err := peer.NewSeal(key, publicKey(h.box.id.Box))
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// close seals a Play.
func (h *beyondHub) close(p *ferry.Play) (sealed []byte, number uint64) {
	h.t.Helper()
	sealed, number, err := ferry.ClosePlay(h.seal, p.Pack(h.codec))
	if err != nil {
		h.t.Fatal(err)
	}
	return sealed, number
}

// bring has the box in between bring something.
func (h *beyondHub) bring(sealed []byte, number uint64) (int, *ferry.Answer) {
	h.t.Helper()
	next := false
	handler := h.box.ferried(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { next = true }))
	r, w := httptest.NewRequest("POST", api.FerriedPath, bytes.NewReader(sealed)), httptest.NewRecorder()
	r.RemoteAddr = "box:" + string(h.by.boxID())
	handler.ServeHTTP(w, r)
	if w.Code != http.StatusOK || next {
		return w.Code, nil
	}
	text, err := ferry.OpenAnswer(h.seal, number, w.Body.Bytes())
	if err != nil {
		h.t.Fatal(err)
	}
	a, err := ferry.ReadAnswer(h.codec, text)
	if err != nil {
		h.t.Fatal(err)
	}
	return w.Code, a
}

// TestFerried: a box does what its hub has sealed, once, and says so under a seal; what anybody else makes, or repeats, does nothing.
func TestFerried(t *testing.T) {
	h := newBeyondHub(t)
	code, hello := h.bring(h.close(&ferry.Play{Contact: true}))
	if code != 200 || hello.Of != 0 || hello.Word == (ferry.Word{}) || hello.Clock == 0 {
		t.Fatalf("the greeting: %d %+v", code, hello)
	}
	var c api.Contact
	if err := json.Unmarshal(hello.Contact, &c); err != nil || c.Mode != api.Sealed || len(c.Statement) == 0 || len(c.KeyDocument) == 0 {
		t.Errorf("what the box says of itself: %+v, %v", c, err)
	}
	if s := h.box.hubStatus(); s.InReach || s.Through != "b.test" || s.ThroughAt.IsZero() {
		t.Errorf("the box says of its hub: %+v", s)
	}
	if f := h.box.hubFacts(h.box.hubStatus().ThroughAt); f.Through != "b.test" || f.Away != 0 {
		t.Errorf("its health: %+v", f)
	}

	key := ferry.Request{Waited: api.Waited{Method: "GET", URI: "/_matrix/key/v2/server"}}
	unsigned := ferry.Request{Waited: api.Waited{Method: "PUT", URI: "/_matrix/federation/v1/send/1", Authorization: "X-Matrix x", Body: "{}", Received: 5}}
	lacking := ferry.Request{Waited: api.Waited{Method: "PUT", URI: "/_matrix/federation/v1/send/2", Body: "{\"pdus\":[\x00]}"}, Narrow: true, Parts: []ferry.Part{{ID: [5]byte{1}}}}
	play, number := h.close(&ferry.Play{Word: hello.Word, Requests: []ferry.Request{key, key, unsigned, key}})
	code, a := h.bring(play, number)
	if code != 200 || a.Of != number || len(a.Played) != 3 || a.Played[0].Status != 200 || a.Played[1].Status != 200 || a.Played[2].Status != 401 || a.Word == hello.Word {
		t.Fatalf("%d %+v", code, a)
	}
	if code, again := h.bring(play, number); code != 200 || again.Of != 0 || len(again.Played) != 0 {
		t.Errorf("what was recorded is played again: %d %+v", code, again)
	}
	if code, about := h.bring(h.close(&ferry.Play{About: number})); code != 200 || about.Of != number || len(about.Played) != 3 {
		t.Errorf("the question what became of it: %d %+v", code, about)
	}
	if code, about := h.bring(h.close(&ferry.Play{About: number + 1})); code != 200 || about.Of != 0 {
		t.Errorf("the question what became of another one: %d %+v", code, about)
	}
	_, now := h.bring(h.close(&ferry.Play{}))
	if code, a := h.bring(h.close(&ferry.Play{Word: now.Word, Requests: []ferry.Request{lacking, key}})); code != 200 || len(a.Played) != 1 || a.Played[0].Status != ferry.Whole {
		t.Errorf("an event that the box has not: %d %+v", code, a)
	}

	_, now = h.bring(h.close(&ferry.Play{}))
	text := (&ferry.Play{Word: now.Word, Requests: []ferry.Request{key}}).Pack(h.codec)
	forged, _, err := ferry.ClosePlay(h.sealOf(h.by.id.Box), text)
	if err != nil {
		t.Fatal(err)
	}
	bent, _ := h.close(&ferry.Play{Word: now.Word, Requests: []ferry.Request{key}})
	bent[len(bent)-1] ^= 1
	old, _, err := ferry.ClosePlay(h.seal, []byte("nonsense"))
	if err != nil {
		t.Fatal(err)
	}
	for what, sealed := range map[string][]byte{"sealed by the box in between": forged, "bent": bent, "nonsense of the hub": old, "nothing": nil} {
		if code, _ := h.bring(sealed, 0); code != http.StatusForbidden {
			t.Errorf("%s: %d", what, code)
		}
	}
	if code, _ := h.bring(make([]byte, api.FerryMost+1), 0); code != http.StatusRequestEntityTooLarge {
		t.Errorf("too long: %d", code)
	}
	if _, a := h.bring(h.close(&ferry.Play{Word: now.Word, Requests: []ferry.Request{key}})); len(a.Played) != 1 {
		t.Errorf("after all that the hub's own is not taken: %+v", a)
	}
}

// A box hands on for its hub alone, and only to boxes that are paired with it and in its reach.
func TestFerryRefuses(t *testing.T) {
	h := newBeyondHub(t)
	passed := false
	handler := h.box.fromHub(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true }))
	ask := func(from, name string) (int, string) {
		r, w := httptest.NewRequest("POST", api.FerryPath+name, bytes.NewReader([]byte("sealed"))), httptest.NewRecorder()
		r.RemoteAddr, passed = from, false
		handler.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for _, name := range []string{"b.test", "stranger.test", "a.test"} {
		if code, text := ask("hub.test", name); code != http.StatusBadGateway || !bytes.Contains([]byte(text), []byte(api.Unreachable)) {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	if ask("box3.test", "b.test"); !passed {
		t.Error("somebody else has something handed on")
	}
}

// What is no answer of a box is not brought to the hub as one, whatever number it bears.
func TestBringBack(t *testing.T) {
	for status, want := range map[int]int{0: 502, 5: 502, 100: 502, 101: 502, 200: 200, 403: 403, 429: 429, 600: 502, 999: 502} {
		w := httptest.NewRecorder()
		bringBack(w, &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader("sealed"))})
		if w.Code != want || (w.Code == status) != (w.Body.String() == "sealed") {
			t.Errorf("%d comes back as %d %s", status, w.Code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	if bringBack(w, &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(make([]byte, api.FerryAnswer+1)))}); w.Code != http.StatusBadGateway {
		t.Errorf("too long: %d", w.Code)
	}
}
