// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// IntakeConfig is what an Intake needs; all but Log and Closed must be set.
type IntakeConfig struct {
	Local  Local
	DB     *store.DB
	Rooms  *room.Rooms
	Client *Client
	Log    *slog.Logger // nil: silent
	// Trouble counts what is not taken in; nil: nobody counts.
	Trouble *Trouble
	// Closed is told when a room's graph has closed after events had waited for it; for tests and status. May be nil.
	Closed func(event.RoomID)
}

// Intake takes events of other servers in: at once when their ancestors are known, otherwise staged in the database until the
// graph between them and what we have is closed. One lane per room works on that, in causal order, and asks for what lacks.
// Safe for concurrent use; lanes work only while Run does.
type Intake struct {
	c    IntakeConfig
	log  *slog.Logger
	late func(server string) // set by the Sender that looks what else a server has; nil: nobody does

	working chan struct{} // lanes that try staged events
	asking  chan struct{} // questions to other servers

	mu    sync.Mutex
	lanes map[event.RoomID]*lane
	gave  map[string]time.Time // servers by when they last gave what was asked for
	// reached is when servers last came in reach.
	reached map[string]time.Time
	busy    map[string]*asked // servers that are being asked
	ctx     context.Context   // Run's; nil while it does not run. The lanes' life, not a request's.
	wg      sync.WaitGroup
	ran     bool // it has begun to run: all rooms where events wait have lanes

	resyncs resyncs
}

// NewIntake returns an intake at rest.
func NewIntake(c IntakeConfig) *Intake {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Intake{c: c, log: c.Log, lanes: map[event.RoomID]*lane{}, gave: map[string]time.Time{}, reached: map[string]time.Time{}, busy: map[string]*asked{},
		working: make(chan struct{}, maxWorking), asking: make(chan struct{}, maxAsking)}
}

// Bounds of what the lanes do at once, and of what may wait.
const (
	maxWorking   = 16    // lanes that try events: each holds a page of them
	maxAsking    = 16    // questions to other servers: each may hold an answer of 32 MB
	maxAskingOne = 2     // of these to one server: one is answered while the other is on the line. More would share the line, and close all rooms at the end in place of one after the other
	maxStagedBy  = 5_000 // events of one origin; then it is told to come again later
)

// asked bounds the questions to one server.
type asked struct {
	slots *places
	users int
}

