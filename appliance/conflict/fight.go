// SPDX-License-Identifier: EUPL-1.2

package conflict

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// lost gives the values of a key of which nobody knew when they set another one, and that do not hold: the ends of the fork but one. before tells of each value
// since the branches met, and of those in force here then and now, which one it took the place of; 0: of none.
func lost(holds int64, before map[int64]int64) (ends []int64) {
	replaced := make(map[int64]bool)
	for _, prev := range before {
		replaced[prev] = true
	}
	for nid := range before {
		if nid != holds && !replaced[nid] {
			ends = append(ends, nid)
		}
	}
	slices.Sort(ends)
	return ends
}

// fights finds the keys that branches set to different values.
func (g *graph) fights(r *store.Read, f *finding) error {
	ours, err := r.Group(g.x.Ours)
	if err != nil {
		return err
	}
	es, err := r.StateSince(g.x.Room, g.x.Since, changesMost)
	if err != nil {
		return err
	}
	keys := make(map[int64]map[int64]int64)
	note := func(key int64, nids ...int64) error {
		if keys[key] == nil {
			keys[key] = make(map[int64]int64)
			nids = append(nids, ours.Find(key), g.now.Find(key))
		}
		for _, nid := range nids {
			if err := trace(r, keys[key], key, nid); err != nil {
				return err
			}
		}
		return nil
	}
	for _, e := range es {
		if !contested[e.Type] || *e.StateKey != "" {
			continue
		}
		key, err := g.c.c.DB.FindStateKey(e.Type, "")
		if err != nil {
			return err
		}
		if err := note(key, e.NID); err != nil {
			return err
		}
	}
	for _, d := range ours.Diff(g.now) { // what nobody else has set, and does not hold all the same
		typ, sk, err := g.c.c.DB.StateKeyText(d.Key)
		if err != nil {
			return err
		}
		if contested[typ] && sk == "" {
			if err := note(d.Key); err != nil {
				return err
			}
		}
	}
	for key, before := range keys {
		if err := g.fight(r, f, ours, key, before); err != nil {
			return err
		}
	}
	slices.SortFunc(f.fights, func(a, b fight) int { return cmp.Compare(a.typ, b.typ) })
	return nil
}

// trace adds a value of a key.
func trace(r *store.Read, before map[int64]int64, key, nid int64) error {
	if nid == 0 {
		return nil
	}
	e, err := r.EventByNID(nid)
	if e == nil || err != nil {
		return err
	}
	s, err := r.Group(e.Before)
	if err == nil {
		before[nid] = s.Find(key)
	}
	return err
}

func (g *graph) fight(r *store.Read, f *finding, ours store.State, key int64, before map[int64]int64) error {
	typ, _, err := g.c.c.DB.StateKeyText(key)
	if err != nil {
		return err
	}
	holds := g.now.Find(key)
	h, _, err := g.read(r, holds)
	if err != nil {
		return err
	}
	var losers []*event.PDU
	for _, nid := range lost(holds, before) {
		p, _, err := g.read(r, nid)
		if err != nil {
			return err
		}
		if p != nil && (h == nil || !bytes.Equal(p.Content, h.Content)) {
			losers = append(losers, p)
		}
	}
	if typ == "m.room.tombstone" && h != nil && (ours.Find(key) != holds || len(losers) > 0) {
		f.closed = closedBy(h, losers)
	}
	if len(losers) == 0 {
		return nil
	}
	x := fight{typ: typ}
	for _, p := range losers {
		x.lost = append(x.lost, g.valueOf(p, h))
	}
	if h != nil {
		x.holds = g.valueOf(h, losers[0])
	}
	f.fights = append(f.fights, x)
	return nil
}

// valueOf tells a value as people say it; of power levels, only what other has otherwise.
func (g *graph) valueOf(p, other *event.PDU) value {
	return value{by: p.Sender, local: p.Sender.Server() == g.c.c.Server, at: time.UnixMilli(p.TS), text: describe(p, other)}
}

func cmpText[T ~string](a, b T) int { return cmp.Compare(a, b) }
