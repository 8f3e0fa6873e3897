// SPDX-License-Identifier: EUPL-1.2

package provision

import (
	"errors"
	"strings"
	"testing"
)

// lines that work, one for each modem.
func lines() map[string]Serial {
	return map[string]Serial{
		"":            {Device: "/dev/hallig/a", Baud: 9600, BitsPerSecond: 1200, HalfDuplex: true, RTSCTS: true, TurnDelayMS: 300},
		"transparent": {Device: "/dev/hallig/a", Baud: 9600, BitsPerSecond: 1200, TurnDelayMS: 300},
		"null":        {Device: "/dev/hallig/a", Baud: 115200, RTSCTS: true},
		"rs485":       {Device: "/dev/hallig/a", Baud: 19200, RS485Adapter: true, HalfDuplex: true},
		"at":          {Device: "/dev/hallig/a", Init: "ATZ AT+CBST=71,0,1", Number: "T0484,123456"},
		"kiss":        {Device: "tcp:127.0.0.1:8001", Band: "amateur", CallSign: "DL1ABC-7", TNCPort: 1, Persistence: 63, SlotTimeMS: 100, TXTailMS: 20, TurnDelayMS: 300, BitsPerSecond: 1200},
		"rnode":       {Device: "/dev/hallig/a", FrequencyHz: 869_525_000, BandwidthHz: 125_000, SpreadingFactor: 9, CodingRate: 5, TXPowerDBm: 14, AirtimeLimitLong: 10},
		"meshcore":    {Device: "/dev/hallig/a", FrequencyHz: 869_618_000, BandwidthHz: 62_500, SpreadingFactor: 8, CodingRate: 8, TXPowerDBm: 22},
	}
}

func TestLines(t *testing.T) {
	for modem, s := range lines() {
		s.Modem = modem
		if err := s.Check("serial[0]"); err != nil {
			t.Errorf("%q: %v", modem, err)
		}
		if raw, err := (File{Serial: []Serial{s}}).Marshal(); err != nil {
			t.Errorf("%q in a file: %v", modem, err)
		} else if f, err := Parse(raw); err != nil || f.Serial[0] != s {
			t.Errorf("%q in a file: %v, %+v", modem, err, f)
		}
		if want := map[string]string{"rnode": "eu868-10", "meshcore": "eu868-10", "kiss": "amateur"}[modem]; s.InBand() != want {
			t.Errorf("%q is in the band %q, want %q", modem, s.InBand(), want)
		}
	}
	if len(lines()) != len(modems)+1 {
		t.Error("a modem has no line here")
	}
}

