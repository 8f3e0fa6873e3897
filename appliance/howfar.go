// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/delivery"
	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/store"
)

// openDelivery makes what tells how far events have got. It is asked and told before the exchange stands.
func (b *Box) openDelivery(ctx context.Context) error {
	b.delivery = delivery.New(delivery.Config{
		DB: b.db, Server: b.id.Server,
		Boxes: func() map[string]string {
			out := map[string]string{}
			if b.exchange == nil {
				return out
			}
			for _, p := range b.exchange.paired().All() {
				out[string(p.ID)] = p.Server
			}
			return out
		},
		Level: func(r *store.Read, e *store.Event) (priority.Level, error) {
			if b.exchange == nil || b.exchange.link == nil {
				return priority.Routine, nil
			}
			return b.exchange.link.Urgency(r, e)
		},
		Expect: func(d delivery.Due) delivery.Outlook {
			if b.exchange == nil || b.exchange.link == nil {
				return delivery.Outlook{}
			}
			o := b.exchange.link.Expect(d.Server, d.Room, d.Level, d.Ahead, d.Bytes/5) // the codec's mean, with frames and answers
			switch {
			case o.Away:
				return delivery.Outlook{WaitsFor: delivery.WaitsForLink}
			case o.Other:
				return delivery.Outlook{WaitsFor: delivery.WaitsForOther}
			case o.Quiet:
				return delivery.Outlook{In: o.In, WaitsFor: delivery.WaitsForQuiet}
			}
			return delivery.Outlook{In: o.In}
		},
		Notice: func(server string, id event.ID) (delivery.Notice, bool) {
			if b.exchange == nil || b.exchange.link == nil {
				return delivery.Notice{}, false
			}
			h, ok := b.exchange.link.Heralded(server, id)
			n := delivery.Notice{Via: h.Transport, Arrived: h.Arrived}
			if !h.Left.IsZero() {
				n.At = h.Left.UnixMilli()
			}
			return n, ok
		},
		Moved: func() {
			if b.exchange != nil && b.exchange.link != nil {
				b.exchange.link.Moved()
			}
		},
	})
	return b.delivery.Load(ctx)
}

func (b *Box) runDelivery(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return b.delivery.Run(ctx) })
}

// howFar tells clients how far an event has got.
func (b *Box) howFar(ctx context.Context, room event.RoomID, id event.ID) (any, bool, error) {
	l, ok, err := b.delivery.Ladder(ctx, room, id)
	return l, ok, err
}

// shownTime is the time for what people are shown: nothing is better than a date in 1970.
func (b *Box) shownTime() time.Time {
	if !b.clock.Trusted() {
		return time.Time{}
	}
	return b.clock.Now()
}
