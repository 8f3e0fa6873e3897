// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/appliance/web"
)

type registerRequest struct {
	Username     string          `json:"username"`
	Password     string          `json:"password"`
	Device       string          `json:"device_id"`
	DeviceName   string          `json:"initial_device_display_name"`
	InhibitLogin bool            `json:"inhibit_login"`
	Refresh      bool            `json:"refresh_token"`
	Type         string          `json:"type"` // m.login.application_service
	Auth         json.RawMessage `json:"auth"`
}

// register: https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3register
func (h *Handler) register(ctx context.Context, c *call) (any, error) {
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	var req registerRequest
	if err := unmarshal(raw, &req); err != nil {
		return nil, err
	}
	switch kind := c.query("kind"); kind {
	case "", "user":
	case "guest":
		return nil, refuse(http.StatusForbidden, "M_GUEST_ACCESS_FORBIDDEN", "there are no guests on this server")
	default:
		return nil, invalid("kind must be user or guest")
	}
	if req.Type == "m.login.application_service" || h.appservice(bearer(c.r)) != nil {
		return h.registerAppservice(ctx, c, req)
	}
	// Refused before the stages, so that nobody uses a token up for a name they cannot have.
	if req.Username != "" {
		if err := h.freeName(ctx, req.Username); err != nil {
			return nil, err
		}
	}
	if err := h.goodPassword(req.Password); err != nil {
		return nil, err
	}
	p, err := h.prove(ctx, raw, h.registerStages())
	if err != nil {
		return nil, err
	}
	if err := unmarshal(p.body, &req); err != nil {
		return nil, err
	}
	if err := h.goodPassword(req.Password); err != nil {
		return nil, err
	}
	if err := goodDeviceID(req.Device); err != nil {
		return nil, err
	}
	s, err := h.Accounts.Register(ctx, account.RegisterRequest{
		Username: req.Username, Password: req.Password, Device: req.Device, DeviceName: req.DeviceName,
		Token: p.token, InhibitLogin: req.InhibitLogin, Refresh: req.Refresh,
	})
	if err != nil {
		return nil, err
	}
	p.end()
	return h.opened(s), nil
}

// SignUp makes an account for somebody who fills in the form of the box's own page: many clients have no stage for a registration token. addr is whose, for the
// limits. code is the error code of the Client-Server API, "" when the account was made.
func (h *Handler) SignUp(ctx context.Context, addr, name, password, token string) (user event.UserID, code string) {
	var err error
	switch {
	case !h.limits.off && h.limits.take(limitRegister, hostOf(addr)) > 0:
		return "", "M_LIMIT_EXCEEDED"
	case name == "" || password == "" || token == "":
		err = missing("username, password or token")
	default:
		err = h.freeName(ctx, name)
	}
	if err == nil {
		var s account.Session
		token = h.typedToken(ctx, token)
		s, err = h.Accounts.Register(ctx, account.RegisterRequest{Username: name, Password: password, Token: token, InhibitLogin: true})
		user = s.User
	}
	var full *store.Full
	var refusal *room.Error
	switch {
	case err == nil:
		return user, ""
	case errors.As(err, &full):
		return "", "M_RESOURCE_LIMIT_EXCEEDED"
	case errors.As(err, &refusal):
		return "", refusal.Code
	}
	h.log.Error("sign-up failed", "err", err)
	return "", "M_UNKNOWN"
}

// typedToken forgives how a person types a token that the box made up: with blanks around it and in small letters.
func (h *Handler) typedToken(ctx context.Context, token string) string {
	token = strings.TrimSpace(token)
	upper := strings.ToUpper(token)
	if ok, err := h.Accounts.RegistrationTokenValid(ctx, token); ok || err != nil {
		return token // a failure shows again when the account is made
	}
	if ok, err := h.Accounts.RegistrationTokenValid(ctx, upper); ok && err == nil {
		return upper
	}
	return token
}

// registerStages offers a registration token always, and nothing to prove where registration is open.
func (h *Handler) registerStages() stages {
	flows := [][]string{{"m.login.registration_token"}}
	if h.OpenRegistration {
		flows = [][]string{{"m.login.dummy"}, {"m.login.registration_token"}}
	}
	return stages{purpose: "register", flows: flows, check: func(ctx context.Context, a authDict) error {
		if a.Type == "m.login.dummy" {
			return nil
		}
		ok, err := h.Accounts.RegistrationTokenValid(ctx, a.Token)
		if err == nil && !ok {
			err = refuse(http.StatusUnauthorized, "M_FORBIDDEN", "this registration token is not valid")
		}
		return err
	}}
}

