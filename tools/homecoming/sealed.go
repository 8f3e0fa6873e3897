// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"hallig/tools/matrixclient"
)

// This file is the first message of an encrypted conversation, reduced to what a server can spoil: it is sealed to a one-time key of the reader's device
// (X25519 and AES-GCM), whose private half is used up by reading it. So it can be read only when the very key that the device uploaded was given out, to one writer alone, and the message
// arrives as it was.

// typeSealed are messages between devices that are sealed.
const typeSealed = "org.hallig.homecoming.sealed"

const algorithm = "signed_curve25519:"

// keyring holds the private halves of one-time keys. Safe for concurrent use.
type keyring struct {
	mu    sync.Mutex
	count int
	keys  map[string]*ecdh.PrivateKey // by user, device and key id
	given map[string]bool             // those that a server gave out
}

func ringName(c *matrixclient.Client, id string) string {
	return c.UserID + " " + c.DeviceID + " " + id
}

// make makes a key of somebody's device.
func (r *keyring) make(c *matrixclient.Client) (id, public string, err error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	id = fmt.Sprintf("%sK%d", algorithm, r.count)
	r.keys[ringName(c, id)] = key
	return id, base64.RawStdEncoding.EncodeToString(key.PublicKey().Bytes()), nil
}

// give notes that a server gave a key of somebody's device out. An error: it has done so before, or the device never uploaded it.
func (r *keyring) give(c *matrixclient.Client, id, public string) error {
	raw, err := base64.RawStdEncoding.DecodeString(public)
	if err != nil {
		return fmt.Errorf("one-time key %s: %w", id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	name := ringName(c, id)
	switch key := r.keys[name]; {
	case r.given[name]:
		return fmt.Errorf("one-time key %s was given out twice", name)
	case key == nil || !slices.Equal(key.PublicKey().Bytes(), raw):
		return fmt.Errorf("one-time key %s is not one that the device uploaded", name)
	}
	if r.given == nil {
		r.given = map[string]bool{}
	}
	r.given[name] = true
	return nil
}

// sealed is such a message.
type sealed struct {
	N    int    `json:"n"`
	Key  string `json:"key"`  // id of the one-time key
	From string `json:"from"` // the writer's half
	Text string `json:"text"`
}

func cipherOf(secret []byte, from, key string) (cipher.AEAD, error) {
	sum := sha256.Sum256(append([]byte(from+" "+key+" "), secret...))
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal writes message n under somebody's one-time key.
func seal(n int, key, public string) (m sealed, err error) {
	raw, err := base64.RawStdEncoding.DecodeString(public)
	if err != nil {
		return m, err
	}
	to, err := ecdh.X25519().NewPublicKey(raw)
	if err != nil {
		return m, err
	}
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return m, err
	}
	secret, err := own.ECDH(to)
	if err != nil {
		return m, err
	}
	m = sealed{N: n, Key: key, From: base64.RawStdEncoding.EncodeToString(own.PublicKey().Bytes())}
	a, err := cipherOf(secret, m.From, m.Key)
	if err != nil {
		return m, err
	}
	m.Text = base64.RawStdEncoding.EncodeToString(a.Seal(nil, make([]byte, a.NonceSize()), text(n), nil)) // a key for one message needs no nonce
	return m, nil
}

func text(n int) []byte { return fmt.Appendf(nil, "Meldung %d, nur für dich", n) }

// opens reads message n with the key that it was written under, and throws that key away. false: it cannot be read.
func (r *keyring) opens(c *matrixclient.Client, n int, content json.RawMessage) bool {
	got, err := r.open(c, content)
	return err == nil && slices.Equal(got, text(n))
}

func (r *keyring) open(c *matrixclient.Client, content json.RawMessage) ([]byte, error) {
	var m sealed
	if err := json.Unmarshal(content, &m); err != nil {
		return nil, err
	}
	r.mu.Lock()
	key := r.keys[ringName(c, m.Key)]
	delete(r.keys, ringName(c, m.Key))
	r.mu.Unlock()
	if key == nil {
		return nil, errors.New("there is no such key any more")
	}
	raw, err := base64.RawStdEncoding.DecodeString(m.From)
	if err != nil {
		return nil, err
	}
	from, err := ecdh.X25519().NewPublicKey(raw)
	if err != nil {
		return nil, err
	}
	secret, err := key.ECDH(from)
	if err != nil {
		return nil, err
	}
	a, err := cipherOf(secret, m.From, m.Key)
	if err != nil {
		return nil, err
	}
	body, err := base64.RawStdEncoding.DecodeString(m.Text)
	if err != nil {
		return nil, err
	}
	return a.Open(nil, make([]byte, a.NonceSize()), body, nil)
}
