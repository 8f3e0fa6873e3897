// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// HandlerConfig is what a Handler needs. Locals, Ring, Rooms, Intake and DB must be set; what is nil of the rest is
// answered as unknown.
type HandlerConfig struct {
	// Locals are the names that the handler answers under: X-Matrix's destination picks one, or the Host where nothing is signed.
	Locals Locals
	DB     *store.DB
	Ring   *KeyRing
	Rooms  *room.Rooms
	Client *Client // asks back: keys and graphs of those who speak to us
	Intake *Intake
	Users  Users
	Media  Media
	// Trouble counts events that are not taken in; nil: nobody counts.
	Trouble *Trouble
	// Holds says whether one of the names has anything to tell of a room; nil: each has all rooms.
	Holds func(server string, room event.RoomID) bool
	// Heard is told whenever a server spoke to us with a good signature: it is in reach. nil: nobody wants to know.
	Heard   func(server string)
	Version string
	Log     *slog.Logger // nil: silent
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Handler answers other servers under /_matrix/federation and /_matrix/key.
type Handler struct {
	c        HandlerConfig
	log      *slog.Logger
	mux      *http.ServeMux
	acl      aclCache
	turns    turns
	verifier *Verifier
	notary   chan struct{} // bounds the servers that are asked for their keys on behalf of strangers
}

const maxRequest = 8 << 20 // 50 events of 64 KiB, and EDUs

// NewHandler returns the answering side. The same handler serves HTTPS, libp2p streams and request parcels.
func NewHandler(c HandlerConfig) http.Handler {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	h := &Handler{c: c, log: c.Log, mux: http.NewServeMux(), acl: aclCache{parsed: map[event.ID]*acl{}}, verifier: NewVerifier(c.Ring),
		notary: make(chan struct{}, notaryAtOnce)}
	for path, methods := range h.routes() {
		h.mux.Handle(path, methods)
	}
	return h
}

// NewNotary returns a handler that answers what needs no rooms: key documents, also of other servers, version and .well-known. Of c only Locals, Ring, Version,
// Log and Now count.
func NewNotary(c HandlerConfig) http.Handler {
	h, _ := NewHandler(c).(*Handler)
	h.mux = http.NewServeMux()
	for path, methods := range h.routes() {
		if path == wellKnownPath || strings.HasPrefix(path, "/_matrix/key/") || strings.HasSuffix(path, "/version") {
			h.mux.Handle(path, methods)
		}
	}
	return h
}

// request is one verified request.
type request struct {
	*http.Request
	local  Local // whom the request is for
	origin string
	body   []byte
	w      http.ResponseWriter // for the few that do not answer JSON
}

func (r *request) query(name string) string { return r.URL.Query().Get(name) }

// endpoint answers a request; the answer is marshalled as JSON unless it is written.
type endpoint func(ctx context.Context, r *request) (any, error)

// written is the answer of an endpoint that has written the response itself.
type written struct{}

// methods is one path: endpoints by method.
type methods struct {
	h      *Handler
	by     map[string]endpoint
	public bool // no X-Matrix
}

func (h *Handler) signed(method string, e endpoint) methods {
	return methods{h: h, by: map[string]endpoint{method: e}}
}

func (h *Handler) open(method string, e endpoint) methods {
	return methods{h: h, by: map[string]endpoint{method: e}, public: true}
}

// routes is the table of the Server-Server API.
func (h *Handler) routes() map[string]methods {
	const v1, v2, key = "/_matrix/federation/v1/", "/_matrix/federation/v2/", "/_matrix/key/v2/"
	return map[string]methods{
		wellKnownPath:                             h.open("GET", h.wellKnown),
		key + "server":                            h.open("GET", h.keyServer),
		key + "server/{keyID}":                    h.open("GET", h.keyServer),
		key + "query":                             h.open("POST", h.keyQuery),
		key + "query/{server}":                    h.open("GET", h.keyQueryOne),
		v1 + "version":                            h.open("GET", h.version),
		v1 + "send/{txn}":                         h.signed("PUT", h.send),
		v1 + "make_join/{room}/{user}":            h.signed("GET", h.makeJoin),
		v2 + "send_join/{room}/{event}":           h.signed("PUT", h.sendJoin),
		v1 + "send_join/{room}/{event}":           h.signed("PUT", h.sendJoinV1),
		v1 + "make_leave/{room}/{user}":           h.signed("GET", h.makeLeave),
		v2 + "send_leave/{room}/{event}":          h.signed("PUT", h.sendLeave),
		v1 + "send_leave/{room}/{event}":          h.signed("PUT", h.sendLeaveV1),
		v1 + "make_knock/{room}/{user}":           h.signed("GET", h.makeKnock),
		v1 + "send_knock/{room}/{event}":          h.signed("PUT", h.sendKnock),
		v2 + "invite/{room}/{event}":              h.signed("PUT", h.invite),
		v1 + "invite/{room}/{event}":              h.signed("PUT", h.invite),
		v1 + "backfill/{room}":                    h.signed("GET", h.backfill),
		v1 + "get_missing_events/{room}":          h.signed("POST", h.missingEvents),
		v1 + "state/{room}":                       h.signed("GET", h.state),
		v1 + "state_ids/{room}":                   h.signed("GET", h.stateIDs),
		v1 + "event/{event}":                      h.signed("GET", h.event),
		v1 + "event_auth/{room}/{event}":          h.signed("GET", h.eventAuth),
		v1 + "query/profile":                      h.signed("GET", h.profile),
		v1 + "query/{type}":                       h.signed("GET", h.otherQuery),
		v1 + "hierarchy/{room}":                   h.signed("GET", h.hierarchy),
		v1 + "timestamp_to_event/{room}":          h.signed("GET", h.eventAtTime),
		v1 + "query/directory":                    h.signed("GET", h.directory),
		v1 + "user/devices/{user}":                h.signed("GET", h.userDevices),
		v1 + "user/keys/query":                    h.signed("POST", h.keysQuery),
		v1 + "user/keys/claim":                    h.signed("POST", h.keysClaim),
		v1 + "publicRooms":                        methods{h: h, by: map[string]endpoint{"GET": h.publicRooms, "POST": h.publicRooms}},
		v1 + "media/download/{media}":             h.signed("GET", h.mediaDownload),
		v1 + "media/thumbnail/{media}":            h.signed("GET", h.mediaThumbnail),
		v1 + "openid/userinfo":                    h.open("GET", h.openID),
		v1 + "exchange_third_party_invite/{room}": h.signed("PUT", h.exchangeThirdParty),
		v1 + "3pid/onbind":                        h.open("PUT", h.bound),
	}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			h.log.Error("panic in a federation request", "method", r.Method, "panic", p, "stack", string(debug.Stack()))
			answer(w, http.StatusInternalServerError, errorBody{"M_UNKNOWN", "internal error"})
		}
	}()
	next, pattern := h.mux.Handler(r)
	if _, ok := next.(methods); !ok || pattern == "" {
		answer(w, http.StatusNotFound, errorBody{"M_UNRECOGNIZED", "there is no such route"})
		return
	}
	h.mux.ServeHTTP(w, r)
}

