// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"maps"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/herald"
	"hallig/appliance/store"
	"hallig/appliance/tidings"
	"hallig/sync/federation"
)

// tellAhead tells people what was said last in rooms that are still being caught up. What somebody was told once is not told again when the link comes and goes.
func (b *Box) tellAhead(ctx context.Context, server string, heads []federation.Head) {
	b.telling.mu.Lock()
	if b.telling.ahead == nil || len(b.telling.ahead) > 10_000 {
		b.telling.ahead = map[event.ID]bool{}
	}
	var tell []tidings.Head
	for _, h := range heads {
		if !b.telling.ahead[h.Newest[0].ID] {
			b.telling.ahead[h.Newest[0].ID] = true
			tell = append(tell, tidings.Head{Room: h.Room, Newest: h.Newest, Before: h.Before})
		}
	}
	b.telling.mu.Unlock()
	if len(tell) == 0 {
		return
	}
	err := b.db.DoSmall(ctx, func(tx *store.Tx) error {
		letters, err := tidings.Letters(tx.Read, b.id.Server, server, tell)
		if err != nil {
			return err
		}
		for _, user := range slices.Sorted(maps.Keys(letters)) {
			if err := herald.Owe(tx, user, letters[user]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.log.Warn("people were not told what is newest; they see it when their rooms are whole", "server", server, "err", err)
		return
	}
	b.telling.herald.Poke()
}
