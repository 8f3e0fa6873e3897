// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"maps"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
)

// Who goes first. At message boundaries the more urgent goes strictly before the less urgent (the transports hold to it at frame boundaries), with two exceptions:
//
//   - The least urgent class that waits has a floor: of what goes over a way, at least a tenth is its, so that it moves however much the others have. What goes by
//     that right travels as urgent as what it goes before; it never goes before a flash.
//   - Quiet: after a flash, routine and bulk keep off narrow links for as long as the room's policy says, so that answers and further flashes find the line free. It
//     ends by itself. What an urgent event builds on is never held by it: that goes with the event, as urgent as the event is, however much it is.

// Appended notes raised events as they come in; it belongs into room.Options.OnAppend.
func (l *Link) Appended(tx *store.Tx, e room.AppendInfo) error { return l.judge.Appended(tx, e) }

// raised lets what came in raised go first.
func (l *Link) raised(upTo int64) {
	for _, n := range l.judge.News(upTo) {
		if n.Level == priority.Flash {
			l.hush(n.Room, n.Quiet)
		}
		l.hurry(n.Room, n.Sender, int(n.Level), n.Event)
	}
}

// hurry lets what a room has go as urgent as what has come in and builds on it: of, "" when only its text is here. The sender's own box lacks nothing of that.
func (l *Link) hurry(room event.RoomID, sender event.UserID, level int, of event.ID) {
	for _, f := range l.fars {
		if f.p.Server == sender.Server() {
			continue
		}
		f.feed.TouchFirst(room)
		f.more, f.urgent = true, true
		outbox.Lift(f.items, room, level, of, sender.Server() == l.c.Server)
		f.arrange()
		f.pump()
	}
}

// arrange puts the items in order. A flash whose text has gone ahead, and what it builds on, follows behind those of which nobody knows yet.
func (f *far) arrange() {
	f.heraldItems()
	outbox.Arrange(f.items)
}

// pressed says whether to read on, though there is enough to send: something more urgent than that has not been read.
func (f *far) pressed() bool {
	level, flashes := f.feed.Pressing()
	if level == parcel.Flash && !slices.ContainsFunc(flashes, func(x outbox.Raised) bool { return !f.ahead[x.Event] }) {
		level = parcel.Immediate // each of them has its text there
	}
	return level < parcel.Routine && f.items[fewItems-1].Priority > level
}

// quiet is the time in which routine and bulk keep off narrow links.
type quiet struct {
	since, until time.Time
	timer        *time.Timer
	flashes      map[event.RoomID]time.Time // the last of each room, as long as any of them keeps the links quiet
}

// quietMost is how long quiet may last in one piece, whatever comes; then what waits has as long.
const quietMost = 30 * time.Minute

// hush keeps narrow links quiet for d from now, longer if they are already, for the sake of a flash of a room.
func (l *Link) hush(room event.RoomID, d time.Duration) {
	now, q := time.Now(), &l.quiet
	if d <= 0 {
		return
	}
	if !now.Before(q.until) {
		if spent := q.until.Sub(q.since); spent >= quietMost && now.Sub(q.until) < quietMost {
			return // others have had to wait long enough
		}
		q.since, q.until, q.flashes = now, now, map[event.RoomID]time.Time{}
		l.log.Info("quiet on narrow links after a flash: routine and bulk wait", "for", d)
	}
	q.flashes[room] = now
	if until := now.Add(d); until.After(q.until) {
		q.until = until
	}
	if most := q.since.Add(quietMost); q.until.After(most) {
		q.until = most
	}
	l.hushTimer()
	for _, f := range l.fars {
		f.raiseReceipts()
	}
}

// raiseReceipts lets receipts that wait go in the quiet: who sent the flash waits for them.
func (f *far) raiseReceipts() {
	for _, p := range []int{parcel.Routine, parcel.Bulk} {
		f.queues[p] = slices.DeleteFunc(f.queues[p], func(e entry) bool {
			switch e.p.(type) {
			case *parcel.Kept, *parcel.Seen:
				f.queues[parcel.Priority] = append(f.queues[parcel.Priority], e)
				return true
			}
			return false
		})
	}
}

// hushTimer lets what waits go when the quiet is over.
func (l *Link) hushTimer() {
	q := &l.quiet
	if q.timer != nil {
		q.timer.Stop()
	}
	q.timer = l.after(time.Until(q.until), func() {
		if time.Now().Before(l.quiet.until) {
			return
		}
		l.log.Info("quiet on narrow links is over")
		for _, f := range l.fars {
			f.pump()
		}
	})
}

