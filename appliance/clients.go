// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"hallig/appliance/account"
	"hallig/appliance/admin"
	"hallig/appliance/cert"
	"hallig/appliance/event"
	"hallig/appliance/health"
	"hallig/appliance/web"
	"hallig/sync/peer"
)

// This file serves phones and browsers: over plain HTTP, over TLS, and with the page that a phone shows by itself when it meets the network.

const (
	localName = "hallig.local"
	arpaName  = "hallig.home.arpa" // RFC 8375; Android's Element takes plain HTTP for it
	// halligs is how many boxes on one network get a name of their own by mDNS, hallig-2.local and so on.
	halligs = 9

	namesEvery   = 5 * time.Second
	renewalEvery = time.Hour
)

// names are what phones call the box, its server name first: answered by the box's own DNS, and those under .local by mDNS. They stay for as long as it runs.
func (b *Box) names() []string { return slices.Clone(b.called) }

func (b *Box) findNames() []string {
	names := []string{b.host()}
	for _, n := range []string{localName, arpaName, "hallig-" + strings.ToLower(peer.DefaultServer(publicKey(b.id.Box)))[:6] + ".local", b.publicHost()} {
		if n != "" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// host is the server name without a port.
func (b *Box) host() string { return hostOf(b.id.Server) }

// hostOf takes port and brackets off, and the upper case.
func hostOf(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

func (b *Box) publicHost() string {
	u, err := url.Parse(b.cfg.PublicURL)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}

// certified are the names in the box's own certificate: also those that hallig-lan answers where another box on the network was first.
func (b *Box) certified() []string {
	names := b.names()
	for i := 2; i <= halligs; i++ {
		names = append(names, fmt.Sprintf("hallig-%d.local", i))
	}
	return names
}

// addresses are those of this machine that a phone can reach.
func addresses() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if ip = ip.Unmap(); ok && !ip.IsLoopback() && !ip.IsMulticast() && !ip.IsUnspecified() && !ip.IsLinkLocalUnicast() {
			out = append(out, ip)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// openCertificates makes the box's certificates ready. A box without a TLS port has none.
func (b *Box) openCertificates() error {
	if _, secure := b.cfg.clientAddrs(); secure == "" {
		return nil
	}
	var err error
	b.certs, err = cert.Open(cert.Options{
		Dir: filepath.Join(b.cfg.Data, "tls"), Host: b.host(), Names: b.certified(), Now: b.clock.Now, Likely: b.likely, Trusted: b.clock.Trusted,
		Log: b.log.With("room", "cert"),
	}, addresses())
	if err != nil {
		return err
	}
	if text := b.cfg.Certificate.PEM; text != "" {
		if err := b.certs.Offer([]byte(text)); err != nil { // the box comes up all the same
			b.certs.Failed(err.Error())
			b.log.Warn("the configured certificate is not used", "err", err)
		}
	}
	return nil
}

// listenTLS opens the TLS port for clients.
func (b *Box) listenTLS(addr string, open func(addr string) (net.Listener, error)) (net.Listener, error) {
	l, err := open(addr)
	if err != nil {
		return nil, fmt.Errorf("open the TLS port for clients: %w; choose another one with --tls-listen ADDR:PORT, or off", err)
	}
	return tls.NewListener(l, &tls.Config{
		GetCertificate: b.certificate, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
	}), nil
}

// certificate answers a handshake.
func (b *Box) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return b.certs.Certificate(hello)
}

// runClients serves both ports and keeps names and certificates up to date.
func (b *Box) runClients(ctx context.Context, g *errgroup.Group) {
	b.tellNames()
	h := b.vouching(b.clients)
	if b.cfg.Run != "" {
		h = web.Portal(web.PortalOptions{Ours: b.ours}, h)
	}
	h = b.doors.guard(h)
	b.serveHTTP(ctx, g, "client API", b.clientListener, h)
	if b.tlsListener != nil {
		b.serveHTTP(ctx, g, "client API over TLS", b.tlsListener, h)
	}
	g.Go(func() error { b.renewCertificate(ctx); return nil })
	g.Go(func() error {
		var last string
		var renewed time.Time
		every(ctx, namesEvery, func() {
			addrs := addresses()
			if now := fmt.Sprint(addrs, b.clock.Trusted()); now != last || time.Since(renewed) > renewalEvery {
				last, renewed = now, time.Now()
				b.refreshCertificates(addrs)
			}
		})
		return nil
	})
}

func (b *Box) refreshCertificates(addrs []netip.Addr) {
	if b.certs == nil {
		return
	}
	if err := b.certs.Refresh(b.certified(), addrs); err != nil {
		b.log.Warn("certificate not renewed; the one before stays", "err", err)
	}
	b.tellNames()
}

// tellNames writes names.json for hallig-lan.
func (b *Box) tellNames() {
	if b.cfg.Run == "" {
		return
	}
	out := struct {
		Names  []string `json:"names"`
		Portal string   `json:"portal,omitempty"`
	}{Names: slices.DeleteFunc(b.names(), func(n string) bool {
		_, err := netip.ParseAddr(n)
		return err == nil || !strings.Contains(n, ".") || strings.Contains(n, "_")
	})}
	if b.certs != nil {
		if s := b.certs.State(); s.Public && slices.Contains(s.Covered, b.host()) {
			out.Portal = "https://" + b.host() + web.CaptivePath
		}
	}
	raw, err := json.Marshal(out)
	if err != nil { // plain strings always marshal
		panic(err)
	}
	name := filepath.Join(b.cfg.Run, "box", "names.json")
	if old, err := os.ReadFile(name); err == nil && string(old) == string(raw) {
		return
	}
	if err := renameio.WriteFile(name, raw, 0o644); err != nil {
		b.log.Warn("the network part of the box does not learn its names", "err", err)
	}
}

// ours says whether a browser that asked for this host meant the box. Whoever asked for another one was led here by the box's DNS.
func (b *Box) ours(host string) bool {
	host = hostOf(host)
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" || host == "" {
		return true // an address is the box's own, or that of a router in front of it
	}
	return slices.Contains(b.called, host) || strings.HasPrefix(host, "hallig") && strings.HasSuffix(host, ".local")
}

// trust is what the page about trusting the box shows; nil without TLS.
func (b *Box) trust() *web.Trust {
	if b.certs == nil {
		return nil
	}
	s := b.certs.State()
	port := ""
	if a, ok := b.tlsListener.Addr().(*net.TCPAddr); ok {
		port = strconv.Itoa(a.Port)
	}
	return &web.Trust{Port: port, CA: b.certs.Authority(), Outside: s.Source == cert.Outside, Public: s.Public, Issuer: s.Issuer, Names: s.Covered, Expires: s.Expires, Lapsed: s.Lapsed}
}

func (b *Box) certificateStatus() *admin.Certificate {
	if b.certs == nil {
		return nil
	}
	s := b.certs.State()
	return &s
}

func (b *Box) fingerprint() string {
	if b.certs == nil {
		return ""
	}
	return cert.Fingerprint(b.certs.Authority())
}

// pages are what browsers find.
func (b *Box) pages() http.Handler {
	site := web.Site{
		ServerName: b.id.Server, BaseURL: b.cfg.PublicURL, Trust: b.trust, Status: b.sayStatus, StatusPath: "/status",
		SignUp: func(r *http.Request, name, password, token string) (string, string) {
			user, code := b.clients.SignUp(r.Context(), r.RemoteAddr, name, password, token)
			if code == "" {
				b.noteLanguage(r.Context(), user, web.German(r))
			}
			return string(user), code
		},
		Invite: b.inviteNext,
	}
	if b.cfg.Run != "" {
		site.LocalName, site.Portal = localName, true
	}
	return web.Handler(site)
}

// inviteNext makes a registration token for the person after an administrator's account has been made, so that two people can talk before anybody has
// looked at the administration pages. Others' accounts get none. It does not expire: the clock of a box that has just been plugged in may still jump.
func (b *Box) inviteNext(r *http.Request, user string) string {
	u, err := b.accounts.User(r.Context(), event.UserID(user))
	if err != nil || !u.Admin {
		return ""
	}
	t, err := b.accounts.CreateRegistrationToken(r.Context(), account.RegistrationToken{Uses: 1})
	if err != nil {
		b.log.Warn("no registration token for the next person; make one on the administration page", "err", err)
		return ""
	}
	return t.Token
}

// certificateFacts are of the certificate from outside when there is or was one, and of the box's own otherwise. What has lapsed is judged by the
// best guess at the time.
func (b *Box) certificateFacts() *health.CertificateFacts {
	if b.certs == nil {
		return nil
	}
	s := b.certs.State()
	until := s.Expires
	if !s.Lapsed.IsZero() {
		until = s.Lapsed
	}
	return &health.CertificateFacts{Left: until.Sub(b.likely()), Public: s.Public, Err: s.Trouble}
}
