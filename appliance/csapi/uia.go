// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"hallig/appliance/event"
)

// uiaLife is how long a User-Interactive session may take.
const uiaLife = time.Hour

// maxUIA bounds the sessions kept; the oldest go first.
const maxUIA = 1024

// uiaSessions keeps what was proven in which session of User-Interactive Authentication.
// https://spec.matrix.org/v1.13/client-server-api/#user-interactive-authentication-api
type uiaSessions struct {
	now func() time.Time

	mu   sync.Mutex
	open map[string]*uiaSession
}

type uiaSession struct {
	started time.Time
	purpose string // operation and user, so that a proof for one thing cannot be used for another
	done    []string
	token   string // registration token that was shown
	first   json.RawMessage
}

func newUIASessions(now func() time.Time) *uiaSessions {
	return &uiaSessions{now: now, open: make(map[string]*uiaSession)}
}

// begin opens a session. It keeps the request, as clients may repeat only the auth part of it.
func (u *uiaSessions) begin(purpose string, first json.RawMessage) string {
	now := u.now()
	id := shortID() + shortID() + shortID() + shortID()
	u.mu.Lock()
	defer u.mu.Unlock()
	var oldest string
	for k, s := range u.open {
		if now.Sub(s.started) > uiaLife {
			delete(u.open, k)
		} else if oldest == "" || s.started.Before(u.open[oldest].started) {
			oldest = k
		}
	}
	if len(u.open) >= maxUIA {
		delete(u.open, oldest)
	}
	if len(first) > 4<<10 { // only small requests are worth keeping
		first = nil
	}
	u.open[id] = &uiaSession{started: now, purpose: purpose, first: first}
	return id
}

func (u *uiaSessions) find(id, purpose string) (uiaSession, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.open[id]
	if s == nil || s.purpose != purpose || u.now().Sub(s.started) > uiaLife {
		return uiaSession{}, false
	}
	return *s, true
}

// pass notes a finished stage and gives the session after it.
func (u *uiaSessions) pass(id, stage, token string) uiaSession {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.open[id]
	if s == nil {
		return uiaSession{}
	}
	known := false
	for _, d := range s.done {
		known = known || d == stage
	}
	if !known {
		s.done = append(s.done[:len(s.done):len(s.done)], stage)
	}
	if token != "" {
		s.token = token
	}
	return *s
}

func (u *uiaSessions) end(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.open, id)
}

// authDict is the auth part of a request.
type authDict struct {
	Type       string      `json:"type"`
	Session    string      `json:"session"`
	Token      string      `json:"token"`
	Password   string      `json:"password"`
	User       string      `json:"user"`
	Identifier *identifier `json:"identifier"`
}

// proof is a finished interactive authentication.
type proof struct {
	body  json.RawMessage // the request as first made, when the last one carried only auth
	token string          // registration token that was shown
	end   func()          // forgets the session; call it once the operation has succeeded
}

// stages are the flows offered for one purpose, and how a stage of them is checked.
type stages struct {
	purpose string
	flows   [][]string
	check   func(ctx context.Context, a authDict) error // by a.Type
}

// prove runs one step. The error is the 401 with the flows until a flow is complete.
func (h *Handler) prove(ctx context.Context, raw json.RawMessage, st stages) (proof, error) {
	var req struct {
		Auth *authDict `json:"auth"`
	}
	if err := unmarshal(raw, &req); err != nil {
		return proof{}, err
	}
	if req.Auth == nil {
		return proof{}, h.challenge(h.uia.begin(st.purpose, raw), uiaSession{}, st, nil)
	}
	id := req.Auth.Session
	if id == "" {
		// Clients may prove at once, without having asked for a session.
		if req.Auth.Type == "" {
			return proof{}, h.challenge(h.uia.begin(st.purpose, raw), uiaSession{}, st, nil)
		}
		id = h.uia.begin(st.purpose, nil)
	}
	s, ok := h.uia.find(id, st.purpose)
	if !ok {
		return proof{}, h.challenge(h.uia.begin(st.purpose, raw), uiaSession{}, st,
			refuse(http.StatusUnauthorized, "M_UNKNOWN", "this session is not known or has timed out"))
	}
	if req.Auth.Type != "" {
		if !offered(st.flows, req.Auth.Type) {
			return proof{}, h.challenge(id, s, st, refuse(http.StatusUnauthorized, "M_UNRECOGNIZED", "this stage is not offered"))
		}
		if err := st.check(ctx, *req.Auth); err != nil {
			if errors.Is(err, errOtherUser) {
				return proof{}, err // another password would not help
			}
			return proof{}, h.challenge(id, s, st, err)
		}
		s = h.uia.pass(id, req.Auth.Type, req.Auth.Token)
	}
	if !complete(st.flows, s.done) {
		return proof{}, h.challenge(id, s, st, nil)
	}
	p := proof{body: raw, token: s.token, end: func() { h.uia.end(id) }}
	if s.first != nil && onlyAuth(raw) {
		p.body = s.first
	}
	return p, nil
}

// challenge is the 401 that says what to prove.
func (h *Handler) challenge(id string, s uiaSession, st stages, cause error) error {
	type flow struct {
		Stages []string `json:"stages"`
	}
	flows := make([]flow, len(st.flows))
	for i, f := range st.flows {
		flows[i].Stages = f
	}
	done := s.done
	if done == nil {
		done = []string{}
	}
	body := map[string]any{"session": id, "flows": flows, "params": struct{}{}, "completed": done}
	if cause != nil {
		code, text, ok := told(cause)
		if !ok {
			return cause
		}
		body["errcode"], body["error"] = code, text
	}
	return &answer{http.StatusUnauthorized, body}
}

func offered(flows [][]string, stage string) bool {
	for _, f := range flows {
		for _, s := range f {
			if s == stage {
				return true
			}
		}
	}
	return false
}

func complete(flows [][]string, done []string) bool {
	for _, f := range flows {
		if len(f) == 0 {
			continue
		}
		left := len(f)
		for _, s := range f {
			for _, d := range done {
				if s == d {
					left--
					break
				}
			}
		}
		if left == 0 {
			return true
		}
	}
	return false
}

// onlyAuth says whether a body carries nothing besides auth.
func onlyAuth(raw json.RawMessage) bool {
	var m map[string]json.RawMessage
	return json.Unmarshal(raw, &m) == nil && len(m) == 1
}

// errOtherUser refuses a proof that somebody else than the session's user has given.
var errOtherUser = forbidden("the password is asked of the user who is logged in")

// provePassword asks the session's user for their password.
func (h *Handler) provePassword(ctx context.Context, c *call, raw json.RawMessage, operation string) (proof, error) {
	if c.service != nil {
		return proof{body: raw, end: func() {}}, nil
	}
	return h.prove(ctx, raw, stages{
		purpose: operation + " " + string(c.session.User),
		flows:   [][]string{{"m.login.password"}},
		check: func(ctx context.Context, a authDict) error {
			name := a.User
			if a.Identifier != nil {
				name = a.Identifier.User
			}
			if err := h.limits.allow(limitLogin, c); err != nil {
				return err
			}
			if name != "" && h.userID(name) != c.session.User {
				return errOtherUser
			}
			return h.Accounts.VerifyPassword(ctx, c.session.User, a.Password)
		},
	})
}

// userID completes a localpart.
func (h *Handler) userID(name string) event.UserID {
	if strings.HasPrefix(name, "@") {
		return event.UserID(name)
	}
	return event.UserID("@" + name + ":" + h.ServerName)
}
