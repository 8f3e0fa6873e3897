// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Running is the system that is asked to take an update.
type Running struct {
	Board   string
	Version string
	Release int64
	Keys    Keys
}

// head is what stands before the parts.
type head struct {
	Manifest
	raw  []byte // the manifest as it was signed
	sigs []signature
	all  []byte // the head's own bytes
}

var (
	errNotOurs = refuse("Das ist keine Update-Datei für Hallig. Sie erkennen eine an der Endung .hallig-update.",
		"This is not an update file for Hallig. One ends in .hallig-update.")
	errDamaged = refuse("Die Update-Datei ist beschädigt oder unvollständig. Kopieren oder laden Sie sie noch einmal.",
		"The update file is damaged or incomplete. Copy or download it again.")
)

// hashing sums up what is read.
type hashing struct {
	r   io.Reader
	sum hash.Hash
}

func newHashing(r io.Reader) *hashing { return &hashing{r, sha512.New()} }

// read fills b, and counts it in the sum.
func (h *hashing) read(b []byte) error {
	if _, err := io.ReadFull(h.r, b); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return errDamaged
		}
		return fmt.Errorf("read update file: %w", err)
	}
	h.sum.Write(b)
	return nil
}

func (h *hashing) word() (uint32, error) {
	var b [4]byte
	err := h.read(b[:])
	return binary.LittleEndian.Uint32(b[:]), err
}

// readHead reads and bounds the head. It does not look at who signed.
func readHead(in *hashing) (*head, error) {
	start := make([]byte, len(magic))
	if err := in.read(start); err != nil || string(start) != magic {
		if err != nil && !errors.Is(err, errDamaged) {
			return nil, err
		}
		return nil, errNotOurs
	}
	h := &head{all: start}
	list := []byte(nil)
	for _, to := range []*[]byte{&h.raw, &list} {
		n, err := in.word()
		if err != nil {
			return nil, err
		}
		if int64(n) > int64(MaxHead-len(h.all)-4) {
			return nil, errDamaged
		}
		*to = make([]byte, n)
		if err := in.read(*to); err != nil {
			return nil, err
		}
		h.all = binary.LittleEndian.AppendUint32(h.all, n)
		h.all = append(h.all, *to...)
	}
	if err := json.Unmarshal(h.raw, &h.Manifest); err != nil {
		return nil, errDamaged
	}
	if err := json.Unmarshal(list, &h.sigs); err != nil {
		return nil, errDamaged
	}
	if err := h.check(); err != nil {
		return nil, refuse("Diese Update-Datei kann diese Box nicht lesen ("+err.Error()+").", "This box cannot read this update file ("+err.Error()+").")
	}
	return h, nil
}

// Reader reads an update file from its start to its end, without seeking.
type Reader struct {
	in   *hashing
	head *head
	dec  *zstd.Decoder
	done bool
}

// Open reads the head of an update file and decides whether the running system may take it: enough signatures, the same board, a newer
// release. The error is a *Refusal when people can do something about it.
func Open(r io.Reader, now Running) (*Reader, error) {
	in := newHashing(r)
	h, err := readHead(in)
	if err != nil {
		return nil, err
	}
	if err := now.Keys.verify(h.raw, h.sigs); err != nil {
		return nil, err
	}
	switch {
	case h.Board != now.Board:
		return nil, refuse(fmt.Sprintf("Diese Update-Datei ist für %s, diese Box ist %s. Nehmen Sie die Datei hallig-%s.hallig-update.", h.Board, now.Board, now.Board),
			fmt.Sprintf("This update file is for %s, and this box is %s. Take the file hallig-%s.hallig-update.", h.Board, now.Board, now.Board))
	case h.Release < now.Release:
		return nil, refuse(fmt.Sprintf("Diese Update-Datei (%s) ist älter als das laufende System (%s) und wird nicht installiert. Zurück zum vorigen System geht es mit „Zurück“.", h.Version, now.Version),
			fmt.Sprintf("This update file (%s) is older than the running system (%s) and is not installed. The way back to the system before is the act called \"back\".", h.Version, now.Version))
	case h.Release == now.Release:
		return nil, refuse(fmt.Sprintf("Auf dieser Box läuft %s schon.", now.Version), fmt.Sprintf("This box already runs %s.", now.Version))
	}
	return newReader(in, h)
}

