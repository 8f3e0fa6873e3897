// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"maps"
	"slices"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/rules"
)

// A profile change that its author made after being banned is believed as long as its place is not known. A message that rests on it, placed by a state that
// holds it, falls with it.
func TestOutlierFalls(t *testing.T) {
	a, _, room := pair(t, "12")
	v, _ := event.Lookup("12")
	key := string(carol)
	joined, power, rule := a.id(room, "m.room.member", key), a.id(room, "m.room.power_levels", ""), a.id(room, "m.room.join_rules", "")
	told := a.state(room)
	ban := a.pdu(a.send(state(room, alice, "m.room.member", key, `{"membership":"ban"}`)))
	from := Source{"federation", "b"}
	named := remote(t, v, room, carol, "m.room.member", &key, `{"membership":"join","displayname":"Carola"}`, []*event.PDU{ban}, joined, power, rule)
	a.mustAccept(Incoming{PDU: named, From: from, Outlier: true}, Accepted)
	other := remote(t, v, room, carol, "m.room.message", nil, `{"body":"anderswo"}`, []*event.PDU{a.pdu(joined)}, joined, power) // never comes
	said := remote(t, v, room, carol, "m.room.message", nil, `{"body":"da"}`, []*event.PDU{other}, named.ID, power)
	told[rules.Key{Type: "m.room.member", StateKey: key}] = named.ID
	a.mustAccept(Incoming{PDU: said, From: from, State: slices.Sorted(maps.Values(told))}, SoftFailed)
	next := remote(t, v, room, carol, "m.room.message", nil, `{"body":"weiter"}`, []*event.PDU{said}, joined, power)
	a.mustAccept(Incoming{PDU: next, From: from}, SoftFailed)
	a.mustAccept(Incoming{PDU: named, From: from}, Rejected)
	for range 2 {
		if _, m, err := a.Event(t.Context(), said.ID); err != nil || !m.Rejected {
			t.Errorf("what rests on the refused change: %+v, %v", m, err)
		}
		for _, p := range []*event.PDU{said, next} {
			before, err := a.StateBefore(t.Context(), p.ID)
			if err != nil || before[rules.Key{Type: "m.room.member", StateKey: key}] == named.ID {
				t.Errorf("the state before %s holds the refused change: %v", p.Content, err)
			}
		}
		a.reopen()
	}
}

// What fills a hole is no end, and neither is what it follows.
func TestFillingCoversEnds(t *testing.T) {
	a, b, room := pair(t, "12")
	from := Source{"federation", "b"}
	a.mustAccept(Incoming{PDU: b.pdu(b.send(text(room, carol, "eins"))), From: from}, Accepted)
	fills := b.pdu(b.send(state(room, carol, "m.room.member", string(carol), `{"membership":"join","displayname":"Carola"}`)))
	last := b.pdu(b.send(text(room, carol, "drei")))
	a.mustAccept(Incoming{PDU: fills, From: from, Outlier: true}, Accepted)
	a.mustAccept(Incoming{PDU: last, From: from, State: slices.Sorted(maps.Values(a.state(room)))}, Accepted)
	a.mustAccept(Incoming{PDU: fills, From: from}, Accepted)
	for range 2 {
		if got := a.ends(room); !slices.Equal(got, []event.ID{last.ID}) {
			t.Errorf("ends %v, want the last message alone", got)
		}
		sameState(t, a, b, room)
		a.reopen()
	}
}
