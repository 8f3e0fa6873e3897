// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"net/http"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// This file turns third-party invites into invites: an identity server has found out which user an address belongs to. Boxes know no identity
// server themselves and invite nobody by address, but rooms may have been invited into from elsewhere, and their users may be ours.

// thirdParty is what makes a third-party invite an invite of a user.
type thirdParty struct {
	Type     string       `json:"type"`
	Room     event.RoomID `json:"room_id"`
	Sender   event.UserID `json:"sender"`
	StateKey event.UserID `json:"state_key"`
	Content  struct {
		Membership string          `json:"membership"`
		ThirdParty json.RawMessage `json:"third_party_invite"`
	} `json:"content"`
}

// exchangeThirdParty issues the invite that was promised to an address by one of our users. The law checks the identity server's signature against the
// key in the room's m.room.third_party_invite.
// https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid
func (h *Handler) exchangeThirdParty(ctx context.Context, r *request) (any, error) {
	id := event.RoomID(r.PathValue("room"))
	var t thirdParty
	if err := r.decode(&t); err != nil {
		return nil, err
	}
	if t.Type != "m.room.member" || t.Room != id || t.Content.Membership != "invite" || len(t.Content.ThirdParty) == 0 {
		return nil, badJSON("that is no third-party invite of this room")
	}
	if _, err := h.local(r, string(t.Sender)); err != nil {
		return nil, err
	}
	if _, err := event.ParseUserID(string(t.StateKey)); err != nil {
		return nil, refuse(http.StatusBadRequest, "M_INVALID_PARAM", "that is no user id")
	}
	if err := h.checkResident(ctx, id, r.local); err != nil {
		return nil, err
	}
	if err := h.checkACL(ctx, id, r.origin); err != nil {
		return nil, err
	}
	content, err := json.Marshal(map[string]any{"membership": "invite", "third_party_invite": t.Content.ThirdParty})
	if err != nil {
		return nil, badJSON("the invite cannot be written")
	}
	key := string(t.StateKey)
	draft := room.Draft{Room: id, Sender: t.Sender, Type: "m.room.member", StateKey: &key, Content: content}
	if t.StateKey.Server() == r.local.Server {
		_, err := h.c.Rooms.Send(ctx, draft)
		return struct{}{}, err
	}
	pdu, v, err := h.c.Rooms.BuildEvent(ctx, draft)
	if err != nil {
		return nil, err
	}
	signed, err := h.c.Client.As(r.local).Invite(ctx, v, pdu)
	if err != nil {
		return nil, err
	}
	res, err := h.c.Rooms.Accept(ctx, room.Incoming{PDU: signed, From: room.Source{Kind: "local", Server: r.local.Server}})
	if err != nil {
		return nil, err
	}
	if res.Outcome != room.Accepted && res.Outcome != room.Duplicate {
		return nil, forbidden("the invite was not accepted: " + res.Reason)
	}
	return struct{}{}, nil
}

// maxBindings bounds the invites that one notice of a binding brings; anybody may send such a notice.
const maxBindings = 20

// bound hears from an identity server that an address belongs to one of our users, and has each promised invite issued where its sender lives.
// Nobody is believed here: the room's servers check the identity server's signature.
// https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv13pidonbind
func (h *Handler) bound(ctx context.Context, r *request) (any, error) {
	var req struct {
		User    string `json:"mxid"`
		Invites []struct {
			User   event.UserID    `json:"mxid"`
			Room   event.RoomID    `json:"room_id"`
			Sender event.UserID    `json:"sender"`
			Name   string          `json:"display_name"`
			Signed json.RawMessage `json:"signed"`
		} `json:"invites"`
	}
	if err := r.decode(&req); err != nil {
		return nil, err
	}
	user, err := h.local(r, req.User)
	if err != nil {
		return nil, err
	}
	if _, err := h.c.Users.Profile(ctx, user, ""); err != nil {
		return nil, err // nobody of that name lives here
	}
	for _, in := range req.Invites[:min(len(req.Invites), maxBindings)] {
		if in.User != user || len(in.Signed) == 0 || !event.ValidServerName(in.Sender.Server()) {
			continue
		}
		if in.Name == "" {
			in.Name = user.Localpart()
		}
		third, err := json.Marshal(map[string]any{"display_name": in.Name, "signed": in.Signed})
		if err != nil {
			continue // no JSON: nobody could check it
		}
		t := thirdParty{Type: "m.room.member", Room: in.Room, Sender: in.Sender, StateKey: user}
		t.Content.Membership, t.Content.ThirdParty = "invite", third
		if err := h.redeem(ctx, r.local, t); err != nil {
			h.log.Info("third-party invite not issued", "room", in.Room, "sender", in.Sender, "err", err)
		}
	}
	return struct{}{}, nil
}

// redeem has an invite issued by its sender's server, which may be this one.
func (h *Handler) redeem(ctx context.Context, local Local, t thirdParty) error {
	if t.Sender.Server() != local.Server {
		return h.c.Client.As(local).ExchangeThirdParty(ctx, t)
	}
	content, err := json.Marshal(t.Content)
	if err != nil {
		return err
	}
	key := string(t.StateKey)
	_, err = h.c.Rooms.Send(ctx, room.Draft{Room: t.Room, Sender: t.Sender, Type: "m.room.member", StateKey: &key, Content: content})
	return err
}

// ExchangeThirdParty asks the server of a third-party invite's sender to invite the user that the address belongs to.
func (c *Client) ExchangeThirdParty(ctx context.Context, t thirdParty) error {
	return c.ask(ctx, t.Sender.Server(), call{method: http.MethodPut, path: v1("exchange_third_party_invite", string(t.Room)), body: t}, nil)
}
