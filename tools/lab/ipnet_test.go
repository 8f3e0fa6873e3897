// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

// network is two paired boxes, each behind a link that can be cut, and a user on each.
type network struct {
	a, b       *box
	links      [2]*testpeer.Link
	anna, bert *matrixclient.Client
}

func twoBoxes(t *testing.T) *network {
	t.Helper()
	n := &network{a: newBox(t, "hooge.example"), b: newBox(t, "langeness.example")}
	n.links = [2]*testpeer.Link{n.a.listenP2P(), n.b.listenP2P()}
	n.a.start()
	n.b.start()
	pair(t, n.a, n.b, n.links[0].Addr())
	n.anna, n.bert = n.a.register("anna"), n.b.register("bert")
	return n
}

func (n *network) cut(cut bool) {
	for _, l := range n.links {
		if cut {
			l.Cut()
		} else {
			l.Join()
		}
	}
}

// awaitCarrier waits until both boxes say what carries between them.
func (n *network) awaitCarrier(t *testing.T, d time.Duration, want string) time.Duration {
	t.Helper()
	return eventually(t, d, "carried by "+want, func() error {
		if a, b := n.a.carrier(n.b), n.b.carrier(n.a); a != want || b != want {
			return fmt.Errorf("%q and %q", a, b)
		}
		return nil
	})
}

// meet makes a room of anna's, into which bert is invited, and which he joins after he has seen the invite by /sync.
func (n *network) meet(t *testing.T, ctx context.Context) (room string) {
	t.Helper()
	room = must[string](t, "create room")(n.anna.CreateRoom(ctx, matrixclient.CreateRoom{Name: "Deich", Preset: "private_chat"}))
	ok(t, "invite", n.anna.Invite(ctx, room, n.bert.UserID))
	_, err := n.bert.Follow(ctx, "", func(r *matrixclient.SyncResponse) bool {
		_, invited := r.Rooms.Invite[room]
		return invited
	})
	ok(t, "see the invite", err)
	must[string](t, "join")(n.bert.Join(ctx, room))
	_, _, err = n.anna.WaitEvent(ctx, "", room, func(e matrixclient.Event) bool {
		return e.Type == "m.room.member" && *e.StateKey == n.bert.UserID && e.Membership() == "join"
	})
	ok(t, "see the join", err)
	return room
}

// talk sends a text from one and waits until the other sees it.
func talk(t *testing.T, ctx context.Context, room string, from, to *matrixclient.Client, text string) (id string) {
	t.Helper()
	id = must[string](t, "send "+text)(from.SendText(ctx, room, text))
	e, _, err := to.WaitEvent(ctx, "", room, func(e matrixclient.Event) bool { return e.ID == id })
	if err != nil || e.Body() != text || e.Sender != from.UserID {
		t.Fatalf("%s sees %q of %s, %v; want %q", to.UserID, e.Body(), e.Sender, err, text)
	}
	return id
}

// writeApart writes n texts and a topic on both sides at once and gives the ids of all.
func (n *network) writeApart(t *testing.T, ctx context.Context, room string, count int) []string {
	t.Helper()
	var mu sync.Mutex
	var ids []string
	var wg sync.WaitGroup
	for _, c := range []*matrixclient.Client{n.anna, n.bert} {
		wg.Go(func() {
			keep := func(id string, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("%s writes: %v", c.UserID, err)
				}
				ids = append(ids, id)
			}
			for i := range count {
				keep(c.SendText(ctx, room, fmt.Sprintf("%s apart %d", c.UserID, i)))
				if i == count/2 {
					keep(c.SetState(ctx, room, "m.room.topic", "", map[string]string{"topic": "topic of " + c.UserID}))
				}
			}
		})
	}
	wg.Wait()
	return ids
}

