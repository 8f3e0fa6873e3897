// SPDX-License-Identifier: EUPL-1.2

package recon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Audit finds out whether two boxes whose vectors agree do hold the same events. One asks with the places that it says it
// holds; the other answers with those of them that it holds as well, which are what the two can compare, and the sum over
// the events there. A sum that differs is followed by a sketch.
//
// Bytes behind the type (typeAsk or typeAnswer): salt(8)  n { box(8) epoch(4) }*  n { room(8) sum(16, answers only)
// n { index of box-and-epoch, upto, n { skip-previous count }* }* }*, integers as uvarints.
type Audit struct {
	Salt   Salt
	Answer bool
	Rooms  []Holding
}

// Holding is what a box holds of one room.
type Holding struct {
	Room Room
	Sum  Sum // in answers: over the events of these places
	Logs []Held
}

// Held are the places of one log from 1 up to UpTo without the skips, which are in order and apart.
type Held struct {
	Box   Box
	Epoch uint32
	UpTo  uint64
	Skips []Stretch
}

// Stretch is the places after After up to and including UpTo.
type Stretch struct{ After, UpTo uint64 }

// MaxSkips bounds the skips of one log: one that has more is compared up to them only.
const MaxSkips = 64

// Skip adds a stretch to the places that are not held; it must not begin before the last one ends. False when there are
// too many: UpTo is then before it.
func (h *Held) Skip(after, upTo uint64) bool {
	if n := len(h.Skips); n > 0 && h.Skips[n-1].UpTo == after {
		h.Skips[n-1].UpTo = upTo
		return true
	}
	if len(h.Skips) == MaxSkips {
		h.UpTo = after
		return false
	}
	h.Skips = append(h.Skips, Stretch{after, upTo})
	return true
}

// Has says whether a place is among those held.
func (h *Held) Has(seq uint64) bool {
	if seq == 0 || seq > h.UpTo {
		return false
	}
	i, _ := slices.BinarySearchFunc(h.Skips, seq, func(s Stretch, seq uint64) int {
		if s.UpTo < seq {
			return -1
		}
		return 1
	})
	return i == len(h.Skips) || h.Skips[i].After >= seq
}

// Common is what two boxes both hold of a log.
func (h Held) Common(o Held) Held {
	out := Held{Box: h.Box, Epoch: h.Epoch, UpTo: min(h.UpTo, o.UpTo)}
	all := slices.Concat(h.Skips, o.Skips)
	slices.SortFunc(all, func(a, b Stretch) int {
		if a.After < b.After {
			return -1
		}
		return 1
	})
	end := uint64(0)
	for _, s := range all {
		s.After, s.UpTo = max(s.After, end), min(s.UpTo, out.UpTo)
		if s.After >= s.UpTo {
			continue
		}
		if !out.Skip(s.After, s.UpTo) {
			break
		}
		end = s.UpTo
	}
	return out
}

// Sketch is a part of a sketch or of a list: Symbols from number First on, or, once it is a list, elements in rising
// order from number First on. Salt and Room stand in the first part of each, and say what was audited.
//
// Bytes behind the type: id(4) flags first  [salt(8) room(8) size when first is 0]  {sum(8) check(4)}* or {element(8)}*
type Sketch struct {
	ID      uint32
	First   uint64
	List    bool
	Last    bool // of a list
	Salt    Salt
	Room    Room
	Size    uint64 // of the giver's set
	Symbols []Symbol
	All     []Element
}

// Found ends a sketch: the taker has the difference, or gives up (Failed). Wants are elements that it lacks and that the
// giver has; a long list comes in parts, all but the last with More.
//
// Bytes behind the type: id(4) flags {element(8)}*
type Found struct {
	ID     uint32
	Failed bool
	More   bool
	Wants  []Element
}

