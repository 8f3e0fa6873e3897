// SPDX-License-Identifier: EUPL-1.2

package ferry

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"hallig/appliance/event"
	"hallig/sync/hub/api"
	"hallig/sync/parcel"
)

// Narrow gives a request with the events named that the box has by another way. has says so of a room, with the room's version; nil: the box does not have its events. Of the others what their sender wrote
// beside them is cut out, as without it events pack to half. It works on the bytes as they came, whoever wrote them: the body comes out byte for byte or is sent whole, as the box knows a transaction again by
// its bytes.
func Narrow(q api.Waited, has func(event.RoomID) *event.Version) Request {
	whole := Request{Waited: q}
	if !strings.HasPrefix(q.URI, "/_matrix/federation/v1/send/") || strings.Contains(q.Body, mark) {
		return whole
	}
	var t struct {
		PDUs []json.RawMessage `json:"pdus"`
	}
	if json.Unmarshal([]byte(q.Body), &t) != nil || len(t.PDUs) > mostParts {
		return whole
	}
	out := Request{Waited: q, Narrow: true, Sum: parcel.SumOf([]byte(q.Body))}
	var body strings.Builder
	rest := q.Body
	for _, raw := range t.PDUs {
		part, ok := partOf(raw, has)
		if !ok {
			continue
		}
		before, after, found := strings.Cut(rest, string(raw))
		if !found {
			continue
		}
		body.WriteString(before)
		body.WriteString(mark)
		rest = after
		out.Parts = append(out.Parts, part)
	}
	if len(out.Parts) == 0 {
		return whole
	}
	body.WriteString(rest)
	out.Body = body.String()
	return out
}

// Names says whether events are named that the box must have.
func (q Request) Names() bool {
	return slices.ContainsFunc(q.Parts, func(p Part) bool { return p.Text == "" })
}

// partOf names an event, or cuts out what stands beside it; false: it stays as it is.
func partOf(raw []byte, has func(event.RoomID) *event.Version) (part Part, ok bool) {
	var of struct {
		Room     event.RoomID    `json:"room_id"`
		Unsigned json.RawMessage `json:"unsigned"`
	}
	if json.Unmarshal(raw, &of) != nil {
		return part, false
	}
	part.Unsigned = string(of.Unsigned)
	if v := has(of.Room); v != nil {
		if p, err := event.Parse(v, raw); err == nil {
			id, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(string(p.ID), "$"))
			again, ok := beside(p.JSON(), part.Unsigned)
			if err == nil && len(id) == 32 && ok && again == string(raw) {
				copy(part.ID[:], id)
				return part, true
			}
		}
	}
	if part.Unsigned == "" {
		return part, false
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return part, false
	}
	delete(members, "unsigned")
	text, err := json.Marshal(members)
	if err == nil {
		text, err = event.CanonicalLoose(text)
	}
	part.Text = string(text)
	again, ok := beside(text, part.Unsigned)
	return part, err == nil && ok && again == string(raw)
}

// beside gives an event as its sender wrote it.
func beside(stored []byte, unsigned string) (string, bool) {
	if unsigned == "" {
		return string(stored), true
	}
	if len(stored) < 2 {
		return "", false
	}
	out, err := event.CanonicalLoose([]byte(string(stored[:len(stored)-1]) + `,"unsigned":` + unsigned + `}`))
	return string(out), err == nil
}

// Fill puts the body together. find gives the text of the one event whose id begins like this, as it is stored; nil: there is none, or several. false: the body does not come out as it was.
func (q Request) Fill(find func(id [5]byte) ([]byte, error)) (api.Waited, bool, error) {
	out := q.Waited
	if !q.Narrow {
		return out, true, nil
	}
	parts := strings.Split(q.Body, mark)
	if len(parts) != len(q.Parts)+1 {
		return out, false, nil
	}
	var body strings.Builder
	body.WriteString(parts[0])
	for i, e := range q.Parts {
		stored := []byte(e.Text)
		if e.Text == "" {
			var err error
			if stored, err = find(e.ID); stored == nil || err != nil {
				return out, false, err
			}
		}
		text, ok := beside(stored, e.Unsigned)
		if !ok {
			return out, false, nil
		}
		body.WriteString(text)
		body.WriteString(parts[i+1])
	}
	out.Body = body.String()
	return out, parcel.SumOf([]byte(out.Body)) == q.Sum, nil
}
