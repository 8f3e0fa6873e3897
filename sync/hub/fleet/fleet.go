// SPDX-License-Identifier: EUPL-1.2

// Package fleet is what the operator of a hub sees of its boxes: pages for browsers in German and English, and the same as JSON for scripts. It judges (Judge) what is
// wrong with a box and says the next step; it keeps nothing and reaches nobody: what it shows and does is handed to it by the hub.
//
// It shows no content: names of boxes and servers, counts, ages, versions, and the sentences of the boxes' own health, which name no users or rooms.
//
//	/                            the boxes, trouble first
//	/box/NAME, /box/NAME/revoke  one box; turning it away or forgetting it, asked for twice
//	/pair                        a code to pair with, or one to take
//	/policy                      what the organisation says for all boxes
//	/updates                     the update files, and how far they are rolled out
//	/api/v1/...                  the same as JSON; see api.go
//
// Who gets in: whoever has the hub's token (Key), on the page for a session, in the API as a bearer token. All pages work without scripts, and none may run.
package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"slices"
	"time"

	"hallig/appliance/health"
	"hallig/appliance/policy"
	"hallig/sync/hub/api"
	"hallig/sync/hub/shelf"
)

// Box is how a box stands at its hub.
type Box struct {
	Server    string    `json:"server"`
	ID        string    `json:"id"`                // of its box key
	Mode      string    `json:"mode"`              // what the hub may do under its name, as the box has stated it and the hub does not decline: sealed or delegate
	Key       string    `json:"key,omitempty"`     // id of the second key of the box's name that this hub holds and may sign with; "": none
	Revoked   string    `json:"revoked,omitempty"` // why it was turned away; "": it was not
	Added     time.Time `json:"added,omitzero"`
	Connected bool      `json:"connected"` // to this node
	Seen      time.Time `json:"seen,omitzero"`
	Way       string    `json:"way,omitempty"`     // by which it was in contact last: p2p, stick, or through another box: radio:NAME, relay:NAME or net:NAME
	Through   string    `json:"through,omitempty"` // how it is reached now, while it is not connected, in the same words; "": not at all
	Version   string    `json:"version,omitempty"`
	Said      Said      `json:"said,omitzero"` // what it said of itself at its last contact
	Behind    int       `json:"behind"`        // releases of its board that are newer, as far as this hub knows

	KeyUntil         time.Time `json:"key_until,omitzero"`         // end of its key document; zero: none is here
	CertificateUntil time.Time `json:"certificate_until,omitzero"` // end of the hub's certificate for its name
	NoCertificate    bool      `json:"no_certificate,omitempty"`   // the hub has none for its name

	Waiting []Queue `json:"waiting"` // for the box
	Letters []Queue `json:"letters"` // of the box, for other servers
	Full    float64 `json:"full"`    // how much of what the hub keeps for one box is used, 0 to 1
	Keys    Stock   `json:"keys"`    // one-time keys that the hub may give away
	Files   Files   `json:"files"`   // of the box, which this node gives while it is away

	State    health.State `json:"state"`
	Troubles []Trouble    `json:"troubles"` // worst first
}

// Said is what a box says of itself. It is kept as JSON beside its last contact.
type Said struct {
	State        health.State `json:"state,omitempty"`
	Sentence     string       `json:"sentence,omitempty"`
	SentenceDE   string       `json:"sentence_de,omitempty"`
	Clock        int64        `json:"clock,omitempty"` // the box's time at the contact, milliseconds since 1970
	ClockGood    bool         `json:"clock_good,omitempty"`
	ClockQuality string       `json:"clock_quality,omitempty"` // who vouches for it
	Board        string       `json:"board,omitempty"`         // "": it does not run from the image
	Release      int64        `json:"release,omitempty"`

	Update *api.UpdateState `json:"update,omitempty"` // where it is between two releases

	Policy        *int64 `json:"policy,omitempty"`         // serial of the one in force; 0: none; nil: it belongs to no organisation
	PolicyRefused string `json:"policy_refused,omitempty"` // why the last one was not taken
}

// ReadSaid reads it; what cannot be read says nothing.
func ReadSaid(raw json.RawMessage) Said {
	var s Said
	if json.Unmarshal(raw, &s) != nil {
		return Said{}
	}
	return s
}

// Queue is what waits between a box and one other server.
type Queue struct {
	Server string    `json:"server"` // the other one
	Count  int64     `json:"count"`  // transactions
	Bytes  int64     `json:"bytes"`
	Oldest time.Time `json:"oldest"`
	Why    string    `json:"why,omitempty"` // why the oldest letter is not through yet, as this node knows
}

// Stock counts one-time keys of a box.
type Stock struct {
	Devices int64 `json:"devices"` // that have some left
	Left    int64 `json:"left"`
	Given   int64 `json:"given"` // given away, as far as it is remembered
}

