// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// This file answers what other servers need to bring their users into rooms, out of them, and ours to theirs.

// visitor checks the parts that all make_* requests share: a room we are in, and a user of the server that asks.
func (h *Handler) visitor(ctx context.Context, r *request) (event.RoomID, event.UserID, *event.Version, error) {
	id := event.RoomID(r.PathValue("room"))
	user, err := event.ParseUserID(r.PathValue("user"))
	if err != nil {
		return "", "", nil, refuse(http.StatusBadRequest, "M_INVALID_PARAM", "that is no user id")
	}
	if user.Server() != r.origin {
		return "", "", nil, forbidden("the user does not live on the server that asks")
	}
	v, err := h.c.Rooms.Version(ctx, id)
	if err != nil {
		return "", "", nil, err
	}
	if err := h.checkResident(ctx, id, r.local); err != nil {
		return "", "", nil, err
	}
	return id, user, v, h.checkACL(ctx, id, r.origin)
}

func speaks(r *request, v *event.Version) error {
	vers := r.URL.Query()["ver"]
	if len(vers) == 0 {
		vers = []string{"1"}
	}
	if !slices.Contains(vers, v.ID) {
		return &incompatible{version: v.ID}
	}
	return nil
}

// incompatible is the error that names the room's version.
type incompatible struct{ version string }

func (e *incompatible) Error() string { return "the room is of version " + e.version }

func (h *Handler) template(ctx context.Context, local Local, id event.RoomID, user event.UserID, membership string) (any, error) {
	key := string(user)
	content, _ := json.Marshal(map[string]string{"membership": membership}) // strings only
	raw, v, err := h.c.Rooms.Template(ctx, room.Draft{Room: id, Sender: user, Type: "m.room.member", StateKey: &key, Content: content, Through: local.Server})
	if err != nil {
		return nil, err
	}
	return map[string]any{"event": json.RawMessage(raw), "room_version": v.ID}, nil
}

