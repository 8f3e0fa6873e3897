// SPDX-License-Identifier: EUPL-1.2

package steward

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"time"
)

// ErrAbsent says that there is no steward: this box does not run from the image.
var ErrAbsent = errors.New("there is no steward on this machine; updates, reset and sticks belong to the image")

// maxAnswer bounds what the client reads of an answer in JSON.
const maxAnswer = 1 << 20

// Client asks the steward. It is safe for concurrent use and keeps no connection open between calls.
type Client struct {
	socket string
	http   http.Client
}

// Dial gives a client of the steward at a socket; "": Socket. It does not connect yet.
func Dial(socket string) *Client {
	if socket == "" {
		socket = Socket
	}
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	return c
}

// State asks for everything the steward knows.
func (c *Client) State(ctx context.Context) (State, error) {
	var s State
	return s, c.do(ctx, http.MethodGet, "/state", nil, &s)
}

// Update streams an update file; it returns when the file is verified and complete in the other slot, or refused (an error that is a Text).
func (c *Client) Update(ctx context.Context, file io.Reader) error {
	return c.do(ctx, http.MethodPost, "/update", file, nil)
}

// UpdateFrom installs an update file from a stick; path is one of State.Sticks[].Updates[].Path. It returns as Update does.
func (c *Client) UpdateFrom(ctx context.Context, path string) error {
	return c.do(ctx, http.MethodPost, "/update?path="+url.QueryEscape(path), nil, nil)
}

// StartUpdate boots the written update on trial. The machine goes down a moment after the answer.
func (c *Client) StartUpdate(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/update/start", nil, nil)
}

// UpdateBack goes back to the slot before. The machine goes down a moment after the answer.
func (c *Client) UpdateBack(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/update/back", nil, nil)
}

// Reboot starts the machine again.
func (c *Client) Reboot(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/reboot", nil, nil)
}

// PowerOff switches the machine off.
func (c *Client) PowerOff(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/poweroff", nil, nil)
}

// Confirm is what a factory reset asks for.
type Confirm struct {
	Confirm string `json:"confirm"` // the server name, so that nobody erases the box beside
}

// FactoryReset erases everything on /perm and starts the box as a new one.
func (c *Client) FactoryReset(ctx context.Context, serverName string) error {
	return c.do(ctx, http.MethodPost, "/factory-reset", jsonBody(Confirm{serverName}), nil)
}

// Time is what the clock is set to.
type Time struct {
	Time time.Time `json:"time"`
}

// SetClock sets the system's clock, and the hardware clock where there is one.
func (c *Client) SetClock(ctx context.Context, t time.Time) error {
	return c.do(ctx, http.MethodPut, "/clock", jsonBody(Time{t}), nil)
}

// LED is what the light shall say.
type LED struct {
	State string `json:"state"`
}

// SetLED sets the light on the case: LEDOK, LEDLook or LEDTrouble.
func (c *Client) SetLED(ctx context.Context, state string) error {
	return c.do(ctx, http.MethodPut, "/led", jsonBody(LED{state}), nil)
}

// WriteStick makes a stick writable, until nobody has used it for a minute. Its path stays the same.
func (c *Client) WriteStick(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodPut, "/stick/"+url.PathEscape(name)+"/write", nil, nil)
}

// UpdateFile copies the update file of the running system to w, for another box.
func (c *Client) UpdateFile(ctx context.Context, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, "/update/file", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("read update file from the steward: %w", err)
	}
	return nil
}

// Eject makes a stick ready to be pulled out.
func (c *Client) Eject(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodPost, "/stick/"+url.PathEscape(name)+"/eject", nil, nil)
}

// Log copies the kept lines of one process to w; process "": the names of those that have a log, one a line.
func (c *Client) Log(ctx context.Context, process string, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, "/log?process="+url.QueryEscape(process), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("read log of %s from the steward: %w", process, err)
	}
	return nil
}

func jsonBody(v any) io.Reader {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // types of this package always encode
	}
	return bytes.NewReader(raw)
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader, into any) error {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("read the steward's answer to %s %s: %w", method, path, err)
	}
	return nil
}

// send gives the answer of a request that succeeded; its body is the caller's to close.
func (c *Client) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://steward"+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask the steward: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, ErrAbsent
		}
		return nil, fmt.Errorf("ask the steward at %s: %w", c.socket, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var e Answer
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&e); err != nil || e.Error.Empty() {
		return nil, fmt.Errorf("ask the steward: %s %s: %s", method, path, resp.Status)
	}
	return nil, e.Error
}

// Answer is the body of a refusal.
type Answer struct {
	Error Text `json:"error"`
}

// Decode reads the small JSON body of a request: at most 4 KiB, one value, no unknown fields.
func Decode(body io.Reader, into any) error {
	dec := json.NewDecoder(io.LimitReader(body, 4096))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("read request: more than one JSON value, or more than 4 KiB")
	}
	return nil
}