// TestTwoBoxesOnIP: everything that users of two boxes share travels both ways; an outage heals by itself within five seconds.
func TestTwoBoxesOnIP(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	n := twoBoxes(t)
	t.Logf("carried by p2p after %v", n.awaitCarrier(t, inTime, "p2p"))
	room := n.meet(t, ctx)
	// Who may set the topic on both sides.
	var levels map[string]any
	ok(t, "power levels", n.anna.StateEvent(ctx, room, "m.room.power_levels", "", &levels))
	levels["state_default"], levels["events"] = 0, map[string]any{}
	must[string](t, "power levels")(n.anna.SetState(ctx, room, "m.room.power_levels", "", levels))

	hello := talk(t, ctx, room, n.anna, n.bert, "Moin Langeneß")
	talk(t, ctx, room, n.bert, n.anna, "Moin Hooge")
	t.Run("state", func(t *testing.T) { stateTravels(t, ctx, n, room) })
	t.Run("redaction", func(t *testing.T) { redactionTravels(t, ctx, n, room) })
	t.Run("receipt", func(t *testing.T) { receiptTravels(t, ctx, n.bert, n.anna, room, hello) })
	t.Run("typing", func(t *testing.T) {
		typingTravels(t, ctx, n.anna, n.bert, room)
		typingTravels(t, ctx, n.bert, n.anna, room)
	})
	t.Run("keys", func(t *testing.T) {
		keysTravel(t, ctx, n.anna, n.bert)
		keysTravel(t, ctx, n.bert, n.anna)
	})
	t.Run("profile", func(t *testing.T) {
		profileTravels(t, ctx, n.anna, n.bert)
		profileTravels(t, ctx, n.bert, n.anna)
	})
	for round := range 2 {
		n.cut(true)
		ids := n.writeApart(t, ctx, room, 30)
		if err := same(ctx, room, n.anna, n.bert, ids); err == nil {
			t.Fatal("both have everything though the link is cut: the cut is none")
		}
		n.cut(false)
		took := eventually(t, inTime, "both sides equal", func() error { return same(ctx, room, n.anna, n.bert, ids) })
		t.Logf("round %d: %d events there and state equal %v after the link came back", round, len(ids), took)
	}
	t.Run("restart", func(t *testing.T) { meetAgain(t, ctx, n, room) })
}

// meetAgain: one box sleeps, and wakes with nothing but a configured address of the other.
func meetAgain(t *testing.T, ctx context.Context, n *network, room string) {
	n.b.stop()
	id := must[string](t, "send")(n.anna.SendText(ctx, room, "while you slept"))
	n.b.config["p2p"].(map[string]any)["peers"] = []string{multiaddr(n.links[0].Addr()) + "/p2p/" + n.a.status().BoxID}
	n.b.start()
	took := eventually(t, inTime, "both sides equal", func() error { return same(ctx, room, n.anna, n.bert, []string{id}) })
	t.Logf("equal %v after the second box answered again", took)
}

func stateTravels(t *testing.T, ctx context.Context, n *network, room string) {
	for _, way := range [][2]*matrixclient.Client{{n.anna, n.bert}, {n.bert, n.anna}} {
		id := must[string](t, "set topic")(way[0].SetState(ctx, room, "m.room.topic", "", map[string]string{"topic": "by " + way[0].UserID}))
		_, _, err := way[1].WaitEvent(ctx, "", room, func(e matrixclient.Event) bool { return e.ID == id })
		ok(t, "see the topic", err)
		var got struct{ Topic string }
		ok(t, "read the topic", way[1].StateEvent(ctx, room, "m.room.topic", "", &got))
		if want := "by " + way[0].UserID; got.Topic != want {
			t.Errorf("topic %q, want %q", got.Topic, want)
		}
	}
	ok(t, "compare", same(ctx, room, n.anna, n.bert, nil))
}

func redactionTravels(t *testing.T, ctx context.Context, n *network, room string) {
	for _, way := range [][2]*matrixclient.Client{{n.anna, n.bert}, {n.bert, n.anna}} {
		id := talk(t, ctx, room, way[0], way[1], "a slip of the tongue")
		r := must[string](t, "redact")(way[0].Redact(ctx, room, id, ""))
		_, _, err := way[1].WaitEvent(ctx, "", room, func(e matrixclient.Event) bool { return e.ID == r })
		ok(t, "see the redaction", err)
		if e := must[matrixclient.Event](t, "read")(way[1].Event(ctx, room, id)); e.Body() != "" {
			t.Errorf("%s still reads %q", way[1].UserID, e.Body())
		}
	}
}

