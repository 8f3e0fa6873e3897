// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"hallig/appliance/room"
	"hallig/sync/inbox"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// received takes one message from a transport.
func (l *Link) received(t Transport, addr string, msg []byte) {
	if b, ok := t.(Broadcaster); ok {
		if from, ok := b.ToAll(addr); ok {
			l.overheard(t, from, msg)
			return
		}
	}
	w := l.way(t, addr)
	f := w.far
	if w.mail != nil {
		l.receivedMail(w, msg)
		return
	}
	session := l.codec.Bare()
	if f != nil && f.session != nil {
		session = f.session
	}
	parcels, err := session.Decode(msg)
	if errors.Is(err, parcel.ErrSession) {
		// What it carried is lost here; a greeting tells the far end where we stand.
		l.log.Debug("message of another session", "transport", t.Name(), "bytes", len(msg))
		if f != nil && f.active != nil {
			f.strayed(w)
		}
		return
	}
	if err != nil {
		l.log.Warn("message could not be read", "transport", t.Name(), "bytes", len(msg), "err", err)
	}
	if f != nil && f.session != nil && !f.agreed && err == nil && msg[0] != 0 {
		f.agreed = true // who writes in this session holds it
		defer f.pump()
	}
	if f != nil {
		l.c.Observe(Event{What: "arrived", Peer: f.p, Transport: t.Name(), Bytes: len(msg)})
	}
	for _, p := range parcels {
		if h, ok := p.(*parcel.Hello); ok {
			l.hello(w, h)
			f = w.far
			continue
		}
		if f == nil || !w.proved || f.closed {
			continue // nobody that we know says anything but hello
		}
		f.receive(w, p)
	}
}

// strayed answers a message that we cannot read because we do not share the memory it was written with: the far end has
// not heard who we are now. Its greeting then starts from what we keep.
func (f *far) strayed(w *way) {
	if time.Since(w.saidAt) > w.patience()/2 {
		f.heard = 0
		f.lost = true
		f.begin(w)
	}
}

// receive takes one parcel of a far end that is proved.
func (f *far) receive(w *way, p parcel.Parcel) {
	switch p := p.(type) {
	case *parcel.Event:
		f.laterEvent(p)
	case *parcel.Notice:
		f.later(func(ctx context.Context) func() { return f.takeNotice(ctx, p) })
		if f.session != nil {
			if early := f.session.Early(p); early != nil {
				f.receive(w, early)
			}
		}
	case *parcel.EDU:
		f.receiveEDU(w, p)
	case *parcel.Kept:
		f.later(func(ctx context.Context) func() { return f.takeReceipt(ctx, p) })
	case *parcel.Seen:
		f.later(func(ctx context.Context) func() { return f.takeSeen(ctx, p) })
	case *parcel.Want:
		f.later(func(ctx context.Context) func() { return f.takeWant(ctx, p) })
	case *parcel.Request:
		f.serve(p)
	case *parcel.Send:
		f.takeSend(p)
	case *parcel.Response:
		f.answered(p)
	case *parcel.Chunk:
		f.chunk(p)
	case *parcel.Keys:
		if f.l.c.LearnKeys != nil {
			f.later(func(ctx context.Context) func() {
				if err := f.l.c.LearnKeys(ctx, f.p, p.Document); err != nil {
					f.l.log.Warn("key document refused", "peer", f.p.Server, "err", err)
				}
				return nil
			})
		}
	case *parcel.Sketch:
		f.receiveSketch(p)
	case *parcel.Sealed, *parcel.Forward:
		if f.l.c.Relay != nil && w.mail == nil {
			f.adjoin() // it must be known who says this
			f.l.c.Relay.Take(f.p.ID, p)
		}
	case *parcel.Bye:
		if w.mail != nil {
			f.mailForgotten(p)
			return
		}
		f.l.log.Info("far end says bye", "peer", f.p.Server, "lost", p.Lost)
		if p.Lost && f.active != nil {
			f.lost = true
			f.begin(f.active)
		}
	case *parcel.Broken:
		f.broken(p)
	}
}

