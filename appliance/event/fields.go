// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"strconv"
	"unicode/utf8"
)

// Each walks the members of a canonical JSON object in key order until f says false. key is decoded; both slices are only lent.
// It tells whether obj is a canonical object; of anything else f sees nothing or a beginning.
func Each(obj []byte, f func(key, val []byte) bool) bool {
	var store [16]member
	list, ok := memberList(obj, verbatim, store[:])
	if !ok {
		return false
	}
	for _, m := range list {
		if !f(unescape(m.keyIn(obj)), m.valIn(obj)) {
			break
		}
	}
	return true
}

// Field finds one member of a canonical JSON object.
func Field(obj []byte, key string) (val []byte, ok bool) {
	var store [16]member
	list, ok := memberList(obj, verbatim, store[:])
	if !ok {
		return nil, false
	}
	for _, m := range list {
		if string(unescape(m.keyIn(obj))) == key {
			return m.valIn(obj), true
		}
	}
	return nil, false
}

// Elements walks the elements of a canonical JSON list until f says false, and tells whether it is one.
func Elements(list []byte, f func(val []byte) bool) bool {
	s := scanner{b: list, numbers: verbatim}
	if len(list) < 2 || list[0] != '[' || s.value(0, 1) != len(list) {
		return false
	}
	for i := 1; list[i] != ']'; {
		end := s.value(i, 2)
		if !f(list[i:end]) {
			break
		}
		if i = end; list[i] == ',' {
			i++
		}
	}
	return true
}

// Text decodes a JSON string in canonical form; ok is false for any other value.
func Text(val []byte) (s string, ok bool) {
	if len(val) < 2 || val[0] != '"' || val[len(val)-1] != '"' {
		return "", false
	}
	return string(unescape(val[1 : len(val)-1])), true
}

// Int decodes a JSON integer; ok is false for any other value and for what int64 cannot hold.
func Int(val []byte) (n int64, ok bool) {
	n, err := strconv.ParseInt(string(val), 10, 64)
	return n, err == nil && val[0] != '+'
}

// AppendText appends s as a JSON string in canonical form. What is not UTF-8 in s becomes U+FFFD.
func AppendText(out []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	return appendText(out, s)
}
