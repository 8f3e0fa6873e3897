// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"hallig/appliance/event"
)

// DiscoveryConfig says how public servers are found.
type DiscoveryConfig struct {
	// Addresses names, for closed networks, where a server is: "matrix.example.org" -> "10.0.0.5:8448". The certificate
	// must still be valid for the server name. These addresses may be private.
	Addresses map[string]string
	// Roots are the certificate authorities to trust; nil means the system's.
	Roots *x509.CertPool
	// AllowPrivate lets discovery end at private, loopback and link-local addresses.
	AllowPrivate bool
	// Resolver answers DNS questions; nil means the system's.
	Resolver *net.Resolver
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Date is the time by which certificates are judged; nil means time.Now.
	Date func() time.Time
	// wellKnown replaces the HTTPS request for .well-known in tests.
	wellKnown func(ctx context.Context, host string) (delegated string, keep time.Duration, err error)
}

// Discovery is a http.RoundTripper that takes requests to server names (scheme matrix-federation) to public servers over
// HTTPS: by configured address, IP literal, explicit port, .well-known, SRV records, and port 8448 in the end.
// https://spec.matrix.org/v1.16/server-server-api/#resolving-server-names
type Discovery struct {
	c    DiscoveryConfig
	http *http.Transport
	web  *http.Client // for .well-known

	mu    sync.Mutex
	found map[string]place
}

// place is where a server was found.
type place struct {
	host   string   // Host header
	cert   string   // name or address that the certificate must be valid for
	dial   []string // host:port, in order of preference
	listed bool     // by configuration: may be private
	until  time.Time
}

const (
	dialTimeout     = 10 * time.Second
	dnsTimeout      = 5 * time.Second
	placeKept       = 10 * time.Minute
	wellKnownKept   = 24 * time.Hour
	wellKnownMax    = 48 * time.Hour
	wellKnownFailed = time.Hour
	maxWellKnown    = 64 << 10
)

// NewDiscovery returns the way to public servers.
func NewDiscovery(c DiscoveryConfig) *Discovery {
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	d := &Discovery{c: c, found: map[string]place{}}
	d.http = &http.Transport{
		DialTLSContext:        d.dialTLS,
		MaxIdleConnsPerHost:   4,
		MaxConnsPerHost:       16,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
	}
	d.web = &http.Client{
		Timeout: 15 * time.Second,
		Transport: &http.Transport{
			DialContext:         d.dialer(false).DialContext,
			TLSClientConfig:     &tls.Config{RootCAs: c.Roots, Time: c.Date},
			TLSHandshakeTimeout: dialTimeout,
			DisableKeepAlives:   true,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 5 || req.URL.Scheme != "https" {
				return errors.New("redirect refused")
			}
			return nil
		},
	}
	if d.c.wellKnown == nil {
		d.c.wellKnown = d.askWellKnown
	}
	return d
}

// RoundTrip sends one request to the server named in its URL.
func (d *Discovery) RoundTrip(req *http.Request) (*http.Response, error) {
	server := req.URL.Host
	p, err := d.place(req.Context(), server)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", server, err)
	}
	out := req.Clone(req.Context())
	out.URL.Scheme = "https"
	// The pool keeps connections by URL host. The server's name in hex keeps two servers at one address apart, whose
	// certificates were checked for different names.
	out.URL.Host = hex.EncodeToString([]byte(server)) + ".server"
	out.Host = p.host
	resp, err := d.http.RoundTrip(out)
	if err != nil {
		d.forget(server)
		return nil, err
	}
	resp.Request = req
	return resp, nil
}

// Web follows addresses that another server hands out, such as those of its media: over HTTPS only, and to no private address.
func (d *Discovery) Web(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return nil, errors.New("only https addresses are followed")
	}
	c := *d.web
	c.Timeout = 0 // files take their time; the request's context ends it
	return c.Do(req)
}

// CloseIdle drops connections that nobody uses, so that the next request finds a new way after the network has changed.
func (d *Discovery) CloseIdle() { d.http.CloseIdleConnections() }

func (d *Discovery) forget(server string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p, ok := d.found[server]; ok && p.until.Sub(d.c.Now()) < wellKnownFailed {
		delete(d.found, server) // addresses from DNS are cheap to ask again; a well-known answer is kept as its server said
	}
}

func (d *Discovery) place(ctx context.Context, server string) (place, error) {
	d.mu.Lock()
	p, ok := d.found[server]
	d.mu.Unlock()
	if ok && d.c.Now().Before(p.until) {
		return p, nil
	}
	p, err := d.find(ctx, server)
	if err != nil {
		return p, err
	}
	d.mu.Lock()
	bound(d.found)
	d.found[server] = p
	d.mu.Unlock()
	return p, nil
}