func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := m.by[r.Method]
	if e == nil && r.Method == http.MethodHead {
		e = m.by[http.MethodGet]
	}
	if e == nil {
		answer(w, http.StatusMethodNotAllowed, errorBody{"M_UNRECOGNIZED", "this route does not know the method"})
		return
	}
	raw, release, err := m.h.verifier.Body(w, r)
	if errors.Is(err, ErrBusy) {
		busy(w)
		return
	}
	if err != nil {
		answer(w, http.StatusRequestEntityTooLarge, errorBody{"M_TOO_LARGE", "the body is too long"})
		return
	}
	defer release()
	q := &request{Request: r, body: raw, w: w}
	if m.public {
		var ok bool
		if q.local, ok = m.h.c.Locals.addressed(r); !ok {
			answer(w, http.StatusMisdirectedRequest, errorBody{"M_UNRECOGNIZED", "no server of this name answers here"})
			return
		}
	} else {
		err := m.h.authenticate(q)
		if errors.Is(err, ErrBusy) {
			busy(w)
			return
		}
		if err != nil {
			m.h.log.Info("federation request refused", "path", r.URL.Path, "reason", err)
			answer(w, http.StatusUnauthorized, errorBody{"M_UNAUTHORIZED", publicReason(err)})
			return
		}
	}
	out, err := e(r.Context(), q)
	if err != nil {
		m.h.fail(w, q, err)
		return
	}
	if _, done := out.(written); !done {
		answer(w, http.StatusOK, out)
	}
}

// readBody reads a request's body within the limit, into one piece of memory when its length is known.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	in := http.MaxBytesReader(w, r.Body, maxRequest+1)
	if r.ContentLength <= 0 || r.ContentLength > 1<<20 { // what only claims to be large gets no memory in advance
		return readBounded(in, maxRequest)
	}
	raw := make([]byte, r.ContentLength)
	_, err := io.ReadFull(in, raw)
	return raw, err
}

