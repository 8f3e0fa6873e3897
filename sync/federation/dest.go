// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

const (
	window       = 50                     // unconfirmed PDUs of a room at most: central servers throw away what comes faster
	checkFull    = 100 * time.Millisecond // after a full window: ask soon, more waits behind it
	checkIdle    = 500 * time.Millisecond // after the last event: nobody waits, but the cursor wants to move
	checkMost    = time.Second
	resendAfter  = 15 * time.Second // a server that has got no further by then has lost what it was given; doubled each time
	slowMost     = 4                // times that, for one that gets on with other rooms
	resendsMost  = 4                // then it is parked, and the room goes on
	refusalsMost = 3                // of a whole transaction, before it is cut smaller
	hangs        = 2 * time.Second  // a request without an answer by then, when the link has just come up
	tryFew       = time.Minute
	tryMost      = 15 * time.Minute
	networkOut   = 30 * time.Second // an outage of that length may be the network's
	roomsMost    = 4                // rooms whose backlog is on its way at a time
	fewServers   = 10
	probeFew     = 30 * time.Second
)

// maxHints bounds the hints for one server between two transactions.
const maxHints = 20

// dest serves one server. The fields below run belong to its goroutine.
type dest struct {
	s    *Sender
	name string
	log  *slog.Logger
	wake chan struct{}

	linkUp   atomic.Bool // speak at once
	failing  atomic.Bool
	triedAt  atomic.Int64          // of the last failure, ns
	standing atomic.Pointer[heard] // of its letters
	heeded   atomic.Pointer[heard] // of that, what went amiss and is seen to; its Amiss alone counts
	late     atomic.Bool           // what it sent since we looked what else it has tells of an outage

	mu     sync.Mutex
	abort  context.CancelFunc // of the request under way; nil when there is none
	began  time.Time          // that request
	marked map[event.RoomID]bool
	told   map[event.RoomID]outward
	hints  map[string]edu // typing: gone when not taken along
	unback []backSeries   // of which the hub knows by now that it is to bring nothing more of them
	st     Status

	rooms    map[event.RoomID]*ledger
	pending  *outgoing // sent, not answered: goes again unchanged
	eduAfter int64
	narrow   bool      // one thing per transaction, after refusals
	edusLast bool      // the last transaction brought EDUs alone
	refused  int       // how often pending was refused
	since    time.Time // of the failure
	retryAt  time.Time
	contact  time.Time // of the last answer
	met      bool      // it has answered since the start
	pull     pullPlan
	advanced time.Time         // when it last knew something new
	reoffer  bool              // something was parked that it did not refuse
	known    map[event.ID]bool // other boxes' events that the server knows
	turns    int               // that rooms have begun
	refusing bool              // its last failure was an answer to what it was sent
	post     posting
}

// ledger is what a server has of one room. cursor <= confirmed < window's positions <= sent.
type ledger struct {
	cursor  int64 // confirmed, as in the database
	sent    int64 // looked through and sent up to here
	window  []store.Outgoing
	errs    map[event.ID]string // what the server said against single PDUs
	sentAt  time.Time
	checkAt time.Time
	wait    time.Duration
	tries   int
	dirty   bool
	left    int  // events in letters
	gone    bool // the server has nobody in the room any more

	turn   int   // in which the rooms with a long backlog were begun; 0: it was not
	turnTo int64 // where the turn ends

	since     int64      // where the server came in: nothing from before is carried
	hold      []event.ID // other boxes' events that must be known there before we go on
	holdAt    time.Time  // when to ask
	holdTries int
	carry     []store.Outgoing // other boxes' events that we bring, without their bytes
	relay     bool             // we bring the other boxes' events along until nothing waits
}

