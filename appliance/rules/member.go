// SPDX-License-Identifier: EUPL-1.2

package rules

import "hallig/appliance/event"

// allowedMember is the rule for m.room.member. That content.join_authorised_via_users_server is matched by a signature is checked
// with the other signatures.
func allowedMember(e *Event, s State, create *Event) error {
	if e.StateKey == nil || e.Member == nil || e.Member.Membership == "" {
		return deny("member", "state_key or membership is missing")
	}
	// That the named user's server signed is checked with the other signatures; where none is named, none can have signed.
	if e.Version.Restricted && e.Member.hasAuthorised && e.Member.Authorised.Server() == "" {
		return deny("member", "join_authorised_via_users_server names no user")
	}
	target := event.UserID(*e.StateKey)
	switch e.Member.Membership {
	case "join":
		return allowedJoin(e, s, create, target)
	case "invite":
		return allowedInvite(e, s, target)
	case "leave":
		return allowedLeave(e, s, target)
	case "ban":
		power := UserLevel(s, e.Sender)
		switch {
		case Membership(s, e.Sender) != "join":
			return deny("ban", "the sender is not in the room")
		case power < Levels(s).Ban:
			return deny("ban", "the sender has no power to ban")
		case UserLevel(s, target) >= power:
			return deny("ban", "the user has as much power as the sender")
		}
		return nil
	case "knock":
		if e.Version.Knock {
			return allowedKnock(e, s, target)
		}
	}
	return deny("member", "the membership is unknown")
}

func allowedJoin(e *Event, s State, create *Event, target event.UserID) error {
	const rule = "join"
	if len(e.Prev) == 1 && e.Prev[0] == create.ID && target == create.Create.Creator {
		return nil
	}
	if e.Sender != target {
		return deny(rule, "nobody can join for somebody else")
	}
	now := Membership(s, target)
	if now == "ban" {
		return deny(rule, "the user is banned")
	}
	v, joinRule := e.Version, JoinRule(s)
	switch {
	case joinRule == "public":
		return nil
	case joinRule == "invite", joinRule == "knock" && v.Knock:
		if now == "invite" || now == "join" {
			return nil
		}
		return deny(rule, "the user is not invited")
	case joinRule == "restricted" && v.Restricted, joinRule == "knock_restricted" && v.KnockRestricted:
		if now == "invite" || now == "join" {
			return nil
		}
		by := e.Member.Authorised
		if !e.Member.hasAuthorised || Membership(s, by) != "join" {
			return deny(rule, "the user is not invited, and nobody in the room authorises it")
		}
		if UserLevel(s, by) < Levels(s).Invite {
			return deny(rule, "who authorises it has no power to invite")
		}
		return nil
	}
	return deny(rule, "the join rule does not allow it")
}

func allowedInvite(e *Event, s State, target event.UserID) error {
	const rule = "invite"
	now := Membership(s, target)
	if t := e.Member.ThirdParty; t != nil {
		if now == "ban" {
			return deny(rule, "the user is banned")
		}
		if !t.complete {
			return deny(rule, "the third-party invite is not signed for a user and a token")
		}
		if t.User != string(target) {
			return deny(rule, "the third-party invite is signed for somebody else")
		}
		offer := s(Key{typeThirdParty, t.Token})
		if offer == nil || offer.ThirdParty == nil {
			return deny(rule, "nobody was invited under this token")
		}
		if offer.Sender != e.Sender {
			return deny(rule, "somebody else invited under this token")
		}
		if !t.verify(offer.ThirdParty.Keys) {
			return deny(rule, "no signature of the third-party invite holds")
		}
		return nil
	}
	switch {
	case Membership(s, e.Sender) != "join":
		return deny(rule, "the sender is not in the room")
	case now == "join":
		return deny(rule, "the user is in the room already")
	case now == "ban":
		return deny(rule, "the user is banned")
	case UserLevel(s, e.Sender) < Levels(s).Invite:
		return deny(rule, "the sender has no power to invite")
	}
	return nil
}

func allowedLeave(e *Event, s State, target event.UserID) error {
	const rule = "leave"
	now := Membership(s, e.Sender)
	if e.Sender == target {
		if now == "invite" || now == "join" || now == "knock" && e.Version.Knock {
			return nil
		}
		return deny(rule, "the user is not in the room")
	}
	power, levels := UserLevel(s, e.Sender), Levels(s)
	switch {
	case now != "join":
		return deny(rule, "the sender is not in the room")
	case Membership(s, target) == "ban" && power < levels.Ban:
		return deny(rule, "the sender has no power to lift a ban")
	case power < levels.Kick:
		return deny(rule, "the sender has no power to remove somebody")
	case UserLevel(s, target) >= power:
		return deny(rule, "the user has as much power as the sender")
	}
	return nil
}

func allowedKnock(e *Event, s State, target event.UserID) error {
	const rule = "knock"
	if r := JoinRule(s); r != "knock" && (r != "knock_restricted" || !e.Version.KnockRestricted) {
		return deny(rule, "the join rule does not allow it")
	}
	if e.Sender != target {
		return deny(rule, "nobody can knock for somebody else")
	}
	switch now := Membership(s, target); now {
	case "ban", "invite", "join":
		return deny(rule, "the membership is "+now)
	}
	return nil
}
