// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// A cost is one byte (parcel.Reach). 0: out of reach. 1 to maxCost: in reach now, each way in between adding what wayCost says. From
// pastCost on: not in reach now, but met 2^((n-pastCost)/4) seconds ago, up to half a millennium; such news is not passed on, for only
// those who move meet each other.
const (
	maxCost  = 120
	pastCost = 128
)

// wayCost is what a way of so many bit/s costs: a box behind three fast ways is nearer than one behind a slow one.
func wayCost(bps int) int {
	switch {
	case bps >= 64_000:
		return 1
	case bps >= 4800:
		return 4
	}
	return 8
}

// Bounds of what one neighbour may say, and of what is passed on.
const (
	maxSaid = 64
	maxTold = 96
)

// routes is a distance vector: whom the neighbours reach, and which of them is the next towards each box. What a neighbour says holds as
// long as it is in reach, so nothing is repeated. Two rules keep parcels from running in circles: a neighbour is told that a box is out of
// reach when the way there leads over that neighbour, and another way is taken only to a neighbour that is nearer than we ever were since
// the way was found; else the box counts as lost for a while, so that those who counted on us hear of it first. What runs in a circle
// nevertheless ends at the first box that knows the parcel.
type routes struct {
	self peer.ID
	near map[peer.ID]int                 // cost of the way to a neighbour
	said map[peer.ID]map[peer.ID]reached // by whom, about whom
	best map[peer.ID]route
	held map[peer.ID]time.Time // lost; not to be found again before
	met  map[peer.ID]time.Time // last in reach
}

type reached struct {
	cost int       // 0: past
	met  time.Time // of the past
}

type route struct {
	next  peer.ID
	cost  int
	least int // the least cost since it was found
}

func newRoutes(self peer.ID) *routes {
	return &routes{self: self, near: map[peer.ID]int{}, said: map[peer.ID]map[peer.ID]reached{}, best: map[peer.ID]route{},
		held: map[peer.ID]time.Time{}, met: map[peer.ID]time.Time{}}
}

// neighbour notes that a box is in direct reach, or with cost 0 no longer is.
func (t *routes) neighbour(id peer.ID, cost int, now time.Time) {
	if cost == 0 {
		delete(t.near, id)
		// What it said of the past stays true.
		for to, x := range t.said[id] {
			if x.cost > 0 {
				t.said[id][to] = reached{met: now}
			}
		}
	} else {
		t.near[id] = cost
	}
	t.met[id] = now
	t.choose(now)
}

// hear takes what a neighbour says; it gives the number of entries that were too many.
func (t *routes) hear(from peer.ID, news []parcel.Reach, now time.Time) (over int) {
	m := t.said[from]
	if m == nil {
		m = map[peer.ID]reached{}
		t.said[from] = m
	}
	for _, x := range news {
		_, known := m[x.Box]
		switch {
		case x.Box == t.self || x.Box == from || x.Box == "":
		case x.Cost == 0:
			if old := m[x.Box]; old.cost > 0 {
				m[x.Box] = reached{met: now}
			}
		case !known && len(m) >= maxSaid:
			over++
		case x.Cost >= pastCost:
			m[x.Box] = reached{met: now.Add(-ageOf(x.Cost))}
		case x.Cost > maxCost:
		default:
			m[x.Box] = reached{cost: int(x.Cost)}
		}
	}
	t.choose(now)
	return over
}

// forget drops all that a box has said: it is no longer paired.
func (t *routes) forget(id peer.ID, now time.Time) {
	delete(t.said, id)
	delete(t.near, id)
	t.choose(now)
}

// choose finds the next neighbour towards each box.
func (t *routes) choose(now time.Time) {
	for to := range t.dests() {
		old, had := t.best[to]
		if cost, ok := t.near[to]; ok {
			t.best[to] = route{to, cost, cost}
			delete(t.held, to)
			continue
		}
		found, ok := t.find(to, old, had)
		switch {
		case ok:
			if until, held := t.held[to]; held && now.Before(until) {
				continue
			}
			delete(t.held, to)
			t.best[to] = found
			t.met[to] = now
		case had:
			delete(t.best, to)
			t.held[to] = now.Add(t.holdTime())
			t.met[to] = now
		}
	}
	if len(t.met) > 4*maxTold {
		t.fade()
	}
}

