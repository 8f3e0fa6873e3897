// SPDX-License-Identifier: EUPL-1.2

package rules

import (
	"fmt"
	"slices"
	"strings"

	"hallig/appliance/event"
)

// Allowed applies the authorisation rules of e's version under a state, except those about the listed auth events, see
// CheckAuthEvents. A nil error allows; any other is a *Denied.
// https://spec.matrix.org/v1.16/rooms/v12/#authorisation-rules
func Allowed(e *Event, s State) error {
	if e.Type == typeCreate {
		return allowedCreate(e)
	}
	create := s(Key{Type: typeCreate})
	if create == nil || create.Create == nil {
		return deny("create", "the room has no create event")
	}
	if create.Room != e.Room {
		return deny("create", "the create event is of another room")
	}
	if !create.Create.Federate && e.Sender.Server() != create.Sender.Server() {
		return deny("federate", "the room is closed to other servers")
	}
	if e.Type == typeAliases && e.Version.AliasesRule {
		if e.StateKey == nil || e.Sender.Server() != *e.StateKey {
			return deny("aliases", "the state key is not the sender's server")
		}
		return nil
	}
	if e.Type == typeMember {
		return allowedMember(e, s, create)
	}
	if Membership(s, e.Sender) != "join" {
		return deny("sender", "the sender is not in the room")
	}
	power := UserLevel(s, e.Sender)
	if e.Type == typeThirdParty {
		if power < Levels(s).Invite {
			return deny("third-party invite", "the sender has no power to invite")
		}
		return nil
	}
	if need := NeededLevel(s, e.Type, e.StateKey != nil); need > power {
		return deny("required level", fmt.Sprintf("%s needs power %d, the sender has %d", e.Type, need, power))
	}
	if e.StateKey != nil && strings.HasPrefix(*e.StateKey, "@") && *e.StateKey != string(e.Sender) {
		return deny("state key", "it names another user")
	}
	switch {
	case e.Type == typePower:
		return allowedPower(e, s, create, power)
	case e.Type == typeRedaction && e.Version.RedactionRule:
		if power < Levels(s).Redact && event.UserID(e.Redacts).Server() != e.Sender.Server() {
			return deny("redaction", "the sender has no power to redact events of other servers")
		}
	}
	return nil
}

func allowedCreate(e *Event) error {
	c := e.Create
	if c == nil {
		return deny("create", "the content is invalid")
	}
	if len(e.Prev) > 0 {
		return deny("create", "it has prev_events")
	}
	// Since version 12 a create event with a room_id is not even parsed.
	if !e.Version.CreateIsRoomID && event.UserID(e.Room).Server() != e.Sender.Server() {
		return deny("create", "the room id is not of the sender's server")
	}
	if c.RoomVersion != "" || c.badVersion {
		if _, ok := event.Lookup(c.RoomVersion); !ok {
			return deny("create", "the room version is unknown")
		}
	}
	if c.noCreator {
		return deny("create", "it names no creator")
	}
	return nil
}

// allowedPower is the rule for power levels; thin records guarantee already that all levels are numbers.
func allowedPower(e *Event, s State, create *Event, power int64) error {
	const rule = "power levels"
	now := e.Power
	if now == nil {
		return deny(rule, "the content is invalid")
	}
	for _, u := range create.Create.Creators {
		if _, ok := now.Users[u]; ok {
			return deny(rule, "it lists a creator")
		}
	}
	last := s(Key{Type: typePower})
	if last == nil || last.Power == nil {
		return nil
	}
	old := last.Power
	for i, name := range levelNames {
		bit := uint(1) << i
		was, is := *old.level(i), *now.level(i)
		if old.present&bit == now.present&bit && was == is {
			continue
		}
		if old.present&bit != 0 && was > power || now.present&bit != 0 && is > power {
			return deny(rule, name+" is beyond the sender's power")
		}
	}
	if err := changes(old.Events, now.Events, power, "events"); err != nil {
		return err
	}
	if e.Version.NotifyLevels {
		if err := changes(old.Notifications, now.Notifications, power, "notifications"); err != nil {
			return err
		}
	}
	for u, was := range old.Users {
		if is, ok := now.Users[u]; (!ok || is != was) && u != e.Sender && was >= power {
			return deny(rule, "a user has as much power as the sender")
		}
	}
	for u, is := range now.Users {
		if was, ok := old.Users[u]; (!ok || is != was) && is > power {
			return deny(rule, "it gives more power than the sender has")
		}
	}
	return nil
}

