// SPDX-License-Identifier: EUPL-1.2

// Package conflict finds what did not survive the end of a partition, and owes a letter to everybody whom it concerns: people whose messages the other
// side does not show because it had put them out or silenced them meanwhile; those who may change a room's name, power levels and the like, when two sides changed the same; the
// members of a room that was upgraded on the other side, whom it brings into the new one. It writes, too, to those whose invite the hub refused while the box was away.
//
// It promises: a room in which branches met whose states differ is looked at once, after what comes from the other side has come to rest; what it found is owed in the
// transaction that forgets the conflict, so that it is told once, whatever ends in between. It changes nothing in a room; the one thing that it does there is to let
// users of this box follow an upgrade. An event that meets no other branch costs nothing.
//
// How it knows. room.Fork says that an event from elsewhere has shown another state; only then a row is written. From then on the current state came by the law (rules). A
// message of ours does not stand when an event D that put its sender out, or changed the power levels, is in force here, came from a branch that did not know the message (no
// way leads from D back to it), and refuses it: that is what a server that saw D first has judged when the message came. Its answer to us is 200 all the same. For a state
// key, each value remembers which one it took the place of; values of which nobody knew when they set another one are the ends of the fork, and all but the one in force are lost.
//
// Known holes: an event of ours that falls later, because an authorising event turns out to be refused, goes without a letter. Where a ban comes without what was before it and its
// server answers for our events all the same, nothing can be said of messages. Other servers' people are told nothing of what this box does not show of theirs; its room admins are.
//
// It leaves to others: the law (rules), how a text reaches a user (herald), joining (given as a function).
package conflict

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/herald"
	"hallig/appliance/room"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// Config of New. All of it must be set but Now and Quiet.
type Config struct {
	DB     *store.DB
	Server string
	Now    func() time.Time // of letters and pacing; nil: time.Now
	Quiet  time.Duration    // for how long nothing may have come into a room before people are told; 0: 20 s
	// Join lets a user of this box into a room through one of servers. refused: the room's rules do not let them in, or there is no such room, and asking again is useless.
	Join func(ctx context.Context, user event.UserID, id event.RoomID, servers []string) (refused bool, err error)
	// Leave takes them out again.
	Leave func(ctx context.Context, user event.UserID, id event.RoomID) error
	// Told is called after letters were written down.
	Told func()
	Log  *slog.Logger
}

// Conflicts is safe for concurrent use, except that only one Look runs at a time.
type Conflicts struct {
	c    Config
	wake chan struct{}              // capacity 1
	rest map[event.RoomID]*rest     // Look's
	told map[event.RoomID]time.Time // Look's: when somebody was told of a room last

	mu    sync.Mutex
	noted map[event.RoomID]int // how often a room was noted since it was looked at
}

// rest is how a room with a conflict comes to rest.
type rest struct {
	first time.Time // when it was seen first
	pos   int64     // of the newest event
	at    time.Time // when that was seen first
}

const (
	busyMost  = 5 * time.Minute // where people never stop writing
	gapMost   = time.Hour       // where history does not come
	lookEvery = 5 * time.Second
	unshownIn = 7 * 24 * time.Hour // people are not told of refused messages of the same user more often
	tellEvery = 10 * time.Minute   // nor of one room more often, whoever fights in it
	barredIn  = 24 * time.Hour     // nor that a server tells nothing of a room
)

// Kinds of what is counted for whoever runs the box.
const (
	CountRooms    = "rooms"    // rooms in which something did not stand
	CountMessages = "messages" // messages of our users that others do not show
	CountChanges  = "changes"  // changes of a room that lost against another one
	CountUnshown  = "unshown"  // messages of others that are not shown here
	CountFollowed = "followed" // users who were brought into a new room
	CountStayed   = "stayed"   // users who could not be
)

// New makes it. It starts nothing.
func New(c Config) *Conflicts {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Quiet == 0 {
		c.Quiet = 20 * time.Second
	}
	return &Conflicts{c: c, wake: make(chan struct{}, 1), rest: make(map[event.RoomID]*rest), told: make(map[event.RoomID]time.Time), noted: make(map[event.RoomID]int)}
}

// contested are the state types of which people are told; others are the business of programs. Memberships are looked at by themselves.
var contested = map[string]bool{
	"m.room.name": true, "m.room.topic": true, "m.room.avatar": true, "m.room.power_levels": true, "m.room.join_rules": true, "m.room.history_visibility": true,
	"m.room.guest_access": true, "m.room.canonical_alias": true, "m.room.encryption": true, "m.room.server_acl": true, "m.room.pinned_events": true, "m.room.tombstone": true,
	"org.hallig.priority": true,
}

// Forked notes a fork, in the transaction of the event that showed it.
func (c *Conflicts) Forked(tx *store.Tx, f room.Fork) error {
	for _, k := range f.Apart {
		if contested[k.Type] || k.Type == "m.room.member" {
			return c.open(tx, store.Conflict{Room: f.Room, Since: f.Pos, Ours: f.Ours, Theirs: f.Event})
		}
	}
	return nil
}

// Appended notes what is a conflict without a fork: a room that was closed from elsewhere, and events that the current state refuses.
func (c *Conflicts) Appended(tx *store.Tx, e room.AppendInfo) error {
	switch {
	case e.From.Kind == "local" || e.Backfill || e.Outlier:
		return nil
	case e.Outcome == room.Accepted && e.PDU.Is("m.room.tombstone", "") && e.Pos > 0:
		row, err := tx.EventByNID(e.NID)
		if row == nil || err != nil {
			return err
		}
		return c.open(tx, store.Conflict{Room: e.Room, Since: e.Pos, Ours: row.Before, Theirs: e.NID})
	case e.Outcome == room.SoftFailed && e.PDU.Type != "m.room.member" && e.PDU.Sender.Server() != c.c.Server:
		first, err := tx.CountUnshown(e.Room, e.PDU.Sender, c.c.Now().Add(-unshownIn).UnixMilli())
		if !first || err != nil {
			return err
		}
		r, err := tx.Room(e.Room)
		if r == nil || err != nil {
			return err
		}
		return c.open(tx, store.Conflict{Room: e.Room, Since: tx.NextPos(), Ours: r.Cur, Theirs: e.NID})
	}
	return nil
}

// Barred notes that a server refuses to say whether it has our events of a room with positions from first to last. That is a conflict when it is in the room by our state,
// and not when it has left.
func (c *Conflicts) Barred(ctx context.Context, server string, id event.RoomID, first, last int64) error {
	err := c.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
		r, err := tx.Room(id)
		if r == nil || err != nil {
			return err
		}
		in, err := tx.Resident(id, server)
		if !in || err != nil {
			return err
		}
		b, err := tx.NoteBarred(id, server, first, last)
		if err != nil || c.c.Now().UnixMilli()-b.Told < barredIn.Milliseconds() {
			return err
		}
		return c.open(tx, store.Conflict{Room: id, Since: tx.NextPos(), Ours: r.Cur})
	})
	if err != nil {
		return fmt.Errorf("note that %s tells nothing of %s: %w", server, id, err)
	}
	return nil
}

func (c *Conflicts) open(tx *store.Tx, x store.Conflict) error {
	if err := tx.OpenConflict(x); err != nil {
		return fmt.Errorf("note a conflict in %s: %w", x.Room, err)
	}
	c.mu.Lock()
	c.noted[x.Room]++
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

func (c *Conflicts) notes(id event.RoomID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.noted[id]
}

// Run looks when there may be something to tell, until ctx ends.
func (c *Conflicts) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	soon := true // the timer ends before long
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
			if !soon { // the act that woke us may not be committed yet
				soon = true
				timer.Reset(min(lookEvery, c.c.Quiet))
			}
			continue
		case <-timer.C:
		}
		wait, err := c.Look(ctx)
		if err != nil && ctx.Err() == nil {
			c.c.Log.Warn("what a partition has left could not be told; the box tries again in a minute", "err", err)
			wait = time.Minute
		}
		if soon = wait > 0 && wait <= lookEvery; wait > 0 {
			timer.Reset(wait)
		}
	}
}

// Look tells what has come to rest, and brings on who is to be. It answers when to look again; 0: when something new is noted.
func (c *Conflicts) Look(ctx context.Context) (again time.Duration, err error) {
	var open []store.Conflict
	err = c.c.DB.View(ctx, func(r *store.Read) (err error) {
		open, err = r.Conflicts()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look for conflicts: %w", err)
	}
	now := c.c.Now()
	var errs []error // one room holds up no other
	for _, x := range open {
		ready, err := c.ready(ctx, x, now)
		if err == nil && !ready {
			again = min(lookEvery, c.c.Quiet)
			continue
		}
		if err == nil {
			err = c.settle(ctx, x, now)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("find what a partition has left in %s: %w", x.Room, err))
			continue
		}
		delete(c.rest, x.Room)
	}
	next, err := c.follow(ctx, now)
	if next > 0 {
		again = earlier(again, next)
	}
	return again, errors.Join(append(errs, err)...)
}

// ready says whether a room has come to rest: nothing is staged, no history lacks, nothing came for a while; or that has lasted long enough.
func (c *Conflicts) ready(ctx context.Context, x store.Conflict, now time.Time) (bool, error) {
	var pos int64
	var gaps bool
	err := c.c.DB.View(ctx, func(r *store.Read) error {
		var err error
		if pos, err = r.LastPos(x.Room, 1<<62); err != nil {
			return err
		}
		if here, err := r.Resident(x.Room, c.c.Server); !here || err != nil { // nobody tells us more
			return err
		}
		staged, err := r.StagedCount(x.Room)
		if err != nil {
			return err
		}
		gaps, err = r.GapSince(x.Room, x.Since)
		gaps = gaps || staged > 0
		return err
	})
	if err != nil {
		return false, err
	}
	s := c.rest[x.Room]
	if s == nil || now.Before(s.at) { // or the clock was set back
		s = &rest{first: now, pos: pos, at: now}
		c.rest[x.Room] = s
	}
	if s.pos != pos {
		s.pos, s.at = pos, now
	}
	if t, ok := c.told[x.Room]; ok && !now.Before(t) && now.Sub(t) < tellEvery {
		return false, nil
	}
	delete(c.told, x.Room)
	if gaps {
		return now.Sub(s.first) >= gapMost, nil
	}
	return now.Sub(s.at) >= c.c.Quiet || now.Sub(s.first) >= busyMost, nil
}

// settle finds out what there is to tell of a conflict and owes it, together with forgetting the conflict.
func (c *Conflicts) settle(ctx context.Context, x store.Conflict, now time.Time) error {
	notes := c.notes(x.Room)
	f, err := c.find(ctx, x, now)
	if err != nil {
		return err
	}
	return c.conclude(ctx, x, f, notes, now)
}

// conclude owes what was found, unless the room was noted again meanwhile.
func (c *Conflicts) conclude(ctx context.Context, x store.Conflict, f *finding, notes int, now time.Time) error {
	letters := f.letters()
	err := c.c.DB.Do(ctx, func(tx *store.Tx) error {
		if c.notes(x.Room) != notes {
			return errMore
		}
		if err := tx.CloseConflict(x.Room); err != nil {
			return err
		}
		for _, u := range f.unshown {
			if err := tx.ToldUnshown(x.Room, u, now.UnixMilli()); err != nil {
				return err
			}
		}
		for _, b := range f.barred {
			if err := tx.ToldBarred(x.Room, b, now.UnixMilli()); err != nil {
				return err
			}
		}
		for _, follow := range f.follows {
			if err := tx.PutFollow(follow); err != nil {
				return err
			}
		}
		for _, l := range letters {
			if err := herald.Owe(tx, l.user, l.text); err != nil {
				return err
			}
		}
		return f.count(tx)
	})
	if errors.Is(err, errMore) {
		return nil // the room is looked at again
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	if c.noted[x.Room] == notes {
		delete(c.noted, x.Room)
	}
	c.mu.Unlock()
	if len(letters) > 0 {
		c.told[x.Room] = now
		c.c.Log.Info("people are told what did not survive the partition", "room", x.Room, "people", len(letters), "messages", f.messages(), "changes", len(f.fights))
		c.c.Told()
	}
	return nil
}

// errMore: another branch came while the room was looked at.
var errMore = errors.New("conflict: more has come")

func (f *finding) count(tx *store.Tx) error {
	unshown := 0
	for _, u := range f.unshown {
		unshown += u.N
	}
	if f.messages()+len(f.fights)+unshown == 0 {
		return nil
	}
	for _, n := range []struct {
		what string
		n    int
	}{{CountRooms, 1}, {CountMessages, f.messages()}, {CountChanges, len(f.fights)}, {CountUnshown, unshown}} {
		if err := tx.CountConflicts(n.what, n.n); err != nil {
			return err
		}
	}
	return nil
}

// thin is what the law needs of an event; nil when it cannot be read.
func thin(v *event.Version, e *store.Event) (*event.PDU, *rules.Event) {
	p, err := event.ParseTrusted(v, e.ID, e.JSON)
	if err != nil {
		return nil, nil
	}
	t, err := rules.Thin(p)
	if err != nil {
		return p, nil
	}
	return p, t
}
