// SPDX-License-Identifier: EUPL-1.2

package herald

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

type house struct {
	*Herald
	t        *testing.T
	db       *store.DB
	accounts *account.Accounts
}

func newHouse(t *testing.T, people ...string) *house {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &house{t: t, db: db, accounts: account.New(db, "b", account.Options{})}
	rooms := room.New(db, room.Identity{Server: "b", Key: event.Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(bytes.Repeat([]byte("b"), 32))}}, room.Options{})
	h.Herald = New(Config{DB: db, Server: "b", Rooms: rooms, Profile: h.accounts.DisplayName, Log: slog.New(slog.DiscardHandler)})
	for _, p := range people {
		if _, err := h.accounts.Register(t.Context(), account.RegisterRequest{Username: p, InhibitLogin: true}); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *house) do(f func(tx *store.Tx) error) {
	h.t.Helper()
	if err := h.db.Do(h.t.Context(), f); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) owe(user event.UserID, text string) {
	h.t.Helper()
	h.do(func(tx *store.Tx) error { return Owe(tx, user, Text{De: text + " de", En: text + " en"}) })
}

func (h *house) deliver() {
	h.t.Helper()
	if err := h.Deliver(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) letters() (ls []store.Letter) {
	h.t.Helper()
	if err := h.db.View(h.t.Context(), func(r *store.Read) (err error) { ls, err = r.Letters(100); return err }); err != nil {
		h.t.Fatal(err)
	}
	return ls
}

// heard gives the rooms in which a user is, and what the box has said in them.
func (h *house) heard(user event.UserID) (rooms []event.RoomID, bodies []string) {
	h.t.Helper()
	err := h.db.View(h.t.Context(), func(r *store.Read) (err error) {
		if rooms, err = r.JoinedRooms(user); err != nil {
			return err
		}
		for _, id := range rooms {
			es, err := r.RoomEventsBetween(id, 0, 1<<62, 0, false)
			if err != nil {
				return err
			}
			for _, e := range es {
				var x struct {
					Content struct{ Body, MsgType string }
				}
				if err := json.Unmarshal(e.JSON, &x); err != nil {
					return err
				}
				if e.Type == "m.room.message" && e.Sender != user && x.Content.MsgType == "m.text" {
					bodies = append(bodies, string(e.Sender)+" "+x.Content.Body)
				}
			}
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return rooms, bodies
}

func (h *house) want(user event.UserID, rooms int, want ...string) {
	h.t.Helper()
	in, got := h.heard(user)
	if len(in) != rooms || !slices.Equal(got, want) {
		h.t.Errorf("%s is in %d rooms and was told %q, want %d and %q", user, len(in), got, rooms, want)
	}
}

const anna, bert = event.UserID("@anna:b"), event.UserID("@bert:b")

// Each letter is told once, in one room for each user, whatever ends between the acts that it takes.
func TestToldOnce(t *testing.T) {
	h := newHouse(t, "anna", "bert")
	h.owe(anna, "eins")
	id, err := h.open(t.Context(), "@hallig:b", anna) // and the box ends
	if err != nil {
		t.Fatal(err)
	}
	h.owe(bert, "zwei")
	if err := h.tell(t.Context(), h.letters()[0]); err != nil {
		t.Fatal(err)
	}
	h.want(anna, 1, "@hallig:b eins de\n\n— English —\neins en")
	again := store.Letter{N: 1, User: anna, Body: []byte(`{"msgtype":"m.text","body":"eins de\n\n— English —\neins en"}`)} // as if it had not been forgotten
	if err := h.tell(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	h.deliver()
	h.deliver()
	h.want(anna, 1, "@hallig:b eins de\n\n— English —\neins en")
	h.want(bert, 1, "@hallig:b zwei de\n\n— English —\nzwei en")
	if in, _ := h.heard(anna); in[0] != id {
		t.Error("the room that was there already was not found again")
	}
	if ls := h.letters(); len(ls) != 0 {
		t.Errorf("%d letters are left", len(ls))
	}
	raw, err := h.accounts.AccountData(t.Context(), anna, id, "m.tag")
	if err != nil || string(raw) != `{"tags":{"m.server_notice":{}}}` {
		t.Errorf("tags %s, %v", raw, err)
	}
	key := string(anna) // who leaves is told the next in a room of its own
	if _, err := h.c.Rooms.Send(t.Context(), room.Draft{Room: id, Sender: anna, Type: "m.room.member", StateKey: &key, Content: []byte(`{"membership":"leave"}`)}); err != nil {
		t.Fatal(err)
	}
	h.owe(anna, "drei")
	h.deliver()
	h.want(anna, 1, "@hallig:b drei de\n\n— English —\ndrei en")
}

// Only the box writes in its rooms, and no other server may come in.
func TestRoomIsTheBoxs(t *testing.T) {
	h := newHouse(t, "anna")
	h.owe(anna, "eins")
	h.deliver()
	in, _ := h.heard(anna)
	if _, err := h.c.Rooms.Send(t.Context(), room.Draft{Room: in[0], Sender: anna, Type: "m.room.message", Content: []byte(`{"msgtype":"m.text","body":"?"}`)}); err == nil {
		t.Error("anna could write")
	}
	e, err := h.c.Rooms.StateEvent(t.Context(), in[0], "m.room.create", "")
	var create struct {
		Federate *bool `json:"m.federate"`
	}
	if err != nil || json.Unmarshal(e.Content, &create) != nil || create.Federate == nil || *create.Federate {
		t.Errorf("the room is open to other servers: %s, %v", e.Content, err)
	}
}

func TestLanguage(t *testing.T) {
	for name, tc := range map[string]struct {
		chosen, phone, want string
	}{
		"nothing known":   {"", "", "x de\n\n— English —\nx en"},
		"chosen":          {`{"language":"de"}`, "en-GB", "x de"},
		"of the phone":    {"", "en_GB", "x en"},
		"German phone":    {"", "de", "x de"},
		"another":         {"", "fr-FR", "x en"},
		"chosen badly":    {`{"language":7}`, "de-AT", "x de"},
		"chosen unspoken": {`{"language":"dex"}`, "", "x de\n\n— English —\nx en"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, "anna")
			h.do(func(tx *store.Tx) error {
				if tc.chosen != "" {
					if err := tx.PutAccountData(anna, "", TypeLanguage, []byte(tc.chosen)); err != nil {
						return err
					}
				}
				if tc.phone == "" {
					return nil
				}
				return tx.PutPusher(anna, "PHONE", "app", "key", []byte(`{"lang":"`+tc.phone+`"}`), false)
			})
			h.owe(anna, "x")
			h.deliver()
			h.want(anna, 1, "@hallig:b "+tc.want)
		})
	}
}

// Letters to accounts that are no more are forgotten; one that cannot be told holds up nobody else; a person who has the box's name keeps it.
func TestStrangeLetters(t *testing.T) {
	h := newHouse(t, "anna", "bert", "hallig")
	h.do(func(tx *store.Tx) error {
		return tx.PutLetter(anna, []byte(`{`))
	})
	h.owe(anna, "nach dem kaputten")
	h.owe("@nobody:b", "x")
	h.owe(bert, "gut")
	if err := h.Deliver(t.Context()); err == nil {
		t.Error("a letter that cannot be told is no error")
	}
	h.want(bert, 1, "@hallig-box:b gut de\n\n— English —\ngut en")
	if ls := h.letters(); len(ls) != 2 || ls[0].User != anna || ls[1].User != anna {
		t.Errorf("left: %v", ls)
	}
}
