// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// pump sends what the active way takes, the most urgent first: what waits in the queues, then EDUs, then events.
func (f *far) pump() {
	w := f.active
	if w == nil || f.closed || !f.talks(w) {
		return
	}
	if w.mail == nil && f.session != nil && f.session.Worn() && len(f.asks) == 0 && len(f.bodies) == 0 {
		f.renew() // it takes a greeting, and happens after thousands of names
		return
	}
	f.adjoin()
	f.ask()
	f.heraldFirst()
	f.read(w)
	for f.active == w && f.talks(w) {
		if !f.sendOne(w) {
			return
		}
	}
}

// sendOne sends one message; false when there is nothing or no room.
func (f *far) sendOne(w *way) bool {
	if f.sendFloor(w) {
		return true
	}
	for priority := range f.queues {
		if priority >= parcel.Routine && f.l.hushed(w) {
			return false
		}
		if len(f.queues[priority]) > 0 {
			if w.t.Free(w.addr, priority) <= 0 {
				return false // less urgent parcels would find no room either
			}
			f.sendQueued(w, priority)
			return true
		}
		if f.turn && f.relayed(w, priority) {
			f.turn = false
			return true
		}
		if f.heard == 0 {
			if f.relayed(w, priority) {
				return true
			}
			continue
		}
		if len(f.edus) > 0 && !f.eduBusy && priority == f.eduPriority() {
			if w.t.Free(w.addr, priority) <= 0 {
				return false
			}
			f.turn = true
			f.sendEDUs(w, priority)
			return true
		}
		if len(f.items) > 0 && f.items[0].Priority == priority && f.itemsDue(w) {
			if w.t.Free(w.addr, priority) <= 0 {
				return false
			}
			f.turn = true
			f.sendItems(w, priority)
			return true
		}
		if f.relayed(w, priority) {
			return true
		}
	}
	return false
}

// read fetches what the feed has, beside the loop.
func (f *far) read(w *way) {
	if f.heard == 0 || f.starting > 0 {
		return
	}
	f.leaveToOthers(w)
	if f.edusDue && len(f.edus) == 0 && !f.eduBusy && !f.eduReading {
		f.edusDue = false
		f.readEDUs(w)
	}
	if !f.more || f.reading || len(f.items) >= fewItems && !f.urgent && !f.pressed() {
		return
	}
	f.reading, f.more, f.urgent = true, false, false
	limit := 200
	if w.slow() {
		limit = 16
	}
	gen := f.gen
	f.l.work(func(ctx context.Context) func() {
		items, err := f.feed.Next(ctx, limit)
		return func() {
			if err != nil && ctx.Err() == nil {
				f.l.log.Error("what a peer lacks could not be read", "peer", f.p.Server, "err", err)
			}
			f.reading = false
			if f.closed {
				return
			}
			if err != nil {
				f.more = true // with what comes next
				return
			}
			if f.gen != gen { // Rewind or Start came between, and the feed may have given these after that
				f.feed.Return(items)
				f.more = true
				f.pump()
				return
			}
			f.items = append(f.items, items...)
			f.arrange()
			f.heraldNews()
			f.more = f.more || len(items) > 0
			f.auditStuck()
			f.watch()
			f.pump()
		}
	})
}

// readEDUs reads on in the queue, one reading at a time: the far end's receipt is cumulative, so nothing may be left out or overtaken.
func (f *far) readEDUs(w *way) {
	f.eduReading = true
	gen, slow := f.gen, w.slow()
	f.l.work(func(ctx context.Context) func() {
		edus, err := f.feed.NextEDUs(ctx, 50, !slow)
		return func() {
			if err != nil && ctx.Err() == nil {
				f.l.log.Error("EDUs could not be read", "peer", f.p.Server, "err", err)
			}
			f.eduReading = false
			switch {
			case f.closed:
				return
			case err != nil:
				f.edusDue = true // with what comes next
				return
			case f.gen != gen:
				// What was under way was taken back meanwhile. The feed may have given these after that: it must not go on behind them.
				f.feed.RewindEDUs()
				f.edusDue = true
			case len(edus) > 0:
				f.edus = edus
				f.edusDue = f.edusDue || len(edus) == 50
			}
			f.watch()
			f.pump()
		}
	})
}

// eduPriority: keys and other messages between devices go before the texts that need them, receipts with the rest, in the quiet after a flash raised: people wait for them.
func (f *far) eduPriority() int {
	if !f.onlyReceipts() || f.active != nil && f.l.hushed(f.active) {
		return parcel.Priority
	}
	return parcel.Bulk
}

// onlyReceipts says that what waits of EDUs is read receipts.
func (f *far) onlyReceipts() bool {
	return !slices.ContainsFunc(f.edus, func(e *parcel.EDU) bool { return e.Type != "m.receipt" })
}

