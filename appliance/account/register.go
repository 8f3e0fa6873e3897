// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// RegisterRequest asks for an account. Whether the asker may have one (open registration, shared secret, token flow) is
// the caller's decision, except that a Token is checked and used up here, in the transaction that makes the account.
type RegisterRequest struct {
	Username     string // localpart; "": one is made up
	Password     string // "": no password login
	Device       string // "": one is made up
	DeviceName   string
	Token        string // registration token
	Admin        bool
	Guest        bool
	InhibitLogin bool // no device, no token
	Refresh      bool // also a refresh token
}

// localpart is the grammar for new ids: https://spec.matrix.org/latest/appendices/#user-identifiers
var localpart = regexp.MustCompile(`^[a-z0-9._=/+-]+$`)

// username normalises and checks a wanted localpart; a full id of this server is taken too.
func (a *Accounts) username(name string) (event.UserID, error) {
	name = strings.ToLower(name)
	if rest, ok := strings.CutPrefix(name, "@"); ok {
		name, _ = strings.CutSuffix(rest, ":"+a.server)
	}
	id := "@" + name + ":" + a.server
	if !localpart.MatchString(name) || len(id) > 255 {
		return "", refuse(400, "M_INVALID_USERNAME", "a user name has a-z 0-9 . _ = - / + and at most 255 bytes with the server name")
	}
	return event.UserID(id), nil
}

// CheckUsername says whether the name can be registered: M_INVALID_USERNAME, M_USER_IN_USE.
func (a *Accounts) CheckUsername(ctx context.Context, name string) (event.UserID, error) {
	id, err := a.username(name)
	if err != nil {
		return "", err
	}
	return id, a.db.View(ctx, func(r *store.Read) error { return a.free(r, id) })
}

func (a *Accounts) free(r *store.Read, id event.UserID) error {
	row, err := r.Account(id)
	if err != nil {
		return err
	}
	if row != nil || slices.Contains(a.opt.Reserved, id.Localpart()) {
		return refuse(400, "M_USER_IN_USE", "this user name is taken")
	}
	return nil
}

// Register makes an account and, unless inhibited, its first device and token.
func (a *Accounts) Register(ctx context.Context, req RegisterRequest) (Session, error) {
	name := req.Username
	if name == "" {
		name = strings.ToLower(randomString(10))
		if req.Guest {
			name = "guest-" + name
		}
	}
	id, err := a.username(name)
	if err != nil {
		return Session{}, err
	}
	if len(req.Password) > maxPassword {
		return Session{}, refuse(400, "M_WEAK_PASSWORD", "the password is longer than "+strconv.Itoa(maxPassword)+" bytes")
	}
	hash := ""
	if req.Password != "" {
		hash = a.hashPassword(req.Password)
	}
	s := Session{User: id, Admin: req.Admin, Guest: req.Guest}
	now := a.opt.Now()
	err = a.db.Do(ctx, func(tx *store.Tx) error {
		if err := a.free(tx.Read, id); err != nil {
			return err
		}
		if req.Token != "" {
			t, err := tx.RegistrationToken(req.Token)
			if err != nil {
				return err
			}
			if t == nil || !a.valid(*t) {
				return refuse(401, "M_FORBIDDEN", "this registration token is not valid")
			}
			if err := tx.UseRegistrationToken(t.Token); err != nil {
				return err
			}
			s.Admin = s.Admin || t.Admin
		}
		row := store.AccountRow{User: id, Password: hash, Admin: s.Admin, Guest: req.Guest, Created: now.UnixMilli()}
		if err := tx.PutAccount(row); err != nil {
			return err
		}
		if err := tx.PutProfile(id, "displayname", quote(id.Localpart())); err != nil {
			return err
		}
		if req.InhibitLogin {
			return nil
		}
		return a.openSession(tx, &s, req.Device, req.DeviceName, req.Refresh)
	})
	if err != nil {
		return Session{}, err
	}
	return s, nil
}

// RegistrationToken lets somebody register without the administrator being there.
type RegistrationToken struct {
	Token   string    `json:"token"`
	Uses    int       `json:"uses_allowed"` // 0: unlimited
	Used    int       `json:"completed"`
	Expires time.Time `json:"-"` // zero: never
	Admin   bool      `json:"admin"`
}

