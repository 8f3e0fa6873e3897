// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// accessLife is how long an access token lives that came with a refresh token.
const accessLife = time.Hour

// seenEvery is how often last-seen is written for a device: rarely, for each time costs the card a flush.
const seenEvery = 5 * time.Minute

// maxSessions bounds the cache of tokens.
const maxSessions = 4096

// loginTokenLife is how long m.login.token works.
const loginTokenLife = 2 * time.Minute

// LoginRequest asks for a session by password.
type LoginRequest struct {
	User       string // localpart or full id
	Password   string
	Device     string // "": a new one
	DeviceName string // for a new device
	Refresh    bool
}

// Login opens a session. A wrong name and a wrong password take the same time and the same words.
func (a *Accounts) Login(ctx context.Context, req LoginRequest) (Session, error) {
	id := event.UserID(req.User)
	if !strings.HasPrefix(req.User, "@") {
		id = event.UserID("@" + req.User + ":" + a.server)
	}
	if err := a.VerifyPassword(ctx, id, req.Password); err != nil {
		return Session{}, err
	}
	return a.LoginTrusted(ctx, id, req.Device, req.DeviceName, req.Refresh)
}

// VerifyPassword answers nil, M_FORBIDDEN or M_USER_DEACTIVATED.
func (a *Accounts) VerifyPassword(ctx context.Context, user event.UserID, password string) error {
	var row *store.AccountRow
	err := a.db.View(ctx, func(r *store.Read) error {
		var err error
		if row, err = r.Account(user); row == nil && err == nil {
			// Old clients send names with capitals; new ids have none.
			row, err = r.Account(event.UserID(strings.ToLower(string(user))))
		}
		return err
	})
	if err != nil {
		return err
	}
	hash := ""
	if row != nil {
		hash = row.Password
	}
	ok := a.checkPassword(hash, password)
	if row != nil && row.Deactivated {
		return refuse(403, "M_USER_DEACTIVATED", "this account has been deactivated")
	}
	if !ok {
		return refuse(403, "M_FORBIDDEN", "wrong user name or password")
	}
	return nil
}

// LoginTrusted opens a session for a user whom the caller has authenticated.
func (a *Accounts) LoginTrusted(ctx context.Context, user event.UserID, device, name string, refresh bool) (Session, error) {
	var s Session
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		row, err := tx.Account(user)
		if row == nil && err == nil {
			row, err = tx.Account(event.UserID(strings.ToLower(string(user))))
		}
		if err != nil {
			return err
		}
		if row == nil {
			return refuse(403, "M_FORBIDDEN", "there is no such user on this server")
		}
		if row.Deactivated {
			return refuse(403, "M_USER_DEACTIVATED", "this account has been deactivated")
		}
		s = Session{User: row.User, Admin: row.Admin, Guest: row.Guest}
		return a.openSession(tx, &s, device, name, refresh)
	})
	if err != nil {
		return Session{}, err
	}
	a.dropSessions(s.User, s.Device) // a device that logs in again loses its old tokens
	return s, nil
}

// openSession makes the device if it is new and gives it fresh tokens in place of all old ones.
func (a *Accounts) openSession(tx *store.Tx, s *Session, device, name string, refresh bool) error {
	if device == "" {
		device = randomString(10)
	}
	if len(device) > 255 {
		return refuse(400, "M_INVALID_PARAM", "a device id has at most 255 bytes")
	}
	s.Device = device
	old, err := tx.Device(s.User, device)
	if err != nil {
		return err
	}
	if old == nil {
		err = tx.PutDevice(store.DeviceRow{User: s.User, ID: device, Name: name, Created: a.opt.Now().UnixMilli()})
	} else {
		err = tx.DeleteTokens(s.User, device)
	}
	if err != nil {
		return err
	}
	return a.giveTokens(tx, s, refresh)
}

func (a *Accounts) giveTokens(tx *store.Tx, s *Session, refresh bool) error {
	s.AccessToken = newToken("hlg")
	row := store.TokenRow{Hash: tokenHash(s.AccessToken), User: s.User, Device: s.Device}
	if refresh {
		s.Expires = accessLife
		row.Expires = a.opt.Now().Add(accessLife).UnixMilli()
		s.RefreshToken = newToken("hlr")
		err := tx.PutToken(store.TokenRow{Hash: tokenHash(s.RefreshToken), User: s.User, Device: s.Device, Refresh: true})
		if err != nil {
			return err
		}
	}
	return tx.PutToken(row)
}

// Auth finds the session of an access token: M_MISSING_TOKEN, M_UNKNOWN_TOKEN (with soft logout when it has only expired).
func (a *Accounts) Auth(ctx context.Context, token string) (Session, error) {
	if token == "" {
		return Session{}, refuse(401, "M_MISSING_TOKEN", "an access token is needed")
	}
	h := tokenHash(token)
	a.mu.Lock()
	s, ok := a.sessions[h]
	a.mu.Unlock()
	if ok {
		return s, nil
	}
	var row *store.TokenRow
	var user *store.AccountRow
	err := a.db.View(ctx, func(r *store.Read) error {
		var err error
		if row, err = r.Token(h); err != nil || row == nil {
			return err
		}
		user, err = r.Account(row.User)
		return err
	})
	if err != nil {
		return Session{}, err
	}
	if row == nil || row.Refresh || user == nil || user.Deactivated {
		return Session{}, refuse(401, "M_UNKNOWN_TOKEN", "this access token is not known")
	}
	if row.Expires != 0 && a.over(time.UnixMilli(row.Expires)) {
		return Session{}, ErrSoftLogout
	}
	s = Session{User: row.User, Device: row.Device, Admin: user.Admin, Guest: user.Guest}
	if row.Expires == 0 { // tokens that expire are asked of the store each time
		a.remember(h, s)
	}
	return s, nil
}

