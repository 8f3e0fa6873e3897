// SPDX-License-Identifier: EUPL-1.2

// Package inbox takes in what other boxes send: each event once, in causal order, through the one door room.Accept, with its
// place in the giver's log stored in the same transaction. What comes before its ancestors is held in memory, bounded;
// what does not fit is dropped without a receipt and comes again. EDUs take effect in order and once.
//
// Kept means: the effect is on the disk. A refused event counts as kept, because nothing that the giver could do would
// change it. Signatures are verified here, through a function that knows the keys.
package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/rules"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// Door is what the inbox needs of room.Rooms.
type Door interface {
	Accept(context.Context, room.Incoming) (room.Result, error)
	AcceptAll(context.Context, []room.Incoming) ([]room.Result, error)
	LeaveUnknown(ctx context.Context, id event.RoomID, user event.UserID, leave *event.PDU) error
	StateBefore(context.Context, event.ID) (map[rules.Key]event.ID, error)
}

// Config is what an Inbox needs. DB, Rooms and Verify must be set.
type Config struct {
	DB    *store.DB
	Rooms Door
	// Verify checks all signatures an event needs. It is called from several goroutines at once.
	Verify func(context.Context, *event.PDU) error
	// Later says of an error of Verify that it may go away (a key is not known yet). nil: none does.
	Later func(error) bool
	// EDU takes in an EDU's content for good before it returns.
	EDU func(ctx context.Context, origin, kind string, content []byte) error
	// Stage takes in an event for whose ancestors or keys somebody has to ask further (federation). May be nil.
	Stage func(ctx context.Context, origin string, p *event.PDU) error
	Log   *slog.Logger // nil: silent
	Now   func() time.Time
}

// Inbox is safe for concurrent use; events of one peer should come from one goroutine, so that their order stays.
type Inbox struct {
	c Config

	mu    sync.Mutex
	held  map[event.ID]*held
	waits map[event.ID][]event.ID // ancestor to those that wait for it
	rooms map[event.RoomID]int    // how many are held of a room
	bytes int
	asked map[event.ID]time.Time
}

// held is an event that waits for ancestors, or for the room itself.
type held struct {
	pdu   *event.PDU
	from  peer.Peer
	refs  []parcel.LogRef
	lacks []event.ID // what was missing when it was tried last; nothing: the room
	depth int        // how many wants led here
	since time.Time
}

const (
	maxHeld      = 4096
	maxHeldBytes = 16 << 20
	maxDepth     = 20               // wants one after the other before somebody else has to close the gap
	askAgain     = 90 * time.Second // the same id, unless the line is faster
)

// New makes an inbox.
func New(c Config) *Inbox {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Inbox{c: c, held: map[event.ID]*held{}, waits: map[event.ID][]event.ID{}, rooms: map[event.RoomID]int{}, asked: map[event.ID]time.Time{}}
}

// Taken is what came of a parcel: how far the logs are now, what to ask the giver for, what became of each event.
type Taken struct {
	Kept   []parcel.Vector
	Want   []event.ID
	Room   event.RoomID // of Want
	Events []Outcome
}

// Outcome is what became of one event.
type Outcome struct {
	Event   event.ID
	Room    event.RoomID
	Outcome room.Outcome
	Reason  string
	Sender  event.UserID
}

// Returned says whether the event was written on this box, whose server name that is, as its signature shows, and was not here: somebody gives back what was lost.
func (o Outcome) Returned(server string) bool {
	return o.Sender.Server() == server && (o.Outcome == room.Accepted || o.Outcome == room.SoftFailed)
}

// Events takes events from a peer, in the order in which they came, with one flush for as many as the store takes at once.
func (b *Inbox) Events(ctx context.Context, from peer.Peer, es []*parcel.Event) (Taken, error) {
	var t Taken
	var came, batch, rest []*held
	var ins []room.Incoming
	for _, e := range es {
		h := &held{pdu: e.PDU, from: from, since: b.c.Now()}
		if e.Log.Box != "" && e.Log.Seq > 0 && e.Log.Seq <= store.MaxSeq {
			h.refs = []parcel.LogRef{e.Log}
		}
		if !b.join(h) {
			came = append(came, h)
		}
	}
	ready, err := b.ready(ctx, came)
	if err != nil {
		return t, err
	}
	for i, h := range came {
		if !ready[i] {
			rest = append(rest, h) // the long way
			continue
		}
		batch, ins = append(batch, h), append(ins, b.incoming(h))
	}
	results, err := b.c.Rooms.AcceptAll(ctx, ins)
	if err != nil {
		return t, fmt.Errorf("take in %d events: %w", len(ins), err)
	}
	var done []*held
	for i, res := range results {
		if res.Outcome == room.Missing {
			rest = append(rest, batch[i])
			continue
		}
		b.outcome(&t, batch[i], res)
		done = append(done, batch[i])
	}
	if err := b.settle(ctx, done, &t); err != nil {
		return t, err
	}
	for _, h := range done {
		rest = append(rest, b.release(h.pdu.ID)...)
	}
	for _, h := range rest {
		if err := b.take(ctx, h, &t); err != nil {
			return t, err
		}
	}
	return t, nil
}

