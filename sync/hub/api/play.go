// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// PlayPath is the box's: POST Play, as Pack packs it, answered with Played. A box that does not know it answers 404.
const PlayPath = "/_hallig/hub/v1/play"

// Bounds of one Play.
const (
	PlayMost  = 100
	PlayBytes = 64 << 10 // of bodies: a fifth of a second of 1 Mbit/s, packed, for which what the box asks meanwhile has to wait
	PlayText  = 4 << 10
	playLimit = 4 << 20 // unpacked
)

// Play is what has waited for a box from one server, the oldest first. So many requests at once cross a long line in the time of one; the box answers them one after the other, as if each had come
// by itself, and stops at the first that it has not dealt with for good.
type Play struct {
	Requests []Waited `json:"requests"`
}

// Waited is a request that came in for a box, as it came.
type Waited struct {
	Method        string `json:"method"`
	URI           string `json:"uri"`
	Authorization string `json:"authorization"`
	Body          string `json:"body,omitempty"`
	Received      int64  `json:"received"` // milliseconds since 1970
}

// Played are the answers, in the order of the requests; of those after the first that was not dealt with there are none.
type Played struct {
	Answers []PlayedOne `json:"answers"`
}

// PlayedOne is an answer.
type PlayedOne struct {
	Status int    `json:"status"`
	Text   string `json:"text,omitempty"` // unless it is 200; at most PlayText bytes of it
}

// Fits says whether a request can be part of a Play: its body must be text.
func (q Waited) Fits() bool { return utf8.ValidString(q.Body) && utf8.ValidString(q.Authorization) }

// Pack gives a Play as it travels.
func (p *Play) Pack() ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if err := json.NewEncoder(z).Encode(p); err != nil {
		return nil, fmt.Errorf("pack what waited: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("pack what waited: %w", err)
	}
	return out.Bytes(), nil
}

// ReadPlay undoes Pack.
func ReadPlay(r io.Reader) (*Play, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("unpack what waited: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(z, playLimit+1))
	if err != nil {
		return nil, fmt.Errorf("unpack what waited: %w", err)
	}
	if len(raw) > playLimit {
		return nil, errors.New("unpack what waited: it is too long")
	}
	var p Play
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("unpack what waited: %w", err)
	}
	if len(p.Requests) == 0 || len(p.Requests) > PlayMost {
		return nil, fmt.Errorf("unpack what waited: %d requests", len(p.Requests))
	}
	return &p, nil
}

// Considered says whether a refusal is a box's own words. A server that is being stopped, or that lost half a request, answers 400 as well, without any.
func Considered(answer []byte) bool {
	var refusal struct {
		Code string `json:"errcode"`
	}
	return json.Unmarshal(answer, &refusal) == nil && refusal.Code != ""
}
