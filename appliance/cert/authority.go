// SPDX-License-Identifier: EUPL-1.2

package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"time"
)

const (
	// life of a leaf: https://support.apple.com/103769 takes 825 days and not a second more; both ends count.
	life      = 825*24*time.Hour - time.Second
	lag       = 48 * time.Hour // of phones behind the box
	lastMonth = 30 * 24 * time.Hour
	caYears   = 10
)

// begin is from when each authority is valid.
var begin = time.Date(2026, time.October, 1, 0, 0, 0, 0, time.UTC)

// guess is the time that certificates are dated by: see the package comment.
func guess(now, likely time.Time) time.Time {
	if likely.Sub(now) > life*2/3 {
		return likely
	}
	return now
}

// authority is the box's own CA.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// private are the addresses an authority may sign for: those that mean nothing outside of a local network, and the machine itself.
// RFC 1918, RFC 3927, RFC 4193, RFC 4291 section 2.5.6.
var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("::1/128"),
}

// openAuthority reads the authority, or makes one. One that cannot sign for the box's own name is replaced: the name can change until the first account
// exists, and nobody has had a reason to trust it before.
func (k *Keeper) openAuthority() error {
	pair, err := k.read("ca.pem")
	if err != nil {
		return err
	}
	if pair != nil {
		key, ok := pair.PrivateKey.(crypto.Signer)
		k.own = authority{cert: pair.Leaf, key: key}
		if ok && k.own.covers(k.names[0]) {
			return nil
		}
		k.o.Log.Warn("the box has a new name, so it gets a new certificate authority; devices that trusted the old one have to trust it again", "name", k.names[0])
	}
	return k.newAuthority()
}

func (k *Keeper) newAuthority() error {
	own, err := makeAuthority(k.names, guess(k.o.Now(), k.o.Likely()))
	if err != nil {
		return err
	}
	if err := k.write("ca.pem", &tls.Certificate{Certificate: [][]byte{own.cert.Raw}, PrivateKey: own.key}); err != nil {
		return err
	}
	k.own = own
	k.o.Log.Info("certificate authority of the box made", "fingerprint", Fingerprint(own.cert), "expires", own.cert.NotAfter.Format(time.DateOnly))
	return nil
}

func makeAuthority(names []string, now time.Time) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, fmt.Errorf("make key of the certificate authority: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return authority{}, err
	}
	c := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"Hallig"}, CommonName: short("Hallig " + names[0])},
		NotBefore:    begin,
		NotAfter:     now.AddDate(caYears, 0, 0),
		KeyUsage:     x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:         true, BasicConstraintsValid: true, MaxPathLen: 0, MaxPathLenZero: true,
		// A kind of name that no constraint speaks of would be free (RFC 5280, 4.2.1.10), so both kinds that a server's certificate can have are named.
		PermittedDNSDomainsCritical: true,
	}
	for _, p := range private {
		c.PermittedIPRanges = append(c.PermittedIPRanges, ipNet(p))
	}
	for _, n := range names {
		if a, err := netip.ParseAddr(n); err == nil {
			c.PermittedIPRanges = append(c.PermittedIPRanges, ipNet(netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())))
		} else {
			c.PermittedDNSDomains = append(c.PermittedDNSDomains, n)
		}
	}
	if len(c.PermittedDNSDomains) == 0 {
		c.PermittedDNSDomains = []string{"hallig.invalid"} // none at all would mean any
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return authority{}, fmt.Errorf("make certificate authority: %w", err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, fmt.Errorf("make certificate authority: %w", err)
	}
	return authority{cert: parsed, key: key}, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// covers says whether the constraints let the authority sign for a host: a name, or an address.
func (a authority) covers(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return a.coversAddr(addr)
	}
	for _, d := range a.cert.PermittedDNSDomains {
		if host == d || strings.HasSuffix(host, "."+d) {
			return true
		}
	}
	return false
}

func (a authority) coversAddr(addr netip.Addr) bool {
	ip := net.IP(addr.Unmap().AsSlice())
	for _, n := range a.cert.PermittedIPRanges {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

// issue makes a certificate with a new key for those of the names that the constraints allow, and for addrs.
func (a authority) issue(names []string, addrs []netip.Addr, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of the certificate: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	from := now.Add(-lag).UTC().Truncate(time.Second)
	c := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: short(names[0])},
		NotBefore:    from,
		NotAfter:     from.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},

		BasicConstraintsValid: true,
	}
	if c.NotAfter.After(a.cert.NotAfter) {
		c.NotAfter = a.cert.NotAfter
	}
	for _, n := range names {
		if ip, err := netip.ParseAddr(n); err == nil {
			addrs = append(addrs, ip.Unmap())
		} else if a.covers(n) {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	for _, ip := range addrs {
		if a.coversAddr(ip) {
			c.IPAddresses = append(c.IPAddresses, ip.AsSlice())
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// short cuts a common name to the 64 characters of RFC 5280, appendix A.1.
func short(name string) string {
	if len(name) > 64 {
		return name[:64]
	}
	return name
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// encode writes key and chain as PEM.
func encode(c *tls.Certificate) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("write key: %w", err)
	}
	var b bytes.Buffer
	b.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for _, c := range c.Certificate {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c}))
	}
	return b.Bytes(), nil
}
