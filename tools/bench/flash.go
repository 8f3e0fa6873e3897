// SPDX-License-Identifier: EUPL-1.2

package main

import "context"

// flashLatency runs the measurement that stands beside the link. flash_..._s is until people can read the text, mostly ahead of its signature and marked so;
// flash_..._signed_s until the signed event is in the room.
func flashLatency(ctx context.Context, b *bench) error {
	return b.measured(ctx, "hallig/sync/link", "^TestFlashLatency$", "s", "HALLIG_MEASURE=1")
}
