// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Canonical gives the canonical form of a JSON text: keys sorted by code point, shortest escapes, no white space. Numbers must be integers
// in +-(2^53-1); -0 and exponents are written plainly. Keys must be unique, text must be UTF-8. The result is raw itself
// when that is canonical already.
// https://spec.matrix.org/v1.16/appendices/#canonical-json
func Canonical(raw []byte) ([]byte, error) { return canonical(raw, normalise) }

// CanonicalLoose is Canonical with numbers left as they are written: for events of room versions before 6, and for what is no event.
func CanonicalLoose(raw []byte) ([]byte, error) { return canonical(raw, verbatim) }

// Canonical gives the canonical form as events of this version need it: where the version is strict, any number that is not a plain
// integer in range is an error, as servers must refuse such events.
func (v *Version) Canonical(raw []byte) ([]byte, error) { return canonical(raw, v.numbers()) }

func (v *Version) numbers() int {
	if v.StrictJSON {
		return exact
	}
	return verbatim
}

func canonical(raw []byte, numbers int) ([]byte, error) {
	s := scanner{b: raw, numbers: numbers}
	if s.value(0, 1) == len(raw) && len(raw) > 0 {
		return raw, nil
	}
	return rewrite(raw, numbers)
}

// rewriter reads any JSON text into a flat tree and writes it canonically. It costs time linear in the text, whatever the nesting.
type rewriter struct {
	in      []byte
	i       int
	numbers int
	text    []byte // canonical forms of keys and scalars
	nodes   []node
	order   []int32 // scratch of object
}

// node is a value. Numbers are indices into rewriter.nodes (0 is none) and offsets into rewriter.text.
type node struct {
	kind      byte // '{', '[', or 0 for a scalar
	key, kend int32
	val, vend int32
	child     int32 // first of an object or array
	next      int32
}

func rewrite(raw []byte, numbers int) ([]byte, error) {
	if len(raw) > 1<<30 {
		return nil, ErrTooLarge
	}
	r := rewriter{in: raw, numbers: numbers, text: make([]byte, 0, len(raw)), nodes: make([]node, 1, 1+len(raw)/12)}
	root, err := r.value(1)
	if err != nil {
		return nil, err
	}
	if r.space(); r.i < len(raw) {
		return nil, r.wrong("text after the end")
	}
	return r.write(make([]byte, 0, len(raw)), root), nil
}

func (r *rewriter) wrong(what string) error { return fmt.Errorf("JSON at byte %d: %s", r.i, what) }

func (r *rewriter) space() {
	for r.i < len(r.in) && (r.in[r.i] == ' ' || r.in[r.i] == '\n' || r.in[r.i] == '\r' || r.in[r.i] == '\t') {
		r.i++
	}
}

// eat takes c after white space.
func (r *rewriter) eat(c byte) bool {
	r.space()
	if r.i < len(r.in) && r.in[r.i] == c {
		r.i++
		return true
	}
	return false
}

// value reads one value and returns its node.
func (r *rewriter) value(depth int) (int32, error) {
	if depth > maxNesting {
		return 0, r.wrong("nested too deeply")
	}
	r.space()
	if r.i >= len(r.in) {
		return 0, r.wrong("text ends early")
	}
	at := int32(len(r.nodes))
	r.nodes = append(r.nodes, node{})
	switch c := r.in[r.i]; c {
	case '{', '[':
		r.nodes[at].kind = c
		r.i++
		var first int32
		var err error
		if c == '{' {
			first, err = r.object(depth)
		} else {
			first, err = r.array(depth)
		}
		r.nodes[at].child = first
		return at, err
	}
	from := int32(len(r.text))
	if err := r.scalar(); err != nil {
		return 0, err
	}
	r.nodes[at].val, r.nodes[at].vend = from, int32(len(r.text))
	return at, nil
}

func (r *rewriter) scalar() error {
	s := scanner{b: r.in}
	switch c := r.in[r.i]; c {
	case '"':
		return r.string()
	case 't', 'f', 'n':
		for _, w := range []string{"true", "false", "null"} {
			if s.word(r.i, w) > 0 {
				r.text = append(r.text, w...)
				r.i += len(w)
				return nil
			}
		}
		return r.wrong("unknown word")
	default:
		return r.number()
	}
}

func (r *rewriter) array(depth int) (int32, error) {
	if r.eat(']') {
		return 0, nil
	}
	var first, last int32
	for {
		n, err := r.value(depth + 1)
		if err != nil {
			return 0, err
		}
		if first == 0 {
			first = n
		} else {
			r.nodes[last].next = n
		}
		last = n
		if r.eat(']') {
			return first, nil
		}
		if !r.eat(',') {
			return 0, r.wrong("expected , or ]")
		}
	}
}

func (r *rewriter) object(depth int) (int32, error) {
	if r.eat('}') {
		return 0, nil
	}
	base := len(r.order)
	for {
		if r.space(); r.i >= len(r.in) || r.in[r.i] != '"' {
			return 0, r.wrong("expected a key")
		}
		from := int32(len(r.text))
		if err := r.string(); err != nil {
			return 0, err
		}
		to := int32(len(r.text))
		if !r.eat(':') {
			return 0, r.wrong("expected :")
		}
		n, err := r.value(depth + 1)
		if err != nil {
			return 0, err
		}
		r.nodes[n].key, r.nodes[n].kend = from, to
		r.order = append(r.order, n)
		if r.eat('}') {
			break
		}
		if !r.eat(',') {
			return 0, r.wrong("expected , or }")
		}
	}
	own := r.order[base:]
	r.order = r.order[:base]
	slices.SortFunc(own, func(a, b int32) int { return compareKeys(r.key(a), r.key(b)) })
	for i := 1; i < len(own); i++ {
		if bytes.Equal(r.key(own[i-1]), r.key(own[i])) {
			return 0, fmt.Errorf("JSON: key %.64q stands twice", r.key(own[i]))
		}
		r.nodes[own[i-1]].next = own[i]
	}
	return own[0], nil
}

