// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"hallig/appliance/event"
)

// The servers of a room are what its members say, through joins and leaves, in a snapshot that is older than the last change, within a write, and
// while the members are not all known.
func TestServersFollowMembers(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hallig.db"), Options{})
	rng := rand.New(rand.NewPCG(5, 6))
	const room = "!r:x"
	want := map[event.UserID]string{}
	servers := func(said ...string) []string {
		in := slices.Clone(said)
		for u, m := range want {
			if m == "join" {
				in = append(in, u.Server())
			}
		}
		slices.Sort(in)
		return slices.Compact(in)
	}
	ask := func(r *Read, want []string) {
		t.Helper()
		for range 2 {
			got, err := r.Servers(room)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("servers %v, %v, want %v", got, err, want)
			}
			for i := range got {
				got[i] = "mine now" // the answer is the caller's
			}
		}
	}
	check := func(r *Read, said []string) {
		t.Helper()
		for n := range 5 {
			server := fmt.Sprint("s", n)
			var joined []event.UserID
			for u, m := range want {
				if m == "join" && u.Server() == server {
					joined = append(joined, u)
				}
			}
			here, err := r.Resident(room, server)
			if err != nil || here != (len(joined) > 0 || slices.Contains(said, server)) {
				t.Fatalf("%s resident: %v, %v with %v", server, here, err, joined)
			}
			got, err := r.JoinedFrom(room, server)
			slices.Sort(got)
			slices.Sort(joined)
			if err != nil || !slices.Equal(got, joined) {
				t.Fatalf("joined from %s: %v, %v, want %v", server, got, err, joined)
			}
			if departed, err := r.DepartedAt(server, room); err != nil || (departed < 0) != here {
				t.Fatalf("%s departed at %d, %v", server, departed, err)
			}
		}
	}
	// One server has more users than the room ever has members, the others fewer.
	if err := db.Do(t.Context(), func(tx *Tx) error {
		for n := range 40 {
			if err := tx.SetMember(Membership{Room: "!elsewhere:x", User: event.UserID(fmt.Sprintf("@v%d:s0", n)), Membership: "join", Event: 1}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var said []string
	for step := range 200 {
		old := servers(said...)
		if err := db.View(t.Context(), func(before *Read) error {
			ask(before, old)
			if err := db.Do(t.Context(), func(tx *Tx) error {
				u := event.UserID(fmt.Sprintf("@u%d:s%d", rng.IntN(3), rng.IntN(5)))
				want[u] = []string{"join", "leave", "invite"}[rng.IntN(3)]
				if err := tx.SetMember(Membership{Room: room, User: u, Membership: want[u], Event: int64(step + 1)}); err != nil {
					return err
				}
				switch rng.IntN(20) {
				case 0:
					said = []string{"s3", "s9"}
					if err := tx.StartPartial(Partial{Room: room, Join: int64(step + 1), Via: "s9"}, said); err != nil {
						return err
					}
				case 1:
					said = nil
					if err := tx.EndPartial(room, int64(step+1)); err != nil {
						return err
					}
				}
				ask(tx.Read, servers(said...))
				return tx.SetRoom(room, "11", int64(step+1))
			}); err != nil {
				return err
			}
			ask(before, old)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.View(t.Context(), func(r *Read) error { ask(r, servers(said...)); check(r, said); return nil }); err != nil {
			t.Fatal(err)
		}
	}
}
