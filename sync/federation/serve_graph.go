// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/rules"
)

// This file answers questions about rooms' graphs and states, to servers that have a member in the room.

func raws(pdus []*event.PDU) []json.RawMessage {
	out := make([]json.RawMessage, len(pdus))
	for i, p := range pdus {
		out[i] = p.JSON()
	}
	return out
}

// backfill gives events and what came before them.
// https://spec.matrix.org/v1.16/server-server-api/#get_matrixfederationv1backfillroomid
func (h *Handler) backfill(ctx context.Context, r *request) (any, error) {
	id := event.RoomID(r.PathValue("room"))
	if err := h.checkIn(ctx, id, r); err != nil {
		return nil, err
	}
	q := r.URL.Query()
	var from []event.ID
	for _, v := range q["v"] {
		if from = append(from, event.ID(v)); len(from) == 100 {
			break
		}
	}
	if len(from) == 0 {
		return nil, refuse(http.StatusBadRequest, "M_MISSING_PARAM", "v is missing")
	}
	pdus, err := h.c.Rooms.Backfill(ctx, id, from, number(q, "limit", 100, 100))
	if err != nil {
		return nil, err
	}
	if pdus, err = h.seen(ctx, id, r, pdus); err != nil {
		return nil, err
	}
	return h.transactionOf(r.local, pdus), nil
}

// transactionOf is the form of answers that look like transactions.
func (h *Handler) transactionOf(local Local, pdus []*event.PDU) any {
	return map[string]any{"origin": local.Server, "origin_server_ts": millis(h.c.Now()), "pdus": raws(pdus)}
}

// missingEvents gives the events between two ends. Limits up to 100 are honoured: who is behind should not have to ask often.
func (h *Handler) missingEvents(ctx context.Context, r *request) (any, error) {
	id := event.RoomID(r.PathValue("room"))
	var req struct {
		Earliest []event.ID `json:"earliest_events"`
		Latest   []event.ID `json:"latest_events"`
		Limit    *int       `json:"limit"`
		MinDepth int        `json:"min_depth"`
	}
	if err := r.decode(&req); err != nil {
		return nil, err
	}
	if err := h.checkIn(ctx, id, r); err != nil {
		return nil, err
	}
	limit := 10
	if req.Limit != nil {
		limit = min(max(*req.Limit, 0), 100)
	}
	if len(req.Latest) > 100 || len(req.Earliest) > 1000 {
		return nil, refuse(http.StatusBadRequest, "M_INVALID_PARAM", "too many events")
	}
	pdus, err := h.c.Rooms.MissingEvents(ctx, id, req.Earliest, req.Latest, limit, req.MinDepth)
	if err != nil {
		return nil, err
	}
	if pdus, err = h.seen(ctx, id, r, pdus); err != nil {
		return nil, err
	}
	return map[string]any{"events": raws(pdus)}, nil
}

// at gives the event that a question is about, after checking that it belongs to the room and that the server may ask.
func (h *Handler) at(ctx context.Context, r *request, id event.ID) (*event.PDU, error) {
	room := event.RoomID(r.PathValue("room"))
	if err := h.checkIn(ctx, room, r); err != nil {
		return nil, err
	}
	p, _, err := h.c.Rooms.Event(ctx, id)
	if err != nil {
		return nil, err
	}
	if p.RoomID != room {
		return nil, notFound("the event is not in this room")
	}
	return p, nil
}

