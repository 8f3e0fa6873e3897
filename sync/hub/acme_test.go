// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/cert"
	"hallig/tools/testacme"
)

// shown is the certificate with which the hub answers for a name; nil: none.
func (w *world) shown(name string) *x509.Certificate {
	w.Helper()
	d := &tls.Dialer{Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}} //nolint:gosec // what comes is looked at
	ctx, stop := context.WithTimeout(w.Context(), inTime)
	defer stop()
	conn, err := d.DialContext(ctx, "tcp", w.hub.World().String())
	if err != nil {
		return nil
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

// authority has the hub ask one, and trust it.
func authority(t *testing.T, z *testacme.Zone, c *Config) testacme.Authority {
	t.Helper()
	a := testacme.Start(t, z, false)
	roots := filepath.Join(t.TempDir(), "ca.pem")
	own, err := os.ReadFile(c.CAFile)
	if err == nil {
		err = os.WriteFile(roots, append(own, a.CA...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.CAFile, c.ACME.Directory = roots, a.Directory
	return a
}

// The hub and each of its boxes get certificates by answers over HTTP, keep them over a restart, and have them renewed in time; strangers get none.
func TestCertificatesByHTTP(t *testing.T) {
	z := testacme.NewZone(t)
	proofs := testacme.FreeAddr(t)
	_, z.Web, _ = net.SplitHostPort(proofs)
	const own, box, other = "hub.feuerwehr.example", "box1.feuerwehr.example", "box2.feuerwehr.example"
	var conf Config
	w := newWorldWith(t, func(c *Config) {
		if conf.CAFile == "" {
			conf.CAFile = c.CAFile
			conf.ACME = ACMEConfig{Provider: "http-01", Listen: proofs, Email: "it@feuerwehr.example"}
			authority(t, z, &conf)
		}
		c.Server, c.Host, c.TLS, c.CAFile, c.ACME = own, "", nil, conf.CAFile, conf.ACME
	})
	w.await("the hub's own certificate", func() bool { return w.shown(own) != nil })
	w.newBox(box)
	w.await("the box's certificate", func() bool { return w.shown(box) != nil })
	first := w.shown(box)
	if !slices.Equal(first.DNSNames, []string{box}) || !strings.Contains(first.Issuer.CommonName, "Pebble") {
		t.Errorf("%v of %v", first.DNSNames, first.Issuer)
	}
	if got := w.shown("stranger.feuerwehr.example"); got != nil {
		t.Errorf("a stranger's name is answered with %v", got.DNSNames)
	}
	if resp, err := http.Get("http://" + proofs + "/.well-known/acme-challenge/x"); err != nil || resp.StatusCode != 404 {
		t.Errorf("the port of proofs: %v %v", resp, err)
	}
	s, err := w.hub.state(t.Context())
	if err != nil || s.Boxes[0].NoCertificate || !s.Boxes[0].CertificateUntil.Equal(first.NotAfter) {
		t.Errorf("%+v %v", s.Boxes, err)
	}
	w.stop()
	if err := os.WriteFile(filepath.Join(w.dir, acmeDir, other+".pem"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	if got := w.shown(box); got == nil || !got.Equal(first) {
		t.Error("after a restart another one, or none")
	}
	// The loop, by hand and at other times, with the hub itself at rest but for its port of proofs.
	at, real := time.Now(), w.hub.certs.from
	f := &fetcher{Config: real.Config, dir: real.dir, log: real.log, again: map[string]try{}, have: map[string]*tls.Certificate{box: real.find(box)}, wanted: func() [][]string { return [][]string{{box}} }}
	f.Now = func() time.Time { return at }
	f.look(t.Context())
	if got := f.find(box).Leaf; !got.Equal(first) {
		t.Error("renewed before it was due")
	}
	life := first.NotAfter.Sub(first.NotBefore)
	if at = first.NotAfter.Add(-life/3 + time.Hour); f.due([]string{box}, at) == false {
		t.Error("not due with a third of its life before it")
	}
	if f.due([]string{box}, at.Add(-2*time.Hour)) || !f.due([]string{box, other}, time.Now()) {
		t.Error("due too early, or not for another name")
	}
	good := f.Directory
	f.Directory = "https://" + testacme.FreeAddr(t) + "/dir"
	f.look(t.Context())
	if got := f.again[box]; !f.find(box).Leaf.Equal(first) || !got.at.Equal(at.Add(acmeGap)) {
		t.Errorf("without an authority: %+v", got)
	}
	at = at.Add(acmeGap)
	f.look(t.Context())
	if got := f.again[box]; got.gap != 2*acmeGap {
		t.Errorf("the second failure: %+v", got)
	}
	f.Directory = good
	f.look(t.Context())
	if f.again[box].gap != 2*acmeGap {
		t.Error("asked before its time")
	}
	f.Now = time.Now // TLS to the authority looks at it, too
	f.again, f.have = map[string]try{}, map[string]*tls.Certificate{}
	f.look(t.Context())
	if got := f.find(box); got == nil || got.Leaf.Equal(first) {
		t.Error("not renewed")
	}
}

// One certificate for all names by a record in the DNS.
func TestCertificateByDNS(t *testing.T) {
	z := testacme.NewZone(t)
	var conf Config
	w := newWorldWith(t, func(c *Config) {
		if conf.CAFile == "" {
			conf.CAFile = c.CAFile
			conf.ACME = ACMEConfig{Provider: "rfc2136", Settings: map[string]string{"server": z.Addr, "key": testacme.KeyName, "secret": testacme.Secret}}
			authority(t, z, &conf)
		}
		c.Server, c.Host, c.TLS, c.CAFile, c.ACME, c.Names = "hub.feuerwehr.example", "", nil, conf.CAFile, conf.ACME, []string{"*.boxen.feuerwehr.example"}
	})
	w.await("the certificate", func() bool { return w.shown("hub.feuerwehr.example") != nil })
	w.newBox("box1.boxen.feuerwehr.example")
	got := w.shown("box1.boxen.feuerwehr.example")
	if got == nil || !slices.Contains(got.DNSNames, "*.boxen.feuerwehr.example") || !slices.Contains(got.DNSNames, "hub.feuerwehr.example") {
		t.Errorf("%+v", got)
	}
	if z.Left() != 0 {
		t.Errorf("%d proofs are left in the DNS", z.Left())
	}
}

func TestACMEConfig(t *testing.T) {
	dns := map[string]string{"server": "ns.example.org", "key": "k", "secret": "c2VjcmV0"}
	for name, tt := range map[string]struct {
		acme  ACMEConfig
		names []string
		want  string
	}{
		"http": {ACMEConfig{Provider: "http-01"}, nil, ""}, "dns": {ACMEConfig{Provider: "rfc2136", Settings: dns}, []string{"*.boxes.example.org"}, ""}, "dns, named": {ACMEConfig{Provider: "rfc2136", Settings: dns, Names: []string{"a.example.org"}}, nil, ""},
		"no provider": {ACMEConfig{Email: "a@b.example"}, nil, "provider is missing"}, "unknown": {ACMEConfig{Provider: "magic"}, nil, "not known"}, "dns without a server": {ACMEConfig{Provider: "rfc2136"}, []string{"*.boxes.example.org"}, "are needed"},
		"dns without names": {ACMEConfig{Provider: "rfc2136", Settings: dns}, nil, "for which names"}, "http with names": {ACMEConfig{Provider: "http-01", Names: []string{"a.example.org"}}, nil, "rfc2136"},
		"http with settings": {ACMEConfig{Provider: "http-01", Settings: dns}, nil, "no settings"}, "odd port": {ACMEConfig{Provider: "http-01", Listen: "80"}, nil, "ADDR:PORT"},
		"no name for the world": {ACMEConfig{Provider: "rfc2136", Settings: dns, Names: []string{"hub"}}, nil, "no authority"}, "an address": {ACMEConfig{Provider: "rfc2136", Settings: dns, Names: []string{"10.0.0.1"}}, nil, "no authority"},
	} {
		c := Config{Spool: &breakable{}, ACME: tt.acme, Names: tt.names}
		if err := c.check(); tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	c := Config{Spool: &breakable{}, TLS: []cert.Files{}}
	if err := c.check(); err == nil || !strings.Contains(err.Error(), "acme in hub.json") {
		t.Errorf("neither: %v", err)
	}
}