func (b *Inbox) incoming(h *held) room.Incoming {
	inc := room.Incoming{PDU: h.pdu, From: room.Source{Kind: "link", Server: h.from.Server}}
	if len(h.refs) > 0 {
		ref := h.refs[0]
		inc.Log = &room.LogRef{Box: string(ref.Box), Epoch: uint64(ref.Epoch), Seq: ref.Seq, ByOwner: ref.Box == h.from.ID}
	}
	return inc
}

// join adds a place to an event that is held already.
func (b *Inbox) join(h *held) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.held[h.pdu.ID]
	if old == nil {
		return false
	}
	old.refs = append(old.refs, h.refs...)
	return true
}

// take brings an event through the door, and then those that waited for it.
func (b *Inbox) take(ctx context.Context, first *held, t *Taken) error {
	queue := []*held{first}
	for len(queue) > 0 {
		h := queue[0]
		queue = queue[1:]
		done, err := b.one(ctx, h, t)
		if err != nil {
			return fmt.Errorf("take in %s: %w", h.pdu.ID, err)
		}
		if done {
			queue = append(queue, b.release(h.pdu.ID)...)
		}
	}
	return nil
}

// one decides one event; done says that it need not be held.
func (b *Inbox) one(ctx context.Context, h *held, t *Taken) (done bool, err error) {
	_, known, in, err := b.known(ctx, h.pdu)
	if err != nil {
		return false, err
	}
	if !in { // the answer to our join may still be under way
		return b.missing(ctx, h, nil, t)
	}
	if known {
		b.outcome(t, h, room.Result{Outcome: room.Duplicate})
		return true, b.settle(ctx, []*held{h}, t)
	}
	if err := b.c.Verify(ctx, h.pdu); err != nil {
		return b.unverified(ctx, h, err, t)
	}
	inc := b.incoming(h)
	res, err := b.c.Rooms.Accept(ctx, inc)
	if err != nil {
		return false, err
	}
	if res.Outcome == room.Missing {
		if inc.State, err = b.stateAtBase(ctx, h.pdu, res.Missing); err != nil {
			return false, err
		}
		if inc.State != nil {
			if res, err = b.c.Rooms.Accept(ctx, inc); err != nil {
				return false, err
			}
		}
	}
	if res.Outcome == room.Missing {
		return b.missing(ctx, h, res.Missing, t)
	}
	b.outcome(t, h, res)
	return true, b.settle(ctx, []*held{h}, t)
}

func (b *Inbox) outcome(t *Taken, h *held, res room.Result) {
	if res.Outcome == room.Rejected {
		b.c.Log.Warn("event refused", "event", h.pdu.ID, "room", h.pdu.RoomID, "from", h.from.Server, "reason", res.Reason)
	}
	if t.Room == "" {
		t.Room = h.pdu.RoomID
	}
	t.Events = append(t.Events, Outcome{Event: h.pdu.ID, Room: h.pdu.RoomID, Outcome: res.Outcome, Reason: res.Reason, Sender: h.pdu.Sender})
}

// known says whether an event is here for good, and whether this box is in its room at all.
func (b *Inbox) known(ctx context.Context, p *event.PDU) (nid int64, known, in bool, err error) {
	err = b.c.DB.View(ctx, func(r *store.Read) error {
		row, err := r.Event(p.ID)
		if err != nil {
			return err
		}
		if row != nil {
			nid, known = row.NID, !row.Is(store.Outlier)
		}
		rm, err := r.Room(p.RoomID)
		in = rm != nil && rm.Cur != 0
		return err
	})
	return nid, known, in, err
}

// unverified decides on an event whose signatures did not verify: for good, or until a key is known.
func (b *Inbox) unverified(ctx context.Context, h *held, verr error, t *Taken) (bool, error) {
	if b.c.Later != nil && b.c.Later(verr) {
		b.c.Log.Info("event waits for a key", "event", h.pdu.ID, "sender", h.pdu.Sender.Server(), "from", h.from.Server, "err", verr)
		if b.c.Stage != nil {
			b.handOn(ctx, h)
		}
		return false, nil // no receipt: it comes again
	}
	b.c.Log.Warn("event with a bad signature refused", "event", h.pdu.ID, "from", h.from.Server, "err", verr)
	b.outcome(t, h, room.Result{Outcome: room.Rejected, Reason: "signature"})
	return true, b.settle(ctx, []*held{h}, t)
}

