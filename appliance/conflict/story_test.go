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

// Bob is banned at the centre while he goes on writing on the box. Everything that the centre does not show is told him, with his texts, once, whatever ends in between.
func TestBannedMeanwhile(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "bob", "vorher")
	b.say(id, "bob", "auch vorher")
	b.meet(z, id)
	for i := range 25 {
		b.say(id, "bob", fmt.Sprintf("Pegel %d", i))
		b.say(id, "carl", fmt.Sprintf("level %d", i))
	}
	z.say(id, "alice", "Achtung")
	z.say(id, "alice", "Achtung!")
	z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban","reason":"Streit"}`)
	z.say(id, "alice", "Ruhe")
	unseen := b.meet(z, id)
	if unseen != 25 {
		t.Fatalf("the centre does not show %d messages, want 25", unseen)
	}
	if b.noted() != 1 {
		t.Fatal("no conflict is noted")
	}
	if _, err := b.conflicts.Look(t.Context()); err != nil || b.noted() != 1 {
		t.Fatalf("looked at before the room came to rest (%v)", err)
	}
	b.again()
	b.settle()
	got := b.tells("bob", "25 Ihrer Nachrichten", "@alice:z hat Sie am", "gesperrt", "Streit", "„Lage“", "Pegel 24", "Pegel 5\n", "und 5 frühere")
	if strings.Contains(got, "Pegel 4\n") || strings.Contains(got, "vorher") || strings.Contains(got, "level") || strings.Contains(got, "English") {
		t.Errorf("too much was told:\n%s", got)
	}
	b.silent("carl", "dora")
	if n := b.counts(); n[CountMessages] != 25 || n[CountRooms] != 1 {
		t.Errorf("counted %v", n)
	}
	b.again()
	b.settle()
	b.tells("bob")
	z.settle()
	z.tells("alice", "@bob:b: 25")
	z.silent("zoe")
}

// A ban by somebody who knew all of the messages is no conflict, and neither is one that a silent user comes home to.
func TestOrdinaryBan(t *testing.T) {
	z, b, id := lage(t)
	for i := range 5 {
		b.say(id, "bob", fmt.Sprintf("Pegel %d", i))
	}
	b.meet(z, id)
	z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban"}`)
	b.meet(z, id)
	if n := b.noted(); n != 0 {
		t.Errorf("%d conflicts are noted", n)
	}
	b.settle()
	b.silent("bob", "carl")
}

// Only those may write at the centre who have power. Carl, who has none, wrote meanwhile; Bob, who has, did too.
func TestMutedMeanwhile(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "carl", "one")
	b.say(id, "bob", "zwei")
	b.say(id, "carl", "three")
	slip := b.say(id, "carl", "slip")
	b.send(room.Draft{Room: id, Sender: b.user("carl"), Type: "m.room.redaction", Redacts: slip, Content: json.RawMessage(`{"redacts":"` + string(slip) + `"}`)})
	z.power(id, `"@bob:b":50`, 25)
	if n := b.meet(z, id); n != 4 {
		t.Fatalf("the centre does not show %d events, want 4", n)
	}
	b.settle()
	b.tells("carl", "2 of your messages", "who may write", "one", "three")
	b.silent("bob")
}

// While a room is looked at, another branch comes: nothing of it is passed over.
func TestMoreComesMeanwhile(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "bob", "eins")
	b.say(id, "carl", "one")
	z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban"}`)
	b.meet(z, id)
	b.now = b.now.Add(time.Hour)
	var open []store.Conflict
	if err := b.db.View(t.Context(), func(r *store.Read) (err error) { open, err = r.Conflicts(); return err }); err != nil || len(open) != 1 {
		t.Fatal(open, err)
	}
	notes := b.conflicts.notes(id)
	f, err := b.conflicts.find(t.Context(), open[0], b.now)
	if err != nil {
		t.Fatal(err)
	}
	b.say(id, "carl", "two")
	z.set(id, "alice", "m.room.member", "@carl:b", `{"membership":"leave"}`)
	b.meet(z, id)
	if err := b.conflicts.conclude(t.Context(), open[0], f, notes, b.now); err != nil {
		t.Fatal(err)
	}
	b.settle()
	b.tells("bob", "eins")
	if got := b.tells("carl", "one of your messages", "two"); strings.Contains(got, " one\n") {
		t.Errorf("too much was told:\n%s", got)
	}
}

