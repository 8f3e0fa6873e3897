// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
)

// two makes two paired boxes on a wire, a room of the first, and a member of the second in it.
func two(w *world, net *wire) (a, b *box, id event.RoomID) {
	a, b = w.box("anna"), w.box("bert")
	pair(a, b)
	a.on(net)
	b.on(net)
	w.start()
	pass(time.Second)
	id = a.create("anna")
	b.join(a, id, "bert")
	pass(time.Second)
	return a, b, id
}

func TestMessagesTravelBothWays(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		net := newWire("p2p", 100e6, 2*time.Millisecond)
		a, b, id := two(w, net)
		var msgs []event.ID
		for i := range 20 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("from anna ", i)), b.text(id, "bert", fmt.Sprint("from bert ", i)))
		}
		pass(time.Second)
		want(t, id, msgs, a, b)
		idle := net.bytes()
		pass(time.Hour)
		if got := net.bytes() - idle; got != 0 {
			t.Errorf("%d bytes went over an idle link in an hour, want none", got)
		}
		for _, x := range []*box{a, b} {
			if s := x.link.Status(); len(s) != 1 || s[0].InFlight != 0 || s[0].Carries != "p2p" {
				t.Errorf("%s: status %+v", x.name, s)
			}
		}
	})
}

func TestPartitionHealsWithinFiveSeconds(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		net := newWire("p2p", 100e6, 2*time.Millisecond)
		a, b, id := two(w, net)
		a.state(id, "anna", "m.room.power_levels", "", map[string]any{"users": map[string]int{string(b.user("bert")): 50}})
		pass(time.Second)
		net.setCut(true)
		pass(time.Minute)
		var msgs []event.ID
		for i := range 150 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("alone ", i)), b.text(id, "bert", fmt.Sprint("alone too ", i)))
		}
		a.state(id, "anna", "m.room.topic", "", map[string]string{"topic": "anna's"})
		b.state(id, "bert", "m.room.topic", "", map[string]string{"topic": "bert's"})
		b.state(id, "bert", "m.room.name", "", map[string]string{"name": "bert's"})
		pass(time.Hour)
		net.setCut(false)
		pass(5 * time.Second)
		want(t, id, msgs, a, b)
	})
}

func TestNobodyIsGreetedOutOfReach(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		net := newWire("p2p", 100e6, 2*time.Millisecond)
		a, b, _ := two(w, net)
		for _, cut := range []bool{false, true, false} {
			net.setCut(cut)
			pass(time.Minute)
			for _, x := range []*box{a, b} {
				if s := x.link.Status()[0]; s.Greeted == cut || (s.Carries == "") != cut {
					t.Errorf("%s: cut %v: %+v", x.name, cut, s)
				}
			}
		}
	})
}

func TestBothWaysOfFailing(t *testing.T) {
	for seed := range uint64(5) {
		run(t, func(t *testing.T, w *world) {
			net := newWire("p2p", 1e6, 5*time.Millisecond)
			a, b, id := two(w, net)
			chance, weather := dice(seed), dice(seed+100)
			net.mu.Lock()
			net.fate = func(string, string, []byte) error {
				switch weather.IntN(5) {
				case 0:
					return errLost
				case 1:
					return errLiar
				}
				return nil
			}
			net.mu.Unlock()
			var msgs []event.ID
			for i := range 40 {
				msgs = append(msgs, a.text(id, "anna", fmt.Sprint("a ", i)), b.text(id, "bert", fmt.Sprint("b ", i)))
				pass(time.Duration(chance.IntN(300)) * time.Millisecond)
			}
			pass(10 * time.Minute)
			want(t, id, msgs, a, b)
		})
	}
}

func TestRestartMidWay(t *testing.T) {
	for seed := range uint64(4) {
		run(t, func(t *testing.T, w *world) {
			net := newWire("p2p", 20e3, 20*time.Millisecond)
			a, b, id := two(w, net)
			chance := dice(seed)
			var msgs []event.ID
			for round := range 4 {
				for i := range 15 {
					msgs = append(msgs, a.text(id, "anna", fmt.Sprint("a ", round, i)), b.text(id, "bert", fmt.Sprint("b ", round, i)))
				}
				pass(time.Duration(chance.IntN(1500)) * time.Millisecond)
				x := []*box{a, b}[round%2]
				x.halt()
				pass(time.Duration(chance.IntN(2000)) * time.Millisecond)
				x.start()
			}
			pass(5 * time.Minute)
			want(t, id, msgs, a, b)
		})
	}
}

func TestFasterWayCarries(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		fast, slow := newWire("p2p", 100e6, 2*time.Millisecond), newWire("serial", 1200, 100*time.Millisecond)
		a, b := w.box("anna"), w.box("bert")
		pair(a, b)
		a.on(fast).on(slow)
		b.on(fast).on(slow)
		w.start()
		pass(10 * time.Second)
		id := a.create("anna")
		b.join(a, id, "bert")
		pass(time.Second)
		var msgs []event.ID
		before := slow.bytes()
		for i := range 10 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("fast ", i)))
		}
		pass(time.Minute)
		if got := slow.bytes() - before; got != 0 {
			t.Errorf("%d bytes went over the way that stands by, want none", got)
		}
		want(t, id, msgs, a, b)
		for i := range 10 { // in the middle of talk
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("a ", i)), b.text(id, "bert", fmt.Sprint("b ", i)))
			if i == 4 {
				fast.setCut(true)
			}
			pass(time.Millisecond)
		}
		pass(2 * time.Minute)
		want(t, id, msgs, a, b)
		if s := a.link.Status(); s[0].Carries != "serial" {
			t.Errorf("carries: got %q, want serial", s[0].Carries)
		}
		for i := range 10 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("a2 ", i)), b.text(id, "bert", fmt.Sprint("b2 ", i)))
			if i == 4 {
				fast.setCut(false)
			}
		}
		pass(5 * time.Second)
		want(t, id, msgs, a, b)
		if s := a.link.Status(); s[0].Carries != "p2p" {
			t.Errorf("carries: got %q, want p2p", s[0].Carries)
		}
	})
}

// A and C never meet: B passes on what each of them wrote.
func TestRelay(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		west, east := newWire("west", 10e6, 2*time.Millisecond), newWire("east", 10e6, 2*time.Millisecond)
		a, b, c := w.box("anna"), w.box("bert"), w.box("carl")
		pair(a, b)
		pair(b, c)
		a.on(west)
		b.on(west).on(east)
		c.on(east)
		w.start()
		pass(time.Second)
		id := a.create("anna")
		before := a.text(id, "anna", "before anybody came")
		b.join(a, id, "bert")
		pass(time.Second)
		var msgs []event.ID
		msgs = append(msgs, a.text(id, "anna", "before carl"))
		pass(time.Second)
		want(t, id, append(msgs, before), a)
		want(t, id, msgs, b)
		c.join(b, id, "carl")
		pass(time.Second)
		var after []event.ID
		east.setCut(true)
		for i := range 10 {
			after = append(after, a.text(id, "anna", fmt.Sprint("a ", i)), b.text(id, "bert", fmt.Sprint("b ", i)), c.text(id, "carl", fmt.Sprint("c ", i)))
		}
		pass(time.Second)
		west.setCut(true)
		east.setCut(false)
		pass(5 * time.Second)
		want(t, id, after, c)
		west.setCut(false)
		pass(5 * time.Second)
		want(t, id, append(append(msgs, before), after...), a)
		want(t, id, append(msgs, after...), b)
		want(t, id, after, c)
	})
}

func TestEDUsExactlyOnceInOrder(t *testing.T) {
	for seed := range uint64(8) {
		run(t, func(t *testing.T, w *world) { edusOnce(t, w, seed) })
	}
}

func edusOnce(t *testing.T, w *world, seed uint64) {
	net := newWire("p2p", 50e3, 20*time.Millisecond)
	a, b, _ := two(w, net)
	chance, weather := dice(seed), dice(seed+100)
	net.mu.Lock()
	net.fate = func(string, string, []byte) error {
		return []error{nil, nil, nil, errLost, errLiar}[weather.IntN(5)]
	}
	net.mu.Unlock()
	var wanted []string
	for i := range 60 {
		body := fmt.Sprintf(`{"n":%d}`, i)
		wanted = append(wanted, a.name+" m.direct_to_device "+body)
		err := a.db.Do(t.Context(), func(tx *store.Tx) error { return tx.EnqueueEDU(b.name, "m.direct_to_device", "", []byte(body)) })
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Duration(chance.IntN(400)) * time.Millisecond)
		if i == 30 {
			b.halt()
			pass(time.Second)
			b.start()
		}
	}
	pass(10 * time.Minute)
	if got := b.took(); fmt.Sprint(got) != fmt.Sprint(wanted) {
		t.Errorf("got %d EDUs %v, want %d", len(got), got, len(wanted))
	}
	err := a.db.View(t.Context(), func(r *store.Read) error {
		left, err := r.PendingEDUs(b.name, 0, 100)
		if len(left) > 0 {
			t.Errorf("%d EDUs are still queued after their receipt", len(left))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Two boxes that both take events from a central server name them to each other instead of sending them twice; what only
// one of them has got there reaches the other through it.
func TestEventsOfOthersAreNamedFirst(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		net := newWire("serial", 1200, 50*time.Millisecond)
		a, b, id := two(w, net)
		c := w.box("cent")
		c.start()
		if err := c.tryJoin(t.Context(), a, id, "carl"); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Minute)
		a.forgetSeen()
		before := net.bytes()
		var msgs []event.ID
		for i := range 20 {
			e := c.text(id, "carl", fmt.Sprintf("from the central server, number %d, to everybody who is there", i))
			c.push(a, e)
			c.push(b, e)
			msgs = append(msgs, e)
			pass(time.Second)
		}
		pass(10 * time.Minute)
		want(t, id, msgs, a, b)
		if got := a.sent() + b.sent(); got != 0 {
			t.Errorf("%d events were sent in full, want none", got)
		}
		t.Logf("20 events that both have: %d bytes", net.bytes()-before)
		for i := range 5 {
			e := c.text(id, "carl", fmt.Sprint("for anna's box alone ", i))
			c.push(a, e)
			msgs = append(msgs, e)
		}
		pass(10 * time.Minute)
		want(t, id, msgs, a, b)
		for _, x := range []*box{a, b} {
			if s := x.link.Status(); s[0].InFlight != 0 {
				t.Errorf("%s: %d events are without a receipt", x.name, s[0].InFlight)
			}
		}
	})
}

