// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// house is a box without HTTP: the real file, rooms, accounts and feed.
type house struct {
	t        testing.TB
	path     string
	name     string
	key      event.Key
	db       *store.DB
	rooms    *room.Rooms
	feed     *Feed
	accounts *account.Accounts
	txn      atomic.Int64
	settled  chan struct{} // a poll has looked and waits now
}

func newHouse(t testing.TB) *house { return newBox(t, "box.test") }

func newBox(t testing.TB, name string) *house {
	_, key, err := ed25519.GenerateKey(nil)
	ok(t, err)
	h := &house{t: t, name: name, settled: make(chan struct{}, 1024), path: filepath.Join(t.TempDir(), "hallig.db"), key: event.Key{ID: "ed25519:1", Private: key}}
	h.open()
	t.Cleanup(h.close)
	return h
}

func (h *house) open() {
	db, err := store.Open(h.t.Context(), h.path, store.Options{})
	ok(h.t, err)
	h.db = db
	h.rooms = room.New(db, room.Identity{Server: h.name, Key: h.key}, room.Options{})
	h.accounts = account.New(db, h.name, account.Options{Cost: account.Cost{MemoryKiB: 64, Passes: 1}})
	h.feed = New(db, h.rooms, Options{})
	h.feed.settled = func() {
		select {
		case h.settled <- struct{}{}:
		default:
		}
	}
}

func (h *house) close() {
	h.feed.Close()
	if err := h.db.Close(); err != nil {
		h.t.Error(err)
	}
}

func (h *house) restart() {
	h.close()
	h.open()
}

// person is a user with one device and the token it has come to.
type person struct {
	h     *house
	id    event.UserID
	dev   string
	s     account.Session
	since string
}

func (h *house) person(name string) *person {
	h.t.Helper()
	s, err := h.accounts.Register(h.t.Context(), account.RegisterRequest{Username: name, Password: "x", Device: "D" + name})
	ok(h.t, err)
	return &person{h: h, id: s.User, dev: s.Device, s: s}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func code(err error) string {
	var e *room.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return "not tellable: " + err.Error()
}

func wantCode(t testing.TB, err error, want string) {
	t.Helper()
	if got := code(err); got != want {
		t.Fatalf("got %q (%v), want %q", got, err, want)
	}
}

func (p *person) create(preset string, initial ...room.StateDraft) event.RoomID {
	p.h.t.Helper()
	id, err := p.h.rooms.Create(p.h.t.Context(), room.CreateRequest{Creator: p.id, Preset: preset, InitialState: initial})
	ok(p.h.t, err)
	return id
}

func (p *person) draft(d room.Draft) (event.ID, error) {
	d.Sender = p.id
	return p.h.rooms.Send(p.h.t.Context(), d)
}

func (p *person) member(id event.RoomID, who *person, membership string) error {
	key := string(who.id)
	_, err := p.draft(room.Draft{Room: id, Type: "m.room.member", StateKey: &key, Content: json.RawMessage(fmt.Sprintf(`{"membership":%q}`, membership))})
	return err
}

func (p *person) must(id event.RoomID, who *person, membership string) {
	p.h.t.Helper()
	ok(p.h.t, p.member(id, who, membership))
}

func (p *person) join(id event.RoomID)  { p.h.t.Helper(); p.must(id, p, "join") }
func (p *person) leave(id event.RoomID) { p.h.t.Helper(); p.must(id, p, "leave") }

func (p *person) say(id event.RoomID, text string) event.ID {
	p.h.t.Helper()
	e, err := p.draft(room.Draft{Room: id, Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, text)),
		Txn: &room.Txn{Device: p.dev, Path: "send", ID: fmt.Sprint(p.h.txn.Add(1))}})
	ok(p.h.t, err)
	return e
}