// Put out, and back before anybody looked: what was written in between is not shown at the centre all the same.
func TestPutOutAndBack(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "carl", "one")
	z.set(id, "alice", "m.room.member", "@carl:b", `{"membership":"leave"}`)
	if n := b.meet(z, id); n != 1 {
		t.Fatalf("the centre does not show %d messages, want 1", n)
	}
	b.set(id, "carl", "m.room.member", "@carl:b", `{"membership":"join"}`)
	b.say(id, "carl", "two")
	if n := b.meet(z, id); n != 0 {
		t.Fatal("carl is not back")
	}
	b.settle()
	if got := b.tells("carl", "one of your messages", "removed you"); strings.Contains(got, "two") {
		t.Errorf("too much was told:\n%s", got)
	}
}

// Two change the topic and the name without knowing of each other. Who may do so is told which holds, on both sides alike; what only one side has changed is no conflict.
func TestPowerFight(t *testing.T) {
	z, b, id := lage(t)
	z.set(id, "alice", "m.room.topic", "", `{"topic":"zuvor"}`)
	b.meet(z, id)
	b.set(id, "bob", "m.room.topic", "", `{"topic":"erst"}`)
	b.set(id, "bob", "m.room.topic", "", `{"topic":"Wasser\nsteigt"}`)
	b.set(id, "bob", "m.room.join_rules", "", `{"join_rule":"invite"}`)
	b.set(id, "bob", "m.room.name", "", `{"name":"Lage 2"}`)
	z.now = z.now.Add(time.Hour)
	z.set(id, "alice", "m.room.topic", "", `{"topic":"Wasser fällt"}`)
	z.set(id, "alice", "m.room.name", "", `{"name":"Lage 2"}`)
	z.set(id, "alice", "m.room.guest_access", "", `{"guest_access":"can_join"}`)
	b.meet(z, id)
	b.settle()
	z.settle()
	for _, got := range []string{b.tells("bob"), z.tells("alice")} {
		for _, part := range []string{"Es gilt „Wasser fällt“ (@alice:z", "Nicht mehr: „Wasser steigt“ (@bob:b", "Thema"} {
			if !strings.Contains(got, part) {
				t.Errorf("not told %q:\n%s", part, got)
			}
		}
		for _, part := range []string{"zuvor", "erst", "Name", "beitreten", "Gäste"} {
			if strings.Contains(got, part) {
				t.Errorf("told %q, which is no conflict:\n%s", part, got)
			}
		}
	}
	b.silent("carl")
	z.silent("zoe")
	if n := b.counts(); n[CountChanges] != 1 || n[CountMessages] != 0 {
		t.Errorf("counted %v", n)
	}
}

// Whoever fights all the time does not fill the others' rooms: people are told of one room every ten minutes at most, and of all of it.
func TestToldSeldom(t *testing.T) {
	z, b, id := lage(t)
	fight := func(n int) {
		b.set(id, "bob", "m.room.topic", "", fmt.Sprintf(`{"topic":"b%d"}`, n))
		z.now = b.now.Add(time.Hour)
		z.set(id, "alice", "m.room.topic", "", fmt.Sprintf(`{"topic":"z%d"}`, n))
		b.meet(z, id)
		b.settle()
	}
	fight(1)
	b.tells("bob", "„z1“", "„b1“")
	fight(2)
	fight(3)
	if got := b.told("bob"); len(got) != 1 {
		t.Errorf("told %d times within minutes", len(got))
	}
	b.now = b.now.Add(tellEvery)
	b.settle()
	if got := b.told("bob"); len(got) != 2 || !strings.Contains(got[1], "„z3“") || !strings.Contains(got[1], "„b2“") || !strings.Contains(got[1], "„b3“") {
		t.Errorf("told %q", got)
	}
}

