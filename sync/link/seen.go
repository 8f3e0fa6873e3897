// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"time"

	"hallig/appliance/event"
	"hallig/sync/parcel"
)

// How far others have got is told in the background, what came together meanwhile in one parcel, and never while there is something to say that people wait for.
const (
	seenFast = 2 * time.Second
	seenSlow = 2 * time.Minute
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
	if f.seenTimer != nil || f.active == nil || f.closed || f.features&parcel.FeatureSeen == 0 {
		return
	}
	wait := seenFast
	if f.active.slow() {
		wait = seenSlow
	}
	f.seenTimer = f.l.after(wait, func() {
		f.seenTimer = nil
		f.tellSeen()
	})
}

// tellSeen tells the far end what it does not know yet; the rest when that has arrived.
func (f *far) tellSeen() {
	if f.seenBusy || f.closed || f.active == nil || f.session == nil || !f.agreed {
		return
	}
	f.seenBusy = true
	most := 400
	if f.active.slow() {
		most = 40
	}
	told, roster, session := f.seen, f.l.c.Roster(), f.session
	var shown map[event.UserID]int64
	if f.l.c.Shown != nil {
		shown = f.l.c.Shown()
	}
	f.l.work(func(ctx context.Context) func() {
		marks, err := f.l.out.Marks(ctx, f.p, roster, shown, told)
		return func() {
			f.seenBusy = false
			if err != nil && ctx.Err() == nil {
				f.l.log.Warn("how far others have got could not be read", "peer", f.p.Server, "err", err)
			}
			if err != nil || f.closed || f.session != session {
				return
			}
			whole := len(marks) <= most
			if !whole {
				marks = marks[:most]
			} else if len(marks) == 0 {
				told.Shown(shown)
				return
			}
			f.seenBusy = true
			f.enqueue(parcel.Bulk, &parcel.Seen{Marks: marks}, func(arrived bool) {
				f.seenBusy = false
				if arrived {
					told.Note(marks)
				}
				if arrived && whole {
					told.Shown(shown)
					return
				}
				f.seenSoon()
			})
			f.pump()
		}
	})
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
