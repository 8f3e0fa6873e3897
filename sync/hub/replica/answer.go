// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"net/http"
	"time"

	"hallig/sync/federation"
)

// answerWait is how long a question waits for a place.
const answerWait = 10 * time.Second

// Answer answers a verified question about a room in a box's place. false: nothing was written.
func (r *Replica) Answer(w http.ResponseWriter, req *http.Request, q federation.Question) bool {
	late := time.NewTimer(answerWait)
	defer late.Stop()
	select {
	case r.places <- struct{}{}:
	case <-late.C:
		return false
	case <-req.Context().Done():
		return false
	}
	defer func() { <-r.places }()
	r.mu.Lock()
	now := r.answers
	now.Add(1)
	r.mu.Unlock()
	defer now.Done()
	c := &counted{ResponseWriter: w}
	done := r.archive.Answer(c, req, q)
	if c.status == http.StatusOK {
		r.count.answered.Add(1)
	} else {
		r.count.unknown.Add(1)
	}
	return done
}

// counted notes the status of an answer.
type counted struct {
	http.ResponseWriter
	status int
}

func (c *counted) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

// Unwrap gives the deadlines of the connection.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }
