// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/json"

	"hallig/appliance/conflict"
	"hallig/sync/hub/api"
)

// missedInvite hears from the hub of an invite that it had to refuse while the box was away. Nobody else's word counts.
func (b *Box) missedInvite(ctx context.Context, origin string, content json.RawMessage) error {
	if b.exchange.post.server == "" || origin != b.exchange.post.server {
		return nil
	}
	m, err := api.ReadMissedInvite(content)
	if err != nil {
		return badJSON(api.MissedInviteEDU, err)
	}
	return b.telling.conflicts.Missed(ctx, conflict.Missed{User: m.User, By: m.Sender, Room: m.Room, Name: m.Name, At: m.At()})
}
