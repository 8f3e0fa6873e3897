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
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// Refusal is why a certificate from outside is not taken, with the next step, for people.
type Refusal struct{ De, En string }

func (r *Refusal) Error() string { return r.En }

func refuse(de, en string, args ...any) error {
	return &Refusal{De: fmt.Sprintf(de, args...) + ".", En: fmt.Sprintf(en, args...)}
}

// maxChain bounds what Install reads.
const maxChain = 48 << 10

// Request gives a signing request (PKCS #10, PEM) for the names of the box that a CA outside may sign: its server name and those with a dot that are not
// of this network alone. Its key stays on the box. The same key is asked with until a certificate for it is installed, so that two requests do no harm.
func (k *Keeper) Request() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, err := k.pending()
	if errors.Is(err, fs.ErrNotExist) {
		key, err = k.newPending()
	}
	if err != nil {
		return nil, err
	}
	return signingRequest(key, k.outward())
}

// Account is the key of the account at an authority outside; it is made when there is none.
func (k *Keeper) Account() (crypto.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	raw, err := os.ReadFile(filepath.Join(k.o.Dir, "acme.pem"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read account key: %w", err)
	}
	if block, _ := pem.Decode(raw); block != nil {
		if key, err := parseKey(block.Bytes); err == nil {
			return key, nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // a damaged one is replaced: an account is made in a moment
	if err != nil {
		return nil, fmt.Errorf("make account key: %w", err)
	}
	return key, k.writeKey("acme.pem", key)
}

// Wish is a certificate to ask for.
type Wish struct {
	Names []string
	CSR   []byte // DER
	key   crypto.Signer
}

// Due says whether a certificate from outside should be asked for now: there is none, it lacks a name, or two thirds of its life are over.
func (k *Keeper) Due() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.outside == nil {
		return true
	}
	c := k.outside.Leaf
	for _, n := range k.outward() {
		if c.VerifyHostname(n) != nil {
			return true
		}
	}
	return k.o.Now().After(c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3))
}

// ErrNoName is what Wish answers when the box has no name that somebody outside could prove.
var ErrNoName = errors.New("the box has no name in the public DNS")

// Wish makes a new key and a signing request for it, for an authority that answers at once.
func (k *Keeper) Wish() (Wish, error) {
	k.mu.RLock()
	w := Wish{Names: k.outward()}
	k.mu.RUnlock()
	if within(w.Names[0], privateZones...) || !strings.Contains(w.Names[0], ".") {
		return w, fmt.Errorf("%w: %s", ErrNoName, w.Names[0])
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return w, fmt.Errorf("make key of the certificate: %w", err)
	}
	w.key = key
	text, err := signingRequest(key, w.Names)
	if err != nil {
		return w, err
	}
	block, _ := pem.Decode(text)
	w.CSR = block.Bytes
	return w, nil
}

// Grant installs what was wished for.
func (k *Keeper) Grant(w Wish, chain []*x509.Certificate) error { return k.install(chain, w.key) }

// Failed notes why the last try to get a certificate from outside failed, for State; "": it did not.
func (k *Keeper) Failed(why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trouble = why
}

// privateZones are those that the public DNS does not have.
var privateZones = []string{"local", "home.arpa", "internal", "test", "invalid", "localhost"}

// outward are the names that somebody outside may vouch for. A box that has none asks for its server name all the same: an organisation's CA may sign it.
func (k *Keeper) outward() []string {
	var names []string
	for _, n := range k.names {
		_, addr := netip.ParseAddr(n)
		if addr != nil && strings.Contains(n, ".") && !within(n, privateZones...) {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		names = k.names[:1]
	}
	return names
}

func within(name string, zones ...string) bool {
	for _, z := range zones {
		if strings.HasSuffix(name, "."+z) {
			return true
		}
	}
	return false
}

func signingRequest(key crypto.Signer, names []string) ([]byte, error) {
	c := &x509.CertificateRequest{Subject: pkix.Name{CommonName: short(names[0])}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, c, key)
	if err != nil {
		return nil, fmt.Errorf("make signing request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// pending is the key that waits for its certificate.
func (k *Keeper) pending() (crypto.Signer, error) {
	raw, err := os.ReadFile(filepath.Join(k.o.Dir, "request.pem"))
	if err != nil {
		return nil, fmt.Errorf("read key of the signing request: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("read key of the signing request: %w", fs.ErrNotExist) // damaged: another one does
	}
	key, err := parseKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key of the signing request: %w", fs.ErrNotExist)
	}
	return key, nil
}

func (k *Keeper) newPending() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of the signing request: %w", err)
	}
	return key, k.writeKey("request.pem", key)
}

func (k *Keeper) writeKey(name string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	raw := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := renameio.WriteFile(filepath.Join(k.o.Dir, name), raw, 0o600); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

// Install takes a certificate from outside: PEM with the certificate, the chain above it in any order, and the private key if that was not made here by Request.
// What phones would not accept is refused with a Refusal, and what was there before stays.
func (k *Keeper) Install(text []byte) (State, error) {
	chain, key, err := ParsePEM(text)
	if err != nil {
		return State{}, err
	}
	if err := k.install(chain, key); err != nil {
		return State{}, err
	}
	return k.State(), nil
}

// Offer is Install for a file that is read at each start, a provisioning file for example: one that ends no later than what is there is passed over.
func (k *Keeper) Offer(text []byte) error {
	chain, key, err := ParsePEM(text)
	if err != nil {
		return err
	}
	k.mu.RLock()
	have := k.outside
	k.mu.RUnlock()
	if have != nil {
		for _, c := range chain {
			if c.Equal(have.Leaf) || !c.IsCA && !c.NotAfter.After(have.Leaf.NotAfter) {
				return nil
			}
		}
	}
	return k.install(chain, key)
}

func (k *Keeper) install(certs []*x509.Certificate, key crypto.Signer) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := []crypto.Signer{key}
	pending, err := k.pending()
	if key == nil {
		keys = nil
		if err == nil {
			keys = append(keys, pending)
		}
		if k.outside != nil {
			if old, ok := k.outside.PrivateKey.(crypto.Signer); ok {
				keys = append(keys, old)
			}
		}
	}
	leaf, key := match(certs, keys)
	if leaf == nil {
		return refuse("Keines der Zertifikate in der Datei gehört zu einem Schlüssel dieser Box: einen neuen Antrag herunterladen und unterschreiben lassen, oder den privaten Schlüssel in die Datei aufnehmen",
			"none of the certificates in the file belongs to a key of this box; make a signing request with: hallig cert csr, or add the private key to the file")
	}
	chain, err := order(leaf, certs)
	if err != nil {
		return err
	}
	if err := k.check(leaf, key); err != nil {
		return err
	}
	c := &tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, one := range chain {
		c.Certificate = append(c.Certificate, one.Raw)
	}
	if err := k.write("outside.pem", c); err != nil {
		return err
	}
	k.outside, k.trouble, k.public = c, "", k.known(c)
	if pending != nil && same(pending, key) {
		if err := os.Remove(filepath.Join(k.o.Dir, "request.pem")); err != nil { // the next certificate gets a key of its own
			k.o.Log.Warn("key of the signing request not removed", "err", err)
		}
	}
	k.o.Log.Info("certificate from outside installed", "issuer", leaf.Issuer.CommonName, "expires", leaf.NotAfter.Format(time.DateOnly), "names", strings.Join(namesIn(leaf), " "))
	return nil
}

// match finds the certificate that belongs to one of the keys.
func match(certs []*x509.Certificate, keys []crypto.Signer) (*x509.Certificate, crypto.Signer) {
	for _, key := range keys {
		for _, c := range certs {
			if pub, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && pub.Equal(key.Public()) {
				return c, key
			}
		}
	}
	return nil, nil
}

func same(a, b crypto.Signer) bool {
	pub, ok := a.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(b.Public())
}

// order puts the issuers behind the leaf, each above the one before. Roots may be missing; a certificate that does not belong there is an error, because
// most often the one that is needed is missing then.
func order(leaf *x509.Certificate, certs []*x509.Certificate) ([]*x509.Certificate, error) {
	chain := []*x509.Certificate{leaf}
	for {
		last := chain[len(chain)-1]
		if bytes.Equal(last.RawIssuer, last.RawSubject) || len(chain) > len(certs) {
			break
		}
		var next *x509.Certificate
		for _, c := range certs {
			if !c.Equal(last) && bytes.Equal(c.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(c) == nil {
				next = c
				break
			}
		}
		if next == nil {
			break
		}
		chain = append(chain, next)
	}
	for _, c := range certs {
		found := false
		for _, in := range chain {
			found = found || in.Equal(c)
		}
		if !found {
			return nil, refuse("Das Zertifikat %q in der Datei gehört nicht zur Kette über %q: nur das Zertifikat der Box und die seiner Aussteller aufnehmen",
				"the certificate %q in the file is not part of the chain above %q; the file needs the certificate of the box and those of its issuers, no others", nameOf(c), nameOf(leaf))
		}
	}
	return chain, nil
}

func nameOf(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	return strings.Join(namesIn(c), " ")
}

// check refuses what phones would.
func (k *Keeper) check(leaf *x509.Certificate, key crypto.Signer) error {
	covered := false
	for _, n := range k.names {
		covered = covered || leaf.VerifyHostname(n) == nil
	}
	switch {
	case leaf.IsCA:
		return refuse("%q ist das Zertifikat einer Zertifizierungsstelle und nicht das dieser Box: das einspielen, das sie für die Box unterschrieben hat",
			"%q is the certificate of an authority, not of this box; install the one that it signed for the box", nameOf(leaf))
	case !covered:
		return refuse("Das Zertifikat gilt für %s; die Telefone kennen diese Box als %s", "the certificate is for %s; phones know this box as %s", strings.Join(namesIn(leaf), ", "), strings.Join(k.outward(), ", "))
	case k.o.Trusted() && k.o.Now().After(leaf.NotAfter):
		return refuse("Das Zertifikat ist seit dem %s abgelaufen: einen neuen Antrag unterschreiben lassen", "the certificate has ended on %s; ask for a new one with: hallig cert csr", leaf.NotAfter.Format(time.DateOnly))
	case len(leaf.ExtKeyUsage) > 0 && !forServers(leaf):
		return refuse("Das Zertifikat ist nicht für Server gedacht (erweiterte Schlüsselverwendung serverAuth fehlt)", "the certificate is not meant for servers (extended key usage serverAuth is missing)")
	}
	switch pub := key.Public().(type) {
	case *rsa.PublicKey:
		if pub.N.BitLen() < 2048 {
			return refuse("Der Schlüssel hat nur %d Bit; Telefone verlangen RSA mit mindestens 2048 Bit oder ECDSA P-256", "the key has %d bits only; phones want RSA with 2048 bits or more, or ECDSA P-256", pub.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if pub.Curve.Params().BitSize < 256 {
			return refuse("Die Kurve des Schlüssels ist zu klein; Telefone verlangen P-256 oder größer", "the key's curve is too small; phones want P-256 or larger")
		}
	case ed25519.PublicKey:
		return refuse("Browser nehmen keinen Ed25519-Schlüssel: ECDSA P-256 verwenden", "browsers take no Ed25519 key; use ECDSA P-256")
	default:
		return refuse("Schlüssel dieser Art (%T) sind nicht bekannt", "keys of this kind (%T) are not known", pub)
	}
	return nil
}

func forServers(c *x509.Certificate) bool {
	for _, u := range c.ExtKeyUsage {
		if u == x509.ExtKeyUsageServerAuth || u == x509.ExtKeyUsageAny {
			return true
		}
	}
	return false
}

// ParsePEM reads certificates and at most one private key (PKCS #8, PKCS #1, SEC 1); anything else in the text is an error.
func ParsePEM(text []byte) (certs []*x509.Certificate, key crypto.Signer, err error) {
	if len(text) > maxChain {
		return nil, nil, refuse("Die Datei hat mehr als %d KiB; ein Zertifikat mit seiner Kette ist kleiner", "the file has more than %d KiB; a certificate with its chain is smaller", maxChain>>10)
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		switch {
		case block.Type == "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, refuse("Eines der Zertifikate ist nicht lesbar: %v", "one of the certificates cannot be read: %v", err)
			}
			certs = append(certs, c)
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			if key != nil {
				return nil, nil, refuse("Die Datei enthält mehr als einen privaten Schlüssel", "the file holds more than one private key")
			}
			if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
				return nil, nil, refuse("Der private Schlüssel ist verschlüsselt: vorher entschlüsseln, oder besser weglassen und die Box einen eigenen machen lassen (Antrag herunterladen)",
					"the private key is encrypted; decrypt it first, or better: leave it out and have the box make its own with: hallig cert csr")
			}
			if key, err = parseKey(block.Bytes); err != nil {
				return nil, nil, refuse("Der private Schlüssel ist nicht lesbar: %v", "the private key cannot be read: %v", err)
			}
		case block.Type == "EC PARAMETERS": // openssl writes them in front of a key
		default:
			return nil, nil, refuse("Die Datei enthält %q; das ist weder ein Zertifikat noch ein Schlüssel", "the file holds %q, which is neither a certificate nor a key", block.Type)
		}
	}
	if len(certs) == 0 {
		return nil, nil, refuse("Die Datei enthält kein Zertifikat in PEM-Form (-----BEGIN CERTIFICATE-----)", "the file holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
	}
	return certs, key, nil
}

func parseKey(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if s, ok := key.(crypto.Signer); ok {
			return s, nil
		}
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil {
		return nil, errors.New("it is neither PKCS #8 nor SEC 1 nor PKCS #1")
	}
	return key, nil
}
