// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// delivery tells a member how far an event has got: GET /_hallig/v1/rooms/{roomId}/delivery/{eventId}, an endpoint of ours. Whoever may see the
// event may see that; M_NOT_FOUND otherwise. Package delivery says what the answer looks like.
func (h *Handler) delivery(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	if _, err := h.Feed.Event(ctx, c.session.User, c.session.Device, id, event.ID(c.params[1])); err != nil {
		return nil, err
	}
	answer, ok, err := h.Delivery(ctx, id, event.ID(c.params[1]))
	if err == nil && !ok {
		err = &room.Error{Code: "M_NOT_FOUND", Status: 404, Text: "there is no such event, or you may not see it"}
	}
	return answer, err
}
