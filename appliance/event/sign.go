// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Key is our signing key. ID is as in key documents: "ed25519:abc".
type Key struct {
	ID      string
	Private ed25519.PrivateKey
}

// Signature is one entry of a signatures object. Sig is nil if it does not decode.
type Signature struct {
	Server, KeyID string
	Sig           []byte
}

func sum(b []byte) [32]byte { return sha256.Sum256(b) }

// decode64 reads base64 with or without padding.
func decode64(s []byte) ([]byte, bool) {
	s = bytes.TrimRight(s, "=")
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(s)))
	n, err := base64.RawStdEncoding.Decode(out, s)
	return out[:n], err == nil
}

// without gives the canonical text of m without the named members.
func without(m *members, drop ...string) []byte {
	out := append(make([]byte, 0, len(m.b)), '{')
	for i := range m.list {
		if slices.Contains(drop, string(m.key(i))) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, m.b[m.list[i].key:m.list[i].end]...)
	}
	return append(out, '}')
}

// with gives the canonical text of m with the member key set to val.
func with(m *members, key string, val []byte) []byte {
	out := append(make([]byte, 0, len(m.b)+len(key)+len(val)+8), '{')
	put := func() {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(appendText(out, key), ':')
		out = append(out, val...)
	}
	done := false
	for i := range m.list {
		if !done {
			switch c := bytes.Compare(unescape(m.key(i)), []byte(key)); {
			case c > 0:
				put()
				done = true
			case c == 0:
				put()
				done = true
				continue
			}
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, m.b[m.list[i].key:m.list[i].end]...)
	}
	if !done {
		put()
	}
	return append(out, '}')
}

// CheckHash tells whether the content hash matches; if not, the error wraps ErrHash and the event must be taken as Redacted().
func (p *PDU) CheckHash() error {
	if p.hashed {
		return nil
	}
	var store [20]member
	m, ok := membersOf(p.json, p.Version.numbers(), store[:])
	if !ok {
		return fmt.Errorf("event %s has no content hash: %w", p.ID, ErrHash)
	}
	return p.hashIs(contentHash(&m))
}

// hashIs compares the hash that the event states with that of its content.
func (p *PDU) hashIs(got [32]byte) error {
	if p.hashes == (span{}) {
		return fmt.Errorf("event %s has no content hash: %w", p.ID, ErrHash)
	}
	val, _ := Field(p.json[p.hashes.from:p.hashes.to], "sha256")
	if len(val) < 2 || val[0] != '"' {
		return fmt.Errorf("event %s has no content hash: %w", p.ID, ErrHash)
	}
	want, ok := decode64(val[1 : len(val)-1])
	if !ok || subtle.ConstantTimeCompare(want, got[:]) != 1 {
		return fmt.Errorf("event %s: %w", p.ID, ErrHash)
	}
	return nil
}

// contentHash covers everything but hashes and signatures (unsigned is gone already).
// https://spec.matrix.org/v1.16/server-server-api/#calculating-the-content-hash-for-an-event
func contentHash(m *members) [32]byte { return sum(without(m, "hashes", "signatures", "unsigned")) }

// Signatures lists all signatures that the event carries.
func (p *PDU) Signatures() []Signature {
	if p.signatures == (span{}) {
		return nil
	}
	return listSignatures(p.json[p.signatures.from:p.signatures.to])
}

func listSignatures(obj []byte) (all []Signature) {
	Each(obj, func(server, keys []byte) bool {
		name := string(server)
		Each(keys, func(id, sig []byte) bool {
			s := Signature{Server: name, KeyID: string(id)}
			if text, ok := Text(sig); ok {
				if raw, ok := decode64([]byte(text)); ok {
					s.Sig = raw
				}
			}
			all = append(all, s)
			return true
		})
		return true
	})
	return all
}

// SignedBy names the servers that must have signed the event.
// https://spec.matrix.org/v1.16/server-server-api/#validating-hashes-and-signatures-on-received-events
func (p *PDU) SignedBy() []string {
	var servers []string
	add := func(s string) {
		if !slices.Contains(servers, s) {
			servers = append(servers, s)
		}
	}
	var membership, authorised string
	var thirdParty bool
	if p.Type == "m.room.member" && p.StateKey != nil {
		Each(p.Content, func(key, val []byte) bool {
			switch string(key) {
			case "membership":
				membership, _ = Text(val)
			case "join_authorised_via_users_server":
				authorised, _ = Text(val)
			case "third_party_invite":
				thirdParty = val[0] == '{'
			}
			return true
		})
	}
	// A third-party invite may be sent by another server than the inviter's: its proof is the token's signature, which the rules check.
	if membership != "invite" || !thirdParty {
		add(p.Sender.Server())
	}
	// Asked for by the rules, which see the event redacted if its hash is wrong; version 8 redacts the name away.
	if p.Version.Restricted && authorised != "" && (p.Version.keepAuthorised || p.CheckHash() == nil) {
		add(UserID(authorised).Server())
	}
	if p.Version.eventIDs == idInEvent {
		if _, server, ok := strings.Cut(string(p.ID), ":"); ok {
			add(server)
		}
	}
	return servers
}