// Bob loses his power while he changes the topic: nobody else has changed it, and it does not hold. He is told although he may not set it any more.
func TestChangeWithoutPower(t *testing.T) {
	z, b, id := lage(t)
	z.set(id, "alice", "m.room.topic", "", `{"topic":"zuvor"}`)
	b.meet(z, id)
	b.set(id, "bob", "m.room.topic", "", `{"topic":"Bobs"}`)
	z.power(id, ``, 0)
	b.meet(z, id)
	if got := text(b.pdu(b.holder(id, "m.room.topic")).Content, "topic"); got != "zuvor" {
		t.Fatalf("the topic is %q", got)
	}
	b.settle()
	b.tells("bob", "Es gilt „zuvor“", "Nicht mehr: „Bobs“")
	b.silent("carl")
}

func (h *house) holder(id event.RoomID, typ string) event.ID {
	h.t.Helper()
	s, err := h.rooms.State(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return s[rules.Key{Type: typ}]
}

// Profiles, joins and messages on two branches make nobody write a letter.
func TestNothingToTell(t *testing.T) {
	z, b, id := lage(t)
	b.set(id, "bob", "m.room.member", "@bob:b", `{"membership":"join","displayname":"Bob"}`)
	b.say(id, "bob", "hier")
	z.set(id, "zoe", "m.room.member", "@zoe:z", `{"membership":"join","displayname":"Zoe"}`)
	z.say(id, "zoe", "dort")
	b.meet(z, id)
	b.settle()
	b.silent("bob", "carl", "dora")
	if n := b.noted(); n != 0 {
		t.Errorf("%d conflicts are left", n)
	}
	if n := b.counts(); len(n) != 0 {
		t.Errorf("counted %v", n)
	}
}

// upgrade replaces a room by one that somebody of the house makes.
func (h *house) upgrade(old event.RoomID, who, preset string, claims event.RoomID) event.RoomID {
	h.t.Helper()
	next, err := h.rooms.Create(h.t.Context(), room.CreateRequest{Creator: h.user(who), Preset: preset, Name: "Lage neu",
		CreationContent: json.RawMessage(`{"predecessor":{"room_id":"` + string(claims) + `"}}`)})
	if err != nil {
		h.t.Fatal(err)
	}
	h.set(old, who, "m.room.tombstone", "", `{"body":"weiter","replacement_room":"`+string(next)+`"}`)
	return next
}

// The room is replaced at the centre. The people of the box are brought along and told so; while the centre is out of reach again, that waits.
func TestFollowUpgrade(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "bob", "hier")
	next := z.upgrade(id, "alice", "public_chat", id)
	b.meet(z, id)
	b.others = map[string]*house{}
	b.settle()
	b.silent("bob", "carl")
	b.again()
	b.others["z"] = z
	b.now = b.now.Add(followMost)
	b.settle()
	for n, part := range map[string]string{"bob": "hat den Raum anderswo durch einen neuen ersetzt", "carl": "has replaced the room"} {
		b.tells(n, part, "https://matrix.to/#/"+string(next)+"?via=z", "Lage")
		if got := b.membership(next, b.user(n)); got != "join" {
			t.Errorf("%s: %q in the new room", n, got)
		}
	}
	b.silent("dora")
	if n := b.counts(); n[CountFollowed] != 2 || n[CountStayed] != 0 {
		t.Errorf("counted %v", n)
	}
	b.again()
	b.settle()
	b.tells("bob")
}

// While the new room stays out of reach people are told so, once; the box goes on trying.
func TestFollowOutOfReach(t *testing.T) {
	z, b, id := lage(t)
	next := z.upgrade(id, "alice", "public_chat", id)
	b.meet(z, id)
	b.others = map[string]*house{}
	b.settle()
	for range 20 {
		b.now = b.now.Add(10 * time.Minute)
		b.settle()
	}
	b.tells("bob", "noch nicht erreicht", string(next))
	b.others["z"] = z
	b.now = b.now.Add(followMost)
	b.settle()
	if got := b.told("bob"); len(got) != 2 || !strings.Contains(got[1], "eintreten lassen") {
		t.Errorf("told %q", got)
	}
}

// The new room lets nobody in without an invite: people are told whom to ask. Who has been invited is brought along.
func TestFollowOnlyWhereLetIn(t *testing.T) {
	z, b, id := lage(t)
	next := z.upgrade(id, "alice", "private_chat", id)
	b.meet(z, id)
	b.settle()
	for _, n := range []string{"bob", "carl"} {
		b.tells(n, "@alice:z")
		if got := b.membership(next, b.user(n)); got == "join" {
			t.Errorf("%s is in", n)
		}
	}
	b.tells("carl", "does not let you in without an invite")
	if n := b.counts(); n[CountStayed] != 2 {
		t.Errorf("counted %v", n)
	}
}

