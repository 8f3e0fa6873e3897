// SPDX-License-Identifier: EUPL-1.2

package rules

import (
	"fmt"
	"maps"
	"testing"

	"hallig/appliance/event"
)

// bigRoom is a public room with members, in which alice has power 100 and bob 50.
func bigRoom(version string, members int) *player {
	p := newPlayer(version, 1)
	p.add(0, "@alice:a", "m.room.power_levels", "", `{"users":{`+users(p.v, "alice:100,bob:50")+`}}`)
	p.add(0, "@alice:a", "m.room.join_rules", "", `{"join_rule":"public"}`)
	p.add(0, "@bob:a", "m.room.member", "@bob:a", `{"membership":"join"}`)
	for i := range members {
		u := fmt.Sprintf("@user%d:a", i)
		p.add(0, event.UserID(u), "m.room.member", u, `{"membership":"join"}`)
	}
	p.branches = append(p.branches, maps.Clone(p.branches[0]))
	return p
}

// fork lets n state events happen on each of two branches: power levels, bans, joins, names under many keys.
func fork(tb testing.TB, p *player, n int) {
	tb.Helper()
	for br := range 2 {
		for i := range n {
			ok := false
			switch i % 10 {
			case 0, 1:
				ok = p.add(br, "@alice:a", "m.room.power_levels", "", fmt.Sprintf(`{"users":{%s},"events":{"x":%d}}`, users(p.v, "alice:100,bob:50"), i%50))
			case 2:
				ok = p.add(br, "@bob:a", "m.room.member", fmt.Sprintf("@user%d:a", i+br), `{"membership":"ban"}`)
			case 3, 4, 5, 6:
				u := fmt.Sprintf("@new%d:a", i)
				ok = p.add(br, event.UserID(u), "m.room.member", u, `{"membership":"join"}`)
			default:
				ok = p.add(br, "@alice:a", "m.room.topic", fmt.Sprint(i), `{}`)
			}
			if !ok {
				tb.Fatalf("event %d on branch %d is not allowed", i, br)
			}
		}
	}
}

// BenchmarkResolve: a room of 2,000 members, in which 20 or 1,000 state events happened on each of two branches; and one of 10,000 members with a
// small conflict, which must not cost what the room weighs.
func BenchmarkResolve(b *testing.B) {
	for _, size := range []struct{ members, events int }{{2000, 20}, {2000, 1000}, {10000, 4}} {
		for _, version := range []string{"11", "12"} {
			p := bigRoom(version, size.members)
			fork(b, p, size.events)
			b.Run(fmt.Sprintf("members=%d/events=2x%d/version=%s", size.members, size.events, version), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Resolve(p.v, p.branches, p.load); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