func (d *Discovery) find(ctx context.Context, server string) (place, error) {
	if !event.ValidServerName(server) {
		return place{}, errors.New("no valid server name")
	}
	now := d.c.Now()
	host, port, hasPort := splitName(server)
	if addr, ok := d.c.Addresses[server]; ok {
		if _, _, has := splitName(addr); !has {
			addr = net.JoinHostPort(strings.Trim(addr, "[]"), "8448")
		}
		return place{host: server, cert: host, dial: []string{addr}, listed: true, until: now.Add(placeKept)}, nil
	}
	if _, err := netip.ParseAddr(host); err == nil || hasPort { // steps 1 and 2
		return place{host: server, cert: host, dial: []string{net.JoinHostPort(host, port)}, until: now.Add(placeKept)}, nil
	}
	delegated, keep, err := d.c.wellKnown(ctx, host) // step 3
	if err == nil && event.ValidServerName(delegated) {
		dhost, dport, has := splitName(delegated)
		p := place{host: delegated, cert: dhost, until: now.Add(keep)}
		if _, err := netip.ParseAddr(dhost); err == nil || has {
			p.dial = []string{net.JoinHostPort(dhost, dport)}
			return p, nil
		}
		p.until = now.Add(min(keep, placeKept)) // SRV records change
		p.dial = d.service(ctx, dhost)
		return p, nil
	}
	return place{host: server, cert: host, dial: d.service(ctx, host), until: now.Add(placeKept)}, nil // steps 4 to 6
}

// service asks for SRV records and falls back to port 8448.
func (d *Discovery) service(ctx context.Context, host string) []string {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	for _, name := range []string{"matrix-fed", "matrix"} {
		_, records, err := d.c.Resolver.LookupSRV(ctx, name, "tcp", host)
		if err != nil {
			continue
		}
		var dial []string
		for _, r := range records {
			if target := strings.TrimSuffix(r.Target, "."); target != "" {
				dial = append(dial, net.JoinHostPort(target, strconv.Itoa(int(r.Port))))
			}
		}
		if len(dial) > 0 {
			return dial
		}
	}
	return []string{net.JoinHostPort(host, "8448")}
}

// askWellKnown asks https://host/.well-known/matrix/server. An error means that there is no delegation for now.
func (d *Discovery) askWellKnown(ctx context.Context, host string) (string, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/.well-known/matrix/server", nil)
	if err != nil {
		return "", 0, err
	}
	resp, err := d.web.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxWellKnown))
	if err != nil {
		return "", 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("status %d", resp.StatusCode)
	}
	server, err := readWellKnown(raw)
	return server, wellKnownLife(resp.Header.Get("Cache-Control")), err
}

// readWellKnown gives the name that a server delegates to.
// https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver
func readWellKnown(raw []byte) (string, error) {
	var doc struct {
		Server string `json:"m.server"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return "", err
	}
	if !event.ValidServerName(doc.Server) {
		return "", errors.New("m.server is no server name")
	}
	return doc.Server, nil
}

// wellKnownLife reads max-age, within the bounds the specification recommends.
func wellKnownLife(cacheControl string) time.Duration {
	for part := range strings.SplitSeq(cacheControl, ",") {
		if v, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(part)), "max-age="); ok {
			if n, err := strconv.Atoi(v); err == nil {
				return max(wellKnownFailed, min(time.Duration(min(n, 1<<20))*time.Second, wellKnownMax))
			}
		}
	}
	return wellKnownKept
}

// dialTLS connects to the place of the server whose name is coded in addr.
func (d *Discovery) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	label, _, _ := strings.Cut(addr, ".")
	name, err := hex.DecodeString(label)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	p, err := d.place(ctx, string(name))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, to := range p.dial {
		conn, err := d.dialOne(ctx, network, to, p)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (d *Discovery) dialOne(ctx context.Context, network, to string, p place) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	raw, err := d.dialer(p.listed).DialContext(ctx, network, to)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{ServerName: p.cert, RootCAs: d.c.Roots, Time: d.c.Date, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS with %s at %s: %w", p.cert, to, err)
	}
	return conn, nil
}

// dialer refuses addresses that strangers must not lead us to, after DNS has spoken.
func (d *Discovery) dialer(listed bool) *net.Dialer {
	dl := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second, Resolver: d.c.Resolver}
	if listed || d.c.AllowPrivate {
		return dl
	}
	dl.Control = func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if !public(ap.Addr()) {
			return fmt.Errorf("%s is a private address; allow private_addresses or list the server in server_addresses", ap.Addr())
		}
		return nil
	}
	return dl
}

// public says whether an address belongs to the open Internet.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return false
	}
	for _, p := range reserved {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// reserved are ranges of RFC 6890 that net/netip has no question for.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"),
}

// splitName parts a server name into host (without brackets) and port (8448 when it names none).
func splitName(server string) (host, port string, hasPort bool) {
	if h, p, err := net.SplitHostPort(server); err == nil {
		return h, p, true
	}
	return strings.Trim(server, "[]"), "8448", false
}
