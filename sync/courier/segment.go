// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// A segment before it is encrypted, integers big-endian or uvarints where no width is given:
//
//	magic kind(1) exporter(32) reader(32) epoch(4) serial after nonce(4) nonce(4) packed body, signature(64)
//
// The body, packed by parcel.Codec.Pack, is messages, each behind its length. The signature is the exporter's over a context string and all that precedes it.
const (
	segmentMagic   = "hallig segment 1\n"
	segmentContext = "hallig courier segment 1\x00"

	maxSegment = 8 << 20  // bytes of a segment's file
	maxBody    = 16 << 20 // bytes of the messages in one, unpacked
	fillTo     = 2 << 20  // bytes of messages at which a segment is closed
	maxCount   = 1 << 16  // messages in one: empty ones pack to nothing, and each takes memory when read
)

// The kinds of segments. Their numbers are format.
const (
	kindLetter byte = 1
	kindEvents byte = 2
	kindSheet  byte = 3
	kindSealed byte = 4
	kindMedia  byte = 5
	kindAsks   byte = 6
)

// segment is what one exporter has for one reader.
type segment struct {
	kind     byte
	exporter peer.ID
	reader   peer.ID
	epoch    uint32    // of the exporter's logs and EDUs
	serial   uint64    // of a letter: rises with each export
	after    uint64    // the EDUs follow this number
	nonce    [2]uint32 // of the session
	messages [][]byte
}

// seal makes the file of a segment.
func (s *segment) seal(codec *parcel.Codec, key ed25519.PrivateKey) ([]byte, error) {
	from, err1 := s.exporter.Key()
	to, err2 := s.reader.Key()
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("seal segment: %w", err)
	}
	var body []byte
	for _, m := range s.messages {
		body = append(binary.AppendUvarint(body, uint64(len(m))), m...)
	}
	b := append([]byte(segmentMagic), s.kind)
	b = append(append(b, from...), to...)
	b = binary.BigEndian.AppendUint32(b, s.epoch)
	b = binary.AppendUvarint(binary.AppendUvarint(b, s.serial), s.after)
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, s.nonce[0]), s.nonce[1])
	b = append(b, codec.Pack(body)...)
	b = append(b, ed25519.Sign(key, append([]byte(segmentContext), b...))...)
	return encrypt(b, to)
}

func encrypt(b []byte, to ed25519.PublicKey) ([]byte, error) {
	who, err := recipient(to)
	if err != nil {
		return nil, fmt.Errorf("seal segment: %w", err)
	}
	return encryptTo(b, who)
}

func encryptTo(b []byte, who ...age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(b) + len(b)/1000 + 512)
	w, err := age.Encrypt(&out, who...)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("seal segment: %w", err)
	}
	return out.Bytes(), nil
}

func decrypt(raw []byte, id age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(raw), id)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxSegment+1))
}

var (
	errNotOurs   = errors.New("it is not for this box, or was changed")
	errForged    = errors.New("its signature is not the exporter's")
	errMalformed = errors.New("it is malformed")
)

// unseal opens a segment for self that is said to be from.
func unseal(raw []byte, codec *parcel.Codec, id age.Identity, self, from peer.ID) (*segment, error) {
	b, err := decrypt(raw, id)
	if err != nil {
		return nil, errNotOurs
	}
	return parseSegment(b, codec, self, from)
}

// parseSegment reads a segment that was decrypted.
func parseSegment(b []byte, codec *parcel.Codec, self, from peer.ID) (*segment, error) {
	key, err := from.Key()
	if err != nil {
		return nil, errMalformed
	}
	cut := len(b) - ed25519.SignatureSize
	r := reader{b: b[:max(cut, 0)]}
	if string(r.take(len(segmentMagic))) != segmentMagic {
		return nil, errMalformed
	}
	s := &segment{kind: r.byte(), exporter: peer.IDOf(r.take(32)), reader: peer.IDOf(r.take(32)), epoch: r.uint32(), serial: r.uvarint(), after: r.uvarint()}
	s.nonce = [2]uint32{r.uint32(), r.uint32()}
	switch {
	case r.bad:
		return nil, errMalformed
	case s.exporter != from || !ed25519.Verify(key, append([]byte(segmentContext), b[:cut]...), b[cut:]):
		return nil, errForged
	case s.reader != self:
		return nil, errNotOurs
	}
	body, err := codec.Unpack(r.b, maxBody)
	if err != nil {
		return nil, errMalformed
	}
	r = reader{b: body}
	for len(r.b) > 0 && !r.bad && len(s.messages) < maxCount {
		s.messages = append(s.messages, r.block())
	}
	if r.bad || len(r.b) > 0 {
		return nil, errMalformed
	}
	return s, nil
}

// reader takes fields off the front; after the first that is not there, bad is set and zeros come.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return make([]byte, min(max(n, 0), 64))
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte     { return r.take(1)[0] }
func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) block() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}
