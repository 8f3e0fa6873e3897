// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
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
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"hallig/appliance/acme"
	"hallig/appliance/cert"
)

// This file has certificates made by an authority outside (ACME) for the names of the hub and its boxes, and renewed in time. Nothing waits for it: until there is one, or when the authority is away,
// the hub goes on with what it has.

const (
	acmeDir   = "acme"
	acmeLook  = 10 * time.Second // for boxes that are new, or a certificate that is due
	acmeGap   = 5 * time.Minute  // after a try that failed, doubled each time: authorities count failures
	acmePause = 12 * time.Hour   // and never more
	acmeLimit = 5 * time.Minute

	acmeByHTTP = "http-01"
)

// ACMEConfig says which authority makes certificates for the names of the hub and its boxes. Empty: none.
type ACMEConfig struct {
	// Provider is how names are proven: "http-01", by an answer at port 80 of each name, one certificate for each; or "rfc2136", by a record that the hub writes into the DNS, one certificate for all.
	Provider string `json:"provider,omitempty"`
	// Directory is the authority's URL. Empty: Let's Encrypt. What ca_file names is trusted for it as well.
	Directory string `json:"directory,omitempty"`
	// Email is of whoever should hear of trouble.
	Email string `json:"email,omitempty"`
	// Settings are those of the provider: rfc2136 wants server, key and secret (and may have algorithm, zone, record); an authority that wants a binding: eab_kid, eab_key.
	Settings map[string]string `json:"settings,omitempty"`
	// Names are what the one certificate of rfc2136 holds. Empty: names of the hub's configuration, and its own.
	Names []string `json:"names,omitempty"`
	// Listen is where http-01 answers: ADDR:PORT. Empty: :80, where the authority looks.
	Listen string `json:"listen,omitempty"`
}

func (a ACMEConfig) wanted() bool { return a.Provider != "" }

func (a ACMEConfig) check(names []string) error {
	if !a.wanted() {
		if a.Directory != "" || a.Email != "" || len(a.Settings) > 0 || len(a.Names) > 0 || a.Listen != "" {
			return errors.New("acme: provider is missing: http-01 or rfc2136")
		}
		return nil
	}
	if _, err := a.parse(); err != nil {
		return err
	}
	if a.Provider == acmeByHTTP {
		if len(a.Names) > 0 {
			return errors.New("acme: with http-01 each name of the hub and its boxes gets a certificate by itself; names is for rfc2136")
		}
		if _, _, err := net.SplitHostPort(a.listen()); err != nil {
			return fmt.Errorf("acme: listen %q: want ADDR:PORT", a.Listen)
		}
		return nil
	}
	if len(a.Names) == 0 && len(names) == 0 {
		return errors.New(`acme: rfc2136 needs to know for which names: "names": ["*.boxes.example.org"]`)
	}
	for _, n := range slices.Concat(a.Names, names) {
		if !certifiable(strings.TrimPrefix(hostOf(n), "*.")) {
			return fmt.Errorf("acme: no authority outside certifies %q: want a DNS name with a dot, or one with *. in front", n)
		}
	}
	return nil
}

func (a ACMEConfig) parse() (acme.Config, error) {
	return acme.Parse(a.Directory, a.Email, "", a.Provider, a.Settings)
}

func (a ACMEConfig) listen() string {
	if a.Listen == "" {
		return ":80"
	}
	return a.Listen
}

// certifiable says whether an authority outside may know a host.
func certifiable(host string) bool {
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err != nil && strings.Contains(host, ".")
}

// fetcher gets certificates from an authority and keeps them: DIR/account.key, and DIR/NAME.pem with chain and key, NAME being the first that it holds.
type fetcher struct {
	acme.Config
	dir    string
	wanted func() [][]string // names, for each certificate
	log    *slog.Logger

	// Of the one loop that looks.
	again map[string]try

	mu   sync.Mutex
	have map[string]*tls.Certificate // by first name
}

// try is when to ask again for a certificate that was not to be had.
type try struct {
	at  time.Time
	gap time.Duration
}

// openACME reads what is there.
func (h *Hub) openACME() (*fetcher, error) {
	a := h.cfg.ACME
	if !a.wanted() {
		return nil, nil
	}
	c, err := a.parse()
	if err != nil {
		return nil, err
	}
	if c.Roots, err = cert.Roots(h.cfg.CAFile, ""); err != nil {
		return nil, err
	}
	c.Now, c.Log = h.now, h.log.With("room", "acme")
	f := &fetcher{Config: c, dir: filepath.Join(h.cfg.Data, acmeDir), wanted: h.certified, log: c.Log, again: map[string]try{}, have: map[string]*tls.Certificate{}}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of certificates: %w", err)
	}
	names, err := filepath.Glob(filepath.Join(f.dir, "*.pem"))
	for _, name := range names {
		pair, err := readPair(name)
		if err != nil {
			f.log.Warn("a certificate cannot be read; it is asked for anew", "file", name, "err", err)
			continue
		}
		f.have[strings.ReplaceAll(strings.TrimSuffix(filepath.Base(name), ".pem"), "_", "*")] = pair
	}
	return f, err
}

