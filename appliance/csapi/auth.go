// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"

	"hallig/appliance/account"
	"hallig/appliance/event"
)

// authenticate finds the session of the request. https://spec.matrix.org/v1.13/client-server-api/#using-access-tokens
func (h *Handler) authenticate(ctx context.Context, c *call) error {
	c.token = bearer(c.r)
	if c.token == "" {
		return refuse(http.StatusUnauthorized, "M_MISSING_TOKEN", "an access token is needed")
	}
	if s := h.appservice(c.token); s != nil {
		return h.asAppservice(ctx, c, s)
	}
	session, err := h.Accounts.Auth(ctx, c.token)
	if errors.Is(err, account.ErrSoftLogout) {
		return &answer{http.StatusUnauthorized, map[string]any{"errcode": "M_UNKNOWN_TOKEN", "error": "this access token has expired", "soft_logout": true}}
	}
	if err != nil {
		return err
	}
	c.session = session
	h.Accounts.Seen(session, address(c.r), c.r.UserAgent())
	return nil
}

// bearer takes the token from the header or, as clients before v1.11 may, from the query.
func bearer(r *http.Request) string {
	if a := r.Header.Get("Authorization"); a != "" {
		token, ok := strings.CutPrefix(a, "Bearer ")
		if !ok {
			return ""
		}
		return strings.TrimSpace(token)
	}
	if strings.Contains(r.URL.RawQuery, "access_token=") {
		return r.URL.Query().Get("access_token")
	}
	return ""
}

func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// self refuses to act on another user's data.
func (c *call) self(param string) (event.UserID, error) {
	if event.UserID(param) != c.session.User {
		return "", forbidden("this belongs to another user")
	}
	return c.session.User, nil
}

func (h *Handler) whoami(_ context.Context, c *call) (any, error) {
	out := map[string]any{"user_id": c.session.User, "is_guest": c.session.Guest}
	if c.session.Device != "" {
		out["device_id"] = c.session.Device
	}
	return out, nil
}

func (h *Handler) loginFlows(context.Context, *call) (any, error) {
	return map[string]any{"flows": []any{
		map[string]string{"type": "m.login.password"},
		map[string]any{"type": "m.login.token", "get_login_token": true},
		map[string]string{"type": "m.login.application_service"},
	}}, nil
}

type identifier struct {
	Type string `json:"type"`
	User string `json:"user"`
}

// login: https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3login
func (h *Handler) login(ctx context.Context, c *call) (any, error) {
	var req struct {
		Type       string      `json:"type"`
		Identifier *identifier `json:"identifier"`
		User       string      `json:"user"` // before identifier existed
		Password   *string     `json:"password"`
		Token      string      `json:"token"`
		Device     string      `json:"device_id"`
		DeviceName string      `json:"initial_device_display_name"`
		Refresh    bool        `json:"refresh_token"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if err := goodDeviceID(req.Device); err != nil {
		return nil, err
	}
	name := req.User
	if req.Identifier != nil {
		if req.Identifier.Type != "m.id.user" {
			return nil, refuse(http.StatusBadRequest, "M_UNKNOWN", "only m.id.user identifiers are known here")
		}
		name = req.Identifier.User
	}
	switch req.Type {
	case "m.login.password":
		if name == "" {
			return nil, missing("identifier")
		}
		if req.Password == nil {
			return nil, missing("password")
		}
		s, err := h.Accounts.Login(ctx, account.LoginRequest{User: name, Password: *req.Password, Device: req.Device, DeviceName: req.DeviceName, Refresh: req.Refresh})
		if err != nil {
			return nil, err
		}
		return h.opened(s), nil
	case "m.login.token":
		s, err := h.Accounts.LoginWithToken(ctx, req.Token, req.Device, req.DeviceName, req.Refresh)
		if err != nil {
			return nil, err
		}
		return h.opened(s), nil
	case "m.login.application_service":
		return h.loginAppservice(ctx, c, name, req.Device, req.DeviceName)
	case "":
		return nil, missing("type")
	}
	return nil, refuse(http.StatusBadRequest, "M_UNKNOWN", "this login type is not known here")
}

// goodDeviceID refuses ids that would not fit into headers, logs and keys.
func goodDeviceID(id string) error {
	if len(id) > 255 {
		return invalid("device_id is longer than 255 bytes")
	}
	return nil
}

// opened is the answer to a successful login or registration.
func (h *Handler) opened(s account.Session) map[string]any {
	out := map[string]any{"user_id": s.User, "home_server": h.ServerName}
	if s.AccessToken != "" {
		out["access_token"] = s.AccessToken
		out["device_id"] = s.Device
	}
	if s.RefreshToken != "" {
		out["refresh_token"] = s.RefreshToken
	}
	if s.Expires > 0 {
		out["expires_in_ms"] = s.Expires.Milliseconds()
	}
	return out
}

// loginToken lets a signed-in client sign another one in, for example by showing a code.
// https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv1loginget_token
func (h *Handler) loginToken(ctx context.Context, c *call) (any, error) {
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	p, err := h.provePassword(ctx, c, raw, "login token")
	if err != nil {
		return nil, err
	}
	token, life, err := h.Accounts.LoginToken(ctx, c.session.User)
	if err != nil {
		return nil, err
	}
	p.end()
	return map[string]any{"login_token": token, "expires_in_ms": life.Milliseconds()}, nil
}

func (h *Handler) refresh(ctx context.Context, c *call) (any, error) {
	var req struct {
		Token string `json:"refresh_token"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Token == "" {
		return nil, missing("refresh_token")
	}
	s, err := h.Accounts.Refresh(ctx, req.Token)
	if err != nil {
		return nil, err
	}
	out := h.opened(s)
	delete(out, "user_id")
	delete(out, "device_id")
	delete(out, "home_server")
	return out, nil
}

func (h *Handler) logout(ctx context.Context, c *call) (any, error) {
	if c.session.Device == "" {
		return nil, nil // an application service has no session to end
	}
	return nil, h.Accounts.Logout(ctx, c.session)
}

func (h *Handler) logoutAll(ctx context.Context, c *call) (any, error) {
	return nil, h.Accounts.LogoutAll(ctx, c.session.User)
}
