// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"hallig/appliance/cert"
)

// certificates answers handshakes: by a given certificate that holds the name, or by one that is minted for it when it is one of ours.
type certificates struct {
	ours func(host string) bool // host is the host part of a name of the hub or of a box
	now  func() time.Time
	from *fetcher // certificates of an authority outside; nil: there is none

	mu     sync.Mutex
	given  []given
	mint   *cert.Files // the CA; nil: there is none
	minted map[string]*tls.Certificate
	looked time.Time
}

// given is a certificate from files.
type given struct {
	files cert.Files
	at    time.Time // of the certificate file
	pair  *tls.Certificate
}

const (
	lookAtFiles = time.Minute
	mintAgain   = 30 * 24 * time.Hour
)

var errNoCertificate = errors.New("no certificate for that name")

// openCertificates reads all files once, so that a mistake shows at the start.
func openCertificates(files []cert.Files, ours func(string) bool, now func() time.Time) (*certificates, error) {
	c := &certificates{ours: ours, now: now, minted: map[string]*tls.Certificate{}}
	for i, f := range files {
		pair, err := f.For("localhost", now())
		if err != nil {
			return nil, fmt.Errorf("tls[%d]: %w", i, err)
		}
		if f.Certificate == "" {
			c.mint = &f
			continue
		}
		c.given = append(c.given, given{files: f, at: changed(f.Certificate), pair: &pair})
	}
	return c, nil
}

// changed is when a file was written; zero when nobody can say.
func changed(name string) time.Time {
	if info, err := os.Stat(name); err == nil {
		return info.ModTime()
	}
	return time.Time{}
}

// certificate is the tls.Config's. Who names no host is given the certificate of the address that it came to.
func (c *certificates) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := hello.ServerName
	if host == "" && hello.Conn != nil {
		host, _, _ = net.SplitHostPort(hello.Conn.LocalAddr().String())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	for _, g := range c.given {
		if g.pair.Leaf != nil && g.pair.Leaf.VerifyHostname(host) == nil {
			return g.pair, nil
		}
	}
	if !c.ours(host) {
		return nil, errNoCertificate
	}
	if c.from != nil {
		if p := c.from.find(host); p != nil {
			return p, nil
		}
	}
	if p := c.minted[host]; p != nil && c.now().Before(p.Leaf.NotAfter.Add(-mintAgain)) {
		return p, nil
	}
	if c.mint == nil {
		return nil, errNoCertificate
	}
	pair, err := c.mint.For(host, c.now())
	if err == nil && pair.Leaf == nil {
		pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
	}
	if err != nil {
		return nil, err
	}
	c.minted[host] = &pair
	return &pair, nil
}

// isGiven says whether a given certificate holds a host.
func (c *certificates) isGiven(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.given, func(g given) bool { return g.pair.Leaf != nil && g.pair.Leaf.VerifyHostname(host) == nil })
}

// refresh reads files that were changed. One that cannot be read now leaves the old one in use: the next look tries again.
func (c *certificates) refresh() {
	if now := c.now(); now.Sub(c.looked).Abs() < lookAtFiles {
		return
	} else {
		c.looked = now
	}
	for i := range c.given {
		g := &c.given[i]
		at := changed(g.files.Certificate)
		if at.IsZero() || at.Equal(g.at) {
			continue
		}
		if pair, err := tls.LoadX509KeyPair(g.files.Certificate, g.files.Key); err == nil {
			g.pair, g.at = &pair, at
		}
	}
}
