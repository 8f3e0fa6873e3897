// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"hallig/tools/matrixclient"
)

// TestEncryptedWalk: two users with two devices each do what stock clients do for an encrypted room: device keys, one-time keys,
// claims, messages to devices, encrypted events that the server passes on untouched.
func TestEncryptedWalk(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	b := newBox(t, "walk.example")
	b.start()
	var devices []*matrixclient.Client // anna's two, bert's two
	for _, user := range []string{"anna", "bert"} {
		first, second := b.register(user), matrixclient.New(b.base)
		ok(t, "log in on a second device", second.Login(ctx, user, "Rungholt lebt 1362", ""))
		if second.DeviceID == first.DeviceID {
			t.Fatalf("both devices of %s are %s", user, first.DeviceID)
		}
		devices = append(devices, first, second)
	}
	anna, bert := devices[0], devices[2]
	room := must[string](t, "create room")(anna.CreateRoom(ctx, matrixclient.CreateRoom{Invite: []string{bert.UserID}, IsDirect: true,
		Preset: "trusted_private_chat", InitialState: []map[string]any{{"type": "m.room.encryption", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}}}}))
	must[string](t, "join")(bert.Join(ctx, room))
	start := must[*matrixclient.SyncResponse](t, "sync")(anna.Sync(ctx, matrixclient.SyncOptions{})).NextBatch

	for _, d := range devices {
		uploadKeys(t, ctx, d, 2)
	}
	_, err := anna.Follow(ctx, start, func(r *matrixclient.SyncResponse) bool {
		return strings.Contains(strings.Join(r.DeviceLists.Changed, " "), bert.UserID)
	})
	ok(t, "see that the other user's devices changed", err)
	for _, d := range devices[1:] {
		if got := queryKeys(t, ctx, anna, d).Keys["curve25519:"+d.DeviceID]; got != curve(d) {
			t.Errorf("device key of %s: %q, want %q", d.DeviceID, got, curve(d))
		}
		one, two := claimKey(t, ctx, anna, d), claimKey(t, ctx, anna, d)
		if one == "" || two == "" || one == two {
			t.Errorf("claims of %s: %q and %q, want two different ones", d.DeviceID, one, two)
		}
		if third := claimKey(t, ctx, anna, d); third != "" {
			t.Errorf("a third one-time key %q though there were two", third)
		}
		toDevice(t, ctx, anna, d)
		r := must[*matrixclient.SyncResponse](t, "sync")(d.Sync(ctx, matrixclient.SyncOptions{}))
		if n, told := r.OneTimeKeys["signed_curve25519"]; !told || n != 0 {
			t.Errorf("%s is told of %d keys left (told: %v), want 0", d.DeviceID, n, told)
		}
	}
	content := map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "sender_key": curve(anna), "device_id": anna.DeviceID,
		"session_id": "S1", "ciphertext": "AwgAEnACgAkLmt6qF84IK++J7UDH2Za1YVchHyprqTqsg"}
	id := must[string](t, "send encrypted")(anna.Send(ctx, room, "m.room.encrypted", "", content))
	want, err := json.Marshal(content)
	ok(t, "marshal", err)
	for _, d := range devices {
		e, _, err := d.WaitEvent(ctx, "", room, func(e matrixclient.Event) bool { return e.ID == id })
		ok(t, "see the encrypted event", err)
		var got map[string]any
		ok(t, "read it", json.Unmarshal(e.Content, &got))
		if again, err := json.Marshal(got); err != nil || string(again) != string(want) {
			t.Errorf("content %s, want %s", again, want)
		}
	}
	// Logging out takes the device and its keys away, and those who share a room hear of it.
	since := must[*matrixclient.SyncResponse](t, "sync")(anna.Sync(ctx, matrixclient.SyncOptions{})).NextBatch
	ok(t, "log out", devices[3].Logout(ctx))
	_, err = anna.Follow(ctx, since, func(r *matrixclient.SyncResponse) bool {
		return strings.Contains(strings.Join(r.DeviceLists.Changed, " "), bert.UserID)
	})
	ok(t, "see that a device went", err)
	if got := queryKeys(t, ctx, anna, devices[3]); got.Keys != nil {
		t.Errorf("keys of a device that logged out: %v", got.Keys)
	}
}

// TestGapsClose: a client that was away longer than a timeline is told so, and closes the gap by paging.
func TestGapsClose(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	b := newBox(t, "gaps.example")
	b.start()
	anna, bert := b.register("anna"), b.register("bert")
	room := must[string](t, "create room")(anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t, "join")(bert.Join(ctx, room))
	since := must[*matrixclient.SyncResponse](t, "sync")(bert.Sync(ctx, matrixclient.SyncOptions{})).NextBatch
	var want []string
	for i := range 57 {
		want = append(want, must[string](t, "send")(anna.SendText(ctx, room, fmt.Sprint(i))))
	}
	r := must[*matrixclient.SyncResponse](t, "sync")(bert.Sync(ctx, matrixclient.SyncOptions{Since: since, Filter: `{"room":{"timeline":{"limit":10}}}`}))
	line := r.Rooms.Join[room].Timeline
	if !line.Limited || len(line.Events) != 10 || line.PrevBatch == "" {
		t.Fatalf("timeline: limited %v, %d events, prev_batch %q; want 10 of a limited one", line.Limited, len(line.Events), line.PrevBatch)
	}
	var got []string // newest first
	for i := range line.Events {
		got = append(got, line.Events[len(line.Events)-1-i].ID)
	}
	for from := line.PrevBatch; len(got) < len(want); {
		m := must[*matrixclient.Messages](t, "page")(bert.Messages(ctx, room, from, "b", 7))
		for _, e := range m.Chunk {
			got = append(got, e.ID)
		}
		if from = m.End; from == "" {
			break
		}
	}
	for i, id := range want {
		if at := len(want) - 1 - i; at >= len(got) || got[at] != id {
			t.Fatalf("message %d is not where it belongs among the %d paged", i, len(got))
		}
	}
}

