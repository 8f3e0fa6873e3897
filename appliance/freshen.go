// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/json"
	"slices"

	"hallig/appliance/event"
)

// This file makes what the box keeps of other servers' devices fresh when a server is back. A central server tells of a new phone once; after an outage it may have pruned that, or
// given it up (Synapse after a day, Dendrite after some eighteen hours), and whoever writes to the new phone's owner would leave it out for ever.

// usersAtOnce is how many users' devices are asked for in one request.
const usersAtOnce = 100

// serverBack is told by the feed that a server is there again: from now on its users' kept lists answer only while it does not answer itself, and are fetched.
func (b *Box) serverBack(ctx context.Context, server string) {
	if err := b.accounts.DoubtRemoteLists(ctx, server); err != nil {
		b.log.Warn("device lists not doubted; restart the box if people cannot read each other's messages", "server", server, "err", err)
		return
	}
	select {
	case b.staleServers <- server:
	default: // so many at once: the lists are stale, the next question asks
	}
}

// freshenDevices fetches the lists of servers that are back until ctx ends.
func (b *Box) freshenDevices(ctx context.Context) {
	for {
		select {
		case server := <-b.staleServers:
			if err := b.freshenFrom(ctx, server); err != nil && ctx.Err() == nil {
				b.log.Info("device lists not fetched; the next key query asks", "server", server, "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (b *Box) freshenFrom(ctx context.Context, server string) error {
	users, err := b.accounts.StaleRemoteUsers(ctx, server)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(users, usersAtOnce) {
		req := map[string]map[event.UserID][]string{"device_keys": {}}
		for _, u := range part {
			req["device_keys"][u] = []string{}
		}
		raw, err := json.Marshal(req)
		if err != nil {
			return err
		}
		answer, err := b.fed.client.QueryKeys(ctx, server, raw)
		if err != nil {
			return err
		}
		if err := b.accounts.FreshenRemoteLists(ctx, part, answer); err != nil {
			return err
		}
	}
	if len(users) > 0 {
		b.log.Info("device lists fetched anew", "server", server, "users", len(users))
	}
	return nil
}
