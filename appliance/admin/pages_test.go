// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/health"
	"hallig/appliance/lan"
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
		Next:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "next ", r.URL.Path) }),
		Recent: func(context.Context) health.Tree { return tree },
		LAN: func() (lan.State, bool) {
			return lan.State{WiFi: lan.Text{De: "Kein WLAN.", En: "No Wi-Fi."}, Trouble: &lan.Text{De: "Zwei Server.", En: "Two servers."}, Interfaces: []lan.Interface{
				{Name: "eth0", Carrier: true, Mode: lan.Host, Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.7.1/24")}, Serving: &lan.Serving{Clients: 3, Capacity: 200}, Note: &lan.Text{De: "Hinweis.", En: "A note."}},
				{Name: "eth1", Mode: lan.Waiting}}}, true
		},
		Clock:      func() Clock { return Clock{Quality: "untrusted", Time: time.Unix(1.8e9, 0)} },
		Quiet:      func() time.Time { return time.Unix(1.8e9, 0) },
		Deactivate: accounts.Deactivate, AllowLogin: func(string) time.Duration { return 0 },
		SecureURL: func(host string) string { return "https://" + host },
		PhoneURL:  func() string { return "http://192.168.7.1" }, Now: time.Now,
		Backup: BackupPart{
			State: func(context.Context) (BackupState, error) {
				return BackupState{Wanted: true, To: "Stick", Every: 24 * time.Hour, Recipients: []string{"age1abc"}, Last: time.Now().Add(-3 * time.Hour), LastFile: "x.age", LastBytes: 5e6}, nil
			},
			Start: func(context.Context) error { return &Refusal{Text: "no stick is there"} },
		},
	}
	errands := make(chan func(context.Context))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var atWork atomic.Bool
	go func() {
		defer close(ended)
		for {
			select {
			case f := <-errands:
				atWork.Store(true)
				f(ctx)
				atWork.Store(false)
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() { stop(); <-ended })
	o.Errand = func(f func(context.Context)) bool {
		for {
			select {
			case errands <- f:
				return true
			case <-time.After(time.Second): // the loop has just begun, or has just done something, or is at work
				if atWork.Load() {
					return false
				}
			}
		}
	}
	o.SigningRequest = func(context.Context) (string, error) { return "REQUEST", nil }
	o.InstallCertificate = func(_ context.Context, pem string) (Certificate, error) {
		return Certificate{}, &Refusal{Text: "this is no certificate: " + pem}
	}
	o.UpdateOffers = func(context.Context) ([]UpdateOffer, error) {
		return []UpdateOffer{{Box: "box2.test", Version: "1.4.0"}}, nil
	}
	o.UpdateFrom = func(_ context.Context, box string) (UpdateOffer, error) {
		return UpdateOffer{}, &Refusal{Text: box + " is gone"}
	}
	o.Status = func(context.Context) (Status, error) {
		return Status{ServerName: "box.test", Certificate: &Certificate{Source: "own", Issuer: "Hallig box.test", Fingerprint: "AB:CD", Names: []string{"box.test", "hallig.local"}}, Started: time.Now(), Clock: Clock{Quality: "untrusted", Time: time.Unix(1.8e9, 0)},
			Peers:     []Peer{{ID: "12D3", ServerName: "box2.test", Carrier: "serial:radio0", Links: []Link{{Transport: "serial:radio0", BitsPerSecond: 1200}}}, {ID: "12D4", ServerName: "box3.test"}},
			Lines:     radioLines(),
			Servers:   []Server{{Name: "matrix.test", Queued: 312, Coming: 480, Rooms: []ServerRoom{{ID: "!a:b", Name: "Lage", Queued: 310, Coming: 471}, {ID: "!c:d", Queued: 2, Coming: 9}}, Trouble: "out of reach"}},
			Addresses: []string{"/ip4/1.2.3.4/tcp/4001"}, NotTaken: map[string]int64{"malformed": 2},
			Conflicts: map[string]int64{"rooms": 1, "messages": 25}}, nil
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
var adminPages = []string{"/admin/", "/admin/users", "/admin/boxes", "/admin/paper", "/admin/clock", "/admin/backup", "/admin/certificate", "/admin/certificate/request", "/admin/update", "/admin/update?offers=1", "/admin/device", "/admin/log", "/admin/users/sheet?token=x"}
var adminForms = []string{"/admin/users", "/admin/users/token", "/admin/users/token/drop", "/admin/boxes", "/admin/paper", "/admin/clock", "/admin/backup", "/admin/certificate", "/admin/update", "/admin/update/file", "/admin/device", "/admin/logout"}

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
	if !strings.Contains(body, "/admin/users/sheet?lang=en&amp;token="+tokens[0].Token) {
		t.Errorf("the other language leads elsewhere:\n%s", body)
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

// A homecoming is told room by room.
func TestHomecomingOnThePage(t *testing.T) {
	s := newSite(t, nil)
	s.signIn()
	_, body, _ := s.get("/admin/boxes?lang=en")
	for _, want := range []string{"matrix.test", ">312<", ">480<", "– Lage", ">310<", ">471<", "– !c:d", "to come, about"} {
		if !strings.Contains(body, want) {
			t.Errorf("how the homecoming gets on: %q is not on the page", want)
		}
	}
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

// TestPaper: a sheet is made and read in on its page.
func TestPaper(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	if _, body, _ := s.post("/admin/paper", "csrf", csrf, "do", "make", "box", "12D3", "room", "!r", "codes", "2"); !strings.Contains(body, "HALLIG:1/1:ABCD:r12D3") || !strings.Contains(body, "<svg") || !strings.Contains(body, "Drei.") {
		t.Errorf("no sheet:\n%s", body)
	}
	if _, body, _ := s.post("/admin/paper", "csrf", csrf, "do", "read", "text", "x"); !strings.Contains(body, "Das ist kein Blatt.") {
		t.Errorf("a text that is none:\n%s", body)
	}
}

func encode(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// TestNewestRefusal: an older refusal does not stand under the newest one.
func TestNewestRefusal(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	s.init.mu.Lock()
	s.init.state.Update.State, s.init.state.Update.Error = steward.UpdateFailed, steward.Text{De: "Die alte ist beschädigt.", En: "The old one is damaged."}
	s.init.fails = &steward.Text{De: "Die neue ist für ein anderes Gerät.", En: "The new one is for another board."}
	s.init.mu.Unlock()
	if _, body, _ := s.get("/admin/update?lang=de"); !strings.Contains(body, "Die alte ist beschädigt.") {
		t.Errorf("the refusal is not shown:\n%s", body)
	}
	_, body, _ := s.post("/admin/update?lang=de", "csrf", csrf, "do", "stick", "path", "/x")
	if !strings.Contains(body, "anderes Gerät") || strings.Contains(body, "Die alte") {
		t.Errorf("want the newest refusal only:\n%s", body)
	}
}

// What partitions have cost is shown to whoever runs the box, in words; what never happened is not.
func TestConflictCounts(t *testing.T) {
	s := newSite(t, nil)
	s.signIn()
	_, body, _ := s.get("/admin/")
	for _, want := range []string{"Was Trennungen gekostet haben", "<dt>Nachrichten von hier, die andere nicht zeigen</dt><dd>25</dd>"} {
		if !strings.Contains(body, want) {
			t.Errorf("not shown: %s\n%s", want, body)
		}
	}
	if strings.Contains(body, "mitkamen") {
		t.Error("what never happened is shown")
	}
}

// TestHubOfAnotherName: who has paired the hub under a name that the configuration does not have is told where to correct it.
func TestHubOfAnotherName(t *testing.T) {
	s := newSite(t, func(o *PageOptions) {
		o.Status = func(context.Context) (Status, error) {
			return Status{ServerName: "box.test", Hub: &Hub{ServerName: "hubb.test", Others: []string{"hub.test"}}}, nil
		}
		o.Take = func(context.Context, string, string) (Peer, error) {
			return Peer{ServerName: "hub.test", NotHub: "hubb.test"}, nil
		}
	})
	csrf := s.signIn()
	if _, body, _ := s.get("/admin/boxes?lang=de"); !strings.Contains(body, "Die Konfiguration nennt den Hub hubb.test, und der ist nicht gekoppelt; gekoppelt: hub.test.") {
		t.Error(body)
	}
	if _, body, _ := s.post("/admin/boxes?lang=en", "csrf", csrf, "do", "take", "code", "9"); !strings.Contains(body, "Paired with hub.test. The configuration names the hub hubb.test,") &&
		!strings.Contains(body, "Gekoppelt mit hub.test. Die Konfiguration nennt den Hub hubb.test,") {
		t.Error(body)
	}
	if got := (Peer{ServerName: "hub.test"}).OtherName(); !got.Empty() {
		t.Errorf("a hub of the right name: %+v", got)
	}
}

// What the hub may do in the box's name is on the page, whatever it is.
func TestHubModeOnThePage(t *testing.T) {
	for want, h := range map[string]Hub{
		"sealed: the hub has no key of this box": {Mode: "sealed"},
		"the hub declines it":                    {Mode: "delegate", ModeTrouble: "the hub declines it"},
		"delegate, but the hub holds no key yet": {Mode: "delegate"},
		"delegate: the hub holds a second key of this box and can sign in its name (ed25519:hub_a)": {Mode: "delegate", Key: "ed25519:hub_a"},
	} {
		h.ServerName, h.Paired = "hub.test", true
		s := newSite(t, func(o *PageOptions) {
			o.Status = func(context.Context) (Status, error) { return Status{ServerName: "box.test", Hub: &h}, nil }
		})
		s.signIn()
		if _, body, _ := s.get("/admin/boxes?lang=en"); !strings.Contains(body, want) {
			t.Errorf("%+v: %q is not on the page", h, want)
		}
	}
}
