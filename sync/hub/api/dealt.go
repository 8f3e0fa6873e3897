// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// This file is how a box says which of the requests that waited for it at its hub it has dealt with, when they came by a way on which the hub does not see each answer: a stick, a radio. The way proves who says it.

// Dealt is what a box has dealt with: taken in, or refused for good. Places are those of the hub's memory of that epoch, and rise within what one server has sent.
type Dealt struct {
	Epoch string      `json:"epoch"`
	From  []DealtFrom `json:"from"`
}

// DealtFrom is how far a box is with what one server has sent.
type DealtFrom struct {
	From    string         `json:"from"`
	Through int64          `json:"through"`           // all up to this place; the hub forgets them
	Refused []DealtRefusal `json:"refused,omitempty"` // those among them that the box has refused for good
}

// DealtRefusal is the box's answer to a request that it has refused.
type DealtRefusal struct {
	Place  int64  `json:"place"`
	Status int    `json:"status"`
	Text   string `json:"text"` // at most PlayText bytes
}

// Bounds of a Dealt.
const (
	MaxDealt        = 4 << 20 // bytes
	maxDealtServers = 10_000
	MaxDealtRefused = 1000 // of all servers together; of more the hub only hears that they are dealt with
)

// ReadDealt reads a Dealt.
func ReadDealt(raw []byte) (Dealt, error) {
	var d Dealt
	if len(raw) > MaxDealt {
		return d, errors.New("read what a box has dealt with: too long")
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return Dealt{}, fmt.Errorf("read what a box has dealt with: %w", err)
	}
	if err := d.check(); err != nil {
		return Dealt{}, fmt.Errorf("read what a box has dealt with: %w", err)
	}
	return d, nil
}

func (d Dealt) check() error {
	if len(d.From) > 0 && !named(d.Epoch) || len(d.Epoch) > maxName || len(d.From) > maxDealtServers {
		return fmt.Errorf("%d servers, in the memory %.20q", len(d.From), d.Epoch)
	}
	refused := 0
	for _, f := range d.From {
		if !named(f.From) || f.Through < 0 {
			return errors.New("a server has no name, or less than nothing of it is dealt with")
		}
		if refused += len(f.Refused); refused > MaxDealtRefused {
			return fmt.Errorf("more than %d refusals", MaxDealtRefused)
		}
		for _, r := range f.Refused {
			if r.Place < 1 || r.Place > f.Through || len(r.Text) > PlayText {
				return errors.New("a refusal is of nothing that is dealt with, or too long")
			}
		}
	}
	return nil
}

const inviteURI = "/_matrix/federation/v2/invite/"

// Settled says whether a box's answer to a request that waited for it ends the matter: it has taken it in, or refuses it in its own words for what is in it, and always will. All else may be the box, its clock or a key that it
// lacks, and passes.
func Settled(uri string, status int, text []byte) bool {
	switch status {
	case 200:
		return true
	case 400, 413:
		return Considered(text)
	case 403, 404:
		return strings.HasPrefix(uri, inviteURI) && Considered(text)
	}
	return false
}
