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

// An event whose ancestors nobody has is taken with the state that somebody names; its ancestors may come later.
func TestGivenState(t *testing.T) {
	a, b, room := pair(t, "12")
	bFrom := b.db.Published()
	b.send(text(room, carol, "verloren"))
	b.send(text(room, carol, "da"))
	news := b.news(room, bFrom)
	res := a.accept(Incoming{PDU: news[1], From: Source{"federation", "b"}})
	if res.Outcome != Missing || !slices.Equal(res.Missing, []event.ID{news[0].ID}) {
		t.Fatalf("got %+v", res)
	}
	ids := slices.Collect(maps.Values(b.state(room)))
	a.mustAccept(Incoming{PDU: news[1], From: Source{"federation", "b"}, State: ids}, Accepted)
	if gaps, err := a.Gaps(t.Context(), room); err != nil || !slices.Equal(gaps, []event.ID{news[0].ID}) {
		t.Errorf("gaps %v, %v", gaps, err)
	}
	ends := a.ends(room)
	a.mustAccept(Incoming{PDU: news[0], From: Source{"federation", "b"}}, Accepted)
	if gaps, _ := a.Gaps(t.Context(), room); len(gaps) > 0 {
		t.Errorf("gaps stay: %v", gaps)
	}
	a.reopen()
	if got := a.ends(room); !slices.Contains(got, news[1].ID) || slices.Contains(got, news[0].ID) {
		t.Errorf("ends %v, before %v", got, ends)
	}
	a.send(text(room, alice, "weiter"))
	sameState(t, a, b, room)
}

// A server tells a state before an event whose ancestors we have: what they come to counts, not what it says.
func TestOwnStateGoesFirst(t *testing.T) {
	a, b, room := pair(t, "12")
	old := slices.Collect(maps.Values(b.state(room)))
	named := b.pdu(b.send(state(room, carol, "m.room.member", string(carol), `{"membership":"join","displayname":"Carola"}`)))
	a.mustAccept(Incoming{PDU: named, From: Source{"federation", "b"}}, Accepted)
	next := b.pdu(b.send(text(room, carol, "weiter")))
	a.mustAccept(Incoming{PDU: next, From: Source{"federation", "b"}, State: old}, Accepted)
	before, err := a.StateBefore(t.Context(), next.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got := before[rules.Key{Type: "m.room.member", StateKey: string(carol)}]; got != named.ID {
		t.Errorf("the state before holds %s, want %s", got, named.ID)
	}
	sameState(t, a, b, room)
}

// What came before the join comes in as news: it is the newest event, and yet not the end of the graph, also after a restart.
func TestLateAncestorIsNoEnd(t *testing.T) {
	a, b := newBox(t, "a"), newBox(t, "b")
	room := a.create(CreateRequest{Creator: alice, Preset: "public_chat"})
	late := a.pdu(a.send(text(room, alice, "vor dem Beitritt")))
	join := joinRemote(t, a, b, room, carol)
	before, err := a.StateBefore(t.Context(), late.ID)
	if err != nil {
		t.Fatal(err)
	}
	b.mustAccept(Incoming{PDU: late, From: Source{"federation", "a"}, State: slices.Collect(maps.Values(before))}, Accepted)
	for range 2 {
		if got := b.ends(room); !slices.Equal(got, []event.ID{join.ID}) {
			t.Errorf("ends %v, want the join", got)
		}
		b.reopen()
	}
	next := b.pdu(b.send(text(room, carol, "danach")))
	if !slices.Equal(next.Prev, []event.ID{join.ID}) {
		t.Errorf("the next event follows %v, want the join", next.Prev)
	}
	b.reopen()
	if got := b.ends(room); !slices.Equal(got, []event.ID{next.ID}) {
		t.Errorf("ends %v, want the next event", got)
	}
}
