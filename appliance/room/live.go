// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// errStale says that an earlier event of the room, on which this one was built in memory, did not reach the disk: prepare it again.
var errStale = errors.New("room: prepared on an event that was not stored")

// maxLive bounds how many rooms are kept in memory.
const maxLive = 512

// group is a state group with its state.
type group struct {
	nid   int64
	state store.State
}

// newGroup is a group whose row is not written yet.
type newGroup struct {
	group
	parent group
}

// tip is a forward extremity.
type tip struct {
	nid   int64
	id    event.ID
	depth int64
	after group
}

// freshEvent is an event that is queued for the writer: readers of the database do not see it yet, the next event of the room is built on it.
type freshEvent struct {
	row    *store.Event
	pdu    *event.PDU
	thin   *rules.Event
	waits  bool          // rejected only for want of authorising events
	landed *atomic.Int32 // landedOK or landedNot when the writer is done with it
}

const (
	landedOK = 1 + iota
	landedNot
)

// live is a room in memory: where the next event goes. mu is held while an event is prepared and queued, never while somebody waits for the writer
// (but for drain, which waits for what is queued already).
type live struct {
	r  *Rooms
	id event.RoomID

	mu       sync.Mutex
	dead     bool // dropped from memory: enter again
	gen      int64
	loaded   bool
	version  *event.Version // nil: the room is unknown
	tips     []tip
	explicit bool // the room's row lists the tips
	cur      group
	gaps     map[event.ID]bool // prev events we lack; true: an accepted event names it
	servers  map[string]int    // joined members of each server
	list     []string          // the servers, sorted; nil: to be made
	fresh    map[int64]*freshEvent
	freshID  map[event.ID]*freshEvent
	unsaved  []newGroup        // made by resolution; written with the next event of the room
	awaited  map[event.ID]bool // authorising events for want of which others are rejected
	many     bool              // awaited does not hold them all
	unsure   map[int64]bool    // placed events whose verdict or state may change when one of those comes
	resolved map[string]group
	held     int            // entries of the states in resolved
	partial  *store.Partial // not all memberships are known; nil: they are
	shadow   bool           // a room as it would be: nothing of it is for others to see

	flight flight
}

// flight counts what the writer still has of a room. It has its own lock because the writer's goroutine reports here.
type flight struct {
	mu   sync.Mutex
	n    int
	bad  int64 // the highest generation of which an act failed
	idle chan struct{}
}

func (f *flight) add() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n == 0 {
		f.idle = make(chan struct{})
	}
	f.n++
}

func (f *flight) fail(gen int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bad = max(f.bad, gen)
}

func (f *flight) failed(gen int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bad >= gen
}

func (f *flight) land() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n--; f.n == 0 {
		close(f.idle)
	}
}

func (f *flight) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// drain waits until the writer has nothing of the room. The caller holds live.mu, so nothing is added meanwhile.
func (f *flight) drain() {
	f.mu.Lock()
	n, idle := f.n, f.idle
	f.mu.Unlock()
	if n > 0 {
		<-idle
	}
}

// drain waits for what the writer has of the room. The caller holds l.mu, on which others wait.
func (l *live) drain() {
	defer l.r.db.Hurry()()
	l.flight.drain()
}

// await waits for the writer's answer. The caller holds l.mu, on which others wait.
func (l *live) await(answer <-chan error) error {
	defer l.r.db.Hurry()()
	return <-answer
}

// enter locks a room's place in memory, loading it when necessary. The caller unlocks l.mu.
func (r *Rooms) enter(ctx context.Context, id event.RoomID) (*live, error) {
	for {
		r.mu.Lock()
		l := r.live[id]
		if l == nil {
			if len(r.live) >= maxLive {
				r.evictLocked()
			}
			l = &live{r: r, id: id, gen: 1}
			r.live[id] = l
		}
		r.mu.Unlock()
		l.mu.Lock()
		if l.dead {
			l.mu.Unlock()
			continue
		}
		if err := l.settle(ctx); err != nil {
			l.mu.Unlock()
			return nil, err
		}
		return l, nil
	}
}

// evictLocked drops rooms that nobody works on.
func (r *Rooms) evictLocked() {
	for id, l := range r.live {
		if !l.mu.TryLock() {
			continue
		}
		if l.flight.count() == 0 {
			l.dead = true
			delete(r.live, id)
		}
		l.mu.Unlock()
		if len(r.live) < maxLive*3/4 {
			return
		}
	}
}

