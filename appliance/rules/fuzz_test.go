// SPDX-License-Identifier: EUPL-1.2

package rules

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"hallig/appliance/event"
)

// tape reads a fuzzer's bytes; after the end it reads zeros.
type tape []byte

func (t *tape) next(below int) int {
	if len(*t) == 0 {
		return 0
	}
	b := int((*t)[0])
	*t = (*t)[1:]
	return b % below
}

// graphOf reads a graph of at most 40 events and up to 4 states from a tape. Anything may stand among the auth events: what does not belong
// there, the same twice, and what nobody knows; with circles, which hashes forbid, also later events.
func graphOf(v *event.Version, t *tape) (events map[event.ID]*Event, sets []map[Key]event.ID, circles bool) {
	contents := map[string][]string{
		"m.room.create":       {`{"creator":"@a:a"}`, `{"creator":"@b:a","m.federate":false}`},
		"m.room.member":       {`{"membership":"join"}`, `{"membership":"leave"}`, `{"membership":"ban"}`, `{"membership":"invite"}`, `{"membership":"knock"}`, `{"membership":"join","join_authorised_via_users_server":"@a:a"}`},
		"m.room.power_levels": {`{}`, `{"users":{"@b:a":50,"@c:b":50}}`, `{"users":{"@b:a":100}}`, `{"users_default":100}`, `{"users":{"@a:a":100,"@c:b":50}}`},
		"m.room.join_rules":   {`{"join_rule":"public"}`, `{"join_rule":"invite"}`, `{"join_rule":"restricted"}`, `{"join_rule":"knock"}`},
		"m.room.topic":        {`{}`},
	}
	types := slices.Sorted(maps.Keys(contents))
	users := []string{"@a:a", "@b:a", "@c:b"}
	events = make(map[event.ID]*Event)
	circles = t.next(4) == 3
	n := 2 + t.next(39)
	id := func(i int) event.ID { return event.ID(fmt.Sprintf("$%02d", i)) }
	for i := range n {
		typ, key := types[t.next(len(types))], ""
		if i == 0 {
			typ = "m.room.create"
		}
		sender := users[t.next(len(users))]
		if typ == "m.room.member" {
			key = users[t.next(len(users))]
		}
		list := contents[typ]
		p := &event.PDU{Version: v, ID: id(i), RoomID: "!00", Sender: event.UserID(sender), Type: typ, StateKey: &key, Content: json.RawMessage(list[t.next(len(list))]), TS: int64(t.next(8))}
		if !v.CreateIsRoomID {
			p.RoomID = "!00:a"
		}
		if typ != "m.room.create" {
			p.Prev = []event.ID{id(t.next(n))}
		}
		for range t.next(5) {
			switch a := t.next(n + 1); {
			case a < i || circles:
				p.Auth = append(p.Auth, id(a))
			case a == n:
				p.Auth = append(p.Auth, "$unknown")
			}
		}
		if i > 0 && t.next(4) > 0 {
			p.Auth = append(p.Auth, id(t.next(i)))
		}
		e, err := Thin(p)
		if err != nil {
			panic(err)
		}
		if t.next(16) == 1 {
			e.StateKey = nil
		}
		e.Rejected = t.next(16) == 1
		events[e.ID] = e
	}
	sets = make([]map[Key]event.ID, 1+t.next(4))
	for i := range sets {
		sets[i] = make(map[Key]event.ID)
		for range t.next(24) {
			if e := events[id(t.next(n))]; e.StateKey != nil {
				sets[i][Key{e.Type, *e.StateKey}] = e.ID
			}
		}
		if t.next(8) == 1 {
			sets[i][Key{Type: "m.room.name"}] = "$unknown"
		}
	}
	return events, sets, circles
}

// FuzzResolve: whatever the graph, resolution ends; the order of the states and how often one is told do not matter; what all agree on stands; and
// what comes out was told by somebody or lies in an auth chain.
func FuzzResolve(f *testing.F) {
	f.Add(byte(0), []byte{})
	f.Add(byte(9), []byte("\x05\x00\x00\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09"))
	for seed := range byte(8) {
		long := make([]byte, 300)
		for i := range long {
			long[i] = byte(i*int(seed+3)) ^ byte(i>>3)
		}
		f.Add(seed, long)
	}
	f.Fuzz(func(t *testing.T, version byte, bytes []byte) {
		v, _ := event.Lookup(event.Known()[2+int(version)%10])
		in := tape(bytes)
		events, sets, circles := graphOf(v, &in)
		load := func(id event.ID) *Event { return events[id] }
		want, err := Resolve(v, sets, load)
		if err != nil {
			t.Fatal(err)
		}
		for k, id := range want {
			if e := events[id]; e != nil && (e.StateKey == nil || k != Key{e.Type, *e.StateKey}) {
				t.Fatalf("%s holds %v", id, k)
			}
		}
		agreed, _ := split(sets)
		for k, id := range agreed {
			if want[k] != id {
				t.Fatalf("all agree that %s holds %v, but it is %s", id, k, want[k])
			}
		}
		if circles {
			return // it has ended
		}
		slices.Reverse(sets)
		sets = append(sets, maps.Clone(sets[0]))
		if got, err := Resolve(v, sets, load); err != nil || !maps.Equal(got, want) {
			t.Fatalf("in another order %v, before %v: %v", got, want, err)
		}
		if got, err := Resolve(v, []map[Key]event.ID{want, maps.Clone(want)}, load); err != nil || !maps.Equal(got, want) {
			t.Fatalf("resolved with itself %v becomes %v: %v", want, got, err)
		}
		// Each event is also put to the law itself, with any auth events.
		for _, e := range events {
			var auth []*Event
			for _, id := range e.Auth {
				if a := events[id]; a != nil {
					auth = append(auth, a)
				}
			}
			_ = CheckAuthEvents(e, auth, events["$00"])
			_ = Allowed(e, func(k Key) *Event { return events[want[k]] })
		}
	})
}
