// SPDX-License-Identifier: EUPL-1.2

// Package recon finds out what two boxes lack of each other after silence. It holds log vectors (how far somebody has
// each log), frontiers (two small fingerprints of a room, to notice that equal vectors do not mean equal rooms), and
// the greeting (Hello) that carries both over a link. Where logs agree and events do not, because one of the two has lost
// something or was lied to, the two audit each other (Audit) and find the difference by a rateless sketch (Sketch). It is
// pure: it knows no store and no link.
//
// A log is what one box took in first in one room, numbered from 1 without holes, under one epoch. An epoch is drawn
// anew whenever a box may have forgotten numbers it gave away, so a number is never used for two events.
package recon

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"hallig/appliance/event"
)

// Box is a box as logs name it on the wire: the first eight bytes of its key.
type Box [8]byte

// Room is a room as the wire names it between boxes that both know it: the first eight bytes of the SHA-256 of its id.
type Room [8]byte

// RoomOf gives the wire name of a room.
func RoomOf(id event.RoomID) (r Room) {
	sum := sha256.Sum256([]byte(id))
	copy(r[:], sum[:])
	return r
}

// Log names one log.
type Log struct {
	Room  Room
	Box   Box
	Epoch uint32
}

// Compare orders logs: by room, box, epoch.
func (l Log) Compare(o Log) int {
	return cmp.Or(slices.Compare(l.Room[:], o.Room[:]), slices.Compare(l.Box[:], o.Box[:]), cmp.Compare(l.Epoch, o.Epoch))
}

// Vector says up to which number somebody is done with each log. A log that is not in it is at 0.
type Vector map[Log]uint64

// Range is a stretch of a log: the numbers after After up to and including UpTo.
type Range struct {
	Log         Log
	After, UpTo uint64
}

// Lacks lists what a holder of have lacks of what a holder of full has, in the order of the logs.
func Lacks(have, full Vector) []Range {
	var out []Range
	for l, top := range full {
		if got := have[l]; got < top {
			out = append(out, Range{Log: l, After: got, UpTo: top})
		}
	}
	slices.SortFunc(out, func(a, b Range) int { return a.Log.Compare(b.Log) })
	return out
}

// Covers says whether a holder of v has everything that a holder of o has.
func (v Vector) Covers(o Vector) bool {
	for l, top := range o {
		if v[l] < top {
			return false
		}
	}
	return true
}

// Raise moves one log up; it never moves down. It says whether it moved.
func (v Vector) Raise(l Log, to uint64) bool {
	if v[l] >= to {
		return false
	}
	v[l] = to
	return true
}

// Frontier is what two boxes compare when their vectors are equal. Heads is a fingerprint of the forward extremities:
// two boxes without gaps and with equal extremities hold the same graph. State is one of the current state.
// 32 bits each: a chance match hides a divergence until the next event changes the heads.
type Frontier struct {
	Heads, State uint32
}

// FrontierOf computes the fingerprints; the order of the ids does not matter.
func FrontierOf(heads, state []event.ID) Frontier {
	return Frontier{Heads: fingerprint(heads), State: fingerprint(state)}
}

// fingerprint adds the ids' hashes, so that the order does not matter; ids are hashes already, but room versions 1
// and 2 let servers choose them, so each is hashed once more.
func fingerprint(ids []event.ID) uint32 {
	var sum uint32
	for _, id := range ids {
		h := sha256.Sum256([]byte(id))
		sum += binary.BigEndian.Uint32(h[:])
	}
	return sum
}
