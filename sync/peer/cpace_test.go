// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"bytes"
	"encoding/hex"
	"testing"

	"golang.org/x/crypto/curve25519"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCPaceVectors holds the exchange against the draft's vectors for X25519 and SHA-512.
// https://datatracker.ietf.org/doc/draft-irtf-cfrg-cpace/ appendix B.1
func TestCPaceVectors(t *testing.T) {
	sid := unhex(t, "7e4b4791d6a8ef019b936c79fb7f2c57")
	g := cpaceGenerator([]byte("Password"), []byte("oc\x0bB_responder\x0bA_initiator"), sid)
	if want := unhex(t, "64e8099e3ea682cfdc5cb665c057ebb514d06bf23ebc9f743b51b82242327074"); !bytes.Equal(g, want) {
		t.Fatalf("generator = %x, want %x", g, want)
	}
	shareOf := func(private string) share {
		k := unhex(t, private)
		public, err := curve25519.X25519(k, g)
		if err != nil {
			t.Fatal(err)
		}
		return share{k, public}
	}
	a := shareOf("21b4f4bd9e64ed355c3eb676a28ebedaf6d8f17bdc365995b319097153044080")
	b := shareOf("848b0779ff415f0af4ea14df9dd1d3c29ac41d836c7808896c4eba19c51ac40a")
	if want := unhex(t, "1b02dad6dbd29a07b6d28c9e04cb2f184f0734350e32bb7e62ff9dbcfdb63d15"); !bytes.Equal(a.public, want) {
		t.Errorf("Ya = %x, want %x", a.public, want)
	}
	want := unhex(t, "a051ee5ee2499d16da3f69f430218b8ea94a18a45b67f9e86495b382c33d14a5c38cecc0cc834f960e39e0d1bf7d76b9ef5d54eecc5e0f386c97ad12da8c3d5f")
	for _, side := range []struct {
		own share
		far []byte
	}{{a, b.public}, {b, a.public}} {
		isk, err := cpaceKey(side.own, side.far, sid, a.public, []byte("ADa"), b.public, []byte("ADb"))
		if err != nil || !bytes.Equal(isk, want) {
			t.Errorf("ISK = %x, %v, want %x", isk, err, want)
		}
	}
	if _, err := cpaceKey(a, make([]byte, 32), sid, nil, nil, nil, nil); err == nil {
		t.Error("a share of low order was accepted")
	}
}
