// SPDX-License-Identifier: EUPL-1.2

// Package event says what a Matrix event is: its canonical bytes, hashes, id, signatures and redacted form, for every
// room version, which are rows of one table (version.go).
//
// It promises that a PDU is immutable, that its bytes are canonical JSON whose hashes and limits the version prescribes, and that
// equal input gives equal bytes on every machine. It knows nothing of who may send what (package rules), of storage, or of clients.
//
// Bytes: JSON() is the event as servers exchange it, without "unsigned", keys sorted, shortest escapes. Everything else is
// computed from those bytes: nothing is decoded into maps, fields are found by one pass over the text, and a hash covers ranges of it.
//
// Pure: values in, values out. All functions may be called concurrently.
package event

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
)

// MaxSize is the limit of a PDU in canonical form, including signatures.
// https://spec.matrix.org/v1.16/client-server-api/#size-limits
const MaxSize = 65536

// PDU is one event, immutable after Parse or Build. Fields are read-only by convention.
type PDU struct {
	Version  *Version
	ID       ID
	RoomID   RoomID // of a v12 create event: derived from its hash, not in its JSON
	Sender   UserID
	Type     string
	StateKey *string         // nil: not a state event
	Content  json.RawMessage // canonical, part of JSON()
	Prev     []ID
	Auth     []ID // as written in the event
	Depth    int64
	TS       int64 // origin_server_ts, milliseconds
	Redacts  ID    // of m.room.redaction only: top-level or in the content, as the version says
	Unsigned json.RawMessage

	json       []byte
	signatures span // of the signatures object in json; zero: none
	hashes     span
	key        string // what StateKey points to
	hashed     bool   // Parse has found the content hash right
}

type span struct{ from, to int }

// JSON is the event as sent to servers: canonical, without unsigned. The caller must not change it.
func (p *PDU) JSON() []byte { return p.json }

// IsState tells whether the event sets state.
func (p *PDU) IsState() bool { return p.StateKey != nil }

// Is tells whether the event is the state event of that type and key.
func (p *PDU) Is(typ, stateKey string) bool {
	return p.StateKey != nil && p.Type == typ && *p.StateKey == stateKey
}

// Hash is the reference hash: for versions 3 and later the bytes that the id spells. Zero if the id is not a hash.
func (p *PDU) Hash() [32]byte {
	var h [32]byte
	if id := string(p.ID); p.Version.eventIDs == idInEvent {
		_, msg, err := p.essential(nil)
		if err == nil {
			h = sum(msg)
		}
	} else if strings.HasPrefix(id, "$") {
		b, err := p.Version.idEncoding().DecodeString(id[1:])
		if err == nil && len(b) == len(h) {
			copy(h[:], b)
		}
	}
	return h
}

func (v *Version) idEncoding() *base64.Encoding {
	if v.eventIDs == idStandard {
		return base64.RawStdEncoding
	}
	return base64.RawURLEncoding
}

// ErrHash says that the content hash does not match: take the event as Redacted.
// https://spec.matrix.org/v1.16/server-server-api/#validating-hashes-and-signatures-on-received-events
var ErrHash = errors.New("content hash does not match")

// ErrTooLarge says that the event or one of its fields is over the limit.
var ErrTooLarge = errors.New("too large")
