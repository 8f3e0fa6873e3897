// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/cert"
	"hallig/appliance/lan"
	"hallig/appliance/provision"
	"hallig/tools/testacme"
)

// ask makes one request as a browser that reaches the box at addr under a name; roots nil: plain HTTP.
func askAs(t *testing.T, addr net.Addr, host, path string, roots *x509.CertPool) (status int, head http.Header, body string) {
	t.Helper()
	client := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", addr.String())
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	scheme := "http"
	if roots != nil {
		scheme = "https"
	}
	resp, err := client.Get(scheme + "://" + host + path)
	if err != nil {
		t.Fatalf("%s://%s%s: %v", scheme, host, path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(raw)
}

// TestClientPorts is a phone that meets a box of the image: it is led to the portal, takes the box's authority from the page, and from then on speaks TLS
// under every name.
func TestClientPorts(t *testing.T) {
	run := t.TempDir()
	if err := os.Mkdir(filepath.Join(run, "box"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := startWith(t, Config{
		Data: t.TempDir(), ServerName: "box7.feuerwehr.example", P2P: P2PConfig{Off: true}, Run: run, Listen: "127.0.0.1:0", TLSListen: "127.0.0.1:0",
	})
	plain, secure := b.clientListener.Addr(), b.tlsListener.Addr()

	status, head, _ := askAs(t, plain, "captive.apple.com", "/hotspot-detect.html", nil)
	if want := "http://" + plain.String() + "/"; status != 302 || head.Get("Location") != want {
		t.Errorf("probe: %d to %q, want %q", status, head.Get("Location"), want)
	}
	if _, _, body := askAs(t, plain, "hallig.local", "/", nil); !strings.Contains(body, "box7.feuerwehr.example") || !strings.Contains(body, "/vertrauen") {
		t.Error("the portal does not say who it is, or how to trust it")
	}
	_, _, text := askAs(t, plain, "hallig.local", "/hallig.pem", nil)
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no certificate: %q", text)
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if fp := b.Screen().Fingerprint; fp == "" || !strings.Contains(pageOf(t, plain), fp[:23]) {
		t.Errorf("the fingerprint on the screen, %q, is not the one of the page", fp)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for _, host := range []string{"hallig.local", "hallig-3.local", "hallig.home.arpa", "box7.feuerwehr.example"} {
		status, head, body := askAs(t, secure, host, "/_matrix/client/versions", roots)
		if status != 200 || !strings.Contains(body, "versions") || head.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s over TLS: %d %v", host, status, head)
		}
	}

	// Whoever comes by plain HTTP is answered plainly, and told its own base URL; so is whoever comes over TLS.
	for _, tc := range []struct {
		addr  net.Addr
		roots *x509.CertPool
		want  string
	}{{plain, nil, "http://hallig.local"}, {secure, roots, "https://hallig.local"}} {
		status, head, body := askAs(t, tc.addr, "hallig.local", "/.well-known/matrix/client", tc.roots)
		if status != 200 || !strings.Contains(body, `"`+tc.want+`"`) || head.Get("Strict-Transport-Security") != "" {
			t.Errorf("well-known: %d %s, want %s", status, body, tc.want)
		}
	}
	if status, _, _ := askAs(t, plain, "anything.example", "/_matrix/client/versions", nil); status != 200 {
		t.Errorf("an API call under another name: %d, want an answer and no redirect", status)
	}

	raw, err := os.ReadFile(filepath.Join(run, "box", "names.json"))
	if err != nil {
		t.Fatal(err)
	}
	names, err := lan.ParseNames(raw)
	if err != nil || !slices.Contains(names.Names, "hallig.local") || !slices.Contains(names.Names, "box7.feuerwehr.example") || names.Portal != "" {
		t.Errorf("names.json %s: %v", raw, err)
	}
	var s struct {
		Certificate struct {
			Source, Fingerprint string
			Names               []string
		}
	}
	if err := Ask(t.Context(), b.cfg.Data, "GET", "/status", nil, &s); err != nil || s.Certificate.Source != "own" || s.Certificate.Fingerprint != b.Screen().Fingerprint {
		t.Errorf("status: %+v, %v", s, err)
	}
}

func pageOf(t *testing.T, plain net.Addr) string {
	t.Helper()
	_, _, body := askAs(t, plain, "hallig.local", "/trust", nil)
	return body
}

// TestNoTLSByDefault: a box that is a program on somebody's machine opens no second port and makes no authority.
func TestNoTLSByDefault(t *testing.T) {
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "alone.test", P2P: P2PConfig{Off: true}})
	if b.tlsListener != nil || b.certs != nil {
		t.Error("a TLS port that nobody asked for")
	}
	if _, err := os.Stat(filepath.Join(b.cfg.Data, "tls")); err == nil {
		t.Error("an authority that nobody asked for")
	}
	if status, _, _ := askAs(t, b.clientListener.Addr(), "example.com", "/", nil); status != 200 {
		t.Errorf("the start page under another name: %d", status)
	}
}

// TestFederationShares: the federation port shows the certificate of the clients' port when it has none of its own, and is refused when there is neither.
func TestFederationShares(t *testing.T) {
	none := Config{Federation: ":8448"}
	if err := none.whole(); err == nil || !strings.Contains(err.Error(), "tls_listen") {
		t.Errorf("federation without any certificate: %v", err)
	}
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "box7.feuerwehr.example", P2P: P2PConfig{Off: true}, TLSListen: "127.0.0.1:0", Federation: "127.0.0.1:0"})
	roots := x509.NewCertPool()
	roots.AddCert(b.certs.Authority())
	if status, _, body := askAs(t, b.fedListener.Addr(), "box7.feuerwehr.example", "/_matrix/key/v2/server", roots); status != 200 || !strings.Contains(body, "verify_keys") {
		t.Errorf("key document over the federation port: %d %s", status, body)
	}
}

