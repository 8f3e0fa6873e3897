// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestDefaultsOfManual: the table of what counts where nothing is said, on the pages for the person at the cable, is what the code does.
func TestDefaultsOfManual(t *testing.T) {
	of := func(k Kind) Modem { return Modem{Kind: k}.filled() }
	ms := func(d time.Duration) int { return int(d / time.Millisecond) }
	for _, k := range Kinds() {
		want := of(Null)
		switch k {
		case RNode, MeshCore:
			want = of(RNode)
			if of(k).Bandwidth == 0 || of(k).Bandwidth != want.Bandwidth || of(k).SpreadingFactor != want.SpreadingFactor || of(k).CodingRate != want.CodingRate || of(k).Power != want.Power {
				t.Errorf("%s: %+v; the table has one row for both LoRa modems", k, of(k))
			}
		case KISS:
			want = of(KISS)
		default:
			if a := of(k).Air(); a.BitsPerSecond != of(k).Baud || a.TurnDelay != 0 {
				t.Errorf("%s: %+v, and the table says the rate of the plug, without a delay", k, a)
			}
		}
		if of(k).Baud != want.Baud || of(k).Persist != want.Persist || of(k).Slot != want.Slot {
			t.Errorf("%s: %+v, and the table has no row for that", k, of(k))
		}
	}
	lora, tnc := of(RNode), of(KISS)
	rows := []string{
		fmt.Sprintf("| `baud` | %d; `rnode`, `meshcore`: %d |", of(Null).Baud, lora.Baud),
		fmt.Sprintf("| `bits_per_second` | = `baud`; `kiss`: %d; `transparent`: ! |", tnc.Rate),
		fmt.Sprintf("| `turn_delay_ms` | %d; `kiss`: %d |", ms(of(Transparent).TurnDelay), ms(tnc.TurnDelay)),
		fmt.Sprintf("| `persistence` | %d |", tnc.Persist),
		fmt.Sprintf("| `slot_time_ms` | %d |", ms(tnc.Slot)),
		fmt.Sprintf("| `tx_tail_ms` | %d |", ms(tnc.Tail)),
		fmt.Sprintf("| `bandwidth_hz` | %d |", lora.Bandwidth),
		fmt.Sprintf("| `spreading_factor` | %d |", lora.SpreadingFactor),
		fmt.Sprintf("| `coding_rate` | %d |", lora.CodingRate),
		fmt.Sprintf("| `tx_power_dbm` | %d |", lora.Power),
	}
	for _, page := range []string{"funk.md", "radio.md"} {
		text, err := os.ReadFile("../../doc/" + page)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if !strings.Contains(string(text), row+"\n") {
				t.Errorf("%s lacks the row %s", page, row)
			}
		}
	}
}
