// SPDX-License-Identifier: EUPL-1.2

// Package cert keeps the certificates that a box shows to phones and browsers: one of its own authority, always, and one from outside
// (the organisation's CA or ACME) when there is one. Certificate answers each handshake with the better of the two.
//
// Its own authority is made once per box, and its key leaves the box only in an encrypted backup. A phone that trusts it shall risk as little as possible, so the authority is
// bound by critical name constraints to the names of this box and to private addresses: who steals the box can pretend to be the box, and
// whatever else has no public name in a local network, and nothing more.
//
// # Time
//
// A box may wake up with a clock that lags by years, and the phone beside it knows the time. Certificates are dated so that both agree:
//
//   - The clock of the box may lag and never leads (appliance/clock), so "not before" is two days before it: in no phone's future.
//   - A certificate lives for 825 days, the most that Apple's systems take. A clock that lags by up to 821 days therefore still gives certificates that
//     are valid for phones.
//   - The system's own clock, for which nobody vouches, is heard only when it is ahead by two thirds of that life or more: then certificates dated by the
//     known time are about to be too old for the phones if that clock is right, and an RTC that ran on is likelier than one that jumped ahead by years.
//   - The authority is valid from a fixed day before the first release, so that turning the clock back never makes it "not yet valid".
//   - A certificate is made anew when a third of its life is over by that reckoning, when it is not valid yet (the clock was turned back), when a name or an
//     address is missing in it. Which of two certificates is shown is judged by the best guess at the time; nothing is thrown away for its age.
//
// # Files
//
// In Options.Dir, mode 0600, each written whole or not at all: ca.pem (the authority: certificate and key), leaf.pem (certificate made by it, and key),
// outside.pem (chain and key), request.pem (key that waits for the answer to a signing request), acme.pem (account key). A damaged file is set aside under the
// name NAME.damaged with an error in the log, and made anew where that is possible: a box without TLS helps nobody.
package cert

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
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
)

// Options are what a Keeper needs to know of its box. Dir, Host, Now and Log are required.
type Options struct {
	Dir   string   // made with mode 0700 when it is missing
	Host  string   // the server name without port: a name or an address
	Names []string // more names of the box; those at the making of the authority, and below them, are all it can ever sign for
	// Now is the box's time, which never leads. Likely is the best guess when nobody vouches for it, Trusted whether somebody does; nil: Now and yes.
	Now     func() time.Time
	Likely  func() time.Time
	Trusted func() bool
	Log     *slog.Logger
	// Public are the authorities that phones know; nil: those that this system knows, read only when there is a certificate from outside.
	Public *x509.CertPool
}

// Keeper holds the certificates. Safe for concurrent use.
type Keeper struct {
	o Options

	mu      sync.RWMutex
	own     authority
	leaf    *tls.Certificate // of own; Leaf is set
	outside *tls.Certificate // nil: none; Leaf is set
	public  bool             // everybody's devices know the issuer of outside
	names   []string         // that the box has now
	addrs   []netip.Addr
	trouble string // of the last try to get one from outside
}

// Source says where the certificate comes from that the box shows under its own name.
type Source string

// Sources.
const (
	Own     Source = "own"     // the box's authority
	Outside Source = "outside" // the organisation's CA, or ACME
)

// State is for the status page.
type State struct {
	Source      Source    `json:"source"`
	Public      bool      `json:"public"`  // from outside, and everybody's devices know the issuer; an organisation's own devices alone know its CA
	Names       []string  `json:"names"`   // names and addresses in it
	Covered     []string  `json:"covered"` // names and addresses of the box that it holds for, those for people first
	Issuer      string    `json:"issuer"`
	NotBefore   time.Time `json:"not_before"`
	Expires     time.Time `json:"expires"`
	Fingerprint string    `json:"fingerprint"` // of the box's authority: SHA-256 as XX:XX:..., which people compare when they trust it
	Authority   time.Time `json:"authority_expires"`
	// Lapsed is the end of a certificate from outside that is not shown any more, zero when there is none.
	Lapsed time.Time `json:"lapsed,omitzero"`
	// Uncovered are names of the box that neither certificate covers: the authority was made before the box had them.
	Uncovered []string `json:"uncovered,omitempty"`
	// Trouble is why the last try to get a certificate from outside failed.
	Trouble string `json:"trouble,omitempty"`
}