// rehush looks at the policies again by which the links are quiet, when one of their rooms has changed: whoever shortens quiet_min, or sets it to 0, means the quiet that runs.
func (l *Link) rehush(changed []event.RoomID) {
	q := &l.quiet
	if !time.Now().Before(q.until) || !slices.ContainsFunc(changed, func(id event.RoomID) bool { return !q.flashes[id].IsZero() }) {
		return
	}
	rooms := slices.Collect(maps.Keys(q.flashes))
	l.work(func(ctx context.Context) func() {
		lasts := make(map[event.RoomID]time.Duration, len(rooms))
		err := l.c.DB.View(ctx, func(r *store.Read) error {
			for _, id := range rooms {
				d, err := l.judge.Quiet(r, id)
				if err != nil {
					return err
				}
				lasts[id] = d
			}
			return nil
		})
		return func() {
			if err != nil {
				if ctx.Err() == nil {
					l.log.Warn("the policies of quiet could not be read; it ends by itself", "err", err)
				}
				return
			}
			now := time.Now()
			until := now
			for id, at := range q.flashes {
				d, ok := lasts[id]
				if !ok {
					return // one has come meanwhile; its room is looked at with the next change
				}
				if end := at.Add(d); end.After(until) {
					until = end
				}
			}
			if now.Before(q.until) && until.Before(q.until) {
				q.until = until
				l.hushTimer()
			}
		}
	})
}

// hushed says whether routine and bulk keep off a way now.
func (l *Link) hushed(w *way) bool {
	return w.mail == nil && w.slow() && time.Now().Before(l.quiet.until)
}

// Quiet says until when routine and bulk keep off narrow links; zero when they do not.
func (l *Link) Quiet() time.Time {
	l.statusMu.Lock()
	defer l.statusMu.Unlock()
	if !time.Now().Before(l.quietUntil) {
		return time.Time{}
	}
	return l.quietUntil
}

// floorShare is the part of all bytes that the least urgent class has, as one of so many.
const floorShare = 10

// classes says which is the most and which the least urgent class that something waits in.
func (f *far) classes(w *way) (top, least int, any bool) {
	least = -1
	note := func(p int) {
		if !any || p < top {
			top = p
		}
		least, any = max(least, p), true
	}
	for p, q := range f.queues {
		if len(q) > 0 {
			note(p)
		}
	}
	if f.heard == 0 {
		return top, least, any
	}
	if len(f.edus) > 0 && !f.eduBusy {
		note(f.eduPriority())
	}
	if len(f.items) > 0 && f.itemsDue(w) {
		note(f.items[0].Priority)
		note(f.items[len(f.items)-1].Priority) // they are arranged
	}
	return top, least, any
}

// spend counts what goes over the way towards the floor of the least urgent.
func (f *far) spend(w *way, p, bytes int) {
	switch _, least, any := f.classes(w); {
	case f.asIf > 0: // it went by its floor
		f.owed -= bytes
	case !any || least <= p || least < parcel.Routine:
		f.owed = 0
	default:
		f.owed = min(f.owed+bytes/(floorShare-1), 4*w.limit())
	}
}

// sendFloor sends a message of the least urgent class when its floor is due. sent is false when it is not, or when nothing of it can go now.
func (f *far) sendFloor(w *way) (sent bool) {
	if f.owed < w.limit() || w.mail != nil {
		return false
	}
	top, least, any := f.classes(w)
	if !any || top == parcel.Flash || least <= top || f.l.hushed(w) || w.t.Free(w.addr, top) <= 0 {
		return false
	}
	f.asIf = top
	defer func() { f.asIf = 0 }()
	switch {
	case len(f.queues[least]) > 0:
		f.sendQueued(w, least)
	case len(f.edus) > 0 && !f.eduBusy && f.eduPriority() == least:
		f.sendEDUs(w, least)
	case f.bring(least):
		f.sendItems(w, least)
	default:
		f.owed = 0
		return false
	}
	return true
}

// bring brings an item of a class to the front that no other of its room has to go before.
func (f *far) bring(p int) bool {
	for i, it := range f.items {
		if it.Priority != p {
			continue
		}
		first := true
		for _, o := range f.items[:i] {
			first = first && o.Room != it.Room
		}
		if first {
			copy(f.items[1:i+1], slices.Clone(f.items[:i]))
			f.items[0] = it
			return true
		}
	}
	return false
}
