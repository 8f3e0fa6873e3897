// SPDX-License-Identifier: EUPL-1.2

// Package acme asks a certificate authority outside for the certificate of a box or a hub (RFC 8555) and proves the names by a record in their DNS zone (dns-01): the only
// proof that a box can give which nobody can reach from the Internet. A hub, which can be reached, may prove them by an answer over HTTP (http-01) instead. The record is written by dynamic update (RFC 2136) with a shared key (TSIG), which BIND, Knot
// and PowerDNS speak, so that no hoster's own interface is needed. A zone that cannot be updated so delegates the one name
// _acme-challenge.NAME by CNAME or NS to a server that can.
//
// It promises to do one thing once: Obtain asks, waits, cleans up after itself, and gives the chain. When to ask, and where keys and certificates lie, is the
// matter of others. It is given the time, because the machine's clock may be wrong.
//
// Why not certmagic, which does all this and more: it decides by itself when to ask, keeps files of its own, and brings a logger, a cache and DNS providers. Linked into
// the box it costs 1.3 MB of program without any provider; this package costs 0.14 MB, because libp2p brings the DNS library already. Neither shows in the memory of
// an idle box, so that no process of its own is needed.
package acme

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// LetsEncrypt is the directory of the usual authority.
const LetsEncrypt = acme.LetsEncryptURL

// Config says whom to ask and how to prove names. DNS or HTTP, and Now, are required.
type Config struct {
	Directory string         // URL; empty: LetsEncrypt
	Email     string         // of whoever should hear of trouble; may be empty
	Roots     *x509.CertPool // to trust the directory by; nil: the system's
	KeyID     string         // external account binding, where the authority wants one
	MACKey    []byte
	DNS       Update
	HTTP      *Answers // nil: names are proven by DNS
	Now       func() time.Time
	Log       *slog.Logger
}

// Parse makes a Config from the names that provisioning files use. It is the one place that knows the settings:
//
//	provider "rfc2136": server (HOST or HOST:PORT), key (name of the TSIG key), secret (base64), and, where the usual does not fit, algorithm
//	(hmac-sha256), zone (found by its SOA record), record (where _acme-challenge.NAME leads; found by its CNAME)
//	provider "http-01": none of its own; Config.HTTP must be served at port 80 of the names
//	any provider: eab_kid, eab_key (base64url), of an authority that wants them
func Parse(directory, email, ca, provider string, settings map[string]string) (Config, error) {
	c := Config{Directory: directory, Email: email}
	if c.Directory == "" {
		c.Directory = LetsEncrypt
	}
	switch provider {
	case "http-01":
		c.HTTP = &Answers{}
	case "rfc2136":
	default:
		return c, fmt.Errorf("acme: provider %q is not known; \"rfc2136\" is, with the settings server, key and secret, and \"http-01\"", provider)
	}
	if ca != "" {
		c.Roots = x509.NewCertPool()
		if !c.Roots.AppendCertsFromPEM([]byte(ca)) {
			return c, errors.New("acme: ca holds no certificate in PEM form")
		}
	}
	for name, value := range settings {
		var err error
		switch name {
		case "server":
			c.DNS.Server = value
		case "key":
			c.DNS.Key = value
		case "secret":
			_, err = base64.StdEncoding.DecodeString(value)
			c.DNS.Secret = value
		case "algorithm":
			c.DNS.Algorithm, err = algorithm(value)
		case "zone":
			c.DNS.Zone = value
		case "record":
			c.DNS.Record = value
		case "eab_kid":
			c.KeyID = value
		case "eab_key":
			c.MACKey, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(value, "="))
		default:
			return c, fmt.Errorf("acme: the setting %q is not known", name)
		}
		if err != nil {
			return c, fmt.Errorf("acme: setting %q: %w", name, err)
		}
	}
	switch {
	case c.HTTP != nil && c.DNS.Server+c.DNS.Key+c.DNS.Secret+c.DNS.Algorithm+c.DNS.Zone+c.DNS.Record != "":
		return c, errors.New("acme: http-01 has no settings but eab_kid and eab_key")
	case c.HTTP == nil && (c.DNS.Server == "" || c.DNS.Key == "" || c.DNS.Secret == ""):
		return c, errors.New("acme: the settings server, key and secret are needed")
	case (c.KeyID == "") != (len(c.MACKey) == 0):
		return c, errors.New("acme: the settings eab_kid and eab_key come together")
	}
	return c, nil
}

