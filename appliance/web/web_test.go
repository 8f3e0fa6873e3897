// SPDX-License-Identifier: EUPL-1.2

package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPage(t *testing.T) {
	h := Handler(Page{ServerName: "box.example"})
	for _, tc := range []struct{ method, path, accept, want string }{
		{"GET", "/", "", "Nachrichtenserver"},
		{"GET", "/", "en-GB,en;q=0.9,de;q=0.1", "message server"},
		{"GET", "/", "fr, de-AT;q=0.5, en;q=0.4", "Nachrichtenserver"},
		{"GET", "/?lang=en", "de", "message server"},
		{"GET", "/", "en", "http://box.local:8008"},
		{"GET", "/", "en", "box.example"},
	} {
		r := httptest.NewRequest(tc.method, "http://box.local:8008"+tc.path, nil)
		r.Header.Set("Accept-Language", tc.accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), tc.want) {
			t.Errorf("%s %s (%s): status %d, %q not shown", tc.method, tc.path, tc.accept, w.Code, tc.want)
		}
	}
}

func TestPageRefuses(t *testing.T) {
	h := Handler(Page{ServerName: "box.example"})
	for _, tc := range []struct {
		method, path string
		want         int
	}{{"GET", "/secret", 404}, {"POST", "/", 405}} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tc.method, "http://x"+tc.path, nil))
		if w.Code != tc.want {
			t.Errorf("%s %s: got %d, want %d", tc.method, tc.path, w.Code, tc.want)
		}
	}
}

func TestPageEscapesHost(t *testing.T) {
	r := httptest.NewRequest("GET", "http://x/", nil)
	r.Host = `"><script>alert(1)</script>`
	w := httptest.NewRecorder()
	Handler(Page{}).ServeHTTP(w, r)
	if strings.Contains(w.Body.String(), "<script>") {
		t.Error("the page carries a script from the Host header")
	}
}
