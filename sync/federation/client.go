// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// ClientConfig is what a Client needs. Transport and Ring must be set; Rooms for all that touches rooms.
type ClientConfig struct {
	// Local is who asks; As makes a client that asks as somebody else.
	Local Local
	// Transport takes a request with scheme matrix-federation and a server name as host to that server.
	Transport http.RoundTripper
	Ring      *KeyRing
	Rooms     *room.Rooms
	Log       *slog.Logger // nil: silent
	// Patience is how long one small request may take; 0: one minute. Joins and media may take ten times that.
	Patience time.Duration
	// Longer says how long a request to a server may take that only travellers or a narrow line lead to; 0: no longer than others. nil: there are none.
	Longer func(server, path string) time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Web follows addresses that other servers name, outside the federation; it must keep away from what is not public. nil: none is followed.
	Web func(*http.Request) (*http.Response, error)
	// Heard is told whenever a server answered or failed to; nil: nobody wants to know.
	Heard func(server string, ok bool)
}

// Client asks other servers. It implements what csapi calls Remote. Safe for concurrent use.
type Client struct {
	c          ClientConfig
	log        *slog.Logger
	policyAway *silence // shared by all identities
	lacking    *teller  // so is this
	inviting   *inviting
}

func (c *Client) now() time.Time {
	if c.c.Now == nil {
		return time.Now()
	}
	return c.c.Now()
}

// NewClient returns a client for one identity.
func NewClient(c ClientConfig) *Client {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Patience == 0 {
		c.Patience = time.Minute
	}
	return &Client{c: c, log: c.Log, policyAway: &silence{}, lacking: &teller{}, inviting: &inviting{now: map[invited]int{}, over: map[invited]time.Time{}}}
}

// As gives the same client under another identity: it shares all else.
func (c *Client) As(l Local) *Client {
	other := *c
	other.c.Local = l
	return &other
}

// Bounds of what we read from others.
const (
	maxAnswer = 4 << 20
	maxJoin   = 256 << 20 // state and auth chain of a very large room
	maxEvents = 32 << 20  // 100 events of 64 KiB, and their wrapping
	maxMedia  = 256 << 20
)

// Refusal is an answer of another server that is not 2xx.
type Refusal struct {
	Server string
	Status int
	Code   string
	Text   string
	Body   []byte

	RoomVersion string // with M_INCOMPATIBLE_ROOM_VERSION
}

func (e *Refusal) Error() string {
	return fmt.Sprintf("%s answered %d %s %s", e.Server, e.Status, e.Code, e.Text)
}

// call is one request: path segments are escaped here, so that what is signed is what is sent.
type call struct {
	method  string
	path    []string // after /_matrix/
	query   url.Values
	body    any // nil: none; json.RawMessage is sent as it is
	limit   int64
	patient bool // ten times the patience
	bare    bool // not signed
	once    bool // has an effect each time it arrives
}

func (q call) uri() string {
	var b strings.Builder
	b.WriteString("/_matrix")
	for _, p := range q.path {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(p))
	}
	if len(q.query) > 0 {
		b.WriteByte('?')
		b.WriteString(q.query.Encode())
	}
	return b.String()
}

// ask sends one request and reads its JSON answer into out (nil: thrown away).
func (c *Client) ask(ctx context.Context, server string, q call, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.patience(server, q))
	defer cancel()
	resp, err := c.send(ctx, server, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	limit := q.limit
	if limit == 0 {
		limit = maxAnswer
	}
	raw, err := readBounded(resp.Body, limit)
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", server, err)
	}
	if resp.StatusCode/100 != 2 {
		return refusal(server, resp.StatusCode, raw)
	}
	if out == nil {
		return nil
	}
	if rm, ok := out.(*json.RawMessage); ok {
		if !json.Valid(raw) {
			return fmt.Errorf("read answer of %s: no JSON", server)
		}
		*rm = raw
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("read answer of %s: %w", server, err)
	}
	return nil
}

func (c *Client) patience(server string, q call) time.Duration {
	if d := c.longer(server, q); d > 0 {
		return d
	}
	if q.patient {
		return 10 * c.c.Patience
	}
	return c.c.Patience
}

