// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

const (
	farRoom  = "!far:far.example"
	farUser  = "@fern:far.example"
	farAlias = "#weit:far.example"
	farSpace = "!space:far.example"
	farTree  = `{"room":{"room_id":"!space:far.example","room_type":"m.space","join_rule":"public","num_joined_members":3,"name":"Fern","children_state":[
		{"type":"m.space.child","state_key":"!far:far.example","sender":"@fern:far.example","origin_server_ts":2,"content":{"via":["far.example"]}},
		{"type":"m.space.child","state_key":"!shut:far.example","sender":"@fern:far.example","origin_server_ts":1,"content":{"via":["far.example"]}},
		{"type":"m.space.child","state_key":"!gone:far.example","sender":"@fern:far.example","origin_server_ts":3,"content":{}}]},
		"children":[{"room_id":"!far:far.example","join_rule":"knock","name":"Weit","num_joined_members":1},{"room_id":"!shut:far.example","join_rule":"invite","name":"Zu"}],
		"inaccessible_children":[]}`
)

// farServer is one other server: strict about what it is asked, and able to be slow or gone.
type farServer struct {
	t      *testing.T
	gone   atomic.Bool
	hold   chan struct{} // a join waits until it is closed; nil: it does not
	joins  atomic.Int32
	thumbs atomic.Int32
	sign   func(*event.Version, *event.PDU) (*event.PDU, error)
}

var errGone = errors.New("no way to far.example")

func (f *farServer) asked(server string) error {
	if server != "far.example" {
		f.t.Errorf("asked for %q", server)
	}
	if f.gone.Load() {
		return errGone
	}
	return nil
}

func (f *farServer) Join(ctx context.Context, room string, user event.UserID, servers []string, reason string, content json.RawMessage) (event.RoomID, error) {
	f.joins.Add(1)
	if room != farRoom || len(servers) == 0 || servers[0] != "far.example" || !strings.Contains(string(content), `"displayname"`) {
		f.t.Errorf("join %s through %v with %s", room, servers, content)
	}
	if f.hold != nil {
		select {
		case <-f.hold:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return event.RoomID(room), f.asked("far.example")
}

func (f *farServer) Hierarchy(_ context.Context, server string, id event.RoomID, _ bool) (json.RawMessage, error) {
	if id != farSpace {
		return nil, notFound("no such space")
	}
	return json.RawMessage(farTree), f.asked(server)
}

func (f *farServer) EventAtTime(context.Context, event.RoomID, int64, bool) (event.ID, int64, error) {
	return "", 0, f.asked("far.example")
}

func (f *farServer) Leave(context.Context, event.RoomID, event.UserID, string) error {
	return f.asked("far.example")
}

func (f *farServer) Knock(_ context.Context, room string, _ event.UserID, servers []string, _ string, _ json.RawMessage) (event.RoomID, error) {
	return event.RoomID(room), f.asked(servers[0])
}

func (f *farServer) Invite(_ context.Context, v *event.Version, invite *event.PDU) (*event.PDU, error) {
	if err := f.asked(event.UserID(*invite.StateKey).Server()); err != nil {
		return nil, err
	}
	return f.sign(v, invite)
}

func (f *farServer) Profile(_ context.Context, user event.UserID) (json.RawMessage, error) {
	return json.RawMessage(`{"displayname":"Fern"}`), f.asked(user.Server())
}

func (f *farServer) ResolveAlias(_ context.Context, alias string) (event.RoomID, []string, error) {
	if alias != farAlias {
		return "", nil, notFound("no such alias")
	}
	return farRoom, []string{"far.example"}, f.asked("far.example")
}

func (f *farServer) QueryKeys(_ context.Context, server string, _ json.RawMessage) (json.RawMessage, error) {
	return json.RawMessage(`{"device_keys":{"` + farUser + `":{"D":{"user_id":"` + farUser + `","device_id":"D"}}}}`), f.asked(server)
}

func (f *farServer) ClaimKeys(_ context.Context, server string, _ json.RawMessage) (json.RawMessage, error) {
	return json.RawMessage(`{"one_time_keys":{"` + farUser + `":{"D":{"signed_curve25519:A":{"key":"x"}}},"@alice:box.example":{"D":{"signed_curve25519:B":{"key":"forged"}}}}}`), f.asked(server)
}

func (f *farServer) Media(_ context.Context, server, id string) (io.ReadCloser, string, string, error) {
	if id == "none" {
		return nil, "", "", notFound("no such media")
	}
	return io.NopCloser(strings.NewReader("fernes Bild")), "text/plain", "fern.txt", f.asked(server)
}

func (f *farServer) Thumbnail(_ context.Context, server, id string, width, height int, crop bool) (io.ReadCloser, string, error) {
	if id != "picture" || width != 96 || height != 96 || !crop {
		return nil, "", notFound("no such thumbnail")
	}
	f.thumbs.Add(1)
	return io.NopCloser(strings.NewReader("kleines Bild")), "image/png", f.asked(server)
}

func (f *farServer) PublicRooms(_ context.Context, server string, req json.RawMessage) (json.RawMessage, error) {
	return json.RawMessage(`{"chunk":[{"room_id":"` + farRoom + `","num_joined_members":3}]}`), f.asked(server)
}

func (f *farServer) Backfill(context.Context, event.RoomID, int) error { return f.asked("far.example") }

func newFarBox(t *testing.T, after time.Duration) (*box, *farServer) {
	t.Helper()
	far := &farServer{t: t}
	return newBox(t, func(c *Config) { c.Remote, c.SlowAfter = far, after }), far
}

func TestOtherServersAreAsked(t *testing.T) {
	b, far := newFarBox(t, time.Minute)
	alice := b.user("alice")
	var m object
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("profile", farUser, "displayname"), nil, &m))
	if m["displayname"] != "Fern" {
		t.Errorf("profile: %v", m)
	}
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("directory", "room", farAlias), nil, &m))
	if m["room_id"] != farRoom {
		t.Errorf("alias: %v", m)
	}
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("publicRooms")+"?server=far.example", nil, &m))
	if list, _ := m["chunk"].([]any); len(list) != 1 {
		t.Errorf("directory: %v", m)
	}
	if id, err := alice.Join(b.ctx, farAlias); err != nil || id != farRoom {
		t.Errorf("join by alias: %s, %v", id, err)
	}
	if id, err := alice.Join(b.ctx, farRoom); err != nil || id != farRoom { // the id names the server
		t.Errorf("join by id: %s, %v", id, err)
	}
	if id, err := alice.Knock(b.ctx, "!other:elsewhere.example", "far.example"); err != nil || id != "!other:elsewhere.example" {
		t.Errorf("knock: %s, %v", id, err)
	}
	for range 2 { // fetched, then from here
		if got, head, err := alice.Download(b.ctx, "mxc://far.example/pic"); err != nil || string(got) != "fernes Bild" || head.Get("Content-Type") != "text/plain" {
			t.Errorf("media: %q, %v", got, err)
		}
		far.gone.Store(true)
	}
	far.gone.Store(false)
	for range 2 { // the thumbnail only, then from here
		status, head, _ := b.raw("GET", "/_matrix/client/v1/media/thumbnail/far.example/picture?width=80&height=80&method=crop", alice.Token, "")
		if status != 200 || head.Get("Content-Type") != "image/png" || far.thumbs.Load() != 1 {
			t.Errorf("thumbnail: %d %v, asked %d times", status, head, far.thumbs.Load())
		}
	}
	far.gone.Store(true)
	_, _, err := alice.Download(b.ctx, "mxc://far.example/other")
	b.refused("media when the server is gone", err, 502, "M_UNKNOWN")
	_, _, err = alice.Download(b.ctx, "mxc://far.example/none")
	b.refused("media that is not there", err, 404, "M_NOT_FOUND")
	_, err = alice.Join(b.ctx, farRoom)
	b.refused("join when the server is gone", err, 502, "M_UNKNOWN")
}

