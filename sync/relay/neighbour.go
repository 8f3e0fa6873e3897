// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"maps"
	"slices"
	"time"

	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// parcelName is what a sealed parcel is known by.
type parcelName struct {
	to   peer.ID
	from parcel.Origin
	seq  uint64
}

// offer is a parcel that a neighbour should get.
type offer struct {
	name  parcelName
	p     parcel.Sealed
	part  *part // ours
	row   int64 // carried for others
	of    store.Carried
	ends  int64 // runTime at which it expires, 0: never
	size  int64
	until time.Time // under way: given up as unanswered then
}

// rowOf is a carried parcel that a neighbour has had; by "": that somebody answers for now.
type rowOf struct {
	row int64
	by  peer.ID
}

// fullFor is how long nothing is offered to a neighbour that had no room.
const fullFor = 3 * time.Minute

// neighbour is a box in direct reach that takes parcels.
type neighbour struct {
	id  peer.ID
	key []byte
	bps int

	hungry bool
	loads  [parcel.Bulk + 1][]*offer // read and ready to be given
	loaded int                       // bytes of them
	flight map[parcelName]*offer
	flying int
	fullTo time.Time // it has no room for others' parcels before

	say    parcel.Forward // that is due
	sayAt  time.Time
	called bool // link was called for it
	told   map[peer.ID]byte
	past   map[peer.ID]byte // to be told once
	tellAt time.Time
	late   map[parcelName]lateOffer
	over   []parcel.Custody // called over
	share  flashShare
}

func newNeighbour(id peer.ID, bps int) *neighbour {
	return &neighbour{id: id, bps: bps, flight: map[parcelName]*offer{}, told: map[peer.ID]byte{}, late: map[parcelName]lateOffer{}, hungry: true}
}

func (n *neighbour) slow() bool { return n.bps < 64_000 }

// window is how much may be on the way to a neighbour without its word.
func (n *neighbour) window() int {
	if n.slow() {
		return 4 << 10
	}
	return 64 << 10
}

// wordWithin is how long a neighbour may take to answer for a parcel; after that it is offered again.
func (n *neighbour) wordWithin() time.Duration {
	if n.slow() {
		return 5 * time.Minute
	}
	return 30 * time.Second
}

// saySoon lets what is due be said when it has waited for company. answers are what the neighbour waits for.
func (n *neighbour) saySoon(now time.Time, answers bool) {
	wait := 20 * time.Millisecond
	switch {
	case n.slow() && answers:
		wait = 3 * time.Second
	case n.slow():
		wait = 20 * time.Second
	}
	if at := now.Add(wait); n.sayAt.IsZero() || at.Before(n.sayAt) {
		n.sayAt = at
	}
}

// tellSoon lets changes of ways be told, but not each of a flapping one.
func (n *neighbour) tellSoon(now time.Time) {
	if n.tellAt.IsZero() {
		n.tellAt = now.Add(100 * time.Millisecond)
		if n.slow() {
			n.tellAt = now.Add(2 * time.Second)
		}
	}
}

// tell finds out what has changed in whom this box reaches.
func (r *Relay) tell(n *neighbour, now time.Time) {
	if n.tellAt.IsZero() || now.Before(n.tellAt) {
		return
	}
	n.tellAt = time.Time{}
	is := r.routes.tell(n.id, now)
	var news []parcel.Reach
	for _, id := range slices.Sorted(maps.Keys(is)) {
		if n.told[id] != is[id] {
			news = append(news, parcel.Reach{Box: id, Cost: is[id]})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.told)) {
		if is[id] == 0 {
			news = append(news, parcel.Reach{Box: id})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.past)) {
		if is[id] == 0 {
			news = append(news, parcel.Reach{Box: id, Cost: n.past[id]})
		}
	}
	n.told, n.past = is, nil
	if len(news) == 0 {
		return
	}
	for _, x := range news { // in place of what was due and is old news
		n.say.Reach = slices.DeleteFunc(n.say.Reach, func(old parcel.Reach) bool { return old.Box == x.Box })
	}
	n.say.Reach = append(n.say.Reach, news...)
	n.sayAt = now
}

