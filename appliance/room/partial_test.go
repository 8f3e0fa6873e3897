// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// arrival is a join of somebody of another server, with the state before it, whole and as it is told without members.
type arrival struct {
	v           *event.Version
	join        *event.PDU
	create      *event.PDU
	whole, told []*event.PDU
	auth        []*event.PDU // of what is told
	wholeAuth   []*event.PDU
}

func (b *box) arrival(room event.RoomID, user event.UserID) (a arrival) {
	b.t.Helper()
	ctx := b.t.Context()
	raw, v, err := b.Template(ctx, member(room, user, user, "join"))
	if err != nil {
		b.t.Fatal(err)
	}
	a.v = v
	if a.join, err = event.FromTemplate(v, raw, user.Server(), testKey(user.Server())); err != nil {
		b.t.Fatal(err)
	}
	b.mustAccept(Incoming{PDU: a.join, From: Source{"federation", user.Server()}}, Accepted)
	a.whole, a.wholeAuth = b.stateAndAuth(a.join.ID)
	for _, p := range a.whole {
		if p.Type != "m.room.member" || *p.StateKey == string(user) {
			a.told = append(a.told, p)
		}
	}
	a.auth = b.chain(append(slices.Clone(a.told), a.join))
	for _, p := range a.told {
		if p.Is("m.room.create", "") {
			a.create = p
		}
	}
	return a
}

// chain is what authorises events, directly or through others.
func (b *box) chain(of []*event.PDU) (auth []*event.PDU) {
	seen := make(map[event.ID]bool)
	for todo := slices.Clone(of); len(todo) > 0; todo = todo[1:] {
		for _, id := range todo[0].Auth {
			if !seen[id] {
				seen[id] = true
				auth, todo = append(auth, b.pdu(id)), append(todo, b.pdu(id))
			}
		}
	}
	return auth
}

func ids(pdus []*event.PDU) (out []event.ID) {
	for _, p := range pdus {
		out = append(out, p.ID)
	}
	return out
}

// come joins a box with what is told without members.
func (b *box) come(a arrival, through string, servers ...string) {
	b.t.Helper()
	from := Source{"federation", through}
	if err := b.Learn(b.t.Context(), a.v, a.create, append(slices.Clone(a.auth), a.told...), from); err != nil {
		b.t.Fatal(err)
	}
	err := b.Arrive(b.t.Context(), Arrival{Version: a.v, Join: a.join, State: ids(a.told), From: from, Partial: true, Servers: servers})
	if err != nil {
		b.t.Fatal(err)
	}
}

// learnWhole brings what lacks of the state and completes it.
func (b *box) learnWhole(a arrival) {
	b.t.Helper()
	ctx := b.t.Context()
	lack, err := b.Lacks(ctx, ids(append(slices.Clone(a.wholeAuth), a.whole...)))
	if err != nil {
		b.t.Fatal(err)
	}
	var pdus []*event.PDU
	for _, p := range append(slices.Clone(a.wholeAuth), a.whole...) {
		if slices.Contains(lack, p.ID) {
			pdus = append(pdus, p)
		}
	}
	if err := b.Learn(ctx, a.v, a.create, pdus, Source{"federation", "a"}); err != nil {
		b.t.Fatal(err)
	}
	if err := b.Complete(ctx, Whole{Room: a.join.RoomID, Join: a.join.ID, State: ids(a.whole)}); err != nil {
		b.t.Fatal(err)
	}
}

// take hands an event in; authorising events that lack are brought by name.
func (w *world) take(x *box, p *event.PDU) Result {
	w.t.Helper()
	in := Incoming{PDU: p, From: Source{"federation", p.Sender.Server()}}
	res := x.accept(in)
	if res.Outcome != Missing {
		return res
	}
	var bring func(id event.ID)
	bring = func(id event.ID) {
		q := w.a.pdu(id)
		for _, a := range q.Auth {
			if lack, _ := x.Lacks(w.t.Context(), []event.ID{a}); len(lack) > 0 {
				bring(a)
			}
		}
		x.accept(Incoming{PDU: q, From: in.From, Outlier: true})
	}
	for _, id := range res.Missing {
		bring(id)
	}
	return x.accept(in)
}

// shuffled draws an order in which no event comes before its ancestors.
func shuffled(pdus []*event.PDU, rng *rand.Rand) (out []*event.PDU) {
	todo := slices.Clone(pdus)
	open := make(map[event.ID]bool)
	for _, p := range todo {
		open[p.ID] = true
	}
	for len(todo) > 0 {
		i := rng.IntN(min(5, len(todo)))
		if slices.ContainsFunc(todo[i].Prev, func(id event.ID) bool { return open[id] }) {
			i = 0
		}
		p := todo[i]
		delete(open, p.ID)
		out = append(out, p)
		todo = slices.Delete(todo, i, i+1)
	}
	return out
}

