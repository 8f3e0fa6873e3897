// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// forks lets two servers that are cut off from each other now and then talk and change state; it gives all events in an order in which each
// comes after its ancestors.
func forks(t *testing.T, rng *rand.Rand, a, b *box, room event.RoomID) (all []*event.PDU) {
	t.Helper()
	queue := map[*box][]*event.PDU{}
	for range 60 {
		x, y, user := a, b, alice
		if rng.IntN(2) == 0 {
			x, y, user = b, a, carol
		}
		var d Draft
		switch rng.IntN(6) {
		case 0:
			d = state(room, user, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, rng.IntN(1000)))
		case 1:
			d = state(room, user, "m.room.name", "", fmt.Sprintf(`{"name":"%d"}`, rng.IntN(1000)))
		case 2, 3:
			d = text(room, user, "x")
		default:
			if q := queue[x]; len(q) > 0 {
				x.mustAccept(Incoming{PDU: q[0], From: Source{"link", "y"}}, Accepted)
				queue[x] = q[1:]
			}
			continue
		}
		p := x.pdu(x.send(d))
		all = append(all, p)
		queue[y] = append(queue[y], p)
	}
	return all
}

// What comes in transactions of any size has the effect that it has one by one: answers, ends, state, also after a restart, and when writes fail
// in between and come again.
func TestAcceptAllSameAsOneByOne(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 7))
		a, b, room := pair(t, "12")
		a.send(state(room, alice, "m.room.power_levels", "", a.powerFor("12")))
		b.mustAccept(Incoming{PDU: a.pdu(a.ends(room)[0]), From: Source{"link", "a"}}, Accepted)
		calls := 0
		one, many := newBox(t, "c"), newBoxWith(t, "d", Options{OnAppend: func(*store.Tx, AppendInfo) error {
			if calls++; calls%13 == 0 {
				return errors.New("no")
			}
			return nil
		}})
		for user, x := range map[event.UserID]*box{"@c:c": one, "@d:d": many} {
			join := joinRemote(t, a, x, room, user)
			for _, y := range []*box{b, one, many} {
				if y != x && len(y.state(room)) > 0 {
					y.mustAccept(Incoming{PDU: join, From: Source{"federation", "a"}}, Accepted)
				}
			}
		}
		var ins []Incoming
		for _, p := range forks(t, rng, a, b, room) {
			ins = append(ins, Incoming{PDU: p, From: Source{"federation", "a"}})
			if rng.IntN(6) == 0 {
				ins = append(ins, ins[rng.IntN(len(ins))])
			}
		}
		var want, got []Outcome
		for _, in := range ins {
			want = append(want, one.accept(in).Outcome)
		}
		failed := 0
		for rest := ins; len(rest) > 0; {
			rs, err := many.AcceptAll(t.Context(), rest[:min(len(rest), 1+rng.IntN(20))])
			if err != nil {
				failed++
			}
			for _, r := range rs {
				got = append(got, r.Outcome)
			}
			rest = rest[len(rs):]
		}
		if !slices.Equal(got, want) || failed == 0 {
			t.Fatalf("seed %d: answers\n%v, one by one\n%v (%d failures)", seed, got, want, failed)
		}
		for range 2 {
			oneEnds, _ := one.memory(room)
			manyEnds, _ := many.memory(room)
			if !slices.Equal(oneEnds, manyEnds) || !maps.Equal(one.state(room), many.state(room)) {
				t.Fatalf("seed %d: ends %v, one by one %v", seed, manyEnds, oneEnds)
			}
			one.reopen()
			many.reopen()
		}
		if err := many.db.Verify(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
