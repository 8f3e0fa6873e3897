// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"context"
	"fmt"
	"maps"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// Resolver finds the rooms and boxes that wire names stand for.
type Resolver struct {
	rooms map[recon.Room]event.RoomID
	boxes map[recon.Box]peer.ID
}

// Log finds a log.
func (s *Resolver) Log(l recon.Log) (event.RoomID, peer.ID, bool) {
	id, ok := s.rooms[l.Room]
	box, known := s.boxes[l.Box]
	return id, box, ok && known
}

// Meet adds boxes that somebody named by their keys.
func (s *Resolver) Meet(keys [][32]byte) {
	for _, k := range keys {
		id := peer.IDOf(k[:])
		s.boxes[recon.Box(id.Brief())] = id
	}
}

// Resolver knows the rooms shared with a peer and all boxes that have ever had a log here, the peer among them.
func (o *Outbox) Resolver(ctx context.Context, p peer.Peer) (*Resolver, error) {
	s := &Resolver{rooms: map[recon.Room]event.RoomID{}, boxes: map[recon.Box]peer.ID{recon.Box(p.ID.Brief()): p.ID}}
	err := o.db.View(ctx, func(r *store.Read) error {
		rooms, err := r.DueRooms(p.Server)
		if err != nil {
			return err
		}
		for _, id := range rooms {
			s.rooms[recon.RoomOf(id)] = id
		}
		boxes, err := r.Boxes()
		for _, id := range boxes {
			s.boxes[recon.Box(peer.ID(id).Brief())] = peer.ID(id)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look up wire names: %w", err)
	}
	return s, nil
}

// Diverged compares a peer's greeting with where we stand: rooms of which both have all logs to the same place and yet
// not the same newest events come as Heads, for the peer to ask for what it lacks; rooms with the same events and another
// state are named, for a person to know.
func (o *Outbox) Diverged(ctx context.Context, h recon.Hello) (n recon.Note, state []event.RoomID, err error) {
	theirs := make(map[recon.Room]recon.RoomState, len(h.Rooms))
	for _, s := range h.Rooms {
		theirs[s.Room] = s
	}
	err = o.db.View(ctx, func(r *store.Read) error {
		rooms, err := r.Rooms()
		if err != nil {
			return err
		}
		for _, id := range rooms {
			far, ok := theirs[recon.RoomOf(id)]
			if !ok {
				continue
			}
			near, err := o.roomState(r, id)
			if err != nil {
				return err
			}
			if near.Frontier == far.Frontier || !sameVector(near, far) {
				continue
			}
			if near.Frontier.Heads == far.Frontier.Heads {
				state = append(state, id)
				continue
			}
			tips, err := r.Tips(id)
			if err != nil {
				return err
			}
			heads := recon.Heads{Room: near.Room}
			for _, e := range tips {
				heads.IDs = append(heads.IDs, e.ID)
			}
			n.Heads = append(n.Heads, heads)
		}
		return nil
	})
	if err != nil {
		return n, nil, fmt.Errorf("compare frontiers: %w", err)
	}
	return n, state, nil
}

// sameVector says whether two boxes are equally far in all logs of a room.
func sameVector(a, b recon.RoomState) bool {
	va, vb := vectorOf(a), vectorOf(b)
	return va.Covers(vb) && vb.Covers(va)
}

// VectorOf is where a greeting's speaker stands.
func VectorOf(h recon.Hello) recon.Vector {
	v := recon.Vector{}
	for _, s := range h.Rooms {
		maps.Copy(v, vectorOf(s))
	}
	return v
}

func vectorOf(s recon.RoomState) recon.Vector {
	v := recon.Vector{}
	for _, l := range s.Logs {
		v.Raise(recon.Log{Room: s.Room, Box: l.Box, Epoch: l.Epoch}, l.Kept)
	}
	return v
}

// Lacking says which of a peer's newest events are not here.
func (o *Outbox) Lacking(ctx context.Context, heads []recon.Heads, s *Resolver) ([]parcel.Want, error) {
	var wants []parcel.Want
	err := o.db.View(ctx, func(r *store.Read) error {
		for _, h := range heads {
			id, ok := s.rooms[h.Room]
			if !ok {
				continue
			}
			w := parcel.Want{Room: id}
			for _, e := range h.IDs {
				nid, err := r.EventNID(e)
				if err != nil {
					return err
				}
				if nid == 0 {
					w.IDs = append(w.IDs, e)
				}
			}
			if len(w.IDs) > 0 {
				wants = append(wants, w)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for a peer's newest events: %w", err)
	}
	return wants, nil
}
