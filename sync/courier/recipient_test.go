// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"testing"

	"filippo.io/age"
)

// TestKeysAsAgeReadsThem: age takes the spelling, derives the same public key, and opens what was sealed to it.
func TestKeysAsAgeReadsThem(t *testing.T) {
	for i := range 50 {
		key := ed25519.NewKeyFromSeed(seed(fmt.Sprint("age ", i)))
		id, err := identity(key)
		if err != nil {
			t.Fatal(err)
		}
		who, err := recipient(key.Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := id.(*age.X25519Identity).Recipient().String(), who.(*age.X25519Recipient).String(); got != want {
			t.Fatalf("key %d: %s and %s", i, got, want)
		}
		sealed, err := encrypt([]byte("Land unter"), key.Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := decrypt(sealed, id); err != nil || !bytes.Equal(plain, []byte("Land unter")) {
			t.Fatalf("key %d: %q, %v", i, plain, err)
		}
	}
	if _, err := identity(nil); err == nil {
		t.Error("no key is taken for one")
	}
	if _, err := recipient(make([]byte, 5)); err == nil {
		t.Error("five bytes are taken for a key")
	}
}
