// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/tools/matrixclient"
)

// operation is one of the Server-Server API.
type operation struct {
	method, path string
	open         bool   // asked without a signature
	code         string // what an asker hears who may not ask, or asks for nothing; of signed ones M_UNAUTHORIZED
	caller       string // who asks it, when servers do not
}

// operations are all of Matrix 1.19, in the order of the specification's files. https://spec.matrix.org/v1.19/server-server-api/
var operations = []operation{
	{method: "GET", path: "federation/v1/backfill/{r}"},
	{method: "POST", path: "federation/v1/get_missing_events/{r}"},
	{method: "GET", path: "federation/v1/media/download/{m}"},
	{method: "GET", path: "federation/v1/media/thumbnail/{m}"},
	{method: "GET", path: "federation/v1/event_auth/{r}/{e}"},
	{method: "GET", path: "federation/v1/state/{r}"},
	{method: "GET", path: "federation/v1/state_ids/{r}"},
	{method: "GET", path: "federation/v1/event/{e}"},
	{method: "GET", path: "federation/v1/timestamp_to_event/{r}"},
	{method: "PUT", path: "federation/v1/invite/{r}/{e}", caller: "servers with rooms of version 1 or 2 to whom v2 is unknown; those versions are not spoken here"},
	{method: "PUT", path: "federation/v2/invite/{r}/{e}"},
	{method: "GET", path: "federation/v1/make_join/{r}/{u}"},
	{method: "PUT", path: "federation/v2/send_join/{r}/{e}"},
	{method: "GET", path: "key/v2/query/{s}", open: true, caller: "clients of a notary with one question; ours has several and asks with POST"},
	{method: "POST", path: "key/v2/query", open: true, code: ""},
	{method: "GET", path: "key/v2/server", open: true},
	{method: "GET", path: "federation/v1/make_knock/{r}/{u}"},
	{method: "PUT", path: "federation/v1/send_knock/{r}/{e}"},
	{method: "GET", path: "federation/v1/make_leave/{r}/{u}"},
	{method: "PUT", path: "federation/v2/send_leave/{r}/{e}"},
	{method: "GET", path: "federation/v1/openid/userinfo", open: true, code: "M_UNKNOWN_TOKEN", caller: "third parties to whom a user gave the token"},
	{method: "GET", path: "federation/v1/publicRooms"},
	{method: "POST", path: "federation/v1/publicRooms"},
	{method: "GET", path: "federation/v1/query/{t}", caller: "nobody: there is no other type than the next two"},
	{method: "GET", path: "federation/v1/query/directory"},
	{method: "GET", path: "federation/v1/query/profile"},
	// "M_UNRECOGNIZED - The server is not a Policy Server."
	{method: "POST", path: "policy/v1/sign", open: true, code: "M_UNRECOGNIZED"},
	{method: "GET", path: "federation/v1/hierarchy/{r}"},
	{method: "PUT", path: "federation/v1/exchange_third_party_invite/{r}"},
	{method: "PUT", path: "federation/v1/3pid/onbind", open: true, code: "M_INVALID_PARAM", caller: "identity servers"},
	{method: "PUT", path: "federation/v1/send/{t}"},
	{method: "GET", path: "federation/v1/user/devices/{u}"},
	{method: "POST", path: "federation/v1/user/keys/claim"},
	{method: "POST", path: "federation/v1/user/keys/query"},
	{method: "GET", path: "federation/v1/version", open: true, caller: "operators"},
	{method: "GET", path: ".well-known/matrix/server", open: true, code: "M_NOT_FOUND", caller: "Discovery, under https and the bare host name; its own tests ask it"},
}

func (o operation) target(fill *strings.Replacer) string {
	if strings.HasPrefix(o.path, ".") {
		return "/" + o.path
	}
	return "/_matrix/" + fill.Replace(o.path)
}

// TestOperationsAreAnswered: each operation has an answer, and each that needs a signature says so.
func TestOperationsAreAnswered(t *testing.T) {
	if len(operations) != 36 {
		t.Errorf("%d operations, want 36", len(operations))
	}
	b := newTestBox(t, testCA(t))
	fill := strings.NewReplacer("{r}", "!r:x", "{e}", "$e", "{u}", "@u:x", "{s}", "x", "{t}", "t", "{m}", "m")
	for _, o := range operations {
		want := o.code
		if !o.open {
			want = "M_UNAUTHORIZED"
		}
		w := httptest.NewRecorder()
		b.handler.ServeHTTP(w, httptest.NewRequest(o.method, o.target(fill), strings.NewReader("{}")))
		var e errorBody
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code != want || (want == "") != (w.Code == http.StatusOK) {
			t.Errorf("%s %s: %d %s, want %q", o.method, o.path, w.Code, w.Body, want)
		}
	}
}