func TestClientAddrs(t *testing.T) {
	for _, tc := range []struct {
		cfg           Config
		plain, secure string
	}{
		{Config{}, "127.0.0.1:8008", ""},
		{Config{Run: "/run/hallig"}, ":80", ":443"},
		{Config{Run: "/run/hallig", TLSListen: "off", Listen: ":8008"}, ":8008", ""},
		{Config{TLSListen: ":8443"}, "127.0.0.1:8008", ":8443"},
	} {
		if plain, secure := tc.cfg.clientAddrs(); plain != tc.plain || secure != tc.secure {
			t.Errorf("%+v: %s, %s", tc, plain, secure)
		}
	}
}

// TestCertificateFromOutside: a box with a name in the public DNS asks a real authority by itself, and shows local names its own certificate all the same.
func TestCertificateFromOutside(t *testing.T) {
	zone := testacme.NewZone(t)
	ca := testacme.Start(t, zone, false)
	cfg := Config{
		Data: t.TempDir(), ServerName: "box7.feuerwehr.example", P2P: P2PConfig{Off: true}, TLSListen: "127.0.0.1:0", Clock: "system",
		Certificate: provision.Certificate{ACME: provision.ACME{
			Directory: ca.Directory, CA: ca.CA, Provider: "rfc2136", Settings: map[string]string{"server": zone.Addr, "key": testacme.KeyName, "secret": testacme.Secret},
		}},
	}
	b := startWith(t, cfg)
	deadline := time.Now().Add(inTime)
	for b.certs.State().Source != cert.Outside && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond) // another process does the work
	}
	s := b.certs.State()
	if s.Source != cert.Outside || !slices.Equal(s.Names, []string{"box7.feuerwehr.example"}) || !strings.Contains(s.Issuer, "Pebble") {
		t.Fatalf("%+v", s)
	}
	if f := b.certificateFacts(); f.Public || f.Err != "" || f.Left < 80*24*time.Hour {
		t.Errorf("facts %+v", f)
	}
	roots := x509.NewCertPool()
	roots.AddCert(b.certs.Authority())
	const english = "Other devices take the address below and trust the box as shown here. Issued by"
	if status, _, body := askAs(t, b.tlsListener.Addr(), "hallig.local", "/trust", roots); status != 200 || !strings.Contains(body, english+" "+s.Issuer) {
		t.Errorf("local name: %d", status)
	}

	// The next start has it at once, and asks nobody.
	b.end()
	cfg.Certificate.ACME.Directory = "https://" + testacme.FreeAddr(t) + "/dir"
	b = startWith(t, cfg)
	if s := b.certs.State(); s.Source != cert.Outside || b.certs.Due() {
		t.Errorf("after a restart: %+v", s)
	}
}

// TestACMEThatFails: the box says why, goes on, and does not ask again at once, not even after a restart.
func TestACMEThatFails(t *testing.T) {
	zone := testacme.NewZone(t)
	ca := testacme.Start(t, zone, false)
	cfg := Config{
		Data: t.TempDir(), ServerName: "box7.feuerwehr.example", P2P: P2PConfig{Off: true}, TLSListen: "127.0.0.1:0", Clock: "system",
		Certificate: provision.Certificate{ACME: provision.ACME{
			Directory: ca.Directory, CA: ca.CA, Provider: "rfc2136", Settings: map[string]string{"server": zone.Addr, "key": testacme.KeyName, "secret": "d3Jvbmc="},
		}},
	}
	b := startWith(t, cfg)
	deadline := time.Now().Add(inTime)
	for b.certs.State().Trouble == "" && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond) // another process does the work
	}
	if s := b.certs.State(); s.Source != cert.Own || !strings.Contains(s.Trouble, "another secret") {
		t.Errorf("%+v", s)
	}
	b.end()
	b = startWith(t, cfg)
	if next, now := b.nextRenewal(), b.clock.Now(); next.Before(now.Add(renewalGap/2)) || next.After(now.Add(2*renewalGap)) {
		t.Errorf("asks again at %v, now is %v", next, now)
	}
}

// TestInstallThroughTheDoor is hallig cert csr and hallig cert install.
func TestInstallThroughTheDoor(t *testing.T) {
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "box7.feuerwehr.example", P2P: P2PConfig{Off: true}, TLSListen: "127.0.0.1:0"})
	var request struct{ PEM string }
	if err := Ask(t.Context(), b.cfg.Data, "POST", "/cert/request", struct{}{}, &request); err != nil || !strings.Contains(request.PEM, "CERTIFICATE REQUEST") {
		t.Fatalf("%+v, %v", request, err)
	}
	err := Ask(t.Context(), b.cfg.Data, "POST", "/cert/install", map[string]string{"PEM": request.PEM}, nil)
	if err == nil || !strings.Contains(err.Error(), "neither a certificate nor a key") {
		t.Errorf("a request instead of an answer: %v", err)
	}
	plain := startWith(t, Config{Data: t.TempDir(), ServerName: "plain.example", P2P: P2PConfig{Off: true}})
	if err := Ask(t.Context(), plain.cfg.Data, "POST", "/cert/request", struct{}{}, nil); err == nil || !strings.Contains(err.Error(), "--tls-listen") {
		t.Errorf("without TLS: %v", err)
	}
}
