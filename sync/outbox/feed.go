// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// Feed is what is under way to one peer. Its methods may be called from any goroutine; one Next at a time.
type Feed struct {
	o *Outbox
	p peer.Peer

	mu       sync.Mutex
	gen      int // raised by Start and Rewind: what an older Next found no longer counts
	cursors  map[int64]*cursor
	rooms    []event.RoomID // that may have something, in turn
	epoch    uint32         // in which the peer numbers its own logs
	holding  bool           // the peer is about to say what it wants in full
	full     map[int64]uint64
	eduSent  uint64
	eduKept  uint64
	eduAt    time.Time              // when EDUs were read last
	flight   int                    // events sent and not kept
	carry    bool                   // for a courier: without end, and each event with its body
	extra    int                    // that may be under way beyond maxFlight: something urgent waits
	pressing int                    // how urgent the most urgent is that the peer lacks and that was not given yet; Routine at least
	beyond   []Raised               // what of that is a flash
	given    map[event.RoomID]int64 // up to which event number rooms were given
	nearer   []peer.Peer            // boxes that are nearer to the peer
	mail     bool                   // the peer is written to by mail
	open     bool                   // the peer is reached over open language only (open.go)
	sealed   map[event.RoomID]bool
	letters  bool           // messages between devices wait for another way
	stuck    []event.RoomID // in which a hole was met (holes.go)
}

// cursor is where the peer is in one log.
type cursor struct {
	kept, sent uint64
	flight     []flying
	hole       uint64             // 1 + the place before which the log was last found to go no further (holes.go)
	left       map[peer.ID]uint64 // up to where a box that is nearer has all that is not kept (mail.go)
}

type flying struct {
	seq uint64
	id  event.ID
	at  time.Time
}

// maxFlight bounds what is sent and not yet kept: beyond it the peer is slower than its line.
const maxFlight = 512

// Feed starts to keep track of a peer. Nothing is due before Start.
func (o *Outbox) Feed(p peer.Peer) *Feed {
	return &Feed{o: o, p: p, cursors: make(map[int64]*cursor), pressing: parcel.Routine, given: make(map[event.RoomID]int64)}
}

// ErrAhead says that a peer has more of our own logs than we ever wrote, as far as we know: this box has been set back to an earlier day
// without anybody telling it, or somebody lies.
var ErrAhead = errors.New("outbox: a peer has more of our logs than we")

// Start takes a peer's greeting: the cursors stand where it says. lost says that what was under way may have been lost;
// otherwise it is still counted as sent. pulls says that the peer answers a greeting with a Pull: until it does, or Release,
// nothing is due when it is behind in others' logs. ErrAhead comes when all is done.
func (f *Feed) Start(ctx context.Context, h recon.Hello, lost, pulls bool) error {
	kept := make(map[recon.Log]uint64)
	for _, s := range h.Rooms {
		for _, l := range s.Logs {
			kept[recon.Log{Room: s.Room, Box: l.Box, Epoch: l.Epoch}] = l.Kept
		}
	}
	var rooms []event.RoomID
	var ahead, behind bool
	said := make(map[int64]uint64)
	err := f.o.db.View(ctx, func(r *store.Read) (err error) {
		if rooms, err = r.DueRooms(f.p.Server); err != nil {
			return err
		}
		for _, id := range rooms {
			logs, err := r.Logs(id)
			if err != nil {
				return err
			}
			for _, l := range logs {
				claim := kept[reconLog(id, l)]
				ahead = ahead || l.Own && claim > l.Top
				behind = behind || !l.Own && l.Box != string(f.p.ID) && claim < l.Top
				if said[l.N] = min(claim, store.MaxSeq); l.Own { // of others' logs it may have more than we
					said[l.N] = min(claim, l.Top)
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("start feed of %s: %w", f.p.ID.Short(), err)
	}
	edus := uint64(0)
	for _, e := range h.EDUs {
		if e.Epoch == f.o.Epoch() {
			edus = min(e.Kept, store.MaxSeq)
		}
	}
	f.start(said, rooms, edus, lost, h.Epoch, behind && pulls)
	f.remember(said, edus, true)
	if ahead {
		return ErrAhead
	}
	return nil
}

func (f *Feed) start(said map[int64]uint64, rooms []event.RoomID, edus uint64, lost bool, epoch uint32, hold bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gen++
	f.epoch, f.holding, f.full = epoch, hold, nil
	f.eduKept = edus
	if lost || f.eduSent < edus {
		f.eduSent = edus
	}
	for n, kept := range said {
		c := f.cursors[n]
		if c == nil {
			c = &cursor{}
			f.cursors[n] = c
		}
		if lost || c.kept > kept || c.sent < kept {
			f.flight -= len(c.flight)
			c.flight, c.sent, c.left = nil, kept, nil
		}
		c.kept = kept
	}
	f.rooms = rooms
	clear(f.given)
}

// remember stores cursors; a power cut may take the newest back, the next greeting tells them again.
func (f *Feed) remember(kept map[int64]uint64, edus uint64, down bool) {
	at := f.o.now()
	f.o.db.Lazy(func(tx *store.Tx) error {
		for n, k := range kept {
			if err := tx.SetPeerKept(string(f.p.ID), n, k, down); err != nil {
				return err
			}
			if err := f.reached(tx, n, k, at, down); err != nil {
				return err
			}
		}
		if edus > 0 {
			return tx.DropEDUs(f.p.Server, int64(edus))
		}
		return nil
	})
}

// reached notes since when the peer is known to be where it says, for people.
func (f *Feed) reached(tx *store.Tx, log int64, upTo uint64, at int64, down bool) error {
	if down {
		if err := tx.ReachedOnly(log, f.p.Server, upTo); err != nil {
			return err
		}
	}
	if upTo == 0 {
		return nil
	}
	_, err := tx.Reached(log, store.Reach{Who: f.p.Server, Upto: upTo, At: at})
	return err
}

// Rewind forgets what is under way: everything that is not kept will be sent again.
func (f *Feed) Rewind() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gen++
	for _, c := range f.cursors {
		c.sent, c.flight = c.kept, nil
	}
	f.flight, f.eduSent = 0, f.eduKept
	f.rooms = nil
	clear(f.given)
}

// Return takes back what Next gave after a Rewind or Start, when the caller cannot use it: it belongs to what was under way before. Nothing else may have been given
// since.
func (f *Feed) Return(items []Item) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.cursors {
		c.sent, c.flight = c.kept, nil
	}
	f.flight = 0
	clear(f.given)
	for _, it := range items {
		if !slices.Contains(f.rooms, it.Room) {
			f.rooms = append(f.rooms, it.Room)
		}
	}
}

// Touch notes that rooms may have something new for the peer.
func (f *Feed) Touch(rooms ...event.RoomID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range rooms {
		if !slices.Contains(f.rooms, id) {
			f.rooms = append(f.rooms, id)
		}
	}
}

// TouchAll notes that any room may have something.
func (f *Feed) TouchAll(ctx context.Context) error {
	var rooms []event.RoomID
	err := f.o.db.View(ctx, func(r *store.Read) (err error) {
		rooms, err = r.DueRooms(f.p.Server)
		return err
	})
	f.Touch(rooms...)
	return err
}

// Flight counts the events and EDUs that were sent and are not kept; oldest is when the oldest of them was sent.
func (f *Feed) Flight() (n int, oldest time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.cursors {
		if len(c.flight) > 0 && (oldest.IsZero() || c.flight[0].at.Before(oldest)) {
			oldest = c.flight[0].at
		}
	}
	n = f.flight
	if f.eduSent > f.eduKept {
		n++ // how many is not known, numbers have holes
		if oldest.IsZero() || f.eduAt.Before(oldest) {
			oldest = f.eduAt
		}
	}
	return n, oldest
}

// Kept takes a peer's receipt and gives the events that it newly keeps.
func (f *Feed) Kept(ctx context.Context, k *parcel.Kept) ([]event.ID, error) {
	logs := make(map[int64]uint64, len(k.Vectors))
	err := f.o.db.View(ctx, func(r *store.Read) error {
		for _, v := range k.Vectors {
			l, ok, err := r.LogOf(v.Room, string(v.Box), v.Epoch)
			if err != nil {
				return err
			}
			if ok {
				logs[l.N] = min(v.Upto, l.Top)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("take receipt of %s: %w", f.p.ID.Short(), err)
	}
	ids, edus := f.kept(logs, k.EDUs)
	if len(logs) > 0 || edus > 0 {
		f.remember(logs, edus, false)
	}
	return ids, nil
}

func (f *Feed) kept(logs map[int64]uint64, edus uint64) (ids []event.ID, dropped uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n, upTo := range logs {
		c := f.cursors[n]
		if c == nil {
			c = &cursor{}
			f.cursors[n] = c
		}
		if upTo <= c.kept {
			continue
		}
		c.kept = upTo
		c.sent = max(c.sent, upTo)
		done := 0
		for done < len(c.flight) && c.flight[done].seq <= upTo {
			ids = append(ids, c.flight[done].id)
			done++
		}
		f.flight -= done
		c.flight = slices.Delete(c.flight, 0, done)
	}
	// Only numbers that were sent in this conversation count: a receipt cannot be for what the peer never saw.
	if edus > f.eduKept && edus <= f.eduSent {
		f.eduKept, dropped = edus, edus
	}
	return ids, dropped
}

// NextEDUs gives up to limit queued EDUs that were not sent yet, in order. They must be sent in one stream: the peer's
// receipt is cumulative. transient says to give typing and presence too; otherwise they are left out for good.
func (f *Feed) NextEDUs(ctx context.Context, limit int, transient bool) ([]*parcel.EDU, error) {
	f.mu.Lock()
	after, gen := f.eduSent, f.gen
	f.mu.Unlock()
	var rows []store.EDU
	err := f.o.db.View(ctx, func(r *store.Read) (err error) {
		rows, err = r.PendingEDUs(f.p.Server, int64(after), limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read EDUs for %s: %w", f.p.Server, err)
	}
	out := make([]*parcel.EDU, 0, len(rows))
	var stale []int64
	open := f.onlyOpen()
	for _, e := range rows {
		if open && !readable(e) {
			f.hold("")
			break // the peer's receipt is cumulative: what follows waits, too
		}
		if Transient(e.Kind) && !transient {
			stale = append(stale, e.Seq)
			continue
		}
		out = append(out, &parcel.EDU{Seq: uint64(e.Seq), Type: e.Kind, Content: e.Body})
	}
	if len(stale) > 0 {
		f.o.db.Lazy(func(tx *store.Tx) error { return tx.DropEDUsOf(f.p.Server, stale) })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if gen != f.gen {
		return nil, nil
	}
	if len(out) > 0 {
		f.eduAt = time.Now()
		f.eduSent = out[len(out)-1].Seq
	}
	return out, nil
}

// Transient says whether an EDU is worth nothing a minute later.
func Transient(kind string) bool { return kind == "m.typing" || kind == "m.presence" }

// reconRange is a Skip of a log.
func reconRange(room event.RoomID, l store.Log, after, upTo uint64) *recon.Range {
	return &recon.Range{Log: reconLog(room, l), After: after, UpTo: upTo}
}

// RewindEDUs forgets which EDUs are under way.
func (f *Feed) RewindEDUs() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.eduSent = f.eduKept
}

// EDUsKept is up to which number the peer keeps EDUs.
func (f *Feed) EDUsKept() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.eduKept
}

// Holding says whether the feed waits for the peer's Pull.
func (f *Feed) Holding() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.holding
}

// Release ends the wait for a Pull.
func (f *Feed) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holding = false
}

// Pull notes which logs of others the peer wants in full, and up to where: it has said that nobody else brings it those events.
func (f *Feed) Pull(ctx context.Context, upTo map[recon.Log]uint64) error {
	full := make(map[int64]uint64, len(upTo))
	if len(upTo) > 0 {
		err := f.o.db.View(ctx, func(r *store.Read) error {
			rooms, err := r.DueRooms(f.p.Server)
			if err != nil {
				return err
			}
			for _, id := range rooms {
				logs, err := r.Logs(id)
				if err != nil {
					return err
				}
				for _, l := range logs {
					if to := upTo[reconLog(id, l)]; to > 0 && !l.Own {
						full[l.N] = to
					}
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("look up what %s pulls: %w", f.p.ID.Short(), err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full, f.holding = full, false
	return nil
}

// whole says whether an entry of another box's log goes in full.
func (f *Feed) whole(log int64, seq uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return seq <= f.full[log]
}

// Behind says in which logs of a peer's greeting the peer is ahead of us and is not the log's own box, and which of those nobody of
// others is ahead in; others are the greetings of the boxes that are in reach besides.
func (o *Outbox) Behind(ctx context.Context, p peer.Peer, h recon.Hello, others []recon.Vector) (ahead int, pull recon.Pull, err error) {
	pull.Session = h.Session
	self, far := recon.Box(o.self.Brief()), recon.Box(p.ID.Brief())
	err = o.db.View(ctx, func(r *store.Read) error {
		rooms, err := r.DueRooms(p.Server)
		if err != nil {
			return err
		}
		have := recon.Vector{}
		mine := make(map[recon.Room]bool, len(rooms))
		for _, id := range rooms {
			logs, err := r.Logs(id)
			if err != nil {
				return err
			}
			mine[recon.RoomOf(id)] = true
			for _, l := range logs {
				have.Raise(reconLog(id, l), l.Top)
			}
		}
		n := -1
		for _, s := range h.Rooms {
			for _, l := range s.Logs {
				n++
				log := recon.Log{Room: s.Room, Box: l.Box, Epoch: l.Epoch}
				if !mine[s.Room] || l.Box == self || l.Box == far || l.Kept <= have[log] {
					continue
				}
				ahead++
				if !slices.ContainsFunc(others, func(o recon.Vector) bool { return o[log] > have[log] }) {
					pull.Logs = append(pull.Logs, n)
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, pull, fmt.Errorf("compare vectors: %w", err)
	}
	return ahead, pull, nil
}
