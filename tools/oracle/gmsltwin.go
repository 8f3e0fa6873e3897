// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"cmp"
	"maps"
	"math/big"
	"slices"

	gmsl "github.com/matrix-org/gomatrixserverlib"
)

// twin resolves states as gomatrixserverlib does, with its faults as switches. With all of them on, it must give what the library gives, or
// the library has a fault that is not known here; those that change the result when they are off are the ones that a difference is due to.
type twin struct {
	*litResolver
	j *judge

	leaves, narrow, poor, self, oldest, verdict, open, plainKey bool

	openFor string // the join rules that a join has overwritten
	as      string // what they are since
	last    map[string]*node
}

// twinFaults are the known faults of the library's state resolution.
var twinFaults = []struct {
	name, says string
	set        func(t *twin, on bool)
}{
	{"power events are sorted from the leaves, and what is listed twice goes before all",
		"Reverse topological power ordering: 'the lexicographically smallest topological ordering'; 'at each step selecting, among all the candidate vertices, the smallest vertex'.",
		func(t *twin, on bool) { t.leaves = on }},
	{"power events bring along conflicted state only, and unconflicted events take no part",
		"Step 1: 'enlarge X by adding the events in the auth chain of P which also belong to the full conflicted set'.",
		func(t *twin, on bool) { t.narrow = on }},
	{"before the first power levels all senders are equal",
		"m.room.power_levels: 'If the room contains no m.room.power_levels event, the room's creator has a power level of 100'.",
		func(t *twin, on bool) { t.poor = on }},
	{"an event is authorised against itself in place of its auth event",
		"Iterative auth checks: 'If a (event_type, state_key) key [...] is not present in the state, then the appropriate state event from the event's auth_events is used'.",
		func(t *twin, on bool) { t.self = on }},
	{"who has no power levels in the ancestry sorts with the oldest of the mainline, and steps count",
		"Mainline ordering: 'Otherwise set i = infinity'; the order is by mainline position, origin_server_ts, event_id.",
		func(t *twin, on bool) { t.oldest = on }},
	{"events are judged by the library's authorisation rules",
		"See its faults by state.",
		func(t *twin, on bool) { t.verdict = on }},
	{"a join overwrites the restricted join rule for the next one: public if it was let in, invite if it needed no one",
		"Rule 5.3.5: it asks for the key in content of each event.",
		func(t *twin, on bool) { t.open = on }},
	{"m.room.power_levels and m.room.join_rules with a state key are no power events",
		"Power events: 'a state event with type m.room.power_levels or m.room.join_rules'.",
		func(t *twin, on bool) { t.plainKey = on }},
}

// twinOf gives the result of the library's twin with the faults whose bits are set.
func (j *judge) twinOf(states []map[skey]string, faults int) string {
	return guard(func() string {
		t := &twin{litResolver: &litResolver{version: j.version, byID: j.byID, chains: map[string]idSet{}}, j: j}
		for i, f := range twinFaults {
			f.set(t, faults&(1<<i) != 0)
		}
		return j.tell(t.resolve(states))
	})
}

func (t *twin) resolve(states []map[skey]string) map[skey]string {
	unconflicted, conflicted := t.split(states)
	full := t.fullConflicted(states, conflicted)
	listed := map[string]int{} // how often the library lists a power event or what one brings along
	takes := func(id string) bool { return full[id] && (!t.narrow || conflicted[id]) }
	skips := func(id string) bool {
		e := t.byID(id)
		return t.narrow && unconflicted[skey{e.typ, *e.key}] == id
	}
	referred := idSet{}
	var bring func(id string)
	bring = func(id string) {
		for _, a := range t.byID(id).auth {
			if !referred[a] && t.byID(a) != nil && takes(a) {
				referred[a] = true
				listed[a]++
				bring(a)
			}
		}
	}
	for id := range full {
		if t.powerful(t.byID(id)) && !skips(id) {
			listed[id]++
			if conflicted[id] && t.difference(states)[id] {
				listed[id]++
			}
			bring(id)
		}
	}
	state := maps.Clone(unconflicted)
	t.check(state, t.order(listed))
	var rest []string
	for id := range full {
		if listed[id] == 0 && !skips(id) {
			rest = append(rest, id)
		}
	}
	p := state[skey{"m.room.power_levels", ""}]
	if t.oldest {
		t.oldestOrder(rest, p)
	} else {
		t.mainlineOrder(rest, p)
	}
	t.check(state, rest)
	maps.Copy(state, unconflicted)
	return state
}

