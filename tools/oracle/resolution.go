// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"maps"
	"math"
	"math/big"
	"slices"
	"strings"
)

type idSet map[string]bool

func (s idSet) add(o idSet) { maps.Copy(s, o) }

// litResolver follows the words of the specification: first the definitions, then the algorithm.
// https://spec.matrix.org/v1.16/rooms/v12/#state-resolution
type litResolver struct {
	version int
	byID    func(string) *lit
	chains  map[string]idSet
}

// litResolve gives the resolution of a set of states. With within, the auth chains of power events are followed only inside the full
// conflicted set, as deployed servers do; the words of step 1 follow them outside as well. Since version 12 there is no outside: what
// lies between two members of the set is a member.
func litResolve(version int, states []map[skey]string, byID func(string) *lit, within bool) map[skey]string {
	r := &litResolver{version: version, byID: byID, chains: map[string]idSet{}}
	unconflicted, conflicted := r.split(states)
	if len(conflicted) == 0 {
		return unconflicted
	}
	full := r.fullConflicted(states, conflicted)

	// 1. Select the set X of all power events that appear in the full conflicted set. For each such power event P, enlarge X by adding the
	// events in the auth chain of P which also belong to the full conflicted set. Sort X using the reverse topological power ordering.
	x := idSet{}
	for id := range full {
		if litPowerful(r.byID(id)) {
			x[id] = true
			for a := range r.chain(id) {
				if full[a] && (!within || r.reaches(id, a, full)) {
					x[a] = true
				}
			}
		}
	}
	// 2. Apply the iterative auth checks algorithm, starting from the unconflicted state map (since version 12: from an empty state map), to
	// the list of events from the previous step to get a partially resolved state.
	state := map[skey]string{}
	if version < 12 {
		state = maps.Clone(unconflicted)
	}
	r.iterate(state, r.powerOrder(x))
	// 3. Take all remaining events that weren't picked in step 1 and order them by the mainline ordering based on the power level in the
	// partially resolved state obtained in step 2.
	var rest []string
	for id := range full {
		if !x[id] {
			rest = append(rest, id)
		}
	}
	r.mainlineOrder(rest, state[skey{"m.room.power_levels", ""}])
	// 4. Apply the iterative auth checks algorithm on the partial resolved state and the list of events from the previous step.
	r.iterate(state, rest)
	// 5. Update the result by replacing any event with the event with the same key from the unconflicted state map, if such an event exists.
	maps.Copy(state, unconflicted)
	return state
}

func (r *litResolver) split(states []map[skey]string) (unconflicted map[skey]string, conflicted idSet) {
	unconflicted, conflicted = map[skey]string{}, idSet{}
	for _, s := range states {
		for k, v := range s {
			everywhere := true
			for _, o := range states {
				w, ok := o[k]
				everywhere = everywhere && ok && w == v
			}
			if everywhere {
				unconflicted[k] = v
			} else {
				conflicted[v] = true
			}
		}
	}
	return unconflicted, conflicted
}

// chain is the auth chain of an event; events that nobody knows are in none.
func (r *litResolver) chain(id string) idSet {
	if c, ok := r.chains[id]; ok {
		return c
	}
	c := idSet{}
	for _, a := range r.auth(id) {
		c[a] = true
		c.add(r.chain(a))
	}
	r.chains[id] = c
	return c
}

func (r *litResolver) auth(id string) (known []string) {
	e := r.byID(id)
	if e == nil {
		return nil
	}
	for _, a := range e.auth {
		if r.byID(a) != nil {
			known = append(known, a)
		}
	}
	return known
}

func (r *litResolver) fullConflicted(states []map[skey]string, conflicted idSet) idSet {
	// The auth difference: the union of the full auth chains less their intersection.
	var full []idSet
	union := idSet{}
	for _, s := range states {
		c := idSet{}
		for _, id := range s {
			c.add(r.chain(id))
		}
		full = append(full, c)
		union.add(c)
	}
	set := idSet{}
	for id := range union {
		for _, c := range full {
			if !c[id] {
				set[id] = true
			}
		}
	}
	for id := range conflicted {
		if r.byID(id) != nil {
			set[id] = true
		}
	}
	// The conflicted state subgraph: the union of all paths between any pair of events in the conflicted state set (including endpoints).
	if r.version >= 12 {
		for from := range conflicted {
			for mid := range r.chain(from) {
				for to := range conflicted {
					if r.chain(mid)[to] {
						set[mid] = true
					}
				}
			}
		}
	}
	for id := range set { // only state events can be applied to a state
		if r.byID(id).key == nil {
			delete(set, id)
		}
	}
	return set
}