// goodPassword refuses short passwords. Test beds, where anybody may register, have their own; without a password nobody logs in.
func (h *Handler) goodPassword(password string) error {
	if h.OpenRegistration || password == "" || utf8.RuneCountInString(password) >= web.MinPassword {
		return nil
	}
	return refuse(http.StatusBadRequest, "M_WEAK_PASSWORD", fmt.Sprintf("a password has %d characters at least", web.MinPassword))
}

func (h *Handler) freeName(ctx context.Context, name string) error {
	id, err := h.Accounts.CheckUsername(ctx, name)
	if err != nil {
		return err
	}
	if h.exclusive(id) {
		return refuse(http.StatusBadRequest, "M_EXCLUSIVE", "this name is reserved for an application service")
	}
	return nil
}

func (h *Handler) registerAvailable(ctx context.Context, c *call) (any, error) {
	name := c.query("username")
	if name == "" {
		return nil, missing("username")
	}
	if err := h.freeName(ctx, name); err != nil {
		return nil, err
	}
	return map[string]bool{"available": true}, nil
}

func (h *Handler) registrationTokenValidity(ctx context.Context, c *call) (any, error) {
	ok, err := h.Accounts.RegistrationTokenValid(ctx, c.query("token"))
	if err != nil {
		return nil, err
	}
	return map[string]bool{"valid": ok}, nil
}

// nonceLife is how long a nonce of the shared-secret registration may be used.
const nonceLife = time.Minute

// nonces are handed out once and taken back once.
type nonces struct {
	now func() time.Time

	mu  sync.Mutex
	out map[string]time.Time
}

func newNonces(now func() time.Time) *nonces {
	return &nonces{now: now, out: make(map[string]time.Time)}
}

func (n *nonces) give() string {
	id := shortID() + shortID() + shortID() + shortID()
	now := n.now()
	n.mu.Lock()
	defer n.mu.Unlock()
	for k, t := range n.out {
		if now.Sub(t) > nonceLife || len(n.out) > 1000 {
			delete(n.out, k)
		}
	}
	n.out[id] = now
	return id
}

func (n *nonces) take(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	t, ok := n.out[id]
	delete(n.out, id)
	return ok && n.now().Sub(t) <= nonceLife
}

func (h *Handler) sharedSecretNonce(context.Context, *call) (any, error) {
	if h.SharedSecret == "" {
		return nil, refuse(http.StatusNotFound, "M_UNRECOGNIZED", "registration by shared secret is not configured")
	}
	return map[string]string{"nonce": h.nonces.give()}, nil
}

// registerShared makes accounts for whoever knows the secret of the configuration. The form is Synapse's:
// https://element-hq.github.io/synapse/latest/admin_api/register_api.html
func (h *Handler) registerShared(ctx context.Context, c *call) (any, error) {
	if h.SharedSecret == "" {
		return nil, refuse(http.StatusNotFound, "M_UNRECOGNIZED", "registration by shared secret is not configured")
	}
	var req struct {
		Nonce       string `json:"nonce"`
		Username    string `json:"username"`
		DisplayName string `json:"displayname"`
		Password    string `json:"password"`
		Admin       bool   `json:"admin"`
		UserType    string `json:"user_type"`
		MAC         string `json:"mac"`
		Inhibit     bool   `json:"inhibit_login"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Username == "" || req.Password == "" {
		return nil, missing("username or password")
	}
	if !h.nonces.take(req.Nonce) {
		return nil, refuse(http.StatusBadRequest, "M_UNKNOWN", "unrecognised nonce")
	}
	if !sharedMAC(h.SharedSecret, req.MAC, req.Nonce, req.Username, req.Password, req.Admin, req.UserType) {
		return nil, forbidden("HMAC incorrect")
	}
	s, err := h.Accounts.Register(ctx, account.RegisterRequest{Username: req.Username, Password: req.Password, Admin: req.Admin, InhibitLogin: req.Inhibit})
	if err != nil {
		return nil, err
	}
	if req.DisplayName != "" {
		name, err := json.Marshal(req.DisplayName)
		if err != nil {
			return nil, err
		}
		if err := h.Accounts.SetProfileField(ctx, s.User, "displayname", name); err != nil {
			return nil, err
		}
	}
	return h.opened(s), nil
}

func sharedMAC(secret, given, nonce, user, password string, admin bool, userType string) bool {
	got, err := hex.DecodeString(given)
	if err != nil {
		return false
	}
	role := "notadmin"
	if admin {
		role = "admin"
	}
	m := hmac.New(sha1.New, []byte(secret))
	for i, part := range []string{nonce, user, password, role, userType} {
		if i == 4 && part == "" {
			break
		}
		if i > 0 {
			_, _ = m.Write([]byte{0})
		}
		_, _ = m.Write([]byte(part)) // a hash takes all
	}
	return hmac.Equal(got, m.Sum(nil))
}
