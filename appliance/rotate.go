// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"

	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/identity"
)

// ErrRotate ends Run when the operator wants a new signing key: the box is to be closed, RotateKey called, and the box opened again.
var ErrRotate = errors.New("the signing key is to be rotated")

// RotateKey gives a box that does not run a new signing key and retires the old one: it is listed with the time up to which it signed, so that
// everything that it signed stays valid. The key that a hub holds is retired with it; a box in the mode delegate gives the hub another one at its next contact. Paired boxes learn of it by a new statement under the box key, other servers by the key document. What is
// written is one file, at once: a crash leaves the box with the old keys or with the new ones.
func RotateKey(ctx context.Context, cfg Config, log *slog.Logger) (newKeyID string, err error) {
	b := &Box{cfg: cfg, log: log}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := b.lockData(); err != nil {
		return "", err
	}
	name := filepath.Join(cfg.Data, identity.SigningKeyFile)
	s, err := identity.ReadSigning(name) // before the database: nothing is made where there is no box
	if err != nil {
		return "", fmt.Errorf("rotate the signing key: %w", err)
	}
	if b.db, err = store.Open(ctx, filepath.Join(cfg.Data, "hallig.db"), store.Options{Log: log.With("room", "store")}); err != nil {
		return "", err
	}
	if cfg.system == nil {
		b.cfg.system = cfg.systemClock
	}
	if err := b.openClock(ctx); err != nil {
		return "", err
	}
	held, err := identity.ReadDelegated(cfg.Data)
	if err != nil {
		return "", err
	}
	next, err := b.nextSigning(ctx, s, held)
	if err != nil {
		return "", err
	}
	if err := errors.Join(identity.WriteSigning(name, next), identity.WriteDelegated(cfg.Data, identity.Delegated{})); err != nil {
		return "", err
	}
	log.Info("signing key rotated", "old", s.Key.ID, "new", next.Key.ID)
	return next.Key.ID, nil
}

// nextSigning draws a new key and retires the one before, with the key that a hub holds, if any.
func (b *Box) nextSigning(ctx context.Context, s identity.Signing, held identity.Delegated) (identity.Signing, error) {
	// The time may have been wrong and was set back meanwhile, or it lags behind now: what the key has signed decides as well.
	until := b.clock.Now().UnixMilli()
	err := b.db.View(ctx, func(r *store.Read) error {
		last, err := r.LastDated(s.Server)
		until = max(until, last) + 1
		return err
	})
	if err != nil {
		return s, fmt.Errorf("look up what the key has signed: %w", err)
	}
	next := identity.Signing{Server: s.Server, Old: maps.Clone(s.Old)}
	next.Old[s.Key.ID] = federation.OldKey{Key: publicKey(s.Key.Private), ExpiredTS: until}
	if held.ID != "" {
		next.Old[held.ID] = federation.OldKey{Key: held.Key, ExpiredTS: until}
	}
	next.Key, err = identity.NewKey()
	return next, err
}

// rotate has Run end with ErrRotate once the answer to the operator is out.
func (b *Box) rotate(context.Context) error {
	select {
	case b.rotates <- struct{}{}:
	default: // it is under way
	}
	return nil
}

// awaitRotation ends the box when it is to be rotated.
func (b *Box) awaitRotation(ctx context.Context) error {
	select {
	case <-b.rotates:
		return ErrRotate
	case <-ctx.Done():
		return nil
	}
}
