// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"hallig/appliance/event"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// far is one paired box. It belongs to the loop.
type far struct {
	l      *Link
	p      peer.Peer
	closed bool

	ways   []*way // proved to be this box and up
	active *way   // the fastest of them

	// What both ends remember of the conversation.
	mine, theirs uint32 // nonces; theirs 0: none yet
	session      *parcel.Session
	mail         mail
	carrier      int  // bit/s over which the box was named to the relay as a neighbour; 0: it was not
	unread       bool // what the box was given to carry may have come in a memory that it had lost: it is given again
	turn         bool // what is carried for others goes before our own of the same priority
	agreed       bool // the far end is known to hold its side of session: only then may it be used
	features     uint32
	sameModel    bool
	casts        farCasts
	vector       recon.Vector // where the far end stood when it greeted last
	saidLogs     []recon.Log  // of our last greeting, as numbered in it
	saidKept     []uint64
	pull         struct { // what it wants in full, in answer to our greeting of that session
		session uint32
		upTo    map[recon.Log]uint64
	}
	gen     int // raised whenever the feed counts anew: what was read from it before no longer fits
	forgets int // times that what was under way was taken back

	// Greetings.
	said     uint32    // session of our last greeting
	greeting uint32    // during which flash texts were looked for
	heard    uint32    // the far end's greeting that we go by; 0: none since the active way changed
	lost     bool      // the far end may have lost what was under way
	farEpoch uint32    // of its EDUs
	epochs   []uint32  // that it had, the present one last
	twin     time.Time // when it last spoke in an epoch that it had left
	parts    *recon.Hello
	askTimer *time.Timer

	// What waits to be sent, the most urgent first.
	queues      [parcel.Bulk + 1][]entry
	feed        *outbox.Feed
	items       []outbox.Item     // read from the feed
	more        bool              // the feed may have more
	urgent      bool              // and what it has may be urgent
	owed        int               // bytes that the least urgent may have before others
	ahead       map[event.ID]bool // flash of which is known here that it waits: whether its text has gone ahead in this session
	asIf        int               // priority for the transport of what goes by that right; 0: its own
	reading     bool              // forget leaves it, and eduReading: a reading that is under way ends by itself
	starting    int               // greetings that are being taken
	edus        []*parcel.EDU     // read from the queue; sent one message at a time
	edusDue     bool
	eduReading  bool
	eduBusy     bool
	eduTo       uint64      // the last that went
	eduHold     *time.Timer // receipts wait
	eduLate     bool        // they have waited long enough
	eduReceipts time.Time   // when they went alone last

	told    map[naming]bool // names that the far end has, in this session
	telling bool            // a message that explains names is under way

	noteTimer *time.Timer
	notesDue  bool
	met       map[peer.ID]bool // boxes that were introduced to the far end
	stall     *time.Timer
	stalls    int // in a row

	// EDUs that come in.
	eduDeaf atomic.Bool   // one is missing: none is taken until the far end begins anew
	eduTurn atomic.Uint32 // raised then: those that wait to be taken are of an older one

	// How far others have got.
	seen      outbox.Told // what of it the far end was told in this session
	seenTimer *time.Timer
	seenBusy  bool
	seenMore  bool      // something has moved meanwhile
	seenAt    time.Time // when something was told last

	// Receipts that wait for company.
	kept      map[logName]parcel.Vector
	keptEDUs  uint64
	keptTimer *time.Timer

	in     []coming // what came and is worked on one after the other
	taking bool
	early  []recon.Note // about rooms that are not here yet

	asks    map[uint32]*ask
	nextAsk uint32
	serving map[uint32]*served
	bodies  map[chunkName]*body

	noticesRefused int
	docs           map[string]bool // servers whose key document was sent in this session

	audit audit
}

type logName struct {
	room  event.RoomID
	box   peer.ID
	epoch uint32
}

// entry is a parcel that waits; done is told what became of it, once.
type entry struct {
	p    parcel.Parcel
	done func(arrived bool)
}

