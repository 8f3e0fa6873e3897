// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"bytes"
	"unicode/utf8"
)

// How numbers are taken.
const (
	exact     = iota // integers in +-(2^53-1), written plainly: anything else is an error (events of version 6 and later)
	normalise        // the same, but -0 and exponents are rewritten (the specification's test values)
	verbatim         // as they are written (events of older versions, request bodies)
)

const (
	maxNesting = 1000
	maxInteger = 1<<53 - 1
)

// member is one member of an object: positions in the object's text.
type member struct {
	key      int // of the opening quote
	keyEnd   int // after the closing quote
	val, end int
}

// members is a list of the members of a canonical object, with the text they lie in.
type members struct {
	b    []byte
	list []member
}

func (m member) keyIn(b []byte) []byte { return b[m.key+1 : m.keyEnd-1] }
func (m member) valIn(b []byte) []byte { return b[m.val:m.end] }

func (m *members) key(i int) []byte { return m.b[m.list[i].key+1 : m.list[i].keyEnd-1] }
func (m *members) val(i int) []byte { return m.b[m.list[i].val:m.list[i].end] }

func (m *members) find(key string) (val []byte, ok bool) {
	for i := range m.list {
		if string(m.key(i)) == key {
			return m.val(i), true
		}
	}
	return nil, false
}

// plain marks the bytes that stand for themselves in a string.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// scanner proves in one pass that text is canonical. It reports failure without a reason: whoever fails goes through rewrite,
// which either mends the text or says what is wrong.
type scanner struct {
	b       []byte
	numbers int
}

// value scans one value at i and returns the position after it, or -1.
func (s *scanner) value(i, depth int) int {
	if i >= len(s.b) || depth > maxNesting {
		return -1
	}
	switch c := s.b[i]; c {
	case '{':
		return s.object(i, depth)
	case '[':
		return s.array(i, depth)
	case '"':
		return s.text(i)
	case 't':
		return s.word(i, "true")
	case 'f':
		return s.word(i, "false")
	case 'n':
		return s.word(i, "null")
	default:
		return s.number(i)
	}
}

func (s *scanner) word(i int, w string) int {
	if i+len(w) <= len(s.b) && string(s.b[i:i+len(w)]) == w {
		return i + len(w)
	}
	return -1
}

// object scans the object at i.
func (s *scanner) object(i, depth int) int {
	if i++; i < len(s.b) && s.b[i] == '}' {
		return i + 1
	}
	var m member
	for first := true; ; first = false {
		if !s.member(&m, i, depth, first) {
			return -1
		}
		if i = m.end + 1; s.b[m.end] == '}' {
			return i
		}
	}
}

// member scans the member of an object that begins at i and comes after m, which it takes the place of. What follows it is , or }.
func (s *scanner) member(m *member, i, depth int, first bool) bool {
	b := s.b
	if i >= len(b) || b[i] != '"' {
		return false
	}
	at := i
	if i = s.text(i); i < 0 || i >= len(b) || b[i] != ':' {
		return false
	}
	if !first && compareKeys(b[m.key+1:m.keyEnd-1], b[at+1:i-1]) >= 0 {
		return false
	}
	*m = member{key: at, keyEnd: i, val: i + 1}
	if i = s.value(i+1, depth+1); i < 0 || i >= len(b) {
		return false
	}
	m.end = i
	return b[i] == ',' || b[i] == '}'
}

func (s *scanner) array(i, depth int) int {
	b := s.b
	if i++; i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		if i = s.value(i, depth+1); i < 0 || i >= len(b) {
			return -1
		}
		switch b[i] {
		case ',':
			i++
		case ']':
			return i + 1
		default:
			return -1
		}
	}
}

func (s *scanner) text(i int) int {
	b := s.b
	for i++; i < len(b); {
		c := b[i]
		switch {
		case plain[c]:
			i++
		case c == '"':
			return i + 1
		case c == '\\':
			n := shortestEscape(b[i:])
			if n == 0 {
				return -1
			}
			i += n
		case c < 0x20:
			return -1
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n <= 1 {
				return -1
			}
			i += n
		}
	}
	return -1
}

// shortestEscape gives the length of the escape at the start of b if it is the canonical spelling of its character, else 0.
func shortestEscape(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(b) < 6 || b[2] != '0' || b[3] != '0' || b[4] != '0' && b[4] != '1' {
			return 0
		}
		switch c := b[5]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
			if b[4] == '0' && (c == '8' || c == '9' || c == 'a' || c == 'c' || c == 'd') {
				return 0 // has a short escape
			}
			return 6
		}
	}
	return 0
}

func (s *scanner) number(i int) int {
	from := i
	b := s.b
	if s.numbers == verbatim {
		end := numberEnd(b, i)
		if end < 0 {
			return -1
		}
		return end
	}
	if b[i] == '-' {
		i++
	}
	start := i
	n := int64(0)
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		if i-start >= 16 {
			return -1
		}
		n = n*10 + int64(b[i]-'0')
		i++
	}
	if i == start || n > maxInteger || b[start] == '0' && (i-start > 1 || start > from) {
		return -1
	}
	if i < len(b) && (b[i] == '.' || b[i] == 'e' || b[i] == 'E') {
		return -1
	}
	return i
}

// numberEnd finds the end of a number in JSON's general grammar, -1 if there is none at i.
func numberEnd(b []byte, i int) int {
	run := func() bool {
		from := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(b) && b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if !run() {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i++; !run() {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !run() {
			return -1
		}
	}
	return i
}

// compareKeys orders keys, given as the inside of their strings, by code points: the order of their UTF-8 bytes.
func compareKeys(a, b []byte) int {
	if bytes.IndexByte(a, '\\') < 0 && bytes.IndexByte(b, '\\') < 0 {
		return bytes.Compare(a, b)
	}
	return bytes.Compare(unescape(a), unescape(b))
}

// unescape decodes the inside of a valid string. Without escapes it is the same slice.
func unescape(s []byte) []byte {
	if bytes.IndexByte(s, '\\') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			out = append(out, s[i])
			i++
			continue
		}
		r, n := escaped(s[i:])
		if n == 0 { // not reached with valid text
			return out
		}
		out = utf8.AppendRune(out, r)
		i += n
	}
	return out
}

// membersOf lists the members of the canonical object b. into is storage to use. ok is false if b is no canonical object.
func membersOf(b []byte, numbers int, into []member) (m members, ok bool) {
	list, ok := memberList(b, numbers, into)
	return members{b: b, list: list}, ok
}

// memberList is membersOf without the text: what is done with that does not drive into from the caller's stack to the heap.
func memberList(b []byte, numbers int, into []member) (list []member, ok bool) {
	list = into[:0]
	if len(b) < 2 || b[0] != '{' {
		return list, false
	}
	if b[1] == '}' {
		return list, len(b) == 2
	}
	s := scanner{b: b, numbers: numbers}
	var m member
	for i, first := 1, true; s.member(&m, i, 1, first); first = false {
		list = append(list, m)
		if i = m.end + 1; b[m.end] == '}' {
			return list, i == len(b)
		}
	}
	return list, false
}
