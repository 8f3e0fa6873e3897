// SPDX-License-Identifier: EUPL-1.2

package rules

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"

	"hallig/appliance/event"
)

// Resolve finds the state that holds where branches meet whose states are sets. load gives thin events by id: the state events and
// all that their auth chains reach. What load does not know (nil) is treated as absent; load itself sees which ids these are. The
// result depends neither on the order of sets nor on that of auth events.
// https://spec.matrix.org/v1.16/rooms/v12/#state-resolution
func Resolve(v *event.Version, sets []map[Key]event.ID, load func(event.ID) *Event) (map[Key]event.ID, error) {
	if v.StateRes != 2 && v.StateRes != 21 {
		return nil, fmt.Errorf("resolve state: rooms of version %s are not spoken", v.ID)
	}
	agreed, apart := split(sets)
	if !slices.ContainsFunc(apart, func(ids []event.ID) bool { return len(ids) > 0 }) {
		return agreed, nil
	}
	r := resolver{v: v, load: load, nodes: make(map[event.ID]*node), agreed: agreed, state: make(map[Key]*Event)}
	full := r.fullConflict(apart)

	first := r.powerSet(full)
	r.apply(r.powerOrder(first))
	var rest []*node
	for _, n := range full {
		if !n.first {
			rest = append(rest, n)
		}
	}
	r.mainlineOrder(rest)
	r.apply(rest)

	for k, e := range r.state {
		if _, ok := agreed[k]; !ok { // what is agreed on stands, whatever was decided on the way
			agreed[k] = e.ID
		}
	}
	return agreed, nil
}

type resolver struct {
	v      *event.Version
	load   func(event.ID) *Event
	nodes  map[event.ID]*node // what was loaded; nil: unknown
	agreed map[Key]event.ID   // the unconflicted state map
	state  map[Key]*Event     // what was decided so far
}

// node is an event in the auth graph.
type node struct {
	e    *Event
	auth []*node // known ones

	conflict bool // in the conflicted state set
	sub      bool // in the conflicted state subgraph
	full     bool // in the full conflicted set
	first    bool // in the set of power events and their ancestors
	open     bool // may be in the auth difference
	common   bool // reached from the unconflicted state
	expanded bool
	seen     int // the last of the sets, counted from 1, whose conflicted events reach it

	power int64 // of the sender, see powerOrder
	wait  int   // auth events not yet ordered
	after []*node

	place    int // mainline position
	hasPlace bool
}

// node loads an event, nil if it is unknown. Its auth events are loaded when auths asks for them.
func (r *resolver) node(id event.ID) *node {
	n, ok := r.nodes[id]
	if !ok {
		if e := r.load(id); e != nil {
			n = &node{e: e}
		}
		r.nodes[id] = n
	}
	return n
}

func (r *resolver) auths(n *node) []*node {
	if !n.expanded {
		n.expanded = true
		for _, id := range n.e.Auth {
			if a := r.node(id); a != nil && !slices.Contains(n.auth, a) {
				n.auth = append(n.auth, a)
			}
		}
	}
	return n.auth
}

// walk visits what the auth chains of from reach, without from itself unless it is reached, until visit says false for a node: then it does
// not go on behind that.
func (r *resolver) walk(from []*node, visit func(*node) bool) {
	if len(from) == 0 {
		return
	}
	stack := slices.Clone(from)
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, a := range r.auths(n) {
			if visit(a) {
				stack = append(stack, a)
			}
		}
	}
}

// isPower tells power events: those that may take power from somebody.
func isPower(e *Event) bool {
	if e.StateKey == nil {
		return false
	}
	switch e.Type {
	case typePower, typeJoinRules:
		return true
	case typeMember:
		return e.Member != nil && (e.Member.Membership == "leave" || e.Member.Membership == "ban") && string(e.Sender) != *e.StateKey
	}
	return false
}

// powerSet gives the power events of the full conflicted set and those in their auth chains that belong to it.
//
// As deployed servers do, the chain is followed only within the full conflicted set. In 2.1 that is the same as following all of it: whatever
// lies between two members is itself a member, as a part of the subgraph or of the difference.
func (r *resolver) powerSet(full []*node) []*node {
	var set []*node
	var stack []*node
	add := func(n *node) {
		if !n.first {
			n.first = true
			set = append(set, n)
			stack = append(stack, n)
		}
	}
	for _, n := range full {
		if isPower(n.e) {
			add(n)
		}
	}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, a := range r.auths(n) {
			if a.full {
				add(a)
			}
		}
	}
	return set
}

