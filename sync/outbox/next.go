// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/recon"
)

// Next gives up to limit items that the peer lacks and that are not under way, ancestors before children, and counts
// them as sent. Nothing means that nothing is due, or that as much is under way as may be.
func (f *Feed) Next(ctx context.Context, limit int) ([]Item, error) {
	f.mu.Lock()
	gen := f.gen
	if !f.carry {
		most := maxFlight + f.extra
		if f.pressing < parcel.Routine {
			most += maxFlight
		}
		limit = min(limit, most-f.flight)
	}
	if f.holding {
		limit = 0
	}
	rooms := f.rooms
	if limit > 0 {
		f.rooms, f.extra = nil, 0 // what is touched from now on is looked at again
	}
	f.mu.Unlock()
	if limit <= 0 {
		return nil, nil
	}
	rooms, err := f.urgentFirst(ctx, rooms)
	if err != nil {
		f.Touch(rooms...)
		return nil, err
	}
	var items []Item
	for len(rooms) > 0 && len(items) < limit {
		var more bool
		err := f.o.db.View(ctx, func(r *store.Read) error {
			got, left, err := f.room(r, rooms[0], limit-len(items))
			items, more = append(items, got...), left
			return err
		})
		if err != nil {
			f.Touch(rooms...)
			return nil, fmt.Errorf("read what %s lacks of %s: %w", f.p.ID.Short(), rooms[0], err)
		}
		if !more {
			rooms = rooms[1:]
		}
	}
	items = f.sent(gen, items, rooms)
	return items, f.press(ctx)
}

// sent counts items as under way, unless a Rewind came between.
func (f *Feed) sent(gen int, items []Item, rooms []event.RoomID) []Item {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if gen != f.gen {
		return nil
	}
	for _, id := range f.rooms {
		if !slices.Contains(rooms, id) {
			rooms = append(rooms, id)
		}
	}
	f.rooms = rooms
	for _, it := range items {
		c := f.cursors[it.log]
		c.sent = it.seq
		f.given[it.Room] = max(f.given[it.Room], it.nid)
		if f.carry {
			continue
		}
		c.flight = append(c.flight, flying{it.seq, it.ID, now})
		f.flight++
	}
	return items
}

// stream is one log on its way into the merge.
type stream struct {
	log     store.Log
	entries []store.LogEntry
	full    bool // there may be more entries than were read
	after   uint64
	skipTo  uint64 // places from after up to here are not for the peer
	hole    bool   // the next entry stands behind places that were not for this box
}

// room reads up to limit items of one room; more says that there may be others.
func (f *Feed) room(r *store.Read, id event.RoomID, limit int) (items []Item, more bool, err error) {
	due, err := f.due(r, id)
	if err != nil || due == nil {
		return nil, false, err
	}
	if err := f.o.judge.Know(r, id); err != nil {
		return nil, false, err
	}
	if kept, err := f.withheld(r, id); kept || err != nil {
		return nil, false, err
	}
	logs, err := r.Logs(id)
	if err != nil {
		return nil, false, err
	}
	heirs, err := f.heirs(r, id)
	if err != nil {
		return nil, false, err
	}
	f.mu.Lock()
	epoch, letters := f.epoch, f.carry || f.mail
	f.mu.Unlock()
	rush, err := f.rush(r, id)
	if err != nil {
		return nil, false, err
	}
	var streams []*stream
	for _, l := range logs {
		if l.Box == string(f.p.ID) && (l.Epoch == epoch || letters && epoch == 0) {
			continue // its own log: nobody knows it better. What it wrote before a restore it may have lost.
		}
		s := &stream{log: l, after: f.position(l.N)}
		if len(heirs) > 0 {
			if err := f.leave(r, s, due, heirs); err != nil {
				return nil, false, err
			}
		}
		if l.Top <= s.after {
			continue
		}
		if s.entries, err = r.LogEntries(l.N, s.after, limit+64); err != nil {
			return nil, false, err
		}
		s.full = len(s.entries) == limit+64
		streams = append(streams, s)
	}
	for len(items) < limit {
		best := (*stream)(nil)
		for _, s := range streams {
			if s.settle(due) && (best == nil || s.entries[0].Event < best.entries[0].Event) {
				best = s
			}
		}
		if best == nil {
			for _, s := range streams {
				more = more || s.full && len(s.entries) == 0
				if s.hole {
					f.before(id, s.log.N, s.after)
				}
			}
			return items, more && len(items) > 0, nil
		}
		nid := best.entries[0].Event
		it, err := f.item(r, id, best)
		if err != nil {
			return nil, false, err
		}
		it.nid = nid
		if x := rush.Of(nid); int(x.Level) < parcel.Routine {
			it.Priority, it.For, it.ForOwn = min(it.Priority, int(x.Level)), x.Event, x.Sender.Server() == f.o.server
		}
		items = append(items, it)
	}
	return items, true, nil
}