// Whoever comes into a room without knowing its members, and learns of them at any time later, ends where a server ends that knew them from the beginning: with
// the same verdicts, the same state at each event, the same ends and current state.
func TestLateMembersSameRoom(t *testing.T) {
	graphs, orders := 12, 3
	if testing.Short() {
		graphs = 6
	}
	wrong := 0
	for seed := range uint64(graphs) {
		version := []string{"10", "11", "12"}[seed%3]
		w := newWorld(t, seed, version)
		w.recent = []*event.PDU{w.a.pdu(w.a.ends(w.room)[0])}
		for _, p := range people {
			own := string(p)
			w.add(p, "m.room.member", &own, `{"membership":"join"}`, w.recent[len(w.recent)-1:], nil)
		}
		w.grow(25)
		a := w.a.arrival(w.room, "@x:x")
		w.recent = append(w.recent[max(0, len(w.recent)-3):], a.join)
		w.truth, w.all = make(map[event.ID]Outcome), nil
		// Nothing from before the join is built upon: that is what gaps are for, and they are tested elsewhere.
		w.recent = w.recent[len(w.recent)-1:]
		w.stale = a.whole
		w.grow(50)
		for order := range orders {
			rng := rand.New(rand.NewPCG(seed, uint64(order)))
			x, ref := newBox(t, "x"), newBox(t, "x")
			x.come(a, "a", "a", "b", "x")
			if err := ref.Adopt(t.Context(), a.v, a.join, a.whole, a.wholeAuth, Source{"federation", "a"}); err != nil {
				t.Fatal(err)
			}
			when := rng.IntN(len(w.all) + 1)
			all := shuffled(w.all, rng)
			for i, p := range all {
				if i == when {
					x.learnWhole(a)
				}
				got, want := w.take(x, p), w.take(ref, p)
				if (got.Outcome == Missing) != (want.Outcome == Missing) {
					t.Fatalf("seed %d, order %d: %v, want %v", seed, order, got, want)
				}
				if i < when && got.Outcome != want.Outcome {
					wrong++
				}
				if rng.IntN(20) == 0 {
					w.memoryIsDisk(x)
				}
			}
			if when == len(all) {
				x.learnWhole(a)
			}
			w.compareWhole(x, ref, append(all, a.join))
			if t.Failed() {
				t.Fatalf("seed %d, order %d, learnt after %d of %d", seed, order, when, len(all))
			}
		}
	}
	t.Logf("%d verdicts were wrong at first", wrong)
	if wrong == 0 {
		t.Error("nothing was ever decided otherwise for want of members")
	}
}

func (w *world) compareWhole(x, ref *box, all []*event.PDU) {
	w.t.Helper()
	ctx := w.t.Context()
	w.memoryIsDisk(x)
	for _, p := range all {
		_, got, err := x.Event(ctx, p.ID)
		_, want, err2 := ref.Event(ctx, p.ID)
		if err != nil || err2 != nil || got.Rejected != want.Rejected || got.SoftFailed != want.SoftFailed || (got.Pos > 0) != (want.Pos > 0) {
			w.t.Errorf("%s %s of %s: %+v %v, want %+v %v", p.Type, p.ID, p.Sender, got, err, want, err2)
		}
		b1, err := x.StateBefore(ctx, p.ID)
		b2, err2 := ref.StateBefore(ctx, p.ID)
		if err != nil || err2 != nil || !maps.Equal(b1, b2) {
			w.t.Errorf("another state before %s %s: %v %v", p.Type, p.ID, err, err2)
		}
		a1, err := x.StateAfter(ctx, p.ID)
		a2, err2 := ref.StateAfter(ctx, p.ID)
		if err != nil || err2 != nil || !maps.Equal(a1, a2) {
			w.t.Errorf("another state after %s %s: %v %v", p.Type, p.ID, err, err2)
		}
	}
	if got, want := x.ends(w.room), ref.ends(w.room); !sameIDs(got, want) {
		w.t.Errorf("ends %v, want %v", got, want)
	}
	if got, want := x.state(w.room), ref.state(w.room); !maps.Equal(got, want) {
		w.t.Error("another current state")
	}
	got, err := x.Members(ctx, w.room)
	want, err2 := ref.Members(ctx, w.room)
	if err != nil || err2 != nil || !maps.Equal(got, want) {
		w.t.Errorf("members %v, want %v", got, want)
	}
	s1, _ := x.Servers(ctx, w.room)
	s2, _ := ref.Servers(ctx, w.room)
	if !slices.Equal(s1, s2) {
		w.t.Errorf("servers %v, want %v", s1, s2)
	}
	us := 0
	_ = x.view(ctx, func(rd *store.Read) error { u, err := rd.UnsureEvents(w.room); us = len(u); return err })
	if us != 0 {
		w.t.Errorf("%d events are still unsure", us)
	}
}

