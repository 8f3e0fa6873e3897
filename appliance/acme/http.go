// SPDX-License-Identifier: EUPL-1.2

package acme

import (
	"io"
	"net/http"
	"sync"
)

// Answers shows proofs to the authority, while they are under way, at /.well-known/acme-challenge/ of port 80 of each name (RFC 8555, section 8.3); everything else is not there. The zero value
// works; it is safe for concurrent use.
type Answers struct {
	mu sync.Mutex
	at map[string]string // by path
}

// put shows an answer at a path; "" takes it away.
func (a *Answers) put(path, answer string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if answer == "" {
		delete(a.at, path)
		return
	}
	if a.at == nil {
		a.at = map[string]string{}
	}
	a.at[path] = answer
}

// ServeHTTP answers the authority.
func (a *Answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	answer := a.at[r.URL.Path]
	a.mu.Unlock()
	if answer == "" || r.Method != http.MethodGet {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = io.WriteString(w, answer) // who has gone asks again
}
