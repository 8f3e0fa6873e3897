// SPDX-License-Identifier: EUPL-1.2

package cert

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// spring is a time after the making of every program that runs these tests.
var spring = time.Date(2027, time.April, 5, 12, 0, 0, 0, time.UTC)

// box is a Keeper whose clock the test holds.
type box struct {
	*Keeper
	now, likely time.Time
	trusted     bool
	log         bytes.Buffer
}

var lan = []netip.Addr{netip.MustParseAddr("192.168.7.1"), netip.MustParseAddr("fd00::7"), netip.MustParseAddr("203.0.113.9")}

func (b *box) options(dir, host string) Options {
	return Options{
		Dir: dir, Host: host, Names: []string{"hallig.local", "hallig.home.arpa"},
		Now: func() time.Time { return b.now }, Likely: func() time.Time { return later(b.now, b.likely) }, Trusted: func() bool { return b.trusted },
		Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func open(t *testing.T, dir string, b *box) *box {
	t.Helper()
	if b.now.IsZero() {
		b.now, b.trusted = spring, true
	}
	k, err := Open(b.options(dir, "box7.feuerwehr.example"), lan)
	if err != nil {
		t.Fatal(err)
	}
	b.Keeper = k
	return b
}

func (b *box) refresh(t *testing.T) {
	t.Helper()
	if err := b.Refresh([]string{"hallig.local", "hallig.home.arpa"}, lan); err != nil {
		t.Fatal(err)
	}
}

// phone is what a device that trusts the box finds at a moment of its own clock.
func (b *box) phone(t *testing.T, name string, at time.Time) error {
	t.Helper()
	chain, err := b.Certificate(&tls.ClientHelloInfo{ServerName: sni(name)})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(b.Authority())
	_, err = chain.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

// sni is what a browser sends: no addresses.
func sni(name string) string {
	if _, err := netip.ParseAddr(name); err == nil {
		return ""
	}
	return name
}

func TestOwnAuthority(t *testing.T) {
	dir := t.TempDir()
	b := open(t, filepath.Join(dir, "tls"), &box{})
	for _, name := range []string{"box7.feuerwehr.example", "hallig.local", "hallig.home.arpa", "192.168.7.1", "fd00::7"} {
		if err := b.phone(t, name, spring); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"other.local", "203.0.113.9", "example.org", "192.168.7.2"} {
		if err := b.phone(t, name, spring); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	leaf := b.leaf.Leaf
	if got := leaf.NotAfter.Sub(leaf.NotBefore) + time.Second; got > 825*24*time.Hour {
		t.Errorf("the leaf lives for %v; Apple's systems take 825 days", got)
	}
	if s := b.State(); s.Source != Own || s.Fingerprint != Fingerprint(b.Authority()) || len(s.Fingerprint) != 95 || len(s.Uncovered) != 0 || !s.Expires.Equal(leaf.NotAfter) {
		t.Errorf("state %+v", s)
	}
	if err := filepath.WalkDir(filepath.Join(dir, "tls"), func(path string, d os.DirEntry, _ error) error {
		info, err := d.Info()
		if want := map[bool]os.FileMode{true: 0o700, false: 0o600}[d.IsDir()]; err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v", path, info.Mode().Perm(), want)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}

	// The same after a restart: nobody has to accept anything again.
	again := open(t, filepath.Join(dir, "tls"), &box{})
	if !again.Authority().Equal(b.Authority()) || !again.leaf.Leaf.Equal(leaf) {
		t.Error("a restart made other certificates")
	}
}

// TestConstraints: what a thief signs with the box's key for other sites is refused, by Go and by OpenSSL.
func TestConstraints(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, &box{})
	free := b.own // an authority that forgets its constraints when it issues
	loose := *b.own.cert
	loose.PermittedDNSDomains, loose.PermittedIPRanges = []string{"example.org", "box7.feuerwehr.example", "feuerwehr.example", "local"}, nil
	for _, p := range []string{"203.0.113.0/24", "192.168.0.0/16"} {
		loose.PermittedIPRanges = append(loose.PermittedIPRanges, ipNet(netip.MustParsePrefix(p)))
	}
	free.cert = &loose
	ca := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Authority().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		addr string
		ok   bool
	}{
		{"box7.feuerwehr.example", "", true},
		{"box7.feuerwehr.example", "192.168.7.9", true},
		{"example.org", "", false},
		{"feuerwehr.example", "", false},
		{"router.local", "", false},
		{"box7.feuerwehr.example", "203.0.113.1", false},
	} {
		var addrs []netip.Addr
		if tc.addr != "" {
			addrs = append(addrs, netip.MustParseAddr(tc.addr))
		}
		forged, err := free.issue([]string{tc.name}, addrs, spring)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(b.Authority())
		_, err = forged.Leaf.Verify(x509.VerifyOptions{DNSName: tc.name, Roots: roots, CurrentTime: spring})
		var invalid x509.CertificateInvalidError
		if tc.ok && err != nil || !tc.ok && (!errors.As(err, &invalid) || invalid.Reason != x509.CANotAuthorizedForThisName) {
			t.Errorf("%s %s: Go says %v, want ok %t", tc.name, tc.addr, err, tc.ok)
		}
		openssl(t, ca, forged, tc.name, tc.ok)
	}
}

func openssl(t *testing.T, ca string, c *tls.Certificate, name string, ok bool) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Log("no openssl here: only Go has judged")
		return
	}
	leaf := filepath.Join(t.TempDir(), "leaf.pem")
	if err := os.WriteFile(leaf, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-attime", itoa(spring.Unix()), "-CAfile", ca, "-verify_hostname", name, leaf).CombinedOutput()
	if (err == nil) != ok || !ok && !bytes.Contains(out, []byte("permitted subtree violation")) {
		t.Errorf("%s: openssl says %v: %s", name, err, out)
	}
}

func itoa(n int64) string {
	var b [20]byte
	i := len(b)
	for ; n > 0; n /= 10 {
		i--
		b[i] = byte('0' + n%10)
	}
	return string(b[i:])
}

// TestHandshake goes through a real port.
func TestHandshake(t *testing.T) {
	b := open(t, t.TempDir(), &box{now: time.Now(), trusted: true})
	if err := b.Refresh(nil, append(slices.Clone(lan), netip.MustParseAddr("127.0.0.1"))); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	defer srv.Close()
	go func() { _ = srv.Serve(tls.NewListener(l, &tls.Config{GetCertificate: b.Certificate})) }() // ends with Close
	url := "https://" + l.Addr().String()
	roots := x509.NewCertPool()
	roots.AddCert(b.Authority())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	client.Transport.(*http.Transport).TLSClientConfig.ServerName = "example.org"
	client.CloseIdleConnections()
	if resp, err := client.Get(url); err == nil {
		resp.Body.Close()
		t.Error("a foreign name was accepted")
	}
}

func TestRenewal(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(b *box, names *[]string, addrs *[]netip.Addr)
		renew  string
	}{
		{"nothing new", func(*box, *[]string, *[]netip.Addr) {}, ""},
		{"an address goes", func(_ *box, _ *[]string, a *[]netip.Addr) { *a = (*a)[1:] }, ""},
		{"an address comes", func(_ *box, _ *[]string, a *[]netip.Addr) { *a = append(*a, netip.MustParseAddr("10.0.0.5")) }, "new address"},
		{"a public address comes", func(_ *box, _ *[]string, a *[]netip.Addr) { *a = append(*a, netip.MustParseAddr("198.51.100.1")) }, ""},
		{"a name of the box comes", func(_ *box, n *[]string, _ *[]netip.Addr) { *n = append(*n, "www.hallig.local") }, "new name www.hallig.local"},
		{"a foreign name comes", func(_ *box, n *[]string, _ *[]netip.Addr) { *n = append(*n, "chat.example.org") }, ""},
		{"270 days later", func(b *box, _ *[]string, _ *[]netip.Addr) { b.now = b.now.AddDate(0, 0, 270) }, ""},
		{"280 days later", func(b *box, _ *[]string, _ *[]netip.Addr) { b.now = b.now.AddDate(0, 0, 280) }, "a third"},
		{"years later", func(b *box, _ *[]string, _ *[]netip.Addr) { b.now = b.now.AddDate(5, 0, 0) }, "a third"},
		{"the clock goes back a day", func(b *box, _ *[]string, _ *[]netip.Addr) { b.now = b.now.AddDate(0, 0, -1) }, ""},
		{"the clock goes back a month", func(b *box, _ *[]string, _ *[]netip.Addr) { b.now = b.now.AddDate(0, -1, 0) }, "turned back"},
	} {
		b := open(t, t.TempDir(), &box{})
		before, ca := b.leaf.Leaf, b.Authority()
		b.log.Reset()
		names, addrs := []string{"hallig.local", "hallig.home.arpa"}, slices.Clone(lan)
		tc.change(b, &names, &addrs)
		if err := b.Refresh(names, addrs); err != nil {
			t.Fatal(err)
		}
		if renewed := !b.leaf.Leaf.Equal(before); renewed != (tc.renew != "") || !strings.Contains(b.log.String(), tc.renew) {
			t.Errorf("%s: renewed %t, want %q; log %s", tc.name, renewed, tc.renew, b.log.String())
		}
		if err := b.phone(t, "hallig.local", b.now); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if !b.Authority().Equal(ca) {
			t.Errorf("%s: a new authority", tc.name)
		}
		if err := b.Refresh(names, addrs); err != nil || strings.Count(b.log.String(), "certificate of the box's own authority made") > 1 {
			t.Errorf("%s: the second look made another one (%v)", tc.name, err)
		}
	}
}

// TestOldAddressesStay: a network that comes and goes makes no certificate each time, and the list is bounded.
func TestOldAddressesStay(t *testing.T) {
	b := open(t, t.TempDir(), &box{})
	for i := range 40 {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		if err := b.Refresh(nil, []netip.Addr{a}); err != nil {
			t.Fatal(err)
		}
		if err := b.phone(t, a.String(), spring); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.leaf.Leaf.IPAddresses); n != maxAddrs {
		t.Errorf("%d addresses, want %d", n, maxAddrs)
	}
	if err := b.phone(t, "10.0.0.38", spring); err != nil {
		t.Errorf("the address before: %v", err)
	}
}

// TestLaggingClock: the phones know the time, the box does not.
func TestLaggingClock(t *testing.T) {
	floor := spring
	for _, tc := range []struct {
		name  string
		real  time.Duration // the phones' time after the floor
		wall  time.Duration // the system's own clock after the floor; 0: it lags too
		valid bool
	}{
		{"nothing lags", 0, 0, true},
		{"a phone is a day behind", -24 * time.Hour, 0, true},
		{"two years in a shelf", 730 * 24 * time.Hour, 0, true},
		{"two years in a shelf, RTC right", 730 * 24 * time.Hour, 730 * 24 * time.Hour, true},
		{"five years in a shelf, RTC right", 5 * 365 * 24 * time.Hour, 5 * 365 * 24 * time.Hour, true},
		{"RTC a year ahead of the phones", 24 * time.Hour, 365 * 24 * time.Hour, true},
		// What cannot be helped without anybody who knows the time:
		{"three years in a shelf, no RTC", 3 * 365 * 24 * time.Hour, 0, false},
	} {
		b := &box{now: floor, likely: floor.Add(tc.wall)}
		open(t, t.TempDir(), b)
		real := floor.Add(tc.real)
		if err := b.phone(t, "hallig.local", real); (err == nil) != tc.valid {
			t.Errorf("%s: %v, want valid %t", tc.name, err, tc.valid)
		}
		ca := b.Authority()
		// Somebody tells the box the time.
		b.now, b.likely, b.trusted = real, real, true
		b.refresh(t)
		if err := b.phone(t, "hallig.local", real); err != nil {
			t.Errorf("%s, when the time is known: %v", tc.name, err)
		}
		if !b.Authority().Equal(ca) {
			t.Errorf("%s: the authority was replaced, and every phone would have to trust anew", tc.name)
		}
	}
}

// TestAuthorityEnds: ten years later there is another authority; not before somebody vouches for the time.
func TestAuthorityEnds(t *testing.T) {
	b := open(t, t.TempDir(), &box{})
	ca := b.Authority()
	b.now, b.trusted = spring.AddDate(9, 11, 10), false
	b.refresh(t)
	if !b.Authority().Equal(ca) {
		t.Error("the authority was replaced while nobody vouched for the time")
	}
	if !b.leaf.Leaf.NotAfter.Equal(ca.NotAfter) {
		t.Errorf("the leaf outlives its authority: %v", b.leaf.Leaf.NotAfter)
	}
	b.trusted = true
	b.refresh(t)
	if b.Authority().Equal(ca) {
		t.Error("the authority was not replaced")
	}
	if err := b.phone(t, "hallig.local", b.now); err != nil {
		t.Error(err)
	}
}

// TestNewServerName: the authority cannot sign for a name it does not know, so it is replaced with the server name.
func TestNewServerName(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, &box{})
	ca := b.Authority()
	k, err := Open(b.options(dir, "box8.feuerwehr.example"), lan)
	if err != nil {
		t.Fatal(err)
	}
	if k.Authority().Equal(ca) || k.leaf.Leaf.VerifyHostname("box8.feuerwehr.example") != nil || k.leaf.Leaf.CheckSignatureFrom(k.Authority()) != nil {
		t.Errorf("authority %s, leaf for %v", k.Authority().Subject.CommonName, k.leaf.Leaf.DNSNames)
	}
}

// TestDamage: whatever happened to a file, the box comes up with TLS and says what it set aside.
func TestDamage(t *testing.T) {
	for _, name := range []string{"ca.pem", "leaf.pem", "outside.pem"} {
		for _, damage := range []string{"", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "half"} {
			dir := t.TempDir()
			open(t, dir, &box{})
			path := filepath.Join(dir, name)
			content := []byte(damage)
			if damage == "half" {
				if raw, err := os.ReadFile(path); err == nil {
					content = raw[:len(raw)/5]
				}
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			b := open(t, dir, &box{})
			if err := b.phone(t, "hallig.local", spring); err != nil {
				t.Errorf("%s damaged: %v", name, err)
			}
			if _, err := os.Stat(path + ".damaged"); err != nil || !strings.Contains(b.log.String(), "damaged") {
				t.Errorf("%s: %v; log %s", name, err, b.log.String())
			}
		}
	}
}

func TestServerNamesOfAllKinds(t *testing.T) {
	for _, host := range []string{"10.1.2.3", "fd00::1", strings.Repeat("a", 60) + "." + strings.Repeat("b", 60) + ".example", "abcdefghijklmnop.hallig.internal", "localhost"} {
		b := &box{now: spring, trusted: true}
		k, err := Open(b.options(t.TempDir(), host), nil)
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		b.Keeper = k
		if err := b.phone(t, host, spring); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}
