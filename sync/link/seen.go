// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"time"

	"hallig/appliance/event"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// How far others have got is told in the background, what came together meanwhile in one parcel, and never while there is something to say that people wait for. The first
// news after a while goes soon, further ones only so often. In the quiet after a flash, when people wait to see who has it, they go raised and more often.
const (
	seenSoon  = 3 * time.Second // what moves together: several devices, and messages that came together
	seenFast  = 2 * time.Second
	seenSlow  = 2 * time.Minute
	seenQuiet = 20 * time.Second
)

// Moved says that users of this box were shown more: other boxes may be told.
func (l *Link) Moved() { l.post(func() { l.moved(nil) }) }

// moved tells all others, but for the one who told us, how far somebody has got.
func (l *Link) moved(from *far) {
	for _, f := range l.fars {
		if f != from {
			f.seenSoon()
		}
	}
}

// seenSoon puts telling off, so that more comes together.
func (f *far) seenSoon() {
	if f.seenTimer != nil || f.active == nil || f.closed || !f.mayHear(parcel.FeatureSeen) {
		return
	}
	soon, every := seenFast/4, seenFast
	if f.active.mail != nil {
		soon, every = seenSoon, f.active.receiptsEvery()
	} else if f.active.slow() {
		soon, every = seenSoon, seenSlow
		if f.l.hushed(f.active) {
			every = seenQuiet
		}
	}
	wait := soon
	if !f.seenAt.IsZero() {
		wait = max(soon, every-time.Since(f.seenAt))
	}
	f.seenTimer = f.l.after(wait, func() {
		f.seenTimer = nil
		f.tellSeen()
	})
}

// tellSeen tells the far end what it does not know yet; the rest when that has arrived.
func (f *far) tellSeen() {
	if f.closed || f.active == nil || !f.talks(f.active) {
		return // the next greeting begins anew
	}
	if f.seenBusy {
		f.seenMore = true
		return
	}
	f.seenBusy, f.seenMore = true, false
	most := 400
	if f.active.slow() {
		most = 40
	}
	told, roster, session := f.seen, f.l.c.Roster(), f.session
	direct := make(map[peer.ID]bool, len(f.l.fars))
	for id, o := range f.l.fars {
		direct[id] = o.active != nil && o.active.mail == nil
	}
	var shown map[event.UserID]int64
	if f.l.c.Shown != nil {
		shown = f.l.c.Shown()
	}
	f.l.work(func(ctx context.Context) func() {
		marks, err := f.feed.Marks(ctx, roster, func(id peer.ID) bool { return direct[id] }, shown, told)
		return func() {
			if err != nil && ctx.Err() == nil {
				f.l.log.Warn("how far others have got could not be read", "peer", f.p.Server, "err", err)
			}
			if f.closed || f.session != session {
				return // the new conversation begins by itself
			}
			f.seenBusy = false
			if err != nil {
				return
			}
			whole := len(marks) <= most
			if !whole {
				marks = marks[:most]
			} else if len(marks) == 0 {
				told.Shown(shown)
				f.seenAgain()
				return
			}
			f.seenBusy, f.seenAt = true, time.Now()
			urgency := parcel.Bulk
			if f.l.hushed(f.active) {
				urgency = parcel.Priority
			}
			f.enqueue(urgency, &parcel.Seen{Marks: marks}, func(arrived bool) {
				if f.session != session {
					return
				}
				f.seenBusy = false
				if arrived {
					told.Note(marks)
				}
				if arrived && whole {
					told.Shown(shown)
					f.seenAgain()
					return
				}
				f.seenSoon()
			})
			f.pump()
		}
	})
}

// seenAgain tells what has moved while the last was told.
func (f *far) seenAgain() {
	if f.seenMore {
		f.seenSoon()
	}
}

func (f *far) takeSeen(ctx context.Context, s *parcel.Seen) func() {
	news, err := f.l.out.TakeMarks(ctx, f.p, s.Marks)
	return func() {
		if err != nil && ctx.Err() == nil {
			f.l.log.Warn("how far others have got could not be stored", "peer", f.p.Server, "err", err)
		}
		if news {
			f.l.moved(f)
		}
	}
}
