// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
)

// Code is what one box shows and a person carries to the other: twelve characters that can be read aloud, written as
// "K7QM-3XDA-9PTE". Two of them hint at the box that shows it, so that the taker asks no other; nine are the secret (45
// bits: nobody can try them out away from the box, and the box burns the code after a few wrong tries); the last one
// catches any single wrong character and any two that changed places.
type Code struct{ digits [codeLength]byte } // values 0..31

const (
	codeLength  = 12
	hintLength  = 2
	codeLetters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ" // Crockford's: no I, L, O, U
	codeScheme  = "hallig-pair:"
)

// NewCode draws a code for a box to show.
func NewCode(box ed25519.PublicKey, random io.Reader) (Code, error) {
	var c Code
	if _, err := io.ReadFull(random, c.digits[:]); err != nil {
		return Code{}, fmt.Errorf("draw pairing code: %w", err)
	}
	for i := range c.digits {
		c.digits[i] &= 31
	}
	hint := codeHint(box)
	copy(c.digits[:], hint[:])
	c.digits[codeLength-1] = c.check()
	return c, nil
}

func codeHint(box ed25519.PublicKey) (hint [hintLength]byte) {
	h := sha256.Sum256(append([]byte("hallig pairing hint\x00"), box...))
	for i := range hint {
		hint[i] = h[i] & 31
	}
	return hint
}

// MayBe says whether the code can be of that box; one in a thousand others passes too.
func (c Code) MayBe(box ed25519.PublicKey) bool {
	hint := codeHint(box)
	return [hintLength]byte(c.digits[:hintLength]) == hint
}

// String is the form for people.
func (c Code) String() string {
	var b strings.Builder
	for i, d := range c.digits {
		if i > 0 && i%4 == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(codeLetters[d])
	}
	return b.String()
}

// URI is the form for a QR code; addresses say where the box can be reached, in the form of its transport.
func (c Code) URI(addresses ...string) string {
	u := codeScheme + strings.ReplaceAll(c.String(), "-", "")
	for i, a := range addresses {
		u += string("?&"[min(i, 1)]) + "a=" + url.QueryEscape(a)
	}
	return u
}

// ParseCode reads either form as people write it: any case, any spaces and dashes, O for 0, I and L for 1. From a URI it
// also gives the addresses.
func ParseCode(s string) (Code, []string, error) {
	var addresses []string
	s = strings.TrimSpace(s)
	if len(s) > 4096 {
		return Code{}, nil, errors.New("read pairing code: too long")
	}
	if rest, ok := cutPrefixFold(s, codeScheme); ok {
		text, query, _ := strings.Cut(rest, "?")
		values, err := url.ParseQuery(query)
		if err != nil {
			return Code{}, nil, fmt.Errorf("read pairing code: %w", err)
		}
		s, addresses = text, values["a"]
	}
	var c Code
	n := 0
	for _, r := range strings.ToUpper(s) {
		switch r {
		case ' ', '-', '.', '_', '\u2013':
			continue
		case 'O':
			r = '0'
		case 'I', 'L':
			r = '1'
		}
		d := strings.IndexRune(codeLetters, r)
		if d < 0 {
			return Code{}, nil, fmt.Errorf("read pairing code: %q does not occur in codes", r)
		}
		if n == codeLength {
			return Code{}, nil, fmt.Errorf("read pairing code: more than %d characters", codeLength)
		}
		c.digits[n] = byte(d)
		n++
	}
	if n < codeLength {
		return Code{}, nil, fmt.Errorf("read pairing code: %d of %d characters", n, codeLength)
	}
	if c.digits[codeLength-1] != c.check() {
		return Code{}, nil, errors.New("read pairing code: a character is wrong, compare it again")
	}
	return c, addresses, nil
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// check is the last character: a polynomial over the field of 32 elements, evaluated at its generator.
func (c Code) check() byte {
	var sum byte
	for _, d := range c.digits[:codeLength-1] {
		sum = double(sum) ^ d
	}
	return double(sum)
}

// double multiplies by the generator x of GF(32) = GF(2)[x]/(x^5+x^2+1).
func double(a byte) byte {
	a <<= 1
	if a&32 != 0 {
		a ^= 0b100101
	}
	return a
}

// secret is what the code contributes to the exchange: all of it, so that a code means one box only.
func (c Code) secret() []byte { return []byte(c.String()) }
