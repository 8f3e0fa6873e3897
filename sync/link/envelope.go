// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"hallig/sync/parcel"
)

// The envelope of a broadcast: signature of the box key over context, key number, number and message, then the message; both encrypted with AES-256-GCM
// (nonce: the number, which is never used twice under a key) unless the key number is 0.

type castKey struct {
	id  uint32
	key [32]byte
}

// castContext binds a signature to what it is for.
const castContext = "hallig broadcast 1"

var (
	errCastKey  = errors.New("its key is not known here")
	errCastSign = errors.New("it is not signed by the box that it came from")
)

func castSigned(key, number uint32, inner []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte(castContext), key)
	return append(binary.BigEndian.AppendUint32(b, number), inner...)
}

func (k castKey) aead(number uint32) (aead cipher.AEAD, nonce, more []byte, err error) {
	block, err := aes.NewCipher(k.key[:])
	if err != nil {
		return nil, nil, nil, err
	}
	if aead, err = cipher.NewGCM(block); err != nil {
		return nil, nil, nil, err
	}
	nonce = make([]byte, aead.NonceSize())
	binary.BigEndian.PutUint32(nonce[len(nonce)-4:], number)
	return aead, nonce, binary.BigEndian.AppendUint32(nil, k.id), nil
}

// sealCast signs a message, and encrypts it unless the key's number is 0.
func sealCast(box ed25519.PrivateKey, k castKey, number uint32, inner []byte) ([]byte, error) {
	body := append(ed25519.Sign(box, castSigned(k.id, number, inner)), inner...)
	if k.id == 0 {
		return body, nil
	}
	aead, nonce, more, err := k.aead(number)
	if err != nil {
		return nil, fmt.Errorf("encrypt broadcast: %w", err)
	}
	return aead.Seal(nil, nonce, body, more), nil
}

// openCast decrypts a broadcast with one of a box's keys and checks that the box has signed it.
func openCast(box ed25519.PublicKey, keys []castKey, b *parcel.Broadcast) ([]byte, error) {
	body := b.Body
	if b.Key != 0 {
		i := slices.IndexFunc(keys, func(k castKey) bool { return k.id == b.Key })
		if i < 0 {
			return nil, errCastKey
		}
		aead, nonce, more, err := keys[i].aead(b.Number)
		if err != nil {
			return nil, err
		}
		if body, err = aead.Open(nil, nonce, body, more); err != nil {
			return nil, fmt.Errorf("decrypt: %w", err)
		}
	}
	if len(body) < ed25519.SignatureSize || len(box) != ed25519.PublicKeySize {
		return nil, errCastSign
	}
	sig, inner := body[:ed25519.SignatureSize], body[ed25519.SignatureSize:]
	if !ed25519.Verify(box, castSigned(b.Key, b.Number, inner), sig) {
		return nil, errCastSign
	}
	return inner, nil
}
