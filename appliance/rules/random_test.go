// SPDX-License-Identifier: EUPL-1.2

package rules

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"hallig/appliance/event"
)

// player plays a random room on several branches. All that it adds is allowed where it is added.
type player struct {
	*graph
	r        *rand.Rand
	branches []map[Key]event.ID
	n        int
}

func newPlayer(version string, seed uint64) *player {
	v, _ := event.Lookup(version)
	p := &player{graph: &graph{v: v, events: map[event.ID]*Event{}}, r: rand.New(rand.NewPCG(seed, 7)), branches: []map[Key]event.ID{{}}}
	p.add(0, "@alice:a", "m.room.create", "", `{"creator":"@alice:a"}`)
	p.add(0, "@alice:a", "m.room.member", "@alice:a", `{"membership":"join"}`)
	if p.r.IntN(4) > 0 {
		p.add(0, "@alice:a", "m.room.power_levels", "", `{"users":{`+users(v, "alice:100,bob:50")+`}}`)
	}
	if p.r.IntN(4) > 0 {
		p.add(0, "@alice:a", "m.room.join_rules", "", `{"join_rule":"public"}`)
	}
	return p
}

func (p *player) on(branch int) State {
	return func(k Key) *Event { return p.events[p.branches[branch][k]] }
}

// add puts a state event on a branch if the law allows it there.
func (p *player) add(branch int, sender event.UserID, typ, key, content string) bool {
	p.n++
	pdu := &event.PDU{Version: p.v, ID: event.ID(fmt.Sprintf("$%02d%d", p.r.IntN(100), p.n)), RoomID: "!room:a", Sender: sender, Type: typ, StateKey: &key,
		Content: json.RawMessage(content), TS: int64(p.n + p.r.IntN(12)), Prev: []event.ID{"$prev"}}
	if p.v.CreateIsRoomID {
		pdu.RoomID = "!create"
	}
	if typ == "m.room.create" {
		pdu.ID, pdu.Prev = "$create", nil
	} else if p.n == 2 {
		pdu.Prev = []event.ID{"$create"}
	}
	e, err := Thin(pdu)
	if err != nil {
		panic(err)
	}
	for _, k := range AuthNeeded(e) {
		if id, ok := p.branches[branch][k]; ok {
			e.Auth = append(e.Auth, id)
		}
	}
	if Allowed(e, p.on(branch)) != nil {
		return false
	}
	p.events[e.ID] = e
	p.branches[branch][Key{typ, key}] = e.ID
	return true
}

// step does something at random on a random branch.
func (p *player) step() {
	names := []string{"alice", "bob", "carol", "dave"}
	b := p.r.IntN(len(p.branches))
	who, other := names[p.r.IntN(4)], names[p.r.IntN(4)]
	sender := event.UserID("@" + who + ":a")
	target := "@" + other + ":a"
	switch p.r.IntN(10) {
	case 0, 1:
		p.add(b, sender, "m.room.member", string(sender), `{"membership":"join"}`)
	case 2:
		p.add(b, sender, "m.room.member", target, `{"membership":"`+[]string{"ban", "leave", "invite"}[p.r.IntN(3)]+`"}`)
	case 3:
		p.add(b, sender, "m.room.join_rules", "", `{"join_rule":"`+[]string{"invite", "public"}[p.r.IntN(2)]+`"}`)
	case 4, 5:
		level := func() int { return p.r.IntN(3) * 50 }
		p.add(b, sender, "m.room.power_levels", "", fmt.Sprintf(`{"users":{%s},"state_default":%d}`, users(p.v, fmt.Sprintf("alice:100,bob:%d,carol:%d,dave:%d", level(), level(), level())), p.r.IntN(2)*50))
	case 6:
		p.add(b, sender, "m.room.topic", "", `{}`)
	case 7:
		p.add(b, sender, "m.room.name", "", `{}`)
	case 8:
		if len(p.branches) < 4 {
			p.branches = append(p.branches, maps.Clone(p.branches[b]))
		}
	case 9:
		if len(p.branches) > 2 {
			a := p.branches[len(p.branches)-1]
			p.branches = p.branches[:len(p.branches)-1]
			merged, err := Resolve(p.v, []map[Key]event.ID{a, p.branches[0]}, p.load)
			if err != nil {
				panic(err)
			}
			p.branches[0] = merged
		}
	}
}