// Pull answers a greeting: of logs that are neither its speaker's nor ours, and in which the speaker is ahead of us, it names those that
// we have nobody else for: their events come in full, the others are named first. Logs are numbered as they stand in
// the greeting.
//
// Bytes behind the type: session(4) and a bit for each log, the first in the lowest bit; zeros at the end are left out.
type Pull struct {
	Session uint32
	Logs    []int // in rising order
}

// The types of what stands in a parcel of kind sketch.
const (
	typeAsk    = 1
	typeAnswer = 2
	typeSketch = 3
	typeFound  = 4
	typePull   = 5

	flagList   = 1
	flagLast   = 2
	flagFailed = 1
	flagMore   = 2
)

// Append encodes the audit.
func (a Audit) Append(b []byte) []byte {
	if a.Answer {
		b = append(b, typeAnswer)
	} else {
		b = append(b, typeAsk)
	}
	b = append(b, a.Salt[:]...)
	var table logTable
	for _, r := range a.Rooms {
		for _, l := range r.Logs {
			table.add(boxEpoch{l.Box, l.Epoch})
		}
	}
	b = table.append(b)
	b = binary.AppendUvarint(b, uint64(len(a.Rooms)))
	for _, r := range a.Rooms {
		b = append(b, r.Room[:]...)
		if a.Answer {
			b = binary.BigEndian.AppendUint64(b, r.Sum.hi)
			b = binary.BigEndian.AppendUint64(b, r.Sum.lo)
		}
		b = binary.AppendUvarint(b, uint64(len(r.Logs)))
		for _, l := range r.Logs {
			b = binary.AppendUvarint(b, table.index[boxEpoch{l.Box, l.Epoch}])
			b = binary.AppendUvarint(b, l.UpTo)
			b = binary.AppendUvarint(b, uint64(len(l.Skips)))
			last := uint64(0)
			for _, s := range l.Skips {
				b = binary.AppendUvarint(b, s.After-last)
				b = binary.AppendUvarint(b, s.UpTo-s.After)
				last = s.UpTo
			}
		}
	}
	return b
}

// Append encodes the part.
func (s Sketch) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, typeSketch), s.ID)
	flags := byte(0)
	if s.List {
		flags |= flagList
	}
	if s.Last {
		flags |= flagLast
	}
	b = binary.AppendUvarint(append(b, flags), s.First)
	if s.First == 0 {
		b = append(append(b, s.Salt[:]...), s.Room[:]...)
		b = binary.AppendUvarint(b, s.Size)
	}
	if s.List {
		return appendElements(b, s.All)
	}
	return appendSymbols(b, s.Symbols)
}

func appendSymbols(b []byte, symbols []Symbol) []byte {
	for _, c := range symbols {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, uint64(c.Sum)), c.Check)
	}
	return b
}

func appendElements(b []byte, es []Element) []byte {
	for _, e := range es {
		b = binary.BigEndian.AppendUint64(b, uint64(e))
	}
	return b
}

// Append encodes the answer.
func (f Found) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, typeFound), f.ID)
	flags := byte(0)
	if f.Failed {
		flags |= flagFailed
	}
	if f.More {
		flags |= flagMore
	}
	return appendElements(append(b, flags), f.Wants)
}

// Append encodes the answer. Logs must rise.
func (p Pull) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, typePull), p.Session)
	if len(p.Logs) == 0 {
		return b
	}
	set := make([]byte, p.Logs[len(p.Logs)-1]/8+1)
	for _, i := range p.Logs {
		set[i/8] |= 1 << (i % 8)
	}
	return append(b, set...)
}

func (r *reader) pull() Pull {
	p := Pull{Session: r.uint32()}
	for i, c := range r.take(len(r.b)) {
		for bit := range 8 {
			if c>>bit&1 != 0 {
				p.Logs = append(p.Logs, 8*i+bit)
			}
		}
	}
	return p
}