// dests lists every box that is or was in reach.
func (t *routes) dests() map[peer.ID]bool {
	all := map[peer.ID]bool{}
	for id := range t.near {
		all[id] = true
	}
	for id := range t.best {
		all[id] = true
	}
	for by, m := range t.said {
		if t.near[by] == 0 {
			continue
		}
		for to, x := range m {
			if x.cost > 0 {
				all[to] = true
			}
		}
	}
	return all
}

// find looks for the cheapest way to a box that cannot lead back here.
func (t *routes) find(to peer.ID, old route, had bool) (best route, ok bool) {
	for by, way := range t.near {
		x := t.said[by][to]
		if x.cost == 0 || way+x.cost > maxCost || had && x.cost >= old.least {
			continue // no way, or perhaps one that counts on us
		}
		cost := way + x.cost
		if !ok || cost < best.cost || cost == best.cost && by < best.next {
			best, ok = route{by, cost, cost}, true
		}
	}
	if ok && had {
		best.least = min(best.cost, old.least)
	}
	return best, ok
}

// holdTime is how long a lost box stays lost: until everybody around has heard.
func (t *routes) holdTime() time.Duration {
	for _, cost := range t.near {
		if cost > 1 {
			return 30 * time.Second
		}
	}
	return 10 * time.Second
}

// wake is when a box that is held as lost may be found again; zero: none is held.
func (t *routes) wake() (at time.Time) {
	for _, until := range t.held {
		if at.IsZero() || until.Before(at) {
			at = until
		}
	}
	return at
}

// settle looks again at what was held as lost.
func (t *routes) settle(now time.Time) {
	for to, until := range t.held {
		if !now.Before(until) {
			if _, ok := t.find(to, route{}, false); !ok {
				delete(t.held, to)
			}
		}
	}
	t.choose(now)
}

// fade forgets the boxes that were met longest ago.
func (t *routes) fade() {
	ids := slices.SortedFunc(maps.Keys(t.met), func(a, b peer.ID) int { return t.met[b].Compare(t.met[a]) })
	for _, id := range ids[2*maxTold:] {
		if _, ok := t.best[id]; !ok {
			delete(t.met, id)
		}
	}
}

// tell says what a neighbour should know: cost by box.
func (t *routes) tell(to peer.ID, now time.Time) map[peer.ID]byte {
	out := map[peer.ID]byte{}
	for id, r := range t.best {
		if id == to || r.next == to || len(out) >= maxTold {
			continue
		}
		out[id] = byte(r.cost)
	}
	return out
}

// past says which boxes were in reach and are not, for a neighbour that has just come.
func (t *routes) past(to peer.ID, now time.Time) map[peer.ID]byte {
	out := map[peer.ID]byte{}
	ids := slices.SortedFunc(maps.Keys(t.met), func(a, b peer.ID) int {
		if c := t.met[b].Compare(t.met[a]); c != 0 {
			return c
		}
		return strings.Compare(string(a), string(b))
	})
	for _, id := range ids {
		if _, ok := t.best[id]; ok || id == to || len(out) >= maxSaid/2 {
			continue
		}
		out[id] = pastOf(now.Sub(t.met[id]))
	}
	return out
}

func pastOf(age time.Duration) byte {
	s := max(age.Seconds(), 1)
	return byte(pastCost + min(int(4*math.Log2(s)), 255-pastCost))
}

func ageOf(cost byte) time.Duration {
	s := math.Exp2(float64(cost-pastCost) / 4)
	return time.Duration(min(s, 5e9)) * time.Second
}

// fit is how well a neighbour suits a box.
type fit int

const (
	fitNone  fit = iota
	fitBlind     // nobody knows a way, and this one never met it either
	fitPast      // it met the box more lately than we
	fitRoute
	fitDirect
)

// suits says how well a neighbour suits a box.
func (t *routes) suits(by, to peer.ID, now time.Time) fit {
	if by == to {
		return fitDirect
	}
	if t.near[to] > 0 {
		return fitNone
	}
	if r, ok := t.best[to]; ok {
		if r.next == by {
			return fitRoute
		}
		return fitNone
	}
	theirs := t.said[by][to].met
	if theirs.IsZero() {
		return fitBlind
	}
	if ours := t.met[to]; ours.IsZero() || now.Sub(theirs)*2 <= now.Sub(ours) {
		return fitPast
	}
	return fitBlind
}

// cost is how far a box is over a neighbour, 0 when it does not say that it reaches it.
func (t *routes) cost(by, to peer.ID) int {
	if t.near[by] == 0 {
		return 0
	}
	return t.said[by][to].cost
}
