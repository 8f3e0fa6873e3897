// SPDX-License-Identifier: EUPL-1.2

package recon

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Hello is what a box says when it begins to use a link: where it stands. The far end forgets what it had on the way
// and goes on from here. The logs, in the order in which they stand in Rooms, also number the handles that the far
// end's event parcels use.
//
// Bytes, integers as uvarints unless a width is given:
//
//	version(1 byte) flags(1 byte: 1 = last part) session(4) ack(4) epoch(4) first serial farserial
//	n { epoch(4) kept }*
//	n { box(8) epoch(4) }*
//	n { room(8) heads(4) state(4) n { index of box-and-epoch, kept }* }*
//
// A Hello whose rooms do not fit one message comes in parts with the same session; First says how many logs came
// before.
type Hello struct {
	Session uint32 // drawn at random, never 0; new each time the speaker wants to be sent everything it lacks
	Ack     uint32 // the far end's session that the speaker goes by; 0 = none yet
	Epoch   uint32 // of the speaker's own logs and EDUs
	First   uint64
	Last    bool

	Serial    uint64 // of the speaker's newest statement about itself
	FarSerial uint64 // of the newest statement of the far end that the speaker holds

	EDUs  []EDUKept
	Rooms []RoomState
}

// EDUKept says how far the speaker is done with the far end's EDUs of one epoch.
type EDUKept struct {
	Epoch uint32
	Kept  uint64
}

// RoomState is one shared room: its frontier and how far the speaker is in each log it knows of.
type RoomState struct {
	Room     Room
	Frontier Frontier
	Logs     []LogKept
}

// LogKept is one log within a RoomState.
type LogKept struct {
	Box   Box
	Epoch uint32
	Kept  uint64
}

const (
	helloVersion = 1
	helloLast    = 1
	maxHello     = 64 << 10
)

type boxEpoch struct {
	box   Box
	epoch uint32
}

// logTable names boxes and epochs once, in the order in which they come first; where they come again their number stands.
type logTable struct {
	index map[boxEpoch]uint64
	names []boxEpoch
}

func (t *logTable) add(k boxEpoch) {
	if t.index == nil {
		t.index = map[boxEpoch]uint64{}
	}
	if _, ok := t.index[k]; !ok {
		t.index[k] = uint64(len(t.names))
		t.names = append(t.names, k)
	}
}

func (t *logTable) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.names)))
	for _, k := range t.names {
		b = append(b, k.box[:]...)
		b = binary.BigEndian.AppendUint32(b, k.epoch)
	}
	return b
}

// Append encodes the greeting.
func (h Hello) Append(b []byte) []byte {
	flags := byte(0)
	if h.Last {
		flags |= helloLast
	}
	b = append(b, helloVersion, flags)
	b = binary.BigEndian.AppendUint32(b, h.Session)
	b = binary.BigEndian.AppendUint32(b, h.Ack)
	b = binary.BigEndian.AppendUint32(b, h.Epoch)
	b = binary.AppendUvarint(b, h.First)
	b = binary.AppendUvarint(b, h.Serial)
	b = binary.AppendUvarint(b, h.FarSerial)
	b = binary.AppendUvarint(b, uint64(len(h.EDUs)))
	for _, e := range h.EDUs {
		b = binary.BigEndian.AppendUint32(b, e.Epoch)
		b = binary.AppendUvarint(b, e.Kept)
	}
	var table logTable
	for _, r := range h.Rooms {
		for _, l := range r.Logs {
			table.add(boxEpoch{l.Box, l.Epoch})
		}
	}
	b = table.append(b)
	b = binary.AppendUvarint(b, uint64(len(h.Rooms)))
	for _, r := range h.Rooms {
		b = append(b, r.Room[:]...)
		b = binary.BigEndian.AppendUint32(b, r.Frontier.Heads)
		b = binary.BigEndian.AppendUint32(b, r.Frontier.State)
		b = binary.AppendUvarint(b, uint64(len(r.Logs)))
		for _, l := range r.Logs {
			b = binary.AppendUvarint(b, table.index[boxEpoch{l.Box, l.Epoch}])
			b = binary.AppendUvarint(b, l.Kept)
		}
	}
	return b
}

