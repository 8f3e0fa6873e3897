// SPDX-License-Identifier: EUPL-1.2

package ferry

import (
	"encoding/binary"
	"errors"

	"hallig/sync/parcel"
)

// writer writes the two parts of a text.
type writer struct{ head, text []byte }

func (w *writer) byte(b byte)     { w.head = append(w.head, b) }
func (w *writer) raw(b []byte)    { w.head = append(w.head, b...) }
func (w *writer) number(n uint64) { w.head = binary.AppendUvarint(w.head, n) }

func (w *writer) string(s string) {
	w.number(uint64(len(s)))
	w.text = append(w.text, s...)
}

// close gives the text as it is sealed.
func (w *writer) close(c *parcel.Codec) []byte {
	out := binary.AppendUvarint(nil, uint64(len(w.head)))
	out = append(out, w.head...)
	if len(w.text) == 0 {
		return out
	}
	return append(out, c.PackEvents(w.text)...)
}

var errForm = errors.New("it is not well formed")

// reader reads them. After an error it gives zeros.
type reader struct {
	head, text []byte
	err        error
}

// open undoes writer.close. most bounds the unpacked text, in bytes.
func open(c *parcel.Codec, b []byte, most int) *reader {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)-used) {
		return &reader{err: errForm}
	}
	r := &reader{head: b[used : used+int(n)]}
	if packed := b[used+int(n):]; len(packed) > 0 {
		r.text, r.err = c.Unpack(packed, most)
	}
	return r
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n > len(r.head) {
		r.err = errors.Join(r.err, errForm)
		return make([]byte, min(n, 64))
	}
	b := r.head[:n]
	r.head = r.head[n:]
	return b
}

func (r *reader) byte() byte { return r.take(1)[0] }

func (r *reader) number() uint64 {
	n, used := binary.Uvarint(r.head)
	if r.err != nil || used <= 0 {
		r.err = errors.Join(r.err, errForm)
		return 0
	}
	r.head = r.head[used:]
	return n
}

// count reads how many things follow, of which there may be most, each of at least one byte.
func (r *reader) count(most int) int {
	n := r.number()
	if n > uint64(most) || n > uint64(len(r.head)) {
		r.err = errors.Join(r.err, errForm)
		return 0
	}
	return int(n)
}

func (r *reader) string() string {
	n := r.number()
	if r.err != nil || n > uint64(len(r.text)) {
		r.err = errors.Join(r.err, errForm)
		return ""
	}
	s := string(r.text[:n])
	r.text = r.text[n:]
	return s
}

// end says whether all was read, and nothing is left over.
func (r *reader) end() error {
	if r.err == nil && (len(r.head) > 0 || len(r.text) > 0) {
		return errForm
	}
	return r.err
}
