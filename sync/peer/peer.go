// SPDX-License-Identifier: EUPL-1.2

// Package peer says who the other boxes are. It holds the names a box has (the id of its box key, its Matrix server
// name), the statement by which a box binds them together, the roster of paired boxes as a value, the pairing code that
// one box shows and another takes, and the handshakes: a password-authenticated exchange for pairing, Noise KK for
// paired boxes on links that bring no protection of their own.
//
// Everything here is values in, values out: randomness and time are handed in, files and sockets belong to others.
// Losing the box key makes another box; the Matrix signing key may change and is certified by the box key
// (Statement). Nothing here trusts a name that no box key has signed.
package peer

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base32"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ID names a box for ever: the text form of the libp2p peer id of its box key ("12D3KooW...").
type ID string

// idPrefix precedes the 32 key bytes in a peer id: multihash "identity" of 36 bytes that hold the libp2p protobuf of
// a public key (field 1: type Ed25519, field 2: 32 bytes).
// https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
var idPrefix = [6]byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}

// IDOf gives the id of a box key, "" if the key has not the length of an Ed25519 key.
func IDOf(box ed25519.PublicKey) ID {
	if len(box) != ed25519.PublicKeySize {
		return ""
	}
	return ID(encode58(append(idPrefix[:], box...)))
}

// Key gives the box key that the id spells out.
func (id ID) Key() (ed25519.PublicKey, error) {
	if len(id) > 64 {
		return nil, errors.New("read peer id: too long")
	}
	raw, err := decode58(string(id))
	if err != nil {
		return nil, fmt.Errorf("read peer id: %w", err)
	}
	if len(raw) != len(idPrefix)+ed25519.PublicKeySize || !bytes.Equal(raw[:len(idPrefix)], idPrefix[:]) {
		return nil, errors.New("read peer id: not the id of an Ed25519 key")
	}
	return ed25519.PublicKey(raw[len(idPrefix):]), nil
}

// Short is the id as a log or a page shows it: enough to tell a handful of boxes apart.
func (id ID) Short() string {
	if len(id) <= 8 {
		return string(id)
	}
	return string(id[len(id)-8:])
}

// Brief is the form of an id on the air where the reader holds a roster to find the rest: the first bytes of the key.
type Brief [8]byte

// Brief gives the brief form, zero for an id that is none.
func (id ID) Brief() (b Brief) {
	if key, err := id.Key(); err == nil {
		copy(b[:], key)
	}
	return b
}

// Initiates says which of two boxes speaks first in a handshake between them, so that both agree without a word.
func Initiates(self, far ID) bool { return self < far }

// DefaultServer is the Matrix server name of a box that nobody named: 16 characters of the box key under a domain that
// is reserved for private use and never resolves in public.
func DefaultServer(box ed25519.PublicKey) string {
	if len(box) != ed25519.PublicKeySize {
		return ""
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(box[:10])) + ".hallig.internal"
}

// Peer is another box as this one knows it. SigningKeys are its Matrix signing keys by key id ("ed25519:abc"), as its
// box key has stated them. Statement is that statement as it came, for those who want to pass it on.
type Peer struct {
	ID          ID
	Server      string
	Name        string // for people; may be empty
	BoxKey      ed25519.PublicKey
	SigningKeys map[string]ed25519.PublicKey
	Serial      uint64 // of the statement this was read from
	Statement   []byte
}

// Equal says whether two entries tell the same.
func (p Peer) Equal(o Peer) bool {
	return p.ID == o.ID && p.Server == o.Server && p.Name == o.Name && p.Serial == o.Serial && p.BoxKey.Equal(o.BoxKey) &&
		maps.EqualFunc(p.SigningKeys, o.SigningKeys, func(a, b ed25519.PublicKey) bool { return a.Equal(b) })
}

// Roster is the set of paired boxes. It is a value: With and Without leave the old one as it was, so a reader may keep
// one as long as it likes. The zero value is empty.
type Roster struct {
	byID     map[ID]Peer
	byServer map[string]ID
}

// NewRoster holds the given peers; of two with the same id or server name the later one stays.
func NewRoster(peers ...Peer) Roster {
	r := Roster{byID: make(map[ID]Peer, len(peers)), byServer: make(map[string]ID, len(peers))}
	for _, p := range peers {
		r.put(p)
	}
	return r
}

func (r Roster) put(p Peer) {
	if old, ok := r.byID[p.ID]; ok {
		delete(r.byServer, old.Server)
	}
	if other, ok := r.byServer[p.Server]; ok && other != p.ID {
		delete(r.byID, other)
	}
	r.byID[p.ID] = p
	r.byServer[p.Server] = p.ID
}

// With gives a roster that also holds p, in place of an older entry of the same box or of the same server name.
func (r Roster) With(p Peer) Roster { return NewRoster(append(r.All(), p)...) }

// Without gives a roster that lacks the box.
func (r Roster) Without(id ID) Roster {
	return NewRoster(slices.DeleteFunc(r.All(), func(p Peer) bool { return p.ID == id })...)
}

// ByID finds a box by its id.
func (r Roster) ByID(id ID) (Peer, bool) {
	p, ok := r.byID[id]
	return p, ok
}

// ByServer finds the box that owns a Matrix server name.
func (r Roster) ByServer(server string) (Peer, bool) {
	id, ok := r.byServer[server]
	if !ok {
		return Peer{}, false
	}
	return r.byID[id], true
}

// ByBrief finds the one box with that brief id; none if two would fit.
func (r Roster) ByBrief(b Brief) (Peer, bool) {
	var found Peer
	n := 0
	for id, p := range r.byID {
		if id.Brief() == b {
			found = p
			n++
		}
	}
	return found, n == 1
}

// All lists the boxes in the order of their ids.
func (r Roster) All() []Peer {
	return slices.SortedFunc(maps.Values(r.byID), func(a, b Peer) int { return strings.Compare(string(a.ID), string(b.ID)) })
}

// Len counts the boxes.
func (r Roster) Len() int { return len(r.byID) }
