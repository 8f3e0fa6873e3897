// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/inbox"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/precedence"
)

// Config is what a Link needs. All fields without "may be nil" must be set.
type Config struct {
	Key    ed25519.PrivateKey // box key: says who we are, and keys the links that bring no protection of their own
	Server string             // our Matrix server name
	DB     *store.DB
	Inbox  *inbox.Inbox
	Roster func() peer.Roster // paired boxes, as of now; call RosterChanged after a change

	Transports []Transport

	// Handler answers requests of paired boxes (federation's). May be nil: there are no answers then.
	Handler http.Handler
	// Statement is this box's newest statement about itself, and Learn is told of a newer one of a paired box. May be nil.
	Statement func() []byte
	Learn     func(peer.Peer)
	// KeyDocument is the key document held of a server, nil if none; LearnKeys takes one that a paired box attests. May be nil.
	KeyDocument func(ctx context.Context, server string) []byte
	LearnKeys   func(ctx context.Context, from peer.Peer, document []byte) error

	// Relay carries for other boxes over the links of this one. May be nil: nothing is carried then.
	Relay Relay

	// Shown says up to which stream position users of this box were shown everything; Clock is read for what is shown to people, the zero time
	// where it is not known. May be nil.
	Shown func() map[event.UserID]int64
	Clock func() time.Time

	// Observe is told what travels; it must not block. May be nil.
	Observe func(Event)
	Log     *slog.Logger // nil: silent
}

// Event is one thing that happened on a link, for pages and commentaries.
type Event struct {
	What      string       // "up", "down", "carries", "stands by", "sent", "arrived", "taken", "kept", "asked", "answered"
	Peer      peer.Peer    // the box at the far end
	Transport string       // "" for what is not of one transport
	Event     event.ID     // sent, taken, kept
	Room      event.RoomID // sent, taken
	Bytes     int          // sent: its share of the message; arrived: the message
	Note      string       // taken: the outcome; asked: method and path
}

// Link is the scheduler. Its methods may be called from any goroutine; work is done only while Run runs.
type Link struct {
	c     Config
	log   *slog.Logger
	self  peer.ID
	out   *outbox.Outbox
	judge *precedence.Judge
	codec *parcel.Codec

	posts posts
	wg    sync.WaitGroup // what Run waits for

	// The rest belongs to the loop.
	ctx   context.Context // Run's, for work that the loop starts
	fars  map[peer.ID]*far
	ways  map[wayName]*way
	quiet quiet
	cast  casts

	began   time.Time // when Run began
	renewed time.Time // when this box last began a new epoch because a peer was ahead
	doubted bool      // a peer is ahead, and was not believed

	statusMu    sync.Mutex
	status      []PeerStatus
	quietUntil  time.Time
	carriers    map[string]carrier // by server
	heralds     map[heraldName]Herald
	heraldOrder []heraldName
}

type wayName struct {
	transport, addr string
}

// New opens the logs of this box and makes a link that does nothing yet.
func New(ctx context.Context, c Config) (*Link, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(Event) {}
	}
	public, ok := c.Key.Public().(ed25519.PublicKey)
	if !ok || len(c.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("make link: no box key")
	}
	self := peer.IDOf(public)
	judge := precedence.New()
	out, err := outbox.Open(ctx, c.DB, judge, self, c.Server, draw())
	if err != nil {
		return nil, fmt.Errorf("make link: %w", err)
	}
	out.Clock = c.Clock
	codec, err := parcel.NewCodec()
	if err != nil {
		return nil, fmt.Errorf("make link: %w", err)
	}
	l := &Link{c: c, log: c.Log, self: self, out: out, judge: judge, codec: codec, fars: make(map[peer.ID]*far), ways: make(map[wayName]*way), heralds: make(map[heraldName]Herald)}
	l.posts.wake = make(chan struct{}, 1)
	c.DB.OnCommit(func(co store.Commit) { l.post(func() { l.committed(co) }) })
	return l, nil
}

