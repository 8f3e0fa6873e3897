// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// maxTyping is how long somebody may type without saying so again.
const maxTyping = 2 * time.Minute

// typists are the users typing in one room, with the timers that end it.
type typists struct {
	serial int64
	users  map[event.UserID]*time.Timer
}

// SetTyping notes that a local user types, for at most timeout, or has stopped.
func (f *Feed) SetTyping(id event.RoomID, user event.UserID, typing bool, timeout time.Duration) {
	tell := f.opt.OnTyping
	if tell == nil {
		tell = func(event.RoomID, event.UserID, bool) {}
	}
	stop := func() {
		if f.setTyping(id, user, false, 0, nil) {
			tell(id, user, false)
		}
	}
	if f.setTyping(id, user, typing, timeout, stop) {
		tell(id, user, typing)
	}
}

// setTyping says whether that changed anything. stop is called when the time is over.
func (f *Feed) setTyping(id event.RoomID, user event.UserID, typing bool, timeout time.Duration, stop func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.typing[id]
	if t == nil {
		if !typing {
			return false
		}
		t = &typists{users: make(map[event.UserID]*time.Timer)}
		f.typing[id] = t
	}
	old, was := t.users[user]
	if was {
		old.Stop()
		delete(t.users, user)
	}
	if typing {
		// The timer's goroutine takes the lock for a moment; Close stops the timers.
		t.users[user] = time.AfterFunc(min(max(timeout, time.Second), maxTyping), stop)
	}
	if was == typing {
		return false
	}
	f.typed++
	t.serial = f.typed
	for w := range f.waiters {
		if w.rooms == nil || w.rooms[id] {
			w.wake()
		}
	}
	return true
}

// Typing lists who is typing in a room.
func (f *Feed) Typing(id event.RoomID) []event.UserID {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.typing[id]; t != nil {
		return t.list()
	}
	return nil
}

func (t *typists) list() []event.UserID {
	out := make([]event.UserID, 0, len(t.users))
	for u := range t.users {
		out = append(out, u)
	}
	slices.Sort(out)
	return out
}

// typedSince gives the rooms where typing changed after a serial, and the serial now. A serial from before a restart is
// greater than all: then everything is new.
func (f *Feed) typedSince(serial int64) (map[event.RoomID][]event.UserID, int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if serial > f.typed {
		serial = 0
	}
	out := map[event.RoomID][]event.UserID{}
	for id, t := range f.typing {
		if t.serial > serial && (serial > 0 || len(t.users) > 0) {
			out[id] = t.list()
		}
	}
	return out, f.typed
}

// ReceiveTyping takes another server's m.typing, of its own users in rooms they are joined to; else it is passed over.
func (f *Feed) ReceiveTyping(ctx context.Context, origin string, edu json.RawMessage) error {
	var c struct {
		Room   event.RoomID `json:"room_id"`
		User   event.UserID `json:"user_id"`
		Typing bool         `json:"typing"`
	}
	if json.Unmarshal(edu, &c) != nil || c.User.Server() != origin {
		return nil
	}
	return f.db.View(ctx, func(r *store.Read) error {
		in, err := r.MayBeIn(c.Room, c.User)
		if err == nil && in {
			f.setTyping(c.Room, c.User, c.Typing, 30*time.Second, func() { f.setTyping(c.Room, c.User, false, 0, nil) })
		}
		return err
	})
}

// ephemeral adds typing and receipts; own says that the reader's own receipt moved, so that counters may have changed.
func (s *syncer) ephemeral(id event.RoomID, full bool, typing []event.UserID, news bool, out *joinedRoom) (own bool, err error) {
	x := &s.filter.Room.Ephemeral
	after := s.since.pos
	if full {
		after = 0
	}
	rows, err := s.Receipts(id, after, s.pos)
	if err != nil {
		return false, err
	}
	var pages []receiptPage
	for _, row := range rows {
		if row.User == s.user {
			own = true
		} else if row.Type == "m.read.private" || s.ignored[row.User] {
			continue
		}
		pages = addReceipt(pages, row)
	}
	if x.room(id) && x.kind("m.receipt") {
		for _, p := range pages {
			raw, err := json.Marshal(p)
			if err != nil {
				return own, err
			}
			out.Ephemeral.Events = append(out.Ephemeral.Events, typed("m.receipt", raw))
		}
	}
	if err := s.notices(id, after, out); err != nil {
		return own, err
	}
	if news && x.room(id) && x.kind("m.typing") {
		list := make([]event.UserID, 0, len(typing))
		for _, u := range typing {
			if !s.ignored[u] {
				list = append(list, u)
			}
		}
		raw, err := json.Marshal(map[string][]event.UserID{"user_ids": list})
		if err != nil {
			return own, err
		}
		out.Ephemeral.Events = append(out.Ephemeral.Events, typed("m.typing", raw))
	}
	return own, nil
}

// receiptPage is the content of one m.receipt.
type receiptPage map[event.ID]map[string]map[event.UserID]receiptData

type receiptData struct {
	TS     int64  `json:"ts"`
	Thread string `json:"thread_id,omitempty"`
}

// addReceipt places a receipt. A user may have several on one event, for threads; each page has room for one.
func addReceipt(pages []receiptPage, row store.ReceiptRow) []receiptPage {
	for _, p := range pages {
		if _, taken := p[row.Event][row.Type][row.User]; !taken {
			p.add(row)
			return pages
		}
	}
	p := receiptPage{}
	p.add(row)
	return append(pages, p)
}

func (p receiptPage) add(row store.ReceiptRow) {
	if p[row.Event] == nil {
		p[row.Event] = map[string]map[event.UserID]receiptData{}
	}
	if p[row.Event][row.Type] == nil {
		p[row.Event][row.Type] = map[event.UserID]receiptData{}
	}
	p[row.Event][row.Type][row.User] = receiptData{TS: row.TS, Thread: row.Thread}
}
