// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// offlineAfter is how long after the last poll a user counts as gone.
const offlineAfter = 45 * time.Second

// maxStatus bounds a status message.
const maxStatus = 512

// PresenceStatus is what others are told of a user: https://spec.matrix.org/latest/client-server-api/#presence
type PresenceStatus struct {
	Presence string `json:"presence"` // online, unavailable, offline
	Status   string `json:"status_msg,omitempty"`
	Ago      int64  `json:"last_active_ago,omitempty"` // ms
	Active   bool   `json:"currently_active,omitempty"`
}

// presence is one user's, in memory only.
type presence struct {
	state  string
	status string
	active time.Time
	serial int64
	polls  int
	gone   *time.Timer // says that the user is gone; its goroutine takes the lock for a moment, Close stops it
}

func (f *Feed) tell(p *presence) PresenceStatus {
	ago := f.opt.Now().Sub(p.active).Milliseconds()
	return PresenceStatus{Presence: p.state, Status: p.status, Ago: max(0, ago), Active: p.state == "online"}
}

// setPresence notes a change and wakes the others; false when nothing changed.
func (f *Feed) setPresence(user event.UserID, state string, status *string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.present[user]
	if p == nil {
		p = &presence{state: "offline"}
		f.present[user] = p
	}
	if state != "offline" {
		p.active = f.opt.Now()
	}
	if p.state == state && (status == nil || *status == p.status) {
		return false
	}
	p.state = state
	if status != nil {
		p.status = *status
	}
	f.typed++
	p.serial = f.typed
	for w := range f.waiters {
		if w.user != user { // a sync must not wake itself by being there
			w.wake()
		}
	}
	return true
}

func (f *Feed) announce(user event.UserID, state string, status *string) {
	if !f.setPresence(user, state, status) || f.opt.OnPresence == nil {
		return
	}
	f.mu.Lock()
	now := f.tell(f.present[user])
	f.mu.Unlock()
	f.opt.OnPresence(user, now)
}

func noPresence() error {
	return &room.Error{Code: "M_FORBIDDEN", Status: 403, Text: "presence is off on this server"}
}

// SetPresence is PUT /presence/{userId}/status; status nil leaves the message as it is.
func (f *Feed) SetPresence(user event.UserID, state string, status *string) error {
	switch {
	case !f.opt.Presence:
		return noPresence()
	case state != "online" && state != "unavailable" && state != "offline":
		return &room.Error{Code: "M_INVALID_PARAM", Status: 400, Text: "presence is online, unavailable or offline"}
	case status != nil && len(*status) > maxStatus:
		return &room.Error{Code: "M_TOO_LARGE", Status: 400, Text: "the status message is too long"}
	}
	f.announce(user, state, status)
	return nil
}

// Presence is GET /presence/{userId}/status; only those who share a room are told.
func (f *Feed) Presence(ctx context.Context, asker, user event.UserID) (PresenceStatus, error) {
	if !f.opt.Presence {
		return PresenceStatus{}, noPresence()
	}
	if asker != user {
		share := false
		err := f.db.View(ctx, func(r *store.Read) (err error) {
			share, err = r.ShareRoom(asker, user)
			return err
		})
		if err != nil {
			return PresenceStatus{}, err
		}
		if !share {
			return PresenceStatus{}, &room.Error{Code: "M_FORBIDDEN", Status: 403, Text: "you share no room with this user"}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.present[user]; p != nil {
		return f.tell(p), nil
	}
	return PresenceStatus{Presence: "offline"}, nil
}

// polling notes that a user's client is there, and returns what notes that it went.
func (f *Feed) polling(user event.UserID, state string) func() {
	if !f.opt.Presence || state == "offline" {
		return func() {}
	}
	if state != "unavailable" {
		state = "online"
	}
	f.announce(user, state, nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.present[user]
	p.polls++
	if p.gone != nil {
		p.gone.Stop()
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if p.polls--; p.polls > 0 {
			return
		}
		if p.gone != nil {
			p.gone.Stop()
		}
		p.gone = time.AfterFunc(offlineAfter, func() {
			f.mu.Lock()
			still := p.polls == 0
			f.mu.Unlock()
			if still {
				f.announce(user, "offline", nil)
			}
		})
	}
}

// presences gives the statuses that changed after a serial, or all that are not offline; also those of users whom the reader
// has come to know since, who are not offline.
func (f *Feed) presences(serial int64, first bool, came map[event.UserID]bool) map[event.UserID]PresenceStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	if serial > f.typed {
		first = true // from before a restart
	}
	out := map[event.UserID]PresenceStatus{}
	for u, p := range f.present {
		if (first || came[u]) && p.state != "offline" || !first && p.serial > serial {
			out[u] = f.tell(p)
		}
	}
	return out
}

// presence adds what changed among those who share a room with the reader.
func (s *syncer) presence() error {
	s.out.Presence = &events{[]json.RawMessage{}}
	if !s.f.opt.Presence {
		return nil
	}
	x := &s.filter.Presence
	if !x.kind("m.presence") {
		return nil
	}
	now := s.f.presences(s.since.typing, s.first, s.came)
	for _, u := range sorted(now) {
		if u == s.user || s.ignored[u] || x.Senders != nil && !slices.Contains(x.Senders, u) || slices.Contains(x.NotSenders, u) {
			continue
		}
		share, err := s.ShareRoom(s.user, u)
		if err != nil {
			return err
		}
		if !share {
			continue
		}
		raw, err := json.Marshal(map[string]any{"type": "m.presence", "sender": u, "content": now[u]})
		if err != nil {
			return err
		}
		s.out.Presence.Events = append(s.out.Presence.Events, raw)
	}
	return nil
}

// ReceivePresence takes another server's m.presence, of its own users.
func (f *Feed) ReceivePresence(ctx context.Context, origin string, edu json.RawMessage) error {
	var c struct {
		Push []struct {
			User     event.UserID `json:"user_id"`
			Presence string       `json:"presence"`
			Status   string       `json:"status_msg"`
		} `json:"push"`
	}
	if !f.opt.Presence || json.Unmarshal(edu, &c) != nil {
		return nil
	}
	for _, p := range c.Push {
		if p.User.Server() != origin || len(p.Status) > maxStatus {
			continue
		}
		switch p.Presence {
		case "online", "unavailable", "offline":
		default:
			continue
		}
		var rooms []event.RoomID
		err := f.db.View(ctx, func(r *store.Read) (err error) {
			rooms, err = r.JoinedRooms(p.User)
			return err
		})
		if err != nil {
			return err
		}
		if len(rooms) > 0 { // nobody here sees strangers, and memory is not theirs to fill
			f.setPresence(p.User, p.Presence, &p.Status)
		}
	}
	return nil
}
