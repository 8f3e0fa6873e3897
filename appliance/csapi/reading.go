// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"net/http"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/feed"
)

func (h *Handler) state(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	if err := h.Rooms.AwaitWhole(ctx, id); err != nil {
		return nil, err
	}
	return h.Feed.State(ctx, c.session.User, id)
}

func (h *Handler) stateEvent(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	whole := c.query("format") == "event"
	out, err := h.Feed.StateEvent(ctx, c.session.User, id, c.params[1], c.params[2], whole)
	if err == nil || c.params[1] != "m.room.member" {
		return out, err
	}
	if err := h.Rooms.AwaitWhole(ctx, id); err != nil { // it may be among those that are lacking yet
		return nil, err
	}
	return h.Feed.StateEvent(ctx, c.session.User, id, c.params[1], c.params[2], whole)
}

func (h *Handler) event(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	return h.Feed.Event(ctx, c.session.User, c.session.Device, id, event.ID(c.params[1]))
}

func (h *Handler) eventContext(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	limit, err := c.number("limit", 10)
	if err != nil {
		return nil, err
	}
	return h.Feed.Context(ctx, c.session.User, c.session.Device, id, event.ID(c.params[1]), limit, c.query("filter"))
}

// page reads the parameters of requests that page through history.
func (c *call) page() (feed.MessagesRequest, error) {
	limit, err := c.number("limit", 0)
	return feed.MessagesRequest{From: c.query("from"), To: c.query("to"), Dir: c.query("dir"), Limit: limit, Filter: c.query("filter")}, err
}

// backfillPatience is how long a reader waits for other servers' history; what comes later is there for the next page.
const backfillPatience = 8 * time.Second

// messages: https://spec.matrix.org/v1.13/client-server-api/#get_matrixclientv3roomsroomidmessages
func (h *Handler) messages(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	req, err := c.page()
	if err != nil {
		return nil, err
	}
	if m, err := h.membership(ctx, id, c.session.User); err != nil || m.Forgotten {
		if err == nil {
			err = forbidden("the user has forgotten this room")
		}
		return nil, err
	}
	out, err := h.Feed.Messages(ctx, c.session.User, c.session.Device, id, req)
	if err != nil || !out.NeedBackfill {
		return out, err
	}
	if h.Remote == nil {
		if len(out.Chunk) == 0 {
			out.End = "" // nobody can be asked: for this reader the history ends here
		}
		return out, nil
	}
	if err := h.backfill(ctx, id, max(req.Limit, 50)); err != nil {
		if len(out.Chunk) == 0 {
			// Neither news nor an end: a reader that pages on would ask again at once and for ever.
			return nil, refuse(http.StatusBadGateway, "M_UNKNOWN", "older history is on servers that cannot be reached now")
		}
		return out, nil
	}
	out, err = h.Feed.Messages(ctx, c.session.User, c.session.Device, id, req)
	if err == nil && out.NeedBackfill && len(out.Chunk) == 0 {
		out.End = "" // the others have told what they have
	}
	return out, err
}

// backfill asks the room's other servers for older history.
func (h *Handler) backfill(ctx context.Context, id event.RoomID, limit int) error {
	wait, stop := context.WithTimeout(ctx, backfillPatience)
	defer stop()
	_, err := h.slow.do(wait, "backfill "+string(id), func(ctx context.Context) (any, error) {
		return nil, h.Remote.Backfill(ctx, id, min(limit, 100))
	})
	if err != nil {
		h.log.Info("older history could not be fetched", "room", id, "err", err)
	}
	return err
}

// relations: https://spec.matrix.org/v1.13/client-server-api/#get_matrixclientv1roomsroomidrelationseventid
func (h *Handler) relations(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	req, err := c.page()
	if err != nil {
		return nil, err
	}
	return h.Feed.Relations(ctx, c.session.User, c.session.Device, id, event.ID(c.params[1]), c.params[2], c.params[3], req, c.query("recurse") == "true")
}

// members: https://spec.matrix.org/v1.13/client-server-api/#get_matrixclientv3roomsroomidmembers
func (h *Handler) members(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	if err := h.Rooms.AwaitWhole(ctx, id); err != nil {
		return nil, err
	}
	return h.Feed.Members(ctx, c.session.User, c.session.Device, id, feed.MembersRequest{
		At: c.query("at"), Membership: c.query("membership"), NotMembership: c.query("not_membership"),
	})
}

func (h *Handler) joinedMembers(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	if err := h.Rooms.AwaitWhole(ctx, id); err != nil {
		return nil, err
	}
	return h.Feed.JoinedMembers(ctx, c.session.User, id)
}
