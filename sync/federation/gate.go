// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
)

// gate bounds what those can have us hold and ask who have not shown yet who they are: the bytes of their bodies, and the keys that are fetched to find
// out. Whoever does not get through is told to come again.
type gate struct {
	bodies  *semaphore.Weighted // long ones, and those that do not say how long they are
	small   *semaphore.Weighted // so that a few long ones that do not come keep nobody out who has little to say, as most have
	fetches *semaphore.Weighted
}

const (
	maxBodies  = 48 << 20 // bytes of all long bodies that are being read or worked on
	maxSmall   = 16 << 20 // and of all small ones
	smallBody  = 64 << 10
	maxFetches = 32 // keys of unknown origins that are fetched at once
	gateWait   = 10 * time.Second
	bodyWait   = 2 * time.Minute // for a body to arrive
)

// ErrBusy: the gate is full; who is told comes again.
var ErrBusy = errors.New("too many requests at once")

func newGate() *gate {
	return &gate{bodies: semaphore.NewWeighted(maxBodies), small: semaphore.NewWeighted(maxSmall), fetches: semaphore.NewWeighted(maxFetches)}
}

// errTooLong: the body is longer than any request may be.
var errTooLong = errors.New("longer than allowed")

// body reads a request's body. What says that it is too long is not read at all. release gives the place back when the request is over.
func (g *gate) body(w http.ResponseWriter, r *http.Request) (raw []byte, release func(), err error) {
	size := r.ContentLength
	switch {
	case size > maxRequest:
		return nil, nil, errTooLong
	case size == 0:
		return nil, func() {}, nil
	case size < 0:
		size = maxRequest
	}
	share := g.bodies
	if size <= smallBody {
		share = g.small
	}
	ctx, cancel := context.WithTimeout(r.Context(), gateWait)
	defer cancel()
	if share.Acquire(ctx, size) != nil {
		return nil, nil, ErrBusy
	}
	release = func() { share.Release(size) }
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(bodyWait)) // not every transport has deadlines
	raw, err = readBody(w, r)
	_ = deadline.SetReadDeadline(time.Time{})
	if err != nil {
		release()
		return nil, nil, err
	}
	return raw, release, nil
}

// key gives the key that an origin says it has signed with. A known one costs nothing; for others only so many are asked at once.
func (g *gate) key(ctx context.Context, ring *KeyRing, origin, keyID string, at int64) (ed25519.PublicKey, error) {
	if known, err := ring.known(ctx, origin); err != nil || ring.pick(known, keyID, at) != nil {
		return ring.Key(ctx, origin, keyID, at)
	}
	wait, cancel := context.WithTimeout(ctx, gateWait)
	defer cancel()
	if g.fetches.Acquire(wait, 1) != nil {
		return nil, ErrBusy
	}
	defer g.fetches.Release(1)
	return ring.Key(ctx, origin, keyID, at)
}
