// SPDX-License-Identifier: EUPL-1.2

package room

import "hallig/appliance/rules"

// redactLevel is the power that redacting others' events needs.
func redactLevel(s rules.State) int64 {
	if p := s(rules.Key{Type: "m.room.power_levels"}); p != nil && p.Power != nil {
		return p.Power.Redact
	}
	return 50
}

// inviteLevel is the power that inviting needs.
func inviteLevel(s rules.State) int64 {
	if p := s(rules.Key{Type: "m.room.power_levels"}); p != nil && p.Power != nil {
		return p.Power.Invite
	}
	return 0
}
