// SPDX-License-Identifier: EUPL-1.2

// Package page is what the pages for browsers of a box and of a hub have in common, so that both look alike, speak the same two languages and are as hard to abuse: how
// they look (Style), what they say in German and English (Lang), who is signed in (Sessions), and that a form came from the page itself (Own, Session.Signed).
//
// It knows nothing of what a page shows, and nothing of who may sign in.
package page

import (
	_ "embed"
	"net/http"
)

// Style is the sheet of all pages.
//
//go:embed style.css
var Style string

// Guard sets the headers that hold for every page: no scripts, nothing from elsewhere, in nobody's frame, in no cache. style says where styles may come from, as in a
// Content-Security-Policy: "'self'", or "'unsafe-inline'".
func Guard(head http.Header, style string) {
	head.Set("Content-Security-Policy", "default-src 'none'; style-src "+style+"; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("Cache-Control", "no-store")
}

// Own says whether the browser sent the request from a page of the same origin, by its own word (Sec-Fetch-Site, Origin).
func Own(r *http.Request) bool { return http.NewCrossOriginProtection().Check(r) == nil }

// MaxForm bounds the body of a form, in bytes.
const MaxForm = 64 << 10
