// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"crypto/ed25519"
	"net"
	"net/http"

	"hallig/appliance/event"
)

// Local is one server identity: the name, the key that signs for it, and the keys that did.
type Local struct {
	Server string
	Key    event.Key
	// Old are retired keys by key id: others still verify with them what was signed in their time.
	Old map[string]OldKey
	// Delegated is a second key that signs for the server and is held by somebody else whom it trusts; an empty ID: there is none.
	Delegated DelegatedKey
	// At is the name, with or without port, under which others find the server when Server itself does not lead to it; "": nothing is published.
	At string
}

// DelegatedKey is the public half of a key that is held by somebody else.
type DelegatedKey struct {
	ID  string // "ed25519:hub_abc"
	Key ed25519.PublicKey
}

// Locals finds the identity behind a name that others address, so that one handler, client and key ring can serve several. The
// empty name asks for the identity that is meant by requests that name none, such as those of servers that are older than the
// destination in X-Matrix; there need not be one.
// A function of this type is asked for each request: identities may come and go. Safe for concurrent use.
type Locals func(name string) (Local, bool)

// Only is the one identity of a process that has no others.
func Only(l Local) Locals {
	return func(name string) (Local, bool) { return l, name == "" || name == l.Server }
}

// has says whether a name is one of ours.
func (ls Locals) has(name string) bool {
	if name == "" {
		return false
	}
	_, ok := ls(name)
	return ok
}

// addressed finds the identity that a request without a destination is for: by the Host, with and without its port, or else the one that needs no name.
func (ls Locals) addressed(r *http.Request) (Local, bool) {
	if r.Host != "" {
		if l, ok := ls(r.Host); ok {
			return l, true
		}
		if host, _, err := net.SplitHostPort(r.Host); err == nil {
			if l, ok := ls(host); ok {
				return l, true
			}
		}
	}
	return ls("")
}
