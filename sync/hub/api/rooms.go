// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Rooms lists rooms of a box that it shares with other servers, for the hub to answer about while the box is away.
type Rooms struct {
	All   bool     `json:"all,omitempty"` // these are all: what was listed before and is not here is gone
	Rooms []Room   `json:"rooms"`
	Gone  []string `json:"gone,omitempty"` // no longer shared
}

// Room is one of them.
type Room struct {
	ID      string   `json:"id"`
	Version string   `json:"version"`
	Tips    []string `json:"tips"` // the ends of its graph
}

// Bounds of a Rooms.
const (
	MaxRooms      = 1000
	MaxTips       = 20
	MaxRoomsBytes = 4 << 20
)

// ReadRooms reads a Rooms and refuses what no box says.
func ReadRooms(raw []byte) (Rooms, error) {
	var l Rooms
	if len(raw) > MaxRoomsBytes {
		return l, errors.New("read rooms: too long")
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return l, fmt.Errorf("read rooms: %w", err)
	}
	if len(l.Rooms) > MaxRooms || len(l.Gone) > MaxRooms {
		return l, fmt.Errorf("read rooms: more than %d", MaxRooms)
	}
	for _, r := range l.Rooms {
		if !isName(r.ID, '!') || len(r.Version) > 32 || r.Version == "" || len(r.Tips) > MaxTips {
			return l, fmt.Errorf("read rooms: %.40q is no room", r.ID)
		}
		for _, t := range r.Tips {
			if !isName(t, '$') {
				return l, fmt.Errorf("read rooms: %.40q is no event", t)
			}
		}
	}
	for _, id := range l.Gone {
		if !isName(id, '!') {
			return l, fmt.Errorf("read rooms: %.40q is no room", id)
		}
	}
	return l, nil
}

func isName(s string, sigil byte) bool { return strings.IndexByte(s, sigil) == 0 && len(s) <= 255 }
