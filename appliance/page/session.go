// SPDX-License-Identifier: EUPL-1.2

package page

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"sync"
	"time"
)

const (
	idleLimit   = 30 * time.Minute
	lifeLimit   = 12 * time.Hour
	maxSessions = 64
)

// Session is somebody who has signed in.
type Session struct {
	User string
	// CSRF stands in every form of the session's pages.
	CSRF       string
	began, use time.Time
}

// Signed says whether a form carries the session's token.
func (s Session) Signed(token string) bool {
	return s.CSRF != "" && subtle.ConstantTimeCompare([]byte(token), []byte(s.CSRF)) == 1
}

// Sessions are those who are signed in, kept in memory by the hash of their cookie. One ends after half an hour without a click, after twelve hours anyway, and at a
// restart. Its zero value works; it is safe for concurrent use.
type Sessions struct {
	mu   sync.Mutex
	open map[[32]byte]*Session
}

// Begin opens a session and gives its cookie. When there are too many, the one that was used least lately ends.
func (s *Sessions) Begin(user string, now time.Time) string {
	token := rand.Text() + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[[32]byte]*Session{}
	}
	s.sweep(now)
	if len(s.open) >= maxSessions {
		var oldest [32]byte
		for k, o := range s.open {
			if was := s.open[oldest]; was == nil || o.use.Before(was.use) {
				oldest = k
			}
		}
		delete(s.open, oldest)
	}
	s.open[sha256.Sum256([]byte(token))] = &Session{User: user, CSRF: rand.Text() + rand.Text(), began: now, use: now}
	return token
}

func (s *Sessions) sweep(now time.Time) {
	for k, o := range s.open {
		if now.Sub(o.use) > idleLimit || now.Sub(o.began) > lifeLimit {
			delete(s.open, k)
		}
	}
}

// Find gives the session of a cookie, which counts as a click.
func (s *Sessions) Find(token string, now time.Time) (Session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(now)
	o := s.open[sha256.Sum256([]byte(token))]
	if o == nil {
		return Session{}, false
	}
	o.use = now
	return *o, true
}

// End ends the session of a cookie.
func (s *Sessions) End(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sha256.Sum256([]byte(token)))
}

// EndOf ends all sessions of a user.
func (s *Sessions) EndOf(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, o := range s.open {
		if o.User == user {
			delete(s.open, k)
		}
	}
}

// cookieName carries the prefix that keeps others from setting it, where browsers allow it.
func cookieName(secure bool) string {
	if secure {
		return "__Host-hallig"
	}
	return "hallig"
}

// Cookie is the session's cookie of a request; "": there is none. secure says that the browser came over TLS.
func Cookie(r *http.Request, secure bool) string {
	c, err := r.Cookie(cookieName(secure))
	if err != nil {
		return ""
	}
	return c.Value
}

// SetCookie gives the browser the session's cookie, or takes it away with "".
func SetCookie(w http.ResponseWriter, token string, secure bool) {
	c := &http.Cookie{Name: cookieName(secure), Value: token, Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode}
	if token == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}