// outgoing is one transaction.
type outgoing struct {
	id      string
	body    json.RawMessage
	pdus    []owed
	edus    int
	empty   bool
	eduTo   int64
	lasting bool                   // it brings EDUs that the server appends, so it is the same one in each repetition
	stored  bool                   // and is kept in the database for that
	again   bool                   // it was a letter before
	looked  map[event.RoomID]int64 // rooms that are exhausted up to a position
}

type owed struct {
	room event.RoomID
	store.Outgoing
}

func newDest(s *Sender, name string) *dest {
	return &dest{s: s, name: name, log: s.log.With("server", name), wake: make(chan struct{}, 1), marked: map[event.RoomID]bool{},
		hints: map[string]edu{}, rooms: map[event.RoomID]*ledger{}, st: Status{Server: name},
		// Whoever comes in anew has just told us all, or been told all by us; to look again is for later, or when something hints at an outage.
		contact: time.Now(), pull: pullPlan{at: time.Now().Add(pullMost), gap: pullMost}}
}

func (d *dest) mark(id event.RoomID) {
	d.mu.Lock()
	d.marked[id] = true
	d.mu.Unlock()
	poke(d.wake)
}

func (d *dest) hint(key string, e edu) {
	d.mu.Lock()
	defer d.mu.Unlock()
	addHint(d.hints, key, e)
}

func addHint(hints map[string]edu, key string, e edu) {
	if _, there := hints[key]; there || len(hints) < maxHints {
		hints[key] = e
	}
}

func (d *dest) status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.st
}

