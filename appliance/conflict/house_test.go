// SPDX-License-Identifier: EUPL-1.2

package conflict

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/herald"
	"hallig/appliance/room"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// house is a server with people, over a real file. Its clock is moved by hand.
type house struct {
	t         *testing.T
	name      string
	path      string
	key       event.Key
	now       time.Time
	db        *store.DB
	rooms     *room.Rooms
	accounts  *account.Accounts
	herald    *herald.Herald
	conflicts *Conflicts
	others    map[string]*house // in reach
	sent      map[event.RoomID]int64
	outcomes  map[event.ID]room.Outcome
}

func newHouse(t *testing.T, name string, people ...string) *house {
	t.Helper()
	h := &house{t: t, name: name, path: filepath.Join(t.TempDir(), "hallig.db"), now: time.UnixMilli(1_790_000_000_000), others: map[string]*house{}, sent: map[event.RoomID]int64{},
		outcomes: map[event.ID]room.Outcome{}, key: event.Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(bytes.Repeat([]byte(name[:1]), 32))}}
	h.open()
	for _, p := range people {
		if _, err := h.accounts.Register(t.Context(), account.RegisterRequest{Username: p, InhibitLogin: true}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { h.db.Close() })
	return h
}

func (h *house) open() {
	h.t.Helper()
	db, err := store.Open(h.t.Context(), h.path, store.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	h.db = db
	h.accounts = account.New(db, h.name, account.Options{})
	h.rooms = room.New(db, room.Identity{Server: h.name, Key: h.key}, room.Options{
		Clock:    func() time.Time { h.now = h.now.Add(time.Second); return h.now },
		OnFork:   func(tx *store.Tx, f room.Fork) error { return h.conflicts.Forked(tx, f) },
		OnAppend: func(tx *store.Tx, e room.AppendInfo) error { return h.conflicts.Appended(tx, e) },
	})
	log := slog.New(slog.NewTextHandler(h.t.Output(), nil))
	h.herald = herald.New(herald.Config{DB: db, Server: h.name, Rooms: h.rooms, Profile: h.accounts.DisplayName, Log: log})
	h.conflicts = New(Config{DB: db, Server: h.name, Now: func() time.Time { return h.now }, Join: h.join, Leave: h.leave, Told: func() {}, Log: log})
}

// again ends the house in the middle of whatever it does, and starts it anew.
func (h *house) again() {
	h.t.Helper()
	if err := h.db.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.open()
}

func (h *house) user(name string) event.UserID { return event.UserID("@" + name + ":" + h.name) }

func (h *house) send(d room.Draft) event.ID {
	h.t.Helper()
	id, err := h.rooms.Send(h.t.Context(), d)
	if err != nil {
		h.t.Fatalf("%s: %s: %v", h.name, d.Type, err)
	}
	return id
}

func (h *house) say(id event.RoomID, who, text string) event.ID {
	h.t.Helper()
	raw, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	return h.send(room.Draft{Room: id, Sender: h.user(who), Type: "m.room.message", Content: raw})
}

func (h *house) set(id event.RoomID, who, typ, key, content string) event.ID {
	h.t.Helper()
	return h.send(room.Draft{Room: id, Sender: h.user(who), Type: typ, StateKey: &key, Content: json.RawMessage(content)})
}

func (h *house) pdu(id event.ID) *event.PDU {
	h.t.Helper()
	p, _, err := h.rooms.Event(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// join lets a user into a room that a house in reach is in, as the Server-Server API does.
func (h *house) join(ctx context.Context, user event.UserID, id event.RoomID, servers []string) (bool, error) {
	key := string(user)
	member := room.Draft{Room: id, Sender: user, Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"membership":"join"}`)}
	if ss, err := h.rooms.Servers(ctx, id); err == nil && slices.Contains(ss, h.name) {
		_, err := h.rooms.Send(ctx, member)
		return forbids(err), err
	}
	for _, s := range servers {
		o := h.others[s]
		if o == nil {
			continue
		}
		tpl, v, err := o.rooms.Template(ctx, member)
		if err != nil {
			return forbids(err), err
		}
		join, err := event.FromTemplate(v, tpl, h.name, h.key)
		if err != nil {
			return false, err
		}
		if _, err := o.rooms.Accept(ctx, room.Incoming{PDU: join, From: room.Source{Kind: "federation", Server: h.name}}); err != nil {
			return false, err
		}
		tell, err := o.rooms.TellJoin(ctx, join.ID, false)
		if err != nil {
			return false, err
		}
		read := func(nids []int64) (ps []*event.PDU, err error) {
			err = tell.Each(ctx, nids, func(raw json.RawMessage) error {
				p, err := event.Parse(v, raw)
				ps = append(ps, p)
				return err
			})
			return ps, err
		}
		state, err := read(tell.State)
		if err != nil {
			return false, err
		}
		auth, err := read(tell.Auth)
		if err != nil {
			return false, err
		}
		if err := h.rooms.Adopt(ctx, v, join, state, auth, room.Source{Kind: "federation", Server: s}); err != nil {
			return false, err
		}
		h.sent[id], o.sent[id] = h.db.Published(), o.db.Published()
		return false, nil
	}
	return false, errors.New("nobody is in reach")
}

func forbids(err error) bool {
	var e *room.Error
	return errors.As(err, &e) && e.Status == 403
}

func (h *house) leave(ctx context.Context, user event.UserID, id event.RoomID) error {
	key := string(user)
	_, err := h.rooms.Send(ctx, room.Draft{Room: id, Sender: user, Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"membership":"leave"}`)})
	return err
}