// position is up to where a log was sent, making a cursor for a log that is new.
func (f *Feed) position(log int64) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.cursors[log]
	if c == nil {
		c = &cursor{}
		f.cursors[log] = c
	}
	return c.sent
}

// dues says which of a room's events are the peer's business.
type dues struct {
	joined bool
	spans  []store.Span
	late   bool // the peer came into the room after us
}

func (f *Feed) due(r *store.Read, id event.RoomID) (*dues, error) { return duesOf(r, id, f.p.Server) }

// duesOf says which of a room's events are a server's business; nil: none.
func duesOf(r *store.Read, id event.RoomID, server string) (*dues, error) {
	n, err := r.JoinedOf(id, server)
	if err != nil {
		return nil, err
	}
	spans, err := r.Spans(server, id)
	if err != nil || n == 0 && len(spans) == 0 {
		return nil, err
	}
	return &dues{joined: n > 0, spans: spans, late: len(spans) > 0 && spans[0].First > 0}, nil
}

func (d *dues) holds(nid int64) bool {
	if len(d.spans) == 0 {
		return d.joined
	}
	for _, s := range d.spans {
		if s.Holds(nid) && (d.joined || s.Last != 0) {
			return true
		}
	}
	// State resolution may have brought the peer back without an event of its own: after its last stay it is in again.
	last := d.spans[len(d.spans)-1]
	return d.joined && last.Last != 0 && nid > last.Last
}

// in says whether the peer was in the room when an event was here already, or later.
func (d *dues) in(nid int64) bool {
	return d.joined || slices.ContainsFunc(d.spans, func(s store.Span) bool { return nid <= s.Last })
}

// settle moves the stream to its next entry that is for the peer; false when there is none.
func (s *stream) settle(d *dues) bool {
	at := max(s.after, s.skipTo)
	for len(s.entries) > 0 {
		e := s.entries[0]
		hole := e.Seq != at+1 || e.Event == 0
		if hole && !s.log.Own && !(d.late && at == s.after && s.after == 0) {
			s.entries, s.full, s.hole = nil, false, true // only its own box may say what is in the hole
			return false
		}
		if e.Event != 0 && d.holds(e.Event) {
			return true
		}
		at, s.skipTo = e.Seq, e.Seq
		s.entries = s.entries[1:]
	}
	return false
}

// item makes an item of the stream's first entry and moves on.
func (f *Feed) item(r *store.Read, id event.RoomID, s *stream) (Item, error) {
	e := s.entries[0]
	s.entries = s.entries[1:]
	it := Item{Room: id, Priority: parcel.Routine, Box: peerID(s.log.Box), log: s.log.N, epoch: s.log.Epoch, seq: e.Seq}
	if e.Seq-1 > s.after {
		it.Skip = reconRange(id, s.log, s.after, e.Seq-1)
	}
	s.after = e.Seq
	row, err := r.EventByNID(e.Event)
	if err != nil {
		return it, err
	}
	if row == nil {
		return it, fmt.Errorf("log entry %d/%d names event %d, which is not stored", s.log.N, e.Seq, e.Event)
	}
	it.ID = row.ID
	named := f.named(s.log, e.Seq, row)
	if !named || row.StateKey == nil { // who asks for a message that is named gets it as fast as it is urgent
		if it.Event, err = f.o.load(r, row); err != nil {
			return it, err
		}
		it.Event.Log = logRef(s.log, e.Seq)
		it.Priority = parcel.UrgencyOf(it.Event)
	}
	if named && it.Priority != parcel.Flash { // the whole of a flash costs less than the time of a question
		it.Event = nil
		it.Have = &recon.Have{Log: reconLog(id, s.log), Places: []recon.Place{{Seq: e.Seq, Event: recon.ShortOf(row.ID)}}}
	}
	return it, nil
}

