// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// graph is a room as both boxes hold it, judged anew by the letter of the law: each event under the state that its ancestors come to. Nothing that the boxes
// have decided, kept or resolved on their way is asked; only where a box was told a state, because ancestors are beyond its time, that state is taken.
type graph struct {
	room    event.RoomID
	version *event.Version
	boxes   [2]*store.Read
	seen    map[event.ID]*ruling // nil: neither box has it
	states  map[string]*state
	now     [2]*state // what the ends of each box's graph come to
}

// ruling is what the law says of an event.
type ruling struct {
	thin          *rules.Event
	denied        string // why it is rejected
	before, after *state // nil: its place is not known
}

// state is a room's state. Equal ones are the same.
type state struct {
	name string
	held map[rules.Key]event.ID
}

// openBoxes opens the databases of stopped boxes.
func openBoxes(ctx context.Context, dirs [2]string) (out [2]*store.DB, err error) {
	for i, dir := range dirs {
		if out[i], err = store.Open(ctx, filepath.Join(dir, "hallig.db"), store.Options{Reserve: -1}); err != nil {
			return out, fmt.Errorf("look into the database of box %d: %w", i, err)
		}
	}
	return out, nil
}

// withGraphs judges the rooms anew and shows them to f.
func withGraphs(ctx context.Context, dbs [2]*store.DB, rooms []string, f func(map[string]*graph) error) error {
	return dbs[0].View(ctx, func(r0 *store.Read) error {
		return dbs[1].View(ctx, func(r1 *store.Read) error {
			graphs := make(map[string]*graph, len(rooms))
			for _, id := range rooms {
				g, err := judgeRoom(event.RoomID(id), [2]*store.Read{r0, r1})
				if err != nil {
					return fmt.Errorf("judge the room %s: %w", id, err)
				}
				graphs[id] = g
			}
			return f(graphs)
		})
	})
}

