// SPDX-License-Identifier: EUPL-1.2

package fleet

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
	"time"

	"hallig/appliance/health"
	"hallig/appliance/page"
	"hallig/sync/hub/api"
)

//go:embed pages/*.html
var pageFiles embed.FS

// shownAtOnce is how many boxes the first page has, the worst of all; ?all=1 shows every one.
const shownAtOnce = 200

// Pages serves browsers and scripts.
type Pages struct {
	Options
	mux      *http.ServeMux
	sessions page.Sessions
	parsed   *template.Template
}

// New makes the pages. It starts nothing.
func New(o Options) *Pages {
	p := &Pages{Options: o, mux: http.NewServeMux(), parsed: template.Must(template.New("").ParseFS(pageFiles, "pages/*.html"))}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	p.mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write([]byte(page.Style)) // a browser that has gone asks again
	})
	p.mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) { p.loginPage(w, r, http.StatusOK, false) })
	p.mux.HandleFunc("POST /login", p.login)
	p.mux.HandleFunc("POST /logout", p.form(p.logout))
	p.mux.HandleFunc("GET /{$}", p.inside(p.boxes))
	p.mux.HandleFunc("GET /box/{server}", p.inside(p.box))
	p.mux.HandleFunc("GET /box/{server}/revoke", p.inside(p.askRevoke))
	p.mux.HandleFunc("POST /box/{server}/revoke", p.form(p.revoke))
	p.mux.HandleFunc("GET /pair", p.inside(func(w http.ResponseWriter, r *http.Request) { p.pairPage(w, r, http.StatusOK, paired{}, nil) }))
	p.mux.HandleFunc("POST /pair", p.form(p.pair))
	p.apiRoutes()
	p.updateRoutes()
	return p
}

// ServeHTTP serves one request.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page.Guard(w.Header(), "'self'")
	page.Remember(w, r)
	p.mux.ServeHTTP(w, r)
}

// view is what every template is given.
type view struct {
	page.Lang
	Title, Server, Here, Other string
	In                         bool // somebody is signed in
	CSRF                       string
	Refresh                    int // seconds; 0: the page stays
	Good, Bad                  string
	Now                        time.Time
	Data                       any
}

// Ago says how long ago a moment was.
func (v view) Ago(t time.Time) string {
	if t.IsZero() {
		return v.T("noch nie", "never")
	}
	return v.Since(v.Now.Sub(t))
}

// Percent shows a share.
func (view) Percent(f float64) string { return fmt.Sprintf("%.0f %%", f*100) }

// Way names a way for people.
func (v view) Way(way string) string {
	switch way {
	case "":
		return ""
	case "p2p":
		return v.T("über das Netz (libp2p)", "by the network (libp2p)")
	case "stick":
		return v.T("auf einem Stick", "on a stick")
	}
	switch by, box, _ := strings.Cut(way, ":"); by {
	case "radio":
		return v.T("über Funk durch ", "by radio through ") + box
	case "relay":
		return v.T("über andere Boxen, die letzte ist ", "by boxes in between, the last of them ") + box
	case "net":
		return v.T("über ein örtliches Netz durch ", "by a local network through ") + box
	}
	return v.T("über ", "by ") + way
}

// Mode names what the hub may do under a box's name.
func (v view) Mode(b Box) string {
	switch {
	case b.Key != "":
		return v.T("mit Vollmacht: der Hub hat einen zweiten Schlüssel der Box und kann in ihrem Namen unterschreiben", "delegate: the hub holds a second key of the box and can sign in its name") + " (" + b.Key + ")"
	case b.Mode == "delegate":
		return v.T("mit Vollmacht, aber der Hub hat noch keinen Schlüssel, den die Box nennt", "delegate, but the hub holds no key yet that the box has listed")
	case b.Mode == "sealed":
		return v.T("versiegelt: der Hub hat keinen Schlüssel der Box", "sealed: the hub has no key of the box")
	}
	return b.Mode
}

// Quality names who vouches for a box's clock.
func (v view) Quality(q string) string {
	de, ok := map[string]string{"untrusted": "niemand", "by users' devices": "Geräte der Benutzer", "kept by the hardware": "die Uhr der Hardware", "told by another box": "eine andere Box oder der Hub",
		"by the network's time server": "der Zeitserver des Netzes", "set by the operator": "von Hand gestellt", "exact": "Zeitserver", "exact, by satellite": "Satellit"}[q]
	if ok {
		return v.T(de, q)
	}
	return q
}

// Update names where a box is with an update.
func (v view) Update(state string) string {
	words, ok := map[string][2]string{"none": {"jemand ist zum vorigen System zurückgegangen", "somebody went back from it"}, "writing": {"wird geschrieben", "is being written"},
		"written": {"liegt bereit", "is ready to be started"}, "trial": {"läuft auf Probe", "is on trial"}, "done": {"ist übernommen", "was taken over"}, "failed": {"hat nicht geklappt", "did not work"}}[state]
	if !ok {
		return state
	}
	return v.T(words[0], words[1])
}

// Off says by how much a box's clock was off at its last contact; "": by nothing that matters.
func (v view) Off(b Box) string {
	if off := b.Off(); off.Abs() > clockOff {
		return v.T("geht "+span(off, true), span(off, false))
	}
	return ""
}

// Why is what a box said of an update that did not work.
func (v view) Why(u *api.UpdateState) string {
	if u.ErrorDE != "" {
		return v.T(u.ErrorDE, u.Error)
	}
	return u.Error
}

// Number gives what may be missing; 0: it is.
func (view) Number(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// Count adds up what waits.
func (view) Count(queues []Queue) (n int64) {
	for _, q := range queues {
		n += q.Count
	}
	return n
}

// Oldest is since when something waits.
func (view) Oldest(queues []Queue) (t time.Time) {
	for _, q := range queues {
		if t.IsZero() || q.Oldest.Before(t) {
			t = q.Oldest
		}
	}
	return t
}

// Pair hands the page and a value to a template.
func (v view) Pair(x any) [2]any { return [2]any{v, x} }

type sessionKey struct{}

func sessionOf(ctx context.Context) (page.Session, bool) {
	s, ok := ctx.Value(sessionKey{}).(page.Session)
	return s, ok
}

func (p *Pages) view(r *http.Request, de, en string, data any) view {
	v := view{Lang: page.Wish(r), Server: p.Server, Here: r.URL.Path, Now: p.Now(), Data: data}
	v.Title, v.Other = v.T(de, en), v.Lang.Other(r)
	if s, ok := sessionOf(r.Context()); ok {
		v.In, v.CSRF = true, s.CSRF
	}
	return v
}

func (p *Pages) render(w http.ResponseWriter, status int, name string, v view) {
	var b bytes.Buffer
	if err := p.parsed.ExecuteTemplate(&b, name, v); err != nil {
		p.Log.Error("page not shown", "page", name, "err", err)
		http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
		return
	}
	head := w.Header()
	head.Set("Content-Type", "text/html; charset=utf-8")
	head.Set("Content-Language", string(v.Lang))
	head.Set("Vary", "Accept-Language, Cookie")
	head.Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // a browser that has gone asks again
}

// secure says whether the browser came over TLS, to the hub or to a proxy before it; else it came over loopback, as the hub listens nowhere else without TLS.
func secure(r *http.Request) bool {
	return r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"
}

// inside lets those through who have signed in.
func (p *Pages) inside(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, ok := p.sessions.Find(page.Cookie(r, secure(r)), time.Now())
		if !ok {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
			return
		}
		f(w, r.WithContext(context.WithValue(r.Context(), sessionKey{}, s)))
	}
}

// form lets the forms of our own pages through.
func (p *Pages) form(f http.HandlerFunc) http.HandlerFunc {
	return p.inside(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, page.MaxForm)
		s, _ := sessionOf(r.Context())
		if !page.Own(r) || !s.Signed(r.PostFormValue("csrf")) {
			p.notOurs(w, r)
			return
		}
		f(w, r)
	})
}

func (p *Pages) notOurs(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "Nicht ausgeführt", "Not done", nil)
	v.Bad = v.T("Dieses Formular ist veraltet oder kam nicht von dieser Seite. Es wurde nichts getan: zurückgehen, neu laden, noch einmal.",
		"This form is out of date or did not come from this page. Nothing was done: go back, load the page again, and repeat.")
	p.render(w, http.StatusForbidden, "message.html", v)
}

func (p *Pages) loginPage(w http.ResponseWriter, r *http.Request, status int, wrong bool) {
	v := p.view(r, "Anmelden", "Sign in", p.Key.Set())
	if wrong {
		v.Bad = v.T("Das ist nicht das Token dieses Hubs.", "That is not the token of this hub.")
	}
	p.render(w, status, "login.html", v)
}

func (p *Pages) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, page.MaxForm)
	if !page.Own(r) {
		p.notOurs(w, r)
		return
	}
	if !p.Key.Opens(r.PostFormValue("token")) {
		p.Log.Warn("login to the pages refused", "from", r.RemoteAddr)
		p.loginPage(w, r, http.StatusForbidden, true)
		return
	}
	p.Log.Info("login to the pages", "from", r.RemoteAddr)
	page.SetCookie(w, p.sessions.Begin(operator, time.Now()), secure(r))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// operator is who is signed in: whoever has the token.
const operator = "operator"

// Out ends all sessions: there is another token.
func (p *Pages) Out() { p.sessions.EndOf(operator) }

func (p *Pages) logout(w http.ResponseWriter, r *http.Request) {
	p.sessions.End(page.Cookie(r, secure(r)))
	page.SetCookie(w, "", secure(r))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// failed shows that something could not be read.
func (p *Pages) failed(w http.ResponseWriter, r *http.Request, err error) {
	v := p.view(r, "Nicht ausgeführt", "Not done", nil)
	v.Bad = p.sentence(err).In(string(v.Lang))
	status := http.StatusInternalServerError
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		status = http.StatusBadRequest
	}
	p.render(w, status, "message.html", v)
}

// sentence makes an error one for people; what is nobody's business goes to the log.
func (p *Pages) sentence(err error) health.Sentence {
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		return refusal.Sentence
	}
	p.Log.Warn("page could not do what was asked", "err", err)
	return say("Das hat nicht geklappt; im Protokoll des Hubs steht, warum.", "That did not work; the hub's log says why.")
}

// find gives one box.
func (p *Pages) find(ctx context.Context, server string) (Box, error) {
	s, err := p.State(ctx)
	if err != nil {
		return Box{}, err
	}
	for _, b := range s.Boxes {
		if b.Server == server {
			return b, nil
		}
	}
	return Box{}, unknown(server)
}

func unknown(server string) error {
	return refuse("Hier ist keine Box, die "+server+" heißt.", "No box is called "+server+" here.")
}

func (p *Pages) boxes(w http.ResponseWriter, r *http.Request) {
	s, err := p.State(r.Context())
	if err != nil {
		p.failed(w, r, err)
		return
	}
	data := struct {
		State
		All, Shown, Troubled, Connected int64
		Wish                            string // what the name is to contain
	}{State: s, All: int64(len(s.Boxes)), Wish: strings.TrimSpace(r.URL.Query().Get("name"))}
	wish := strings.ToLower(data.Wish)
	shown := []Box{}
	for _, b := range s.Boxes {
		if b.Connected {
			data.Connected++
		}
		if len(b.Troubles) > 0 {
			data.Troubled++
		}
		if strings.Contains(strings.ToLower(b.Server), wish) && (len(shown) < shownAtOnce || r.URL.Query().Get("all") != "") {
			shown = append(shown, b)
		}
	}
	data.Boxes, data.Shown = shown, int64(len(shown))
	v := p.view(r, "Boxen", "Boxes", data)
	if wish == "" { // else somebody is looking for a box
		v.Refresh = 60
	}
	p.render(w, http.StatusOK, "boxes.html", v)
}

func (p *Pages) box(w http.ResponseWriter, r *http.Request) {
	b, err := p.find(r.Context(), r.PathValue("server"))
	if err != nil {
		p.failed(w, r, err)
		return
	}
	p.render(w, http.StatusOK, "box.html", p.view(r, b.Server, b.Server, b))
}

func (p *Pages) askRevoke(w http.ResponseWriter, r *http.Request) {
	p.revokePage(w, r, http.StatusOK, "", "")
}

func (p *Pages) revokePage(w http.ResponseWriter, r *http.Request, status int, de, en string) {
	b, err := p.find(r.Context(), r.PathValue("server"))
	if err != nil {
		p.failed(w, r, err)
		return
	}
	v := p.view(r, b.Server+" abweisen", "Turn "+b.Server+" away", b)
	v.Bad = v.T(de, en)
	p.render(w, status, "revoke.html", v)
}

func (p *Pages) revoke(w http.ResponseWriter, r *http.Request) {
	server, reason := r.PathValue("server"), strings.TrimSpace(r.PostFormValue("reason"))
	forget := r.PostFormValue("do") == "forget"
	switch {
	case forget && r.PostFormValue("confirm") != server:
		p.revokePage(w, r, http.StatusBadRequest, "Nichts getan: Zum Vergessen den Namen der Box genau eintippen.", "Nothing was done: to forget the box type its name exactly.")
		return
	case !forget && (reason == "" || r.PostFormValue("sure") == ""):
		p.revokePage(w, r, http.StatusBadRequest, "Nichts getan: Bitte einen Grund nennen und bestätigen.", "Nothing was done: please name a reason and confirm.")
		return
	}
	if err := p.Revoke(r.Context(), server, reason, forget); err != nil {
		p.failed(w, r, err)
		return
	}
	p.Log.Info("box turned away on the pages", "box", server, "forget", forget, "from", r.RemoteAddr)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// paired is what the page for pairing shows.
type paired struct {
	Code      Code
	Addresses []string
	With      string // the box
}

func (p *Pages) pairPage(w http.ResponseWriter, r *http.Request, status int, data paired, bad error) {
	s, err := p.State(r.Context())
	if err != nil {
		p.failed(w, r, err)
		return
	}
	data.Addresses = s.Hub.Addresses
	v := p.view(r, "Koppeln", "Pair", data)
	if bad != nil {
		v.Bad = p.sentence(bad).In(string(v.Lang))
	}
	p.render(w, status, "pair.html", v)
}

func (p *Pages) pair(w http.ResponseWriter, r *http.Request) {
	if r.PostFormValue("do") == "show" {
		code, err := p.Show()
		p.pairPage(w, r, http.StatusOK, paired{Code: code}, err)
		return
	}
	b, err := p.Take(r.Context(), r.PostFormValue("code"), r.PostFormValue("address"))
	status := http.StatusOK
	if err != nil {
		status = http.StatusBadRequest
	}
	p.pairPage(w, r, status, paired{With: b.Server}, err)
}
