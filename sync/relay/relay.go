// SPDX-License-Identifier: EUPL-1.2

// Package relay carries what is written for boxes that are not in direct reach, over boxes in between that need not know reader, writer
// or room.
//
// It is a transport beside p2p and serial lines (link.Transport, link.Mail), whose far ends are boxes by their ids: a message is cut
// into parts, each is sealed to the reader (peer.Seal), and the parts travel as parcels of kind 11 over the links of neighbours
// (link.Config.Relay). So everything that link says over a line it can say over strangers, and one scheduler orders all of it. The other
// design, queues of sealed events beside link, would have needed its own cursors, receipts, requests and codec memory.
//
// It promises:
//   - A neighbour answers for a parcel after its commit, and only then does the giver forget it. Who has no room says so, and the giver
//     keeps the parcel. Nothing that was answered for is dropped but by its own lifetime, or by a word of its writer or reader.
//   - The writer keeps its own copy until the reader has answered, whoever carries others; and what was in it stays due in the writer's
//     log until the reader keeps it. So a carrier that burns, lies or stops costs time, never an event.
//   - The same parcel by two ways is read once, also after a restart: the numbers that were read are noted per writer, on the disk.
//   - What anybody forges displaces nothing. Carriers cannot tell who wrote a parcel, only its reader can; so they know it again by its whole
//     text, not by its name (met.go), and what bears a writer's name counts against the neighbour that brought it. Only a writer's or reader's word that parcels
//     are over goes by names, and it is taken from those two alone.
//   - Everything that strangers can make it hold is bounded: bytes in all, per giver and of that per writer, parcels met, boxes heard of.
//
// Which neighbour gets a parcel: the reader itself; else the one that is next on the way there (route.go); else, without a known way, up
// to three neighbours get a copy from the writer, and a carrier hands its copy on only to a box that met the reader more lately. Flash
// goes to everybody, of each giver so much in an hour. Hops are counted, and a parcel that a box has met before is not taken twice, so what runs in circles ends.
//
// No clock is shared: a lifetime is counted down by whoever holds the parcel, while it runs.
//
// It leaves to others: what is in a message (link, outbox, inbox), how parcels look (parcel), who is paired (appliance).
package relay

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"hallig/appliance/store"
	"hallig/sync/peer"
)

// Config is what a Relay needs. All fields without "may be nil" must be set.
type Config struct {
	Key    ed25519.PrivateKey
	DB     *store.DB
	Roster func() peer.Roster // boxes that may write to this one, and that it may write to
	Limits Limits
	Log    *slog.Logger // nil: silent
}

// Limits of what is carried for others. Zero fields stand for the usual.
type Limits struct {
	Total         int64 // bytes
	Giver, Writer int64 // bytes that one neighbour has brought, and of them under the name of one writer
	Marks         int64 // parcels that are remembered of what one neighbour has brought
}

// What one parcel takes on the disk besides its body, about.
const overhead = 160

const (
	maxTotal  = 64 << 20
	maxWriter = 16 << 20
	maxGiver  = 32 << 20
)

// Relay is the transport. Its methods may be called from any goroutine.
type Relay struct {
	c     Config
	log   *slog.Logger
	self  peer.ID
	key   []byte // of self
	epoch uint64

	markKey []byte // of mark
	began   time.Time
	kick    chan struct{} // capacity 1

	mu        sync.Mutex // guards the rest
	wake      func(peer.ID)
	up        func(string, int, int)
	ready     func(string)
	read      func(string, []byte)
	upped     map[peer.ID]bool
	routes    *routes
	near      map[peer.ID]*neighbour
	boxes     map[peer.ID]*mailbox
	came      []handed // what neighbours handed over and is not worked on
	cameBytes int
	cameBy    map[peer.ID]waiting
	carry     carried
	ran       int64 // seconds before began
	count     Counts
	// settling: what became of carried parcels and is not in the store yet.
	settling map[rowOf]bool
	then     []func() // to be called without the lock
}

