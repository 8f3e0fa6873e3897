// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
	"hallig/sync/identity"
)

// This file is about the second keys of boxes in the mode delegate: the hub makes one for each box, under a key id of its own, and signs with it once the box's key document, signed by the box, lists
// it. The secret half lies in the spool, encrypted under what is derived from the hub's box.key, which all nodes of a hub share: who has the database alone has no key.

// kindDelegated is the deposit with the hub's key for a box. It is the hub's own: a box cannot put it.
const kindDelegated = "delegated"

// keptKey is what lies in the spool.
type keptKey struct {
	ID     string `json:"id"`
	Sealed []byte `json:"sealed"` // AES-256-GCM with a random nonce in front, of the 32-byte seed
	Epoch  string `json:"epoch"`  // of the spool when the box last spoke of it: after an older copy was put back the key may have been retired
}

// keyLock is what the keys in the spool are encrypted under.
func (h *Hub) keyLock() (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, h.id.Box.Seed(), nil, "hallig-hub delegated keys 1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// keyOf gives the hub's key for a box, one without an id when there is none, and the epoch in which the box last spoke of it.
func (h *Hub) keyOf(ctx context.Context, box entry) (k event.Key, epoch string, err error) {
	raw, err := h.spool.Deposited(ctx, box.Server, kindDelegated, "")
	if raw == nil || err != nil {
		return k, "", err
	}
	var kept keptKey
	if err := json.Unmarshal(raw, &kept); err != nil {
		return k, "", fmt.Errorf("read the key for %s: %w", box.Server, err)
	}
	lock, err := h.keyLock()
	if err != nil {
		return k, "", err
	}
	seed, err := lock.Open(nil, nil, kept.Sealed, keyFor(box, kept.ID))
	if err != nil || len(seed) != ed25519.SeedSize {
		return k, "", fmt.Errorf("%w: %s", errOtherBoxKey, box.Server)
	}
	return event.Key{ID: kept.ID, Private: ed25519.NewKeyFromSeed(seed)}, kept.Epoch, nil
}

// errOtherBoxKey: the spool is of a hub with another box.key.
var errOtherBoxKey = errors.New("the key for a box in the spool does not open; it was kept by a hub with another box.key: put that back, or have the box take its key back with hallig key rotate")

// keyFor binds an encrypted key to its box and id.
func keyFor(box entry, id string) []byte {
	return []byte(box.Server + "\x00" + string(box.ID) + "\x00" + id)
}

// makeKey draws a key for a box, in place of the one before.
func (h *Hub) makeKey(ctx context.Context, box entry, epoch string) (event.Key, error) {
	k, err := identity.NewKeyCalled("hub_")
	if err != nil {
		return event.Key{}, err
	}
	if err := h.putKey(ctx, box, k, epoch); err != nil {
		return event.Key{}, err
	}
	h.log.Info("a box lets this hub sign in its name, once its key document lists the new key", "box", box.Server, "key", k.ID)
	k, _, err = h.keyOf(ctx, box) // another node may have made one at the same time: what is there counts
	return k, err
}

func (h *Hub) putKey(ctx context.Context, box entry, k event.Key, epoch string) error {
	lock, err := h.keyLock()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(keptKey{ID: k.ID, Sealed: lock.Seal(nil, nil, k.Private.Seed(), keyFor(box, k.ID)), Epoch: epoch})
	if err != nil {
		return err
	}
	return h.spool.Deposit(ctx, box.Server, kindDelegated, "", raw)
}

// modeOf is the mode in which a box is served that asks for one.
func (h *Hub) modeOf(asked string) spool.Mode {
	if asked == api.Delegate && !h.cfg.NoDelegate {
		return spool.Delegate
	}
	return spool.Sealed
}

// delegate does what a box says of its mode: a sealed one's key is forgotten; the other's is offered, and its proposal signed and kept as its key document.
func (h *Hub) delegate(ctx context.Context, from entry, c api.Contact) (*api.Delegated, error) {
	k, spoken, err := h.keyOf(ctx, from)
	if err != nil && !errors.Is(err, errOtherBoxKey) {
		return nil, err
	}
	if h.modeOf(c.Mode) == spool.Sealed {
		if k.ID == "" && err == nil {
			return nil, nil
		}
		h.log.Info("the hub forgets its key for a box", "box", from.Server, "key", k.ID)
		return nil, h.spool.Deposit(ctx, from.Server, kindDelegated, "", nil)
	}
	epoch, eerr := h.spool.Epoch(ctx)
	if eerr != nil {
		return nil, eerr
	}
	if err != nil || k.ID == "" || federation.Retired(c.KeyDocument, k.ID) {
		if err != nil && h.seldom.may("key of "+from.Server, h.now()) {
			h.log.Warn("the hub makes another key for a box", "box", from.Server, "err", err)
		}
		k, err = h.makeKey(ctx, from, epoch)
	} else if spoken != epoch {
		err = h.putKey(ctx, from, k, epoch)
	}
	if err != nil {
		return nil, err
	}
	pub, _ := k.Private.Public().(ed25519.PublicKey)
	out := &api.Delegated{ID: k.ID, Key: pub}
	if c.Proposal == nil {
		return out, nil
	}
	doc, err := federation.Cosign(c.Proposal, from.Server, k)
	if err != nil {
		h.log.Info("a box's next key document was not signed", "box", from.Server, "err", err)
		return out, nil // it knows the key now
	}
	if err := h.keepDocument(ctx, from, doc); err != nil {
		return nil, err
	}
	out.Document = doc
	return out, nil
}

// delegated gives the identity under which the hub may sign for a box: the box has stated that mode, in the present memory of the hub, and the key document that others are shown lists the hub's key.
// False: it may not.
func (h *Hub) delegated(ctx context.Context, server string) (federation.Local, bool) {
	e, ok := h.box(server)
	if !ok || e.revoked != "" || e.mode != spool.Delegate || h.cfg.NoDelegate {
		return federation.Local{}, false
	}
	k, spoken, err := h.keyOf(ctx, e)
	epoch := ""
	if err == nil {
		epoch, err = h.spool.Epoch(ctx)
	}
	var doc []byte
	if err == nil && k.ID != "" && spoken == epoch {
		doc, err = h.spool.Deposited(ctx, server, kindKey, "")
	}
	if err != nil && h.seldom.may("delegated "+server, h.now()) {
		h.log.Error("the hub cannot sign for a box", "box", server, "err", err)
	}
	if err != nil || doc == nil || !federation.Delegates(doc, server, k, h.now()) {
		return federation.Local{}, false
	}
	return federation.Local{Server: server, Key: k}, true
}