// difference is the auth difference.
func (t *twin) difference(states []map[skey]string) idSet { return t.fullConflicted(states, idSet{}) }

func (t *twin) powerful(e *lit) bool {
	if t.plainKey && e.typ != "m.room.member" && *e.key != "" || t.plainKey && *e.key == "" && e.typ == "m.room.member" {
		return false
	}
	return litPowerful(e)
}

func (t *twin) power(id string) *big.Int {
	e := t.byID(id)
	if t.poor {
		p := t.powerLevelsOf(id)
		if p == "" {
			return new(big.Int)
		}
		return litPower(func(k skey) *lit {
			if k.typ == "m.room.power_levels" {
				return t.byID(p)
			}
			return nil
		}, e.sender)
	}
	return t.senderPower(e)
}

func (t *twin) order(listed map[string]int) []string {
	before := func(a, b string) int {
		x, y := t.byID(a), t.byID(b)
		return cmp.Or(t.power(b).Cmp(t.power(a)), cmp.Compare(x.ts, y.ts), cmp.Compare(a, b))
	}
	left := idSet{}
	for id := range listed {
		left[id] = true
	}
	var order []string
	if !t.leaves {
		for len(left) > 0 {
			next := ""
			for id := range left {
				if !slices.ContainsFunc(t.auth(id), func(a string) bool { return left[a] }) && (next == "" || before(id, next) < 0) {
					next = id
				}
			}
			order = append(order, next)
			delete(left, next)
		}
		return order
	}
	degree := map[string]int{}
	for id, n := range listed {
		for _, a := range t.byID(id).auth {
			degree[a] += n
		}
	}
	var ready []string
	for id := range listed {
		if degree[id] == 0 {
			ready = append(ready, id)
			delete(left, id)
		}
	}
	for len(ready) > 0 {
		slices.SortFunc(ready, before)
		id := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		order = append(order, id)
		for _, a := range t.byID(id).auth {
			if degree[a]--; degree[a] == 0 && left[a] {
				ready = append(ready, a)
				delete(left, a)
			}
		}
	}
	slices.Reverse(order)
	return append(slices.SortedFunc(maps.Keys(left), before), order...)
}

func (t *twin) oldestOrder(ids []string, p string) {
	var mainline []string
	for ; p != ""; p = t.powerLevelsOf(p) {
		mainline = append(mainline, p)
	}
	slices.Reverse(mainline)
	type place struct{ at, steps int }
	places := map[string]place{}
	for _, id := range ids {
		var pl place
		for e := t.powerLevelsOf(id); e != ""; e = t.powerLevelsOf(e) {
			if i := slices.Index(mainline, e); i >= 0 {
				pl.at = i
				break
			}
			pl.steps++
		}
		places[id] = pl
	}
	slices.SortFunc(ids, func(a, b string) int {
		return cmp.Or(cmp.Compare(places[a].at, places[b].at), cmp.Compare(places[a].steps, places[b].steps), cmp.Compare(t.byID(a).ts, t.byID(b).ts), cmp.Compare(a, b))
	})
}

// check is the iterative auth check.
func (t *twin) check(state map[skey]string, order []string) {
	for _, id := range order {
		e := t.byID(id)
		held := func(k skey) *lit {
			if x := t.byID(state[k]); x != nil {
				return x
			}
			return t.fromAuth(e, k, false)
		}
		if t.self {
			held = t.selfHeld(e, state)
		}
		if t.allowed(e, held) {
			state[skey{e.typ, *e.key}] = id
		}
	}
}

// selfHeld is what the library looks at: whenever a needed key is not in the state but among the auth events, it adds the event itself.
func (t *twin) selfHeld(e *lit, state map[skey]string) litState {
	m := map[skey]*lit{}
	if n := t.j.nodes[e.id]; n.gm.err == nil {
		needed := gmsl.StateNeededForAuth([]gmsl.PDU{n.gm.p})
		for _, tuple := range needed.Tuples() {
			k := skey{tuple.EventType, tuple.StateKey}
			if x := t.byID(state[k]); x != nil {
				m[k] = x
			} else if t.fromAuth(e, k, false) != nil {
				m[skey{e.typ, *e.key}] = e
			}
		}
	}
	return func(k skey) *lit { return m[k] }
}

