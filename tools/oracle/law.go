// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"math/big"
	"slices"
	"strings"
)

// skey is a type and a state key.
type skey struct{ typ, key string }

// litState answers which event holds a key, nil: none.
type litState func(skey) *lit

var infinite = new(big.Int).Lsh(big.NewInt(1), 300)

func domain(id string) string {
	_, d, _ := strings.Cut(id, ":")
	return d
}

// litSelection: https://spec.matrix.org/v1.16/server-server-api/#auth-events-selection
func litSelection(e *lit) []skey {
	if e.typ == "m.room.create" {
		return nil
	}
	var keys []skey
	add := func(typ, key string) {
		if k := (skey{typ, key}); !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	if e.version < 12 {
		add("m.room.create", "")
	}
	add("m.room.power_levels", "")
	add("m.room.member", e.sender)
	if e.typ == "m.room.member" && e.key != nil {
		add("m.room.member", *e.key)
		membership, _ := e.content["membership"].(string)
		if membership == "join" || membership == "invite" || membership == "knock" {
			add("m.room.join_rules", "")
		}
		if invite, ok := e.content["third_party_invite"]; ok && membership == "invite" {
			invite, _ := invite.(object)
			signed, _ := invite["signed"].(object)
			if token, ok := signed["token"].(string); ok {
				add("m.room.third_party_invite", token)
			}
		}
		if by, ok := e.content["join_authorised_via_users_server"].(string); ok && membership == "join" && e.version >= 8 {
			add("m.room.member", by)
		}
	}
	return keys
}

type denied string

func (d denied) Error() string { return string(d) }

// litByAuth is check 4 on receipt: the rules about the auth events, then all others under the state that they make.
func litByAuth(e *lit, byID func(string) *lit, signed func(*lit, string) bool) error {
	if e.typ == "m.room.create" {
		return litAllowed(e, nil, signed)
	}
	if e.version >= 12 {
		create := byID("$" + e.room[1:])
		if create == nil || create.typ != "m.room.create" || create.rejected {
			return denied("2")
		}
	}
	selection := litSelection(e)
	held := map[skey]*lit{}
	for _, id := range e.auth {
		a := byID(id)
		if a == nil {
			continue // the caller says what becomes of events whose auth events are unknown
		}
		if a.key == nil {
			return denied("3.2")
		}
		k := skey{a.typ, *a.key}
		if held[k] != nil {
			return denied("3.1")
		}
		held[k] = a
		if !slices.Contains(selection, k) {
			return denied("3.2")
		}
		if a.rejected {
			return denied("3.3")
		}
		if a.room != e.room {
			return denied("3.5")
		}
	}
	if e.version >= 12 {
		held[skey{"m.room.create", ""}] = byID("$" + e.room[1:])
	} else if held[skey{"m.room.create", ""}] == nil {
		return denied("2.4 of version 11")
	}
	return litAllowed(e, func(k skey) *lit { return held[k] }, signed)
}

// litAllowed is the rest of the authorisation rules under a state, in the numbering of version 12.
// https://spec.matrix.org/v1.16/rooms/v12/#authorisation-rules
func litAllowed(e *lit, state litState, signed func(*lit, string) bool) error {
	if e.typ == "m.room.create" {
		return litCreate(e)
	}
	create := state(skey{"m.room.create", ""})
	if create == nil {
		return denied("no create event")
	}
	if create.content["m.federate"] == false && domain(e.sender) != domain(create.sender) {
		return denied("4")
	}
	if e.typ == "m.room.aliases" && e.version < 6 {
		if e.key == nil || domain(e.sender) != *e.key {
			return denied("4 of version 5")
		}
		return nil
	}
	if e.typ == "m.room.member" {
		return litMember(e, state, create, signed)
	}
	if litMembership(state, e.sender) != "join" {
		return denied("6")
	}
	power := litPower(state, e.sender)
	if e.typ == "m.room.third_party_invite" {
		if power.Cmp(litLevel(state, "invite", 0)) >= 0 {
			return nil
		}
		return denied("7.1")
	}
	if litRequired(state, e).Cmp(power) > 0 {
		return denied("8")
	}
	if e.key != nil && strings.HasPrefix(*e.key, "@") && *e.key != e.sender {
		return denied("9")
	}
	if e.typ == "m.room.power_levels" {
		return litPowerLevels(e, state, create, power)
	}
	return nil
}

func litCreate(e *lit) error {
	if len(e.prev) > 0 {
		return denied("1.1")
	}
	if _, has := e.raw["room_id"]; e.version >= 12 && has {
		return denied("1.2")
	}
	if e.version < 12 && domain(e.room) != domain(e.sender) {
		return denied("1.2")
	}
	if v, ok := e.content["room_version"]; ok {
		s, _ := v.(string)
		if !slices.Contains([]string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}, s) {
			return denied("1.3")
		}
	}
	if more, ok := e.content["additional_creators"]; ok && e.version >= 12 {
		list, ok := more.([]any)
		if !ok {
			return denied("1.4")
		}
		for _, x := range list {
			if s, ok := x.(string); !ok || !litUserID(s) {
				return denied("1.4")
			}
		}
	}
	if _, ok := e.content["creator"]; e.version < 11 && !ok {
		return denied("1.4 of version 10")
	}
	return nil
}

