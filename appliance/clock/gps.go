// SPDX-License-Identifier: EUPL-1.2

package clock

import (
	"strconv"
	"strings"
	"time"
)

// GPS turns the lines of a satellite receiver (NMEA 0183) into readings. Only RMC sentences count, as they alone carry date, time and the receiver's own
// word on whether it has a fix. A reading needs a run of them that agree with each other and with the time that passes here, so that neither a
// receiver that guesses from its battery nor a disturbed line sets the clock. A receiver whose count of weeks has overflowed (1024 weeks) tells a date
// before the release of this program and is refused.
//
// Times are those of the satellites' second; the sentence comes up to a second later, so the clock lags by that. A receiver that has just been
// switched on may for some minutes be wrong by the leap seconds that it does not know yet. The zero GPS works; not safe for concurrent use.
type GPS struct {
	Released time.Time

	run   int           // sentences that agree
	began time.Time     // what the first of them said
	first time.Duration // and at which uptime
	last  time.Time     // what the last one said
	at    time.Duration // and when
	state GPSState
}

// GPSState is what a receiver is doing.
type GPSState int

// States of a receiver.
const (
	GPSSilent  GPSState = iota // nothing that was NMEA
	GPSNoFix                   // it talks, and sees too few satellites
	GPSOldDate                 // it tells a date before the release: its count of weeks has overflowed
	GPSSettles                 // it has a fix; not long enough yet
	GPSGood
)

const (
	gpsRun    = 10               // sentences that must agree
	gpsSpan   = 10 * time.Second // and cover
	gpsGap    = 5 * time.Second  // between two of them
	gpsJitter = 1500 * time.Millisecond
	gpsWeeks  = 1024 * 7 * 24 * time.Hour
)

// State tells what the receiver is doing.
func (g *GPS) State() GPSState { return g.state }

// Lost says that the line is gone.
func (g *GPS) Lost() { g.run, g.state = 0, GPSSilent }

// Line takes one line that has been read at the machine's uptime up.
func (g *GPS) Line(line string, up time.Duration) (Reading, bool) {
	s := parseNMEA(line)
	switch {
	case s == nil:
		return Reading{}, false // a broken line; the next one comes
	case !s.rmc:
		if g.state == GPSSilent {
			g.state = GPSNoFix
		}
		return Reading{}, false
	case !s.fix:
		g.run, g.state = 0, GPSNoFix
		return Reading{}, false
	case s.time.Before(g.Released) || s.time.After(g.Released.Add(gpsWeeks)):
		g.run, g.state = 0, GPSOldDate
		return Reading{}, false
	}
	drift := s.time.Sub(g.began) - (up - g.first)
	if g.run == 0 || up-g.at > gpsGap || drift.Abs() > gpsJitter || !s.time.After(g.last) {
		g.run, g.began, g.first = 0, s.time, up
	}
	g.run++
	g.last, g.at, g.state = s.time, up, GPSSettles
	if g.run < gpsRun || up-g.first < gpsSpan-gpsJitter {
		return Reading{}, false
	}
	g.state = GPSGood
	return Reading{Time: s.time, Quality: Satellite, Source: "GPS"}, true
}

// sentence is what matters of a line.
type sentence struct {
	rmc, fix bool
	time     time.Time
}

// parseNMEA reads one line; nil: it is none, or damaged. Its form: "$", two letters for the system, the sentence's name, fields, "*", two hex digits
// that are the exclusive or of all between. RMC's fields: time hhmmss.ss, A or V, latitude, N or S, longitude, E or W, speed, course, date ddmmyy,
// and from NMEA 2.3 on in the twelfth place the mode: A, D, R, F and P are measured, E, M, S and N are not.
func parseNMEA(line string) *sentence {
	line = strings.TrimRight(line, "\r\n")
	if len(line) > 82+20 { // 82 by the standard, which some receivers exceed
		return nil
	}
	body, ok := strings.CutPrefix(line, "$")
	if !ok {
		return nil
	}
	body, check, ok := strings.Cut(body, "*")
	want, err := strconv.ParseUint(check, 16, 8)
	if !ok || err != nil || len(check) != 2 || len(body) < 6 {
		return nil
	}
	var sum byte
	for i := range len(body) {
		if body[i] < ' ' || body[i] > '~' {
			return nil
		}
		sum ^= body[i]
	}
	if sum != byte(want) {
		return nil
	}
	f := strings.Split(body, ",")
	if len(f[0]) != 5 || f[0][2:] != "RMC" {
		return &sentence{}
	}
	s := &sentence{rmc: true}
	if len(f) < 10 || f[2] != "A" || len(f) > 12 && !strings.Contains("ADRFP", f[12]) || len(f) > 12 && f[12] == "" {
		return s
	}
	if s.time, ok = rmcTime(f[1], f[9]); !ok {
		return nil
	}
	s.fix = true
	return s
}

func rmcTime(clock, date string) (time.Time, bool) {
	clock, fraction, _ := strings.Cut(clock, ".")
	if len(clock) != 6 || len(date) != 6 || len(fraction) > 9 || !digits(clock+date+fraction) {
		return time.Time{}, false
	}
	n := func(s string) int { v, _ := strconv.Atoi(s); return v } // digits has looked
	ns := n((fraction + "000000000")[:9])
	t := time.Date(2000+n(date[4:]), time.Month(n(date[2:4])), n(date[:2]), n(clock[:2]), n(clock[2:4]), n(clock[4:]), ns, time.UTC)
	// The 60th second of a leap becomes the first of the next minute; every other overflow is nonsense.
	leap := clock[4:] == "60"
	ok := t.Format("020106") == date && t.Format("150405") == clock
	return t, ok || leap && n(clock[:2]) < 24 && n(clock[2:4]) < 60
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }
