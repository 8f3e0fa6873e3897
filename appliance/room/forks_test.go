// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"fmt"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// Two forks that differ in their state grow by turns: messages ask the law for nothing, a change of state asks it once. The next own event joins the forks.
func TestForksDoNotResolvePerEvent(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		a, _, room := pair(t, version)
		a.send(state(room, alice, "m.room.power_levels", "", a.powerFor(version)))
		root := a.pdu(a.ends(room)[0])
		auth := []event.ID{a.id(room, "m.room.power_levels", ""), a.id(room, "m.room.member", string(carol))}
		if version == "11" {
			auth = append(auth, a.id(room, "m.room.create", ""))
		}
		none := ""
		var tips [2]*event.PDU
		for i := range tips {
			tips[i] = remote(t, root.Version, room, carol, "m.room.topic", &none, fmt.Sprintf(`{"topic":"%d"}`, i), []*event.PDU{root}, auth...)
			a.mustAccept(Incoming{PDU: tips[i], From: Source{"federation", "b"}}, Accepted)
		}
		before := a.resolutions.Load()
		const n = 1000
		for i := range n {
			p := remote(t, root.Version, room, carol, "m.room.message", nil, fmt.Sprintf(`{"body":"%d"}`, i), tips[i%2:i%2+1], auth...)
			a.mustAccept(Incoming{PDU: p, From: Source{"federation", "b"}}, Accepted)
			tips[i%2] = p
		}
		if got := a.resolutions.Load() - before; got > 2 {
			t.Errorf("version %s: %d resolutions for %d messages", version, got, n)
		}
		before = a.resolutions.Load()
		for i := range 100 {
			p := remote(t, root.Version, room, carol, "m.room.name", &none, fmt.Sprintf(`{"name":"%d"}`, i), tips[i%2:i%2+1], auth...)
			a.mustAccept(Incoming{PDU: p, From: Source{"federation", "b"}}, Accepted)
			tips[i%2] = p
		}
		if got := a.resolutions.Load() - before; got > 100 {
			t.Errorf("version %s: %d resolutions for 100 changes", version, got)
		}
		if got := len(a.ends(room)); got != 2 {
			t.Errorf("version %s: %d ends", version, got)
		}
		before = a.resolutions.Load()
		for range 10 {
			a.send(text(room, alice, "beisammen"))
		}
		if p := a.pdu(a.ends(room)[0]); len(a.ends(room)) != 1 || len(p.Prev) != 1 {
			t.Errorf("version %s: the forks are not joined", version)
		}
		if got := a.resolutions.Load() - before; got > 0 {
			t.Errorf("version %s: %d resolutions for own messages", version, got)
		}
	}
}

// OnFork is told when branches are seen to differ, in the transaction of the event that shows it, and not by every event after that. A conversation, and branches
// that agree on the state, cost nothing; of memberships only those of our users count.
func TestOnFork(t *testing.T) {
	var told []Fork
	a := newBoxWith(t, "a", Options{OnFork: func(tx *store.Tx, f Fork) error {
		if e, err := tx.EventByNID(f.Event); err != nil || e == nil || e.Pos != f.Pos {
			t.Errorf("%+v: its event is not there (%v)", f, err)
		}
		told = append(told, f)
		return nil
	}})
	b := newBox(t, "b")
	room := a.create(CreateRequest{Creator: alice, Version: "11", Preset: "public_chat"})
	joinRemote(t, a, b, room, carol)
	a.send(state(room, alice, "m.room.power_levels", "", `{"users":{"@alice:a":100,"@carol:b":100}}`))
	if len(told) > 0 {
		t.Errorf("told of what is no fork: %+v", told)
	}
	root := a.pdu(a.ends(room)[0])
	auth := []event.ID{a.id(room, "m.room.create", ""), a.id(room, "m.room.power_levels", ""), a.id(room, "m.room.member", string(carol))}
	none, own := "", string(carol)
	far := func(typ string, key *string, content string, prev *event.PDU) *event.PDU {
		p := remote(t, root.Version, room, carol, typ, key, content, []*event.PDU{prev}, auth...)
		a.mustAccept(Incoming{PDU: p, From: Source{"federation", "b"}}, Accepted)
		return p
	}
	a.send(text(room, alice, "hier"))
	tip := far("m.room.message", nil, `{"body":"dort"}`, root)
	if len(told) > 0 {
		t.Errorf("told of branches that agree: %+v", told)
	}
	tip = far("m.room.member", &own, `{"membership":"join","displayname":"C"}`, tip)
	auth[2] = tip.ID
	if len(told) > 0 {
		t.Errorf("told of another server's member: %+v", told)
	}
	tip = far("m.room.topic", &none, `{"topic":"dort"}`, tip)
	for range 100 {
		tip = far("m.room.message", nil, `{"body":"dort"}`, tip)
	}
	if len(told) != 1 || len(told[0].Apart) != 1 || told[0].Apart[0].Type != "m.room.topic" || told[0].Room != room {
		t.Fatalf("told %+v, want once, of the topic", told)
	}
	a.send(text(room, alice, "beisammen"))
	if len(told) != 1 {
		t.Errorf("told %d times", len(told))
	}
	far("m.room.name", &none, `{"name":"dort"}`, tip) // made before b knew of that
	if len(told) != 2 {
		t.Errorf("told %d times, want twice", len(told))
	}
}
