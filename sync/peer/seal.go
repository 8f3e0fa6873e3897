// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"
)

// Seal is what two boxes share without ever having spoken: the secret that each gets from its own box key and the other's. What is
// sealed with it goes through strangers' hands; only the two can read it or can have made it.
//
// A sealed text costs 16 bytes. There is no ephemeral key in it (32 bytes more): whoever steals a box's key can read what was sealed
// for it before, as with any writing to a box that cannot answer, and reads it in the stolen box's database anyway.
//
// The key of a text follows from both boxes, the direction and the epoch, its nonce from the number. A number must never be used for
// two texts of one epoch; whoever draws a new random epoch at each start need not remember numbers.
type Seal struct {
	secret []byte
	self   ed25519.PublicKey
	far    ed25519.PublicKey
}

// SealOverhead is how much longer a sealed text is.
const SealOverhead = chacha20poly1305.Overhead

// NewSeal derives what this box shares with another one.
func NewSeal(self ed25519.PrivateKey, far ed25519.PublicKey) (*Seal, error) {
	if len(self) != ed25519.PrivateKeySize {
		return nil, errors.New("seal: not an Ed25519 private key")
	}
	static, err := dhPrivate(self)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	remote, err := dhPublic(far)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	shared, err := curve25519.X25519(static.Private, remote)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	secret, err := hkdf.Extract(sha256.New, shared, []byte("hallig sealed 1"))
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	public, _ := self.Public().(ed25519.PublicKey)
	return &Seal{secret: secret, self: public, far: far}, nil
}

func (s *Seal) cipher(from, to ed25519.PublicKey, epoch uint64) (cipher.AEAD, error) {
	info := string(binary.BigEndian.AppendUint64(append(append([]byte(nil), from...), to...), epoch))
	key, err := hkdf.Expand(sha256.New, s.secret, info, chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	return chacha20poly1305.New(key)
}

func sealNonce(seq uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, chacha20poly1305.NonceSize-8, chacha20poly1305.NonceSize), seq)
}

// Close seals a text for the far box. with is bound to it and travels beside it.
func (s *Seal) Close(epoch, seq uint64, with, text []byte) ([]byte, error) {
	c, err := s.cipher(s.self, s.far, epoch)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return c.Seal(nil, sealNonce(seq), text, with), nil
}

// Open reads what the far box has sealed for this one.
func (s *Seal) Open(epoch, seq uint64, with, sealed []byte) ([]byte, error) {
	c, err := s.cipher(s.far, s.self, epoch)
	if err != nil {
		return nil, fmt.Errorf("open sealed text: %w", err)
	}
	text, err := c.Open(nil, sealNonce(seq), sealed, with)
	if err != nil {
		return nil, fmt.Errorf("open sealed text: %w", err)
	}
	return text, nil
}
