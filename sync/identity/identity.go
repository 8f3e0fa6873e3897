// SPDX-License-Identifier: EUPL-1.2

// Package identity keeps who a server of ours is, in two files of its data directory: box.key (links, pairing, and from it the peer id) and signing.key (the
// Matrix server name, the key that signs under it, and the keys that did). A box has one, and so has a hub. A box that lets its hub sign has a third one, delegated.key.
//
// It promises: all are written once and whole (a crash leaves the old file or the new one), never replaced when they cannot be read, mode 0600. It leaves to
// others when a key is rotated, and what is signed.
package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/peer"
)

// Files of the identity, in the data directory. Both are written once; signing.key again when the key is rotated.
const (
	BoxKeyFile     = "box.key"
	SigningKeyFile = "signing.key"
)

// Identity is who a box is: the box key (links, pairing) and the signing key with the server name (Matrix).
type Identity struct {
	Box ed25519.PrivateKey
	Signing
}

// Signing is what signing.key holds.
type Signing struct {
	Server string
	Key    event.Key
	Old    map[string]federation.OldKey // retired keys by id
}

// Load reads the identity from dir, or makes a new one there. want is the server name asked for ("": no
// wish). fixed says that accounts exist, so that the name cannot change any more.
func Load(dir, want string, fixed bool) (Identity, error) {
	var id Identity
	var err error
	if id.Box, err = loadBoxKey(filepath.Join(dir, BoxKeyFile)); err != nil {
		return id, err
	}
	name := filepath.Join(dir, SigningKeyFile)
	id.Signing, err = ReadSigning(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if fixed {
			return id, fmt.Errorf("%s is missing, but accounts exist under its name; restore the file from the backup before starting", name)
		}
		id.Key, err = NewKey()
		if err != nil {
			return id, err
		}
		id.Server = want
		if want == "" {
			id.Server = peer.DefaultServer(publicKey(id.Box))
		}
		return id, WriteSigning(name, id.Signing)
	case err != nil:
		return id, err
	case want == "" || want == id.Server:
		return id, nil
	case fixed:
		return id, fmt.Errorf("this box is called %s and has accounts under that name, so it cannot become %s; start it without --name, or use another --data directory for a new box", id.Server, want)
	}
	id.Server = want
	return id, WriteSigning(name, id.Signing)
}

// loadBoxKey reads or makes the box key: PEM, type "HALLIG BOX KEY", the 32-byte Ed25519 seed.
func loadBoxKey(name string) (ed25519.PrivateKey, error) {
	raw, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make box key: %w", err)
		}
		block := pem.EncodeToMemory(&pem.Block{Type: "HALLIG BOX KEY", Bytes: key.Seed()})
		if err := renameio.WriteFile(name, block, 0o600); err != nil {
			return nil, fmt.Errorf("write box key: %w", err)
		}
		return key, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read box key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "HALLIG BOX KEY" || len(block.Bytes) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is damaged; restore it from the backup (deleting it makes another box)", name)
	}
	return ed25519.NewKeyFromSeed(block.Bytes), nil
}

// NewKey draws a signing key.
func NewKey() (event.Key, error) { return NewKeyCalled("") }

// NewKeyCalled draws a signing key whose id begins with a word.
func NewKeyCalled(word string) (event.Key, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return event.Key{}, fmt.Errorf("make signing key: %w", err)
	}
	// The key id comes from the key, so that a new key never reuses an old id.
	tag := base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey)[:6])
	tag = strings.NewReplacer("-", "a", "_", "b").Replace(tag)
	return event.Key{ID: "ed25519:" + word + tag, Private: key}, nil
}

// ReadSigning reads the signing key file. It begins with the line "hallig-signing-key 1 SERVER ed25519:ID BASE64SEED". It holds the server name as well, so that the name
// survives the loss of the database. Each retired key follows in a line "old ed25519:ID BASE64KEY MILLISECONDS", with its public half and the time
// up to which it signed: one file, so that no crash can tear the new key and the old ones apart.
func ReadSigning(name string) (Signing, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return Signing{}, fmt.Errorf("read signing key: %w", err)
	}
	s, ok := parseSigningKey(string(raw))
	if !ok {
		return Signing{}, fmt.Errorf("%s is damaged; restore it from the backup", name)
	}
	return s, nil
}

func parseSigningKey(text string) (s Signing, ok bool) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	f := strings.Fields(lines[0])
	if len(f) != 5 || f[0] != "hallig-signing-key" || f[1] != "1" || !event.ValidServerName(f[2]) || !strings.HasPrefix(f[3], "ed25519:") {
		return s, false
	}
	seed, err := base64.StdEncoding.DecodeString(f[4])
	if err != nil || len(seed) != ed25519.SeedSize {
		return s, false
	}
	s = Signing{Server: f[2], Key: event.Key{ID: f[3], Private: ed25519.NewKeyFromSeed(seed)}, Old: map[string]federation.OldKey{}}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != "old" || !strings.HasPrefix(f[1], "ed25519:") {
			return s, false
		}
		pub, err := base64.StdEncoding.DecodeString(f[2])
		until, terr := strconv.ParseInt(f[3], 10, 64)
		if err != nil || len(pub) != ed25519.PublicKeySize || terr != nil || until <= 0 {
			return s, false
		}
		s.Old[f[1]] = federation.OldKey{Key: pub, ExpiredTS: until}
	}
	return s, true
}

// WriteSigning replaces the file.
func WriteSigning(name string, s Signing) error {
	var b strings.Builder
	fmt.Fprintf(&b, "hallig-signing-key 1 %s %s %s\n", s.Server, s.Key.ID, base64.StdEncoding.EncodeToString(s.Key.Private.Seed()))
	for _, id := range slices.Sorted(maps.Keys(s.Old)) {
		fmt.Fprintf(&b, "old %s %s %d\n", id, base64.StdEncoding.EncodeToString(s.Old[id].Key), s.Old[id].ExpiredTS)
	}
	if err := renameio.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write signing key: %w", err)
	}
	return nil
}

// serial numbers the box's statements about itself: each rotation makes a new one.
func (s Signing) serial() uint64 { return uint64(1 + len(s.Old)) }

// Statement is what the box key says of the rest, for those who pair with the box.
func (id Identity) Statement() ([]byte, error) {
	statement, err := peer.State(id.Box, peer.Peer{
		Server: id.Server, SigningKeys: map[string]ed25519.PublicKey{id.Key.ID: publicKey(id.Key.Private)}, Serial: id.serial(),
	})
	if err != nil {
		return nil, fmt.Errorf("state who this box is: %w", err)
	}
	return statement, nil
}

func publicKey(key ed25519.PrivateKey) ed25519.PublicKey {
	pub, _ := key.Public().(ed25519.PublicKey)
	return pub
}
