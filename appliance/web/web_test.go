// SPDX-License-Identifier: EUPL-1.2

package web

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"encoding/xml"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPages(t *testing.T) {
	ca := testCA(t, `Hallig <box> & "7"`)
	own := &Trust{CA: ca, Names: []string{"box.example"}}
	outside := &Trust{CA: ca, Names: []string{"box.example"}, Outside: true, Public: true}
	town := &Trust{CA: ca, Names: []string{"box.example"}, Outside: true, Issuer: "Stadt CA 1"}
	lapsed := &Trust{CA: ca, Names: []string{"box.example"}, Lapsed: time.Date(2027, 3, 9, 12, 0, 0, 0, time.UTC)}
	for _, tc := range []struct {
		name, url, accept string
		site              Site
		want, not         string
	}{
		{"German by default", "http://box.local:8008/", "", Site{}, "Nachrichtenserver", ""},
		{"first known language", "http://box.local:8008/", "fr, de-AT;q=0.5, en;q=0.4", Site{}, "Nachrichtenserver", ""},
		{"English", "http://box.local:8008/", "en-GB,en;q=0.9,de;q=0.1", Site{}, "message server", ""},
		{"chosen language", "http://box.local:8008/?lang=en", "de", Site{}, "message server", ""},
		{"address as asked", "http://box.local:8008/", "en", Site{}, "<code>http://box.local:8008</code>", ""},
		{"server name", "http://box.local:8008/", "en", Site{}, "<b>box.example</b>", ""},
		{"name for an address", "http://192.168.7.1/", "en", Site{LocalName: "hallig.local"}, "<code>http://hallig.local</code>", ""},
		{"address beside the name", "http://192.168.7.1/", "en", Site{LocalName: "hallig.local"}, "<b>http://192.168.7.1</b>", ""},
		{"address of the outside certificate", "http://192.168.7.1/", "en", Site{Trust: give(outside)}, "<code>https://box.example</code>", ""},
		{"configured address", "http://192.168.7.1/", "en", Site{BaseURL: "https://chat.example"}, "<code>https://chat.example</code>", ""},
		{"plain", "http://box.local/", "en", Site{Trust: give(own)}, english.Plain, english.SafeOwn},
		{"own certificate", "https://box.local/", "en", Site{Trust: give(own)}, english.SafeOwn, english.Plain},
		{"own certificate for a local name", "https://box.local/", "en", Site{Trust: give(outside)}, english.SafeOwn, english.SafeOutside},
		{"outside certificate", "https://box.example/", "en", Site{Trust: give(outside)}, english.SafeOutside, english.SafeOwn},
		{"organisation's certificate", "https://box.example/", "de", Site{Trust: give(town)}, german.SafeOrganisation + " Stadt CA 1.", german.SafeOwn},
		{"organisation's certificate, address", "http://192.168.7.1/", "en", Site{LocalName: "hallig.local", Trust: give(town)}, "<code>http://hallig.local</code>", ""},
		{"organisation's certificate, trust", "http://192.168.7.1/trust", "en", Site{LocalName: "hallig.local", Trust: give(town)}, `href="https://hallig.local"`, english.NowOutside},
		{"lapsed certificate", "https://box.local/", "de", Site{Trust: give(lapsed)}, german.Lapses + " 9.3.2027", ""},
		{"no link without TLS", "http://box.local/", "de", Site{}, "Nachrichtenserver", "/vertrauen"},
		{"status", "http://box.local/", "de", Site{Status: func(bool) (string, bool) { return "Alles gut.", true }, StatusPath: "/status"}, "Alles gut.", ""},
		{"stay", "http://box.local/", "de", Site{Portal: true}, `action="/weiter"`, german.Stayed},
		{"stays", "http://box.local/?bleibt", "de", Site{Portal: true}, german.Stayed, `action="/weiter"`},

		{"trust in German by its path", "http://box.local/vertrauen", "en", Site{Trust: give(own)}, "Zertifikatsvertrauenseinstellungen", ""},
		{"trust in English by its path", "http://box.local/trust", "de", Site{Trust: give(own)}, "Certificate Trust Settings", ""},
		{"name escaped", "http://box.local/trust", "de", Site{Trust: give(own)}, "Hallig &lt;box&gt; &amp; &#34;7&#34;", "<box>"},
		{"nothing to do", "http://box.local/trust", "de", Site{Trust: give(outside)}, english.NowOutside, english.NowPlain},
		{"no TLS", "http://box.local/trust", "de", Site{}, english.NoTLS, "hallig.crt"},
	} {
		tc.site.ServerName = "box.example"
		r := httptest.NewRequest("GET", tc.url, nil)
		if r.TLS != nil {
			r.TLS.ServerName = r.Host
		}
		r.Header.Set("Accept-Language", tc.accept)
		w := httptest.NewRecorder()
		Handler(tc.site).ServeHTTP(w, r)
		body := unescape(w.Body.String())
		if w.Code != http.StatusOK || !strings.Contains(body, unescape(tc.want)) || tc.not != "" && strings.Contains(w.Body.String(), tc.not) {
			t.Errorf("%s: status %d, wants %q and not %q", tc.name, w.Code, tc.want, tc.not)
		}
		wellFormed(t, tc.name, w.Body.String())
		if strings.Contains(body, "<script") || strings.Contains(body, "src=") {
			t.Errorf("%s: the page asks for more than itself", tc.name)
		}
	}
}

