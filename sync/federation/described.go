// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/rules"
)

// This file is about the state that tells invited and knocking users what a room is.

// stripped lists the state that tells an invitee what a room is.
// https://spec.matrix.org/v1.16/client-server-api/#stripped-state
var stripped = []rules.Key{
	{Type: "m.room.create"}, {Type: "m.room.name"}, {Type: "m.room.avatar"}, {Type: "m.room.topic"}, {Type: "m.room.join_rules"},
	{Type: "m.room.canonical_alias"}, {Type: "m.room.encryption"},
}

// strippedState gives those events whole: servers that want only the stripped fields find them in there.
func (c *Client) strippedState(ctx context.Context, id event.RoomID, member event.UserID) ([]json.RawMessage, error) {
	return strippedState(ctx, c.c.Rooms, id, member)
}

func strippedState(ctx context.Context, rooms *room.Rooms, id event.RoomID, member event.UserID) ([]json.RawMessage, error) {
	out := []json.RawMessage{}
	for _, k := range append(slices.Clone(stripped), rules.Key{Type: "m.room.member", StateKey: string(member)}) {
		e, err := rooms.StateEvent(ctx, id, k.Type, k.StateKey)
		if err != nil {
			return nil, err
		}
		if e != nil {
			out = append(out, json.RawMessage(e.JSON()))
		}
	}
	return out, nil
}

const (
	maxDescribed      = 100              // events that describe a room
	describedPatience = 15 * time.Second // for the keys of servers that signed them
)

// described checks what a server says of a room. Whole events must be signed and of this room: since version 12, where the room's id is the hash of its
// creation, a server that tells anything else, or no creation, is refused; of rooms of older versions such an entry is left out. An event of
// a server whose keys cannot be had now is left out too, except a creation that the room's id vouches for.
// What is no whole event cannot be proved and is taken as a hint, in all versions: the specification would have it refused since version 12, but asks servers to
// consider their ecosystem, and there are servers (Dendrite) that send nothing else.
// https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room
func (c *Client) described(ctx context.Context, giver string, v *event.Version, id event.RoomID, raws []json.RawMessage) ([]json.RawMessage, error) {
	return described(ctx, v, id, raws, func(ctx context.Context, p *event.PDU) (*event.PDU, error) { return c.checked(ctx, giver, p) })
}

// described is the same with any way to verify an event, which gives the form in which it is taken.
func described(ctx context.Context, v *event.Version, id event.RoomID, raws []json.RawMessage, check func(context.Context, *event.PDU) (*event.PDU, error)) ([]json.RawMessage, error) {
	strict := v.CreateIsRoomID
	ctx, cancel := context.WithTimeout(ctx, describedPatience)
	defer cancel()
	var out []json.RawMessage
	creation := false
	for _, raw := range raws[:min(len(raws), maxDescribed)] {
		p, err := event.Parse(v, raw)
		if err != nil {
			creation = creation || typeOf(raw) == "m.room.create"
			out = append(out, raw)
			continue
		}
		if p.RoomID != id {
			if strict {
				return out, invalid("the room is described by an event of another room")
			}
			continue
		}
		isCreation := p.Is("m.room.create", "")
		ready, err := check(ctx, p)
		switch {
		case err == nil:
			p = ready
		case errors.Is(err, ErrKeyUnavailable) || ctx.Err() != nil:
			if !strict || !isCreation {
				continue
			}
		case strict:
			return out, invalid("an event that describes the room is not signed as it must be")
		default:
			continue
		}
		creation = creation || isCreation
		out = append(out, p.JSON())
	}
	if strict && !creation {
		return out, invalid("the room's creation is not told")
	}
	return out, nil
}

func typeOf(raw json.RawMessage) string {
	var e struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(raw, &e) // what cannot be read has no type
	return e.Type
}