// message is one message on its way.
type message struct {
	f        *far
	w        *way
	gen      int // the far's
	forgets  int // the far's: what it has taken back since is sent again anyway
	ticket   parcel.Ticket
	session  *parcel.Session
	priority int
	entries  []entry
	feed     bool // carries events or EDUs of the feed
	edus     bool
}

// transmit encodes parcels, as many as fit, and sends them; it says how many went.
func (f *far) transmit(w *way, priority int, m *message, parcels []parcel.Parcel) (took, size int) {
	if parcels = f.clearParcels(w, parcels); len(parcels) == 0 {
		f.l.log.Error("parcel is encrypted and must not go over open language; it is dropped here", "peer", f.p.Server, "transport", w.t.Name())
		return 1, 0
	}
	own := len(parcels)
	if k := f.takeKept(); k != nil { // a receipt rides along
		parcels = append(parcels, k)
	}
	session := f.memory(w)
	msg, took, ticket, err := session.Encode(w.limit(), parcels...)
	if took < len(parcels) && len(parcels) > own {
		f.giveBackKept(parcels[own].(*parcel.Kept))
	}
	if err != nil {
		f.l.log.Error("parcel could not be written and is dropped", "peer", f.p.Server, "kind", parcels[0].Kind(), "err", err)
		return min(1, own), 0
	}
	m.f, m.w, m.gen, m.forgets, m.ticket, m.session, m.priority = f, w, f.gen, f.forgets, ticket, session, priority
	if took > own {
		kept := parcels[own].(*parcel.Kept)
		m.entries = append(m.entries, entry{kept, func(arrived bool) {
			if !arrived {
				f.giveBackKept(kept)
			}
		}})
	}
	took = min(took, own)
	f.l.log.Debug("message sent", "peer", f.p.Server, "transport", w.t.Name(), "bytes", len(msg), "parcels", took, "first", parcels[0].Kind())
	as := priority
	if f.asIf > 0 {
		as = f.asIf
	}
	f.spend(w, priority, len(msg))
	f.casts.underway++
	done := func(err error) { f.l.post(func() { m.done(err) }) }
	if w.mail != nil {
		f.mailOut(w, priority, m, parcels[:took], msg, done)
	} else {
		w.t.Send(w.addr, as, msg, done)
	}
	return took, len(msg)
}

// done takes what the transport says of a message.
func (m *message) done(err error) {
	f := m.f
	f.casts.underway--
	f.l.castPump(f)
	if f.closed {
		return
	}
	if err == nil && m.remembered() {
		m.session.Arrived(m.ticket)
	}
	for _, e := range m.entries {
		switch {
		case e.done != nil:
			e.done(err == nil)
		case err != nil && m.remembered(): // wants, answers to wants: twice does no harm
			f.queues[m.priority] = append(f.queues[m.priority], e)
		}
	}
	if err != nil {
		f.l.log.Debug("message did not arrive", "peer", f.p.Server, "transport", m.w.t.Name(), "err", err)
		f.forgetNotices()
		if m.feed && m.forgets == f.forgets { // whether it arrived is not known: all that is not kept goes again
			f.again()
		}
		if m.w == f.active { // it gave up one message, not the way: try again, but not at once
			f.l.after(m.w.patience()/8, f.pump)
		}
		return
	}
	if m.edus && m.gen == f.gen && m.w.mail == nil {
		f.eduBusy = false
	}
	f.pump()
}

// eduReceipt lets the next EDUs go when the far end keeps those before. By mail the far box has answered for a message before it has worked on
// it, and it may restart in between: what followed would then stand for what was lost, as receipts of EDUs are cumulative.
func (f *far) eduReceipt() {
	if f.eduBusy && f.feed.EDUsKept() >= f.eduTo {
		f.eduBusy = false
	}
}

// again sends everything anew that is not kept.
func (f *far) again() {
	f.forget()
	f.mail.out = nil // whether the far end remembers it is not known either
	f.touchAll()
}

func (f *far) touchAll() {
	f.l.work(func(ctx context.Context) func() {
		err := f.feed.TouchAll(ctx)
		return func() {
			if err != nil && ctx.Err() == nil {
				f.l.log.Error("rooms of a peer could not be read", "peer", f.p.Server, "err", err)
			}
			f.more = true
			f.pump()
		}
	})
}

func (f *far) sendQueued(w *way, priority int) {
	q := f.queues[priority]
	parcels := make([]parcel.Parcel, 0, min(len(q), 64))
	for _, e := range q[:min(len(q), 64)] {
		parcels = append(parcels, e.p)
	}
	m := &message{}
	took, _ := f.transmit(w, priority, m, parcels)
	m.entries = append(m.entries, q[:took]...)
	f.queues[priority] = q[took:]
}

