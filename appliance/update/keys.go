// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"

	"hallig/appliance/signet"
)

// KeysFile is where a running system keeps whom it trusts, as ParseKeys reads it.
const KeysFile = "/etc/hallig/update.json"

// PublicKey is one of those who sign updates. As text: "hallig-update-1 BASE64 NAME"; the name is a comment.
type PublicKey signet.Key

func (k PublicKey) String() string { return signet.Update.Text(signet.Key(k)) }

// MarshalText and UnmarshalText are String and ParsePublicKey.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func (k *PublicKey) UnmarshalText(text []byte) (err error) {
	*k, err = ParsePublicKey(string(text))
	return err
}

// ParsePublicKey reads the text of a public key.
func ParsePublicKey(text string) (PublicKey, error) {
	k, err := signet.Update.Parse(text)
	return PublicKey(k), err
}

// PrivateKey signs updates. As a file: lines that begin with # say what it is, one line is "hallig-update-secret-1 BASE64 NAME"; the bytes are the Ed25519 seed.
type PrivateKey struct{ signet.Secret }

// GenerateKey makes a key. The name is for people.
func GenerateKey(name string) PrivateKey { return PrivateKey{signet.Generate(name)} }

// Public is the half that boxes trust.
func (k PrivateKey) Public() PublicKey { return PublicKey(k.Secret.Public()) }

// File is the text of a key file. Keep it where only those who may release can read it, mode 0600.
func (k PrivateKey) File() []byte { return signet.Update.File(k.Secret) }

// ParsePrivateKey reads a key file.
func ParsePrivateKey(file []byte) (PrivateKey, error) {
	s, err := signet.Update.ParseFile(file)
	return PrivateKey{s}, err
}

// Keys is whom a system trusts: so many of these must have signed. As JSON:
//
//	{"threshold":1,"keys":["hallig-update-1 BASE64 NAME"]}
type Keys struct {
	Threshold int         `json:"threshold"`
	Keys      []PublicKey `json:"keys"`
}

// ParseKeys reads KeysFile.
func ParseKeys(raw []byte) (Keys, error) {
	var k Keys
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&k); err != nil {
		return Keys{}, fmt.Errorf("read update keys: %w", err)
	}
	return k, k.check()
}

func (k Keys) check() error {
	if n := len(k.distinct()); k.Threshold < 1 || k.Threshold > n || len(k.Keys) > 32 {
		return fmt.Errorf("update keys: %d signatures demanded of %d different keys", k.Threshold, n)
	}
	return nil
}

func (k Keys) distinct() map[string]PublicKey {
	m := make(map[string]PublicKey, len(k.Keys))
	for _, p := range k.Keys {
		if len(p.Key) == ed25519.PublicKeySize {
			m[string(p.Key)] = p
		}
	}
	return m
}

// signature is one entry in a file's list.
type signature struct {
	Key []byte `json:"key"`
	Sig []byte `json:"sig"`
}

func signed(manifest []byte) []byte { return append([]byte(magic), manifest...) }

// verify says whether enough of the keys have signed. A key counts once, however often it has signed and is listed.
func (k Keys) verify(manifest []byte, sigs []signature) error {
	if err := k.check(); err != nil {
		return err
	}
	trusted, message, good := k.distinct(), signed(manifest), 0
	for _, s := range sigs {
		p, ok := trusted[string(s.Key)]
		if ok && ed25519.Verify(p.Key, message, s.Sig) {
			delete(trusted, string(s.Key))
			good++
		}
	}
	if good < k.Threshold {
		return refuse(
			fmt.Sprintf("Diese Update-Datei ist nicht gültig unterschrieben (%d von %d nötigen Unterschriften). Laden Sie sie noch einmal von der Stelle, von der Ihre Box kommt.", good, k.Threshold),
			fmt.Sprintf("This update file is not validly signed (%d of the %d signatures needed). Get it again from where your box comes from.", good, k.Threshold))
	}
	return nil
}
