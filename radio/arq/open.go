// SPDX-License-Identifier: EUPL-1.2

package arq

// On an open link (amateur radio) nothing is encrypted: keys make tags and nothing else. A hello says so by one more byte, and ends that do
// not agree about it have no contact: neither would be able to read the other.

const helloOpen = 1

func (l *Link) declare(body []byte) []byte {
	var flags byte
	if l.cfg.Open {
		flags |= helloOpen
	}
	if l.cfg.Correct {
		flags |= helloCodes
	}
	if flags == 0 {
		return body
	}
	return append(body, flags)
}

func isOpen(body []byte) bool { return flagsOf(body)&helloOpen != 0 }

// flagsOf a hello.
func flagsOf(body []byte) byte {
	at := helloSize
	if len(body) >= namedSize {
		at = namedSize
	}
	if len(body) <= at {
		return 0
	}
	return body[at]
}

// Announce puts bytes, framed, before the next transmission: a call sign.
func (l *Link) Announce(wire []byte) { l.announce = wire }

// Announced says whether that has happened.
func (l *Link) Announced() bool { return l.announce == nil }

// Piece is a part of a message in the body of a data frame.
type Piece struct {
	First, Last bool // it begins, or ends, the message
	Data        []byte
}

// Pieces takes the body of a data frame apart, for those who only listen: the pieces of one priority, in the order of the frames' numbers, make the
// messages. The body of a frame of type Whole is one message.
func Pieces(body []byte) (out []Piece, ok bool) {
	for len(body) > 0 {
		r, data, rest, ok := parseRecord(body)
		if !ok {
			return out, false
		}
		out, body = append(out, Piece{r.first, r.last, data}), rest
	}
	return out, true
}
