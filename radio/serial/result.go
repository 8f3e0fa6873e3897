// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"strconv"
	"strings"
)

// results takes what an AT modem says apart into lines (ITU-T V.250, 5.7.1). Any input is taken; memory is bounded.
type results struct {
	line []byte
	skip bool
}

const mostLine = 256

// feed takes bytes and calls take for each line that is not empty, until take says stop; it gives how many bytes it has used. What follows the line that
// says CONNECT belongs to the far end.
func (r *results) feed(b []byte, take func(line string) (stop bool)) (used int) {
	for i, c := range b {
		if c != '\r' && c != '\n' {
			if len(r.line) >= mostLine {
				r.skip = true
			} else {
				r.line = append(r.line, c)
			}
			continue
		}
		line, whole := strings.TrimSpace(string(r.line)), !r.skip
		r.line, r.skip = r.line[:0], false
		if line == "" || !whole || !take(line) {
			continue
		}
		if used = i + 1; c == '\r' && used < len(b) && b[used] == '\n' {
			used++
		}
		return used
	}
	return len(b)
}

// outcome is what a line means for a call.
type outcome uint8

const (
	nothing   outcome = iota // an echo, a report
	okay                     // OK
	connected                // CONNECT
	ringing                  // RING
	mistaken                 // ERROR, +CME ERROR
	busy
	noCarrier
	noTone
	noAnswer
)

// parseResult knows the result codes of V.250 and what GSM and satellite modems say in their place. rate is that of CONNECT; 0: not said.
func parseResult(line string) (o outcome, rate int) {
	line = strings.ToUpper(line)
	switch {
	case line == "OK":
		return okay, 0
	case line == "CONNECT" || strings.HasPrefix(line, "CONNECT "):
		for _, word := range strings.FieldsFunc(line[len("CONNECT"):], func(c rune) bool { return c < '0' || c > '9' }) {
			if n, err := strconv.Atoi(word); err == nil && n >= 75 && n <= 10_000_000 {
				return connected, n
			}
		}
		return connected, 0
	case line == "RING" || strings.HasPrefix(line, "+CRING"):
		return ringing, 0
	case line == "ERROR" || strings.HasPrefix(line, "+CME ERROR") || strings.HasPrefix(line, "+CMS ERROR"):
		return mistaken, 0
	case line == "BUSY":
		return busy, 0
	case line == "NO CARRIER" || strings.HasPrefix(line, "NO CARRIER "):
		return noCarrier, 0
	case line == "NO DIALTONE" || line == "NO DIAL TONE":
		return noTone, 0
	case line == "NO ANSWER" || line == "DELAYED":
		return noAnswer, 0
	}
	return nothing, 0
}
