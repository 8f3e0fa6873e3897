// SPDX-License-Identifier: EUPL-1.2

// Package cast cuts a message for several stations into frames of which any that are enough make it whole again: k pieces of the message, and as
// many pieces of parity (Reed-Solomon) as turn out to be needed. A receiver says how many it lacks, not which; one piece of parity mends another loss
// at each of them, so a message for n stations costs about as much air as one for the station that hears worst.
//
// It is pure: values in, values out. A piece, behind what the channel puts before it:
//
//	id 2, length of the message 2, number of this piece 1, CRC-32C of the message 4, piece
//
// All pieces of a message are equally long; k follows from both lengths. A Receiver holds one message under assembly and at most MaxMessage bytes.
package cast

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/reedsolomon"
)

const (
	// HeaderSize is the length of what stands before a piece.
	HeaderSize = 2 + 2 + 1 + 4
	// MaxMessage is the longest message.
	MaxMessage = 16 << 10
	// mostPieces bounds data and parity together (one byte numbers them).
	mostPieces = 255
	// mostData leaves as much again for parity.
	mostData = 128
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sender makes the pieces of one message.
type Sender struct {
	id     uint16
	length int
	sum    uint32
	k      int
	shards [][]byte
	next   int
}

// NewSender cuts a message into pieces of at most size bytes, header included.
func NewSender(id uint16, message []byte, size int) (*Sender, error) {
	piece := size - HeaderSize
	if len(message) == 0 || len(message) > MaxMessage || piece < 8 {
		return nil, fmt.Errorf("broadcast %d bytes in pieces of %d: out of range", len(message), size)
	}
	k := (len(message) + piece - 1) / piece
	if k > mostData {
		return nil, fmt.Errorf("broadcast %d bytes in pieces of %d: more than %d pieces", len(message), size, mostData)
	}
	piece = (len(message) + k - 1) / k
	s := &Sender{id: id, length: len(message), sum: crc32.Checksum(message, castagnoli), k: k}
	for i := range k {
		b := make([]byte, piece)
		copy(b, message[min(i*piece, len(message)):])
		s.shards = append(s.shards, b)
	}
	return s, nil
}

// Pieces is the number of pieces of the message itself.
func (s *Sender) Pieces() int { return s.k }

// Size is the length of each piece, header included.
func (s *Sender) Size() int { return HeaderSize + len(s.shards[0]) }

// Next gives the next piece: those of the message first, then parity; nil when there are no more.
func (s *Sender) Next() []byte {
	if s.next >= mostPieces {
		return nil
	}
	if s.next >= len(s.shards) && s.extend() != nil {
		return nil
	}
	b := binary.LittleEndian.AppendUint16(nil, s.id)
	b = binary.LittleEndian.AppendUint16(b, uint16(s.length-1))
	b = append(b, byte(s.next))
	b = binary.LittleEndian.AppendUint32(b, s.sum)
	b = append(b, s.shards[s.next]...)
	s.next++
	return b
}

// extend computes parity. The rows of the code do not depend on how many there are, as its matrix is made for all of them.
func (s *Sender) extend() error {
	code, err := coder(s.k)
	if err != nil {
		return err
	}
	all := make([][]byte, mostPieces)
	copy(all, s.shards[:s.k])
	for i := s.k; i < mostPieces; i++ {
		all[i] = make([]byte, len(s.shards[0]))
	}
	if err := code.Encode(all); err != nil {
		return fmt.Errorf("compute parity: %w", err)
	}
	s.shards = all
	return nil
}

// coder is the code for k pieces.
func coder(k int) (reedsolomon.Encoder, error) {
	c, err := reedsolomon.New(k, mostPieces-k, reedsolomon.WithMaxGoroutines(1), reedsolomon.WithInversionCache(false), reedsolomon.WithCauchyMatrix())
	if err != nil {
		return nil, fmt.Errorf("make code for %d pieces: %w", k, err)
	}
	return c, nil
}

// Piece is a piece taken apart.
type Piece struct {
	ID     uint16
	Length int
	Number int
	Sum    uint32
	Data   []byte
}

// ErrPiece says that bytes are no piece.
var ErrPiece = errors.New("no piece of a broadcast")

// Parse takes a piece apart. Data points into b.
func Parse(b []byte) (Piece, error) {
	if len(b) <= HeaderSize {
		return Piece{}, ErrPiece
	}
	p := Piece{ID: binary.LittleEndian.Uint16(b), Length: int(binary.LittleEndian.Uint16(b[2:])) + 1, Number: int(b[4]),
		Sum: binary.LittleEndian.Uint32(b[5:]), Data: b[HeaderSize:]}
	if p.Length > MaxMessage || p.k() > mostData || p.Number >= mostPieces || len(p.Data) > p.Length {
		return Piece{}, ErrPiece
	}
	return p, nil
}

func (p *Piece) k() int { return (p.Length + len(p.Data) - 1) / len(p.Data) }

// Receiver puts the messages of one sender together, the newest only.
type Receiver struct {
	first  Piece // of the message under assembly, without Data
	size   int
	shards [][]byte
	have   int
	k      int
	done   bool
}

// Take adds a piece and gives the message once, when it is whole.
func (r *Receiver) Take(p Piece) (message []byte) {
	if r.shards == nil || p.ID != r.first.ID || p.Sum != r.first.Sum || p.Length != r.first.Length || len(p.Data) != r.size {
		if r.shards != nil && p.ID == r.first.ID && p.Sum == r.first.Sum {
			return nil // the same message in other pieces: somebody's joke
		}
		*r = Receiver{first: Piece{ID: p.ID, Length: p.Length, Sum: p.Sum}, size: len(p.Data), k: p.k(), shards: make([][]byte, mostPieces)}
	}
	if r.done || r.shards[p.Number] != nil {
		return nil
	}
	r.shards[p.Number] = append([]byte(nil), p.Data...)
	if r.have++; r.have < r.k {
		return nil
	}
	if message = r.join(); message == nil {
		// A piece was forged: nobody knows which. Begin again.
		r.shards, r.have = make([][]byte, mostPieces), 0
		return nil
	}
	r.done = true
	clear(r.shards)
	return message
}

func (r *Receiver) join() []byte {
	whole := true
	for _, b := range r.shards[:r.k] {
		whole = whole && b != nil
	}
	if !whole {
		code, err := coder(r.k)
		if err != nil || code.ReconstructData(r.shards) != nil {
			return nil
		}
	}
	out := make([]byte, 0, r.k*r.size)
	for _, b := range r.shards[:r.k] {
		out = append(out, b...)
	}
	out = out[:r.first.Length]
	if crc32.Checksum(out, castagnoli) != r.first.Sum {
		return nil
	}
	return out
}

// Missing is how many pieces are lacking of a message; ok: it is the one under assembly.
func (r *Receiver) Missing(id uint16, sum uint32) (n int, ok bool) {
	if r.shards == nil || r.first.ID != id || r.first.Sum != sum {
		return 0, false
	}
	if r.done {
		return 0, true
	}
	return r.k - r.have, true
}