// state gives the state before an event, and what authorises it.
// https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1stateroomid
func (h *Handler) state(ctx context.Context, r *request) (any, error) {
	p, err := h.at(ctx, r, event.ID(r.query("event_id")))
	if err != nil {
		return nil, err
	}
	if err := h.awaitWhole(ctx, p.RoomID); err != nil {
		return nil, err
	}
	told, err := h.c.Rooms.TellState(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	return h.stream(ctx, r, "{", "}", []part{{"pdus", events(told, told.State)}, {"auth_chain", events(told, told.Auth)}})
}

// stateIDs is state with ids in place of events.
func (h *Handler) stateIDs(ctx context.Context, r *request) (any, error) {
	p, err := h.at(ctx, r, event.ID(r.query("event_id")))
	if err != nil {
		return nil, err
	}
	if err := h.awaitWhole(ctx, p.RoomID); err != nil {
		return nil, err
	}
	told, err := h.c.Rooms.TellState(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	return h.stream(ctx, r, "{", "}", []part{{"pdu_ids", ids(told, told.State)}, {"auth_chain_ids", ids(told, told.Auth)}})
}

// event gives one event to a server of its room.
func (h *Handler) event(ctx context.Context, r *request) (any, error) {
	p, meta, err := h.c.Rooms.Event(ctx, event.ID(r.PathValue("event")))
	if err != nil {
		return nil, err
	}
	if err := h.checkIn(ctx, p.RoomID, r); err != nil {
		return nil, err
	}
	if !meta.Outlier {
		seen, err := h.seen(ctx, p.RoomID, r, []*event.PDU{p})
		if err != nil {
			return nil, err
		}
		p = seen[0]
	}
	return h.transactionOf(r.local, []*event.PDU{p}), nil
}

func (h *Handler) eventAuth(ctx context.Context, r *request) (any, error) {
	p, err := h.at(ctx, r, event.ID(r.PathValue("event")))
	if err != nil {
		return nil, err
	}
	told, err := h.c.Rooms.TellAuthority(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	return h.stream(ctx, r, "{", "}", []part{{"auth_chain", events(told, told.Auth)}})
}

// seen gives events as a server may see them: where history was only for members and the server had none, redacted. The
// graph stays whole that way.
// https://spec.matrix.org/v1.16/client-server-api/#room-history-visibility
func (h *Handler) seen(ctx context.Context, id event.RoomID, r *request, pdus []*event.PDU) ([]*event.PDU, error) {
	if r.guest() {
		return pdus, nil
	}
	now, err := h.c.Rooms.StateEvent(ctx, id, "m.room.history_visibility", "")
	if err != nil {
		return nil, err
	}
	out := make([]*event.PDU, 0, len(pdus))
	for _, p := range pdus {
		may, err := h.showsNow(ctx, now, r.origin, p)
		if err != nil {
			return nil, err
		}
		if !may {
			if p, err = p.Redacted(); err != nil {
				continue
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// shows says whether a server may see an event as it is.
func (h *Handler) shows(ctx context.Context, id event.RoomID, server string, p *event.PDU) (bool, error) {
	now, err := h.c.Rooms.StateEvent(ctx, id, "m.room.history_visibility", "")
	if err != nil {
		return false, err
	}
	return h.showsNow(ctx, now, server, p)
}

// showsNow is shows with the present history visibility. State is told to every server in the room anyway, and what a server's own users wrote is theirs.
func (h *Handler) showsNow(ctx context.Context, now *event.PDU, server string, p *event.PDU) (bool, error) {
	if p.IsState() || p.Sender.Server() == server || open(now) {
		return true, nil
	}
	return h.mayRead(ctx, p, server)
}

// open says whether history is open to all who are in the room now, as the present setting has it.
func open(visibility *event.PDU) bool {
	return rules.ServerCanSee(visibilityOf(visibility), false, false)
}

func visibilityOf(p *event.PDU) string {
	if p == nil {
		return "shared"
	}
	var c struct {
		V string `json:"history_visibility"`
	}
	if json.Unmarshal(p.Content, &c) != nil || c.V == "" {
		return "shared"
	}
	return c.V
}

// mayRead asks the state before an event: was history open then, or a user of the server a member?
func (h *Handler) mayRead(ctx context.Context, p *event.PDU, server string) (bool, error) {
	ids, err := h.c.Rooms.StateBefore(ctx, p.ID)
	if unknown := (*room.Error)(nil); errors.As(err, &unknown) {
		return false, nil // history of which we know no state: the present setting, which is not open, decides
	} else if err != nil {
		return false, err // a redacted copy would stay with the other server for good
	}
	var visibility *event.PDU
	if id, ok := ids[rules.Key{Type: "m.room.history_visibility"}]; ok {
		if visibility, _, err = h.c.Rooms.Event(ctx, id); err != nil {
			return false, err
		}
	}
	v := visibilityOf(visibility)
	if rules.ServerCanSee(v, false, false) {
		return true, nil
	}
	for k, id := range ids {
		if k.Type != "m.room.member" || event.UserID(k.StateKey).Server() != server {
			continue
		}
		m, _, err := h.c.Rooms.Event(ctx, id)
		if err != nil {
			return false, err
		}
		var c struct {
			Membership string `json:"membership"`
		}
		if json.Unmarshal(m.Content, &c) == nil && rules.ServerCanSee(v, c.Membership == "join", c.Membership == "invite") {
			return true, nil
		}
	}
	return false, nil
}
