// SPDX-License-Identifier: EUPL-1.2

package cert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// Files names a certificate and its key, or a CA from which one is minted at each start.
type Files struct {
	Certificate   string `json:"certificate,omitempty"`    // PEM file
	Key           string `json:"key,omitempty"`            // PEM file
	CACertificate string `json:"ca_certificate,omitempty"` // PEM file: mint from this CA
	CAKey         string `json:"ca_key,omitempty"`         // PEM file, PKCS#1, PKCS#8 or SEC 1
}

// Check refuses halves of a pair.
func (f Files) Check() error {
	if (f.Certificate == "") != (f.Key == "") || (f.CACertificate == "") != (f.CAKey == "") {
		return errors.New("a certificate and its key come together")
	}
	return nil
}

// For gives the certificate that other servers see under a server name: the given one, or one minted from the given CA for
// this start (so a box that is often away never serves an expired one while it has its CA).
func (f Files) For(serverName string, now time.Time) (tls.Certificate, error) {
	if f.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
		if err != nil {
			return pair, fmt.Errorf("load %s: %w", f.Certificate, err)
		}
		return pair, nil
	}
	ca, err := tls.LoadX509KeyPair(f.CACertificate, f.CAKey)
	if err != nil {
		return ca, fmt.Errorf("load CA %s: %w", f.CACertificate, err)
	}
	return mint(ca, serverName, now)
}

func mint(ca tls.Certificate, serverName string, now time.Time) (tls.Certificate, error) {
	parent, err := x509.ParseCertificate(ca.Certificate[0])
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("parse CA: %w", err)
	}
	signer, ok := ca.PrivateKey.(crypto.Signer)
	if !ok {
		return tls.Certificate{}, errors.New("the CA's key cannot sign")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make serial number: %w", err)
	}
	host := serverName
	if h, _, err := net.SplitHostPort(serverName); err == nil {
		host = h
	}
	leaf := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: host},
		NotBefore:    now.Add(-48 * time.Hour), // a peer's clock may lag
		NotAfter:     now.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		leaf.IPAddresses = []net.IP{ip}
	} else {
		leaf.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, key.Public(), signer)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("mint certificate for %s: %w", host, err)
	}
	return tls.Certificate{Certificate: [][]byte{der, ca.Certificate[0]}, PrivateKey: key}, nil
}

// Roots is the system's certificate authorities and those of the CA file and of the organisation (PEM). Without one it is nil, which means
// the system's too, but has them read only when the first public server is met: many boxes never meet one.
func Roots(caFile, organisation string) (*x509.CertPool, error) {
	if caFile == "" && organisation == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a box image has no system store
	}
	if organisation != "" && !pool.AppendCertsFromPEM([]byte(organisation)) {
		return nil, errors.New("organisation.ca holds no PEM certificate")
	}
	if caFile == "" {
		return pool, nil
	}
	raw, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	if block, _ := pem.Decode(raw); block == nil || !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("ca_file %s holds no PEM certificate", caFile)
	}
	return pool, nil
}
