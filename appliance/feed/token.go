// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"strconv"
	"strings"

	"hallig/appliance/room"
)

// token is a place in the stream as clients carry it.
type token struct {
	pos      int64
	typing   int64 // serial of typing, 0: none seen
	toDevice int64 // letters up to here are delivered; equal to pos unless there were too many for one answer
}

func (t token) String() string {
	s := "s" + strconv.FormatInt(t.pos, 10)
	if t.typing == 0 && t.toDevice == t.pos {
		return s
	}
	s += "_" + strconv.FormatInt(t.typing, 10)
	if t.toDevice != t.pos {
		s += "_" + strconv.FormatInt(t.toDevice, 10)
	}
	return s
}

// place is a token for a place in a room's history.
func place(pos int64) string { return "p" + strconv.FormatInt(pos, 10) }

func badToken() error {
	return &room.Error{Code: "M_INVALID_PARAM", Status: 400, Text: "this token is not from this server"}
}

func parseToken(s string) (token, error) {
	if len(s) < 2 || len(s) > 80 || s[0] != 's' && s[0] != 'p' {
		return token{}, badToken()
	}
	parts := strings.Split(s[1:], "_")
	if len(parts) > 3 || s[0] == 'p' && len(parts) != 1 {
		return token{}, badToken()
	}
	var n [3]int64
	for i, p := range parts {
		v, err := strconv.ParseInt(p, 10, 64)
		if err != nil || s[0] == 's' && v < 0 {
			return token{}, badToken()
		}
		n[i] = v
	}
	t := token{pos: n[0], typing: n[1], toDevice: n[0]}
	if len(parts) == 3 {
		t.toDevice = n[2]
	}
	return t, nil
}
