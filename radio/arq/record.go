// SPDX-License-Identifier: EUPL-1.2

package arq

// record is the head of a piece of a message inside a data frame:
//
//	first:1 last:1 toEnd:1 length:5   [length behind 31: 7 bits a byte, lowest first]   piece
//
// With toEnd the piece fills the frame and no length follows.
type record struct{ first, last, toEnd bool }

const shortLength = 31

// recordHead is the size of the head of a piece of n bytes whose length is written.
func recordHead(n int) int {
	head := 1
	if n >= shortLength {
		for n -= shortLength; ; n >>= 7 {
			head++
			if n < 128 {
				break
			}
		}
	}
	return head
}

func (r record) append(dst, piece []byte) []byte {
	var b byte
	if r.first {
		b |= 0x80
	}
	if r.last {
		b |= 0x40
	}
	n := len(piece)
	switch {
	case r.toEnd:
		dst = append(dst, b|0x20)
	case n < shortLength:
		dst = append(dst, b|byte(n))
	default:
		dst = append(dst, b|shortLength)
		for n -= shortLength; n >= 128; n >>= 7 {
			dst = append(dst, byte(n)|0x80)
		}
		dst = append(dst, byte(n))
	}
	return append(dst, piece...)
}

func parseRecord(b []byte) (r record, piece, rest []byte, ok bool) {
	h := b[0]
	r, b = record{first: h&0x80 != 0, last: h&0x40 != 0, toEnd: h&0x20 != 0}, b[1:]
	n := int(h & 0x1F)
	if r.toEnd {
		return r, b, nil, n == 0
	}
	if n == shortLength {
		for shift := 0; ; shift += 7 {
			if len(b) == 0 || shift > 14 {
				return r, nil, nil, false
			}
			c := b[0]
			b = b[1:]
			n += int(c&0x7F) << shift
			if c < 0x80 {
				break
			}
		}
	}
	if n > len(b) {
		return r, nil, nil, false
	}
	return r, b[:n], b[n:], true
}
