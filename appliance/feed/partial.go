// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"hallig/appliance/event"
	"hallig/appliance/store"
)

// This file shows rooms that were joined before all their members were known. A client that loads members lazily sees such a room at once, with the
// memberships that its timeline needs; to one that wants all members the room is shown, as newly joined, when they are known.

func (s *syncer) partials() error {
	list, err := s.Partials()
	if err != nil || len(list) == 0 {
		return err
	}
	s.partial = make(map[event.RoomID]store.Partial, len(list))
	for _, p := range list {
		s.partial[p.Room] = p
	}
	return nil
}

// lacking says whether members of a room were not known at the look's position.
func (s *syncer) lacking(id event.RoomID) bool {
	p, there := s.partial[id]
	return there && (p.Whole == 0 || p.Whole > s.pos)
}

// hidden says that a room must wait for its members.
func (s *syncer) hidden(id event.RoomID) bool { return !s.filter.Room.State.Lazy && s.lacking(id) }

// completed says that all members of a room have become known since the client's token, or by the end of what is asked for.
func (s *syncer) completed(id event.RoomID) bool {
	p, there := s.partial[id]
	return there && p.Whole > s.since.pos && p.Whole <= s.pos
}

// unveiled says that a room was hidden when the client's token was made and is not any more.
func (s *syncer) unveiled(id event.RoomID) bool { return !s.filter.Room.State.Lazy && s.completed(id) }

// nowShared says that all members of a room may be new to the client: it came in, or they have become known. The latter matters for their keys alone, and with
// tens of thousands of members it matters that it is said only where keys are used.
// https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user
func (s *syncer) nowShared(id event.RoomID, came bool) (bool, error) {
	if came || !s.completed(id) {
		return came, nil
	}
	e, err := s.CurrentStateEvent(id, "m.room.encryption", "")
	return e != nil, err
}

// senderOf finds, in a room whose state may lack it, the membership of who speaks on a page: what the sender names as authority.
func (s *syncer) senderOf(pg page, user event.UserID) (int64, error) {
	for _, e := range pg.events {
		if e.Sender != user {
			continue
		}
		if !s.lacking(e.Room) {
			return 0, nil
		}
		nids, err := s.Authority(e.NID)
		if err != nil {
			return 0, err
		}
		for _, nid := range nids {
			a, err := s.EventByNID(nid)
			if err != nil {
				return 0, err
			}
			if a != nil && a.Room == e.Room && a.Type == "m.room.member" && a.StateKey != nil && *a.StateKey == string(user) && !a.Is(store.Rejected) {
				return nid, nil
			}
		}
	}
	return 0, nil
}
