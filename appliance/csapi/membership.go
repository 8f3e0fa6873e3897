// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

func (h *Handler) leave(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	var req struct {
		Reason string `json:"reason"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	return h.leaveRoom(ctx, c.session.User, id, req.Reason)
}

// Leave takes a local user out of a room, as their client would.
func (h *Handler) Leave(ctx context.Context, user event.UserID, id event.RoomID) error {
	_, err := h.leaveRoom(ctx, user, id, "")
	return err
}

// leaveRoom leaves, refuses an invite or takes a knock back.
func (h *Handler) leaveRoom(ctx context.Context, user event.UserID, id event.RoomID, reason string) (any, error) {
	m, err := h.membership(ctx, id, user)
	if err != nil {
		return nil, err
	}
	switch m.Membership {
	case "leave":
		return nil, nil
	case "":
		return nil, forbidden("the user is not in this room")
	case "ban":
		return nil, forbidden("the user is banned from this room")
	}
	here, _, known, err := h.participants(ctx, id)
	if err != nil {
		return nil, err
	}
	// With no local member left, our view of the room is old: only a server that is in it can take the leave.
	if !here && !known || !here && m.Membership != "join" && h.Remote != nil && !h.localInvite(ctx, m) {
		return nil, h.leaveRemote(ctx, id, user, reason)
	}
	d, err := memberDraft(id, user, user, h.memberContent(ctx, user, "leave", reason))
	if err != nil {
		return nil, err
	}
	_, err = h.Rooms.Send(ctx, d)
	if err != nil && m.Membership == "invite" && isForbidden(err) && !h.localInvite(ctx, m) {
		// The invite from another server is here before the room's own history tells of it.
		return nil, h.leaveRemote(ctx, id, user, reason)
	}
	return nil, err
}

// localInvite says whether the membership was made by a user of this server.
func (h *Handler) localInvite(ctx context.Context, m store.Membership) bool {
	local := false
	_ = h.DB.View(ctx, func(r *store.Read) error { // unknown counts as remote
		e, err := r.EventByNID(m.Event)
		local = err == nil && e != nil && h.Accounts.Local(e.Sender)
		return err
	})
	return local
}

// leaveRemote asks the inviter's server to take the refusal; where it cannot be reached, the invite is gone here all the same.
func (h *Handler) leaveRemote(ctx context.Context, id event.RoomID, user event.UserID, reason string) error {
	_, err := h.slow.do(ctx, "leave "+string(id)+" "+string(user), func(ctx context.Context) (any, error) {
		var cause error = errAlone("of the inviter")
		if h.Remote != nil {
			if cause = h.Remote.Leave(ctx, id, user, reason); cause == nil {
				return nil, nil
			}
		}
		h.log.Info("a refusal could not be told to the other server", "room", id, "user", user, "err", cause)
		return nil, h.Rooms.LeaveUnknown(ctx, id, user, nil)
	})
	return err
}

// forget takes a left room out of the user's view.
func (h *Handler) forget(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	return nil, h.Rooms.Forget(ctx, id, c.session.User)
}

// setMembership sends a member event about another user.
func (h *Handler) setMembership(ctx context.Context, c *call, id event.RoomID, user event.UserID, membership, reason string) (any, error) {
	d, err := memberDraft(id, c.session.User, user, h.memberContent(ctx, user, membership, reason))
	if err != nil {
		return nil, err
	}
	_, err = h.Rooms.Send(ctx, d)
	return nil, err
}

func (h *Handler) kick(ctx context.Context, c *call) (any, error) {
	id, user, reason, err := c.moderation()
	if err != nil {
		return nil, err
	}
	// The law would let a moderator "kick" somebody who has left, or lift a ban; that is not what kick says.
	m, err := h.membership(ctx, id, user)
	if err != nil {
		return nil, err
	}
	if m.Membership != "join" && m.Membership != "invite" && m.Membership != "knock" {
		if withdrawn, err := h.withdraw(ctx, id, c.session.User, user); withdrawn || err != nil {
			return nil, err
		}
		return nil, forbidden("the user is not in this room")
	}
	return h.setMembership(ctx, c, id, user, "leave", reason)
}

func (h *Handler) ban(ctx context.Context, c *call) (any, error) {
	id, user, reason, err := c.moderation()
	if err != nil {
		return nil, err
	}
	return h.setMembership(ctx, c, id, user, "ban", reason)
}

func (h *Handler) unban(ctx context.Context, c *call) (any, error) {
	id, user, reason, err := c.moderation()
	if err != nil {
		return nil, err
	}
	m, err := h.membership(ctx, id, user)
	if err != nil {
		return nil, err
	}
	if m.Membership != "ban" {
		return nil, forbidden("the user is not banned from this room")
	}
	return h.setMembership(ctx, c, id, user, "leave", reason)
}

func (h *Handler) joinedRooms(ctx context.Context, c *call) (any, error) {
	rooms := []event.RoomID{}
	err := h.DB.View(ctx, func(r *store.Read) error {
		list, err := r.JoinedRooms(c.session.User)
		rooms = append(rooms, list...)
		return err
	})
	return map[string]any{"joined_rooms": rooms}, err
}

// mayState says whether a user may send a state event of a type in a room now.
func (h *Handler) mayState(ctx context.Context, id event.RoomID, user event.UserID, typ string) (bool, error) {
	m, err := h.membership(ctx, id, user)
	if err != nil || m.Membership != "join" {
		return false, err
	}
	state, err := h.Rooms.LawState(ctx, id)
	if err != nil {
		return false, err
	}
	return rules.UserLevel(state, user) >= rules.NeededLevel(state, typ, true), nil
}
