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
	seen map[event.ID]*head
}

// open looks into the databases of the boxes, which are stopped.
func openGraphs(ctx context.Context, w *world) (out [2]*graph, err error) {
	for i, b := range w.boxes {
		db, err := store.Open(ctx, filepath.Join(b.Dir, "hallig.db"), store.Options{Reserve: -1})
		if err != nil {
			return out, fmt.Errorf("look into the database of %s: %w", b.Name, err)
		}
		out[i] = &graph{db: db, seen: map[event.ID]*head{}}
	}
	return out, nil
}

// head is what the judgement needs of an event; all empty when the box does not have it.
type head struct {
	Prev    []event.ID `json:"prev_events"`
	Auth    []event.ID `json:"auth_events"`
	Type    string     `json:"type"`
	Key     *string    `json:"state_key"`
	Sender  string     `json:"sender"`
	Content struct {
		Membership string `json:"membership"`
		JoinRule   string `json:"join_rule"`
	} `json:"content"`
	refused bool // by this box
}

// about says whether the event is the membership of somebody.
func (h *head) about(user string) bool {
	return h.Type == "m.room.member" && h.Key != nil && *h.Key == user
}

func (g *graph) head(r *store.Read, id event.ID) (*head, error) {
	if h := g.seen[id]; h != nil {
		return h, nil
	}
	row, err := r.Event(id)
	if err != nil {
		return nil, err
	}
	h := &head{}
	if row != nil {
		if err := json.Unmarshal(row.JSON, h); err != nil {
			return nil, err
		}
		h.refused = row.Flags&(store.Rejected|store.SoftFailed) != 0
	}
	g.seen[id] = h
	return h, nil
}

// ancestors are all events that lead to one.
func (g *graph) ancestors(r *store.Read, id event.ID) (map[event.ID]bool, error) {
	seen := map[event.ID]bool{}
	for todo := []event.ID{id}; len(todo) > 0; {
		h, err := g.head(r, todo[len(todo)-1])
		if err != nil {
			return nil, err
		}
		todo = todo[:len(todo)-1]
		for _, p := range h.Prev {
			if !seen[p] {
				seen[p] = true
				todo = append(todo, p)
			}
		}
	}
	return seen, nil
}

// cause is why a server does not show an event.
type cause int

const (
	lost     cause = iota
	barred         // by the law: the server refused it, and beside it stands what takes the sender's right
	staleLaw       // the central server made it under a law that it had itself followed by another: its state had fallen back
)

// explain says why a server does not show an acknowledged event. A server's word alone (refused is the central server's) is not believed: the graph must
// show what took the right away, for the event or for an event that it cites and that was refused as well.
func explain(ctx context.Context, graphs [2]*graph, a acked, server int, refused bool) (why string, c cause, err error) {
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
			maker := ""
			if a.server == centre {
				maker = event.UserID(a.sender).Server()
			}
			c, err = graphs[b].judge(r, event.RoomID(a.room), event.ID(a.id), maker, map[event.ID]bool{})
			if c == lost {
				why += " (but nothing in the graph takes the sender's right)"
			}
			return err
		})
		if err != nil || c != lost {
			return why, c, err
		}
	}
	return why, c, nil
}

// judge looks for what took the right away from an event, or from one of those that it cites and that are refused here too. central is the name of the
// central server when the event is of one of its users.
func (g *graph) judge(r *store.Read, room event.RoomID, id event.ID, central string, done map[event.ID]bool) (cause, error) {
	if done[id] {
		return lost, nil
	}
	done[id] = true
	h, err := g.head(r, id)
	if err != nil {
		return lost, err
	}
	if yes, err := g.beside(r, room, id, h); yes || err != nil {
		return barred, err
	}
	if yes, err := g.undone(r, room, h); yes || err != nil {
		return barred, err
	}
	if central != "" {
		if yes, err := g.staleChain(r, id, central, map[event.ID]bool{}); yes || err != nil {
			return staleLaw, err
		}
	}
	for _, au := range h.Auth {
		ah, err := g.head(r, au)
		if err != nil {
			return lost, err
		}
		if !ah.refused {
			continue
		}
		if c, err := g.judge(r, room, au, central, done); c != lost || err != nil {
			return c, err
		}
	}
	return lost, nil
}

