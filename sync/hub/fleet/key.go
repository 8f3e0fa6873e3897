// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
)

// Key is the token that opens pages and API. Its file holds the hash alone, so that a copy of the data directory opens nothing.
type Key struct {
	file string

	mu   sync.Mutex
	hash []byte // nil: there is no token yet, and nobody gets in
}

// OpenKey reads the file; there need not be one.
func OpenKey(file string) (*Key, error) {
	k := &Key{file: file}
	raw, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return k, nil
	case err != nil:
		return nil, fmt.Errorf("read the hash of the pages' token: %w", err)
	}
	k.hash, err = hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(k.hash) != sha256.Size {
		return nil, fmt.Errorf("%s holds no hash of a token; delete it and make a new one with: hallig-hub token", file)
	}
	return k, nil
}

// New makes a token in place of the one before. It is shown this once.
func (k *Key) New() (string, error) {
	token := rand.Text() // 130 bits: nobody guesses it, so nothing counts guesses
	sum := sha256.Sum256([]byte(token))
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := renameio.WriteFile(k.file, []byte(hex.EncodeToString(sum[:])+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the hash of the token: %w", err)
	}
	k.hash = sum[:]
	return token, nil
}

// Set says whether there is a token.
func (k *Key) Set() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hash != nil
}

// Opens says whether this is the token.
func (k *Key) Opens(token string) bool {
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hash != nil && subtle.ConstantTimeCompare(sum[:], k.hash) == 1
}