// unescape evens out how html/template writes apostrophes.
func unescape(s string) string { return strings.ReplaceAll(s, "&#39;", "'") }

func give(t *Trust) func() *Trust { return func() *Trust { return t } }

// wellFormed reads the page as XML, in which every drawing must be right; HTML's own freedoms are granted.
func wellFormed(t *testing.T, name, page string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(strings.Replace(page, "<!doctype html>", "", 1)))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	for {
		_, err := d.Token()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
	}
}

func TestPagesRefuse(t *testing.T) {
	h := Handler(Site{ServerName: "box.example"})
	for _, tc := range []struct {
		method, path string
		want         int
	}{{"GET", "/secret", 404}, {"POST", "/secret", 404}, {"POST", "/", 405}, {"DELETE", "/trust", 405}, {"GET", "/hallig.crt", 404}, {"GET", "/hallig.mobileconfig", 404}, {"HEAD", "/", 200}} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tc.method, "http://x"+tc.path, nil))
		if w.Code != tc.want {
			t.Errorf("%s %s: got %d, want %d", tc.method, tc.path, w.Code, tc.want)
		}
		if w.Header().Get("Strict-Transport-Security") != "" || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s %s: wrong headers %v", tc.method, tc.path, w.Header())
		}
	}
}

func TestPageEscapesHost(t *testing.T) {
	r := httptest.NewRequest("GET", "http://x/", nil)
	r.Host = `"><script>alert(1)</script>`
	w := httptest.NewRecorder()
	Handler(Site{}).ServeHTTP(w, r)
	if strings.Contains(w.Body.String(), "<script>") {
		t.Error("the page carries a script from the Host header")
	}
}

