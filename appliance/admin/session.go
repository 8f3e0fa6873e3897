// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"hallig/appliance/event"
)

// Who gets in: an administrator's Matrix account on this box, by its password. A session of the pages is no Matrix session: it makes no device, lives in
// memory, ends after half an hour without a click, after twelve hours anyway, at a restart, and when the account loses its rights.
//
// Where: over TLS only. Whoever can read an administrator's password on the wire can erase the box, and a field network is a Wi-Fi with a
// shared password or none. So over plain HTTP the login is refused with the way to https, unless
// the browser runs on the box's own machine (loopback), or comes through a proxy that speaks TLS for the box (public_url is https, and the proxy
// says X-Forwarded-Proto: https). The same holds for every page of /admin/: a session's cookie is Secure.
//
// Against other sites: the cookie is HttpOnly and SameSite=Strict, every form carries the session's token, and the browser's own word about where
// a request comes from (Sec-Fetch-Site, Origin) is heeded. Guessing: the limits on Matrix logins count these logins too.

const (
	idleLimit   = 30 * time.Minute
	lifeLimit   = 12 * time.Hour
	maxSessions = 64
	maxForm     = 64 << 10
)

type session struct {
	user       event.UserID
	csrf       string
	began, use time.Time
}

// sessions are kept by the hash of their cookie.
type sessions struct {
	mu   sync.Mutex
	open map[[32]byte]*session
}

func secret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// begin opens a session and gives its cookie. When there are too many, the one that was used least lately ends.
func (s *sessions) begin(user event.UserID, now time.Time) string {
	token := secret()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[[32]byte]*session{}
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
	s.open[sha256.Sum256([]byte(token))] = &session{user: user, csrf: secret(), began: now, use: now}
	return token
}

func (s *sessions) sweep(now time.Time) {
	for k, o := range s.open {
		if now.Sub(o.use) > idleLimit || now.Sub(o.began) > lifeLimit {
			delete(s.open, k)
		}
	}
}

func (s *sessions) find(token string, now time.Time) (session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(now)
	o := s.open[sha256.Sum256([]byte(token))]
	if o == nil {
		return session{}, false
	}
	o.use = now
	return *o, true
}

func (s *sessions) end(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sha256.Sum256([]byte(token)))
}

// endOf ends all sessions of a user.
func (s *sessions) endOf(user event.UserID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, o := range s.open {
		if o.user == user {
			delete(s.open, k)
		}
	}
}

type sessionKey struct{}

func sessionOf(ctx context.Context) (session, bool) {
	s, ok := ctx.Value(sessionKey{}).(session)
	return s, ok
}

// secure says whether nobody on the network reads what this browser sends, and whether its cookies may be Secure.
func (p *Pages) secure(r *http.Request) (private, cookie bool) {
	if r.TLS != nil || p.Proxied && r.Header.Get("X-Forwarded-Proto") == "https" {
		return true, true
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false, false
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback(), false
}

// cookieName carries the prefix that keeps others from setting it, where browsers allow it.
func cookieName(secure bool) string {
	if secure {
		return "__Host-hallig"
	}
	return "hallig"
}

// insecure answers a browser whose words could be read.
func (p *Pages) insecure(w http.ResponseWriter, r *http.Request) {
	data := struct{ URL string }{}
	if p.SecureURL != nil {
		if base := p.SecureURL(r.Host); base != "" {
			data.URL = base + "/admin/"
		}
	}
	p.render(w, http.StatusForbidden, "insecure.html", p.view(r, "Verschlüsselt anmelden", "Sign in over https", data))
}

// admin lets signed-in administrators through.
func (p *Pages) admin(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		private, tls := p.secure(r)
		if !private {
			p.insecure(w, r)
			return
		}
		s, ok := session{}, false
		if c, err := r.Cookie(cookieName(tls)); err == nil {
			s, ok = p.sessions.find(c.Value, time.Now())
		}
		if ok {
			u, err := p.Accounts.User(r.Context(), s.user)
			if err != nil || !u.Admin || u.Deactivated {
				p.sessions.endOf(s.user)
				ok = false
			}
		}
		if !ok {
			to := "/admin/login"
			if r.Method == http.MethodGet && r.URL.Path != "/admin/" {
				to += "?to=" + url.QueryEscape(r.URL.Path)
			}
			http.Redirect(w, r, to, http.StatusSeeOther)
			return
		}
		f(w, r.WithContext(context.WithValue(r.Context(), sessionKey{}, s)))
	}
}

