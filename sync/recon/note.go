// SPDX-License-Identifier: EUPL-1.2

package recon

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"hallig/appliance/event"
)

// Short is the first eight bytes of the hash that an event id spells. It only saves asking: whoever recognises an event
// by it still holds the whole event, and whoever takes one for another by chance (or because somebody worked for it)
// finds the difference when the frontiers are compared.
type Short [8]byte

// ShortOf cuts an event id. An id that is no hash (room versions 1 and 2) gets one that no box recognises, so its event
// is asked for.
func ShortOf(id event.ID) (s Short) {
	if len(id) == 44 && id[0] == '$' {
		if raw, err := base64.RawURLEncoding.Strict().DecodeString(string(id[1:])); err == nil {
			copy(s[:], raw)
			return s
		}
	}
	sum := sha256.Sum256([]byte(id))
	copy(s[:], sum[:])
	return s
}

// Note is what boxes tell each other about logs besides the events themselves.
//
//	Boxes   keys of boxes whose logs are named for the first time: a reader that never met them cannot know the brief name
//	Skips   places that the giver declares to be not for the far end: before it came into the room, or after it left
//	Haves   places named by short id only, because the far end is likely to have the event from elsewhere; it answers
//	        with a receipt for those it has and a want for the rest
//	Heads   the forward extremities of rooms whose frontiers differ although the vectors do not
//
// Bytes: n { key(32) }*  n { log(20) after count }*  n { log(20) n { seq-previous short(8) }* }*  n { room(8) n { id }* }*, with a log as
// room(8) box(8) epoch(4), an id as one byte 0 and 32 bytes of hash, or its length and text.
type Note struct {
	Boxes [][32]byte
	Skips []Range
	Haves []Have
	Heads []Heads
}

// Have names places of one log, in rising order.
type Have struct {
	Log    Log
	Places []Place
}

// Place is one place of a log by number and short id.
type Place struct {
	Seq   uint64
	Event Short
}

// Heads are the forward extremities of a room.
type Heads struct {
	Room Room
	IDs  []event.ID
}

// Empty says whether there is nothing to tell.
func (n Note) Empty() bool { return len(n.Skips)+len(n.Haves)+len(n.Heads) == 0 }

func appendLog(b []byte, l Log) []byte {
	b = append(b, l.Room[:]...)
	b = append(b, l.Box[:]...)
	return binary.BigEndian.AppendUint32(b, l.Epoch)
}

func (r *reader) log() (l Log) {
	copy(l.Room[:], r.take(8))
	copy(l.Box[:], r.take(8))
	l.Epoch = r.uint32()
	return l
}

// Append encodes the note. Ranges must not be empty, places must rise.
func (n Note) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(n.Boxes)))
	for _, k := range n.Boxes {
		b = append(b, k[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(n.Skips)))
	for _, s := range n.Skips {
		b = appendLog(b, s.Log)
		b = binary.AppendUvarint(b, s.After)
		b = binary.AppendUvarint(b, s.UpTo-s.After)
	}
	b = binary.AppendUvarint(b, uint64(len(n.Haves)))
	for _, h := range n.Haves {
		b = appendLog(b, h.Log)
		b = binary.AppendUvarint(b, uint64(len(h.Places)))
		last := uint64(0)
		for _, p := range h.Places {
			b = binary.AppendUvarint(b, p.Seq-last)
			b = append(b, p.Event[:]...)
			last = p.Seq
		}
	}
	b = binary.AppendUvarint(b, uint64(len(n.Heads)))
	for _, h := range n.Heads {
		b = append(b, h.Room[:]...)
		b = binary.AppendUvarint(b, uint64(len(h.IDs)))
		for _, id := range h.IDs {
			b = appendID(b, id)
		}
	}
	return b
}

func appendID(b []byte, id event.ID) []byte {
	if len(id) == 44 && id[0] == '$' {
		if raw, err := base64.RawURLEncoding.Strict().DecodeString(string(id[1:])); err == nil {
			return append(append(b, 0), raw...)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(id)))
	return append(b, id...)
}

func (r *reader) id() event.ID {
	n := r.uvarint()
	switch {
	case r.err != nil:
		return ""
	case n == 0:
		return event.ID("$" + base64.RawURLEncoding.EncodeToString(r.take(32)))
	case n > 255:
		r.err = errors.New("an event id longer than 255 bytes")
		return ""
	}
	return event.ID(r.take(int(n)))
}

// ParseNote decodes a note; nothing may follow it.
func ParseNote(b []byte) (Note, error) {
	n, err := parseNote(b)
	if err != nil {
		return Note{}, fmt.Errorf("parse note: %w", err)
	}
	return n, nil
}

var errOrder = errors.New("numbers that do not rise")

func parseNote(b []byte) (Note, error) {
	var n Note
	if len(b) > maxHello {
		return n, errors.New("too long")
	}
	r := reader{b: b}
	for i := r.count(32); i > 0; i-- {
		n.Boxes = append(n.Boxes, [32]byte(r.take(32)))
	}
	for i := r.count(22); i > 0; i-- {
		s := Range{Log: r.log(), After: r.uvarint()}
		count := r.uvarint()
		s.UpTo = s.After + count
		if r.err == nil && (count == 0 || s.UpTo < s.After) {
			return n, errOrder
		}
		n.Skips = append(n.Skips, s)
	}
	for i := r.count(21); i > 0; i-- {
		h := Have{Log: r.log()}
		last := uint64(0)
		for m := r.count(9); m > 0; m-- {
			step := r.uvarint()
			p := Place{Seq: last + step}
			copy(p.Event[:], r.take(8))
			if r.err == nil && p.Seq <= last {
				return n, errOrder
			}
			last = p.Seq
			h.Places = append(h.Places, p)
		}
		n.Haves = append(n.Haves, h)
	}
	for i := r.count(9); i > 0; i-- {
		var h Heads
		copy(h.Room[:], r.take(8))
		for m := r.count(2); m > 0 && r.err == nil; m-- {
			h.IDs = append(h.IDs, r.id())
		}
		n.Heads = append(n.Heads, h)
	}
	if r.err == nil && len(r.b) != 0 {
		return n, errors.New("bytes left over")
	}
	return n, r.err
}
