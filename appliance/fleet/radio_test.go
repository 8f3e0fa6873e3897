// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"strings"
	"testing"

	"hallig/appliance/provision"
)

// TestRadioOfEachBox: one line for all boxes in the common file, what differs per box in the table.
func TestRadioOfEachBox(t *testing.T) {
	base := provision.File{Hallig: 1, Serial: []provision.Serial{{Device: "/dev/hallig/radio", Modem: "kiss", Band: "amateur", BitsPerSecond: 1200, TurnDelayMS: 250}}}
	table := "label;server_name;Rufzeichen;Modem;Band\nA;a.example;DL1ABC-1;;\nB;b.example;DL1ABC-2;;\nC;c.example;;transparent;licensed\n"
	boxes, err := Prepare([]byte(table), Options{Base: base, Lang: "de"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []provision.Serial{
		{Device: "/dev/hallig/radio", Modem: "kiss", Band: "amateur", CallSign: "DL1ABC-1", BitsPerSecond: 1200, TurnDelayMS: 250},
		{Device: "/dev/hallig/radio", Modem: "kiss", Band: "amateur", CallSign: "DL1ABC-2", BitsPerSecond: 1200, TurnDelayMS: 250},
		{Device: "/dev/hallig/radio", Modem: "transparent", Band: "licensed", BitsPerSecond: 1200, TurnDelayMS: 250},
	} {
		if got := boxes[i].File.Serial; len(got) != 1 || got[0] != want {
			t.Errorf("box %d: %+v, want %+v", i, got, want)
		}
	}
	if _, err := Prepare([]byte("label,server_name\nA,a.example\n"), Options{Base: base, Lang: "de"}); err == nil || !strings.Contains(err.Error(), "call_sign") {
		t.Errorf("without a call sign: %v", err)
	}
}
