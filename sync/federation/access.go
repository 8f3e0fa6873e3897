// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"hallig/appliance/event"
)

// acl is a parsed m.room.server_acl.
// https://spec.matrix.org/v1.16/server-server-api/#server-access-control-lists-acls
type acl struct {
	allow, deny []string
	noLiterals  bool
}

func parseACL(content json.RawMessage) *acl {
	var c struct {
		Allow    []string `json:"allow"`
		Deny     []string `json:"deny"`
		Literals *bool    `json:"allow_ip_literals"`
	}
	if json.Unmarshal(content, &c) != nil {
		return &acl{} // what cannot be read allows nobody, as the specification has it for a missing list
	}
	return &acl{allow: c.Allow, deny: c.Deny, noLiterals: c.Literals != nil && !*c.Literals}
}

// allows says whether a server may take part. Ports are ignored.
func (a *acl) allows(server string) bool {
	host := server
	if h, _, err := net.SplitHostPort(server); err == nil {
		host = h
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil && a.noLiterals {
		return false
	}
	match := func(glob string) bool { return globMatch(strings.ToLower(glob), strings.ToLower(host)) }
	return !slices.ContainsFunc(a.deny, match) && slices.ContainsFunc(a.allow, match)
}

// globMatch knows * and ?, in linear time for each star.
func globMatch(glob, s string) bool {
	star, mark := -1, 0
	g, i := 0, 0
	for i < len(s) {
		switch {
		case g < len(glob) && (glob[g] == '?' || glob[g] == s[i]) && glob[g] != '*':
			g++
			i++
		case g < len(glob) && glob[g] == '*':
			star, mark = g, i
			g++
		case star >= 0:
			mark++
			g, i = star+1, mark
		default:
			return false
		}
	}
	for g < len(glob) && glob[g] == '*' {
		g++
	}
	return g == len(glob)
}

// aclCache keeps parsed lists by event id.
type aclCache struct {
	mu     sync.Mutex
	parsed map[event.ID]*acl
}

func (c *aclCache) of(id event.ID, content json.RawMessage) *acl {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.parsed[id]; a != nil {
		return a
	}
	if len(c.parsed) > 1000 {
		clear(c.parsed)
	}
	a := parseACL(content)
	c.parsed[id] = a
	return a
}

// checkACL refuses servers that the room's list shuts out.
func (h *Handler) checkACL(ctx context.Context, room event.RoomID, server string) error {
	e, err := h.c.Rooms.StateEvent(ctx, room, "m.room.server_acl", "")
	if err != nil || e == nil {
		return err
	}
	if !h.acl.of(e.ID, e.Content).allows(server) {
		return forbidden("the room's access list shuts this server out")
	}
	return nil
}

// checkIn refuses servers that have no joined member in the room, and those the room's list shuts out; a room that is unknown here is M_NOT_FOUND.
func (h *Handler) checkIn(ctx context.Context, room event.RoomID, r *request) error {
	if h.c.Holds != nil && !h.c.Holds(r.local.Server, room) {
		return notFound("room " + string(room) + " is unknown")
	}
	st, err := h.c.Rooms.Standing(ctx, room, r.origin)
	if err != nil {
		return err
	}
	if r.guest() {
		return h.checkShared(ctx, room, r)
	}
	if !st.Resident {
		return forbidden("the server has no member in this room")
	}
	if !st.ACL {
		return nil
	}
	return h.checkACL(ctx, room, r.origin)
}

var errNotResident = notFound("this server is not in the room")

// checkResident refuses when we ourselves have nobody in the room: then our picture of it is old.
func (h *Handler) checkResident(ctx context.Context, room event.RoomID, local Local) error {
	st, err := h.c.Rooms.Standing(ctx, room, local.Server)
	if err == nil && !st.Resident {
		err = errNotResident
	}
	return err
}

// checkWhole refuses to let others in while we do not know all members ourselves: who is banned, and who could let them in.
func (h *Handler) checkWhole(ctx context.Context, room event.RoomID) error {
	lacking, err := h.c.Rooms.NotWhole(ctx, room)
	if lacking {
		return errNotResident
	}
	return err
}

// wholeSoon is how long who asks for a state waits until all of it is known here.
const wholeSoon = 20 * time.Second

// awaitWhole holds a question back that cannot be answered before all members of a room are known.
func (h *Handler) awaitWhole(ctx context.Context, room event.RoomID) error {
	wait, enough := context.WithTimeout(ctx, wholeSoon)
	defer enough()
	err := h.c.Rooms.AwaitWhole(wait, room)
	if wait.Err() != nil {
		return notFound("the state of the room is not known here yet")
	}
	if err != nil {
		return err
	}
	return h.checkWhole(ctx, room)
}
