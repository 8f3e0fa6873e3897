// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"

	"hallig/appliance/health"
)

// show tells the steward how the box does.
func (b *Box) show(ctx context.Context, tree health.Tree) {
	b.care.mu.Lock()
	same := b.care.lamp == tree.State
	b.care.mu.Unlock()
	if b.steward == nil || same {
		return
	}
	if err := b.steward.SetLED(ctx, string(tree.State)); err != nil {
		b.log.Debug("light not set", "err", err)
		return // the next look tries again
	}
	b.care.mu.Lock()
	b.care.lamp = tree.State
	b.care.mu.Unlock()
}