// VerifySignature checks the signature of server under keyID. It covers the redacted form, so it holds for redacted copies as well.
func (p *PDU) VerifySignature(server, keyID string, pub ed25519.PublicKey) error {
	if p.signatures == (span{}) {
		return fmt.Errorf("event %s is not signed", p.ID)
	}
	sig, err := findSignature(p.json[p.signatures.from:p.signatures.to], server, keyID)
	if err != nil {
		return fmt.Errorf("event %s: %w", p.ID, err)
	}
	var store [20]member
	_, msg, err := p.essential(store[:])
	if err != nil {
		return err
	}
	if len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, msg, sig) {
		return fmt.Errorf("event %s: signature of %s with %s is wrong", p.ID, server, keyID)
	}
	return nil
}

func findSignature(obj []byte, server, keyID string) ([]byte, error) {
	keys, ok := Field(obj, server)
	if !ok {
		return nil, fmt.Errorf("not signed by %s", server)
	}
	val, ok := Field(keys, keyID)
	if !ok || len(val) < 2 || val[0] != '"' {
		return nil, fmt.Errorf("not signed by %s with %s", server, keyID)
	}
	sig, ok := decode64(val[1 : len(val)-1])
	if !ok {
		return nil, fmt.Errorf("signature of %s with %s is no base64", server, keyID)
	}
	return sig, nil
}

// addSignature puts one more signature into the text of a signatures object, which may be nil.
func addSignature(obj []byte, server, keyID string, sig []byte) []byte {
	entry := append(make([]byte, 0, 100), '"')
	entry = append(base64.RawStdEncoding.AppendEncode(entry, sig), '"')
	inner := func(obj []byte, key string, val []byte) []byte {
		if m, ok := membersOf(obj, verbatim, nil); ok {
			return with(&m, key, val)
		}
		m, _ := membersOf([]byte("{}"), verbatim, nil)
		return with(&m, key, val)
	}
	keys, _ := Field(obj, server)
	return inner(obj, server, inner(keys, keyID, entry))
}

// Sign adds one more signature: an invited server's, or that of the server that lets a user into a restricted room.
func (p *PDU) Sign(server string, k Key) (*PDU, error) {
	var store [20]member
	_, msg, err := p.essential(store[:])
	if err != nil {
		return nil, fmt.Errorf("sign event: %w", err)
	}
	return p.AddSignature(server, k.ID, ed25519.Sign(k.Private, msg))
}

// AddSignature adds a signature that another server made: that of a policy server. It is not checked here.
func (p *PDU) AddSignature(server, keyID string, sig []byte) (*PDU, error) {
	m, ok := membersOf(p.json, p.Version.numbers(), nil)
	if !ok {
		return nil, fmt.Errorf("sign event: %w", errNotObject)
	}
	old, _ := m.find("signatures")
	b := with(&m, "signatures", addSignature(old, server, keyID, sig))
	q, err := parse(p.Version, p.ID, b, false)
	if err != nil {
		return nil, fmt.Errorf("sign event: %w", err)
	}
	q.Unsigned = p.Unsigned
	return q, nil
}

var errNotObject = errors.New("not a JSON object")

// SignJSON gives the canonical form of obj with a signature of server added. signatures and unsigned are kept and not covered. Numbers
// are taken as they are written.
// https://spec.matrix.org/v1.16/appendices/#signing-details
func SignJSON(obj []byte, server string, k Key) ([]byte, error) {
	m, err := canonicalObject(obj)
	if err != nil {
		return nil, fmt.Errorf("sign JSON: %w", err)
	}
	old, _ := m.find("signatures")
	sig := ed25519.Sign(k.Private, without(&m, "signatures", "unsigned"))
	return with(&m, "signatures", addSignature(old, server, k.ID, sig)), nil
}

// VerifyJSON checks the signature of server under keyID.
// https://spec.matrix.org/v1.16/appendices/#checking-for-a-signature
func VerifyJSON(obj []byte, server, keyID string, pub ed25519.PublicKey) error {
	m, err := canonicalObject(obj)
	if err != nil {
		return fmt.Errorf("verify JSON: %w", err)
	}
	sigs, _ := m.find("signatures")
	sig, err := findSignature(sigs, server, keyID)
	if err != nil {
		return fmt.Errorf("verify JSON: %w", err)
	}
	if len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, without(&m, "signatures", "unsigned"), sig) {
		return fmt.Errorf("verify JSON: signature of %s with %s is wrong", server, keyID)
	}
	return nil
}

func canonicalObject(obj []byte) (members, error) {
	b, err := CanonicalLoose(obj)
	if err != nil {
		return members{}, err
	}
	m, ok := membersOf(b, verbatim, nil)
	if !ok {
		return m, errNotObject
	}
	return m, nil
}
