// SPDX-License-Identifier: EUPL-1.2

package testpeer

import (
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
	"os"
	"path/filepath"
	"time"
)

// CA is a private certificate authority for one test.
type CA struct {
	File    string // PEM of the certificate, for those who shall trust it
	KeyFile string // PEM of its key, for a box that mints its own certificate

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issuedAgo is how long ago certificates were issued, as they say: boxes with a clock that is weeks behind are to trust them.
const issuedAgo = 90 * 24 * time.Hour

// LoadCA takes an authority that somebody else made, whose files (PEM) a central server trusts already, and writes what a box needs of it into dir: a
// certificate of the same authority that was valid earlier.
func LoadCA(certFile, keyFile, dir string) (*CA, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("load CA: the key in %s is not one of an elliptic curve", keyFile)
	}
	old, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: old.SerialNumber, RawSubject: old.RawSubject, SubjectKeyId: old.SubjectKeyId, NotBefore: time.Now().Add(-issuedAgo), NotAfter: old.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: old.KeyUsage,
	}
	return newCA(t, key, dir)
}

// NewCA makes an authority and writes its files into dir.
func NewCA(dir string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-issuedAgo), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	return newCA(t, key, dir)
}

func newCA(t *x509.Certificate, key *ecdsa.PrivateKey, dir string) (*CA, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	ca := &CA{File: filepath.Join(dir, "ca.crt"), KeyFile: filepath.Join(dir, "ca.key"), key: key}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	return ca, writePair(ca.File, ca.KeyFile, der, key)
}

// Issue writes a server certificate for a host (a name or an address), with its key.
func (ca *CA) Issue(host, certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("issue certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return fmt.Errorf("issue certificate: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: host},
		NotBefore: time.Now().Add(-issuedAgo), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		t.IPAddresses = []net.IP{ip}
	} else {
		t.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, key.Public(), ca.key)
	if err != nil {
		return fmt.Errorf("issue certificate: %w", err)
	}
	return writePair(certFile, keyFile, der, key)
}

func writePair(certFile, keyFile string, der []byte, key *ecdsa.PrivateKey) error {
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600)
}
