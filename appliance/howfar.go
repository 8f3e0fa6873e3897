// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/delivery"
	"hallig/appliance/event"
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
		Expect: func(server string, ahead, size int) (time.Duration, bool) {
			if b.exchange == nil || b.exchange.link == nil {
				return 0, false
			}
			return b.exchange.link.Expect(server, ahead, size/5) // the codec's mean, with frames and answers
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
