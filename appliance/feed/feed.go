// SPDX-License-Identifier: EUPL-1.2

// Package feed tells clients what they have not seen: /sync with its long polls, and every other way to read a room
// (/messages, /context, /event, /members, state, relations). It decides what a user may see of a room's history, and
// formats events for clients. Typing and presence live here, in memory only.
//
// It promises: a client that follows next_batch gets every visible event once and in order, however many write at the same
// time, across a lost answer and across a restart; a poll wakes after the commit of what concerns its user, never before,
// and never by what the sync itself wrote. It writes nothing but the deletion of to-device messages that a later token has
// shown to be received.
//
// A token is "s<position>", with "_<typing>_<to-device>" behind it when these differ from zero and the position; a place in
// a room's history is "p<position>", negative for history that was fetched later. Both may be used wherever a place is
// asked for. Positions come from the store's one stream.
//
// Lock order: Feed.mu is a leaf; nothing is asked of the store while it is held.
package feed

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// Options of New; the zero value is right.
type Options struct {
	Log *slog.Logger     // nil: silent
	Now func() time.Time // nil: time.Now; only for the age of events
	// OnTyping is told when a local user begins or ends typing, for other servers; nil: nobody.
	OnTyping func(room event.RoomID, user event.UserID, typing bool)
	// Presence tells users who is there. It is off by default: it costs wake-ups and bytes.
	Presence bool
	// OnPresence is told when a local user's presence changes, for other servers; nil: nobody.
	OnPresence func(user event.UserID, now PresenceStatus)
	// OnShown is told up to which stream position a device of a user holds everything, with each sync that says so; it must not block. nil: nobody.
	OnShown func(user event.UserID, pos int64)
}

// Feed answers readers. All methods may be called from any goroutine.
type Feed struct {
	db      *store.DB
	rooms   *room.Rooms
	opt     Options
	settled func() // tests only: a poll has looked and waits now

	boot int64 // position at the start: no room that changed later is missing in changed

	bodies *cache[bodyKey, *body]     // client form of events
	facts  *cache[int64, fact]        // what visibility needs of state events
	counts *cache[countKey, unread]   // unread counters, carried on from sync to sync
	homes  *cache[event.UserID, home] // where a user belongs
	pushes *cache[event.UserID, asOfPushRules]
	boxes  *cache[boxKey, box]               // what a device has
	wrong  *cache[correctionKey, correction] // what a client must have got wrong
	sent   *cache[sentKey, int64]            // lazy members: token position with which a device was given a member event

	mu      sync.Mutex
	pos     int64                  // changed and touched are complete up to here
	changed map[event.RoomID]int64 // last position at which something happened in a room
	touched map[event.UserID]int64 // and for a user: membership, account data, letters, keys, device lists
	waiters map[*waiter]struct{}
	typing  map[event.RoomID]*typists
	typed   int64 // serial of the last change of typing or presence
	present map[event.UserID]*presence
	closed  chan struct{}
}

// waiter is one long poll.
type waiter struct {
	user  event.UserID
	rooms map[event.RoomID]bool // nil until the first look: everything wakes
	ch    chan struct{}         // capacity 1
}

// New gives the feed of a database. It starts nothing; it is told of commits by the store.
func New(db *store.DB, rooms *room.Rooms, opt Options) *Feed {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	f := &Feed{
		db: db, rooms: rooms, opt: opt,
		bodies:  newCache[bodyKey, *body](4096),
		facts:   newCache[int64, fact](8192),
		counts:  newCache[countKey, unread](4096),
		homes:   newCache[event.UserID, home](2048),
		pushes:  newCache[event.UserID, asOfPushRules](256),
		boxes:   newCache[boxKey, box](4096),
		wrong:   newCache[correctionKey, correction](2048),
		sent:    newCache[sentKey, int64](1 << 15),
		changed: make(map[event.RoomID]int64),
		touched: make(map[event.UserID]int64),
		waiters: make(map[*waiter]struct{}),
		typing:  make(map[event.RoomID]*typists),
		present: make(map[event.UserID]*presence),
		closed:  make(chan struct{}),
	}
	// Commits that the subscription may miss lie at or below boot, for which changed is not asked.
	db.OnCommit(f.commit)
	f.boot = db.Published()
	f.mu.Lock()
	f.pos = max(f.pos, f.boot)
	f.mu.Unlock()
	return f
}