// A room that does not say that it replaces the old one is left again: whoever closes a room could send its people anywhere.
func TestFollowNoStranger(t *testing.T) {
	z, b, id := lage(t)
	next := z.upgrade(id, "alice", "public_chat", "!anderer:z")
	b.meet(z, id)
	b.conflicts.c.Leave = func(context.Context, event.UserID, event.RoomID) error { return errors.New("the disk is full") }
	b.settle()
	b.silent("bob")
	b.conflicts.c.Leave = b.leave
	b.now = b.now.Add(followFirst)
	b.settle()
	for _, n := range []string{"bob", "carl"} {
		if got := b.membership(next, b.user(n)); got == "join" {
			t.Errorf("%s is in", n)
		}
	}
	b.tells("carl", "does not say it replaces it")
}

// Both sides replace the room. One new room holds, on both sides alike; the people of the other are brought into it, and told.
func TestUpgradedTwice(t *testing.T) {
	z, b, id := lage(t)
	z.set(id, "alice", "m.room.power_levels", "", `{"users":{"@bob:b":100},"events":{"m.room.tombstone":100}}`)
	b.meet(z, id)
	theirs := z.upgrade(id, "alice", "public_chat", id)
	z.now = z.now.Add(-time.Hour) // the box's comes later, and so does not hold
	ours := b.upgrade(id, "bob", "public_chat", id)
	if _, err := b.join(t.Context(), b.user("carl"), ours, nil); err != nil {
		t.Fatal(err)
	}
	b.meet(z, id)
	for _, h := range []*house{z, b} {
		if got := replacement(h.pdu(h.holder(id, "m.room.tombstone")).Content); got != theirs {
			t.Fatalf("at %s %s holds, want %s", h.name, got, theirs)
		}
	}
	b.settle()
	z.settle()
	for _, n := range []string{"bob", "carl"} {
		if got := b.membership(theirs, b.user(n)); got != "join" {
			t.Errorf("%s: %q in the room that holds", n, got)
		}
		got := b.told(n)
		if len(got) != 2 || !strings.Contains(got[0], string(theirs)) || !strings.Contains(got[1], string(theirs)) {
			t.Errorf("%s was told %q", n, got)
		}
	}
	if got := b.told("carl")[0]; !strings.Contains(got, "on two sides") {
		t.Errorf("carl was not told that there are two:\n%s", got)
	}
	z.tells("alice", "Nachfolger des Raums: Es gilt „"+string(theirs), "Nicht mehr: „"+string(ours))
	z.silent("zoe")
}

// The newest event comes first, with the state before it, as it does from a server that is asked for what is new. Nobody is told before the history in between is here.
func TestNewestFirst(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "bob", "eins")
	z.say(id, "zoe", "dort")
	z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban"}`)
	z.say(id, "alice", "Ruhe")
	theirs := z.news(id)
	newest := theirs[len(theirs)-1]
	b.takeNewest(z, newest)
	b.settle()
	b.silent("bob", "carl")
	if b.noted() != 1 {
		t.Fatal("the conflict is not noted any more")
	}
	if n := b.meet(z, id); n != 1 {
		t.Fatalf("the centre does not show %d messages, want 1", n)
	}
	b.settle()
	b.tells("bob", "gesperrt", "eins")
}

