// SPDX-License-Identifier: EUPL-1.2

// Package compact writes the JSON of an event as a row of the database keeps it, and rebuilds it byte for byte.
//
// A row has the event's room, sender, type, state key, depth and time in columns, knows its ancestors by number, and the content hash follows
// from the rest. What the reader can derive is not stored; signatures and keys inside JSON are kept as bytes, frequent phrases as one byte.
//
// It promises that Encode followed by Decode gives the same bytes for any text that begins with {: the encoder decodes what it wrote, and what does not come back
// equal is kept as the JSON text it is, which begins with '{'. Decode takes hostile bytes: an error, never a panic, never more than an event's size.
// Pure.
//
// A compact row:
//
//	1                      the format; it differs from '{', with which a row of plain JSON begins
//	uvarint                which members there are (bits of member, exclusive or usual)
//	uvarint                which of them stand as text, not in the member's own form
//	if there are others        uvarint count, then for each: a byte, before which of the known ones it stands; phrases
//	members, in the order of canonical JSON:
//	  auth_events, prev_events   uvarint count, then references
//	  redacts                    a reference
//	  content                    phrases (phrases.go)
//	  signatures                 phrases: the name of the key behind ed25519: and 64 bytes
//	  as text                    phrases
//	  all others                 nothing: they are in columns, or follow from the rest
//
// A reference is uvarint 0 and the 32 bytes of an id, or 1 + the zigzag of (row's number - number of the event).
// The format is for ever: a change is a new first byte.
package compact

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"

	"hallig/appliance/event"
)

// format is the first byte of a compact row.
const format = 1

// Columns is what a row says of its event beside the JSON.
type Columns struct {
	NID      int64
	ID       string
	Room     string
	Sender   string
	Type     string
	StateKey *string
	Depth    int64
	TS       int64
}

// server is the part of the sender's id behind the first colon.
func (c *Columns) server() string {
	_, s, _ := strings.Cut(c.Sender, ":")
	return s
}

// member is a top-level member of an event that has a form of its own.
type member uint

// In the order of their names, which is that of canonical JSON.
const (
	authEvents member = iota
	content
	depth
	eventID
	hashes
	origin
	originTS
	prevEvents
	redacts
	roomID
	sender
	signatures
	stateKey
	typ
	members
	others = members // further members
)

var names = [members]string{"auth_events", "content", "depth", "event_id", "hashes", "origin", "origin_server_ts", "prev_events", "redacts", "room_id",
	"sender", "signatures", "state_key", "type"}

// bit has small numbers for what differs from event to event, so that one byte says it.
var bit = [members + 1]uint64{stateKey: 1 << 0, redacts: 1 << 1, roomID: 1 << 2, hashes: 1 << 3, others: 1 << 4, origin: 1 << 5, eventID: 1 << 6,
	signatures: 1 << 7, authEvents: 1 << 8, prevEvents: 1 << 9, content: 1 << 10, depth: 1 << 11, originTS: 1 << 12, sender: 1 << 13, typ: 1 << 14}

// usual is the shape of a message.
const usual = 1<<2 | 1<<3 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14

var errBad = errors.New("damaged compact event")

// IsCompact says whether a row is to be given to Decode.
func IsCompact(row []byte) bool { return len(row) > 0 && row[0] == format }

// Encoder makes rows. It keeps its memory for the next one and belongs to one goroutine.
type Encoder struct {
	c          *Columns
	nid        func(id []byte) int64
	hashAsText bool
	refs       []ref
	head       []byte // of the row
	extra      []byte
	out        []byte // the members, and then the whole row
	back       []byte // the row read again
}

// ref is an event that the row names by number.
type ref struct {
	nid int64
	id  []byte
}

// Encode gives the compact form of an event's JSON, or json itself when it has none. nid names the events that are in the database, 0 for others.
// The answer is valid until the next call.
func (e *Encoder) Encode(json []byte, c *Columns, nid func(id []byte) int64) []byte {
	if len(json) > event.MaxSize {
		return json
	}
	// A redacted event keeps the hash of what it was: there the hash stands as text.
	for _, hashAsText := range []bool{false, true} {
		e.c, e.nid, e.hashAsText = c, nid, hashAsText
		e.refs, e.head, e.extra, e.out = e.refs[:0], e.head[:0], e.extra[:0], e.out[:0]
		if row, ok := e.event(json); ok && len(row) < len(json) && e.proves(row, json) {
			return row
		}
	}
	return json
}

// proves reads the row as Decode will.
func (e *Encoder) proves(row, json []byte) bool {
	d := decoder{in: row[1:], c: e.c, out: e.back[:0], id: func(n int64) (string, error) {
		for i := range e.refs {
			if e.refs[i].nid == n {
				return string(e.refs[i].id), nil
			}
		}
		return "", errBad
	}}
	err := d.event()
	e.back = d.out
	return err == nil && bytes.Equal(d.out, json)
}

// event writes a row. What it writes need not be right: Encode proves it. So the text is only cut into members, not checked.
func (e *Encoder) event(json []byte) (row []byte, ok bool) {
	if len(json) < 2 || json[0] != '{' {
		return nil, false
	}
	var has, text uint64
	extras, next := 0, member(0)
	for i := 1; i < len(json); {
		key, val := i, 0
		if val = skip(json, key); val < 0 || val >= len(json) || json[val] != ':' {
			return nil, false
		}
		end := skip(json, val+1)
		if end < 0 || end >= len(json) {
			return nil, false
		}
		m := next
		for m < members && names[m] != string(json[key+1:val-1]) {
			m++
		}
		if m == members { // not one of the known ones
			extras++
			if e.extra, ok = appendPhrases(append(e.extra, byte(next)), json[key:end]); !ok {
				return nil, false
			}
		} else {
			next = m + 1
			has |= bit[m]
			before := len(e.out)
			if !e.own(m, json[val+1:end]) {
				text |= bit[m]
				if e.out, ok = appendPhrases(e.out[:before], json[val+1:end]); !ok {
					return nil, false
				}
			}
		}
		i = end + 1
	}
	if extras > 0 {
		has |= bit[others]
	}
	e.head = binary.AppendUvarint(append(e.head, format), has^usual)
	e.head = binary.AppendUvarint(e.head, text)
	if extras > 0 {
		e.head = append(binary.AppendUvarint(e.head, uint64(extras)), e.extra...)
	}
	e.out = slices.Insert(e.out, 0, e.head...)
	return e.out, true
}

