// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/conflict"
	"hallig/appliance/event"
	"hallig/appliance/herald"
	"hallig/appliance/room"
)

// tellingParts tell people what the end of a partition has left.
type tellingParts struct {
	herald    *herald.Herald
	conflicts *conflict.Conflicts

	mu    sync.Mutex
	ahead map[event.ID]bool // newest events of rooms of which people were told while these were not whole
}

func (b *Box) joinTelling() {
	b.telling.herald = herald.New(herald.Config{DB: b.db, Server: b.id.Server, Rooms: b.rooms, Profile: b.accounts.DisplayName, Log: b.log.With("room", "herald")})
	b.telling.conflicts = conflict.New(conflict.Config{
		DB: b.db, Server: b.id.Server, Now: b.clock.Now, Quiet: b.cfg.restAfter, Told: b.telling.herald.Poke, Log: b.log.With("room", "conflict"),
		Join: func(ctx context.Context, user event.UserID, id event.RoomID, servers []string) (bool, error) {
			err := b.clients.Join(ctx, user, id, servers)
			return shutOut(err), err
		},
		Leave: func(ctx context.Context, user event.UserID, id event.RoomID) error {
			return b.clients.Leave(ctx, user, id)
		},
	})
}

// shutOut says whether a room does not let somebody in, and asking again is useless.
func shutOut(err error) bool {
	var e *room.Error
	return errors.As(err, &e) && (e.Status == http.StatusForbidden || e.Code == "M_INCOMPATIBLE_ROOM_VERSION" || e.Code == "M_UNSUPPORTED_ROOM_VERSION")
}

func (b *Box) runTelling(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return ended("letters to users", b.telling.herald.Run(ctx)) })
	g.Go(func() error { return ended("conflicts after a partition", b.telling.conflicts.Run(ctx)) })
}

// noteLanguage remembers in which language somebody made their account, for what the box has to tell them.
func (b *Box) noteLanguage(ctx context.Context, user event.UserID, german bool) {
	content := `{"language":"en"}`
	if german {
		content = `{"language":"de"}`
	}
	if err := b.accounts.SetAccountData(ctx, user, "", herald.TypeLanguage, []byte(content)); err != nil {
		b.log.Info("the language of a new account could not be kept; the box writes to it in both", "user", user, "err", err)
	}
}
