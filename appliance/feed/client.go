// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"encoding/json"
	"strconv"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// body is what all clients see alike of an event; unsigned is written for each.
type body struct {
	content json.RawMessage
	redacts event.ID
	head    []byte // `"content":…,"event_id":…,…,"type":…` without room_id and braces
	url     bool   // content.url is text
	member  string // content.membership of m.room.member
	rel     relation
}

// relation is content.m.relates_to.
type relation struct {
	Type   string   `json:"rel_type"`
	Parent event.ID `json:"event_id"`
}

type bodyKey struct {
	nid      int64
	redacted bool
}

// body gives the client form of an event, made once.
func (l *look) body(e *store.Event) (*body, error) {
	k := bodyKey{e.NID, e.Is(store.Redacted)}
	if b, ok := l.f.bodies.find(k); ok {
		return b, nil
	}
	var raw struct {
		Content json.RawMessage `json:"content"`
		Redacts event.ID        `json:"redacts"`
	}
	if err := json.Unmarshal(e.JSON, &raw); err != nil {
		return nil, err
	}
	b := &body{content: raw.Content, redacts: raw.Redacts}
	var c struct {
		URL        any      `json:"url"`
		Membership any      `json:"membership"`
		Relates    any      `json:"m.relates_to"`
		Redacts    event.ID `json:"redacts"`
	}
	// Content is what a client sent; parts of other types than expected are no error here.
	if json.Unmarshal(raw.Content, &c) == nil {
		_, b.url = c.URL.(string)
		if m, ok := c.Relates.(map[string]any); ok {
			b.rel.Type, _ = m["rel_type"].(string)
			parent, _ := m["event_id"].(string)
			b.rel.Parent = event.ID(parent)
		}
		if e.Type == "m.room.member" {
			b.member, _ = c.Membership.(string)
		}
		if e.Type == "m.room.redaction" && b.redacts == "" {
			b.redacts = c.Redacts // room version 11 moved it; clients get both
		}
	}
	h := append([]byte(`"content":`), raw.Content...)
	h = append(append(h, `,"event_id":`...), quoted(string(e.ID))...)
	h = append(append(h, `,"origin_server_ts":`...), strconv.FormatInt(e.TS, 10)...)
	if b.redacts != "" && e.Type == "m.room.redaction" {
		h = append(append(h, `,"redacts":`...), quoted(string(b.redacts))...)
	}
	h = append(append(h, `,"sender":`...), quoted(string(e.Sender))...)
	if e.StateKey != nil {
		h = append(append(h, `,"state_key":`...), quoted(*e.StateKey)...)
	}
	b.head = append(append(h, `,"type":`...), quoted(e.Type)...)
	b.content = b.head[len(`"content":`):][:len(raw.Content):len(raw.Content)] // kept once
	l.f.bodies.put(k, b)
	return b, nil
}

// shape says how a client event is written.
type shape struct {
	room bool // with room_id; within /sync the room is known
	bare bool // without what needs more questions: the redaction of a redacted event inside an event
}

// client writes an event for this reader.
func (l *look) client(e *store.Event, s shape) (json.RawMessage, error) {
	b, err := l.body(e)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(b.head)+220)
	out = append(append(out, '{'), b.head...)
	if s.room {
		out = append(append(out, `,"room_id":`...), quoted(string(e.Room))...)
	}
	out = append(out, `,"unsigned":{"age":`...)
	out = strconv.AppendInt(out, max(0, l.now.UnixMilli()-e.TS), 10)
	if !s.bare {
		m, err := l.membershipAt(e)
		if err != nil {
			return nil, err
		}
		out = append(append(out, `,"membership":`...), quoted(m)...)
		if out, err = l.replaced(out, e); err != nil {
			return nil, err
		}
		if e.RedactedBy != 0 {
			by, err := l.EventByNID(e.RedactedBy)
			if err != nil {
				return nil, err
			}
			if by != nil {
				raw, err := l.client(by, shape{room: true, bare: true})
				if err != nil {
					return nil, err
				}
				out = append(append(out, `,"redacted_because":`...), raw...)
			}
		}
	}
	if e.TxnID != "" && e.Sender == l.user && e.TxnDevice == l.device {
		out = append(append(out, `,"transaction_id":`...), quoted(e.TxnID)...)
	}
	return append(out, '}', '}'), nil
}

// replaced adds what a state event took the place of.
func (l *look) replaced(out []byte, e *store.Event) ([]byte, error) {
	old, err := l.Replaced(e)
	if err != nil || old == nil || old.NID == e.NID {
		return out, err
	}
	b, err := l.body(old)
	if err != nil {
		return out, err
	}
	out = append(append(out, `,"prev_content":`...), b.content...)
	out = append(append(out, `,"prev_sender":`...), quoted(string(old.Sender))...)
	return append(append(out, `,"replaces_state":`...), quoted(string(old.ID))...), nil
}

// clients writes several.
func (l *look) clients(es []*store.Event, s shape) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, 0, len(es))
	for _, e := range es {
		raw, err := l.client(e, s)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

// stripped writes a state event as invites show it. The create event also says which one it is and when it was made: since version 12 it names the room.
func (l *look) stripped(e *store.Event) (json.RawMessage, error) {
	b, err := l.body(e)
	if err != nil {
		return nil, err
	}
	key := ""
	if e.StateKey != nil {
		key = *e.StateKey
	}
	return strippedEvent{Content: json.RawMessage(b.content), ID: e.ID, TS: e.TS, Sender: e.Sender, StateKey: key, Type: e.Type}.json()
}

// strippedEvent is a state event as invites and knocks show it.
// https://spec.matrix.org/v1.19/client-server-api/#stripped-state
type strippedEvent struct {
	Content  json.RawMessage `json:"content"`
	ID       event.ID        `json:"event_id,omitempty"`         // this and the next of the room's creation only:
	TS       int64           `json:"origin_server_ts,omitempty"` // since version 12 it names the room
	Sender   event.UserID    `json:"sender"`
	StateKey string          `json:"state_key"`
	Type     string          `json:"type"`
}

func (e strippedEvent) json() (json.RawMessage, error) {
	if e.Type != "m.room.create" {
		e.ID, e.TS = "", 0
	}
	return json.Marshal(e)
}

// pruned gives the stripped form of what another server sent, which may be a whole PDU; nil for what has not the form of a state event.
// https://spec.matrix.org/v1.19/client-server-api/#stripped-state
func pruned(raw json.RawMessage) (json.RawMessage, strippedEvent, error) {
	var e strippedEvent
	if json.Unmarshal(raw, &e) != nil || e.Type == "" || len(e.Content) == 0 {
		return nil, e, nil
	}
	out, err := e.json()
	return out, e, err
}

// quoted writes a JSON string.
func quoted(s string) []byte {
	plain := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x80 {
			plain = false
			break
		}
	}
	if plain {
		b := make([]byte, 0, len(s)+2)
		return append(append(append(b, '"'), s...), '"')
	}
	b, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return []byte(`""`)
	}
	return b
}