// ErrSoftLogout is M_UNKNOWN_TOKEN for a token that has only expired: the answer says soft_logout.
var ErrSoftLogout = refuse(401, "M_UNKNOWN_TOKEN", "this access token has expired")

// remember caches a session, unless its token was taken away while we looked.
func (a *Accounts) remember(h [32]byte, s Session) {
	still := false
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.sessions) >= maxSessions {
		clear(a.sessions)
	}
	// Logouts empty the cache after their commit, under this lock; looking again under it closes the gap between our
	// first look and now.
	err := a.db.View(context.Background(), func(r *store.Read) error {
		row, err := r.Token(h)
		still = row != nil
		return err
	})
	if err == nil && still {
		a.sessions[h] = s
	}
}

// dropSessions empties the cache for one device, or for all of a user when device is "".
func (a *Accounts) dropSessions(user event.UserID, device string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for h, s := range a.sessions {
		if s.User == user && (device == "" || s.Device == device) {
			delete(a.sessions, h)
		}
	}
}

// Refresh trades a refresh token for new tokens. Until the new access token is used, the same trade may be asked again,
// for an answer may be lost on the way.
func (a *Accounts) Refresh(ctx context.Context, refresh string) (Session, error) {
	h := tokenHash(refresh)
	var s Session
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		row, err := tx.Token(h)
		if err != nil {
			return err
		}
		if row == nil || !row.Refresh {
			return refuse(401, "M_UNKNOWN_TOKEN", "this refresh token is not known")
		}
		user, err := tx.Account(row.User)
		if err != nil {
			return err
		}
		if user == nil || user.Deactivated {
			return refuse(401, "M_UNKNOWN_TOKEN", "this account has been deactivated")
		}
		s = Session{User: row.User, Device: row.Device, Admin: user.Admin, Guest: user.Guest}
		// All older tokens of the device go, but the refresh token just shown stays for a repeated question
		// until the next trade.
		if err := tx.DeleteTokensExcept(row.User, row.Device, h); err != nil {
			return err
		}
		return a.giveTokens(tx, &s, true)
	})
	if err != nil {
		return Session{}, err
	}
	a.dropSessions(s.User, s.Device)
	return s, nil
}

// Logout ends a session: the device goes, with its keys, mail and pushers.
func (a *Accounts) Logout(ctx context.Context, s Session) error {
	return a.DeleteDevices(ctx, s.User, s.Device)
}

// LogoutAll ends every session of a user.
func (a *Accounts) LogoutAll(ctx context.Context, user event.UserID) error {
	return a.deleteDevices(ctx, user, func(string) bool { return true }, nil)
}

// Seen notes where a device was last heard of; it may be lost in a power cut and wakes nobody.
func (a *Accounts) Seen(s Session, ip, _ string) {
	now := a.opt.Now()
	k := deviceKey{s.User, s.Device}
	a.mu.Lock()
	last, ok := a.seen[k]
	if ok && now.Sub(last) < seenEvery {
		a.mu.Unlock()
		return
	}
	if len(a.seen) > maxSessions {
		clear(a.seen)
	}
	a.seen[k] = now
	a.mu.Unlock()
	a.db.Lazy(func(tx *store.Tx) error { return tx.SetDeviceSeen(s.User, s.Device, now.UnixMilli(), ip) })
}

// ChangePassword sets a new password for the session's user and, if asked, ends all other sessions.
func (a *Accounts) ChangePassword(ctx context.Context, s Session, password string, logoutOthers bool) error {
	keep := func(string) bool { return logoutOthers }
	if logoutOthers {
		keep = func(id string) bool { return id != s.Device }
	}
	return a.setPassword(ctx, s.User, password, keep)
}

// SetPassword is the administrator's way to set a password.
func (a *Accounts) SetPassword(ctx context.Context, user event.UserID, password string, logout bool) error {
	return a.setPassword(ctx, user, password, func(string) bool { return logout })
}

func (a *Accounts) setPassword(ctx context.Context, user event.UserID, password string, drop func(device string) bool) error {
	if password == "" || len(password) > maxPassword {
		return refuse(400, "M_WEAK_PASSWORD", "a password has 1 to 512 bytes")
	}
	hash := a.hashPassword(password)
	return a.deleteDevices(ctx, user, drop, func(tx *store.Tx) error {
		row, err := tx.Account(user)
		if err != nil {
			return err
		}
		if row == nil {
			return notFound("there is no such user on this server")
		}
		return tx.SetPassword(user, hash)
	})
}

// Deactivate ends an account for good: no login, no devices, no profile. Leaving rooms is the caller's.
func (a *Accounts) Deactivate(ctx context.Context, user event.UserID) error {
	return a.deleteDevices(ctx, user, func(string) bool { return true }, func(tx *store.Tx) error {
		return tx.DeactivateAccount(user)
	})
}

// SetAdmin grants or takes administration.
func (a *Accounts) SetAdmin(ctx context.Context, user event.UserID, admin bool) error {
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		if row, err := tx.Account(user); err != nil || row == nil {
			return cmpErr(err, notFound("there is no such user on this server"))
		}
		return tx.SetAdmin(user, admin)
	})
	a.dropSessions(user, "")
	return err
}

// cmpErr gives the first error that is one.
func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
