// SPDX-License-Identifier: EUPL-1.2

// Package herald tells users of this box what the box itself has to say to them, where every client shows it: as a message in a room that the box has with that user
// alone, by the name of Hallig. Nobody else is in it, no other server is told of it, and only the box writes there.
//
// It promises: what Owe has stored is told once, whatever ends in between. A letter is written down in the transaction of whatever it tells of, and forgotten after
// its message is in the room; its number is the message's transaction id, so that a repetition is no second message. A user who has left the room
// gets a new one with the next letter.
//
// It leaves to others: what there is to say (conflict), and the accounts, of which the box's own user is none: nobody signs in by its name, which is kept from
// registration (Reserved).
package herald

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// Reserved are the localparts that the box keeps for itself. The second one is used on boxes where a person had the first before it was kept.
var Reserved = [...]string{"hallig", "hallig-box"}

// TypeLanguage is the account data in which a user says in which language the box is to write: {"language": "de"} or "en".
const TypeLanguage = "org.hallig.language"

// Text is what is to be said, in both languages.
type Text struct{ De, En string }

// OneLine makes a text of strangers one line of at most so many letters, as it may stand in a letter.
func OneLine(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if r := []rune(s); len(r) > most {
		return strings.TrimSpace(string(r[:most-1])) + "…"
	}
	return s
}

// Config of New. All of it must be set.
type Config struct {
	DB      *store.DB
	Server  string
	Rooms   *room.Rooms
	Profile func(ctx context.Context, u event.UserID) (name, avatar string)
	Log     *slog.Logger
}

// Herald is safe for concurrent use, except that only one Deliver runs at a time.
type Herald struct {
	c    Config
	wake chan struct{} // capacity 1
}

// New makes a Herald. It starts nothing.
func New(c Config) *Herald { return &Herald{c: c, wake: make(chan struct{}, 1)} }

// Owe writes down what a user is to be told, in the language they have chosen, or else in that of their phone as far as a pusher names it, or else in both.
func Owe(tx *store.Tx, user event.UserID, t Text) error {
	lang, err := language(tx.Read, user)
	if err != nil {
		return fmt.Errorf("look for the language of %s: %w", user, err)
	}
	body := t.De + "\n\n— English —\n" + t.En
	switch lang {
	case "de":
		body = t.De
	case "en":
		body = t.En
	}
	raw, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": body})
	if err != nil {
		return err
	}
	return tx.PutLetter(user, raw)
}

// language is "de", "en" or, when it is not known, "".
func language(r *store.Read, user event.UserID) (string, error) {
	raw, err := r.AccountData(user, "", TypeLanguage)
	if err != nil {
		return "", err
	}
	var chosen struct {
		Language string `json:"language"`
	}
	if raw != nil && json.Unmarshal(raw, &chosen) == nil {
		if l := spoken(chosen.Language); l != "" {
			return l, nil
		}
	}
	pushers, err := r.Pushers(user)
	if err != nil {
		return "", err
	}
	for _, p := range pushers {
		var phone struct {
			Lang string `json:"lang"`
		}
		if json.Unmarshal(p, &phone) == nil && phone.Lang != "" {
			if l := spoken(phone.Lang); l != "" {
				return l, nil
			}
			return "en", nil // of any other language it is the likelier one
		}
	}
	return "", nil
}

func spoken(tag string) string {
	if len(tag) >= 2 && (len(tag) == 2 || tag[2] == '-' || tag[2] == '_') && (tag[:2] == "de" || tag[:2] == "en") {
		return tag[:2]
	}
	return ""
}

// Poke says that something is owed.
func (h *Herald) Poke() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

const (
	retryAfter = time.Minute // when a letter could not be told, for example for a full disk
	atOnce     = 100
)

// Run tells what is owed until ctx ends.
func (h *Herald) Run(ctx context.Context) error {
	h.Poke() // of an earlier run
	again := time.NewTimer(retryAfter)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		case <-again.C:
		}
		if err := h.Deliver(ctx); err != nil && ctx.Err() == nil {
			h.c.Log.Warn("people could not be told something; the box tries again in a minute", "err", err)
			again.Reset(retryAfter)
		}
	}
}

