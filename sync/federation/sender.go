// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// SenderConfig is what a Sender needs. Local, DB, Rooms, Client and Intake must be set.
type SenderConfig struct {
	Local  Local
	DB     *store.DB
	Rooms  *room.Rooms
	Client *Client
	Intake *Intake
	// Barred is told, before the cursor moves, that a server refuses to say whether it has our events of a room, those with positions from first to last among them.
	// nil: nobody wants to know.
	Barred func(ctx context.Context, server string, room event.RoomID, first, last int64) error
	// Observe is told what travels, for commentaries; it must not block. nil: nobody wants to know.
	Observe func(Travel)
	// IsBox says whether a server is a paired box: boxes get parcels from the link, never PUT /send. nil: none is.
	IsBox func(server string) bool
	// Back is told of a server that is in reach for the first time since the start, or again after an outage in which it may have forgotten what it had for us.
	// nil: nobody wants to know.
	Back func(ctx context.Context, server string)
	// Ahead is told what a server has that was out of reach, of rooms in which we lack much: long before they are whole. nil: nobody wants to know.
	Ahead func(ctx context.Context, server string, heads []Head)
	// Narrow says whether nothing but a narrow line leads to a server for now: it is sent what it is owed and asked whether that has arrived, and that is all. nil: never.
	Narrow func(server string) bool
	// Post takes what a server cannot get now. nil: there is no hub.
	Post Post
	// Probe is how long a server may be silent before it is spoken to; 0: half a minute, or five with many servers.
	Probe time.Duration
	Log   *slog.Logger // nil: silent
}

// Travel is one thing that happened to our events on their way to a server: "sent" in a transaction of so many bytes, "left" with the hub in one, or
// "kept" when the server has shown that it holds them.
type Travel struct {
	What   string
	Server string
	Events []event.ID
	Bytes  int
}

// Sender is the feed to all servers that are not boxes. Each has a goroutine of its own that pushes what the server is owed,
// confirms it, and pulls what the server has and we lack. Nothing is dropped, nobody is given up.
type Sender struct {
	c   SenderConfig
	log *slog.Logger
	sem chan struct{} // bounds the requests under way

	resendAfter atomic.Int64 // ns; constants but for tests
	retry       atomic.Int64
	hubGone     atomic.Int64
	silent      atomic.Bool // tests: does not speak by itself

	boot string        // drawn at the start: transaction ids begin with it
	txns atomic.Uint64 // and go on with a number

	mu    sync.Mutex
	rooms map[event.RoomID]bool // with new events since the dispatcher looked
	now   map[string]bool       // servers that something waits for
	dests map[string]*dest
	early map[string]map[string]edu // hints for servers that the dispatcher has yet to meet
	wake  chan struct{}
	looks []chan struct{} // closed after the dispatcher's next look

	standing map[string]*heard // of letters, as the hub said last; below mu

	bagging sync.Mutex // held while letters are packed
	packing atomic.Pointer[packing]
}

const concurrentRequests = 8

// NewSender returns a sender that has subscribed to the store's commits; it must be made before those start.
func NewSender(c SenderConfig) *Sender {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(Travel) {}
	}
	if c.Back == nil {
		c.Back = func(context.Context, string) {}
	}
	if c.Narrow == nil {
		c.Narrow = func(string) bool { return false }
	}
	if c.IsBox == nil {
		c.IsBox = func(string) bool { return false }
	}
	s := &Sender{c: c, log: c.Log, sem: make(chan struct{}, concurrentRequests), rooms: map[event.RoomID]bool{}, now: map[string]bool{},
		dests: map[string]*dest{}, early: map[string]map[string]edu{}, wake: make(chan struct{}, 1)}
	word := make([]byte, 9)
	_, _ = rand.Read(word) // never fails
	s.boot = base64.RawURLEncoding.EncodeToString(word)
	s.resendAfter.Store(int64(resendAfter))
	s.retry.Store(int64(retryFirst))
	s.hubGone.Store(int64(hubGone))
	c.Intake.late = s.late
	c.DB.OnCommit(s.committed)
	return s
}

// late notes that what a server sent shows that it could not reach us for a while: it may have more that it will never send.
func (s *Sender) late(server string) {
	s.mu.Lock()
	d := s.dests[server]
	s.mu.Unlock()
	if d != nil && !d.late.Swap(true) {
		poke(d.wake)
	}
}

func (s *Sender) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dests)
}

