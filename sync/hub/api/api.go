// SPDX-License-Identifier: EUPL-1.2

// Package api is what a box and its hub say to each other, beside the Server-Server API that both speak: paths, headers, and the JSON values that travel. The hub's side
// is sync/hub, the box's side is the composition of the box. All of it goes over libp2p between paired ends only, which proves who speaks.
package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Paths on the hub's own name, for paired boxes.
const (
	ContactPath = "/_hallig/hub/v1/contact" // PUT Contact, answered with Answer
	StatusPath  = "/_hallig/hub/v1/status"  // GET, answered with Answer
	UserPath    = "/_hallig/hub/v1/user/"   // and a user's id: PUT ?epoch=EPOCH User; 409 when the hub's memory is another one by now
	GivenPath   = "/_hallig/hub/v1/given"   // GET ?after=PLACE&epoch=EPOCH: all up to that place are crossed out at the box, in the memory of that epoch; answered with Given
	RoomsPath   = "/_hallig/hub/v1/rooms"   // PUT Rooms; 409 when the hub wants to hear of all
	ReachPath   = "/_hallig/hub/v1/reach"   // PUT Reach
	DealtPath   = "/_hallig/hub/v1/dealt"   // PUT Dealt: what came by another way is not to come once more; 409 when the hub's memory is another one
)

// UpdatePath and BOARD/RELEASE give an update file that the box was told of, whole or from a byte on (Range: bytes=N-); the headers say what it is.
const (
	UpdatePath    = "/_hallig/hub/v1/update/"
	UpdateVersion = "Hallig-Version"
	UpdateRelease = "Hallig-Release"
)

// Received is the header by which a hub says when a request came in that it has kept for the box: milliseconds since 1970.
const Received = "Hallig-Received"

// Unreachable is the errcode of the hub's 502 for a box's request to a server that the hub does not reach.
const Unreachable = "ORG_HALLIG_UNREACHABLE"

// Modes. Sealed: the hub has no key of the box. Delegate: the box lists a second key of its name in its key document, which the hub has made and holds.
const (
	Sealed   = "sealed"
	Delegate = "delegate"
)

// Contact is what a box says of itself when it meets its hub, and daily.
type Contact struct {
	Version      string          `json:"version"`
	Mode         string          `json:"mode"`               // what the hub may do under the box's name
	Statement    []byte          `json:"statement"`          // the box's signed statement: it has rotated its key, perhaps
	KeyDocument  json.RawMessage `json:"key_document"`       // what others are told who ask for the box's keys
	Proposal     json.RawMessage `json:"proposal,omitempty"` // the next key document, with the hub's key for the box in it, for the hub to sign; only with Delegate
	Health       string          `json:"health"`             // ok, look or trouble
	Sentence     string          `json:"sentence,omitempty"` // the worst of it, for the fleet page, in English
	SentenceDE   string          `json:"sentence_de,omitempty"`
	Clock        int64           `json:"clock"`                   // the box's time, milliseconds since 1970
	ClockGood    bool            `json:"clock_good"`              // somebody vouches for it
	ClockQuality string          `json:"clock_quality,omitempty"` // who
	Board        string          `json:"board,omitempty"`         // what its image is for; "": it does not run from one
	Release      int64           `json:"release,omitempty"`       // of the image
	Update       *UpdateState    `json:"update,omitempty"`        // where it is between two releases; nil: it does not run from an image

	Policy        *int64 `json:"policy,omitempty"`         // serial of the one in force; 0: none; nil: the box belongs to no organisation
	PolicyRefused string `json:"policy_refused,omitempty"` // why the last one was not taken
}

// States of an update of which the hub makes something; others are shown as they are.
const (
	UpdateNone   = "none"   // with a release: somebody went back from it
	UpdateFailed = "failed" // it was refused, or its trial failed
)

// WentBack is noted of a box on which somebody went back from an update.
const WentBack = "somebody went back from it"

// UpdateState is where a box is with an update.
type UpdateState struct {
	State   string `json:"state"`
	Version string `json:"version,omitempty"` // of the update that State speaks of
	Release int64  `json:"release,omitempty"`
	Error   string `json:"error,omitempty"`    // in English
	ErrorDE string `json:"error_de,omitempty"` // in German; older boxes say nothing here
}

// Update is a newer system that the hub has for a box. What it is worth its signatures say, which the box checks.
type Update struct {
	Board   string `json:"board"`
	Version string `json:"version"`
	Release int64  `json:"release"`
	Bytes   int64  `json:"bytes"`
}

