// SPDX-License-Identifier: EUPL-1.2

package acm

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(s))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

const (
	device = `12 01 00 02 EF 02 01 40 86 2E 0A 00 00 01 01 02 03 01` // 2e86:000a, a composite device
	config = `09 02 4B 00 02 01 00 80 7D`
	// communications interface 0 with its functional descriptors (header, call management, ACM, union 0 -> 1) and the notification endpoint
	commIf = `09 04 00 00 01 02 02 00 04  05 24 00 20 01  05 24 01 00 01  04 24 02 02  05 24 06 00 01  07 05 81 03 08 00 10`
	dataIf = `09 04 01 00 02 0A 00 00 00  07 05 02 02 40 00 00  07 05 82 02 40 00 00`
	hidIf  = `09 04 02 00 01 03 00 00 00  09 21 11 01 00 01 22 3F 00  07 05 83 03 40 00 0A`
)

func TestParse(t *testing.T) {
	want := Function{Vendor: 0x2e86, Product: 0x000a, Configuration: 1, Control: 0, Data: 1, In: 0x82, Out: 0x02, InSize: 64, OutSize: 64, Serial: 3}
	withoutUnion := strings.Replace(commIf, "05 24 06 00 01", "", 1)
	noIn := strings.Replace(dataIf, "07 05 82 02 40 00 00", "", 1)
	ethernet := strings.Replace(commIf, "02 02 00 04", "02 06 00 04", 1)
	second := strings.NewReplacer("09 04 00", "09 04 02", "05 24 06 00 01", "05 24 06 02 03", "07 05 81", "07 05 84").Replace(commIf) +
		strings.NewReplacer("09 04 01", "09 04 03", "05 02 02", "05 05 02", "05 82 02", "05 85 02").Replace(dataIf)
	for _, c := range []struct {
		what, text string
		ports      int
	}{
		{"as a microcontroller has it", device + config + commIf + dataIf, 1},
		{"data first", device + config + dataIf + commIf, 1},
		{"without union", device + config + withoutUnion + dataIf, 1},
		{"with a keyboard beside", device + config + commIf + dataIf + hidIf, 1},
		{"two ports", device + config + commIf + dataIf + second, 2},
		{"no input endpoint", device + config + commIf + noIn, 0},
		{"an Ethernet function", device + config + ethernet + dataIf, 0},
		{"a keyboard", device + config + hidIf, 0},
		{"device only", device, 0},
	} {
		got, err := Parse(unhex(t, c.text))
		if c.ports == 0 {
			if !errors.Is(err, ErrNotACM) {
				t.Errorf("%s: %v, %v; want ErrNotACM", c.what, got, err)
			}
			continue
		}
		if err != nil || len(got) != c.ports || got[0] != want {
			t.Errorf("%s: %+v, %v; want %d with %+v first", c.what, got, err, c.ports, want)
		}
	}
	for i, whole := 1, unhex(t, device+config+commIf+dataIf); i < len(whole); i++ {
		Parse(whole[:i]) // may be refused, must not panic
	}
	if _, err := Parse([]byte{0}); err == nil || errors.Is(err, ErrNotACM) {
		t.Errorf("a descriptor of no length: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(unhex(f, device+config+commIf+dataIf))
	f.Add(unhex(f, device+config+hidIf))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := Parse(raw)
		if (err == nil) != (len(got) > 0) {
			t.Errorf("%d ports and error %v", len(got), err)
		}
		for _, fn := range got {
			if fn.In&0x80 == 0 || fn.Out&0x80 != 0 || fn.InSize == 0 || fn.OutSize == 0 {
				t.Errorf("endpoints cannot be: %+v", fn)
			}
		}
	})
}
