// SPDX-License-Identifier: EUPL-1.2

package conflict

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/herald"
	"hallig/appliance/rules"
)

// words are a piece of a letter in both languages.
type words = herald.Text

func say(de, en string) words { return words{De: de, En: en} }

func both(s string) words { return words{De: s, En: s} }

// excerptsMost bounds how many messages a letter repeats.
const excerptsMost = 20

// who is a user id as it may stand in a letter: old ids may hold anything.
func who(u event.UserID) string { return herald.OneLine(string(u), 255) }

func when(t time.Time) words {
	return say(t.Format("02.01. 15:04"), t.Format("2 Jan 15:04"))
}

// letter is all that one user is told of one room.
type letter struct {
	user event.UserID
	text words
}

// letters says to each user what concerns them, one letter each.
func (f *finding) letters() (ls []letter) {
	parts := make(map[event.UserID][]words)
	for _, o := range f.own {
		parts[o.user] = append(parts[o.user], o.words())
	}
	fights := make(map[event.UserID][]words)
	for _, x := range f.fights {
		for _, u := range f.concerned(x) {
			fights[u] = append(fights[u], x.words())
		}
	}
	for u, lines := range fights {
		parts[u] = append(parts[u], list(say("Hier und anderswo wurde dasselbe geändert, ohne dass die einen von den anderen wussten. Es gilt jeweils nur eines:",
			"The same was changed here and elsewhere, neither side knowing of the other. Only one of them holds:"), lines,
			say("Wer es anders möchte, stellt es im Raum neu ein.", "Who wants it otherwise sets it anew in the room.")))
	}
	if len(f.unshown) > 0 {
		var lines []words
		for _, u := range f.unshown[:min(len(f.unshown), 10)] {
			lines = append(lines, both(fmt.Sprintf("%s: %d", who(u.User), u.N)))
		}
		for _, u := range f.admins[""] {
			parts[u] = append(parts[u], list(say("Diese Box zeigt Nachrichten nicht, die anderswo geschrieben wurden, als ihre Absender hier schon nicht mehr schreiben durften:",
				"This box does not show messages that were written elsewhere when their senders were no longer allowed to write here:"), lines,
				say("Die Absender erfahren das nicht von selbst.", "Their senders do not learn of it by themselves.")))
		}
	}
	if f.closed != nil {
		for _, u := range f.closed.stranded {
			parts[u] = append(parts[u], f.closed.words())
		}
	}
	called := f.called()
	for _, u := range slices.Sorted(maps.Keys(parts)) {
		de, en := make([]string, 0, 4), make([]string, 0, 4)
		for _, p := range append([]words{called}, parts[u]...) {
			de, en = append(de, p.De), append(en, p.En)
		}
		ls = append(ls, letter{u, say(strings.Join(de, "\n\n"), strings.Join(en, "\n\n"))})
	}
	return ls
}

// concerned are the users who are told of a fight: those who may set it anew, and those whose change was lost.
func (f *finding) concerned(x fight) []event.UserID {
	us := slices.Clone(f.admins[x.typ])
	for _, v := range x.lost {
		if v.local && !slices.Contains(us, v.by) {
			us = append(us, v.by)
		}
	}
	return us
}

func (f *finding) called() words { return called(f.room, f.name) }

func called(id event.RoomID, name string) words {
	if name == "" {
		return say("Raum "+string(id)+":", "Room "+string(id)+":")
	}
	return say("Raum „"+name+"“:", "Room “"+name+"”:")
}

func list(head words, lines []words, foot words) words {
	de, en := []string{head.De}, []string{head.En}
	for _, l := range lines {
		de, en = append(de, "• "+l.De), append(en, "• "+l.En)
	}
	if foot != (words{}) {
		de, en = append(de, foot.De), append(en, foot.En)
	}
	return say(strings.Join(de, "\n"), strings.Join(en, "\n"))
}