// New reads what is carried. Nothing happens before Serve.
func New(ctx context.Context, c Config) (*Relay, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	public, ok := c.Key.Public().(ed25519.PublicKey)
	if !ok || len(c.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("make relay: no box key")
	}
	c.Limits = c.Limits.orUsual()
	var draw [8]byte
	_, _ = rand.Read(draw[:]) // never fails
	r := &Relay{c: c, log: c.Log, self: peer.IDOf(public), key: public, epoch: binary.BigEndian.Uint64(draw[:]), kick: make(chan struct{}, 1),
		upped: map[peer.ID]bool{}, near: map[peer.ID]*neighbour{}, boxes: map[peer.ID]*mailbox{}, settling: map[rowOf]bool{}, began: time.Now()}
	r.routes = newRoutes(r.self)
	var err error
	if r.markKey, err = hkdf.Key(sha256.New, c.Key.Seed(), nil, "hallig parcel marks 1", sha256.Size); err != nil {
		return nil, fmt.Errorf("make relay: %w", err)
	}
	err = c.DB.View(ctx, func(rd *store.Read) (err error) {
		if r.ran, err = rd.RunTime(); err != nil {
			return err
		}
		sums, err := rd.CarriedSums()
		r.carry.load(sums)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make relay: %w", err)
	}
	return r, nil
}

func (l Limits) orUsual() Limits {
	for _, x := range []struct {
		is    *int64
		usual int64
	}{{&l.Total, maxTotal}, {&l.Writer, maxWriter}, {&l.Giver, maxGiver}, {&l.Marks, maxMarks}} {
		if *x.is == 0 {
			*x.is = x.usual
		}
	}
	return l
}

// Name is what the transport is called.
const Name = "relay"

// Name names the transport.
func (r *Relay) Name() string { return Name }

// bitsPerSecond is the rate that is told: the least of all, so that any direct way carries instead.
const bitsPerSecond = 50

// Serve runs until ctx ends. Boxes of the roster count as in reach from the beginning: whether anybody would take something for them,
// Free says.
func (r *Relay) Serve(ctx context.Context, up func(string, int, int), _ func(string), received func(string, []byte), ready func(string)) error {
	r.mu.Lock()
	r.up, r.read, r.ready = up, received, ready
	clear(r.upped)
	r.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	kept := time.Now()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-r.kick:
		case <-timer.C:
		}
		if ctx.Err() != nil {
			break
		}
		next := r.round(ctx)
		if since := time.Since(kept); since > keepTime && r.holds() || since > keepIdle {
			kept = time.Now()
			r.keepTime(ctx)
		}
		timer.Reset(max(min(time.Until(next), time.Minute), 10*time.Millisecond))
	}
	if r.holds() {
		r.keepTime(context.WithoutCancel(ctx))
	}
	r.close()
	return ctx.Err()
}

// keepTime is how often it is noted how long the program has run, and what has expired is dropped; keepIdle the same while nothing is
// carried: a box that is left alone writes nothing.
const (
	keepTime = 10 * time.Minute
	keepIdle = 24 * time.Hour
)

// holds says whether anything is carried.
func (r *Relay) holds() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.carry.count > 0
}

func (r *Relay) keepTime(ctx context.Context) {
	now := r.runTime()
	err := r.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
		if err := tx.DropCarriedOver(now); err != nil {
			return err
		}
		if err := tx.DropMarks(now - int64(metFor/time.Second)); err != nil {
			return err
		}
		if err := tx.DropRead(now - int64(metFor/time.Second)); err != nil {
			return err
		}
		return tx.SetRunTime(now)
	})
	if err != nil && ctx.Err() == nil {
		r.log.Warn("the time for which parcels were carried could not be noted", "err", err)
	}
	r.recount(ctx)
}

// metFor is how long it is remembered what was met, and which numbers of a box's life were read after the last of them: longer than what it
// wrote is carried anywhere.
const metFor = 60 * 24 * time.Hour

// runTime is for how many seconds the program has run, all its lives together.
func (r *Relay) runTime() int64 { return r.ran + int64(time.Since(r.began)/time.Second) }

// recount reads anew how much is carried for whom.
func (r *Relay) recount(ctx context.Context) {
	var sums []store.CarriedFor
	err := r.c.DB.View(ctx, func(rd *store.Read) (err error) {
		sums, err = rd.CarriedSums()
		return err
	})
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.carry.load(sums)
}

// uncounted says whether what is carried should be counted anew: not all the time, for it takes a look at every parcel.
func (r *Relay) uncounted(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.carry.stale && now.Sub(r.carry.asOf) > 10*time.Second
}