func newFar(l *Link, p peer.Peer) *far {
	f := &far{l: l, p: p, mine: draw(), feed: l.out.Feed(p), kept: map[logName]parcel.Vector{}, asks: map[uint32]*ask{},
		serving: map[uint32]*served{}, bodies: map[chunkName]*body{}, docs: map[string]bool{}, met: map[peer.ID]bool{}, told: map[naming]bool{}, ahead: map[event.ID]bool{}, seen: outbox.NewTold(), edusDue: true}
	f.nextAsk = draw() >> 8 // numbers of an earlier life should not be met again
	return f
}

// close ends all that is under way with a box that is no longer paired.
func (f *far) close() {
	f.closed = true
	f.audit.stop()
	f.mail.stop()
	for _, t := range []*time.Timer{f.askTimer, f.eduHold, f.noteTimer, f.stall, f.keptTimer, f.seenTimer} {
		if t != nil {
			t.Stop()
		}
	}
	for id := range f.asks {
		f.fail(id, errClosed)
	}
	for _, w := range f.ways {
		w.far, w.proved = nil, false
	}
	f.ways, f.active = nil, nil
	f.adjoin()
}

// join takes a way that leads to the box.
func (f *far) join(w *way) {
	f.ways = append(f.ways, w)
	f.choose()
	if f.active != w && w.mail == nil {
		f.greetStandby(w)
	}
}

// leave notes that a way is gone.
func (f *far) leave(w *way) {
	f.ways = slices.DeleteFunc(f.ways, func(o *way) bool { return o == w })
	f.choose()
}

// choose lets the fastest way carry.
func (f *far) choose() {
	var best *way
	for _, w := range f.ways {
		if w.better(best, f.active) {
			best = w
		}
	}
	if best == f.active {
		return
	}
	if slices.Contains(f.ways, f.active) { // else it is gone
		f.l.c.Observe(Event{What: "stands by", Peer: f.p, Transport: f.active.t.Name()})
	}
	f.active = best
	f.feed.SetOpen(best != nil && best.open)
	if best != nil && best.open {
		f.opened()
	}
	f.heard = 0
	f.forget()
	f.audit.interrupted()
	f.adjoin()
	if best != nil && best.mail != nil {
		f.beginMail(best)
		return
	}
	if best == nil {
		f.l.log.Info("box out of reach", "peer", f.p.Server)
		return
	}
	f.l.log.Info("carries", "peer", f.p.Server, "transport", best.t.Name(), "bps", best.bps)
	f.l.c.Observe(Event{What: "carries", Peer: f.p, Transport: best.t.Name()})
	f.begin(best)
	f.pump() // a flash does not wait for the answer
}

// forget takes back what is under way: it goes again, from what the far end is known to keep.
func (f *far) forget() {
	f.gen++
	f.forgets++
	clear(f.met)
	f.items, f.edus, f.eduBusy, f.edusDue, f.more = nil, nil, false, true, true
	f.feed.Rewind()
	if f.stall != nil {
		f.stall.Stop()
		f.stall = nil
	}
	// What waits in the queues stays.
}

// begin greets in full on a way: who we are and where we stand, so that the far end can go on from there.
func (f *far) begin(w *way) {
	if w.mail != nil {
		f.beginMail(w)
		return
	}
	f.said = draw()
	w.saidAt = time.Now()
	said, ack, gen := f.said, f.heard, w.gen
	if !f.agreed {
		ack = 0 // asks for an answer
	}
	f.l.work(func(ctx context.Context) func() {
		h, err := f.l.out.Greeting(ctx, f.p)
		return func() {
			if err != nil {
				if ctx.Err() == nil {
					f.l.log.Error("greeting could not be made", "peer", f.p.Server, "err", err)
				}
				return
			}
			if w.gen != gen || f.closed || f.said != said {
				return
			}
			f.note(h)
			h.Session, h.Ack = said, ack
			h.Serial, h.FarSerial = f.ownSerial(), f.p.Serial
			f.say(w, h)
		}
	})
	f.insist()
}