// Open reads the certificates, or makes an authority and a first certificate for names and addrs.
func Open(o Options, addrs []netip.Addr) (*Keeper, error) {
	if o.Likely == nil {
		o.Likely = o.Now
	}
	if o.Trusted == nil {
		o.Trusted = func() bool { return true }
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of certificates: %w", err)
	}
	k := &Keeper{o: o, addrs: addrs, names: hosts(o)}
	if err := k.openAuthority(); err != nil {
		return nil, err
	}
	var err error
	if k.outside, err = k.read("outside.pem"); err != nil {
		return nil, err
	}
	k.public = k.outside != nil && k.known(k.outside)
	if k.leaf, err = k.read("leaf.pem"); err != nil {
		return nil, err
	}
	return k, k.Refresh(o.Names, addrs)
}

// hosts are the names of the box, its own first.
func hosts(o Options) []string {
	names := []string{strings.ToLower(o.Host)}
	for _, n := range o.Names {
		if n = strings.ToLower(n); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// Refresh makes the box's own certificate anew when it lacks one of the names or addresses, or has become old. It is cheap when nothing is to be done;
// call it when the network changes and now and then. The handshakes after it see the new one.
func (k *Keeper) Refresh(names []string, addrs []netip.Addr) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.o
	o.Names = names
	k.names, k.addrs = hosts(o), addrs
	now := guess(k.o.Now(), k.o.Likely())
	if k.o.Trusted() && k.own.cert.NotAfter.Sub(now) < lastMonth {
		k.o.Log.Warn("the box's own certificate authority has reached its end; a new one is made, and devices that trusted the old one have to trust it again", "ended", k.own.cert.NotAfter)
		if err := k.newAuthority(); err != nil {
			return err
		}
	}
	why := k.stale(now)
	if why == "" {
		return nil
	}
	leaf, err := k.own.issue(k.names, k.wanted(), now)
	if err != nil {
		return err
	}
	if err := k.write("leaf.pem", leaf); err != nil {
		return err
	}
	k.leaf = leaf
	k.o.Log.Info("certificate of the box's own authority made", "why", why, "expires", leaf.Leaf.NotAfter.Format(time.DateOnly), "names", len(leaf.Leaf.DNSNames), "addresses", len(leaf.Leaf.IPAddresses))
	return nil
}

// stale says why the leaf has to be made anew; "": it has not.
func (k *Keeper) stale(now time.Time) string {
	if k.leaf == nil || k.leaf.Leaf.CheckSignatureFrom(k.own.cert) != nil {
		return "there is none yet"
	}
	leaf := k.leaf.Leaf
	switch {
	case now.Before(leaf.NotBefore):
		return "the clock was turned back"
	case now.Sub(leaf.NotBefore) > life/3:
		return "a third of its life is over"
	}
	for _, n := range k.names {
		if k.own.covers(n) && leaf.VerifyHostname(n) != nil {
			return "new name " + n
		}
	}
	for _, a := range k.addrs {
		if k.own.coversAddr(a) && !slices.ContainsFunc(leaf.IPAddresses, net.IP(a.AsSlice()).Equal) {
			return "new address"
		}
	}
	return ""
}

// maxAddrs bounds the addresses in a certificate.
const maxAddrs = 16

// wanted are the addresses for a new leaf: those of now, then those of the last one, so that a network that comes and goes makes no new certificate each
// time, which would make browsers forget that somebody accepted the old one.
func (k *Keeper) wanted() []netip.Addr {
	var out []netip.Addr
	add := func(a netip.Addr) {
		a = a.Unmap().WithZone("")
		if len(out) < maxAddrs && k.own.coversAddr(a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for _, a := range k.addrs {
		add(a)
	}
	if k.leaf != nil {
		for _, ip := range k.leaf.Leaf.IPAddresses {
			if a, ok := netip.AddrFromSlice(ip); ok {
				add(a)
			}
		}
	}
	return out
}

// Certificate is for tls.Config.GetCertificate. The certificate from outside is shown for its names while it is valid; after its end the box's own takes over,
// which devices that trust the box accept without a word. For names that neither covers the one from outside is the likelier to be accepted.
func (k *Keeper) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.choose(hello.ServerName), nil
}

func (k *Keeper) choose(name string) *tls.Certificate {
	if k.outside == nil || name == "" || k.outside.Leaf.VerifyHostname(name) != nil {
		return k.leaf
	}
	if k.valid(k.outside.Leaf) || k.leaf.Leaf.VerifyHostname(name) != nil {
		return k.outside
	}
	return k.leaf
}

// valid judges by the best guess at the time: it is the phones that decide in the end, and they know it.
func (k *Keeper) valid(c *x509.Certificate) bool {
	at := k.o.Likely()
	return !at.After(c.NotAfter) && (!k.o.Trusted() || !at.Before(c.NotBefore))
}

// known says whether a chain leads to a public authority. When it was made, not now: its age is another matter.
func (k *Keeper) known(c *tls.Certificate) bool {
	roots := k.o.Public
	if roots == nil {
		var err error
		if roots, err = x509.SystemCertPool(); err != nil {
			return false
		}
	}
	between := x509.NewCertPool()
	for _, der := range c.Certificate[1:] {
		if one, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(one)
		}
	}
	_, err := c.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: c.Leaf.NotBefore.Add(time.Minute)})
	return err == nil
}

