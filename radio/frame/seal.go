// SPDX-License-Identifier: EUPL-1.2

package frame

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20"
)

// ErrTag says that a frame's tag does not fit: damaged on the way, of another epoch, or forged.
var ErrTag = errors.New("frame tag does not fit")

// Context is what both ends know and no frame carries: the epoch each end drew for this contact.
type Context struct{ Sender, Receiver uint32 }

// Key protects frames of one direction. It is immutable.
type Key struct {
	encrypt, mac [32]byte
	open         bool // frames are authenticated only
}

// KeySize is the length of the secret a Key is made from.
const KeySize = 32

// NewKey derives the two keys of a direction from one 32-byte secret.
func NewKey(secret []byte) (*Key, error) { return newKey(secret, false) }

// NewOpenKey is a key whose frames carry a tag that only its holders can make, and bodies that everybody can read: for amateur radio.
// It takes no frame of a key that encrypts.
func NewOpenKey(secret []byte) (*Key, error) { return newKey(secret, true) }

func newKey(secret []byte, open bool) (*Key, error) {
	if len(secret) != KeySize {
		return nil, fmt.Errorf("frame key of %d bytes, want %d", len(secret), KeySize)
	}
	k := &Key{open: open}
	tagLabel := "hallig frame tag"
	if open {
		tagLabel = "hallig open frame tag"
	}
	for _, d := range []struct {
		to    *[32]byte
		label string
	}{{&k.encrypt, "hallig frame body"}, {&k.mac, tagLabel}} {
		h, err := blake2s.New256(secret)
		if err != nil {
			return nil, fmt.Errorf("derive frame key: %w", err)
		}
		h.Write([]byte(d.label))
		h.Sum(d.to[:0])
	}
	return k, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Seal appends the frame with its tag. With a key the body is encrypted (with an open key it is not) and the keyed bit set.
func Seal(dst []byte, f *Frame, c Context, k *Key) []byte {
	g := *f
	g.Keyed = k != nil && f.Type != Hello
	start := len(dst)
	dst = g.Append(dst)
	if g.Keyed {
		crypt(dst[len(dst)-len(g.cipherBody()):], &g, c, k)
	} else {
		k = nil
	}
	t := tag(dst[start:], &g, c, k)
	return append(dst, t[:]...)
}

// Open checks the tag of raw, which Parse took apart into f and whose numbers the caller has widened, and decrypts the
// body in place. k may be nil for frames without the keyed bit.
func Open(raw []byte, f *Frame, c Context, k *Key) error {
	if f.Keyed && k == nil {
		return fmt.Errorf("no key: %w", ErrTag)
	}
	if !f.Keyed {
		k = nil
	}
	t := tag(raw[:len(raw)-TagSize], f, c, k)
	if subtle.ConstantTimeCompare(t[:], raw[len(raw)-TagSize:]) != 1 {
		return ErrTag
	}
	if f.Keyed {
		crypt(f.cipherBody(), f, c, k)
	}
	return nil
}

func (f *Frame) cipherBody() []byte {
	if f.Type == Data || f.Type == Whole {
		return f.Body
	}
	return nil
}

func crypt(b []byte, f *Frame, c Context, k *Key) {
	if len(b) == 0 || k.open {
		return
	}
	var nonce [chacha20.NonceSize]byte
	binary.LittleEndian.PutUint32(nonce[0:], c.Sender)
	binary.LittleEndian.PutUint32(nonce[4:], c.Receiver)
	binary.LittleEndian.PutUint32(nonce[8:], f.Seq)
	s, err := chacha20.NewUnauthenticatedCipher(k.encrypt[:], nonce[:])
	if err != nil {
		panic("chacha20 refused a key and nonce of the right size: " + err.Error())
	}
	s.XORKeyStream(b, b)
}

func tag(b []byte, f *Frame, c Context, k *Key) (t [TagSize]byte) {
	var pre [16]byte
	if f.Type != Hello {
		binary.LittleEndian.PutUint32(pre[0:], c.Sender)
		binary.LittleEndian.PutUint32(pre[4:], c.Receiver)
	}
	if f.Type == Data || f.Type == Whole {
		binary.LittleEndian.PutUint32(pre[8:], f.Seq)
	}
	if f.Ack {
		binary.LittleEndian.PutUint32(pre[12:], f.Next)
	}
	if k == nil {
		crc := crc32.Update(crc32.Update(0, castagnoli, pre[:]), castagnoli, b)
		binary.LittleEndian.PutUint32(t[:], crc)
		return t
	}
	h, err := blake2s.New128(k.mac[:])
	if err != nil {
		panic("blake2s refused a key of the right size: " + err.Error())
	}
	h.Write(pre[:])
	h.Write(b)
	copy(t[:], h.Sum(nil))
	return t
}