func (h *house) mustJoin(o *house, id event.RoomID, names ...string) {
	h.t.Helper()
	h.others[o.name], o.others[h.name] = o, h
	for _, n := range names {
		if _, err := h.join(h.t.Context(), h.user(n), id, []string{o.name}); err != nil {
			h.t.Fatal(err)
		}
	}
	h.meet(o, id)
}

// meet brings two houses up to date: each gets what the other's people have done since they met last. It answers which of h's events o does not show.
func (h *house) meet(o *house, id event.RoomID) (unseen int) {
	h.t.Helper()
	mine, theirs := h.news(id), o.news(id)
	unseen = o.take(h, mine)
	h.take(o, theirs)
	h.sent[id], o.sent[id] = h.db.Published(), o.db.Published()
	return unseen
}

func (h *house) news(id event.RoomID) (ps []*event.PDU) {
	h.t.Helper()
	var es []*store.Event
	err := h.db.View(h.t.Context(), func(r *store.Read) (err error) {
		es, err = r.RoomEventsBetween(id, h.sent[id], 1<<62, 0, false)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range es {
		if e.Sender.Server() == h.name {
			ps = append(ps, h.pdu(e.ID))
		}
	}
	return ps
}

func (h *house) take(o *house, ps []*event.PDU) (unseen int) {
	h.t.Helper()
	for _, p := range ps {
		res, err := h.rooms.Accept(h.t.Context(), room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: o.name}})
		if err != nil {
			h.t.Fatal(err)
		}
		if res.Outcome == room.Missing || res.Outcome == room.Rejected {
			h.t.Fatalf("%s: %s of %s is %s: %s", h.name, p.Type, p.Sender, res.Outcome, res.Reason)
		}
		if res.Outcome == room.SoftFailed {
			unseen++
		}
	}
	return unseen
}

// settle lets time pass until nothing more happens, and has the letters told.
func (h *house) settle() {
	h.t.Helper()
	for range 20 {
		if _, err := h.conflicts.Look(h.t.Context()); err != nil {
			h.t.Fatal(err)
		}
		if err := h.herald.Deliver(h.t.Context()); err != nil {
			h.t.Fatal(err)
		}
		h.now = h.now.Add(lookEvery)
	}
}

