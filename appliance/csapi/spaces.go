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
	"hallig/appliance/store"
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

// viewer is who wants to see a room: one of our users, or another server for its own.
type viewer struct {
	user   event.UserID
	server string // when user is empty
}

// standing gives the viewer's membership of a room; of a server the most that any of its users has.
func (h *Handler) standing(ctx context.Context, v viewer, id event.RoomID) (membership string, err error) {
	if v.user != "" {
		m, err := h.membership(ctx, id, v.user)
		return m.Membership, err
	}
	err = h.DB.View(ctx, func(r *store.Read) error {
		servers, err := r.Servers(id)
		if err != nil {
			return err
		}
		if slices.Contains(servers, v.server) {
			membership = "join"
			return nil
		}
		invited, err := r.Members(id, "invite")
		if slices.ContainsFunc(invited, func(m store.Membership) bool { return m.User.Server() == v.server }) {
			membership = "invite"
		}
		return err
	})
	return membership, err
}

// preview collects a room for a viewer; nil when it is not known here or the viewer may not know of it.
func (h *Handler) preview(ctx context.Context, v viewer, id event.RoomID) (*preview, error) {
	_, _, known, err := h.participants(ctx, id)
	if err != nil || !known {
		return nil, err
	}
	room, err := h.describe(ctx, id)
	if err != nil {
		return nil, err
	}
	p := &preview{publicRoom: room, Encryption: h.stateText(ctx, id, "m.room.encryption", "algorithm")}
	if p.Rule == "" {
		p.Rule = "invite"
	}
	if p.Rule == "restricted" || p.Rule == "knock_restricted" {
		if p.Allowed, err = h.allowedRooms(ctx, id); err != nil {
			return nil, err
		}
	}
	open, err := h.opens(ctx, v, p)
	if err != nil || !open {
		return nil, err
	}
	return p, nil
}

// opens says whether a viewer may see a room as it is described, and notes a user's own membership in the description.
// https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-23
func (h *Handler) opens(ctx context.Context, v viewer, p *preview) (bool, error) {
	m, err := h.standing(ctx, v, p.ID)
	if err != nil {
		return false, err
	}
	if v.user != "" {
		if p.Membership = m; m == "" {
			p.Membership = "leave"
		}
	}
	open := p.World || m == "join" || m == "invite"
	switch p.Rule {
	case "public", "knock", "knock_restricted":
		open = open || m != "ban"
	}
	for _, a := range p.Allowed {
		in, err := h.standing(ctx, v, a)
		if err != nil {
			return false, err
		}
		open = open || in == "join" && m != "ban"
	}
	return open, nil
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
	id, servers, err := h.resolve(ctx, c.params[0], c.vias())
	if err != nil {
		return nil, err
	}
	w := &spaceWalk{h: h, user: c.session.User, told: map[event.RoomID]*preview{}}
	p, _, err := w.look(ctx, id, servers)
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
		most: min(from+min(limit, 100)+1, maxSpaceRooms), seen: map[event.RoomID]bool{}, told: map[event.RoomID]*preview{}}
	if err := w.visit(ctx, root, c.vias(), 0); err != nil {
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
	told      map[event.RoomID]*preview // what other servers said of their spaces' children
	asked     int
	rooms     []*spaceRoom
}

// maxSpaceQuestions bounds how many rooms other servers are asked for in one walk.
const maxSpaceQuestions = 50

