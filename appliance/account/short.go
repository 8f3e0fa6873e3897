// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"time"

	"hallig/appliance/event"
)

// openIDLife is how long a token proves to others who somebody is.
const openIDLife = time.Hour

// shortTokens are tokens that live for a while and in memory only: whoever holds one when the box stops asks for another. Guarded by Accounts.mu.
type shortTokens map[[32]byte]shortToken

type shortToken struct {
	user    event.UserID
	expires time.Time
}

// maxShort bounds the tokens of one kind; the box has far fewer users than that.
const maxShort = 10_000

func (s shortTokens) add(token string, user event.UserID, now time.Time, life time.Duration) {
	for h, t := range s {
		if now.After(t.expires) || len(s) >= maxShort {
			delete(s, h)
		}
	}
	s[tokenHash(token)] = shortToken{user: user, expires: now.Add(life)}
}

// LoginToken makes a token for m.login.token.
func (a *Accounts) LoginToken(_ context.Context, user event.UserID) (string, time.Duration, error) {
	token := newToken("hll")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.login.add(token, user, a.opt.Now(), loginTokenLife)
	return token, loginTokenLife, nil
}

// LoginWithToken opens a session for the token's user, once.
func (a *Accounts) LoginWithToken(ctx context.Context, token, device, name string, refresh bool) (Session, error) {
	h := tokenHash(token)
	a.mu.Lock()
	t, ok := a.login[h]
	delete(a.login, h)
	a.mu.Unlock()
	if !ok || a.over(t.expires) {
		return Session{}, refuse(403, "M_FORBIDDEN", "this login token is not valid")
	}
	return a.LoginTrusted(ctx, t.user, device, name, refresh)
}

// OpenIDToken makes a token with which the user can show to a third party who they are; the party asks the Server-Server API.
// https://spec.matrix.org/v1.19/client-server-api/#openid
func (a *Accounts) OpenIDToken(user event.UserID) (string, time.Duration) {
	token := newToken("hlo")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.openID.add(token, user, a.opt.Now(), openIDLife)
	return token, openIDLife
}

// OpenIDUser gives the user behind an OpenID token. It may be asked again until the token expires.
func (a *Accounts) OpenIDUser(token string) (event.UserID, error) {
	a.mu.Lock()
	t, ok := a.openID[tokenHash(token)]
	a.mu.Unlock()
	if !ok || a.over(t.expires) {
		return "", refuse(401, "M_UNKNOWN_TOKEN", "this token is not known here or has expired")
	}
	return t.user, nil
}
