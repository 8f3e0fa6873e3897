// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"hallig/appliance/policy"
	"hallig/appliance/update"
	"hallig/sync/hub/shelf"
)

// site is the pages of a hub with made-up boxes, behind a real server.
type site struct {
	*testing.T
	url    string
	http   *http.Client
	key    *Key
	shelf  *shelf.Shelf
	policy *Policy
	boxes  []Box
	did    []string
	fail   error
}

func newSite(t *testing.T) *site {
	t.Helper()
	key, err := OpenKey(filepath.Join(t.TempDir(), "page.token"))
	if err != nil {
		t.Fatal(err)
	}
	odd := well()
	odd.Server, odd.Said.Sentence, odd.Connected = `x"><script>alert(1)</script>`, "</dd><b>", false
	bad := well()
	bad.Server, bad.Full = "box2.test", 0.97
	bad.Waiting = []Queue{{Server: "central.test", Count: 3, Bytes: 5000, Oldest: now.Add(-50 * time.Hour)}}
	bad.Letters = []Queue{{Server: "far.test", Count: 7, Bytes: 1, Oldest: now.Add(-time.Hour)}}
	laid, err := shelf.Open(filepath.Join(t.TempDir(), "updates"), "", func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	s := &site{T: t, key: key, shelf: laid, boxes: []Box{well(), bad, odd}}
	p := New(Options{
		Server: "hub.test", Key: key, Shelf: laid, Now: func() time.Time { return now },
		State: func(context.Context) (State, error) {
			st := State{Hub: Hub{Server: "hub.test", Addresses: []string{"/ip4/192.0.2.1/tcp/4001"}}, Boxes: slices.Clone(s.boxes), Updates: laid.Files(), Policy: s.policy}
			Judge(&st, now)
			return st, s.fail
		},
		SetPolicy: func(r io.Reader) (*Policy, error) {
			raw, err := io.ReadAll(r)
			s.did = append(s.did, "policy "+string(raw))
			return s.policy, err
		},
		Show: func() (Code, error) { return Code{Code: "1-ABC", Expires: now.Add(time.Minute)}, nil },
		Take: func(_ context.Context, code, address string) (Box, error) {
			s.did = append(s.did, "take "+code+" "+address)
			return Box{Server: "box9.test"}, s.fail
		},
		Revoke: func(_ context.Context, box, reason string, forget bool) error {
			s.did = append(s.did, strings.Join([]string{"revoke", box, reason, map[bool]string{true: "forget"}[forget]}, " "))
			return s.fail
		},
	})
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.url, s.http = server.URL, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return s
}

// ask gives status, body and where it leads.
func (s *site) ask(r *http.Request) (int, string, string) {
	s.Helper()
	resp, err := s.http.Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'; style-src 'self';") || strings.Contains(csp, "script") {
		s.Errorf("%s: policy %q", r.URL, csp)
	}
	if strings.Contains(resp.Header.Get("Content-Type"), "html") {
		if _, err := html.Parse(strings.NewReader(string(raw))); err != nil {
			s.Error(err)
		}
		if strings.Contains(string(raw), "<script") || strings.Contains(string(raw), "ZgotmplZ") {
			s.Errorf("%s: %s", r.URL, raw)
		}
	}
	return resp.StatusCode, string(raw), resp.Header.Get("Location")
}

