// SPDX-License-Identifier: EUPL-1.2

package identity

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"hallig/appliance/event"
	"hallig/sync/federation"
)

// DelegatedFile says to whom the box has given a second key of its name; it is missing where there is none. When the key is taken back it goes to the retired ones of signing.key first.
const DelegatedFile = "delegated.key"

// Delegated is a second key that signs under the box's name, and who holds it. The zero value is none.
type Delegated struct {
	federation.DelegatedKey
	Holder string // server name of the hub
}

// ReadDelegated reads the file: one line "hallig-delegated-key 1 HUB ed25519:ID BASE64KEY".
func ReadDelegated(dir string) (Delegated, error) {
	raw, err := os.ReadFile(filepath.Join(dir, DelegatedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Delegated{}, nil
	}
	if err != nil {
		return Delegated{}, fmt.Errorf("read who holds a second key: %w", err)
	}
	d, ok := parseDelegated(string(raw))
	if !ok {
		return Delegated{}, fmt.Errorf("%s is damaged; restore it from the backup, or delete it and call hallig key rotate", filepath.Join(dir, DelegatedFile))
	}
	return d, nil
}

func parseDelegated(text string) (d Delegated, ok bool) {
	f := strings.Fields(text)
	if len(f) != 5 || f[0] != "hallig-delegated-key" || f[1] != "1" || !event.ValidServerName(f[2]) || !event.ValidKeyID(f[3]) {
		return d, false
	}
	pub, err := base64.StdEncoding.DecodeString(f[4])
	if err != nil || len(pub) != ed25519.PublicKeySize {
		return d, false
	}
	return Delegated{DelegatedKey: federation.DelegatedKey{ID: f[3], Key: pub}, Holder: f[2]}, true
}

// WriteDelegated replaces the file; none is written by removing it.
func WriteDelegated(dir string, d Delegated) error {
	name := filepath.Join(dir, DelegatedFile)
	var err error
	if d.ID == "" {
		if err = os.Remove(name); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	} else {
		err = renameio.WriteFile(name, fmt.Appendf(nil, "hallig-delegated-key 1 %s %s %s\n", d.Holder, d.ID, base64.StdEncoding.EncodeToString(d.Key)), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write who holds a second key: %w", err)
	}
	return nil
}
