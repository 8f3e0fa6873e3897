// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/room"
)

// timestamp is the ?ts= by which application services date their events.
// https://spec.matrix.org/v1.13/application-service-api/#timestamp-massaging
func (c *call) timestamp() (int64, error) {
	s := c.query("ts")
	if s == "" || c.service == nil {
		return 0, nil
	}
	ts, err := strconv.ParseInt(s, 10, 64)
	if err != nil || ts < 0 {
		return 0, invalid("ts must be milliseconds")
	}
	return ts, nil
}

// send: https://spec.matrix.org/v1.13/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid
func (h *Handler) send(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	content, err := c.body()
	if err != nil {
		return nil, err
	}
	ts, err := c.timestamp()
	if err != nil {
		return nil, err
	}
	content, granted, err := h.grant(ctx, id, c.session.User, c.params[1], content)
	if err != nil {
		return nil, err
	}
	d := room.Draft{Room: id, Sender: c.session.User, Type: c.params[1], Content: content, TS: ts, Txn: &room.Txn{
		Device: c.session.Device, ID: c.params[2], Path: "send/" + c.params[0] + "/" + c.params[1],
	}}
	if d.Type == "m.room.redaction" {
		var r struct {
			Redacts event.ID `json:"redacts"`
		}
		if err := unmarshal(content, &r); err != nil {
			return nil, err
		}
		d.Redacts = r.Redacts
	}
	if granted != "" {
		eid, err := h.Rooms.Send(ctx, d)
		return grantedBody{eid, granted}, err
	}
	return h.sent(h.Rooms.Send(ctx, d))
}

// sent is the answer of all that makes an event.
func (h *Handler) sent(id event.ID, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return eventIDBody{id}, nil
}

type eventIDBody struct {
	ID event.ID `json:"event_id"`
}

// redact: https://spec.matrix.org/v1.13/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid
func (h *Handler) redact(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	var req struct {
		Reason string `json:"reason,omitempty"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	content, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	return h.sent(h.Rooms.Send(ctx, room.Draft{
		Room: id, Sender: c.session.User, Type: "m.room.redaction", Content: content, Redacts: event.ID(c.params[1]),
		Txn: &room.Txn{Device: c.session.Device, ID: c.params[2], Path: "redact/" + c.params[0] + "/" + c.params[1]},
	}))
}

// setState: https://spec.matrix.org/v1.13/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
func (h *Handler) setState(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	content, err := c.body()
	if err != nil {
		return nil, err
	}
	ts, err := c.timestamp()
	if err != nil {
		return nil, err
	}
	typ, key := c.params[1], c.params[2]
	switch typ {
	case "m.room.member":
		return h.setMember(ctx, c, id, event.UserID(key), content)
	case "m.room.canonical_alias":
		if err := h.checkCanonicalAlias(ctx, id, content); err != nil {
			return nil, err
		}
	case priority.Type:
		if err := checkPolicy(content); err != nil {
			return nil, err
		}
	}
	return h.sent(h.Rooms.Send(ctx, room.Draft{Room: id, Sender: c.session.User, Type: typ, StateKey: &key, Content: content, TS: ts}))
}

// setMember lets clients write member events themselves, with the same care as the requests made for it.
func (h *Handler) setMember(ctx context.Context, c *call, id event.RoomID, user event.UserID, content json.RawMessage) (any, error) {
	var m struct {
		Membership string `json:"membership"`
	}
	if err := unmarshal(content, &m); err != nil {
		return nil, err
	}
	if m.Membership == "invite" && user != c.session.User {
		if _, err := userParam(string(user)); err != nil {
			return nil, err
		}
		if err := h.invitable(ctx, user); err != nil {
			return nil, err
		}
		if !h.Accounts.Local(user) {
			if err := h.inviteUser(ctx, inviteRequest{sender: c.session.User, room: id, target: user, content: content}); err != nil {
				return nil, err
			}
			e, err := h.Rooms.StateEvent(ctx, id, "m.room.member", string(user))
			if err != nil || e == nil {
				return nil, err
			}
			return eventIDBody{e.ID}, nil
		}
	}
	key := string(user)
	return h.sent(h.Rooms.Send(ctx, room.Draft{Room: id, Sender: c.session.User, Type: "m.room.member", StateKey: &key, Content: content}))
}

// joinedRoom checks that the caller is in the room.
func (h *Handler) joinedRoom(ctx context.Context, c *call, s string) (event.RoomID, error) {
	id, err := roomID(s)
	if err != nil {
		return "", err
	}
	m, err := h.membership(ctx, id, c.session.User)
	if err != nil {
		return "", err
	}
	if m.Membership != "join" {
		return "", forbidden("the user is not in this room")
	}
	return id, nil
}

// upgrade makes a new room of another version and points to it from the old one.
// https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3roomsroomidupgrade
func (h *Handler) upgrade(ctx context.Context, c *call) (any, error) {
	old, err := h.joinedRoom(ctx, c, c.params[0])
	if err != nil {
		return nil, err
	}
	var req struct {
		Version    string         `json:"new_version"`
		Additional []event.UserID `json:"additional_creators"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if !creatable(req.Version) {
		return nil, refuse(http.StatusBadRequest, "M_UNSUPPORTED_ROOM_VERSION", "this room version cannot be created here")
	}
	return h.upgradeRoom(ctx, c.session.User, old, req.Version, req.Additional)
}
