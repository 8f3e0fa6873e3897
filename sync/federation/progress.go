// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// This file tells how far a homecoming has got: how many events of each room a server still has to be given, and still has to give.

// Progress is how far we and a server are from having the same.
type Progress struct {
	Server  string
	Out, In int            // events, all rooms together; In is an estimate
	Rooms   []RoomProgress // those with something left, those with most first
}

// RoomProgress is the same for one room.
type RoomProgress struct {
	Room event.RoomID
	Out  int // events that the server has not confirmed, at most progressMost
	In   int // events that came and wait for their ancestors, and about as many as lie between those and what we have
}

// progressMost is how far events are counted.
const progressMost = 100_000

// outward is what a server's feed tells of one room.
type outward struct {
	sent   int64 // looked through up to here
	window int   // sent or left with the hub, and not confirmed
	dirty  bool
}

// publish tells others how far the feed is in each room.
func (d *dest) publish() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.st.Letters, d.st.Left = d.post.letters()
	if d.told == nil {
		d.told = map[event.RoomID]outward{}
	}
	for id := range d.told {
		if d.rooms[id] == nil {
			delete(d.told, id)
		}
	}
	for id, f := range d.rooms {
		d.told[id] = outward{sent: f.sent, window: len(f.window) + f.left, dirty: f.dirty}
	}
}

// outwards gives the rooms in which a server may be owed something.
func (d *dest) outwards() map[event.RoomID]outward {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[event.RoomID]outward{}
	for id, o := range d.told {
		if o.dirty = o.dirty || d.marked[id]; o.dirty || o.window > 0 {
			out[id] = o
		}
	}
	return out
}

// Progress counts what is still to go to each server and to come from it. Servers with nothing left are not listed.
func (s *Sender) Progress(ctx context.Context) ([]Progress, error) {
	s.mu.Lock()
	dests := slices.Collect(maps.Values(s.dests))
	s.mu.Unlock()
	all := map[string]map[event.RoomID]*RoomProgress{}
	at := func(server string, id event.RoomID) *RoomProgress {
		if all[server] == nil {
			all[server] = map[event.RoomID]*RoomProgress{}
		}
		if all[server][id] == nil {
			all[server][id] = &RoomProgress{Room: id}
		}
		return all[server][id]
	}
	before := s.c.Intake.behind()
	err := s.c.DB.View(ctx, func(r *store.Read) error {
		for _, d := range dests {
			for id, o := range d.outwards() {
				n, err := 0, error(nil)
				if o.dirty {
					n, err = r.CountOutgoing(s.c.Local.Server, d.name, id, o.sent, progressMost)
				}
				if err != nil {
					return err
				}
				if n += o.window; n > 0 {
					at(d.name, id).Out = n
				}
			}
		}
		for id, gaps := range before {
			waiting, err := r.StagedByOrigin(id)
			if err != nil {
				return err
			}
			for server, n := range waiting {
				at(server, id).In += n
			}
			for server, n := range gaps {
				at(server, id).In += n
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count what other servers lack: %w", err)
	}
	var out []Progress
	for server, rooms := range all {
		p := Progress{Server: server}
		for _, r := range rooms {
			p.Out, p.In = p.Out+r.Out, p.In+r.In
			p.Rooms = append(p.Rooms, *r)
		}
		slices.SortFunc(p.Rooms, func(a, b RoomProgress) int {
			return cmp.Or(cmp.Compare(b.Out+b.In, a.Out+a.In), cmp.Compare(a.Room, b.Room))
		})
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Progress) int { return cmpString(a.Server, b.Server) })
	return out, nil
}

// behind gives, of each room in which something waits, about how many events lie between what came and what we have, by the server that gave it.
func (in *Intake) behind() map[event.RoomID]map[string]int {
	in.mu.Lock()
	defer in.mu.Unlock()
	out := map[event.RoomID]map[string]int{}
	for id, l := range in.lanes {
		gaps := map[string]int{}
		maps.Copy(gaps, l.gap)
		for _, server := range l.wants { // named and not here: there is one at least
			gaps[server] = max(gaps[server], 1)
		}
		out[id] = gaps
	}
	return out
}

// measure notes how far the events that lack ancestors are from what we have of the servers that gave them: the difference of depths, which is what it is in a chain.
func (in *Intake) measure(ctx context.Context, l *lane, prev []lack) {
	lowest := map[string]int64{}
	for _, k := range prev {
		if low, there := lowest[k.child.origin]; !k.old && (!there || k.child.pdu.Depth < low) {
			lowest[k.child.origin] = k.child.pdu.Depth
		}
	}
	gap := map[string]int{}
	err := in.c.DB.View(ctx, func(r *store.Read) error {
		for server, low := range lowest {
			have, err := r.NewestDepth(l.room, server)
			if err != nil {
				return err
			}
			gap[server] = int(min(progressMost, max(1, low-1-have)))
		}
		return nil
	})
	if err != nil {
		in.log.Debug("gap not measured", "room", l.room, "err", err) // for people only
	}
	in.mu.Lock()
	l.gap = gap
	in.mu.Unlock()
}
