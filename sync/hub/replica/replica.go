// SPDX-License-Identifier: EUPL-1.2

// Package replica keeps copies of the boxes' rooms at the hub, and answers questions about their graphs while a box is away.
//
// It promises: what it tells is what the box has told, verified by signature and by the law of rooms, and told by the rules by which the box would: to servers that have
// a member in the room, which the room's access list does not shut out, and no more of its history than they may see. It signs nothing, sends no event to anybody, is a
// member of no room, and asks none but the boxes that are connected here.
//
// It is derived: what lacks, or is lost, is copied anew from the boxes when they come. A room is copied from a box that lists it, its newest events above the state before
// them, and kept up from then on: by the transactions that pass through the hub in either direction, and by asking the box for what lies between. It is bounded; what does
// not fit is not here, and is answered 404.
//
// It leaves to others: who is asked for and whether the question is signed (sync/hub), the law and the rows (appliance/room, appliance/store), questions and answers
// (sync/federation).
package replica

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/hub/desk"
)

// Config is what a Replica needs. All but Log, Now and Limits must be set.
type Config struct {
	DB    *store.DB
	Local federation.Local // under whose name boxes are asked: the hub's own
	Ring  *federation.KeyRing
	// Boxes takes a request to a box that is connected here; InReach says which are.
	Boxes   http.RoundTripper
	InReach func(box string) bool
	// Memory keeps which rooms a box lists.
	Memory Memory
	// Free says how many bytes are free on the disk.
	Free   func() (int64, error)
	Log    *slog.Logger     // nil: silent
	Now    func() time.Time // nil: the system's
	Limits Limits
}

// Memory keeps small values of boxes; it forgets those of a box that is removed.
type Memory interface {
	Deposit(ctx context.Context, box, kind, key string, value []byte) error
	Deposited(ctx context.Context, box, kind, key string) ([]byte, error)
}

// Limits bound a replica. Zero fields mean what is said at each.
type Limits struct {
	Recent   int           // events of a room that are copied to begin with; 500
	AtOnce   int           // rooms that are copied at once, one of each box; 4
	Settle   time.Duration // how long a box that has come, or is sending, is left alone; 3 s
	Answers  int           // questions that are answered at once, a quarter of them of one server; 32
	Answer   time.Duration // for one answer, to its last byte; 5 min
	Tend     time.Duration // from one look at the bounds to the next; 30 s
	Passing  int64         // bytes of transactions that wait to be looked at; 16 MB
	RoomRows int64         // events of a room beyond which it is copied anew; 50,000
	Bytes    int64         // of the database; 8 GB
	BoxBytes int64         // of the events in the rooms of one box; 1 GB
	Free     int64         // bytes of the disk that are left to others; 1 GB
	Staged   int           // events of a room that may wait for their ancestors; 5,000
}

func (l *Limits) fill() {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Recent, 500}, {&l.AtOnce, 4}, {&l.Answers, 32}, {&l.Staged, 5000}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *int64
		value int64
	}{{&l.Passing, 16 << 20}, {&l.RoomRows, 50_000}, {&l.Bytes, 8 << 30}, {&l.BoxBytes, 1 << 30}, {&l.Free, 1 << 30}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if l.Settle == 0 {
		l.Settle = 3 * time.Second
	}
	if l.Tend == 0 {
		l.Tend = 30 * time.Second
	}
	if l.Answer == 0 {
		l.Answer = 5 * time.Minute
	}
}

// Replica is one node's copies. Safe for concurrent use; nothing is copied but while Run does.
type Replica struct {
	c       Config
	log     *slog.Logger
	rooms   *room.Rooms
	intake  *federation.Intake
	archive *federation.Archive
	desk    *desk.Desk    // of answers
	wake    chan struct{} // capacity 1: somebody has told something
	tidy    chan struct{} // capacity 1: something is to be deleted
	count   counters
	scales  scales
	full    atomic.Bool  // no more is copied
	size    atomic.Int64 // of the database

	telling sync.Mutex // one listing at a time is taken in; before mu

	mu      sync.Mutex // not held while the database is asked
	lists   map[string]*list
	copies  map[event.RoomID]*duplicate
	pending map[event.RoomID]*duplicate // of copies: with something to be got
	busy    map[string]bool             // boxes of which a room is being copied
	answers *sync.WaitGroup             // questions that are being answered

	seed      maphash.Seed
	passers   [passers]chan passing
	passBytes int64 // of what is in them; mu
}

// counters are what happened since the start.
type counters struct {
	answered, unknown, copied, failed, passed, dropped, refused, purged atomic.Int64
}

