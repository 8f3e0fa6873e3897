// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/identity"
)

// This file is about the second key of the box's name that a hub holds in the mode delegate: how it gets into the key document, and how it is taken back.

// HubConfig.Mode.
const (
	hubSealed   = api.Sealed
	hubDelegate = api.Delegate
)

// mode is how the hub serves the box, as the box wants it.
func (c HubConfig) mode() string {
	if c.Mode == "" {
		return hubSealed
	}
	return c.Mode
}

// local is who the box is to other servers. The hub's key can come while the box runs.
func (b *Box) local() federation.Local {
	l := b.fed.local
	l.Delegated = b.exchange.post.held().DelegatedKey
	return l
}

// locals finds the box by its name.
func (b *Box) locals(name string) (federation.Local, bool) {
	l := b.local()
	return l, name == "" || name == l.Server
}

// held is the second key, and who has it.
func (h *hubParts) held() identity.Delegated {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.delegated
}

// openDelegated reads whether the hub holds a key. One that is not to be held any more is taken back: retired together with the box's own key, as only a key id that others do not know yet makes
// them look for the document in which it says so.
func (b *Box) openDelegated(ctx context.Context) error {
	d, err := identity.ReadDelegated(b.cfg.Data)
	if err != nil {
		b.log.Error("it is not known whether the hub holds a key of this box; the box goes on as if it held none", "err", err)
		return nil
	}
	_, retired := b.id.Old[d.ID]
	switch {
	case d.ID == "":
		return nil
	case retired: // the end came between the two files
		return identity.WriteDelegated(b.cfg.Data, identity.Delegated{})
	case b.cfg.Hub.mode() == hubDelegate && b.cfg.Hub.Server == d.Holder:
		b.delegated = d
		return nil
	}
	next, err := b.nextSigning(ctx, b.id.Signing, d)
	if err != nil {
		return err
	}
	if err := errors.Join(identity.WriteSigning(filepath.Join(b.cfg.Data, identity.SigningKeyFile), next), identity.WriteDelegated(b.cfg.Data, identity.Delegated{})); err != nil {
		return err
	}
	b.id.Signing = next
	b.log.Warn("the key that the hub held is taken back, and the box signs with a new one", "hub", d.Holder, "hub_key", d.ID, "new", next.Key.ID)
	return nil
}

// takeKeyBack has the box restart with other keys when who holds one of them is no hub of this box any more: the pairing was ended, or the organisation has revoked it.
func (b *Box) takeKeyBack() {
	if _, paired := b.exchange.hub(); paired || b.exchange.post.held().ID == "" || b.exchange.host == nil {
		return
	}
	select {
	case b.rotates <- struct{}{}:
		b.log.Warn("the hub is not paired any more: the box takes back the key that the hub holds, and starts anew for that", "hub", b.exchange.post.server)
	default: // it is under way
	}
}

// proposal is the key document that the hub is to sign; nil: none is needed.
func (b *Box) proposal() ([]byte, error) {
	if b.cfg.Hub.mode() != hubDelegate {
		return nil, nil
	}
	return b.fed.ring.Proposal(b.local())
}

// hearDelegated takes what the hub says of its key for this box. again: the box has something to say about it at once. Nothing that the hub can say gives it more than the one key, in the mode that the
// box was given; and one key is never changed for another without somebody who takes the first one back.
func (b *Box) hearDelegated(a *api.Answer, proposal []byte) (again bool, err error) {
	h := &b.exchange.post
	d := a.Delegated
	switch held := h.held(); {
	case b.cfg.Hub.mode() != hubDelegate:
		if d != nil {
			return false, errors.New("the hub offers a key although this box is sealed; nothing was changed")
		}
		return false, nil
	case d == nil:
		if a.Mode != api.Delegate {
			return false, errors.New("the hub serves this box sealed: its operator does not let it hold keys (no_delegate in hub.json)")
		}
		return false, nil
	case held.ID == "":
		err := b.takeDelegated(d)
		return err == nil, err
	case held.ID != d.ID || !bytes.Equal(held.Key, d.Key):
		return false, fmt.Errorf("the hub has another key than the one that it holds for this box (%s), as after a loss of its memory; take that one back with: hallig key rotate", held.ID)
	case d.Document == nil || proposal == nil:
		return false, nil
	}
	return false, b.fed.ring.Cosigned(b.local(), proposal, d.Document)
}

// takeDelegated writes down that the hub holds a key, before anybody else hears of it.
func (b *Box) takeDelegated(d *api.Delegated) error {
	l := b.fed.local
	clash := d.ID == l.Key.ID || bytes.Equal(d.Key, publicKey(l.Key.Private))
	for id, k := range l.Old {
		clash = clash || d.ID == id || bytes.Equal(d.Key, k.Key)
	}
	if clash {
		return fmt.Errorf("the hub offers the key %s, which this box has or had itself; nothing was changed", d.ID)
	}
	held := identity.Delegated{DelegatedKey: federation.DelegatedKey{ID: d.ID, Key: d.Key}, Holder: b.exchange.post.server}
	if err := identity.WriteDelegated(b.cfg.Data, held); err != nil {
		return err
	}
	h := &b.exchange.post
	h.mu.Lock()
	h.delegated, h.next = held, time.Time{}
	h.mu.Unlock()
	b.log.Info("the hub may sign in the name of this box, once the key document lists its key", "hub", held.Holder, "key", held.ID)
	return nil
}
