// SPDX-License-Identifier: EUPL-1.2

// Package tidings makes the letter that people get when a server is in reach again after a long time: what was said last in their rooms, while the rooms themselves are still being caught up,
// which on a narrow line takes minutes.
//
// It promises: each user is told of rooms in which they are joined as far as is known here, of nobody whom they ignore or who is banned as far as is known here, and nothing of what is encrypted but that it is there. What it repeats bears
// the signature of its sender's server and has not been judged by the room's rules yet; the letter says so.
//
// It leaves to others: to fetch what is newest (sync/federation), and to bring the letter (herald).
package tidings

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/herald"
	"hallig/appliance/store"
)

// Head is what a server has for one room.
type Head struct {
	Room   event.RoomID
	Newest []*event.PDU // the newest first
	Before int          // about so many events come after the letter and were written before these
}

// Bounds of a letter.
const (
	roomsMost   = 20
	excerptMost = 200 // letters of a message
	nameMost    = 60
)

// Letters gives what each user of the server own is to be told of what from has.
func Letters(r *store.Read, own, from string, heads []Head) (map[event.UserID]herald.Text, error) {
	lines := map[event.UserID][]line{}
	ignored := map[event.UserID]map[event.UserID]bool{}
	for _, h := range heads {
		users, err := r.JoinedFrom(h.Room, own)
		if err != nil {
			return nil, fmt.Errorf("look who is in %s: %w", h.Room, err)
		}
		name, err := called(r, h.Room)
		if err != nil {
			return nil, err
		}
		if h.Newest, err = unbarred(r, h); err != nil {
			return nil, err
		}
		for _, u := range users {
			if ignored[u] == nil {
				if ignored[u], err = ignoredBy(r, u); err != nil {
					return nil, err
				}
			}
			if l, ok := lineOf(h, name, ignored[u]); ok {
				lines[u] = append(lines[u], l)
			}
		}
	}
	out := map[event.UserID]herald.Text{}
	for u, ls := range lines {
		out[u] = letter(from, ls)
	}
	return out, nil
}

// unbarred are the events of those who are not banned as far as is known here: what was written on the other side of a ban will not stand, and nobody is to read it before the rules have said so.
func unbarred(r *store.Read, h Head) (out []*event.PDU, err error) {
	barred := map[event.UserID]bool{}
	for _, p := range h.Newest {
		bar, known := barred[p.Sender]
		if !known {
			m, err := r.MembershipOf(h.Room, p.Sender)
			if err != nil {
				return nil, fmt.Errorf("look whether %s is banned in %s: %w", p.Sender, h.Room, err)
			}
			bar = m.Membership == "ban"
			barred[p.Sender] = bar
		}
		if !bar {
			out = append(out, p)
		}
	}
	return out, nil
}

// line is about one room.
type line struct {
	at     int64
	before int
	text   herald.Text
}

// lineOf tells of the newest message in a room that somebody may read; false: there is none.
func lineOf(h Head, name string, ignored map[event.UserID]bool) (line, bool) {
	for _, p := range h.Newest {
		if ignored[p.Sender] {
			continue
		}
		said, ok := words(p)
		if !ok {
			continue
		}
		at := time.UnixMilli(p.TS)
		de := fmt.Sprintf("• %s, %s, %s: %s (davor noch etwa %d)", name, who(p.Sender), at.Format("02.01. 15:04"), said.De, h.Before)
		en := fmt.Sprintf("• %s, %s, %s: %s (some %d before it)", name, who(p.Sender), at.Format("2 Jan 15:04"), said.En, h.Before)
		return line{p.TS, h.Before, herald.Text{De: de, En: en}}, true
	}
	return line{}, false
}

// words are what a message says; false: it is none, or the change of an older one.
func words(p *event.PDU) (herald.Text, bool) {
	if p.StateKey != nil {
		return herald.Text{}, false
	}
	var c struct {
		Body     string `json:"body"`
		Relation struct {
			Kind string `json:"rel_type"`
		} `json:"m.relates_to"`
	}
	if json.Unmarshal(p.Content, &c) != nil || c.Relation.Kind == "m.replace" {
		return herald.Text{}, false
	}
	switch {
	case p.Type == "m.room.encrypted":
		return herald.Text{De: "verschlüsselte Nachricht", En: "encrypted message"}, true
	case p.Type == "m.room.message" && strings.TrimSpace(c.Body) != "":
		s := herald.OneLine(c.Body, excerptMost)
		return herald.Text{De: "„" + s + "“", En: "“" + s + "”"}, true
	}
	return herald.Text{}, false
}

func letter(from string, ls []line) herald.Text {
	slices.SortStableFunc(ls, func(a, b line) int { return int(min(1, max(-1, b.at-a.at))) })
	before := 0
	for _, l := range ls {
		before += l.before
	}
	de := []string{fmt.Sprintf("Die Verbindung zu %s ist wieder da. Etwa %d Nachrichten kommen nach, ein Raum nach dem anderen, jeder in der richtigen Reihenfolge. Das Neueste schon jetzt (die Regeln der Räume prüft die Box, wenn der Rest da ist):", from, before)}
	en := []string{fmt.Sprintf("%s is in reach again. Some %d messages are on their way, one room after the other, each in its order. What was said last, already now (the box checks it against the rooms' rules when the rest is here):", from, before)}
	for _, l := range ls[:min(len(ls), roomsMost)] {
		de, en = append(de, l.text.De), append(en, l.text.En)
	}
	if more := len(ls) - roomsMost; more > 0 {
		de, en = append(de, fmt.Sprintf("Dazu %d weitere Räume.", more)), append(en, fmt.Sprintf("And %d more rooms.", more))
	}
	return herald.Text{De: strings.Join(de, "\n"), En: strings.Join(en, "\n")}
}

// called is what people call a room, fit to stand in a line.
func called(r *store.Read, id event.RoomID) (string, error) {
	e, err := r.CurrentStateEvent(id, "m.room.name", "")
	if err != nil {
		return "", fmt.Errorf("look for the name of %s: %w", id, err)
	}
	if e == nil {
		return string(id), nil
	}
	var c struct {
		Content struct {
			Name string `json:"name"`
		} `json:"content"`
	}
	if json.Unmarshal(e.JSON, &c) != nil || c.Content.Name == "" {
		return string(id), nil
	}
	return herald.OneLine(c.Content.Name, nameMost), nil
}

// ignoredBy are those from whom a user wants to hear nothing.
func ignoredBy(r *store.Read, user event.UserID) (map[event.UserID]bool, error) {
	raw, err := r.AccountData(user, "", "m.ignored_user_list")
	if err != nil {
		return nil, fmt.Errorf("look whom %s ignores: %w", user, err)
	}
	var c struct {
		Users map[event.UserID]json.RawMessage `json:"ignored_users"`
	}
	out := map[event.UserID]bool{}
	if raw != nil && json.Unmarshal(raw, &c) == nil {
		for u := range maps.Keys(c.Users) {
			out[u] = true
		}
	}
	return out, nil
}

// who is a user id as it may stand in a letter: old ids may hold anything.
func who(u event.UserID) string { return herald.OneLine(string(u), nameMost) }