// run serves the server until ctx ends.
func (d *dest) run(ctx context.Context) {
	for err := d.load(ctx); err != nil && ctx.Err() == nil; err = d.load(ctx) {
		d.log.Error("read cursors; trying again", "err", err)
		pause(ctx, retryMost)
	}
	for ctx.Err() == nil {
		wait := d.post.backIn(d.turn(ctx))
		d.publish()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// load reads cursors and finds the rooms that are shared without one.
func (d *dest) load(ctx context.Context) error {
	if err := d.countParked(ctx); err != nil {
		return err
	}
	return d.s.c.DB.View(ctx, func(r *store.Read) error {
		cursors, err := r.FederationCursors(d.name)
		if err != nil {
			return err
		}
		for _, c := range cursors {
			d.rooms[c.Room] = &ledger{cursor: c.Pos, sent: c.Pos, dirty: true}
		}
		before, err := r.OutgoingTxn(d.name)
		if err != nil {
			return err
		}
		if before != nil { // whether it arrived is not known
			d.pending = &outgoing{id: before.ID, body: before.Body, eduTo: before.EDUTo, edus: 1, lasting: true, stored: true}
		}
		if err := d.post.load(d, r); err != nil {
			return err
		}
		rooms, err := r.RoomsWith(d.name)
		if err != nil {
			return err
		}
		for _, id := range rooms {
			if d.rooms[id] == nil {
				d.mark(id)
			}
		}
		return nil
	})
}

// turn does what can be done now and says when to look again at the latest.
func (d *dest) turn(ctx context.Context) time.Duration {
	if d.s.c.IsBox(d.name) { // paired meanwhile: the link serves it now
		return retryMost
	}
	d.leave(ctx)
	if wait := time.Until(d.retryAt); d.failing.Load() && wait > 0 && !d.linkUp.Load() {
		return min(wait, d.leaveIn())
	}
	speak := d.linkUp.Swap(false)
	if speak {
		d.s.c.Client.c.Ring.Reachable(d.name)
	}
	first := speak || d.failing.Load()
	for ctx.Err() == nil {
		if d.s.silent.Load() {
			return retryMost
		}
		d.leave(ctx)
		d.publish()
		did, err := d.push(ctx, first)
		if err != nil {
			return d.failed(ctx, err)
		}
		if did && first {
			if speak || d.failing.Load() {
				d.recovered(ctx)
				if err := d.offerParked(ctx); err != nil {
					return d.failed(ctx, err)
				}
			}
			first, speak = false, false
		}
		if did {
			continue
		}
		wait, done, err := d.confirm(ctx)
		if err != nil {
			return d.failed(ctx, err)
		}
		if done {
			continue
		}
		// What the server has is asked for while it works on what it was given: people are to see today, not wait until our backlog is through.
		next, narrow := pullMost, d.s.c.Narrow(d.name)
		if !narrow {
			if next, err = d.pullWhenDue(ctx); err != nil {
				return d.failed(ctx, err)
			}
		}
		if wait < checkIdle {
			if !pause(ctx, wait) {
				break
			}
			continue
		}
		if err := d.offerAgain(ctx); err != nil {
			return d.failed(ctx, err)
		}
		quiet := d.probeEvery() - time.Since(d.contact)
		if narrow {
			quiet = pullMost - time.Since(d.contact)
		}
		if quiet > 0 {
			return min(wait, next, quiet)
		}
		first = true // a sign of life, so that an outage is noticed on both sides though nobody writes
	}
	return time.Second
}

// probeEvery is how long a server may be silent before it is spoken to. A box that serves a whole network of servers is more patient with each.
func (d *dest) probeEvery() time.Duration {
	if d.s.c.Probe > 0 {
		return d.s.c.Probe
	}
	if d.s.count() <= fewServers {
		return probeFew
	}
	return pullMost
}

func pause(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// failed notes a failure and plans the next try: soon at first, later at the length of an eighth of the outage so far, never more than a minute apart, or a quarter
// of an hour with many servers. A link that comes up, a word from the server, or another server that is back ends the wait.
func (d *dest) failed(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil {
		return time.Second
	}
	now := time.Now()
	d.triedAt.Store(now.UnixNano())
	d.refusing = final(err)
	if !d.failing.Swap(true) {
		d.since = now
		d.log.Info("server does not take what it is sent; trying on", "err", err)
	}
	most := tryMost
	if d.s.count() <= fewServers {
		most = tryFew
	}
	wait := max(time.Duration(d.s.retry.Load()), min(now.Sub(d.since)/8, most))
	d.retryAt = now.Add(wait)
	d.mu.Lock()
	clear(d.hints)
	d.st.Failing, d.st.Since, d.st.LastError = true, d.since, err.Error()
	d.mu.Unlock()
	return wait
}

// recovered is called after the first answer since a failure or the start: everything is looked at again, and pulled soon.
func (d *dest) recovered(ctx context.Context) {
	long := !d.met
	d.met = true
	d.refusing = false
	if d.failing.Swap(false) {
		out := time.Since(d.since)
		long = long || out > networkOut
		d.log.Info("server is in reach again", "after", out.Round(time.Second))
		if out > networkOut {
			d.s.back(d) // perhaps the network is, and others with it
		}
	}
	d.mu.Lock()
	d.st.Failing, d.st.LastError = false, ""
	d.mu.Unlock()
	for _, f := range d.rooms {
		f.dirty = true
		f.checkAt = time.Time{}
	}
	d.pull.soon()
	d.s.c.Intake.Reachable(d.name)
	if long {
		d.s.c.Back(ctx, d.name)
	}
}

// underWay makes a request abortable: one that was sent into a dead network would otherwise wait for its answer long after the network is back.
func (d *dest) underWay(ctx context.Context) (once context.Context, done func()) {
	once, cancel := context.WithCancel(ctx)
	d.mu.Lock()
	d.abort, d.began = cancel, time.Now()
	d.mu.Unlock()
	return once, func() {
		d.mu.Lock()
		d.abort = nil
		d.mu.Unlock()
		cancel()
	}
}

// hurry has the server spoken to at once; a request that hangs is given up and sent anew.
func (d *dest) hurry() {
	d.linkUp.Store(true)
	d.mu.Lock()
	if d.abort != nil && time.Since(d.began) > hangs {
		d.abort()
	}
	d.mu.Unlock()
	poke(d.wake)
}
