// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

	"hallig/appliance/account"
	"hallig/appliance/clock"
	"hallig/appliance/event"
	"hallig/appliance/health"
	"hallig/appliance/steward"
	"hallig/appliance/store"
)

const (
	boss     = event.UserID("@chefin:box.test")
	helper   = event.UserID("@helfer:box.test")
	password = "korrektes Pferd"
)

// fakeInit answers as the steward does, and notes what it was asked for.
type fakeInit struct {
	mu    sync.Mutex
	asked []string
	state steward.State
	got   chan []byte // the first part of an upload, before its end
	fails *steward.Text
	early *steward.Text // an update is refused without being read
}

func (f *fakeInit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	line := r.Method + " " + r.URL.RequestURI()
	if f.early != nil && r.URL.Path == "/update" {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, encode(steward.Answer{Error: *f.early}))
		return
	}
	if r.URL.Path == "/update" && r.URL.RawQuery == "" {
		first := make([]byte, 4)
		io.ReadFull(r.Body, first)
		f.got <- first
	}
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Method != http.MethodGet {
		f.asked = append(f.asked, line+" "+string(body))
	}
	switch {
	case f.fails != nil && r.Method != http.MethodGet:
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintf(w, `{"error":{"de":%q,"en":%q}}`, f.fails.De, f.fails.En)
	case r.URL.Path == "/state":
		fmt.Fprint(w, encode(f.state))
	case r.URL.Path == "/log" && r.URL.Query().Get("process") == "":
		fmt.Fprint(w, "hallig\nhallig-lan\n")
	case r.URL.Path == "/log":
		fmt.Fprint(w, "first <b>line</b> of "+r.URL.Query().Get("process")+"\n")
	default:
		w.WriteHeader(http.StatusAccepted)
	}
}

func (f *fakeInit) told() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// site is the pages over a real database, in front of a browser.
type site struct {
	*Pages
	t    *testing.T
	url  string
	http *http.Client
	init *fakeInit
}

func newSite(t *testing.T, change func(*PageOptions)) *site {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	accounts := account.New(db, "box.test", account.Options{Cost: account.Cost{MemoryKiB: 8, Passes: 1}})
	for _, name := range []string{"chefin", "helfer"} {
		if _, err := accounts.Register(t.Context(), account.RegisterRequest{Username: name, Password: password}); err != nil {
			t.Fatal(err)
		}
	}
	if err := accounts.SetAdmin(t.Context(), boss, true); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, init: &fakeInit{got: make(chan []byte, 1), state: fullState()}}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(s.init)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	tree := health.Judge(health.Facts{Up: time.Hour, Database: &health.Probe{Err: "secret detail"}, Disk: &health.DiskFacts{Free: 1, Size: 9, Reserve: 2},
		Network: &health.NetworkFacts{}, Servers: []health.ServerFacts{{Name: "secret.example", Away: time.Hour}}, Clock: &health.ClockFacts{Trusted: true}})
	o := PageOptions{
		Options: options(t), ServerName: "box.test", Accounts: accounts, Steward: steward.Dial(socket),
		Next:       http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "next ", r.URL.Path) }),
		Recent:     func(context.Context) health.Tree { return tree },
		Clock:      func() Clock { return Clock{Quality: "untrusted", Time: time.Unix(1.8e9, 0)} },
		Deactivate: accounts.Deactivate, AllowLogin: func(string) time.Duration { return 0 },
		SecureURL: func(host string) string { return "https://" + host },
		PhoneURL:  func() string { return "http://192.168.7.1" }, Now: time.Now,
		Backup: BackupPart{
			State: func(context.Context) (BackupState, error) {
				return BackupState{Wanted: true, To: "Stick", Every: 24 * time.Hour, Recipients: []string{"age1abc"}, Last: time.Now().Add(-3 * time.Hour), LastFile: "x.age", LastBytes: 5e6}, nil
			},
			Start: func(context.Context) error { return &Refusal{"no stick is there"} },
		},
	}
	errands := make(chan func(context.Context))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case f := <-errands:
				f(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() { stop(); <-ended })
	o.Errand = func(f func(context.Context)) bool {
		select {
		case errands <- f:
			return true
		case <-time.After(time.Second): // the loop has just begun, or is at work
			return false
		}
	}
	o.SigningRequest = func(context.Context) (string, error) { return "REQUEST", nil }
	o.InstallCertificate = func(_ context.Context, pem string) (Certificate, error) {
		return Certificate{}, &Refusal{"this is no certificate: " + pem}
	}
	o.UpdateOffers = func(context.Context) ([]UpdateOffer, error) {
		return []UpdateOffer{{Box: "box2.test", Version: "1.4.0"}}, nil
	}
	o.UpdateFrom = func(_ context.Context, box string) (UpdateOffer, error) {
		return UpdateOffer{}, &Refusal{box + " is gone"}
	}
	o.Status = func(context.Context) (Status, error) {
		return Status{ServerName: "box.test", Certificate: &Certificate{Source: "own", Issuer: "Hallig box.test", Fingerprint: "AB:CD", Names: []string{"box.test", "hallig.local"}}, Started: time.Now(), Clock: Clock{Quality: "untrusted", Time: time.Unix(1.8e9, 0)},
			Peers:     []Peer{{ID: "12D3", ServerName: "box2.test", Carrier: "serial:radio0", Links: []Link{{Transport: "serial:radio0", BitsPerSecond: 1200}}}, {ID: "12D4", ServerName: "box3.test"}},
			Servers:   []Server{{Name: "matrix.test", Queued: 3, Trouble: "out of reach"}},
			Addresses: []string{"/ip4/1.2.3.4/tcp/4001"}, NotTaken: map[string]int64{"malformed": 2}}, nil
	}
	if change != nil {
		change(&o)
	}
	s.Pages = NewPages(o)
	web := httptest.NewServer(s.Pages)
	t.Cleanup(web.Close)
	s.url = web.URL
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.http = &http.Client{Jar: jar}
	return s
}

