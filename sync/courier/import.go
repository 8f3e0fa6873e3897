// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/sync/inbox"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// takeAtOnce is how many events go through the door with one flush.
const takeAtOnce = 256

// Import takes in what paired boxes have put on a stick for this one, and their receipts. It writes nothing to the stick. What cannot be read or does not
// verify is counted; an error means that the store or the context failed, and what was not taken in can be taken again.
func (c *Courier) Import(ctx context.Context, d Disk, note func(Progress)) (*Report, error) {
	if !c.busy.TryLock() {
		return nil, ErrBusy
	}
	defer c.busy.Unlock()
	if note == nil {
		note = func(Progress) {}
	}
	report := &Report{}
	c.questions.visited()
	clear(c.asks)
	for _, p := range c.c.Roster().All() {
		if err := c.importBox(ctx, d, p, report, note); err != nil {
			return report, fmt.Errorf("import of %s: %w", p.Server, err)
		}
	}
	report.Foreign = len(c.unknown(d))
	return report, c.strangers(ctx, d, report)
}

// importBox takes in what one box has for this one, in the order of its index.
func (c *Courier) importBox(ctx context.Context, d Disk, p peer.Peer, report *Report, note func(Progress)) error {
	x := readIndex(d, p.ID, report.note)
	if x == nil {
		return nil
	}
	box := BoxReport{Server: p.Server}
	defer func() { report.Boxes = append(report.Boxes, box) }()
	for i := 0; i < len(x.entries); i++ {
		it := &x.entries[i]
		if it.reader != c.self.Brief() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var known bool
		err := c.c.DB.View(ctx, func(r *store.Read) (err error) {
			known, err = r.TakenSegment(it.hash)
			return err
		})
		if err != nil {
			return err
		}
		if known {
			box.Known++
			continue
		}
		if it.kind == kindMedia {
			if c.c.KeepMedia == nil {
				continue
			}
			used, err := c.importFile(ctx, d, p, x.entries[i:], &box, report)
			if err != nil {
				return err
			}
			i += used - 1
			note(Progress{Step: "files", Box: p.Server, Events: box.Events + box.Again, Bytes: report.Bytes})
			continue
		}
		raw, err := readSegment(d, p.ID, it)
		if err != nil {
			report.note(it.name(p.ID), err)
			continue
		}
		report.Bytes += int64(len(raw))
		if err := c.open(ctx, p, it, raw, &box, report, it.name(p.ID)); err != nil {
			return err
		}
		note(Progress{Step: "import", Box: p.Server, Events: box.Events + box.Again, Bytes: report.Bytes})
	}
	return nil
}

// open takes in one segment, which must be of the kind that the index says.
func (c *Courier) open(ctx context.Context, p peer.Peer, it *entry, raw []byte, box *BoxReport, report *Report, name string) error {
	s, err := unseal(raw, c.c.Codec, c.id, c.self, p.ID)
	if err == nil && s.kind != it.kind {
		err = errMalformed
	}
	if err != nil {
		report.note(name, err)
		return nil
	}
	t := &taking{c: c, p: p, s: s, box: box, tops: map[logName]uint64{}}
	if err := t.run(ctx); err != nil {
		return err
	}
	box.Segments++
	for range t.bad {
		report.note(name, errParcel)
	}
	whole, err := t.whole(ctx)
	if err != nil {
		return err
	}
	if s.kind == kindSealed {
		return nil // read again as long as it lies there: who takes it knows it again
	}
	if !whole {
		box.Waiting++
		return nil
	}
	err = c.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.TakeSegment(it.hash, string(p.ID)) })
	if err != nil {
		return fmt.Errorf("note segment: %w", err)
	}
	return nil
}

// taking is one segment that is taken in.
type taking struct {
	c      *Courier
	p      peer.Peer
	s      *segment
	box    *BoxReport
	batch  []*parcel.Event
	tops   map[logName]uint64 // how far its events reach
	edus   uint64             // its last EDU
	behind bool               // EDUs before it are missing
	bad    int
	longer []parcel.Vector
	hello  *recon.Hello
}

