// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"encoding/binary"
	"errors"
	"slices"
)

// writer collects the bytes of one message and remembers what it explained on the way.
type writer struct {
	b      []byte
	s      *Session
	inline bool // explain everything in full, remember nothing: for readers without this session's memory
	told   []told
	sent   []place
	two    bool    // a form of version 2: names are explained in its way
	before *Ticket // what earlier parcels of the same message explain: they are read first
}

// clear says that a number may stand alone: the far end has its explanation, or reads it earlier in this message.
func (w *writer) clear(n name, t told) bool {
	return n.arrived || slices.Contains(w.told, t) || w.before != nil && slices.Contains(w.before.told, t)
}

// shared says that the far end remembers an event, or reads it earlier in this message.
func (w *writer) shared(p place, k known) bool {
	return p.seq+useRecent > w.s.trail[p.log].top && (k.arrived || w.before != nil && slices.Contains(w.before.sent, p))
}

func (w *writer) byte(c byte)      { w.b = append(w.b, c) }
func (w *writer) raw(p []byte)     { w.b = append(w.b, p...) }
func (w *writer) uvarint(v uint64) { w.b = binary.AppendUvarint(w.b, v) }
func (w *writer) varint(v int64)   { w.b = binary.AppendVarint(w.b, v) }
func (w *writer) uint32(v uint32)  { w.b = binary.BigEndian.AppendUint32(w.b, v) }
func (w *writer) text(s string)    { w.uvarint(uint64(len(s))); w.b = append(w.b, s...) }
func (w *writer) block(p []byte)   { w.uvarint(uint64(len(p))); w.b = append(w.b, p...) }
func (w *writer) bool(v bool) {
	if v {
		w.byte(1)
	} else {
		w.byte(0)
	}
}

var errShort = errors.New("parcel ends too early")

// reader takes values off one parcel. After the first fault err is set, all reads give zero values and callers may go
// on to the end before they look.
type reader struct {
	b   []byte
	s   *Session
	two bool // a form of version 2
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail(errShort)
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) bool() bool { return r.byte() != 0 }

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uint32() uint32 {
	if p := r.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

// take gives the next n bytes as a part of the message.
func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail(errShort)
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

// count reads a number of things that take at least one byte each, so that a lie cannot make the reader allocate.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail(errShort)
		return 0
	}
	return int(n)
}

func (r *reader) block() []byte { return r.take(r.count()) }

func (r *reader) text() string { return string(r.block()) }

// rest gives all that is left.
func (r *reader) rest() []byte { return r.take(len(r.b)) }
