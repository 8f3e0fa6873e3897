// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/hub/api"
)

// This file lists to the hub which files of the box people of other servers may ask for, so that it can fetch them and give them while the box is away: what our users name in rooms that the box
// shares, their avatars, and what clients upload encrypted for such rooms, of which nobody but the members knows where it is named. All other files stay here.

const (
	filesEvery  = time.Hour        // how often they are listed in any case
	filesSoon   = 10 * time.Second // and after something has happened in a shared room
	filesRooms  = 50               // rooms that are looked at at a time
	filesEvents = 200              // the newest of each
	filesLooked = 20_000           // uploads that are looked at, the newest
)

// offered is what the hub is told of files. Only the loop that looks at the hub uses it.
type offered struct {
	rooms   map[event.RoomID]*offeredRoom // as the hub was told of them
	stale   bool                          // something has happened since it was told of files
	told    []byte                        // what it was told last; nil: nothing since it came in reach
	last    time.Time
	next    time.Time
	trouble string
}

// offeredRoom is what a shared room says of files.
type offeredRoom struct {
	room   api.Room       // as it stood when it was told
	looked bool           // at it as it stands
	names  []string       // media ids that our users name in it
	secret []event.UserID // those of them who may have uploaded encrypted files for it
}

// see notes which rooms the hub was told of.
func (o *offered) see(told api.Rooms) {
	if o.rooms == nil {
		o.rooms = map[event.RoomID]*offeredRoom{}
	}
	now := map[event.RoomID]bool{}
	for _, r := range told.Rooms {
		id := event.RoomID(r.ID)
		now[id] = true
		old := o.rooms[id]
		if old == nil || !slices.Equal(old.room.Tips, r.Tips) {
			o.rooms[id], o.stale = &offeredRoom{room: r}, true
		}
	}
	gone := func(id event.RoomID) bool { return told.All && !now[id] || slices.Contains(told.Gone, string(id)) }
	maps.DeleteFunc(o.rooms, func(id event.RoomID, _ *offeredRoom) bool {
		o.stale = o.stale || gone(id)
		return gone(id)
	})
}

// tellFiles lists the files to the hub when it has come, when something has happened, and now and then.
func (b *Box) tellFiles(ctx context.Context, now time.Time) {
	h := &b.exchange.post
	o := &h.offered
	if due := o.told == nil || !now.Before(o.next) || o.stale && now.Sub(o.last) >= filesSoon; !due || !h.listed.all || now.Before(o.next) && o.trouble != "" {
		return
	}
	more, err := b.lookForFiles(ctx)
	if more && err == nil {
		return // the other rooms next time
	}
	var raw []byte
	if err == nil {
		raw, err = b.listFiles(ctx)
	}
	if err == nil && (!bytes.Equal(raw, o.told) || !now.Before(o.next)) {
		err = b.askHub(ctx, http.MethodPut, api.FilesPath, raw, nil)
	}
	o.last = now
	if err == nil {
		o.stale, o.told, o.next, o.trouble = false, raw, now.Add(filesEvery), ""
		return
	}
	o.next = now.Add(filesSoon * 6)
	if text := err.Error(); ctx.Err() == nil && text != o.trouble {
		o.trouble = text
		b.log.Info("the hub was not told of files; it is tried again", "hub", h.server, "err", err)
	}
}

// lookForFiles looks which files the rooms name that have changed, some at a time. more: it has not seen all.
func (b *Box) lookForFiles(ctx context.Context) (more bool, err error) {
	n := 0
	for id, r := range b.exchange.post.offered.rooms {
		if r.looked {
			continue
		}
		if n++; n > filesRooms {
			return true, nil
		}
		if err := b.lookInRoom(ctx, id, r); err != nil {
			return false, fmt.Errorf("look for files in room %s: %w", id, err)
		}
		r.looked = true
	}
	return false, nil
}

func (b *Box) lookInRoom(ctx context.Context, id event.RoomID, r *offeredRoom) error {
	r.names, r.secret = nil, nil
	return b.db.View(ctx, func(rd *store.Read) error {
		ours, err := rd.JoinedFrom(id, b.id.Server)
		if err != nil {
			return err
		}
		look := func(e *store.Event, err error) error {
			if e != nil && e.Sender.Server() == b.id.Server {
				r.names = append(r.names, namedIn(e.JSON, b.id.Server)...)
			}
			return err
		}
		events, err := rd.RoomEventsBetween(id, store.MinPos, math.MaxInt64, filesEvents, true)
		for _, e := range events {
			err = look(e, err)
		}
		if err == nil {
			err = look(rd.CurrentStateEvent(id, "m.room.avatar", ""))
		}
		for _, user := range ours[:min(len(ours), filesEvents)] {
			if err == nil {
				err = look(rd.CurrentStateEvent(id, "m.room.member", string(user)))
			}
		}
		if err != nil {
			return err
		}
		if e, err := rd.CurrentStateEvent(id, "m.room.encryption", ""); e != nil || err != nil {
			r.secret = ours
			return err
		}
		return nil
	})
}

// namedIn gives the ids of a server's files that an event names, in canonical JSON.
func namedIn(json []byte, server string) (ids []string) {
	mxc := []byte(`"mxc://` + server + `/`)
	for {
		_, rest, found := bytes.Cut(json, mxc)
		if !found {
			return ids
		}
		id, after, whole := bytes.Cut(rest, []byte{'"'})
		if whole && api.IsMedia(string(id)) {
			ids = append(ids, string(id))
		}
		json = after
	}
}

// listFiles is what the hub is told.
func (b *Box) listFiles(ctx context.Context) ([]byte, error) {
	named, secret := map[string]bool{}, map[event.UserID]bool{}
	for _, r := range b.exchange.post.offered.rooms {
		for _, id := range r.names {
			named[id] = true
		}
		for _, user := range r.secret {
			secret[user] = true
		}
	}
	out := api.Files{Files: []api.File{}}
	err := b.db.View(ctx, func(rd *store.Read) error {
		return rd.Uploads(b.id.Server, filesLooked, func(m store.Media, size int64) {
			if (named[m.ID] || secret[m.Uploader] && encrypted(m)) && len(out.Files) < api.MaxFiles {
				out.Files = append(out.Files, api.File{ID: m.ID, Bytes: size, At: m.Created})
			}
		})
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// encrypted says whether a client has uploaded a file for an encrypted room: such files have no name and no type but this. Others keep theirs.
func encrypted(m store.Media) bool { return m.Type == "application/octet-stream" && m.Name == "" }
