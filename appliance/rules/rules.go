// SPDX-License-Identifier: EUPL-1.2

// Package rules is the law of rooms: which events are allowed under which state (authorisation rules), which events an event
// must name as its authority (auth events selection), which state holds where branches of a room meet (state resolution 2 and 2.1),
// and who may see what (history visibility).
//
// It works on thin records, made once from each event by Thin, and never touches JSON afterwards. State is a question ("who holds this
// key?"), so that the caller may answer from any store. Room versions differ by the columns of event.Version only.
//
// What is checked elsewhere: signatures of servers and hashes (package event, and whoever holds the keys), among them the signature that
// content.join_authorised_via_users_server asks for, see event.PDU.SignedBy. Signatures of third-party invites are checked here.
//
// Pure: values in, values out. All functions may be called concurrently; thin records are never changed.
package rules

import (
	"hallig/appliance/event"
)

// The types the law knows.
const (
	typeCreate     = "m.room.create"
	typeMember     = "m.room.member"
	typePower      = "m.room.power_levels"
	typeJoinRules  = "m.room.join_rules"
	typeThirdParty = "m.room.third_party_invite"
	typeAliases    = "m.room.aliases"
	typeRedaction  = "m.room.redaction"
	typeHistory    = "m.room.history_visibility"
)

// Key says what a state event is about.
type Key struct{ Type, StateKey string }

// Event is what the law needs to know of one event. It is made by Thin, kept in caches, and never changed but for Rejected,
// which its maker sets.
type Event struct {
	ID        event.ID
	Version   *event.Version
	Room      event.RoomID
	Sender    event.UserID
	Type      string
	StateKey  *string
	TS, Depth int64
	Prev      []event.ID
	Auth      []event.ID
	Rejected  bool

	// What the law reads of the content; nil where the type does not match.
	Create            *Create
	Member            *Member
	Power             *PowerLevels
	JoinRules         *JoinRules
	ThirdParty        *ThirdPartyInvite
	Redacts           event.ID
	HistoryVisibility string // of m.room.history_visibility, as it stands there

	key string // what StateKey points to, so that a thin record does not keep the whole event alive
}

func (e *Event) is(typ, stateKey string) bool {
	return e.StateKey != nil && e.Type == typ && *e.StateKey == stateKey
}

// State answers who holds a key; nil: nobody.
type State func(Key) *Event

// Denied says which rule does not allow an event, and why, in words for a log or a client.
type Denied struct {
	Rule   string // of the rules of version 12: "join", "power levels", "auth events", ...
	Reason string
}

func (d *Denied) Error() string { return d.Rule + ": " + d.Reason }

func deny(rule, reason string) error { return &Denied{Rule: rule, Reason: reason} }
