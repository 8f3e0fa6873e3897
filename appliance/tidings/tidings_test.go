// SPDX-License-Identifier: EUPL-1.2

package tidings

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/herald"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// house is a server "b" with people in rooms.
type house struct {
	t        *testing.T
	db       *store.DB
	accounts *account.Accounts
	rooms    *room.Rooms
}

func newHouse(t *testing.T, people ...string) *house {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &house{t: t, db: db, accounts: account.New(db, "b", account.Options{}), rooms: room.New(db, room.Identity{Server: "b", Key: key("b")}, room.Options{})}
	for _, p := range people {
		if _, err := h.accounts.Register(t.Context(), account.RegisterRequest{Username: p, InhibitLogin: true}); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func key(seed string) event.Key {
	return event.Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(bytes.Repeat([]byte(seed), 32))}
}

// create makes a room of @anna:b, in which the others join.
func (h *house) create(name string, others ...event.UserID) event.RoomID {
	h.t.Helper()
	res, err := h.rooms.Create(h.t.Context(), room.CreateRequest{Creator: "@anna:b", Preset: "public_chat", Name: name})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, u := range others {
		key := string(u)
		if _, err := h.rooms.Send(h.t.Context(), room.Draft{Room: res, Sender: u, Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"membership":"join"}`)}); err != nil {
			h.t.Fatal(err)
		}
	}
	return res
}

// carl is what somebody of another server wrote.
func (h *house) carl(id event.RoomID, sender, typ, content string, ts int64) *event.PDU {
	h.t.Helper()
	v, err := h.rooms.Version(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	p, err := event.Build(v, event.Proto{RoomID: id, Sender: event.UserID(sender), Type: typ, Content: json.RawMessage(content), Prev: []event.ID{"$" + event.ID(strings.Repeat("A", 43))}, Depth: 500, TS: ts}, "c", key("c"))
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (h *house) letters(heads ...Head) (out map[event.UserID]herald.Text) {
	h.t.Helper()
	err := h.db.View(h.t.Context(), func(r *store.Read) (err error) {
		out, err = Letters(r, "b", "c", heads)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// Each is told of their own rooms: the newest message in each, which is no reaction and no change of an older one; not from whom they ignore; and of what is encrypted that it is there.
func TestLetters(t *testing.T) {
	h := newHouse(t, "anna", "ben")
	both, alone, secret := h.create("Lage", "@ben:b"), h.create("Stab\nintern"), h.create("", "@ben:b")
	if err := h.accounts.SetAccountData(t.Context(), "@ben:b", "", "m.ignored_user_list", []byte(`{"ignored_users":{"@dora:c":{}}}`)); err != nil {
		t.Fatal(err)
	}
	const ts = 1_790_000_000_000
	message := func(s string) string { return fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, s) }
	heads := []Head{
		{Room: both, Before: 480, Newest: []*event.PDU{
			h.carl(both, "@carl:c", "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x","key":"ok"}}`, ts+9),
			h.carl(both, "@carl:c", "m.room.message", `{"msgtype":"m.text","body":"* alt","m.relates_to":{"rel_type":"m.replace","event_id":"$x"}}`, ts+8),
			h.carl(both, "@dora:c", "m.room.message", message("Deich räumen\n• Lage, @anna:b: alles gut"), ts+7),
			h.carl(both, "@carl:c", "m.room.message", message("davor"), ts+6)}},
		{Room: alone, Before: 120, Newest: []*event.PDU{h.carl(alone, "@carl:c", "m.room.message", message(strings.Repeat("ü", 500)), ts+60_000)}},
		{Room: secret, Before: 200, Newest: []*event.PDU{h.carl(secret, "@carl:c", "m.room.encrypted", `{"ciphertext":"x"}`, ts)}},
	}
	got := h.letters(heads...)
	if len(got) != 2 {
		t.Fatalf("letters to %d users, want 2", len(got))
	}
	anna, ben := got["@anna:b"], got["@ben:b"]
	for _, want := range []string{"Etwa 800 Nachrichten", "• Lage, @dora:c, ", "„Deich räumen • Lage, @anna:b: alles gut“ (davor noch etwa 480)", "• Stab intern, @carl:c", "ü…“", "verschlüsselte Nachricht (davor noch etwa 200)", "Regeln der Räume"} {
		if !strings.Contains(anna.De, want) {
			t.Errorf("anna's letter lacks %q:\n%s", want, anna.De)
		}
	}
	if n := strings.Count(anna.De, "\n"); n != 3 {
		t.Errorf("anna's letter has %d line breaks, want one before each room:\n%s", n, anna.De)
	}
	if strings.Index(anna.De, "Stab") > strings.Index(anna.De, "Lage") || !strings.Contains(anna.En, "Some 800 messages") {
		t.Errorf("not the newest room first, or no English:\n%s\n%s", anna.De, anna.En)
	}
	if !strings.Contains(ben.De, "„davor“") || strings.Contains(ben.De, "Deich") || strings.Contains(ben.De, "Stab") || !strings.Contains(ben.De, "Etwa 680") {
		t.Errorf("ben's letter:\n%s", ben.De)
	}
	if got := h.letters(Head{Room: both, Newest: heads[0].Newest[:2]}); len(got) != 0 {
		t.Errorf("nothing was said, and people are told %v", got)
	}
}

// What somebody wrote on the other side of a ban is not told, what others wrote before it is.
func TestBannedAreNotTold(t *testing.T) {
	h := newHouse(t, "anna")
	id, key := h.create("Lage"), "@carl:c"
	if _, err := h.rooms.Send(t.Context(), room.Draft{Room: id, Sender: "@anna:b", Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"membership":"ban"}`)}); err != nil {
		t.Fatal(err)
	}
	newest := []*event.PDU{h.carl(id, "@carl:c", "m.room.message", `{"body":"Unfug"}`, 2), h.carl(id, "@dora:c", "m.room.message", `{"body":"Wasser sinkt"}`, 1)}
	if l := h.letters(Head{Room: id, Newest: newest, Before: 200})["@anna:b"]; strings.Contains(l.De, "Unfug") || !strings.Contains(l.De, "Wasser sinkt") {
		t.Error(l.De)
	}
}

// A letter has an end.
func TestLetterIsBounded(t *testing.T) {
	h := newHouse(t, "anna")
	var heads []Head
	for n := range roomsMost + 3 {
		id := h.create(fmt.Sprint("Raum ", n))
		heads = append(heads, Head{Room: id, Before: 100, Newest: []*event.PDU{h.carl(id, "@carl:c", "m.room.message", `{"body":"Text"}`, int64(n))}})
	}
	l := h.letters(heads...)["@anna:b"]
	if strings.Count(l.De, "•") != roomsMost || !strings.HasSuffix(l.De, "Dazu 3 weitere Räume.") || !strings.Contains(l.De, "Etwa 2300 ") {
		t.Error(l.De)
	}
}
