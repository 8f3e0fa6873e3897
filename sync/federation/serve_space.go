// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// This file looks into rooms from outside: spaces of other servers, and the event at a time that lies in a history we do not have.

// hierarchy describes a room and its children to a server that may see them.
// https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid
func (h *Handler) hierarchy(ctx context.Context, r *request) (any, error) {
	id := event.RoomID(r.PathValue("room"))
	if h.c.Users == nil {
		return nil, notFound("this room is not known here")
	}
	if err := h.checkACL(ctx, id, r.origin); err != nil {
		return nil, err
	}
	return h.c.Users.Hierarchy(ctx, id, r.origin, r.query("suggested_only") == "true")
}

// Hierarchy asks a server for a room and its children as it shows them to us.
func (c *Client) Hierarchy(ctx context.Context, server string, id event.RoomID, suggested bool) (json.RawMessage, error) {
	q := call{method: http.MethodGet, path: v1("hierarchy", string(id)), query: url.Values{"suggested_only": {strconv.FormatBool(suggested)}}, limit: maxEvents}
	var out json.RawMessage
	err := c.ask(ctx, server, q, &out)
	return out, toldAbout("the space "+string(id), err)
}

// eventAtTime names the event nearest to a time.
// https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid
func (h *Handler) eventAtTime(ctx context.Context, r *request) (any, error) {
	id := event.RoomID(r.PathValue("room"))
	if err := h.checkIn(ctx, id, r); err != nil {
		return nil, err
	}
	ts, err := strconv.ParseInt(r.query("ts"), 10, 64)
	dir := r.query("dir")
	if err != nil || dir != "f" && dir != "b" {
		return nil, refuse(http.StatusBadRequest, "M_INVALID_PARAM", `ts must be a time in milliseconds, dir "f" or "b"`)
	}
	const look = 100
	var es []*store.Event
	err = h.c.DB.View(ctx, func(rd *store.Read) (err error) {
		es, err = rd.EventsNear(id, ts, 0, look, dir == "b")
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, e := range es {
		p, _, err := h.c.Rooms.Event(ctx, e.ID)
		if err != nil {
			return nil, err
		}
		shown, err := h.shows(ctx, id, r.origin, p)
		if err != nil {
			return nil, err
		}
		if shown {
			return map[string]any{"event_id": e.ID, "origin_server_ts": e.TS}, nil
		}
	}
	return nil, notFound("there is no such event")
}

const askAtTime = 5 // servers at most that are asked for an event at a time

// EventAtTime asks the servers of a room for the event nearest to a time, and takes the nearest one into the room's history, so that it can be read.
// An empty id says that nobody knows one.
func (c *Client) EventAtTime(ctx context.Context, id event.RoomID, ts int64, back bool) (found event.ID, at int64, err error) {
	servers, err := c.c.Rooms.Servers(ctx, id)
	if err != nil {
		return "", 0, err
	}
	v, err := c.c.Rooms.Version(ctx, id)
	if err != nil {
		return "", 0, err
	}
	dir := "f"
	if back {
		dir = "b"
	}
	servers = slices.DeleteFunc(slices.Clone(servers), func(s string) bool { return s == c.c.Local.Server })
	for _, server := range servers[:min(len(servers), askAtTime)] {
		var out struct {
			ID event.ID `json:"event_id"`
			TS int64    `json:"origin_server_ts"`
		}
		q := call{method: http.MethodGet, path: v1("timestamp_to_event", string(id)), query: url.Values{"ts": {strconv.FormatInt(ts, 10)}, "dir": {dir}}}
		if err := c.ask(ctx, server, q, &out); err != nil {
			c.log.Info("event at a time not told", "server", server, "room", id, "err", err)
			continue
		}
		if out.ID == "" || back && out.TS > ts || !back && out.TS < ts || found != "" && !nearer(out.TS, at, ts) {
			continue
		}
		if err := c.reach(ctx, server, id, v, out.ID); err != nil {
			c.log.Info("event at a time could not be had", "server", server, "room", id, "event", out.ID, "err", err)
			continue
		}
		found, at = out.ID, out.TS
	}
	return found, at, ctx.Err()
}

func nearer(a, b, ts int64) bool {
	d := func(x int64) int64 { return max(x-ts, ts-x) }
	return d(a) < d(b)
}

// reach has an event of a room's history here, with a hundred before it.
func (c *Client) reach(ctx context.Context, server string, id event.RoomID, v *event.Version, want event.ID) error {
	_, meta, err := c.c.Rooms.Event(ctx, want)
	if err == nil && !meta.Outlier {
		return nil
	}
	if unknown := (*room.Error)(nil); err != nil && !errors.As(err, &unknown) {
		return err
	}
	pdus, err := c.History(ctx, server, id, v, []event.ID{want}, askAtOnce)
	if err != nil {
		return err
	}
	if err := c.placeHistory(ctx, server, id, v, pdus); err != nil {
		return err
	}
	if _, meta, err = c.c.Rooms.Event(ctx, want); err != nil || meta.Outlier {
		return fmt.Errorf("%s did not give %s", server, want)
	}
	return nil
}
