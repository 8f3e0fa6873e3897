// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hallig/appliance/event"
)

// MissedInviteEDU is the kind of EDU, in a transaction that the hub signs itself, by which a box hears of an invite that the hub had to refuse while the box was away.
const MissedInviteEDU = "org.hallig.missed_invite"

// MissedInvite is what such an EDU tells.
type MissedInvite struct {
	User   event.UserID `json:"user_id"` // of the box
	Sender event.UserID `json:"sender"`
	Room   event.RoomID `json:"room_id"`
	Name   string       `json:"room_name,omitempty"` // as the invite told it
	TS     int64        `json:"ts"`                  // when, milliseconds since 1970
}

// At is when the invite was refused.
func (m MissedInvite) At() time.Time { return time.UnixMilli(m.TS) }

// MaxRoomName bounds Name, in bytes; more of a name is cut off by the hub.
const MaxRoomName = 400

// ReadMissedInvite reads a MissedInvite and refuses what names nobody.
func ReadMissedInvite(raw []byte) (MissedInvite, error) {
	var m MissedInvite
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("read missed invite: %w", err)
	}
	_, uerr := event.ParseUserID(string(m.User))
	_, serr := event.ParseUserID(string(m.Sender))
	switch {
	case uerr != nil || serr != nil || len(m.Room) < 2 || len(m.Room) > 255 || m.Room[0] != '!':
		return m, errors.New("read missed invite: it does not say who, whom and where")
	case len(m.Name) > MaxRoomName || m.TS <= 0:
		return m, errors.New("read missed invite: the name is too long, or the time is missing")
	}
	return m, nil
}
