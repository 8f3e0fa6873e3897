// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"context"
	"net/http"
	"os"
	"time"

	"hallig/sync/federation"
)

const (
	answerWait  = 10 * time.Second // for a place
	answerPiece = 32 << 10         // bytes that are written before it is looked again how late it is
	answerShare = 4                // one who asks has at most this part of the places
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
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		case <-late.C:
			return false
		case <-req.Context().Done():
			return false
		}
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

// counted notes the status of an answer, and has it end in time.
type counted struct {
	http.ResponseWriter
	out    *http.ResponseController
	end    time.Time
	status int
}

func (c *counted) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

// Write gives up on who reads too slowly, also where a connection has deadlines of its own for each piece.
func (c *counted) Write(b []byte) (n int, err error) {
	for first := true; err == nil && (first || n < len(b)); first = false {
		if !time.Now().Before(c.end) {
			return n, os.ErrDeadlineExceeded
		}
		var m int
		m, err = c.ResponseWriter.Write(b[n:min(n+answerPiece, len(b))])
		n += m
	}
	return n, err
}

// SetWriteDeadline sets one for a piece; the whole ends no later for it.
func (c *counted) SetWriteDeadline(at time.Time) error {
	if at.IsZero() || at.After(c.end) {
		at = c.end
	}
	return c.out.SetWriteDeadline(at)
}

// Unwrap gives what else the connection can.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }
