// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// Over a narrow line the invited user sees the invite many seconds before its signed form is back with us and becomes an event. Whoever accepts at once
// would be told that nobody has invited him; so the question waits for the invite that is under way.

const (
	inviteSettles = 3 * time.Second  // from the signed invite to the event
	inviteAwaited = 30 * time.Second // at most, by who wants to join
	inviteLook    = 100 * time.Millisecond
)

type invited struct {
	room event.RoomID
	user event.UserID
}

// inviting knows which invites of ours are under way.
type inviting struct {
	mu   sync.Mutex
	now  map[invited]int
	over map[invited]time.Time // when the last one ended
}

func (i *inviting) begin(id event.RoomID, user event.UserID) (done func()) {
	k := invited{id, user}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.now[k]++
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.now[k]--; i.now[k] == 0 {
			delete(i.now, k)
		}
		bound(i.over)
		i.over[k] = time.Now()
	}
}

// underWay says whether an invite is under way, or has just come back.
func (i *inviting) underWay(id event.RoomID, user event.UserID) bool {
	k := invited{id, user}
	i.mu.Lock()
	defer i.mu.Unlock()
	at, ended := i.over[k]
	return i.now[k] > 0 || ended && time.Since(at) < inviteSettles
}

// onceInvited makes the template of a join, after the invite that is under way where there is one.
func (h *Handler) onceInvited(ctx context.Context, id event.RoomID, user event.UserID, try func() (any, error)) (any, error) {
	for end := time.Now().Add(inviteAwaited); ; {
		out, err := try()
		var no *room.Error
		if !errors.As(err, &no) || no.Status != http.StatusForbidden || h.c.Client == nil || !h.c.Client.inviting.underWay(id, user) || time.Now().After(end) {
			return out, err
		}
		if !pause(ctx, inviteLook) {
			return out, err
		}
	}
}
