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

	mu    sync.Mutex
	lanes map[event.RoomID]*lane
	ctx   context.Context // Run's; nil while it does not run. The lanes' life, not a request's.
	wg    sync.WaitGroup
}

// lane is the work in one room.
type lane struct {
	room             event.RoomID
	wake             chan struct{}       // capacity 1
	running          bool                // guarded by Intake.mu
	wants            map[event.ID]string // ids that a server named as its newest: id to server; guarded by Intake.mu
	asked, noHistory map[string]bool     // the lane's own: servers asked before; those that gave no history
}

// NewIntake returns an intake at rest.
func NewIntake(c IntakeConfig) *Intake {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Intake{c: c, log: c.Log, lanes: map[event.RoomID]*lane{}}
}

// Run works on what is staged until ctx ends.
func (in *Intake) Run(ctx context.Context) error {
	var rooms []event.RoomID
	err := in.c.DB.View(ctx, func(r *store.Read) (err error) {
		rooms, err = r.StagedRooms()
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
	<-ctx.Done()
	in.mu.Lock()
	in.ctx = nil
	in.mu.Unlock()
	in.wg.Wait()
	return nil
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
	for _, i := range order {
		p := pdus[i]
		in.noteLate(origin, p)
		refusal := ""
		ready, err := in.c.Client.checked(ctx, origin, p)
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
			if in.late != nil {
				in.late(origin)
			}
		case room.Rejected:
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

// Busy says whether events wait in a room, or are asked for.
func (in *Intake) Busy(id event.RoomID) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	l := in.lanes[id]
	return l != nil && l.running
}

// Reachable wakes all lanes: a server is there again that one may wait for.
func (in *Intake) Reachable(string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, l := range in.lanes {
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

const (
	retryFirst = time.Second
	retryMost  = time.Minute
)

// work is a lane's life: it ends when nothing waits in the room any more.
func (in *Intake) work(ctx context.Context, l *lane) {
	delay := retryFirst
	for {
		select {
		case <-l.wake:
		default:
		}
		left, progress, err := in.round(ctx, l)
		if err != nil && ctx.Err() == nil {
			in.log.Warn("taking in events", "room", l.room, "err", err)
		}
		if left == 0 && err == nil {
			if in.retire(l) {
				if in.c.Closed != nil {
					in.c.Closed(l.room)
				}
				return
			}
			continue
		}
		if progress {
			delay = retryFirst
			continue
		}
		in.log.Info("events wait for their ancestors", "room", l.room, "events", left, "again", delay)
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-timer.C:
			delay = min(2*delay, retryMost)
		}
		timer.Stop()
		if ctx.Err() != nil {
			in.mu.Lock()
			l.running = false
			in.mu.Unlock()
			return
		}
	}
}

// retire ends a lane unless something came meanwhile.
func (in *Intake) retire(l *lane) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(l.wants) > 0 || len(l.wake) > 0 {
		return false
	}
	l.running = false
	delete(in.lanes, l.room)
	return true
}