// Close ends all long polls with what they have.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.closed:
		return
	default:
	}
	close(f.closed)
	for _, t := range f.typing {
		for _, timer := range t.users {
			timer.Stop()
		}
	}
	for _, p := range f.present {
		if p.gone != nil {
			p.gone.Stop()
		}
	}
}

// commit is called by the store's writer after each commit; it must not block.
func (f *Feed) commit(c store.Commit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pos = max(f.pos, c.Pos)
	for _, id := range c.Rooms {
		f.changed[id] = c.Pos
	}
	for _, u := range c.Users {
		f.touched[u] = c.Pos
	}
	if len(c.Rooms) == 0 && len(c.Users) == 0 {
		return
	}
	for w := range f.waiters {
		if w.concerned(c) {
			w.wake()
		}
	}
}

func (w *waiter) concerned(c store.Commit) bool {
	if w.rooms == nil {
		return true
	}
	for _, u := range c.Users {
		if u == w.user {
			return true
		}
	}
	for _, id := range c.Rooms {
		if w.rooms[id] {
			return true
		}
	}
	return false
}

func (w *waiter) wake() {
	select {
	case w.ch <- struct{}{}:
	default:
	}
}

func (f *Feed) join(user event.UserID) *waiter {
	w := &waiter{user: user, ch: make(chan struct{}, 1)}
	f.mu.Lock()
	f.waiters[w] = struct{}{}
	f.mu.Unlock()
	return w
}

func (f *Feed) leave(w *waiter) {
	f.mu.Lock()
	delete(f.waiters, w)
	f.mu.Unlock()
}

// settle narrows a waiter to its user's rooms after a look that found nothing.
func (f *Feed) settle(w *waiter, rooms map[event.RoomID]bool) {
	f.mu.Lock()
	w.rooms = rooms
	f.mu.Unlock()
	if f.settled != nil {
		f.settled()
	}
}

// recent is what is known in memory about what happened up to a position.
type recent struct {
	known   bool // the writer has told us of all up to there
	boot    int64
	touched int64 // the last that concerned the user; the boot when none did since
	changed map[event.RoomID]int64
}

// recent tells about a user. When the writer has committed up to pos but not told us yet, nothing is known and the store must
// be asked.
func (f *Feed) recent(user event.UserID, pos int64) recent {
	f.mu.Lock()
	defer f.mu.Unlock()
	return recent{known: f.pos >= pos, boot: f.boot, touched: max(f.boot, f.touched[user])}
}

// rooms adds what the rooms of the user need.
func (r *recent) rooms(f *Feed, ms []store.Membership) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.changed = make(map[event.RoomID]int64, len(ms))
	for _, m := range ms {
		if p, ok := f.changed[m.Room]; ok {
			r.changed[m.Room] = p
		}
	}
}

// mayHaveChanged says whether anything may have happened in a room after since; false is certain.
func (r *recent) mayHaveChanged(id event.RoomID, since int64) bool {
	if !r.known || since < r.boot {
		return true
	}
	return r.changed[id] > since
}

// quiet says that nothing of the user's own has changed since a position.
func (r *recent) quiet(since int64) bool { return r.known && r.touched <= since }

// home is where a user belongs, as of a position.
type home struct {
	pos     int64
	rooms   []store.Membership
	ignored map[event.UserID]bool
}

type boxKey struct {
	user   event.UserID
	device string
}

// box is what lies in store for a device, as of a position.
type box struct {
	pos      int64
	letters  bool // some lie in its box, delivered or not
	keys     map[string]int
	fallback []string
}

// view is one look at the store with what it needs around it.
func (f *Feed) view(ctx context.Context, user event.UserID, device string, do func(*look) error) error {
	pos := f.db.Published() // before the snapshot, so that the snapshot holds everything up to it
	return f.db.View(ctx, func(r *store.Read) error {
		return do(&look{Read: r, f: f, user: user, device: device, pos: pos, now: f.opt.Now()})
	})
}

// look is one reader's snapshot.
type look struct {
	*store.Read
	f      *Feed
	user   event.UserID
	device string
	pos    int64 // everything up to here is in the snapshot, and nothing beyond is told
	now    time.Time
}
