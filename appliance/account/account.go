// SPDX-License-Identifier: EUPL-1.2

// Package account keeps who lives on the box: users, their devices and tokens, profiles, account data, filters, push
// rules, device keys and the mail between devices, key backups and read receipts.
//
// It promises that whatever a nil error answers is on disk (receipts and last-seen excepted, which may be lost in a power
// cut), that passwords are kept as argon2id and tokens as SHA-256, and that a one-time key is handed out once. It leaves
// rooms to package room, telling clients to package feed, HTTP to package csapi, and the way to other servers to the
// queue of EDUs in the store.
package account

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// Options are what the composition gives to the accounts; the zero value works for a box alone.
type Options struct {
	Log *slog.Logger     // nil: silent
	Now func() time.Time // nil: time.Now; only shown to people and used for expiry, never for order
	// Trusted says whether Now may be believed; nil: always. While it may not, nothing expires.
	Trusted func() bool
	// Enqueue queues an EDU for another server in the caller's transaction; nil: the store's own queue.
	Enqueue func(tx *store.Tx, dest, kind, key string, body []byte) error
	// SharedServers gives the other servers that share a room with the user; nil: asked of the store.
	SharedServers func(r *store.Read, user event.UserID) ([]string, error)
	// Reserved are localparts that nobody may register.
	Reserved []string
	// Cost is what a password check may use; zero: 19 MiB, 2 passes, right for a small box.
	Cost Cost
}

// Cost is the work of one argon2id computation.
type Cost struct {
	MemoryKiB uint32
	Passes    uint32
}

// Accounts answers for the users of one server. All methods may be called from any goroutine.
type Accounts struct {
	db     *store.DB
	server string
	opt    Options

	hashing chan struct{} // one argon2id at a time: memory is scarce, and a flood of logins must not take it
	dummy   string        // hash that unknown users are checked against, so that they cost the same

	mu       sync.Mutex
	sessions map[[32]byte]Session // by token hash; filled on use, emptied when devices go
	seen     map[deviceKey]time.Time
	login    shortTokens
	openID   shortTokens
}

type deviceKey struct {
	user   event.UserID
	device string
}

// Session is an authenticated device.
type Session struct {
	User         event.UserID
	Device       string
	AccessToken  string        // filled by Register, Login and Refresh only
	RefreshToken string        // likewise, when asked for
	Expires      time.Duration // 0: the access token does not expire
	Admin        bool
	Guest        bool
}

// User is an account of this server.
type User struct {
	ID          event.UserID
	Admin       bool
	Guest       bool
	Deactivated bool
	Created     time.Time
	DisplayName string
	AvatarURL   string
}

// over says whether a moment is past for certain.
func (a *Accounts) over(t time.Time) bool { return a.opt.Trusted() && !a.opt.Now().Before(t) }

// New gives the accounts of a server. It starts nothing.
func New(db *store.DB, server string, opt Options) *Accounts {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Trusted == nil {
		opt.Trusted = func() bool { return true }
	}
	if opt.Cost == (Cost{}) {
		opt.Cost = Cost{MemoryKiB: 19 << 10, Passes: 2}
	}
	if opt.Enqueue == nil {
		opt.Enqueue = func(tx *store.Tx, dest, kind, key string, body []byte) error {
			return tx.EnqueueEDU(dest, kind, key, body)
		}
	}
	if opt.SharedServers == nil {
		opt.SharedServers = func(r *store.Read, user event.UserID) ([]string, error) { return r.SharedServers(user) }
	}
	a := &Accounts{
		db: db, server: server, opt: opt, dummy: opt.Cost.noPassword(),
		hashing:  make(chan struct{}, 1),
		sessions: make(map[[32]byte]Session),
		seen:     make(map[deviceKey]time.Time),
		login:    shortTokens{}, openID: shortTokens{},
	}
	return a
}

// Server is the name that the users' ids carry.
func (a *Accounts) Server() string { return a.server }

// Local says whether the user belongs to this server (not whether the account exists).
func (a *Accounts) Local(user event.UserID) bool { return user.Server() == a.server }

// User gives an account; M_NOT_FOUND when there is none.
func (a *Accounts) User(ctx context.Context, user event.UserID) (User, error) {
	var u User
	err := a.db.View(ctx, func(r *store.Read) error {
		var err error
		u, err = readUser(r, user)
		return err
	})
	return u, err
}

// Users lists the accounts of the server, for the administrator.
func (a *Accounts) Users(ctx context.Context) ([]User, error) {
	var out []User
	err := a.db.View(ctx, func(r *store.Read) error {
		rows, err := r.Accounts()
		if err != nil {
			return err
		}
		for _, row := range rows {
			out = append(out, userOf(row))
		}
		return nil
	})
	return out, err
}

func readUser(r *store.Read, user event.UserID) (User, error) {
	row, err := r.Account(user)
	if err != nil {
		return User{}, err
	}
	if row == nil {
		return User{}, notFound("there is no such user on this server")
	}
	return userOf(*row), nil
}

func userOf(row store.AccountRow) User {
	return User{ID: row.User, Admin: row.Admin, Guest: row.Guest, Deactivated: row.Deactivated,
		Created: time.UnixMilli(row.Created), DisplayName: row.DisplayName, AvatarURL: row.AvatarURL}
}

func refuse(status int, code, text string) error {
	return &room.Error{Code: code, Status: status, Text: text}
}
func notFound(text string) error { return refuse(404, "M_NOT_FOUND", text) }
func badJSON(text string) error  { return refuse(400, "M_BAD_JSON", text) }
