// SPDX-License-Identifier: EUPL-1.2

// Package web is what a browser finds on a box, in German or English: the start page, which is the captive portal as well (what this is, the address with
// its code, clients, how to get an account), and the page that explains how to trust the box, with pictures per system and the certificate to download.
//
// The pages have no script, ask nobody on the Internet, keep nothing in the browser and say plainly how the connection that shows them is protected. They work
// in the small windows in which phones show captive portals: no new windows, no storage, no download that a page there could not do without.
// What they show is handed to them as functions. Portal leads browsers here that asked for somebody else. The browser client itself is a later room of this package.
package web

import (
	"bytes"
	_ "embed"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed pages.html
var pages string

// Site is what the pages show. Only ServerName is required.
type Site struct {
	ServerName string
	BaseURL    string // where phones reach the box; empty: the address that the browser used, or LocalName
	LocalName  string // the name by which every phone on this network finds the box, hallig.local; empty: none
	// Trust gives the certificates; nil, or its answer nil: there is no TLS.
	Trust func() *Trust
	// Status is one sentence on how the box does, and whether all is well; nil: none. The page links to StatusPath with it.
	Status     func(german bool) (sentence string, well bool)
	StatusPath string
	// SignUp makes an account for the visitor at addr, or says why not with an error code of the Client-Server API; nil: only clients can.
	SignUp func(r *http.Request, name, password, token string) (user, code string)
	// Invite gives a registration token that the holder of a new account may hand to the next person; "", or nil: it may not.
	Invite func(r *http.Request, user string) (token string)
	// Portal says that Portal stands in front: the page offers to stay on this network.
	Portal bool
}

type site struct {
	Site
	tmpl *template.Template
}

// Handler serves the pages, and 404 elsewhere.
func Handler(s Site) http.Handler {
	h := &site{Site: s, tmpl: template.Must(template.New("pages").Parse(pages))}
	mux := http.NewServeMux()
	for path, f := range map[string]http.HandlerFunc{
		"/{$}": h.start, "/index.html": h.start, "/vertrauen": h.trust, "/trust": h.trust,
		"/konto": h.signUp, "/account": h.signUp,
		"/hallig.crt": h.der, "/hallig.pem": h.pem, "/hallig.mobileconfig": h.profile,
	} {
		mux.HandleFunc(path, f)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			if _, pattern := mux.Handler(r); pattern != "" && !(r.Method == http.MethodPost && (pattern == "/konto" || pattern == "/account")) {
				head.Set("Allow", "GET, HEAD")
				http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
}

// view is what both pages know of the visit.
type view struct {
	texts
	Server  string
	Base    string   // the address to type into a client
	Others  []string // more addresses
	QR      template.HTML
	Secure  bool   // this very connection is TLS
	Own     bool   // with the box's own certificate
	Trust   *Trust // nil: no TLS
	Public  bool   // the certificate is one that everybody's devices trust by themselves
	Issuer  string // of one from outside that only devices of the organisation trust; "": it is not
	Lapsed  string // since when the certificate from outside is over; "": it is not
	HTTPS   string // the address over TLS
	Portal  bool
	Stays   bool // the visitor has just chosen to stay
	Status  string
	Well    bool
	StatusP string
	Form    bool // there is one for an account
}

// see collects what a page shows to this visitor.
func (h *site) see(r *http.Request) view {
	t := language(r)
	v := view{texts: t, Server: h.ServerName, Secure: r.TLS != nil, Portal: h.Portal, Stays: r.URL.Query().Has("bleibt"), StatusP: h.StatusPath, Form: h.SignUp != nil}
	host, port := split(r.Host)
	v.Base = h.BaseURL
	if v.Base == "" {
		name := host
		if _, err := netip.ParseAddr(host); err == nil && h.LocalName != "" {
			name = h.LocalName
			v.Others = append(v.Others, address(r.TLS != nil, host, port))
		}
		v.Base = address(r.TLS != nil, name, port)
	}
	if h.Trust != nil {
		v.Trust = h.Trust()
	}
	if v.Trust != nil {
		v.Public = v.Trust.Public
		if v.Trust.Outside && !v.Public {
			v.Issuer = v.Trust.Issuer
		}
		v.Own = v.Secure && !(v.Trust.Outside && slices.Contains(v.Trust.Names, strings.ToLower(r.TLS.ServerName)))
		v.HTTPS = v.Trust.address(h.LocalName, h.BaseURL, host)
		if v.Public && h.BaseURL == "" {
			v.Base = v.HTTPS // every phone takes it
		}
		if !v.Trust.Lapsed.IsZero() {
			v.Lapsed = day(v.Trust.Lapsed, t.German)
		}
	}
	if h.Status != nil {
		v.Status, v.Well = h.Status(t.German)
	}
	v.QR = code(v.Base)
	return v
}

func day(t time.Time, german bool) string {
	if german {
		return t.Format("2.1.2006")
	}
	return t.Format("2 January 2006")
}

func split(hostport string) (host, port string) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return strings.Trim(hostport, "[]"), ""
	}
	return host, port
}

func address(secure bool, host, port string) string {
	scheme, usual := "http", "80"
	if secure {
		scheme, usual = "https", "443"
	}
	if port != "" && port != usual {
		return scheme + "://" + net.JoinHostPort(host, port)
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return scheme + "://" + host
}

func (h *site) start(w http.ResponseWriter, r *http.Request) {
	v := h.see(r)
	h.show(w, "start", v.texts.Lang, v)
}

func (h *site) show(w http.ResponseWriter, name, lang string, v any) {
	h.showAs(w, http.StatusOK, name, lang, v)
}

func (h *site) showAs(w http.ResponseWriter, status int, name, lang string, v any) {
	var b bytes.Buffer
	if err := h.tmpl.ExecuteTemplate(&b, name, v); err != nil {
		http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
		return
	}
	head := w.Header()
	head.Set("Content-Type", "text/html; charset=utf-8")
	head.Set("Content-Language", lang)
	head.Set("Vary", "Accept-Language")
	head.Set("Cache-Control", "no-cache")
	head.Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // a browser that has gone asks again
}

// German says whether the pages speak German to whoever asks; English otherwise.
func German(r *http.Request) bool { return language(r).German }

// language takes ?lang= first, then a path that is a word of one language, then the first of the browser's languages that we have; German otherwise.
func language(r *http.Request) texts {
	wish := r.URL.Query().Get("lang") + "," + map[string]string{"/vertrauen": "de", "/trust": "en", "/konto": "de", "/account": "en"}[r.URL.Path] + "," + r.Header.Get("Accept-Language")
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