// Next gives link a parcel for a neighbour at a priority, of at most size bytes unless there is only a larger one; nil: none. done is to be
// called when link knows whether it arrived there.
func (r *Relay) Next(id peer.ID, priority, size int) (p parcel.Parcel, done func(arrived bool)) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.near[id]
	if n == nil || priority < 0 || priority >= len(n.loads) {
		return nil, nil
	}
	if priority == parcel.Priority && !n.sayAt.IsZero() && !now.Before(n.sayAt) {
		say := n.say
		n.say, n.sayAt, n.called = parcel.Forward{}, time.Time{}, false
		if !say.Empty() {
			return &say, func(arrived bool) { r.said(id, n, &say, arrived) }
		}
	}
	if n.flying >= n.window() {
		return nil, nil
	}
	for len(n.loads[priority]) > 0 {
		o := n.loads[priority][0]
		n.loads[priority] = n.loads[priority][1:]
		n.loaded -= len(o.p.Body)
		if n.loaded < n.window()/2 && !n.hungry {
			n.hungry = true
			r.poke()
		}
		if !r.live(o, now) {
			n.takeBack(o)
			continue
		}
		o.until = now.Add(24 * time.Hour) // done tells
		n.flight[o.name] = o
		n.flying += len(o.p.Body)
		sealed := o.p
		return &sealed, func(arrived bool) { r.gave(id, n, o, arrived) }
	}
	return nil, nil
}

// live counts an offer's lifetime down; false when it is over.
func (r *Relay) live(o *offer, now time.Time) bool {
	var left time.Duration
	switch {
	case o.part != nil && o.part.read:
		return false
	case o.part != nil && !o.part.l.over.IsZero():
		left = o.part.l.over.Sub(now)
	case o.row > 0 && o.ends > 0:
		left = time.Duration(o.ends-r.runTime()) * time.Second
	default:
		o.p.Life = 0
		return true
	}
	o.p.Life = parcel.LifeOf(left)
	return left > 0
}

// said is told whether news arrived. Lost answers are not said again: the parcel comes again, and is answered then.
func (r *Relay) said(id peer.ID, n *neighbour, f *parcel.Forward, arrived bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if arrived || r.near[id] != n {
		return
	}
	for _, x := range f.Reach {
		delete(n.told, x.Box)
	}
	for _, list := range []struct{ all, lost *[]parcel.Custody }{{&n.say.Taken, &f.Taken}, {&n.say.Seen, &f.Seen}, {&n.say.Full, &f.Full}} {
		for _, c := range *list.lost {
			for _, seq := range c.Seqs {
				*list.all = name(*list.all, &parcel.Sealed{To: c.To, From: c.From, Seq: seq})
			}
		}
	}
	for _, c := range f.Done {
		n.say.Done = setDone(n.say.Done, c)
	}
	now := time.Now()
	n.tellSoon(now)
	n.saySoon(now, true)
	r.poke()
}

// gave is told whether a parcel arrived at a neighbour, which has yet to answer for it.
func (r *Relay) gave(id peer.ID, n *neighbour, o *offer, arrived bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.near[id] != n || n.flight[o.name] != o {
		return
	}
	if arrived {
		o.until = time.Now().Add(n.wordWithin())
		return
	}
	n.land(o)
	n.hungry = true
	r.poke()
}

func (n *neighbour) land(o *offer) {
	n.takeBack(o)
	delete(n.flight, o.name)
	n.flying -= len(o.p.Body)
}

// takeBack notes that a neighbour is not about to get a part of ours any more.
func (n *neighbour) takeBack(o *offer) {
	if o.part != nil {
		delete(o.part.offered, n.id)
	}
}

// abandon takes everything back: the neighbour has gone.
func (n *neighbour) abandon() {
	n.drop(func(*offer) bool { return true })
	for _, o := range n.flight {
		n.land(o)
	}
}

