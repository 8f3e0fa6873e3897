// SPDX-License-Identifier: EUPL-1.2

package prose

import (
	"errors"
	"strings"
)

// The coder is the usual binary arithmetic coder: an interval of 32-bit numbers is split at each bit in the ratio of its
// probabilities; leading bytes that the ends have in common are written. At the end come as few bytes as name a
// number inside; the reader takes zeros for what is not there, and trailing zeros are not written.

// Encode writes a text in at most limit bytes; false if it takes more or cannot be written at all.
func (m *Model) Encode(text string, limit int) ([]byte, bool) {
	if strings.IndexByte(text, 0) >= 0 {
		return nil, false
	}
	var (
		out       []byte
		low, high = uint32(0), ^uint32(0)
		c         Context
	)
	c.Start()
	for i := 0; i <= len(text); i++ {
		b := byte(0)
		if i < len(text) {
			b = text[i]
		}
		node := uint32(1)
		for bit := 7; bit >= 0; bit-- {
			mid := split(low, high, m.probability(&c, node))
			if b>>bit&1 == 1 {
				high = mid
			} else {
				low = mid + 1
			}
			node = node<<1 | uint32(b>>bit&1)
			for low>>24 == high>>24 {
				out = append(out, byte(high>>24))
				low, high = low<<8, high<<8|0xff
			}
		}
		if len(out) > limit {
			return nil, false
		}
		c.Add(b)
	}
	if low > 0 { // zero, which the reader fills in, is not inside; this is, as the first bytes of low and high differ
		out = append(out, byte(low>>24)+1)
	}
	for len(out) > 0 && out[len(out)-1] == 0 {
		out = out[:len(out)-1]
	}
	return out, len(out) <= limit
}

// Decode reads a text of at most limit bytes. Any bytes give some text or an error; it is for others to check that it is
// the right one.
func (m *Model) Decode(code []byte, limit int) (string, error) {
	var (
		out       strings.Builder
		low, high = uint32(0), ^uint32(0)
		at        uint32
		next      int
		c         Context
	)
	shift := func() {
		at <<= 8
		if next < len(code) {
			at |= uint32(code[next])
		}
		next++
	}
	for range 4 {
		shift()
	}
	c.Start()
	for {
		node := uint32(1)
		for node < 256 {
			mid := split(low, high, m.probability(&c, node))
			if at <= mid {
				high = mid
				node = node<<1 | 1
			} else {
				low = mid + 1
				node <<= 1
			}
			for low>>24 == high>>24 {
				low, high = low<<8, high<<8|0xff
				shift()
			}
		}
		b := byte(node)
		if b == 0 {
			break
		}
		if out.Len() >= limit {
			return "", errors.New("decode text: too long")
		}
		out.WriteByte(b)
		c.Add(b)
	}
	return out.String(), nil
}

// split gives the last number of the part for a set bit; both parts hold at least one number.
func split(low, high, p uint32) uint32 {
	return low + uint32(uint64(high-low)*uint64(p)>>16)
}