// settle brings the memory in line with the disk: after a failed act everything built on it is forgotten.
func (l *live) settle(ctx context.Context) error {
	if l.flight.failed(l.gen) {
		l.drain()
		for nid := range l.fresh {
			l.r.thins.drop(nid)
		}
		l.gen++
		l.loaded = false
	}
	if len(l.fresh) > 64 || l.flight.count() == 0 {
		for nid, f := range l.fresh {
			if f.landed != nil && f.landed.Load() == landedOK {
				delete(l.fresh, nid)
				delete(l.freshID, f.row.ID)
			}
		}
	}
	if l.loaded {
		return nil
	}
	return l.load(ctx)
}

// forget makes the next enter load the room from the disk. The caller holds l.mu and has nothing in flight that matters.
func (l *live) forget() {
	l.drain()
	for nid, f := range l.fresh {
		if f.landed == nil || f.landed.Load() != landedOK {
			l.r.thins.drop(nid)
		}
	}
	l.loaded = false
}

func (l *live) load(ctx context.Context) error {
	l.version, l.tips, l.cur, l.explicit = nil, nil, group{}, false
	l.fresh, l.freshID, l.unsaved = make(map[int64]*freshEvent), make(map[event.ID]*freshEvent), nil
	l.gaps, l.resolved = make(map[event.ID]bool), make(map[string]group)
	l.awaited, l.many, l.unsure = make(map[event.ID]bool), false, make(map[int64]bool)
	l.servers, l.list = make(map[string]int), nil
	l.held, l.partial = 0, nil
	err := l.r.view(ctx, func(rd *store.Read) error {
		row, err := rd.Room(l.id)
		if row == nil || err != nil {
			return err
		}
		v, ok := event.Lookup(row.Version)
		if !ok {
			return nil // an invite to a room of a version we do not speak
		}
		l.version = v
		if l.cur.nid = row.Cur; row.Cur == 0 {
			return nil
		}
		if l.cur.state, err = rd.Group(row.Cur); err != nil {
			return err
		}
		tips, err := rd.Tips(l.id)
		if err != nil {
			return err
		}
		l.explicit = row.TipsListed()
		for _, e := range tips {
			t := tip{nid: e.NID, id: e.ID, depth: e.Depth, after: group{nid: e.After}}
			if t.after.state, err = rd.Group(e.After); err != nil {
				return err
			}
			l.tips = append(l.tips, t)
		}
		if l.servers, err = rd.ServerCounts(l.id); err != nil {
			return err
		}
		if l.gaps, err = rd.GapChildren(l.id); err != nil {
			return err
		}
		if l.partial, err = rd.Partial(l.id); err != nil {
			return err
		}
		if l.partial != nil && l.partial.Whole != 0 {
			l.partial = nil
		}
		return l.loadUndecided(rd)
	})
	if err != nil {
		return fmt.Errorf("load room %s: %w", l.id, err)
	}
	l.loaded = true
	return nil
}

// in reports whether we hold the room's state.
func (l *live) in() bool { return l.version != nil && l.cur.nid != 0 }

// submit queues prepared events as one act and gives the channel on which the writer answers. The caller holds l.mu.
func (l *live) submit(ps []*prepared, extra func(*store.Tx) error) <-chan error {
	answer := make(chan error, 1)
	gen := l.gen
	groups := l.unsaved
	l.unsaved = nil
	landed := new(atomic.Int32)
	for _, p := range ps {
		if f := l.fresh[p.row.NID]; f != nil {
			f.landed = landed
		}
	}
	l.flight.add()
	l.r.db.Queue(func(tx *store.Tx) error {
		if l.flight.failed(gen) {
			return errStale
		}
		err := l.write(tx, groups, ps, extra)
		if err != nil {
			l.flight.fail(gen)
		}
		return err
	}, func(err error) {
		if err != nil {
			l.flight.fail(gen)
			landed.Store(landedNot)
		} else {
			landed.Store(landedOK)
		}
		l.flight.land()
		answer <- err
	})
	return answer
}

func (l *live) write(tx *store.Tx, groups []newGroup, ps []*prepared, extra func(*store.Tx) error) error {
	for _, g := range groups {
		if err := tx.InsertGroup(l.id, g.nid, g.parent.nid, g.parent.state, g.state); err != nil {
			return err
		}
	}
	for _, p := range ps {
		if err := p.write(tx); err != nil {
			return err
		}
	}
	if extra != nil {
		return extra(tx)
	}
	return nil
}

// look answers questions about events, first from memory. Without a snapshot it answers errNeedRead where memory does not suffice.
type look struct {
	l      *live
	rd     *store.Read
	absent event.ID // is not in the database
	err    error    // of the last question that could not answer with an error
}

