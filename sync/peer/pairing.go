// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// Pairing is five messages over a stream on which each side already knows the other's box key (libp2p proves it; on other
// links a Statement's key would take its place). The taker speaks first:
//
//	taker  -> nonce(16) share(32)
//	shower -> share(32) tag(32)            a try of the code is spent before this leaves
//	taker  -> its statement, sealed        only one who knows the code can seal it
//	shower -> its statement, sealed        the shower has stored the taker by now
//	taker  -> tag(32)                      the taker has stored the shower; the code is done
//
// The keys come from CPace over the code, bound to both box keys. If the line breaks before the last message, the same
// taker may run again with the same code.

// Self is this box as it introduces itself.
type Self struct {
	Box       ed25519.PrivateKey
	Statement []byte // State of Box
}

func (s Self) public() ed25519.PublicKey { return s.Box.Public().(ed25519.PublicKey) }

// Errors of pairing that a person should be told.
var (
	ErrNoCode    = errors.New("the other box shows no code")
	ErrCodeSpent = errors.New("the code has expired or was tried too often; show a new one")
	ErrWrongCode = errors.New("the code is not the one the other box shows")
)

// Offer is a code on show. It is not safe for concurrent use. Times are on any monotonic clock of the caller's, always
// the same one: a wall clock may jump.
type Offer struct {
	Code  Code
	until time.Duration
	tries int
	taker ed25519.PublicKey // the one that gave the right code
	done  bool
}

// MaxTries is how often a code may be tried before it is void.
const MaxTries = 5

// NewOffer shows a new code for a time.
func NewOffer(box ed25519.PublicKey, now, lifetime time.Duration, random io.Reader) (*Offer, error) {
	code, err := NewCode(box, random)
	if err != nil {
		return nil, err
	}
	return &Offer{Code: code, until: now + lifetime, tries: MaxTries}, nil
}

// Open says whether the code can still be taken.
func (o *Offer) Open(now time.Duration) bool { return !o.done && now < o.until && o.tries > 0 }

// Withdraw makes the code void.
func (o *Offer) Withdraw() { o.done = true }

// Showing is the shower's side of one exchange.
type Showing struct {
	offer *Offer
	self  Self
	far   ed25519.PublicKey
	keys  pairingKeys
}

const (
	nonceSize  = 16
	helloSize  = nonceSize + 32
	answerSize = 32 + 32
	// MaxPairingMessage is the longest message of an exchange.
	MaxPairingMessage = maxStatement + chacha20poly1305.Overhead
)

// Answer takes the taker's first message and spends a try.
func (o *Offer) Answer(self Self, far ed25519.PublicKey, msg []byte, now time.Duration, random io.Reader) (*Showing, []byte, error) {
	switch {
	case !o.Open(now):
		return nil, nil, ErrCodeSpent
	case o.taker != nil && !o.taker.Equal(far):
		return nil, nil, ErrCodeSpent
	case len(msg) != helloSize:
		return nil, nil, fmt.Errorf("answer pairing: message of %d bytes", len(msg))
	}
	o.tries--
	nonce, taker := msg[:nonceSize], msg[nonceSize:]
	own, err := newShare(cpaceGenerator(o.Code.secret(), pairingContext(far, self.public()), nonce), random)
	if err != nil {
		return nil, nil, fmt.Errorf("answer pairing: %w", err)
	}
	isk, err := cpaceKey(own, taker, nonce, taker, far, own.public, self.public())
	if err != nil {
		return nil, nil, fmt.Errorf("answer pairing: %w", err)
	}
	keys := derivePairing(isk)
	return &Showing{offer: o, self: self, far: far, keys: keys}, append(own.public, keys.shower[:]...), nil
}

// Confirm takes the taker's statement: an error is ErrWrongCode unless the exchange itself was broken. The caller
// stores the peer before it sends the reply.
func (s *Showing) Confirm(msg []byte) (Peer, []byte, error) {
	statement, err := open(s.keys.sealTaker, msg)
	if err != nil {
		return Peer{}, nil, ErrWrongCode
	}
	p, err := ReadStatement(statement)
	if err != nil {
		return Peer{}, nil, fmt.Errorf("confirm pairing: %w", err)
	}
	if !p.BoxKey.Equal(s.far) {
		return Peer{}, nil, errors.New("confirm pairing: the statement is of another box")
	}
	s.offer.taker = s.far
	s.offer.tries = MaxTries // the right one may come again if the line breaks now
	reply, err := seal(s.keys.sealShower, s.self.Statement)
	return p, reply, err
}

