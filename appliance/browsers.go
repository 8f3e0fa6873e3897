// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/event"
)

// sourceArchives is where the image carries the sources of what runs.
const sourceArchives = "/etc/hallig/hallig-*.tar.zst"

// browsers puts the pages of how the box does, and of those who look after it, before home.
func (b *Box) browsers(home http.Handler) http.Handler {
	o := admin.PageOptions{
		Options: b.adminOptions(), Next: home, ServerName: b.id.server, Recent: b.recentHealth, Accounts: b.accounts,
		Deactivate: func(ctx context.Context, user event.UserID) error { return b.clients.Deactivate(ctx, user) },
		AllowLogin: func(remote string) time.Duration { return b.clients.AllowLogin(remote) },
		SecureURL:  b.secureURL, Proxied: strings.HasPrefix(b.cfg.PublicURL, "https://"), Fingerprint: b.fingerprint, PhoneURL: b.URL,
		Steward: b.steward, MetricsToken: b.cfg.MetricsToken, Now: b.clock.Now,
	}
	o.SetClock = b.setClocks
	if found, err := filepath.Glob(sourceArchives); err == nil && len(found) > 0 && b.cfg.Run != "" {
		o.Source = found[len(found)-1]
	}
	return admin.NewPages(o)
}

// secureURL is where a browser that came to host finds the box over TLS; "": nowhere.
func (b *Box) secureURL(host string) string {
	_, addr := b.cfg.clientAddrs()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if port != "443" {
		return "https://" + net.JoinHostPort(name, port)
	}
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	return "https://" + name
}
