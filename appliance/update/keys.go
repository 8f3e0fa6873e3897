// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// KeysFile is where a running system keeps whom it trusts, as ParseKeys reads it.
const KeysFile = "/etc/hallig/update.json"

const (
	publicWord = "hallig-update-1"
	secretWord = "hallig-update-secret-1"
)

// PublicKey is one of those who sign updates. As text: "hallig-update-1 BASE64 NAME"; the name is a comment.
type PublicKey struct {
	Key  ed25519.PublicKey
	Name string
}

func (k PublicKey) String() string {
	return strings.TrimSpace(publicWord + " " + base64.StdEncoding.EncodeToString(k.Key) + " " + k.Name)
}

// MarshalText and UnmarshalText are String and ParsePublicKey.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func (k *PublicKey) UnmarshalText(text []byte) (err error) {
	*k, err = ParsePublicKey(string(text))
	return err
}

// ParsePublicKey reads the text of a public key.
func ParsePublicKey(text string) (PublicKey, error) {
	raw, name, err := parseKey(text, publicWord, ed25519.PublicKeySize)
	return PublicKey{Key: raw, Name: name}, err
}

func parseKey(text, word string, size int) (raw []byte, name string, err error) {
	words := strings.Fields(text)
	if len(words) < 2 || words[0] != word {
		return nil, "", fmt.Errorf("not a key that begins with %q", word)
	}
	raw, err = base64.StdEncoding.Strict().DecodeString(words[1])
	if err != nil || len(raw) != size {
		return nil, "", fmt.Errorf("the key after %q is damaged", word)
	}
	return raw, strings.Join(words[2:], " "), nil
}

// PrivateKey signs updates. As a file: lines that begin with # say what it is, one line is "hallig-update-secret-1 BASE64 NAME"; the bytes are the Ed25519 seed.
type PrivateKey struct {
	key  ed25519.PrivateKey
	name string
}

// GenerateKey makes a key. The name is for people.
func GenerateKey(name string) PrivateKey {
	_, key, _ := ed25519.GenerateKey(rand.Reader) // never fails
	return PrivateKey{key, name}
}

// Public is the half that boxes trust.
func (k PrivateKey) Public() PublicKey {
	pub, _ := k.key.Public().(ed25519.PublicKey)
	return PublicKey{Key: pub, Name: k.name}
}

// File is the text of a key file. Keep it where only those who may release can read it, mode 0600.
func (k PrivateKey) File() []byte {
	return fmt.Appendf(nil, "# Hallig update signing key: whoever has it can put any system on every box that trusts it.\n# public: %s\n%s %s %s\n",
		k.Public(), secretWord, base64.StdEncoding.EncodeToString(k.key.Seed()), k.name)
}

// ParsePrivateKey reads a key file.
func ParsePrivateKey(file []byte) (PrivateKey, error) {
	for line := range strings.Lines(string(file)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		seed, name, err := parseKey(line, secretWord, ed25519.SeedSize)
		if err != nil {
			return PrivateKey{}, fmt.Errorf("read update key: %w", err)
		}
		return PrivateKey{ed25519.NewKeyFromSeed(seed), name}, nil
	}
	return PrivateKey{}, fmt.Errorf("read update key: there is no line that begins with %q", secretWord)
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