// settle sees to it that all places of events that are decided are marked, and notes how far their logs are now. Where the
// door appended an event it has marked its first place in the same transaction; the others are marked here.
func (b *Inbox) settle(ctx context.Context, hs []*held, t *Taken) error {
	var left []place
	logs := make(map[parcel.Vector]bool) // without Upto
	err := b.c.DB.View(ctx, func(r *store.Read) error {
		for _, h := range hs {
			for _, ref := range h.refs {
				logs[parcel.Vector{Room: h.pdu.RoomID, Box: ref.Box, Epoch: ref.Epoch}] = true
				nid, err := r.EventNID(h.pdu.ID)
				if err != nil {
					return err
				}
				there, err := r.HasEntry(h.pdu.RoomID, string(ref.Box), ref.Epoch, ref.Seq, nid)
				if err != nil {
					return err
				}
				owner := ref.Box == h.from.ID
				// What somebody else puts into a box's log counts when it is an event; that a place is lost only its own box may say.
				if !there && (nid != 0 || owner) {
					left = append(left, place{h.pdu.RoomID, ref, owner, nid})
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look up log places: %w", err)
	}
	beyond := make(map[parcel.Vector]uint64) // by vectors without Upto: logs that are too many to be remembered
	if len(left) > 0 {
		err := b.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
			clear(beyond)
			for _, p := range left {
				mark := tx.MarkEntry
				if p.owner {
					mark = tx.OwnerMark
				}
				_, err := mark(p.room, string(p.ref.Box), p.ref.Epoch, p.ref.Seq, 0, p.nid)
				if errors.Is(err, store.ErrManyLogs) {
					v := parcel.Vector{Room: p.room, Box: p.ref.Box, Epoch: p.ref.Epoch}
					beyond[v] = max(beyond[v], p.ref.Seq)
				} else if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("mark log places: %w", err)
		}
	}
	err = b.c.DB.View(ctx, func(r *store.Read) error {
		for v := range logs {
			l, _, err := r.LogOf(v.Room, string(v.Box), v.Epoch)
			if err != nil {
				return err
			}
			v.Upto = max(l.Top, beyond[v]) // the giver has to come to an end with what is not remembered, too
			t.kept(v)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read logs: %w", err)
	}
	return nil
}

// place is a place of a log that an event fills.
type place struct {
	room  event.RoomID
	ref   parcel.LogRef
	owner bool  // the log's own box says so
	nid   int64 // 0: refused without a trace
}

// kept notes how far a log is.
func (t *Taken) kept(v parcel.Vector) {
	if v.Upto == 0 {
		return
	}
	for i, old := range t.Kept {
		if old.Room == v.Room && old.Box == v.Box && old.Epoch == v.Epoch {
			t.Kept[i].Upto = max(old.Upto, v.Upto)
			return
		}
	}
	t.Kept = append(t.Kept, v)
}

// Note takes what a peer tells about its logs besides events. resolve finds the room and box behind wire names; what it
// does not find comes back as early: the answer to our join may still be under way.
func (b *Inbox) Note(ctx context.Context, from peer.Peer, n recon.Note, resolve func(recon.Log) (event.RoomID, peer.ID, bool)) (t Taken, want *parcel.Want, early recon.Note, err error) {
	want = &parcel.Want{}
	for _, s := range n.Skips {
		if s.UpTo > store.MaxSeq {
			continue
		}
		id, box, ok := resolve(s.Log)
		if !ok {
			early.Skips = append(early.Skips, s)
			continue
		}
		var kept uint64
		err := b.c.DB.DoSmall(ctx, func(tx *store.Tx) (err error) {
			mark := tx.MarkEntry
			if box == from.ID {
				mark = tx.OwnerMark
			}
			if kept, err = mark(id, string(box), s.Log.Epoch, s.UpTo, s.UpTo-s.After-1, 0); errors.Is(err, store.ErrManyLogs) {
				kept, err = s.UpTo, nil
			}
			return err
		})
		if err != nil {
			return t, nil, early, fmt.Errorf("skip entries of a log of %s: %w", box.Short(), err)
		}
		b.c.Log.Debug("places left out", "room", id, "log", box.Short(), "after", s.After, "upto", s.UpTo, "says", from.Server)
		t.kept(parcel.Vector{Room: id, Box: box, Epoch: s.Log.Epoch, Upto: kept})
	}
	for _, h := range n.Haves {
		id, box, ok := resolve(h.Log)
		if !ok {
			early.Haves = append(early.Haves, h)
			continue
		}
		if err := b.have(ctx, from, h, id, box, &t, want); err != nil {
			return t, nil, early, err
		}
	}
	if len(want.Ranges) == 0 {
		want = nil
	}
	return t, want, early, nil
}

// have marks the places whose event is here and asks for the others.
func (b *Inbox) have(ctx context.Context, from peer.Peer, h recon.Have, id event.RoomID, box peer.ID, t *Taken, want *parcel.Want) error {
	nids := make([]int64, len(h.Places))
	err := b.c.DB.View(ctx, func(r *store.Read) (err error) {
		for i, p := range h.Places {
			if nids[i], err = r.EventByShort(id, p.Event); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for named events: %w", err)
	}
	var kept uint64
	err = b.c.DB.DoSmall(ctx, func(tx *store.Tx) (err error) {
		for i, p := range h.Places {
			if nids[i] == 0 || p.Seq > store.MaxSeq {
				continue
			}
			mark := tx.MarkEntry
			if box == from.ID {
				mark = tx.OwnerMark
			}
			if kept, err = mark(id, string(box), h.Log.Epoch, p.Seq, 0, nids[i]); errors.Is(err, store.ErrManyLogs) {
				kept, err = p.Seq, nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("mark named events: %w", err)
	}
	if kept > 0 {
		t.kept(parcel.Vector{Room: id, Box: box, Epoch: h.Log.Epoch, Upto: kept})
	}
	for i, p := range h.Places {
		if nids[i] != 0 {
			continue
		}
		last := len(want.Ranges) - 1
		if last >= 0 && want.Ranges[last].Box == box && want.Ranges[last].Room == id && want.Ranges[last].To+1 == p.Seq {
			want.Ranges[last].To = p.Seq
			continue
		}
		want.Ranges = append(want.Ranges, parcel.Range{Room: id, Box: box, Epoch: h.Log.Epoch, From: p.Seq, To: p.Seq})
	}
	return nil
}

// EDU takes one EDU. fresh is false for one that was taken before; kept is how far the queue is.
func (b *Inbox) EDU(ctx context.Context, from peer.Peer, epoch uint32, e *parcel.EDU) (kept uint64, err error) {
	origin := e.Origin
	if origin == "" {
		origin = from.Server
	}
	if origin != from.Server {
		return 0, fmt.Errorf("EDU of %s came from %s: nobody speaks for others here", origin, from.Server)
	}
	if e.Seq == 0 {
		return 0, b.effect(ctx, from, e)
	}
	err = b.c.DB.View(ctx, func(r *store.Read) (err error) {
		kept, err = r.EDUsKept(string(from.ID), epoch)
		return err
	})
	if err != nil || kept >= e.Seq {
		return kept, err
	}
	// The effect comes first: handlers know a to-device message again by its id, so a power cut between the two does no harm.
	if err := b.effect(ctx, from, e); err != nil {
		return kept, fmt.Errorf("take in %s of %s: %w", e.Type, origin, err)
	}
	err = b.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
		_, err := tx.KeepEDUs(string(from.ID), epoch, e.Seq)
		return err
	})
	return e.Seq, err
}

// effect does what an EDU says.
func (b *Inbox) effect(ctx context.Context, from peer.Peer, e *parcel.EDU) error {
	if e.Type != KindPDU {
		return b.c.EDU(ctx, from.Server, e.Type, e.Content)
	}
	if err := b.direct(ctx, from, e.Content); err != nil {
		b.c.Log.Warn("event from outside our rooms refused", "from", from.Server, "err", err)
	}
	return nil
}

// direct takes an event about one of our users in a room where we have nobody.
func (b *Inbox) direct(ctx context.Context, from peer.Peer, content []byte) error {
	var d DirectPDU
	if err := json.Unmarshal(content, &d); err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	v, ok := event.Lookup(d.Version)
	if !ok {
		return fmt.Errorf("room version %q is not known", d.Version)
	}
	p, err := event.Parse(v, d.PDU)
	if err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	if p.Type != "m.room.member" || p.StateKey == nil {
		return fmt.Errorf("a %s is not about a member", p.Type)
	}
	if err := b.c.Verify(ctx, p); err != nil {
		return err
	}
	_, known, in, err := b.known(ctx, p)
	if err != nil || known {
		return err
	}
	user, ours := event.UserID(*p.StateKey), 0
	err = b.c.DB.View(ctx, func(r *store.Read) (err error) {
		ours, err = r.JoinedOf(p.RoomID, user.Server())
		return err
	})
	if err != nil {
		return err
	}
	if in && ours > 0 { // somebody else of us is in the room: the event has its place in the graph
		t := Taken{}
		return b.take(ctx, &held{pdu: p, from: from, since: b.c.Now()}, &t)
	}
	return b.c.Rooms.LeaveUnknown(ctx, p.RoomID, user, p)
}
