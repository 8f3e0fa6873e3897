// SPDX-License-Identifier: EUPL-1.2

// Package frame is the bytes of a radio link on the wire: framing (COBS or KISS), headers, tags, encryption of bodies.
// It is pure: values in, values out; numbers, keys and epochs are arguments. What frames mean is radio/arq's matter.
//
// A frame, before framing:
//
//	byte 0   type:2  poll:1  ack:1  keyed:1  more:1  priority:2 (its upper bits)
//	data, whole:   seq:8   priority:1 (its lowest bit)  end:1  after:6   [next:8  heard:1  n:7  bitmap:n bytes, when ack]  body
//	control:       next:8  bitmap to the end; instead of the priority: odd:1  heard:1; without poll, odd says that data follow
//	hello:         body
//	tag      4 bytes over the context and all of the above
//
// With poll, end has no meaning of its own: there it says odd.
//
// The context is never sent: both epochs and the full 32-bit numbers behind seq and next. So a frame of another epoch,
// an echo of our own, or an old frame whose short number has come round again carries a wrong tag. The tag is CRC-32C,
// or, when the keyed bit is set, a BLAKE2s MAC cut to 4 bytes over the body, encrypted unless the key is an open one (ChaCha20; nonce = epochs, seq;
// a number always carries the same body, so a repetition shows nothing new). Framing adds 2 bytes: 9 in all for data,
// 8 for a bare acknowledgement.
package frame

import (
	"errors"
	"fmt"
	"math/bits"
)

// Type of a frame.
type Type uint8

const (
	Hello   Type = iota // contact: epochs and versions, always under CRC and a zero context
	Data                // records: pieces of messages of one priority
	Whole               // one whole message, without a record header
	Control             // acknowledgement, or a question for one
)

const (
	// TagSize is the length of the tag at the end of every frame.
	TagSize = 4
	// HeaderSize is the length of the header of data frames without acknowledgement.
	HeaderSize = 3
	// MaxAckSize is the most an acknowledgement adds to a data frame.
	MaxAckSize = 2 + 8
	// MaxBody is the longest body.
	MaxBody = 1024
	// MaxRaw is the longest frame before framing; longer ones are refused.
	MaxRaw = HeaderSize + MaxAckSize + MaxBody + TagSize
	// Priorities is the number of priorities: 0 flash ... 4 bulk.
	Priorities = 5
	// MaxAfter is the largest value of After.
	MaxAfter = 63
)

// ErrMalformed is wrapped by the errors of Parse.
var ErrMalformed = errors.New("malformed frame")

// Frame is one frame in parts. Seq and Next hold 32-bit numbers; only their low 8 bits travel, so Parse fills in those
// and the caller widens them before Open.
type Frame struct {
	Type  Type
	Poll  bool // the sender asks for an answer
	Odd   bool // with Poll: this question bears the number 1, otherwise 0; control without Poll: data of this transmission follow
	Keyed bool // tag is a MAC, body is encrypted
	More  bool // the sender has more to send after this transmission

	Priority uint8  // data, whole
	After    uint8  // data, whole: the frame Seq-After of the same priority must be delivered first; 0: none
	Seq      uint32 // data, whole
	End      bool   // data, whole: the transmission ends here and asks for nothing

	Ack    bool   // an acknowledgement rides along (always in control frames)
	Next   uint32 // all numbers before it have arrived
	Bitmap uint64 // bit i: number Next+1+i has arrived
	Heard  bool   // Odd of the last question that had been heard

	Body []byte
}