func (h *Handler) makeJoin(ctx context.Context, r *request) (any, error) {
	id, user, v, err := h.visitor(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := speaks(r, v); err != nil {
		return nil, err
	}
	if err := h.checkWhole(ctx, id); err != nil {
		return nil, err
	}
	return h.onceInvited(ctx, id, user, func() (any, error) { return h.template(ctx, r.local, id, user, "join") })
}

func (h *Handler) makeLeave(ctx context.Context, r *request) (any, error) {
	id, user, _, err := h.visitor(ctx, r)
	if err != nil {
		return nil, err
	}
	return h.template(ctx, r.local, id, user, "leave")
}

func (h *Handler) makeKnock(ctx context.Context, r *request) (any, error) {
	id, user, v, err := h.visitor(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := speaks(r, v); err != nil {
		return nil, err
	}
	if err := h.checkWhole(ctx, id); err != nil {
		return nil, err
	}
	return h.template(ctx, r.local, id, user, "knock")
}

// membership reads and checks the event of a send_join, send_leave or send_knock, and takes it in.
func (h *Handler) membership(ctx context.Context, r *request, want string) (*event.PDU, error) {
	id := event.RoomID(r.PathValue("room"))
	v, err := h.c.Rooms.Version(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := h.checkResident(ctx, id, r.local); err != nil {
		return nil, err
	}
	if err := h.checkACL(ctx, id, r.origin); err != nil {
		return nil, err
	}
	if want != "leave" {
		if err := h.checkWhole(ctx, id); err != nil {
			return nil, err
		}
	}
	if len(r.body) == 0 {
		return nil, refuse(http.StatusBadRequest, "M_NOT_JSON", "a JSON body is needed")
	}
	p, err := event.Parse(v, r.body)
	if err != nil {
		return nil, badJSON("the event cannot be read: " + err.Error())
	}
	var content struct {
		Membership string       `json:"membership"`
		Via        event.UserID `json:"join_authorised_via_users_server"`
	}
	if json.Unmarshal(p.Content, &content) != nil || p.Type != "m.room.member" || p.StateKey == nil || *p.StateKey != string(p.Sender) || content.Membership != want {
		return nil, refuse(http.StatusBadRequest, "M_BAD_JSON", "the event is no "+want+" of its sender")
	}
	if p.RoomID != id || string(p.ID) != r.PathValue("event") {
		return nil, refuse(http.StatusBadRequest, "M_BAD_JSON", "the event does not fit the path")
	}
	if p.Sender.Server() != r.origin {
		return nil, forbidden("the sender does not live on the server that sends")
	}
	if p.CheckHash() != nil {
		return nil, badJSON("the content hash does not match")
	}
	if want == "join" && content.Via != "" && content.Via.Server() == r.local.Server {
		// Our signature says that the user may join by the room's restricted rule; the law checks the rest.
		// https://spec.matrix.org/v1.16/server-server-api/#put_matrixfederationv2send_joinroomideventid
		if p, err = p.Sign(r.local.Server, r.local.Key); err != nil {
			return nil, err
		}
	}
	if err := h.c.Client.VerifyPDU(ctx, p); err != nil {
		if errors.Is(err, ErrKeyUnavailable) {
			return nil, refuse(http.StatusForbidden, "M_FORBIDDEN", errKey.Error())
		}
		return nil, forbidden("the event is not signed as it must be")
	}
	// Who comes from outside does not know yet that the room has a policy server; we do.
	if p, err = h.c.Client.As(r.local).Vet(ctx, p); err != nil {
		return nil, err
	}
	res, err := h.c.Rooms.Accept(ctx, room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: r.origin},
		ExtraTx: func(tx *store.Tx) error { return tx.Owe(id, p.ID) }})
	if err != nil {
		return nil, err
	}
	switch res.Outcome {
	case room.Accepted, room.Duplicate:
		return p, nil
	case room.Missing:
		return nil, refuse(http.StatusBadRequest, "M_INVALID_PARAM", "the event names ancestors that are unknown here")
	}
	return nil, forbidden(res.Reason)
}

// sendJoin takes a join in and gives the room. Who asks for it gets it without its members.
// https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid
func (h *Handler) sendJoin(ctx context.Context, r *request) (any, error) {
	parts, err := h.joined(ctx, r, r.query("omit_members") == "true")
	if err != nil {
		return nil, err
	}
	return h.stream(ctx, r, "{", "}", parts)
}

// sendJoinV1 gives the same in the older form.
func (h *Handler) sendJoinV1(ctx context.Context, r *request) (any, error) {
	parts, err := h.joined(ctx, r, false)
	if err != nil {
		return nil, err
	}
	return h.stream(ctx, r, "[200,{", "}]", parts)
}

// joined takes a join in and gives the parts of the answer.
func (h *Handler) joined(ctx context.Context, r *request, omit bool) ([]part, error) {
	p, err := h.membership(ctx, r, "join")
	if err != nil {
		return nil, err
	}
	told, err := h.c.Rooms.TellJoin(ctx, p.ID, omit)
	if err != nil {
		return nil, err
	}
	return []part{value("origin", r.local.Server), value("members_omitted", told.Omitted), value("servers_in_room", told.Servers),
		value("event", json.RawMessage(p.JSON())), {"state", events(told, told.State)}, {"auth_chain", events(told, told.Auth)}}, nil
}

func (h *Handler) sendLeave(ctx context.Context, r *request) (any, error) {
	_, err := h.membership(ctx, r, "leave")
	return struct{}{}, err
}

func (h *Handler) sendLeaveV1(ctx context.Context, r *request) (any, error) {
	_, err := h.membership(ctx, r, "leave")
	return []any{200, struct{}{}}, err
}

func (h *Handler) sendKnock(ctx context.Context, r *request) (any, error) {
	p, err := h.membership(ctx, r, "knock")
	if err != nil {
		return nil, err
	}
	state, err := strippedState(ctx, h.c.Rooms, p.RoomID, p.Sender)
	if err != nil {
		return nil, err
	}
	return map[string]any{"knock_room_state": state}, nil
}
