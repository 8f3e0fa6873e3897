// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// Mail is talk over boxes in between. A greeting and its answer would take two journeys before the first text travels, so there is none:
// what is due follows from the far box's last receipts, and a message begins with all that is needed to read it:
//
//	memory(2) epoch(4) message
//
// memory names the writer's memory of names (a parcel.Session that only it writes with); a name stands alone only after the far box has
// answered for the message that explained it. Who cannot read a message, because it has forgotten that memory, says so (Bye, Lost, with
// its number), and the writer begins another one. epoch is that of the writer's EDUs.
const mailHead = 6

const (
	mailSize  = 4 << 10         // names explained once in a message need not be again in it; it travels in parts anyway
	mailKept  = 5 * time.Second // how long a receipt waits for company
	mailWant  = 10 * time.Minute
	askLife   = 30 * time.Minute   // of a request and of its answer
	talkLife  = 7 * 24 * time.Hour // of receipts, wants, notes: newer ones say the same
	mailHeard = 1                  // far.heard where nobody greets
)

// mail is what is remembered of the mail with one box. It belongs to the loop.
type mail struct {
	out      *parcel.Session // that we write with
	outID    uint16
	in       map[uint16]*parcel.Session // that the far box writes with
	order    []uint16                   // of in
	lost     map[uint16]time.Time       // when they were called forgotten
	epoch    uint32                     // of the far box's EDUs, in the message that is being read
	knows    bool                       // the far box has our greeting of this life
	model    bool                       // it has our text model
	features uint32                     // of the far box, by its last greeting
	heard    uint32                     // epoch of its last greeting

	near      bool     // a way was known when we looked last
	elsewhere []string // servers of neighbours that are nearer to the far box
	wants     map[event.ID]event.RoomID
	wantTimer *time.Timer
}

func (m *mail) stop() {
	if m.wantTimer != nil {
		m.wantTimer.Stop()
	}
}

// near says whether an answer may be here in minutes.
func (w *way) near() bool {
	if w.mail == nil {
		return true
	}
	_, _, near := w.mail.Outlook(w.addr)
	return near
}

// mayHear says whether the far box has a feature, as it has told by the way that carries.
func (f *far) mayHear(feature uint32) bool {
	if f.active != nil && f.active.mail != nil {
		return f.mail.features&feature != 0
	}
	return f.features&feature != 0
}

func (w *way) receiptsEvery() time.Duration {
	if w != nil && w.mail != nil {
		return 15 * time.Minute
	}
	return receiptsEvery
}

// talks says whether a way can be written on.
func (f *far) talks(w *way) bool { return w.mail != nil || f.session != nil && f.agreed }

// memory is the session that a way is written in.
func (f *far) memory(w *way) *parcel.Session {
	if w.mail == nil {
		return f.session
	}
	if f.mail.out == nil {
		f.mail.outID = uint16(draw())
		f.mail.out = f.l.codec.Session(uint32(f.mail.outID), uint32(f.mail.outID))
		f.mail.out.UseModel(f.mail.model)
	}
	return f.mail.out
}

// remembered says whether what did not arrive of a message should go again: after a new beginning of the conversation it would mean nothing.
// By mail there is no such beginning.
func (m *message) remembered() bool { return m.session == m.f.session || m.w.mail != nil }

// adjoin tells the relay whether the box is a neighbour.
func (f *far) adjoin() {
	relay := f.l.c.Relay
	if relay == nil {
		return
	}
	bps := 0
	talks := f.active != nil && f.talks(f.active)
	// A conversation that begins anew is no outage: the box stays a neighbour.
	if w := f.active; w != nil && w.mail == nil && (talks || f.carrier > 0) && f.features&parcel.FeatureRelay != 0 {
		if o, ok := w.t.(unsealed); !ok || !o.Open(w.addr) {
			bps = max(w.bps, 1)
		}
	}
	if bps != f.carrier || f.unread && talks {
		f.carrier, f.unread = bps, false
		relay.Neighbour(f.p.ID, bps)
	}
}

// wake lets a box be served.
func (l *Link) wake(id peer.ID) {
	if f := l.fars[id]; f != nil {
		f.pump()
	}
}