func receiptTravels(t *testing.T, ctx context.Context, from, to *matrixclient.Client, room, id string) {
	ok(t, "send receipt", from.Do(ctx, http.MethodPost, matrixclient.Path("rooms", room, "receipt", "m.read", id), nil, nil))
	_, err := to.Follow(ctx, "", func(r *matrixclient.SyncResponse) bool {
		for _, e := range r.Rooms.Join[room].Ephemeral.Events {
			var c map[string]map[string]map[string]json.RawMessage
			if e.Type == "m.receipt" && json.Unmarshal(e.Content, &c) == nil && c[id]["m.read"][from.UserID] != nil {
				return true
			}
		}
		return false
	})
	ok(t, "see the receipt", err)
}

func typingTravels(t *testing.T, ctx context.Context, from, to *matrixclient.Client, room string) {
	path := matrixclient.Path("rooms", room, "typing", from.UserID)
	ok(t, "type", from.Do(ctx, http.MethodPut, path, map[string]any{"typing": true, "timeout": 30_000}, nil))
	for _, typing := range []bool{true, false} {
		if !typing {
			ok(t, "stop typing", from.Do(ctx, http.MethodPut, path, map[string]any{"typing": false}, nil))
		}
		since := ""
		_, err := to.Follow(ctx, since, func(r *matrixclient.SyncResponse) bool {
			seen, told := false, false
			for _, e := range r.Rooms.Join[room].Ephemeral.Events {
				var c struct {
					Users []string `json:"user_ids"`
				}
				if e.Type == "m.typing" && json.Unmarshal(e.Content, &c) == nil {
					told = true
					for _, u := range c.Users {
						seen = seen || u == from.UserID
					}
				}
			}
			// A first sync of a room where nobody types need not say so.
			return seen == typing && (typing || told || !seen && r.Rooms.Join[room].Timeline.Events != nil)
		})
		ok(t, fmt.Sprintf("see typing=%v", typing), err)
	}
}

// keysTravel: what an encrypted conversation needs of the other user: device keys, a one-time key that is given out once, a message
// to the device, and word of a changed device list.
func keysTravel(t *testing.T, ctx context.Context, from, to *matrixclient.Client) {
	uploadKeys(t, ctx, to, 1)
	query := queryKeys(t, ctx, from, to)
	if got := query.Keys["curve25519:"+to.DeviceID]; got != curve(to) {
		t.Errorf("%s reads the device key %q of %s, want %q", from.UserID, got, to.UserID, curve(to))
	}
	first := claimKey(t, ctx, from, to)
	if first == "" {
		t.Errorf("%s gets no one-time key of %s", from.UserID, to.UserID)
	}
	if again := claimKey(t, ctx, from, to); again == first {
		t.Errorf("%s gets the one-time key %s of %s twice", from.UserID, first, to.UserID)
	}
	toDevice(t, ctx, from, to)
}

func curve(c *matrixclient.Client) string { return "curve of " + c.DeviceID }

type deviceKeys struct {
	Keys map[string]string `json:"keys"`
}

// uploadKeys publishes a device with one-time keys. The server looks into neither, so the keys are mere texts.
func uploadKeys(t *testing.T, ctx context.Context, c *matrixclient.Client, oneTime int) {
	t.Helper()
	keys := map[string]any{}
	for i := range oneTime {
		keys[fmt.Sprintf("signed_curve25519:K%d", i)] = map[string]any{"key": fmt.Sprintf("one-time %d of %s", i, c.DeviceID),
			"signatures": map[string]any{c.UserID: map[string]string{"ed25519:" + c.DeviceID: "signature"}}}
	}
	body := map[string]any{
		"device_keys": map[string]any{
			"user_id": c.UserID, "device_id": c.DeviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
			"keys":       map[string]string{"curve25519:" + c.DeviceID: curve(c), "ed25519:" + c.DeviceID: "ed of " + c.DeviceID},
			"signatures": map[string]any{c.UserID: map[string]string{"ed25519:" + c.DeviceID: "signature"}},
		},
		"one_time_keys": keys,
	}
	var out struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	ok(t, "upload keys", c.Do(ctx, http.MethodPost, matrixclient.Path("keys", "upload"), body, &out))
	if got := out.Counts["signed_curve25519"]; got != oneTime {
		t.Errorf("%d one-time keys kept, want %d", got, oneTime)
	}
}