// senderPower is the power of an event's sender according to its own auth events.
func (r *resolver) senderPower(n *node) int64 {
	var create, power *Event
	if p := r.powerOf(n); p != nil {
		power = p.e
	}
	if r.v.CreateIsRoomID {
		create = r.create(n.e)
	} else if i := slices.IndexFunc(r.auths(n), func(a *node) bool { return a.e.is(typeCreate, "") }); i >= 0 {
		create = n.auth[i].e
	}
	return userLevel(create, power, n.e.Sender)
}

// create is the create event that the room id names, nil in versions where it names none.
func (r *resolver) create(e *Event) *Event {
	if !r.v.CreateIsRoomID || len(e.Room) < 2 {
		return nil
	}
	if n := r.node("$" + event.ID(e.Room[1:])); n != nil && n.e.Type == typeCreate {
		return n.e
	}
	return nil
}

// powerOrder is the reverse topological power ordering: ancestors first, and of those that could come next the one with more power.
func (r *resolver) powerOrder(set []*node) []*node {
	var ready powerHeap
	for _, n := range set {
		n.power = r.senderPower(n)
		for _, a := range r.auths(n) {
			if a.first {
				n.wait++
				a.after = append(a.after, n)
			}
		}
	}
	for _, n := range set {
		if n.wait == 0 {
			ready = append(ready, n)
		}
	}
	heap.Init(&ready)
	order := make([]*node, 0, len(set))
	for len(ready) > 0 {
		n := heap.Pop(&ready).(*node)
		order = append(order, n)
		for _, d := range n.after {
			if d.wait--; d.wait == 0 {
				heap.Push(&ready, d)
			}
		}
	}
	return order
}

type powerHeap []*node

func (h powerHeap) Len() int      { return len(h) }
func (h powerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *powerHeap) Push(x any)   { *h = append(*h, x.(*node)) }
func (h *powerHeap) Pop() any {
	last := len(*h) - 1
	n := (*h)[last]
	*h = (*h)[:last]
	return n
}
func (h powerHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	return cmp.Or(cmp.Compare(b.power, a.power), byTime(a.e, b.e)) < 0
}

func byTime(a, b *Event) int { return cmp.Or(cmp.Compare(a.TS, b.TS), cmp.Compare(a.ID, b.ID)) }

// mainlineOrder sorts by mainline position, earlier branches first. What has no power levels in its ancestry comes before all.
func (r *resolver) mainlineOrder(nodes []*node) {
	place := 0
	for p := r.holder(Key{Type: typePower}); p != nil; p = r.powerOf(p) {
		if p.hasPlace {
			break // a circle, which hashes forbid
		}
		p.place, p.hasPlace = place, true
		place++
	}
	at := make(map[*node]int, len(nodes))
	for _, n := range nodes {
		at[n] = r.position(n)
	}
	slices.SortFunc(nodes, func(a, b *node) int { return cmp.Or(cmp.Compare(at[b], at[a]), byTime(a.e, b.e)) })
}

// holder is the node of the event that holds k in the state so far; in 2 that includes the unconflicted state.
func (r *resolver) holder(k Key) *node {
	if e := r.state[k]; e != nil {
		return r.node(e.ID)
	}
	if id, ok := r.agreed[k]; ok && r.v.StateRes == 2 {
		return r.node(id)
	}
	return nil
}

// powerOf is the power levels event among n's auth events, nil if there is none.
func (r *resolver) powerOf(n *node) *node {
	for _, a := range r.auths(n) {
		if a.e.is(typePower, "") {
			return a
		}
	}
	return nil
}

// position finds the mainline position of n: that of the first of its power levels ancestors that lies on the mainline. What is found is
// noted for the ancestors that were passed.
func (r *resolver) position(n *node) int {
	var passed []*node
	place := math.MaxInt
	for p := r.powerOf(n); p != nil && len(passed) < len(r.nodes); p = r.powerOf(p) {
		if p.hasPlace {
			place = p.place
			break
		}
		passed = append(passed, p)
	}
	for _, p := range passed {
		p.place, p.hasPlace = place, true
	}
	return place
}

// apply is the iterative auth check: each event in turn takes its place in the state if the law allows it there. What the state does not
// hold is looked up among the event's own auth events, if they were not rejected.
func (r *resolver) apply(order []*node) {
	for _, n := range order {
		e := n.e
		held := func(k Key) *Event {
			if h := r.holder(k); h != nil {
				return h.e
			}
			for _, a := range r.auths(n) {
				if a.e.is(k.Type, k.StateKey) && !a.e.Rejected {
					return a.e
				}
			}
			if c := r.create(e); k.Type == typeCreate && c != nil && !c.Rejected {
				return c
			}
			return nil
		}
		if Allowed(e, held) == nil {
			r.state[Key{e.Type, *e.StateKey}] = e
		}
	}
}
