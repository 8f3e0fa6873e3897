// SPDX-License-Identifier: EUPL-1.2

// Package priority is the law of who may raise a message above the others, and for how long. It keeps nothing and knows neither links nor the store: a
// room's state and a message in, a level out.
//
// A message asks by a key of its content, in encrypted messages beside the ciphertext:
//
//	"org.hallig.priority": "flash" | "immediate" | "priority" | "routine" | "bulk"
//
// A message without the key has the default of its room. What a room allows stands in its state event org.hallig.priority (state key ""). Every field
// may be left out; what is left out, or is no sensible value, is as shown here:
//
//	{
//	  "default": "routine",                                          what a message without the key asks for
//	  "power": {"flash": 50, "immediate": 50, "priority": 0},        power level that it takes
//	  "per_10_min": {"flash": 5, "immediate": 20},                   how many each sender may have in ten minutes
//	  "lifetime_min": {"flash": 60, "immediate": 240, "priority": 1440},   how long the message stays raised
//	  "quiet_min": 5                                                 how long routine and bulk keep off narrow links after a flash
//	}
//
// Without the event, moderators may send flash and immediate, anybody priority: somebody must be able to raise the alarm in a room that nobody prepared (whoever
// made it has power 100, in a direct chat both have), and a stranger in a large room must not be able to silence all others. Limits are per sender, so that one stuck
// program cannot use up everybody's.
//
// Nobody loses a message over this: whoever asks for more than they may gets the most that they may, and a level that has run out is routine.
package priority

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// Type is the type of the state event, and the key in the content of messages.
const Type = "org.hallig.priority"

// Level is how urgent something is; a smaller one goes first. The numbers are those of the links between boxes.
type Level int

// The levels. People see: Blitz, Sofort, Vorrang, Normal, Masse.
const (
	Flash Level = iota
	Immediate
	Priority
	Routine
	Bulk
	levels
)

// String is the level's word in events.
func (l Level) String() string {
	if l < 0 || l >= levels {
		return fmt.Sprintf("level %d", int(l))
	}
	return [levels]string{"flash", "immediate", "priority", "routine", "bulk"}[l]
}

// Name is the level's word for people.
func (l Level) Name(german bool) string {
	if !german || l < 0 || l >= levels {
		return l.String()
	}
	return [levels]string{"Blitz", "Sofort", "Vorrang", "Normal", "Masse"}[l]
}

// ParseLevel reads a level's word in events.
func ParseLevel(word string) (Level, bool) {
	for l := range levels {
		if l.String() == word {
			return l, true
		}
	}
	return Routine, false
}

// Window is what limits are counted over.
const Window = 10 * time.Minute

// Policy is what a room allows.
type Policy struct {
	Default  Level
	Power    [Routine]int64         // of flash, immediate, priority
	Most     [Routine]int           // in a Window for each sender; 0: no limit
	Lifetime [Routine]time.Duration // until it is routine
	Quiet    time.Duration          // after a flash
}

// What a policy may ask for at most, so that one event cannot keep a link from everybody else.
const (
	maxQuiet    = 30 * time.Minute
	maxLifetime = 7 * 24 * time.Hour
	maxMost     = 1000
)

// Unset is the policy of a room that has none.
func Unset() Policy {
	return Policy{
		Default:  Routine,
		Power:    [Routine]int64{Flash: 50, Immediate: 50, Priority: 0},
		Most:     [Routine]int{Flash: 5, Immediate: 20},
		Lifetime: [Routine]time.Duration{Flash: time.Hour, Immediate: 4 * time.Hour, Priority: 24 * time.Hour},
		Quiet:    5 * time.Minute,
	}
}

// Parse reads the content of the state event. The policy is what holds, whatever the content: what is not sensible is passed over. The error names the first thing
// that was, for whoever writes the event.
func Parse(content []byte) (Policy, error) {
	p := Unset()
	var w map[string]json.RawMessage
	if err := json.Unmarshal(content, &w); err != nil {
		return p, fmt.Errorf("read %s: not an object", Type)
	}
	var first error
	note := func(err error) {
		if first == nil && err != nil {
			first = err
		}
	}
	if raw, ok := w["default"]; ok {
		var word string
		l, known := Routine, false
		if json.Unmarshal(raw, &word) == nil {
			l, known = ParseLevel(word)
		}
		if known {
			p.Default = l
		} else {
			note(fmt.Errorf("%s: default must be one of flash, immediate, priority, routine, bulk", Type))
		}
	}
	note(each(w["power"], "power", math.MinInt64, math.MaxInt64, func(l Level, n int64) { p.Power[l] = n }))
	note(each(w["per_10_min"], "per_10_min", 0, maxMost, func(l Level, n int64) { p.Most[l] = int(n) }))
	note(each(w["lifetime_min"], "lifetime_min", 1, int64(maxLifetime/time.Minute), func(l Level, n int64) { p.Lifetime[l] = time.Duration(n) * time.Minute }))
	if raw, ok := w["quiet_min"]; ok {
		n, ok := whole(raw)
		if ok && n >= 0 && n <= int64(maxQuiet/time.Minute) {
			p.Quiet = time.Duration(n) * time.Minute
		} else {
			note(fmt.Errorf("%s: quiet_min must be a whole number of minutes from 0 to %d", Type, maxQuiet/time.Minute))
		}
	}
	return p, first
}

// each reads a number for each level above routine.
func each(raw json.RawMessage, field string, least, most int64, set func(Level, int64)) error {
	if raw == nil {
		return nil
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil || m == nil {
		return fmt.Errorf("%s: %s must be an object", Type, field)
	}
	var first error
	for word, v := range m {
		l, ok := ParseLevel(word)
		n, number := whole(v)
		switch {
		case !ok || l >= Routine:
			first = fmt.Errorf("%s: %s names %q, which is none of flash, immediate, priority", Type, field, word)
		case !number || n < least || n > most:
			first = fmt.Errorf("%s: %s of %s is out of range", Type, field, word)
		default:
			set(l, n)
		}
	}
	return first
}

// whole reads a whole number.
func whole(raw json.RawMessage) (int64, bool) {
	var n int64
	return n, len(raw) > 0 && raw[0] != 'n' && json.Unmarshal(raw, &n) == nil
}

// Asked is what a message's content asks for. said is false when it has no such key; err says that it has one which is no level.
func Asked(content []byte) (l Level, said bool, err error) {
	var c map[string]json.RawMessage
	if json.Unmarshal(content, &c) != nil {
		return Routine, false, nil
	}
	raw, ok := c[Type]
	if !ok {
		return Routine, false, nil
	}
	var word string
	if json.Unmarshal(raw, &word) == nil {
		if l, ok := ParseLevel(word); ok {
			return l, true, nil
		}
	}
	return Routine, true, fmt.Errorf("%s must be one of flash, immediate, priority, routine, bulk", Type)
}

// May is the most urgent level, not above asked, that a sender of that power may have. Anybody may lower a message.
func (p *Policy) May(asked Level, power int64) Level {
	for l := max(asked, Flash); l < Routine; l++ {
		if power >= p.Power[l] {
			return l
		}
	}
	return max(Routine, min(asked, Bulk))
}

// Left is how long a level that began age ago still holds; nothing is left of one that has run out. Routine and bulk never run out.
func (p *Policy) Left(l Level, age time.Duration) time.Duration {
	if l < Flash || l >= Routine {
		return math.MaxInt64
	}
	return max(0, p.Lifetime[l]-max(age, 0))
}
