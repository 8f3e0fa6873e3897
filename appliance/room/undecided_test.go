// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// remote builds an event of a remote user from what box a thinks is right, on given prev and authorising events.
func remote(t *testing.T, v *event.Version, room event.RoomID, sender event.UserID, typ string, key *string, content string, prev []*event.PDU, auth ...event.ID) *event.PDU {
	t.Helper()
	p := event.Proto{RoomID: room, Sender: sender, Type: typ, StateKey: key, Content: json.RawMessage(content), Auth: auth}
	for _, q := range prev {
		p.Prev, p.Depth = append(p.Prev, q.ID), max(p.Depth, q.Depth+1)
	}
	p.TS = 1_800_000_000_000 + p.Depth*1000
	pdu, err := event.Build(v, p, sender.Server(), testKey(sender.Server()))
	if err != nil {
		t.Fatal(err)
	}
	return pdu
}

func (b *box) id(room event.RoomID, typ, key string) event.ID {
	return b.state(room)[rules.Key{Type: typ, StateKey: key}]
}

// A topic rests on a profile change from another branch that is not here. It is refused, its author's next topic stands; when the profile change comes, the refused
// topic counts as if it had never been refused, for what follows too. With a restart in between or without.
func TestRejectedForWantOfAuthority(t *testing.T) {
	for _, restart := range []bool{false, true} {
		var told []AppendInfo
		a := newBoxWith(t, "a", Options{OnAppend: func(_ *store.Tx, e AppendInfo) error { told = append(told, e); return nil }})
		b := newBox(t, "b")
		room := a.create(CreateRequest{Creator: alice, Preset: "public_chat", Version: "11"})
		joinRemote(t, a, b, room, carol)
		a.send(state(room, alice, "m.room.power_levels", "", `{"users":{"@alice:a":100,"@carol:b":50},"events":{"m.room.topic":0}}`))
		root := a.pdu(a.ends(room)[0])
		v, create, power, rule, join := root.Version, a.id(room, "m.room.create", ""), a.id(room, "m.room.power_levels", ""), a.id(room, "m.room.join_rules", ""),
			a.id(room, "m.room.member", string(carol))
		self, dora, none := string(carol), string(event.UserID("@dora:b")), ""
		from := Source{"federation", "b"}

		profile := remote(t, v, room, carol, "m.room.member", &self, `{"membership":"join","displayname":"C"}`, []*event.PDU{root}, create, power, rule, join)
		opened := remote(t, v, room, carol, "m.room.member", &dora, `{"membership":"invite"}`, []*event.PDU{root}, create, power, rule, profile.ID)
		topic := remote(t, v, room, event.UserID(dora), "m.room.member", &dora, `{"membership":"join"}`, []*event.PDU{opened}, create, power, rule, opened.ID)
		word := remote(t, v, room, event.UserID(dora), "m.room.message", nil, `{"body":"moin"}`, []*event.PDU{topic}, create, power, topic.ID)
		later := remote(t, v, room, event.UserID(dora), "m.room.topic", &none, `{"topic":"Land unter"}`, []*event.PDU{word}, create, power, topic.ID)

		if res := a.accept(Incoming{PDU: opened, From: from}); res.Outcome != Missing || !slices.Equal(res.Missing, []event.ID{profile.ID}) {
			t.Fatalf("got %+v", res)
		}
		for _, p := range []*event.PDU{opened, topic, word, later} {
			res := a.mustAccept(Incoming{PDU: p, From: from, NoAuth: true}, Rejected)
			if !strings.HasPrefix(res.Reason, lacksAuthority) {
				t.Errorf("%s: %s", p.Type, res.Reason)
			}
			a.mustAccept(Incoming{PDU: p, From: from}, Duplicate)
		}
		own := a.pdu(a.send(text(room, alice, "nichts davon")))
		if !slices.Equal(own.Prev, []event.ID{root.ID}) {
			t.Errorf("an own event follows what is refused: %v", own.Prev)
		}
		if restart {
			a.reopen()
		}
		before := len(told)
		a.mustAccept(Incoming{PDU: profile, From: from}, Accepted)
		for _, p := range []*event.PDU{opened, topic, word, later} {
			if _, m, err := a.Event(t.Context(), p.ID); err != nil || m.Rejected || m.Reason != "" || m.Pos <= 0 {
				t.Errorf("%s: %+v, %v", p.Type, m, err)
			}
		}
		if got := a.content(room, "m.room.topic", ""); got != `{"topic":"Land unter"}` {
			t.Errorf("topic %s", got)
		}
		if us, err := a.Joined(t.Context(), room); err != nil || !slices.Contains(us, event.UserID(dora)) {
			t.Errorf("joined %v, %v", us, err)
		}
		if got, want := a.ends(room), []event.ID{own.ID, profile.ID, later.ID}; !sameIDs(got, want) {
			t.Errorf("ends %v, want %v", got, want)
		}
		if n := len(told) - before; n != 5 || told[before].Again || !told[before+1].Again || told[before+4].Outcome != Accepted {
			t.Errorf("told of %d events: %+v", n, told[before:])
		}
		merge := a.pdu(a.send(text(room, alice, "alle")))
		if len(merge.Prev) != 3 {
			t.Errorf("the next event joins %d ends", len(merge.Prev))
		}
		err := a.db.View(t.Context(), func(rd *store.Read) error {
			us, err := rd.UnsureEvents(room)
			ids, err2 := rd.AuthAwaited(room, 10)
			if len(us) > 0 || len(ids) > 0 || err2 != nil {
				t.Errorf("undecided stay: %v %v %v", us, ids, err2)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What is refused for good stays so, and frees what waits for it: that is refused for good as well.
func TestAuthorityComesAndIsRefused(t *testing.T) {
	a, _, room := pair(t, "11")
	root := a.pdu(a.ends(room)[0])
	create, power, rule, join := a.id(room, "m.room.create", ""), a.id(room, "m.room.power_levels", ""), a.id(room, "m.room.join_rules", ""),
		a.id(room, "m.room.member", string(carol))
	none, self := "", string(carol)
	from := Source{"federation", "b"}
	bad := remote(t, root.Version, room, carol, "m.room.power_levels", &none, `{"users":{"@carol:b":100}}`, []*event.PDU{root}, create, power, join)
	outlier := remote(t, root.Version, room, carol, "m.room.member", &self, `{"membership":"join","displayname":"C"}`, []*event.PDU{root}, create, bad.ID, rule, join)
	last := remote(t, root.Version, room, carol, "m.room.message", nil, `{"body":"x"}`, []*event.PDU{root}, create, power, outlier.ID)
	a.mustAccept(Incoming{PDU: outlier, From: from, Outlier: true, NoAuth: true}, Rejected)
	a.mustAccept(Incoming{PDU: last, From: from}, Rejected)
	a.mustAccept(Incoming{PDU: bad, From: from}, Rejected)
	for _, p := range []*event.PDU{outlier, last} {
		_, m, err := a.Event(t.Context(), p.ID)
		if err != nil || !m.Rejected || strings.HasPrefix(m.Reason, lacksAuthority) {
			t.Errorf("%s: %+v, %v", p.Type, m, err)
		}
	}
	if got := a.ends(room); !slices.Equal(got, []event.ID{root.ID}) {
		t.Errorf("ends %v", got)
	}
}

// Parts of a state that wait for their authority make the state incomplete; an outlier that waited is as good as any when the chain is whole.
func TestGivenStateWaitsForAuthority(t *testing.T) {
	a, b, room := pair(t, "11")
	root := a.pdu(a.ends(room)[0])
	create, power, rule, join := a.id(room, "m.room.create", ""), a.id(room, "m.room.power_levels", ""), a.id(room, "m.room.join_rules", ""),
		a.id(room, "m.room.member", string(carol))
	self, from := string(carol), Source{"federation", "b"}
	var chain []*event.PDU
	for _, name := range []string{"A", "B", "C"} {
		p := remote(t, root.Version, room, carol, "m.room.member", &self, `{"membership":"join","displayname":"`+name+`"}`, []*event.PDU{root}, create, power, rule, join)
		chain, root, join = append(chain, p), p, p.ID
	}
	word := remote(t, root.Version, room, carol, "m.room.message", nil, `{"body":"da"}`, chain[2:], create, power, join)
	a.mustAccept(Incoming{PDU: chain[2], From: from, Outlier: true, NoAuth: true}, Rejected)
	given := maps.Clone(a.state(room))
	given[rules.Key{Type: "m.room.member", StateKey: string(carol)}] = join
	in := Incoming{PDU: word, From: from, State: slices.Collect(maps.Values(given))}
	if res := a.accept(in); res.Outcome != Missing || !slices.Equal(res.Missing, []event.ID{join}) {
		t.Fatalf("got %+v", res)
	}
	a.mustAccept(Incoming{PDU: chain[0], From: from, Outlier: true}, Accepted)
	a.mustAccept(Incoming{PDU: chain[1], From: from, Outlier: true}, Accepted)
	if _, m, err := a.Event(t.Context(), join); err != nil || m.Rejected || !m.Outlier {
		t.Errorf("%+v, %v", m, err)
	}
	a.mustAccept(in, Accepted)
	if got := a.content(room, "m.room.member", self); got != `{"displayname":"C","membership":"join"}` {
		t.Errorf("member %s", got)
	}
	_ = b
}

// Events of another room, of the same version or not, are neither ancestors nor authority nor state here.
func TestForeignAncestors(t *testing.T) {
	for _, version := range []string{"10", "12"} {
		a, _, room := pair(t, "12")
		other := a.create(CreateRequest{Creator: alice, Preset: "public_chat", Version: version})
		strange := a.pdu(a.ends(other)[0])
		root := a.pdu(a.ends(room)[0])
		power, join := a.id(room, "m.room.power_levels", ""), a.id(room, "m.room.member", string(carol))
		from := Source{"federation", "b"}
		was := a.state(room)
		for name, p := range map[string]*event.PDU{
			"a prev event":         remote(t, root.Version, room, carol, "m.room.message", nil, `{"body":"1"}`, []*event.PDU{strange}, power, join),
			"a prev event of two":  remote(t, root.Version, room, carol, "m.room.message", nil, `{"body":"2"}`, []*event.PDU{root, strange}, power, join),
			"an authorising event": remote(t, root.Version, room, carol, "m.room.message", nil, `{"body":"3"}`, []*event.PDU{root}, power, a.id(other, "m.room.member", string(alice))),
			"all authorising events": remote(t, root.Version, room, carol, "m.room.message", nil, `{"body":"4"}`, []*event.PDU{root}, a.id(other, "m.room.power_levels", ""),
				a.id(other, "m.room.member", string(alice))),
		} {
			if res := a.accept(Incoming{PDU: p, From: from}); res.Outcome != Rejected || strings.HasPrefix(res.Reason, lacksAuthority) {
				t.Errorf("version %s, %s: %+v", version, name, res)
			}
			child := remote(t, root.Version, room, carol, "m.room.message", nil, `{"body":"`+name+`"}`, []*event.PDU{p, root}, power, join)
			a.mustAccept(Incoming{PDU: child, From: from}, Accepted)
		}
		lost := remote(t, root.Version, room, carol, "m.room.message", nil, `{"body":"5"}`, []*event.PDU{{ID: "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}, power, join)
		if res := a.accept(Incoming{PDU: lost, From: from, State: append(slices.Collect(maps.Values(was)), strange.ID)}); res.Outcome != Missing {
			t.Errorf("version %s, a state: %+v", version, res)
		}
		if !maps.Equal(a.state(room), was) {
			t.Errorf("version %s: the state changed", version)
		}
	}
}