// skip finds the end of the value at i; -1 if it has none.
func skip(json []byte, i int) int {
	depth := 0
	for i < len(json) {
		switch json[i] {
		case '"':
			n := textEnd(json, i)
			if n < 0 || depth == 0 {
				return n
			}
			i = n
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return i
			}
			if depth == 0 {
				return i + 1
			}
		case ',':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return -1
}

// textEnd finds the end of the string at i; -1 if it has none.
func textEnd(json []byte, i int) int {
	for i++; ; i++ {
		n := bytes.IndexByte(json[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		slashes := 0
		for json[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
}

// own writes a member in its own form; false when it has another shape.
func (e *Encoder) own(m member, val []byte) (ok bool) {
	switch m {
	case authEvents, prevEvents:
		return e.list(val)
	case redacts:
		return len(val) == 46 && val[0] == '"' && val[45] == '"' && e.reference(val[1:45])
	case content:
		e.out, ok = appendPhrases(e.out, val)
		return ok
	case hashes:
		return len(val) == hashesLen && !e.hashAsText // whether it is the right hash shows in the end
	case signatures:
		return e.signature(val)
	}
	var room [96]byte
	own, ok := e.c.appendColumn(room[:0], m)
	return ok && bytes.Equal(own, val)
}

// list writes ids of 44 characters, as all are since room version 3.
func (e *Encoder) list(val []byte) bool {
	const each = 47 // a bracket or comma, quotes, the id
	n := len(val) / each
	if len(val) != n*each+1 && string(val) != "[]" {
		return false
	}
	e.out = binary.AppendUvarint(e.out, uint64(n))
	for ; n > 0; n-- {
		if val[1] != '"' || val[46] != '"' || !e.reference(val[2:46]) {
			return false
		}
		val = val[each:]
	}
	return true
}

func (e *Encoder) reference(id []byte) bool {
	if n := e.nid(id); n > 0 {
		e.refs = append(e.refs, ref{n, id})
		d := e.c.NID - n
		e.out = binary.AppendUvarint(e.out, 1+uint64(d<<1^d>>63))
		return true
	}
	h, ok := hashOf(id)
	if ok {
		e.out = append(append(e.out, 0), h[:]...)
	}
	return ok
}

// hashOf reads an id of room version 4 and later.
func hashOf(id []byte) (h [32]byte, ok bool) {
	if len(id) != 44 || id[0] != '$' {
		return h, false
	}
	var b [33]byte
	n, err := base64.RawURLEncoding.Strict().Decode(b[:], id[1:])
	copy(h[:], b[:])
	return h, err == nil && n == 32
}

const algorithm = "ed25519:"

// signature writes the only signature, if it is the sender's server's.
func (e *Encoder) signature(val []byte) bool {
	server := e.c.server()
	val, ok1 := bytes.CutPrefix(val, []byte(`{"`))
	if !ok1 || len(val) < len(server) || string(val[:len(server)]) != server {
		return false
	}
	val, ok1 = bytes.CutPrefix(val[len(server):], []byte(`":{"`+algorithm))
	val, ok2 := bytes.CutSuffix(val, []byte(`"}}`))
	name, sig, ok3 := bytes.Cut(val, []byte(`":"`))
	if !ok1 || !ok2 || !ok3 || len(sig) != 86 {
		return false
	}
	var ok bool
	if e.out, ok = appendPhrases(e.out, name); !ok {
		return false
	}
	var raw [66]byte
	if got, err := base64.RawStdEncoding.Strict().Decode(raw[:], sig); err != nil || got != 64 {
		return false
	}
	e.out = append(e.out, raw[:64]...)
	return true
}

// appendColumn writes the value of a member that the columns hold.
func (c *Columns) appendColumn(out []byte, m member) ([]byte, bool) {
	switch m {
	case depth:
		return strconv.AppendInt(out, c.Depth, 10), true
	case eventID:
		return event.AppendText(out, c.ID), true
	case origin:
		return event.AppendText(out, c.server()), true
	case originTS:
		return strconv.AppendInt(out, c.TS, 10), true
	case roomID:
		return event.AppendText(out, c.Room), true
	case sender:
		return event.AppendText(out, c.Sender), true
	case stateKey:
		if c.StateKey == nil {
			return out, false
		}
		return event.AppendText(out, *c.StateKey), true
	case typ:
		return event.AppendText(out, c.Type), true
	}
	return out, false
}

const hashesLen = len(`{"sha256":""}`) + 43

// putHash writes the content hash into its place: it covers all but hashes and signatures.
func putHash(out []byte, hash, sigs [2]int) {
	h := sha256.New()
	h.Write(out[:hash[0]])
	if sigs[1] > 0 {
		h.Write(out[hash[1]:sigs[0]])
		h.Write(out[sigs[1]:])
	} else {
		h.Write(out[hash[1]:])
	}
	var sum [sha256.Size]byte
	at := hash[1] - len(`"}`) - 43
	base64.RawStdEncoding.Encode(out[at:at+43], h.Sum(sum[:0]))
}