func (w *spaceWalk) visit(ctx context.Context, id event.RoomID, via []string, depth int) error {
	if w.seen[id] || len(w.rooms) >= w.most {
		return nil
	}
	w.seen[id] = true
	p, children, err := w.look(ctx, id, via)
	if err != nil || p == nil {
		return err
	}
	room := &spaceRoom{p, []json.RawMessage{}}
	w.rooms = append(w.rooms, room)
	if p.Type != "m.space" {
		return nil
	}
	var next []spaceChild
	for _, ch := range children {
		if w.suggested && !ch.suggested {
			continue
		}
		room.Children = append(room.Children, ch.raw)
		next = append(next, ch)
	}
	if depth >= w.depth {
		return nil
	}
	for _, ch := range next {
		if err := w.visit(ctx, ch.id, ch.via, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// look finds a room here or, when nobody here is in it, at the servers that its space names.
func (w *spaceWalk) look(ctx context.Context, id event.RoomID, via []string) (*preview, []spaceChild, error) {
	here, others, _, err := w.h.participants(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	if !here {
		p, children, err := w.lookElsewhere(ctx, id, append(slices.Clone(via), others...))
		if p != nil || err != nil {
			return p, children, err
		}
	}
	p, err := w.h.preview(ctx, viewer{user: w.user}, id)
	if err != nil || p == nil || p.Type != "m.space" {
		return p, nil, err
	}
	children, err := w.h.children(ctx, id)
	return p, children, err
}

// lookElsewhere asks other servers for a room; nil when none of them shows it, or the user may not see it.
func (w *spaceWalk) lookElsewhere(ctx context.Context, id event.RoomID, via []string) (*preview, []spaceChild, error) {
	p := w.told[id]
	var children []spaceChild
	if p == nil || p.Type == "m.space" {
		if room := w.ask(ctx, id, via); room != nil {
			p = room.preview
			for _, raw := range room.Children {
				if ch, ok := childOf(raw); ok {
					children = append(children, ch)
				}
			}
			sortChildren(children)
		}
	}
	if p == nil {
		return nil, nil, nil
	}
	open, err := w.h.opens(ctx, viewer{user: w.user}, p)
	if err != nil || !open {
		return nil, nil, err
	}
	return p, children, nil
}

// ask puts the question to the first servers that answer it. What they say is a hint for the user and decides nothing.
func (w *spaceWalk) ask(ctx context.Context, id event.RoomID, via []string) *spaceRoom {
	const servers = 3
	if w.h.Remote == nil || w.asked >= maxSpaceQuestions {
		return nil
	}
	via = slices.DeleteFunc(slices.Clone(via), func(s string) bool { return s == w.h.ServerName })
	for _, server := range via[:min(servers, len(via))] {
		w.asked++
		out, err := w.h.slow.do(ctx, "space "+string(id)+" "+server, func(ctx context.Context) (any, error) {
			return w.h.Remote.Hierarchy(ctx, server, id, w.suggested)
		})
		if err != nil {
			continue // out of reach, or it does not know the room
		}
		var told struct {
			Room     spaceRoom  `json:"room"`
			Children []*preview `json:"children"`
		}
		told.Room.preview = &preview{}
		if json.Unmarshal(out.(json.RawMessage), &told) != nil || told.Room.ID != id {
			continue
		}
		for _, ch := range told.Children {
			if ch != nil && ch.ID != "" {
				w.told[ch.ID] = ch
			}
		}
		return &told.Room
	}
	return nil
}

// Hierarchy is a room and its children as another server may see them.
// https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid
func (h *Handler) Hierarchy(ctx context.Context, id event.RoomID, server string, suggested bool) (json.RawMessage, error) {
	v := viewer{server: server}
	p, err := h.preview(ctx, v, id)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, notFound("this room is not known here, or the server may not see it")
	}
	room := spaceRoom{p, []json.RawMessage{}}
	children, hidden := []*preview{}, []event.RoomID{}
	list, err := h.children(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, ch := range list[:min(len(list), maxSpaceRooms)] {
		if suggested && !ch.suggested {
			continue
		}
		room.Children = append(room.Children, ch.raw)
		here, _, _, err := h.participants(ctx, ch.id)
		if err != nil {
			return nil, err
		}
		if !here {
			continue // others know better
		}
		c, err := h.preview(ctx, v, ch.id)
		if err != nil {
			return nil, err
		}
		if c == nil {
			hidden = append(hidden, ch.id)
		} else {
			children = append(children, c)
		}
	}
	return json.Marshal(map[string]any{"room": room, "children": children, "inaccessible_children": hidden})
}

type spaceChild struct {
	id        event.RoomID
	via       []string
	order     string
	ts        int64
	suggested bool
	raw       json.RawMessage
}

// childOf reads an m.space.child event in stripped form; false when it names no child.
func childOf(raw json.RawMessage) (spaceChild, bool) {
	var e struct {
		Type    string       `json:"type"`
		Key     event.RoomID `json:"state_key"`
		TS      int64        `json:"origin_server_ts"`
		Content struct {
			Via       []string `json:"via"`
			Order     string   `json:"order"`
			Suggested bool     `json:"suggested"`
		} `json:"content"`
	}
	if json.Unmarshal(raw, &e) != nil || e.Type != "m.space.child" || len(e.Content.Via) == 0 || !strings.HasPrefix(string(e.Key), "!") {
		return spaceChild{}, false // taken out of the space
	}
	if !goodOrder(e.Content.Order) {
		e.Content.Order = ""
	}
	return spaceChild{id: e.Key, via: e.Content.Via, order: e.Content.Order, ts: e.TS, suggested: e.Content.Suggested, raw: raw}, true
}

// children lists a space's children in their order.
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
		raw, err := json.Marshal(map[string]any{"type": e.Type, "state_key": key.StateKey, "sender": e.Sender, "content": e.Content, "origin_server_ts": e.TS})
		if err != nil {
			return nil, err
		}
		if ch, ok := childOf(raw); ok {
			out = append(out, ch)
		}
	}
	sortChildren(out)
	return out, nil
}

// sortChildren: https://spec.matrix.org/v1.13/client-server-api/#ordering-of-children-within-a-space
func sortChildren(list []spaceChild) {
	slices.SortFunc(list, func(a, b spaceChild) int {
		if (a.order == "") != (b.order == "") { // those with an order come first
			return strings.Compare(b.order, a.order)
		}
		return cmp.Or(strings.Compare(a.order, b.order), cmp.Compare(a.ts, b.ts), cmp.Compare(a.id, b.id))
	})
}

func goodOrder(s string) bool {
	return len(s) <= 50 && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}