// Obtain asks for a certificate for names with the signing request csr (DER), as the account of that key; the account is made when there is none. It gives the chain,
// the box's own certificate first. It may take minutes.
func (c Config) Obtain(ctx context.Context, account crypto.Signer, names []string, csr []byte) ([]*x509.Certificate, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: c.Roots, Time: c.Now},
		TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: time.Minute,
	}
	defer transport.CloseIdleConnections()
	client := &acme.Client{Key: account, DirectoryURL: c.Directory, HTTPClient: &http.Client{Transport: transport}, UserAgent: "hallig"}
	if err := c.register(ctx, client); err != nil {
		return nil, err
	}
	order, err := client.AuthorizeOrder(ctx, acme.DomainIDs(names...))
	if err != nil {
		return nil, fmt.Errorf("ask %s for a certificate: %w", c.Directory, err)
	}
	for _, u := range order.AuthzURLs {
		if err := c.prove(ctx, client, u); err != nil {
			return nil, err
		}
	}
	if order, err = client.WaitOrder(ctx, order.URI); err != nil {
		return nil, fmt.Errorf("wait for the authority: %w", err)
	}
	der, _, err := client.CreateCertFromOrder(ctx, order, csr, true)
	if err != nil {
		return nil, fmt.Errorf("fetch the certificate: %w", err)
	}
	var chain []*x509.Certificate
	for _, d := range der {
		one, err := x509.ParseCertificate(d)
		if err != nil {
			return nil, fmt.Errorf("read the certificate of the authority: %w", err)
		}
		chain = append(chain, one)
	}
	return chain, nil
}

func (c Config) register(ctx context.Context, client *acme.Client) error {
	if _, err := client.GetReg(ctx, ""); err == nil {
		return nil
	} else if !errors.Is(err, acme.ErrNoAccount) {
		return fmt.Errorf("ask %s: %w", c.Directory, err)
	}
	a := &acme.Account{}
	if c.Email != "" {
		a.Contact = []string{"mailto:" + c.Email}
	}
	if c.KeyID != "" {
		a.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: c.KeyID, Key: c.MACKey}
	}
	if _, err := client.Register(ctx, a, acme.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return fmt.Errorf("make an account at %s: %w", c.Directory, err)
	}
	return nil
}

// prove lays the proof of one name out, has the authority look, and takes it away.
func (c Config) prove(ctx context.Context, client *acme.Client, url string) error {
	auth, err := client.GetAuthorization(ctx, url)
	if err != nil {
		return fmt.Errorf("ask for the proof of a name: %w", err)
	}
	if auth.Status == acme.StatusValid {
		return nil
	}
	kind, show := "dns-01", c.showDNS
	if c.HTTP != nil {
		kind, show = "http-01", c.showHTTP
	}
	var challenge *acme.Challenge
	for _, ch := range auth.Challenges {
		if ch.Type == kind {
			challenge = ch
		}
	}
	name := auth.Identifier.Value
	if challenge == nil {
		return fmt.Errorf("the authority does not take a proof by %s for %s", kind, name)
	}
	hide, err := show(ctx, client, name, challenge.Token)
	if err != nil {
		return err
	}
	defer hide()
	if _, err := client.Accept(ctx, challenge); err != nil {
		return fmt.Errorf("offer the proof for %s: %w", name, err)
	}
	if _, err := client.WaitAuthorization(ctx, auth.URI); err != nil {
		return fmt.Errorf("the authority did not accept the proof for %s: %w", name, err)
	}
	return nil
}

// showHTTP answers with the proof of a name until hide.
func (c Config) showHTTP(_ context.Context, client *acme.Client, name, token string) (hide func(), err error) {
	answer, err := client.HTTP01ChallengeResponse(token)
	if err != nil {
		return nil, fmt.Errorf("make the proof for %s: %w", name, err)
	}
	c.HTTP.put(client.HTTP01ChallengePath(token), answer)
	return func() { c.HTTP.put(client.HTTP01ChallengePath(token), "") }, nil
}

// showDNS puts the record of one name into the DNS until hide.
func (c Config) showDNS(ctx context.Context, client *acme.Client, name, token string) (hide func(), err error) {
	value, err := client.DNS01ChallengeRecord(token)
	if err != nil {
		return nil, fmt.Errorf("make the proof for %s: %w", name, err)
	}
	dns := c.DNS
	dns.now = c.Now
	record, err := dns.put(ctx, name, value)
	if err != nil {
		return nil, fmt.Errorf("write the proof for %s into the DNS at %s: %w", name, c.DNS.Server, err)
	}
	dns.await(ctx, record, value)
	return func() { // also when the time is over
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer stop()
		if err := dns.remove(ctx, record, value); err != nil {
			c.Log.Warn("the proof stays in the DNS; it does no harm there", "record", record.name, "err", err)
		}
	}, nil
}