func fullState() steward.State {
	return steward.State{
		Version: "1.2.0", Slot: "a", Trouble: []steward.Text{{De: "Die Platte.", En: "The disk."}},
		Machine: steward.Machine{Board: "amd64", Model: "Model <x>", Kernel: "7.1"},
		Update:  steward.Update{State: steward.UpdateWritten, Version: "1.3.0", Back: "1.1.0"},
		Sticks: []steward.Stick{{Name: "sda1", Label: "EINSATZ", Path: "/run/hallig/sticks/sda1", Size: 8e9, Free: 7e9,
			Updates: []steward.Bundle{{Path: "/run/hallig/sticks/sda1/a.hallig-update", Version: "1.3.0", Newer: true}, {Path: "/b", Version: "1.0.0"}, {Path: "/c", Error: steward.Text{De: "Unterschrift falsch.", En: "Bad signature."}}}}},
		Serial:    []steward.Port{{Name: "ftdi-1", Device: "/dev/hallig/ftdi-1", Chip: "FTDI FT232R", Driver: "ftdi_sio", Known: true}, {Chip: "Prolific PL2303", USB: "067b:2303", Note: steward.Text{De: "Anderen Adapter nehmen.", En: "Use another adapter."}}},
		Provision: steward.Provision{File: "hallig.json", Error: steward.Text{De: "Zeile 3 ist falsch.", En: "Line 3 is wrong."}},
		Processes: []steward.Process{{Name: "hallig", RSS: 40e6, Restarts: 1, Last: "exit status 1"}},
	}
}

// get gives status, body and where the browser ended up.
func (s *site) get(path string) (int, string, string) {
	s.t.Helper()
	resp, err := s.http.Get(s.url + path)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.read(resp)
}

func (s *site) read(resp *http.Response) (int, string, string) {
	s.t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, styles.ReplaceAllString(string(body), ""), resp.Request.URL.RequestURI()
}

var styles = regexp.MustCompile(`(?s)<style>.*</style>\n`)

func (s *site) post(path string, form ...string) (int, string, string) {
	s.t.Helper()
	v := url.Values{}
	for i := 0; i+1 < len(form); i += 2 {
		v.Set(form[i], form[i+1])
	}
	resp, err := s.http.PostForm(s.url+path, v)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.read(resp)
}

func (s *site) signIn() (csrf string) {
	s.t.Helper()
	status, body, at := s.post("/admin/login", "user", "chefin", "password", password)
	if status != 200 || at != "/admin/" {
		s.t.Fatalf("signing in: %d at %s\n%s", status, at, body)
	}
	return tokenIn(s.t, body)
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

func tokenIn(t *testing.T, body string) string {
	t.Helper()
	m := csrfField.FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("the page has no token:\n%s", body)
	}
	return m[1]
}