func litMember(e *lit, state litState, create *lit, signed func(*lit, string) bool) error {
	m, has := e.content["membership"]
	if e.key == nil || !has {
		return denied("5.1")
	}
	if by, ok := e.content["join_authorised_via_users_server"]; ok && e.version >= 8 {
		s, _ := by.(string)
		if !signed(e, domain(s)) {
			return denied("5.2.1")
		}
	}
	target := *e.key
	sender, now := litMembership(state, e.sender), litMembership(state, target)
	power, targetPower := litPower(state, e.sender), litPower(state, target)
	switch m {
	case "join":
		return litJoin(e, state, create)
	case "invite":
		if invite, ok := e.content["third_party_invite"]; ok {
			return litThirdParty(e, state, invite)
		}
		switch {
		case sender != "join":
			return denied("5.4.2")
		case now == "join" || now == "ban":
			return denied("5.4.3")
		case power.Cmp(litLevel(state, "invite", 0)) >= 0:
			return nil
		}
		return denied("5.4.5")
	case "leave":
		if e.sender == target {
			if now == "invite" || now == "join" || now == "knock" && e.version >= 7 {
				return nil
			}
			return denied("5.5.1")
		}
		switch {
		case sender != "join":
			return denied("5.5.2")
		case now == "ban" && power.Cmp(litLevel(state, "ban", 50)) < 0:
			return denied("5.5.3")
		case power.Cmp(litLevel(state, "kick", 50)) >= 0 && targetPower.Cmp(power) < 0:
			return nil
		}
		return denied("5.5.5")
	case "ban":
		switch {
		case sender != "join":
			return denied("5.6.1")
		case power.Cmp(litLevel(state, "ban", 50)) >= 0 && targetPower.Cmp(power) < 0:
			return nil
		}
		return denied("5.6.3")
	case "knock":
		if e.version < 7 {
			return denied("5.8")
		}
		rule := litJoinRule(state)
		switch {
		case rule != "knock" && !(rule == "knock_restricted" && e.version >= 10):
			return denied("5.7.1")
		case e.sender != target:
			return denied("5.7.2")
		case now != "ban" && now != "invite" && now != "join":
			return nil
		}
		return denied("5.7.4")
	}
	return denied("5.8")
}

func litJoin(e *lit, state litState, create *lit) error {
	creator := create.sender
	if e.version < 11 {
		creator, _ = create.content["creator"].(string)
	}
	if len(e.prev) == 1 && e.prev[0] == create.id && *e.key == creator {
		return nil
	}
	now := litMembership(state, *e.key)
	switch {
	case e.sender != *e.key:
		return denied("5.3.2")
	case now == "ban":
		return denied("5.3.3")
	}
	rule := litJoinRule(state)
	in := now == "invite" || now == "join"
	switch {
	case rule == "public":
		return nil
	case rule == "invite", rule == "knock" && e.version >= 7:
		if in {
			return nil
		}
	case rule == "restricted" && e.version >= 8, rule == "knock_restricted" && e.version >= 10:
		if in {
			return nil
		}
		by, _ := e.content["join_authorised_via_users_server"].(string)
		if litMembership(state, by) != "join" || litPower(state, by).Cmp(litLevel(state, "invite", 0)) < 0 {
			return denied("5.3.5.2")
		}
		return nil
	}
	return denied("5.3.7")
}

func litThirdParty(e *lit, state litState, v any) error {
	if litMembership(state, *e.key) == "ban" {
		return denied("5.4.1.1")
	}
	invite, _ := v.(object)
	signed, ok := invite["signed"].(object)
	if !ok {
		return denied("5.4.1.2")
	}
	mxid, okUser := signed["mxid"].(string)
	token, okToken := signed["token"].(string)
	if !okUser || !okToken {
		return denied("5.4.1.3")
	}
	if mxid != *e.key {
		return denied("5.4.1.4")
	}
	offer := state(skey{"m.room.third_party_invite", token})
	if offer == nil {
		return denied("5.4.1.5")
	}
	if offer.sender != e.sender {
		return denied("5.4.1.6")
	}
	keys := []any{offer.content["public_key"]}
	list, _ := offer.content["public_keys"].([]any)
	for _, x := range list {
		o, _ := x.(object)
		keys = append(keys, o["public_key"])
	}
	message := litCanonical(dropped(signed, "signatures", "unsigned"))
	servers, _ := signed["signatures"].(object)
	for _, k := range keys {
		s, _ := k.(string)
		pub, err := base64.RawStdEncoding.DecodeString(s)
		if err != nil || len(pub) != ed25519.PublicKeySize {
			continue
		}
		for _, of := range servers {
			of, _ := of.(object)
			for _, text := range of {
				text, _ := text.(string)
				sig, err := base64.RawStdEncoding.DecodeString(text)
				if err == nil && ed25519.Verify(pub, message, sig) {
					return nil
				}
			}
		}
	}
	return denied("5.4.1.8")
}

func litMembership(state litState, user string) string {
	if m := state(skey{"m.room.member", user}); m != nil {
		s, _ := m.content["membership"].(string)
		return s
	}
	return "leave"
}

func litJoinRule(state litState) string {
	if e := state(skey{"m.room.join_rules", ""}); e != nil {
		if s, ok := e.content["join_rule"].(string); ok {
			return s
		}
	}
	return "invite"
}
