// SPDX-License-Identifier: EUPL-1.2

package matrixclient

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

type session struct {
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
	Token    string `json:"access_token"`
	Refresh  string `json:"refresh_token"`
}

func (c *Client) take(s session) {
	c.UserID, c.DeviceID, c.Token, c.Refresh = s.UserID, s.DeviceID, s.Token, s.Refresh
}

// Register makes an account and takes its session. regToken is a registration token, or "" where registration is open.
func (c *Client) Register(ctx context.Context, localpart, password, regToken string) error {
	body := map[string]any{"username": localpart, "password": password}
	var s session
	err := c.Do(ctx, http.MethodPost, Path("register"), body, &s)
	// The first answer is normally 401 with the flows; each stage is then answered in turn.
	for range 4 {
		var e *Error
		if !errors.As(err, &e) || e.Status != http.StatusUnauthorized {
			break
		}
		auth, uerr := nextStage(e, regToken)
		if uerr != nil {
			return uerr
		}
		body["auth"] = auth
		err = c.Do(ctx, http.MethodPost, Path("register"), body, &s)
	}
	if err != nil {
		return err
	}
	c.take(s)
	return nil
}

// nextStage chooses what to answer to a User-Interactive challenge.
func nextStage(e *Error, regToken string) (map[string]any, error) {
	var u struct {
		Session   string   `json:"session"`
		Completed []string `json:"completed"`
		Code      string   `json:"errcode"`
		Flows     []struct {
			Stages []string `json:"stages"`
		} `json:"flows"`
	}
	if err := json.Unmarshal(e.Body, &u); err != nil || len(u.Flows) == 0 {
		return nil, e
	}
	if u.Code != "" {
		return nil, e // a stage was refused: asking again would not help
	}
	done := map[string]bool{}
	for _, s := range u.Completed {
		done[s] = true
	}
	for _, f := range u.Flows {
		for _, s := range f.Stages {
			if done[s] {
				continue
			}
			switch {
			case s == "m.login.registration_token" && regToken != "":
				return map[string]any{"type": s, "token": regToken, "session": u.Session}, nil
			case s == "m.login.dummy":
				return map[string]any{"type": s, "session": u.Session}, nil
			}
			break
		}
	}
	return nil, e
}

// RegisterShared makes an account through the shared secret of the server's configuration.
func (c *Client) RegisterShared(ctx context.Context, secret, localpart, password string, admin bool) error {
	const path = "/_synapse/admin/v1/register"
	var n struct {
		Nonce string `json:"nonce"`
	}
	if err := c.Do(ctx, http.MethodGet, path, nil, &n); err != nil {
		return err
	}
	role := "notadmin"
	if admin {
		role = "admin"
	}
	mac := hmac.New(sha1.New, []byte(secret))
	fmt.Fprintf(mac, "%s\x00%s\x00%s\x00%s", n.Nonce, localpart, password, role)
	var s session
	err := c.Do(ctx, http.MethodPost, path, map[string]any{
		"nonce": n.Nonce, "username": localpart, "password": password, "admin": admin,
		"mac": hex.EncodeToString(mac.Sum(nil)),
	}, &s)
	if err != nil {
		return err
	}
	c.take(s)
	return nil
}

// Login opens a session by password. deviceID may be "" for a new device.
func (c *Client) Login(ctx context.Context, user, password, deviceID string) error {
	body := map[string]any{
		"type":       "m.login.password",
		"identifier": map[string]string{"type": "m.id.user", "user": user},
		"password":   password,
	}
	if deviceID != "" {
		body["device_id"] = deviceID
	}
	var s session
	if err := c.Do(ctx, http.MethodPost, Path("login"), body, &s); err != nil {
		return err
	}
	c.take(s)
	return nil
}

// Logout ends this session.
func (c *Client) Logout(ctx context.Context) error {
	err := c.Do(ctx, http.MethodPost, Path("logout"), nil, nil)
	if err == nil {
		c.Token = ""
	}
	return err
}

// Upload stores a file and returns its mxc:// address.
func (c *Client) Upload(ctx context.Context, contentType, filename string, body io.Reader) (string, error) {
	path := "/_matrix/media/v3/upload"
	if filename != "" {
		path += "?filename=" + url.QueryEscape(filename)
	}
	resp, err := c.Raw(ctx, http.MethodPost, path, contentType, body)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("read answer of upload: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", refusal(http.MethodPost, path, resp, raw)
	}
	var m struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", fmt.Errorf("decode answer of upload: %w", err)
	}
	return m.URI, nil
}

// Download fetches a file by its mxc:// address through the authenticated route.
func (c *Client) Download(ctx context.Context, mxc string) (body []byte, header http.Header, err error) {
	u, err := url.Parse(mxc)
	if err != nil || u.Scheme != "mxc" {
		return nil, nil, fmt.Errorf("download: %q is no mxc address", mxc)
	}
	path := "/_matrix/client/v1/media/download/" + url.PathEscape(u.Host) + u.EscapedPath()
	resp, err := c.Raw(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("read answer of download: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, refusal(http.MethodGet, path, resp, raw)
	}
	return raw, resp.Header, nil
}
