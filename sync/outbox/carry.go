// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"context"
	"fmt"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// Carry gives a feed for a courier: it reads on from where the peer has said that it is, or from aboard, which says how far each log is on the
// stick already. It has no bound of what is under way, and gives each event with its body, because an answer may take days. What
// it gives moves no cursor; only Heard does, and the feeds of the link.
func (o *Outbox) Carry(ctx context.Context, p peer.Peer, aboard []parcel.Vector) (f *Feed, err error) {
	f = o.Feed(p)
	f.carry = true
	err = o.db.View(ctx, func(r *store.Read) error {
		if f.epoch, err = r.FarEpoch(string(p.ID)); err != nil {
			return err
		}
		kept, err := r.PeerKept(string(p.ID))
		if err != nil {
			return err
		}
		for n, k := range kept {
			f.cursors[n] = &cursor{kept: k, sent: k}
		}
		for _, v := range aboard {
			l, ok, err := r.LogOf(v.Room, string(v.Box), v.Epoch)
			if err != nil {
				return err
			}
			if c := f.cursors[l.N]; ok && c == nil {
				f.cursors[l.N] = &cursor{sent: v.Upto}
			} else if ok {
				c.sent = max(c.sent, v.Upto)
			}
		}
		if f.rooms, err = r.DueRooms(p.Server); err != nil {
			return err
		}
		return urgentFirst(r, f.rooms)
	})
	if err != nil {
		return nil, fmt.Errorf("read what %s lacks: %w", p.ID.Short(), err)
	}
	return f, nil
}

// urgentFirst puts the rooms in front whose messages may be raised above others: a stick may have no room for all.
func urgentFirst(r *store.Read, rooms []event.RoomID) error {
	urgent := make(map[event.RoomID]bool)
	for _, id := range rooms {
		policy, err := r.CurrentStateEvent(id, priority.Type, "")
		if err != nil {
			return err
		}
		urgent[id] = policy != nil
	}
	slices.SortStableFunc(rooms, func(a, b event.RoomID) int {
		switch {
		case urgent[a] == urgent[b]:
			return 0
		case urgent[a]:
			return -1
		}
		return 1
	})
	return nil
}

// Only leaves one room to a courier's feed.
func (f *Feed) Only(id event.RoomID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rooms = []event.RoomID{id}
}

// At is the place of the log that an item fills.
func (it Item) At() parcel.Vector {
	return parcel.Vector{Room: it.Room, Box: it.Box, Epoch: it.epoch, Upto: it.seq}
}

// Keeps says whether the peer has said that it keeps all that the vectors name. A log that is not known here any more counts as kept.
func (o *Outbox) Keeps(ctx context.Context, p peer.Peer, vs []parcel.Vector) (all bool, err error) {
	all = true
	err = o.db.View(ctx, func(r *store.Read) error {
		kept, err := r.PeerKept(string(p.ID))
		if err != nil {
			return err
		}
		for _, v := range vs {
			l, ok, err := r.LogOf(v.Room, string(v.Box), v.Epoch)
			if err != nil {
				return err
			}
			if ok && kept[l.N] < v.Upto {
				all = false
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("read what %s keeps: %w", p.ID.Short(), err)
	}
	return all, nil
}

// Heard takes a greeting that came by courier, once: where the peer stands moves its cursors, and the EDUs that it keeps are dropped. A letter that is
// not newer than one before it does nothing (fresh false). What the peer keeps is given back for the link's own feed. ErrAhead comes when all is done.
func (o *Outbox) Heard(ctx context.Context, p peer.Peer, serial uint64, h recon.Hello) (k *parcel.Kept, fresh bool, err error) {
	said := make(map[recon.Log]uint64)
	for _, s := range h.Rooms {
		for _, l := range s.Logs {
			said[recon.Log{Room: s.Room, Box: l.Box, Epoch: l.Epoch}] = l.Kept
		}
	}
	k = &parcel.Kept{}
	var ahead bool
	err = o.db.Do(ctx, func(tx *store.Tx) error {
		var anew bool
		*k, ahead = parcel.Kept{}, false // a repeated transaction begins anew
		if fresh, anew, err = tx.FarLetter(string(p.ID), h.Epoch, serial); !fresh || err != nil {
			return err
		}
		rooms, err := tx.DueRooms(p.Server)
		if err != nil {
			return err
		}
		for _, id := range rooms {
			more, err := o.heardRoom(tx, p, id, said, anew, k)
			if err != nil {
				return fmt.Errorf("room %s: %w", id, err)
			}
			ahead = ahead || more
		}
		for _, e := range h.EDUs {
			if e.Epoch == o.Epoch() && e.Kept > 0 {
				k.EDUs = min(e.Kept, store.MaxSeq)
				return tx.DropEDUs(p.Server, int64(k.EDUs))
			}
		}
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("take letter of %s: %w", p.ID.Short(), err)
	}
	if ahead {
		return k, fresh, ErrAhead
	}
	return k, fresh, nil
}

func (o *Outbox) heardRoom(tx *store.Tx, p peer.Peer, id event.RoomID, said map[recon.Log]uint64, anew bool, k *parcel.Kept) (ahead bool, err error) {
	logs, err := tx.Logs(id)
	if err != nil {
		return false, err
	}
	for _, l := range logs {
		kept, ok := said[reconLog(id, l)]
		if !ok && !anew {
			continue
		}
		ahead = ahead || l.Own && kept > l.Top
		kept = min(kept, l.Top) // of what is not here nobody can be done with more
		if err := tx.SetPeerKept(string(p.ID), l.N, kept, anew); err != nil {
			return false, err
		}
		if kept > 0 {
			k.Vectors = append(k.Vectors, parcel.Vector{Room: id, Box: peerID(l.Box), Epoch: l.Epoch, Upto: kept})
		}
	}
	return ahead, nil
}

// Letters gives up to limit queued EDUs with numbers above after, in order, without those that are worth nothing a minute later; last is the number of the
// last one looked at.
func (o *Outbox) Letters(ctx context.Context, p peer.Peer, after uint64, limit int) (out []*parcel.EDU, last uint64, err error) {
	last = after
	err = o.db.View(ctx, func(r *store.Read) error {
		rows, err := r.PendingEDUs(p.Server, int64(after), limit)
		for _, e := range rows {
			last = uint64(e.Seq)
			if !Transient(e.Kind) {
				out = append(out, &parcel.EDU{Seq: uint64(e.Seq), Type: e.Kind, Content: e.Body})
			}
		}
		return err
	})
	if err != nil {
		return nil, after, fmt.Errorf("read EDUs for %s: %w", p.Server, err)
	}
	return out, last, nil
}