func (t *taking) run(ctx context.Context) error {
	if t.s.kind == kindAsks {
		t.asks(ctx)
		return ctx.Err()
	}
	session := t.c.c.Codec.Session(t.s.nonce[1], t.s.nonce[0])
	for _, msg := range t.s.messages {
		parcels, err := session.Decode(msg)
		if err != nil {
			t.bad++
		}
		for _, p := range parcels {
			if err := t.take(ctx, p); err != nil {
				return err
			}
		}
	}
	if err := t.flush(ctx); err != nil {
		return err
	}
	if t.c.c.Longer != nil && len(t.longer) > 0 {
		t.c.c.Longer(t.p.ID, t.longer)
	}
	return nil
}

// take takes one parcel.
func (t *taking) take(ctx context.Context, p parcel.Parcel) error {
	if k := p.Kind(); t.s.kind == kindSealed && k != parcel.KindSealed { // it may be a stranger's: nothing else of it counts
		t.bad++
		return nil
	}
	if e, ok := p.(*parcel.Event); ok {
		t.batch = append(t.batch, e)
		if e.Log.Box != "" {
			n := logName{e.PDU.RoomID, e.Log.Box, e.Log.Epoch}
			t.tops[n] = max(t.tops[n], e.Log.Seq)
		}
		if len(t.batch) < takeAtOnce {
			return nil
		}
		return t.flush(ctx)
	}
	if err := t.flush(ctx); err != nil { // order stays
		return err
	}
	switch p := p.(type) {
	case *parcel.EDU:
		return t.edu(ctx, p)
	case *parcel.Keys:
		if t.c.c.LearnKeys != nil {
			if err := t.c.c.LearnKeys(ctx, t.p, p.Document); err != nil && ctx.Err() == nil {
				t.c.log.Warn("key document refused", "peer", t.p.Server, "err", err)
				t.bad++
			}
		}
	case *parcel.Want:
		if len(t.c.owed[t.p.ID]) < maxOwed {
			t.c.owed[t.p.ID] = append(t.c.owed[t.p.ID], p)
		}
	case *parcel.Broken:
		t.bad++
		if p.What == parcel.KindEvent && p.Log.Box != "" {
			t.ask(&parcel.Want{Raw: true, Ranges: []parcel.Range{{Room: p.Room, Box: p.Log.Box, Epoch: p.Log.Epoch, From: p.Log.Seq, To: p.Log.Seq}}})
		}
	case *parcel.Sealed:
		if t.c.c.Sealed != nil && t.s.kind == kindSealed {
			t.c.c.Sealed(t.p.ID, p)
			t.box.Carried++
		}
	default:
		t.bad++ // nothing else travels so
	}
	return nil
}

// maxOwed bounds what a box may ask for with one stick.
const maxOwed = 256

func (t *taking) ask(w *parcel.Want) {
	if len(t.c.asks[t.p.ID]) < maxOwed {
		t.c.asks[t.p.ID] = append(t.c.asks[t.p.ID], w)
	}
}

// flush hands the events that came to the inbox.
func (t *taking) flush(ctx context.Context) error {
	if len(t.batch) == 0 {
		return nil
	}
	got, err := t.c.c.Inbox.Events(ctx, t.p, t.batch)
	t.batch = t.batch[:0]
	if err != nil {
		return err
	}
	t.took(got)
	return nil
}

func (t *taking) took(got inbox.Taken) {
	var fresh []told
	for _, o := range got.Events {
		if t.c.c.Returned != nil && o.Returned(t.c.c.Server) {
			t.c.c.Returned()
		}
		switch o.Outcome {
		case room.Duplicate:
			t.box.Again++
			continue
		case room.Rejected:
			t.box.Refused++
		default:
			t.box.Events++
		}
		fresh = append(fresh, told{o.Room, o.Event, o.Outcome.String()})
	}
	t.c.observe("taken", t.p, fresh, 0)
	t.longer = append(t.longer, got.Kept...)
	if len(got.Want) > 0 {
		t.ask(&parcel.Want{Room: got.Room, IDs: slices.Clone(got.Want)})
	}
}

