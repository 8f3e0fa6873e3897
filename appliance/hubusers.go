// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// This file deposits with the hub what it may answer about the box's users while the box is away.

const (
	lendKeys    = 20              // one-time keys of each device, for the hub to give away
	usersEvery  = time.Hour       // how often it is looked whether anything has changed
	usersSoon   = 2 * time.Second // and after a commit that was about a user
	depositWait = 20 * time.Second
)

// deposited is what the hub is known to have. Only the loop that looks at the hub uses it.
type deposited struct {
	epoch string // of the hub's memory; "": nothing is known
	after int64  // place of the last key of ours that it told us it had given away
	users map[event.UserID][sha256.Size]byte
	next  time.Time
	last  time.Time
}

// depositUsers brings the hub up to date about some users, nil: about all; epoch is that of its memory.
func (b *Box) depositUsers(ctx context.Context, epoch string, some map[event.UserID]bool) error {
	d := &b.exchange.post.users
	if d.epoch != epoch {
		some = nil
		*d = deposited{epoch: epoch, next: d.next, last: d.last, users: map[event.UserID][sha256.Size]byte{}}
	}
	if err := b.hearGivenKeys(ctx, d); err != nil {
		return err
	}
	var rows []store.AccountRow
	err := b.db.View(ctx, func(r *store.Read) (err error) {
		rows, err = r.Accounts()
		return err
	})
	if err != nil {
		return fmt.Errorf("list accounts: %w", err)
	}
	gone := map[event.UserID]bool{}
	for user := range d.users {
		gone[user] = true
	}
	for _, row := range rows {
		if row.Deactivated {
			continue
		}
		delete(gone, row.User)
		if some != nil && !some[row.User] {
			continue
		}
		u, err := b.deposit(ctx, row.User, epoch)
		if err != nil {
			return err
		}
		if err := b.putUser(ctx, d, row.User, u); err != nil {
			return err
		}
	}
	for user := range gone {
		if err := b.putUser(ctx, d, user, api.User{}); err != nil {
			return err
		}
		delete(d.users, user)
	}
	return nil
}

// hearGivenKeys crosses out what the hub has given away.
func (b *Box) hearGivenKeys(ctx context.Context, d *deposited) error {
	for {
		var out api.Given
		if err := b.askHub(ctx, http.MethodGet, fmt.Sprintf("%s?after=%d", api.GivenPath, d.after), nil, &out); err != nil {
			return err
		}
		if out.Epoch != d.epoch {
			return errors.New("the hub's memory was replaced meanwhile")
		}
		var given []account.GivenKey
		for _, k := range out.Keys {
			given = append(given, account.GivenKey{User: event.UserID(k.User), Device: k.Device, ID: k.ID})
		}
		for _, k := range out.Fallback {
			given = append(given, account.GivenKey{User: event.UserID(k.User), Device: k.Device, ID: k.ID, Fallback: true})
		}
		if len(given) > 0 {
			if err := b.accounts.KeysGiven(ctx, given); err != nil {
				return err
			}
		}
		last := d.after
		if len(out.Keys) > 0 {
			last = out.Keys[len(out.Keys)-1].Place
		}
		if !out.More {
			d.after = max(d.after, last)
			return nil
		}
		if last <= d.after {
			return errors.New("the hub says that it has given away more keys, and does not name them")
		}
		d.after = last
	}
}

// deposit collects what the hub may answer about a user.
func (b *Box) deposit(ctx context.Context, user event.UserID, epoch string) (api.User, error) {
	var u api.User
	profile, err := b.accounts.Profile(ctx, user)
	if err != nil {
		return u, err
	}
	if u.Profile, err = json.Marshal(profile); err != nil {
		return u, err
	}
	if u.Devices, err = b.accounts.UserDevices(ctx, user); err != nil {
		return u, err
	}
	keys, _, err := b.accounts.QueryKeys(ctx, "", map[event.UserID][]string{user: nil})
	if err != nil {
		return u, err
	}
	u.Keys = &api.UserKeys{Devices: keys.DeviceKeys[user], Master: keys.MasterKeys[user], SelfSigning: keys.SelfSigningKeys[user]}
	lent, err := b.accounts.LendKeys(ctx, user, epoch, lendKeys)
	if err != nil {
		return u, err
	}
	u.OneTime, u.Fallback = lent.OneTime, lent.Fallback
	return u, nil
}

// putUser deposits a user, unless the hub has just that.
func (b *Box) putUser(ctx context.Context, d *deposited, user event.UserID, u api.User) error {
	raw, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("write deposit: %w", err)
	}
	sum := sha256.Sum256(raw)
	if d.users[user] == sum {
		return nil
	}
	if err := b.askHub(ctx, http.MethodPut, api.UserPath+url.PathEscape(string(user))+"?epoch="+url.QueryEscape(d.epoch), raw, nil); err != nil {
		return err
	}
	d.users[user] = sum
	return nil
}

// askHub asks the hub under its own name; out is nil when nobody wants the answer.
func (b *Box) askHub(ctx context.Context, method, uri string, body []byte, out any) error {
	ctx, stop := context.WithTimeout(ctx, depositWait)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, method, federation.Scheme+"://"+b.exchange.post.server+uri, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the hub: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := b.exchange.host.RoundTripper().RoundTrip(req)
	if err != nil {
		return fmt.Errorf("ask the hub: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return fmt.Errorf("read the hub's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the hub answered %s %.200q", resp.Status, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the hub's answer: %w", err)
	}
	return nil
}