// lateOffer is a carried parcel for which a neighbour has not answered in time. Its word may still come, and says by the name alone what it is about, so another parcel
// of that name waits for it some time longer: only a forged one makes two.
type lateOffer struct {
	row int64
	at  time.Time
}

// maxLate bounds how many of them are remembered of a neighbour.
const maxLate = 1024

func (n *neighbour) lateFor() time.Duration { return 4 * n.wordWithin() }

// awaits says whether a word on another parcel of the same name may still come.
func (n *neighbour) awaits(o *offer, now time.Time) bool {
	late, ok := n.late[o.name]
	return ok && late.row != o.row && now.Sub(late.at) < n.lateFor()
}

// timeouts takes back what a neighbour does not answer for.
func (n *neighbour) timeouts(now time.Time) (late bool) {
	if !n.fullTo.IsZero() && !now.Before(n.fullTo) {
		n.fullTo, n.hungry = time.Time{}, true
	}
	for name, l := range n.late {
		if now.Sub(l.at) >= n.lateFor() {
			delete(n.late, name)
			n.hungry = true
		}
	}
	for _, o := range n.flight {
		if !now.Before(o.until) {
			if o.row > 0 && len(n.late) < maxLate {
				n.late[o.name] = lateOffer{o.row, now}
			}
			n.land(o)
			n.hungry, late = true, true
		}
	}
	return late
}

// drop takes offers back that were not given yet.
func (n *neighbour) drop(what func(*offer) bool) {
	n.loaded = 0
	for i := range n.loads {
		n.loads[i] = slices.DeleteFunc(n.loads[i], func(o *offer) bool {
			if !what(o) {
				return false
			}
			n.takeBack(o)
			return true
		})
		for _, o := range n.loads[i] {
			n.loaded += len(o.p.Body)
		}
	}
}

// settled takes a neighbour's word on a parcel.
func (r *Relay) settled(n *neighbour, name parcelName, v verdict, now time.Time) {
	o := n.flight[name]
	if o == nil {
		r.count.Unasked++
		return
	}
	n.land(o)
	n.hungry = true
	if n.loaded > 0 {
		r.call(n) // there is room in the window again
	}
	switch {
	case v == noRoom:
		n.fullTo = now.Add(fullFor)
		return
	case o.part != nil:
		r.gavePart(n, o.part, v, now)
		return
	}
	key, row, drop := n.key, o.row, v == taken && (o.p.Priority != parcel.Flash || o.p.To == n.id)
	pending := rowOf{row, n.id}
	if drop {
		r.count.Passed++
		r.carry.add(o.of.Dest, o.of.Source, o.of.Giver, -1, -o.size)
		pending.by = ""
		for _, other := range r.near {
			other.drop(func(x *offer) bool { return x.row == row })
		}
	}
	r.settling[pending] = true // the readers of the store do not see it yet
	r.c.DB.Queue(func(tx *store.Tx) error {
		if drop {
			return tx.DropCarried(row)
		}
		return tx.GaveCarried(row, key)
	}, func(err error) {
		if err != nil {
			r.log.Warn("a parcel that was passed on could not be dropped", "err", err)
		}
		r.mu.Lock()
		delete(r.settling, pending)
		r.mu.Unlock()
	})
}

// gavePart notes that a neighbour has, or had, a part of ours.
func (r *Relay) gavePart(n *neighbour, p *part, v verdict, now time.Time) {
	p.given[n.id] = true
	p.routed = p.routed || v == taken && r.routes.suits(n.id, p.l.to, now) >= fitRoute
	l := p.l
	if l.given.IsZero() {
		l.given = now
	}
	l.routed = l.routed || p.routed
	under := !slices.ContainsFunc(l.parts, func(p *part) bool { return len(p.given) == 0 })
	if b := r.boxes[l.to]; b != nil && l.done != nil && under {
		l.until = l.given.Add(b.patience(l.routed))
	}
}
