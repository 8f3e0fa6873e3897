// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"context"
	"slices"
	"time"

	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// fill reads what a neighbour should get.
func (r *Relay) fill(ctx context.Context, n *neighbour) {
	now := time.Now()
	r.mu.Lock()
	if r.near[n.id] != n {
		r.mu.Unlock()
		return
	}
	n.hungry = false
	over := n.over
	n.over = nil
	before := n.loaded
	r.loadOwn(n, now)
	dests := r.destsFor(n, now)
	flash := r.carry.count > 0 && now.After(n.fullTo)
	room := n.window() - n.loaded
	r.mu.Unlock()
	if len(over) > 0 {
		r.dropOver(ctx, over)
	}
	var rows []store.Carried
	if room > 0 && (len(dests) > 0 || flash) {
		limit := room/256 + len(n.flight) + 1
		err := r.c.DB.View(ctx, func(rd *store.Read) error {
			for _, dest := range dests {
				some, err := rd.CarriedTo(dest, n.key, limit)
				if err != nil {
					return err
				}
				rows = append(rows, some...)
			}
			if flash {
				some, err := rd.FlashFor(n.key, limit)
				rows = append(rows, some...)
				return err
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			r.log.Error("carried parcels could not be read", "err", err)
		}
	}
	r.mu.Lock()
	r.loadCarried(n, rows)
	if n.loaded > before {
		r.call(n)
	}
	r.mu.Unlock()
}

// has says whether a parcel is ready for a neighbour or on its way there.
func (n *neighbour) has(name parcelName) bool {
	if n.flight[name] != nil {
		return true
	}
	for _, list := range n.loads {
		for _, o := range list {
			if o.name == name {
				return true
			}
		}
	}
	return false
}

// loadOwn makes ready what this box has written.
func (r *Relay) loadOwn(n *neighbour, now time.Time) {
	for to, b := range r.boxes {
		how := r.routes.suits(n.id, to, now)
		if to != n.id && (r.routes.near[to] > 0 || now.Before(n.fullTo)) {
			continue
		}
		letters := b.letters
		if b.last != nil {
			letters = append(slices.Clone(letters), b.last)
		}
		for _, l := range letters {
			for _, p := range l.parts {
				if n.loaded >= n.window() {
					return
				}
				if name := (parcelName{to, r.origin(), p.seq}); r.gives(n, b, p, how) && !n.has(name) {
					n.load(&offer{name: name, part: p,
						p: parcel.Sealed{To: to, From: r.origin(), Seq: p.seq, Priority: l.priority, Body: p.body}}, l.priority)
				}
			}
		}
	}
}

// gives says whether a neighbour should get a part of ours.
func (r *Relay) gives(n *neighbour, b *mailbox, p *part, how fit) bool {
	if p.read || p.given[n.id] || p.offered[n.id] || !p.l.over.IsZero() && !time.Now().Before(p.l.over) {
		return false
	}
	switch {
	case p.l.priority == parcel.Flash:
		return true
	case how >= fitRoute:
		return true
	case how == fitNone:
		// Another neighbour is on the way. If it has had parcels that were never answered, others get copies too.
		best := r.routes.best[b.id]
		return b.distrst[best.next] > 0 && b.distrst[n.id] <= b.distrst[best.next] && len(p.given)+len(p.offered) < copies
	}
	return len(p.given)+len(p.offered) < copies
}

// load makes an offer ready at a priority, which is not always its own.
func (n *neighbour) load(o *offer, class int) {
	if o.part != nil {
		o.part.offered[n.id] = true
	}
	n.loads[class] = append(n.loads[class], o)
	n.loaded += len(o.p.Body)
}

// destsFor lists the boxes whose carried parcels should go to a neighbour.
func (r *Relay) destsFor(n *neighbour, now time.Time) (dests [][]byte) {
	for dest := range r.carry.dest {
		to := peer.IDOf([]byte(dest))
		how := r.routes.suits(n.id, to, now)
		if how == fitDirect || how >= fitPast && now.After(n.fullTo) {
			dests = append(dests, []byte(dest))
		}
	}
	return dests
}

func (r *Relay) loadCarried(n *neighbour, rows []store.Carried) {
	if r.near[n.id] != n {
		return
	}
	for _, c := range rows {
		if n.loaded >= n.window() {
			return
		}
		if c.Until > 0 && c.Until <= r.runTime() {
			continue // dropped soon
		}
		o := &offer{row: c.N, ends: c.Until, size: int64(len(c.Body)) + overhead}
		o.p = parcel.Sealed{To: peer.IDOf(c.Dest), From: parcel.Origin{Box: peer.IDOf(c.Source), Epoch: c.Epoch}, Seq: c.Seq, Priority: c.Priority, Hops: min(c.Hops, parcel.MaxHops), Body: c.Body}
		o.of = c
		o.of.Body = nil
		o.name = parcelName{o.p.To, o.p.From, c.Seq}
		if n.id == o.p.From.Box || r.settling[rowOf{c.N, ""}] || r.settling[rowOf{c.N, n.id}] {
			continue // its writer has it, or somebody else since
		}
		if now := time.Now(); !n.has(o.name) && !n.awaits(o, now) {
			n.load(o, n.share.class(o, now))
		}
	}
}
