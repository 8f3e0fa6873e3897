// SPDX-License-Identifier: EUPL-1.2

package main

import "context"

// courier carries a hundred thousand events out and in, on the disk to measure. The measurement stands beside the courier, with real stores and rooms.
func courier(ctx context.Context, b *bench) error {
	env := []string{"HALLIG_COURIER_EVENTS=100000"}
	if b.dir != "" {
		env = append(env, "TMPDIR="+b.dir)
	}
	return b.measured(ctx, "hallig/sync/courier", "^TestCarryMany$", "", env...)
}
