// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/page"
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

type sessionKey struct{}

func sessionOf(ctx context.Context) (page.Session, bool) {
	s, ok := ctx.Value(sessionKey{}).(page.Session)
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
		s, ok := p.sessions.Find(page.Cookie(r, tls), time.Now())
		if ok {
			u, err := p.Accounts.User(r.Context(), event.UserID(s.User))
			if err != nil || !u.Admin || u.Deactivated {
				p.sessions.EndOf(s.User)
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
		r.Body = http.MaxBytesReader(w, r.Body, page.MaxForm)
		if !page.Own(r) || !tokenFits(r, r.PostFormValue("csrf")) {
			p.refuseForm(w, r)
			return
		}
		f(w, r)
	})
}

func tokenFits(r *http.Request, token string) bool {
	s, ok := sessionOf(r.Context())
	return ok && s.Signed(token)
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
	r.Body = http.MaxBytesReader(w, r.Body, page.MaxForm)
	if !page.Own(r) {
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
	page.SetCookie(w, p.sessions.Begin(string(user), time.Now()), tls)
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
	p.sessions.End(page.Cookie(r, tls))
	page.SetCookie(w, "", tls)
	http.Redirect(w, r, "/status", http.StatusSeeOther)
}