func queryKeys(t *testing.T, ctx context.Context, c, of *matrixclient.Client) deviceKeys {
	t.Helper()
	var out struct {
		Keys     map[string]map[string]deviceKeys `json:"device_keys"`
		Failures map[string]any                   `json:"failures"`
	}
	in := map[string]any{"device_keys": map[string][]string{of.UserID: {}}}
	ok(t, "query keys", c.Do(ctx, http.MethodPost, matrixclient.Path("keys", "query"), in, &out))
	if len(out.Failures) > 0 {
		t.Errorf("query keys: failures %v", out.Failures)
	}
	return out.Keys[of.UserID][of.DeviceID]
}

func claimKey(t *testing.T, ctx context.Context, c, of *matrixclient.Client) string {
	t.Helper()
	var out struct {
		Keys map[string]map[string]map[string]struct {
			Key string `json:"key"`
		} `json:"one_time_keys"`
	}
	in := map[string]any{"one_time_keys": map[string]map[string]string{of.UserID: {of.DeviceID: "signed_curve25519"}}}
	ok(t, "claim a key", c.Do(ctx, http.MethodPost, matrixclient.Path("keys", "claim"), in, &out))
	for _, k := range out.Keys[of.UserID][of.DeviceID] {
		return k.Key
	}
	return ""
}

// toDevice sends a message to a device and waits for it there; it comes once.
func toDevice(t *testing.T, ctx context.Context, from, to *matrixclient.Client) {
	t.Helper()
	txn := from.NextTxn()
	body := map[string]any{"messages": map[string]any{to.UserID: map[string]any{to.DeviceID: map[string]string{"text": txn}}}}
	for range 2 { // a repetition under the same transaction id changes nothing
		ok(t, "send to device", from.Do(ctx, http.MethodPut, matrixclient.Path("sendToDevice", "m.dummy", txn), body, nil))
	}
	seen := 0
	count := func(r *matrixclient.SyncResponse) bool {
		for _, e := range r.ToDevice.Events {
			var c struct{ Text string }
			if json.Unmarshal(e.Content, &c) == nil && c.Text == txn && e.Sender == from.UserID {
				seen++
			}
		}
		return seen > 0
	}
	since, err := to.Follow(ctx, "", count)
	ok(t, "see the to-device message", err)
	r := must[*matrixclient.SyncResponse](t, "sync")(to.Sync(ctx, matrixclient.SyncOptions{Since: since}))
	if count(r); seen != 1 {
		t.Errorf("the to-device message came %d times", seen)
	}
}

func profileTravels(t *testing.T, ctx context.Context, c, of *matrixclient.Client) {
	name := "Name of " + of.UserID
	ok(t, "set name", of.Do(ctx, http.MethodPut, matrixclient.Path("profile", of.UserID, "displayname"), map[string]string{"displayname": name}, nil))
	var got struct{ Displayname string }
	ok(t, "ask for the profile", c.Do(ctx, http.MethodGet, matrixclient.Path("profile", of.UserID), nil, &got))
	if got.Displayname != name {
		t.Errorf("%s reads the name %q, want %q", c.UserID, got.Displayname, name)
	}
}

// TestUnpairedBox: a box that is not paired gets nothing, and nothing reaches it.
func TestUnpairedBox(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	n := twoBoxes(t)
	n.awaitCarrier(t, inTime, "p2p")
	c := newBox(t, "stranger.example")
	c.listenP2P()
	c.config["p2p"].(map[string]any)["peers"] = []string{multiaddr(n.links[0].Addr()) + "/p2p/" + n.a.status().BoxID}
	c.start()
	carl := c.register("carl")
	room := must[string](t, "create room")(n.anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t, "a paired box joins")(n.bert.Join(ctx, room, n.a.name))

	if _, err := carl.Join(ctx, room, n.a.name); err == nil {
		t.Error("a user of an unpaired box has joined")
	} else if matrixclient.Code(err) == "" {
		t.Errorf("join from an unpaired box: %v; want a Matrix error", err)
	}
	if err := n.anna.Invite(ctx, room, carl.UserID); matrixclient.Code(err) == "" {
		t.Errorf("invite of a user of an unpaired box: %v; want a Matrix error", err)
	}
	if r := must[*matrixclient.SyncResponse](t, "sync")(carl.Sync(ctx, matrixclient.SyncOptions{})); len(r.Rooms.Invite)+len(r.Rooms.Join) > 0 {
		t.Errorf("the stranger knows of rooms: %+v", r.Rooms)
	}
	if s := n.a.status(); len(s.Peers) != 1 {
		t.Errorf("peers %+v, want the paired box alone", s.Peers)
	}
}
