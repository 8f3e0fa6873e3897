// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// maxReason bounds what a report says in the log.
const maxReason = 1000

// report reads the body of a report and cuts its reason.
func (c *call) report() (string, error) {
	var req struct {
		Reason string `json:"reason"`
	}
	if err := c.decode(&req); err != nil {
		return "", err
	}
	return req.Reason[:min(len(req.Reason), maxReason)], nil
}

// reportEvent puts a report where who runs the box reads of trouble: into the log. Who may not see the event learns nothing of it.
// https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3roomsroomidreporteventid
func (h *Handler) reportEvent(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	reason, err := c.report()
	if err != nil {
		return nil, err
	}
	if _, err := h.Feed.Event(ctx, c.session.User, c.session.Device, id, event.ID(c.params[1])); err != nil {
		return nil, err
	}
	h.log.Warn("a user reports an event", "user", c.session.User, "room", id, "event", c.params[1], "reason", reason)
	return nil, nil
}

// reportRoom is https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3roomsroomidreport
func (h *Handler) reportRoom(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	reason, err := c.report()
	if err != nil {
		return nil, err
	}
	m, err := h.membership(ctx, id, c.session.User)
	if err != nil {
		return nil, err
	}
	if m.Membership == "" {
		return nil, notFound("there is no such room for you")
	}
	h.log.Warn("a user reports a room", "user", c.session.User, "room", id, "reason", reason)
	return nil, nil
}

// eventAtTime finds the event nearest to a time, in what this box has.
func (h *Handler) eventAtTime(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	ts, err := strconv.ParseInt(c.query("ts"), 10, 64)
	if err != nil {
		return nil, invalid("ts must be a time in milliseconds")
	}
	dir := c.query("dir")
	if dir != "f" && dir != "b" {
		return nil, invalid(`dir must be "b" or "f"`)
	}
	back := dir == "b"
	found, at, err := h.Feed.AtTime(ctx, c.session.User, c.session.Device, id, ts, back)
	var none *room.Error
	if err != nil && (!errors.As(err, &none) || none.Code != "M_NOT_FOUND") {
		return nil, err
	}
	asked, err2 := h.askAtTime(ctx, id, ts, back)
	if err2 != nil {
		return nil, err2
	}
	if asked { // it may have brought a nearer one
		found, at, err = h.Feed.AtTime(ctx, c.session.User, c.session.Device, id, ts, back)
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"event_id": found, "origin_server_ts": at}, nil
}

// askAtTime has other servers look where history is missing here; false when there was nobody, or no reason, to ask.
func (h *Handler) askAtTime(ctx context.Context, id event.RoomID, ts int64, back bool) (bool, error) {
	if h.Remote == nil {
		return false, nil
	}
	gaps, err := h.Rooms.Gaps(ctx, id)
	if err != nil || len(gaps) == 0 {
		return false, err
	}
	_, err = h.slow.do(ctx, fmt.Sprint("time ", id, " ", ts, " ", back), func(ctx context.Context) (any, error) {
		found, _, err := h.Remote.EventAtTime(ctx, id, ts, back)
		return found, err
	})
	return err == nil, nil // what is here must do when nobody can be asked
}