// words tells somebody that their messages do not stand, why, and what can be done.
func (o own) words() words {
	where := say("außerhalb dieser Box", "outside this box")
	if o.why.typ == "barred" {
		where = say("auf "+o.why.server, "on "+o.why.server)
	}
	head := say(fmt.Sprintf("%d Ihrer Nachrichten sieht %s niemand. ", o.n, where.De), fmt.Sprintf("Nobody %s sees %d of your messages. ", where.En, o.n))
	if o.n == 1 {
		head = say(fmt.Sprintf("Eine Ihrer Nachrichten sieht %s niemand. ", where.De), fmt.Sprintf("Nobody %s sees one of your messages. ", where.En))
	}
	at := when(o.why.at)
	var did, todo words
	switch o.why.typ {
	case "ban":
		did = say(fmt.Sprintf("%s hat Sie am %s aus dem Raum gesperrt", who(o.why.by), at.De), fmt.Sprintf("%s banned you from the room on %s", who(o.why.by), at.En))
		todo = say(fmt.Sprintf("Fragen Sie %s nach der Sperre. Was wichtig ist, senden Sie in einem anderen Raum noch einmal.", who(o.why.by)),
			fmt.Sprintf("Ask %s about the ban. Send what matters again in another room.", who(o.why.by)))
	case "power":
		did = say(fmt.Sprintf("%s hat am %s geändert, wer im Raum schreiben darf", who(o.why.by), at.De), fmt.Sprintf("%s changed on %s who may write in the room", who(o.why.by), at.En))
		todo = say(fmt.Sprintf("Bitten Sie %s um das Recht zu schreiben, und senden Sie dann noch einmal, was wichtig ist.", who(o.why.by)),
			fmt.Sprintf("Ask %s to let you write, then send again what matters.", who(o.why.by)))
	case "barred":
		did = say(fmt.Sprintf("Der Server %s sagt, von dieser Box sei niemand mehr im Raum; vermutlich wurden Sie dort entfernt oder gesperrt", o.why.server),
			fmt.Sprintf("The server %s says that nobody of this box is in the room any more; probably you were removed or banned there", o.why.server))
		todo = say("Fragen Sie jemanden, der dort ist, und bitten Sie um eine neue Einladung. Was Sie hier schreiben, liest dort niemand.",
			"Ask somebody who is there, and for a new invite. What you write here nobody reads there.")
	case "":
		did = say("Die Regeln des Raums wurden inzwischen so geändert, dass Sie nicht mehr darin sind", "The room's rules were changed meanwhile, and you are no longer in it")
		todo = say("Bitten Sie jemanden im Raum um eine neue Einladung.", "Ask somebody in the room to invite you anew.")
	default:
		did = say(fmt.Sprintf("%s hat Sie am %s aus dem Raum entfernt", who(o.why.by), at.De), fmt.Sprintf("%s removed you from the room on %s", who(o.why.by), at.En))
		todo = say(fmt.Sprintf("Bitten Sie %s um eine neue Einladung, und senden Sie dann noch einmal, was wichtig ist.", who(o.why.by)),
			fmt.Sprintf("Ask %s to invite you again, then send again what matters.", who(o.why.by)))
	}
	if o.why.reason != "" {
		did = say(did.De+" (Grund: „"+o.why.reason+"“)", did.En+" (reason: “"+o.why.reason+"”)")
	}
	head = say(head.De+did.De+". Das war hier noch nicht bekannt, als Sie schrieben. Ihre Texte sind nicht verloren:",
		head.En+did.En+". That was not known here yet when you wrote. Your texts are not lost:")
	var lines []words
	for _, x := range o.last {
		at := when(x.at)
		if x.body == "" {
			lines = append(lines, say(at.De+" (verschlüsselt oder ohne Text)", at.En+" (encrypted, or without a text)"))
			continue
		}
		lines = append(lines, say(at.De+" "+x.body, at.En+" "+x.body))
	}
	if more := o.n - len(o.last); more > 0 {
		lines = append(lines, say(fmt.Sprintf("und %d frühere, im Verlauf des Raums in Ihrer App", more), fmt.Sprintf("and %d earlier ones, in the room's history in your app", more)))
	}
	return list(head, lines, todo)
}

// types are what people call a state type.
var types = map[string]words{
	"m.room.name": say("Name", "Name"), "m.room.topic": say("Thema", "Topic"), "m.room.avatar": say("Bild", "Picture"), "m.room.power_levels": say("Rechte", "Permissions"),
	"m.room.join_rules": say("Wer beitreten darf", "Who may join"), "m.room.history_visibility": say("Wer den Verlauf sieht", "Who sees the history"),
	"m.room.guest_access": say("Gäste", "Guests"), "m.room.canonical_alias": say("Adresse", "Address"), "m.room.encryption": say("Verschlüsselung", "Encryption"),
	"m.room.server_acl": say("Zugelassene Server", "Allowed servers"), "m.room.pinned_events": say("Angeheftete Nachrichten", "Pinned messages"),
	"m.room.tombstone": say("Nachfolger des Raums", "Room that replaces this one"), "org.hallig.priority": say("Vorrang", "Priority"),
}