// edu takes one EDU: what the exchange itself says, or one of the queue.
func (t *taking) edu(ctx context.Context, e *parcel.EDU) error {
	if e.Seq != 0 {
		return t.queued(ctx, e)
	}
	switch e.Type {
	case eduHello:
		h, err := recon.ParseHello(e.Content)
		if err != nil || h.Epoch != t.s.epoch {
			t.bad++
			return nil
		}
		if t.hello == nil {
			t.hello = &h
		} else {
			t.hello.Rooms = append(t.hello.Rooms, h.Rooms...)
		}
		if h.Last {
			return t.heard(ctx)
		}
	case eduStatement:
		p, err := peer.ReadStatement(e.Content)
		if err != nil || !bytes.Equal(p.BoxKey, t.p.BoxKey) {
			t.bad++
			return nil
		}
		if t.c.c.Learn != nil && p.Serial > t.p.Serial {
			t.c.c.Learn(p)
		}
	case eduMedia:
		if !t.c.heardMedia(t.p.ID, e.Content) {
			t.bad++
		}
	case eduNote:
		n, err := recon.ParseNote(e.Content)
		if err != nil {
			t.bad++
			return nil
		}
		return t.note(ctx, n)
	default:
		t.bad++ // typing and presence do not travel so
	}
	return nil
}

// heard takes where the box stands.
func (t *taking) heard(ctx context.Context) error {
	k, fresh, err := t.c.c.Outbox.Heard(ctx, t.p, t.s.serial, *t.hello)
	if errors.Is(err, outbox.ErrAhead) {
		t.c.log.Warn("a box has more of our logs than we have: was this one set back to an earlier day?", "peer", t.p.Server)
		if err = nil; t.c.c.Ahead != nil {
			t.c.c.Ahead()
		}
	}
	if err != nil || !fresh {
		return err
	}
	t.box.Receipt = true
	if t.c.c.Receipt != nil {
		t.c.c.Receipt(t.p.ID, k)
	}
	return nil
}

// queued takes one EDU of the queue.
func (t *taking) queued(ctx context.Context, e *parcel.EDU) error {
	if t.edus == 0 && t.s.after > 0 {
		var kept uint64
		err := t.c.c.DB.View(ctx, func(r *store.Read) (err error) {
			kept, err = r.EDUsKept(string(t.p.ID), t.s.epoch)
			return err
		})
		if err != nil {
			return err
		}
		t.behind = kept < t.s.after
	}
	t.edus = max(t.edus, e.Seq)
	if t.behind {
		return nil
	}
	kept, err := t.c.c.Inbox.EDU(ctx, t.p, t.s.epoch, e)
	if err != nil && ctx.Err() == nil {
		var full *store.Full
		if errors.As(err, &full) {
			return err
		}
		t.c.log.Warn("EDU could not be taken in", "peer", t.p.Server, "type", e.Type, "err", err)
		t.behind = true // those after it must not overtake it
		t.bad++
		return nil
	}
	if kept == e.Seq {
		t.box.EDUs++
	}
	return err
}

// note takes what a box tells of its logs besides events.
func (t *taking) note(ctx context.Context, n recon.Note) error {
	resolve, err := t.c.c.Outbox.Resolver(ctx, t.p)
	if err != nil {
		return err
	}
	resolve.Meet(n.Boxes)
	got, want, _, err := t.c.c.Inbox.Note(ctx, t.p, n, resolve.Log)
	if err != nil {
		return err
	}
	t.longer = append(t.longer, got.Kept...)
	if want != nil {
		t.ask(want)
	}
	return nil
}

// whole says whether all that the segment brought is in the store.
func (t *taking) whole(ctx context.Context) (whole bool, err error) {
	whole = !t.behind && t.bad == 0
	err = t.c.c.DB.View(ctx, func(r *store.Read) error {
		for n, top := range t.tops {
			l, _, err := r.LogOf(n.room, string(n.box), n.epoch)
			if err != nil {
				return err
			}
			if l.Top < top {
				whole = false
			}
		}
		if t.edus > 0 {
			kept, err := r.EDUsKept(string(t.p.ID), t.s.epoch)
			whole = whole && kept >= t.edus
			return err
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("see what was taken in: %w", err)
	}
	return whole, nil
}
