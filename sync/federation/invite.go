// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"hallig/appliance/event"
)

// This file takes in invites of local users by other servers: for Handler, and for a hub whose box is away.

// Invite is what another server sends to have somebody invited.
type Invite struct {
	Event    *event.PDU
	Stripped []json.RawMessage // what it tells of the room, as it came: events or parts of them
}

// User is who is invited.
func (i Invite) User() event.UserID { return event.UserID(*i.Event.StateKey) }

// Answer is the body of a 200: the event, signed by the server of who is invited.
func (i Invite) Answer() any { return map[string]any{"event": json.RawMessage(i.Event.JSON())} }

// ReadInvite reads the request PUT /invite of a server, by its path (escaped, as on the wire) and body. It is an invite by a user of that server which fits the path, for whomever; no signature is looked at.
// AnswerError tells the server what is wrong.
// https://spec.matrix.org/v1.16/server-server-api/#put_matrixfederationv2inviteroomideventid
func ReadInvite(escapedPath, origin string, body []byte) (Invite, error) {
	var i Invite
	parts := strings.Split(strings.TrimPrefix(escapedPath, "/_matrix/federation/"), "/")
	if len(parts) != 4 || parts[1] != "invite" || parts[0] != "v1" && parts[0] != "v2" {
		return i, invalid("that is no path of an invite")
	}
	room, rerr := url.PathUnescape(parts[2])
	id, ierr := url.PathUnescape(parts[3])
	if rerr != nil || ierr != nil {
		return i, invalid("that is no path of an invite")
	}
	if len(body) == 0 {
		return i, refuse(http.StatusBadRequest, "M_NOT_JSON", "a JSON body is needed")
	}
	if parts[0] == "v1" { // of rooms of version 1 and 2, where nobody here can be
		return i, &incompatible{version: "1"}
	}
	var req struct {
		Event    json.RawMessage   `json:"event"`
		Stripped []json.RawMessage `json:"invite_room_state"`
		Version  string            `json:"room_version"`
	}
	if json.Unmarshal(body, &req) != nil {
		return i, errForm
	}
	v, ok := event.Lookup(req.Version)
	if !ok || v.Readable {
		return i, &incompatible{version: req.Version}
	}
	p, err := event.Parse(v, req.Event)
	if err != nil {
		return i, badJSON("the invite cannot be read: " + err.Error())
	}
	var content struct {
		Membership string `json:"membership"`
	}
	switch { // nothing but an invite by a user of the server that asks is ever signed
	case json.Unmarshal(p.Content, &content) != nil || p.Type != "m.room.member" || p.StateKey == nil || content.Membership != "invite":
		return i, invalid("the event is no invite")
	case string(p.RoomID) != room || string(p.ID) != id:
		return i, invalid("the event does not fit the path")
	case p.Sender.Server() != origin:
		return i, invalid("the sender does not live on the server that sends")
	case p.CheckHash() != nil:
		return i, invalid("the content hash does not match")
	}
	return Invite{Event: p, Stripped: req.Stripped}, nil
}

// Cosign signs an invite for the server of who is invited, in whose place somebody answers. What that server would refuse, when it gets the invite later, for what stands in it is refused.
// ErrKeyUnavailable: it cannot be told now; AnswerError knows the others.
func (i Invite) Cosign(ctx context.Context, ring *KeyRing, as Local) (Invite, error) {
	if i.User().Server() != as.Server {
		return i, notFound("the user does not live on this server")
	}
	if err := verifyInvite(ctx, ring, i); err != nil {
		return i, err
	}
	if i.Event.Version.CreateIsRoomID { // of older versions nothing that is told of the room is refused
		_, err := described(ctx, i.Event.Version, i.Event.RoomID, i.Stripped, func(ctx context.Context, p *event.PDU) (*event.PDU, error) {
			if err := verifyPDU(ctx, ring, p); err != nil {
				return nil, err
			}
			return hashed(p)
		})
		if err != nil {
			return i, err
		}
	}
	var err error
	i.Event, err = i.Event.Sign(as.Server, as.Key)
	return i, err
}

// verifyInvite says whether the event of an invite is signed by its sender's server.
func verifyInvite(ctx context.Context, ring *KeyRing, i Invite) error {
	err := verifyPDU(ctx, ring, i.Event)
	if err == nil || errors.Is(err, ErrKeyUnavailable) {
		return err
	}
	return invalid("the invite is not signed as it must be")
}

// invite co-signs an invite of a local user and tells the user.
func (h *Handler) invite(ctx context.Context, r *request) (any, error) {
	i, err := ReadInvite(r.URL.EscapedPath(), r.origin, r.body)
	if err != nil {
		return nil, err
	}
	user, err := h.local(r, string(i.User()))
	if err != nil {
		return nil, err
	}
	if _, err := h.c.Users.Profile(ctx, user, ""); err != nil {
		return nil, err // nobody of that name lives here
	}
	if err := verifyInvite(ctx, h.c.Ring, i); errors.Is(err, ErrKeyUnavailable) { // it passes, and a hub that has said yes to the invite asks again
		return nil, refuse(http.StatusServiceUnavailable, "M_UNKNOWN", errKey.Error())
	} else if err != nil {
		return nil, err
	}
	if err := h.checkACL(ctx, i.Event.RoomID, r.origin); err != nil {
		return nil, err
	}
	stripped, err := h.c.Client.described(ctx, r.origin, i.Event.Version, i.Event.RoomID, i.Stripped)
	if err != nil {
		return nil, err
	}
	if i.Event, err = i.Event.Sign(r.local.Server, r.local.Key); err != nil {
		return nil, err
	}
	return i.Answer(), h.c.Rooms.AcceptInvite(ctx, i.Event.Version, i.Event, stripped)
}
