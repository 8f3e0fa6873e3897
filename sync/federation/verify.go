// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
)

// Verifier says who has signed a request: for Handler, and for a hub, which passes requests on and answers few of them itself. What those can have it hold and
// fetch who have not shown yet who they are is bounded. Safe for concurrent use.
type Verifier struct {
	ring *KeyRing
	gate *gate
}

// NewVerifier returns a verifier with bounds of its own.
func NewVerifier(ring *KeyRing) *Verifier { return &Verifier{ring: ring, gate: newGate()} }

// Body reads a request's body. release gives its place back when the request is over. ErrBusy: too much is being read, or it did not arrive, so it may come again; any other error: it
// is too long.
func (v *Verifier) Body(w http.ResponseWriter, r *http.Request) (raw []byte, release func(), err error) {
	return v.gate.body(w, r)
}

// Verify finds the X-Matrix header that signs the request, with a key that is good at that time; header is its text. One good signature is enough. admit says
// whether the request may be from that origin, for that destination. ErrKeyUnavailable and ErrBusy: it cannot be told now.
// https://spec.matrix.org/v1.16/server-server-api/#request-authentication
func (v *Verifier) Verify(r *http.Request, body []byte, at time.Time, admit func(Authorization) error) (a Authorization, header string, err error) {
	err = errors.New("no X-Matrix authorization")
	for _, header = range r.Header.Values("Authorization") {
		if a, err = ParseAuthorization(header); err != nil {
			continue
		}
		if err = admit(a); err != nil {
			continue
		}
		pub, kerr := v.gate.key(r.Context(), v.ring, a.Origin, a.Key, millis(at))
		if kerr != nil {
			err = kerr
			continue
		}
		if err = VerifyRequest(a, r.Method, SignedURI(r), body, pub); err == nil {
			return a, header, nil
		}
	}
	return Authorization{}, "", err
}

// SignedURI is path and query of a request as they were on the wire, which is what its signature covers.
func SignedURI(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

// receivedKey finds the time in a context.
type receivedKey struct{}

// WithReceived says when a request came in that was kept on its way: its signature counts when its key was good then. Only for the word of those who may be believed
// about it.
func WithReceived(ctx context.Context, at time.Time) context.Context {
	return context.WithValue(ctx, receivedKey{}, at)
}

// received is when a request came in.
func (h *Handler) received(ctx context.Context) time.Time {
	if at, ok := ctx.Value(receivedKey{}).(time.Time); ok {
		return at
	}
	return h.c.Now()
}