// round does what is due and says when to come again.
func (r *Relay) round(ctx context.Context) time.Time {
	now := time.Now()
	r.mu.Lock()
	r.announce()
	r.routes.settle(now)
	r.overdue(now)
	came := r.came
	r.came, r.cameBytes, r.cameBy = nil, 0, nil
	r.mu.Unlock()
	if len(came) > 0 {
		r.take(ctx, came)
	}
	if r.uncounted(now) {
		r.recount(ctx)
	}
	r.mu.Lock()
	r.answer(now)
	var fill []*neighbour
	for _, n := range r.near {
		if n.timeouts(now) {
			r.call(n)
		}
		r.tell(n, now)
		if n.hungry {
			fill = append(fill, n)
		}
		if !n.sayAt.IsZero() && !now.Before(n.sayAt) && !n.called {
			n.called = true // link comes for it when it can
			r.call(n)
		}
	}
	r.mu.Unlock()
	for _, n := range fill {
		r.fill(ctx, n)
	}
	r.mu.Lock()
	next := r.next(now)
	r.mu.Unlock()
	r.callBack()
	return next
}

// callBack does what must not be done under the lock.
func (r *Relay) callBack() {
	r.mu.Lock()
	then := r.then
	r.then = nil
	r.mu.Unlock()
	for _, f := range then {
		f()
	}
}

// call lets link serve a neighbour.
func (r *Relay) call(n *neighbour) {
	if wake, id := r.wake, n.id; wake != nil {
		r.then = append(r.then, func() { wake(id) })
	}
}

// poke makes the loop look.
func (r *Relay) poke() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// announce tells link of boxes that it may write to.
func (r *Relay) announce() {
	if r.up == nil {
		return
	}
	roster := r.c.Roster()
	for id := range r.upped {
		if _, ok := roster.ByID(id); !ok { // no longer paired
			r.fail(id, errUnknown)
			r.routes.forget(id, time.Now())
			delete(r.boxes, id)
			delete(r.upped, id)
		}
	}
	for _, p := range roster.All() {
		if id := p.ID; id != r.self && !r.upped[id] {
			r.upped[id] = true
			up := r.up
			r.then = append(r.then, func() { up(string(id), bitsPerSecond, partSize) })
		}
	}
}

// next is when the loop has to look again.
func (r *Relay) next(now time.Time) time.Time {
	next := now.Add(time.Minute)
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	earlier(r.routes.wake())
	for _, n := range r.near {
		earlier(n.tellAt)
		earlier(n.fullTo)
		if !n.called {
			earlier(n.sayAt)
		}
		if n.hungry {
			earlier(now)
		}
		for _, o := range n.flight {
			earlier(o.until)
		}
	}
	for _, b := range r.boxes {
		earlier(b.answerAt)
		for _, l := range b.letters {
			earlier(l.over)
			if l.until.After(now) { // later ones are looked at every minute
				earlier(l.until)
			}
		}
	}
	if len(r.came) > 0 {
		earlier(now)
	}
	if r.carry.stale {
		earlier(r.carry.asOf.Add(11 * time.Second))
	}
	return next
}

// Begin is told by link how to wake what serves a neighbour.
func (r *Relay) Begin(wake func(peer.ID)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake = wake
}

// Neighbour is told by link that a box that takes parcels is in direct reach over a way of so many bit/s, or with 0 that it no longer
// is.
func (r *Relay) Neighbour(id peer.ID, bps int) {
	now := time.Now()
	r.mu.Lock()
	defer r.poke()
	defer r.mu.Unlock()
	if old := r.near[id]; old != nil {
		old.abandon()
	}
	if bps <= 0 {
		if r.near[id] != nil {
			delete(r.near, id)
			r.routes.neighbour(id, 0, now)
			r.changed(now)
		}
		return
	}
	n := newNeighbour(id, bps)
	if key, err := id.Key(); err == nil {
		n.key = key
	}
	r.near[id] = n
	r.routes.neighbour(id, wayCost(bps), now)
	n.past = r.routes.past(id, now)
	r.fail(id, errDirect)
	r.changed(now)
}

// changed is to be called when ways have come or gone.
func (r *Relay) changed(now time.Time) {
	for _, n := range r.near {
		n.hungry = true
		n.tellSoon(now)
		n.drop(func(o *offer) bool { return o.row > 0 || o.part != nil }) // chosen anew
	}
	if ready := r.ready; ready != nil {
		for id := range r.upped {
			r.then = append(r.then, func() { ready(string(id)) })
		}
	}
}

func (r *Relay) close() {
	r.mu.Lock()
	for id := range r.boxes {
		r.fail(id, errClosed)
	}
	clear(r.near)
	r.routes = newRoutes(r.self)
	r.mu.Unlock()
	r.callBack()
}