// relayed sends a message of what is carried for others; false when there is nothing or no room.
func (f *far) relayed(w *way, priority int) bool {
	if f.carrier == 0 || w.t.Free(w.addr, priority) <= 0 {
		return false
	}
	var parcels []parcel.Parcel
	m := &message{}
	for size := 0; size < w.limit() && len(parcels) < 64; {
		p, done := f.l.c.Relay.Next(f.p.ID, priority, w.limit()-size)
		if p == nil {
			break
		}
		parcels = append(parcels, p)
		m.entries = append(m.entries, entry{p, done})
		if s, ok := p.(*parcel.Sealed); ok {
			size += len(s.Body)
		}
		size += 12
	}
	if len(parcels) == 0 {
		return false
	}
	entries := m.entries
	m.entries = nil
	took, size := f.transmit(w, priority, m, parcels)
	m.entries = append(m.entries, entries[:took]...)
	if size == 0 {
		m.entries[0].done(true) // it cannot be written: not at once again
	}
	for _, e := range entries[took:] {
		e.done(false)
	}
	return true
}

// beginMail goes on by mail: from what the far box is known to keep.
func (f *far) beginMail(w *way) {
	f.l.log.Debug("goes by boxes in between", "peer", f.p.Server)
	f.starting++
	gen := f.gen
	f.l.work(func(ctx context.Context) func() {
		err := f.feed.Resume(ctx)
		return func() {
			f.starting--
			switch {
			case err != nil:
				if ctx.Err() == nil {
					f.l.log.Error("what a box lacks could not be read", "peer", f.p.Server, "err", err)
				}
				return
			case f.closed || f.active != w:
				return
			case f.gen != gen: // forgotten meanwhile
				f.beginMail(w)
				return
			}
			f.heard, f.more, f.edusDue = mailHeard, true, true
			f.watch()
			f.pump()
		}
	})
}

// mailOut posts a message. The first of a life brings a greeting along.
func (f *far) mailOut(w *way, priority int, m *message, parcels []parcel.Parcel, msg []byte, done func(error)) {
	life := lifeOf(parcels)
	if m.feed {
		life = 0
	}
	head := binary.BigEndian.AppendUint16(nil, f.mail.outID)
	head = binary.BigEndian.AppendUint32(head, f.l.out.Epoch())
	w.mail.Post(w.addr, priority, life, append(head, msg...), done)
	if !f.mail.knows {
		f.mail.knows = true
		f.greetByMail(w)
	}
	f.watch()
}

// lifeOf is for how long parcels are of use.
func lifeOf(parcels []parcel.Parcel) (life time.Duration) {
	for _, p := range parcels {
		switch p.Kind() {
		case parcel.KindEvent, parcel.KindKeys:
			return 0
		case parcel.KindRequest, parcel.KindResponse, parcel.KindChunk, parcel.KindSend:
			life = max(life, askLife)
		default:
			life = max(life, talkLife)
		}
	}
	return life
}

// greetByMail says who writes and where this box stands. Nothing waits for it: it mends what the far box believes if that is wrong.
func (f *far) greetByMail(w *way) {
	f.l.work(func(ctx context.Context) func() {
		h, err := f.l.out.Greeting(ctx, f.p)
		return func() {
			if err != nil || f.closed || f.active != w {
				f.mail.knows = false
				return
			}
			h.Session, h.Serial, h.FarSerial = draw(), f.ownSerial(), f.p.Serial
			f.enqueue(parcel.Routine, f.agreement(), func(bool) {})
			for _, part := range h.Split(32 << 10) {
				f.enqueue(parcel.Routine, &parcel.EDU{Type: eduHello, Content: part.Append(nil)}, func(bool) {})
			}
			f.pump()
		}
	})
}

// met takes the far box's word on what it can read.
func (m *mail) met(l *Link, h *parcel.Hello) {
	m.features = h.Features
	m.model = h.Features&parcel.FeatureModel != 0 && h.Model == l.codec.ModelVersion()
	if m.out != nil {
		m.out.UseModel(m.model)
	}
}