// insist greets again when no answer comes: one of the two did not hear. It does so by the way that carries then: what was greeted may only stand by,
// and nothing can be said by any way before the two agree.
func (f *far) insist() {
	if f.askTimer != nil {
		f.askTimer.Stop()
	}
	if f.active == nil {
		return // the next way begins anew
	}
	f.askTimer = f.l.after(2*f.active.patience(), func() {
		if w := f.active; w != nil && w.mail == nil && (f.heard == 0 || !f.agreed) && !f.closed {
			f.begin(w)
		}
	})
}

func (f *far) ownSerial() uint64 {
	if f.l.c.Statement == nil {
		return 0
	}
	p, err := peer.ReadStatement(f.l.c.Statement())
	if err != nil {
		return 0
	}
	return p.Serial
}

// The types of EDU parcels that the exchange itself uses; none is queued, none reaches a handler.
const (
	eduHello     = "hallig.hello"     // recon.Hello
	eduNote      = "hallig.note"      // recon.Note
	eduStatement = "hallig.statement" // peer.State
	eduCast      = "hallig.cast"      // the key of broadcasts: number 4, key 32
)

func (f *far) say(w *way, h recon.Hello) {
	parts := h.Split(32 << 10)
	for i, part := range parts {
		e := &parcel.EDU{Type: eduHello, Content: part.Append(nil)}
		if i == 0 {
			f.l.bare(w, f.agreement(), e)
		} else {
			f.l.bare(w, e)
		}
	}
}

func (f *far) agreement() *parcel.Hello {
	h := &parcel.Hello{From: f.l.self.Brief(), Step: 3, Session: f.mine, Yours: f.theirs,
		Features: parcel.FeatureZstd | parcel.FeatureBroadcast | parcel.FeatureModel | parcel.FeatureSketch | parcel.FeatureSeen, Model: f.l.codec.ModelVersion()}
	h.Features |= parcel.FeatureVersion2 | parcel.FeatureDeferred | parcel.FeatureSend
	if f.l.c.Relay != nil {
		h.Features |= parcel.FeatureRelay
	}
	return h
}

// greetStandby says who is here on a way that only stands by.
func (f *far) greetStandby(w *way) { f.l.bare(w, f.agreement()) }

// agree takes the far end's word on the session. A session is used only when the far end has shown that it holds its
// side: what is sent before could not be read there, and would count as explained here.
func (f *far) agree(w *way, h *parcel.Hello) {
	f.features = h.Features
	switch {
	case f.session == nil || h.Session != f.theirs:
		f.restart(h)
		f.agreed = h.Yours == f.mine
		f.greetStandby(w) // so that it knows that we hold ours
	case h.Yours == f.mine: // both remember
		if !f.agreed {
			f.agreed = true
			f.pump()
		}
	case h.Yours == 0 && f.agreed:
		// It wrote this before it had heard of us, by a slower way than its answer: it forgets us only with its own number.
	default:
		// The far end is the one we know and has not heard of us, so it could read nothing: tell it, unless our greeting
		// crosses with its own.
		f.lost, f.agreed = true, false
		if time.Since(w.saidAt) > w.patience() {
			f.begin(w)
		} else {
			f.insist()
		}
	}
}

// restart begins a new session: the far end is new here, or has lost its memory.
func (f *far) restart(h *parcel.Hello) {
	f.theirs, f.features = h.Session, h.Features
	f.session = f.l.codec.Session(f.mine, f.theirs)
	f.sameModel = h.Features&parcel.FeatureModel != 0 && h.Model == f.l.codec.ModelVersion()
	f.casts.told, f.casts.telling, f.casts.keys = 0, false, nil
	f.seen, f.seenBusy, f.seenMore = outbox.NewTold(), false, false
	f.eduDeaf.Store(false)
	f.session.UseModel(h.Features&parcel.FeatureModel != 0 && h.Model == f.l.codec.ModelVersion())
	f.session.UseVersion2(h.Features&parcel.FeatureVersion2 != 0)
	f.heard, f.lost, f.parts = 0, true, nil
	f.unread = f.carrier > 0
	clear(f.docs)
	clear(f.told)
	clear(f.ahead)
	clear(f.bodies)
	clear(f.serving)
	f.dropBodies()
	f.forget()
	f.audit.interrupted()
}