// undone says whether the sender's join, which the event cites, was undone by state resolution: where branches of the graph met, a join rule that
// came after the join went before it, as the law has it for what changes powers, and forbade it.
func (g *graph) undone(r *store.Read, room event.RoomID, h *head) (bool, error) {
	changes, err := r.StateDeltas(room, 0, 1<<62)
	if err != nil {
		return false, err
	}
	for _, au := range h.Auth {
		ah, err := g.head(r, au)
		if err != nil {
			return false, err
		}
		if !ah.about(h.Sender) || ah.Content.Membership != "join" {
			continue
		}
		before, err := g.ancestors(r, au)
		if err != nil {
			return false, err
		}
		for _, fall := range changes { // the join gave way to one of its ancestors
			if fall.Type != "m.room.member" || fall.StateKey != h.Sender || fall.Event == 0 || fall.Old == 0 {
				continue
			}
			was, err := r.EventID(fall.Old)
			if err != nil {
				return false, err
			}
			is, err := r.EventID(fall.Event)
			if err != nil {
				return false, err
			}
			if was != au || !before[is] {
				continue
			}
			for _, rule := range changes { // at the very place where the join rule came in
				if rule.Pos != fall.Pos || rule.Type != "m.room.join_rules" || rule.Event == 0 {
					continue
				}
				id, err := r.EventID(rule.Event)
				if err != nil {
					return false, err
				}
				rh, err := g.head(r, id)
				if err != nil {
					return false, err
				}
				if !before[id] && rh.Content.JoinRule != "public" {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// staleChain says whether the central server made an event, or a membership that the event rests on, under state that it had itself followed by another.
func (g *graph) staleChain(r *store.Read, id event.ID, central string, done map[event.ID]bool) (bool, error) {
	if done[id] {
		return false, nil
	}
	done[id] = true
	h, err := g.head(r, id)
	if err != nil || event.UserID(h.Sender).Server() != central {
		return false, err
	}
	if yes, err := g.stale(r, id, h); yes || err != nil {
		return yes, err
	}
	for _, au := range h.Auth {
		ah, err := g.head(r, au)
		if err != nil {
			return false, err
		}
		if ah.Type != "m.room.member" {
			continue
		}
		if yes, err := g.staleChain(r, au, central, done); yes || err != nil {
			return yes, err
		}
	}
	return false, nil
}

// beside looks for a change of the sender's membership, of the power levels or, for a membership, of the join rule that is neither ancestor nor descendant of
// the event.
func (g *graph) beside(r *store.Read, room event.RoomID, id event.ID, h *head) (bool, error) {
	before, err := g.ancestors(r, id)
	if err != nil {
		return false, err
	}
	changes, err := r.StateDeltas(room, 0, 1<<62)
	if err != nil {
		return false, err
	}
	for _, d := range changes {
		law := d.Type == "m.room.power_levels" || d.Type == "m.room.join_rules" && h.Type == "m.room.member"
		if d.Event == 0 || !(law || d.Type == "m.room.member" && d.StateKey == h.Sender) {
			continue
		}
		other, err := r.EventID(d.Event)
		if err != nil {
			return false, err
		}
		if before[other] || other == id {
			continue
		}
		led, err := g.ancestors(r, other)
		if err != nil {
			return false, err
		}
		if !led[id] {
			return true, nil
		}
	}
	return false, nil
}

// stale says whether an event cites state that another event, which the box accepted and which leads to it, had followed.
func (g *graph) stale(r *store.Read, id event.ID, h *head) (bool, error) {
	before, err := g.ancestors(r, id)
	if err != nil {
		return false, err
	}
	for _, au := range h.Auth {
		ah, err := g.head(r, au)
		if err != nil {
			return false, err
		}
		if ah.Key == nil || ah.Type == "m.room.create" {
			continue
		}
		for later := range before {
			lh, err := g.head(r, later)
			if err != nil {
				return false, err
			}
			if later == au || lh.refused || lh.Key == nil || lh.Type != ah.Type || *lh.Key != *ah.Key {
				continue
			}
			led, err := g.ancestors(r, later)
			if err != nil {
				return false, err
			}
			if led[au] {
				return true, nil
			}
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