// adminPaths are all pages and forms of administrators.
var adminPages = []string{"/admin/", "/admin/users", "/admin/boxes", "/admin/clock", "/admin/backup", "/admin/certificate", "/admin/certificate/request", "/admin/update", "/admin/update?offers=1", "/admin/device", "/admin/log", "/admin/users/sheet?token=x"}
var adminForms = []string{"/admin/users", "/admin/users/token", "/admin/users/token/drop", "/admin/boxes", "/admin/clock", "/admin/backup", "/admin/certificate", "/admin/update", "/admin/update/file", "/admin/device", "/admin/logout"}

// TestPublic: anybody may see how the box does, and nothing more; it costs the box nothing.
func TestPublic(t *testing.T) {
	s := newSite(t, func(o *PageOptions) {
		o.Status = func(context.Context) (Status, error) { t.Error("a stranger has the box count"); return Status{}, nil }
	})
	status, body, _ := s.get("/status")
	if status != 200 || !strings.Contains(body, "Der Speicher ist voll") || !strings.Contains(body, "Daher kommt auch") {
		t.Errorf("%d\n%s", status, body)
	}
	_, asJSON, _ := s.get("/status.json")
	for _, page := range []string{body, asJSON} {
		for _, secret := range []string{"secret", "12D3", "box2.test", "1.2.3.4", "chefin", "1.2.0"} {
			if strings.Contains(page, secret) {
				t.Errorf("anybody is told %s:\n%s", secret, page)
			}
		}
	}
	if _, body, _ := s.get("/status?lang=en"); !strings.Contains(body, "The disk is full") || !strings.Contains(body, `lang="en"`) {
		t.Errorf("not in English:\n%s", body)
	}
	if _, body, _ := s.get("/status"); !strings.Contains(body, "The disk is full") {
		t.Error("the browser's choice of language is forgotten")
	}
	if _, body, _ := s.get("/_matrix/client/versions"); body != "next /_matrix/client/versions" {
		t.Errorf("other paths: %s", body)
	}
	if status, body, _ := s.get("/source"); status != 404 || !strings.Contains(body, "does not carry its source") {
		t.Errorf("source: %d %s", status, body)
	}
	if status, _, _ := s.get("/metrics"); status != 404 {
		t.Errorf("metrics are open: %d", status)
	}
}

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