func (a *Accounts) valid(t store.RegistrationTokenRow) bool {
	return (t.Uses == 0 || t.Used < t.Uses) && (t.Expires == 0 || !a.over(time.UnixMilli(t.Expires)))
}

// RegistrationTokenValid says whether an account could be made with the token now.
func (a *Accounts) RegistrationTokenValid(ctx context.Context, token string) (bool, error) {
	ok := false
	err := a.db.View(ctx, func(r *store.Read) error {
		t, err := r.RegistrationToken(token)
		ok = t != nil && a.valid(*t)
		return err
	})
	return ok, err
}

var tokenGrammar = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,64}$`)

// CreateRegistrationToken stores a token; an empty name is made up.
func (a *Accounts) CreateRegistrationToken(ctx context.Context, t RegistrationToken) (RegistrationToken, error) {
	if t.Token == "" {
		t.Token = randomString(12)
	}
	if !tokenGrammar.MatchString(t.Token) || t.Uses < 0 {
		return t, refuse(400, "M_INVALID_PARAM", "a registration token has at most 64 characters of A-Z a-z 0-9 . _ ~ - and a count that is not negative")
	}
	row := store.RegistrationTokenRow{Token: t.Token, Uses: t.Uses, Admin: t.Admin}
	if !t.Expires.IsZero() {
		row.Expires = t.Expires.UnixMilli()
	}
	return t, a.db.Do(ctx, func(tx *store.Tx) error {
		old, err := tx.RegistrationToken(t.Token)
		if err != nil {
			return err
		}
		if old != nil {
			return refuse(400, "M_INVALID_PARAM", "this registration token exists")
		}
		return tx.PutRegistrationToken(row)
	})
}

// RegistrationTokens lists all, used up or not.
func (a *Accounts) RegistrationTokens(ctx context.Context) ([]RegistrationToken, error) {
	out := []RegistrationToken{}
	err := a.db.View(ctx, func(r *store.Read) error {
		rows, err := r.RegistrationTokens()
		for _, t := range rows {
			rt := RegistrationToken{Token: t.Token, Uses: t.Uses, Used: t.Used, Admin: t.Admin}
			if t.Expires != 0 {
				rt.Expires = time.UnixMilli(t.Expires)
			}
			out = append(out, rt)
		}
		return err
	})
	return out, err
}

// DeleteRegistrationToken takes a token back.
func (a *Accounts) DeleteRegistrationToken(ctx context.Context, token string) error {
	return a.db.Do(ctx, func(tx *store.Tx) error { return tx.DeleteRegistrationToken(token) })
}

// EnrolmentCode gives the one-time code with which the first administrator registers: a registration token of one use
// that grants administration. It is the same at each start until it is used, and "" once an administrator exists. want is a code that was
// given out beforehand, on paper; it takes the place of the one before unless it was used already. "": one is made up.
func (a *Accounts) EnrolmentCode(ctx context.Context, want string) (string, error) {
	if want != "" && !tokenGrammar.MatchString(want) {
		want = ""
	}
	code := ""
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		rows, err := tx.Accounts()
		if err != nil {
			return err
		}
		for _, u := range rows {
			if u.Admin && !u.Deactivated {
				return nil
			}
		}
		tokens, err := tx.RegistrationTokens()
		if err != nil {
			return err
		}
		wanted, err := tx.RegistrationToken(want)
		if err != nil {
			return err
		}
		if want != "" && wanted == nil { // not known yet
			for _, t := range tokens {
				if t.Enrol && t.Used == 0 {
					if err := tx.DeleteRegistrationToken(t.Token); err != nil {
						return err
					}
				}
			}
			code = want
			return tx.PutRegistrationToken(store.RegistrationTokenRow{Token: code, Uses: 1, Admin: true, Enrol: true})
		}
		for _, t := range tokens {
			if t.Enrol && a.valid(t) {
				code = t.Token
				return nil
			}
		}
		code = randomString(4) + "-" + randomString(4) + "-" + randomString(4)
		return tx.PutRegistrationToken(store.RegistrationTokenRow{Token: code, Uses: 1, Admin: true, Enrol: true})
	})
	return code, err
}
