// SPDX-License-Identifier: EUPL-1.2

package frame

import (
	"math/bits"

	"github.com/makiuchi-d/gozxing/common/reedsolomon"
)

// A coded frame survives bit errors where it stands: no delimiter has to come through whole.
//
//	marker  4 bytes, found with up to markerErrors wrong bits
//	head    2 bytes, length of the frame, and 6 check bytes: three of the eight may be wrong
//	blocks  the frame in equal parts, each a Reed-Solomon code word with 8, 16 or 32 check bytes, interleaved byte by byte
//
// A code word survives as many wrong bytes as half its check bytes, and with n blocks so does a burst n times as long. How many check
// bytes there are follows from the length: short frames (acknowledgements) need fewer. What is not corrected, or wrongly, the tag finds out.
//
// On the line coded frames mix with frames of COBS: a Decoder takes both.
const (
	markerErrors = 5
	headData     = 2
	headSize     = headData + 6
	codedSize    = 4 + headSize // before the blocks
	wordSize     = 255
)

// marker is the attached synchronisation marker of CCSDS 131.0-B, section 9: far from its own shifts and without zeros.
const marker = 0x1ACFFC1D

// checks is how many check bytes each block of a frame of n bytes has, and how many blocks there are.
func checks(n int) (check, blocks int) {
	switch {
	case n <= 24:
		return 8, 1
	case n <= 96:
		return 16, 1
	}
	return 32, (n + wordSize - 32 - 1) / (wordSize - 32)
}

// code is the field and polynomial of QR codes.
func code() *reedsolomon.GenericGF { return reedsolomon.GenericGF_QR_CODE_FIELD_256 }

// codedLen is the length on the line of a coded frame of n bytes.
func codedLen(n int) int {
	check, blocks := checks(n)
	return codedSize + (n+blocks-1)/blocks*blocks + check*blocks
}

// appendCoded appends raw, coded.
func appendCoded(dst, raw []byte) []byte {
	dst = append(dst, marker>>24, marker>>16&0xFF, marker>>8&0xFF, marker&0xFF)
	enc := reedsolomon.NewReedSolomonEncoder(code())
	dst = append(dst, protect(enc, []byte{byte(len(raw) >> 8), byte(len(raw))}, headSize-headData)...)
	check, blocks := checks(len(raw))
	part := (len(raw) + blocks - 1) / blocks
	start, size := len(dst), part+check
	dst = append(dst, make([]byte, size*blocks)...)
	for b := range blocks {
		block := make([]byte, part) // the last is filled up with zeros
		copy(block, raw[min(b*part, len(raw)):])
		for i, c := range protect(enc, block, check) {
			dst[start+i*blocks+b] = c
		}
	}
	return dst
}

// protect is the code word of data with so many check bytes.
func protect(enc *reedsolomon.ReedSolomonEncoder, data []byte, check int) []byte {
	word := make([]int, len(data)+check)
	for i, c := range data {
		word[i] = int(c)
	}
	if err := enc.Encode(word, check); err != nil {
		panic("Reed-Solomon refused a code word of the right size: " + err.Error())
	}
	out := make([]byte, len(word))
	for i, c := range word {
		out[i] = byte(c)
	}
	return out
}

// repair corrects a code word in place; false: too much of it is wrong.
func repair(word []byte, check int) bool {
	w := make([]int, len(word))
	for i, c := range word {
		w[i] = int(c)
	}
	if err := reedsolomon.NewReedSolomonDecoder(code()).Decode(w, check); err != nil {
		return false
	}
	for i, c := range w {
		word[i] = byte(c)
	}
	return true
}

// coded finds coded frames in a stream. It holds at most the longest coded frame.
type coded struct {
	last uint32 // the last four bytes
	buf  []byte // behind a marker: head and blocks
	want int    // length of buf when it is complete; 0: no marker has been seen
	raw  int    // length of the frame inside
}

// feed takes one byte. hide: it belongs to the blocks of a coded frame, and is of no use to others. begin: such blocks begin behind it.
// The frame is complete when it is given; it is valid until the next call.
func (d *coded) feed(c byte) (hide, begin bool, frame []byte) {
	if d.want == 0 {
		if d.last = d.last<<8 | uint32(c); bits.OnesCount32(d.last^marker) <= markerErrors {
			d.buf, d.want, d.raw, d.last = d.buf[:0], headSize, 0, 0
		}
		return false, false, nil
	}
	hide = d.raw > 0
	if d.buf = append(d.buf, c); len(d.buf) < d.want {
		return hide, false, nil
	}
	if d.raw == 0 {
		return false, d.head(), nil
	}
	frame = d.body()
	d.want, d.last = 0, 0
	return hide, false, frame
}

// head reads the length. If that was no head, a marker may stand in it.
func (d *coded) head() bool {
	var word [headSize]byte
	copy(word[:], d.buf)
	if repair(word[:], headSize-headData) {
		if n := int(word[0])<<8 | int(word[1]); n >= 2+TagSize && n <= MaxRaw {
			d.raw, d.want, d.buf = n, codedLen(n)-codedSize, d.buf[:0]
			return true
		}
	}
	missed := d.buf
	d.want, d.buf = 0, nil
	for _, c := range missed {
		d.feed(c) // shorter than a head and a marker: it cannot complete anything
	}
	return false
}

// body takes the blocks apart; nil: too much is wrong.
func (d *coded) body() []byte {
	check, blocks := checks(d.raw)
	size := len(d.buf) / blocks
	out := make([]byte, 0, len(d.buf))
	word := make([]byte, size)
	for b := range blocks {
		for i := range word {
			word[i] = d.buf[i*blocks+b]
		}
		if !repair(word, check) {
			return nil
		}
		out = append(out, word[:size-check]...)
	}
	return out[:d.raw]
}
