// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/health"
	"hallig/appliance/lan"
	"hallig/appliance/page"
	"hallig/appliance/steward"
)

// This file holds the frame of the pages for browsers: which there are, how they look, in which language they speak. All work without scripts.
//
//	/status, /status.json   how the box does, for anybody on the network: no names of users or rooms
//	/admin/                 for administrators; see session.go for who gets in
//	/source                 the source archive of the program that runs
//	/metrics                for monitoring; closed unless a token is configured

//go:embed pages/*.html
var pageFiles embed.FS

// PageOptions are what the pages show and do beside Options. What is nil is absent from the pages, unless it says "required".
type PageOptions struct {
	Options
	Next       http.Handler // required: all other paths
	ServerName string
	// Recent is the health as of a moment ago: anybody may ask for it, as often as they like. Required.
	Recent func(context.Context) health.Tree
	// Clock is how the box knows the time; as cheap. Required.
	Clock func() Clock
	// Quiet says until when normal traffic keeps off narrow links after a flash, zero when it does not. nil: never.
	Quiet func() time.Time
	// Accounts are those of the box. Required.
	Accounts *account.Accounts
	// Deactivate ends an account and has it leave its rooms.
	Deactivate func(context.Context, event.UserID) error
	// AllowLogin takes from the limits of an address, given as ADDR:PORT; when they are used up it says how long to wait. Required.
	AllowLogin func(remote string) time.Duration
	// SecureURL gives the https address of the pages for a browser that asked for host over plain HTTP; "": the box has no TLS port.
	SecureURL func(host string) string
	// Proxied says that browsers come through a proxy that speaks TLS for the box.
	Proxied bool
	// PhoneURL is what phones shall open.
	PhoneURL func() string
	Steward  *steward.Client
	// LAN is what the box is on its networks; false: it has not been said.
	LAN    func() (lan.State, bool)
	Backup BackupPart
	// Errand runs f behind the request, one at a time, until the box stops; false: another one is under way. Required where there is a Steward or Backup.
	Errand func(f func(context.Context)) bool
	// Source is the file that holds the sources of the program; "": none.
	Source string
	// MetricsToken opens /metrics on the ports; "": closed.
	MetricsToken string
	Now          func() time.Time // of the box's clock; required
}

// BackupPart is what the backup page shows and does.
type BackupPart struct {
	State func(context.Context) (BackupState, error)
	Start func(context.Context) error // makes one now
}

// BackupState is where backups stand.
type BackupState struct {
	Wanted     bool
	To         string // where they go, for people
	Every      time.Duration
	Recipients []string
	Last       time.Time // zero: none yet
	LastFile   string
	LastBytes  int64
	Running    bool
	Err        health.Sentence
}

// Pages serves the browsers.
type Pages struct {
	PageOptions
	mux      *http.ServeMux
	sessions page.Sessions
	errands  errands
	parsed   func() *template.Template
}

// NewPages makes the pages. It starts nothing; templates are read when the first page is asked for.
func NewPages(o PageOptions) *Pages {
	p := &Pages{PageOptions: o, mux: http.NewServeMux()}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	p.parsed = sync.OnceValue(func() *template.Template {
		return template.Must(template.New("").Funcs(template.FuncMap{"percent": percent}).ParseFS(pageFiles, "pages/*.html"))
	})
	p.mux.HandleFunc("GET /status", p.status)
	p.mux.HandleFunc("GET /status.json", p.statusJSON)
	p.mux.HandleFunc("GET /source", p.source)
	p.mux.HandleFunc("GET /metrics", p.metrics)
	p.mux.HandleFunc("GET /admin", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/admin/", http.StatusSeeOther) })
	p.mux.HandleFunc("GET /admin/login", p.showLogin)
	p.mux.HandleFunc("POST /admin/login", p.login)
	p.mux.HandleFunc("POST /admin/logout", p.form(p.logout))
	p.adminRoutes()
	return p
}

// ServeHTTP serves the pages' paths and hands on all others.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if path != "/status" && path != "/status.json" && path != "/source" && path != "/metrics" && path != "/admin" && !strings.HasPrefix(path, "/admin/") {
		p.Next.ServeHTTP(w, r)
		return
	}
	page.Guard(w.Header(), "'unsafe-inline'")
	page.Remember(w, r)
	p.mux.ServeHTTP(w, r)
}