func changes(old, now map[string]int64, power int64, what string) error {
	for k, was := range old {
		if is, ok := now[k]; (!ok || is != was) && was > power {
			return deny("power levels", what+": an old level is beyond the sender's power")
		}
	}
	for k, is := range now {
		if was, ok := old[k]; (!ok || is != was) && is > power {
			return deny("power levels", what+": a new level is beyond the sender's power")
		}
	}
	return nil
}

// AuthNeeded lists the keys that the auth events of e are selected from; what a state does not hold is left out.
// https://spec.matrix.org/v1.16/server-server-api/#auth-events-selection
func AuthNeeded(e *Event) []Key {
	if e.Type == typeCreate {
		return nil
	}
	keys := make([]Key, 0, 6)
	if !e.Version.CreateIsRoomID {
		keys = append(keys, Key{Type: typeCreate})
	}
	keys = append(keys, Key{Type: typePower}, Key{typeMember, string(e.Sender)})
	if e.Type != typeMember || e.StateKey == nil || e.Member == nil {
		return keys
	}
	add := func(k Key) {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	add(Key{typeMember, *e.StateKey})
	switch m := e.Member; m.Membership {
	case "join":
		add(Key{Type: typeJoinRules})
		if m.hasAuthorised && e.Version.Restricted {
			add(Key{typeMember, string(m.Authorised)})
		}
	case "knock":
		add(Key{Type: typeJoinRules})
	case "invite":
		add(Key{Type: typeJoinRules})
		if m.ThirdParty != nil && m.ThirdParty.complete {
			add(Key{typeThirdParty, m.ThirdParty.Token})
		}
	}
	return keys
}

// CheckAuthEvents applies the rules about the listed auth events themselves, and then Allowed under the state that they make. auth are the
// events that e.Auth names; create is the room's create event, needed since version 12, where it is not among them.
func CheckAuthEvents(e *Event, auth []*Event, create *Event) error {
	const rule = "auth events"
	if e.Type == typeCreate {
		return allowedCreate(e)
	}
	needed := AuthNeeded(e)
	if e.Version.CreateIsRoomID {
		if create == nil || create.Type != typeCreate || create.Rejected || len(create.ID) < 2 || string(e.Room) != "!"+string(create.ID[1:]) {
			return deny("create", "the room id does not name an accepted create event")
		}
	} else {
		create = nil
	}
	held := make([]*Event, len(needed))
	for _, a := range auth {
		i := -1
		if a.StateKey != nil {
			i = slices.Index(needed, Key{a.Type, *a.StateKey})
		}
		switch {
		case i < 0:
			return deny(rule, a.Type+" has no part in this")
		case held[i] != nil:
			return deny(rule, a.Type+" stands there twice")
		case a.Rejected:
			return deny(rule, a.Type+" was rejected")
		case a.Room != e.Room:
			return deny(rule, a.Type+" is of another room")
		}
		held[i] = a
		if a.Type == typeCreate {
			create = a
		}
	}
	if create == nil {
		return deny(rule, "there is no create event")
	}
	return Allowed(e, func(k Key) *Event {
		if i := slices.Index(needed, k); i >= 0 {
			return held[i]
		}
		if k.Type == typeCreate {
			return create
		}
		return nil
	})
}
