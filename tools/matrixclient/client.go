// SPDX-License-Identifier: EUPL-1.2

// Package matrixclient speaks the Matrix Client-Server API as a client would, in typed and plain calls, for tests, for
// the bench and for the demonstration. It keeps a session (user, device, token) and nothing else: no store, no
// retries, no cryptography. Every refusal of the server comes back as *Error with the code that was sent.
//
// A Client may be used from several goroutines at once once it has a session.
package matrixclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Client is one device of one user on one homeserver.
type Client struct {
	Base     string       // "http://127.0.0.1:8008", without a trailing slash
	HTTP     *http.Client // nil: http.DefaultClient
	UserID   string
	DeviceID string
	Token    string
	Refresh  string // refresh token, if one was asked for

	txn    atomic.Uint64
	prefix string
}

// New returns a client without a session.
func New(base string) *Client {
	return &Client{Base: strings.TrimRight(base, "/"), prefix: strconv.FormatInt(time.Now().UnixNano(), 36)}
}

// Error is a refusal: the HTTP status and the Matrix error body.
type Error struct {
	Status       int
	Code         string        // "M_FORBIDDEN"; empty when the body was no Matrix error
	Text         string        // human text, or the start of an unknown body
	RetryAfter   time.Duration // from the header or retry_after_ms
	Body         []byte        // whole answer (UIA flows, soft_logout ...)
	method, path string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s %s: %d %s %s", e.method, e.path, e.Status, e.Code, e.Text)
}

// Code returns the Matrix error code in err, or "".
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Status returns the HTTP status in err, or 0.
func Status(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// Path joins escaped path segments under /_matrix/client/v3: Path("rooms", roomID, "send", ...).
func Path(segments ...string) string {
	var b strings.Builder
	b.WriteString("/_matrix/client/v3")
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

// NextTxn returns a transaction id that this client has not used before.
func (c *Client) NextTxn() string {
	return c.prefix + "." + strconv.FormatUint(c.txn.Add(1), 10)
}

// Do sends one request with the session's token. path starts with "/" and may carry a query. in is sent as JSON
// (nil: no body; json.RawMessage and []byte: as they are); the answer is decoded into out unless out is nil.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	switch v := in.(type) {
	case nil:
		if method == http.MethodPost || method == http.MethodPut {
			body = strings.NewReader("{}")
		}
	case []byte:
		body = bytes.NewReader(v)
	default:
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode body of %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.Raw(ctx, method, path, "application/json", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read answer of %s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		return refusal(method, path, resp, raw)
	}
	if out == nil {
		return nil
	}
	if r, ok := out.(*json.RawMessage); ok {
		*r = raw
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("decode answer of %s %s: %w", method, path, err)
	}
	return nil
}

// Raw sends one request and hands back the answer whatever its status. The caller closes the body.
func (c *Client) Raw(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, body)
	if err != nil {
		return nil, fmt.Errorf("build request %s %s: %w", method, path, err)
	}
	if body != nil && contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	h := c.HTTP
	if h == nil {
		h = http.DefaultClient
	}
	resp, err := h.Do(req)
	if err != nil {
		return nil, fmt.Errorf("send %s %s: %w", method, path, err)
	}
	return resp, nil
}

func refusal(method, path string, resp *http.Response, raw []byte) *Error {
	e := &Error{Status: resp.StatusCode, Body: raw, method: method, path: path}
	var m struct {
		Code  string `json:"errcode"`
		Text  string `json:"error"`
		Retry int64  `json:"retry_after_ms"`
	}
	if json.Unmarshal(raw, &m) == nil {
		e.Code, e.Text = m.Code, m.Text
		e.RetryAfter = time.Duration(m.Retry) * time.Millisecond
	} else {
		e.Text = string(raw[:min(len(raw), 200)])
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}