// Deliver tells all that is owed. What cannot be told to one user holds up nobody else; the error joins what went wrong.
func (h *Herald) Deliver(ctx context.Context) error {
	var errs []error
	failed := map[event.UserID]bool{}
	for {
		var letters []store.Letter
		err := h.c.DB.View(ctx, func(r *store.Read) (err error) {
			letters, err = r.Letters(atOnce + len(failed))
			return err
		})
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("look for letters: %w", err))...)
		}
		told := 0
		for _, l := range letters {
			if failed[l.User] {
				continue // later ones come after it
			}
			if err := h.tell(ctx, l); err != nil {
				errs = append(errs, fmt.Errorf("tell %s: %w", l.User, err))
				failed[l.User] = true
				continue
			}
			told++
		}
		if told == 0 {
			return errors.Join(errs...)
		}
	}
}

// tell puts one letter into its user's room.
func (h *Herald) tell(ctx context.Context, l store.Letter) error {
	var me event.UserID
	var there bool
	var at store.Membership
	err := h.c.DB.View(ctx, func(r *store.Read) (err error) {
		row, err := r.Account(l.User)
		if row == nil || row.Deactivated || err != nil {
			return err
		}
		there = true
		if me, err = h.me(r); err != nil {
			return err
		}
		at, err = h.find(r, me, l.User)
		return err
	})
	if err != nil {
		return err
	}
	if !there { // nobody is left to read it
		return h.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.DropLetter(l.N) })
	}
	if at.Room == "" {
		if at.Room, err = h.open(ctx, me, l.User); err != nil {
			return err
		}
	}
	if at.Membership != "join" {
		if err := h.bringIn(ctx, at.Room, l.User); err != nil {
			return err
		}
	}
	_, err = h.c.Rooms.Send(ctx, room.Draft{Room: at.Room, Sender: me, Type: "m.room.message", Content: l.Body, Txn: &room.Txn{Path: "letter", ID: strconv.FormatInt(l.N, 10)}})
	if err != nil {
		return err
	}
	return h.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.DropLetter(l.N) })
}

// me is the box's own user.
func (h *Herald) me(r *store.Read) (event.UserID, error) {
	u := event.UserID("@" + Reserved[0] + ":" + h.c.Server)
	row, err := r.Account(u)
	if row != nil {
		u = event.UserID("@" + Reserved[1] + ":" + h.c.Server)
	}
	return u, err
}

// find gives the user's membership in the room that the box has with them: the oldest one in which both are, or the user is invited. The box's user goes into no other room.
func (h *Herald) find(r *store.Read, me, user event.UserID) (at store.Membership, err error) {
	ms, err := r.RoomsOf(user)
	if err != nil {
		return at, err
	}
	slices.SortFunc(ms, func(a, b store.Membership) int { return int(a.Event - b.Event) })
	for _, m := range ms {
		if m.Membership != "join" && m.Membership != "invite" {
			continue
		}
		mine, err := r.MembershipOf(m.Room, me)
		if err != nil {
			return at, err
		}
		if mine.Membership == "join" {
			return m, nil
		}
	}
	return at, nil
}

// open makes a room for a user, who is invited in its first events: whatever ends after that, the room is found again.
func (h *Herald) open(ctx context.Context, me, user event.UserID) (event.RoomID, error) {
	return h.c.Rooms.Create(ctx, room.CreateRequest{
		Creator: me, Preset: "private_chat", Name: "Hallig", Invite: []event.UserID{user},
		CreationContent: json.RawMessage(`{"m.federate":false}`),
		PowerOverride:   json.RawMessage(`{"events_default":50,"invite":50}`),
		Profile: func(u event.UserID) (string, string) {
			if u == me {
				return "Hallig", ""
			}
			return h.c.Profile(ctx, u)
		},
	})
}

// bringIn takes the invite for the user, so that the message is there without anybody having to accept anything, and marks the room as one of notices.
// https://spec.matrix.org/v1.19/client-server-api/#server-notices
func (h *Herald) bringIn(ctx context.Context, id event.RoomID, user event.UserID) error {
	content := map[string]string{"membership": "join"}
	name, avatar := h.c.Profile(ctx, user)
	if name != "" {
		content["displayname"] = name
	}
	if avatar != "" {
		content["avatar_url"] = avatar
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	err = h.c.DB.Do(ctx, func(tx *store.Tx) error {
		return tx.PutAccountData(user, id, "m.tag", json.RawMessage(`{"tags":{"m.server_notice":{}}}`))
	})
	if err != nil {
		return fmt.Errorf("mark the room: %w", err)
	}
	key := string(user)
	_, err = h.c.Rooms.Send(ctx, room.Draft{Room: id, Sender: user, Type: "m.room.member", StateKey: &key, Content: raw})
	return err
}