// Append appends the frame without its tag. It panics on fields out of range, which are our own mistake.
func (f *Frame) Append(dst []byte) []byte {
	if f.Priority >= Priorities || f.After > MaxAfter || len(f.Body) > MaxBody {
		panic(fmt.Sprintf("frame out of range: priority %d, after %d, body %d", f.Priority, f.After, len(f.Body)))
	}
	odd := (f.Poll || f.Type == Control) && f.Odd
	b0 := byte(f.Type)<<6 | bit(f.Poll)<<5 | bit(f.Ack)<<4 | bit(f.Keyed)<<3 | bit(f.More)<<2
	switch f.Type {
	case Hello:
		return append(append(dst, b0), f.Body...)
	case Control:
		dst = append(dst, b0|1<<4|bit(odd)<<1|bit(f.Heard), byte(f.Next))
		return appendBitmap(dst, f.Bitmap)
	}
	dst = append(dst, b0|f.Priority>>1, byte(f.Seq), f.Priority&1<<7|bit(f.End && !f.Poll || odd)<<6|f.After)
	if f.Ack {
		dst = append(dst, byte(f.Next), bit(f.Heard)<<7|byte(bitmapSize(f.Bitmap)))
		dst = appendBitmap(dst, f.Bitmap)
	}
	return append(dst, f.Body...)
}

// Parse takes a frame with its tag apart; the tag is checked by Open. Body points into raw.
func Parse(raw []byte) (Frame, error) {
	if len(raw) < 2+TagSize || len(raw) > MaxRaw {
		return Frame{}, fmt.Errorf("length %d: %w", len(raw), ErrMalformed)
	}
	b, rest := raw[0], raw[1:len(raw)-TagSize]
	f := Frame{Type: Type(b >> 6), Poll: b&(1<<5) != 0, Ack: b&(1<<4) != 0, Keyed: b&(1<<3) != 0, More: b&(1<<2) != 0}
	switch f.Type {
	case Hello:
		if b&0b11011011 != 0 {
			return Frame{}, fmt.Errorf("hello flags %08b: %w", b, ErrMalformed)
		}
		f.Body = rest
		return f, nil
	case Control:
		if !f.Ack || len(rest) > 9 {
			return Frame{}, fmt.Errorf("control frame %08b of %d bytes: %w", b, len(raw), ErrMalformed)
		}
		f.Odd, f.Heard, f.Next = b&2 != 0, b&1 != 0, uint32(rest[0])
		var err error
		f.Bitmap, err = parseBitmap(rest[1:])
		return f, err
	}
	if len(rest) < 2 {
		return Frame{}, fmt.Errorf("data header: %w", ErrMalformed)
	}
	f.Seq, f.Priority, f.After = uint32(rest[0]), b&3<<1|rest[1]>>7, rest[1]&MaxAfter
	if mark := rest[1]&0x40 != 0; f.Poll {
		f.Odd = mark
	} else {
		f.End = mark
	}
	if f.Priority >= Priorities {
		return Frame{}, fmt.Errorf("priority %d: %w", f.Priority, ErrMalformed)
	}
	rest = rest[2:]
	if f.Ack {
		if len(rest) < 2 || rest[1]&0x7F > 8 || len(rest) < 2+int(rest[1]&0x7F) {
			return Frame{}, fmt.Errorf("acknowledgement: %w", ErrMalformed)
		}
		n := int(rest[1] & 0x7F)
		f.Heard, f.Next = rest[1]&0x80 != 0, uint32(rest[0])
		var err error
		if f.Bitmap, err = parseBitmap(rest[2 : 2+n]); err != nil {
			return Frame{}, err
		}
		rest = rest[2+n:]
	}
	if len(rest) > MaxBody {
		return Frame{}, fmt.Errorf("body of %d bytes: %w", len(rest), ErrMalformed)
	}
	f.Body = rest
	return f, nil
}

// AckSize is what the acknowledgement adds to a data frame.
func AckSize(bitmap uint64) int { return 2 + bitmapSize(bitmap) }

func bitmapSize(m uint64) int { return (bits.Len64(m) + 7) / 8 }

func appendBitmap(dst []byte, m uint64) []byte {
	for ; m != 0; m >>= 8 {
		dst = append(dst, byte(m))
	}
	return dst
}

// parseBitmap takes only the shortest form, so that every frame has one encoding.
func parseBitmap(b []byte) (m uint64, err error) {
	if n := len(b); n > 0 && b[n-1] == 0 {
		return 0, fmt.Errorf("bitmap ends in zero: %w", ErrMalformed)
	}
	for i, c := range b {
		m |= uint64(c) << (8 * i)
	}
	return m, nil
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}