func (p *person) state(id event.RoomID, typ, key, content string) event.ID {
	p.h.t.Helper()
	e, err := p.draft(room.Draft{Room: id, Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	ok(p.h.t, err)
	return e
}

// The answers as a client reads them.
type clientEvent struct {
	ID       event.ID       `json:"event_id"`
	Type     string         `json:"type"`
	Sender   event.UserID   `json:"sender"`
	Key      *string        `json:"state_key"`
	Content  map[string]any `json:"content"`
	Room     event.RoomID   `json:"room_id"`
	TS       int64          `json:"origin_server_ts"`
	Redacts  event.ID       `json:"redacts"`
	Unsigned struct {
		Age         *int64         `json:"age"`
		Txn         string         `json:"transaction_id"`
		Membership  string         `json:"membership"`
		PrevContent map[string]any `json:"prev_content"`
		Because     *clientEvent   `json:"redacted_because"`
		Replaces    event.ID       `json:"replaces_state"`
	} `json:"unsigned"`
}

func (e clientEvent) body() string { s, _ := e.Content["body"].(string); return s }

type clientEvents struct{ Events []clientEvent }

type clientRoom struct {
	Timeline struct {
		Events    []clientEvent
		Limited   bool
		PrevBatch string `json:"prev_batch"`
	}
	State       clientEvents
	StateAfter  *clientEvents `json:"state_after"`
	Ephemeral   clientEvents
	AccountData clientEvents `json:"account_data"`
	Invite      clientEvents `json:"invite_state"`
	Knock       clientEvents `json:"knock_state"`
	Summary     struct {
		Heroes  []event.UserID `json:"m.heroes"`
		Joined  int            `json:"m.joined_member_count"`
		Invited int            `json:"m.invited_member_count"`
	}
	Unread  unreads            `json:"unread_notifications"`
	Threads map[string]unreads `json:"unread_thread_notifications"`
}

type clientSync struct {
	Next        string       `json:"next_batch"`
	AccountData clientEvents `json:"account_data"`
	ToDevice    clientEvents `json:"to_device"`
	Presence    clientEvents
	Rooms       struct {
		Join, Invite, Leave, Knock map[event.RoomID]*clientRoom
	}
	DeviceLists struct{ Changed, Left []event.UserID } `json:"device_lists"`
	Keys        map[string]int                         `json:"device_one_time_keys_count"`
	Fallback    []string                               `json:"device_unused_fallback_key_types"`
}

// ask syncs without moving the person's token.
func (p *person) ask(req SyncRequest) (*clientSync, error) {
	raw, err := p.h.feed.Sync(p.h.t.Context(), p.id, p.dev, req)
	if err != nil {
		return nil, err
	}
	var out clientSync
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("read %s: %w", raw, err)
	}
	return &out, nil
}

// sync asks from the person's token, without waiting, and moves it on.
func (p *person) sync(filter string) *clientSync {
	p.h.t.Helper()
	out, err := p.ask(SyncRequest{Since: p.since, Filter: filter})
	ok(p.h.t, err)
	p.since = out.Next
	return out
}

// room is one room of a sync, never nil.
func (s *clientSync) room(id event.RoomID) *clientRoom {
	if r := s.Rooms.Join[id]; r != nil {
		return r
	}
	return &clientRoom{}
}

func bodies(es []clientEvent) []string {
	out := []string{}
	for _, e := range es {
		if e.Type == "m.room.message" {
			out = append(out, e.body())
		}
	}
	return out
}

func find(es []clientEvent, typ, key string) *clientEvent {
	for i := range es {
		if es[i].Type == typ && es[i].Key != nil && *es[i].Key == key {
			return &es[i]
		}
	}
	return nil
}

func (p *person) messages(id event.RoomID, req MessagesRequest) (chunk []clientEvent, state []clientEvent, end string) {
	p.h.t.Helper()
	m, err := p.h.feed.Messages(p.h.t.Context(), p.id, p.dev, id, req)
	ok(p.h.t, err)
	for _, raw := range m.Chunk {
		var e clientEvent
		ok(p.h.t, json.Unmarshal(raw, &e))
		chunk = append(chunk, e)
	}
	for _, raw := range m.State {
		var e clientEvent
		ok(p.h.t, json.Unmarshal(raw, &e))
		state = append(state, e)
	}
	return chunk, state, m.End
}

// history reads all that the person may see, oldest first.
func (p *person) history(id event.RoomID) []clientEvent {
	p.h.t.Helper()
	var out []clientEvent
	req := MessagesRequest{Dir: "f", Limit: 7}
	for {
		chunk, _, end := p.messages(id, req)
		out = append(out, chunk...)
		if end == "" {
			return out
		}
		req.From = end
	}
}

const patience = 20 * time.Second