// turn waits until a lane may try events.
func (in *Intake) turn(ctx context.Context) error {
	select {
	case in.working <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (in *Intake) turnOver() { <-in.working }

// ask waits until a server may be asked; of those that wait the highest rank comes first.
func (in *Intake) ask(ctx context.Context, server string, rank int64) (release func(), err error) {
	in.mu.Lock()
	a := in.busy[server]
	if a == nil {
		a = &asked{slots: newPlaces(maxAskingOne)}
		in.busy[server] = a
	}
	a.users++
	in.mu.Unlock()
	leave := func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		if a.users--; a.users == 0 {
			delete(in.busy, server)
		}
	}
	if err := a.slots.take(ctx, rank); err != nil {
		leave()
		return nil, err
	}
	select {
	case in.asking <- struct{}{}:
	case <-ctx.Done():
		a.slots.leave()
		leave()
		return nil, ctx.Err()
	}
	return func() { <-in.asking; a.slots.leave(); leave() }, nil
}

// Full says that so many events of an origin wait that no more are taken from it for now.
func (in *Intake) Full(ctx context.Context, origin string) (bool, error) {
	in.mu.Lock()
	idle := len(in.lanes) == 0
	in.mu.Unlock()
	if idle {
		return false, nil
	}
	n := 0
	err := in.c.DB.View(ctx, func(r *store.Read) (err error) { n, err = r.StagedBy(origin, maxStagedBy); return err })
	return n >= maxStagedBy, err
}

// Run works on what is staged until ctx ends.
func (in *Intake) Run(ctx context.Context) error {
	var rooms []event.RoomID
	err := in.c.DB.View(ctx, func(r *store.Read) (err error) {
		if rooms, err = r.StagedRooms(); err != nil {
			return err
		}
		more, err := r.AuthWaitRooms()
		rooms = append(rooms, more...)
		return err
	})
	if err != nil {
		return fmt.Errorf("look up staged events: %w", err)
	}
	in.mu.Lock()
	in.ctx = ctx
	for id := range in.lanes {
		rooms = append(rooms, id)
	}
	in.mu.Unlock()
	for _, id := range rooms {
		in.poke(id)
	}
	in.mu.Lock()
	in.ran = true
	in.mu.Unlock()
	err = in.resyncAll(ctx)
	if err == nil {
		<-ctx.Done()
	}
	in.mu.Lock()
	in.ctx = nil
	in.mu.Unlock()
	in.wg.Wait()
	return err
}

// Appended has staged events tried that lacked what a transaction brings, whichever way it came. Sender.Appended does it, too; who has no Sender puts it into room.Options.OnAppend.
func (in *Intake) Appended(tx *store.Tx, a room.AppendInfo) error {
	in.mu.Lock()
	idle := in.ran && in.lanes[a.Room] == nil
	in.mu.Unlock()
	if idle {
		return nil
	}
	return tx.RetryStaged(a.Room, a.PDU.ID)
}

// Take takes in one event that origin sent. When it returns nil the event is decided or durably staged. An error is
// for the origin to hear; nothing of the event is kept then.
func (in *Intake) Take(ctx context.Context, origin string, p *event.PDU) error {
	return in.TakeAll(ctx, origin, []*event.PDU{p})[0]
}

// TakeAll is Take for the events of one transaction: they share flushes. The answers are in the order of the events.
func (in *Intake) TakeAll(ctx context.Context, origin string, pdus []*event.PDU) []error {
	errs := make([]error, len(pdus))
	var ins []room.Incoming
	var at []int // which answer each of ins belongs to
	ids := make([]event.ID, len(pdus))
	for i, p := range pdus {
		ids[i] = p.ID
	}
	known, err := in.c.Rooms.Known(ctx, ids...)
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	order := make([]int, 0, len(pdus)) // what is of one room stands together
	for i := range pdus {
		if !known[ids[i]] {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(pdus[a].RoomID, pdus[b].RoomID) })
	vetter := in.c.Client.vetter()
	keys, enough := context.WithTimeout(ctx, keysSoon)
	defer enough()
	for _, i := range order {
		p := pdus[i]
		in.noteLate(origin, p)
		refusal := ""
		ready, err := in.checkSoon(ctx, keys, origin, p)
		if err == nil {
			ready, refusal, err = vetter.vet(ctx, ready)
		}
		switch {
		case err == nil:
			ins = append(ins, room.Incoming{PDU: ready, From: room.Source{Kind: "federation", Server: origin}, Unwanted: refusal})
			at = append(at, i)
		case errors.Is(err, ErrKeyUnavailable):
			errs[i] = in.stage(ctx, origin, false, p)
		case ctx.Err() != nil:
			errs[i] = ctx.Err()
		default:
			in.c.Trouble.Note(origin, BadSignature, p.RoomID, p.ID, err)
			errs[i] = &badPDU{err.Error()}
		}
	}
	results, err := in.c.Rooms.AcceptAll(ctx, ins)
	var wait []*event.PDU
	var waitAt []int
	for k, res := range results {
		switch res.Outcome {
		case room.Missing:
			wait, waitAt = append(wait, ins[k].PDU), append(waitAt, at[k])
			prev := ins[k].PDU.Prev
			if in.late != nil && slices.ContainsFunc(res.Missing, func(id event.ID) bool { return slices.Contains(prev, id) }) {
				in.late(origin)
			}
		case room.Rejected:
			if lacking, err := in.c.Rooms.NotWhole(ctx, ins[k].PDU.RoomID); lacking && err == nil {
				continue // not the last word: it is judged anew when all members are known
			}
			in.c.Trouble.Note(origin, Refused, ins[k].PDU.RoomID, ins[k].PDU.ID, errors.New(res.Reason))
			errs[at[k]] = &badPDU{"rejected: " + res.Reason}
		default:
			in.pokeIfWaiting(ins[k].PDU.RoomID)
		}
	}
	for _, i := range at[len(results):] {
		errs[i] = err
	}
	if err := in.stage(ctx, origin, true, wait...); err != nil {
		for _, i := range waitAt {
			errs[i] = err
		}
	}
	return errs
}

// keysSoon is how long one transaction waits for keys of servers that are out of reach; its sender waits for the answer.
const keysSoon = 15 * time.Second

// checkSoon is Client.checked while keys, a part of ctx, lasts: what is not known then is staged, and verified when there is time.
func (in *Intake) checkSoon(ctx, keys context.Context, origin string, p *event.PDU) (ready *event.PDU, err error) {
	if keys.Err() == nil {
		ready, err = in.c.Client.checked(keys, origin, p)
	}
	switch {
	case ready != nil || ctx.Err() == nil && keys.Err() == nil:
		return ready, err
	case ctx.Err() != nil: // who asked has gone
		return nil, ctx.Err()
	}
	return nil, ErrKeyUnavailable
}

// lateAfter is how old an event of a server's own user is when it tells of an outage that nobody here noticed.
const lateAfter = 10 * time.Second

// noteLate looks for signs that a server could not reach us for a while: it may have more than it will ever send.
func (in *Intake) noteLate(origin string, p *event.PDU) {
	if in.late != nil && p.Sender.Server() == origin && in.c.Client.now().Sub(time.UnixMilli(p.TS)) > lateAfter {
		in.late(origin)
	}
}

// known says whether an event is in the room for good, so that nobody needs to look at it again.
func (in *Intake) known(ctx context.Context, id event.ID) bool {
	known, err := in.c.Rooms.Known(ctx, id)
	return err == nil && known[id]
}

// stage keeps events until their ancestors are here, and wakes the lane.
func (in *Intake) stage(ctx context.Context, origin string, verified bool, pdus ...*event.PDU) error {
	if len(pdus) == 0 {
		return nil
	}
	err := in.c.DB.Do(ctx, func(tx *store.Tx) error {
		for _, p := range pdus {
			err := tx.StagePDU(store.StagedPDU{Room: p.RoomID, ID: p.ID, Origin: origin, Verified: verified, JSON: p.JSON()})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("stage events: %w", err)
	}
	for _, p := range pdus {
		in.poke(p.RoomID)
	}
	return nil
}

// Want has the intake get the events that a server named as its newest in a room, and all that lies between them and ours.
func (in *Intake) Want(id event.RoomID, server string, tips []event.ID) {
	in.mu.Lock()
	l := in.lane(id)
	for _, t := range tips {
		l.wants[t] = server
	}
	in.mu.Unlock()
	in.poke(id)
}

// Abandon forgets what waits in a room for its ancestors, and what was wanted there. It is for copies of rooms, which can be had anew; nothing was promised for them.
func (in *Intake) Abandon(ctx context.Context, id event.RoomID) error {
	in.mu.Lock()
	if l := in.lanes[id]; l != nil {
		clear(l.wants)
	}
	in.mu.Unlock()
	return in.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.UnstageRoom(id) })
}

// Busy says whether events wait in a room, or are asked for.
func (in *Intake) Busy(id event.RoomID) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	l := in.lanes[id]
	return l != nil && l.running
}