// greeted takes one part of where the far end stands.
func (f *far) greeted(w *way, h recon.Hello) {
	switch {
	case h.First == 0 && (f.parts == nil || f.parts.Session != h.Session):
		f.parts = &h
	case f.parts == nil || f.parts.Session != h.Session:
		return // the beginning was lost; it will be said again
	default:
		f.parts.Rooms = append(f.parts.Rooms, h.Rooms...)
	}
	if !h.Last {
		return
	}
	whole := *f.parts
	f.parts = nil
	f.starting++ // what is read from the feed now would be counted twice or not at all
	lost := f.lost || whole.Ack == 0
	f.lost = false
	gen := f.gen
	pulls := f.features&parcel.FeatureSketch != 0
	f.vector = outbox.VectorOf(whole)
	var others []recon.Vector
	for _, o := range f.l.fars {
		if o != f && o.active != nil && o.heard != 0 {
			others = append(others, o.vector)
		}
	}
	f.l.work(func(ctx context.Context) func() {
		err := f.feed.Start(ctx, whole, lost, pulls)
		ahead := errors.Is(err, outbox.ErrAhead)
		if ahead {
			err = nil
		}
		note, dropped, derr := f.l.out.Diverged(ctx, whole)
		behind, pull, perr := f.l.out.Behind(ctx, f.p, whole, others)
		derr = errors.Join(derr, perr)
		return func() {
			f.starting--
			if err != nil || derr != nil {
				if ctx.Err() == nil {
					f.l.log.Error("greeting could not be used", "peer", f.p.Server, "err", err, "compare", derr)
				}
				return
			}
			if f.gen != gen || f.closed {
				if f.session != nil && f.active != nil && !f.closed {
					f.begin(f.active)
				}
				return
			}
			for _, id := range dropped {
				f.l.log.Warn("same events, other state", "room", id, "peer", f.p.Server)
			}
			if lost {
				f.gen++
				f.items, f.edus, f.eduBusy = nil, nil, false
			}
			if pulls && behind > 0 {
				f.enqueue(parcel.Immediate, &parcel.Sketch{Body: pull.Append(nil)}, nil)
			}
			f.awaitPull(w)
			f.started(w, whole, note)
			f.auditGreeted(ahead, note.Heads)
		}
	})
}

// started goes on from where the far end stands.
func (f *far) started(w *way, h recon.Hello, note recon.Note) {
	f.heard, f.farEpoch = h.Session, h.Epoch
	f.more, f.edusDue = true, true
	if !note.Empty() {
		f.enqueue(parcel.Routine, &parcel.EDU{Type: eduNote, Content: note.Append(nil)}, nil)
	}
	if f.l.c.Statement != nil && h.FarSerial < f.ownSerial() {
		f.enqueue(parcel.Priority, &parcel.EDU{Type: eduStatement, Content: f.l.c.Statement()}, nil)
	}
	if h.Ack != f.said && time.Since(w.saidAt) > w.patience() {
		f.begin(w) // it does not go by what we said last
	}
	f.seenSoon()
	if f.active != nil {
		if others := f.company(f.active); len(others) > 0 {
			f.l.shareKey(f.active, append(others, f))
		}
	}
	f.watch()
	f.pump()
}

// enqueue adds a parcel to what waits.
func (f *far) enqueue(priority int, p parcel.Parcel, done func(arrived bool)) {
	f.queues[priority] = append(f.queues[priority], entry{p, done})
}
