// SPDX-License-Identifier: EUPL-1.2

package rules

// History gives the meaning of a history visibility: what is missing or unknown is "shared".
func History(e *Event) string {
	if e != nil && e.StateKey != nil && *e.StateKey == "" {
		switch h := e.HistoryVisibility; h {
		case "world_readable", "shared", "invited", "joined":
			return h
		}
	}
	return "shared"
}

// CanSee tells whether a user may see an event. history and membership are those of the state at the event; joinedSince says that the
// user is in the room now, or joined it at any point after the event.
//
// For m.room.history_visibility events, ask with the value before and with the value after the event, and for the user's own m.room.member
// events with the membership before and after: one yes is enough.
// https://spec.matrix.org/v1.16/client-server-api/#server-behaviour-6
func CanSee(history, membership string, joinedSince bool) bool {
	switch {
	case history == "world_readable", membership == "join":
		return true
	case history == "joined":
		return false
	case history == "invited":
		return membership == "invite"
	}
	return joinedSince
}

// ServerCanSee tells whether a server may see an event of a room it is in: whether any of its users was joined, or invited, at the event.
func ServerCanSee(history string, joined, invited bool) bool {
	switch history {
	case "joined":
		return joined
	case "invited":
		return joined || invited
	}
	return true
}
