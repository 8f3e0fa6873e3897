// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"hallig/appliance/acme"
	"hallig/appliance/admin"
	"hallig/appliance/cert"
	"hallig/appliance/steward"
)

// This file gets certificates from outside: asked for by ACME now and then, when the outside is in reach, or brought by an operator. Nothing waits for either.

const (
	renewalLook  = 10 * time.Minute // how often the box looks whether one is due and the authority in reach
	renewalGap   = time.Hour        // after a try that failed, doubled each time
	renewalPause = 24 * time.Hour   // and never more
	renewalLimit = 5 * time.Minute
)

// acme is the configured authority.
func (c *Config) acme() (acme.Config, error) {
	a := c.Certificate.ACME
	return acme.Parse(a.Directory, a.Email, a.CA, a.Provider, a.Settings)
}

// renewCertificate asks for a certificate from outside whenever one is due, until ctx ends.
func (b *Box) renewCertificate(ctx context.Context) {
	if b.certs == nil || !b.cfg.Certificate.ACME.Wanted() {
		return
	}
	c, err := b.cfg.acme()
	if err != nil { // check has looked already
		b.log.Error("no certificate can be asked for", "err", err)
		return
	}
	select {
	case <-b.doors.open: // a trial asks nobody
	case <-ctx.Done():
		return
	}
	if c.Roots == nil {
		if c.Roots, err = cert.Roots(b.cfg.CAFile, b.cfg.Provisioned.Organisation.CA); err != nil {
			b.log.Error("no certificate can be asked for", "err", err)
			return
		}
	}
	c.Now, c.Log = b.clock.Now, b.log.With("room", "acme")
	gap := renewalGap
	look := func() {
		if !b.clock.Trusted() || b.clock.Now().Before(b.nextRenewal()) || !b.certs.Due() || !inReach(ctx, c.Directory) {
			return
		}
		// Noted first: a box that loses its power over it does not ask without end.
		b.noteRenewal(b.clock.Now().Add(gap))
		switch err := b.askForCertificate(ctx, c); {
		case ctx.Err() != nil:
		case err != nil:
			b.certs.Failed(err.Error())
			c.Log.Warn("no certificate from outside; the box goes on with what it has", "err", err, "again_in", gap)
			gap = min(2*gap, renewalPause)
		default:
			gap = renewalGap
			b.tellNames()
		}
	}
	look()
	every(ctx, renewalLook, look)
}

func (b *Box) askForCertificate(ctx context.Context, c acme.Config) error {
	ctx, stop := context.WithTimeout(ctx, renewalLimit)
	defer stop()
	wish, err := b.certs.Wish()
	if err != nil {
		return err
	}
	account, err := b.certs.Account()
	if err != nil {
		return err
	}
	chain, err := c.Obtain(ctx, account, wish.Names, wish.CSR)
	if err != nil {
		return err
	}
	return b.certs.Grant(wish, chain)
}

// inReach says whether the authority's port opens.
func inReach(ctx context.Context, directory string) bool {
	u, err := url.Parse(directory)
	if err != nil {
		return false
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func (b *Box) renewalFile() string { return filepath.Join(b.cfg.Data, "tls", "acme.next") }

func (b *Box) nextRenewal() time.Time {
	raw, err := os.ReadFile(b.renewalFile())
	if err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, string(raw))
	if err != nil || t.After(b.clock.Now().Add(renewalPause)) { // damaged, or from a clock that was wrong
		return time.Time{}
	}
	return t
}

func (b *Box) noteRenewal(t time.Time) {
	if err := renameio.WriteFile(b.renewalFile(), []byte(t.UTC().Format(time.RFC3339)), 0o600); err != nil {
		b.log.Warn("time of the next request for a certificate not noted", "err", err)
	}
}

var errNoTLS = &admin.Refusal{Text: "the box serves no TLS to clients; start it with --tls-listen ADDR:PORT"}

// signingRequest is what an authority outside signs.
func (b *Box) signingRequest(context.Context) (string, error) {
	if b.certs == nil {
		return "", errNoTLS
	}
	text, err := b.certs.Request()
	return string(text), err
}

// installCertificate takes one that an operator brings.
func (b *Box) installCertificate(_ context.Context, text string) (admin.Certificate, error) {
	if b.certs == nil {
		return admin.Certificate{}, errNoTLS
	}
	s, err := b.certs.Install([]byte(text))
	if refusal := (*cert.Refusal)(nil); errors.As(err, &refusal) {
		return s, errors.Join(&admin.Refusal{Text: refusal.En}, steward.Text{De: refusal.De, En: refusal.En}) // for the door, and for the page
	}
	if err == nil {
		b.tellNames()
	}
	return s, err
}
