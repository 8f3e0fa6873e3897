// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"fmt"
	"slices"

	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/recon"
)

func compared(rooms, differ int) string { return fmt.Sprintf("%d rooms, %d differ", rooms, differ) }

// giving is a sketch on its way out.
type giving struct {
	id     uint32
	room   recon.Room
	salt   recon.Salt
	set    *outbox.Set
	next   int  // symbols sent, or elements of the list
	list   bool // symbols did not suffice
	ended  bool // the far end has found the difference, or the list is out
	flying int
	wanted int // elements that the far end has called lacking

	window   []recon.Symbol // symbols from number from on, coded ahead
	from     int
	computes bool
}

// sketchAhead is how many parts may be on their way: one that arrives while the next one leaves keeps the line busy.
const sketchAhead = 2

// giveMore sends the next parts of a sketch.
func (f *far) giveMore(g *giving) {
	for f.audit.give == g && !g.ended && !g.computes && g.flying < sketchAhead && f.active != nil {
		s := recon.Sketch{ID: g.id, First: uint64(g.next), List: g.list, Salt: g.salt, Room: g.room, Size: uint64(len(g.set.Elements))}
		switch {
		case g.list:
			n := min(f.sketchPart()/8, len(g.set.Elements)-g.next)
			s.All = g.set.Elements[g.next : g.next+n]
			g.next += n
			s.Last = g.next == len(g.set.Elements)
			g.ended = s.Last
		case recon.ListInstead(g.next, len(g.set.Elements)):
			g.list, g.next, g.window = true, 0, nil
			continue
		default:
			n := min(max(16, g.next/96), f.sketchPart()/12, recon.MaxSymbols-g.next)
			if g.next+n > g.from+len(g.window) {
				f.code(g, n)
				return
			}
			s.Symbols = g.window[g.next-g.from : g.next-g.from+n]
			g.next += n
		}
		g.flying++
		f.enqueue(parcel.Bulk, &parcel.Sketch{Body: s.Append(nil)}, func(arrived bool) {
			g.flying--
			if f.audit.give != g {
				return
			}
			if !arrived { // the far end cannot go on without it: all begins again
				f.audit.interrupted()
				f.auditNext()
				return
			}
			if f.audit.ask != nil {
				f.auditPatience(f.audit.ask)
			}
			f.giveMore(g)
		})
	}
	f.pump()
}

// code codes symbols ahead, beside the loop.
func (f *far) code(g *giving, n int) {
	g.computes = true
	at := g.next
	f.l.work(func(context.Context) func() {
		window := recon.Symbols(g.set.Elements, at, windowOf(at, n))
		return func() {
			g.computes = false
			g.window, g.from = window, at
			f.giveMore(g)
		}
	})
}

// sketchFound takes what the far end has found: what it lacks is named to it.
func (f *far) sketchFound(p recon.Found) {
	a := &f.audit
	g, ask := a.give, a.ask
	if g == nil || p.ID != g.id || g.set == nil {
		return
	}
	g.ended = true
	if p.Failed {
		f.l.log.Warn("the far end could make nothing of a sketch; the next comparison tries again", "peer", f.p.Server, "room", g.set.Room)
	}
	more := p.More
	if g.wanted += len(p.Wants); g.wanted > len(g.set.Elements) { // nobody lacks more than there is: it asks for the same again and again
		f.l.log.Warn("the far end wants more of a sketch than is in it; the rest is dropped", "peer", f.p.Server, "room", g.set.Room, "elements", len(g.set.Elements))
		p.Wants, more = nil, false
	}
	f.name(g.set, p.Wants)
	if more {
		return
	}
	a.give = nil
	if ask != nil {
		f.sketchNext(ask)
	}
}

// name names events of a set to the far end.
func (f *far) name(set *outbox.Set, es []recon.Element) {
	if len(es) == 0 {
		return
	}
	f.l.work(func(ctx context.Context) func() {
		named, err := set.Haves(ctx, f.l.out, es, namesAtOnce)
		return func() {
			if err != nil || f.closed {
				f.auditFailed(nil, err)
				return
			}
			f.l.log.Info("naming events that the far end lacks", "peer", f.p.Server, "room", set.Room, "events", len(es))
			for _, n := range named {
				f.nameTo(n)
			}
			f.pump()
		}
	})
}

// taking is a sketch that comes in.
type taking struct {
	id     uint32
	salt   recon.Salt
	hold   recon.Holding
	parts  []recon.Sketch
	queued [2]int // symbols and elements that came
	last   bool   // the last part came
	busy   bool

	// The rest belongs to the work on it.
	set     *outbox.Set
	decoder recon.Decoder
	window  []recon.Symbol
	from    int
	list    []recon.Element
	failed  bool
	done    bool
	differ  []recon.Element
}

