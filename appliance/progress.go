// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"hallig/appliance/admin"
	"hallig/appliance/event"
	"hallig/sync/federation"
)

// This file tells the operator how a homecoming gets on.

// roomsTold is how many rooms of a server are named: a page is no list of all rooms.
const roomsTold = 20

// serverStatus tells of the servers that are not boxes.
func (b *Box) serverStatus(ctx context.Context) ([]admin.Server, error) {
	left, err := b.progress(ctx)
	if err != nil {
		return nil, err
	}
	var out []admin.Server
	for _, f := range b.fed.sender.Status() {
		p := left[f.Server]
		srv := admin.Server{Name: f.Server, Queued: p.Out, Coming: p.In, Left: f.Left, Through: f.Through, LastOK: f.Answered}
		for _, r := range p.Rooms[:min(len(p.Rooms), roomsTold)] {
			srv.Rooms = append(srv.Rooms, admin.ServerRoom{ID: string(r.Room), Name: b.roomName(ctx, r.Room), Queued: r.Out, Coming: r.In})
		}
		if f.Failing {
			srv.Trouble = "out of reach since " + f.Since.Local().Format("15:04:05") + ": " + f.LastError
		}
		if f.Parked > 0 {
			srv.Trouble = strings.TrimPrefix(srv.Trouble+"; ", "; ") + strconv.Itoa(f.Parked) + " refused by it, kept and offered again when it is back in reach"
		}
		out = append(out, srv)
	}
	return out, nil
}

// progress is what is left to go and to come, by server.
func (b *Box) progress(ctx context.Context) (map[string]federation.Progress, error) {
	all, err := b.fed.sender.Progress(ctx)
	out := make(map[string]federation.Progress, len(all))
	for _, p := range all {
		out[p.Server] = p
	}
	return out, err
}

// roomName is a room's name as its members have set it; "" when there is none.
func (b *Box) roomName(ctx context.Context, id event.RoomID) string {
	e, err := b.rooms.StateEvent(ctx, id, "m.room.name", "")
	if e == nil || err != nil {
		return ""
	}
	var c struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(e.Content, &c) != nil {
		return ""
	}
	return c.Name
}
