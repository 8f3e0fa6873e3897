// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// box is a server under test: rooms over a real file.
type box struct {
	*Rooms
	t    testing.TB
	db   *store.DB
	path string
	now  time.Time
	opt  Options
}

func newBox(t testing.TB, server string) *box { return newBoxWith(t, server, Options{}) }

func newBoxWith(t testing.TB, server string, opt Options) *box {
	t.Helper()
	b := &box{t: t, path: filepath.Join(t.TempDir(), server+".db"), now: time.UnixMilli(1_790_000_000_000), opt: opt}
	if b.opt.Clock == nil {
		b.opt.Clock = func() time.Time { b.now = b.now.Add(time.Second); return b.now }
	}
	b.open(server)
	t.Cleanup(func() { b.db.Close() })
	return b
}

func (b *box) open(server string) {
	b.t.Helper()
	db, err := store.Open(context.Background(), b.path, store.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.db = db
	b.Rooms = New(db, Identity{Server: server, Key: testKey(server)}, b.opt)
}

func (b *box) reopen() {
	b.t.Helper()
	if err := b.db.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open(b.Server())
}

func testKey(server string) event.Key {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, server)
	return event.Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(seed)}
}

func (b *box) create(q CreateRequest) event.RoomID {
	b.t.Helper()
	id, err := b.Create(context.Background(), q)
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func (b *box) send(d Draft) event.ID {
	b.t.Helper()
	id, err := b.Send(context.Background(), d)
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func text(room event.RoomID, from event.UserID, body string) Draft {
	raw, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": body})
	return Draft{Room: room, Sender: from, Type: "m.room.message", Content: raw}
}

func state(room event.RoomID, from event.UserID, typ, key, content string) Draft {
	return Draft{Room: room, Sender: from, Type: typ, StateKey: &key, Content: json.RawMessage(content)}
}

func member(room event.RoomID, from, user event.UserID, membership string) Draft {
	return state(room, from, "m.room.member", string(user), `{"membership":"`+membership+`"}`)
}

// timeline gives the shown events, oldest first.
func (b *box) timeline(room event.RoomID) (es []*store.Event) {
	b.t.Helper()
	if err := b.db.View(context.Background(), func(r *store.Read) (err error) {
		es, err = r.RoomEventsBetween(room, store.MinPos, 1<<62, 0, false)
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return es
}

func (b *box) state(room event.RoomID) map[rules.Key]event.ID {
	b.t.Helper()
	s, err := b.State(context.Background(), room)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *box) pdu(id event.ID) *event.PDU {
	b.t.Helper()
	p, _, err := b.Event(context.Background(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *box) content(room event.RoomID, typ, key string) string {
	b.t.Helper()
	p, err := b.StateEvent(context.Background(), room, typ, key)
	if err != nil {
		b.t.Fatal(err)
	}
	if p == nil {
		return ""
	}
	return string(p.Content)
}

const (
	alice = event.UserID("@alice:a")
	bob   = event.UserID("@bob:a")
	carol = event.UserID("@carol:b")
)

func TestCreatePresets(t *testing.T) {
	for _, version := range []string{"10", "11", "12"} {
		for preset, want := range map[string][3]string{
			"private_chat":         {"invite", "shared", "can_join"},
			"trusted_private_chat": {"invite", "shared", "can_join"},
			"public_chat":          {"public", "shared", ""}, // guests are forbidden where no event lets them in
		} {
			t.Run(version+" "+preset, func(t *testing.T) {
				b := newBox(t, "a")
				room := b.create(CreateRequest{Creator: alice, Version: version, Preset: preset, Name: "Deich", Topic: "Sturmflut", Invite: []event.UserID{bob}, IsDirect: true,
					InitialState: []StateDraft{{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)}},
					Profile:      func(u event.UserID) (string, string) { return u.Localpart(), "" }})
				got := [3]string{}
				for i, s := range [][2]string{{"m.room.join_rules", "join_rule"}, {"m.room.history_visibility", "history_visibility"}, {"m.room.guest_access", "guest_access"}} {
					var c map[string]string
					if raw := b.content(room, s[0], ""); raw == "" {
						continue
					} else if err := json.Unmarshal([]byte(raw), &c); err != nil {
						t.Fatal(err)
					}
					got[i] = c[s[1]]
				}
				if got != want {
					t.Errorf("got %v, want %v", got, want)
				}
				if v, err := b.Version(t.Context(), room); err != nil || v.ID != version {
					t.Errorf("version %v, %v", v, err)
				}
				if got, want := b.content(room, "m.room.member", string(bob)), `{"displayname":"bob","is_direct":true,"membership":"invite"}`; got != want {
					t.Errorf("invite %s, want %s", got, want)
				}
				if got, want := b.content(room, "m.room.name", ""), `{"name":"Deich"}`; got != want {
					t.Errorf("name %s, want %s", got, want)
				}
				if b.content(room, "m.room.encryption", "") == "" {
					t.Error("initial_state was forgotten")
				}
				b.checkTrusted(room, version, preset)
				b.send(member(room, bob, bob, "join"))
				b.send(text(room, bob, "Moin"))
			})
		}
	}
}

// checkTrusted: in a trusted chat the invitee stands as high as the creator: by power levels, in version 12 as one more creator.
func (b *box) checkTrusted(room event.RoomID, version, preset string) {
	b.t.Helper()
	s, err := b.LawState(context.Background(), room)
	if err != nil {
		b.t.Fatal(err)
	}
	equal := rules.UserLevel(s, alice) == rules.UserLevel(s, bob)
	if want := preset == "trusted_private_chat"; equal != want {
		b.t.Errorf("version %s: invitee stands as high as the creator: %v, want %v", version, equal, want)
	}
}

func TestCreateRefuses(t *testing.T) {
	b := newBox(t, "a")
	b.create(CreateRequest{Creator: alice, AliasLocalpart: "deich"})
	for name, test := range map[string]struct {
		q    CreateRequest
		code string
	}{
		"taken alias":     {CreateRequest{Creator: bob, AliasLocalpart: "deich"}, "M_ROOM_IN_USE"},
		"unknown version": {CreateRequest{Creator: bob, Version: "99"}, "M_UNSUPPORTED_ROOM_VERSION"},
		"old version":     {CreateRequest{Creator: bob, Version: "1"}, "M_UNSUPPORTED_ROOM_VERSION"},
		"unknown preset":  {CreateRequest{Creator: bob, Preset: "loud"}, "M_BAD_JSON"},
		"creator's level": {CreateRequest{Creator: bob, PowerOverride: json.RawMessage(`{"users":{"@bob:a":100}}`)}, "M_BAD_JSON"},
	} {
		_, err := b.Create(t.Context(), test.q)
		var e *Error
		if !errors.As(err, &e) || e.Code != test.code {
			t.Errorf("%s: got %v, want %s", name, err, test.code)
		}
	}
	if rooms := b.allRooms(); len(rooms) != 1 {
		t.Errorf("refused rooms left something behind: %v", rooms)
	}
}

func (b *box) allRooms() (rooms []event.RoomID) {
	b.t.Helper()
	if err := b.db.View(context.Background(), func(r *store.Read) (err error) { rooms, err = r.Rooms(); return err }); err != nil {
		b.t.Fatal(err)
	}
	return rooms
}

func TestSendRefuses(t *testing.T) {
	b := newBox(t, "a")
	room := b.create(CreateRequest{Creator: alice})
	for name, test := range map[string]struct {
		d    Draft
		code string
	}{
		"stranger":     {text(room, bob, "hi"), "M_FORBIDDEN"},
		"unknown room": {text("!none:a", alice, "hi"), "M_NOT_FOUND"},
		"no JSON":      {Draft{Room: room, Sender: alice, Type: "m.x", Content: json.RawMessage(`{`)}, "M_BAD_JSON"},
		"float":        {Draft{Room: room, Sender: alice, Type: "m.x", Content: json.RawMessage(`{"a":1.5}`)}, "M_BAD_JSON"},
		"too large":    {text(room, alice, string(make([]byte, 66000))), "M_TOO_LARGE"},
	} {
		_, err := b.Send(t.Context(), test.d)
		var e *Error
		if !errors.As(err, &e) || e.Code != test.code {
			t.Errorf("%s: got %v, want %s", name, err, test.code)
		}
	}
	b.send(text(room, alice, "still works"))
}

func TestTransactionIDs(t *testing.T) {
	b := newBox(t, "a")
	room := b.create(CreateRequest{Creator: alice})
	d := text(room, alice, "once")
	d.Txn = &Txn{Device: "D", ID: "1", Path: "/send"}
	first := b.send(d)
	if again := b.send(d); again != first {
		t.Errorf("repeated: %s, want %s", again, first)
	}
	b.reopen() // the memory of recent ones is gone
	if again := b.send(d); again != first {
		t.Errorf("after restart: %s, want %s", again, first)
	}
	for _, other := range []Txn{{"E", "1", "/send"}, {"D", "2", "/send"}, {"D", "1", "/redact"}} {
		d.Txn = &other
		if id := b.send(d); id == first {
			t.Errorf("%+v answered another request's event", other)
		}
	}
	e := b.timeline(room)
	if i := slices.IndexFunc(e, func(e *store.Event) bool { return e.ID == first }); i < 0 || e[i].TxnDevice != "D" || e[i].TxnID != "1" {
		t.Error("the event does not know its transaction id")
	}
}

// The same transaction id from many connections at once makes one event.
func TestTransactionRace(t *testing.T) {
	b := newBox(t, "a")
	room := b.create(CreateRequest{Creator: alice})
	before := len(b.timeline(room))
	var wg sync.WaitGroup
	ids := make([]event.ID, 20)
	for i := range ids {
		wg.Go(func() {
			d := text(room, alice, "once")
			d.Txn = &Txn{Device: "D", ID: fmt.Sprint(i % 2), Path: "/send"}
			ids[i], _ = b.Send(context.Background(), d)
		})
	}
	wg.Wait()
	for i, id := range ids {
		if id == "" || id != ids[i%2] {
			t.Errorf("request %d: %s, want %s", i, id, ids[i%2])
		}
	}
	if got := len(b.timeline(room)) - before; got != 2 {
		t.Errorf("%d events, want 2", got)
	}
}

// Many senders of one room: one line of events, each on top of the one before, and fewer flushes than events.
func TestConcurrentSenders(t *testing.T) {
	b := newBox(t, "a")
	room := b.create(CreateRequest{Creator: alice, Preset: "public_chat"})
	users := make([]event.UserID, 10)
	for i := range users {
		users[i] = event.UserID(fmt.Sprintf("@u%d:a", i))
		b.send(member(room, users[i], users[i], "join"))
	}
	before := len(b.timeline(room))
	commits := 0
	b.db.OnCommit(func(store.Commit) { commits++ })
	const each = 30
	var wg sync.WaitGroup
	for _, u := range users {
		wg.Go(func() {
			for i := range each {
				if _, err := b.Send(context.Background(), text(room, u, fmt.Sprint(u, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	es := b.timeline(room)
	if got := len(es) - before; got != each*len(users) {
		t.Fatalf("%d events, want %d", got, each*len(users))
	}
	for i, e := range es {
		p := b.pdu(e.ID)
		if i == 0 {
			continue
		}
		if len(p.Prev) != 1 || p.Prev[0] != es[i-1].ID || p.Depth != es[i-1].Depth+1 {
			t.Fatalf("event %d does not follow event %d", i, i-1)
		}
		if e.Pos <= es[i-1].Pos {
			t.Fatalf("position %d after %d", e.Pos, es[i-1].Pos)
		}
	}
	if err := b.db.Close(); err != nil {
		t.Fatal(err)
	}
	if commits >= each*len(users) {
		t.Errorf("%d flushes for %d events", commits, each*len(users))
	}
}

func TestStateAndMembership(t *testing.T) {
	b := newBox(t, "a")
	room := b.create(CreateRequest{Creator: alice})
	since := b.db.Published()
	b.send(member(room, alice, bob, "invite"))
	b.send(member(room, bob, bob, "join"))
	if again, first := b.send(member(room, bob, bob, "join")), b.state(room)[rules.Key{Type: "m.room.member", StateKey: string(bob)}]; again != first {
		t.Errorf("a repeated join made another event")
	}
	b.send(state(room, alice, "m.room.topic", "", `{"topic":"x"}`))
	topic := b.send(state(room, alice, "m.room.topic", "", `{"topic":"y"}`))
	b.reopen()
	if got := b.state(room)[rules.Key{Type: "m.room.topic"}]; got != topic {
		t.Errorf("topic %s, want %s", got, topic)
	}
	before, err := b.StateBefore(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	if got := before[rules.Key{Type: "m.room.topic"}]; got == topic || got == "" {
		t.Errorf("state before the topic holds %q", got)
	}
	if err := b.db.View(t.Context(), func(r *store.Read) error {
		ds, err := r.StateDeltas(room, since, b.db.Published())
		if err != nil {
			return err
		}
		var got []string
		for _, d := range ds {
			got = append(got, d.Type+d.StateKey)
		}
		want := []string{"m.room.member@bob:a", "m.room.member@bob:a", "m.room.topic", "m.room.topic"}
		if !slices.Equal(got, want) {
			t.Errorf("deltas %v, want %v", got, want)
		}
		if ds[3].Old != ds[2].Event || ds[2].Old != 0 {
			t.Errorf("deltas do not name what they replaced: %+v", ds)
		}
		m, err := r.MembershipOf(room, bob)
		if m.Membership != "join" || m.Pos != ds[1].Pos {
			t.Errorf("membership %+v, want join at %d", m, ds[1].Pos)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	b.send(member(room, bob, bob, "leave"))
	if err := b.Forget(t.Context(), room, bob); err != nil {
		t.Error(err)
	}
	if err := b.Forget(t.Context(), room, alice); err == nil {
		t.Error("a joined room was forgotten")
	}
	if us, err := b.Joined(t.Context(), room); err != nil || !slices.Equal(us, []event.UserID{alice}) {
		t.Errorf("joined %v, %v", us, err)
	}
}

func TestRedaction(t *testing.T) {
	for _, version := range []string{"10", "12"} {
		t.Run(version, func(t *testing.T) {
			b := newBox(t, "a")
			room := b.create(CreateRequest{Creator: alice, Version: version, Preset: "public_chat"})
			b.send(member(room, bob, bob, "join"))
			id := b.send(text(room, alice, "regret"))
			redact := Draft{Room: room, Type: "m.room.redaction", Redacts: id, Content: json.RawMessage(`{}`)}
			redact.Sender = bob
			if _, err := b.Send(t.Context(), redact); err == nil {
				t.Error("bob redacted alice's message")
			}
			redact.Sender = alice
			elsewhere := redact
			elsewhere.Room = b.create(CreateRequest{Creator: alice, Version: version})
			if _, err := b.Send(t.Context(), elsewhere); err == nil {
				t.Error("an event of another room was redacted")
			}
			unknown := redact
			unknown.Redacts = "$not-here-yet"
			b.send(unknown) // waits for its event
			by := b.send(redact)
			p, m, err := b.Event(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if string(p.Content) != `{}` || m.RedactedBy != by {
				t.Errorf("content %s, redacted by %s, want %s", p.Content, m.RedactedBy, by)
			}
		})
	}
}

// What no power could make right is bad input, not a lack of power: a second create event, a creator among the users with a level.
func TestDraftsThatCannotBe(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		b := newBox(t, "a")
		room := b.create(CreateRequest{Creator: alice, Version: version})
		ends := b.ends(room)
		drafts := []Draft{state(room, alice, "m.room.create", "", `{"room_version":"12","mehr":1}`)}
		if version == "12" {
			drafts = append(drafts, state(room, alice, "m.room.power_levels", "", `{"users":{"@alice:a":100}}`))
		}
		for _, d := range drafts {
			_, err := b.Send(t.Context(), d)
			var told *Error
			if !errors.As(err, &told) || told.Status != 400 || told.Code != "M_BAD_JSON" {
				t.Errorf("version %s, %s: %v", version, d.Type, err)
			}
		}
		if got := b.ends(room); !slices.Equal(got, ends) {
			t.Errorf("version %s: something was stored", version)
		}
	}
}

// Since version 12 the create event names the room: rooms that are made alike at the same moment are still several.
func TestRoomsMadeAtOnceAreSeveral(t *testing.T) {
	b := newBoxWith(t, "a", Options{Clock: func() time.Time { return time.UnixMilli(1_790_000_000_000) }})
	seen := map[event.RoomID]bool{}
	for range 50 {
		seen[b.create(CreateRequest{Creator: alice, Version: "12"})] = true
	}
	if len(seen) != 50 {
		t.Errorf("50 rooms have %d ids", len(seen))
	}
}