// State tells what the box shows under its own name.
func (k *Keeper) State() State {
	k.mu.RLock()
	defer k.mu.RUnlock()
	shown := k.choose(k.names[0])
	if k.outside != nil && k.valid(k.outside.Leaf) {
		shown = k.outside // under a name of its own, PublicURL's for example
	}
	s := State{
		Source: Own, Names: namesIn(shown.Leaf), Issuer: shown.Leaf.Issuer.CommonName, NotBefore: shown.Leaf.NotBefore, Expires: shown.Leaf.NotAfter,
		Fingerprint: Fingerprint(k.own.cert), Authority: k.own.cert.NotAfter, Trouble: k.trouble,
	}
	if shown == k.outside {
		s.Source, s.Public = Outside, k.public
	}
	if k.outside != nil && !k.valid(k.outside.Leaf) {
		s.Lapsed = k.outside.Leaf.NotAfter
	}
	for _, n := range k.names {
		if shown.Leaf.VerifyHostname(n) == nil {
			s.Covered = append(s.Covered, n)
		}
		if k.leaf.Leaf.VerifyHostname(n) != nil && (k.outside == nil || k.outside.Leaf.VerifyHostname(n) != nil) {
			s.Uncovered = append(s.Uncovered, n)
		}
	}
	for _, a := range k.addrs {
		if n := a.String(); shown.Leaf.VerifyHostname(n) == nil {
			s.Covered = append(s.Covered, n)
		}
	}
	return s
}

func namesIn(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// Authority is the certificate that devices are asked to trust.
func (k *Keeper) Authority() *x509.Certificate {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.own.cert
}

// Fingerprint is the SHA-256 of a certificate as systems show it: upper-case hexadecimal bytes with colons.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	digits := strings.ToUpper(hex.EncodeToString(sum[:]))
	var b strings.Builder
	for i := 0; i < len(digits); i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(digits[i : i+2])
	}
	return b.String()
}

// read gives the chain and key in a file; nil when there is none or it was damaged.
func (k *Keeper) read(name string) (*tls.Certificate, error) {
	path := filepath.Join(k.o.Dir, name)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(raw, raw)
	if err == nil {
		return &pair, nil
	}
	k.o.Log.Error("a file of certificates is damaged and was set aside", "file", path, "as", path+".damaged", "err", err)
	if err := os.Rename(path, path+".damaged"); err != nil {
		return nil, fmt.Errorf("set damaged certificate aside: %w", err)
	}
	return nil, nil
}

func (k *Keeper) write(name string, c *tls.Certificate) error {
	raw, err := encode(c)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(k.o.Dir, name), raw, 0o600); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}
