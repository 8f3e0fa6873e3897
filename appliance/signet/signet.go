// SPDX-License-Identifier: EUPL-1.2

// Package signet writes and reads the keys by which people sign for an organisation, as text: one line "WORD BASE64 NAME" for the public half, a file with comments for the secret one. Each purpose has words of
// its own, so that a key for one is never taken for another. What is signed, and whose signature counts, is the matter of others.
package signet

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
)

// Purpose names what keys are for.
type Purpose struct {
	Public, Secret string // the words that lines begin with: "hallig-update-1", "hallig-update-secret-1"
	What           string // for errors: "update"
	Warning        string // what who has the secret half can do
}

// The purposes that there are.
var (
	// Update keys sign systems.
	Update = Purpose{Public: "hallig-update-1", Secret: "hallig-update-secret-1", What: "update", Warning: "whoever has it can put any system on every box that trusts it."}
	// Organisation keys sign what an organisation says for all its boxes.
	Organisation = Purpose{Public: "hallig-organisation-1", Secret: "hallig-organisation-secret-1", What: "organisation",
		Warning: "whoever has it decides for every box of the organisation. It is needed to sign only: keep it off the network."}
)

// Key is the public half. The name is for people.
type Key struct {
	Key  ed25519.PublicKey
	Name string
}

// Text is the public half as a line.
func (p Purpose) Text(k Key) string {
	return strings.TrimSpace(p.Public + " " + base64.StdEncoding.EncodeToString(k.Key) + " " + k.Name)
}

// Parse reads such a line.
func (p Purpose) Parse(text string) (Key, error) {
	raw, name, err := parse(text, p.Public, ed25519.PublicKeySize)
	return Key{Key: raw, Name: name}, err
}

func parse(text, word string, size int) (raw []byte, name string, err error) {
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

// Secret is the half that signs.
type Secret struct {
	key  ed25519.PrivateKey
	name string
}

// Generate makes a key. The name is for people.
func Generate(name string) Secret {
	_, key, _ := ed25519.GenerateKey(rand.Reader) // never fails
	return Secret{key, name}
}

// Public is the half that others trust.
func (s Secret) Public() Key {
	pub, _ := s.key.Public().(ed25519.PublicKey)
	return Key{Key: pub, Name: s.name}
}

// Sign signs a message.
func (s Secret) Sign(message []byte) []byte { return ed25519.Sign(s.key, message) }

// File is the text of a key file: lines that begin with # say what it is, one line is "WORD BASE64 NAME"; the bytes are the Ed25519 seed. Keep it mode 0600.
func (p Purpose) File(s Secret) []byte {
	return fmt.Appendf(nil, "# Hallig %s signing key: %s\n# public: %s\n%s %s %s\n", p.What, p.Warning, p.Text(s.Public()), p.Secret, base64.StdEncoding.EncodeToString(s.key.Seed()), s.name)
}

// ParseFile reads a key file.
func (p Purpose) ParseFile(file []byte) (Secret, error) {
	for line := range strings.Lines(string(file)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		seed, name, err := parse(line, p.Secret, ed25519.SeedSize)
		if err != nil {
			return Secret{}, fmt.Errorf("read %s key: %w", p.What, err)
		}
		return Secret{ed25519.NewKeyFromSeed(seed), name}, nil
	}
	return Secret{}, fmt.Errorf("read %s key: there is no line that begins with %q", p.What, p.Secret)
}
