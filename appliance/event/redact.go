// SPDX-License-Identifier: EUPL-1.2

package event

import "fmt"

// Redacted is the event without what redaction takes away, under the same id. Signatures stay: they cover just what is left.
// https://spec.matrix.org/v1.16/rooms/v11/#redactions
func (p *PDU) Redacted() (*PDU, error) {
	var store [20]member
	m, ok := membersOf(p.json, p.Version.numbers(), store[:])
	if !ok {
		return nil, fmt.Errorf("redact %s: no canonical event", p.ID)
	}
	q, err := parse(p.Version, p.ID, redact(p.Version, &m, []byte(p.Type), true), false)
	if err != nil {
		return nil, fmt.Errorf("redact %s: %w", p.ID, err)
	}
	return q, nil
}

// essential gives the members of the event, and the text that the reference hash and the signatures cover: redacted, without signatures.
func (p *PDU) essential(store []member) (members, []byte, error) {
	m, ok := membersOf(p.json, p.Version.numbers(), store)
	if !ok {
		return m, nil, fmt.Errorf("event %s: no canonical event", p.ID)
	}
	return m, redact(p.Version, &m, []byte(p.Type), false), nil
}

// redact writes the redacted form of an event of the given type, with or without its signatures. As the keys that stay keep their order, the
// result is canonical.
func redact(v *Version, m *members, typ []byte, signatures bool) []byte {
	out := append(make([]byte, 0, len(m.b)), '{')
	for i := range m.list {
		key := m.key(i)
		if !v.keepsField(string(key)) || !signatures && string(key) == "signatures" {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		if string(key) == "content" {
			out = append(out, `"content":`...)
			out = redactContent(out, v, m.val(i), string(typ))
			continue
		}
		out = append(out, m.b[m.list[i].key:m.list[i].end]...)
	}
	return append(out, '}')
}

func (v *Version) keepsField(key string) bool {
	switch key {
	case "event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures", "depth", "prev_events", "auth_events", "origin_server_ts":
		return true
	case "origin", "membership", "prev_state":
		return v.keepOrigin
	}
	return false
}

func redactContent(out []byte, v *Version, content []byte, typ string) []byte {
	if !v.keepsSomeContent(typ) {
		return append(out, '{', '}')
	}
	if v.keepCreate && typ == "m.room.create" {
		return append(out, content...)
	}
	var store [16]member
	m, _ := membersOf(content, verbatim, store[:])
	out = append(out, '{')
	from := len(out)
	comma := func() {
		if len(out) > from {
			out = append(out, ',')
		}
	}
	for i := range m.list {
		key := string(m.key(i))
		if v.keepsContent(typ, key) {
			comma()
			out = append(out, content[m.list[i].key:m.list[i].end]...)
		} else if v.keepInviteSigned && typ == "m.room.member" && key == "third_party_invite" && m.val(i)[0] == '{' {
			comma()
			out = append(out, `"third_party_invite":{`...)
			if signed, ok := Field(m.val(i), "signed"); ok {
				out = append(out, `"signed":`...)
				out = append(out, signed...)
			}
			out = append(out, '}')
		}
	}
	return append(out, '}')
}

func (v *Version) keepsSomeContent(typ string) bool {
	switch typ {
	case "m.room.member", "m.room.create", "m.room.join_rules", "m.room.power_levels", "m.room.history_visibility":
		return true
	case "m.room.aliases":
		return v.keepAliases
	case "m.room.redaction":
		return v.keepRedactsTarget
	}
	return false
}

func (v *Version) keepsContent(typ, key string) bool {
	switch typ {
	case "m.room.member":
		return key == "membership" || v.keepAuthorised && key == "join_authorised_via_users_server"
	case "m.room.create":
		return key == "creator"
	case "m.room.join_rules":
		return key == "join_rule" || v.keepAllow && key == "allow"
	case "m.room.power_levels":
		switch key {
		case "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default":
			return true
		case "invite":
			return v.keepInviteLevel
		}
	case "m.room.aliases":
		return key == "aliases"
	case "m.room.history_visibility":
		return key == "history_visibility"
	case "m.room.redaction":
		return key == "redacts"
	}
	return false
}
