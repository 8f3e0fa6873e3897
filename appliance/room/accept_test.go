// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// joinRemote makes user of server to join a room that from holds, as make_join and send_join would.
func joinRemote(t testing.TB, from, to *box, room event.RoomID, user event.UserID) *event.PDU {
	t.Helper()
	ctx := t.Context()
	raw, v, err := from.Template(ctx, member(room, user, user, "join"))
	if err != nil {
		t.Fatal(err)
	}
	join, err := event.FromTemplate(v, raw, to.Server(), testKey(to.Server()))
	if err != nil {
		t.Fatal(err)
	}
	from.mustAccept(Incoming{PDU: join, From: Source{"federation", to.Server()}}, Accepted)
	state, auth := from.stateAndAuth(join.ID)
	if err := to.Adopt(ctx, v, join, state, auth, Source{"federation", from.Server()}); err != nil {
		t.Fatal(err)
	}
	return join
}

// stateAndAuth is what another server is told of the room before an event.
func (b *box) stateAndAuth(at event.ID) (state, auth []*event.PDU) {
	b.t.Helper()
	told, err := b.TellState(context.Background(), at)
	if err != nil {
		b.t.Fatal(err)
	}
	pdus := func(nids []int64) (list []*event.PDU) {
		err := told.Each(context.Background(), nids, func(raw json.RawMessage) error {
			p, err := event.Parse(b.pdu(at).Version, raw)
			list = append(list, p)
			return err
		})
		if err != nil {
			b.t.Fatal(err)
		}
		return list
	}
	return pdus(told.State), pdus(told.Auth)
}

