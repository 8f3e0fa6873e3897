// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"cmp"
	"encoding/json"
	"strings"
)

func compareKeys(a, b skey) int { return cmp.Or(cmp.Compare(a.typ, b.typ), cmp.Compare(a.key, b.key)) }

// fault is a known fault of an oracle: a case in which it is not right, and the sentence of the specification that says so. Differences
// that are just this case are counted under its name; any other is a difference.
type fault struct {
	oracle  string
	what    string // which comparisons it touches
	name    string
	says    string // the sentence; rule numbers are those of room version 12
	applies func(d *difference) bool
}

const alone = "id, hash, redaction, signature" // what is said of an event alone

var faults = []fault{
	{"law", "resolution", "auth chains of power events followed inside the full conflicted set only",
		"Not a fault but a reading, and ours: step 1 takes 'the events in the auth chain of P which also belong to the full conflicted set'; deployed servers " +
			"stop at events that do not belong to it, and to agree with them is what resolution is for. Room versions 3 to 11 only.",
		func(d *difference) bool {
			return d.version < 12 && d.ours == d.judge.tell(litResolve(d.version, d.states, d.judge.byID, true))
		}},

	{"mautrix", alone, "numbers are written anew",
		"rooms/v1: 'Servers MUST NOT strictly enforce the JSON format specified in the appendices': an event up to version 5 is hashed with the numbers it has (1E5, 1.50, -0).",
		func(d *difference) bool { return d.version < 6 && anyValue(d.e.lit.raw, oddNumber) }},
	{"mautrix", alone, "redacts survives the redaction of a redaction",
		"rooms/v1, redactions: 'the server must strip off any keys not in the following list'; redacts is not in it.",
		func(d *difference) bool {
			return d.version < 11 && d.e.lit.typ == "m.room.redaction" && has(d.e.lit.raw, "redacts")
		}},
	{"mautrix", "redaction, id, signature", "an empty third_party_invite is stripped",
		"rooms/v11, redactions: m.room.member 'allows the signed key of the third_party_invite key': the object stays, as in deployed servers, though it holds nothing.",
		func(d *difference) bool { return d.version >= 11 && emptyInvite(d.e.lit) }},
	{"mautrix", "by auth events", "m.room.aliases has no rule of its own",
		"rooms/v3, rule 4: 'If type is m.room.aliases: [...] If sender's domain doesn't match state_key, reject. Otherwise, allow.'",
		func(d *difference) bool { return d.version < 6 && d.e.lit.typ == "m.room.aliases" }},
	{"mautrix", "by auth events", "third-party invites are looked for in the wrong event",
		"Rule 5.4.1.7: 'The public keys are in content of m.room.third_party_invite'; the library reads them from the m.room.member event.",
		func(d *difference) bool { return d.theirs == "deny" && strings.HasPrefix(d.note, "fail 5.4.1.8") }},
	{"mautrix", "by auth events", "a third-party invite under the empty token is not selected",
		"Auth events selection: 'the current m.room.third_party_invite event with state_key matching content.third_party_invite.signed.token', which may be empty.",
		func(d *difference) bool {
			return d.theirs == "deny" && inviteToken(d.e.lit) == "" && has(d.e.lit.content, "third_party_invite")
		}},
	{"mautrix", "by auth events", "join_authorised_via_users_server matters in all versions",
		"rooms/v8, rule 4.2: 'Added in v8: If content has a join_authorised_via_users_server property'.",
		func(d *difference) bool { return d.version < 8 && strings.HasPrefix(d.note, "fail 5.2:") }},
	{"mautrix", "by auth events", "join_authorised_via_users_server that names nobody is passed over",
		"Rule 5.2.1: 'If the event is not validly signed by the homeserver of the user ID denoted by the key, reject.'",
		func(d *difference) bool {
			return d.version >= 8 && d.ours == "deny" && has(d.e.lit.content, "join_authorised_via_users_server") && text(d.e.lit.content["join_authorised_via_users_server"]) == ""
		}},
	{"mautrix", "by auth events", "the creator's first join may cite no more than one auth event",
		"Rule 5.3.1: 'If the only previous event is an m.room.create and the state_key is the sender of the m.room.create, allow.'",
		func(d *difference) bool {
			return d.theirs == "deny" && d.e.lit.typ == "m.room.member" && len(d.e.lit.auth) > 1 && firstJoin(d)
		}},
	{"mautrix", "by auth events", "a power level that is no number is taken",
		"rooms/v1, deprecated schemas: a level is an integer, up to version 5 a float, or a text in the given format; and rule 10.3 asks for integers.",
		func(d *difference) bool {
			return d.version < 10 && d.ours == "deny" && strings.HasPrefix(lawOf(d), "10.")
		}},
	{"mautrix", "by auth events", "user ids in users may name any server",
		"Rule 10.3: 'keys that are valid user IDs'; appendices, server name: no white space.",
		func(d *difference) bool {
			users, _ := d.e.lit.content["users"].(object)
			return d.ours == "deny" && lawOf(d) == "10.2 or 10.3" && anyKey(users, func(k string) bool { return !litUserID(k) })
		}},
	{"mautrix", "by auth events", "taking an equal user out of users ends in a nil pointer",
		"Rule 10.9: 'For each entry being changed in, or removed from, the users property [...] If the current value is greater than or equal to the sender's current power level, reject.'",
		func(d *difference) bool {
			return strings.Contains(d.theirs, "nil pointer") && d.e.lit.typ == "m.room.power_levels" && d.ours == "deny"
		}},
	{"mautrix", "by auth events", "content.room_version is not read",
		"Rule 1.3: 'If content.room_version is present and is not a recognised version, reject.'",
		func(d *difference) bool { return d.ours == "deny" && lawOf(d) == "1.3" }},
	{"mautrix", "by auth events", "whether creators stand above all is read from content.room_version",
		"rooms/v12: 'The power level of room creators is infinitely high'; the room's version is that of its create event's format, whatever the content of a forged one says.",
		func(d *difference) bool {
			create := d.state(skey{"m.room.create", ""})
			return d.version >= 12 && create != nil && create.content["room_version"] != "12"
		}},
	{"mautrix", "by auth events", "notifications matter in all versions",
		"rooms/v6: 'the authorisation rules for events of type m.room.power_levels now include a notifications property'.",
		func(d *difference) bool {
			return d.version < 6 && strings.Contains(d.note, "can't change notifications.")
		}},

	{"gomatrixserverlib", alone, "numbers are written anew",
		"rooms/v1: 'Servers MUST NOT strictly enforce the JSON format specified in the appendices': an event up to version 5 is hashed with the numbers it has (1E5, 1.50, -0).",
		func(d *difference) bool { return d.version < 6 && anyValue(d.e.lit.raw, oddNumber) }},
	{"gomatrixserverlib", alone, "keys with escapes are not written back",
		"Appendices, canonical JSON: keys are strings with the same grammar as all others, and control characters, quotes and backslashes stay escaped in them.",
		func(d *difference) bool { return anyKey(d.e.lit.raw, escapedKey) }},
	{"gomatrixserverlib", alone, "numbers lose digits in redaction",
		"Appendices, canonical JSON: integers up to 2^53-1 are written plainly; the library turns what redaction keeps into floats (1e+15).",
		func(d *difference) bool { return anyValue(litRedact(d.version, d.e.lit.raw)["content"], bigNumber) }},
	{"gomatrixserverlib", alone, "third_party_invite.signed is stripped",
		"rooms/v11, redactions: m.room.member 'allows the signed key of the third_party_invite key'.",
		func(d *difference) bool {
			return d.version >= 11 && has(litRedact(d.version, d.e.lit.raw)["content"].(object), "third_party_invite")
		}},
	{"gomatrixserverlib", alone, "control characters are escaped in upper case or not in the shortest form",
		"Appendices, canonical JSON: 'ESCAPE = %x75.30.30.30.(0-7/b/e/f)': \\u followed by lower-case digits.",
		func(d *difference) bool { return anyValue(d.e.lit.raw, control) }},
	{"gomatrixserverlib", "signature", "invites need the signature of the invited server",
		"Server-server API: 'For room versions 3 and later, unless the event is a 3rd party invite, only the signature(s) from the originating server are required'.",
		func(d *difference) bool {
			return d.ours == "true" && d.e.lit.typ == "m.room.member" && d.e.lit.content["membership"] == "invite"
		}},
	{"gomatrixserverlib", "signature", "the authoriser's signature is asked of joins only",
		"Rule 5.2: 'If content has a join_authorised_via_users_server key', whatever the membership.",
		func(d *difference) bool {
			return d.ours == "false" && d.version >= 8 && has(d.e.lit.content, "join_authorised_via_users_server") && d.e.lit.content["membership"] != "join"
		}},
	{"gomatrixserverlib", "by auth events, by state", "content of another type than expected spoils what it stands in",
		"The rules ask for single properties; others may hold anything.",
		func(d *difference) bool {
			return d.theirs == "deny" && (strings.Contains(d.note, "unparseable") || strings.Contains(d.note, "cannot unmarshal"))
		}},
	{"gomatrixserverlib", "signature", "join_authorised_via_users_server that names nobody is a missing signature",
		"Check 4 on receipt rejects such an event by rule 5.2.1; check 2, which drops it, asks for the signature of the sender's server.",
		func(d *difference) bool {
			by, ok := d.e.lit.content["join_authorised_via_users_server"]
			return d.theirs == "false" && d.version >= 8 && ok && domain(text(by)) == ""
		}},
	{"gomatrixserverlib", alone, "create events of version 12 must have the empty state key",
		"rooms/v12, event format: 'room_id [...] not present on m.room.create events'; whatever the state key.",
		func(d *difference) bool {
			return d.version >= 12 && d.e.lit.typ == "m.room.create" && d.e.lit.key != nil && *d.e.lit.key != ""
		}},
	{"gomatrixserverlib", "by auth events, by state", "power levels that hold something unknown to it count as none",
		"rooms/v5: rule 10 speaks of users, events and the levels that stand alone; notifications came with version 6, and before may hold anything.",
		func(d *difference) bool {
			p := d.state(skey{"m.room.power_levels", ""})
			return p != nil && !readable(d.judge.nodes[p.id].gm.p)
		}},
	{"gomatrixserverlib", "by auth events", "the rules about the auth events themselves are not applied",
		"Rule 3: duplicate entries, entries that the selection does not name, rejected entries.",
		func(d *difference) bool {
			return d.ours == "deny" && strings.HasPrefix(lawOf(d), "3.") || lawOf(d) == "2"
		}},
	{"gomatrixserverlib", "by auth events, by state", "m.room.aliases has its own rule in all versions, which is not about m.federate alone",
		"rooms/v6: 'Rule 4, which related specifically to events of type m.room.aliases, is removed.'",
		func(d *difference) bool { return d.version >= 6 && d.e.lit.typ == "m.room.aliases" }},
	{"gomatrixserverlib", "by auth events, by state", "create events must have the empty state key",
		"Rule 1.5: 'Otherwise, allow.'",
		func(d *difference) bool { return strings.Contains(d.note, "create event state key is not empty") }},
	{"gomatrixserverlib", "by auth events, by state", "room_version is not read in version 11",
		"Rule 1.3: 'If content.room_version is present and is not a recognised version, reject.'",
		func(d *difference) bool { return d.version == 11 && lawOf(d) == "1.3" }},
	{"gomatrixserverlib", "by auth events, by state", "a create event of version 12 without an empty state key is refused",
		"rooms/v12: create events have no room_id.",
		func(d *difference) bool {
			return d.version >= 12 && d.e.lit.typ == "m.room.create" && strings.Contains(d.note, "room_id must start with")
		}},
	{"gomatrixserverlib", "by auth events, by state", "whoever is invited or in the room may join under any join rule",
		"Rule 5.3.7: 'Otherwise, reject.'",
		func(d *difference) bool {
			return d.theirs == "allow" && (lawOf(d) == "5.3.7" || lawOf(d) == "5.2.1") && in(membershipOf(d, *d.e.lit.key), "invite", "join")
		}},
	{"gomatrixserverlib", "by auth events, by state", "who has knocked may not join a public room",
		"Rule 5.3.6: 'If the join_rule is public, allow.'",
		func(d *difference) bool {
			return d.theirs == "deny" && strings.Contains(d.note, `to "join" as join rule "public" forbids it`) && membershipOf(d, d.e.lit.sender) != "leave"
		}},
	{"gomatrixserverlib", "by auth events, by state", "leaving twice is allowed",
		"Rule 5.5.1: 'allow if and only if that user's current membership state is invite, join, or knock'.",
		func(d *difference) bool {
			return d.theirs == "allow" && lawOf(d) == "5.5.1" && membershipOf(d, d.e.lit.sender) == "leave"
		}},
	{"gomatrixserverlib", "by auth events, by state", "a knock may be taken back before version 7",
		"rooms/v6, rule 4.4.1: 'allow if and only if that user's current membership state is invite or join'.",
		func(d *difference) bool { return d.version < 7 && lawOf(d) == "5.5.1" }},
	{"gomatrixserverlib", "by auth events, by state", "join_authorised_via_users_server that names nobody is passed over",
		"Rule 5.2.1: 'If the event is not validly signed by the homeserver of the user ID denoted by the key, reject.'",
		func(d *difference) bool { return d.theirs == "allow" && lawOf(d) == "5.2.1" }},
	{"gomatrixserverlib", "by auth events, by state", "unbanning asks for the ban level only",
		"Rule 5.5.4: 'If the sender's power level is greater than or equal to the kick level, and the target user's power level is less than the sender's power level, allow.'",
		func(d *difference) bool {
			return d.theirs == "allow" && lawOf(d) == "5.5.5" && membershipOf(d, *d.e.lit.key) == "ban"
		}},
	{"gomatrixserverlib", "by auth events, by state", "knock_restricted is known before version 10",
		"rooms/v7, rule 4.7.1: 'If the join_rule is anything other than knock, reject'; rooms/v9, rule 4.3.7: 'Otherwise, reject.'",
		func(d *difference) bool {
			return d.version < 10 && d.theirs == "allow" && (lawOf(d) == "5.7.1" || lawOf(d) == "5.3.7") && joinRuleOf(d) == "knock_restricted"
		}},
	{"gomatrixserverlib", "by auth events, by state", "third-party invites: neither a ban nor the sender is looked at, and public_key is not read",
		"Rules 5.4.1.1 ('If target user is banned, reject'), 5.4.1.2, 5.4.1.6 ('If sender does not match sender of the m.room.third_party_invite, reject') and 5.4.1.7.1 ('A single public key in the public_key property').",
		func(d *difference) bool {
			return d.e.lit.typ == "m.room.member" && has(d.e.lit.content, "third_party_invite") && (d.theirs == "allow" && strings.HasPrefix(lawOf(d), "5.4.1.") ||
				strings.Contains(d.note, "verify signature") || strings.Contains(d.note, "third party invite"))
		}},
	{"gomatrixserverlib", "by auth events, by state", "a third_party_invite that is null is none",
		"Rule 5.4.1: 'If content has a third_party_invite property'.",
		func(d *difference) bool {
			v, ok := d.e.lit.content["third_party_invite"]
			return ok && v == nil && d.e.lit.typ == "m.room.member"
		}},
	{"gomatrixserverlib", "by auth events, by state", "the state key of third-party invites is judged",
		"Rule 7.1: 'Allow if and only if sender's current power level is greater than or equal to the invite level.'",
		func(d *difference) bool {
			return d.e.lit.typ == "m.room.third_party_invite" && strings.Contains(d.note, "state belonging to")
		}},
	{"gomatrixserverlib", "by auth events, by state", "the creator's first join must be sent by the creator",
		"Rule 5.3.1: 'If the only previous event is an m.room.create and the state_key is the sender of the m.room.create, allow.'",
		func(d *difference) bool { return d.theirs == "deny" && d.e.lit.typ == "m.room.member" && firstJoin(d) }},
	{"gomatrixserverlib", "by auth events, by state", "without power levels the creator stands at 2^53-1, and 100 is nothing",
		"m.room.power_levels: 'If the room contains no m.room.power_levels event, the room's creator has a power level of 100'.",
		func(d *difference) bool { return d.state(skey{"m.room.power_levels", ""}) == nil }},
	{"gomatrixserverlib", "by auth events, by state", "power levels are compared with defaults filled in, users_default and unlisted entries among them",
		"Rules 10.6 to 10.10 speak of properties and entries that were 'added, changed or removed'.",
		func(d *difference) bool { return d.e.lit.typ == "m.room.power_levels" }},
	{"gomatrixserverlib", "by auth events, by state", "redactions are judged by event ids where the create event says no version",
		"rooms/v3: 'In room versions 1 and 2, redactions were explicitly part of the authorisation rules under Rule 11. As of room version 3, these conditions no longer exist'.",
		func(d *difference) bool {
			return d.e.lit.typ == "m.room.redaction" && strings.Contains(d.note, "invalid ID")
		}},
}