// longer says how long a request may take where only travellers or a narrow line lead.
func (c *Client) longer(server string, q call) time.Duration {
	if c.c.Longer == nil {
		return 0
	}
	return c.c.Longer(server, q.uri())
}

// send signs and sends one request; the caller closes the body.
func (c *Client) send(ctx context.Context, server string, q call) (*http.Response, error) {
	if !event.ValidServerName(server) {
		return nil, fmt.Errorf("ask %q: no valid server name", server)
	}
	if server == c.c.Local.Server {
		return nil, errors.New("ask ourselves: refused")
	}
	uri := q.uri()
	var content []byte
	var body io.Reader
	if raw, ok := q.body.(json.RawMessage); ok {
		content, body = raw, bytes.NewReader(raw)
	} else if q.body != nil {
		var err error
		if content, err = json.Marshal(q.body); err != nil {
			return nil, fmt.Errorf("ask %s: %w", server, err)
		}
		body = bytes.NewReader(content)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, Scheme+"://"+server+uri, body)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", server, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "Hallig")
	if !q.once {
		// Nothing is sent of it: it lets net/http repeat the request when a kept connection turns out to be dead, whatever the method.
		req.Header["Idempotency-Key"] = []string{}
	}
	if !q.bare {
		a, err := SignRequest(c.c.Local, server, q.method, uri, content)
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", server, err)
		}
		req.Header.Set("Authorization", a.String())
	}
	resp, err := c.c.Transport.RoundTrip(req)
	if c.c.Heard != nil && ctx.Err() != context.Canceled {
		c.c.Heard(server, err == nil && resp.StatusCode < 500)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", server, err)
	}
	return resp, nil
}

func refusal(server string, status int, raw []byte) *Refusal {
	r := &Refusal{Server: server, Status: status, Body: raw}
	var e struct {
		Code string `json:"errcode"`
		Text string `json:"error"`
	}
	if json.Unmarshal(raw, &e) == nil {
		r.Code, r.Text = e.Code, e.Text
	}
	if r.Code == "M_INCOMPATIBLE_ROOM_VERSION" {
		var v struct {
			Version string `json:"room_version"`
		}
		_ = json.Unmarshal(raw, &v) // only to say more to the client
		r.RoomVersion = v.Version
	}
	return r
}

func readBounded(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, errTooLong
	}
	return raw, nil
}

// toldAbout turns a failure into what a client may be told. A refusal by the other server is passed on with its own code,
// but never as a 401, which clients take for the end of their session.
func toldAbout(what string, err error) error {
	if err == nil {
		return nil
	}
	var known *room.Error
	if errors.As(err, &known) {
		return known
	}
	var ref *Refusal
	if errors.As(err, &ref) {
		if ref.Code == "" || ref.Status >= 500 || ref.Status == http.StatusUnauthorized || ref.Status == http.StatusTooManyRequests {
			return &room.Error{Code: "M_UNKNOWN", Status: http.StatusBadGateway, Text: what + ": the other server could not do it"}
		}
		return &room.Error{Code: ref.Code, Status: ref.Status, Text: ref.Text, RoomVersion: ref.RoomVersion}
	}
	return &room.Error{Code: "M_UNKNOWN", Status: http.StatusBadGateway, Text: what + ": the other server cannot be reached"}
}

// final says whether a refusal is the other server's considered answer, so that asking again is useless.
func final(err error) bool {
	var ref *Refusal
	return errors.As(err, &ref) && ref.Status >= 400 && ref.Status < 500 && ref.Status != http.StatusTooManyRequests && ref.Status != http.StatusUnauthorized &&
		ref.Status != http.StatusRequestTimeout
}

// FetchKeys gets a server's key document; the transport must prove the server's name. It has the form that KeyRingConfig
// wants and needs no ring itself.
func FetchKeys(transport http.RoundTripper) func(ctx context.Context, server string) ([]byte, error) {
	c := &Client{c: ClientConfig{Transport: transport, Patience: time.Minute}, log: slog.New(slog.DiscardHandler)}
	return func(ctx context.Context, server string) ([]byte, error) {
		var raw json.RawMessage
		err := c.ask(ctx, server, call{method: http.MethodGet, path: []string{"key", "v2", "server"}, limit: maxKeyDoc, bare: true}, &raw)
		return raw, err
	}
}