// TestOperationsAreAsked: each operation that servers ask of each other is asked by our client when there is a reason to, and answered by our handler.
func TestOperationsAreAsked(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	a.handler.(*Handler).c.Media = shelf{bytes.Repeat([]byte("Schlick"), 1000)}
	anna, bert := a.user("anna"), b.user("bert")
	ctx := t.Context()
	joinRule := func(rule string) []map[string]any {
		return []map[string]any{{"type": "m.room.join_rules", "state_key": "", "content": map[string]any{"join_rule": rule}}}
	}
	id := must[string](t)(anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat", Alias: "watt"}))
	first := say(t, anna, id, 1, "vorher")
	must[string](t)(bert.Join(ctx, id, a.name))
	in := event.RoomID(id)
	fromB := say(t, bert, id, 1, "hier")
	a.await("bert's message", func() bool { return a.has(id, fromB) })

	// Into and out of rooms.
	mine := must[string](t)(bert.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "private_chat"}))
	if err := bert.Invite(ctx, mine, anna.UserID); err != nil {
		t.Error("invite: ", err)
	}
	private := must[string](t)(anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "private_chat", Invite: []string{bert.UserID}}))
	if _, err := bert.Follow(ctx, "", func(r *matrixclient.SyncResponse) bool { _, ok := r.Rooms.Invite[private]; return ok }); err != nil {
		t.Fatal(err)
	}
	if err := bert.Leave(ctx, private); err != nil {
		t.Error("refuse an invite: ", err)
	}
	door := must[string](t)(anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "private_chat", InitialState: joinRule("knock")}))
	must[string](t)(bert.Knock(ctx, door, a.name))

	// Questions.
	v := must[*event.Version](t)(b.rooms.Version(ctx, in))
	last := event.ID(fromB[0])
	user := event.UserID(anna.UserID)
	p, _, err := b.rooms.Event(ctx, last)
	if err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	some := func(n int, err error) error {
		if err == nil && n == 0 {
			err = errors.New("nothing came")
		}
		return err
	}
	refused := func(code string, err error) error {
		var no *Refusal
		if errors.As(err, &no) && no.Code == code {
			return nil
		}
		return fmt.Errorf("got %v, want %s", err, code)
	}
	for name, ask := range map[string]func() error{
		"backfill": func() error {
			got, err := b.client.History(ctx, a.name, in, v, []event.ID{last}, 10)
			return some(len(got), err)
		},
		"get_missing_events": func() error {
			got, err := b.client.Missing(ctx, a.name, in, v, []event.ID{}, []event.ID{last}, 10)
			return some(len(got), err)
		},
		"event_auth": func() error {
			got, err := b.client.EventAuth(ctx, a.name, in, v, last)
			return some(len(got), err)
		},
		"event": func() error { _, err := b.client.One(ctx, a.name, in, v, event.ID(first[0])); return err },
		"state": func() error {
			got, _, err := b.client.StateEvents(ctx, a.name, in, v, last)
			return some(len(got), err)
		},
		"stateIDs": func() error { got, _, err := b.client.StateIDs(ctx, a.name, in, last); return some(len(got), err) },
		"timestamp": func() error {
			found, _, err := b.client.EventAtTime(ctx, in, p.TS+1, true)
			return some(len(found), err)
		},
		"hierarchy":    func() error { _, err := b.client.Hierarchy(ctx, a.name, in, false); return err },
		"all rooms":    func() error { _, err := b.client.PublicRooms(ctx, a.name, nil); return err },
		"some rooms":   func() error { _, err := b.client.PublicRooms(ctx, a.name, json.RawMessage(`{"limit":1}`)); return err },
		"alias":        func() error { _, _, err := b.client.ResolveAlias(ctx, "#watt:"+a.name); return err },
		"profile":      func() error { _, err := b.client.Profile(ctx, user); return err },
		"user devices": func() error { _, err := b.client.UserDevices(ctx, user); return err },
		"device keys": func() error {
			_, err := b.client.QueryKeys(ctx, a.name, json.RawMessage(`{"device_keys":{"`+anna.UserID+`":[]}}`))
			return err
		},
		"one-time keys": func() error {
			_, err := b.client.ClaimKeys(ctx, a.name, json.RawMessage(`{"one_time_keys":{"`+anna.UserID+`":{"D":"signed_curve25519"}}}`))
			return err
		},
		"notary": func() error {
			_, err := b.client.askNotary(ctx, a.name, map[string]map[string]keyCriteria{"third.example": {}})
			return err
		},
		"media": func() error {
			body, _, _, err := b.client.Media(ctx, a.name, "there")
			if err == nil {
				err = body.Close()
			}
			return err
		},
		"thumbnail": func() error {
			_, _, err := b.client.Thumbnail(ctx, a.name, "there", 96, 96, true)
			if err == nil || !strings.Contains(err.Error(), "no thumbnails") {
				return fmt.Errorf("got %v", err)
			}
			return nil
		},
		"third-party invite": func() error {
			return refused("M_BAD_JSON", b.client.ExchangeThirdParty(ctx, thirdParty{Sender: user, Room: in}))
		},
		"policy": func() error {
			_, err := b.client.policySign(ctx, &room.Policy{Server: a.name, Key: public}, p)
			return refused("M_UNRECOGNIZED", err)
		},
	} {
		if err := ask(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	part := strings.NewReplacer("{r}", "[^/]+", "{e}", "[^/]+", "{u}", "[^/]+", "{s}", "[^/]+", "{t}", "[^/]+", "{m}", "[^/]+", ".", `\.`)
	a.seen.mu.Lock()
	defer a.seen.mu.Unlock()
	for _, o := range operations {
		form := regexp.MustCompile("^" + o.method + " " + o.target(part) + "$")
		if o.caller == "" && !slices.ContainsFunc(a.seen.list, form.MatchString) {
			t.Errorf("%s %s was not asked", o.method, o.path)
		}
	}
}

// TestMediaOfOthers: files that lie elsewhere are fetched from there, also from servers that are too old for signed requests; what is cut short is an error.
func TestMediaOfOthers(t *testing.T) {
	far, near := Local{Server: "far.example", Key: testKey(0)}, Local{Server: "near.example", Key: testKey(1)}
	var mode string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signed := strings.HasPrefix(r.URL.Path, "/_matrix/federation/")
		switch {
		case !signed && r.Header.Get("Authorization") != "":
			t.Error("an open request is signed")
		case mode == "elsewhere":
			w.Header().Set("Content-Type", "multipart/mixed; boundary=x")
			_, _ = w.Write([]byte("--x\r\nContent-Type: application/json\r\n\r\n{}\r\n--x\r\nLocation: https://cdn.example/f\r\n\r\n\r\n--x--\r\n"))
		case mode == "cut short":
			w.Header().Set("Content-Type", "multipart/mixed; boundary=x")
			_, _ = w.Write([]byte("--x\r\nContent-Type: application/json\r\n\r\n{}\r\n--x\r\nContent-Type: text/plain\r\n\r\nab"))
		case signed:
			answer(w, http.StatusNotFound, errorBody{"M_UNRECOGNIZED", "what is that?"})
		case r.URL.Query().Get("allow_remote") != "false":
			t.Error("the old request might come back to us")
		case mode == "old, elsewhere":
			w.Header().Set("Location", "https://cdn.example/f")
			w.WriteHeader(http.StatusTemporaryRedirect)
		case mode == "old" && strings.HasPrefix(r.URL.Path, "/_matrix/media/v3/download/far.example/"):
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Disposition", `attachment; filename="alt.txt"`)
			_, _ = w.Write([]byte("alt"))
		default:
			answer(w, http.StatusNotFound, errorBody{"M_NOT_FOUND", "no such media"})
		}
	})
	c := NewClient(ClientConfig{Local: near, Transport: both{h}, Ring: NewKeyRing(KeyRingConfig{Locals: Only(near)}),
		Web: func(r *http.Request) (*http.Response, error) {
			if r.URL.String() != "https://cdn.example/f" {
				return nil, fmt.Errorf("asked for %s", r.URL)
			}
			w := httptest.NewRecorder()
			w.Header().Set("Content-Type", "image/png")
			_, _ = w.Write([]byte("woanders"))
			return w.Result(), nil
		}})
	read := func() (got, typ, name string, err error) {
		body, typ, name, err := c.Media(t.Context(), far.Server, "f")
		if err != nil {
			return "", "", "", err
		}
		defer body.Close()
		raw, err := readBounded(body, 100)
		return string(raw), typ, name, err
	}
	for _, tc := range []struct{ mode, body, typ, name string }{
		{"elsewhere", "woanders", "image/png", ""}, {"old, elsewhere", "woanders", "image/png", ""}, {"old", "alt", "text/plain", "alt.txt"},
	} {
		mode = tc.mode
		if got, typ, name, err := read(); err != nil || got != tc.body || typ != tc.typ || name != tc.name {
			t.Errorf("%s: %q %q %q %v", tc.mode, got, typ, name, err)
		}
	}
	for _, mode = range []string{"cut short", "nothing"} {
		if got, _, _, err := read(); err == nil {
			t.Errorf("%s: got %q", mode, got)
		}
	}
	c.c.Web = nil
	mode = "elsewhere"
	if _, _, _, err := read(); err == nil {
		t.Error("followed an address without being allowed to")
	}
	if _, err := (&Discovery{}).Web(httptest.NewRequestWithContext(context.Background(), "GET", "http://cdn.example/f", nil)); err == nil {
		t.Error("an address without TLS was followed")
	}
}