// Answer is what the hub says to it.
type Answer struct {
	Server  string    `json:"server"`            // the hub's name
	Version string    `json:"version"`           // of its program
	Mode    string    `json:"mode"`              // as the hub has it written down
	Time    int64     `json:"time"`              // the hub's, milliseconds since 1970
	Epoch   string    `json:"epoch"`             // another one when the hub has lost its memory, or has an older one back
	Waiting []Waiting `json:"waiting"`           // for the box, at the hub
	Letters *Letters  `json:"letters,omitempty"` // of the box, for others; nil: the hub takes none
	Update  *Update   `json:"update,omitempty"`  // a newer system for the box
	Policy  []byte    `json:"policy,omitempty"`  // a newer one of its organisation, with its signature

	Delegated *Delegated `json:"delegated,omitempty"` // only for a box in the mode Delegate, where the hub's operator lets it
}

// Waiting is what one server has sent to a box that has not taken it yet.
type Waiting struct {
	From   string    `json:"from"`
	Count  int64     `json:"count"` // transactions
	Bytes  int64     `json:"bytes"`
	Oldest time.Time `json:"oldest"`
}

// User is what the hub may answer about one user of a box that is away. A value that is missing is not known to it. It takes the place of what was there.
type User struct {
	Profile  json.RawMessage                       `json:"profile,omitempty"`  // as GET /query/profile answers it
	Devices  json.RawMessage                       `json:"devices,omitempty"`  // as GET /user/devices answers it
	Keys     *UserKeys                             `json:"keys,omitempty"`     // what POST /user/keys/query answers
	Fallback map[string]map[string]json.RawMessage `json:"fallback,omitempty"` // by device and name: when no other key is left
	OneTime  map[string]map[string]json.RawMessage `json:"one_time,omitempty"` // by device and name: each to be given away once, by the hub alone
}

// UserKeys are a user's identity keys.
type UserKeys struct {
	Devices     map[string]json.RawMessage `json:"devices,omitempty"`
	Master      json.RawMessage            `json:"master,omitempty"`
	SelfSigning json.RawMessage            `json:"self_signing,omitempty"`
}

// Given lists which keys the hub has given away, in the order in which they went.
type Given struct {
	Epoch    string     `json:"epoch"`
	Keys     []GivenKey `json:"keys"`
	More     bool       `json:"more,omitempty"` // ask again, after the last place
	Fallback []GivenKey `json:"fallback"`       // fallback keys that were given away since their user was last put; Place is 0
}

// GivenKey is one of them.
type GivenKey struct {
	Place  int64  `json:"place,omitempty"`
	User   string `json:"user"`
	Device string `json:"device"`
	ID     string `json:"id"` // "signed_curve25519:AAAAHg"
}

// MaxUser bounds a User, in bytes: a hundred devices with their keys.
const MaxUser = 1 << 20

// ReadUser reads a User.
func ReadUser(raw []byte) (User, error) {
	var u User
	if len(raw) > MaxUser {
		return u, errors.New("read user: too long")
	}
	if err := json.Unmarshal(raw, &u); err != nil {
		return u, fmt.Errorf("read user: %w", err)
	}
	for _, keys := range []map[string]map[string]json.RawMessage{u.Fallback, u.OneTime} {
		for _, of := range keys {
			for id := range of {
				if alg, name, ok := strings.Cut(id, ":"); !ok || alg == "" || name == "" {
					return u, fmt.Errorf("read user: %.40q is no name of a key", id)
				}
			}
		}
	}
	return u, nil
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
	case len(c.Version) > 100 || len(c.Health) > 20 || len(c.Sentence) > 500 || len(c.SentenceDE) > 500 || len(c.ClockQuality) > 100 || len(c.Board) > 20:
		return c, errors.New("read contact: a text is too long")
	case c.Policy != nil && *c.Policy < 0 || len(c.PolicyRefused) > 500 || c.Release < 0 || c.Update != nil && (len(c.Update.State) > 20 || len(c.Update.Version) > 100 || len(c.Update.Error) > 500 || len(c.Update.ErrorDE) > 500):
		return c, errors.New("read contact: what it says of updates or its policy is too long, or no number that there is")
	case c.Mode != Sealed && c.Mode != Delegate:
		return c, fmt.Errorf("read contact: this hub does not know the mode %.20q; it does %q and %q", c.Mode, Sealed, Delegate)
	case c.Mode == Sealed && c.Proposal != nil:
		return c, errors.New("read contact: a sealed box proposes no key of the hub's")
	case len(c.KeyDocument) == 0 || len(c.Statement) == 0:
		return c, errors.New("read contact: key_document or statement is missing")
	}
	return c, nil
}
