// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"fmt"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/radio/ether"
)

// Two radio hops of 1200 bit/s over a box that is not in the room, a tenth of the frames lost: a join, texts both ways, and what it costs.
func TestRelayOverRadio(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		cfg := ether.Config{BitsPerSecond: 1200, FrameLoss: 0.1, Seed: 4}
		a, r, d := w.box("anna"), w.box("rosa"), w.box("dora")
		for _, b := range []*box{a, r, d} {
			b.carries = true
		}
		pair(a, r)
		pair(r, d)
		pair(a, d)
		first, second := ether.New(cfg), ether.New(cfg)
		radioed(first, cfg, a, r)
		radioed(second, cfg, r, d)
		w.start()
		met := until(t, 10*time.Minute, "a way to anna", func() bool { return d.link.Reaches(a.name) })
		id := a.create("anna")
		began, before := time.Now(), spoken(first)
		d.join(a, id, "dora")
		join, joinBytes := time.Since(began), spoken(first)-before
		pass(20 * time.Minute)
		var msgs []event.ID
		say := func(i int) {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprintf("Anna sagt zum %d. Mal, dass das Wasser am Deich steigt und Sandsäcke fehlen, bitte schnell kommen.", i)),
				d.text(id, "dora", fmt.Sprintf("Dora antwortet zum %d. Mal, dass zwei Fahrzeuge mit Sand unterwegs sind, Ankunft in einer Stunde.", i)))
		}
		arrived := func() bool { return len(a.timeline(id)) == len(msgs) && len(d.timeline(id)) == len(msgs) }
		say(0)
		lone := until(t, 5*time.Minute, "a text each way", arrived)
		pass(10 * time.Minute)
		before = spoken(first)
		say(1)
		next := until(t, 5*time.Minute, "another text each way", arrived)
		pass(10 * time.Minute)
		pair := spoken(first) - before
		for i := range 10 {
			say(i + 2)
		}
		before = spoken(first)
		ten := until(t, 20*time.Minute, "ten texts each way", arrived)
		pass(20 * time.Minute)
		want(t, id, msgs, a, d)
		talk := spoken(first) - before
		before = spoken(first)
		pass(time.Hour)
		quiet := spoken(first) - before
		t.Logf("way known after %v, joined in %v (%d B on one hop); a text each way in %v, the next in %v (%d B on one hop, with all answers); ten each way in %v (%d B); a quiet hour: %d B", met, join, joinBytes, lone, next, pair, ten, talk, quiet)
	})
}
