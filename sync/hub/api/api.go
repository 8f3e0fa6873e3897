// SPDX-License-Identifier: EUPL-1.2

// Package api is what a box and its hub say to each other, beside the Server-Server API that both speak: paths, headers, and the JSON values that travel. The hub's side
// is sync/hub, the box's side is the composition of the box. All of it goes over libp2p between paired ends only, which proves who speaks.
package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Paths on the hub's own name, for paired boxes.
const (
	ContactPath = "/_hallig/hub/v1/contact" // PUT Contact, answered with Answer
	StatusPath  = "/_hallig/hub/v1/status"  // GET, answered with Answer
)

// Received is the header by which a hub says when a request came in that it has kept for the box: milliseconds since 1970.
const Received = "Hallig-Received"

// Unreachable is the errcode of the hub's 502 for a box's request to a server that the hub does not reach.
const Unreachable = "ORG_HALLIG_UNREACHABLE"

// Sealed is the mode in which the hub has no key of the box.
const Sealed = "sealed"

// Contact is what a box says of itself when it meets its hub, and daily.
type Contact struct {
	Version     string          `json:"version"`
	Mode        string          `json:"mode"`               // what the hub may do under the box's name
	Statement   []byte          `json:"statement"`          // the box's signed statement: it has rotated its key, perhaps
	KeyDocument json.RawMessage `json:"key_document"`       // what others are told who ask for the box's keys
	Health      string          `json:"health"`             // ok, look or trouble
	Sentence    string          `json:"sentence,omitempty"` // the worst of it, for the fleet page, in English
	Clock       int64           `json:"clock"`              // the box's time, milliseconds since 1970
	ClockGood   bool            `json:"clock_good"`         // somebody vouches for it
}

// Answer is what the hub says to it.
type Answer struct {
	Server  string    `json:"server"`  // the hub's name
	Version string    `json:"version"` // of its program
	Mode    string    `json:"mode"`    // as the hub has it written down
	Time    int64     `json:"time"`    // the hub's, milliseconds since 1970
	Waiting []Waiting `json:"waiting"` // for the box, at the hub
}

// Waiting is what one server has sent to a box that has not taken it yet.
type Waiting struct {
	From   string    `json:"from"`
	Count  int64     `json:"count"` // transactions
	Bytes  int64     `json:"bytes"`
	Oldest time.Time `json:"oldest"`
}

// MaxContact bounds a Contact, in bytes.
const MaxContact = 128 << 10

// ReadContact reads a Contact and refuses what no box says.
func ReadContact(raw []byte) (Contact, error) {
	var c Contact
	if len(raw) > MaxContact {
		return c, errors.New("read contact: too long")
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, fmt.Errorf("read contact: %w", err)
	}
	switch {
	case len(c.Version) > 100 || len(c.Health) > 20 || len(c.Sentence) > 500:
		return c, errors.New("read contact: a text is too long")
	case c.Mode != Sealed:
		return c, fmt.Errorf("read contact: this hub does not know the mode %.20q; it does %q", c.Mode, Sealed)
	case len(c.KeyDocument) == 0 || len(c.Statement) == 0:
		return c, errors.New("read contact: key_document or statement is missing")
	}
	return c, nil
}