func (b *box) accept(in Incoming) Result {
	b.t.Helper()
	// What comes from outside comes as bytes.
	p, err := event.Parse(in.PDU.Version, in.PDU.JSON())
	if err != nil {
		b.t.Fatal(err)
	}
	in.PDU = p
	res, err := b.Accept(context.Background(), in)
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

func (b *box) mustAccept(in Incoming, want Outcome) Result {
	b.t.Helper()
	res := b.accept(in)
	if res.Outcome != want {
		b.t.Fatalf("%s accepts %s: %v (%s) missing %v, want %v", b.Server(), in.PDU.Type, res.Outcome, res.Reason, res.Missing, want)
	}
	return res
}

// news gives a box's own shown events after a position, oldest first.
func (b *box) news(room event.RoomID, after int64) (ps []*event.PDU) {
	for _, e := range b.timeline(room) {
		if e.Pos > after && e.Is(store.Local) {
			ps = append(ps, b.pdu(e.ID))
		}
	}
	return ps
}

func pair(t *testing.T, version string) (a, b *box, room event.RoomID) {
	a, b = newBox(t, "a"), newBox(t, "b")
	room = a.create(CreateRequest{Creator: alice, Version: version, Preset: "public_chat", Name: "Deich"})
	joinRemote(t, a, b, room, carol)
	if got, want := b.state(room), a.state(room); !maps.Equal(got, want) {
		t.Fatalf("after the join: state %v, want %v", got, want)
	}
	return a, b, room
}

func sameState(t *testing.T, a, b *box, room event.RoomID) {
	t.Helper()
	as, bs := a.state(room), b.state(room)
	for k, id := range as {
		if bs[k] != id {
			t.Errorf("%v: %s here, %s there", k, id, bs[k])
		}
	}
	if len(as) != len(bs) {
		t.Errorf("%d entries here, %d there", len(as), len(bs))
	}
}

func TestJoinThroughAnotherServer(t *testing.T) {
	for _, version := range []string{"10", "11", "12"} {
		a, b, room := pair(t, version)
		if got := b.timeline(room); len(got) != 1 || got[0].Type != "m.room.member" {
			t.Errorf("version %s: timeline after the join: %d events", version, len(got))
		}
		if gaps, err := b.Gaps(t.Context(), room); err != nil || len(gaps) != 1 {
			t.Errorf("version %s: gaps %v, %v", version, gaps, err)
		}
		if us, err := b.Joined(t.Context(), room); err != nil || len(us) != 2 {
			t.Errorf("version %s: joined %v, %v", version, us, err)
		}
		if ss, err := a.Servers(t.Context(), room); err != nil || !slices.Equal(ss, []string{"a", "b"}) {
			t.Errorf("version %s: servers %v, %v", version, ss, err)
		}
		if rs, err := b.RoomsWith(t.Context(), "a"); err != nil || !slices.Equal(rs, []event.RoomID{room}) {
			t.Errorf("version %s: rooms with a: %v, %v", version, rs, err)
		}
		from := b.db.Published()
		b.send(text(room, carol, "Moin"))
		for _, p := range b.news(room, from) {
			a.mustAccept(Incoming{PDU: p, From: Source{"federation", "b"}}, Accepted)
			a.mustAccept(Incoming{PDU: p, From: Source{"federation", "b"}}, Duplicate)
		}
		sameState(t, a, b, room)
	}
}

// Both sides write while the line is cut; then each gets the other's events in order. Both have all of them, and the same state.
func TestPartitionHeals(t *testing.T) {
	for _, version := range []string{"10", "11", "12"} {
		t.Run(version, func(t *testing.T) {
			a, b, room := pair(t, version)
			a.send(state(room, alice, "m.room.power_levels", "", a.powerFor(version)))
			for _, p := range a.news(room, a.timeline(room)[len(a.timeline(room))-2].Pos) {
				b.mustAccept(Incoming{PDU: p, From: Source{"link", "a"}}, Accepted)
			}
			aFrom, bFrom := a.db.Published(), b.db.Published()
			for i := range 15 {
				a.send(text(room, alice, fmt.Sprint("a", i)))
				b.send(text(room, carol, fmt.Sprint("b", i)))
				switch i {
				case 3:
					a.send(state(room, alice, "m.room.topic", "", `{"topic":"von a"}`))
				case 5:
					b.send(state(room, carol, "m.room.topic", "", `{"topic":"von b"}`))
				case 7:
					a.send(member(room, bob, bob, "join"))
				case 9:
					b.send(state(room, carol, "m.room.name", "", `{"name":"Hallig"}`))
				}
			}
			fromA, fromB := a.news(room, aFrom), b.news(room, bFrom)
			for _, p := range fromA {
				b.mustAccept(Incoming{PDU: p, From: Source{"link", "a"}}, Accepted)
			}
			for _, p := range fromB {
				a.mustAccept(Incoming{PDU: p, From: Source{"link", "b"}}, Accepted)
			}
			sameState(t, a, b, room)
			if got := len(a.news(room, aFrom)) + len(b.news(room, bFrom)); got != 34-2 && got != len(fromA)+len(fromB) {
				t.Errorf("%d events", got)
			}
			ends, err := a.Extremities(t.Context(), room)
			if err != nil || len(ends) != 2 {
				t.Fatalf("ends %v, %v", ends, err)
			}
			merge := a.send(text(room, alice, "wieder da"))
			if got := a.pdu(merge).Prev; len(got) != 2 {
				t.Errorf("the merging event follows %d ends, want 2", len(got))
			}
			b.mustAccept(Incoming{PDU: a.pdu(merge), From: Source{"link", "a"}}, Accepted)
			a.reopen()
			b.reopen()
			for _, x := range []*box{a, b} {
				if ends, err := x.Extremities(t.Context(), room); err != nil || !slices.Equal(ends, []event.ID{merge}) {
					t.Errorf("%s: ends %v, %v", x.Server(), ends, err)
				}
			}
			sameState(t, a, b, room)
			if sa, err := a.StateBefore(t.Context(), merge); err != nil || !maps.Equal(sa, a.state(room)) {
				t.Errorf("state before the merge: %v, %v", sa, err)
			}
		})
	}
}

// powerFor lets carol change names and topics.
func (b *box) powerFor(version string) string {
	users := map[string]int{string(carol): 50}
	if version != "12" {
		users[string(alice)] = 100
	}
	raw, _ := json.Marshal(map[string]any{"users": users, "state_default": 50})
	return string(raw)
}

// A ban on one side, messages of the banned user on the other: they are kept, are nobody's news, and the line goes on.
func TestSoftFail(t *testing.T) {
	a, b, room := pair(t, "12")
	bFrom := b.db.Published()
	ban := a.send(member(room, alice, carol, "ban"))
	b.send(text(room, carol, "noch da"))
	b.send(text(room, carol, "immer noch"))
	before := len(a.timeline(room))
	for _, p := range b.news(room, bFrom) {
		a.mustAccept(Incoming{PDU: p, From: Source{"federation", "b"}}, SoftFailed)
		if _, m, err := a.Event(t.Context(), p.ID); err != nil || !m.SoftFailed || m.Pos != 0 {
			t.Errorf("meta %+v, %v", m, err)
		}
	}
	if got := len(a.timeline(room)); got != before {
		t.Errorf("soft-failed events are shown")
	}
	if ends, err := a.Extremities(t.Context(), room); err != nil || !slices.Equal(ends, []event.ID{ban}) {
		t.Errorf("ends %v, %v", ends, err)
	}
	b.mustAccept(Incoming{PDU: a.pdu(ban), From: Source{"federation", "a"}}, Accepted)
	sameState(t, a, b, room)
}

// What the law forbids where it stands is rejected for good, and nothing rests on it.
func TestReject(t *testing.T) {
	a, b, room := pair(t, "12")
	tip := a.pdu(a.ends(room)[0])
	build := func(sender event.UserID, typ, key, content string, prev, auth []event.ID) *event.PDU {
		p, err := event.Build(tip.Version, event.Proto{RoomID: room, Sender: sender, Type: typ, StateKey: &key, Content: json.RawMessage(content),
			Prev: prev, Auth: auth, Depth: tip.Depth + 1, TS: tip.TS + 5}, sender.Server(), testKey(sender.Server()))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	s := a.state(room)
	power, carols := s[rules.Key{Type: "m.room.power_levels"}], s[rules.Key{Type: "m.room.member", StateKey: string(carol)}]
	bad := build(carol, "m.room.topic", "", `{"topic":"nein"}`, []event.ID{tip.ID}, []event.ID{power, carols})
	a.mustAccept(Incoming{PDU: bad, From: Source{"federation", "b"}}, Rejected)
	a.mustAccept(Incoming{PDU: bad, From: Source{"federation", "b"}}, Duplicate)
	if _, m, err := a.Event(t.Context(), bad.ID); err != nil || !m.Rejected || m.Reason == "" || m.Pos != 0 {
		t.Errorf("meta %+v, %v", m, err)
	}
	unknown := build(carol, "m.room.topic", "", `{"topic":"nein"}`, []event.ID{"$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, []event.ID{power, "$BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA"})
	if res := a.accept(Incoming{PDU: unknown, From: Source{"federation", "b"}}); res.Outcome != Missing || len(res.Missing) != 2 {
		t.Errorf("got %+v", res)
	}
	sameState(t, a, b, room)
	a.send(text(room, alice, "weiter"))
}

func (b *box) ends(room event.RoomID) []event.ID {
	b.t.Helper()
	ids, err := b.Extremities(context.Background(), room)
	if err != nil {
		b.t.Fatal(err)
	}
	return ids
}

// The room before the join is fetched afterwards: it comes before everything else, in order, and closes the gap.
func TestBackfill(t *testing.T) {
	a, b := newBox(t, "a"), newBox(t, "b")
	room := a.create(CreateRequest{Creator: alice, Preset: "public_chat"})
	for i := range 12 {
		a.send(text(room, alice, fmt.Sprint(i)))
	}
	joinRemote(t, a, b, room, carol)
	b.send(text(room, carol, "neu"))
	for range 10 {
		gaps, err := b.Gaps(t.Context(), room)
		if err != nil {
			t.Fatal(err)
		}
		if len(gaps) == 0 {
			break
		}
		history, err := a.Backfill(t.Context(), room, gaps, 5)
		if err != nil {
			t.Fatal(err)
		}
		slices.Reverse(history)
		for _, p := range history {
			b.mustAccept(Incoming{PDU: p, From: Source{"federation", "a"}, Backfill: true}, Accepted)
		}
	}
	if gaps, _ := b.Gaps(t.Context(), room); len(gaps) > 0 {
		t.Errorf("gaps stay: %v", gaps)
	}
	as, bs := a.timeline(room), b.timeline(room)
	if len(bs) != len(as)+1 {
		t.Fatalf("%d events, want %d", len(bs), len(as)+1)
	}
	for i := range as {
		if as[i].ID != bs[i].ID {
			t.Errorf("event %d: %s, want %s", i, bs[i].Type, as[i].Type)
		}
		if live := i >= len(as)-1; (bs[i].Pos > 0) != live {
			t.Errorf("event %d has position %d", i, bs[i].Pos)
		}
	}
	b.reopen()
	if got := len(b.ends(room)); got != 1 {
		t.Errorf("%d ends", got)
	}
	b.send(text(room, carol, "weiter"))
}

// A redaction that comes before its target waits for it.
func TestRedactionBeforeTarget(t *testing.T) {
	a, b, room := pair(t, "11")
	bFrom := b.db.Published()
	id := b.send(text(room, carol, "weg damit"))
	b.send(Draft{Room: room, Sender: carol, Type: "m.room.redaction", Redacts: id, Content: json.RawMessage(`{}`)})
	news := b.news(room, bFrom)
	ids := slices.Collect(maps.Values(b.state(room)))
	a.mustAccept(Incoming{PDU: news[1], From: Source{"federation", "b"}, State: ids}, Accepted)
	a.mustAccept(Incoming{PDU: news[0], From: Source{"federation", "b"}}, Accepted)
	p, m, err := a.Event(t.Context(), id)
	if err != nil || string(p.Content) != `{}` || m.RedactedBy != news[1].ID {
		t.Errorf("content %s, %+v, %v", p.Content, m, err)
	}
}

func TestInviteToUnknownRoom(t *testing.T) {
	a, b := newBox(t, "a"), newBox(t, "b")
	room := a.create(CreateRequest{Creator: alice})
	woken := make(chan []event.UserID, 10)
	b.db.OnCommit(func(c store.Commit) { woken <- c.Users })
	invite, v, err := a.BuildEvent(t.Context(), member(room, alice, carol, "invite"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := invite.Sign("b", testKey("b"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AcceptInvite(t.Context(), v, signed, []json.RawMessage{json.RawMessage(`{"type":"m.room.name"}`)}); err != nil {
		t.Fatal(err)
	}
	if got := <-woken; !slices.Equal(got, []event.UserID{carol}) {
		t.Errorf("woken %v", got)
	}
	a.mustAccept(Incoming{PDU: signed, From: Source{Kind: "local"}}, Accepted)
	if _, err := b.Send(t.Context(), text(room, carol, "zu früh")); err == nil {
		t.Error("sent to a room we are not in")
	}
	if err := b.db.View(t.Context(), func(r *store.Read) error {
		ms, err := r.RoomsOf(carol)
		if len(ms) != 1 || ms[0].Membership != "invite" || ms[0].Room != room {
			t.Errorf("memberships %+v", ms)
		}
		stripped, err2 := r.Stripped(room, carol)
		if len(stripped) != 1 {
			t.Errorf("stripped state %v, %v", stripped, err2)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	joinRemote(t, a, b, room, carol)
	b.send(text(room, carol, "jetzt"))
	sameState(t, a, b, room)
}

// Who invited may take it back, though we do not hold the room; others may not.
func TestInviteTakenBack(t *testing.T) {
	a, b := newBox(t, "a"), newBox(t, "b")
	room := a.create(CreateRequest{Creator: alice})
	a.send(member(room, alice, carol, "invite"))
	invite := a.pdu(a.ends(room)[0])
	if err := b.AcceptInvite(t.Context(), invite.Version, invite, nil); err != nil {
		t.Fatal(err)
	}
	key := string(carol)
	stranger, err := event.Build(invite.Version, event.Proto{RoomID: room, Sender: "@mallory:c", Type: "m.room.member", StateKey: &key,
		Content: json.RawMessage(`{"membership":"leave"}`), Prev: []event.ID{invite.ID}, Depth: 9, TS: 1}, "c", testKey("c"))
	if err != nil {
		t.Fatal(err)
	}
	b.mustAccept(Incoming{PDU: stranger, From: Source{"federation", "c"}}, Rejected)
	a.send(member(room, alice, carol, "leave"))
	b.mustAccept(Incoming{PDU: a.pdu(a.ends(room)[0]), From: Source{"federation", "a"}}, Accepted)
	if ms, err := b.Members(t.Context(), room); err != nil || ms[carol] != "leave" {
		t.Errorf("members %v, %v", ms, err)
	}
}

// TestKickFromBeforeTheInvite: somebody is invited, put out and invited again, and the second invite arrives before the kick.
func TestKickFromBeforeTheInvite(t *testing.T) {
	a, b := newBox(t, "a"), newBox(t, "b")
	room := a.create(CreateRequest{Creator: alice})
	var steps []*event.PDU
	for _, membership := range []string{"invite", "leave", "invite"} {
		a.send(member(room, alice, carol, membership))
		steps = append(steps, a.pdu(a.ends(room)[0]))
	}
	for _, i := range []int{0, 2} {
		if err := b.AcceptInvite(t.Context(), steps[i].Version, steps[i], nil); err != nil {
			t.Fatal(err)
		}
	}
	b.mustAccept(Incoming{PDU: steps[1], From: Source{"federation", "a"}}, Accepted)
	if ms, err := b.Members(t.Context(), room); err != nil || ms[carol] != "invite" {
		t.Errorf("members %v, %v; the invite is newer than the kick", ms, err)
	}
	a.send(member(room, alice, carol, "leave"))
	b.mustAccept(Incoming{PDU: a.pdu(a.ends(room)[0]), From: Source{"federation", "a"}}, Accepted)
	if ms, err := b.Members(t.Context(), room); err != nil || ms[carol] != "leave" {
		t.Errorf("members %v, %v; the second kick takes the second invite back", ms, err)
	}
}

func TestLeaveUnknownRoom(t *testing.T) {
	a, b := newBox(t, "a"), newBox(t, "b")
	room := a.create(CreateRequest{Creator: alice})
	invite, v, err := a.BuildEvent(t.Context(), member(room, alice, carol, "invite"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.LeaveUnknown(t.Context(), room, carol, nil); err == nil {
		t.Error("left a room without an invite")
	}
	if err := b.AcceptInvite(t.Context(), v, invite, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.LeaveUnknown(t.Context(), room, carol, nil); err != nil {
		t.Fatal(err)
	}
	if ms, err := b.Members(t.Context(), room); err != nil || ms[carol] != "leave" {
		t.Errorf("members %v, %v", ms, err)
	}
	err = b.db.View(t.Context(), func(rd *store.Read) error {
		m, err := rd.MembershipOf(room, carol)
		if err != nil {
			return err
		}
		e, err := rd.EventByNID(m.Event)
		if err == nil && (e == nil || e.Sender != carol || !bytes.Contains(e.JSON, []byte(`"membership":"leave"`))) {
			t.Errorf("clients are shown %+v", e)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Everybody left, then somebody joins again through another server: the room lives on from there.
// A user comes back, twice, through a server that has not heard yet that he had gone. Both servers come to the same state, whatever the law makes of it: his going
// counts as later when his server's clock was put back in between.
func TestRejoinBeforeTheGoingIsKnown(t *testing.T) {
	for _, back := range []time.Duration{0, 48 * time.Hour} {
		a, b := newBox(t, "a"), newBox(t, "b")
		const bob = event.UserID("@bob:b")
		room := a.create(CreateRequest{Creator: alice, Preset: "public_chat"})
		joinRemote(t, a, b, room, bob)
		b.now = a.now.Add(back)
		going := []event.ID{b.send(text(room, bob, "bis morgen")), b.send(member(room, bob, bob, "leave"))}
		a.now = a.now.Add(time.Hour)
		a.send(text(room, alice, "bist du noch da?"))
		joinRemote(t, a, b, room, bob)
		a.send(text(room, alice, "schön"))
		join := joinRemote(t, a, b, room, bob)
		for _, id := range going {
			a.mustAccept(Incoming{PDU: b.pdu(id), From: Source{"federation", "b"}}, Accepted)
		}
		sameState(t, a, b, room)
		want := map[bool]event.ID{true: join.ID, false: going[1]}[back == 0]
		if got := b.id(room, "m.room.member", string(bob)); got != want {
			t.Errorf("clock put back by %v: the membership is %s, want %s", back, got, want)
		}
		if ends := b.ends(room); !slices.Contains(ends, join.ID) || !slices.Contains(ends, going[1]) {
			t.Errorf("clock put back by %v: ends %v, want the join and the going", back, ends)
		}
	}
}

func TestRejoin(t *testing.T) {
	a, b, room := pair(t, "12")
	bFrom := b.db.Published()
	b.send(member(room, carol, carol, "leave"))
	for _, p := range b.news(room, bFrom) {
		a.mustAccept(Incoming{PDU: p, From: Source{"federation", "b"}}, Accepted)
	}
	for i := range 5 {
		a.send(text(room, alice, fmt.Sprint(i)))
	}
	a.send(state(room, alice, "m.room.topic", "", `{"topic":"neu"}`))
	join := joinRemote(t, a, b, room, carol)
	if got := b.ends(room); !slices.Equal(got, []event.ID{join.ID}) {
		t.Errorf("ends %v, want the join", got)
	}
	sameState(t, a, b, room)
	b.send(text(room, carol, "wieder da"))
}

// The hook sees every event once, in the transaction, with its source; its error undoes the event.
func TestOnAppend(t *testing.T) {
	var seen []AppendInfo
	fail := false
	b := newBoxWith(t, "a", Options{OnAppend: func(tx *store.Tx, e AppendInfo) error {
		if fail {
			return context.DeadlineExceeded
		}
		seen = append(seen, e)
		return nil
	}})
	room := b.create(CreateRequest{Creator: alice})
	n := len(seen)
	b.send(text(room, alice, "eins"))
	if len(seen) != n+1 || seen[n].From.Kind != "local" || seen[n].Pos == 0 || !slices.Equal(seen[n].Servers, []string{"a"}) {
		t.Fatalf("seen %+v", seen[n:])
	}
	fail = true
	if _, err := b.Send(t.Context(), text(room, alice, "zwei")); err == nil {
		t.Error("the hook's error was swallowed")
	}
	fail = false
	b.send(text(room, alice, "drei"))
	es := b.timeline(room)
	if last := b.pdu(es[len(es)-1].ID); last.Prev[0] != es[len(es)-2].ID || b.pdu(es[len(es)-2].ID).ID != seen[n].PDU.ID {
		t.Error("the undone event is still an ancestor")
	}
}

func TestMissingEvents(t *testing.T) {
	a, b, room := pair(t, "12")
	since := a.ends(room)
	for i := range 8 {
		a.send(text(room, alice, fmt.Sprint(i)))
	}
	got, err := a.MissingEvents(t.Context(), room, since, a.ends(room), 20, 0)
	if err != nil || len(got) != 7 {
		t.Fatalf("%d events, %v, want 7", len(got), err)
	}
	for _, p := range got {
		b.mustAccept(Incoming{PDU: p, From: Source{"federation", "a"}}, Accepted)
	}
	b.mustAccept(Incoming{PDU: a.pdu(a.ends(room)[0]), From: Source{"federation", "a"}}, Accepted)
	sameState(t, a, b, room)
}

// memory gives the ends and the current state as the room in memory has them.
func (b *box) memory(room event.RoomID) (ends []event.ID, s store.State) {
	b.t.Helper()
	l, err := b.enter(context.Background(), room)
	if err != nil {
		b.t.Fatal(err)
	}
	defer l.mu.Unlock()
	for _, t := range l.tips {
		ends = append(ends, t.id)
	}
	slices.Sort(ends)
	return ends, l.cur.state
}

// Whatever the order in which two branches arrive (ancestors before children), both boxes come to the same state.
func TestAnyOrderSameState(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		a, b, room := pair(t, "12")
		a.send(state(room, alice, "m.room.power_levels", "", a.powerFor("12")))
		b.mustAccept(Incoming{PDU: a.pdu(a.ends(room)[0]), From: Source{"link", "a"}}, Accepted)
		queue := map[*box][]*event.PDU{}
		for range 40 {
			x, user := a, alice
			if rng.IntN(2) == 0 {
				x, user = b, carol
			}
			y := b
			if x == b {
				y = a
			}
			if rng.IntN(8) == 0 { // what memory says is what the disk says
				ends, st := x.memory(room)
				x.reopen()
				if got, after := x.memory(room); !slices.Equal(got, ends) || !after.Equal(st) {
					t.Fatalf("seed %d: after a restart ends %v, want %v", seed, got, ends)
				}
			}
			switch rng.IntN(5) {
			case 0:
				queue[y] = append(queue[y], x.pdu(x.send(state(room, user, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, rng.IntN(1000))))))
			case 1:
				queue[y] = append(queue[y], x.pdu(x.send(text(room, user, "x"))))
			case 2:
				queue[y] = append(queue[y], x.pdu(x.send(state(room, user, "m.room.name", "", fmt.Sprintf(`{"name":"%d"}`, rng.IntN(1000))))))
			default:
				if q := queue[x]; len(q) > 0 {
					x.mustAccept(Incoming{PDU: q[0], From: Source{"link", "y"}}, Accepted)
					queue[x] = q[1:]
				}
			}
		}
		for x, q := range queue {
			for _, p := range q {
				x.mustAccept(Incoming{PDU: p, From: Source{"link", "y"}}, Accepted)
			}
		}
		sameState(t, a, b, room)
	}
}

// Many events handed in at once get the same answers as one by one, with fewer flushes.
func TestAcceptAll(t *testing.T) {
	a, b, room := pair(t, "12")
	bFrom := b.db.Published()
	for i := range 50 {
		b.send(text(room, carol, fmt.Sprint(i)))
	}
	news := b.news(room, bFrom)
	ins := make([]Incoming, 0, len(news)+1)
	for _, p := range append(news, news[0]) {
		ins = append(ins, Incoming{PDU: p, From: Source{"link", "b"}})
	}
	commits := 0
	a.db.OnCommit(func(store.Commit) { commits++ })
	rs, err := a.AcceptAll(t.Context(), ins)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rs {
		want := Accepted
		if i == len(rs)-1 {
			want = Duplicate
		}
		if r.Outcome != want {
			t.Errorf("event %d: %v (%s), want %v", i, r.Outcome, r.Reason, want)
		}
	}
	a.db.Close()
	if commits > 5 {
		t.Errorf("%d flushes for %d events", commits, len(ins))
	}
}

// A refused event names an ancestor that we lack. When the ancestor comes, it is an end of the graph all the same: nothing accepted follows it.
func TestAncestorOfRefusedIsAnEnd(t *testing.T) {
	a, b, room := pair(t, "12")
	bFrom := b.db.Published()
	stateBefore := slices.Collect(maps.Values(b.state(room)))
	good := b.pdu(b.send(text(room, carol, "gut")))
	key := ""
	bad, err := event.Build(good.Version, event.Proto{RoomID: room, Sender: carol, Type: "m.room.topic", StateKey: &key, Content: json.RawMessage(`{"topic":"nein"}`),
		Prev: []event.ID{good.ID}, Auth: good.Auth, Depth: good.Depth + 1, TS: good.TS + 1}, "b", testKey("b"))
	if err != nil {
		t.Fatal(err)
	}
	a.mustAccept(Incoming{PDU: bad, From: Source{"federation", "b"}, State: stateBefore}, Rejected)
	a.mustAccept(Incoming{PDU: good, From: Source{"federation", "b"}}, Accepted)
	if got := a.ends(room); !slices.Contains(got, good.ID) {
		t.Errorf("ends %v, want %s among them", got, good.ID)
	}
	if gaps, err := a.Gaps(t.Context(), room); err != nil || len(gaps) > 0 {
		t.Errorf("gaps %v, %v", gaps, err)
	}
	if n := len(b.news(room, bFrom)); n != 1 {
		t.Errorf("%d", n)
	}
}

// An event that is known by name only and was redacted finds its place: what was removed does not come back.
func TestRedactedOutlierFindsItsPlace(t *testing.T) {
	a, b := newBox(t, "a"), newBox(t, "b")
	room := a.create(CreateRequest{Creator: alice, Preset: "public_chat", Topic: "geheim", Version: "11"})
	topic := a.state(room)[rules.Key{Type: "m.room.topic"}]
	full := a.pdu(topic)
	joinRemote(t, a, b, room, carol)
	redaction := a.pdu(a.send(Draft{Room: room, Sender: alice, Type: "m.room.redaction", Redacts: topic, Content: json.RawMessage(`{}`)}))
	b.mustAccept(Incoming{PDU: redaction, From: Source{"link", "a"}}, Accepted)
	b.mustAccept(Incoming{PDU: full, From: Source{"federation", "a"}, Backfill: true}, Accepted)
	p, m, err := b.Event(t.Context(), topic)
	if err != nil || m.Outlier || m.Pos >= 0 {
		t.Errorf("meta %+v, %v", m, err)
	}
	if string(p.Content) != `{}` || m.RedactedBy != redaction.ID {
		t.Errorf("content %s, redacted by %q", p.Content, m.RedactedBy)
	}
}

// More ends than one event may name: the next events join them ten at a time, and other servers can follow.
func TestManyEnds(t *testing.T) {
	a, b, room := pair(t, "12")
	root := a.pdu(a.ends(room)[0])
	s := a.state(room)
	auth := []event.ID{s[rules.Key{Type: "m.room.power_levels"}], s[rules.Key{Type: "m.room.member", StateKey: string(carol)}]}
	for i := range 25 {
		p, err := event.Build(root.Version, event.Proto{RoomID: room, Sender: carol, Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":"%d"}`, i)),
			Prev: []event.ID{root.ID}, Auth: auth, Depth: root.Depth + 1, TS: root.TS + 1}, "b", testKey("b"))
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []*box{a, b} {
			x.mustAccept(Incoming{PDU: p, From: Source{"federation", "b"}}, Accepted)
		}
	}
	for range 4 {
		p := a.pdu(a.send(state(room, alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, len(a.ends(room))))))
		if len(p.Prev) > 10 {
			t.Errorf("%d prev events", len(p.Prev))
		}
		b.mustAccept(Incoming{PDU: p, From: Source{"federation", "a"}}, Accepted)
	}
	if got := len(a.ends(room)); got != 1 {
		t.Errorf("%d ends left", got)
	}
	sameState(t, a, b, room)
}
