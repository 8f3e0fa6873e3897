// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// foundUser is one line of the user directory.
type foundUser struct {
	User   event.UserID `json:"user_id"`
	Name   string       `json:"display_name,omitempty"`
	Avatar string       `json:"avatar_url,omitempty"`
}

// directoryScan is how many memberships one search looks at for users of other servers: who is in none but a very big room may be missed.
const directoryScan = 5000

// searchUsers finds everybody who lives here, the asker too, by their profile, and those of other servers who may be seen from here, by what they call themselves in a room that
// the asker may look into. What a local user is called in one room alone is never searched nor shown.
// https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3user_directorysearch
func (h *Handler) searchUsers(ctx context.Context, c *call) (any, error) {
	var req struct {
		Term  string `json:"search_term"`
		Limit *int   `json:"limit"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	limit := 10
	if req.Limit != nil {
		limit = max(0, min(*req.Limit, 100))
	}
	users, more, err := h.Accounts.SearchUsers(ctx, req.Term, limit)
	if err != nil {
		return nil, err
	}
	out := make([]foundUser, len(users), limit)
	for i, u := range users {
		out[i] = foundUser{u.ID, u.DisplayName, u.AvatarURL}
	}
	if !more {
		var others []foundUser
		if others, more, err = h.searchOthers(ctx, c.session.User, req.Term, limit-len(out)); err != nil {
			return nil, err
		}
		out = append(out, others...)
	}
	return map[string]any{"results": out, "limited": more}, nil
}

// searchOthers finds users of other servers in the rooms that a user is in, and in those that anybody may join or read.
func (h *Handler) searchOthers(ctx context.Context, asker event.UserID, term string, limit int) (found []foundUser, more bool, err error) {
	rooms, err := h.openTo(ctx, asker)
	if err != nil {
		return nil, false, err
	}
	term = strings.ToLower(term)
	has := func(s string) bool { return strings.Contains(strings.ToLower(s), term) }
	seen := map[event.UserID]bool{}
	left := directoryScan
	err = h.DB.View(ctx, func(r *store.Read) error {
		for _, id := range rooms {
			members, err := r.FirstMembers(id, true, left)
			if err != nil {
				return err
			}
			left -= len(members)
			for _, m := range members {
				if m.Membership != "join" || seen[m.User] || h.Accounts.Local(m.User) {
					continue
				}
				e, err := r.EventByNID(m.Event)
				if err != nil {
					return err
				}
				var in struct {
					Content struct {
						Name   any `json:"displayname"`
						Avatar any `json:"avatar_url"`
					} `json:"content"`
				}
				if e == nil || json.Unmarshal(e.JSON, &in) != nil {
					continue
				}
				name, _ := in.Content.Name.(string)
				if !has(name) && !has(string(m.User)) {
					continue // another room may know another name
				}
				if len(found) == limit {
					more = true
					return nil
				}
				seen[m.User] = true
				avatar, _ := in.Content.Avatar.(string)
				found = append(found, foundUser{m.User, name, avatar})
			}
			if left <= 0 {
				more = true
				return nil
			}
		}
		return nil
	})
	return found, more, err
}

// openTo lists the rooms that a user is in, then those that anybody may join or read.
func (h *Handler) openTo(ctx context.Context, user event.UserID) (rooms []event.RoomID, err error) {
	var all []event.RoomID
	err = h.DB.View(ctx, func(r *store.Read) (err error) {
		if rooms, err = r.JoinedRooms(user); err == nil {
			all, err = r.Rooms()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	in := make(map[event.RoomID]bool, len(rooms))
	for _, id := range rooms {
		in[id] = true
	}
	for _, id := range all {
		if !in[id] && (h.stateText(ctx, id, "m.room.join_rules", "join_rule") == "public" || h.worldReadable(ctx, id)) {
			rooms = append(rooms, id)
		}
	}
	return rooms, nil
}
