// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/flynn/noise"
	"golang.org/x/crypto/curve25519"
)

// Keys are the two frame keys that a handshake leaves, as 32 secret bytes each. What is Send here is Receive there.
type Keys struct {
	Send, Receive [32]byte
}

// Handshake is one run of Noise_KK_25519_ChaChaPoly_BLAKE2s between two paired boxes on a link that protects nothing.
// Each side knows the other's box key beforehand, so two messages suffice:
//
//	initiator (the one Initiates names) -> 48 bytes + payload
//	responder                           -> 48 bytes + payload; the responder has keys after Write, the initiator after Read
//
// The first payload may be replayed by a listener and is readable to whoever steals the responder's key later; put
// nothing in it that must not be. A failed Read leaves the handshake as it was: noise on the line cannot spoil it.
type Handshake struct {
	state *noise.HandshakeState
	keys  *Keys
	first bool
}

var kkSuite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)

// NewHandshake starts a run. self is this box's key, far the other's, context whatever both sides must agree on
// besides (the kind of link, the protocol's version); random feeds the ephemeral key.
func NewHandshake(initiator bool, self ed25519.PrivateKey, far ed25519.PublicKey, context []byte, random io.Reader) (*Handshake, error) {
	if len(self) != ed25519.PrivateKeySize {
		return nil, errors.New("start handshake: not an Ed25519 private key")
	}
	static, err := dhPrivate(self)
	if err != nil {
		return nil, fmt.Errorf("start handshake: %w", err)
	}
	remote, err := dhPublic(far)
	if err != nil {
		return nil, fmt.Errorf("start handshake: %w", err)
	}
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite:   kkSuite,
		Random:        random,
		Pattern:       noise.HandshakeKK,
		Initiator:     initiator,
		Prologue:      append([]byte("hallig link 1\x00"), context...),
		StaticKeypair: static,
		PeerStatic:    remote,
	})
	if err != nil {
		return nil, fmt.Errorf("start handshake: %w", err)
	}
	return &Handshake{state: state, first: initiator}, nil
}

// Write gives this side's message with a payload (may be empty).
func (h *Handshake) Write(payload []byte) ([]byte, error) {
	msg, out, in, err := h.state.WriteMessage(nil, payload)
	if err != nil {
		return nil, fmt.Errorf("write handshake: %w", err)
	}
	h.finish(out, in)
	return msg, nil
}

// Read takes the other side's message and gives its payload.
func (h *Handshake) Read(msg []byte) ([]byte, error) {
	payload, out, in, err := h.state.ReadMessage(nil, msg)
	if err != nil {
		return nil, fmt.Errorf("read handshake: %w", err)
	}
	h.finish(out, in)
	return payload, nil
}

// finish keeps the keys; Split gives the initiator's sending key first, on both sides.
func (h *Handshake) finish(fromInitiator, fromResponder *noise.CipherState) {
	if fromInitiator == nil || fromResponder == nil {
		return
	}
	a, b := fromInitiator.UnsafeKey(), fromResponder.UnsafeKey()
	if h.first {
		h.keys = &Keys{Send: a, Receive: b}
	} else {
		h.keys = &Keys{Send: b, Receive: a}
	}
}

// Keys gives the frame keys once both messages have passed.
func (h *Handshake) Keys() (Keys, bool) {
	if h.keys == nil {
		return Keys{}, false
	}
	return *h.keys, true
}

// dhPrivate derives the X25519 key of a box from its Ed25519 key: the same scalar serves both curves' forms.
// https://www.rfc-editor.org/rfc/rfc8032#section-5.1.5
func dhPrivate(box ed25519.PrivateKey) (noise.DHKey, error) {
	h := sha512.Sum512(box.Seed())
	private := h[:32]
	public, err := curve25519.X25519(private, curve25519.Basepoint)
	if err != nil {
		return noise.DHKey{}, fmt.Errorf("derive X25519 key: %w", err)
	}
	return noise.DHKey{Private: private, Public: public}, nil
}

// dhPublic maps an Ed25519 public key to the X25519 one: u = (1+y)/(1-y). Public data, so plain big integers do.
// https://www.rfc-editor.org/rfc/rfc7748#section-4.1
func dhPublic(box ed25519.PublicKey) ([]byte, error) {
	if len(box) != ed25519.PublicKeySize {
		return nil, errors.New("not an Ed25519 public key")
	}
	p := fieldPrime()
	y := littleEndian(box, true)
	if y.Cmp(p) >= 0 {
		return nil, errors.New("the Ed25519 key is not in its short form")
	}
	one := big.NewInt(1)
	den := new(big.Int).Sub(one, y)
	den.Mod(den, p)
	if den.Sign() == 0 {
		return nil, errors.New("the Ed25519 key is the neutral point")
	}
	u := new(big.Int).Add(one, y)
	u.Mul(u, den.ModInverse(den, p)).Mod(u, p)
	return fieldBytes(u), nil
}

// fieldPrime is 2^255 - 19.
func fieldPrime() *big.Int {
	p := new(big.Int).Lsh(big.NewInt(1), 255)
	return p.Sub(p, big.NewInt(19))
}

// littleEndian reads 32 bytes; the top bit is dropped where it carries something else (the sign of x).
func littleEndian(b []byte, dropTop bool) *big.Int {
	var be [32]byte
	for i := range be {
		be[31-i] = b[i]
	}
	if dropTop {
		be[0] &= 0x7f
	}
	return new(big.Int).SetBytes(be[:])
}

func fieldBytes(u *big.Int) []byte {
	var le [32]byte
	u.FillBytes(le[:])
	for i := range 16 {
		le[i], le[31-i] = le[31-i], le[i]
	}
	return le[:]
}