// ParseSketch decodes what a parcel of kind sketch holds: an Audit, a Sketch, a Found or a Pull.
func ParseSketch(b []byte) (any, error) {
	v, err := parseSketch(b)
	if err != nil {
		return nil, fmt.Errorf("parse sketch: %w", err)
	}
	return v, nil
}

func parseSketch(b []byte) (v any, err error) {
	if len(b) > maxHello {
		return nil, errors.New("too long")
	}
	r := &reader{b: b}
	switch t := r.byte(); t {
	case typeAsk, typeAnswer:
		v, err = r.audit(t == typeAnswer)
	case typeSketch:
		v, err = r.sketch()
	case typeFound:
		f := Found{ID: r.uint32()}
		flags := r.byte()
		if flags > flagFailed|flagMore {
			return nil, errors.New("unknown flags")
		}
		f.Failed, f.More = flags&flagFailed != 0, flags&flagMore != 0
		f.Wants, err = r.elements()
		v = f
	case typePull:
		v = r.pull()
	default:
		return nil, errors.New("an unknown type")
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case err != nil:
		return nil, err
	case len(r.b) != 0:
		return nil, errors.New("bytes left over")
	}
	return v, nil
}

func (r *reader) audit(answer bool) (Audit, error) {
	a := Audit{Answer: answer, Salt: Salt(r.take(8))}
	var table []boxEpoch
	for n := r.count(12); n > 0; n-- {
		table = append(table, boxEpoch{Box(r.take(8)), r.uint32()})
	}
	for n := r.count(9); n > 0 && r.err == nil; n-- {
		h := Holding{Room: Room(r.take(8))}
		if answer {
			h.Sum = Sum{binary.BigEndian.Uint64(r.take(8)), binary.BigEndian.Uint64(r.take(8))}
		}
		for m := r.count(3); m > 0 && r.err == nil; m-- {
			i := r.uvarint()
			if i >= uint64(len(table)) {
				return a, errors.New("a log of a box that is not listed")
			}
			l := Held{Box: table[i].box, Epoch: table[i].epoch, UpTo: r.uvarint()}
			last := uint64(0)
			for k := r.count(2); k > 0 && r.err == nil; k-- {
				s := Stretch{After: last + r.uvarint()}
				s.UpTo = s.After + r.uvarint()
				if s.After < last || s.UpTo <= s.After || s.UpTo > l.UpTo || len(l.Skips) == MaxSkips || last > 0 && s.After == last {
					return a, errOrder
				}
				last = s.UpTo
				l.Skips = append(l.Skips, s)
			}
			h.Logs = append(h.Logs, l)
		}
		a.Rooms = append(a.Rooms, h)
	}
	return a, nil
}

func (r *reader) sketch() (Sketch, error) {
	s := Sketch{ID: r.uint32()}
	flags := r.byte()
	if flags > flagList|flagLast || flags == flagLast {
		return s, errors.New("unknown flags")
	}
	s.List, s.Last = flags&flagList != 0, flags&flagLast != 0
	if s.First = r.uvarint(); s.First == 0 {
		s.Salt, s.Room, s.Size = Salt(r.take(8)), Room(r.take(8)), r.uvarint()
	}
	if s.List {
		var err error
		s.All, err = r.elements()
		return s, err
	}
	if len(r.b)%symbolSize != 0 {
		return s, errShort
	}
	for len(r.b) > 0 {
		s.Symbols = append(s.Symbols, Symbol{Element(binary.BigEndian.Uint64(r.take(8))), r.uint32()})
	}
	return s, nil
}

// elements reads the rest as elements in rising order.
func (r *reader) elements() (out []Element, err error) {
	if len(r.b)%8 != 0 {
		return nil, errShort
	}
	for len(r.b) > 0 {
		e := Element(binary.BigEndian.Uint64(r.take(8)))
		if len(out) > 0 && e <= out[len(out)-1] {
			return nil, errOrder
		}
		out = append(out, e)
	}
	return out, nil
}
