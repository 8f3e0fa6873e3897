// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"hallig/appliance/event"
	"hallig/sync/peer"
)

// Files of the identity, in the data directory. Both are written once.
const (
	boxKeyFile     = "box.key"
	signingKeyFile = "signing.key"
)

// identity is who the box is: the box key (links, pairing) and the signing key with the server name (Matrix).
type identity struct {
	box    ed25519.PrivateKey
	server string
	key    event.Key
}

// loadIdentity reads the identity from dir, or makes a new one there. want is the server name asked for ("": no
// wish). fixed says that accounts exist, so that the name cannot change any more.
func loadIdentity(dir, want string, fixed bool) (identity, error) {
	var id identity
	var err error
	if id.box, err = loadBoxKey(filepath.Join(dir, boxKeyFile)); err != nil {
		return id, err
	}
	name := filepath.Join(dir, signingKeyFile)
	id.server, id.key, err = readSigningKey(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if fixed {
			return id, fmt.Errorf("%s is missing, but accounts exist under its name; restore the file from the backup before starting", name)
		}
		id.key, err = newSigningKey()
		if err != nil {
			return id, err
		}
		id.server = want
		if want == "" {
			id.server = peer.DefaultServer(publicKey(id.box))
		}
		return id, writeSigningKey(name, id.server, id.key)
	case err != nil:
		return id, err
	case want == "" || want == id.server:
		return id, nil
	case fixed:
		return id, fmt.Errorf("this box is called %s and has accounts under that name, so it cannot become %s; start it without --name, or use another --data directory for a new box", id.server, want)
	}
	id.server = want
	return id, writeSigningKey(name, want, id.key)
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

func newSigningKey() (event.Key, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return event.Key{}, fmt.Errorf("make signing key: %w", err)
	}
	// The key id comes from the key, so that a new key never reuses an old id.
	tag := base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey)[:6])
	tag = strings.NewReplacer("-", "a", "_", "b").Replace(tag)
	return event.Key{ID: "ed25519:" + tag, Private: key}, nil
}

// The signing key file is one line: "hallig-signing-key 1 SERVER ed25519:ID BASE64SEED". It holds the server name
// as well, so that the name survives the loss of the database.
func readSigningKey(name string) (string, event.Key, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return "", event.Key{}, fmt.Errorf("read signing key: %w", err)
	}
	f := strings.Fields(string(raw))
	damaged := fmt.Errorf("%s is damaged; restore it from the backup", name)
	if len(f) != 5 || f[0] != "hallig-signing-key" || f[1] != "1" || !event.ValidServerName(f[2]) || !strings.HasPrefix(f[3], "ed25519:") {
		return "", event.Key{}, damaged
	}
	seed, err := base64.StdEncoding.DecodeString(f[4])
	if err != nil || len(seed) != ed25519.SeedSize {
		return "", event.Key{}, damaged
	}
	return f[2], event.Key{ID: f[3], Private: ed25519.NewKeyFromSeed(seed)}, nil
}

func writeSigningKey(name, server string, key event.Key) error {
	line := fmt.Sprintf("hallig-signing-key 1 %s %s %s\n", server, key.ID, base64.StdEncoding.EncodeToString(key.Private.Seed()))
	if err := renameio.WriteFile(name, []byte(line), 0o600); err != nil {
		return fmt.Errorf("write signing key: %w", err)
	}
	return nil
}