// certified lists the names for which certificates are wanted.
func (h *Hub) certified() [][]string {
	a, own := h.cfg.ACME, hostOf(h.id.Server)
	if a.Provider != acmeByHTTP {
		names := a.Names
		if len(names) == 0 {
			for _, n := range append(slices.Clone(h.cfg.Names), own) {
				if n = hostOf(n); !slices.Contains(names, n) && certifiable(n) {
					names = append(names, n)
				}
			}
		}
		return [][]string{names}
	}
	var out [][]string
	for _, host := range append([]string{own}, h.liveHosts()...) {
		if certifiable(host) && !h.certs.isGiven(host) {
			out = append(out, []string{host})
		}
	}
	return out
}

// liveHosts are the hosts of boxes that were not turned away.
func (h *Hub) liveHosts() (hosts []string) {
	for server, e := range h.roster.Load().by {
		if e.revoked == "" {
			hosts = append(hosts, hostOf(server))
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

func readPair(name string) (*tls.Certificate, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(raw, raw)
	if err != nil {
		return nil, err
	}
	return &pair, nil
}

// find gives the certificate for a host; nil: there is none.
func (f *fetcher) find(host string) *tls.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.have[host]; p != nil {
		return p
	}
	for _, p := range f.have {
		if p.Leaf.VerifyHostname(host) == nil {
			return p
		}
	}
	return nil
}

// due says whether a certificate is missing, holds other names than those that are wanted, or has less than a third of its life before it.
func (f *fetcher) due(names []string, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.have[names[0]]
	if p == nil {
		return true
	}
	for _, n := range names {
		if !slices.Contains(p.Leaf.DNSNames, n) {
			return true
		}
	}
	return now.After(p.Leaf.NotAfter.Add(-p.Leaf.NotAfter.Sub(p.Leaf.NotBefore) / 3))
}

// look asks for what is due, one after the other.
func (f *fetcher) look(ctx context.Context) {
	for _, names := range f.wanted() {
		now := f.Now()
		if last := f.again[names[0]]; ctx.Err() != nil || now.Before(last.at) || !f.due(names, now) {
			continue
		}
		if err := f.fetch(ctx, names); err != nil && ctx.Err() == nil {
			gap := min(max(2*f.again[names[0]].gap, acmeGap), acmePause)
			f.again[names[0]] = try{f.Now().Add(gap), gap}
			f.log.Warn("no certificate: "+f.advice(), "names", strings.Join(names, " "), "err", err, "again_in", gap)
			continue
		}
		delete(f.again, names[0])
	}
}

// advice is what to look at when the authority makes none.
func (f *fetcher) advice() string {
	if f.HTTP != nil {
		return "does the name lead to this hub, and is port 80 open to the world?"
	}
	return "does the name server take the hub's changes, and does the world see them?"
}

func (f *fetcher) fetch(ctx context.Context, names []string) error {
	ctx, stop := context.WithTimeout(ctx, acmeLimit)
	defer stop()
	account, err := f.account()
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names}, key)
	if err != nil {
		return fmt.Errorf("make signing request: %w", err)
	}
	chain, err := f.Obtain(ctx, account, names, csr)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	var file []byte
	for _, c := range chain {
		file = append(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	file = append(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	pair, err := tls.X509KeyPair(file, file)
	if err == nil {
		for _, n := range names {
			if !slices.Contains(pair.Leaf.DNSNames, n) {
				err = fmt.Errorf("the authority has left out %s", n)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("the certificate that came is of no use: %w", err)
	}
	name := filepath.Join(f.dir, strings.ReplaceAll(names[0], "*", "_")+".pem")
	if err := renameio.WriteFile(name, file, 0o600); err != nil {
		return fmt.Errorf("keep the certificate: %w", err)
	}
	f.mu.Lock()
	f.have[names[0]] = &pair
	f.mu.Unlock()
	f.log.Info("certificate from outside", "names", strings.Join(names, " "), "until", pair.Leaf.NotAfter)
	return nil
}

// account is the key of the account at the authority; it is made when there is none.
func (f *fetcher) account() (crypto.Signer, error) {
	name := filepath.Join(f.dir, "account.key")
	raw, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make the account's key: %w", err)
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err == nil {
			err = renameio.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("keep the account's key: %w", err)
		}
		return key, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the account's key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key; delete it, and another account is made", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s holds no key; delete it, and another account is made", name)
	}
	return signer, nil
}