// form lets the forms of our own pages through.
func (p *Pages) form(f http.HandlerFunc) http.HandlerFunc {
	return p.admin(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if !p.own(r) || !p.tokenFits(r, r.PostFormValue("csrf")) {
			p.refuseForm(w, r)
			return
		}
		f(w, r)
	})
}

// own says whether the browser sent the request from a page of the box itself.
func (p *Pages) own(r *http.Request) bool { return p.cross.Check(r) == nil }

func (p *Pages) tokenFits(r *http.Request, token string) bool {
	s, ok := sessionOf(r.Context())
	return ok && subtle.ConstantTimeCompare([]byte(token), []byte(s.csrf)) == 1
}

func (p *Pages) refuseForm(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "Nicht ausgeführt", "Not done", nil)
	v.Bad = v.T("Dieses Formular ist veraltet oder kam nicht von dieser Seite. Es wurde nichts getan: zurückgehen, neu laden, noch einmal.",
		"This form is out of date or did not come from this page. Nothing was done: go back, load the page again, and repeat.")
	p.render(w, http.StatusForbidden, "message.html", v)
}

func (p *Pages) showLogin(w http.ResponseWriter, r *http.Request) {
	if private, _ := p.secure(r); !private {
		p.insecure(w, r)
		return
	}
	p.loginPage(w, r, http.StatusOK, "", "")
}

func (p *Pages) loginPage(w http.ResponseWriter, r *http.Request, status int, name, bad string) {
	v := p.view(r, "Anmelden", "Sign in", struct{ Name, To string }{name, inside(r.FormValue("to"))})
	v.Bad = bad
	p.render(w, status, "login.html", v)
}

// inside takes only paths of our own pages.
func inside(path string) string {
	if strings.HasPrefix(path, "/admin/") && !strings.ContainsAny(path, "\\\r\n") {
		return path
	}
	return "/admin/"
}

func (p *Pages) login(w http.ResponseWriter, r *http.Request) {
	private, tls := p.secure(r)
	if !private {
		p.insecure(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if !p.own(r) {
		p.refuseForm(w, r)
		return
	}
	v := p.view(r, "", "", nil)
	name, password := strings.TrimSpace(r.PostFormValue("user")), r.PostFormValue("password")
	if wait := p.AllowLogin(r.RemoteAddr); wait > 0 {
		w.Header().Set("Retry-After", "10")
		p.loginPage(w, r, http.StatusTooManyRequests, name, v.T("Zu viele Versuche. Bitte eine Minute warten.", "Too many tries. Please wait a minute."))
		return
	}
	user := fullName(name, p.ServerName)
	ctx := r.Context()
	if err := p.Accounts.VerifyPassword(ctx, user, password); err != nil {
		// Not the name: people type their password there by mistake.
		p.Log.Warn("login to the pages refused", "from", r.RemoteAddr)
		p.loginPage(w, r, http.StatusForbidden, name, v.T("Name oder Passwort stimmt nicht.", "Wrong name or password."))
		return
	}
	if u, err := p.Accounts.User(ctx, user); err != nil || !u.Admin {
		p.loginPage(w, r, http.StatusForbidden, name, v.T("Dieses Konto verwaltet die Box nicht.", "This account does not administer the box."))
		return
	}
	p.Log.Info("login to the pages", "user", user, "from", r.RemoteAddr)
	token := p.sessions.begin(user, time.Now())
	http.SetCookie(w, &http.Cookie{Name: cookieName(tls), Value: token, Path: "/", HttpOnly: true, Secure: tls, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, inside(r.PostFormValue("to")), http.StatusSeeOther)
}

// fullName makes what a person types a user id.
func fullName(name, server string) event.UserID {
	if strings.HasPrefix(name, "@") {
		return event.UserID(name)
	}
	return event.UserID("@" + strings.ToLower(name) + ":" + server)
}

func (p *Pages) logout(w http.ResponseWriter, r *http.Request) {
	_, tls := p.secure(r)
	if c, err := r.Cookie(cookieName(tls)); err == nil {
		p.sessions.end(c.Value)
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName(tls), Path: "/", MaxAge: -1, HttpOnly: true, Secure: tls, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, "/status", http.StatusSeeOther)
}