// TestResolveRandomRooms: the result is that of the specification's words, whatever the order of the branches and however often one is told; and a
// result resolved with itself stays.
func TestResolveRandomRooms(t *testing.T) {
	conflicts := 0
	for _, version := range []string{"3", "10", "11", "12"} {
		for seed := range uint64(400) {
			p := newPlayer(version, seed)
			for range 40 {
				p.step()
			}
			if len(p.branches) < 2 {
				continue
			}
			want := naive(p.graph, p.branches)
			sets := slices.Clone(p.branches)
			for i := range 4 {
				got, err := Resolve(p.v, sets, p.load)
				if err != nil {
					t.Fatal(err)
				}
				if !maps.Equal(got, want) {
					t.Fatalf("version %s, seed %d, try %d:\ngot  %v\nwant %v", version, seed, i, got, want)
				}
				p.r.Shuffle(len(sets), func(i, j int) { sets[i], sets[j] = sets[j], sets[i] })
				sets = append(sets, sets[0])
			}
			if again, _ := Resolve(p.v, []map[Key]event.ID{want, maps.Clone(want)}, p.load); !maps.Equal(again, want) {
				t.Fatalf("version %s, seed %d: the result resolved with itself changes", version, seed)
			}
			if _, apart := split(p.branches); len(slices.Concat(apart...)) > 0 {
				conflicts++
			}
		}
	}
	if conflicts < 500 {
		t.Errorf("only %d rooms had conflicts: the test plays too quietly", conflicts)
	}
}

// FuzzThin: no content crashes the law, and a record made of redacted or canonical content is judged without a panic.
func FuzzThin(f *testing.F) {
	for _, s := range []string{`{"membership":"join","third_party_invite":{"signed":{"mxid":"@a:b","token":"t","signatures":{"x":{"ed25519:1":"AA"}}}}}`,
		`{"users":{"@a:b":" 5 "},"events":{"x":1e3},"ban":50.5}`, `{"additional_creators":["@a:b"],"m.federate":false,"room_version":"12"}`, `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!x"}]}`,
		`{"public_keys":[{"public_key":"AA"}],"public_key":1}`, `{"history_visibility":[]}`, `[]`, `{`, ``} {
		for typ := range 7 {
			f.Add(byte(typ), byte(len(s)), s)
		}
	}
	types := []string{"m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.third_party_invite", "m.room.history_visibility", "m.room.aliases"}
	f.Fuzz(func(t *testing.T, typ, version byte, content string) {
		v, _ := event.Lookup(event.Known()[int(version)%12])
		h := newHouse(t, v.ID)
		key := "@bob:b"
		e, err := Thin(&event.PDU{Version: v, ID: "$x", RoomID: h.room(), Sender: "@bob:b", Type: types[int(typ)%len(types)], StateKey: &key, Content: json.RawMessage(content)})
		if err != nil {
			return
		}
		AuthNeeded(e)
		allowed := Allowed(e, h.get)
		h.state[Key{e.Type, ""}] = e
		if allowed == nil && e.Type == typePower && e.Power.Users["@bob:b"] > 0 {
			t.Fatalf("bob gave himself power with %s", content)
		}
		h.state[Key{e.Type, key}] = e
		next, err := Thin(&event.PDU{Version: v, ID: "$y", RoomID: h.room(), Sender: "@bob:b", Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"membership":"join"}`)})
		if err != nil {
			t.Fatal(err)
		}
		_ = Allowed(next, h.get)
	})
}

func BenchmarkThin(b *testing.B) {
	v := event.Default()
	key := "@bob:b"
	member := &event.PDU{Version: v, Sender: "@bob:b", Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"avatar_url":"mxc://a/b","displayname":"Bob","membership":"join"}`)}
	message := &event.PDU{Version: v, Sender: "@bob:b", Type: "m.room.message", Content: json.RawMessage(`{"body":"x"}`)}
	for name, p := range map[string]*event.PDU{"member": member, "message": message} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Thin(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAllowed(b *testing.B) {
	h := newHouse(b, "12")
	e, err := Thin(&event.PDU{Version: h.v, RoomID: h.room(), Sender: "@bob:b", Type: "m.room.message", Content: json.RawMessage(`{"body":"x"}`)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := Allowed(e, h.get); err != nil {
			b.Fatal(err)
		}
	}
}