func (s *site) request(method, path string, body string) *http.Request {
	s.Helper()
	r, err := http.NewRequestWithContext(s.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	return r
}

func (s *site) get(path, lang string) (int, string, string) {
	s.Helper()
	r := s.request("GET", path, "")
	r.Header.Set("Accept-Language", lang)
	return s.ask(r)
}

func (s *site) post(path string, pairs ...string) (int, string, string) {
	s.Helper()
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	r := s.request("POST", path, v.Encode())
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return s.ask(r)
}

// signIn gives the token of the forms.
func (s *site) signIn() string {
	s.Helper()
	token, err := s.key.New()
	if err != nil {
		s.Fatal(err)
	}
	if status, body, at := s.post("/login", "token", " "+token+"\n"); status != 303 || at != "/" {
		s.Fatalf("login: %d %s %s", status, at, body)
	}
	_, body, _ := s.get("/pair", "en")
	found := regexp.MustCompile(`name="csrf" value="([^"]+)"`).FindStringSubmatch(body)
	if found == nil {
		s.Fatalf("no token in the forms: %s", body)
	}
	return found[1]
}

// Nobody sees or does anything without the hub's token.
func TestWhoGetsIn(t *testing.T) {
	s := newSite(t)
	for _, path := range []string{"/", "/box/box1.test", "/box/box1.test/revoke", "/pair", "/updates", "/policy"} {
		if status, body, at := s.get(path, "de"); status != 303 || at != "/login" || strings.Contains(body, "box1") {
			t.Errorf("%s: %d %s %s", path, status, at, body)
		}
	}
	for _, path := range []string{"/box/box1.test/revoke", "/pair", "/updates", "/logout"} {
		if status, _, at := s.post(path, "reason", "x", "sure", "1"); status != 303 || at != "/login" {
			t.Errorf("%s: %d %s", path, status, at)
		}
	}
	if _, body, _ := s.get("/login", "de"); !strings.Contains(body, "noch kein Token") {
		t.Errorf("before there is a token: %s", body)
	}
	for _, token := range []string{"", "falsch"} {
		if status, body, _ := s.post("/login", "token", token); status != 403 || !strings.Contains(body, "nicht das Token") {
			t.Errorf("%q before there is a token: %d %s", token, status, body)
		}
	}
	old, err := s.key.New()
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.key.New()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(s.key.file)
	if err != nil || strings.Contains(string(raw), token) {
		t.Errorf("the file holds the token itself, or nothing: %q %v", raw, err)
	}
	again, err := OpenKey(s.key.file)
	if err != nil || !again.Opens(token) || again.Opens(old) || again.Opens("") {
		t.Errorf("after a restart: %v", err)
	}
	if status, _, _ := s.post("/login", "token", old); status != 403 {
		t.Errorf("the token before: %d", status)
	}
	r := s.request("POST", "/login", "token="+token)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	if status, _, _ := s.ask(r); status != 403 {
		t.Errorf("a login from another site: %d", status)
	}
	// Behind a proxy that speaks TLS the cookie says so.
	r = httptest.NewRequest("POST", "/login", strings.NewReader("token="+token))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-Forwarded-Proto", "https")
	w := httptest.NewRecorder()
	New(Options{Server: "hub.test", Key: s.key, Now: time.Now}).ServeHTTP(w, r)
	if c := w.Header().Get("Set-Cookie"); !strings.HasPrefix(c, "__Host-hallig=") || !strings.Contains(c, "; HttpOnly; Secure; SameSite=Strict") {
		t.Errorf("cookie %q", c)
	}
	if err := os.WriteFile(s.key.file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKey(s.key.file); err == nil {
		t.Error("a damaged file opens")
	}
}

// The pages say in both languages what is wrong and what waits, the worst first.
func TestPages(t *testing.T) {
	s := newSite(t)
	s.signIn()
	_, body, _ := s.get("/", "de")
	for _, want := range []string{"3 Boxen, 2 verbunden, 1 anzusehen", "Der Platz für sie im Hub ist zu 97 % belegt.", "3 herein, seit vor 2 Tagen", "7 hinaus", "x&#34;&gt;&lt;script&gt;"} {
		if !strings.Contains(body, want) {
			t.Errorf("not on the page: %s\n%s", want, body)
		}
	}
	if strings.Index(body, "box2.test") > strings.Index(body, "box1.test") {
		t.Error("the box with trouble is not the first")
	}
	if _, body, _ = s.get("/?name=BOX1", "de"); strings.Contains(body, "box2.test") || !strings.Contains(body, "box1.test") {
		t.Errorf("search: %s", body)
	}
	_, body, _ = s.get("/box/box2.test", "en-GB")
	for _, want := range []string{"Its room at the hub is 97 % full.", "Bring the box in contact", "central.test", "5 kB", "far.test", "sealed: the hub has no key", "connected"} {
		if !strings.Contains(body, want) {
			t.Errorf("not on the page: %s\n%s", want, body)
		}
	}
	if status, body, _ := s.get("/box/box7.test", "de"); status != 400 || !strings.Contains(body, "Hier ist keine Box, die box7.test heißt.") {
		t.Errorf("a box that is not here: %d %s", status, body)
	}
	if status, body, _ := s.get("/box/"+url.PathEscape(s.boxes[2].Server), "de"); status != 200 || !strings.Contains(body, "&lt;/dd&gt;") && strings.Contains(body, "</dd><b>") {
		t.Errorf("an odd name: %d %s", status, body)
	}
	for len(s.boxes) < shownAtOnce+5 {
		s.boxes = append(s.boxes, well())
	}
	if _, body, _ = s.get("/", "de"); strings.Count(body, "<tr>") != shownAtOnce+1 || !strings.Contains(body, "Alle zeigen") {
		t.Errorf("%d rows of many", strings.Count(body, "<tr>"))
	}
	if _, body, _ = s.get("/?all=1", "de"); strings.Count(body, "<tr>") != len(s.boxes)+1 {
		t.Errorf("%d rows of all", strings.Count(body, "<tr>"))
	}
	s.fail = errors.New("disk on fire at /secret")
	if status, body, _ := s.get("/", "en"); status != 500 || strings.Contains(body, "/secret") || !strings.Contains(body, "That did not work") {
		t.Errorf("when the spool cannot be read: %d %s", status, body)
	}
}

// Turning a box away needs the form's own token and a confirmation.
func TestForms(t *testing.T) {
	s := newSite(t)
	csrf := s.signIn()
	const path = "/box/box1.test/revoke"
	for _, tt := range [][]string{
		{"reason", "stolen", "sure", "1"}, {"csrf", "x" + csrf[1:], "reason", "stolen", "sure", "1"}, {"csrf", csrf, "reason", "stolen"}, {"csrf", csrf, "reason", " ", "sure", "1"},
		{"csrf", csrf, "do", "forget"}, {"csrf", csrf, "do", "forget", "confirm", "box2.test", "sure", "1"},
	} {
		if status, body, _ := s.post(path, tt...); status < 400 || !strings.Contains(body, "Nichts getan") && !strings.Contains(body, "Es wurde nichts getan") {
			t.Errorf("%q: %d %s", tt, status, body)
		}
	}
	r := s.request("POST", path, url.Values{"csrf": {csrf}, "reason": {"stolen"}, "sure": {"1"}}.Encode())
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", "https://evil.test")
	if status, _, _ := s.ask(r); status != 403 {
		t.Errorf("from another site: %d", status)
	}
	if len(s.did) != 0 {
		t.Fatalf("done: %q", s.did)
	}
	s.post(path, "csrf", csrf, "reason", "stolen", "sure", "1", "do", "revoke")
	s.post(path, "csrf", csrf, "do", "forget", "confirm", "box1.test")
	if _, body, _ := s.post("/pair", "csrf", csrf, "do", "show"); !strings.Contains(body, "1-ABC") || !strings.Contains(body, "/ip4/192.0.2.1/tcp/4001") {
		t.Errorf("code: %s", body)
	}
	if _, body, _ := s.post("/pair", "csrf", csrf, "do", "take", "code", "2-X", "address", "10.0.0.1:4001"); !strings.Contains(body, "box9.test") {
		t.Errorf("paired: %s", body)
	}
	if want := []string{"revoke box1.test stolen ", "revoke box1.test  forget", "take 2-X 10.0.0.1:4001"}; !slices.Equal(s.did, want) {
		t.Errorf("done %q, want %q", s.did, want)
	}
	if _, _, at := s.post("/logout", "csrf", csrf); at != "/login" {
		t.Error("signing out")
	}
	if status, _, _ := s.get("/", "de"); status != 303 {
		t.Error("signed out and in")
	}
}

// Scripts get in by the token alone, never by a cookie.
func TestAPI(t *testing.T) {
	s := newSite(t)
	s.signIn()
	token, err := s.key.New()
	if err != nil {
		t.Fatal(err)
	}
	call := func(method, path, auth, body string) (int, string) {
		t.Helper()
		r := s.request(method, path, body)
		if auth != "" {
			r.Header.Set("Authorization", auth)
		}
		status, out, _ := s.ask(r)
		return status, out
	}
	for _, auth := range []string{"", "Bearer ", "Bearer x" + token[1:], "Basic " + token, token} {
		for _, path := range []string{"/api/v1/boxes", "/api/v1/hub", "/api/v1/boxes/box1.test", "/api/v1/updates", "/api/v1/policy", "/api/"} {
			if status, out := call("GET", path, auth, ""); status != 401 || strings.Contains(out, "box1") {
				t.Errorf("%s with %q: %d %s", path, auth, status, out)
			}
		}
		if status, _ := call("POST", "/api/v1/boxes/box1.test/revoke", auth, `{"forget":true}`); status != 401 || len(s.did) > 0 {
			t.Errorf("revoke with %q: %d", auth, status)
		}
	}
	good := "Bearer " + token
	var list struct{ Boxes []Box }
	if status, out := call("GET", "/api/v1/boxes", good, ""); status != 200 || json.Unmarshal([]byte(out), &list) != nil || len(list.Boxes) != 3 || list.Boxes[0].Server != "box2.test" ||
		list.Boxes[0].Troubles[0].Kind != "full" || list.Boxes[0].Waiting[0].Count != 3 {
		t.Errorf("boxes: %d %s", status, out)
	}
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/api/v1/hub", "", 200, `"server":"hub.test"`}, {"GET", "/api/v1/boxes/box1.test", "", 200, `"server":"box1.test"`}, {"GET", "/api/v1/boxes/box7.test", "", 400, "No box is called"},
		{"GET", "/api/v1/nothing", "", 404, "no such route"}, {"POST", "/api/v1/boxes/box1.test/revoke", `{}`, 400, "either"}, {"POST", "/api/v1/boxes/box1.test/revoke", `{"reason":"x","forget":true}`, 400, "either"},
		{"POST", "/api/v1/boxes/box1.test/revoke", `{"raeson":"x"}`, 400, "raeson"}, {"POST", "/api/v1/boxes/box1.test/revoke", `{"reason":"stolen"}`, 200, `{}`}, {"POST", "/api/v1/pair", `{}`, 200, `"code":"1-ABC"`},
		{"POST", "/api/v1/pair", `{"code":"2-X","address":"a:1"}`, 200, "box9.test"}, {"POST", "/api/v1/pair", `[`, 400, "cannot be read"},
	} {
		if status, out := call(tt.method, tt.path, good, tt.body); status != tt.status || !strings.Contains(out, tt.want) {
			t.Errorf("%s %s %s: %d %s", tt.method, tt.path, tt.body, status, out)
		}
	}
	if want := []string{"revoke box1.test stolen ", "take 2-X a:1"}; !slices.Equal(s.did, want) {
		t.Errorf("done %q, want %q", s.did, want)
	}
}

// Updates are laid down by the API, rolled out and stopped on the page and by the API.
func TestUpdates(t *testing.T) {
	s := newSite(t)
	csrf := s.signIn()
	token, err := s.key.New()
	if err != nil {
		t.Fatal(err)
	}
	call := func(method, path, body string) (int, string) {
		t.Helper()
		r := s.request(method, "/api/v1/updates"+path, body)
		r.Header.Set("Authorization", "Bearer "+token)
		status, out, _ := s.ask(r)
		return status, out
	}
	var file bytes.Buffer
	if _, err := update.Write(&file, update.Manifest{Product: update.Product, Board: "amd64", Version: "1.3.0", Release: 9, De: "Besser <b>.", En: "Better."},
		[]update.Source{{File: update.RootPart, Data: strings.NewReader("root"), Size: 4}}, update.GenerateKey("Werkstatt")); err != nil {
		t.Fatal(err)
	}
	if status, out := call("POST", "", "kein Update"); status != 400 || !strings.Contains(out, "Das ist keine Update-Datei") {
		t.Errorf("%d %s", status, out)
	}
	if status, out := call("POST", "", file.String()); status != 200 || !strings.Contains(out, `"version":"1.3.0"`) {
		t.Fatalf("%d %s", status, out)
	}
	s.boxes[0].Said.Board, s.boxes[0].Said.Release = "amd64", 9
	s.boxes[1].Said.Board, s.boxes[1].Said.Release = "amd64", 8
	post := func(pairs ...string) (int, string) {
		t.Helper()
		status, body, _ := s.post("/updates", append([]string{"csrf", csrf, "board", "amd64", "version", "1.3.0"}, pairs...)...)
		return status, body
	}
	_, body, _ := s.get("/updates", "de")
	for _, want := range []string{"1.3.0 (amd64)", "Besser &lt;b&gt;.", "0 % der Boxen", "1 von 2", "weiß der Hub nicht"} {
		if !strings.Contains(body, want) {
			t.Errorf("not on the page: %s\n%s", want, body)
		}
	}
	for _, bad := range [][]string{{"do", "roll", "share", "x"}, {"do", "roll", "share", "101"}, {"do", "remove"}, {"do", "?"}, {"do", "stop", "version", "9"}} {
		if status, body := post(bad...); status != 400 || !strings.Contains(body, `role="alert"`) {
			t.Errorf("%q: %d %s", bad, status, body)
		}
	}
	if status, _ := post("do", "roll", "share", "20", "boxes", "box2.test, box3.test"); status != 303 {
		t.Error(status)
	}
	if f := s.shelf.Files()[0]; f.Share != 20 || !slices.Equal(f.Boxes, []string{"box2.test", "box3.test"}) {
		t.Errorf("%+v", f)
	}
	if status, _ := post("do", "stop"); status != 303 || s.shelf.Files()[0].Stopped == "" {
		t.Errorf("%d %+v", status, s.shelf.Files())
	}
	if _, body, _ = s.get("/updates", "en"); !strings.Contains(body, "Stopped") {
		t.Error("that it is stopped is not on the page")
	}
	for _, tt := range []struct {
		body   string
		status int
	}{{`{"share":50}`, 200}, {`{}`, 400}, {`{"share":50,"remove":true}`, 400}, {`{"sahre":50}`, 400}} {
		if status, out := call("POST", "/1.3.0", tt.body); status != tt.status {
			t.Errorf("%s: %d %s", tt.body, status, out)
		}
	}
	if f := s.shelf.Files()[0]; f.Share != 50 || f.Stopped != "" {
		t.Errorf("%+v", f)
	}
	if status, _ := post("do", "remove", "sure", "1"); status != 303 || len(s.shelf.Files()) != 0 {
		t.Errorf("%d %+v", status, s.shelf.Files())
	}
}

func TestPolicyPage(t *testing.T) {
	s := newSite(t)
	s.signIn()
	if _, body, _ := s.get("/policy", "de"); !strings.Contains(body, "Noch liegt keine hier.") {
		t.Errorf("%s", body)
	}
	limit, two, three := int64(5000), int64(2), int64(3)
	s.policy = &Policy{Serial: 3, Name: "Sommer <b>", Settings: policy.Settings{UploadLimitBytes: &limit}, SignedBy: "hallig-organisation-1 x"}
	s.boxes[0].Said.Policy, s.boxes[1].Said.Policy = &three, &two
	_, body, _ := s.get("/policy", "de")
	for _, want := range []string{"3, Sommer &lt;b&gt;", "1 von 2 Boxen", "&#34;upload_limit_bytes&#34;: 5000", "weiß der Hub nicht"} {
		if !strings.Contains(body, want) {
			t.Errorf("not on the page: %s\n%s", want, body)
		}
	}
	if _, body, _ = s.get("/box/box2.test", "en"); !strings.Contains(body, "number 2") {
		t.Errorf("%s", body)
	}
	token, err := s.key.New()
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]string{"GET": `{"policy":{"serial":3`, "POST": `{"serial":3`} {
		r := s.request(method, "/api/v1/policy", "signed")
		r.Header.Set("Authorization", "Bearer "+token)
		if status, out, _ := s.ask(r); status != 200 || !strings.HasPrefix(out, want) {
			t.Errorf("%s: %d %s", method, status, out)
		}
	}
	if !slices.Equal(s.did, []string{"policy signed"}) {
		t.Errorf("done %q", s.did)
	}
}

// A box that only another one reaches is shown with the way that leads to it.
func TestPagesThroughAnotherBox(t *testing.T) {
	s := newSite(t)
	s.boxes = []Box{well()}
	s.boxes[0].Connected, s.boxes[0].Way, s.boxes[0].Through = false, "radio:box7.test", "radio:box7.test"
	s.signIn()
	for _, path := range []string{"/", "/box/" + s.boxes[0].Server} {
		for lang, want := range map[string]string{"de": "über Funk durch box7.test", "en": "by radio through box7.test"} {
			if status, body, _ := s.get(path, lang); status != 200 || !strings.Contains(body, want) {
				t.Errorf("%s in %s: %d, without %q", path, lang, status, want)
			}
		}
	}
}
