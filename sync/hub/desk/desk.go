// SPDX-License-Identifier: EUPL-1.2

// Package desk has places for those who are being answered: so many at once, a quarter of them of one who asks, and none for longer than an answer may take. Who reads too slowly loses the place
// when all are taken and somebody else wants it, the slowest first. So who asks and does not read keeps places from itself alone, and not for ever.
package desk

import (
	"context"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	wait  = 10 * time.Second // for a place
	piece = 32 << 10         // bytes that are written before it is looked again how late it is
	part  = 4                // one who asks has at most this part of the places
	slow  = 2 * time.Second  // for a piece, 16 kB a second; who is slower keeps a place for as long as nobody else wants it
)

// Desk is safe for concurrent use.
type Desk struct {
	places  chan struct{}
	longest time.Duration

	mu     sync.Mutex
	shares map[string]*share   // by who asks
	told   map[*timed]struct{} // who is being answered
}

// share is the places of one who asks.
type share struct {
	places chan struct{}
	users  int // who have a place or wait for one; Desk.mu
}

// New makes a desk with so many places, for answers that take so long at most, to their last byte.
func New(places int, longest time.Duration) *Desk {
	return &Desk{places: make(chan struct{}, places), longest: longest, shares: map[string]*share{}, told: map[*timed]struct{}{}}
}

// shareOf takes part in the share of an origin until done.
func (d *Desk) shareOf(origin string) (s *share, done func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s = d.shares[origin]
	if s == nil {
		s = &share{places: make(chan struct{}, max(1, cap(d.places)/part))}
		d.shares[origin] = s
	}
	s.users++
	return s, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(d.shares, origin)
		}
	}
}

// Answer has a question of origin answered when there is a place for it: tell writes the answer, or says that there is none. The status is 0 when nothing was written.
func (d *Desk) Answer(w http.ResponseWriter, r *http.Request, origin string, tell func(http.ResponseWriter, *http.Request) bool) (status int) {
	late := time.NewTimer(wait)
	defer late.Stop()
	own, done := d.shareOf(origin)
	defer done()
	for _, places := range []chan struct{}{own.places, d.places} {
		if !d.enter(r.Context(), late.C, places) {
			return 0
		}
		defer func() { <-places }()
	}
	end := time.Now().Add(d.longest)
	ctx, stop := context.WithDeadline(r.Context(), end) // when it has ended nothing is read any more, whatever hangs
	defer stop()
	t := &timed{ResponseWriter: w, out: http.NewResponseController(w), end: end}
	d.tell(t, true)
	defer d.tell(t, false)
	_ = t.SetWriteDeadline(end) // not every way has deadlines
	defer func() { _ = t.out.SetWriteDeadline(time.Time{}) }()
	if !tell(t, r.WithContext(ctx)) {
		return 0
	}
	_ = t.out.Flush() // with the deadline still
	return t.status
}

// enter waits for a place. While all are taken, who reads too slowly loses his.
func (d *Desk) enter(ctx context.Context, late <-chan time.Time, places chan struct{}) bool {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case places <- struct{}{}:
			return true
		case <-tick.C:
			if places == d.places {
				d.makeRoom()
			}
		case <-late:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// tell notes who is being told something, until he is not any more.
func (d *Desk) tell(t *timed, begins bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if begins {
		d.told[t] = struct{}{}
	} else {
		delete(d.told, t)
	}
}

// makeRoom ends the answer that has waited longest for a piece to be read.
func (d *Desk) makeRoom() {
	d.mu.Lock()
	defer d.mu.Unlock()
	var slowest *timed
	var most time.Duration
	for t := range d.told {
		waits, over := t.waits()
		if over && waits < slow {
			return // its place comes
		}
		if !over && waits > max(most, slow) {
			slowest, most = t, waits
		}
	}
	if slowest != nil {
		slowest.giveUp()
	}
}

// timed notes the status of an answer, and has it end in time.
type timed struct {
	http.ResponseWriter
	out    *http.ResponseController
	end    time.Time
	status int

	mu    sync.Mutex
	since time.Time // when the piece that is being written was begun, or the answer given up; zero: none is
	over  bool      // somebody else has the place now
}

func (t *timed) WriteHeader(status int) {
	t.status = status
	t.ResponseWriter.WriteHeader(status)
}

// waits says for how long a piece has not been read, or how long ago the answer was given up.
func (t *timed) waits() (d time.Duration, over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		return 0, t.over
	}
	return time.Since(t.since), t.over
}

// giveUp ends the answer.
func (t *timed) giveUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over, t.since = true, time.Now()
	_ = t.out.SetWriteDeadline(time.Unix(1, 0)) // not every way has deadlines
}

// begin notes that a piece is being written; false: the time for it is over.
func (t *timed) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.over || !now.Before(t.end) {
		return false
	}
	t.since = now
	return true
}

func (t *timed) wrote() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.since = time.Time{}
	}
}

// Write gives up on who reads too slowly, also where a connection has deadlines of its own for each piece.
func (t *timed) Write(b []byte) (n int, err error) {
	for first := true; err == nil && (first || n < len(b)); first = false {
		if !t.begin() {
			return n, os.ErrDeadlineExceeded
		}
		var m int
		m, err = t.ResponseWriter.Write(b[n:min(n+piece, len(b))])
		n += m
		t.wrote()
	}
	return n, err
}

// SetWriteDeadline sets one for a piece; the whole ends no later for it.
func (t *timed) SetWriteDeadline(at time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return os.ErrDeadlineExceeded
	}
	if at.IsZero() || at.After(t.end) {
		at = t.end
	}
	return t.out.SetWriteDeadline(at)
}

// Unwrap gives what else the connection can.
func (t *timed) Unwrap() http.ResponseWriter { return t.ResponseWriter }