// view is what every template is given.
type view struct {
	page.Lang
	Title, Server  string
	Here           string // path of the page, for the links to the other language and the mark in the menu
	Other          string // query of the same page in the other language
	User           string // "" when nobody is signed in
	CSRF           string
	Image, Backups bool // the box runs from the image; it makes backups
	TLS            bool // it has a TLS port
	Refresh        int  // seconds; 0: the page stays
	Good, Bad      string
	Style          template.CSS
	Data           any
}

// Conflicts is ConflictCounts for the templates.
func (v view) Conflicts(counts map[string]int64) []ConflictCount { return ConflictCounts(counts) }

// L takes a text of the network.
func (v view) L(t lan.Text) string { return v.T(t.De, t.En) }

// Mode says what the box is on a network.
func (v view) Mode(m lan.Mode) string {
	switch m {
	case lan.Guest:
		return v.T("Gast: die Adresse kommt aus dem Netz", "guest: the address comes from the network")
	case lan.Host:
		return v.T("Gastgeber: die Box verteilt die Adressen", "host: the box gives out the addresses")
	case lan.Static:
		return v.T("feste Adresse", "fixed address")
	case lan.Off:
		return v.T("abgeschaltet", "off")
	}
	return v.T("wartet auf Kabel oder Antwort", "waits for a cable or an answer")
}

// X takes a text of the steward.
func (v view) X(t steward.Text) string { return v.T(t.De, t.En) }

func (p *Pages) view(r *http.Request, title, titleEN string, data any) view {
	v := view{Lang: page.Wish(r), Server: p.ServerName, Here: r.URL.Path, Image: p.Steward != nil, Backups: p.Backup.State != nil, TLS: p.SecureURL != nil && p.SecureURL(r.Host) != "", Data: data}
	v.Title = v.T(title, titleEN)
	v.Other = v.Lang.Other(r)
	if s, ok := sessionOf(r.Context()); ok {
		v.User, v.CSRF = s.User, s.CSRF
	}
	return v
}

// render writes a page.
func (p *Pages) render(w http.ResponseWriter, status int, name string, v view) {
	v.Style = template.CSS(page.Style)
	var b bytes.Buffer
	err := p.parsed().ExecuteTemplate(&b, name, v)
	if err == nil {
		head := w.Header()
		head.Set("Content-Type", "text/html; charset=utf-8")
		head.Set("Content-Language", string(v.Lang))
		head.Set("Vary", "Accept-Language, Cookie")
		head.Set("Content-Length", strconv.Itoa(b.Len()))
		w.WriteHeader(status)
		_, _ = w.Write(b.Bytes()) // a browser that has gone asks again
		return
	}
	p.Log.Error("page not shown", "page", name, "err", err)
	http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
}

// said makes an error a sentence for people; what is nobody's business goes to the log.
func (p *Pages) said(v view, what string, err error) string {
	var text steward.Text
	var refusal *Refusal
	switch {
	case errors.As(err, &text):
		return v.X(text)
	case errors.As(err, &refusal):
		if refusal.DE != "" {
			return v.T(refusal.DE, refusal.Text)
		}
		return refusal.Text
	}
	p.Log.Warn("page could not do what was asked", "what", what, "err", err)
	return v.T("Das hat nicht geklappt; im Protokoll steht, warum.", "That did not work; the log says why.")
}

func percent(f float64) string { return fmt.Sprintf("%.0f %%", f*100) }

// PageOf gives the page of administrators where something can be done about a node; "": none.
func (v view) PageOf(k health.Kind) string {
	switch k {
	case health.Clock:
		return "/admin/clock"
	case health.Links, health.Peer, health.Server:
		return "/admin/boxes"
	case health.Certificate:
		return "/admin/certificate"
	}
	if v.Backups && k == health.Backup {
		return "/admin/backup"
	}
	if !v.Image {
		return ""
	}
	switch k {
	case health.Update:
		return "/admin/update"
	case health.Line, health.Provisioning, health.Memory, health.Homeserver, health.Machine:
		return "/admin/device"
	case health.Services:
		return "/admin/log"
	}
	return ""
}

// tab is an entry of the menu.
type tab struct {
	Path, Text string
	Current    bool
}

// Tab makes one.
func (v view) Tab(path, de, en string) tab { return tab{path, v.T(de, en), v.Here == path} }

// nodesView hands nodes and the page that shows them to a template.
type nodesView struct {
	V     view
	Nodes []nodeView
}

// Nodes makes one.
func (v view) Nodes(n []nodeView) nodesView { return nodesView{v, n} }
