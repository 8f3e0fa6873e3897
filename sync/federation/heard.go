// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/hub/api"
)

// This file takes in what the hub says of letters that are out.

// heard is what the hub has said last.
type heard struct {
	epoch string
	asked time.Time // everything that was left before is in it; zero: not known
	old   bool      // it came by stick
	api.Standing
}

// Standing takes in how far letters have come. asked is when the box asked, zero when the hub spoke of itself.
func (s *Sender) Standing(l api.Letters, asked time.Time) {
	s.stand(l, heard{epoch: l.Epoch, asked: asked})
}

func (s *Sender) stand(l api.Letters, h heard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.standing = map[string]*heard{}
	for _, one := range l.To {
		of := h
		of.Standing = one
		s.standing[one.To] = &of
	}
	for name, d := range s.dests {
		of := s.standing[name]
		if of == nil {
			none := h
			of = &none
		}
		d.standing.Store(of)
		poke(d.wake)
	}
}

// hear takes in what the hub has said of the letters. epoch is that of its memory when it has spoken; otherwise "".
func (d *dest) hear(ctx context.Context) (epoch string) {
	h := d.standing.Swap(nil)
	if h == nil {
		return ""
	}
	if len(d.post.left) > 0 {
		d.follow(ctx, h)
	}
	d.heed(h)
	return h.epoch
}

// follow does what is to be done about letters of which the hub has spoken.
func (d *dest) follow(ctx context.Context, h *heard) {
	p := &d.post
	done := map[string]int64{}
	for _, one := range h.Done {
		done[one.Series] = one.N
	}
	moved := false
	for len(p.left) > 0 && done[p.left[0].Series] >= p.left[0].Place {
		if err := d.arrived(ctx, p.left[0], h.Amiss); err != nil {
			if ctx.Err() == nil {
				d.log.Error("note that a letter has arrived; it is done at the next word of the hub", "err", err)
			}
			return
		}
		p.left, moved = p.left[1:], true
	}
	switch {
	case moved && d.failing.Load():
		d.linkUp.Store(true) // the hub reaches it
	case len(p.left) == 0 || h.epoch != p.left[0].Epoch:
	case h.Waiting == 0 && !h.asked.IsZero() && !p.bagged() && p.left[len(p.left)-1].at.Before(h.asked):
		d.takeBack(ctx, false, "the hub does not have them any more")
	case refusesFor(h.Status) && !h.old:
		p.next = time.Now().Add(leaveNot)
		d.takeBack(ctx, true, h.Trouble)
	}
}

// refusesFor says whether a server's answer was about what it was sent: an ended key, haste and a fault of its own pass.
func refusesFor(status int) bool {
	return status/100 == 4 && final(&Refusal{Status: status})
}

// arrived moves the cursors past a letter.
func (d *dest) arrived(ctx context.Context, l *leftLetter, amiss []api.Amiss) error {
	kept := Travel{What: "kept", Server: d.name}
	what := map[event.ID]string{}
	for _, a := range amiss {
		if a.Series == l.Series && a.N == l.Place {
			what[event.ID(a.Event)] = a.What
		}
	}
	for _, r := range l.rooms {
		switch what[r.IDs[len(r.IDs)-1]] {
		case api.Barred:
			if f := d.rooms[r.Room]; d.s.c.Barred != nil && (f == nil || !f.gone) {
				if err := d.s.c.Barred(ctx, d.name, r.Room, r.First, r.Last); err != nil {
					return err
				}
			}
		case api.Unkept:
			for _, id := range r.IDs {
				if err := d.park(ctx, r.Room, id, "taken from the hub and not kept, again and again"); err != nil {
					return err
				}
			}
			d.reoffer = true
		}
		kept.Events = append(kept.Events, r.IDs...)
	}
	over := map[event.RoomID]bool{}
	for _, r := range l.rooms {
		f := d.rooms[r.Room]
		if f == nil {
			continue
		}
		f.left = max(0, f.left-len(r.IDs))
		f.cursor = max(f.cursor, r.Last)
		if f.gone && !f.dirty && f.left == 0 && len(f.window) == 0 {
			delete(d.rooms, r.Room)
			over[r.Room] = true
		}
	}
	d.advanced = time.Now()
	d.mu.Lock()
	d.st.Through += l.size()
	d.mu.Unlock()
	if len(kept.Events) > 0 {
		d.s.c.Observe(kept)
	}
	d.s.c.DB.Lazy(func(tx *store.Tx) error { // together, so that nothing is left to be repeated
		for _, r := range l.rooms {
			err := tx.SetFederationCursor(d.name, r.Room, r.Last)
			if over[r.Room] {
				err = tx.DropFederationCursor(d.name, r.Room)
			}
			if err != nil {
				return err
			}
		}
		if l.EDUTo > 0 {
			if err := tx.DropEDUs(d.name, l.EDUTo); err != nil {
				return err
			}
		}
		return tx.DropLetterTxn(d.name, l.Txn)
	})
	return nil
}
