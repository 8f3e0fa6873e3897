// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"hallig/appliance/event"
)

// preview is what is shown of a room to who may enter it.
type preview struct {
	publicRoom
	Allowed    []event.RoomID `json:"allowed_room_ids,omitempty"`
	Encryption string         `json:"encryption,omitempty"`
	Membership string         `json:"membership,omitempty"`
}

// spaceRoom is one room of a walk through a space.
type spaceRoom struct {
	*preview
	Children []json.RawMessage `json:"children_state"`
}

// preview collects a room for a user; nil when the user may not know of it.
func (h *Handler) preview(ctx context.Context, user event.UserID, id event.RoomID) (*preview, error) {
	_, _, known, err := h.participants(ctx, id)
	if err != nil || !known {
		return nil, err
	}
	room, err := h.describe(ctx, id)
	if err != nil {
		return nil, err
	}
	m, err := h.membership(ctx, id, user)
	if err != nil {
		return nil, err
	}
	p := &preview{publicRoom: room, Encryption: h.stateText(ctx, id, "m.room.encryption", "algorithm"), Membership: m.Membership}
	if p.Membership == "" {
		p.Membership = "leave"
	}
	open := p.World || m.Membership == "join" || m.Membership == "invite"
	switch p.Rule {
	case "":
		p.Rule = "invite"
	case "public", "knock", "knock_restricted":
		open = open || m.Membership != "ban"
	}
	if p.Rule == "restricted" || p.Rule == "knock_restricted" {
		if p.Allowed, err = h.allowedRooms(ctx, id); err != nil {
			return nil, err
		}
		for _, a := range p.Allowed {
			in, err := h.membership(ctx, a, user)
			if err != nil {
				return nil, err
			}
			open = open || in.Membership == "join" && m.Membership != "ban"
		}
	}
	if !open {
		return nil, nil
	}
	return p, nil
}

// allowedRooms lists the rooms whose members a restricted room lets in.
func (h *Handler) allowedRooms(ctx context.Context, id event.RoomID) ([]event.RoomID, error) {
	e, err := h.Rooms.StateEvent(ctx, id, "m.room.join_rules", "")
	if err != nil || e == nil {
		return nil, err
	}
	var rule struct {
		Allow []struct {
			Type string       `json:"type"`
			Room event.RoomID `json:"room_id"`
		} `json:"allow"`
	}
	if json.Unmarshal(e.Content, &rule) != nil {
		return nil, nil // written by somebody who cannot write; it allows nothing
	}
	var out []event.RoomID
	for _, a := range rule.Allow {
		if a.Type == "m.room_membership" {
			out = append(out, a.Room)
		}
	}
	return out, nil
}

// roomSummary: https://spec.matrix.org/v1.15/client-server-api/#get_matrixclientv1room_summaryroomidoralias
func (h *Handler) roomSummary(ctx context.Context, c *call) (any, error) {
	id, _, err := h.resolve(ctx, c.params[0], c.vias())
	if err != nil {
		return nil, err
	}
	p, err := h.preview(ctx, c.session.User, id)
	if err == nil && p == nil {
		err = notFound("this room is not known here, or the user may not see it")
	}
	return p, err
}

// maxSpaceRooms bounds one walk through a space.
const maxSpaceRooms = 500

// hierarchy walks a space depth first. A token is the number of rooms already told; the walk is made again for each page,
// as it is short and the space may have changed.
// https://spec.matrix.org/v1.13/client-server-api/#get_matrixclientv1roomsroomidhierarchy
func (h *Handler) hierarchy(ctx context.Context, c *call) (any, error) {
	root, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	limit, err := c.number("limit", 50)
	if err != nil {
		return nil, err
	}
	depth, err := c.number("max_depth", maxSpaceRooms)
	if err != nil {
		return nil, err
	}
	from, err := c.number("from", 0)
	if err != nil {
		return nil, err
	}
	if limit == 0 {
		return nil, invalid("limit must be positive")
	}
	w := &spaceWalk{h: h, user: c.session.User, depth: depth, suggested: c.query("suggested_only") == "true",
		most: min(from+min(limit, 100)+1, maxSpaceRooms), seen: map[event.RoomID]bool{}}
	if err := w.visit(ctx, root, 0); err != nil {
		return nil, err
	}
	if len(w.rooms) == 0 {
		return nil, forbidden("this room is not known here, or the user may not see it")
	}
	out := map[string]any{}
	from = min(from, len(w.rooms))
	end := min(from+min(limit, 100), len(w.rooms))
	out["rooms"] = w.rooms[from:end]
	if end < len(w.rooms) {
		out["next_batch"] = strconv.Itoa(end)
	}
	return out, nil
}

type spaceWalk struct {
	h         *Handler
	user      event.UserID
	depth     int
	suggested bool
	most      int
	seen      map[event.RoomID]bool
	rooms     []*spaceRoom
}

func (w *spaceWalk) visit(ctx context.Context, id event.RoomID, depth int) error {
	if w.seen[id] || len(w.rooms) >= w.most {
		return nil
	}
	w.seen[id] = true
	p, err := w.h.preview(ctx, w.user, id)
	if err != nil || p == nil {
		return err
	}
	room := &spaceRoom{p, []json.RawMessage{}}
	w.rooms = append(w.rooms, room)
	if p.Type != "m.space" {
		return nil
	}
	children, err := w.h.children(ctx, id)
	if err != nil {
		return err
	}
	var next []event.RoomID
	for _, ch := range children {
		if w.suggested && !ch.suggested {
			continue
		}
		room.Children = append(room.Children, ch.raw)
		next = append(next, ch.id)
	}
	if depth >= w.depth {
		return nil
	}
	for _, ch := range next {
		if err := w.visit(ctx, ch, depth+1); err != nil {
			return err
		}
	}
	return nil
}

type spaceChild struct {
	id        event.RoomID
	order     string
	ts        int64
	suggested bool
	raw       json.RawMessage
}

// children lists a space's children in their order: https://spec.matrix.org/v1.13/client-server-api/#ordering-of-children-within-a-space
func (h *Handler) children(ctx context.Context, id event.RoomID) ([]spaceChild, error) {
	state, err := h.Rooms.State(ctx, id)
	if err != nil {
		return nil, err
	}
	var out []spaceChild
	for key, eid := range state {
		if key.Type != "m.space.child" {
			continue
		}
		e, _, err := h.Rooms.Event(ctx, eid)
		if err != nil {
			return nil, err
		}
		var content struct {
			Via       []string `json:"via"`
			Order     string   `json:"order"`
			Suggested bool     `json:"suggested"`
		}
		if json.Unmarshal(e.Content, &content) != nil || len(content.Via) == 0 {
			continue // taken out of the space
		}
		raw, err := json.Marshal(map[string]any{"type": e.Type, "state_key": key.StateKey, "sender": e.Sender, "content": e.Content, "origin_server_ts": e.TS})
		if err != nil {
			return nil, err
		}
		if !goodOrder(content.Order) {
			content.Order = ""
		}
		out = append(out, spaceChild{event.RoomID(key.StateKey), content.Order, e.TS, content.Suggested, raw})
	}
	slices.SortFunc(out, func(a, b spaceChild) int {
		if (a.order == "") != (b.order == "") { // those with an order come first
			return strings.Compare(b.order, a.order)
		}
		return cmp.Or(strings.Compare(a.order, b.order), cmp.Compare(a.ts, b.ts), cmp.Compare(a.id, b.id))
	})
	return out, nil
}

func goodOrder(s string) bool {
	return len(s) <= 50 && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}
