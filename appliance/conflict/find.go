// SPDX-License-Identifier: EUPL-1.2

package conflict

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/herald"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// Bounds of what is read at once, and in all.
const (
	stepEvents  = 200  // events in one snapshot
	walkMost    = 1e5  // events of another branch
	changesMost = 5000 // changes of state since a fork
)

// finding is all that there is to tell of a room.
type finding struct {
	room    event.RoomID
	name    string
	own     []own
	fights  []fight
	unshown []store.Unshown
	barred  []store.Barred
	follows []store.Follow
	closed  *closed
	admins  map[string][]event.UserID // users of this box who may set a state type; "": who may put people out
}

// own are messages of a user of this box that others do not show.
type own struct {
	user event.UserID
	why  cause
	n    int
	last []excerpt // the newest, oldest first
}

// cause is the event by which they do not stand.
type cause struct {
	typ    string // "ban", "leave", "power", "barred": a server says that we are out; "": no single one is to blame
	server string // of "barred"
	by     event.UserID
	at     time.Time
	reason string
}

type excerpt struct {
	at   time.Time
	body string // "": encrypted, or no text
}

// fight is a state key that branches set to different values.
type fight struct {
	typ   string
	lost  []value
	holds value // by is "" when nothing holds
}

type value struct {
	by    event.UserID
	local bool // by is a user of this box
	at    time.Time
	text  words
}

func (f *finding) messages() (n int) {
	for _, o := range f.own {
		n += o.n
	}
	return n
}

// graph reads one room.
type graph struct {
	c       *Conflicts
	x       store.Conflict
	version *event.Version
	now     store.State
	thins   map[int64]*rules.Event
	pdus    map[int64]*event.PDU
}

func (c *Conflicts) find(ctx context.Context, x store.Conflict, now time.Time) (*finding, error) {
	f := &finding{room: x.Room, admins: make(map[string][]event.UserID)}
	g := &graph{c: c, x: x, thins: make(map[int64]*rules.Event), pdus: make(map[int64]*event.PDU)}
	var outs []store.StateDelta
	err := g.view(ctx, func(r *store.Read) error {
		row, err := r.Room(x.Room)
		if row == nil || err != nil {
			return err
		}
		v, ok := event.Lookup(row.Version)
		if !ok || row.Cur == 0 {
			return nil
		}
		g.version = v
		if g.now, err = r.Group(row.Cur); err != nil {
			return err
		}
		if f.name, err = nameOf(r, x.Room); err != nil {
			return err
		}
		if f.unshown, err = r.Unshown(x.Room, now.Add(-unshownIn).UnixMilli()); err != nil {
			return err
		}
		if f.barred, err = g.barred(r, now); err != nil {
			return err
		}
		if outs, err = g.outs(r); err != nil {
			return err
		}
		return g.fights(r, f)
	})
	if err != nil || g.version == nil {
		return f, err
	}
	if err := g.own(ctx, f, outs); err != nil {
		return nil, err
	}
	return f, g.view(ctx, func(r *store.Read) error { return g.whom(r, f) })
}

func (g *graph) view(ctx context.Context, f func(*store.Read) error) error {
	return g.c.c.DB.View(ctx, f)
}

// read gives an event in the law's form; nil when we do not have it or cannot read it.
func (g *graph) read(r *store.Read, nid int64) (*event.PDU, *rules.Event, error) {
	if nid == 0 {
		return nil, nil, nil
	}
	if p, ok := g.pdus[nid]; ok {
		return p, g.thins[nid], nil
	}
	e, err := r.EventByNID(nid)
	if e == nil || err != nil {
		return nil, nil, err
	}
	p, t := thin(g.version, e)
	g.pdus[nid], g.thins[nid] = p, t
	return p, t, nil
}