// TestWrongLines: each refusal names the field and says what is right.
func TestWrongLines(t *testing.T) {
	for _, c := range []struct {
		modem  string
		change func(*Serial)
		field  string
		words  []string
	}{
		{"null", func(s *Serial) { s.Device = "" }, "device", []string{"/dev/hallig/radio"}},
		{"null", func(s *Serial) { s.Modem = "vara" }, "modem", []string{"transparent, null, rs485, at, kiss, rnode, meshcore", "vara"}},
		{"null", func(s *Serial) { s.Device = "tcp:1.2.3.4:8001" }, "device", []string{"kiss"}},
		{"kiss", func(s *Serial) { s.Device = "tcp:1.2.3.4" }, "device", []string{"tcp:127.0.0.1:8001"}},
		{"kiss", func(s *Serial) { s.Baud = 9600 }, "baud", []string{"leave it out"}},
		{"null", func(s *Serial) { s.HalfDuplex = true }, "half_duplex", []string{"transparent, rs485"}},
		{"at", func(s *Serial) { s.HalfDuplex = true }, "half_duplex", nil},
		{"rnode", func(s *Serial) { s.RTSCTS = true }, "rts_cts", nil},
		{"rnode", func(s *Serial) { s.BitsPerSecond = 1200 }, "bits_per_second", nil},
		{"null", func(s *Serial) { s.Baud = -1 }, "baud", []string{"between 50 and 4000000 bit/s"}},
		{"", func(s *Serial) { s.FrequencyHz = 869_525_000 }, "frequency_hz", []string{"\"modem\"", "rnode, meshcore"}},
		{"kiss", func(s *Serial) { s.FrequencyHz = 869_525_000 }, "frequency_hz", []string{"kiss", "rnode, meshcore"}},
		{"rnode", func(s *Serial) { s.FrequencyHz = 0 }, "frequency_hz", []string{"869525000"}},
		{"rnode", func(s *Serial) { s.FrequencyHz = 869 }, "frequency_hz", []string{"in hertz"}},
		{"meshcore", func(s *Serial) { s.AirtimeLimitLong = 10 }, "airtime_limit_long", []string{"only rnode"}},
		{"rnode", func(s *Serial) { s.AirtimeLimitShort = 100 }, "airtime_limit_short", []string{"between 0.01 and 99.99 %"}},
		{"rnode", func(s *Serial) { s.SpreadingFactor = 4 }, "spreading_factor", []string{"between 5 and 12"}},
		{"rnode", func(s *Serial) { s.CodingRate = 1 }, "coding_rate", []string{"between 5 and 8"}},
		{"meshcore", func(s *Serial) { s.TXPowerDBm = 38 }, "tx_power_dbm", []string{"between 1 and 37 dBm"}},
		{"at", func(s *Serial) { s.Number = "0484/123" }, "number", []string{"digits"}},
		{"at", func(s *Serial) { s.Init = "ATZ\rATD1" }, "init", []string{"blanks"}},
		{"kiss", func(s *Serial) { s.CallSign = "dl1abc" }, "call_sign", []string{"DL1ABC-7"}},
		{"kiss", func(s *Serial) { s.CallSign = "DL1ABC-16" }, "call_sign", nil},
		{"kiss", func(s *Serial) { s.TNCPort = 16 }, "tnc_port", []string{"between 0 and 15"}},
		{"kiss", func(s *Serial) { s.CallSign = "" }, "call_sign", []string{"missing"}},
		{"kiss", func(s *Serial) { s.Band = "" }, "band", []string{"amateur", "licensed"}},
		{"transparent", func(s *Serial) { s.BitsPerSecond = 0 }, "bits_per_second", []string{"on the air", "1200"}},
		{"transparent", func(s *Serial) { s.Band = "433" }, "band", []string{"none of wire, eu868-10"}},
		{"transparent", func(s *Serial) { s.Band = "amateur" }, "call_sign", nil},
		{"rnode", func(s *Serial) { s.FrequencyHz = 433_775_000 }, "band", []string{"licensed"}},
		{"rnode", func(s *Serial) { s.FrequencyHz = 869_420_000 }, "band", []string{"eu868-10"}}, // half of it would lie outside
		{"rnode", func(s *Serial) { s.Band = "eu868-1" }, "frequency_hz", []string{"868 to 868.6 MHz"}},
		{"rnode", func(s *Serial) { s.Band = "wire" }, "band", nil},
		{"rnode", func(s *Serial) { s.FrequencyHz, s.TXPowerDBm = 868_300_000, 15 }, "tx_power_dbm", []string{"14 at most in eu868-1"}},
		{"rnode", func(s *Serial) { s.TXPowerDBm = 28 }, "tx_power_dbm", []string{"27 at most"}},
		{"transparent", func(s *Serial) { s.RS485Adapter = true }, "rs485_adapter", []string{"rs485"}},
	} {
		s := lines()[c.modem]
		s.Modem = c.modem
		c.change(&s)
		var e Error
		if err := s.Check("serial[2]"); !errors.As(err, &e) {
			t.Errorf("%s %s: %v", c.modem, c.field, err)
			continue
		}
		for _, text := range []string{e.De, e.En} {
			if !strings.Contains(text, "serial[2]."+c.field) || strings.Contains(text, "%!") {
				t.Errorf("%s %s: %s", c.modem, c.field, text)
			}
		}
		for _, w := range c.words {
			if !strings.Contains(e.En, w) {
				t.Errorf("%s %s lacks %q: %s", c.modem, c.field, w, e.En)
			}
		}
	}
}

// Several stations need a channel that all hear, and only one of them gives out the turns.
func TestStations(t *testing.T) {
	for _, tc := range []struct {
		s    Serial
		want string
	}{
		{Serial{Device: "/dev/ttyUSB0", Modem: "rs485", Stations: "shared", Polls: true}, ""},
		{Serial{Device: "/dev/ttyUSB0", HalfDuplex: true, Stations: "shared"}, ""},
		{Serial{Device: "/dev/ttyUSB0", Modem: "rs485", Polls: true}, "x.polls"},
		{Serial{Device: "/dev/ttyUSB0", Modem: "rs485", Stations: "many"}, "x.stations"},
		{Serial{Device: "/dev/ttyUSB0", Modem: "null", Stations: "shared"}, "x.stations"},
		{Serial{Device: "/dev/ttyUSB0", Stations: "shared"}, "x.stations"},
	} {
		err := tc.s.Check("x")
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want an error about %q", tc.s, err, tc.want)
		}
	}
}
