// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"hallig/appliance/event"
)

// Authorization is the content of an X-Matrix Authorization header.
// https://spec.matrix.org/v1.16/server-server-api/#request-authentication
type Authorization struct {
	Origin      string
	Destination string // empty from servers older than v1.3
	Key         string // "ed25519:abc"
	Sig         string // unpadded base64
}

const maxAuthHeader = 4096

// ParseAuthorization reads an X-Matrix header: scheme and parameter names in any case, values as tokens or quoted
// strings, unknown parameters ignored. Values without quotes may hold colons, as old servers send them.
func ParseAuthorization(header string) (Authorization, error) {
	var a Authorization
	if len(header) > maxAuthHeader {
		return a, errors.New("parse authorization: header too long")
	}
	scheme, rest, ok := strings.Cut(strings.TrimLeft(header, " \t"), " ")
	if !ok || !strings.EqualFold(scheme, "X-Matrix") {
		return a, errors.New("parse authorization: not X-Matrix")
	}
	seen := map[string]bool{}
	for {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			break
		}
		name, value, left, err := authParam(rest)
		if err != nil {
			return Authorization{}, fmt.Errorf("parse authorization: %w", err)
		}
		rest = left
		if seen[name] {
			return Authorization{}, fmt.Errorf("parse authorization: %s is there twice", name)
		}
		seen[name] = true
		switch name {
		case "origin":
			a.Origin = value
		case "destination":
			a.Destination = value
		case "key":
			a.Key = value
		case "sig":
			a.Sig = value
		}
	}
	if a.Origin == "" || a.Key == "" || a.Sig == "" {
		return Authorization{}, errors.New("parse authorization: origin, key or sig is missing")
	}
	if !event.ValidServerName(a.Origin) || a.Destination != "" && !event.ValidServerName(a.Destination) {
		return Authorization{}, errors.New("parse authorization: bad server name")
	}
	if !strings.HasPrefix(a.Key, "ed25519:") {
		return Authorization{}, errors.New("parse authorization: unknown key algorithm")
	}
	return a, nil
}

// authParam takes one name=value off the front of s.
func authParam(s string) (name, value, rest string, err error) {
	name, s, ok := strings.Cut(s, "=")
	if !ok {
		return "", "", "", errors.New("parameter without value")
	}
	name = strings.ToLower(strings.TrimRight(name, " \t"))
	s = strings.TrimLeft(s, " \t")
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, ", \t")
		if end < 0 {
			end = len(s)
		}
		value, rest = s[:end], strings.TrimLeft(s[end:], " \t")
	} else {
		var b strings.Builder
		i := 1
		for ; i < len(s) && s[i] != '"'; i++ {
			if s[i] == '\\' {
				if i++; i == len(s) {
					break
				}
			}
			b.WriteByte(s[i])
		}
		if i >= len(s) {
			return "", "", "", errors.New("quoted string does not end")
		}
		value, rest = b.String(), strings.TrimLeft(s[i+1:], " \t")
	}
	if rest != "" && rest[0] != ',' {
		return "", "", "", errors.New("no comma between parameters")
	}
	return name, value, rest, nil
}

// String gives the header's text. Values that pass ValidServerName and base64 need no escapes.
func (a Authorization) String() string {
	return fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="%s",sig="%s"`, a.Origin, a.Destination, a.Key, a.Sig)
}

// SignRequest makes the Authorization header of a request. uri is path and query as on the wire; content is the
// JSON body, nil when there is none.
func SignRequest(l Local, destination, method, uri string, content []byte) (Authorization, error) {
	a := Authorization{Origin: l.Server, Destination: destination, Key: l.Key.ID}
	msg, err := signedRequest(a, method, uri, content)
	if err != nil {
		return Authorization{}, fmt.Errorf("sign request: %w", err)
	}
	a.Sig = base64.RawStdEncoding.EncodeToString(ed25519.Sign(l.Key.Private, msg))
	return a, nil
}

// VerifyRequest checks the signature of a request under pub. The destination is the one in the header; whether
// that is us is the caller's question.
func VerifyRequest(a Authorization, method, uri string, content []byte, pub ed25519.PublicKey) error {
	msg, err := signedRequest(a, method, uri, content)
	if err != nil {
		return fmt.Errorf("verify request: %w", err)
	}
	sig, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(a.Sig, "="))
	if err != nil || len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, msg, sig) {
		return fmt.Errorf("verify request: signature of %s with %s is wrong", a.Origin, a.Key)
	}
	return nil
}

// signedRequest is the canonical JSON that a request's signature covers.
func signedRequest(a Authorization, method, uri string, content []byte) ([]byte, error) {
	b := append(make([]byte, 0, len(content)+len(uri)+256), '{')
	if len(content) > 0 {
		body, err := event.CanonicalLoose(content)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, `"content":`...), body...), ',')
	}
	if a.Destination != "" {
		b = append(event.AppendText(append(b, `"destination":`...), a.Destination), ',')
	}
	b = append(event.AppendText(append(b, `"method":`...), method), ',')
	b = append(event.AppendText(append(b, `"origin":`...), a.Origin), ',')
	return append(event.AppendText(append(b, `"uri":`...), uri), '}'), nil
}