// reaches tells whether a path of auth events leads from one event to another without leaving the set.
func (r *litResolver) reaches(from, to string, set idSet) bool {
	for _, a := range r.auth(from) {
		if set[a] && (a == to || r.chain(a)[to] && r.reaches(a, to, set)) {
			return true
		}
	}
	return false
}

func litPowerful(e *lit) bool {
	if e.key == nil {
		return false
	}
	switch e.typ {
	case "m.room.power_levels", "m.room.join_rules":
		return true
	case "m.room.member":
		m := e.content["membership"]
		return (m == "leave" || m == "ban") && e.sender != *e.key
	}
	return false
}

// senderPower is the power level of the sender, when looking at the auth events.
func (r *litResolver) senderPower(e *lit) *big.Int {
	return litPower(func(k skey) *lit { return r.fromAuth(e, k, true) }, e.sender)
}

// fromAuth finds an auth event by its key. Since version 12 the create event is implied by the room id.
func (r *litResolver) fromAuth(e *lit, k skey, rejected bool) *lit {
	for _, id := range e.auth {
		if a := r.byID(id); a != nil && a.key != nil && a.typ == k.typ && *a.key == k.key && (rejected || !a.rejected) {
			return a
		}
	}
	if k.typ == "m.room.create" && r.version >= 12 {
		if c := r.byID("$" + e.room[1:]); c != nil && c.typ == "m.room.create" && (rejected || !c.rejected) {
			return c
		}
	}
	return nil
}

// before is the comparison relation x < y of the reverse topological power ordering.
func (r *litResolver) before(x, y *lit) bool {
	switch c := r.senderPower(x).Cmp(r.senderPower(y)); {
	case c != 0:
		return c > 0
	case x.ts != y.ts:
		return x.ts < y.ts
	}
	return x.id < y.id
}

// powerOrder is Kahn's algorithm: at each step the smallest of all candidate vertices.
func (r *litResolver) powerOrder(x idSet) (order []string) {
	left := maps.Clone(x)
	for len(left) > 0 {
		var next *lit
		for id := range left {
			candidate := true
			for _, a := range r.auth(id) {
				candidate = candidate && !left[a]
			}
			if e := r.byID(id); candidate && (next == nil || r.before(e, next)) {
				next = e
			}
		}
		order = append(order, next.id)
		delete(left, next.id)
	}
	return order
}

func (r *litResolver) powerLevelsOf(id string) string {
	if e := r.byID(id); e != nil {
		for _, a := range r.auth(id) {
			if p := r.byID(a); p.typ == "m.room.power_levels" && p.key != nil && *p.key == "" {
				return a
			}
		}
	}
	return ""
}

func (r *litResolver) mainlineOrder(ids []string, p string) {
	var mainline []string
	for ; p != ""; p = r.powerLevelsOf(p) {
		mainline = append(mainline, p)
	}
	position := map[string]int{}
	for _, id := range ids {
		position[id] = math.MaxInt
		for e := r.powerLevelsOf(id); e != ""; e = r.powerLevelsOf(e) {
			if i := slices.Index(mainline, e); i >= 0 {
				position[id] = i
				break
			}
		}
	}
	slices.SortFunc(ids, func(a, b string) int {
		x, y := r.byID(a), r.byID(b)
		switch {
		case position[a] != position[b]:
			if position[a] > position[b] {
				return -1
			}
			return 1
		case x.ts != y.ts:
			if x.ts < y.ts {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
}

// iterate is the iterative auth checks algorithm.
func (r *litResolver) iterate(state map[skey]string, order []string) {
	for _, id := range order {
		e := r.byID(id)
		held := func(k skey) *lit {
			if id, ok := state[k]; ok {
				if x := r.byID(id); x != nil {
					return x
				}
			}
			return r.fromAuth(e, k, false)
		}
		// Signatures were checked when the events were received, and are not checked again; but nobody signs for no server.
		if litAllowed(e, held, func(_ *lit, name string) bool { return name != "" }) == nil {
			state[skey{e.typ, *e.key}] = id
		}
	}
}
