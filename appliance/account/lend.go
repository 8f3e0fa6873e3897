// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"encoding/json"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// This file is about keys that a hub gives away for the box while that is out of reach, so that others can write encrypted messages to its users.

// Lent are the keys of one user's devices, by device and name.
type Lent struct {
	OneTime  map[string]map[string]json.RawMessage // each to be given away once; nobody else gives them away
	Fallback map[string]map[string]json.RawMessage
}

// oneTimeAlgorithm is the one that clients use.
const oneTimeAlgorithm = "signed_curve25519"

// LendKeys reserves one-time keys of each device of a user for a holder, up to so many, and gives all that are reserved for it. holder is another name when the one who
// holds them has lost its memory of what it gave away; then what it had is forgotten. The reservation is on disk before it is answered, so
// no key that was told is ever given out here.
func (a *Accounts) LendKeys(ctx context.Context, user event.UserID, holder string, most int) (Lent, error) {
	var out Lent
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		out = Lent{OneTime: map[string]map[string]json.RawMessage{}, Fallback: map[string]map[string]json.RawMessage{}}
		devices, err := tx.Devices(user)
		if err != nil {
			return err
		}
		for _, d := range devices {
			keys, err := tx.LendOneTimeKeys(user, d.ID, oneTimeAlgorithm, holder, most)
			if err != nil {
				return err
			}
			if len(keys) > 0 {
				out.OneTime[d.ID] = keys
			}
			if keys, err = tx.FallbackKeys(user, d.ID); err != nil {
				return err
			}
			if len(keys) > 0 {
				out.Fallback[d.ID] = keys
			}
		}
		return nil
	})
	return out, err
}

// GivenKey is a key that was given away elsewhere.
type GivenKey struct {
	User     event.UserID
	Device   string
	ID       string
	Fallback bool
}

// KeysGiven crosses out what was given away elsewhere. The same may be told again.
func (a *Accounts) KeysGiven(ctx context.Context, given []GivenKey) error {
	return a.db.Do(ctx, func(tx *store.Tx) error {
		for _, g := range given {
			var err error
			if g.Fallback {
				err = tx.UseFallbackKey(g.User, g.Device, g.ID)
			} else {
				err = tx.ForgetLent(g.User, g.Device, g.ID)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