// Done takes the taker's last message: the code is void then.
func (s *Showing) Done(msg []byte) error {
	if subtle.ConstantTimeCompare(msg, s.keys.taker[:]) != 1 {
		return errors.New("end pairing: wrong tag")
	}
	s.offer.done = true
	return nil
}

// Taking is the taker's side of one exchange.
type Taking struct {
	self  Self
	far   ed25519.PublicKey
	nonce []byte
	own   share
	keys  pairingKeys
}

// Take starts an exchange with the box that is thought to show the code, and gives the first message.
func Take(code Code, self Self, far ed25519.PublicKey, random io.Reader) (*Taking, []byte, error) {
	t := &Taking{self: self, far: far, nonce: make([]byte, nonceSize)}
	if _, err := io.ReadFull(random, t.nonce); err != nil {
		return nil, nil, fmt.Errorf("start pairing: %w", err)
	}
	var err error
	t.own, err = newShare(cpaceGenerator(code.secret(), pairingContext(self.public(), far), t.nonce), random)
	if err != nil {
		return nil, nil, fmt.Errorf("start pairing: %w", err)
	}
	return t, append(append([]byte(nil), t.nonce...), t.own.public...), nil
}

// Answer takes the shower's share and gives this box's statement, sealed. ErrWrongCode: the other box shows another one.
func (t *Taking) Answer(msg []byte) ([]byte, error) {
	if len(msg) != answerSize {
		return nil, fmt.Errorf("go on pairing: message of %d bytes", len(msg))
	}
	shower := msg[:32]
	isk, err := cpaceKey(t.own, shower, t.nonce, t.own.public, t.self.public(), shower, t.far)
	if err != nil {
		return nil, fmt.Errorf("go on pairing: %w", err)
	}
	t.keys = derivePairing(isk)
	if subtle.ConstantTimeCompare(msg[32:], t.keys.shower[:]) != 1 {
		return nil, ErrWrongCode
	}
	return seal(t.keys.sealTaker, t.self.Statement)
}

// Finish takes the shower's statement. The caller stores the peer before it sends the last message.
func (t *Taking) Finish(msg []byte) (Peer, []byte, error) {
	statement, err := open(t.keys.sealShower, msg)
	if err != nil {
		return Peer{}, nil, fmt.Errorf("end pairing: %w", err)
	}
	p, err := ReadStatement(statement)
	if err != nil {
		return Peer{}, nil, fmt.Errorf("end pairing: %w", err)
	}
	if !p.BoxKey.Equal(t.far) {
		return Peer{}, nil, errors.New("end pairing: the statement is of another box")
	}
	return p, t.keys.taker[:], nil
}

// pairingContext names the two parties; keys made for others do not fit.
func pairingContext(taker, shower ed25519.PublicKey) []byte {
	return lv(lv([]byte("hallig pairing 1"), taker), shower)
}

type pairingKeys struct {
	shower, taker         [32]byte // tags
	sealTaker, sealShower [32]byte
}

func derivePairing(isk []byte) pairingKeys {
	derive := func(label string) (key [32]byte) {
		m := hmac.New(sha512.New, isk)
		m.Write([]byte("hallig pairing 1 " + label))
		copy(key[:], m.Sum(nil))
		return key
	}
	return pairingKeys{derive("shower"), derive("taker"), derive("seal taker"), derive("seal shower")}
}

// seal and open use each key once, so the nonce may be zero.
func seal(key [32]byte, text []byte) ([]byte, error) {
	a, err := chacha20poly1305.New(key[:])
	if err != nil {
		return nil, fmt.Errorf("seal statement: %w", err)
	}
	return a.Seal(nil, make([]byte, a.NonceSize()), text, nil), nil
}

func open(key [32]byte, msg []byte) ([]byte, error) {
	a, err := chacha20poly1305.New(key[:])
	if err != nil {
		return nil, fmt.Errorf("open statement: %w", err)
	}
	return a.Open(nil, make([]byte, a.NonceSize()), msg, nil)
}
