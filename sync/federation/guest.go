// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"slices"

	"hallig/appliance/event"
)

// This file lets a server read our rooms that has nobody in them: the hub that answers for us while we are away.

type guestKey struct{}

// WithGuest says of a request that it came from a server which keeps copies of our rooms for us. What that server signs itself is answered about the graph of each room
// that our users share with others, unredacted and whatever the room's access list says: it answers in our place, and by the same rules. Only for a connection that proves
// who is at its other end.
func WithGuest(ctx context.Context, server string) context.Context {
	return context.WithValue(ctx, guestKey{}, server)
}

// guest says whether a request is that server's own, not one that it hands on.
func (r *request) guest() bool {
	server, _ := r.Context().Value(guestKey{}).(string)
	return server != "" && server == r.origin
}

// checkShared refuses a guest where nobody will ask it: in rooms that we have left, or have to ourselves.
func (h *Handler) checkShared(ctx context.Context, room event.RoomID, r *request) error {
	servers, err := h.c.Rooms.Servers(ctx, room)
	if err == nil && (len(servers) < 2 || !slices.Contains(servers, r.local.Server)) {
		err = forbidden("no other server is in this room")
	}
	return err
}