func newReader(in *hashing, h *head) (*Reader, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(BlockSize), zstd.WithDecoderMaxWindow(BlockSize), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("update file: %w", err)
	}
	return &Reader{in: in, head: h, dec: dec}, nil
}

// Close lets go of the decoder.
func (r *Reader) Close() { r.dec.Close() }

// Manifest is what the file says it holds. After Open it is signed.
func (r *Reader) Manifest() Manifest { return r.head.Manifest }

// Each hands every block of every part to f once it is held against its hash; offset counts within the part. The block is valid until f returns.
// When Each returns nil the file was whole, to its last byte, and nothing follows it.
func (r *Reader) Each(f func(p Part, offset int64, block []byte) error) error {
	if r.done {
		return errors.New("update file: read twice")
	}
	r.done = true
	packed, plain := make([]byte, BlockSize), make([]byte, 0, BlockSize)
	for _, p := range r.head.Parts {
		for i := range p.blocks() {
			block, err := r.block(p.blockLen(i), packed, plain)
			if err != nil {
				return err
			}
			if err := checkBlock(p, i, block); err != nil {
				return err
			}
			if err := f(p, i*BlockSize, block); err != nil {
				return err
			}
		}
	}
	return r.end()
}

func (r *Reader) block(size int64, packed, plain []byte) ([]byte, error) {
	word, err := r.in.word()
	if err != nil {
		return nil, err
	}
	n := int64(word &^ storedBit)
	stored := word&storedBit != 0
	if n > size || stored && n != size {
		return nil, errDamaged
	}
	b := packed[:n]
	if err := r.in.read(b); err != nil {
		return nil, err
	}
	if stored {
		return b, nil
	}
	out, err := r.dec.DecodeAll(b, plain[:0:size])
	if err != nil || int64(len(out)) != size {
		return nil, errDamaged
	}
	return out, nil
}

func checkBlock(p Part, i int64, b []byte) error {
	if sum := sha512.Sum512(b); !bytes.Equal(sum[:], p.blockSum(i)) {
		return errDamaged
	}
	return nil
}

// end demands the sum of everything, and then nothing.
func (r *Reader) end() error {
	want := r.in.sum.Sum(nil)
	var got [hashSize]byte
	if err := r.in.read(got[:]); err != nil {
		return err
	}
	if !bytes.Equal(got[:], want) {
		return errDamaged
	}
	switch n, err := io.ReadFull(r.in.r, got[:1]); {
	case n > 0:
		return errDamaged
	case err != io.EOF:
		return fmt.Errorf("read update file: %w", err)
	}
	return nil
}

// Verify reads a whole update file and says what is in it.
func Verify(r io.Reader, now Running) (Manifest, error) {
	rd, err := Open(r, now)
	if err != nil {
		return Manifest{}, err
	}
	defer rd.Close()
	return rd.Manifest(), rd.Each(func(Part, int64, []byte) error { return nil })
}

// Inspect reads a whole update file without asking who signed it, and lists the keys that did. For people who release.
func Inspect(r io.Reader) (Manifest, []PublicKey, error) {
	in := newHashing(r)
	h, err := readHead(in)
	if err != nil {
		return Manifest{}, nil, err
	}
	var by []PublicKey
	for _, s := range h.sigs {
		k := PublicKey{Key: s.Key}
		if (Keys{Threshold: 1, Keys: []PublicKey{k}}).verify(h.raw, []signature{s}) == nil {
			by = append(by, k)
		}
	}
	rd, err := newReader(in, h)
	if err != nil {
		return Manifest{}, nil, err
	}
	defer rd.Close()
	return h.Manifest, by, rd.Each(func(Part, int64, []byte) error { return nil })
}

// Head reads the head of an update file: what tools/pack puts into the manifest file of the slot that a fresh image has.
func Head(r io.Reader) ([]byte, Manifest, error) {
	h, err := readHead(newHashing(r))
	if err != nil {
		return nil, Manifest{}, err
	}
	return h.all, h.Manifest, nil
}