// Reachable wakes all lanes: a server is there again that one may wait for.
func (in *Intake) Reachable(server string) {
	in.resyncs.wake()
	sooner := !in.slow(server)
	in.mu.Lock()
	defer in.mu.Unlock()
	bound(in.reached)
	in.reached[server] = time.Now()
	for _, l := range in.lanes {
		if sooner && l.sooner != nil {
			l.sooner()
		}
		l.poke()
	}
}

// lane finds or makes a room's lane; in.mu is held.
func (in *Intake) lane(id event.RoomID) *lane {
	l := in.lanes[id]
	if l == nil {
		l = &lane{room: id, wake: make(chan struct{}, 1), wants: map[event.ID]string{}}
		in.lanes[id] = l
	}
	return l
}

func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// poke wakes a room's lane, starting it when it does not run.
func (in *Intake) poke(id event.RoomID) {
	in.mu.Lock()
	defer in.mu.Unlock()
	l := in.lane(id)
	l.poke()
	if in.ctx != nil && !l.running {
		l.running = true
		ctx := in.ctx
		in.wg.Go(func() { in.work(ctx, l) }) // Run waits for it
	}
}

func (in *Intake) pokeIfWaiting(id event.RoomID) {
	in.mu.Lock()
	l := in.lanes[id]
	in.mu.Unlock()
	if l != nil {
		in.poke(id)
	}
}