func judgeRoom(id event.RoomID, boxes [2]*store.Read) (*graph, error) {
	g := &graph{room: id, boxes: boxes, seen: map[event.ID]*ruling{}, states: map[string]*state{}}
	for b, r := range boxes {
		row, err := r.Room(id)
		if row == nil || err != nil {
			return nil, errors.Join(err, fmt.Errorf("box %d does not hold it", b))
		}
		v, ok := event.Lookup(row.Version)
		if !ok {
			return nil, fmt.Errorf("version %s", row.Version)
		}
		g.version = v
	}
	for b, r := range boxes {
		tips, err := r.Tips(id)
		if err != nil {
			return nil, err
		}
		var ends []*state
		for _, t := range tips {
			rl, err := g.rule(t.ID)
			if err != nil {
				return nil, err
			}
			if rl.after == nil {
				return nil, fmt.Errorf("the place of %s, an end of the graph of box %d, is not known", t.ID, b)
			}
			ends = append(ends, rl.after)
		}
		if g.now[b], err = g.resolve(ends); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// row gives an event as one of the boxes holds it, rather one that knows its place.
func (g *graph) row(id event.ID) (best *store.Event, box int, err error) {
	for b, r := range g.boxes {
		row, err := r.Event(id)
		if err != nil {
			return nil, 0, err
		}
		if row != nil && (best == nil || best.Flags&(store.Outlier|store.Guessed) != 0) {
			best, box = row, b
		}
	}
	return best, box, nil
}

// rule judges an event after its ancestors and what authorises it; nil when neither box has it.
func (g *graph) rule(id event.ID) (*ruling, error) {
	if rl, known := g.seen[id]; known {
		return rl, nil
	}
	g.seen[id] = nil
	row, box, err := g.row(id)
	if row == nil || row.Room != g.room || err != nil {
		return nil, err
	}
	p, err := event.ParseTrusted(g.version, row.ID, row.JSON)
	if err != nil {
		return nil, err
	}
	rl := &ruling{}
	if rl.thin, err = rules.Thin(p); err != nil {
		rl.denied = err.Error()
		rl.thin = &rules.Event{ID: p.ID, Version: g.version, Room: p.RoomID, Sender: p.Sender, Type: p.Type, StateKey: p.StateKey, TS: p.TS, Depth: p.Depth, Prev: p.Prev, Auth: p.Auth}
	}
	if err := g.place(rl, row, box); err != nil {
		return nil, err
	}
	if rl.denied == "" {
		if rl.denied, err = g.authorise(rl); err != nil {
			return nil, err
		}
	}
	rl.thin.Rejected = rl.denied != ""
	if rl.after = rl.before; rl.before != nil && p.StateKey != nil && rl.denied == "" {
		held := maps.Clone(rl.before.held)
		held[rules.Key{Type: p.Type, StateKey: *p.StateKey}] = id
		rl.after = g.state(held)
	}
	g.seen[id] = rl
	return rl, nil
}

// place finds the state before an event.
func (g *graph) place(rl *ruling, row *store.Event, box int) error {
	var groups []*state
	for _, id := range rl.thin.Prev {
		prev, err := g.rule(id)
		if err != nil {
			return err
		}
		if prev == nil || prev.after == nil {
			return g.told(rl, row, box)
		}
		groups = append(groups, prev.after)
	}
	var err error
	rl.before, err = g.resolve(groups)
	return err
}

// told takes the state before an event that its box was given.
func (g *graph) told(rl *ruling, row *store.Event, box int) error {
	if row.Before == 0 || row.Flags&(store.Outlier|store.Guessed) != 0 {
		return nil
	}
	held, err := g.group(box, row.Before)
	if err != nil {
		return err
	}
	for _, id := range held {
		if _, err := g.rule(id); err != nil {
			return err
		}
	}
	rl.before = g.state(held)
	return nil
}

// group reads a state group of a box.
func (g *graph) group(box int, nid int64) (map[rules.Key]event.ID, error) {
	entries, err := g.boxes[box].Group(nid)
	if err != nil {
		return nil, err
	}
	held := make(map[rules.Key]event.ID, len(entries))
	for _, en := range entries {
		e, err := g.boxes[box].EventByNID(en.Event)
		if err != nil {
			return nil, err
		}
		held[rules.Key{Type: e.Type, StateKey: *e.StateKey}] = e.ID
	}
	return held, nil
}

func (g *graph) authorise(rl *ruling) (denied string, err error) {
	var auth []*rules.Event
	for _, id := range rl.thin.Auth {
		a, err := g.rule(id)
		if err != nil {
			return "", err
		}
		if a == nil {
			return "an authorising event is nowhere: " + string(id), nil
		}
		auth = append(auth, a.thin)
	}
	var create *rules.Event
	if g.version.CreateIsRoomID && rl.thin.Type != "m.room.create" {
		c, err := g.rule(event.ID("$" + string(g.room[1:])))
		if c == nil || err != nil {
			return "there is no create event", err
		}
		create = c.thin
	}
	if err := rules.CheckAuthEvents(rl.thin, auth, create); err != nil {
		return "authorising events: " + err.Error(), nil
	}
	if rl.before == nil {
		return "", nil
	}
	if err := rules.Allowed(rl.thin, g.under(rl.before)); err != nil {
		return "state before: " + err.Error(), nil
	}
	return "", nil
}

// under presents a state to the law. All its events are judged.
func (g *graph) under(s *state) rules.State {
	return func(k rules.Key) *rules.Event {
		if rl := g.seen[s.held[k]]; rl != nil {
			return rl.thin
		}
		return nil
	}
}

func (g *graph) state(held map[rules.Key]event.ID) *state {
	names := make([]string, 0, len(held))
	for k, id := range held {
		names = append(names, k.Type+"\x00"+k.StateKey+"\x00"+string(id))
	}
	slices.Sort(names)
	name := strings.Join(names, "\x01")
	if s := g.states[name]; s != nil {
		return s
	}
	s := &state{name: name, held: held}
	g.states[name] = s
	return s
}

func (g *graph) resolve(groups []*state) (*state, error) {
	if len(groups) == 0 {
		return g.state(map[rules.Key]event.ID{}), nil
	}
	sets := make([]map[rules.Key]event.ID, 0, len(groups))
	slices.SortFunc(groups, func(a, b *state) int { return strings.Compare(a.name, b.name) })
	groups = slices.Compact(groups)
	if len(groups) == 1 {
		return groups[0], nil
	}
	key := ""
	for _, s := range groups {
		sets = append(sets, s.held)
		key += s.name + "\x02"
	}
	if s := g.states[key]; s != nil {
		return s, nil
	}
	var failed error
	held, err := rules.Resolve(g.version, sets, func(id event.ID) *rules.Event {
		rl, err := g.rule(id)
		failed = errors.Join(failed, err)
		if rl == nil {
			return nil
		}
		return rl.thin
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	s := g.state(held)
	g.states[key] = s
	return s, nil
}

// faults lists where a box has decided otherwise than the law: about an event whose place it knows, or about the room's state.
func (g *graph) faults(box int) (out []string, err error) {
	for _, id := range slices.Sorted(maps.Keys(g.seen)) {
		row, err := g.boxes[box].Event(id)
		if err != nil {
			return nil, err
		}
		if row == nil || g.seen[id] == nil || row.Is(store.Outlier) || row.Is(store.Guessed) {
			continue
		}
		if denied := g.seen[id].denied; row.Is(store.Rejected) != (denied != "") {
			out = append(out, fmt.Sprintf("%s (%s of %s): the law says %q, the box %q", id, row.Type, row.Sender, denied, row.Reason))
		}
	}
	room, err := g.boxes[box].Room(g.room)
	if err != nil {
		return nil, err
	}
	held, err := g.group(box, room.Cur)
	if err != nil {
		return nil, err
	}
	for k, id := range g.now[box].held {
		if held[k] != id {
			out = append(out, fmt.Sprintf("%s|%s is held by %q, by the law by %q", k.Type, k.StateKey, held[k], id))
		}
	}
	if len(held) != len(g.now[box].held) {
		out = append(out, fmt.Sprintf("the state has %d events, by the law %d", len(held), len(g.now[box].held)))
	}
	return out, nil
}

// bars says whether the law takes the right away from an event that a server does not show: where it stands in the graph, under what the room has come to at a
// box, or where the branch of another event meets its own. The latter two are why a server does not show an event though it stands well in the graph (a soft
// failure). A box must have refused it, or have been given no occasion to by the other one, which refused it.
func (g *graph) bars(id event.ID, server int) (bool, error) {
	rl, err := g.rule(id)
	if rl == nil || err != nil || rl.denied != "" {
		return rl != nil && err == nil, err
	}
	if server != centre {
		refused := false
		for _, r := range g.boxes {
			row, err := r.Event(id)
			if err != nil {
				return false, err
			}
			refused = refused || row != nil && row.Flags&(store.Rejected|store.SoftFailed) != 0
		}
		if !refused {
			return false, nil
		}
	}
	for _, s := range g.now {
		if rules.Allowed(rl.thin, g.under(s)) != nil {
			return true, nil
		}
	}
	if rl.before == nil {
		return false, nil
	}
	tried := map[*state]bool{}
	for _, other := range g.seen {
		if other == nil || other.after == nil || other.after == other.before || tried[other.after] {
			continue
		}
		tried[other.after] = true
		if led, err := g.leads(id, other.thin.ID); led || err != nil {
			continue
		}
		met, err := g.resolve([]*state{rl.before, other.after})
		if err != nil {
			return false, err
		}
		if rules.Allowed(rl.thin, g.under(met)) != nil {
			return true, nil
		}
	}
	return false, nil
}

// leads says whether one event is an ancestor of another.
func (g *graph) leads(from, to event.ID) (bool, error) {
	seen := map[event.ID]bool{to: true}
	for todo := []event.ID{to}; len(todo) > 0; {
		rl := g.seen[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		if rl == nil {
			continue
		}
		for _, p := range rl.thin.Prev {
			if p == from {
				return true, nil
			}
			if !seen[p] {
				seen[p] = true
				todo = append(todo, p)
			}
		}
	}
	return false, nil
}

// holds says what the boxes that matter to a server have of an event.
func (g *graph) holds(id event.ID, server int) (string, error) {
	var out []string
	for b, r := range g.boxes {
		if server != centre && server != b {
			continue
		}
		row, err := r.Event(id)
		switch {
		case err != nil:
			return "", err
		case row == nil:
			out = append(out, fmt.Sprintf("box %d does not have it", b))
		case row.Flags&(store.Rejected|store.SoftFailed) != 0:
			out = append(out, fmt.Sprintf("box %d: %s (but nothing in the graph takes the sender's right)", b, row.Reason))
		default:
			out = append(out, fmt.Sprintf("box %d has accepted it", b))
		}
	}
	return strings.Join(out, ", "), nil
}
