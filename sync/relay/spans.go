// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"encoding/binary"
	"slices"
)

// spans is a set of numbers from 1 on, as stretches in rising order that do not touch.
type spans []span

type span struct{ from, to uint64 }

// find gives the index of the first stretch that does not end before n.
func (s spans) find(n uint64) int {
	i, _ := slices.BinarySearchFunc(s, n, func(x span, n uint64) int {
		if x.to < n {
			return -1
		}
		return 1
	})
	return i
}

func (s spans) has(n uint64) bool {
	i := s.find(n)
	return i < len(s) && s[i].from <= n
}

// add puts a number in; false when it is there.
func (s *spans) add(n uint64) bool {
	if n == 0 || s.has(n) {
		return false
	}
	i := s.find(n)
	joinsLeft := i > 0 && (*s)[i-1].to+1 == n
	joinsRight := i < len(*s) && (*s)[i].from == n+1
	switch {
	case joinsLeft && joinsRight:
		(*s)[i-1].to = (*s)[i].to
		*s = slices.Delete(*s, i, i+1)
	case joinsLeft:
		(*s)[i-1].to = n
	case joinsRight:
		(*s)[i].from = n
	default:
		*s = slices.Insert(*s, i, span{n, n})
	}
	return true
}

// raise puts all numbers below floor in.
func (s *spans) raise(floor uint64) {
	if floor <= 1 {
		return
	}
	to := floor - 1
	for len(*s) > 0 && (*s)[0].from <= to+1 {
		to = max(to, (*s)[0].to)
		*s = (*s)[1:]
	}
	*s = slices.Insert(*s, 0, span{1, to})
}

// upTo is the end of the stretch that begins at 1; 0 when 1 is not in.
func (s spans) upTo() uint64 {
	if len(s) > 0 && s[0].from == 1 {
		return s[0].to
	}
	return 0
}

// maxSpans bounds what is remembered of one life of a writer. Beyond it the oldest hole is taken for filled: what comes for it is not read any more, and its
// writer, which alone can make holes, writes it anew.
const maxSpans = 64

func (s *spans) bound() {
	for len(*s) > maxSpans {
		(*s)[1].from = (*s)[0].from
		*s = (*s)[1:]
	}
}

// bytes writes the stretches as pairs of uvarints: how far from the one before, how many.
func (s spans) bytes() []byte {
	var b []byte
	last := uint64(0)
	for _, x := range s {
		b = binary.AppendUvarint(b, x.from-last)
		b = binary.AppendUvarint(b, x.to-x.from)
		last = x.to
	}
	return b
}

// parseSpans reads at most n pairs and what follows them; false when they do not rise.
func parseSpans(b []byte, n int) (s spans, rest []byte, ok bool) {
	last := uint64(0)
	for range n {
		gap, i := binary.Uvarint(b)
		if i <= 0 {
			return nil, nil, false
		}
		count, j := binary.Uvarint(b[i:])
		x := span{last + gap, last + gap + count}
		if j <= 0 || gap == 0 || x.from < last || x.to < x.from || len(s) > 0 && gap < 2 {
			return nil, nil, false
		}
		s, last, b = append(s, x), x.to, b[i+j:]
	}
	return s, b, true
}

// storedSpans reads what bytes has written.
func storedSpans(b []byte) spans {
	var s spans
	for len(b) > 0 {
		one, rest, ok := parseSpans(b, 1)
		if !ok {
			return nil
		}
		if last := len(s); last > 0 {
			one[0].from += s[last-1].to
			one[0].to += s[last-1].to
		}
		s, b = append(s, one[0]), rest
	}
	return s
}
