// SPDX-License-Identifier: EUPL-1.2

package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// town is a municipal authority: a root and an intermediate that signs.
type town struct {
	root, mid *x509.Certificate
	key       *ecdsa.PrivateKey
}

func newTown(t testing.TB) *town {
	t.Helper()
	rootKey := ecKey(t)
	root := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Stadt Root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: begin, NotAfter: spring.AddDate(20, 0, 0)}, nil, rootKey.Public(), rootKey)
	key := ecKey(t)
	mid := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Stadt CA 1"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: begin, NotAfter: spring.AddDate(10, 0, 0)}, root, key.Public(), rootKey)
	return &town{root: root, mid: mid, key: key}
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, c, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	c.SerialNumber, c.BasicConstraintsValid = big.NewInt(time.Now().UnixNano()), true
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (o *town) leaf(t testing.TB, pub crypto.PublicKey, until time.Time, names ...string) *x509.Certificate {
	return sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: spring.Add(-time.Hour), NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, o.mid, pub, o.key)
}

func asPEM(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}

func keyPEM(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// TestRequestAndInstall is the way of a municipal authority: the box asks, the authority signs, a stick brings the answer.
func TestRequestAndInstall(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, &box{})
	o := newTown(t)
	text, err := b.Request()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		t.Fatalf("request %s: %v", text, err)
	}
	if want := []string{"box7.feuerwehr.example"}; !slices.Equal(csr.DNSNames, want) {
		t.Errorf("asked for %v, want %v: nobody outside can sign for local names", csr.DNSNames, want)
	}
	again, err := b.Request()
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(again); !samePublicKey(t, block.Bytes, csr) {
		t.Error("a second request has another key, so that the answer to the first one could not be installed")
	}
	until := spring.AddDate(0, 6, 0)
	leaf := o.leaf(t, csr.PublicKey, until, "box7.feuerwehr.example")
	s, err := b.Install(asPEM(o.root, o.mid, leaf)) // in any order
	if err != nil {
		t.Fatal(err)
	}
	if s.Source != Outside || s.Issuer != "Stadt CA 1" || !s.Expires.Equal(until) {
		t.Errorf("state %+v", s)
	}

	// A phone that knows the town and not the box.
	roots := x509.NewCertPool()
	roots.AddCert(o.root)
	check := func(b *box) {
		t.Helper()
		shown, err := b.Certificate(&tls.ClientHelloInfo{ServerName: "box7.feuerwehr.example"})
		if err != nil {
			t.Fatal(err)
		}
		chain := x509.NewCertPool()
		for _, der := range shown.Certificate[1:] {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			chain.AddCert(c)
		}
		if _, err := shown.Leaf.Verify(x509.VerifyOptions{DNSName: "box7.feuerwehr.example", Roots: roots, Intermediates: chain, CurrentTime: spring}); err != nil {
			t.Error(err)
		}
		if err := b.phone(t, "hallig.local", spring); err != nil {
			t.Errorf("local names go on with the box's own: %v", err)
		}
	}
	check(b)
	b = open(t, dir, &box{})
	check(b)
	if _, err := os.Stat(filepath.Join(dir, "request.pem")); err == nil {
		t.Error("the key of the request lies about after it was used")
	}

	// After its end the box's own takes over under the same name.
	b.now = until.Add(time.Hour)
	b.refresh(t)
	if err := b.phone(t, "box7.feuerwehr.example", b.now); err != nil {
		t.Errorf("after its end: %v", err)
	}
	if s := b.State(); s.Source != Own || !s.Lapsed.Equal(until) {
		t.Errorf("state after its end: %+v", s)
	}

	// A renewal with the same key, which some authorities prefer.
	if s, err := b.Install(asPEM(o.leaf(t, csr.PublicKey, b.now.AddDate(1, 0, 0), "box7.feuerwehr.example"), o.mid)); err != nil || s.Source != Outside || !s.Lapsed.IsZero() {
		t.Errorf("renewed: %+v, %v", s, err)
	}
}

