// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// graph is a stopped box's database, asked for the graph of its rooms.
type graph struct {
	db   *store.DB
	prev map[event.ID][]event.ID
}

// open looks into the databases of the boxes, which are stopped.
func openGraphs(ctx context.Context, w *world) (out [2]*graph, err error) {
	for i, b := range w.boxes {
		db, err := store.Open(ctx, filepath.Join(b.Dir, "hallig.db"), store.Options{Reserve: -1})
		if err != nil {
			return out, fmt.Errorf("look into the database of %s: %w", b.Name, err)
		}
		out[i] = &graph{db: db, prev: map[event.ID][]event.ID{}}
	}
	return out, nil
}

// ancestors are all events that lead to one.
func (g *graph) ancestors(r *store.Read, id event.ID) (map[event.ID]bool, error) {
	seen := map[event.ID]bool{}
	for todo := []event.ID{id}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		prev, ok := g.prev[at]
		if !ok {
			row, err := r.Event(at)
			if err != nil {
				return nil, err
			}
			if row != nil {
				var head struct {
					Prev []event.ID `json:"prev_events"`
				}
				if err := json.Unmarshal(row.JSON, &head); err != nil {
					return nil, err
				}
				prev = head.Prev
			}
			g.prev[at] = prev
		}
		for _, p := range prev {
			if !seen[p] {
				seen[p] = true
				todo = append(todo, p)
			}
		}
	}
	return seen, nil
}

// explain says why a server does not show an acknowledged event, and whether the law bars it: the server says that it refused it (refused is the central
// server's word), and there is an event beside it (neither before nor after it) that takes the sender's right away. A server's word alone is not believed.
func explain(ctx context.Context, graphs [2]*graph, a acked, server int, refused bool) (why string, barred bool, err error) {
	boxes := []int{server}
	if server == centre {
		boxes = []int{0, 1}
	}
	why = "it is not there"
	for _, b := range boxes {
		err = graphs[b].db.View(ctx, func(r *store.Read) error {
			row, err := r.Event(event.ID(a.id))
			if row == nil || err != nil {
				return err
			}
			if row.Flags&(store.Rejected|store.SoftFailed) == 0 && !refused {
				why = fmt.Sprintf("box %d has accepted it", b)
				return nil
			}
			if why = row.Reason; why == "" {
				why = "the central server refused it"
			}
			if barred, err = graphs[b].beside(r, a); !barred {
				why += " (but nothing beside it takes the sender's right)"
			}
			return err
		})
		if err != nil || barred {
			return why, barred, err
		}
	}
	return why, false, nil
}

// beside looks for a change of the sender's membership or of the power levels that is neither ancestor nor descendant of the event.
func (g *graph) beside(r *store.Read, a acked) (bool, error) {
	before, err := g.ancestors(r, event.ID(a.id))
	if err != nil {
		return false, err
	}
	changes, err := r.StateDeltas(event.RoomID(a.room), 0, 1<<62)
	if err != nil {
		return false, err
	}
	for _, d := range changes {
		if d.Event == 0 || !(d.Type == "m.room.power_levels" || d.Type == "m.room.member" && d.StateKey == a.sender) {
			continue
		}
		id, err := r.EventID(d.Event)
		if err != nil {
			return false, err
		}
		if before[id] || id == event.ID(a.id) {
			continue
		}
		led, err := g.ancestors(r, id)
		if err != nil {
			return false, err
		}
		if !led[event.ID(a.id)] {
			return true, nil
		}
	}
	return false, nil
}

// fellBack says whether the boxes agree, and the central server holds an ancestor of what they hold: it has reset its state.
func (g *graph) fellBack(ctx context.Context, d difference) (back bool, err error) {
	if d.held[0] != d.held[1] || d.held[0] == "" || d.held[centre] == "" {
		return false, nil
	}
	err = g.db.View(ctx, func(r *store.Read) error {
		led, err := g.ancestors(r, event.ID(d.held[0]))
		back = led[event.ID(d.held[centre])]
		return err
	})
	return back, err
}
