// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/admin"
	"hallig/appliance/event"
	"hallig/appliance/steward"
)

// sourceArchives is where the image carries the sources of what runs.
const sourceArchives = "/etc/hallig/hallig-*.tar.zst"

// browsers puts the pages of how the box does, and of those who look after it, before home.
func (b *Box) browsers(home http.Handler) http.Handler {
	o := admin.PageOptions{
		Options: b.adminOptions(), Next: home, ServerName: b.id.Server, Recent: b.recentHealth, Clock: b.clockStatus, Quiet: b.quiet, Accounts: b.accounts,
		Deactivate: func(ctx context.Context, user event.UserID) error { return b.clients.Deactivate(ctx, user) },
		AllowLogin: func(remote string) time.Duration { return b.clients.AllowLogin(remote) },
		SecureURL:  b.secureURL, Proxied: strings.HasPrefix(b.cfg.PublicURL, "https://"), PhoneURL: b.URL,
		Steward: b.steward, LAN: b.lanState, MetricsToken: b.cfg.MetricsToken, Now: b.clock.Now,
	}
	o.SetClock = b.setClocks
	o.Errand = func(f func(context.Context)) bool {
		select {
		case b.errands <- f:
			return true
		default: // nobody waits for one: another is under way
			return false
		}
	}
	o.Backup = admin.BackupPart{State: b.backupState, Start: b.backUpNow}
	if found, err := filepath.Glob(sourceArchives); err == nil && len(found) > 0 && b.cfg.Run != "" {
		o.Source = found[len(found)-1]
	}
	return admin.NewPages(o)
}

// runErrands does what the pages begin, one at a time, until ctx ends.
func (b *Box) runErrands(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error {
		for {
			select {
			case f := <-b.errands:
				f(ctx)
			case <-ctx.Done():
				return nil
			}
		}
	})
}

// backupState tells the pages how the backups stand.
func (b *Box) backupState(context.Context) (admin.BackupState, error) {
	c := b.cfg.Backup
	out := admin.BackupState{Wanted: c.To != "", To: c.To, Every: b.backupEvery(), Recipients: c.Recipients}
	if c.To == "folder" {
		out.To = c.Folder
	}
	k := &b.keeper
	if k.busy.TryLock() {
		k.busy.Unlock()
	} else {
		out.Running = true
	}
	k.mu.Lock()
	out.Last, out.LastFile, out.LastBytes = k.last.Made, k.last.Place, k.last.Bytes
	k.mu.Unlock()
	out.Err = b.backupFacts().Err
	return out, nil
}

// backUpNow makes a backup where scheduled ones go.
func (b *Box) backUpNow(ctx context.Context) error {
	if b.cfg.Backup.To == "peer" {
		server := ""
		if b.exchange.host != nil {
			server = b.keeperInReach()
		}
		if server == "" {
			return steward.Text{
				De: "Keine gekoppelte Box ist über ein Netz in Reichweite, die die Sicherung aufbewahren könnte.",
				En: "No paired box that could keep the backup is in reach over a network.",
			}
		}
		return b.bringBackup(ctx, server)
	}
	place := b.backupPlace()
	if place == "" {
		return steward.Text{
			De: "Es steckt kein Stick für die Sicherung: einen einstecken. Bei mehreren gilt der mit dem Ordner hallig-backup.",
			En: "No stick for the backup is plugged in: plug one in. Of several, the one with the folder hallig-backup counts.",
		}
	}
	_, err := b.backUp(ctx, place, nil)
	return err
}

// sayStatus is the one sentence for the start page.
func (b *Box) sayStatus(german bool) (string, bool) {
	ctx, stop := context.WithTimeout(context.Background(), probeLimit)
	defer stop()
	t := b.recentHealth(ctx).Public()
	if german {
		return t.Sentence.DE, t.OK
	}
	return t.Sentence.EN, t.OK
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
