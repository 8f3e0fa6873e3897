// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"context"
	"fmt"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/recon"
)

// A feed by mail (link's word for messages that travel over boxes in between) begins without the peer's greeting, sends whole events where
// on a direct way names would do (an answer may take days), and leaves rooms to neighbours that have a member there and are nearer to the
// peer: they have the same logs.

// Resume goes on from what the peer is known to keep. It moves no cursor back.
func (f *Feed) Resume(ctx context.Context) error {
	var kept map[int64]uint64
	var rooms []event.RoomID
	var epoch uint32
	err := f.o.db.View(ctx, func(r *store.Read) (err error) {
		if epoch, err = r.FarEpoch(string(f.p.ID)); err != nil {
			return err
		}
		if kept, err = r.PeerKept(string(f.p.ID)); err != nil {
			return err
		}
		rooms, err = r.DueRooms(f.p.Server)
		return err
	})
	if err != nil {
		return fmt.Errorf("resume feed of %s: %w", f.p.ID.Short(), err)
	}
	f.Speaks(epoch)
	f.kept(kept, 0)
	f.Touch(rooms...)
	return nil
}

// Speaks says in which epoch the peer numbers its own logs; 0: no news.
func (f *Feed) Speaks(epoch uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if epoch != 0 {
		f.epoch = epoch
	}
}

// Raise takes a peer's greeting that may be old: cursors move forward only, unless the peer has lost what it had.
func (f *Feed) Raise(ctx context.Context, h recon.Hello, lost bool) error {
	if lost {
		return f.Start(ctx, h, true, false)
	}
	said := make(map[recon.Log]uint64)
	for _, s := range h.Rooms {
		for _, l := range s.Logs {
			said[recon.Log{Room: s.Room, Box: l.Box, Epoch: l.Epoch}] = l.Kept
		}
	}
	logs := make(map[int64]uint64)
	err := f.o.db.View(ctx, func(r *store.Read) error {
		rooms, err := r.DueRooms(f.p.Server)
		if err != nil {
			return err
		}
		for _, id := range rooms {
			all, err := r.Logs(id)
			if err != nil {
				return err
			}
			for _, l := range all {
				if kept := said[reconLog(id, l)]; kept > 0 {
					logs[l.N] = min(kept, l.Top)
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("take greeting of %s: %w", f.p.ID.Short(), err)
	}
	edus := uint64(0)
	for _, e := range h.EDUs {
		if e.Epoch == f.o.Epoch() {
			edus = e.Kept
		}
	}
	f.mu.Lock()
	if edus > f.eduKept { // it says so itself, whether or not they were sent in this life
		f.eduKept, f.eduSent = edus, max(f.eduSent, edus)
	}
	f.mu.Unlock()
	f.kept(logs, 0)
	f.remember(logs, edus, false)
	return nil
}

// LeaveTo says which servers are nearer to the peer than this box, and whether the peer is written to by mail.
func (f *Feed) LeaveTo(servers []string, byMail bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nearer, f.mail = servers, byMail
}

// ByMail is what LeaveTo was told.
func (f *Feed) ByMail() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mail
}

// left says whether a room is left to a server that is nearer.
func (f *Feed) left(r *store.Read, id event.RoomID) (bool, error) {
	f.mu.Lock()
	nearer := f.nearer
	f.mu.Unlock()
	for _, server := range nearer {
		if n, err := r.JoinedOf(id, server); n > 0 || err != nil {
			return n > 0, err
		}
	}
	return false, nil
}

// named says whether an event is only named at first: the peer mostly has it from elsewhere.
func (f *Feed) named(l store.Log, seq uint64, row *store.Event) bool {
	if f.ByMail() {
		return row.Sender.Server() == f.p.Server
	}
	return !f.carry && !f.whole(l.N, seq) && (!l.Own || row.Sender.Server() != f.o.server || adopted(seq, row))
}
