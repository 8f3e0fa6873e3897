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

// Encode gives the compact form of an event's JSON, or json itself when it has none. nid names the events that are in the database, 0 for others.
func Encode(json []byte, c *Columns, nid func(id string) int64) []byte {
	if len(json) > event.MaxSize {
		return json
	}
	// A redacted event keeps the hash of what it was: there the hash stands as text.
	for _, hashAsText := range []bool{false, true} {
		e := encoder{c: c, nid: nid, hashAsText: hashAsText}
		if row, ok := e.event(json); ok && len(row) < len(json) && e.proves(row, json) {
			return row
		}
	}
	return json
}

// proves reads the row as Decode will.
func (e *encoder) proves(row, json []byte) bool {
	back, err := Decode(row, e.c, func(n int64) (string, error) {
		for i := range e.refs {
			if e.refs[i].nid == n {
				return e.refs[i].id, nil
			}
		}
		return "", errBad
	})
	return err == nil && bytes.Equal(back, json)
}

// ref is an event that the row names by number.
type ref struct {
	nid int64
	id  string
}

type encoder struct {
	c    *Columns
	nid  func(string) int64
	out  []byte
	refs []ref

	hashAsText bool
}

// event writes a row. What it writes need not be right: the caller proves it.
func (e *encoder) event(json []byte) (row []byte, ok bool) {
	var has, text uint64
	var extra []byte
	extras, next := 0, member(0)
	e.out = make([]byte, 0, len(json))
	ok = true
	whole := event.Each(json, func(key, val []byte) bool {
		m := next
		for m < members && names[m] != string(key) {
			m++
		}
		if m == members { // not one of the known ones
			extras++
			extra = append(extra, byte(next))
			extra, ok = appendPhrases(extra, append(append(event.AppendText(nil, string(key)), ':'), val...))
			return ok
		}
		next = m + 1
		has |= bit[m]
		before := len(e.out)
		if !e.own(m, val) {
			text |= bit[m]
			e.out, ok = appendPhrases(e.out[:before], val)
		}
		return ok
	})
	if !whole || !ok {
		return nil, false
	}
	if extras > 0 {
		has |= bit[others]
	}
	row = binary.AppendUvarint(append(make([]byte, 0, len(e.out)+len(extra)+8), format), has^usual)
	row = binary.AppendUvarint(row, text)
	if extras > 0 {
		row = append(binary.AppendUvarint(row, uint64(extras)), extra...)
	}
	return append(row, e.out...), true
}

// own writes a member in its own form; false when it has another shape.
func (e *encoder) own(m member, val []byte) bool {
	switch m {
	case authEvents, prevEvents:
		return e.list(val)
	case redacts:
		id, ok := event.Text(val)
		return ok && e.reference(id)
	case content:
		var ok bool
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

func (e *encoder) list(val []byte) bool {
	n := 0
	if !event.Elements(val, func([]byte) bool { n++; return true }) {
		return false
	}
	e.out = binary.AppendUvarint(e.out, uint64(n))
	ok := true
	event.Elements(val, func(v []byte) bool {
		var id string
		if id, ok = event.Text(v); ok {
			ok = e.reference(id)
		}
		return ok
	})
	return ok
}

func (e *encoder) reference(id string) bool {
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
func hashOf(id string) (h [32]byte, ok bool) {
	if len(id) != 44 || id[0] != '$' {
		return h, false
	}
	var b [33]byte
	n, err := base64.RawURLEncoding.Strict().Decode(b[:], []byte(id[1:]))
	copy(h[:], b[:])
	return h, err == nil && n == 32
}

const algorithm = "ed25519:"

// signature writes the only signature, if it is the sender's server's.
func (e *encoder) signature(val []byte) bool {
	var keyID, sig []byte
	n := 0
	event.Each(val, func(server, keys []byte) bool {
		if n++; string(server) != e.c.server() {
			n = 2
		}
		event.Each(keys, func(id, v []byte) bool {
			n++
			keyID, sig = id, v
			return true
		})
		return true
	})
	if n != 2 || len(sig) != 88 || sig[0] != '"' {
		return false
	}
	name, ok := bytes.CutPrefix(keyID, []byte(algorithm))
	if !ok {
		return false
	}
	if e.out, ok = appendPhrases(e.out, name); !ok {
		return false
	}
	var raw [66]byte
	if got, err := base64.RawStdEncoding.Strict().Decode(raw[:], sig[1:87]); err != nil || got != 64 {
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