var errNeedRead = errors.New("room: not in memory")

// thin gives what the law needs of an event, by number.
func (k *look) thin(nid int64) (*rules.Event, error) {
	if f := k.l.fresh[nid]; f != nil {
		return f.thin, nil
	}
	if t := k.l.r.thins.nid(nid); t != nil {
		return t, nil
	}
	if k.rd == nil {
		return nil, errNeedRead
	}
	e, err := k.rd.EventByNID(nid)
	if e == nil || err != nil {
		return nil, err
	}
	return k.l.r.thinRow(k.l.version, e)
}

// thinID gives what the law needs of an event, by id, with its number; nil when we do not have it.
func (k *look) thinID(id event.ID) (*rules.Event, int64, error) {
	if f := k.l.freshID[id]; f != nil {
		return f.thin, f.row.NID, nil
	}
	if t, nid := k.l.r.thins.id(id); t != nil {
		return t, nid, nil
	}
	if k.rd == nil {
		return nil, 0, errNeedRead
	}
	e, err := k.rd.Event(id)
	if e == nil || err != nil {
		return nil, 0, err
	}
	if k.l.id != "" && e.Room != k.l.id { // perhaps of another version: all that the law needs to know is that it is foreign
		return &rules.Event{ID: e.ID, Version: k.l.version, Room: e.Room, Sender: e.Sender, Type: e.Type, StateKey: e.StateKey, Rejected: e.Is(store.Rejected)}, e.NID, nil
	}
	t, err := k.l.r.thinRow(k.l.version, e)
	return t, e.NID, err
}

// entry gives what a state is made of, of an event; NID 0 when we do not have it.
func (k *look) entry(id event.ID) (e store.Placed, err error) {
	f := k.l.freshID[id]
	if f == nil {
		if k.rd == nil {
			return e, errNeedRead
		}
		return k.rd.Placed(id)
	}
	e = store.Placed{NID: f.row.NID, Room: f.row.Room, Flags: f.row.Flags}
	if f.row.StateKey != nil {
		e.Key, err = k.l.r.db.StateKey(f.row.Type, *f.row.StateKey)
	}
	return e, err
}

// row gives an event's row; nil when we do not have it.
func (k *look) row(id event.ID) (*store.Event, error) {
	if f := k.l.freshID[id]; f != nil {
		return f.row, nil
	}
	if id == k.absent && id != "" {
		return nil, nil
	}
	if k.rd == nil {
		return nil, errNeedRead
	}
	return k.rd.Event(id)
}

// thinRow makes the thin form of a stored event and keeps it. An event whose law content is invalid counts as rejected.
func (r *Rooms) thinRow(v *event.Version, e *store.Event) (*rules.Event, error) {
	p, err := event.ParseTrusted(v, e.ID, e.JSON)
	if err != nil {
		return nil, fmt.Errorf("read event %s: %w", e.ID, err)
	}
	t, err := rules.Thin(p)
	if err != nil {
		return &rules.Event{ID: e.ID, Version: v, Room: e.Room, Sender: e.Sender, Type: e.Type, StateKey: e.StateKey, TS: e.TS, Depth: e.Depth,
			Prev: p.Prev, Auth: p.Auth, Rejected: true}, nil
	}
	t.Rejected = e.Is(store.Rejected)
	r.thins.put(e.NID, t)
	return t, nil
}

// state presents a group to the law. Trouble is kept in k.err, which the caller looks at before it believes the law's answer.
func (k *look) state(s store.State) rules.State {
	return func(key rules.Key) *rules.Event {
		nid, err := k.l.r.db.FindStateKey(key.Type, key.StateKey)
		if err != nil {
			k.err = err
			return nil
		}
		if nid == 0 {
			return nil
		}
		if nid = s.Find(nid); nid == 0 {
			return nil
		}
		t, err := k.thin(nid)
		if err != nil {
			k.err = err
		}
		return t
	}
}

// allowed asks the law under a state.
func (k *look) allowed(e *rules.Event, s store.State) (denied, err error) {
	k.err = nil
	state := k.state(s)
	if k.l.partial != nil {
		state = k.filled(state, e)
	}
	denied = rules.Allowed(e, state)
	return denied, k.err
}

// create gives the room's create event from the current state.
func (k *look) create(s store.State) (*rules.Event, error) {
	k.err = nil
	t := k.state(s)(rules.Key{Type: "m.room.create"})
	return t, k.err
}