// History that never comes holds up nobody for longer than an hour: what can be told is.
func TestHistoryThatNeverComes(t *testing.T) {
	z, b, id := lage(t)
	z.now = z.now.Add(time.Hour)
	z.set(id, "alice", "m.room.topic", "", `{"topic":"dort"}`)
	z.say(id, "zoe", "verloren")
	z.say(id, "alice", "Ruhe")
	theirs := z.news(id)
	newest := theirs[len(theirs)-1]
	b.set(id, "bob", "m.room.topic", "", `{"topic":"hier"}`)
	b.takeNewest(z, newest)
	b.settle()
	b.silent("bob")
	b.now = b.now.Add(gapMost)
	b.settle()
	if n := b.noted(); n != 0 {
		t.Errorf("%d conflicts are left", n)
	}
	b.tells("bob", "Es gilt „dort“", "Nicht mehr: „hier“")
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

// Before anybody has looked at the first conflict, the sides meet again: what the other side knew when it banned Bob is shown there.
func TestKnewSome(t *testing.T) {
	z, b, id := lage(t)
	b.set(id, "bob", "m.room.topic", "", `{"topic":"Wasser"}`)
	b.say(id, "bob", "eins")
	z.say(id, "zoe", "dort")
	z.set(id, "alice", "m.room.topic", "", `{"topic":"Wasser"}`)
	b.meet(z, id)
	b.say(id, "bob", "zwei")
	b.meet(z, id)
	b.say(id, "bob", "drei")
	z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban"}`)
	if n := b.meet(z, id); n != 1 {
		t.Fatalf("the centre does not show %d messages, want 1", n)
	}
	b.settle()
	if got := b.tells("bob", "Eine Ihrer Nachrichten", "drei"); strings.Contains(got, "eins") || strings.Contains(got, "zwei") {
		t.Errorf("too much was told:\n%s", got)
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

// The centre says that nobody of the box is in the room any more, and nothing else is ever heard of it. Bob is told that, and not more than once a day; then of what he has
// written since. A server that is not in the room has nothing to say.
func TestBarred(t *testing.T) {
	_, b, id := lage(t)
	b.say(id, "bob", "vorher")
	refuse := func(server string, texts ...string) {
		var ids []event.ID
		for _, s := range texts {
			ids = append(ids, b.say(id, "bob", s))
		}
		first, last := b.positions(ids)
		if err := b.conflicts.Barred(t.Context(), server, id, first, last); err != nil {
			t.Fatal(err)
		}
	}
	refuse("fern", "null")
	if b.noted() != 0 {
		t.Error("a server that is not in the room was listened to")
	}
	refuse("z", "eins", "zwei")
	b.again()
	b.settle()
	if got := b.tells("bob", "2 Ihrer Nachrichten sieht auf z niemand", "niemand mehr im Raum", "eins", "zwei"); strings.Contains(got, "vorher") || strings.Contains(got, "null") {
		t.Errorf("too much was told:\n%s", got)
	}
	b.silent("carl")
	refuse("z", "drei")
	refuse("z", "vier")
	if b.noted() != 0 {
		t.Error("what bob has been told today is looked at again")
	}
	b.settle()
	b.tells("bob")
	b.now = b.now.Add(barredIn)
	refuse("z", "fünf")
	b.settle()
	got := b.told("bob")
	if len(got) != 2 || strings.Contains(got[1], "zwei") || !strings.Contains(got[1], "3 Ihrer") || !strings.Contains(got[1], "drei") || !strings.Contains(got[1], "fünf") {
		t.Errorf("told %q", got)
	}
}

// The ban comes alone, and nobody gives what came before it. It says who has done it; what its server refuses to answer for says which messages are meant.
func TestBanWithoutHistory(t *testing.T) {
	z, b, id := lage(t)
	if err := b.conflicts.c.Leave(t.Context(), b.user("carl"), id); err != nil {
		t.Fatal(err)
	}
	b.say(id, "bob", "vorher")
	b.meet(z, id)
	ids := []event.ID{b.say(id, "bob", "eins"), b.say(id, "bob", "zwei")}
	z.say(id, "alice", "hört niemand hier")
	ban := z.pdu(z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban"}`))
	first, last := b.positions(ids)
	if err := b.conflicts.Barred(t.Context(), "z", id, first, last); err != nil {
		t.Fatal(err)
	}
	state, err := b.rooms.State(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	in := room.Incoming{PDU: ban, From: room.Source{Kind: "federation", Server: "z"}}
	for _, e := range state {
		in.State = append(in.State, e)
	}
	if res, err := b.rooms.Accept(t.Context(), in); err != nil || res.Outcome != room.Accepted {
		t.Fatal(res, err)
	}
	b.settle()
	if got := b.tells("bob", "2 Ihrer Nachrichten", "@alice:z hat Sie am", "gesperrt", "eins", "zwei"); strings.Contains(got, "vorher") {
		t.Errorf("too much was told:\n%s", got)
	}
}
