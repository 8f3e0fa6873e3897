// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"errors"
	"net/http"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/replica"
)

// This file answers about the rooms of a box that is away, from the copies of them (hub/replica).

// openReplica takes up the copies of the boxes' rooms.
func (h *Hub) openReplica(ctx context.Context) (err error) {
	var boxes []string
	for server, e := range h.roster.Load().by {
		if e.revoked == "" {
			boxes = append(boxes, server)
		}
	}
	h.replica, err = replica.Open(ctx, replica.Config{
		DB: h.db, Local: h.local, Ring: h.ring, Boxes: roundTrip(h.way), InReach: h.p2p.InReach, Memory: h.spool, Log: h.log.With("room", "replica"), Now: h.now, Limits: h.cfg.Replica,
	}, boxes)
	return err
}

// rooms takes in which rooms a box shares with others.
func (h *Hub) rooms(w http.ResponseWriter, r *http.Request, from entry) {
	if r.Method != http.MethodPut {
		refuse(w, http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "want PUT")
		return
	}
	raw, release, err := h.verifier(r).Body(w, r)
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "the body is too long or did not arrive")
		return
	}
	defer release()
	told, err := api.ReadRooms(raw)
	if err != nil {
		h.log.Warn("what a box says of its rooms was not taken", "box", from.Server, "err", err)
		refuse(w, http.StatusBadRequest, "M_BAD_JSON", err.Error())
		return
	}
	err = h.replica.Told(r.Context(), from.Server, told)
	switch {
	case errors.Is(err, replica.ErrAll):
		refuse(w, http.StatusConflict, "M_UNKNOWN", err.Error())
	case err != nil:
		if h.seldom.may("rooms "+from.Server, h.now()) {
			h.log.Error("note which rooms a box has; it says so again", "box", from.Server, "err", err)
		}
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot keep it now")
	default:
		answer(w, http.StatusOK, struct{}{})
	}
}

// aboutRooms answers a signed question about the graph of a room of a box that is away. False: nothing of it is known here.
func (h *Hub) aboutRooms(w http.ResponseWriter, r *http.Request, to entry, body []byte) bool {
	a, ok := h.signedQuestion(w, r, to, body)
	if a.Origin == "" {
		return ok
	}
	return h.replica.Answer(w, r, federation.Question{Local: to.Server, Origin: a.Origin, Body: body})
}

// Admits says whether a room's access list lets a server take part, as far as the hub knows the room; what it does not know it does not admit. Central servers look at the
// origin of a transaction only, so whoever sends a box's events on in a transaction of the hub's own asks here first.
func (h *Hub) Admits(ctx context.Context, room event.RoomID, server string) bool {
	return h.replica.Allowed(ctx, room, server)
}