// Who loses an invitation or is put out hears of it, although nobody of that box is in the room.
func TestPutOut(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		net := newWire("p2p", 10e6, 2*time.Millisecond)
		a, b, id := two(w, net)
		net.setCut(true)
		kick := a.state(id, "anna", "m.room.member", string(b.user("bert")), map[string]string{"membership": "leave", "reason": "test"})
		a.text(id, "anna", "among ourselves")
		pass(time.Minute)
		net.setCut(false)
		pass(5 * time.Second)
		if p, _, err := b.rooms.Event(t.Context(), kick); err != nil || p == nil {
			t.Errorf("bert's box has not heard of the kick: %v", err)
		}
		if got := len(b.timeline(id)); got != 0 {
			t.Errorf("bert's box got %d messages from after the kick, want none", got)
		}
		b.join(a, id, "bert")
		pass(time.Second)
		back := a.text(id, "anna", "welcome back")
		pass(5 * time.Second)
		want(t, id, []event.ID{back}, b)
		ban := a.state(id, "anna", "m.room.member", string(b.user("bella")), map[string]string{"membership": "ban"})
		pass(time.Second)
		if p, _, err := b.rooms.Event(t.Context(), ban); err != nil || p == nil {
			t.Errorf("bert's box has not heard of the ban: %v", err)
		}
	})
}

// Whoever was in a room can ask for what was there while he was, as he could then: he may be out by the law alone, and learns it only from that.
func TestHistoryOfAFormerMember(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		net := newWire("net", 1e6, 5*time.Millisecond)
		a, b := w.box("anna"), w.box("bert")
		a.on(net)
		b.on(net)
		pair(a, b)
		w.start()
		pass(time.Second)
		id := a.create("anna")
		before := []event.ID{a.text(id, "anna", "before his time"), a.state(id, "anna", "m.room.topic", "", map[string]string{"topic": "before"})}
		b.join(a, id, "bert")
		pass(time.Second)
		b.state(id, "bert", "m.room.member", string(b.user("bert")), map[string]string{"membership": "leave"})
		pass(time.Second)
		after := []event.ID{a.text(id, "anna", "after his time"), a.state(id, "anna", "m.room.topic", "", map[string]string{"topic": "after"})}
		items, err := a.link.Outbox().Feed(b.peer).Wanted(t.Context(), &parcel.Want{Room: id, IDs: append(after, before...)})
		if err != nil {
			t.Fatal(err)
		}
		var got []event.ID
		for _, it := range items {
			got = append(got, it.ID)
		}
		if !slices.Equal(got, before) {
			t.Errorf("given %v, want %v and nothing of %v", got, before, after)
		}
		a.state(id, "anna", "m.room.history_visibility", "", map[string]string{"history_visibility": "joined"})
		if items, err = a.link.Outbox().Feed(b.peer).Wanted(t.Context(), &parcel.Want{Room: id, IDs: before}); err != nil || len(items) != 1 || items[0].ID != before[1] {
			t.Errorf("%d events are given though the room shows no history, error %v; want the topic", len(items), err)
		}
	})
}

// An invitation to a box that is in no room of ours is taken back.
func TestInviteTakenBack(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		net := newWire("p2p", 10e6, 2*time.Millisecond)
		a, b := w.box("anna"), w.box("bert")
		pair(a, b)
		a.on(net)
		b.on(net)
		w.start()
		pass(time.Second)
		id := a.create("anna")
		bert := string(b.user("bert"))
		inv := a.state(id, "anna", "m.room.member", bert, map[string]string{"membership": "invite"})
		p, _, err := a.rooms.Event(t.Context(), inv)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.rooms.AcceptInvite(t.Context(), p.Version, p, nil); err != nil {
			t.Fatal(err)
		}
		net.setCut(true)
		a.state(id, "anna", "m.room.member", bert, map[string]string{"membership": "leave"})
		pass(time.Minute)
		net.setCut(false)
		pass(5 * time.Second)
		err = b.db.View(t.Context(), func(r *store.Read) error {
			m, err := r.MembershipOf(id, b.user("bert"))
			if m.Membership != "leave" {
				t.Errorf("bert's box thinks he is %q, want leave", m.Membership)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
