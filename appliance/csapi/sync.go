// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/feed"
)

// sync: https://spec.matrix.org/v1.13/client-server-api/#get_matrixclientv3sync
func (h *Handler) sync(ctx context.Context, c *call) (any, error) {
	timeout, err := c.number("timeout", 0)
	if err != nil {
		return nil, err
	}
	q := c.r.URL.Query()
	raw, err := h.Feed.Sync(ctx, c.session.User, c.session.Device, feed.SyncRequest{
		Since: q.Get("since"), Filter: q.Get("filter"), FullState: q.Get("full_state") == "true",
		Timeout:    time.Duration(timeout) * time.Millisecond,
		StateAfter: q.Get("use_state_after") == "true" || q.Get("org.matrix.msc4222.use_state_after") == "true",
		Presence:   q.Get("set_presence"),
	})
	return json.RawMessage(raw), err
}

// keyChanges: https://spec.matrix.org/v1.13/client-server-api/#get_matrixclientv3keyschanges
func (h *Handler) keyChanges(ctx context.Context, c *call) (any, error) {
	from, to := c.query("from"), c.query("to")
	if from == "" {
		return nil, missing("from")
	}
	changed, left, err := h.Feed.KeyChanges(ctx, c.session.User, from, to)
	return map[string]any{"changed": changed, "left": left}, err
}

// typing: https://spec.matrix.org/v1.13/client-server-api/#put_matrixclientv3roomsroomidtypinguserid
func (h *Handler) typing(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[1])
	if err != nil {
		return nil, err
	}
	id, err := h.joinedRoom(ctx, c, c.params[0])
	if err != nil {
		return nil, err
	}
	var req struct {
		Typing  *bool `json:"typing"`
		Timeout int64 `json:"timeout"` // ms
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Typing == nil {
		return nil, missing("typing")
	}
	h.Feed.SetTyping(id, user, *req.Typing, time.Duration(req.Timeout)*time.Millisecond)
	return nil, nil
}

// setPresence: https://spec.matrix.org/v1.13/client-server-api/#put_matrixclientv3presenceuseridstatus
func (h *Handler) setPresence(_ context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	var req struct {
		Presence string  `json:"presence"`
		Status   *string `json:"status_msg"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	return nil, h.Feed.SetPresence(user, req.Presence, req.Status)
}

func (h *Handler) presence(ctx context.Context, c *call) (any, error) {
	user, err := userParam(c.params[0])
	if err != nil {
		return nil, err
	}
	return h.Feed.Presence(ctx, c.session.User, user)
}

// receipt: https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid
func (h *Handler) receipt(ctx context.Context, c *call) (any, error) {
	var req struct {
		Thread string `json:"thread_id"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	id, err := h.joinedRoom(ctx, c, c.params[0])
	if err != nil {
		return nil, err
	}
	typ, at := c.params[1], event.ID(c.params[2])
	switch typ {
	case "m.read", "m.read.private":
		return nil, h.setReceipt(ctx, c, id, typ, at, req.Thread)
	case "m.fully_read":
		if req.Thread != "" {
			return nil, invalid("m.fully_read knows no threads")
		}
		return nil, h.Accounts.SetReadMarker(ctx, c.session.User, id, at)
	}
	return nil, invalid("this receipt type is not known")
}

// setReceipt stores a receipt for an event of the room.
func (h *Handler) setReceipt(ctx context.Context, c *call, id event.RoomID, typ string, at event.ID, thread string) error {
	return h.Accounts.SetReceipt(ctx, account.Receipt{Room: id, User: c.session.User, Type: typ, Event: at, Thread: thread})
}

// readMarkers: https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3roomsroomidread_markers
func (h *Handler) readMarkers(ctx context.Context, c *call) (any, error) {
	var req map[string]any
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	id, err := h.joinedRoom(ctx, c, c.params[0])
	if err != nil {
		return nil, err
	}
	for _, typ := range []string{"m.fully_read", "m.read", "m.read.private"} {
		v, ok := req[typ]
		if !ok {
			continue
		}
		at, _ := v.(string)
		if at == "" {
			return nil, badJSON(typ + " must be an event id")
		}
		if typ == "m.fully_read" {
			err = h.Accounts.SetReadMarker(ctx, c.session.User, id, event.ID(at))
		} else {
			err = h.setReceipt(ctx, c, id, typ, event.ID(at), "")
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}