func (x fight) words() words {
	typ := types[x.typ]
	de, en := typ.De+": ", typ.En+": "
	if x.holds.by == "" {
		de, en = de+"Es gilt nichts davon.", en+"None of it holds."
	} else {
		at := when(x.holds.at)
		de += fmt.Sprintf("Es gilt %s (%s, %s).", x.holds.text.De, who(x.holds.by), at.De)
		en += fmt.Sprintf("%s holds (%s, %s).", x.holds.text.En, who(x.holds.by), at.En)
	}
	for _, v := range x.lost {
		at := when(v.at)
		de += fmt.Sprintf(" Nicht mehr: %s (%s, %s).", v.text.De, who(v.by), at.De)
		en += fmt.Sprintf(" No longer: %s (%s, %s).", v.text.En, who(v.by), at.En)
	}
	return say(de, en)
}

// describe tells a value as people say it. Of power levels it is what other has otherwise.
func describe(p, other *event.PDU) words {
	field := map[string]string{"m.room.name": "name", "m.room.topic": "topic", "m.room.join_rules": "join_rule", "m.room.history_visibility": "history_visibility",
		"m.room.guest_access": "guest_access", "m.room.canonical_alias": "alias", "m.room.tombstone": "replacement_room", "org.hallig.priority": "default"}[p.Type]
	if p.Type == "m.room.power_levels" {
		if s := levels(p, other); s != "" {
			return both(s)
		}
	}
	if field == "" {
		return say("die eine Einstellung", "the one setting")
	}
	s := herald.OneLine(text(p.Content, field), 120)
	if s == "" {
		return say("leer", "empty")
	}
	return say("„"+s+"“", "“"+s+"”")
}

// levels lists what in power levels is otherwise than in others.
func levels(p, other *event.PDU) string {
	a, err := rules.Thin(p)
	if err != nil || other == nil {
		return ""
	}
	b, err := rules.Thin(other)
	if err != nil {
		return ""
	}
	var out []string
	diff := func(x, y map[string]int64, xd, yd int64) {
		keys := make(map[string]bool)
		for k := range x {
			keys[k] = true
		}
		for k := range y {
			keys[k] = true
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			m, ok := x[k]
			if !ok {
				m = xd
			}
			n, ok := y[k]
			if !ok {
				n = yd
			}
			if m != n {
				out = append(out, fmt.Sprintf("%s %d", herald.OneLine(k, 80), m))
			}
		}
	}
	pa, pb := a.Power, b.Power
	diff(plain(pa.Users), plain(pb.Users), pa.UsersDefault, pb.UsersDefault)
	diff(pa.Events, pb.Events, pa.StateDefault, pb.StateDefault)
	for _, l := range []struct {
		name string
		a, b int64
	}{{"users_default", pa.UsersDefault, pb.UsersDefault}, {"events_default", pa.EventsDefault, pb.EventsDefault}, {"state_default", pa.StateDefault, pb.StateDefault},
		{"ban", pa.Ban, pb.Ban}, {"kick", pa.Kick, pb.Kick}, {"redact", pa.Redact, pb.Redact}, {"invite", pa.Invite, pb.Invite}} {
		if l.a != l.b {
			out = append(out, fmt.Sprintf("%s %d", l.name, l.a))
		}
	}
	if len(out) > 6 {
		out = append(out[:6], "…")
	}
	return strings.Join(out, ", ")
}

func plain(users map[event.UserID]int64) map[string]int64 {
	m := make(map[string]int64, len(users))
	for u, n := range users {
		m[string(u)] = n
	}
	return m
}

func link(id event.RoomID, via []string) string {
	s := "https://matrix.to/#/" + string(id)
	for i, v := range via[:min(len(via), 3)] {
		sep := "&"
		if i == 0 {
			sep = "?"
		}
		s += sep + "via=" + v
	}
	return s
}

// replacement reads where a tombstone leads; "" when it leads nowhere.
func replacement(content json.RawMessage) event.RoomID {
	id := text(content, "replacement_room")
	if len(id) < 2 || len(id) > 255 || id[0] != '!' || herald.OneLine(id, 255) != id {
		return ""
	}
	return event.RoomID(id)
}
