// SPDX-License-Identifier: EUPL-1.2

package peer

import "crypto/ed25519"

// X25519Private gives the X25519 key of a box: that which its handshakes use, for what else is encrypted to a box.
func X25519Private(box ed25519.PrivateKey) ([]byte, error) {
	key, err := dhPrivate(box)
	return key.Private, err
}

// X25519Public gives the X25519 public key that belongs to a box key.
func X25519Public(box ed25519.PublicKey) ([]byte, error) { return dhPublic(box) }
