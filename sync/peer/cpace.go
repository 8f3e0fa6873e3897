// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"

	"golang.org/x/crypto/curve25519"
)

// CPace with X25519 and SHA-512, initiator-responder setting: a key from a short secret without letting anybody try out
// secrets away from the two parties. One guess costs one exchange.
// https://datatracker.ietf.org/doc/draft-irtf-cfrg-cpace/
//
// The map to the curve uses big integers whose running time depends on the code. The code is used once, guesses are
// counted, and one such computation is over before a single reply leaves; what could leak there is not worth a field
// arithmetic of our own.

// share is one party's half.
type share struct {
	private []byte
	public  []byte
}

func newShare(generator []byte, random io.Reader) (share, error) {
	private := make([]byte, 32)
	if _, err := io.ReadFull(random, private); err != nil {
		return share{}, fmt.Errorf("draw key: %w", err)
	}
	public, err := curve25519.X25519(private, generator)
	if err != nil {
		return share{}, fmt.Errorf("make key share: %w", err)
	}
	return share{private, public}, nil
}

// cpaceGenerator derives the point that both parties start from.
func cpaceGenerator(secret, context, session []byte) []byte {
	const blockSize = 128 // of SHA-512
	dsi := []byte("CPace255")
	pad := max(0, blockSize-1-len(lv(nil, secret))-len(lv(nil, dsi)))
	s := lv(nil, dsi)
	s = lv(s, secret)
	s = lv(s, make([]byte, pad))
	s = lv(s, context)
	s = lv(s, session)
	h := sha512.Sum512(s)
	return elligator2(h[:32])
}

// cpaceKey is the shared key; both pass the same transcript: initiator's share first.
func cpaceKey(own share, far, session, initiator, initiatorData, responder, responderData []byte) ([]byte, error) {
	if len(far) != 32 {
		return nil, errors.New("key share has the wrong length")
	}
	k, err := curve25519.X25519(own.private, far) // refuses points of low order
	if err != nil {
		return nil, fmt.Errorf("join key shares: %w", err)
	}
	s := lv(nil, []byte("CPace255_ISK"))
	s = lv(s, session)
	s = lv(s, k)
	for _, part := range [][]byte{initiator, initiatorData, responder, responderData} {
		s = lv(s, part)
	}
	h := sha512.Sum512(s)
	return h[:], nil
}

// lv appends a byte string with its length in front.
func lv(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// elligator2 maps 32 bytes to the u coordinate of a point of curve25519.
// https://www.rfc-editor.org/rfc/rfc9380#section-6.7.1
func elligator2(b []byte) []byte {
	p := fieldPrime()
	a := big.NewInt(486662)
	u := littleEndian(b, true)
	u.Mod(u, p)
	den := new(big.Int).Mul(u, u)
	den.Lsh(den, 1).Add(den, big.NewInt(1)).Mod(den, p)
	if den.Sign() == 0 { // cannot be: -1/2 is no square; the standard asks for 1 then
		den.SetInt64(1)
	}
	v := new(big.Int).Neg(a)
	v.Mul(v, den.ModInverse(den, p)).Mod(v, p)
	// v^3 + A v^2 + v is a square for v itself or else for -v - A.
	w := new(big.Int).Add(v, a)
	w.Mul(w, v).Add(w, big.NewInt(1)).Mul(w, v).Mod(w, p)
	if big.Jacobi(w, p) < 0 {
		v.Neg(v).Sub(v, a).Mod(v, p)
	}
	return fieldBytes(v)
}
