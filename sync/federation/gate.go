// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// gate bounds what those can have us hold and ask who have not shown yet who they are: the bytes of their bodies, and the keys that are fetched to find
// out. Whoever does not get through is told to come again.
type gate struct {
	bodies  *semaphore.Weighted // long ones, and those that do not say how long they are
	small   *semaphore.Weighted // so that a few long ones that do not come keep nobody out who has little to say, as most have
	fetches *semaphore.Weighted

	mu      sync.Mutex
	reading map[*arriving]struct{}
}

// arriving is a body that is being read.
type arriving struct {
	io.ReadCloser
	share  *semaphore.Weighted
	size   int64 // of its place
	began  time.Time
	hangUp func() // has Read fail

	mu  sync.Mutex
	got int64
}

// Read is io.Reader's.
func (a *arriving) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	a.mu.Lock()
	a.got += int64(n)
	a.mu.Unlock()
	return n, err
}

// trickles says whether a body comes so slowly that its place may be given to another.
func (a *arriving) trickles(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got < int64((now.Sub(a.began)-bodyGrace).Seconds()*bodyRate)
}

const (
	maxBodies  = 48 << 20 // bytes of all long bodies that are being read or worked on
	maxSmall   = 16 << 20 // and of all small ones
	smallBody  = 64 << 10
	maxFetches = 32 // keys of unknown origins that are fetched at once
	gateWait   = 10 * time.Second
	bodyWait   = 2 * time.Minute // for a body to arrive
	bodyGrace  = 5 * time.Second // that much later than bodyRate says is no trickle yet
	bodyRate   = 16 << 10        // bytes a second; who is slower keeps a place for as long as nobody else wants it
)

// ErrBusy: the gate is full; who is told comes again.
var ErrBusy = errors.New("too many requests at once")

func newGate() *gate {
	return &gate{bodies: semaphore.NewWeighted(maxBodies), small: semaphore.NewWeighted(maxSmall), fetches: semaphore.NewWeighted(maxFetches), reading: map[*arriving]struct{}{}}
}

// errTooLong: the body is longer than any request may be.
var errTooLong = errors.New("longer than allowed")

// body reads a request's body. What says that it is too long is not read at all: errTooLong. ErrBusy: there is no place, or it did not arrive. release gives the place back when the
// request is over.
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
	if !g.enter(r.Context(), share, size) {
		return nil, nil, ErrBusy
	}
	release = func() { share.Release(size) }
	deadline := http.NewResponseController(w)
	a := &arriving{ReadCloser: r.Body, share: share, size: size, began: time.Now(), hangUp: func() { _ = deadline.SetReadDeadline(time.Unix(1, 0)) }}
	_ = deadline.SetReadDeadline(a.began.Add(bodyWait)) // not every transport has deadlines
	g.mu.Lock()
	g.reading[a] = struct{}{}
	g.mu.Unlock()
	r.Body = a
	raw, err = readBody(w, r)
	g.mu.Lock()
	delete(g.reading, a) // from here on nobody hangs up
	g.mu.Unlock()
	_ = deadline.SetReadDeadline(time.Time{})
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		err = errTooLong
	} else if err != nil && !errors.Is(err, errTooLong) {
		err = fmt.Errorf("%w: the body did not arrive: %w", ErrBusy, err)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return raw, release, nil
}

// enter takes a place for a body. While there is none, those whose bodies trickle lose theirs.
func (g *gate) enter(ctx context.Context, share *semaphore.Weighted, size int64) bool {
	if share.TryAcquire(size) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, gateWait)
	defer cancel()
	var room sync.WaitGroup
	defer room.Wait()
	entered, stop := context.WithCancel(ctx)
	defer stop()
	room.Go(func() {
		for tick := time.NewTicker(time.Second); ; {
			g.makeRoom(share, size)
			select {
			case <-tick.C:
			case <-entered.Done():
				tick.Stop()
				return
			}
		}
	})
	return share.Acquire(ctx, size) == nil
}

// makeRoom hangs up on those that trickle, the oldest first, until so much is free.
func (g *gate) makeRoom(share *semaphore.Weighted, size int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var slow []*arriving
	now := time.Now()
	for a := range g.reading {
		if a.share == share && a.trickles(now) {
			slow = append(slow, a)
		}
	}
	slices.SortFunc(slow, func(a, b *arriving) int { return a.began.Compare(b.began) })
	for _, a := range slow {
		if size <= 0 {
			return
		}
		size -= a.size
		delete(g.reading, a)
		a.hangUp()
	}
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