func TestDownloads(t *testing.T) {
	ca := testCA(t, `Hallig <box> & "7"`)
	h := Handler(Site{ServerName: `box.example`, Trust: give(&Trust{CA: ca})})
	get := func(path, typ string) []byte {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "http://box.local"+path, nil))
		if w.Code != 200 || w.Header().Get("Content-Type") != typ {
			t.Fatalf("%s: %d %s", path, w.Code, w.Header().Get("Content-Type"))
		}
		return w.Body.Bytes()
	}
	if got := get("/hallig.crt", "application/x-x509-ca-cert"); !bytes.Equal(got, ca.Raw) {
		t.Error("hallig.crt is another certificate")
	}
	if block, _ := pem.Decode(get("/hallig.pem", "application/x-pem-file")); block == nil || !bytes.Equal(block.Bytes, ca.Raw) {
		t.Error("hallig.pem is another certificate")
	}
	raw := get("/hallig.mobileconfig", "application/x-apple-aspen-config")
	var p struct {
		Dict struct {
			Strings []string `xml:"string"`
			Array   struct {
				Dict struct {
					Strings []string `xml:"string"`
					Data    string   `xml:"data"`
				} `xml:"dict"`
			} `xml:"array"`
		} `xml:"dict"`
	}
	if err := xml.Unmarshal(raw, &p); err != nil {
		t.Fatalf("profile: %v\n%s", err, raw)
	}
	der, err := base64.StdEncoding.DecodeString(p.Dict.Array.Dict.Data)
	if err != nil || !bytes.Equal(der, ca.Raw) {
		t.Errorf("the profile holds another certificate (%v)", err)
	}
	if got := p.Dict.Strings; got[0] != "Configuration" || got[3] != ca.Subject.CommonName {
		t.Errorf("outer payload %q", got)
	}
	if got := p.Dict.Array.Dict.Strings; got[0] != "com.apple.security.root" || got[2] == p.Dict.Strings[2] {
		t.Errorf("inner payload %q", got)
	}
}