// draw gives a random number that is not 0.
func draw() uint32 {
	var b [4]byte
	for {
		_, _ = rand.Read(b[:]) // never fails
		if n := binary.BigEndian.Uint32(b[:]); n != 0 {
			return n
		}
	}
}

// posts is the queue of what the loop has to do: callbacks of transports and of the store only add to it.
type posts struct {
	mu      sync.Mutex
	waiting []func()
	closed  bool
	wake    chan struct{} // capacity 1
}

// post hands f to the loop.
func (l *Link) post(f func()) {
	l.posts.mu.Lock()
	if !l.posts.closed {
		l.posts.waiting = append(l.posts.waiting, f)
	}
	l.posts.mu.Unlock()
	select {
	case l.posts.wake <- struct{}{}:
	default:
	}
}

// Run serves the transports until ctx ends.
func (l *Link) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l.posts.mu.Lock()
	l.posts.closed = false
	l.posts.mu.Unlock()
	l.ctx, l.began = ctx, time.Now()
	if l.c.Relay != nil {
		l.c.Relay.Begin(func(id peer.ID) { l.post(func() { l.wake(id) }) })
	}
	l.readRoster()
	for _, t := range l.c.Transports {
		l.wg.Go(func() {
			if err := l.serve(ctx, t); err != nil && ctx.Err() == nil {
				l.log.Error("transport ended", "transport", t.Name(), "err", err)
			}
		})
	}
	l.sweep()
	for ctx.Err() == nil {
		l.posts.mu.Lock()
		todo := l.posts.waiting
		l.posts.waiting = nil
		l.posts.mu.Unlock()
		for _, f := range todo {
			f()
		}
		if len(todo) > 0 {
			l.publish()
			continue
		}
		select {
		case <-ctx.Done():
		case <-l.posts.wake:
		}
	}
	stop()
	l.wg.Wait()
	l.posts.mu.Lock()
	l.posts.closed, l.posts.waiting = true, nil
	l.posts.mu.Unlock()
	for _, f := range l.fars {
		f.close()
	}
	clear(l.fars)
	clear(l.ways)
	return nil
}

// work runs f beside the loop and hands what it gives back to the loop. Run waits for it.
func (l *Link) work(f func(ctx context.Context) func()) {
	ctx := l.ctx
	l.wg.Go(func() {
		if then := f(ctx); then != nil {
			l.post(then)
		}
	})
}

// after runs f in the loop when d has passed. The timer's own goroutine only posts.
func (l *Link) after(d time.Duration, f func()) *time.Timer {
	return time.AfterFunc(d, func() { l.post(f) })
}

func (l *Link) serve(ctx context.Context, t Transport) error {
	return t.Serve(ctx,
		func(addr string, bps, mtu int) { l.post(func() { l.up(t, addr, bps, mtu) }) },
		func(addr string) { l.post(func() { l.down(t, addr) }) },
		func(addr string, msg []byte) { l.post(func() { l.received(t, addr, msg) }) },
		func(addr string) { l.post(func() { l.ready(t, addr) }) })
}

// RosterChanged tells the link to read the roster again.
func (l *Link) RosterChanged() { l.post(l.readRoster) }

func (l *Link) readRoster() {
	roster := l.c.Roster()
	for _, p := range roster.All() {
		if p.ID == l.self {
			continue
		}
		if f := l.fars[p.ID]; f == nil {
			l.fars[p.ID] = newFar(l, p)
		} else {
			f.p = p
		}
	}
	for id, f := range l.fars {
		if _, ok := roster.ByID(id); !ok {
			l.cast = casts{} // it must not read what is said from now on
			f.close()
			delete(l.fars, id)
		}
	}
	for _, w := range l.ways {
		if !w.up || w.far != nil {
			continue
		}
		l.greet(w)
		if p, ok := roster.ByBrief(w.unknown); ok && p.ID != l.self && w.keyed != nil {
			w.unknown = peer.Brief{}
			l.hand(w, p) // it has said hello before the two were paired, and does not say so again
		}
	}
}