// list is what one box lists.
type list struct {
	whole bool // it has listed all since we were started
	rooms map[event.RoomID]struct{}
	sent  time.Time // when a transaction of it passed last, or when it came
	over  bool      // its rooms take more than is kept of one box
	said  time.Time // when it was logged last that a room of it was not copied
}

// duplicate is one room.
type duplicate struct {
	id      event.RoomID
	boxes   []lister
	here    bool      // it is in the database
	working bool      // it is being copied, or deleted
	not     time.Time // before that it is not copied
	waits   time.Time // since when something in it waits for its ancestors; zero: nothing does
}

// lister is a box that lists a room.
type lister struct {
	box     string
	version string
	tips    []event.ID    // the ends of the graph that it has told, until they were looked for
	since   time.Time     // when it told the first of them
	due     time.Time     // when they are looked for
	delay   time.Duration // after failures with this box: another one may be honest
}

// Open takes up what was copied before. boxes are those that the hub has.
func Open(ctx context.Context, c Config, boxes []string) (*Replica, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Limits.fill()
	r := &Replica{c: c, log: c.Log, desk: desk.New(c.Limits.Answers, c.Limits.Answer), wake: make(chan struct{}, 1), tidy: make(chan struct{}, 1), answers: &sync.WaitGroup{}, lists: map[string]*list{},
		copies: map[event.RoomID]*duplicate{}, pending: map[event.RoomID]*duplicate{}, busy: map[string]bool{},
		seed: maphash.MakeSeed()}
	for i := range r.passers {
		r.passers[i] = make(chan passing, passWaits)
	}
	// Without a key: nothing can ever be signed here.
	r.rooms = room.New(c.DB, room.Identity{Server: c.Local.Server}, room.Options{Log: c.Log, Clock: c.Now, OnAppend: r.appended})
	quiet := slog.New(quiet{c.Log.Handler()})
	client := federation.NewClient(federation.ClientConfig{Local: c.Local, Transport: roundTrip(r.way), Ring: c.Ring, Rooms: r.rooms, Now: c.Now, Log: quiet})
	r.intake = federation.NewIntake(federation.IntakeConfig{Local: c.Local, DB: c.DB, Rooms: r.rooms, Client: client, Log: quiet, Closed: func(event.RoomID) { poke(r.wake) }})
	r.archive = federation.NewArchive(federation.HandlerConfig{DB: c.DB, Rooms: r.rooms, Ring: c.Ring, Intake: r.intake, Holds: r.holds, Now: c.Now, Log: c.Log})
	if err := r.remember(ctx, boxes); err != nil {
		return nil, fmt.Errorf("look which rooms boxes list: %w", err)
	}
	return r, nil
}

// Run copies until ctx ends. What fails here fails nobody else.
func (r *Replica) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := r.weigh(ctx)
		if err == nil {
			break
		}
		if ctx.Err() == nil {
			r.log.Error("look what the copies of the boxes' rooms take; it is tried again", "err", err)
		}
		if !pause(ctx, wait) {
			return
		}
	}
	wg.Go(func() { r.watch(ctx) })
	wg.Go(func() { r.tend(ctx) })
	wg.Go(func() { r.pull(ctx) })
	r.pass(ctx, &wg)
	for ctx.Err() == nil {
		if err := r.intake.Run(ctx); err != nil && ctx.Err() == nil {
			r.log.Error("keep up the copies of the boxes' rooms; it is tried again. If the disk or the database is damaged, stop the hub, delete hallig.db, and start it: all in it is had anew from the boxes", "err", err)
		}
		pause(ctx, pullEvery)
	}
}

// Quiet says that nothing is being copied from a box, and that it is sending nothing.
func (r *Replica) Quiet(box string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lists[box]
	return !r.busy[box] && (l == nil || r.c.Now().Sub(l.sent) >= r.c.Limits.Settle)
}

// pause waits; false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errAway answers whoever would ask anybody but a box that is connected here, or anything but a question.
var errAway = errors.New("no box that is connected to the hub")

// way takes a question to a box. No event goes to anybody, not to a policy server either.
func (r *Replica) way(req *http.Request) (*http.Response, error) {
	path := req.URL.Path
	if !strings.HasPrefix(path, "/_matrix/federation/v1/") && !strings.HasPrefix(path, "/_matrix/key/v2/") || req.Method == http.MethodPut || !r.c.InReach(req.URL.Host) {
		return nil, errAway
	}
	return r.c.Boxes.RoundTrip(req)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// quiet is a log of warnings: what a box says of itself at each event would be too much of a thousand of them.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}
func (q quiet) WithAttrs(as []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(as)} }
func (q quiet) WithGroup(g string) slog.Handler       { return quiet{q.Handler.WithGroup(g)} }