func (f *far) sendEDUs(w *way, priority int) {
	if w.slow() && f.onlyReceipts() && f.holdReceipts() {
		f.edus = nil
		return
	}
	parcels := make([]parcel.Parcel, len(f.edus))
	for i, e := range f.edus {
		parcels[i] = e
	}
	m := &message{feed: true, edus: true}
	f.eduBusy = true
	took, size := f.transmit(w, priority, m, parcels)
	if size == 0 {
		f.eduBusy = false // nothing is under way
	} else {
		f.eduTo = f.edus[took-1].Seq
	}
	f.edus = f.edus[took:]
}

// receiptsEvery is how often receipts alone may use a slow line.
const receiptsEvery = time.Minute

// holdReceipts puts receipts off, so that newer ones can take their place, when others went shortly before.
func (f *far) holdReceipts() bool {
	wait := f.active.receiptsEvery() - time.Since(f.eduReceipts)
	if f.eduLate || f.eduReceipts.IsZero() || wait <= 0 {
		f.eduLate, f.eduReceipts = false, time.Now()
		return false
	}
	f.feed.RewindEDUs()
	if f.eduHold == nil {
		f.eduHold = f.l.after(wait, func() {
			f.eduHold = nil
			f.eduLate, f.edusDue = true, true
			f.pump()
		})
	}
	return true
}

// sendItems sends events and notes about logs, in order, as many of one priority as fit into a message.
func (f *far) sendItems(w *way, priority int) {
	var batch []outbox.Item
	for _, it := range f.items {
		if it.Priority != priority || len(batch) == 64 {
			break
		}
		batch = append(batch, it)
	}
	if f.together(w, priority, batch) {
		return
	}
	tells, telling := nameOf(batch[0])
	telling = telling && w.slow() && w.mail == nil && !f.told[tells]
	parcels, ends := f.itemParcels(batch)
	m := &message{feed: true}
	took, size := f.transmit(w, priority, m, parcels)
	if took < len(parcels) {
		clear(f.met) // the introduction may be in what did not fit
	}
	n := 0
	for n < len(ends) && ends[n] <= took {
		n++
	}
	if n == 0 && took > 0 {
		f.items[0].Skip = nil // the note went ahead of its event
		return
	}
	n = max(n, 1) // what cannot be written is left out; it will be missed, and logged again, after a stall
	if telling {
		f.telling = true
		session := f.session
		m.entries = append(m.entries, entry{nil, func(arrived bool) {
			f.telling = false
			if arrived && f.session == session {
				f.told[tells] = true
			}
		}})
	}
	for _, it := range batch[:n] {
		delete(f.ahead, it.ID)
		if it.ID != "" && it.Event != nil {
			f.l.c.Observe(Event{What: "sent", Peer: f.p, Transport: w.t.Name(), Event: it.ID, Room: it.Room, Bytes: size / n})
		}
	}
	if took > 0 {
		f.feed.Left(outbox.Places(nil).With(batch[:n]), w.t.Name())
	}
	f.items = f.items[n:]
	if len(f.items) == 0 {
		f.notesDue = false
	}
	f.read(w)
}

// fewItems is how many read items do without reading more; notesEvery is how long names of events that the far end
// probably has wait on a slow line for others.
const (
	fewItems   = 8
	notesEvery = 15 * time.Second
)

// naming is what an event's parcel has to explain in full until a message with it has arrived: some sixty bytes.
type naming struct {
	room   event.RoomID
	log    peer.ID
	sender event.UserID
}

func nameOf(it outbox.Item) (naming, bool) {
	if it.Event == nil {
		return naming{}, false
	}
	return naming{it.Room, it.Box, it.Event.PDU.Sender}, true
}

// itemsDue says whether the items should go now. On a slow line the first event of a room or a user goes alone: those
// that wait until its names are known there are shorter by more than the wait costs.
func (f *far) itemsDue(w *way) bool {
	if len(f.items) > 0 && f.items[0].Priority <= parcel.Immediate {
		return true // it does not wait to become shorter
	}
	if w.mail != nil {
		return true
	}
	if f.telling && w.slow() || f.awaitOthers(w) {
		return false
	}
	if !w.slow() || len(f.items) >= fewItems || f.notesDue {
		return true
	}
	for _, it := range f.items {
		if it.Event != nil {
			return true
		}
	}
	if f.noteTimer == nil {
		f.noteTimer = f.l.after(notesEvery, func() {
			f.noteTimer = nil
			f.notesDue = true
			f.pump()
		})
	}
	return false
}