// committed wakes the feeds that a commit touches.
func (l *Link) committed(c store.Commit) {
	if len(c.Rooms) > 0 {
		for _, f := range l.fars {
			f.feed.Touch(c.Rooms...)
			f.more = true
			f.retryEarly()
			f.pump()
		}
		for _, id := range c.Rooms {
			if l.c.Inbox.Waiting(id) {
				l.retry(id)
			}
		}
	}
	for _, dest := range c.Dests {
		for _, f := range l.fars {
			if f.p.Server == dest {
				f.edusDue = true
				f.pump()
			}
		}
	}
	l.rehush(c.Rooms)
	l.raised(c.Pos)
}

// How often held events are looked over, and how long they may wait for ancestors from the giver: over a slow line the
// answer takes its time.
const (
	sweepEvery = 30 * time.Second
	holdFast   = 45 * time.Second
	holdSlow   = 5 * time.Minute
)

func (l *Link) sweep() {
	l.after(sweepEvery, func() {
		most := holdFast
		for _, f := range l.fars {
			if f.active != nil && f.active.slow() {
				most = holdSlow
			}
		}
		l.work(func(ctx context.Context) func() {
			if err := l.expireNotices(ctx); err != nil && ctx.Err() == nil {
				l.log.Warn("notices could not be looked over", "err", err)
			}
			if err := l.c.Inbox.Sweep(ctx, most); err != nil && ctx.Err() == nil {
				l.log.Warn("held events could not be looked over", "err", err)
			}
			return l.sweep
		})
	})
}

// retry looks again at what is held of a room: federation may have brought what it waits for.
func (l *Link) retry(id event.RoomID) {
	l.work(func(ctx context.Context) func() {
		t, err := l.c.Inbox.Retry(ctx, id)
		return func() {
			if err != nil && ctx.Err() == nil {
				l.log.Warn("held events could not be looked at again", "room", id, "err", err)
			}
			for _, f := range l.fars {
				f.taken(t, "")
			}
		}
	})
}

// PeerStatus is what pages show of a peer.
type PeerStatus struct {
	Peer     peer.Peer
	Carries  string // the transport that carries now, "" if none does
	StandsBy []string
	InFlight int // events sent and not yet kept
	// Twin is when two boxes were last heard under the peer's name and key, zero: never. One was restored from a backup of the other.
	Twin    time.Time
	Greeted bool

	NoticesRefused int // texts ahead of their event that could not be shown

	BitsPerSecond int // of the way that carries

	// Open: that way allows open language only. Withheld are the rooms of which something waits for another way; WithheldKeys: so do messages
	// between devices.
	Open         bool
	Withheld     []event.RoomID
	WithheldKeys bool
}

// Status tells where the link stands with each paired box.
func (l *Link) Status() []PeerStatus {
	l.statusMu.Lock()
	defer l.statusMu.Unlock()
	return l.status
}

// publish makes the status that others may read.
func (l *Link) publish() {
	status := make([]PeerStatus, 0, len(l.fars))
	carriers := make(map[string]carrier, len(l.fars))
	for _, f := range l.fars {
		s := PeerStatus{Peer: f.p, Greeted: f.heard != 0, Twin: f.twin, NoticesRefused: f.noticesRefused}
		s.InFlight, _ = f.feed.Flight()
		for _, w := range f.ways {
			switch {
			case w.mail != nil && (w != f.active || !w.near()): // it leads nowhere now, or is no way besides
			case w == f.active:
				s.Carries, s.BitsPerSecond, s.Open = w.t.Name(), w.bps, w.open
				s.Withheld, s.WithheldKeys = f.feed.Withheld()
				carriers[f.p.Server] = carrier{w.t, w.addr, w.bps, w.mail == nil && w.slow(), s.Withheld}
			case w.up:
				s.StandsBy = append(s.StandsBy, w.t.Name())
			}
		}
		status = append(status, s)
	}
	l.statusMu.Lock()
	defer l.statusMu.Unlock()
	l.status, l.carriers, l.quietUntil = status, carriers, l.quiet.until
}
