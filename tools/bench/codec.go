// SPDX-License-Identifier: EUPL-1.2

package main

import "context"

// codec runs the measurement that stands beside the event codec: rooms of all versions, made with real keys.
func codec(ctx context.Context, b *bench) error {
	return b.measured(ctx, "hallig/sync/parcel", "^Test(Corpus|Queues)$", "%")
}

// sends runs the measurement of signed transactions over narrow links.
func sends(ctx context.Context, b *bench) error {
	return b.measured(ctx, "hallig/sync/parcel", "^TestSendMeasure$", "bytes")
}
