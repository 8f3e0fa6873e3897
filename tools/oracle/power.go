// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

var wholeText = regexp.MustCompile(`^\s*([+-]?[0-9]+)\s*$`)

// litNumber reads a power level, nil: none. https://spec.matrix.org/v1.16/rooms/v1/#deprecated-event-content-schemas
func litNumber(version int, v any) *big.Int {
	switch v := v.(type) {
	case json.Number:
		if n, ok := new(big.Int).SetString(v.String(), 10); ok {
			return n
		}
		if version <= 5 {
			if f, err := v.Float64(); err == nil {
				n, _ := new(big.Float).SetFloat64(f).Int(nil)
				return n
			}
		}
	case string:
		if m := wholeText.FindStringSubmatch(v); m != nil && version <= 9 {
			n, _ := new(big.Int).SetString(m[1], 10)
			return n
		}
	}
	return nil
}

func litPowerEvent(state litState) *lit { return state(skey{"m.room.power_levels", ""}) }

// litLevel is one of the levels that stand alone.
func litLevel(state litState, name string, otherwise int64) *big.Int {
	if p := litPowerEvent(state); p != nil {
		if n := litNumber(p.version, p.content[name]); n != nil {
			return n
		}
	}
	return big.NewInt(otherwise)
}

func litCreators(create *lit) []string {
	creators := []string{create.sender}
	more, _ := create.content["additional_creators"].([]any)
	for _, x := range more {
		s, _ := x.(string)
		creators = append(creators, s)
	}
	return creators
}

// litPower is the power of a user. https://spec.matrix.org/v1.16/client-server-api/#mroompower_levels
func litPower(state litState, user string) *big.Int {
	create := state(skey{"m.room.create", ""})
	if create != nil && create.version >= 12 && slices.Contains(litCreators(create), user) {
		return infinite
	}
	if p := litPowerEvent(state); p != nil {
		users, _ := p.content["users"].(object)
		if n := litNumber(p.version, users[user]); n != nil {
			return n
		}
		return litLevel(state, "users_default", 0)
	}
	if create != nil && create.version < 12 {
		creator := create.sender
		if create.version < 11 {
			creator, _ = create.content["creator"].(string)
		}
		if creator == user {
			return big.NewInt(100)
		}
	}
	return big.NewInt(0)
}

func litRequired(state litState, e *lit) *big.Int {
	if p := litPowerEvent(state); p != nil {
		events, _ := p.content["events"].(object)
		if n := litNumber(p.version, events[e.typ]); n != nil {
			return n
		}
	}
	if e.key != nil {
		return litLevel(state, "state_default", 50)
	}
	return litLevel(state, "events_default", 0)
}

// litUserID: https://spec.matrix.org/v1.16/appendices/#user-identifiers, with the historical characters.
func litUserID(s string) bool {
	local, server, ok := strings.Cut(s, ":")
	return ok && len(s) <= 255 && strings.HasPrefix(local, "@") && !strings.ContainsRune(local, 0) && utf8.ValidString(local) &&
		regexp.MustCompile(`^[A-Za-z0-9.-]{1,255}(:[0-9]{1,5})?$`).MatchString(server)
}

var loneLevels = []string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

func litPowerLevels(e *lit, state litState, create *lit, power *big.Int) error {
	for _, name := range loneLevels {
		if v, ok := e.content[name]; ok && litNumber(e.version, v) == nil {
			return denied("10.1")
		}
	}
	maps := []string{"events"}
	if e.version >= 6 {
		maps = append(maps, "notifications")
	}
	for _, name := range append(maps, "users") {
		v, ok := e.content[name]
		if !ok {
			continue
		}
		o, ok := v.(object)
		if !ok {
			return denied("10.2 or 10.3")
		}
		for k, x := range o {
			if litNumber(e.version, x) == nil || name == "users" && !litUserID(k) {
				return denied("10.2 or 10.3")
			}
		}
	}
	users, _ := e.content["users"].(object)
	if e.version >= 12 {
		for _, c := range litCreators(create) {
			if _, ok := users[c]; ok {
				return denied("10.4")
			}
		}
	}
	last := litPowerEvent(state)
	if last == nil {
		return nil
	}
	// changed calls f for what was added, changed or removed; nil is what is not there.
	changed := func(old, now object, keys []string, f func(key string, was, is *big.Int) bool) bool {
		for _, k := range keys {
			was, is := litNumber(e.version, old[k]), litNumber(e.version, now[k])
			if was == nil && is == nil || was != nil && is != nil && was.Cmp(is) == 0 {
				continue
			}
			if !f(k, was, is) {
				return false
			}
		}
		return true
	}
	within := func(_ string, was, is *big.Int) bool {
		return (was == nil || was.Cmp(power) <= 0) && (is == nil || is.Cmp(power) <= 0)
	}
	if !changed(last.content, e.content, loneLevels, within) {
		return denied("10.6")
	}
	keysOf := func(a, b object) (keys []string) {
		for k := range a {
			keys = append(keys, k)
		}
		for k := range b {
			if _, ok := a[k]; !ok {
				keys = append(keys, k)
			}
		}
		return keys
	}
	for _, name := range maps {
		old, _ := last.content[name].(object)
		now, _ := e.content[name].(object)
		if !changed(old, now, keysOf(old, now), within) {
			return denied(fmt.Sprintf("10.7 or 10.8, %s", name))
		}
	}
	old, _ := last.content["users"].(object)
	if !changed(old, users, keysOf(old, users), func(u string, was, is *big.Int) bool {
		return (was == nil || u == e.sender || was.Cmp(power) < 0) && (is == nil || is.Cmp(power) <= 0)
	}) {
		return denied("10.9 or 10.10")
	}
	return nil
}