// Hub is how the hub itself does.
type Hub struct {
	Server    string    `json:"server"`
	Version   string    `json:"version"`
	ID        string    `json:"id"` // of its box key, for pairing
	Addresses []string  `json:"addresses"`
	World     string    `json:"world"`
	Started   time.Time `json:"started"`
	DiskFree  int64     `json:"disk_free"` // bytes, where its data lies; 0 with DiskSize 0: not known
	DiskSize  int64     `json:"disk_size"`
	Counts    Counts    `json:"since_start"`
	Roster    *Roster   `json:"roster,omitempty"` // nil: the hub knows no root
	Copies    Copies    `json:"copies"`
	Files     Files     `json:"files"` // of all boxes, at this node

	Troubles []Trouble `json:"troubles"`
}

// Roster is the list of the fleet's boxes that the organisation's root has signed.
type Roster struct {
	Serial   uint64    `json:"serial"`          // 0: none has come yet
	Issued   time.Time `json:"issued,omitzero"` // by the clock of whoever signed it
	Boxes    int64     `json:"boxes"`
	Revoked  int64     `json:"revoked"`
	Missing  int64     `json:"missing"`   // boxes of this hub that it does not list
	NotTaken int64     `json:"not_taken"` // since the start: what somebody brought and the root has not signed
}

// Counts are what happened since the start.
type Counts struct {
	Taken      int64 `json:"taken"`       // transactions put into the spool
	Delivered  int64 `json:"delivered"`   // taken by boxes
	Refused    int64 `json:"refused"`     // with a wrong signature or form, or by a box for good
	Full       int64 `json:"full"`        // turned back because they could not be kept
	SentOut    int64 `json:"sent_out"`    // requests of boxes to other servers
	TurnedAway int64 `json:"turned_away"` // requests for boxes that were revoked
	TooMuch    int64 `json:"too_much"`    // deposits of boxes beyond what is kept for one box
	Crowded    int64 `json:"crowded"`     // connections at the world's port for which no place was left
	Carried    int64 `json:"carried"`     // bytes between boxes that do not reach each other
	Circuits   int   `json:"circuits"`    // open now, for such boxes
}

// Copies are how this node's copies of the boxes' rooms do.
type Copies struct {
	Rooms  int   `json:"rooms"`  // that are here
	Behind int   `json:"behind"` // that boxes have listed and that are not here, or not as far as the boxes have said
	Events int64 `json:"events"`
	Bytes  int64 `json:"bytes"` // of their database
	Full   bool  `json:"full"`  // no more is copied, for want of disk

	Answered int64 `json:"answered"` // questions about them since the start
	Unknown  int64 `json:"unknown"`  // to which the answer was not here, or not for the one who asked
}

// Files counts files of boxes.
type Files struct {
	Count int64 `json:"count"`
	Bytes int64 `json:"bytes"`
	Full  bool  `json:"full,omitempty"` // of all: no more are kept, for want of disk
}

// State is the hub with all its boxes.
type State struct {
	Hub   Hub   `json:"hub"`
	Boxes []Box `json:"boxes"` // trouble first

	Updates []shelf.File `json:"updates"`
	Policy  *Policy      `json:"policy,omitempty"` // nil: there is none
}

// Policy is what the organisation says for all its boxes.
type Policy struct {
	Serial   int64           `json:"serial"`
	Name     string          `json:"name,omitempty"`
	Settings policy.Settings `json:"settings"`
	SignedBy string          `json:"signed_by"`
	Trusted  bool            `json:"trusted"` // that is the organisation's key, as the hub was told
}

// Code is a pairing code.
type Code struct {
	Code    string    `json:"code"`
	Expires time.Time `json:"expires"`
}

// Refusal is why something is not done, with the next step, for people.
type Refusal = shelf.Refusal

func refuse(de, en string) error { return &Refusal{Sentence: say(de, en)} }

// Options are what the pages show and do; all are required but Log.
type Options struct {
	Server string // the hub's own name
	Key    *Key
	Shelf  *shelf.Shelf

	SetPolicy func(io.Reader) (*Policy, error)
	State     func(context.Context) (State, error)
	Show      func() (Code, error)                                         // a pairing code
	Take      func(ctx context.Context, code, address string) (Box, error) // the one that a box shows
	Revoke    func(ctx context.Context, box, reason string, forget bool) error
	Now       func() time.Time
	Log       *slog.Logger
}

// rank orders boxes: trouble first, those that were turned away last.
func (b Box) rank() int {
	if b.Revoked != "" {
		return 3
	}
	return 2 - slices.Index([]health.State{health.OK, health.Look, health.Trouble}, b.State)
}

func order(boxes []Box) {
	slices.SortFunc(boxes, func(a, b Box) int { return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.Server, b.Server)) })
}