// state presents a state to the law. What goes wrong is kept in err.
func (g *graph) state(r *store.Read, s store.State, err *error) rules.State {
	return func(k rules.Key) *rules.Event {
		key, e := g.c.c.DB.FindStateKey(k.Type, k.StateKey)
		if e != nil || key == 0 {
			*err = e
			return nil
		}
		_, t, e := g.read(r, s.Find(key))
		if e != nil {
			*err = e
		}
		return t
	}
}

// outs lists the changes by which users of this box may have lost their say since the branches met: who was put out, and new power levels.
func (g *graph) outs(r *store.Read) (outs []store.StateDelta, err error) {
	all, err := r.StateDeltas(g.x.Room, g.x.Since-1, 1<<62)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		p, t, err := g.read(r, d.Event)
		if err != nil {
			return nil, err
		}
		switch {
		case d.Type == "m.room.power_levels" && p != nil && p.Sender.Server() != g.c.c.Server:
		case d.Type == "m.room.member" && event.UserID(d.StateKey).Server() == g.c.c.Server:
			if t != nil && t.Member != nil && (t.Member.Membership == "join" || string(t.Sender) == d.StateKey) {
				continue // came, or left by themselves
			}
		default:
			continue
		}
		outs = append(outs, d)
	}
	return outs, nil
}

// own finds the messages of our users that do not stand by what was changed elsewhere.
func (g *graph) own(ctx context.Context, f *finding, outs []store.StateDelta) error {
	counted := make(map[int64]bool)
	users := make(map[event.UserID]*own)
	slices.SortStableFunc(outs, func(a, b store.StateDelta) int { // who was put out is told so, whatever the power levels say
		return boolRank(a.Type == "m.room.power_levels") - boolRank(b.Type == "m.room.power_levels")
	})
	for _, d := range outs {
		if err := g.ownBy(ctx, f, d, counted, users); err != nil {
			return err
		}
	}
	for _, b := range f.barred {
		in := span{after: b.First - 1, to: b.Last, why: cause{typ: "barred", server: b.Server}}
		if err := g.count(ctx, in, counted, users); err != nil {
			return err
		}
	}
	for _, o := range users {
		f.own = append(f.own, *o)
	}
	slices.SortFunc(f.own, func(a, b own) int { return cmpText(a.user, b.user) })
	return nil
}

func (g *graph) ownBy(ctx context.Context, f *finding, d store.StateDelta, counted map[int64]bool, users map[event.UserID]*own) error {
	by := d.Event
	if by == 0 {
		by = g.x.Theirs // nothing says so: the rules of the other side no longer let them in
	}
	var why cause
	var state store.State
	only := event.UserID("")
	err := g.view(ctx, func(r *store.Read) error {
		row, err := r.EventByNID(by)
		if row == nil || err != nil {
			return err
		}
		if state = g.now; row.After != 0 {
			if state, err = r.Group(row.After); err != nil {
				return err
			}
		}
		p, t, err := g.read(r, by)
		if p == nil || err != nil {
			return err
		}
		why = cause{by: p.Sender, at: time.UnixMilli(p.TS)}
		switch {
		case d.Type == "m.room.power_levels":
			why.typ = "power"
		case t != nil && t.Member != nil && *p.StateKey == d.StateKey:
			only, why.typ, why.reason = event.UserID(d.StateKey), t.Member.Membership, herald.OneLine(text(p.Content, "reason"), 120)
		default:
			only, why.by = event.UserID(d.StateKey), ""
			state = g.now
		}
		return nil
	})
	if err != nil || state == nil {
		return err
	}
	base, err := g.known(ctx, by)
	if err != nil {
		return err
	}
	for _, b := range f.barred { // nobody gives what came before it, but its server has said what it does not show
		if base == 0 && b.Server == why.by.Server() {
			base = b.First - 1
		}
	}
	if base == 0 {
		return nil
	}
	return g.count(ctx, span{only, base, d.Pos, state, why}, counted, users) // what was written later knew of it
}

// span are messages of our users that may not stand.
type span struct {
	only      event.UserID // "": anybody's
	after, to int64        // positions
	state     store.State  // that refuses those which do not stand; nil: none of them does
	why       cause
}

