// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"context"
	"fmt"
	"maps"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// A feed by mail (link's word for messages that travel over boxes in between) begins without the peer's greeting, sends whole events where
// on a direct way names would do (an answer may take days), and leaves to neighbours that are nearer to the peer what they have by their logs.

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

// LeaveTo says which boxes are nearer to the peer than this one, and whether the peer is written to by mail. What was left to others and
// not to these is due again.
func (f *Feed) LeaveTo(nearer []peer.Peer, byMail bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nearer, f.mail = nearer, byMail
	for _, c := range f.cursors {
		for _, upTo := range c.left {
			if c.kept < upTo && upTo < c.sent { // what was left is not there, and more was sent
				f.flight -= len(c.flight)
				c.sent, c.flight = c.kept, nil
				f.gen++
			}
		}
		c.left = nil
	}
}

// ByMail is what LeaveTo was told.
func (f *Feed) ByMail() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mail
}

// heirs are the boxes nearer to the peer whose servers are in a room, with what of it is their business.
func (f *Feed) heirs(r *store.Read, id event.RoomID) (out map[peer.ID]*dues, err error) {
	f.mu.Lock()
	nearer := f.nearer
	f.mu.Unlock()
	for _, p := range nearer {
		d, err := duesOf(r, id, p.Server)
		if err != nil {
			return nil, err
		}
		if d == nil || !d.joined {
			continue
		}
		if out == nil {
			out = make(map[peer.ID]*dues)
		}
		out[p.ID] = d
	}
	return out, nil
}

// leave passes over what a nearer box sends: what it has without a gap from where the peer is. What was written while it was out of the room
// it does not have, and it sends nothing that stands behind that.
func (f *Feed) leave(r *store.Read, s *stream, due *dues, heirs map[peer.ID]*dues) error {
	f.mu.Lock()
	c := f.cursors[s.log.N]
	kept, left := c.kept, maps.Clone(c.left)
	f.mu.Unlock()
	if left == nil {
		left = make(map[peer.ID]uint64)
	}
	for box, d := range heirs {
		at := max(kept, left[box])
		if s.log.Box == string(box) { // its own
			at = s.log.Top
		}
		const page = 256
		for from, more := at, true; more; {
			entries, err := r.LogEntries(s.log.N, from, page)
			if err != nil {
				return err
			}
			more = len(entries) == page
			for _, e := range entries {
				held := e.Event != 0 && d.holds(e.Event)
				if e.Seq != from+1 || !held && (at > 0 || due.holds(e.Event)) { // what is before the peer's time holds up nobody
					more = false
					break
				}
				from = e.Seq
				if held {
					at = e.Seq
				}
			}
		}
		left[box] = at
		s.after = max(s.after, at)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c.left = left
	return nil
}

// named says whether an event is only named at first: the peer mostly has it from elsewhere.
func (f *Feed) named(l store.Log, seq uint64, row *store.Event) bool {
	if f.ByMail() {
		return row.Sender.Server() == f.p.Server
	}
	return !f.carry && !f.whole(l.N, seq) && (!l.Own || row.Sender.Server() != f.o.server || adopted(seq, row))
}