// Split cuts a greeting into parts whose encodings stay below max bytes each; every part but the last has whole rooms.
func (h Hello) Split(max int) []Hello {
	const head, perRoom, perLog = 64, 20, 24
	var parts []Hello
	part := h
	part.Rooms, part.First = nil, h.First
	size := head + 24*len(h.EDUs)
	logs := h.First
	for _, r := range h.Rooms {
		need := perRoom + perLog*len(r.Logs)
		if size+need > max && len(part.Rooms) > 0 {
			part.Last = false
			parts = append(parts, part)
			part.Rooms, part.EDUs, part.First = nil, nil, logs
			size = head
		}
		part.Rooms = append(part.Rooms, r)
		size += need
		logs += uint64(len(r.Logs))
	}
	part.Last = true
	return append(parts, part)
}

var errShort = errors.New("cut short")

// ParseHello decodes one greeting; nothing may follow it.
func ParseHello(b []byte) (Hello, error) {
	h, err := parseHello(b)
	if err != nil {
		return Hello{}, fmt.Errorf("parse hello: %w", err)
	}
	return h, nil
}

func parseHello(b []byte) (Hello, error) {
	var h Hello
	if len(b) > maxHello {
		return h, errors.New("too long")
	}
	r := reader{b: b}
	if v := r.byte(); r.err == nil && v != helloVersion {
		return h, fmt.Errorf("version %d is not known here", v)
	}
	flags := r.byte()
	if r.err == nil && flags&^byte(helloLast) != 0 {
		return h, errors.New("unknown flags")
	}
	h.Last = flags&helloLast != 0
	h.Session, h.Ack, h.Epoch = r.uint32(), r.uint32(), r.uint32()
	h.First, h.Serial, h.FarSerial = r.uvarint(), r.uvarint(), r.uvarint()
	for n := r.count(5); n > 0; n-- {
		h.EDUs = append(h.EDUs, EDUKept{Epoch: r.uint32(), Kept: r.uvarint()})
	}
	var table []boxEpoch
	for n := r.count(12); n > 0; n-- {
		var k boxEpoch
		copy(k.box[:], r.take(8))
		k.epoch = r.uint32()
		table = append(table, k)
	}
	for n := r.count(17); n > 0; n-- {
		var s RoomState
		copy(s.Room[:], r.take(8))
		s.Frontier = Frontier{Heads: r.uint32(), State: r.uint32()}
		for m := r.count(2); m > 0; m-- {
			i, kept := r.uvarint(), r.uvarint()
			if i >= uint64(len(table)) {
				return h, errors.New("a log of a box that is not listed")
			}
			s.Logs = append(s.Logs, LogKept{Box: table[i].box, Epoch: table[i].epoch, Kept: kept})
		}
		h.Rooms = append(h.Rooms, s)
	}
	switch {
	case r.err != nil:
		return h, r.err
	case len(r.b) != 0:
		return h, errors.New("bytes left over")
	case h.Session == 0:
		return h, errors.New("no session")
	}
	return h, nil
}

// reader takes fields off the front; after the first failure it gives zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || len(r.b) < n {
		if r.err == nil {
			r.err = errShort
		}
		r.b = nil
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte     { return r.take(1)[0] }
func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		if r.err == nil {
			r.err = errShort
		}
		r.b = nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads a number of things that take at least least bytes each, so that a few bytes cannot promise many.
func (r *reader) count(least int) uint64 {
	n := r.uvarint()
	if n > uint64(len(r.b)/least) {
		if r.err == nil {
			r.err = errShort
		}
		r.b = nil
		return 0
	}
	return n
}
