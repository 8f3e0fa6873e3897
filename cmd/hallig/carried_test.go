// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"strings"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/health"
)

func TestCarriedText(t *testing.T) {
	var b strings.Builder
	printCarried(&b, admin.Carried{
		Mail:  []admin.Parcels{{Box: "dora.example", Count: 1, Bytes: 300, Oldest: 90 * time.Minute}},
		For:   []admin.Parcels{{Box: "Q2x9aBcD", Count: 3, Bytes: 1500, Oldest: 50 * time.Hour}},
		Bytes: 63 << 20, Most: 64 << 20, Refused: map[string]int64{"no_room": 4},
	})
	const want = `  1 message to dora.example by boxes in between, without an answer yet, the oldest for 90 min
  carries for Q2x9aBcD: 3 sealed parcels, 2 kB, the oldest for 2 days
  has no more room to carry for others: 63 of 64 MB in use
  4 parcels of other boxes not taken: no room
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	printCarried(&b, admin.Carried{Most: 64 << 20})
	if b.String() != "" {
		t.Errorf("a box that carries nothing says %q", b.String())
	}
}

// TestCourierText: one packet is no packets, in either language.
func TestCourierText(t *testing.T) {
	r := admin.CourierReport{
		Boxes: []admin.CourierBox{{Server: "b.test", Events: 1, EDUs: 1, Known: 1, Segments: 1}, {Server: "c.test", Events: 2, Known: 3, Segments: 2}},
		Bad:   map[string]int{"forged": 1, "cut off": 2}, Foreign: 1, Sentence: health.Sentence{DE: "Da.", EN: "There."},
	}
	for _, c := range []struct{ do, lang, want string }{
		{"export", "en", `There.
  for b.test: 1 new, 1 device message or receipt; 1 packet lies there already
  for c.test: 2 new, 0 device messages and receipts; 3 packets lie there already
  1 further box has left something there; it is not paired with this one
  2 files do not count: cut off
  1 file does not count: forged
`},
		{"export", "de", `Da.
  für b.test: 1 neu, 1 Gerätenachricht oder Quittung; 1 Paket liegt schon dort
  für c.test: 2 neu, 0 Gerätenachrichten und Quittungen; 3 Pakete liegen schon dort
  1 weitere Box hat dort etwas; mit dieser ist sie nicht gekoppelt
  2 Dateien zählen nicht: cut off
  1 Datei zählt nicht: forged
`},
		{"status", "de", "Da.\n  b.test: 1 Nachricht in 1 Paket, davon schon übernommen: 1\n  c.test: 2 Nachrichten in 2 Paketen, davon schon übernommen: 3\n"},
	} {
		var b strings.Builder
		printCourier(&b, c.do, r, c.lang)
		if !strings.HasPrefix(b.String(), c.want) {
			t.Errorf("%s %s: got\n%s\nwant\n%s", c.do, c.lang, b.String(), c.want)
		}
	}
}
