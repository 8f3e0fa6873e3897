// SPDX-License-Identifier: EUPL-1.2

package frame

// Framing is how frames are told apart in a stream of bytes.
type Framing uint8

const (
	COBS  Framing = iota // straight on the line: no zero inside, one zero behind each frame
	KISS                 // to a KISS modem: FEND on both sides, escapes inside
	Coded                // straight on the line, with Reed-Solomon (coded.go)
)

// KISS special bytes, http://www.ax25.net/kiss.aspx
const (
	fend, fesc, tfend, tfesc = 0xC0, 0xDB, 0xDC, 0xDD
)

// Append appends raw, framed.
func (g Framing) Append(dst, raw []byte) []byte {
	switch g {
	case KISS:
		return appendKISS(dst, raw)
	case Coded:
		return appendCoded(dst, raw)
	}
	return appendCOBS(dst, raw)
}

// Resync is a byte sequence that ends whatever garbage stands before a frame.
func (g Framing) Resync() []byte {
	if g == KISS {
		return []byte{fend}
	}
	return []byte{0}
}

// Size is the number of bytes on the wire of a frame of n bytes (for KISS without escapes).
func (g Framing) Size(n int) int {
	switch g {
	case KISS:
		return n + 3
	case Coded:
		return codedLen(n)
	}
	return n + 2 + max(0, n-1)/254
}

// Decoder takes a stream of bytes apart into frames. Any input is taken; memory is bounded by MaxRaw.
// The zero value decodes COBS; with Coded, both that and COBS are taken.
type Decoder struct {
	Framing Framing
	Coded   bool // the frame that was taken last was a coded one
	coded   coded
	buf     []byte
	skip    bool // too long: dropped up to the next delimiter
	out     []byte
}

// Feed takes more bytes and calls take for each whole frame; raw is only valid during the call.
func (d *Decoder) Feed(b []byte, take func(raw []byte)) {
	delimiter := byte(0)
	if d.Framing == KISS {
		delimiter = fend
	}
	const most = 2*MaxRaw + 2 // all bytes escaped; more than COBS ever needs
	for _, c := range b {
		if d.Framing == Coded {
			hide, begin, frame := d.coded.feed(c)
			if frame != nil {
				d.Coded = true
				take(frame)
			}
			if begin {
				d.buf, d.skip = d.buf[:0], false // what was taken for a frame of COBS was marker and head
			}
			if hide || begin {
				continue
			}
		}
		if c != delimiter {
			if len(d.buf) >= most {
				d.skip = true
			} else {
				d.buf = append(d.buf, c)
			}
			continue
		}
		if len(d.buf) > 0 && !d.skip {
			var ok bool
			if d.Framing == KISS {
				d.out, ok = decodeKISS(d.out[:0], d.buf)
			} else {
				d.out, ok = decodeCOBS(d.out[:0], d.buf)
			}
			if ok && len(d.out) > 0 && len(d.out) <= MaxRaw {
				d.Coded = false
				take(d.out)
			}
		}
		d.buf, d.skip = d.buf[:0], false
	}
}

// appendCOBS is consistent overhead byte stuffing (Cheshire and Baker 1999) with the closing zero.
func appendCOBS(dst, raw []byte) []byte {
	code := len(dst) // where the length of the current run goes
	dst = append(dst, 1)
	for i, c := range raw {
		if c == 0 {
			code = len(dst)
			dst = append(dst, 1)
			continue
		}
		dst = append(dst, c)
		dst[code]++
		if dst[code] == 0xFF && i < len(raw)-1 {
			code = len(dst)
			dst = append(dst, 1)
		}
	}
	return append(dst, 0)
}

// decodeCOBS appends the frame that b (without the closing zero) holds.
func decodeCOBS(dst, b []byte) ([]byte, bool) {
	for len(b) > 0 {
		n := int(b[0])
		if n == 0 || n > len(b) {
			return dst, false
		}
		dst = append(dst, b[1:n]...)
		b = b[n:]
		if n < 0xFF && len(b) > 0 {
			dst = append(dst, 0)
		}
	}
	return dst, true
}

func appendKISS(dst, raw []byte) []byte {
	dst = append(dst, fend, 0) // port 0, command 0: data
	for _, c := range raw {
		switch c {
		case fend:
			dst = append(dst, fesc, tfend)
		case fesc:
			dst = append(dst, fesc, tfesc)
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, fend)
}

// decodeKISS appends the frame that b (between two FENDs) holds; other commands than data are not ours.
func decodeKISS(dst, b []byte) ([]byte, bool) {
	if b[0]&0x0F != 0 {
		return dst, false
	}
	for i := 1; i < len(b); i++ {
		c := b[i]
		if c == fesc {
			if i++; i == len(b) {
				return dst, false
			}
			switch b[i] {
			case tfend:
				c = fend
			case tfesc:
				c = fesc
			default:
				return dst, false
			}
		}
		dst = append(dst, c)
	}
	return dst, true
}
