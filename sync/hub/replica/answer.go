// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"context"
	"net/http"
	"os"
	"sync"
	"time"

	"hallig/sync/federation"
)

const (
	answerWait  = 10 * time.Second // for a place
	answerPiece = 32 << 10         // bytes that are written before it is looked again how late it is
	answerShare = 4                // one who asks has at most this part of the places
	answerSlow  = 2 * time.Second  // for a piece, 16 kB a second; who is slower keeps a place for as long as nobody else wants it
)

// share is the places of one who asks.
type share struct {
	places chan struct{}
	users  int // who have a place or wait for one; mu
}

// shareOf takes part in the share of an origin until done.
func (r *Replica) shareOf(origin string) (s *share, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s = r.shares[origin]
	if s == nil {
		s = &share{places: make(chan struct{}, max(1, cap(r.places)/answerShare))}
		r.shares[origin] = s
	}
	s.users++
	return s, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(r.shares, origin)
		}
	}
}

// Answer answers a verified question about a room in a box's place, in Limits.Answer at most. false: nothing was written.
func (r *Replica) Answer(w http.ResponseWriter, req *http.Request, q federation.Question) bool {
	late := time.NewTimer(answerWait)
	defer late.Stop()
	own, done := r.shareOf(q.Origin)
	defer done()
	for _, places := range []chan struct{}{own.places, r.places} {
		if !r.enter(req.Context(), late.C, places) {
			return false
		}
		defer func() { <-places }()
	}
	end := time.Now().Add(r.c.Limits.Answer)
	ctx, stop := context.WithDeadline(req.Context(), end) // when it has ended nothing is read any more, whatever hangs
	defer stop()
	r.mu.Lock()
	now := r.answers
	now.Add(1)
	r.mu.Unlock()
	defer now.Done()
	c := &counted{ResponseWriter: w, out: http.NewResponseController(w), end: end}
	r.tell(c, true)
	defer r.tell(c, false)
	_ = c.SetWriteDeadline(end) // not every way has deadlines
	told := r.archive.Answer(c, req.WithContext(ctx), q)
	if told {
		_ = c.out.Flush() // with the deadline still
	}
	_ = c.out.SetWriteDeadline(time.Time{})
	if c.status == http.StatusOK {
		r.count.answered.Add(1)
	} else {
		r.count.unknown.Add(1)
	}
	return told
}

// enter waits for a place. While all are taken, who reads too slowly loses his.
func (r *Replica) enter(ctx context.Context, late <-chan time.Time, places chan struct{}) bool {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case places <- struct{}{}:
			return true
		case <-tick.C:
			if places == r.places {
				r.makeRoom()
			}
		case <-late:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// tell notes who is being told something, until he is not any more.
func (r *Replica) tell(c *counted, begins bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if begins {
		r.told[c] = struct{}{}
	} else {
		delete(r.told, c)
	}
}

// makeRoom ends the answer that has waited longest for a piece to be read.
func (r *Replica) makeRoom() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var slowest *counted
	var most time.Duration
	for c := range r.told {
		waits, over := c.waits()
		if over && waits < answerSlow {
			return // its place comes
		}
		if !over && waits > max(most, answerSlow) {
			slowest, most = c, waits
		}
	}
	if slowest != nil {
		slowest.giveUp()
	}
}

// counted notes the status of an answer, and has it end in time.
type counted struct {
	http.ResponseWriter
	out    *http.ResponseController
	end    time.Time
	status int

	mu    sync.Mutex
	since time.Time // when the piece that is being written was begun, or the answer given up; zero: none is
	over  bool      // somebody else has the place now
}

func (c *counted) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

// waits says for how long a piece has not been read, or how long ago the answer was given up.
func (c *counted) waits() (d time.Duration, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() {
		return 0, c.over
	}
	return time.Since(c.since), c.over
}

// giveUp ends the answer.
func (c *counted) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over, c.since = true, time.Now()
	_ = c.out.SetWriteDeadline(time.Unix(1, 0)) // not every way has deadlines
}

// begin notes that a piece is being written; false: the time for it is over.
func (c *counted) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.over || !now.Before(c.end) {
		return false
	}
	c.since = now
	return true
}

func (c *counted) wrote() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.since = time.Time{}
	}
}

// Write gives up on who reads too slowly, also where a connection has deadlines of its own for each piece.
func (c *counted) Write(b []byte) (n int, err error) {
	for first := true; err == nil && (first || n < len(b)); first = false {
		if !c.begin() {
			return n, os.ErrDeadlineExceeded
		}
		var m int
		m, err = c.ResponseWriter.Write(b[n:min(n+answerPiece, len(b))])
		n += m
		c.wrote()
	}
	return n, err
}

// SetWriteDeadline sets one for a piece; the whole ends no later for it.
func (c *counted) SetWriteDeadline(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return os.ErrDeadlineExceeded
	}
	if at.IsZero() || at.After(c.end) {
		at = c.end
	}
	return c.out.SetWriteDeadline(at)
}

// Unwrap gives what else the connection can.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }
