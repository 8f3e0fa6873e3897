// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// This file gets the members of rooms that were joined without them, behind everybody's back: one worker per room, which asks the server that was joined
// through, then the room's others, for ever. What it got is on the disk after each batch; a restart asks only for what lacks.

const (
	resyncFirst = 2 * time.Second
	resyncMost  = 15 * time.Minute
	// fewEvents are asked for one by one; more are asked for as a whole state.
	fewEvents = 30
	// maxUngiven is how many parts of a state a server may not be able to give and is believed all the same: old rooms have holes.
	maxUngiven = 100
	// strictRounds are tried before a state is taken without the events for whose signatures no key can be had: it may come, or another server may know it.
	strictRounds = 3
)

// teller hands on that a room was joined without its members.
type teller struct {
	mu sync.Mutex
	f  func(event.RoomID)
}

func (t *teller) tell(id event.RoomID) {
	t.mu.Lock()
	f := t.f
	t.mu.Unlock()
	if f != nil {
		f(id)
	}
}

func (t *teller) set(f func(event.RoomID)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.f = f
}

// resyncs are the workers. They run while Intake.Run does.
type resyncs struct {
	mu    sync.Mutex
	rooms map[event.RoomID]chan struct{} // to wake them
}

// wake has the workers try again at once.
func (r *resyncs) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.rooms {
		poke(c)
	}
}

// resyncAll starts with the rooms that lack members since before we were started.
func (in *Intake) resyncAll(ctx context.Context) error {
	in.c.Client.lacking.set(func(id event.RoomID) { in.resync(id, true) })
	rooms, err := in.c.Rooms.LackingRooms(ctx)
	if err != nil {
		return fmt.Errorf("look up rooms that lack members: %w", err)
	}
	for _, id := range rooms {
		in.resync(id, false)
	}
	return nil
}

// resync starts the worker of a room; fresh says that nothing of what lacks has come yet.
func (in *Intake) resync(id event.RoomID, fresh bool) {
	in.mu.Lock()
	ctx := in.ctx
	in.mu.Unlock()
	if ctx == nil {
		return // Run finds it
	}
	r := &in.resyncs
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.rooms[id]; c != nil {
		poke(c) // joined anew
		return
	}
	if r.rooms == nil {
		r.rooms = make(map[event.RoomID]chan struct{})
	}
	c := make(chan struct{}, 1)
	r.rooms[id] = c
	in.wg.Go(func() { in.resyncRoom(ctx, id, c, fresh) }) // Run waits for it
}

// resyncRoom works until a room lacks nothing any more.
func (in *Intake) resyncRoom(ctx context.Context, id event.RoomID, wake chan struct{}, fresh bool) {
	began := time.Now()
	round := 0
	for wait := resyncFirst; ctx.Err() == nil; wait = min(2*wait, resyncMost) {
		done, err := in.resyncOnce(ctx, id, round < strictRounds, fresh && round == 0)
		round++
		if done && in.resynced(id, wake) {
			in.log.Info("the members of a room are known", "room", id, "after", time.Since(began).Round(time.Millisecond))
			return
		}
		if done || ctx.Err() != nil {
			continue
		}
		in.log.Info("the members of a room are not known yet; trying on", "room", id, "err", err)
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-wake:
			wait = resyncFirst
		case <-ctx.Done():
		}
		again.Stop()
	}
}

// resynced ends a worker, unless it was woken meanwhile.
func (in *Intake) resynced(id event.RoomID, wake chan struct{}) bool {
	r := &in.resyncs
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-wake:
		return false
	default:
	}
	delete(r.rooms, id)
	return true
}

// resyncOnce asks each of the room's servers once.
func (in *Intake) resyncOnce(ctx context.Context, id event.RoomID, strict, fresh bool) (done bool, err error) {
	p, err := in.c.Rooms.Lacking(ctx, id)
	if p == nil || err != nil {
		return err == nil, err
	}
	refused, asked := 0, 0
	var last error = errors.New("nobody else is known to be in the room")
	for _, server := range append([]string{p.Via}, p.Servers...) {
		if server == in.c.Local.Server || asked > 0 && server == p.Via {
			continue
		}
		asked++
		err := in.membersFrom(ctx, server, p, strict, fresh && asked == 1)
		if err == nil || ctx.Err() != nil {
			return err == nil, ctx.Err()
		}
		if final(err) {
			refused++
		}
		last = fmt.Errorf("from %s: %w", server, err)
		in.log.Info("a server did not tell the members of a room", "server", server, "room", id, "err", err)
		if now, err := in.c.Rooms.Lacking(ctx, id); err != nil || now == nil || now.Join != p.Join {
			return false, err // joined anew meanwhile
		}
	}
	if !p.Here && refused == asked { // who is not in a room is told nothing of it
		return in.c.Rooms.Abandon(ctx, id)
	}
	return false, last
}

// membersFrom gets the state before our join from one server. The first time (fresh) it asks for the events themselves, as all
// members lack: their ids alone, which cannot be compressed, would take a minute of a narrow line for two hundred members. Later
// it asks for the ids, and for what lacks of them.
func (in *Intake) membersFrom(ctx context.Context, server string, p *room.Lacking, strict, fresh bool) error {
	release, err := in.ask(ctx, "members "+server, 0) // places of their own: all members of a big room take minutes
	if err != nil {
		return err
	}
	defer release()
	w := room.Whole{Room: p.Room, Join: p.Join}
	at := p.Join
	if len(p.Prev) == 1 { // other servers than the one that was joined through know it for longer
		at, w.At = p.Prev[0], p.Prev[0]
	}
	v, err := in.c.Rooms.Version(ctx, p.Room)
	if err != nil {
		return err
	}
	var state, auth []event.ID
	var answer *spool
	if fresh {
		answer, state, auth, err = in.c.Client.stateLong(ctx, server, p.Room, v, at)
	} else {
		state, auth, err = in.c.Client.StateIDs(ctx, server, p.Room, at)
	}
	if err == nil {
		err = in.founded(ctx, p.Room, state)
	}
	if err != nil {
		return err
	}
	bad, later, err := in.learnState(ctx, server, v, p.Room, at, w.At, slices.Concat(auth, state), answer)
	if err != nil {
		return err
	}
	if later > 0 && strict {
		return fmt.Errorf("%d events cannot be verified now", later)
	}
	w.State = slices.DeleteFunc(state, func(id event.ID) bool { return bad[id] })
	return in.c.Rooms.Complete(ctx, w)
}

func stateOf(id event.RoomID, at event.ID) call {
	return call{method: http.MethodGet, path: v1("state", string(id)), query: url.Values{"event_id": {string(at)}}, limit: maxJoin, patient: true}
}

// stateLong asks for the state before an event and its auth chain as events, and keeps the answer; the ids are those of the events in it.
func (c *Client) stateLong(ctx context.Context, server string, id event.RoomID, v *event.Version, at event.ID) (answer *spool, state, auth []event.ID, err error) {
	lists := map[string]*[]event.ID{"pdus": &state, "auth_chain": &auth}
	answer, err = c.askLong(ctx, server, stateOf(id, at), slices.Collect(maps.Keys(lists)), nil, func(key string, n int, raw json.RawMessage) error {
		list := lists[key]
		if n < 0 {
			*list = []event.ID{}
			return nil
		}
		p, err := event.Parse(v, bytes.Clone(raw))
		if err != nil || p.RoomID != id {
			return nil // it is left out, and said so, when it is to be stored
		}
		*list = append(*list, event.ID(strings.Clone(string(p.ID)))) // and not all the texts of the event
		return nil
	})
	if err == nil && (state == nil || auth == nil) {
		err = fmt.Errorf("%s told no state", server)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	return answer, state, auth, nil
}

// learnState brings the events of a state, and the one that it is before, unless that is "". bad are those that nobody can verify or give, later as many of
// them as lack a key. answer holds the events where they have been asked for; else it is nil.
func (in *Intake) learnState(ctx context.Context, server string, v *event.Version, id event.RoomID, at, prev event.ID, ids []event.ID, answer *spool) (bad map[event.ID]bool, later int, err error) {
	c := in.c.Client
	create, err := in.c.Rooms.StateEvent(ctx, id, "m.room.create", "")
	if err != nil {
		return nil, 0, err
	}
	if create == nil {
		return nil, 0, errors.New("the room's creation is missing")
	}
	l := c.learner(server, id, v, create)
	lack, err := in.c.Rooms.Lacks(ctx, ids)
	if err != nil {
		return nil, 0, err
	}
	if answer != nil || len(lack) > fewEvents {
		slices.Sort(lack)
		l.wanted = lack
		if answer == nil {
			if answer, err = c.askLong(ctx, server, stateOf(id, at), nil, nil, nil); err != nil {
				return nil, 0, err
			}
		}
		if err := l.learn(ctx, answer, "auth_chain", "pdus"); err != nil {
			return nil, 0, err
		}
		if lack, err = in.c.Rooms.Lacks(ctx, lack); err != nil {
			return nil, 0, err
		}
	}
	if prev != "" {
		more, err := in.c.Rooms.Lacks(ctx, []event.ID{prev})
		if err != nil {
			return nil, 0, err
		}
		lack = append(lack, more...)
	}
	ungiven, err := in.learnSingly(ctx, l, lack)
	if err != nil {
		return nil, 0, err
	}
	for _, id := range ungiven {
		l.bad[id] = true
	}
	if l.bad[prev] && prev != "" {
		return nil, 0, errors.New("the event before our join is not given, or not as it was signed")
	}
	return l.bad, l.later, nil
}

// learnSingly asks for events one by one. ungiven are those that the server does not have.
func (in *Intake) learnSingly(ctx context.Context, l *learner, ids []event.ID) (ungiven []event.ID, err error) {
	b := &learning{learner: l, ctx: ctx, all: true, batch: map[event.ID]bool{}}
	for _, id := range ids {
		if l.bad[id] {
			continue
		}
		p, err := in.c.Client.One(ctx, l.server, l.room, l.v, id)
		if final(err) {
			in.log.Info("a part of the state is not given", "server", l.server, "room", l.room, "event", id)
			if ungiven = append(ungiven, id); len(ungiven) > maxUngiven {
				return nil, errors.New("too much of the state is not given")
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if b.pdus = append(b.pdus, p); len(b.pdus) >= learnBatch {
			if err := b.flush(); err != nil {
				return nil, err
			}
		}
	}
	return ungiven, b.flush()
}
