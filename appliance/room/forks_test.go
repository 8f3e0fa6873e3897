// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"fmt"
	"testing"

	"hallig/appliance/event"
)

// Two forks that differ in their state grow by turns: messages ask the law for nothing, a change of state asks it once. The next own event joins the forks.
func TestForksDoNotResolvePerEvent(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		a, _, room := pair(t, version)
		a.send(state(room, alice, "m.room.power_levels", "", a.powerFor(version)))
		root := a.pdu(a.ends(room)[0])
		auth := []event.ID{a.id(room, "m.room.power_levels", ""), a.id(room, "m.room.member", string(carol))}
		if version == "11" {
			auth = append(auth, a.id(room, "m.room.create", ""))
		}
		none := ""
		var tips [2]*event.PDU
		for i := range tips {
			tips[i] = remote(t, root.Version, room, carol, "m.room.topic", &none, fmt.Sprintf(`{"topic":"%d"}`, i), []*event.PDU{root}, auth...)
			a.mustAccept(Incoming{PDU: tips[i], From: Source{"federation", "b"}}, Accepted)
		}
		before := a.resolutions.Load()
		const n = 1000
		for i := range n {
			p := remote(t, root.Version, room, carol, "m.room.message", nil, fmt.Sprintf(`{"body":"%d"}`, i), tips[i%2:i%2+1], auth...)
			a.mustAccept(Incoming{PDU: p, From: Source{"federation", "b"}}, Accepted)
			tips[i%2] = p
		}
		if got := a.resolutions.Load() - before; got > 2 {
			t.Errorf("version %s: %d resolutions for %d messages", version, got, n)
		}
		before = a.resolutions.Load()
		for i := range 100 {
			p := remote(t, root.Version, room, carol, "m.room.name", &none, fmt.Sprintf(`{"name":"%d"}`, i), tips[i%2:i%2+1], auth...)
			a.mustAccept(Incoming{PDU: p, From: Source{"federation", "b"}}, Accepted)
			tips[i%2] = p
		}
		if got := a.resolutions.Load() - before; got > 100 {
			t.Errorf("version %s: %d resolutions for 100 changes", version, got)
		}
		if got := len(a.ends(room)); got != 2 {
			t.Errorf("version %s: %d ends", version, got)
		}
		before = a.resolutions.Load()
		for range 10 {
			a.send(text(room, alice, "beisammen"))
		}
		if p := a.pdu(a.ends(room)[0]); len(a.ends(room)) != 1 || len(p.Prev) != 1 {
			t.Errorf("version %s: the forks are not joined", version)
		}
		if got := a.resolutions.Load() - before; got > 0 {
			t.Errorf("version %s: %d resolutions for own messages", version, got)
		}
	}
}