// eduAgain is how long an EDU that could not be taken in waits: the disk is full, mostly.
const eduAgain = 30 * time.Second

// missEDU takes no more EDUs until the far end has begun again with the first that is not kept: the receipt is cumulative and the numbers have holes, so
// one that is taken behind a missing one would tell the far end that both are here. It may be called beside the loop.
func (f *far) missEDU() {
	f.eduDeaf.Store(true) // first: who sees the new turn sees this
	f.eduTurn.Add(1)
}

// broken asks again for what could not be read.
func (f *far) broken(p *parcel.Broken) {
	f.l.log.Debug("parcel could not be read", "peer", f.p.Server, "kind", p.What, "err", p.Err)
	if errors.Is(p.Err, parcel.ErrEarly) {
		return // its notice is under way; where that is lost, all comes again
	}
	if (p.What == parcel.KindEvent || p.What == parcel.KindSignature) && p.Log.Box != "" {
		f.enqueue(parcel.Immediate, &parcel.Want{Raw: true,
			Ranges: []parcel.Range{{Room: p.Room, Box: p.Log.Box, Epoch: p.Log.Epoch, From: p.Log.Seq, To: p.Log.Seq}}}, nil)
		f.pump()
		return
	}
	if !errors.Is(p.Err, parcel.ErrUnknown) || f.active == nil {
		return
	}
	if p.What == parcel.KindEDU {
		f.missEDU()
	}
	f.renew() // it refers to something we do not remember: the two memories differ
}

// renew has both ends begin a new session, with no memory of the old one.
func (f *far) renew() {
	switch {
	case f.closed || f.active == nil:
		return // the next greeting begins anew
	case f.active.mail != nil:
		if n := len(f.mail.order); n > 0 {
			f.mailLost(f.mail.order[n-1])
		}
		return
	}
	f.mine = draw()
	f.session, f.theirs, f.agreed = nil, 0, false
	f.heard, f.lost = 0, true
	f.forget()
	f.begin(f.active)
}

// coming is one thing that came and is not worked on yet: an event, or something else to do.
type coming struct {
	event *parcel.Event
	do    func(context.Context) func()
}

// later adds work on what came; one thing after the other, so that order stays.
func (f *far) later(do func(context.Context) func()) { f.work(coming{do: do}) }

func (f *far) laterEvent(e *parcel.Event) { f.work(coming{event: e}) }

func (f *far) work(c coming) {
	f.in = append(f.in, c)
	if !f.taking {
		f.taking = true
		f.workOn()
	}
}

func (f *far) workOn() {
	todo := f.in
	f.in = nil
	f.l.work(func(ctx context.Context) func() {
		var then []func()
		for len(todo) > 0 && ctx.Err() == nil {
			do := todo[0].do
			n := 1
			if todo[0].event != nil {
				var es []*parcel.Event
				for n = 0; n < len(todo) && n < maxTake && todo[n].event != nil; n++ {
					es = append(es, todo[n].event)
				}
				do = func(ctx context.Context) func() { return f.takeEvents(ctx, es) }
			}
			if t := do(ctx); t != nil {
				then = append(then, t)
			}
			todo = todo[n:]
		}
		return func() {
			for _, t := range then {
				t()
			}
			if len(f.in) > 0 && !f.closed {
				f.workOn()
				return
			}
			f.taking = false
		}
	})
}

// maxTake is how many events are taken in with one flush.
const maxTake = 64

func (f *far) takeEvents(ctx context.Context, es []*parcel.Event) func() {
	t, err := f.l.c.Inbox.Events(ctx, f.p, es)
	return func() {
		if err != nil && ctx.Err() == nil {
			f.l.log.Error("events could not be taken in; they will come again", "peer", f.p.Server, "events", len(es), "err", err)
		}
		transport := ""
		if f.active != nil {
			transport = f.active.t.Name()
		}
		f.taken(t, transport)
	}
}