// busy tells to come again.
func busy(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "10")
	answer(w, http.StatusTooManyRequests, errorBody{"M_LIMIT_EXCEEDED", ErrBusy.Error()})
}

// errKey hides why a key could not be had from strangers; the log has it.
var errKey = errors.New("the signing key of the origin could not be had")

func publicReason(err error) string {
	if errors.Is(err, ErrKeyUnavailable) {
		return errKey.Error()
	}
	return err.Error()
}

// authenticate checks the X-Matrix headers; one good signature is enough.
// https://spec.matrix.org/v1.16/server-server-api/#request-authentication
func (h *Handler) authenticate(q *request) error {
	a, _, err := h.verifier.Verify(q.Request, q.body, h.received(q.Context()), func(a Authorization) error {
		local, ok := h.c.Locals.addressed(q.Request)
		if a.Destination != "" {
			local, ok = h.c.Locals(a.Destination)
		}
		if !ok {
			return errors.New("the request is for " + a.Destination + ", not for this server")
		}
		if h.c.Locals.has(a.Origin) {
			return errors.New("the request claims to be from this server itself")
		}
		q.local = local
		return nil
	})
	if err != nil {
		return err
	}
	q.origin = a.Origin
	if h.c.Heard != nil {
		h.c.Heard(a.Origin)
	}
	return nil
}

type errorBody struct {
	Code string `json:"errcode"`
	Text string `json:"error"`
}

func (h *Handler) fail(w http.ResponseWriter, q *request, err error) {
	if AnswerError(w, err) {
		return
	}
	if q.Context().Err() == nil {
		h.log.Warn("federation request failed", "path", q.URL.Path, "origin", q.origin, "err", err)
	}
	answer(w, http.StatusInternalServerError, errorBody{"M_UNKNOWN", "internal error"})
}

// AnswerError answers an error of this package that the other server is told; false: it is none, and nothing was answered.
func AnswerError(w http.ResponseWriter, err error) bool {
	var version *incompatible
	if errors.As(err, &version) {
		answer(w, http.StatusBadRequest, map[string]string{"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": version.Error(), "room_version": version.version})
		return true
	}
	var known *room.Error
	if !errors.As(err, &known) || known.Code == "" {
		return false
	}
	status := known.Status
	if status == 0 {
		status = http.StatusBadRequest
	}
	answer(w, status, errorBody{known.Code, known.Text})
	return true
}

func answer(w http.ResponseWriter, status int, body any) {
	raw, err := json.Marshal(body)
	if err != nil {
		status, raw = http.StatusInternalServerError, []byte(`{"errcode":"M_UNKNOWN","error":"internal error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	_, _ = w.Write(raw) // who has gone needs no answer
}

// refuse is an error that the other server is told.
func refuse(status int, code, text string) error {
	return &room.Error{Code: code, Status: status, Text: text}
}

func badJSON(text string) error   { return refuse(http.StatusBadRequest, "M_BAD_JSON", text) }
func invalid(text string) error   { return refuse(http.StatusBadRequest, "M_INVALID_PARAM", text) }
func forbidden(text string) error { return refuse(http.StatusForbidden, "M_FORBIDDEN", text) }
func notFound(text string) error  { return refuse(http.StatusNotFound, "M_NOT_FOUND", text) }

func (r *request) decode(into any) error {
	if len(r.body) == 0 {
		return refuse(http.StatusBadRequest, "M_NOT_JSON", "a JSON body is needed")
	}
	if err := json.Unmarshal(r.body, into); err != nil {
		return errForm
	}
	return nil
}

var errForm = badJSON("the body does not have the form it should have")

// number reads a query parameter, within bounds.
func number(q url.Values, name string, def, most int) int {
	n, err := strconv.Atoi(q.Get(name))
	if err != nil || n < 0 {
		return def
	}
	return min(n, most)
}

func (h *Handler) version(context.Context, *request) (any, error) {
	v := h.c.Version
	if v == "" {
		v = "dev"
	}
	return map[string]any{"server": map[string]string{"name": "Hallig", "version": v}}, nil
}

// wellKnownPath is asked over HTTPS under a server's name, where that is no address of the server itself.
const wellKnownPath = "/.well-known/matrix/server"

// wellKnown says where the server is that has the name.
// https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver
func (h *Handler) wellKnown(_ context.Context, r *request) (any, error) {
	if r.local.At == "" {
		return nil, notFound("this server publishes no federation address")
	}
	return map[string]string{"m.server": r.local.At}, nil
}

// keyServer gives our own key document.
func (h *Handler) keyServer(_ context.Context, r *request) (any, error) {
	doc, err := h.c.Ring.Document(r.local)
	return json.RawMessage(doc), err
}
