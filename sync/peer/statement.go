// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// A statement binds what a box is called and signs with to its box key. Layout, all integers as uvarints:
//
//	"HS" version(1) boxkey(32) serial server-length server name-length name n { keyid-length keyid key(32) }* signature(64)
//
// Key ids are strictly ascending, so one content has one form. The signature is Ed25519 over a context string and all
// that precedes it. Serial grows with each statement of a box: there is no clock to tell which one is newer.
const (
	statementContext = "hallig box statement 1\x00"
	statementMagic   = "HS\x01"
	maxServer        = 230
	maxName          = 64
	maxSigningKeys   = 16
	maxStatement     = 4096
)

// State makes the signed statement of the box that owns the private key. Of p only Server, Name, SigningKeys and
// Serial count.
func State(box ed25519.PrivateKey, p Peer) ([]byte, error) {
	if len(box) != ed25519.PrivateKeySize {
		return nil, errors.New("make statement: not an Ed25519 private key")
	}
	if err := checkNames(p.Server, p.Name, len(p.SigningKeys)); err != nil {
		return nil, fmt.Errorf("make statement: %w", err)
	}
	b := append([]byte(statementMagic), box.Public().(ed25519.PublicKey)...)
	b = binary.AppendUvarint(b, p.Serial)
	b = appendText(b, p.Server)
	b = appendText(b, p.Name)
	b = binary.AppendUvarint(b, uint64(len(p.SigningKeys)))
	for _, id := range slices.Sorted(maps.Keys(p.SigningKeys)) {
		key := p.SigningKeys[id]
		if len(key) != ed25519.PublicKeySize || !validKeyID(id) {
			return nil, fmt.Errorf("make statement: signing key %q is not an Ed25519 key", id)
		}
		b = append(appendText(b, id), key...)
	}
	return append(b, ed25519.Sign(box, append([]byte(statementContext), b...))...), nil
}

// ReadStatement verifies a statement and gives the box it tells of.
func ReadStatement(b []byte) (Peer, error) {
	p, err := readStatement(b)
	if err != nil {
		return Peer{}, fmt.Errorf("read statement: %w", err)
	}
	return p, nil
}

func readStatement(b []byte) (Peer, error) {
	var p Peer
	if len(b) > maxStatement {
		return p, errors.New("too long")
	}
	rest, ok := bytes.CutPrefix(b, []byte(statementMagic))
	if !ok || len(rest) < ed25519.PublicKeySize+ed25519.SignatureSize {
		return p, errors.New("not a statement of this version")
	}
	cut := len(b) - ed25519.SignatureSize
	p.BoxKey = bytes.Clone(rest[:ed25519.PublicKeySize])
	p.ID = IDOf(p.BoxKey)
	p.Statement = bytes.Clone(b)
	r := reader{b: b[len(statementMagic)+ed25519.PublicKeySize : cut]}
	p.Serial = r.uvarint()
	p.Server = r.text(maxServer)
	p.Name = r.text(maxName)
	n := r.uvarint()
	if n > maxSigningKeys {
		return p, errors.New("too many signing keys")
	}
	p.SigningKeys = make(map[string]ed25519.PublicKey, n)
	last := ""
	for range n {
		id := r.text(maxName)
		key := r.bytes(ed25519.PublicKeySize)
		if r.bad || id <= last || !validKeyID(id) {
			return p, errors.New("signing keys out of order")
		}
		p.SigningKeys[id] = ed25519.PublicKey(bytes.Clone(key))
		last = id
	}
	if r.bad || len(r.b) != 0 {
		return p, errors.New("wrong length")
	}
	if err := checkNames(p.Server, p.Name, len(p.SigningKeys)); err != nil {
		return p, err
	}
	if !ed25519.Verify(p.BoxKey, append([]byte(statementContext), b[:cut]...), b[cut:]) {
		return p, errors.New("signature is not the box key's")
	}
	return p, nil
}

// Renew takes a newer statement of a box already known. The box key and the server name must be the same: a server
// name is fixed at first boot, so another one under the same key is a fault or a theft.
func (p Peer) Renew(statement []byte) (Peer, error) {
	n, err := ReadStatement(statement)
	switch {
	case err != nil:
		return p, err
	case n.ID != p.ID:
		return p, fmt.Errorf("renew peer %s: statement is of box %s", p.ID.Short(), n.ID.Short())
	case n.Server != p.Server:
		return p, fmt.Errorf("renew peer %s: server name changed from %q to %q", p.ID.Short(), p.Server, n.Server)
	case n.Serial < p.Serial:
		return p, fmt.Errorf("renew peer %s: statement %d is older than %d", p.ID.Short(), n.Serial, p.Serial)
	}
	return n, nil
}

func checkNames(server, name string, keys int) error {
	switch {
	case server == "" || len(server) > maxServer || !validServer(server):
		return fmt.Errorf("%q is not a server name", server)
	case len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("the name is longer than 64 bytes or not plain text")
	case keys == 0 || keys > maxSigningKeys:
		return fmt.Errorf("%d signing keys; 1 to %d are possible", keys, maxSigningKeys)
	}
	return nil
}

// validServer keeps out what could not be a server name; the grammar itself is appliance/event's.
func validServer(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && strings.IndexByte("-.:[]", c) < 0 {
			return false
		}
	}
	return s != ""
}

// validKeyID wants "ed25519:" and a version of letters, digits and "_", or unpadded base64 as some servers use.
func validKeyID(id string) bool {
	version, ok := strings.CutPrefix(id, "ed25519:")
	if !ok || version == "" {
		return false
	}
	for _, c := range []byte(version) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && strings.IndexByte("_+/", c) < 0 {
			return false
		}
	}
	return true
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader takes values off a byte string; after the first that is not there, bad is set and zero values come.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 { // a longer form than needed would give one statement two forms
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) text(limit uint64) string {
	n := r.uvarint()
	if n > limit {
		r.bad = true
		return ""
	}
	return string(r.bytes(int(n)))
}
