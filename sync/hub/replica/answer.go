// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"net/http"

	"hallig/sync/federation"
)

// Answer answers a verified question about a room in a box's place, in Limits.Answer at most. false: nothing was written.
func (r *Replica) Answer(w http.ResponseWriter, req *http.Request, q federation.Question) bool {
	status := r.desk.Answer(w, req, q.Origin, func(w http.ResponseWriter, req *http.Request) bool {
		r.mu.Lock()
		now := r.answers
		now.Add(1)
		r.mu.Unlock()
		defer now.Done()
		return r.archive.Answer(w, req, q)
	})
	if status == http.StatusOK {
		r.count.answered.Add(1)
	} else {
		r.count.unknown.Add(1)
	}
	return status != 0
}
