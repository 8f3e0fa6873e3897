// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"hallig/appliance/event"
)

// This file is about a second key in a server's key document, which somebody else holds and signs with under the server's name. Servers take a document only when all keys that it lists as
// current have signed it. So it goes to the holder and comes back signed before anybody else sees it, and until then the one before it, or one without that key, is shown.

// cosignedLeft is for how long a document that both have signed must still be good; with less, and the holder out of reach, one without the holder's key takes its place.
const cosignedLeft = ownValidity / 2

// Proposal gives a document of l for the holder of its delegated key to sign; nil: the one that both have signed is good for now.
func (r *KeyRing) Proposal(l Local) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.Delegated.ID == "" {
		return nil, nil
	}
	now := r.c.Now()
	last, err := r.lastOwn(l)
	if err != nil {
		return nil, err
	}
	if last.current(l) && last.delegates(l) && r.fresh(last, now) {
		return nil, nil
	}
	d, err := r.signedNow(l, last, now, true)
	return d.json, err
}

// Cosigned takes a proposal back that the holder has signed. Only a document that says what the proposal says, with good signatures of both keys, becomes ours.
func (r *KeyRing) Cosigned(l Local, proposal, signed []byte) error {
	if _, err := readDocument(signed, sourceOwn, 0); err != nil {
		return fmt.Errorf("cosigned key document: %w", err)
	}
	var before, after keyDocument
	if err := errors.Join(json.Unmarshal(proposal, &before), json.Unmarshal(signed, &after)); err != nil {
		return fmt.Errorf("cosigned key document: %w", err)
	}
	d := ownDocument{json: signed, at: r.c.Now(), until: after.ValidUntilTS, keys: after}
	// Our own signature covers all of it, so it is something that we have signed; it must be this.
	if after.ServerName != l.Server || after.ValidUntilTS != before.ValidUntilTS || !maps.Equal(after.VerifyKeys, before.VerifyKeys) || !maps.Equal(after.OldVerifyKeys, before.OldVerifyKeys) ||
		!d.current(l) || !d.delegates(l) {
		return errors.New("cosigned key document: it is not the one that was proposed")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keepOwn(l, d)
	return nil
}

// Cosign signs another server's key document with the key of ours that it delegates to. It is refused unless the document lists that very key as current, and with the signature is good as a whole.
func Cosign(doc []byte, server string, k event.Key) ([]byte, error) {
	if len(doc) > maxKeyDoc {
		return nil, errors.New("cosign key document: too long")
	}
	signed, err := event.SignJSON(doc, server, k)
	if err == nil {
		err = CheckDocument(signed, server)
	}
	if err != nil {
		return nil, fmt.Errorf("cosign key document: %w", err)
	}
	var d keyDocument
	if json.Unmarshal(signed, &d) != nil || !lists(d, k) {
		return nil, errors.New("cosign key document: it does not list our key")
	}
	return signed, nil
}

// Delegates says whether a key document of a server, as it was checked before, lets k sign at that time.
func Delegates(doc []byte, server string, k event.Key, at time.Time) bool {
	var d keyDocument
	return json.Unmarshal(doc, &d) == nil && d.ServerName == server && lists(d, k) && millis(at) <= d.ValidUntilTS
}

// Retired says whether a key document of a server says that a key signs no more.
func Retired(doc []byte, keyID string) bool {
	var d keyDocument
	if json.Unmarshal(doc, &d) != nil {
		return false
	}
	_, old := d.OldVerifyKeys[keyID]
	return old
}

func lists(d keyDocument, k event.Key) bool {
	_, old := d.OldVerifyKeys[k.ID]
	return !old && d.VerifyKeys[k.ID].Key == base64.RawStdEncoding.EncodeToString(publicHalf(k))
}
