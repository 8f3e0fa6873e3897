// SPDX-License-Identifier: EUPL-1.2

package rules

import (
	"math"
	"slices"

	"hallig/appliance/event"
)

// InfiniteLevel is the power of a creator since version 12. No power level can be as high.
const InfiniteLevel = math.MaxInt64

// UserLevel is the power of a user under a state.
// https://spec.matrix.org/v1.16/client-server-api/#mroompower_levels
func UserLevel(s State, u event.UserID) int64 {
	return userLevel(s(Key{Type: typeCreate}), s(Key{Type: typePower}), u)
}

func userLevel(create, power *Event, u event.UserID) int64 {
	if create != nil && create.Create != nil && slices.Contains(create.Create.Creators, u) {
		return InfiniteLevel
	}
	if power != nil && power.Power != nil {
		if n, ok := power.Power.Users[u]; ok {
			return n
		}
		return power.Power.UsersDefault
	}
	if create != nil && create.Create != nil && create.Create.Creators == nil && create.Create.Creator == u {
		return 100
	}
	return 0
}

// noPower is what holds in a room without power levels.
var noPower = PowerLevels{StateDefault: 50, Ban: 50, Redact: 50, Kick: 50}

// Levels gives the power levels of a state, or the defaults. The result must not be changed.
func Levels(s State) *PowerLevels {
	if e := s(Key{Type: typePower}); e != nil && e.Power != nil {
		return e.Power
	}
	return &noPower
}

// NeededLevel is the power that it takes to send an event of that type. Membership, and redacting others, have their own.
func NeededLevel(s State, typ string, isState bool) int64 {
	p := Levels(s)
	if n, ok := p.Events[typ]; ok {
		return n
	}
	if isState {
		return p.StateDefault
	}
	return p.EventsDefault
}

// Membership is a user's membership: join, invite, knock, leave or ban; leave also where there is none.
func Membership(s State, u event.UserID) string {
	if e := s(Key{typeMember, string(u)}); e != nil && e.Member != nil {
		return e.Member.Membership
	}
	return "leave"
}

// JoinRule is the join rule of a state; invite is the default.
func JoinRule(s State) string {
	if e := s(Key{Type: typeJoinRules}); e != nil && e.JoinRules != nil {
		return e.JoinRules.JoinRule
	}
	return "invite"
}

// CanRedact tells whether a redaction of sender takes effect on an event of author, given the state at the redaction.
// https://spec.matrix.org/v1.16/rooms/v11/#handling-redactions
func CanRedact(s State, sender, author event.UserID) bool {
	return sender.Server() == author.Server() || UserLevel(s, sender) >= Levels(s).Redact
}
