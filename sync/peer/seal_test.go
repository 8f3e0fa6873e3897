// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"bytes"
	"crypto/ed25519"
	"testing"
)

func TestSeal(t *testing.T) {
	key := func(b byte) (ed25519.PrivateKey, ed25519.PublicKey) {
		k := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
		return k, k.Public().(ed25519.PublicKey)
	}
	a, apub := key(1)
	b, bpub := key(2)
	c, _ := key(3)
	seal := func(self ed25519.PrivateKey, far ed25519.PublicKey) *Seal {
		s, err := NewSeal(self, far)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ab, ba, ca := seal(a, bpub), seal(b, apub), seal(c, apub)
	text, with := []byte("for bert alone"), []byte("head")
	sealed, err := ab.Close(7, 9, with, text)
	if err != nil || len(sealed) != len(text)+SealOverhead {
		t.Fatalf("sealed: %d bytes, %v", len(sealed), err)
	}
	if got, err := ba.Open(7, 9, with, sealed); err != nil || !bytes.Equal(got, text) {
		t.Errorf("bert reads %q, %v", got, err)
	}
	bent := bytes.Clone(sealed)
	bent[3] ^= 1
	for what, open := range map[string]func() ([]byte, error){
		"another box":       func() ([]byte, error) { return ca.Open(7, 9, with, sealed) },
		"its own writer":    func() ([]byte, error) { return ab.Open(7, 9, with, sealed) },
		"another epoch":     func() ([]byte, error) { return ba.Open(8, 9, with, sealed) },
		"another number":    func() ([]byte, error) { return ba.Open(7, 10, with, sealed) },
		"another head":      func() ([]byte, error) { return ba.Open(7, 9, []byte("heat"), sealed) },
		"a bit turned over": func() ([]byte, error) { return ba.Open(7, 9, with, bent) },
		"cut short":         func() ([]byte, error) { return ba.Open(7, 9, with, sealed[:10]) },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: opened as %q", what, got)
		}
	}
	if _, err := NewSeal(a, make(ed25519.PublicKey, 32)); err == nil {
		t.Error("sealed to a key of zeros")
	}
}
