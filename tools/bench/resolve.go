// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/rules"
)

// forks is a room in memory with two branches, as the law sees it.
type forks struct {
	v        *event.Version
	events   map[event.ID]*rules.Event
	branches [2]map[rules.Key]event.ID
	n        int
}

func (f *forks) load(id event.ID) *rules.Event { return f.events[id] }

// add puts a state event on a branch, authorised by what holds there.
func (f *forks) add(branch int, sender event.UserID, typ, key, content string) error {
	f.n++
	p := &event.PDU{Version: f.v, ID: event.ID(fmt.Sprintf("$%043d", f.n)), RoomID: "!room:a", Sender: sender, Type: typ, StateKey: &key, Content: json.RawMessage(content),
		TS: int64(f.n), Prev: []event.ID{"$create"}}
	if f.v.CreateIsRoomID {
		p.RoomID = "!create"
	}
	if typ == "m.room.create" {
		p.ID, p.Prev = "$create", nil
	}
	e, err := rules.Thin(p)
	if err != nil {
		return err
	}
	state := f.branches[branch]
	for _, k := range rules.AuthNeeded(e) {
		if id, ok := state[k]; ok {
			e.Auth = append(e.Auth, id)
		}
	}
	if err := rules.Allowed(e, func(k rules.Key) *rules.Event { return f.events[state[k]] }); err != nil {
		return fmt.Errorf("%s of %s on branch %d: %w", typ, sender, branch, err)
	}
	f.events[e.ID] = e
	state[rules.Key{Type: typ, StateKey: key}] = e.ID
	return nil
}

// newForks makes a room of members that splits in two; n state events happen on each side: power levels, bans, joins, topics.
func newForks(version string, members, n int) (*forks, error) {
	v, _ := event.Lookup(version)
	f := &forks{v: v, events: make(map[event.ID]*rules.Event)}
	f.branches[0] = make(map[rules.Key]event.ID)
	var err error
	do := func(branch int, sender event.UserID, typ, key, content string) {
		if err == nil {
			err = f.add(branch, sender, typ, key, content)
		}
	}
	const alice, bob, join = "@alice:a", "@bob:a", `{"membership":"join"}`
	levels := func(more string) string {
		users := `"@bob:a":50`
		if !v.Creators {
			users += `,"@alice:a":100`
		}
		return `{"users":{` + users + `}` + more + `}`
	}
	do(0, alice, "m.room.create", "", `{"creator":"@alice:a"}`)
	do(0, alice, "m.room.member", alice, join)
	do(0, alice, "m.room.power_levels", "", levels(""))
	do(0, alice, "m.room.join_rules", "", `{"join_rule":"public"}`)
	do(0, bob, "m.room.member", bob, join)
	for i := range members {
		u := fmt.Sprintf("@user%d:a", i)
		do(0, event.UserID(u), "m.room.member", u, join)
	}
	f.branches[1] = maps.Clone(f.branches[0])
	for b := range 2 {
		for i := range n {
			switch u := fmt.Sprintf("@new%d:a", i); i % 10 {
			case 0, 1:
				do(b, alice, "m.room.power_levels", "", levels(fmt.Sprintf(`,"events":{"x":%d}`, i%50)))
			case 2:
				do(b, bob, "m.room.member", fmt.Sprintf("@user%d:a", i+b), `{"membership":"ban"}`)
			case 3, 4, 5, 6:
				do(b, event.UserID(u), "m.room.member", u, join)
			default:
				do(b, alice, "m.room.topic", fmt.Sprint(i), `{}`)
			}
		}
	}
	return f, err
}

// resolution measures what it takes to find the state where two branches meet, in rooms of versions 11 and 12; the slower one counts.
func resolution(_ context.Context, b *bench) error {
	for _, r := range []struct {
		name            string
		members, events int
		how             string
	}{
		{"resolve_2x1000_ms", 2000, 1000, "state resolution of two forks of 1,000 conflicting state events each in a room of 2,000 members, in memory; median of 21, the slower of versions 11 and 12"},
		{"resolve_10000_members_ms", 10000, 4, "the same with 4 events each in a room of 10,000 members"},
	} {
		worst := 0.0
		for _, version := range []string{"11", "12"} {
			f, err := newForks(version, r.members, r.events)
			if err != nil {
				return err
			}
			var took []float64
			for range 21 {
				start := time.Now()
				if _, err := rules.Resolve(f.v, f.branches[:], f.load); err != nil {
					return err
				}
				took = append(took, float64(time.Since(start).Microseconds())/1000)
			}
			slices.Sort(took)
			worst = max(worst, took[len(took)/2])
		}
		b.say(r.name, worst, "ms", r.how)
	}
	return nil
}
