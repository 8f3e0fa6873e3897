// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
)

const storedBit = 1 << 31

// Source is where Write takes one part from.
type Source struct {
	File string // as in Part
	Slot Slot   // as in Part
	Data io.ReaderAt
	Size int64
}

// Write makes an update file. It reads each source twice: once for the hashes, which go into the manifest, once for the bytes. m.Parts is
// filled in. The same sources, manifest and keys give the same bytes.
func Write(w io.Writer, m Manifest, sources []Source, keys ...PrivateKey) (Manifest, error) {
	return write(w, zstd.SpeedBetterCompression, m, sources, keys)
}

func write(w io.Writer, level zstd.EncoderLevel, m Manifest, sources []Source, keys []PrivateKey) (Manifest, error) {
	m.Parts = nil
	for _, s := range sources {
		p, err := measure(s)
		if err != nil {
			return m, fmt.Errorf("update file: read %s: %w", s.File, err)
		}
		m.Parts = append(m.Parts, p)
	}
	head, err := newHead(m, keys)
	if err != nil {
		return m, fmt.Errorf("update file: %w", err)
	}
	out, err := newStream(w, level)
	if err != nil {
		return m, err
	}
	defer out.close()
	if err := out.write(head); err != nil {
		return m, err
	}
	buf := make([]byte, BlockSize)
	for i, s := range sources {
		if err := out.part(m.Parts[i], s.Data, buf); err != nil {
			return m, fmt.Errorf("update file: %s: %w", s.File, err)
		}
	}
	return m, out.end()
}

func measure(s Source) (Part, error) {
	p := Part{File: s.File, Slot: s.Slot, Size: s.Size}
	whole, buf := sha512.New(), make([]byte, BlockSize)
	for i := range p.blocks() {
		b := buf[:p.blockLen(i)]
		if err := readFull(s.Data, b, i*BlockSize); err != nil {
			return p, err
		}
		whole.Write(b)
		sum := sha512.Sum512(b)
		p.Blocks = append(p.Blocks, sum[:]...)
	}
	p.SHA512 = hex.EncodeToString(whole.Sum(nil))
	return p, nil
}

// readFull is ReadAt without the end of file that comes with the last byte.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// newHead is the magic, the manifest and its signatures.
func newHead(m Manifest, keys []PrivateKey) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	sigs := make([]signature, 0, len(keys))
	for _, k := range keys {
		sigs = append(sigs, signature{Key: k.Public().Key, Sig: k.Sign(signed(raw))})
	}
	return packHead(raw, sigs)
}

func packHead(manifest []byte, sigs []signature) ([]byte, error) {
	list, err := json.Marshal(sigs)
	if err != nil {
		return nil, fmt.Errorf("signatures: %w", err)
	}
	head := binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(manifest)))
	head = append(head, manifest...)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(list)))
	head = append(head, list...)
	if len(head) > MaxHead {
		return nil, fmt.Errorf("manifest and signatures have %d bytes, %d is the limit", len(head), MaxHead)
	}
	return head, nil
}

// stream writes the file's frames and sums them up.
type stream struct {
	w   io.Writer
	sum hash.Hash
	enc *zstd.Encoder
	buf []byte
}

func newStream(w io.Writer, level zstd.EncoderLevel) (*stream, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(BlockSize), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("update file: %w", err)
	}
	return &stream{w: w, sum: sha512.New(), enc: enc}, nil
}

func (s *stream) close() { s.enc.Close() } //nolint:errcheck // it writes to nowhere

func (s *stream) write(b []byte) error {
	s.sum.Write(b)
	if _, err := s.w.Write(b); err != nil {
		return fmt.Errorf("write update file: %w", err)
	}
	return nil
}

// part writes the blocks of one part, each held against its hash: bytes that changed meanwhile are not passed on.
func (s *stream) part(p Part, from io.ReaderAt, buf []byte) error {
	for i := range p.blocks() {
		b := buf[:p.blockLen(i)]
		if err := readFull(from, b, i*BlockSize); err != nil {
			return err
		}
		if err := checkBlock(p, i, b); err != nil {
			return err
		}
		if err := s.block(b); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) block(b []byte) error {
	s.buf = s.enc.EncodeAll(b, s.buf[:0])
	word, body := uint32(len(s.buf)), s.buf
	if len(s.buf) >= len(b) {
		word, body = uint32(len(b))|storedBit, b
	}
	if err := s.write(binary.LittleEndian.AppendUint32(nil, word)); err != nil {
		return err
	}
	return s.write(body)
}

func (s *stream) end() error { return s.write(s.sum.Sum(nil)) }

// Sign copies an update file and adds a signature, for systems that demand those of several people. The file must be whole.
func Sign(w io.Writer, r io.Reader, key PrivateKey) error {
	in := newHashing(r)
	h, err := readHead(in)
	if err != nil {
		return err
	}
	sigs := append(h.sigs, signature{Key: key.Public().Key, Sig: key.Sign(signed(h.raw))})
	head, err := packHead(h.raw, sigs)
	if err != nil {
		return err
	}
	out, err := newStream(w, zstd.SpeedBetterCompression)
	if err != nil {
		return err
	}
	defer out.close()
	if err := out.write(head); err != nil {
		return err
	}
	rd, err := newReader(in, h)
	if err != nil {
		return err
	}
	defer rd.Close()
	err = rd.Each(func(_ Part, _ int64, block []byte) error { return out.block(block) })
	if err != nil {
		return err
	}
	return out.end()
}