// key is the inside of the key of node n.
func (r *rewriter) key(n int32) []byte { return r.text[r.nodes[n].key+1 : r.nodes[n].kend-1] }

// string reads a string and appends its canonical form.
func (r *rewriter) string() error {
	in, out := r.in, append(r.text, '"')
	i := r.i + 1
	for i < len(in) {
		c := in[i]
		switch {
		case plain[c]:
			out = append(out, c)
			i++
		case c == '"':
			r.text, r.i = append(out, '"'), i+1
			return nil
		case c == '\\':
			ch, n := escaped(in[i:])
			if n == 0 {
				r.i = i
				return r.wrong("bad escape")
			}
			out = appendEscaped(out, ch)
			i += n
		case c < 0x20:
			r.i = i
			return r.wrong("control character in a string")
		default:
			ch, n := utf8.DecodeRune(in[i:])
			if ch == utf8.RuneError && n <= 1 {
				r.i = i
				return r.wrong("not UTF-8")
			}
			out = append(out, in[i:i+n]...)
			i += n
		}
	}
	r.i = len(in)
	return r.wrong("string ends early")
}

// escaped decodes the escape at the start of b, a surrogate pair as one; n is 0 if it is none, or half a pair, which no UTF-8 can spell.
func escaped(b []byte) (ch rune, n int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch c := b[1]; c {
	case '"', '\\', '/':
		return rune(c), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		ch = hex4(b[2:])
		if ch < 0 {
			return 0, 0
		}
		if !utf16.IsSurrogate(ch) {
			return ch, 6
		}
		if len(b) < 12 || b[6] != '\\' || b[7] != 'u' {
			return 0, 0
		}
		if ch = utf16.DecodeRune(ch, hex4(b[8:])); ch == utf8.RuneError {
			return 0, 0
		}
		return ch, 12
	}
	return 0, 0
}

func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var ch rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			ch = ch<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			ch = ch<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			ch = ch<<4 | rune(c-'A'+10)
		default:
			return -1
		}
	}
	return ch
}

// appendEscaped writes one character in its shortest form.
func appendEscaped(out []byte, ch rune) []byte {
	const hex = "0123456789abcdef"
	switch ch {
	case '"', '\\':
		return append(out, '\\', byte(ch))
	case '\b':
		return append(out, '\\', 'b')
	case '\f':
		return append(out, '\\', 'f')
	case '\n':
		return append(out, '\\', 'n')
	case '\r':
		return append(out, '\\', 'r')
	case '\t':
		return append(out, '\\', 't')
	}
	if ch < 0x20 {
		return append(out, '\\', 'u', '0', '0', hex[ch>>4], hex[ch&15])
	}
	return utf8.AppendRune(out, ch)
}

// appendText writes s as a canonical string. s must be UTF-8.
func appendText(out []byte, s string) []byte {
	out = append(out, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' {
			out = append(out, s[from:i]...)
			out = appendEscaped(out, rune(c))
			from = i + 1
		}
	}
	return append(append(out, s[from:]...), '"')
}

var errNumber = errors.New("number is not an integer between -(2^53-1) and 2^53-1")

func (r *rewriter) number() error {
	end := numberEnd(r.in, r.i)
	if end < 0 {
		return r.wrong("unexpected character")
	}
	lit := r.in[r.i:end]
	s := scanner{b: lit, numbers: r.numbers}
	if s.number(0) != len(lit) {
		if r.numbers == exact {
			return fmt.Errorf("JSON at byte %d: %.32q: %w", r.i, lit, errNumber)
		}
		n, ok := wholeNumber(lit)
		if !ok {
			return fmt.Errorf("JSON at byte %d: %.32q: %w", r.i, lit, errNumber)
		}
		r.text = strconv.AppendInt(r.text, n, 10)
	} else {
		r.text = append(r.text, lit...)
	}
	r.i = end
	return nil
}

// wholeNumber reads -0 and integers with an exponent, as in 1e10. A number with a decimal point is none.
func wholeNumber(lit []byte) (int64, bool) {
	if bytes.IndexByte(lit, '.') >= 0 {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(lit), 64)
	if err != nil || f > maxInteger || f < -maxInteger || f != float64(int64(f)) {
		return 0, false
	}
	return int64(f), true
}

// write appends the canonical text of node n.
func (r *rewriter) write(out []byte, n int32) []byte {
	d := r.nodes[n]
	switch d.kind {
	case '{':
		out = append(out, '{')
		for c := d.child; c != 0; c = r.nodes[c].next {
			if c != d.child {
				out = append(out, ',')
			}
			out = append(out, r.text[r.nodes[c].key:r.nodes[c].kend]...)
			out = append(out, ':')
			out = r.write(out, c)
		}
		return append(out, '}')
	case '[':
		out = append(out, '[')
		for c := d.child; c != 0; c = r.nodes[c].next {
			if c != d.child {
				out = append(out, ',')
			}
			out = r.write(out, c)
		}
		return append(out, ']')
	}
	return append(out, r.text[d.val:d.vend]...)
}