func TestRemoteKeys(t *testing.T) {
	b, far := newFarBox(t, time.Minute)
	alice := b.user("alice")
	var q struct {
		Keys     map[string]map[string]object `json:"device_keys"`
		Failures object                       `json:"failures"`
	}
	for i := range 2 { // from there; then, with the server gone, from what was kept
		b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("keys", "query"), object{"device_keys": object{farUser: []string{}}}, &q))
		if q.Keys[farUser]["D"]["device_id"] != "D" || len(q.Failures) != 0 {
			t.Errorf("query %d: %+v", i, q)
		}
		far.gone.Store(true)
		q.Keys = nil
	}
	far.gone.Store(false)
	var c struct {
		Keys     map[string]object `json:"one_time_keys"`
		Failures object            `json:"failures"`
	}
	want := object{"one_time_keys": object{farUser: object{"D": "signed_curve25519"}}}
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("keys", "claim"), want, &c))
	if len(c.Keys) != 1 || c.Keys[farUser]["D"] == nil {
		t.Errorf("claim: %+v", c)
	}
	far.gone.Store(true)
	c.Keys = nil
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("keys", "claim"), want, &c))
	if len(c.Keys) != 0 || c.Failures["far.example"] == nil {
		t.Errorf("claim when the server is gone: %+v", c)
	}
}

func TestInviteElsewhere(t *testing.T) {
	b, far := newFarBox(t, time.Minute)
	alice := b.user("alice")
	far.sign = func(v *event.Version, p *event.PDU) (*event.PDU, error) { return p, nil }
	room := b.room(alice, matrixclient.CreateRoom{Invite: []string{farUser}})
	var m object
	b.ok(alice.StateEvent(b.ctx, room, "m.room.member", farUser, &m))
	if m["membership"] != "invite" {
		t.Errorf("invited: %v", m)
	}
	far.sign = func(*event.Version, *event.PDU) (*event.PDU, error) { return nil, forbidden("no strangers") }
	b.refused("an invite that is refused there", alice.Invite(b.ctx, room, "@zwei:far.example"), 403, "M_FORBIDDEN")
	b.refused("its event", alice.StateEvent(b.ctx, room, "m.room.member", "@zwei:far.example", &m), 404, "M_NOT_FOUND")
	far.gone.Store(true)
	b.refused("an invite to a server that is gone", alice.Invite(b.ctx, room, "@drei:far.example"), 504, "M_UNKNOWN")
	// The room is made even if the invite does not get through.
	b.room(alice, matrixclient.CreateRoom{Invite: []string{farUser}})
}

func TestSlowJoinGoesOn(t *testing.T) {
	b, far := newFarBox(t, 10*time.Millisecond)
	far.hold = make(chan struct{})
	alice := b.user("alice")
	for range 3 {
		_, err := alice.Join(b.ctx, farRoom)
		b.refused("a join that takes its time", err, 504, "M_UNKNOWN")
		var e *matrixclient.Error
		if !errors.As(err, &e) || e.RetryAfter <= 0 {
			t.Errorf("the answer does not say when to ask again: %v", err)
		}
	}
	if n := far.joins.Load(); n != 1 {
		t.Errorf("the other server was asked %d times, want once", n)
	}
	close(far.hold)
	b.h.slow.wg.Wait()
	if _, err := alice.Join(b.ctx, farRoom); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
