// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A fleet is the boxes of one organisation as its root key has signed them: who belongs to it, and who was lost. The root's private key is kept offline; every box of the fleet knows the public one from
// its provisioning. Layout, all integers as uvarints:
//
//	"HF" version(1) root(32) serial issued n { statement-length statement label-length label }* m { boxkey(32) server-length server reason-length reason }* signature(64)
//
// Boxes are strictly ascending by box key, and so are those that were revoked, so that one content has one form. The signature is Ed25519 over a context string and all that precedes it. Of two rosters the
// one with the greater serial counts; Issued is for people, as clocks in the field are not to be believed.
const (
	fleetContext = "hallig fleet roster 1\x00"
	fleetMagic   = "HF\x01"
	// MaxFleet bounds a roster in bytes.
	MaxFleet   = 1 << 20
	maxMembers = 4096
	maxReason  = 64
)

// Fleet is a roster that a root has signed.
type Fleet struct {
	Root    ed25519.PublicKey
	Serial  uint64 // of two rosters the greater one counts; 0: there is none
	Issued  int64  // seconds since 1970, by the clock of whoever signed it
	Boxes   []Member
	Revoked []Revocation
}

// Member is a box of a fleet, with the statement that it had made when the roster was signed.
type Member struct {
	Peer
	Label string // what is written on it; may be empty
}

// Revocation says that a box was lost: whoever has its keys is nobody's friend any more.
type Revocation struct {
	ID     ID
	Server string // whose name it had
	Reason string
}

