// SPDX-License-Identifier: EUPL-1.2

package main

import "context"

// joinRoom runs the measurement that stands beside the link: a room of 200 members is joined over a simulated line in virtual time,
// by the real Server-Server API.
func joinRoom(ctx context.Context, b *bench) error {
	return b.measured(ctx, "hallig/sync/link", "^TestJoin200$", "s")
}
