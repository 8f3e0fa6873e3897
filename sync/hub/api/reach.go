// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Paths for what a hub has for a box that only another box reaches; see sync/hub/ferry. What travels is sealed, and no JSON.
const (
	// FerryPath and the box's name, escaped, are the box's in between: POST a sealed Play, answered with what the box answered. 502 with Unreachable: that one is not in reach. A box that does not
	// know the path answers 404.
	FerryPath = "/_hallig/hub/v1/ferry/"
	// FerriedPath is the far box's, over the link between boxes: POST a sealed Play, answered with a sealed Answer.
	FerriedPath = "/_hallig/hub/v1/ferried"
)

// FerryMost bounds a sealed Play, FerryAnswer a sealed Answer, in bytes.
const (
	FerryMost   = 1 << 20
	FerryAnswer = 256 << 10
)

// Reach lists the boxes to which a box has a line now, by which the hub may have something handed on. It takes the place of what the box said before, and ends with its connection to the hub.
type Reach struct {
	Boxes []Reached `json:"boxes"`
}

// Reached is one of them.
type Reached struct {
	Server string `json:"server"`
	Rate   int    `json:"rate"` // bit/s
	Way    string `json:"way"`  // ByRadio, ByRelay or ByNet
}

// Ways between boxes.
const (
	ByRadio = "radio" // a line between the two
	ByRelay = "relay" // sealed, over boxes in between
	ByNet   = "net"   // an IP network from which the far one does not reach the hub
)

// MaxReach bounds a Reach, in boxes.
const MaxReach = 256

// ReadReach reads a Reach and refuses what no box says.
func ReadReach(raw []byte) (Reach, error) {
	var l Reach
	if len(raw) > MaxReach*400 {
		return l, errors.New("read reach: too long")
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return l, fmt.Errorf("read reach: %w", err)
	}
	if len(l.Boxes) > MaxReach {
		return l, fmt.Errorf("read reach: more than %d boxes", MaxReach)
	}
	for _, b := range l.Boxes {
		if b.Server == "" || len(b.Server) > 255 || b.Rate <= 0 || b.Way != ByRadio && b.Way != ByRelay && b.Way != ByNet {
			return l, fmt.Errorf("read reach: %.40q by %.20q at %d bit/s is no line that there is", b.Server, b.Way, b.Rate)
		}
	}
	return l, nil
}
