// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"time"

	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// This file is for what reaches boxes by other ways than transports: sticks.

// Outbox is the link's own.
func (l *Link) Outbox() *outbox.Outbox { return l.out }

// Codec is the link's own.
func (l *Link) Codec() *parcel.Codec { return l.codec }

// Receipt takes a receipt of a box that came another way.
func (l *Link) Receipt(id peer.ID, k *parcel.Kept) {
	l.post(func() {
		if f := l.fars[id]; f != nil {
			f.later(func(ctx context.Context) func() { return f.takeReceipt(ctx, k) })
		}
	})
}

// Ahead tells that a box has more of our logs than we.
func (l *Link) Ahead() { l.post(func() { l.claimed(time.Now()) }) }

// Returned tells that something of ours has come back that was lost here.
func (l *Link) Returned() { l.post(l.returned) }

// Longer tells that logs have become longer by what a box gave another way: whoever lacks their entries may need them now.
func (l *Link) Longer(from peer.ID, logs []parcel.Vector) {
	l.post(func() {
		if f := l.fars[from]; f != nil {
			f.passOn(logs)
		}
	})
}
