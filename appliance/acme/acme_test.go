// SPDX-License-Identifier: EUPL-1.2

package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hallig/tools/testacme"
)

// authority starts one and gives a Config for it.
func authority(t *testing.T, z *testacme.Zone, binding bool, more ...string) Config {
	t.Helper()
	a := testacme.Start(t, z, binding)
	settings := map[string]string{"server": z.Addr, "key": strings.TrimSuffix(testacme.KeyName, "."), "secret": testacme.Secret}
	for i := 0; i < len(more); i += 2 {
		settings[more[i]] = more[i+1]
	}
	c, err := Parse(a.Directory, "box@feuerwehr.example", a.CA, "rfc2136", settings)
	if err != nil {
		t.Fatal(err)
	}
	c.Now, c.Log = time.Now, slog.New(slog.DiscardHandler)
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func request(t *testing.T, key *ecdsa.PrivateKey, names ...string) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// TestObtain asks a real authority, twice with one account, for two names, one of which is delegated by CNAME.
func TestObtain(t *testing.T) {
	z := testacme.NewZone(t)
	z.Lag = 2
	z.CNAME["_acme-challenge.chat.feuerwehr.example."] = "chat.acme.feuerwehr.example."
	c := authority(t, z, false)
	account := newKey(t)
	names := []string{"box7.feuerwehr.example", "chat.feuerwehr.example"}
	for round := range 2 {
		key := newKey(t)
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		chain, err := c.Obtain(ctx, account, names, request(t, key, names...))
		stop()
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if !chain[0].PublicKey.(*ecdsa.PublicKey).Equal(key.Public()) || len(chain) < 2 || chain[0].CheckSignatureFrom(chain[1]) != nil {
			t.Errorf("round %d: chain of %d, for %v", round, len(chain), chain[0].DNSNames)
		}
		for _, n := range names {
			if err := chain[0].VerifyHostname(n); err != nil {
				t.Error(err)
			}
		}
		if z.Left() != 0 {
			t.Errorf("round %d: %d proofs are left in the DNS", round, z.Left())
		}
	}
}

func TestObtainWithBinding(t *testing.T) {
	z := testacme.NewZone(t)
	c := authority(t, z, true)
	name := "box7.feuerwehr.example"
	if _, err := c.Obtain(t.Context(), newKey(t), []string{name}, request(t, newKey(t), name)); err == nil || !strings.Contains(err.Error(), "make an account") {
		t.Errorf("without binding: %v", err)
	}
	bound := authority(t, z, true, "eab_kid", testacme.EABKeyID, "eab_key", testacme.EABKey)
	if _, err := bound.Obtain(t.Context(), newKey(t), []string{name}, request(t, newKey(t), name)); err != nil {
		t.Error(err)
	}
}

// TestObtainFails: each failure says what is wrong, and leaves no proof behind.
func TestObtainFails(t *testing.T) {
	z := testacme.NewZone(t)
	c := authority(t, z, false)
	const name = "box7.feuerwehr.example"
	for _, tc := range []struct {
		what   string
		name   string
		change func(c *Config)
		want   string
	}{
		{"wrong secret", name, func(c *Config) { c.DNS.Secret = "d3Jvbmc=" }, "another secret"},
		{"unknown key", name, func(c *Config) { c.DNS.Key = "other" }, "does not know the key"},
		{"foreign zone", "box7.example.org", func(*Config) {}, "knows no zone"},
		{"zone that is not above", name, func(c *Config) { c.DNS.Zone = "example.org" }, "is not in the zone"},
		{"record nobody looks at", name, func(c *Config) { c.DNS.Record = "elsewhere.feuerwehr.example" }, "did not accept the proof"},
		{"authority not trusted", name, func(c *Config) { c.Roots = x509.NewCertPool() }, "unknown authority"},
		{"authority's certificate over by our time", name, func(c *Config) { c.Now = func() time.Time { return time.Now().AddDate(1, 0, 0) } }, "expired"},
		{"name server away", name, func(c *Config) { c.DNS.Server = testacme.FreeAddr(t) }, "refused"},
	} {
		c := c
		tc.change(&c)
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		_, err := c.Obtain(ctx, newKey(t), []string{tc.name}, request(t, newKey(t), tc.name))
		stop()
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.what, err, tc.want)
		}
		if n := z.Left(); n != 0 {
			t.Errorf("%s: %d proofs are left in the DNS", tc.what, n)
		}
	}
}

func TestParse(t *testing.T) {
	good := map[string]string{"server": "ns.example", "key": "k", "secret": "c2VjcmV0"}
	for _, tc := range []struct {
		provider  string
		name, set string
		want      string
	}{
		{"rfc2136", "", "", ""},
		{"rfc2136", "algorithm", "hmac-sha512", ""},
		{"rfc2136", "algorithm", "md5", "none of"},
		{"rfc2136", "secret", "%%", "illegal base64"},
		{"rfc2136", "secret", "", "are needed"},
		{"rfc2136", "sever", "x", `"sever" is not known`},
		{"rfc2136", "eab_kid", "x", "come together"},
		{"cloudflare", "", "", "not known"},
		{"http-01", "", "", "no settings"},
	} {
		settings := map[string]string{}
		for k, v := range good {
			settings[k] = v
		}
		if tc.name != "" {
			settings[tc.name] = tc.set
		}
		c, err := Parse("", "", "", tc.provider, settings)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %s=%s: %v, want %q", tc.provider, tc.name, tc.set, err, tc.want)
		}
		if err == nil && (c.Directory != LetsEncrypt || c.DNS.server() != "ns.example:53") {
			t.Errorf("%+v", c)
		}
	}
}

// TestObtainByHTTP proves a name by an answer, and takes the answer away.
func TestObtainByHTTP(t *testing.T) {
	z := testacme.NewZone(t)
	c, err := Parse("", "", "", "http-01", nil)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 10)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		c.HTTP.ServeHTTP(w, r)
	}))
	defer web.Close()
	_, z.Web, _ = net.SplitHostPort(web.Listener.Addr().String())
	a := testacme.Start(t, z, false)
	c.Directory, c.Roots, c.Now, c.Log = a.Directory, x509.NewCertPool(), time.Now, slog.New(slog.DiscardHandler)
	c.Roots.AppendCertsFromPEM([]byte(a.CA))
	const name = "box7.feuerwehr.example"
	chain, err := c.Obtain(t.Context(), newKey(t), []string{name}, request(t, newKey(t), name))
	if err != nil || chain[0].VerifyHostname(name) != nil {
		t.Fatal(err)
	}
	path := <-asked
	resp, err := http.Get(web.URL + path)
	if err != nil || resp.StatusCode != 404 || len(c.HTTP.at) != 0 {
		t.Errorf("%s afterwards: %v %v", path, resp, err)
	}
}
