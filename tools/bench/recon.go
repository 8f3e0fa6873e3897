// SPDX-License-Identifier: EUPL-1.2

package main

import "context"

// reconcile runs the measurements that stand beside the link: eight boxes on two islands that meet again, and two boxes whose
// logs agree while their events do not, with real stores and links over a counted line in virtual time.
func reconcile(ctx context.Context, b *bench) error {
	return b.measured(ctx, "hallig/sync/link", "^(TestReconBytes|TestSketchBytes)$", "", "HALLIG_MEASURE=1")
}
