// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"

	"hallig/appliance/event"
)

// Delegated is the second key of a box that the hub has made and holds.
type Delegated struct {
	ID  string `json:"id"`  // "ed25519:hub_abc"
	Key []byte `json:"key"` // its public half, 32 bytes

	// Document is what the box has proposed, signed by this key, too. Missing: nothing fitting was proposed.
	Document json.RawMessage `json:"document,omitempty"`
}

// MaxAnswer bounds an Answer, in bytes.
const MaxAnswer = 4 << 20

// ReadAnswer reads an Answer and refuses a key that cannot be one.
func ReadAnswer(raw []byte) (Answer, error) {
	var a Answer
	if len(raw) > MaxAnswer {
		return a, errors.New("read the hub's answer: too long")
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("read the hub's answer: %w", err)
	}
	if d := a.Delegated; d != nil && (!event.ValidKeyID(d.ID) || len(d.Key) != ed25519.PublicKeySize) {
		return a, fmt.Errorf("read the hub's answer: %.80q with %d bytes is no signing key", d.ID, len(d.Key))
	}
	return a, nil
}
