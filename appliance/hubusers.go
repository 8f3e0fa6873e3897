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
	touchedMost = 1000 // users that are remembered by name; of more it is only known that there are many
	givenPages  = 100  // of what the hub has given away, in one round
)

// deposited is what the hub is known to have. Only the loop that looks at the hub uses it.
type deposited struct {
	epoch string // of the hub's memory; "": nothing is known
	after int64  // place of the last key of ours that it told us it had given away
	users map[event.UserID][sha256.Size]byte
	wrong map[event.UserID]refused // by the hub
	next  time.Time
	last  time.Time
}

// refused is a user of whom the hub does not take what it was told.
type refused struct {
	sum  [sha256.Size]byte
	text string
}

// touched are users of whom something has changed since the hub was told.
type touched struct {
	all   bool
	users map[event.UserID]bool
}

func (t *touched) add(user event.UserID) {
	if len(t.users) >= touchedMost {
		t.all, t.users = true, nil
	}
	if t.all {
		return
	}
	if t.users == nil {
		t.users = map[event.UserID]bool{}
	}
	t.users[user] = true
}

func (t *touched) none() bool { return !t.all && len(t.users) == 0 }

// depositUsers brings the hub up to date about some users, nil: about all; epoch is that of its memory.
func (b *Box) depositUsers(ctx context.Context, epoch string, some map[event.UserID]bool) error {
	d := &b.exchange.post.users
	if d.epoch != epoch {
		some = nil
		*d = deposited{epoch: epoch, next: d.next, last: d.last, users: map[event.UserID][sha256.Size]byte{}, wrong: map[event.UserID]refused{}}
	}
	if err := hearGivenKeys(ctx, b.askHub, b.accounts.KeysGiven, d); err != nil {
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
	for user := range d.wrong {
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
		if err := putUser(ctx, b.askHub, d, row.User, u, some == nil); err != nil {
			return err
		}
	}
	for user := range gone {
		if err := putUser(ctx, b.askHub, d, user, api.User{}, some == nil); err != nil {
			return err
		}
		delete(d.users, user)
		delete(d.wrong, user)
	}
	b.tellRefused(d)
	return nil
}

// tellRefused says of how many users the hub does not take what it was told.
func (b *Box) tellRefused(d *deposited) {
	h := &b.exchange.post
	text := ""
	for user, r := range d.wrong {
		text = fmt.Sprintf("the hub does not take what it may answer about %d of the users while the box is away; of %s it says: %s", len(d.wrong), user, r.text)
		break
	}
	h.mu.Lock()
	before := h.refused
	h.refused = text
	h.mu.Unlock()
	if text != "" && before == "" {
		b.log.Warn("the hub does not take what it may answer about some of the users; others wait with encrypted messages to them until the box is in reach", "hub", h.server, "users", len(d.wrong), "err", text)
	}
}

// ask sends a request to the hub: Box.askHub.
type ask func(ctx context.Context, method, uri string, body []byte, out any) error

// hubRefusal is an answer of the hub that is no 200.
type hubRefusal struct {
	status int
	text   string
}

func (r *hubRefusal) Error() string {
	return fmt.Sprintf("the hub answered %d %.200q", r.status, r.text)
}

// hearGivenKeys crosses out what the hub has given away. It asks after the last key that is crossed out on disk: so the hub may forget what went before.
func hearGivenKeys(ctx context.Context, ask ask, crossOut func(context.Context, []account.GivenKey) error, d *deposited) error {
	for range givenPages {
		var out api.Given
		if err := ask(ctx, http.MethodGet, fmt.Sprintf("%s?after=%d&epoch=%s", api.GivenPath, d.after, url.QueryEscape(d.epoch)), nil, &out); err != nil {
			return err
		}
		if out.Epoch != d.epoch {
			return errors.New("the hub's memory was replaced meanwhile")
		}
		var given []account.GivenKey
		last := d.after
		for _, k := range out.Keys {
			given = append(given, account.GivenKey{User: event.UserID(k.User), Device: k.Device, ID: k.ID})
			last = max(last, k.Place)
		}
		for _, k := range out.Fallback {
			given = append(given, account.GivenKey{User: event.UserID(k.User), Device: k.Device, ID: k.ID, Fallback: true})
		}
		if len(given) > 0 {
			if err := crossOut(ctx, given); err != nil {
				return err
			}
		}
		if out.More && last <= d.after {
			return errors.New("the hub says that it has given away more keys, and does not name them")
		}
		if d.after = last; !out.More {
			return nil
		}
	}
	return errors.New("the hub has given away more keys than can be crossed out in one round; the rest comes in the next")
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

// putUser deposits a user, unless the hub has just that. What the hub refuses is noted and holds up nobody else: it is offered again when it has changed, or, with again, in any case.
func putUser(ctx context.Context, ask ask, d *deposited, user event.UserID, u api.User, again bool) error {
	raw, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("write deposit: %w", err)
	}
	sum := sha256.Sum256(raw)
	if before, is := d.wrong[user]; d.users[user] == sum || is && before.sum == sum && !again {
		return nil
	}
	err = ask(ctx, http.MethodPut, api.UserPath+url.PathEscape(string(user))+"?epoch="+url.QueryEscape(d.epoch), raw, nil)
	var no *hubRefusal
	if errors.As(err, &no) && (no.status == http.StatusBadRequest || no.status == http.StatusRequestEntityTooLarge) {
		d.wrong[user] = refused{sum, no.text}
		return nil
	}
	if err != nil {
		return err
	}
	delete(d.wrong, user)
	d.users[user] = sum
	return nil
}

// askHub asks the hub under its own name; out is nil when nobody wants the answer.
func (b *Box) askHub(ctx context.Context, method, uri string, body []byte, out any) error {
	text, err := b.hubAnswer(ctx, method, uri, body)
	if out == nil || err != nil {
		return err
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the hub's answer: %w", err)
	}
	return nil
}

// hubAnswer is askHub for who reads the answer with care.
func (b *Box) hubAnswer(ctx context.Context, method, uri string, body []byte) ([]byte, error) {
	return b.hubAnswerFor(ctx, depositWait, method, uri, body)
}

// hubAnswerFor is the same for what may take longer.
func (b *Box) hubAnswerFor(ctx context.Context, wait time.Duration, method, uri string, body []byte) ([]byte, error) {
	if b.exchange.host == nil {
		return nil, errors.New("ask the hub: libp2p is switched off")
	}
	ctx, stop := context.WithTimeout(ctx, wait)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, method, federation.Scheme+"://"+b.exchange.post.server+uri, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask the hub: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := b.exchange.host.RoundTripper().RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask the hub: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, api.MaxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the hub's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &hubRefusal{resp.StatusCode, fmt.Sprintf("%.200s", text)}
	}
	return text, nil
}