// committed notes what a commit brought; it runs on the writer's goroutine and does not block.
func (s *Sender) committed(c store.Commit) {
	if len(c.Rooms) == 0 && len(c.Dests) == 0 {
		return
	}
	s.mu.Lock()
	for _, r := range c.Rooms {
		s.rooms[r] = true
	}
	for _, d := range c.Dests {
		s.now[d] = true
	}
	s.mu.Unlock()
	poke(s.wake)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// LinkUp says that a server is in reach now: it is spoken to at once. An empty name means everybody: the network has come.
func (s *Sender) LinkUp(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, d := range s.dests {
		if server == "" || server == name {
			d.hurry()
		}
	}
	if server != "" && s.dests[server] == nil {
		s.now[server] = true
		poke(s.wake)
	}
}

// Heard says that a server spoke to us, or answered something: if we were waiting out a failure, the wait is over. What it answered
// may be the failure itself, so a moment must have passed.
func (s *Sender) Heard(server string) {
	s.mu.Lock()
	d := s.dests[server]
	s.mu.Unlock()
	if d != nil && d.failing.Load() && time.Now().UnixNano()-d.triedAt.Load() > s.retry.Load() {
		d.linkUp.Store(true)
		poke(d.wake)
	}
}

// txnID gives an id that no transaction of ours ever had, whatever was restored or forgotten.
func (s *Sender) txnID() string {
	return s.boot + "." + strconv.FormatUint(s.txns.Add(1), 36)
}

// back has all servers spoken to that have been out of reach: one of them has answered, so the network may be back.
func (s *Sender) back(answered *dest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dests {
		if d != answered && d.failing.Load() && time.Now().UnixNano()-d.triedAt.Load() > int64(networkOut)/6 {
			d.hurry()
		}
	}
}

// Status says how a server stands, for the operator.
type Status struct {
	Server      string
	Failing     bool
	Since       time.Time // of the failure
	Answered    time.Time // last; zero: not since the start
	Unconfirmed int
	Parked      int // events and EDUs that it refuses
	Letters     int // with the hub, not known to have arrived
	Left        int // events in these
	Through     int // and in those that arrived since letters were begun with
	LastError   string
}

// Status lists all servers that the sender serves.
func (s *Sender) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Status, 0, len(s.dests))
	for _, d := range s.dests {
		out = append(out, d.status())
	}
	slices.SortFunc(out, func(a, b Status) int { return cmpString(a.Server, b.Server) })
	return out
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Run serves all servers until ctx ends.
func (s *Sender) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.forgetDests()
	if err := s.findDests(ctx, &wg); err != nil {
		return err
	}
	for {
		rest := pace
		if err := s.dispatch(ctx, &wg); err != nil && ctx.Err() == nil {
			s.log.Error("find out who is owed new events; it is tried again", "err", err)
			rest = lookAgain
		}
		if !pause(ctx, rest) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
	}
}

// pace is how long what is committed gathers after a look at who is owed it: a stream of events of others would have us look after each commit.
const pace = 50 * time.Millisecond

const lookAgain = time.Second // after a look that failed

// looked returns when all that is committed now has been handed to those it is for, or ctx ends.
func (s *Sender) looked(ctx context.Context) {
	done := make(chan struct{})
	s.mu.Lock()
	s.looks = append(s.looks, done)
	s.mu.Unlock()
	poke(s.wake)
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (s *Sender) forgetDests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.dests)
}

// findDests starts with everybody we share a room with, and everybody something waits for: after a start the box speaks first.
func (s *Sender) findDests(ctx context.Context, wg *sync.WaitGroup) error {
	names := map[string]bool{}
	err := s.c.DB.View(ctx, func(r *store.Read) error {
		dests, err := r.FederationDests()
		if err != nil {
			return err
		}
		for _, d := range dests {
			names[d] = true
		}
		rooms, err := r.RoomsWith(s.c.Local.Server)
		if err != nil {
			return err
		}
		for _, id := range rooms {
			servers, err := r.Servers(id)
			if err != nil {
				return err
			}
			for _, d := range servers {
				names[d] = true
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look up servers: %w", err)
	}
	for name := range names {
		if d := s.dest(ctx, wg, name); d != nil {
			d.hurry() // it was without us while we were stopped
		}
	}
	return nil
}

// speaksTo is false for boxes and ourselves.
func (s *Sender) speaksTo(name string) bool {
	return name != s.c.Local.Server && !s.c.IsBox(name) && event.ValidServerName(name)
}

// dest finds or starts the goroutine of a server; nil for boxes and ourselves.
func (s *Sender) dest(ctx context.Context, wg *sync.WaitGroup, name string) *dest {
	if !s.speaksTo(name) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dests[name]
	if d == nil {
		d = newDest(s, name)
		for key, e := range s.early[name] {
			d.hint(key, e)
		}
		delete(s.early, name)
		d.standing.Store(s.standing[name])
		s.dests[name] = d
		wg.Go(func() { d.run(ctx) }) // Run waits for it
	}
	return d
}

// dispatch hands new work to those it is for. What it could not look up is there for the next look.
func (s *Sender) dispatch(ctx context.Context, wg *sync.WaitGroup) (err error) {
	s.mu.Lock()
	rooms, now, looks := s.rooms, s.now, s.looks
	s.rooms, s.now, s.looks = map[event.RoomID]bool{}, map[string]bool{}, nil
	s.mu.Unlock()
	defer func() {
		if err == nil {
			for _, done := range looks {
				close(done)
			}
			return
		}
		s.mu.Lock()
		maps.Copy(s.rooms, rooms)
		s.looks = append(s.looks, looks...)
		s.mu.Unlock()
		poke(s.wake)
	}()
	for name := range now {
		if d := s.dest(ctx, wg, name); d != nil {
			poke(d.wake)
		}
	}
	if len(rooms) == 0 {
		return nil
	}
	return s.c.DB.View(ctx, func(r *store.Read) error {
		for id := range rooms {
			servers, err := r.Servers(id)
			if err != nil {
				return err
			}
			more, err := r.CursorServers(id)
			if err != nil {
				return err
			}
			for _, name := range append(servers, more...) {
				if d := s.dest(ctx, wg, name); d != nil {
					d.mark(id)
				}
			}
		}
		return nil
	})
}