// taken answers what came of events: a receipt, and wants for ancestors.
func (f *far) taken(t inbox.Taken, transport string) {
	for _, o := range t.Events {
		if o.Outcome != room.Duplicate {
			f.l.c.Observe(Event{What: "taken", Peer: f.p, Transport: transport, Event: o.Event, Room: o.Room, Note: o.Outcome.String()})
		}
		if o.Returned(f.l.c.Server) {
			f.l.returned()
		}
	}
	f.noteKept(t.Kept, 0)
	f.passOn(t.Kept)
	if len(t.Want) > 0 && f.active != nil && f.active.mail != nil {
		f.wantLater(t.Room, t.Want)
	} else if len(t.Want) > 0 {
		f.enqueue(parcel.Immediate, &parcel.Want{Room: t.Room, IDs: t.Want}, nil)
		f.pump()
	}
}

// passOn wakes the feeds of the other boxes: a place of a log may have been filled without a new event (we knew the event
// already), and what stood behind that hole can be passed on now. No commit tells of it.
func (f *far) passOn(logs []parcel.Vector) {
	for _, o := range f.l.fars {
		if o == f || len(logs) == 0 {
			continue
		}
		for _, v := range logs {
			o.feed.Touch(v.Room)
		}
		o.more = true
		o.pump()
	}
}

func (f *far) takeReceipt(ctx context.Context, k *parcel.Kept) func() {
	ids, err := f.feed.Kept(ctx, k)
	return func() {
		if err != nil && ctx.Err() == nil {
			f.l.log.Error("receipt could not be taken", "peer", f.p.Server, "err", err)
		}
		f.eduReceipt()
		for _, id := range ids {
			f.l.c.Observe(Event{What: "kept", Peer: f.p, Event: id})
		}
		if len(ids) > 0 {
			f.stalls = 0
			f.more = true
			f.l.moved(f)
		}
		f.watch()
		f.pump()
	}
}

func (f *far) takeWant(ctx context.Context, w *parcel.Want) func() {
	items, err := f.feed.Wanted(ctx, w)
	var docs [][]byte
	if f.l.c.KeyDocument != nil {
		seen := map[string]bool{f.l.c.Server: true, f.p.Server: true}
		for _, it := range items {
			server := it.Event.PDU.Sender.Server()
			if seen[server] {
				continue
			}
			seen[server] = true
			if doc := f.l.c.KeyDocument(ctx, server); doc != nil {
				docs = append(docs, doc)
			}
		}
	}
	return func() {
		if err != nil && ctx.Err() == nil {
			f.l.log.Error("want could not be answered", "peer", f.p.Server, "err", err)
		}
		for _, doc := range docs {
			if !f.docs[string(doc)] {
				f.docs[string(doc)] = true
				f.enqueue(parcel.Priority, &parcel.Keys{Document: doc}, nil)
			}
		}
		for _, it := range items {
			f.enqueue(it.Priority, it.Event, nil)
		}
		f.pump()
	}
}

func (f *far) receiveEDU(w *way, e *parcel.EDU) {
	if e.Seq != 0 {
		epoch := f.farEpoch
		if w.mail != nil {
			epoch = f.mail.epoch
		}
		turn := f.eduTurn.Load()
		if f.eduDeaf.Load() { // one before it is missing here: it comes again behind that one
			if n := len(f.mail.order); w.mail != nil && n > 0 {
				f.mailLost(f.mail.order[n-1])
			}
			return
		}
		f.later(func(ctx context.Context) func() {
			if turn != f.eduTurn.Load() {
				return nil
			}
			return f.takeEDU(ctx, epoch, e)
		})
		return
	}
	switch e.Type {
	case eduHello:
		h, err := recon.ParseHello(e.Content)
		if err != nil {
			f.l.log.Warn("greeting could not be read", "peer", f.p.Server, "err", err)
			return
		}
		if w.mail != nil {
			f.greetedByMail(h)
			return
		}
		f.farEpoch = h.Epoch
		f.noteEpoch(h.Epoch)
		f.greeted(w, h)
	case eduNote:
		n, err := recon.ParseNote(e.Content)
		if err != nil {
			f.l.log.Warn("note could not be read", "peer", f.p.Server, "err", err)
			return
		}
		f.later(func(ctx context.Context) func() { return f.takeNote(ctx, n) })
	case eduCast:
		f.castKey(w, e.Content)
	case eduStatement:
		p, err := peer.ReadStatement(e.Content)
		if err != nil || !bytes.Equal(p.BoxKey, f.p.BoxKey) {
			f.l.log.Warn("statement refused", "peer", f.p.Server, "err", err)
			return
		}
		if f.l.c.Learn != nil && p.Serial > f.p.Serial {
			f.later(func(context.Context) func() {
				f.l.c.Learn(p)
				return f.l.readRoster
			})
		}
	default:
		f.later(func(ctx context.Context) func() { return f.takeEDU(ctx, 0, e) })
	}
}

