// SPDX-License-Identifier: EUPL-1.2

package rules

import (
	"maps"

	"hallig/appliance/event"
)

// split parts what all sets agree on from the events they do not; the latter are listed for each set.
func split(sets []map[Key]event.ID) (agreed map[Key]event.ID, apart [][]event.ID) {
	if len(sets) == 0 {
		return make(map[Key]event.ID), nil
	}
	agreed = make(map[Key]event.ID, len(sets[0]))
	maps.Copy(agreed, sets[0])
	apart = make([][]event.ID, len(sets))
	met := make([]int, len(sets)) // how many keys of the first set each has
	for k, id := range sets[0] {
		same := true
		for i, s := range sets {
			other, ok := s[k]
			if ok {
				met[i]++
			}
			same = same && other == id
		}
		if same {
			continue
		}
		delete(agreed, k)
		for i, s := range sets {
			if id, ok := s[k]; ok {
				apart[i] = append(apart[i], id)
			}
		}
	}
	for i, s := range sets {
		if met[i] == len(s) {
			continue
		}
		for k, id := range s {
			if _, ok := sets[0][k]; !ok {
				apart[i] = append(apart[i], id)
			}
		}
	}
	return agreed, apart
}

// fullConflict gives the full conflicted set: conflicted events, the auth difference, and in 2.1 the conflicted subgraph. Only
// state events take part, as nothing else can become state.
func (r *resolver) fullConflict(apart [][]event.ID) []*node {
	reached := r.chains(apart)
	if r.v.StateRes == 21 {
		r.subgraph()
	}
	var open []*node // in some chain, not in all as far as is known
	for n, in := range reached {
		if !n.conflict && !n.sub && in < len(apart) {
			n.open = true
			open = append(open, n)
		}
	}
	r.markCommon(open)
	var full []*node
	for _, n := range r.nodes {
		if n == nil || n.e.StateKey == nil {
			continue
		}
		if n.full = n.conflict || n.sub || n.open && !n.common; n.full {
			full = append(full, n)
		}
	}
	return full
}

// chains tells for each event that the auth chains of conflicted events reach, from how many sets' conflicted events it is reached.
func (r *resolver) chains(apart [][]event.ID) map[*node]int {
	reached := make(map[*node]int)
	for i, ids := range apart {
		var from []*node
		for _, id := range ids {
			if n := r.node(id); n != nil {
				n.conflict = true
				from = append(from, n)
			}
		}
		r.walk(from, func(n *node) bool {
			if n.seen == i+1 {
				return false
			}
			n.seen = i + 1
			reached[n]++
			return true
		})
	}
	return reached
}

// markCommon marks those of open that the unconflicted state's auth chains reach: as all sets share these, such events are in every
// chain and in no difference. It stops when all are marked; power levels and join rules lead there fastest. Else it looks at each event
// of the unconflicted state, however big the room: only that proves that none of them reaches an event. What it looks at beyond
// the first steps is marked already as a rule, so it costs a look at the ids of its auth events.
func (r *resolver) markCommon(open []*node) {
	left := len(open)
	mark := func(n *node) bool {
		if n.common {
			return false
		}
		n.common = true
		if n.open {
			left--
		}
		return left > 0
	}
	var fresh []*node
	from := func(id event.ID) {
		var e *Event
		if n, ok := r.nodes[id]; !ok {
			e = r.load(id)
		} else if n != nil {
			e = n.e
		}
		if e == nil {
			return
		}
		fresh = fresh[:0]
		for _, a := range e.Auth {
			if n := r.node(a); n != nil && mark(n) {
				fresh = append(fresh, n)
			}
		}
		r.walk(fresh, mark)
	}
	quick := []Key{{Type: typePower}, {Type: typeJoinRules}}
	for _, n := range open {
		quick = append(quick, Key{typeMember, string(n.e.Sender)})
	}
	for _, k := range quick {
		if id, ok := r.agreed[k]; ok && left > 0 {
			from(id)
		}
	}
	if left == 0 {
		return
	}
	for _, id := range r.agreed {
		if from(id); left == 0 {
			return
		}
	}
}

// subgraph marks all events on paths from one conflicted event to another. It goes through the chains of conflicted events in depth-first
// post-order, so that each event is judged after its auth events.
func (r *resolver) subgraph() {
	const (
		entered = 1
		left    = 2
	)
	mark := make(map[*node]int)
	var stack []*node
	for _, n := range r.nodes {
		if n != nil && n.conflict {
			stack = append(stack, n)
		}
	}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		if mark[n] == 0 {
			mark[n] = entered
			for _, a := range r.auths(n) {
				if mark[a] == 0 {
					stack = append(stack, a)
				}
			}
			continue
		}
		stack = stack[:len(stack)-1]
		if mark[n] == left {
			continue
		}
		mark[n] = left
		n.sub = n.conflict
		for _, a := range r.auths(n) {
			n.sub = n.sub || a.sub
		}
	}
}