func (t *twin) allowed(e *lit, held litState) bool {
	if !t.verdict {
		return litAllowed(e, held, func(_ *lit, name string) bool { return name != "" }) == nil
	}
	n := t.j.nodes[e.id]
	if n.gm.err != nil {
		return false
	}
	needed := gmsl.StateNeededForAuth([]gmsl.PDU{n.gm.p})
	rules := ""
	for _, k := range needed.Tuples() {
		if x := held(skey{k.EventType, k.StateKey}); x != nil && k.EventType == "m.room.join_rules" {
			rules = x.id
		}
	}
	ok := n.gm.allowed(func(k skey) *node {
		x := held(k)
		if t.last == nil {
			t.last = map[string]*node{}
		}
		if k.typ == "m.room.create" || k.typ == "m.room.power_levels" || k.typ == "m.room.join_rules" {
			switch {
			case x == nil && k.typ != "m.room.create":
				delete(t.last, k.typ)
			case x != nil && readable(t.j.nodes[x.id].gm.p):
				t.last[k.typ] = t.j.nodes[x.id]
			}
			return t.last[k.typ]
		}
		if x != nil {
			return t.j.nodes[x.id]
		}
		return nil
	}) == nil
	if rules == "" || rules != t.openFor {
		t.openFor = ""
	}
	kind := litJoinRule(held)
	if !t.open || e.typ != "m.room.member" || e.sender != *e.key || t.version < 8 || kind != "restricted" && kind != "knock_restricted" {
		return ok
	}
	now := litMembership(held, *e.key)
	in := now == "join" || now == "invite"
	switch e.content["membership"] {
	case "knock":
		return ok && t.openFor == ""
	case "join":
		switch {
		case now == "ban":
		case t.openFor != "":
			return in || t.as == "public" && now == "leave"
		case in || text(e.content["join_authorised_via_users_server"]) == "":
			t.openFor, t.as = rules, "invite"
		case ok:
			t.openFor, t.as = rules, "public"
		}
	}
	return ok
}

// readable tells whether the library takes an event's content. Of what it does not take, it goes on with the one before.
func readable(p gmsl.PDU) bool {
	var err error
	switch p.Type() {
	case "m.room.power_levels":
		_, err = gmsl.NewPowerLevelContentFromEvent(p)
	case "m.room.join_rules":
		_, err = p.JoinRule()
	}
	return err == nil
}

// inexact counts what the twin does not explain to the event: its faults do change the result, but into another one than the library's, or
// only some of them give that. Also counted here are differences in games whose states hold what was rejected, on which the library does not reckon ("no events rejected due
// to failure to auth against their auth chain should appear in the process"), and in rooms with power levels that it cannot read.
const inexact = "known faults at work, but their twin makes something else of them"

// gmslCompare compares the library's resolution with ours. If they differ, the twin says why.
func (j *judge) gmslCompare(states []map[skey]string, ours string) {
	theirs := guard(func() string { return j.tell(j.gmslResolve(states)) })
	j.compared++
	if theirs == ours {
		return
	}
	all := 1<<len(twinFaults) - 1
	if twin := j.twinOf(states, all); twin != theirs {
		odd := slices.ContainsFunc(j.list, func(e *node) bool { return e.gm.err == nil && !readable(e.gm.p) })
		for some := range all {
			if twin != ours || j.liar || odd || j.twinOf(states, some) == theirs {
				j.faults["gomatrixserverlib, resolution: "+inexact]++
				return
			}
		}
		j.differences = append(j.differences, &difference{oracle: "gomatrixserverlib", what: "resolution", version: j.version, ours: ours, theirs: theirs, states: states, judge: j})
		return
	}
	alone := false
	for i, f := range twinFaults {
		if j.twinOf(states, all&^(1<<i)) == ours {
			j.faults["gomatrixserverlib, resolution: "+f.name]++
			alone = true
		}
	}
	if !alone {
		j.faults["gomatrixserverlib, resolution: several of these at once"]++
	}
}
