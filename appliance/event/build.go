// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
)

// Proto is what the author of an event decides.
type Proto struct {
	RoomID     RoomID // of a v12 create event: ignored
	Sender     UserID
	Type       string
	StateKey   *string
	Content    json.RawMessage // any JSON object; nil is {}
	Prev, Auth []ID
	Depth, TS  int64
	Redacts    ID     // placed where the version wants it
	Origin     string // only where it is wanted; no version needs it
}

// Build makes the event: canonical, hashed, signed, with its id. The error wraps ErrTooLarge if a limit is passed.
func Build(v *Version, p Proto, server string, k Key) (*PDU, error) {
	if v.eventIDs == idInEvent {
		return nil, fmt.Errorf("build event: version %s is only readable", v.ID)
	}
	b, err := assemble(v, p)
	if err != nil {
		return nil, fmt.Errorf("build event: %w", err)
	}
	q, err := seal(v, b, server, k)
	if err != nil {
		return nil, fmt.Errorf("build event: %w", err)
	}
	return q, nil
}

// assemble writes the unsigned event in canonical form.
func assemble(v *Version, p Proto) ([]byte, error) {
	content := []byte(p.Content)
	if len(content) == 0 {
		content = []byte("{}")
	}
	content, err := v.Canonical(content)
	if err != nil {
		return nil, fmt.Errorf("content: %w", err)
	}
	if content[0] != '{' {
		return nil, fmt.Errorf("content: %w", errNotObject)
	}
	if p.Redacts != "" && v.RedactsInContent {
		m, _ := membersOf(content, verbatim, nil)
		content = with(&m, "redacts", appendText(nil, string(p.Redacts)))
	}
	b := make([]byte, 0, len(content)+50*(len(p.Auth)+len(p.Prev))+512)
	b = appendIDs(append(b, `{"auth_events":`...), p.Auth)
	b = append(append(b, `,"content":`...), content...)
	b = strconv.AppendInt(append(b, `,"depth":`...), p.Depth, 10)
	if p.Origin != "" {
		b = AppendText(append(b, `,"origin":`...), p.Origin)
	}
	b = strconv.AppendInt(append(b, `,"origin_server_ts":`...), p.TS, 10)
	b = appendIDs(append(b, `,"prev_events":`...), p.Prev)
	if p.Redacts != "" && !v.RedactsInContent {
		b = AppendText(append(b, `,"redacts":`...), string(p.Redacts))
	}
	if !v.CreateIsRoomID || p.Type != "m.room.create" {
		b = AppendText(append(b, `,"room_id":`...), string(p.RoomID))
	}
	b = AppendText(append(b, `,"sender":`...), string(p.Sender))
	if p.StateKey != nil {
		b = AppendText(append(b, `,"state_key":`...), *p.StateKey)
	}
	b = AppendText(append(b, `,"type":`...), p.Type)
	return append(b, '}'), nil
}

func appendIDs(b []byte, ids []ID) []byte {
	b = append(b, '[')
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendText(b, string(id))
	}
	return append(b, ']')
}

// seal hashes and signs a canonical event without hashes and signatures.
// https://spec.matrix.org/v1.16/server-server-api/#adding-hashes-and-signatures-to-outgoing-events
func seal(v *Version, b []byte, server string, k Key) (*PDU, error) {
	var store [20]member
	m, ok := membersOf(b, v.numbers(), store[:])
	if !ok {
		return nil, errNotObject
	}
	h := contentHash(&m)
	hashes := append(make([]byte, 0, 64), `{"sha256":"`...)
	hashes = append(base64.RawStdEncoding.AppendEncode(hashes, h[:]), `"}`...)
	b = with(&m, "hashes", hashes)
	m, _ = membersOf(b, v.numbers(), store[:])
	typ, _ := m.find("type")
	name, _ := Text(typ)
	msg := redact(v, &m, []byte(name), false)
	b = with(&m, "signatures", addSignature(nil, server, k.ID, ed25519.Sign(k.Private, msg)))
	return parse(v, v.idOf(msg), b, false)
}

// idOf names an event by its essential text; "" in versions where ids are fields.
func (v *Version) idOf(essential []byte) ID {
	if v.eventIDs == idInEvent {
		return ""
	}
	h := sum(essential)
	return ID(v.idEncoding().AppendEncode([]byte{'$'}, h[:]))
}

// FromTemplate makes an event out of another server's answer to make_join, make_leave or make_knock: what was hashed or signed before is
// thrown away. The caller has checked that the template says what he asked for.
func FromTemplate(v *Version, template []byte, server string, k Key) (*PDU, error) {
	if v.eventIDs == idInEvent {
		return nil, fmt.Errorf("take template: version %s is only readable", v.ID)
	}
	b, err := v.Canonical(template)
	if err != nil {
		return nil, fmt.Errorf("take template: %w", err)
	}
	m, ok := membersOf(b, v.numbers(), nil)
	if !ok {
		return nil, fmt.Errorf("take template: %w", errNotObject)
	}
	p, err := seal(v, without(&m, "hashes", "signatures", "unsigned", "event_id"), server, k)
	if err != nil {
		return nil, fmt.Errorf("take template: %w", err)
	}
	return p, nil
}