// itemParcels makes parcels of items; ends says behind how many parcels each item is complete.
func (f *far) itemParcels(items []outbox.Item) (parcels []parcel.Parcel, ends []int) {
	var note recon.Note
	flush := func() {
		if !note.Empty() {
			parcels = append(parcels, &parcel.EDU{Type: eduNote, Content: note.Append(nil)})
			note = recon.Note{}
		}
	}
	for i, it := range items {
		if it.Skip != nil || it.Have != nil {
			f.introduce(&note, it.Box)
		}
		if it.Skip != nil {
			note.Skips = append(note.Skips, *it.Skip)
		}
		if it.Have != nil {
			addHave(&note, *it.Have)
		}
		if it.Event != nil || i == len(items)-1 {
			flush()
		}
		if it.Event != nil {
			parcels = append(parcels, f.asSent(it.Event))
		}
		ends = append(ends, len(parcels))
		if !note.Empty() {
			ends[i]++ // complete with the note that follows
		}
	}
	return parcels, ends
}

// introduce names a box in full that the far end may never have met, the first time in a greeting's life.
func (f *far) introduce(n *recon.Note, id peer.ID) {
	key, err := id.Key()
	if id == f.l.self || id == f.p.ID || f.met[id] || err != nil {
		return
	}
	f.met[id] = true
	n.Boxes = append(n.Boxes, [32]byte(key))
}

// addHave joins places of one log that follow each other.
func addHave(n *recon.Note, h recon.Have) {
	for i := range n.Haves {
		if n.Haves[i].Log == h.Log {
			n.Haves[i].Places = append(n.Haves[i].Places, h.Places...)
			return
		}
	}
	n.Haves = append(n.Haves, h)
}

// watch sends again what is long under way without a receipt: the far end may have had no room to hold it.
func (f *far) watch() {
	if f.stall != nil || f.active == nil {
		return
	}
	if n, _ := f.feed.Flight(); n == 0 {
		f.stalls = 0
		return
	}
	wait := 10 * time.Second
	if f.active.slow() {
		wait = 4 * time.Minute
	}
	wait = min(wait<<min(f.stalls, 6), max(wait, 10*time.Minute))
	if f.active.mail != nil {
		wait = f.mailPatience(f.active)
	}
	gen := f.gen
	f.stall = f.l.after(wait, func() {
		f.stall = nil
		if f.closed {
			return
		}
		if f.gen != gen {
			f.watch()
			return
		}
		n, oldest := f.feed.Flight()
		if f.mailWaits() {
			f.watch() // the transport says when it has waited in vain
			return
		}
		switch {
		case n == 0:
			f.stalls = 0
		case time.Since(oldest) >= wait:
			f.stalls++
			f.l.log.Info("no receipt; sending again", "peer", f.p.Server, "events", n)
			f.again()
		default:
			f.watch()
		}
	})
}

// keptDelay is how long a receipt waits for something to ride on.
func (w *way) keptDelay() time.Duration {
	if w.mail != nil {
		return mailKept
	}
	if w.slow() { // a second at 1200 bit/s: what comes meanwhile costs as much as the receipt
		return min(max(1200*time.Second/time.Duration(max(w.bps, 1)), 300*time.Millisecond), 3*time.Second)
	}
	return 20 * time.Millisecond
}

// noteKept adds to the receipts that are due.
func (f *far) noteKept(vectors []parcel.Vector, edus uint64) {
	for _, v := range vectors {
		n := logName{v.Room, v.Box, v.Epoch}
		if old, ok := f.kept[n]; !ok || old.Upto < v.Upto {
			f.kept[n] = v
		}
	}
	f.keptEDUs = max(f.keptEDUs, edus)
	if f.keptTimer != nil || f.active == nil || len(f.kept) == 0 && f.keptEDUs == 0 {
		return
	}
	f.keptTimer = f.l.after(f.active.keptDelay(), func() {
		f.keptTimer = nil
		if k := f.takeKept(); k != nil && !f.closed {
			urgency := parcel.Routine
			if f.active != nil && f.l.hushed(f.active) {
				urgency = parcel.Priority // who sent the flash waits for it
			}
			f.enqueue(urgency, k, func(arrived bool) {
				if !arrived {
					f.giveBackKept(k)
				}
			})
			f.pump()
		}
	})
}

// takeKept takes the receipts that are due, to be sent.
func (f *far) takeKept() *parcel.Kept {
	if len(f.kept) == 0 && f.keptEDUs == 0 {
		return nil
	}
	k := &parcel.Kept{EDUs: f.keptEDUs}
	for n, v := range f.kept {
		if len(k.Vectors) == 200 {
			break
		}
		k.Vectors = append(k.Vectors, v)
		delete(f.kept, n)
	}
	f.keptEDUs = 0
	return k
}

// giveBackKept takes a receipt back that did not go or did not arrive.
func (f *far) giveBackKept(k *parcel.Kept) {
	if !f.closed {
		f.noteKept(k.Vectors, k.EDUs)
	}
}