func samePublicKey(t *testing.T, der []byte, csr *x509.CertificateRequest) bool {
	t.Helper()
	other, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return other.PublicKey.(*ecdsa.PublicKey).Equal(csr.PublicKey)
}

// TestUntrustedClock: a box that lags may show an outside certificate that is over; a system clock that knows better is heard.
func TestUntrustedClock(t *testing.T) {
	b := open(t, t.TempDir(), &box{})
	o := newTown(t)
	key := ecKey(t)
	if _, err := b.Install(append(asPEM(o.leaf(t, key.Public(), spring.AddDate(0, 3, 0), "box7.feuerwehr.example"), o.mid), keyPEM(t, key)...)); err != nil {
		t.Fatal(err)
	}
	b.trusted = false
	if s := b.State(); s.Source != Outside {
		t.Errorf("untrusted: %+v", s)
	}
	b.likely = spring.AddDate(1, 0, 0)
	if s := b.State(); s.Source != Own {
		t.Errorf("with a system clock that is a year ahead: %+v", s)
	}
}

// TestPublic: everybody's devices know some authorities, and only an organisation's own know its CA.
func TestPublic(t *testing.T) {
	o := newTown(t)
	key := ecKey(t)
	text := append(asPEM(o.leaf(t, key.Public(), spring.AddDate(1, 0, 0), "box7.feuerwehr.example"), o.mid), keyPEM(t, key)...)
	for _, known := range []bool{false, true} {
		b := &box{now: spring, trusted: true}
		opt := b.options(t.TempDir(), "box7.feuerwehr.example")
		opt.Public = x509.NewCertPool()
		if known {
			opt.Public.AddCert(o.root)
		}
		k, err := Open(opt, nil)
		if err != nil {
			t.Fatal(err)
		}
		if k.State().Public {
			t.Error("the box's own authority counts as public")
		}
		if s, err := k.Install(text); err != nil || s.Public != known {
			t.Errorf("installed: public %t, want %t (%v)", s.Public, known, err)
		}
		if k, err = Open(opt, nil); err != nil || k.State().Public != known {
			t.Errorf("after a restart: public %t, want %t (%v)", k.State().Public, known, err)
		}
	}
}

// TestWildcard: an organisation may have one certificate for all its boxes. The page names the box, not the pattern.
func TestWildcard(t *testing.T) {
	b := open(t, t.TempDir(), &box{})
	o := newTown(t)
	key := ecKey(t)
	s, err := b.Install(append(asPEM(o.leaf(t, key.Public(), spring.AddDate(1, 0, 0), "*.feuerwehr.example"), o.mid), keyPEM(t, key)...))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.Names, []string{"*.feuerwehr.example"}) || !slices.Equal(s.Covered, []string{"box7.feuerwehr.example"}) {
		t.Errorf("%+v", s)
	}
	if b.choose("box7.feuerwehr.example") != b.outside || b.choose("hallig.local") != b.leaf || b.choose("") != b.leaf {
		t.Error("the wrong certificate is shown")
	}
}

