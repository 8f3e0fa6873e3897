// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// This file passes on what is gone when it does not go at once: who types, and who is there.

// Typing tells the room's servers that a local user types or stops; best effort, nothing is kept.
func (s *Sender) Typing(ctx context.Context, id event.RoomID, user event.UserID, typing bool) {
	servers, err := s.c.Rooms.Servers(ctx, id)
	if err != nil {
		return // a hint that is lost hurts nobody
	}
	content, _ := json.Marshal(map[string]any{"room_id": id, "user_id": user, "typing": typing}) // plain values
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, server := range servers {
		s.hint(server, string(id)+" "+string(user), edu{Kind: "m.typing", Content: content})
	}
}

// hint passes an EDU on that is gone when it does not go at once. A server that has just come into a room is not known to the dispatcher yet: what is said in
// that moment waits for it. The caller holds mu.
func (s *Sender) hint(server, key string, e edu) {
	if d := s.dests[server]; d != nil {
		if !d.failing.Load() {
			d.hint(key, e)
			poke(d.wake)
		}
		return
	}
	if !s.speaksTo(server) {
		return
	}
	if s.early[server] == nil {
		s.early[server] = map[string]edu{}
	}
	addHint(s.early[server], key, e)
	s.now[server] = true
	poke(s.wake)
}

// Presence tells the servers that share a room with a local user how present the user is; best effort, nothing is kept.
func (s *Sender) Presence(ctx context.Context, user event.UserID, status json.RawMessage) {
	names := map[string]bool{}
	err := s.c.DB.View(ctx, func(r *store.Read) error {
		rooms, err := r.JoinedRooms(user)
		if err != nil {
			return err
		}
		for _, id := range rooms {
			servers, err := r.Servers(id)
			if err != nil {
				return err
			}
			for _, name := range servers {
				names[name] = true
			}
		}
		return nil
	})
	if err != nil {
		return // a hint that is lost hurts nobody
	}
	content, _ := json.Marshal(map[string]any{"push": []json.RawMessage{status}}) // JSON already
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range names {
		s.hint(name, "presence "+string(user), edu{Kind: "m.presence", Content: content})
	}
}
