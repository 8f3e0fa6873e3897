// SPDX-License-Identifier: EUPL-1.2

package frame

// MaxCommand is the longest body of a command to or from a modem: a frame of ours with the addresses of a packet radio around it.
const MaxCommand = MaxRaw + UISize

// AppendCommand appends one command of a modem that frames as KISS does: its first byte says what follows.
func AppendCommand(dst []byte, kind byte, body []byte) []byte {
	dst = append(dst, fend)
	dst = appendEscaped(dst, kind)
	for _, c := range body {
		dst = appendEscaped(dst, c)
	}
	return append(dst, fend)
}

func appendEscaped(dst []byte, c byte) []byte {
	switch c {
	case fend:
		return append(dst, fesc, tfend)
	case fesc:
		return append(dst, fesc, tfesc)
	}
	return append(dst, c)
}

// CommandDecoder takes what such a modem says apart. Any input is taken; memory is bounded by MaxCommand.
type CommandDecoder struct {
	buf     []byte
	escaped bool
	bad     bool // too long, or an escape of nothing: dropped up to the next delimiter

	Dropped uint64 // commands that made no sense
}

// Feed takes more bytes and calls take for each whole command; body is only valid during the call. What stands before the first delimiter
// (the chatter of a modem that starts) comes out as a command, too, if it has the form of one: a dialect ignores what it does not know.
func (d *CommandDecoder) Feed(b []byte, take func(kind byte, body []byte)) {
	for _, c := range b {
		switch {
		case c == fend:
			if d.bad || d.escaped {
				d.Dropped++
			} else if len(d.buf) > 0 {
				take(d.buf[0], d.buf[1:])
			}
			d.buf, d.escaped, d.bad = d.buf[:0], false, false
			continue
		case d.bad:
			continue
		case d.escaped:
			d.escaped = false
			switch c {
			case tfend:
				c = fend
			case tfesc:
				c = fesc
			default:
				d.bad = true
				continue
			}
		case c == fesc:
			d.escaped = true
			continue
		}
		if len(d.buf) > MaxCommand {
			d.bad = true
			continue
		}
		d.buf = append(d.buf, c)
	}
}
