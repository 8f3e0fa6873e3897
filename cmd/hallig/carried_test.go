// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"strings"
	"testing"
	"time"

	"hallig/appliance/admin"
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