// While members are lacking, the servers that are said to be in the room count, everybody can talk, and nobody has to wait for anything but the members.
func TestTalkBeforeMembersAreKnown(t *testing.T) {
	a := newBox(t, "a")
	room := a.create(CreateRequest{Creator: alice, Preset: "public_chat"})
	for _, u := range people {
		a.mustAccept(Incoming{PDU: a.arrival(room, u).join, From: Source{"federation", u.Server()}}, Duplicate)
	}
	arr := a.arrival(room, "@x:x")
	var told []string
	x := newBoxWith(t, "x", Options{OnAppend: func(_ *store.Tx, e AppendInfo) error {
		if e.PDU.Type == "m.room.message" {
			told = e.Servers
		}
		return nil
	}})
	x.come(arr, "a", "a", "b", "c", "x", "no server name")
	if ss, err := x.Servers(t.Context(), room); err != nil || !slices.Equal(ss, []string{"a", "b", "c", "x"}) {
		t.Errorf("servers %v %v", ss, err)
	}
	if rooms, err := x.RoomsWith(t.Context(), "c"); err != nil || len(rooms) != 1 {
		t.Errorf("rooms shared with c: %v %v", rooms, err)
	}
	id := x.send(text(room, "@x:x", "moin"))
	if !slices.Equal(told, []string{"a", "b", "c", "x"}) {
		t.Errorf("the message goes to %v", told)
	}
	a.mustAccept(Incoming{PDU: x.pdu(id), From: Source{"federation", "x"}}, Accepted)
	if lacking, err := x.Lacking(t.Context(), room); err != nil || lacking == nil || lacking.Join != arr.join.ID || !lacking.Here {
		t.Errorf("lacking %+v %v", lacking, err)
	}
	// A second user, a departure, a return: without waiting.
	x.send(member(room, "@y:x", "@y:x", "join"))
	x.send(member(room, "@x:x", "@x:x", "leave"))
	x.send(member(room, "@y:x", "@y:x", "leave"))
	if ok, err := x.Abandon(t.Context(), room); !ok || err != nil {
		t.Errorf("abandon: %v %v", ok, err)
	}
	if lacking, err := x.Lacking(t.Context(), room); err != nil || lacking != nil {
		t.Errorf("after all have left, lacking %+v %v", lacking, err)
	}
	if _, err := x.StateBefore(t.Context(), id); err == nil {
		t.Error("the state at an event is told though members were lacking there")
	}
}

// Leaving and coming back before the members are known goes on from the same join when nothing else has happened.
func TestComeBackBeforeMembersAreKnown(t *testing.T) {
	a := newBox(t, "a")
	room := a.create(CreateRequest{Creator: alice, Preset: "public_chat"})
	for _, u := range people {
		a.arrival(room, u)
	}
	arr := a.arrival(room, "@x:x")
	x := newBox(t, "x")
	x.come(arr, "a", "a")
	leave := x.send(member(room, "@x:x", "@x:x", "leave"))
	a.mustAccept(Incoming{PDU: x.pdu(leave), From: Source{"federation", "x"}}, Accepted)
	back := a.arrival(room, "@x:x")
	x.come(back, "a", "a")
	lacking, err := x.Lacking(t.Context(), room)
	if err != nil || lacking == nil || lacking.Join != arr.join.ID {
		t.Fatalf("lacking %+v %v, want what began with the first join", lacking, err)
	}
	x.learnWhole(arr)
	sameState(t, a, x, room)
	// With something between that we have not seen, the second join begins anew.
	x2 := newBox(t, "x2")
	first := a.arrival(room, "@z:x2")
	x2.come(first, "a", "a")
	leave = x2.send(member(room, "@z:x2", "@z:x2", "leave"))
	a.mustAccept(Incoming{PDU: x2.pdu(leave), From: Source{"federation", "x2"}}, Accepted)
	a.send(text(room, alice, "in between"))
	second := a.arrival(room, "@z:x2")
	x2.come(second, "a", "a")
	if lacking, err = x2.Lacking(t.Context(), room); err != nil || lacking == nil || lacking.Join != second.join.ID {
		t.Fatalf("lacking %+v %v, want what began with the second join", lacking, err)
	}
	if err := x2.Complete(t.Context(), Whole{Room: room, Join: first.join.ID, State: ids(first.whole)}); err != nil {
		t.Errorf("the first join is completed late: %v", err)
	}
	x2.learnWhole(second)
	sameState(t, a, x2, room)
}