// greetedByMail takes where the far box stood when it wrote. It may be days old, so it moves cursors back only when the box speaks in an
// epoch that we did not know: then it has lost what it had.
func (f *far) greetedByMail(h recon.Hello) {
	fresh := f.mail.heard != 0 && f.mail.heard != h.Epoch && !slices.Contains(f.epochs, h.Epoch)
	f.mail.heard = h.Epoch
	if f.heard != mailHeard || f.active == nil || f.active.mail == nil {
		return // the direct way knows better
	}
	f.later(func(ctx context.Context) func() {
		err := f.feed.Raise(ctx, h, fresh)
		return func() {
			if err != nil && ctx.Err() == nil {
				f.l.log.Error("greeting could not be used", "peer", f.p.Server, "err", err)
			}
			f.eduReceipt()
			if fresh {
				f.mail.out = nil
				f.again()
			}
			if f.l.c.Statement != nil && h.FarSerial < f.ownSerial() {
				f.enqueue(parcel.Routine, &parcel.EDU{Type: eduStatement, Content: f.l.c.Statement()}, nil)
				f.pump()
			}
		}
	})
}

// maxMemories bounds how many memories of a far box are kept to read with: messages overtake each other.
const maxMemories = 3

// receivedMail takes one message from a far box.
func (l *Link) receivedMail(w *way, msg []byte) {
	f := w.far
	if f == nil || f.closed || len(msg) <= mailHead {
		return
	}
	id := binary.BigEndian.Uint16(msg)
	f.mail.epoch = binary.BigEndian.Uint32(msg[2:])
	f.feed.Speaks(f.mail.epoch)
	session := f.mail.in[id]
	if session == nil {
		session = l.codec.Session(uint32(id), uint32(id))
		if f.mail.in == nil {
			f.mail.in, f.mail.lost = map[uint16]*parcel.Session{}, map[uint16]time.Time{}
		}
		f.mail.in[id] = session
		f.eduDeaf.Store(false) // whoever begins a memory begins with what is not kept
		f.mail.order = append(f.mail.order, id)
		if len(f.mail.order) > maxMemories {
			delete(f.mail.in, f.mail.order[0])
			delete(f.mail.lost, f.mail.order[0])
			f.mail.order = f.mail.order[1:]
		}
	}
	parcels, err := session.Decode(msg[mailHead:])
	if err != nil {
		l.log.Warn("mail could not be read", "peer", f.p.Server, "bytes", len(msg), "err", err)
	}
	l.c.Observe(Event{What: "arrived", Peer: f.p, Transport: w.t.Name(), Bytes: len(msg)})
	for _, p := range parcels {
		switch p := p.(type) {
		case *parcel.Hello:
			l.hello(w, p)
		case *parcel.Broken:
			f.mailBroken(id, p)
		default:
			f.receive(w, p)
		}
	}
}

// lostAgain is how long a writer may take to hear that its memory is forgotten here.
const lostAgain = 10 * time.Minute

// mailBroken tells the writer that this box has forgotten what it refers to.
func (f *far) mailBroken(id uint16, p *parcel.Broken) {
	f.l.log.Debug("mail could not be read", "peer", f.p.Server, "kind", p.What, "err", p.Err)
	if !errors.Is(p.Err, parcel.ErrUnknown) {
		return
	}
	if p.What == parcel.KindEDU {
		f.missEDU()
	}
	f.mailLost(id)
}

// mailLost tells the writer that one of its memories is forgotten here.
func (f *far) mailLost(id uint16) {
	if told, ok := f.mail.lost[id]; ok && time.Since(told) < lostAgain {
		return
	}
	f.mail.lost[id] = time.Now()
	f.enqueue(parcel.Immediate, &parcel.Bye{Lost: true, Reason: strconv.Itoa(int(id))}, nil)
	f.pump()
}

// mailForgotten begins another memory: the far box has forgotten the one that we write with.
func (f *far) mailForgotten(p *parcel.Bye) {
	if !p.Lost || f.mail.out == nil || p.Reason != strconv.Itoa(int(f.mail.outID)) {
		return
	}
	f.mail.out, f.mail.knows = nil, false
	if f.active != nil && f.active.mail != nil {
		f.again()
	}
}