func TestInstallRefuses(t *testing.T) {
	b := open(t, t.TempDir(), &box{})
	o := newTown(t)
	key := ecKey(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const name = "box7.feuerwehr.example"
	later := spring.AddDate(0, 6, 0)
	good := o.leaf(t, key.Public(), later, name)
	client := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: begin, NotAfter: later, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, o.mid, key.Public(), o.key)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, tc := range []struct {
		what string
		text []byte
		want string
	}{
		{"nothing", nil, "no certificate in PEM form"},
		{"DER", good.Raw, "no certificate in PEM form"},
		{"damaged", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "cannot be read"},
		{"no key that fits", asPEM(good, o.mid), "hallig cert csr"},
		{"another key", join(asPEM(good), keyPEM(t, ecKey(t))), "belongs to a key"},
		{"two keys", join(asPEM(good), keyPEM(t, key), keyPEM(t, key)), "more than one private key"},
		{"encrypted key", join(asPEM(good), []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")), "encrypted"},
		{"a request", join(asPEM(good), []byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")), "neither a certificate nor a key"},
		{"stranger in the chain", join(asPEM(good, newTown(t).root), keyPEM(t, key)), "not part of the chain"},
		{"other name", join(asPEM(o.leaf(t, key.Public(), later, "www.example.org"), o.mid), keyPEM(t, key)), "phones know this box as box7.feuerwehr.example"},
		{"over", join(asPEM(o.leaf(t, key.Public(), spring.Add(-time.Minute), name), o.mid), keyPEM(t, key)), "has ended"},
		{"for clients", join(asPEM(client, o.mid), keyPEM(t, key)), "not meant for servers"},
		{"an authority", join(asPEM(o.mid), keyPEM(t, o.key)), "of an authority"},
		{"short RSA key", join(asPEM(o.leaf(t, rsaKey.Public(), later, name), o.mid), keyPEM(t, rsaKey)), "1024 bits"},
		{"Ed25519", join(asPEM(o.leaf(t, edKey.Public(), later, name), o.mid), keyPEM(t, edKey)), "Ed25519"},
		{"too large", bytes.Repeat([]byte("x"), maxChain+1), "KiB"},
	} {
		_, err := b.Install(tc.text)
		var refusal *Refusal
		if !errors.As(err, &refusal) || !strings.Contains(refusal.En, tc.want) || strings.Contains(refusal.De+refusal.En, "%!") {
			t.Errorf("%s: %v, want a refusal with %q", tc.what, err, tc.want)
		}
		if b.State().Source != Own {
			t.Fatalf("%s: installed", tc.what)
		}
	}
}

// TestOffer: a file that is read at each start does not undo what came after it.
func TestOffer(t *testing.T) {
	b := open(t, t.TempDir(), &box{})
	o := newTown(t)
	key := ecKey(t)
	give := func(until time.Time) []byte {
		return append(asPEM(o.leaf(t, key.Public(), until, "box7.feuerwehr.example"), o.mid), keyPEM(t, key)...)
	}
	first, second := spring.AddDate(0, 3, 0), spring.AddDate(0, 6, 0)
	for _, tc := range []struct {
		until, want time.Time
	}{{first, first}, {second, second}, {first, second}} {
		if err := b.Offer(give(tc.until)); err != nil {
			t.Fatal(err)
		}
		if got := b.State().Expires; !got.Equal(tc.want) {
			t.Errorf("offered one until %v: shows one until %v", tc.until, got)
		}
	}
}

func TestDue(t *testing.T) {
	b := open(t, t.TempDir(), &box{})
	o := newTown(t)
	if !b.Due() {
		t.Error("there is none, and it is not due")
	}
	w, err := b.Wish()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(w.CSR)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Grant(w, []*x509.Certificate{o.leaf(t, csr.PublicKey, spring.AddDate(0, 0, 90), w.Names...), o.mid}); err != nil {
		t.Fatal(err)
	}
	for days, want := range map[int]bool{0: false, 59: false, 61: true, 100: true} {
		b.now = spring.AddDate(0, 0, days)
		if b.Due() != want {
			t.Errorf("day %d: due %t, want %t", days, !want, want)
		}
	}
	b.now = spring
	if err := b.Refresh([]string{"hallig.local", "chat.feuerwehr.example"}, lan); err != nil {
		t.Fatal(err)
	}
	if !b.Due() {
		t.Error("a name is missing, and it is not due")
	}

	k, err := Open(b.options(t.TempDir(), "abc.hallig.internal"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Wish(); !errors.Is(err, ErrNoName) {
		t.Errorf("a box without a public name: %v", err)
	}
}

func FuzzParsePEM(f *testing.F) {
	o := newTown(f)
	key := ecKey(f)
	leaf := o.leaf(f, key.Public(), spring, "box7.feuerwehr.example")
	f.Add(append(asPEM(leaf, o.mid), keyPEM(f, key)...))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nMA==\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		certs, key, err := ParsePEM(text)
		if err != nil {
			return
		}
		if leaf, _ := match(certs, []crypto.Signer{key}); key != nil && leaf != nil {
			if chain, err := order(leaf, certs); err == nil && len(chain) > len(certs) {
				t.Errorf("%d certificates make a chain of %d", len(certs), len(chain))
			}
		}
	})
}