// TestRefusals: what clients do wrong gets the specified error, by the real process.
func TestRefusals(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	b := newBox(t, "errors.example")
	b.start()
	anna, bert := b.register("anna"), b.register("bert")
	nobody, stranger := matrixclient.New(b.base), matrixclient.New(b.base)
	stranger.Token = "not a token"
	room := must[string](t, "create room")(anna.CreateRoom(ctx, matrixclient.CreateRoom{}))
	message := matrixclient.Path("rooms", room, "send", "m.room.message", "t1")
	big := `{"msgtype":"m.text","body":"` + strings.Repeat("x", 70_000) + `"}`
	huge := `{"body":"` + strings.Repeat("x", 20<<20) + `"}`
	for _, c := range []struct {
		what         string
		who          *matrixclient.Client
		method, path string
		body         string
		status       int
		code         string
	}{
		{"unknown route", anna, "GET", "/_matrix/client/v3/no/such/route", "", 404, "M_UNRECOGNIZED"},
		{"unknown route without a token", nobody, "GET", "/_matrix/client/unstable/x", "", 404, "M_UNRECOGNIZED"},
		{"wrong method", anna, "DELETE", "/_matrix/client/v3/sync", "", 405, "M_UNRECOGNIZED"},
		{"no token", nobody, "GET", matrixclient.Path("account", "whoami"), "", 401, "M_MISSING_TOKEN"},
		{"wrong token", stranger, "GET", matrixclient.Path("account", "whoami"), "", 401, "M_UNKNOWN_TOKEN"},
		{"no JSON", anna, "PUT", message, "{", 400, "M_NOT_JSON"},
		{"JSON of another shape", anna, "PUT", message, `[]`, 400, "M_BAD_JSON"},
		{"a float in an event", anna, "PUT", message, `{"body":1.5}`, 400, "M_BAD_JSON"},
		{"an event beyond 64 KiB", anna, "PUT", message, big, 413, "M_TOO_LARGE"},
		{"a body beyond all measure", anna, "PUT", message, huge, 413, "M_TOO_LARGE"},
		{"somebody else's room", bert, "PUT", message, `{"body":"x"}`, 403, "M_FORBIDDEN"},
		{"somebody else's state", bert, "GET", matrixclient.Path("rooms", room, "state"), "", 403, "M_FORBIDDEN"},
		{"somebody else's name", bert, "PUT", matrixclient.Path("profile", anna.UserID, "displayname"), `{"displayname":"x"}`, 403, "M_FORBIDDEN"},
		{"a state event that is not there", anna, "GET", matrixclient.Path("rooms", room, "state", "m.room.avatar"), "", 404, "M_NOT_FOUND"},
		{"an event that is not there", anna, "GET", matrixclient.Path("rooms", room, "event", "$none"), "", 404, "M_NOT_FOUND"},
		{"an alias that is not there", anna, "GET", matrixclient.Path("directory", "room", "#none:errors.example"), "", 404, "M_NOT_FOUND"},
		{"a name that is taken", nobody, "POST", matrixclient.Path("register"), `{"username":"anna","password":"x","auth":{"type":"m.login.dummy"}}`, 400, "M_USER_IN_USE"},
		{"a name that cannot be", nobody, "POST", matrixclient.Path("register"), `{"username":"A B","password":"x","auth":{"type":"m.login.dummy"}}`, 400, "M_INVALID_USERNAME"},
		{"a wrong password", nobody, "POST", matrixclient.Path("login"), `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"anna"},"password":"x"}`, 403, "M_FORBIDDEN"},
		{"a room version nobody knows", anna, "POST", matrixclient.Path("createRoom"), `{"room_version":"4711"}`, 400, "M_UNSUPPORTED_ROOM_VERSION"},
	} {
		status, code := try(t, ctx, c.who, c.method, c.path, c.body)
		if status != c.status || code != c.code {
			t.Errorf("%s: %d %s, want %d %s", c.what, status, code, c.status, c.code)
		}
	}
	// Nothing of all this has harmed anything: the transaction id is still free, the room goes on.
	if _, err := anna.Send(ctx, room, "m.room.message", "t1", map[string]string{"msgtype": "m.text", "body": "well"}); err != nil {
		t.Errorf("send after all refusals: %v", err)
	}
}

func try(t *testing.T, ctx context.Context, c *matrixclient.Client, method, path, body string) (status int, code string) {
	t.Helper()
	var in io.Reader
	if method != http.MethodGet {
		in = strings.NewReader(body)
	}
	resp, err := c.Raw(ctx, method, path, "application/json", in)
	ok(t, method+" "+path, err)
	defer resp.Body.Close()
	var e struct {
		Code string `json:"errcode"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e); err != nil {
		t.Errorf("%s %s: the answer is no JSON: %v", method, path, err)
	}
	return resp.StatusCode, e.Code
}
