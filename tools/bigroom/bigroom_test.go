// SPDX-License-Identifier: EUPL-1.2

package bigroom

import (
	"crypto/ed25519"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/rules"
)

func small(version string) Spec {
	return Spec{Version: version, Seed: 3, Servers: 7, Joined: 40, Left: 10, Banned: 12, Other: 5, Talk: 8}
}

// Each event is signed, hashed and allowed by the state before it and by what it names, and a room is made again the same.
func TestRoomKeepsTheLaw(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		r, err := Make(small(version))
		if err != nil {
			t.Fatal(err)
		}
		again, err := Make(small(version))
		if err != nil {
			t.Fatal(err)
		}
		if want := 6 + 39 + 2*10 + 12 + 5 + 8; len(r.entries) != want {
			t.Errorf("%d events, want %d", len(r.entries), want)
		}
		if want := 6 + 39 + 10 + 12 + 5; len(r.state) != want {
			t.Errorf("a state of %d events, want %d", len(r.state), want)
		}
		thin := make([]*rules.Event, len(r.entries))
		state := map[rules.Key]*rules.Event{}
		for i, e := range r.entries {
			if again.entries[i].id != e.id {
				t.Fatalf("event %d is %s, and made again %s", i, e.id, again.entries[i].id)
			}
			p, err := event.Parse(r.version, e.json)
			if err != nil {
				t.Fatal(err)
			}
			server := p.Sender.Server()
			if err := p.VerifySignature(server, "ed25519:big", r.Spec.key(server).Private.Public().(ed25519.PublicKey)); err != nil {
				t.Error(err)
			}
			if err := p.CheckHash(); err != nil || p.ID != e.id || p.RoomID != r.ID {
				t.Errorf("%s of room %s: %v", p.ID, p.RoomID, err)
			}
			if thin[i], err = rules.Thin(p); err != nil {
				t.Fatal(err)
			}
			if denied := rules.Allowed(thin[i], func(k rules.Key) *rules.Event { return state[k] }); denied != nil {
				t.Errorf("event %d, %s of %s: %v", i, p.Type, p.Sender, denied)
			}
			if i > 0 {
				var auth []*rules.Event
				for _, a := range e.auth {
					auth = append(auth, thin[a])
				}
				if denied := rules.CheckAuthEvents(thin[i], auth, thin[0]); denied != nil {
					t.Errorf("event %d, %s of %s: %v", i, p.Type, p.Sender, denied)
				}
			}
			if p.StateKey != nil {
				state[rules.Key{Type: p.Type, StateKey: *p.StateKey}] = thin[i]
			}
		}
	}
}

func BenchmarkMake(b *testing.B) {
	for b.Loop() {
		s := small("12")
		s.Joined = 10_000
		if _, err := Make(s); err != nil {
			b.Fatal(err)
		}
	}
}