func testCA(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		PermittedDNSDomains: []string{"box.example", "hallig.local"}, NotAfter: time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPortal(t *testing.T) {
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	var since time.Duration
	h := Portal(PortalOptions{Ours: func(h string) bool { return h == "hallig.local" || h == "192.168.7.1" }, Since: func() time.Duration { return since }}, next)
	ask := func(method, url, client string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, url, nil)
		r.RemoteAddr = client + ":4711"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	const phone, other = "192.168.7.20", "192.168.7.21"
	for _, tc := range []struct {
		method, url string
		want        int
	}{
		{"GET", "http://hallig.local/", 418},
		{"GET", "http://192.168.7.1/vertrauen", 418},
		{"GET", "http://captive.apple.com/hotspot-detect.html", 302},
		{"GET", "http://connectivitycheck.gstatic.com/generate_204", 302},
		{"GET", "http://www.msftconnecttest.com/connecttest.txt", 302},
		{"GET", "http://detectportal.firefox.com/success.txt", 302},
		{"GET", "http://example.com/whatever", 302},
		{"POST", "http://example.com/form", 302},
		{"GET", "http://example.com/_matrix/client/versions", 418}, // an API call is never led astray
		{"OPTIONS", "http://example.com/_matrix/client/v3/login", 418},
		{"GET", "http://box.example/.well-known/matrix/client", 418},
	} {
		w := ask(tc.method, tc.url, phone)
		if w.Code != tc.want {
			t.Errorf("%s %s: got %d, want %d", tc.method, tc.url, w.Code, tc.want)
		}
		if w.Code == 302 && (w.Header().Get("Location") != "http://hallig.local/" || w.Header().Get("Cache-Control") != "no-store") {
			t.Errorf("%s %s: %v", tc.method, tc.url, w.Header())
		}
	}

	if w := ask("POST", "http://hallig.local/weiter", phone); w.Code != 303 || w.Header().Get("Location") != "/?bleibt" {
		t.Fatalf("stay: %d %v", w.Code, w.Header())
	}
	probes := []struct {
		url, body string
		code      int
	}{
		{"http://captive.apple.com/hotspot-detect.html", "<BODY>Success</BODY>", 200},
		{"http://connectivitycheck.gstatic.com/generate_204", "", 204},
		{"http://www.msftconnecttest.com/connecttest.txt", "Microsoft Connect Test", 200},
		{"http://detectportal.firefox.com/success.txt", "success\n", 200},
		{"http://nmcheck.gnome.org/check_network_status.txt", "NetworkManager is online\n", 200},
		{"http://networkcheck.kde.org/", "OK\n", 200},
		{"http://connectivity-check.ubuntu.com/", "", 204},
	}
	for _, tc := range probes {
		if w := ask("GET", tc.url, phone); w.Code != tc.code || !strings.Contains(w.Body.String(), tc.body) {
			t.Errorf("%s after staying: %d %q", tc.url, w.Code, w.Body)
		}
		if w := ask("GET", tc.url, other); w.Code != 302 {
			t.Errorf("%s by somebody who does not stay: %d", tc.url, w.Code)
		}
	}
	if w := ask("GET", "http://example.com/", phone); w.Code != 302 {
		t.Errorf("a page of others after staying: %d", w.Code)
	}
	since = stayFor + time.Second
	if w := ask("GET", probes[0].url, phone); w.Code != 302 {
		t.Errorf("a day later: %d", w.Code)
	}
}

// TestPortalIsBounded: as many phones as want to may press the button.
func TestPortalIsBounded(t *testing.T) {
	var since time.Duration
	p := Portal(PortalOptions{Ours: func(string) bool { return true }, Since: func() time.Duration { return since }}, http.NotFoundHandler()).(*portal)
	for i := range 3 * maxStays {
		p.stay(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	if len(p.stays) != maxStays {
		t.Errorf("%d remembered, want %d", len(p.stays), maxStays)
	}
	since = 2 * stayFor
	p.stay(netip.AddrFrom4([4]byte{10, 9, 9, 9}))
	if len(p.stays) != 1 {
		t.Errorf("%d remembered after two days, want 1", len(p.stays))
	}
}

func TestCaptiveAPI(t *testing.T) {
	h := Portal(PortalOptions{Ours: func(string) bool { return true }}, http.NotFoundHandler())
	ask := func(url string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", url, nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	if w := ask("http://box.example/captive"); w.Code != 404 {
		t.Errorf("over plain HTTP: %d, want 404", w.Code)
	}
	w := ask("https://box.example/captive")
	if w.Header().Get("Content-Type") != "application/captive+json" || !strings.Contains(w.Body.String(), `"captive":true`) || !strings.Contains(w.Body.String(), `"user-portal-url":"https://box.example/"`) {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
	r := httptest.NewRequest("POST", "https://box.example/weiter", nil)
	r.TLS = &tls.ConnectionState{}
	h.ServeHTTP(httptest.NewRecorder(), r)
	if w := ask("https://box.example/captive"); !strings.Contains(w.Body.String(), `"captive":false`) {
		t.Errorf("after staying: %s", w.Body)
	}
}

// TestSignUp fills in the form without any script.
func TestSignUp(t *testing.T) {
	var asked []string
	h := Handler(Site{ServerName: "box.example", LocalName: "hallig.local", Trust: give(&Trust{CA: testCA(t, "Hallig box.example")}),
		SignUp: func(_ *http.Request, name, password, token string) (string, string) {
			asked = append(asked, name+" "+password+" "+token)
			switch {
			case name == "taken":
				return "", "M_USER_IN_USE"
			case token != "UAN4":
				return "", "M_FORBIDDEN"
			}
			return "@" + name + ":box.example", ""
		},
		Invite: func(_ *http.Request, user string) string {
			return map[string]string{"@chief:box.example": "N3XT"}[user]
		}})
	post := func(url, form string) (int, string) {
		r := httptest.NewRequest("POST", url, strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		wellFormed(t, form, w.Body.String())
		return w.Code, unescape(w.Body.String())
	}
	for _, tc := range []struct {
		url, form string
		status    int
		want      string
	}{
		{"http://hallig.local/konto", "name=anna&password=a+b+c+d+e&again=a+b+c+d+e&code=UAN4", 200, "<b>@anna:box.example</b>"},
		{"http://hallig.local/account", "name=chief&password=a+b+c+d+e&again=a+b+c+d+e&code=UAN4", 200, "<code>N3XT</code>"}, // and a code for the next person
		{"http://hallig.local/account", "name=taken&password=xxxxxxxx&again=xxxxxxxx&code=UAN4", 400, english.ProblemTaken},
		{"http://hallig.local/konto", "name=bert&password=xxxxxxxx&again=xxxxxxxx&code=WRONG", 400, german.ProblemToken},
		{"http://hallig.local/konto", "name=bert&password=x&again=y&code=UAN4", 400, german.ProblemDiffer},
		{"http://hallig.local/konto", "name=bert&password=abc&again=abc&code=UAN4", 400, german.ProblemShort},
		{"http://hallig.local/account", "name=bert&password=%C3%A4%C3%B6%C3%BC1234&again=%C3%A4%C3%B6%C3%BC1234&code=UAN4", 400, english.ProblemShort}, // seven characters, ten bytes
		{"http://hallig.local/konto", "name=bert&password=&again=&code=UAN4", 400, german.ProblemNoPassword},
		{"http://hallig.local/konto?password=x&again=x", "name=bert&code=UAN4", 400, german.ProblemNoPassword}, // not out of the address, which is logged
		{"http://hallig.local/konto", "name=" + strings.Repeat("x", 2*maxForm), 400, german.ProblemNoPassword},
	} {
		status, body := post(tc.url, tc.form)
		if status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s %.40s: %d, want %d and %q", tc.url, tc.form, status, tc.status, tc.want)
		}
		if strings.Contains(body, "N3XT") && !strings.Contains(tc.form, "name=chief") {
			t.Errorf("%.40s: a code for others", tc.form)
		}
		if strings.Contains(body, "a b c d e") || strings.Contains(body, `value="abc"`) || strings.Contains(body, `value="xxxxxxxx"`) {
			t.Errorf("%.40s: the page gives a password back", tc.form)
		}
	}
	if want := []string{"anna a b c d e UAN4", "chief a b c d e UAN4", "taken xxxxxxxx UAN4", "bert xxxxxxxx WRONG"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}

	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://hallig.local/konto?code=K7%22M", nil))
	for _, want := range []string{`value="K7&#34;M"`, german.SaferHere, `href="https://hallig.local/konto"`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the empty form lacks %q", want)
		}
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "https://hallig.local/konto", nil))
	if strings.Contains(w.Body.String(), german.SaferHere) {
		t.Error("over TLS the form warns of the network")
	}
	w = httptest.NewRecorder()
	Handler(Site{}).ServeHTTP(w, httptest.NewRequest("GET", "http://hallig.local/konto", nil))
	if w.Code != 404 {
		t.Errorf("without sign-up: %d", w.Code)
	}
	for code, want := range map[string]string{"": "", "M_EXCLUSIVE": english.ProblemTaken, "M_INVALID_USERNAME": english.ProblemName, "M_MISSING_PARAM": english.ProblemMissing,
		"M_WEAK_PASSWORD": english.ProblemLong, "M_LIMIT_EXCEEDED": english.ProblemOften, "M_UNKNOWN": english.ProblemBox, "M_RESOURCE_LIMIT_EXCEEDED": english.ProblemBox} {
		if got := english.problem(code); got != want {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
	}
}

// TestBothLanguages: every text is there in both, or in none.
func TestBothLanguages(t *testing.T) {
	de, en := reflect.ValueOf(german), reflect.ValueOf(english)
	for i := range de.NumField() {
		if name := de.Type().Field(i).Name; name != "German" && (de.Field(i).String() == "" || en.Field(i).String() == "") {
			t.Errorf("%s: %q, %q", name, de.Field(i), en.Field(i))
		}
	}
	a, b := inGerman("x"), inEnglish("x")
	for i := range a {
		if a[i].ID != b[i].ID || len(a[i].Steps) != len(b[i].Steps) || a[i].File != b[i].File {
			t.Errorf("system %s: other steps in the other language", a[i].ID)
		}
	}
}