// adopted recognises the join with which this box came into a room: some server there has it.
func adopted(seq uint64, row *store.Event) bool {
	return seq == 1 && row.Type == "m.room.member"
}

func logRef(l store.Log, seq uint64) parcel.LogRef {
	return parcel.LogRef{Box: peerID(l.Box), Epoch: l.Epoch, Seq: seq}
}

// maxWanted bounds one answer to a want.
const maxWanted = 200

// Wanted answers a peer that asks for events by id or by place, as far as it may see them.
func (f *Feed) Wanted(ctx context.Context, w *parcel.Want) ([]Item, error) {
	var items []Item
	err := f.o.db.View(ctx, func(r *store.Read) error {
		for _, id := range w.IDs {
			row, err := r.Event(id)
			if err != nil {
				return err
			}
			if row == nil || len(items) >= maxWanted {
				continue
			}
			if items, err = f.wanted(r, items, row, parcel.LogRef{}, w.Raw); err != nil {
				return err
			}
		}
		for _, g := range w.Ranges {
			var err error
			if items, err = f.wantedRange(r, items, g, w.Raw); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("answer want of %s: %w", f.p.ID.Short(), err)
	}
	return items, nil
}

func (f *Feed) wantedRange(r *store.Read, items []Item, g parcel.Range, raw bool) ([]Item, error) {
	l, ok, err := r.LogOf(g.Room, string(g.Box), g.Epoch)
	if !ok || err != nil || g.From == 0 {
		return items, err
	}
	entries, err := r.LogEntries(l.N, g.From-1, maxWanted)
	if err != nil {
		return items, err
	}
	for _, e := range entries {
		if e.Seq > g.To || len(items) >= maxWanted {
			break
		}
		if e.Event == 0 {
			continue
		}
		row, err := r.EventByNID(e.Event)
		if err != nil {
			return items, err
		}
		if row == nil {
			continue
		}
		if items, err = f.wanted(r, items, row, logRef(l, e.Seq), raw); err != nil {
			return items, err
		}
	}
	return items, nil
}

func (f *Feed) wanted(r *store.Read, items []Item, row *store.Event, at parcel.LogRef, raw bool) ([]Item, error) {
	ok, err := f.may(r, row)
	if !ok || err != nil {
		return items, err
	}
	e, err := f.o.load(r, row)
	if err != nil {
		return items, err
	}
	e.Log, e.Raw, e.Lift = at, raw, max(e.Lift, 1)
	return append(items, Item{Event: e, Room: row.Room, ID: row.ID, Priority: parcel.UrgencyOf(e)}), nil
}

// may says whether the peer's server may see an event: it is in the room or was when the event was here already, and a message from before its time
// only if the room shows its history. Whom the law has put out without an event that says so can find out by that.
func (f *Feed) may(r *store.Read, row *store.Event) (bool, error) {
	if kept, err := f.withheld(r, row.Room); kept || err != nil {
		return false, err
	}
	d, err := f.due(r, row.Room)
	if d == nil || err != nil {
		return false, err
	}
	if d.holds(row.NID) {
		return true, nil
	}
	if row.StateKey != nil || !d.in(row.NID) {
		return d.in(row.NID), nil
	}
	vis, err := r.CurrentStateEvent(row.Room, "m.room.history_visibility", "")
	if err != nil {
		return false, err
	}
	return vis == nil || historyShared(vis.JSON), nil
}