// mailWaits says whether mail is under way that has had no answer, or has not set out: then nothing is late yet.
func (f *far) mailWaits() bool {
	if f.active == nil || f.active.mail == nil {
		return false
	}
	waiting, _, _ := f.active.mail.Outlook(f.active.addr)
	return waiting > 0 || len(f.items) > 0 || len(f.edus) > 0 && !f.eduBusy
}

// mailPatience is how long after the far box has read a message its receipt may take. Where a way is known the receipt was lost with its bearer, or
// with a restart, long before the half of a day is over.
func (f *far) mailPatience(w *way) time.Duration {
	_, answer, near := w.mail.Outlook(w.addr)
	wait := min(max(15*time.Minute, 3*answer), 7*24*time.Hour) << min(f.stalls, 4)
	if near {
		return min(wait, 12*time.Hour)
	}
	return wait
}

// leaveToOthers finds out which neighbours are nearer to a far box than this one: what they have they send, by log, so that it
// travels once.
func (f *far) leaveToOthers(w *way) {
	if near := w.mail != nil && w.near(); near != f.mail.near {
		f.mail.near = near
		if near { // whoever waits for the box may try now
			f.l.c.Observe(Event{What: "carries", Peer: f.p, Transport: w.t.Name()})
			if f.stall != nil && f.stall.Stop() { // it was set for travellers
				f.stall, f.stalls = nil, 0
				f.watch()
			}
		}
	}
	var servers []string
	var nearer []peer.Peer
	if w.mail != nil {
		for _, o := range f.l.fars {
			if o != f && o.active != nil && o.active.mail == nil && o.agreed && w.mail.Nearer(o.p.ID, f.p.ID) {
				servers, nearer = append(servers, o.p.Server), append(nearer, o.p)
			}
		}
		slices.Sort(servers)
	}
	if slices.Equal(servers, f.mail.elsewhere) && f.feed.ByMail() == (w.mail != nil) {
		return
	}
	f.mail.elsewhere = servers
	f.feed.LeaveTo(nearer, w.mail != nil)
	f.touchAll()
}

// wantLater asks for ancestors when they have not come by themselves for a while: by mail, parcels overtake each other.
func (f *far) wantLater(room event.RoomID, ids []event.ID) {
	if f.mail.wants == nil {
		f.mail.wants = map[event.ID]event.RoomID{}
	}
	for _, id := range ids {
		if len(f.mail.wants) < maxEarly {
			f.mail.wants[id] = room
		}
	}
	if f.mail.wantTimer != nil {
		return
	}
	f.mail.wantTimer = f.l.after(mailWant, func() {
		f.mail.wantTimer = nil
		wants := f.mail.wants
		f.mail.wants = nil
		if !f.closed {
			f.later(func(ctx context.Context) func() { return f.stillWant(ctx, wants) })
		}
	})
}

func (f *far) stillWant(ctx context.Context, wants map[event.ID]event.RoomID) func() {
	lacks := map[event.RoomID][]event.ID{}
	err := f.l.c.DB.View(ctx, func(r *store.Read) error {
		for id, room := range wants {
			nid, err := r.EventNID(id)
			if err != nil {
				return err
			}
			if nid == 0 {
				lacks[room] = append(lacks[room], id)
			}
		}
		return nil
	})
	return func() {
		if err != nil && ctx.Err() == nil {
			f.l.log.Error("ancestors could not be looked for", "peer", f.p.Server, "err", err)
		}
		for room, ids := range lacks {
			slices.Sort(ids)
			f.enqueue(parcel.Priority, &parcel.Want{Room: room, IDs: ids}, nil)
		}
		f.pump()
	}
}

// pointless says that nobody waits for a request or its answer any more.
func (f *far) pointless(p parcel.Parcel) bool {
	switch p := p.(type) {
	case *parcel.Request:
		return f.asks[p.ID] == nil
	case *parcel.Send:
		return f.asks[p.ID] == nil
	case *parcel.Response:
		s := f.serving[p.ID]
		if p.Status == parcel.StatusWhole {
			return s != nil // it has come whole
		}
		return s == nil || s.response != nil && time.Since(s.at) > keepAnswers
	case *parcel.Chunk:
		if p.Answer {
			s := f.serving[p.ID]
			return s == nil || s.response != nil && time.Since(s.at) > keepAnswers
		}
		return f.asks[p.ID] == nil
	}
	return false
}
