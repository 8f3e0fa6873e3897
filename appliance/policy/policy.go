// SPDX-License-Identifier: EUPL-1.2

// Package policy is what an organisation says for all its boxes: a small document with settings, signed by the organisation's own key. It reads, checks and signs such documents; it keeps none and applies none.
//
// It promises that a document is taken whole or not at all: nothing of one is believed whose signature is not that of the key that was asked for, or in which one value cannot be. Who brings a
// document does not matter. What settings there are is what a box does with them: there is none without effect.
//
// The form is text that people can read: JSON, and behind it one line with the signature over the bytes before that line:
//
//	{
//	  "serial": 7,
//	  "name": "summer 2026",
//	  "settings": {
//	    "upload_limit_bytes": 5000000,
//	    "media_quota_bytes": 2000000000,
//	    "clock_ntp": ["ntp.example.org"],
//	    "updates": {"automatic": true, "window": "02:00-05:00"}
//	  }
//	}
//	hallig-policy-1 BASE64 of the public key BASE64 of the signature
//
// The serial rises with each document: an older one is refused by who has a newer one.
package policy

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"hallig/appliance/provision"
	"hallig/appliance/signet"
)

// MaxBytes bounds a document.
const MaxBytes = 64 << 10

const word = "hallig-policy-1"

// Policy is a document.
type Policy struct {
	Serial   int64    `json:"serial"`         // from 1; rises
	Name     string   `json:"name,omitempty"` // for people
	Settings Settings `json:"settings"`
}

// Settings are named as in a box's config.json and hallig.json, and mean the same. What is left out is as the box has it.
type Settings struct {
	MediaQuotaBytes  *int64             `json:"media_quota_bytes,omitempty"`  // of all stored media
	UploadLimitBytes *int64             `json:"upload_limit_bytes,omitempty"` // of one upload
	ClockNTP         []string           `json:"clock_ntp,omitempty"`          // time servers
	Updates          *provision.Updates `json:"updates,omitempty"`            // how systems are kept new
}

// check refuses what no box can do.
func (p Policy) check() error {
	s := p.Settings
	switch {
	case p.Serial < 1:
		return errors.New("serial is missing: a number that rises with each document, from 1")
	case len(p.Name) > 200:
		return errors.New("name is longer than 200 bytes")
	case s.MediaQuotaBytes != nil && *s.MediaQuotaBytes < 1<<20:
		return errors.New("settings.media_quota_bytes is less than a MB")
	case s.UploadLimitBytes != nil && *s.UploadLimitBytes < 1<<10:
		return errors.New("settings.upload_limit_bytes is less than a kB")
	case len(s.ClockNTP) > 16:
		return errors.New("settings.clock_ntp names more than 16 time servers")
	}
	for _, n := range s.ClockNTP {
		if n == "" || len(n) > 255 || strings.ContainsAny(n, " \t\r\n/") {
			return fmt.Errorf("settings.clock_ntp: %.60q is no name and no address", n)
		}
	}
	if s.Updates != nil {
		if err := s.Updates.Check(); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
	}
	return nil
}

// parse reads the JSON of a document.
func parse(raw []byte) (Policy, error) {
	var p Policy
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return p, fmt.Errorf("read policy: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return p, errors.New("read policy: more than one JSON value")
	}
	if err := p.check(); err != nil {
		return p, fmt.Errorf("read policy: %w", err)
	}
	return p, nil
}

// message is what is signed.
func message(raw []byte) []byte { return append([]byte(word+"\n"), raw...) }

// Sign checks a document and gives it with its signature. One that is signed already is signed anew.
func Sign(raw []byte, key signet.Secret) ([]byte, error) {
	if text, _, _, err := split(raw); err == nil {
		raw = text
	}
	raw = append(bytes.TrimRight(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")), " \t\r\n"), '\n')
	if _, err := parse(raw); err != nil {
		return nil, err
	}
	out := fmt.Appendf(bytes.Clone(raw), "%s %s %s\n", word, base64.StdEncoding.EncodeToString(key.Public().Key), base64.StdEncoding.EncodeToString(key.Sign(message(raw))))
	if len(out) > MaxBytes {
		return nil, fmt.Errorf("the policy is longer than %d kB", MaxBytes>>10)
	}
	return out, nil
}

var errUnsigned = errors.New("read policy: its last line is no signature; sign it with: hallig policy sign")

// split takes a document apart: what is signed, by whom, and the signature.
func split(raw []byte) (text []byte, key ed25519.PublicKey, sig []byte, err error) {
	body := bytes.TrimRight(raw, "\r\n")
	at := bytes.LastIndexByte(body, '\n') + 1
	words := strings.Split(string(body[at:]), " ")
	if len(words) != 3 || words[0] != word {
		return nil, nil, nil, errUnsigned
	}
	key, err = base64.StdEncoding.Strict().DecodeString(words[1])
	if err == nil {
		sig, err = base64.StdEncoding.Strict().DecodeString(words[2])
	}
	if err != nil || len(key) != ed25519.PublicKeySize || len(sig) != ed25519.SignatureSize {
		return nil, nil, nil, errUnsigned
	}
	return raw[:at], key, sig, nil
}

// Read gives a document and the key that has signed it, whoever that is.
func Read(raw []byte) (Policy, ed25519.PublicKey, error) {
	if len(raw) > MaxBytes {
		return Policy{}, nil, fmt.Errorf("read policy: longer than %d kB", MaxBytes>>10)
	}
	text, key, sig, err := split(raw)
	if err != nil {
		return Policy{}, nil, err
	}
	if !ed25519.Verify(key, message(text), sig) {
		return Policy{}, nil, errors.New("read policy: it was changed after it was signed")
	}
	p, err := parse(text)
	return p, key, err
}

// Verify gives a document that this key has signed.
func Verify(raw []byte, key ed25519.PublicKey) (Policy, error) {
	p, by, err := Read(raw)
	if err != nil {
		return Policy{}, err
	}
	if len(key) == 0 || !bytes.Equal(by, key) {
		return Policy{}, fmt.Errorf("read policy: it is signed by %s, not by the organisation of this box", base64.StdEncoding.EncodeToString(by))
	}
	return p, nil
}