// takeSketch takes a part of a sketch. What was not audited, what comes out of turn and what is too much is dropped.
func (f *far) takeSketch(s recon.Sketch) {
	a := &f.audit
	if s.First == 0 && !s.List && a.answered != nil && a.answered.salt == s.Salt {
		if h, ok := a.answered.rooms[s.Room]; ok {
			delete(a.answered.rooms, s.Room) // each room once
			t := &taking{id: s.ID, salt: s.Salt, hold: h}
			a.take = t
			f.l.after(2*auditPatient, func() {
				if f.audit.take == t {
					f.audit.take = nil
				}
			})
		}
	}
	t := a.take
	if t == nil || t.id != s.ID || t.last || len(s.Symbols)+len(s.All) == 0 && !s.Last { // parts with nothing in them would not count
		return
	}
	t.last = s.Last
	t.queued[0] += len(s.Symbols)
	if t.queued[1] += len(s.All); t.queued[0] > recon.MaxSymbols || t.queued[1] > maxList {
		a.take = nil
		return
	}
	t.parts = append(t.parts, s)
	f.takeOn(t)
}

// maxList bounds a list.
const maxList = 1 << 20

// takeOn works on the parts that have come, beside the loop.
func (f *far) takeOn(t *taking) {
	if t.busy || len(t.parts) == 0 {
		return
	}
	t.busy = true
	parts := t.parts
	t.parts = nil
	f.l.work(func(ctx context.Context) func() {
		var err error
		if t.set == nil {
			t.set, err = f.l.out.SetOf(ctx, f.p, t.salt, t.hold)
		}
		for _, s := range parts {
			if err == nil && !t.done && !t.failed {
				t.add(s)
			}
		}
		return func() {
			t.busy = false
			if err != nil {
				f.auditFailed(nil, err)
			}
			switch {
			case f.audit.take != t || f.closed:
			case err != nil || t.failed:
				f.audit.take = nil
				f.l.log.Warn("a sketch could not be used", "peer", f.p.Server, "err", err)
				f.enqueue(parcel.Bulk, &parcel.Sketch{Body: recon.Found{ID: t.id, Failed: true}.Append(nil)}, nil)
				f.pump()
			case t.done:
				f.audit.take = nil
				f.tookSketch(t)
			default:
				f.takeOn(t)
			}
		}
	})
}

// add takes one part into account.
func (t *taking) add(s recon.Sketch) {
	if s.List {
		if int(s.First) != len(t.list) || len(s.All) == 0 && !s.Last || len(t.list) > 0 && len(s.All) > 0 && s.All[0] <= t.list[len(t.list)-1] {
			t.failed = true
			return
		}
		if t.list = append(t.list, s.All...); s.Last {
			t.done, t.differ = true, apart(t.set.Elements, t.list)
		}
		return
	}
	at, n := t.decoder.Len(), len(s.Symbols)
	if int(s.First) != at || at+n > recon.MaxSymbols {
		t.failed = true
		return
	}
	if at+n > t.from+len(t.window) {
		t.window, t.from = recon.Symbols(t.set.Elements, at, windowOf(at, n)), at
	}
	done, err := t.decoder.Add(s.Symbols, t.window[at-t.from:at-t.from+n])
	if done && err == nil {
		t.differ, err = t.decoder.Difference()
	}
	t.done, t.failed = done, err != nil
}

// apart is what is in one of two sorted lists alone.
func apart(a, b []recon.Element) (out []recon.Element) {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] < b[0]:
			out, a = append(out, a[0]), a[1:]
		case a[0] > b[0]:
			out, b = append(out, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return slices.Concat(out, a, b)
}

// tookSketch tells the giver what is found: it names what we lack, we name what it lacks.
func (f *far) tookSketch(t *taking) {
	here, wants := t.set.Split(t.differ)
	f.l.log.Info("difference found", "peer", f.p.Server, "room", t.set.Room, "symbols", t.decoder.Len(), "list", len(t.list), "here", len(here), "there", len(wants))
	f.l.c.Observe(Event{What: "differs", Peer: f.p, Room: t.set.Room, Note: fmt.Sprintf("%d here, %d there, %d symbols, list of %d", len(here), len(wants), t.decoder.Len(), len(t.list))})
	f.name(t.set, here)
	part := f.sketchPart() / 8
	for {
		n := min(part, len(wants))
		f.enqueue(parcel.Bulk, &parcel.Sketch{Body: recon.Found{ID: t.id, More: n < len(wants), Wants: wants[:n]}.Append(nil)}, nil)
		if wants = wants[n:]; len(wants) == 0 {
			break
		}
	}
	f.pump()
}
