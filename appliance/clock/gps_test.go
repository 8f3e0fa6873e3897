// SPDX-License-Identifier: EUPL-1.2

package clock

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// nmea puts the frame around a sentence.
func nmea(body string) string {
	var sum byte
	for i := range len(body) {
		sum ^= body[i]
	}
	return fmt.Sprintf("$%s*%02X\r\n", body, sum)
}

func rmc(t time.Time, valid, mode string) string {
	return nmea("GPRMC," + t.UTC().Format("150405.00") + "," + valid + ",5331.5,N,00834.9,E,0.0,," + t.UTC().Format("020106") + ",,," + mode)
}

func TestSentences(t *testing.T) {
	when := time.Date(2026, 11, 26, 14, 5, 9, 250_000_000, time.UTC)
	for line, want := range map[string]*sentence{
		nmea("GPRMC,140509.25,A,5331.5,N,00834.9,E,0.0,,261126,,,A"):     {rmc: true, fix: true, time: when},
		nmea("GNRMC,140509.25,A,5331.5,N,00834.9,E,0.0,,261126,,,D,V"):   {rmc: true, fix: true, time: when},
		nmea("GPRMC,140509.25,A,5331.5,N,00834.9,E,0.0,,261126,004.2,W"): {rmc: true, fix: true, time: when},
		nmea("GPRMC,140509.25,A,5331.5,N,00834.9,E,0.0,,261126"):         {rmc: true, fix: true, time: when},
		nmea("GPRMC,235960,A,,,,,,,311226,,,A"):                          {rmc: true, fix: true, time: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)},
		nmea("GPRMC,140509.25,V,,,,,,,261126,,,N"):                       {rmc: true},
		nmea("GPRMC,140509.25,A,5331.5,N,00834.9,E,0.0,,261126,,,E"):     {rmc: true}, // estimated
		nmea("GPRMC,140509.25,A,5331.5,N,00834.9,E,0.0,,261126,,,S"):     {rmc: true}, // simulated
		nmea("GPRMC,140509.25,A,5331.5,N,00834.9,E,0.0,,261126,,,"):      {rmc: true},
		nmea("GPRMC,,V,,,,,,,,,,N"):                                      {rmc: true},
		nmea("GPGGA,140509,5331.5,N,00834.9,E,1,08,0.9,12,M,,M,,"):       {},
		nmea("GPRMC,140509,A,,,,,,,310226,,,A"):                          nil, // 31 February
		nmea("GPRMC,250509,A,,,,,,,261126,,,A"):                          nil,
		nmea("GPRMC,14050,A,,,,,,,261126,,,A"):                           nil,
		nmea("GPRMC,1405x9,A,,,,,,,261126,,,A"):                          nil,
		"$GPRMC,140509.25,A,5331.5,N,00834.9,E,0.0,,261126,,,A*00":       nil,
		"$GPRMC,140509.25,A,5331.5,N,00834.9,E,0.0,,261126,,,A":          nil,
		"": nil, "$": nil, "$*00": nil, "GPRMC*4B": nil, "\xff\xfe$GPRMC": nil,
		nmea("GPRMC," + strings.Repeat("1", 120)): nil,
	} {
		got := parseNMEA(line)
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%q: got %+v, want %+v", line, got, want)
		}
	}
}

// TestReceiver: stories of a receiver, a sentence a second.
func TestReceiver(t *testing.T) {
	start := time.Date(2026, 11, 26, 14, 0, 0, 0, time.UTC)
	good := func(i int) string { return rmc(start.Add(time.Duration(i)*time.Second), "A", "A") }
	for _, c := range []struct {
		name  string
		line  func(i int) string
		first int // second at which the first reading comes; -1: never
		state GPSState
	}{
		{"all well", good, 9, GPSGood},
		{"silent", func(int) string { return "" }, -1, GPSSilent},
		{"the wrong rate", func(int) string { return "\x00\xf8$G\x80" }, -1, GPSSilent},
		{"other sentences only", func(int) string { return nmea("GPGSV,1,1,00") }, -1, GPSNoFix},
		{"a clock without a fix", func(i int) string { return rmc(start.Add(time.Duration(i)*time.Second), "V", "N") }, -1, GPSNoFix},
		{"a fix after a while", func(i int) string {
			if i < 30 {
				return rmc(start, "V", "N")
			}
			return good(i)
		}, 39, GPSGood},
		{"a fix that comes and goes", func(i int) string {
			if i%8 == 0 {
				return rmc(start, "V", "N")
			}
			return good(i)
		}, -1, GPSSettles},
		{"a damaged line now and then", func(i int) string {
			if i%4 == 3 {
				return good(i)[5:]
			}
			return good(i)
		}, 12, GPSGood},
		{"weeks that have overflowed", func(i int) string { return rmc(start.Add(time.Duration(i)*time.Second-gpsWeeks), "A", "A") }, -1, GPSOldDate},
		{"a date that cannot be", func(i int) string { return rmc(start.Add(time.Duration(i)*time.Second+gpsWeeks), "A", "A") }, -1, GPSOldDate},
		{"time that stands", func(int) string { return good(0) }, -1, GPSSettles},
		{"time that runs too fast", func(i int) string { return rmc(start.Add(time.Duration(i)*1200*time.Millisecond), "A", "A") }, -1, GPSSettles},
		{"a jump by the leap seconds", func(i int) string {
			if i < 5 {
				return good(i + 18)
			}
			return good(i)
		}, 14, GPSGood},
	} {
		g := GPS{Released: released}
		first := -1
		for i := range 60 {
			r, ok := g.Line(c.line(i), time.Hour+time.Duration(i)*time.Second+time.Duration(i%3)*200*time.Millisecond)
			if ok && first < 0 {
				first = i
			}
			if want := start.Add(time.Duration(i) * time.Second); ok && (!r.Time.Equal(want) || r.Quality != Satellite) {
				t.Errorf("%s: %+v, want %v", c.name, r, want)
			}
		}
		if first != c.first || g.State() != c.state {
			t.Errorf("%s: the first reading at %d, state %d; want %d, %d", c.name, first, g.State(), c.first, c.state)
		}
		if g.Lost(); g.State() != GPSSilent {
			t.Errorf("%s: unplugged, and the state is %d", c.name, g.State())
		}
	}
}

func FuzzNMEA(f *testing.F) {
	f.Add("$GPRMC,140509.25,A,5331.5,N,00834.9,E,0.0,,261126,,,A*6B")
	f.Add(rmc(released, "A", "A"))
	f.Add(nmea("GPRMC,235960,A,,,,,,,311226,,,A"))
	f.Fuzz(func(t *testing.T, line string) {
		for _, l := range []string{line, nmea(line)} { // also with the right sum
			s := parseNMEA(l)
			if s != nil && s.fix && (!s.rmc || s.time.Year() < 2000 || s.time.Year() > 2100) {
				t.Errorf("%q: %+v", l, s)
			}
		}
	})
}
