// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestNobodyGetsIn: every page and form of administrators sends strangers away, does nothing, and asks for https on the network.
func TestNobodyGetsIn(t *testing.T) {
	s := newSite(t, nil)
	for _, path := range adminPages {
		if _, _, at := s.get(path); !strings.HasPrefix(at, "/admin/login") {
			t.Errorf("GET %s led to %s", path, at)
		}
	}
	for _, path := range adminForms {
		if _, _, at := s.post(path, "do", "reset", "confirm", "box.test", "csrf", ""); !strings.HasPrefix(at, "/admin/login") {
			t.Errorf("POST %s led to %s", path, at)
		}
	}
	for _, path := range append(slices.Clone(adminPages), "/admin/login") {
		for _, from := range []string{"192.168.7.20:5000", "[fe80::1%eth0]:5000", "nonsense"} {
			r := httptest.NewRequest("GET", "http://hallig.local"+path, nil)
			r.RemoteAddr = from
			r.Header.Set("X-Forwarded-Proto", "https") // nobody has said that there is a proxy
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "https://hallig.local/admin/") || !strings.Contains(w.Body.String(), "/vertrauen") || strings.Contains(w.Body.String(), "AB:CD") {
				t.Errorf("%s over plain HTTP from %s: %d\n%s", path, from, w.Code, w.Body)
			}
		}
	}
	r := httptest.NewRequest("POST", "http://hallig.local/admin/login", strings.NewReader(url.Values{"user": {"chefin"}, "password": {password}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.RemoteAddr = "192.168.7.20:5000"
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusForbidden || len(w.Result().Cookies()) > 0 {
		t.Errorf("signed in over plain HTTP: %d", w.Code)
	}
	if told := s.init.told(); len(told) > 0 {
		t.Errorf("the steward was told %v", told)
	}
}

func TestSignIn(t *testing.T) {
	waits := time.Duration(0)
	s := newSite(t, func(o *PageOptions) { o.AllowLogin = func(string) time.Duration { return waits } })
	for _, tt := range []struct {
		user, password string
		status         int
		want           string
	}{
		{"chefin", "falsch", 403, "stimmt nicht"},
		{"niemand", password, 403, "stimmt nicht"},
		{"@chefin:elsewhere.test", password, 403, "stimmt nicht"},
		{"helfer", password, 403, "verwaltet die Box nicht"},
		{"<b>", "", 403, "&lt;b&gt;"},
	} {
		if status, body, _ := s.post("/admin/login", "user", tt.user, "password", tt.password); status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s: %d, want %d with %q\n%s", tt.user, status, tt.status, tt.want, body)
		}
	}
	waits = time.Minute
	if status, body, _ := s.post("/admin/login", "user", "chefin", "password", password); status != 429 || !strings.Contains(body, "Minute warten") {
		t.Errorf("too many tries: %d\n%s", status, body)
	}
	waits = 0
	if _, _, at := s.post("/admin/login", "user", " Chefin ", "password", password, "to", "/admin/boxes"); at != "/admin/boxes" {
		t.Errorf("led to %s, want the page that was asked for", at)
	}
	// Over TLS the cookie says so itself.
	r := httptest.NewRequest("POST", "https://box.test/admin/login", strings.NewReader(url.Values{"user": {"@chefin:box.test"}, "password": {password}, "to": {"//evil.test/admin/"}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.RemoteAddr = "192.168.7.20:5000"
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if cookie := w.Header().Get("Set-Cookie"); w.Header().Get("Location") != "/admin/" || !strings.HasPrefix(cookie, "__Host-hallig=") ||
		!strings.Contains(cookie, "; HttpOnly; Secure; SameSite=Strict") || !strings.Contains(cookie, "Path=/;") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func TestProxy(t *testing.T) {
	s := newSite(t, func(o *PageOptions) { o.Proxied = true })
	for header, want := range map[string]int{"": 403, "http": 403, "https": 200} {
		r := httptest.NewRequest("GET", "http://box.test/admin/login", nil)
		r.RemoteAddr = "192.168.7.20:5000"
		r.Header.Set("X-Forwarded-Proto", header)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("X-Forwarded-Proto %q: %d, want %d", header, w.Code, want)
		}
	}
}

// TestForms: a form without this session's token, or from another site, does nothing.
func TestForms(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	for _, path := range adminForms {
		for name, change := range map[string]func(*http.Request, url.Values){
			"no token":      func(*http.Request, url.Values) {},
			"wrong token":   func(_ *http.Request, v url.Values) { v.Set("csrf", "x"+csrf[1:]) },
			"another site":  func(r *http.Request, v url.Values) { v.Set("csrf", csrf); r.Header.Set("Origin", "http://evil.test") },
			"another site2": func(r *http.Request, v url.Values) { v.Set("csrf", csrf); r.Header.Set("Sec-Fetch-Site", "cross-site") },
		} {
			v := url.Values{"do": {"reset"}, "confirm": {"box.test"}, "user": {string(helper)}, "uses": {"5"}}
			r, err := http.NewRequest("POST", s.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			change(r, v)
			r.Body = io.NopCloser(strings.NewReader(v.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			resp, err := s.http.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if status, body, _ := s.read(resp); status != 403 || !strings.Contains(body, "Es wurde nichts getan") {
				t.Errorf("%s, %s: %d\n%s", path, name, status, body)
			}
		}
	}
	if told := s.init.told(); len(told) > 0 {
		t.Errorf("the steward was told %v", told)
	}
	if tokens, err := s.Accounts.RegistrationTokens(t.Context()); err != nil || len(tokens) > 0 {
		t.Errorf("a token was made: %v %v", tokens, err)
	}
	if status, _, _ := s.get("/admin/"); status != 200 {
		t.Error("the session ended")
	}
}

// TestSessionsEnd: by signing out, and with the rights of the account; package page has the times.
func TestSessionsEnd(t *testing.T) {
	site := newSite(t, nil)
	site.signIn()
	if err := site.Accounts.SetAdmin(t.Context(), boss, false); err != nil {
		t.Fatal(err)
	}
	if _, _, at := site.get("/admin/users"); !strings.HasPrefix(at, "/admin/login") {
		t.Error("an account without rights goes on")
	}
	if err := site.Accounts.SetAdmin(t.Context(), boss, true); err != nil {
		t.Fatal(err)
	}
	if _, _, at := site.get("/admin/users"); !strings.HasPrefix(at, "/admin/login") {
		t.Error("the session came back with the rights")
	}
	csrf := site.signIn()
	if _, _, at := site.post("/admin/logout", "csrf", csrf); at != "/status" {
		t.Errorf("signing out led to %s", at)
	}
	if _, _, at := site.get("/admin/"); !strings.HasPrefix(at, "/admin/login") {
		t.Error("signed out and in")
	}
}
