// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

// elder answers for the next handler where the path contains a part: as a server of rooms that nobody speaks any more.
type elder struct {
	next   http.Handler
	part   string
	status int
	body   any
}

func (e *elder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, e.part) {
		answer(w, e.status, e.body)
		return
	}
	e.next.ServeHTTP(w, r)
}

// TestOldRoomVersions: versions 1 and 2 are not spoken, and each call says so in its own words.
func TestOldRoomVersions(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	as := func(e elder) {
		a.seen.mu.Lock()
		defer a.seen.mu.Unlock()
		e.next = a.handler
		a.seen.next = &e
	}
	refused := func(what string, err error, code, version string) {
		t.Helper()
		var e *matrixclient.Error
		if !errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Code != code {
			t.Fatalf("%s: got %v, want 400 %s", what, err, code)
		}
		var body struct {
			Version string `json:"room_version"`
		}
		if json.Unmarshal(e.Body, &body) != nil || body.Version != version {
			t.Errorf("%s: the answer names room version %q, want %q", what, body.Version, version)
		}
	}
	room := "!old:" + a.name

	for _, version := range []any{"1", "2", nil, "99"} { // without a version it is 1
		body, want := map[string]any{"event": map[string]any{}}, "1"
		if v, ok := version.(string); ok {
			body["room_version"], want = v, v
		}
		as(elder{part: "make_join", status: http.StatusOK, body: body})
		_, err := bert.Join(t.Context(), room, a.name)
		refused("join of a room of version "+want, err, "M_INCOMPATIBLE_ROOM_VERSION", want)
	}
	as(elder{part: "make_join", status: http.StatusBadRequest, body: map[string]any{"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "no", "room_version": "2"}})
	_, err := bert.Join(t.Context(), room, a.name)
	refused("join that the resident server refuses", err, "M_INCOMPATIBLE_ROOM_VERSION", "2")
	as(elder{part: "make_knock", status: http.StatusBadRequest, body: map[string]any{"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "no", "room_version": "1"}})
	err = bert.Do(t.Context(), "POST", matrixclient.Path("knock", room)+"?server_name="+a.name, map[string]any{}, nil)
	refused("knock", err, "M_INCOMPATIBLE_ROOM_VERSION", "1")

	// The other way round: an invite into such a room, in both forms; and of ours into a room that the other does not speak.
	invite := map[string]any{"type": "m.room.member", "state_key": bert.UserID, "content": map[string]any{"membership": "invite"}}
	for _, version := range []string{"1", "2"} {
		q := call{method: http.MethodPut, path: v2("invite", room, "$x:"+a.name), body: map[string]any{"event": invite, "invite_room_state": []any{}, "room_version": version}}
		var ref *Refusal
		if err := a.client.ask(t.Context(), b.name, q, nil); !errors.As(err, &ref) || ref.Code != "M_INCOMPATIBLE_ROOM_VERSION" || ref.Status != http.StatusBadRequest || ref.RoomVersion != version {
			t.Errorf("invite into a room of version %s: %v", version, err)
		}
	}
	var ref *Refusal
	if err := a.client.ask(t.Context(), b.name, call{method: http.MethodPut, path: v1("invite", room, "$x:"+a.name), body: invite}, nil); !errors.As(err, &ref) || ref.Code != "M_INCOMPATIBLE_ROOM_VERSION" {
		t.Errorf("invite of the old form: %v", err)
	}
	id := must[string](t)(bert.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "private_chat"}))
	as(elder{part: "/invite/", status: http.StatusBadRequest, body: map[string]any{"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "no", "room_version": event.Default().ID}})
	refused("invite of a user whose server is older", bert.Invite(t.Context(), id, anna.UserID), "M_UNSUPPORTED_ROOM_VERSION", "")
}
