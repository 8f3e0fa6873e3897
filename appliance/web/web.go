// SPDX-License-Identifier: EUPL-1.2

// Package web is what a browser finds on a box: one page, in German or English, that names the server's address and
// clients to use with it. It has no script, asks nobody on the Internet and keeps nothing. The browser client itself is a
// later room of this package.
package web

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"strconv"
	"strings"
)

//go:embed page.html
var page string

// Page says what the page shows.
type Page struct {
	ServerName string
	BaseURL    string // empty: taken from the address that the browser used
}

type texts struct {
	Lang, Title, Lead, Address, Name, How                         string
	Phone, PhoneText, Desktop, DesktopText, Code, Other, OtherRef string
}

var german = texts{
	Lang: "de", Title: "Dieser Kasten ist ein Nachrichtenserver",
	Lead:    "Hallig verbindet alle in diesem Netz, auch ohne Internet. Zum Schreiben und Lesen dient eine App für das Matrix-Protokoll.",
	Address: "Adresse des Servers", Name: "Name des Servers (hinter dem Doppelpunkt jedes Benutzernamens)",
	How:   "Beim Anmelden in der App „anderen Server“ oder „Heimserver bearbeiten“ wählen und diese Adresse eintragen.",
	Phone: "Telefon", PhoneText: "FluffyChat oder Element Classic; die App muss installiert sein, bevor das Internet fehlt.",
	Desktop: "Rechner", DesktopText: "Nheko, Element Desktop, Fractal, NeoChat oder Thunderbird.",
	Code:  "Ein neues Konto braucht einen Anmeldecode. Er kommt von der Person, die diesen Kasten betreut.",
	Other: "English", OtherRef: "?lang=en",
}

var english = texts{
	Lang: "en", Title: "This box is a message server",
	Lead:    "Hallig connects everybody on this network, with or without the Internet. An app for the Matrix protocol is used to write and read.",
	Address: "Server address", Name: "Server name (behind the colon of each user name)",
	How:   "When signing in with the app, choose “other server” or “edit homeserver” and enter this address.",
	Phone: "Phone", PhoneText: "FluffyChat or Element Classic; the app must be installed before the Internet is gone.",
	Desktop: "Computer", DesktopText: "Nheko, Element Desktop, Fractal, NeoChat or Thunderbird.",
	Code:  "A new account needs a registration token. It comes from the person who looks after this box.",
	Other: "Deutsch", OtherRef: "?lang=de",
}

// Handler serves the page under "/" and 404 elsewhere.
func Handler(p Page) http.Handler {
	tmpl := template.Must(template.New("page").Parse(page))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		if r.URL.Path != "/" && r.URL.Path != "/index.html" {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			head.Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		t := language(r)
		base := p.BaseURL
		if base == "" {
			base = "http://" + r.Host
			if r.TLS != nil {
				base = "https://" + r.Host
			}
		}
		var b bytes.Buffer
		if err := tmpl.Execute(&b, struct {
			texts
			Server, Base string
		}{t, p.ServerName, base}); err != nil {
			http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
			return
		}
		head.Set("Content-Type", "text/html; charset=utf-8")
		head.Set("Content-Language", t.Lang)
		head.Set("Vary", "Accept-Language")
		head.Set("Content-Length", strconv.Itoa(b.Len()))
		_, _ = w.Write(b.Bytes()) // a browser that has gone asks again
	})
}

// language takes ?lang= first, then the first of the browser's languages that we have; German otherwise.
func language(r *http.Request) texts {
	wish := r.URL.Query().Get("lang") + "," + r.Header.Get("Accept-Language")
	for part := range strings.SplitSeq(wish, ",") {
		tag, _, _ := strings.Cut(strings.TrimSpace(part), ";")
		tag, _, _ = strings.Cut(strings.ToLower(tag), "-")
		switch tag {
		case "de":
			return german
		case "en":
			return english
		}
	}
	return german
}
