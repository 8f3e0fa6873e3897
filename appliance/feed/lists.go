// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"context"
	"maps"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// shared notes who may have come to share a room with the reader, or ceased to, by what changed in one room.
func (s *syncer) shared(m store.Membership, st *stateChange, newly bool) {
	if s.first {
		return
	}
	if newly {
		members, err := s.Members(m.Room, "join")
		if err == nil { // a list that cannot be read now comes up again with the next question for keys
			for _, o := range members {
				s.came[o.User] = true
			}
		}
	}
	for _, u := range st.joins {
		s.came[u] = true
	}
	for _, u := range st.leaves {
		s.went[u] = true
	}
}

// parted notes the members of a room that the reader has left.
func (s *syncer) parted(id event.RoomID) error {
	members, err := s.Members(id, "join")
	for _, o := range members {
		s.went[o.User] = true
	}
	return err
}

// listChanges gives the users whose devices should be asked for again, and those who are no longer of interest.
func (s *syncer) listChanges(after, upTo int64) (changed, left []event.UserID, err error) {
	var users []event.UserID
	if !s.recent.quiet(after) {
		if users, err = s.DeviceListChanges(after, upTo); err != nil {
			return nil, nil, err
		}
	}
	set := map[event.UserID]bool{}
	for _, u := range users {
		shares := u == s.user
		if !shares {
			if shares, err = s.MayShareRoom(s.user, u); err != nil {
				return nil, nil, err
			}
		}
		if shares {
			set[u] = true
		}
	}
	for u := range s.came {
		if u != s.user {
			set[u] = true
		}
	}
	gone := map[event.UserID]bool{}
	for u := range s.went {
		if u == s.user {
			continue
		}
		shares, err := s.ShareRoom(s.user, u)
		if err != nil {
			return nil, nil, err
		}
		if !shares {
			gone[u] = true
			delete(set, u)
		}
	}
	return sorted(set), sorted(gone), nil
}

// KeyChanges answers GET /keys/changes between two tokens.
func (f *Feed) KeyChanges(ctx context.Context, user event.UserID, from, to string) (changed, left []event.UserID, err error) {
	a, err := parseToken(from)
	if err != nil {
		return nil, nil, err
	}
	b, err := parseToken(to)
	if err != nil {
		return nil, nil, err
	}
	err = f.view(ctx, user, "", func(l *look) error {
		s := &syncer{look: l, since: a, filter: &filter{}, came: map[event.UserID]bool{}, went: map[event.UserID]bool{}}
		end := min(b.pos, l.pos)
		if err := s.partials(); err != nil {
			return err
		}
		rooms, err := l.RoomsOf(user)
		if err != nil {
			return err
		}
		for _, m := range rooms {
			if err := s.roomListChanges(m, a.pos, end); err != nil {
				return err
			}
		}
		// Only the last change of a list is kept: one that changed again after the end would be missed. Naming it too is no harm.
		changed, left, err = s.listChanges(a.pos, l.pos)
		return err
	})
	if changed == nil {
		changed = []event.UserID{}
	}
	if left == nil {
		left = []event.UserID{}
	}
	return changed, left, err
}

// roomListChanges collects who came and went in one room.
func (s *syncer) roomListChanges(m store.Membership, after, upTo int64) error {
	if m.Membership != "join" && m.Pos <= after {
		return nil
	}
	was := true
	if m.Pos > after {
		var err error
		if was, err = s.wasJoined(m.Room, after, m.Pos); err != nil {
			return err
		}
	}
	if m.Membership != "join" {
		if was {
			return s.parted(m.Room)
		}
		return nil
	}
	st, err := s.changes(m.Room, after, upTo, false, 0, page{})
	if err != nil {
		return err
	}
	newly, err := s.nowShared(m.Room, !was)
	if err == nil {
		s.shared(m, st, newly)
	}
	return err
}

func sorted[V any](m map[event.UserID]V) []event.UserID { return slices.Sorted(maps.Keys(m)) }
