// SPDX-License-Identifier: EUPL-1.2

// Package bigroom makes a room as large as one likes, signed and authorised as the law wants it, and plays the server that a box joins it
// through: to measure and to test what no small room shows.
//
// A room is made from its Spec alone: the same Spec gives the same events with the same ids. Its graph is one line, so that the state before each event is what
// came before it. Some thousand servers have users in it; they share a few signing keys, and all of them answer at one address.
// The server believes what it is sent: it parses, but neither verifies nor judges. It counts what it is asked, and can be stopped and started again.
package bigroom

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"hallig/appliance/event"
)

// Spec says how large a room is.
type Spec struct {
	Version string // 11 or 12
	Seed    uint64
	Servers int // that have users
	Joined  int // members in the room
	Left    int // that were in the room: the event that let them in is in the auth chain only
	Banned  int // that never were
	Other   int // state events of no meaning to the law, beside the six that each room has
	Talk    int // messages after all that
}

// Large is a room of 50,000 members and 100,000 state events.
func Large() Spec {
	return Spec{Version: "12", Seed: 1, Servers: 1000, Joined: 50_000, Left: 10_000, Banned: 37_994, Other: 2_000, Talk: 200}
}

// Resident is the server that a box joins through; the room's creator lives there.
const Resident = "s0.big.example"

const domain = ".big.example"

// server is the name of a server.
func (s Spec) server(n int) string { return fmt.Sprint("s", n%s.Servers, domain) }

// key is the signing key of a server. Few are made, so that whoever verifies may keep them at hand.
func (s Spec) key(server string) event.Key {
	var n int
	fmt.Sscanf(server, "s%d", &n) // our own names
	seed := sha256.Sum256(fmt.Appendf(nil, "hallig bigroom %d %d", s.Seed, n%8))
	return event.Key{ID: "ed25519:big", Private: ed25519.NewKeyFromSeed(seed[:])}
}

// entry is an event of the room.
type entry struct {
	id   event.ID
	json []byte
	auth []int // entries that authorise it
	prev []event.ID
	key  stateKey // typ "": no state
	deep int64
}

type stateKey struct{ typ, key string }

// Room is the room as its servers know it: each event after those it builds on.
type Room struct {
	Spec    Spec
	ID      event.RoomID
	version *event.Version
	entries []entry
	byID    map[event.ID]int
	state   map[stateKey]int // the present one

	create, power, rules, creator int          // entries
	last                          event.UserID // of the state's members the last to come
}

const birth = 1_700_000_000_000 // when the room was made

// creatorID is the user that made the room.
const creatorID = event.UserID("@founder:" + Resident)

// Make makes the room. 100,000 events take some seconds.
func Make(s Spec) (*Room, error) {
	v, ok := event.Lookup(s.Version)
	if !ok || s.Version != "11" && s.Version != "12" {
		return nil, fmt.Errorf("make a big room: version %q is not made here", s.Version)
	}
	n := 6 + s.Joined + 2*s.Left + s.Banned + s.Other + s.Talk
	r := &Room{Spec: s, version: v, entries: make([]entry, 0, n+1000), byID: make(map[event.ID]int, n+1000), state: make(map[stateKey]int, n)}
	if err := r.begin(); err != nil {
		return nil, fmt.Errorf("make a big room: %w", err)
	}
	if err := r.fill(rand.New(rand.NewPCG(s.Seed, 7))); err != nil {
		return nil, fmt.Errorf("make a big room: %w", err)
	}
	return r, nil
}

// law lists entries that authorise an event; where the creation is the room's id it is not named.
func (r *Room) law(more ...int) []int {
	if r.version.CreateIsRoomID {
		return more
	}
	return append([]int{r.create}, more...)
}

// begin makes what each room has.
func (r *Room) begin() (err error) {
	state := func(typ, key, content string, auth ...int) int {
		if err != nil {
			return 0
		}
		var n int
		n, err = r.add(creatorID, typ, &key, json.RawMessage(content), auth)
		return n
	}
	if !r.version.CreateIsRoomID {
		r.ID = "!gross:" + Resident
	}
	levels := `{"users":{"` + string(creatorID) + `":100},"users_default":0,"state_default":50}`
	if r.version.Creators {
		levels = `{"users":{},"users_default":0,"state_default":50}`
	}
	r.create = state("m.room.create", "", fmt.Sprintf(`{"example.seed":%d,"room_version":%q}`, r.Spec.Seed, r.version.ID))
	if err == nil && r.version.CreateIsRoomID {
		r.ID = event.RoomID("!" + r.entries[0].id[1:])
	}
	r.creator = state("m.room.member", string(creatorID), `{"membership":"join","displayname":"Die Gründerin"}`, r.law()...)
	r.power = state("m.room.power_levels", "", levels, r.law(r.creator)...)
	r.rules = state("m.room.join_rules", "", `{"join_rule":"public"}`, r.law(r.creator, r.power)...)
	state("m.room.history_visibility", "", `{"history_visibility":"shared"}`, r.law(r.creator, r.power)...)
	state("m.room.name", "", `{"name":"Große Lage"}`, r.law(r.creator, r.power)...)
	return err
}

