// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/sync/hub/api"
)

// This file tells the hub which rooms the box shares with other servers, and how far they have got, so that the hub can copy them and answer about them while the box is
// away. Rooms that the box has to itself are none of its business.

const (
	roomsEvery = time.Hour       // how often all are told
	roomsSoon  = 2 * time.Second // and after a commit, those that it touched
)

// listed is what the hub has heard of the box's rooms. Only the loop that looks at the hub uses it.
type listed struct {
	all     bool // it has heard of all since it came in reach
	rooms   map[event.RoomID]bool
	next    time.Time // when all are told again
	last    time.Time
	trouble string
}

// tellRooms brings the hub up to date about rooms: all of them when it has come and now and then, those in which something has happened soon.
func (b *Box) tellRooms(ctx context.Context, now time.Time) {
	h := &b.exchange.post
	l := &h.listed
	h.mu.Lock()
	some := h.touchedRooms
	all := !now.Before(l.next)
	if !all && (!l.all || len(some) == 0 || now.Sub(l.last) < roomsSoon) {
		h.mu.Unlock()
		return
	}
	h.touchedRooms = map[event.RoomID]bool{}
	h.mu.Unlock()
	l.last = now
	if all {
		some = nil
	}
	told, err := b.listRooms(ctx, some)
	if err == nil {
		err = b.putRooms(ctx, told)
	}
	if err == nil {
		l.trouble = ""
		h.offered.see(told)
		if all {
			l.all, l.next, l.rooms = true, now.Add(roomsEvery), map[event.RoomID]bool{}
		}
		for _, r := range told.Rooms {
			l.rooms[event.RoomID(r.ID)] = true
		}
		for _, id := range told.Gone {
			delete(l.rooms, event.RoomID(id))
		}
		return
	}
	l.all, l.next = false, now.Add(hubAgain) // the hub may have lost its memory: then it wants to hear of all
	if text := err.Error(); ctx.Err() == nil && text != l.trouble {
		l.trouble = text
		b.log.Info("the hub was not told of the rooms; it is tried again", "hub", h.server, "err", err)
	}
}

// listRooms says how some rooms stand, nil: all that are shared.
func (b *Box) listRooms(ctx context.Context, some map[event.RoomID]bool) (api.Rooms, error) {
	out := api.Rooms{All: some == nil, Rooms: []api.Room{}}
	var ids []event.RoomID
	for id := range some {
		ids = append(ids, id)
	}
	if some == nil {
		var err error
		if ids, err = b.rooms.RoomsWith(ctx, b.id.Server); err != nil {
			return out, err
		}
	}
	for _, id := range ids {
		r, err := b.listRoom(ctx, id)
		if err != nil {
			return out, fmt.Errorf("look at room %s: %w", id, err)
		}
		switch {
		case r != nil && len(out.Rooms) < api.MaxRooms:
			out.Rooms = append(out.Rooms, *r)
		case r == nil && b.exchange.post.listed.rooms[id]:
			out.Gone = append(out.Gone, string(id))
		}
	}
	return out, nil
}

// listRoom says how a room stands; nil: it is not shared, or not known as a whole yet.
func (b *Box) listRoom(ctx context.Context, id event.RoomID) (*api.Room, error) {
	servers, err := b.rooms.Servers(ctx, id)
	if err != nil || len(servers) < 2 || !slices.Contains(servers, b.id.Server) {
		return nil, err
	}
	if lacking, err := b.rooms.NotWhole(ctx, id); lacking || err != nil {
		return nil, err
	}
	v, err := b.rooms.Version(ctx, id)
	if err != nil {
		return nil, err
	}
	tips, err := b.rooms.Extremities(ctx, id)
	if err != nil || len(tips) == 0 {
		return nil, err
	}
	r := &api.Room{ID: string(id), Version: v.ID}
	for _, t := range tips[:min(len(tips), api.MaxTips)] {
		r.Tips = append(r.Tips, string(t))
	}
	return r, nil
}

func (b *Box) putRooms(ctx context.Context, told api.Rooms) error {
	raw, err := json.Marshal(told)
	if err != nil {
		return fmt.Errorf("write rooms: %w", err)
	}
	return b.askHub(ctx, http.MethodPut, api.RoomsPath, raw, nil)
}