// What lacks is named, and nothing changes; the state before the last event will do.
func TestCompleteNeedsAll(t *testing.T) {
	a := newBox(t, "a")
	room := a.create(CreateRequest{Creator: alice, Preset: "public_chat"})
	for _, u := range people {
		a.arrival(room, u)
	}
	prev := a.pdu(a.ends(room)[0])
	arr := a.arrival(room, "@x:x")
	x := newBox(t, "x")
	x.come(arr, "a", "a")
	before := x.state(room)
	if err := x.Complete(t.Context(), Whole{Room: room, Join: arr.join.ID, State: ids(arr.whole)}); err == nil {
		t.Error("completed without the members")
	}
	if got := x.state(room); !maps.Equal(got, before) {
		t.Error("the state has changed")
	}
	if err := x.Learn(t.Context(), arr.v, arr.create, append(slices.Clone(arr.wholeAuth), arr.whole...), Source{"federation", "a"}); err != nil {
		t.Fatal(err)
	}
	old, err := a.StateBefore(t.Context(), prev.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Complete(t.Context(), Whole{Room: room, Join: arr.join.ID, State: slices.Collect(maps.Values(old)), At: prev.ID}); err != nil {
		t.Fatal(err)
	}
	sameState(t, a, x, room)
}

// A lie about the room ends when its members are known: the join itself may have been none.
func TestJoinThatWasNone(t *testing.T) {
	a := newBox(t, "a")
	room := a.create(CreateRequest{Creator: alice, Preset: "public_chat"})
	arr := a.arrival(room, "@x:x")
	x := newBox(t, "x")
	x.come(arr, "a", "a")
	x.send(text(room, "@x:x", "moin"))
	// The whole state says that the user was banned all along.
	key := "@x:x"
	ban := remote(t, arr.v, room, alice, "m.room.member", &key, `{"membership":"ban"}`, []*event.PDU{a.pdu(arr.join.Prev[0])},
		a.id(room, "m.room.power_levels", ""), a.id(room, "m.room.member", string(alice)))
	if arr.v.ID != "12" {
		t.Fatal("the default room version has changed: name the creation")
	}
	if err := x.Learn(t.Context(), arr.v, arr.create, append(slices.Clone(arr.wholeAuth), append(arr.whole, ban)...), Source{"federation", "a"}); err != nil {
		t.Fatal(err)
	}
	if err := x.Complete(t.Context(), Whole{Room: room, Join: arr.join.ID, State: append(ids(arr.whole), ban.ID)}); err != nil {
		t.Fatal(err)
	}
	if m, err := x.Members(t.Context(), room); err != nil || m["@x:x"] != "ban" {
		t.Errorf("members %v %v", m, err)
	}
	if n := len(x.timeline(room)); n != 0 {
		t.Errorf("%d events are still shown", n)
	}
	if _, err := x.Send(t.Context(), text(room, "@x:x", "still here?")); err == nil {
		t.Error("a banned user can talk")
	}
}

// Learning a big room's members is done in steps that are small.
func TestCompleteInSteps(t *testing.T) {
	a := newBox(t, "a")
	room := a.create(CreateRequest{Creator: alice, Preset: "public_chat"})
	for _, u := range people {
		a.arrival(room, u)
	}
	arr := a.arrival(room, "@x:x")
	x := newBox(t, "x")
	x.come(arr, "a", "a")
	for i := range 2*stepEvents + 50 {
		id := a.send(state(room, alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, i)))
		x.mustAccept(Incoming{PDU: a.pdu(id), From: Source{"federation", "a"}}, Accepted)
	}
	x.learnWhole(arr)
	sameState(t, a, x, room)
	var key rules.Key
	for k := range x.state(room) {
		if k.Type == "m.room.topic" {
			key = k
		}
	}
	if p := x.pdu(x.state(room)[key]); string(p.Content) != string(json.RawMessage(fmt.Sprintf(`{"topic":"%d"}`, 2*stepEvents+49))) {
		t.Errorf("topic %s", p.Content)
	}
}