func has(o object, key string) bool { _, ok := o[key]; return ok }

func text(v any) string { s, _ := v.(string); return s }

func in(s string, list ...string) bool {
	for _, x := range list {
		if s == x {
			return true
		}
	}
	return false
}

// lawOf is the rule that the transcription denied by, "" if it allowed.
func lawOf(d *difference) string {
	_, rule, _ := strings.Cut(d.reason, "; law: ")
	return strings.TrimSuffix(rule, "<nil>")
}

func membershipOf(d *difference, user string) string { return litMembership(d.state, user) }
func joinRuleOf(d *difference) string                { return litJoinRule(d.state) }

func emptyInvite(e *lit) bool {
	o, ok := e.content["third_party_invite"].(object)
	return ok && e.typ == "m.room.member" && !has(o, "signed")
}

func inviteToken(e *lit) string {
	o, _ := e.content["third_party_invite"].(object)
	signed, _ := o["signed"].(object)
	return text(signed["token"])
}

func firstJoin(d *difference) bool {
	create := d.state(skey{"m.room.create", ""})
	return create != nil && len(d.e.lit.prev) == 1 && d.e.lit.prev[0] == create.id
}

// anyValue tells whether f holds for any text or number in v.
func anyValue(v any, f func(any) bool) bool {
	switch v := v.(type) {
	case object:
		for _, x := range v {
			if anyValue(x, f) {
				return true
			}
		}
		return false
	case []any:
		for _, x := range v {
			if anyValue(x, f) {
				return true
			}
		}
		return false
	}
	return f(v)
}

func anyKey(v any, f func(string) bool) bool {
	switch v := v.(type) {
	case object:
		for k, x := range v {
			if f(k) || anyKey(x, f) {
				return true
			}
		}
	case []any:
		for _, x := range v {
			if anyKey(x, f) {
				return true
			}
		}
	}
	return false
}

// oddNumber tells numbers that are not written as canonical JSON would.
func oddNumber(v any) bool {
	n, ok := v.(json.Number)
	if !ok {
		return false
	}
	i, err := n.Int64()
	return err != nil || strings.HasPrefix(n.String(), "-0") || i > 1<<53-1 || i < -(1<<53-1)
}

func bigNumber(v any) bool {
	n, ok := v.(json.Number)
	return ok && len(n.String()) > 15
}

func control(v any) bool {
	s, ok := v.(string)
	return ok && strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 })
}

func escapedKey(k string) bool {
	return strings.ContainsFunc(k, func(r rune) bool { return r < 0x20 || r == '"' || r == '\\' })
}