func TestWords(t *testing.T) {
	de, en := view{Lang: "de"}, view{Lang: "en"}
	for d, want := range map[time.Duration][2]string{
		time.Second: {"eben", "just now"}, 90 * time.Second: {"vor einer Minute", "a minute ago"}, 5 * time.Minute: {"vor 5 Minuten", "5 minutes ago"},
		time.Hour: {"vor einer Stunde", "an hour ago"}, 47 * time.Hour: {"vor 47 Stunden", "47 hours ago"}, 50 * time.Hour: {"vor 2 Tagen", "2 days ago"},
	} {
		if got := [2]string{de.Since(d), en.Since(d)}; got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := de.Bytes(13.04e9) + en.Bytes(13.04e9) + de.Bytes(41e6) + de.Bytes(999); got != "13,0 GB13.0 GB41 MB999 B" {
		t.Errorf("sizes: %s", got)
	}
	c := Clock{Source: "box b2.test", HeardAgo: "1m30s", Trusted: true}
	if got := de.ClockSource(c) + "|" + en.ClockSource(Clock{Source: "the operator", HeardAgo: "2s"}); got != "Box b2.test, vor einer Minute|the operator" {
		t.Errorf("sources: %s", got)
	}
	for q := range clock.Satellite + 1 {
		if got := de.ClockQuality(Clock{Quality: q.String()}); got == q.String() {
			t.Errorf("%q has no German words", got)
		}
	}
	if got := de.Join([]string{"box7.test", "hallig.local", "hallig-2.local", "hallig-mzwvei.local"}); got != "box7.test, hallig.local, hallig-mzwvei.local" {
		t.Errorf("names: %s", got)
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

// TestSessionsEnd: by idling, by age, by signing out, and with the rights of the account.
func TestSessionsEnd(t *testing.T) {
	var s sessions
	now := time.Unix(0, 0)
	token := s.begin(boss, now)
	for range 24 { // a click every 29 minutes
		now = now.Add(29 * time.Minute)
		if _, ok := s.find(token, now); !ok {
			t.Fatalf("ended after %v", now.Sub(time.Unix(0, 0)))
		}
	}
	if _, ok := s.find(token, now.Add(29*time.Minute)); ok {
		t.Error("a session lives longer than twelve hours")
	}
	token = s.begin(boss, now)
	if _, ok := s.find(token, now.Add(31*time.Minute)); ok {
		t.Error("an idle session lives")
	}
	first := s.begin(boss, now)
	for i := range maxSessions {
		s.begin(boss, now.Add(time.Duration(i+1)*time.Second))
	}
	if _, ok := s.find(first, now); ok || len(s.open) != maxSessions {
		t.Errorf("%d sessions, the oldest lives: %v", len(s.open), ok)
	}

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

func TestPeople(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	status, body, at := s.post("/admin/users/token", "csrf", csrf, "uses", "20", "days", "7")
	tokens, err := s.Accounts.RegistrationTokens(t.Context())
	if err != nil || len(tokens) != 1 || tokens[0].Uses != 20 || tokens[0].Admin || tokens[0].Expires.Before(time.Now().Add(6*24*time.Hour)) {
		t.Fatalf("tokens %+v, %v", tokens, err)
	}
	if status != 200 || !strings.HasPrefix(at, "/admin/users/sheet") || !strings.Contains(body, tokens[0].Token) || !strings.Contains(body, "<svg") || !strings.Contains(body, "http://192.168.7.1") {
		t.Errorf("the sheet: %d at %s\n%s", status, at, body)
	}
	if _, body, _ := s.post("/admin/users/token", "csrf", csrf, "uses", "0"); !strings.Contains(body, "zwischen 1 und 1000") {
		t.Errorf("0 uses were taken:\n%s", body)
	}
	s.post("/admin/users/token/drop", "csrf", csrf, "token", tokens[0].Token)
	if status, _, _ := s.get("/admin/users/sheet?token=" + tokens[0].Token); status != 404 {
		t.Errorf("the sheet of a code that was taken back: %d", status)
	}
	_, body, _ = s.post("/admin/users", "csrf", csrf, "user", string(helper), "do", "password")
	m := regexp.MustCompile(`<code class="code">([^<]+)</code>`).FindStringSubmatch(body)
	if m == nil || s.Accounts.VerifyPassword(t.Context(), helper, m[1]) != nil || len(m[1]) != 24 {
		t.Fatalf("no new password that works: %v\n%s", m, body)
	}
	if _, body, _ := s.get("/admin/users"); strings.Contains(body, m[1]) {
		t.Error("the password is shown again")
	}
	for _, tt := range []struct {
		user      event.UserID
		do, sure  string
		want      string
		admin, ok bool // of the account afterwards; ok: it is there
	}{
		{helper, "admin", "", "Geändert", true, true},
		{helper, "unadmin", "", "Geändert", false, true},
		{helper, "logout", "", "abgemeldet", false, true},
		{helper, "end", "", "Häkchen", false, true},
		{boss, "unadmin", "", "nur jemand anderes", true, true},
		{boss, "end", "1", "nur jemand anderes", true, true},
		{helper, "nonsense", "", "nicht", false, true},
		{"@x:box.test", "end", "1", "gibt es nicht", false, false},
		{helper, "end", "1", "beendet", false, false},
	} {
		_, body, _ := s.post("/admin/users", "csrf", csrf, "user", string(tt.user), "do", tt.do, "sure", tt.sure)
		u, err := s.Accounts.User(t.Context(), tt.user)
		if !strings.Contains(body, tt.want) || u.Admin != tt.admin || (err == nil && !u.Deactivated) != tt.ok {
			t.Errorf("%s %s: %+v %v, want %q\n%s", tt.do, tt.user, u, err, tt.want, body)
		}
	}
}

// TestUpload streams a file to the steward while the browser still sends it.
func TestUpload(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	send := func(token string, first bool, rest <-chan struct{}) (int, string, string) {
		in, out := io.Pipe()
		form := multipart.NewWriter(out)
		go func() {
			if first {
				form.WriteField("csrf", token)
			}
			part, _ := form.CreateFormFile("file", "x.hallig-update")
			io.WriteString(part, "HALL")
			if rest != nil {
				<-rest
			}
			io.WriteString(part, "IG")
			form.Close()
			out.Close()
		}()
		resp, err := s.http.Post(s.url+"/admin/update/file", form.FormDataContentType(), in)
		if err != nil {
			t.Fatal(err)
		}
		in.Close()
		return s.read(resp)
	}
	if status, _, _ := send("wrong", true, nil); status != 403 {
		t.Errorf("a wrong token: %d", status)
	}
	if status, _, _ := send("", false, nil); status != 403 {
		t.Errorf("no token: %d", status)
	}
	rest := make(chan struct{})
	go func() {
		if first := <-s.init.got; string(first) != "HALL" {
			t.Errorf("the steward got %q", first)
		}
		close(rest) // only now the browser sends the end
	}()
	if _, _, at := send(csrf, true, rest); at != "/admin/update" {
		t.Errorf("led to %s", at)
	}
	s.init.fails = &steward.Text{De: "Die Unterschrift stimmt nicht.", En: "The signature is wrong."}
	go func() { <-s.init.got }()
	if _, body, _ := send(csrf, true, nil); !strings.Contains(body, "Die Unterschrift stimmt nicht.") {
		t.Errorf("a refusal is not shown:\n%s", body)
	}
	if got, want := strings.Join(s.init.told(), "; "), "POST /update IG; POST /update IG"; got != want {
		t.Errorf("the steward was told %q, want %q", got, want)
	}
}

// TestEarlyRefusal: a big file that is refused at its first bytes; the browser sends it all and still reads why.
func TestEarlyRefusal(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	s.init.early = &steward.Text{De: "Dieses Update ist nicht neuer.", En: "This update is not newer."}
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	form.WriteField("csrf", csrf)
	part, err := form.CreateFormFile("file", "x.hallig-update")
	if err != nil {
		t.Fatal(err)
	}
	part.Write(make([]byte, 16<<20))
	form.Close()
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host) // a client that reads only when it has sent everything
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cookies := s.http.Jar.Cookies(u)
	fmt.Fprintf(conn, "POST /admin/update/file HTTP/1.1\r\nHost: x\r\nCookie: %s=%s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", cookies[0].Name, cookies[0].Value, form.FormDataContentType(), b.Len())
	if _, err := b.WriteTo(conn); err != nil {
		t.Fatalf("sending was cut off: %v", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), "Dieses Update ist nicht neuer.") {
		t.Errorf("%v %s", err, body)
	}
	resp.Body.Close()
}

func TestDevice(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	for _, tt := range []struct {
		path      string
		form      []string
		says, ask string
	}{
		{"/admin/device", []string{"do", "eject", "stick", "sda1"}, "abgezogen", "POST /stick/sda1/eject "},
		{"/admin/device", []string{"do", "reset", "confirm", "box"}, "nichts gelöscht", ""},
		{"/admin/device", []string{"do", "reset", "confirm", " box.test "}, "wird gelöscht", `POST /factory-reset {"confirm":"box.test"}`},
		{"/admin/device", []string{"do", "reboot"}, "startet neu", "POST /reboot "},
		{"/admin/device", []string{"do", "poweroff"}, "schaltet sich aus", "POST /poweroff "},
		{"/admin/device", []string{"do", "dance"}, "nicht", ""},
		{"/admin/update", []string{"do", "start"}, "auf Probe", "POST /update/start "},
		{"/admin/update", []string{"do", "back"}, "Häkchen", ""},
		{"/admin/update", []string{"do", "back", "sure", "1"}, "vorigen System", "POST /update/back "},
		{"/admin/update", []string{"do", "stick", "path", "/x y"}, "1.3.0", "POST /update?path=%2Fx+y "},
		{"/admin/update", []string{"do", "box", "box", "box2.test"}, "box2.test is gone", ""},
		{"/admin/certificate", []string{"pem", "nonsense"}, "this is no certificate: nonsense", ""},
	} {
		before := len(s.init.told())
		_, body, _ := s.post(tt.path, append(tt.form, "csrf", csrf)...)
		asked := strings.Join(s.init.told()[before:], "; ")
		if !strings.Contains(body, tt.says) || asked != tt.ask {
			t.Errorf("%v: the steward was asked %q, want %q; the page shall say %q\n%s", tt.form, asked, tt.ask, tt.says, body)
		}
	}
	if _, body, _ := s.get("/admin/log?process=hallig-lan"); !strings.Contains(body, "&lt;b&gt;line&lt;/b&gt; of hallig-lan") {
		t.Errorf("log:\n%s", body)
	}
	if _, body, _ := s.get("/admin/log?process=../hallig&download=1"); body != "first <b>line</b> of hallig\n" {
		t.Errorf("log as a file: %q", body)
	}
	if _, body, _ := s.post("/admin/backup", "csrf", csrf); !strings.Contains(body, "no stick is there") {
		t.Errorf("backup:\n%s", body)
	}
}

// TestWithoutImage: a box that is a program on somebody's machine has no pages about the machine.
func TestWithoutImage(t *testing.T) {
	s := newSite(t, func(o *PageOptions) { o.Steward = nil; o.Backup = BackupPart{} })
	s.signIn()
	_, body, _ := s.get("/admin/")
	for _, path := range []string{"/admin/update", "/admin/device", "/admin/log", "/admin/backup"} {
		if status, _, _ := s.get(path); status != 404 || strings.Contains(body, `"`+path+`"`) {
			t.Errorf("%s is there: %d", path, status)
		}
	}
	if status, body, _ := s.get("/admin/clock"); status != 200 || !strings.Contains(body, "zu frühe Zeit") {
		t.Errorf("clock: %d\n%s", status, body)
	}
}

func TestClockForm(t *testing.T) {
	var set time.Time
	s := newSite(t, func(o *PageOptions) {
		o.SetClock = func(_ context.Context, at time.Time) error {
			if at.Year() < 2026 {
				return &Refusal{"that is before this program was made"}
			}
			set = at
			return nil
		}
	})
	csrf := s.signIn()
	s.post("/admin/clock", "csrf", csrf, "date", "2026-11-26", "time", "14:05", "zone", "+01:00")
	if want := time.Date(2026, 11, 26, 13, 5, 0, 0, time.UTC); !set.Equal(want) {
		t.Errorf("set to %v, want %v", set, want)
	}
	for _, date := range []string{"1970-01-01", "morgen"} {
		_, body, _ := s.post("/admin/clock", "csrf", csrf, "date", date, "time", "14:05", "zone", "+01:00")
		if !strings.Contains(body, `role="alert"`) {
			t.Errorf("%s was taken:\n%s", date, body)
		}
	}
	for day, want := range map[string]bool{"2026-03-29T00:59:59Z": false, "2026-03-29T01:00:00Z": true, "2026-07-01T00:00:00Z": true, "2026-10-25T00:59:59Z": true, "2026-10-25T01:00:00Z": false, "2028-03-26T01:00:00Z": true} {
		at, err := time.Parse(time.RFC3339, day)
		if err != nil || centralEuropeanSummer(at) != want {
			t.Errorf("%s: summer %v, want %v", day, !want, want)
		}
	}
}

// TestAccessible: every page in both languages is whole, has one heading, a language, a viewport, and a label for each field; buttons have a text.
func TestAccessible(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	s.post("/admin/users/token", "csrf", csrf, "uses", "20")
	tokens, err := s.Accounts.RegistrationTokens(t.Context())
	if err != nil || len(tokens) == 0 {
		t.Fatal(err)
	}
	paths := append(slices.Clone(adminPages), "/status", "/admin/login", "/source", "/admin/users/sheet?token="+tokens[0].Token)
	bodies := map[string]string{}
	paths = slices.DeleteFunc(paths, func(path string) bool { return path == "/admin/certificate/request" })
	for _, lang := range []string{"de", "en"} {
		for _, path := range paths {
			sep := "?"
			if strings.Contains(path, "?") {
				sep = "&"
			}
			_, body, _ := s.get(path + sep + "lang=" + lang)
			bodies[path+" "+lang] = body
			checkPage(t, path+" "+lang, lang, body)
		}
	}
	for _, state := range []string{steward.UpdateWriting, steward.UpdateTrial, steward.UpdateDone, steward.UpdateFailed, steward.UpdateNone} {
		s.init.mu.Lock()
		s.init.state.Update.State = state
		s.init.mu.Unlock()
		_, body, _ := s.get("/admin/update")
		checkPage(t, "update "+state, "en", body)
	}
	for _, path := range paths {
		if path != "/admin/log" && bodies[path+" de"] == bodies[path+" en"] {
			t.Errorf("%s is the same in both languages", path)
		}
	}
}

func checkPage(t *testing.T, name, lang, body string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if strings.Contains(body, "no value") || strings.Contains(body, "%!") || strings.Contains(body, "<script") || !strings.HasSuffix(body, "</html>\n") {
		t.Errorf("%s is broken:\n%s", name, body)
	}
	labels, fields, headings := map[string]bool{}, map[string]bool{}, 0
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		a := map[string]string{}
		for _, at := range n.Attr {
			a[at.Key] = at.Val
		}
		switch n.Data {
		case "html":
			if a["lang"] != lang {
				t.Errorf("%s: lang %q", name, a["lang"])
			}
		case "h1":
			headings++
		case "label":
			labels[a["for"]] = true
		case "input", "select", "textarea":
			if a["type"] == "hidden" || n.Parent.Data == "label" {
				continue
			}
			fields[a["id"]] = true
		case "button":
			if n.FirstChild == nil && a["aria-label"] == "" {
				t.Errorf("%s: a button without a text", name)
			}
		case "form":
			if a["method"] == "post" && a["action"] != "/admin/login" && !strings.Contains(inner(n), `name="csrf"`) {
				t.Errorf("%s: a form without a token: %s", name, a["action"])
			}
		}
	}
	if headings != 1 {
		t.Errorf("%s: %d headings of the first rank", name, headings)
	}
	for id := range fields {
		if id == "" || !labels[id] {
			t.Errorf("%s: the field %q has no label", name, id)
		}
	}
}

func inner(n *html.Node) string {
	var b strings.Builder
	if err := html.Render(&b, n); err != nil {
		return err.Error()
	}
	return b.String()
}

// TestErrands: what takes long goes on behind its page, one at a time, and how it ended is told once.
func TestErrands(t *testing.T) {
	release := make(chan error)
	s := newSite(t, func(o *PageOptions) {
		o.Backup.Start = func(context.Context) error { return <-release }
	})
	csrf := s.signIn()
	if _, body, _ := s.post("/admin/backup", "csrf", csrf); !strings.Contains(body, "Eine Sicherung läuft") || !strings.Contains(body, `http-equiv="refresh"`) {
		t.Errorf("a backup that takes long:\n%s", body)
	}
	if _, body, _ := s.post("/admin/update", "csrf", csrf, "do", "stick", "path", "/x"); !strings.Contains(body, "mit etwas anderem beschäftigt") {
		t.Errorf("two at a time:\n%s", body)
	}
	release <- steward.Text{De: "Der Stick ist voll.", En: "The stick is full."}
	for range 100 {
		_, body, _ := s.get("/admin/backup")
		if strings.Contains(body, "Der Stick ist voll.") {
			if _, body, _ := s.get("/admin/backup"); strings.Contains(body, "Der Stick ist voll.") || strings.Contains(body, "läuft") {
				t.Errorf("told twice:\n%s", body)
			}
			return
		}
	}
	t.Error("that the backup failed is not told")
}

// TestTrouble: what goes wrong inside is told in the log, not to the browser.
func TestTrouble(t *testing.T) {
	s := newSite(t, func(o *PageOptions) {
		o.Forget = func(context.Context, string) error { return errors.New("disk on fire") }
		o.Log = slog.New(slog.DiscardHandler)
	})
	csrf := s.signIn()
	_, body, _ := s.post("/admin/boxes", "csrf", csrf, "do", "forget", "box", "12D3")
	if strings.Contains(body, "fire") || !strings.Contains(body, "im Protokoll steht") {
		t.Errorf("got\n%s", body)
	}
	if _, body, _ := s.post("/admin/boxes", "csrf", csrf, "do", "take", "code", "9"); !strings.Contains(body, "this code is wrong") {
		t.Errorf("a wrong code:\n%s", body)
	}
	if _, body, _ := s.post("/admin/boxes", "csrf", csrf, "do", "show"); !strings.Contains(body, `<code class="code">1234</code>`) {
		t.Errorf("no code:\n%s", body)
	}
}

func encode(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(raw)
}