// told gives what the box has told a user, from the rooms that the user is in with it.
func (h *house) told(name string) (bodies []string) {
	h.t.Helper()
	var es []*store.Event
	err := h.db.View(h.t.Context(), func(r *store.Read) error {
		rooms, err := r.JoinedRooms(h.user(name))
		for _, id := range rooms {
			more, e := r.RoomEventsBetween(id, 0, 1<<62, 0, false)
			es, err = append(es, more...), errors.Join(err, e)
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range es {
		if e.Sender == h.user("hallig") && e.Type == "m.room.message" {
			bodies = append(bodies, text(h.pdu(e.ID).Content, "body"))
		}
	}
	return bodies
}

// tells checks that a user was told once, and what.
func (h *house) tells(name string, parts ...string) string {
	h.t.Helper()
	got := h.told(name)
	if len(got) != 1 {
		h.t.Fatalf("%s was told %d times, want once:\n%s", name, len(got), strings.Join(got, "\n---\n"))
	}
	for _, p := range parts {
		if !strings.Contains(got[0], p) {
			h.t.Errorf("%s was not told %q:\n%s", name, p, got[0])
		}
	}
	return got[0]
}

func (h *house) silent(names ...string) {
	h.t.Helper()
	for _, n := range names {
		if got := h.told(n); len(got) > 0 {
			h.t.Errorf("%s was told although nothing concerns them:\n%s", n, strings.Join(got, "\n---\n"))
		}
	}
}

func (h *house) counts() map[string]int64 {
	h.t.Helper()
	var m map[string]int64
	if err := h.db.View(h.t.Context(), func(r *store.Read) (err error) { m, err = r.ConflictCounts(); return err }); err != nil {
		h.t.Fatal(err)
	}
	return m
}

func (h *house) noted() int {
	h.t.Helper()
	var cs []store.Conflict
	if err := h.db.View(h.t.Context(), func(r *store.Read) (err error) { cs, err = r.Conflicts(); return err }); err != nil {
		h.t.Fatal(err)
	}
	return len(cs)
}

func (h *house) speaks(name, lang string) {
	h.t.Helper()
	if err := h.accounts.SetAccountData(h.t.Context(), h.user(name), "", herald.TypeLanguage, json.RawMessage(`{"language":"`+lang+`"}`)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) membership(id event.RoomID, u event.UserID) string {
	h.t.Helper()
	var m store.Membership
	if err := h.db.View(h.t.Context(), func(r *store.Read) (err error) { m, err = r.MembershipOf(id, u); return err }); err != nil {
		h.t.Fatal(err)
	}
	return m.Membership
}

// lage is a room of the centre z with people of the box b in it. Alice of z made it; bob of b has power 50 in it.
func lage(t *testing.T) (z, b *house, id event.RoomID) {
	t.Helper()
	z, b = newHouse(t, "z", "alice", "zoe"), newHouse(t, "b", "bob", "carl", "dora")
	id, err := z.rooms.Create(t.Context(), room.CreateRequest{Creator: z.user("alice"), Preset: "public_chat", Name: "Lage"})
	if err != nil {
		t.Fatal(err)
	}
	z.set(id, "zoe", "m.room.member", string(z.user("zoe")), `{"membership":"join"}`)
	z.power(id, `"@bob:b":50`, 0)
	b.mustJoin(z, id, "bob", "carl")
	for n, l := range map[string]string{"bob": "de", "carl": "en"} {
		b.speaks(n, l)
	}
	return z, b, id
}

// power sets the levels of a room that alice has made.
func (h *house) power(id event.RoomID, users string, events int) event.ID {
	h.t.Helper()
	return h.set(id, "alice", "m.room.power_levels", "", fmt.Sprintf(`{"users":{%s},"events_default":%d,"state_default":50}`, users, events))
}

func (h *house) holder(id event.RoomID, typ string) event.ID {
	h.t.Helper()
	s, err := h.rooms.State(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return s[rules.Key{Type: typ}]
}

// takeNewest takes an event with the state that the other says was before it.
func (h *house) takeNewest(o *house, newest *event.PDU) {
	h.t.Helper()
	state, err := o.rooms.StateBefore(h.t.Context(), newest.ID)
	if err != nil {
		h.t.Fatal(err)
	}
	in := room.Incoming{PDU: newest, From: room.Source{Kind: "federation", Server: o.name}}
	for _, id := range state {
		in.State = append(in.State, id)
		if _, err := h.rooms.Accept(h.t.Context(), room.Incoming{PDU: o.pdu(id), From: in.From, Outlier: true}); err != nil {
			h.t.Fatal(err)
		}
	}
	if res, err := h.rooms.Accept(h.t.Context(), in); err != nil || res.Outcome != room.Accepted {
		h.t.Fatal(res, err)
	}
}

// positions gives those of the first and the last of some events.
func (h *house) positions(ids []event.ID) (first, last int64) {
	h.t.Helper()
	for i, id := range []event.ID{ids[0], ids[len(ids)-1]} {
		_, m, err := h.rooms.Event(h.t.Context(), id)
		if err != nil {
			h.t.Fatal(err)
		}
		if last = m.Pos; i == 0 {
			first = m.Pos
		}
	}
	return first, last
}