// count finds those that do not stand.
func (g *graph) count(ctx context.Context, s span, counted map[int64]bool, users map[event.UserID]*own) error {
	for after := s.after; ; {
		n := 0
		err := g.view(ctx, func(r *store.Read) error {
			es, err := r.LocalBetween(g.x.Room, s.only, after, s.to, stepEvents)
			if err != nil {
				return err
			}
			n = len(es)
			for _, e := range es {
				after = e.Pos
				if counted[e.NID] {
					continue
				}
				body, lost, err := g.refused(r, e, s.state)
				if !lost {
					if err != nil {
						return err
					}
					continue
				}
				counted[e.NID] = true
				o := users[e.Sender]
				if o == nil {
					o = &own{user: e.Sender, why: s.why}
					users[e.Sender] = o
				}
				o.add(excerpt{time.UnixMilli(e.TS), body})
			}
			return nil
		})
		if err != nil || n < stepEvents {
			return err
		}
	}
}

// refused says whether an event is a message of which its writer should know that a state refuses it (nil: it does), and what it says.
func (g *graph) refused(r *store.Read, e *store.Event, state store.State) (body string, yes bool, err error) {
	if e.StateKey != nil || e.RedactedBy != 0 || e.Type == "m.room.redaction" || e.Type == "m.reaction" {
		return "", false, nil
	}
	p, t := thin(g.version, e)
	if t == nil || state != nil && rules.Allowed(t, g.state(r, state, &err)) == nil || err != nil {
		return "", false, err
	}
	return herald.OneLine(text(p.Content, "body"), 200), true, nil
}

// barred lists the servers that tell nothing of the room, unless people have just been told so.
func (g *graph) barred(r *store.Read, now time.Time) (due []store.Barred, err error) {
	all, err := r.BarredBy(g.x.Room)
	for _, b := range all {
		if now.UnixMilli()-b.Told >= barredIn.Milliseconds() {
			due = append(due, b)
		}
	}
	return due, err
}

func (o *own) add(x excerpt) {
	o.n++
	if o.last = append(o.last, x); len(o.last) > excerptsMost {
		o.last = o.last[1:]
	}
}

// known gives the position up to which an event knows what our users wrote: that of the newest event of ours which it descends from. Each of ours builds on all ends that
// were here, and so on all of ours before it. 0: no way leads to one, so nothing can be said.
func (g *graph) known(ctx context.Context, nid int64) (base int64, err error) {
	seen := make(map[event.ID]bool)
	var todo []event.ID
	err = g.view(ctx, func(r *store.Read) error {
		p, _, err := g.read(r, nid)
		if p != nil {
			todo = append(todo, p.Prev...)
		}
		return err
	})
	for err == nil && len(todo) > 0 {
		if len(seen) > walkMost {
			return 0, nil
		}
		err = g.view(ctx, func(r *store.Read) error {
			for range stepEvents {
				if len(todo) == 0 {
					return nil
				}
				id := todo[len(todo)-1]
				todo = todo[:len(todo)-1]
				if seen[id] {
					continue
				}
				seen[id] = true
				e, err := r.Event(id)
				if err != nil {
					return err
				}
				if e == nil || e.Room != g.x.Room || e.Pos < 0 {
					continue
				}
				if e.Is(store.Local) && e.Pos > 0 {
					base = max(base, e.Pos)
					continue
				}
				if p, err := event.ParseTrusted(g.version, e.ID, e.JSON); err == nil {
					todo = append(todo, p.Prev...)
				}
			}
			return nil
		})
	}
	return base, err
}

// text reads a string out of a content; "" when there is none.
func text(content json.RawMessage, field string) string {
	var m map[string]json.RawMessage
	var s string
	if json.Unmarshal(content, &m) != nil || json.Unmarshal(m[field], &s) != nil {
		return ""
	}
	return s
}

func boolRank(b bool) int {
	if b {
		return 1
	}
	return 0
}