// fill lets people come, go and be shut out, in no order, and talk in the end.
func (r *Room) fill(chance *rand.Rand) error {
	s := r.Spec
	var acts []byte
	for _, act := range []struct {
		what byte
		n    int
	}{{'j', s.Joined - 1}, {'l', s.Left}, {'b', s.Banned}, {'o', s.Other}} {
		acts = append(acts, bytes.Repeat([]byte{act.what}, act.n)...)
	}
	chance.Shuffle(len(acts), func(i, j int) { acts[i], acts[j] = acts[j], acts[i] })
	var joined []int
	for i, what := range acts {
		user := event.UserID(fmt.Sprintf("@helfer%d:%s", i, s.server(chance.IntN(s.Servers))))
		key := string(user)
		var err error
		n := 0
		switch what {
		case 'j', 'l':
			content := fmt.Sprintf(`{"avatar_url":"mxc://%s/%016x%08x","displayname":"Helfer %d","membership":"join"}`, user.Server(), chance.Uint64(), chance.Uint32(), i)
			if n, err = r.add(user, "m.room.member", &key, json.RawMessage(content), r.law(r.power, r.rules)); err != nil {
				return err
			}
			if what == 'l' {
				_, err = r.add(user, "m.room.member", &key, json.RawMessage(`{"membership":"leave"}`), r.law(r.power, n))
			} else {
				joined, r.last = append(joined, n), user
			}
		case 'b':
			_, err = r.add(creatorID, "m.room.member", &key, json.RawMessage(`{"membership":"ban","reason":"Störung"}`), r.law(r.power, r.creator))
		case 'o':
			key = fmt.Sprint("punkt", i)
			_, err = r.add(creatorID, "example.marker", &key, json.RawMessage(fmt.Sprintf(`{"label":"Punkt %d","lat":%d,"lon":%d}`, i, chance.IntN(90), chance.IntN(180))), r.law(r.power, r.creator))
		}
		if err != nil {
			return err
		}
	}
	for i := range s.Talk {
		n := r.creator
		if len(joined) > 0 {
			n = joined[chance.IntN(len(joined))]
		}
		user := event.UserID(r.entries[n].key.key)
		if _, err := r.add(user, "m.room.message", nil, json.RawMessage(fmt.Sprintf(`{"body":"Meldung %d","msgtype":"m.text"}`, i)), r.law(r.power, n)); err != nil {
			return err
		}
	}
	return nil
}

// add makes the next event of the line.
func (r *Room) add(sender event.UserID, typ string, key *string, content json.RawMessage, auth []int) (int, error) {
	p := event.Proto{RoomID: r.ID, Sender: sender, Type: typ, StateKey: key, Content: content, Depth: 1, TS: birth + int64(len(r.entries))*1000}
	if len(r.entries) > 0 {
		last := &r.entries[len(r.entries)-1]
		p.Prev, p.Depth = []event.ID{last.id}, last.deep+1
	}
	for _, a := range auth {
		p.Auth = append(p.Auth, r.entries[a].id)
	}
	made, err := event.Build(r.version, p, sender.Server(), r.Spec.key(sender.Server()))
	if err != nil {
		return 0, err
	}
	return r.put(made, auth), nil
}

// put appends an event that is made.
func (r *Room) put(p *event.PDU, auth []int) int {
	n := len(r.entries)
	e := entry{id: p.ID, json: p.JSON(), auth: auth, prev: p.Prev, deep: p.Depth}
	if p.StateKey != nil {
		e.key = stateKey{p.Type, *p.StateKey}
		r.state[e.key] = n
	}
	r.entries = append(r.entries, e)
	r.byID[p.ID] = n
	return n
}

// before gives the state before an entry.
func (r *Room) before(n int) []int {
	state := make(map[stateKey]int, len(r.state))
	for i := range r.entries[:n] {
		if k := r.entries[i].key; k.typ != "" {
			state[k] = i
		}
	}
	return sorted(state)
}

// sorted lists the entries of a state in the order in which they came.
func sorted(state map[stateKey]int) []int {
	last := 0
	for _, n := range state {
		last = max(last, n)
	}
	in := make([]bool, last+1)
	for _, n := range state {
		in[n] = true
	}
	list := make([]int, 0, len(state))
	for n, ok := range in {
		if ok {
			list = append(list, n)
		}
	}
	return list
}

// chain gives all entries that authorise the given ones, and the creation.
func (r *Room) chain(from []int) []int {
	seen := make([]bool, len(r.entries))
	list := []int{r.create}
	seen[r.create] = true
	for i := 0; i < len(from)+len(list); i++ {
		n := 0
		if i < len(from) {
			n = from[i]
		} else {
			n = list[i-len(from)]
		}
		for _, a := range r.entries[n].auth {
			if !seen[a] {
				seen[a] = true
				list = append(list, a)
			}
		}
	}
	return list
}