// Member finds a box of the fleet.
func (f Fleet) Member(id ID) (Member, bool) {
	for _, m := range f.Boxes {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// Revocation finds a box that was lost.
func (f Fleet) Revocation(id ID) (Revocation, bool) {
	for _, r := range f.Revoked {
		if r.ID == id {
			return r, true
		}
	}
	return Revocation{}, false
}

// SignFleet signs a roster. Root and the order of f do not count.
func SignFleet(root crypto.Signer, f Fleet) ([]byte, error) {
	public, ok := root.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("sign roster: not an Ed25519 key")
	}
	f.Root = public
	f.Boxes, f.Revoked = slices.Clone(f.Boxes), slices.Clone(f.Revoked)
	slices.SortFunc(f.Boxes, func(a, b Member) int { return bytes.Compare(a.BoxKey, b.BoxKey) })
	keys := make(map[ID]ed25519.PublicKey, len(f.Revoked))
	for _, r := range f.Revoked {
		key, err := r.ID.Key()
		if err != nil {
			return nil, fmt.Errorf("sign roster: revoked box %q: %w", r.ID, err)
		}
		keys[r.ID] = key
	}
	slices.SortFunc(f.Revoked, func(a, b Revocation) int { return bytes.Compare(keys[a.ID], keys[b.ID]) })
	out := append([]byte(fleetMagic), f.Root...)
	out = binary.AppendUvarint(out, f.Serial)
	out = binary.AppendUvarint(out, uint64(max(f.Issued, 0)))
	out = binary.AppendUvarint(out, uint64(len(f.Boxes)))
	for _, m := range f.Boxes {
		out = appendText(appendText(out, string(m.Statement)), m.Label)
	}
	out = binary.AppendUvarint(out, uint64(len(f.Revoked)))
	for _, r := range f.Revoked {
		out = appendText(appendText(append(out, keys[r.ID]...), r.Server), r.Reason)
	}
	signature, err := root.Sign(nil, append([]byte(fleetContext), out...), crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("sign roster: %w", err)
	}
	out = append(out, signature...)
	if _, err := ReadFleet(out, f.Root); err != nil {
		return nil, fmt.Errorf("sign roster: %w", err)
	}
	return out, nil
}

// ReadFleet verifies a roster and gives what it says. root is whose signature counts; nil: that of whoever is named in it, for tools that only show it.
func ReadFleet(b []byte, root ed25519.PublicKey) (Fleet, error) {
	f, err := readFleet(b, root)
	if err != nil {
		return Fleet{}, fmt.Errorf("read roster: %w", err)
	}
	return f, nil
}

// ErrOtherRoot says that a roster is another organisation's.
var ErrOtherRoot = errors.New("it is signed by another root")

func readFleet(b []byte, root ed25519.PublicKey) (f Fleet, err error) {
	rest, ok := bytes.CutPrefix(b, []byte(fleetMagic))
	switch {
	case len(b) > MaxFleet:
		return f, errors.New("too long")
	case !ok || len(rest) < ed25519.PublicKeySize+ed25519.SignatureSize:
		return f, errors.New("not a roster of this version")
	}
	f.Root = bytes.Clone(rest[:ed25519.PublicKeySize])
	if root != nil && !root.Equal(f.Root) {
		return f, ErrOtherRoot
	}
	cut := len(b) - ed25519.SignatureSize
	if !ed25519.Verify(f.Root, append([]byte(fleetContext), b[:cut]...), b[cut:]) { // before anything else is looked at
		return f, errors.New("signature is not the root's")
	}
	r := reader{b: b[len(fleetMagic)+ed25519.PublicKeySize : cut]}
	f.Serial = r.uvarint()
	issued := r.uvarint()
	if f.Serial == 0 || issued > 1<<40 {
		return f, errors.New("serial or date is none")
	}
	f.Issued = int64(issued)
	if f.Boxes, err = readMembers(&r); err != nil {
		return f, err
	}
	if f.Revoked, err = readRevoked(&r, f); err != nil {
		return f, err
	}
	if r.bad || len(r.b) != 0 {
		return f, errors.New("wrong length")
	}
	return f, nil
}

func readMembers(r *reader) (out []Member, err error) {
	n := r.uvarint()
	if n > maxMembers {
		return nil, errors.New("too many boxes")
	}
	servers := make(map[string]bool)
	for range n {
		m := Member{}
		statement := r.text(maxStatement)
		m.Label = r.text(maxName)
		if r.bad {
			return nil, errors.New("wrong length")
		}
		if m.Peer, err = ReadStatement([]byte(statement)); err != nil {
			return nil, err
		}
		switch {
		case len(out) > 0 && bytes.Compare(out[len(out)-1].BoxKey, m.BoxKey) >= 0:
			return nil, errors.New("boxes out of order")
		case servers[m.Server]:
			return nil, fmt.Errorf("two boxes are called %s", m.Server)
		case !plain(m.Label):
			return nil, errors.New("a label is not plain text")
		}
		servers[m.Server] = true
		out = append(out, m)
	}
	return out, nil
}

func readRevoked(r *reader, f Fleet) (out []Revocation, err error) {
	n := r.uvarint()
	if n > maxMembers {
		return nil, errors.New("too many revoked boxes")
	}
	members := make(map[ID]bool, len(f.Boxes))
	for _, m := range f.Boxes {
		members[m.ID] = true
	}
	var last []byte
	for range n {
		key := r.bytes(ed25519.PublicKeySize)
		v := Revocation{ID: IDOf(key), Server: r.text(maxServer), Reason: r.text(maxReason)}
		switch {
		case r.bad || bytes.Compare(last, key) >= 0:
			return nil, errors.New("revoked boxes out of order")
		case members[v.ID]:
			return nil, fmt.Errorf("%s belongs to the fleet and is revoked", v.Server)
		case !validServer(v.Server) || !plain(v.Reason):
			return nil, errors.New("a revocation is not plain text")
		}
		last = key
		out = append(out, v)
	}
	return out, nil
}

func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// FormatMember writes a box as a line from which a roster can be signed: server name; label; statement in base64.
func FormatMember(m Member) string {
	return m.Server + "; " + strings.ReplaceAll(m.Label, ";", ",") + "; " + base64.StdEncoding.EncodeToString(m.Statement)
}

// ParseMember reads such a line. What counts is the statement; the name before it must be the same.
func ParseMember(line string) (Member, error) {
	part := strings.Split(line, ";")
	if len(part) != 3 {
		return Member{}, errors.New("read box: want SERVER; LABEL; STATEMENT")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(part[2]))
	if err != nil {
		return Member{}, errors.New("read box: the statement is not base64; was the line cut off?")
	}
	p, err := ReadStatement(raw)
	if err != nil {
		return Member{}, err
	}
	if server := strings.TrimSpace(part[0]); server != p.Server {
		return Member{}, fmt.Errorf("read box: the line says %s, the box itself says %s", server, p.Server)
	}
	return Member{Peer: p, Label: strings.TrimSpace(part[1])}, nil
}