func (f *far) takeEDU(ctx context.Context, epoch uint32, e *parcel.EDU) func() {
	kept, err := f.l.c.Inbox.EDU(ctx, f.p, epoch, e)
	if err != nil && e.Seq != 0 {
		f.missEDU()
	}
	return func() {
		if err != nil && ctx.Err() == nil {
			f.l.log.Error("EDU could not be taken in", "peer", f.p.Server, "type", e.Type, "err", err)
			if e.Seq != 0 {
				f.l.after(eduAgain, f.renew)
			}
		}
		if kept > 0 {
			f.noteKept(nil, kept)
		}
	}
}

// noteEpoch notes in which epoch the far end speaks. A box leaves an epoch for ever when it is restored from a backup; whoever speaks in one that was
// left is the box from which the backup was made, and both are switched on.
func (f *far) noteEpoch(epoch uint32) {
	const kept = 8
	n := len(f.epochs)
	if n > 0 && f.epochs[n-1] == epoch {
		return
	}
	if slices.Contains(f.epochs, epoch) {
		if f.twin.IsZero() || time.Since(f.twin) > time.Hour {
			f.l.log.Warn("two boxes speak under one name and key: one was restored from a backup of the other; switch the old one off", "peer", f.p.Server)
		}
		f.twin = time.Now()
		f.epochs = slices.DeleteFunc(f.epochs, func(e uint32) bool { return e == epoch })
	}
	f.epochs = append(f.epochs, epoch)
	if len(f.epochs) > kept {
		f.epochs = f.epochs[1:]
	}
}

func (f *far) takeNote(ctx context.Context, n recon.Note) func() {
	resolve, err := f.l.out.Resolver(ctx, f.p)
	if err != nil {
		return func() { f.l.log.Error("note could not be used", "peer", f.p.Server, "err", err) }
	}
	resolve.Meet(n.Boxes)
	t, want, early, err := f.l.c.Inbox.Note(ctx, f.p, n, resolve.Log)
	var lacks []parcel.Want
	if err == nil {
		lacks, err = f.l.out.Lacking(ctx, n.Heads, resolve)
	}
	return func() {
		if err != nil && ctx.Err() == nil {
			f.l.log.Error("note could not be used", "peer", f.p.Server, "err", err)
		}
		early.Boxes = n.Boxes
		if len(early.Skips)+len(early.Haves) > 0 && len(f.early) < maxEarly {
			f.early = append(f.early, early)
		}
		f.noteKept(t.Kept, 0)
		f.passOn(t.Kept)
		if want != nil {
			f.enqueue(parcel.Priority, want, nil)
		}
		for _, w := range lacks {
			f.enqueue(parcel.Priority, &w, nil)
		}
		f.pump()
	}
}

// maxEarly bounds the notes about rooms that are not here yet.
const maxEarly = 64

// retryEarly looks again at notes about rooms that were not here.
func (f *far) retryEarly() {
	notes := f.early
	f.early = nil
	for _, n := range notes {
		f.later(func(ctx context.Context) func() { return f.takeNote(ctx, n) })
	}
}
