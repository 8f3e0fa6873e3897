// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"

	"hallig/sync/peer"
)

// age takes its X25519 keys as text only (Bech32), so the box keys are spelled for it. age's own form of Ed25519 keys (agessh) would do the same with 0.7 MB more
// of memory, as it brings all of SSH.

// recipient is who opens what is sealed to a box key.
func recipient(key ed25519.PublicKey) (age.Recipient, error) {
	public, err := peer.X25519Public(key)
	if err != nil {
		return nil, fmt.Errorf("read box key: %w", err)
	}
	return age.ParseX25519Recipient(bech32("age", public))
}

// identity opens what is sealed to a box key.
func identity(key ed25519.PrivateKey) (age.Identity, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("read box key: not an Ed25519 private key")
	}
	private, err := peer.X25519Private(key)
	if err != nil {
		return nil, fmt.Errorf("read box key: %w", err)
	}
	return age.ParseX25519Identity(strings.ToUpper(bech32("age-secret-key-", private)))
}

// bech32 spells 32 bytes behind a readable part.
// https://github.com/bitcoin/bips/blob/master/bip-0173.mediawiki#bech32
func bech32(readable string, data []byte) string {
	const letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	sum := uint32(1)
	mix := func(v byte) {
		top := sum >> 25
		sum = sum&0x1ffffff<<5 ^ uint32(v)
		for i, g := range [...]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				sum ^= g
			}
		}
	}
	for _, c := range []byte(readable) {
		mix(c >> 5)
	}
	mix(0)
	for _, c := range []byte(readable) {
		mix(c & 31)
	}
	var b strings.Builder
	b.WriteString(readable + "1")
	put := func(v byte) {
		mix(v)
		b.WriteByte(letters[v])
	}
	bits, n := uint32(0), 0
	for _, c := range data {
		bits, n = bits<<8|uint32(c), n+8
		for ; n >= 5; n -= 5 {
			put(byte(bits >> (n - 5) & 31))
		}
	}
	if n > 0 {
		put(byte(bits << (5 - n) & 31))
	}
	for range 6 {
		mix(0)
	}
	sum ^= 1
	for i := range 6 {
		b.WriteByte(letters[sum>>(5*(5-i))&31])
	}
	return b.String()
}
