// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// A full disk is told to the client as such, loses nothing, and the room goes on when there is space again.
func TestFullDisk(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 30)
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{Free: func(string) (int64, error) { return free.Load(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, db: db, Rooms: New(db, Identity{Server: "a", Key: testKey("a")}, Options{})}
	defer db.Close()
	room := b.create(CreateRequest{Creator: alice})
	first := b.send(text(room, alice, "vorher"))
	free.Store(1 << 20)
	for name, err := range map[string]error{
		"send":   func() error { _, err := b.Send(t.Context(), text(room, alice, "zu viel")); return err }(),
		"create": func() error { _, err := b.Create(t.Context(), CreateRequest{Creator: alice}); return err }(),
	} {
		var e *Error
		var full *store.Full
		if !errors.As(err, &e) || e.Code != "M_RESOURCE_LIMIT_EXCEEDED" || !errors.As(err, &full) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	free.Store(1 << 30)
	next := b.send(text(room, alice, "nachher"))
	if prev := b.pdu(next).Prev; len(prev) != 1 || prev[0] != first {
		t.Errorf("the next event follows %v, want %s", prev, first)
	}
}

// The hook fails at random under load: what was answered is there once, in one unbroken line; what was refused is not there.
func TestFailuresUnderLoad(t *testing.T) {
	var n atomic.Int64
	b := newBoxWith(t, "a", Options{OnAppend: func(_ *store.Tx, e AppendInfo) error {
		if e.PDU.Type == "m.room.message" && n.Add(1)%7 == 0 {
			return errors.New("no")
		}
		return nil
	}})
	room := b.create(CreateRequest{Creator: alice})
	var mu sync.Mutex
	said := map[event.ID]bool{}
	refused := 0
	var wg sync.WaitGroup
	for s := range 8 {
		wg.Go(func() {
			for i := range 40 {
				id, err := b.Send(context.Background(), text(room, alice, fmt.Sprint(s, i)))
				mu.Lock()
				if err == nil {
					said[id] = true
				} else {
					refused++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if refused == 0 || len(said) == 0 {
		t.Fatalf("%d said, %d refused", len(said), refused)
	}
	var last event.ID
	for i, e := range b.timeline(room) {
		p := b.pdu(e.ID)
		if i > 0 && (len(p.Prev) != 1 || p.Prev[0] != last) {
			t.Fatalf("event %d follows %v, want %s", i, p.Prev, last)
		}
		last = e.ID
		if e.Type == "m.room.message" {
			if !said[e.ID] {
				t.Errorf("%s is there but was refused", e.ID)
			}
			delete(said, e.ID)
		}
	}
	if len(said) > 0 {
		t.Errorf("%d answered events are missing", len(said))
	}
}

// Who is in a room that the join rule names may join, in the name of somebody here who may invite.
func TestRestrictedJoin(t *testing.T) {
	for _, version := range []string{"10", "12"} {
		b := newBox(t, "a")
		club := b.create(CreateRequest{Creator: alice, Preset: "public_chat"})
		rule := fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, club)
		room := b.create(CreateRequest{Creator: alice, Version: version, InitialState: []StateDraft{{Type: "m.room.join_rules", Content: json.RawMessage(rule)}}})
		var e *Error
		if _, err := b.Send(t.Context(), member(room, bob, bob, "join")); !errors.As(err, &e) || e.Code != "M_FORBIDDEN" {
			t.Errorf("version %s: a stranger's join: %v", version, err)
		}
		b.send(member(club, bob, bob, "join"))
		id := b.send(member(room, bob, bob, "join"))
		var c map[string]string
		if err := json.Unmarshal(b.pdu(id).Content, &c); err != nil || c["join_authorised_via_users_server"] != string(alice) {
			t.Errorf("version %s: content %s, %v", version, b.pdu(id).Content, err)
		}
		b.send(text(room, bob, "Moin"))
		// Once inside, a new name needs nobody's leave.
		again := b.send(state(room, bob, "m.room.member", string(bob), `{"membership":"join","displayname":"Bob","join_authorised_via_users_server":"@alice:a"}`))
		clear(c)
		if err := json.Unmarshal(b.pdu(again).Content, &c); err != nil || c["join_authorised_via_users_server"] != "" {
			t.Errorf("version %s: content %s, %v", version, b.pdu(again).Content, err)
		}
	}
}

// A knock goes through the door like any event, and through the side door for a room we do not hold.
func TestKnock(t *testing.T) {
	a, b := newBox(t, "a"), newBox(t, "b")
	room := a.create(CreateRequest{Creator: alice, InitialState: []StateDraft{{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"knock"}`)}}})
	raw, v, err := a.Template(t.Context(), member(room, carol, carol, "knock"))
	if err != nil {
		t.Fatal(err)
	}
	knock, err := event.FromTemplate(v, raw, "b", testKey("b"))
	if err != nil {
		t.Fatal(err)
	}
	a.mustAccept(Incoming{PDU: knock, From: Source{"federation", "b"}}, Accepted)
	if err := b.AcceptKnock(t.Context(), v, knock, nil); err != nil {
		t.Fatal(err)
	}
	if ms, err := b.Members(t.Context(), room); err != nil || ms[carol] != "knock" {
		t.Errorf("members %v, %v", ms, err)
	}
	refusal := a.send(member(room, alice, carol, "leave"))
	b.mustAccept(Incoming{PDU: a.pdu(refusal), From: Source{"federation", "a"}}, Accepted)
	if ms, err := b.Members(t.Context(), room); err != nil || ms[carol] != "leave" {
		t.Errorf("members %v, %v", ms, err)
	}
}
