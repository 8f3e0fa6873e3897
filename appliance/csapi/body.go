// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"unicode/utf8"
)

// maxBody caps a JSON request. Events have a smaller limit of their own, which package event checks.
const maxBody = 1 << 20

// maxKeysBody caps uploads of key backups, which carry thousands of sessions at once.
const maxKeysBody = 32 << 20

// maxToDeviceBody caps messages to devices: one request may carry the key of a room to every device in it.
const maxToDeviceBody = 8 << 20

// body reads the JSON object of the request. An empty body counts as {}.
func (c *call) body() (json.RawMessage, error) { return c.bodyUpTo(maxBody) }

func (c *call) bodyUpTo(limit int64) (json.RawMessage, error) {
	tooLarge := refuse(http.StatusRequestEntityTooLarge, "M_TOO_LARGE", fmt.Sprintf("the body is larger than %d bytes", limit))
	if c.r.ContentLength > limit {
		return nil, tooLarge
	}
	raw, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, limit))
	if err != nil {
		if e := new(http.MaxBytesError); errors.As(err, &e) {
			return nil, tooLarge
		}
		return nil, refuse(http.StatusBadRequest, "M_NOT_JSON", "the body could not be read")
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return json.RawMessage("{}"), nil
	}
	if !utf8.Valid(raw) || !json.Valid(raw) {
		return nil, refuse(http.StatusBadRequest, "M_NOT_JSON", "the body is not JSON")
	}
	if raw[0] != '{' {
		return nil, badJSON("the body is not a JSON object")
	}
	return raw, nil
}

// decode reads the body into v, whose fields say what shape is wanted.
func (c *call) decode(v any) error {
	raw, err := c.body()
	if err != nil {
		return err
	}
	return unmarshal(raw, v)
}

func unmarshal(raw []byte, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		if e := new(json.UnmarshalTypeError); errors.As(err, &e) {
			return badJSON(fmt.Sprintf("%q has the wrong type", e.Field))
		}
		return badJSON("the body has not the expected shape")
	}
	return nil
}

// query returns one parameter of the query string, "" when absent.
func (c *call) query(name string) string { return c.r.URL.Query().Get(name) }

// number returns a non-negative number of the query string.
func (c *call) number(name string, absent int) (int, error) {
	s := c.query(name)
	if s == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, invalid(name + " must be a number that is not negative")
	}
	return n, nil
}
