// SPDX-License-Identifier: EUPL-1.2

// Package csapi is the Matrix Client-Server API as HTTP: it reads a request, asks the room that keeps the matter, and
// answers in the specification's form. It keeps nothing of its own that must survive a restart: sessions of
// User-Interactive Authentication, rate limits and requests under way live in memory.
//
// It promises that every answer, errors too, has the specified shape and the CORS headers; that a 200 to a write follows
// the commit; and that a panic in one request costs that request alone. Rooms, accounts, feeds and media decide; what
// needs another server is asked through Remote, which package appliance fills in.
//
// https://spec.matrix.org/v1.13/client-server-api/
package csapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/feed"
	"hallig/appliance/media"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// Config is what the handler is made of. Rooms, Feed, Accounts, DB and ServerName must be set.
type Config struct {
	ServerName string
	DB         *store.DB
	Rooms      *room.Rooms
	Feed       *feed.Feed
	Accounts   *account.Accounts
	Media      *media.Media // nil: media routes answer M_UNRECOGNIZED
	Remote     Remote       // nil: this box is alone
	// Delivery tells how far an event has got, as JSON; false when it is not here. nil: M_UNRECOGNIZED.
	Delivery func(ctx context.Context, room event.RoomID, id event.ID) (any, bool, error)
	Log      *slog.Logger // nil: silent

	OpenRegistration bool         // accounts without a token (m.login.dummy)
	SharedSecret     string       // opens /_synapse/admin/v1/register; empty: closed
	PublicBaseURL    string       // for .well-known/matrix/client; empty: taken from the request's Host
	Limits           Limits       // zero: the defaults
	Appservices      []Appservice // application services that may act for their users
	Home             http.Handler // pages outside /_matrix; nil: 404
	Federation       http.Handler // takes /_matrix/federation and /_matrix/key on this port too; nil: 404

	// SlowAfter is how long a request that needs another server may keep its client waiting before it goes on in the
	// background; 0: 20 s.
	SlowAfter time.Duration
	// Now is read for what is shown to people and for the age of sessions; nil: time.Now.
	Now func() time.Time
}

// Handler serves the API. Close it after the HTTP server has stopped.
type Handler struct {
	Config
	log    *slog.Logger
	routes router
	limits *limiter
	uia    *uiaSessions
	slow   *slowRequests
	nonces *nonces
	await  *inviteWait

	granting granting
}

// New makes the handler. It starts nothing; requests that go on in the background are waited for by Close.
func New(cfg Config) *Handler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.SlowAfter == 0 {
		cfg.SlowAfter = 20 * time.Second
	}
	h := &Handler{
		Config: cfg,
		log:    cfg.Log,
		limits: newLimiter(cfg.Limits, cfg.Now),
		uia:    newUIASessions(cfg.Now),
		slow:   newSlowRequests(cfg.SlowAfter),
		nonces: newNonces(cfg.Now),
		await:  newInviteWait(),
	}
	h.enterRoutes()
	return h
}

// Close gives up what goes on in the background and waits for it.
func (h *Handler) Close() { h.slow.close() }

// call is one request on its way through a handler.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	params  [maxParams]string
	token   string
	session account.Session // of authenticated endpoints
	service *Appservice     // set when an application service asks
}

// endpoint is what a route leads to.
type endpoint struct {
	name   string
	auth   bool
	limit  limitKind
	handle func(context.Context, *call) (any, error) // nil answer: {}
}

// wrote is the answer of a handler that has written the response itself.
type wrote struct{}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var c call
	methods, bad := h.routes.find(r.URL.EscapedPath(), &c.params)
	name := "unknown route"
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		id := shortID()
		h.log.Error("panic in a request", "id", id, "method", r.Method, "route", name, "panic", p, "stack", string(debug.Stack()))
		reply(w, http.StatusInternalServerError, errorBody{Code: "M_UNKNOWN", Text: "internal error " + id})
	}()

	if methods == nil && h.Home != nil && !apiPath(r.URL.Path) {
		h.Home.ServeHTTP(w, r)
		return
	}
	if methods == nil && h.Federation != nil && federationPath(r.URL.Path) {
		h.Federation.ServeHTTP(w, r)
		return
	}
	cors(w.Header())
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if methods == nil {
		h.fail(w, r, name, refuse(http.StatusNotFound, "M_UNRECOGNIZED", "there is no such route"))
		return
	}
	e := methods[r.Method]
	if e == nil && r.Method == http.MethodHead {
		e = methods[http.MethodGet]
	}
	if e == nil {
		h.fail(w, r, name, refuse(http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "this route does not know the method "+r.Method))
		return
	}
	name = e.name
	if bad {
		h.fail(w, r, name, invalid("the path holds a broken escape or is no UTF-8"))
		return
	}
	c.w, c.r = w, r
	out, err := h.dispatch(r.Context(), e, &c)
	if err != nil {
		h.fail(w, r, name, err)
		return
	}
	if _, done := out.(wrote); !done {
		reply(w, http.StatusOK, out)
	}
}

func (h *Handler) dispatch(ctx context.Context, e *endpoint, c *call) (any, error) {
	if e.auth {
		if err := h.authenticate(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := h.limits.allow(e.limit, c); err != nil {
		return nil, err
	}
	return e.handle(ctx, c)
}

// apiPath says whether a path belongs to an API rather than to the pages.
func apiPath(p string) bool {
	return strings.HasPrefix(p, "/_matrix") || strings.HasPrefix(p, "/_synapse") || strings.HasPrefix(p, "/.well-known/matrix") || strings.HasPrefix(p, "/_hallig/v1/rooms/")
}

// federationPath says whether a path is one that servers ask, not clients.
func federationPath(p string) bool {
	return strings.HasPrefix(p, "/_matrix/federation/") || strings.HasPrefix(p, "/_matrix/key/") || strings.HasPrefix(p, "/_matrix/policy/") ||
		p == "/.well-known/matrix/server"
}

// cors lets web clients of any origin in. https://spec.matrix.org/v1.13/client-server-api/#web-browser-clients
func cors(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, Date")
	h.Set("Access-Control-Expose-Headers", "Retry-After, Content-Disposition")
	h.Set("Access-Control-Max-Age", "86400")
}

// shortID names a fault in the log and towards the user.
func shortID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
