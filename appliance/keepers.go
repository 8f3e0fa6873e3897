// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/backup"
)

// This file lets paired boxes keep each other's backups, which the keeper cannot read.

const (
	keepDefault = 1 << 30 // bytes for each paired box
	keepSpare   = 1 << 30 // bytes of the keeper's disk that stay free
	keepWithin  = 6 * time.Hour
)

// outgoing is where backups wait for another box.
func (b *Box) outgoing() string { return filepath.Join(b.cfg.Data, "backup", backup.OutFolder) }

// kept is where the backups of other boxes lie.
func (b *Box) kept() string { return filepath.Join(b.cfg.Data, backup.KeptFolder) }

// keeping answers paired boxes that bring their backups.
func (b *Box) keeping(next http.Handler) http.Handler {
	quota := b.cfg.KeepForBoxesBytes
	if quota == 0 {
		quota = keepDefault
	}
	shelf := &backup.Shelf{Dir: b.kept(), Quota: quota, Spare: keepSpare, Who: func(r *http.Request) (string, string, bool) {
		p, ok := b.exchange.paired().ByServer(r.RemoteAddr)
		return p.Server, string(p.ID), ok && quota > 0
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, backup.ShelfPath) {
			next.ServeHTTP(w, r)
			return
		}
		if err := os.MkdirAll(shelf.Dir, 0o700); err != nil {
			b.log.Error("keep a box's backup", "err", err)
			http.Error(w, "the disk does not take it", http.StatusInternalServerError)
			return
		}
		shelf.ServeHTTP(w, r)
	})
}

// backUpToBox makes a backup when it is due and brings it to a paired box in reach. What could not be brought goes on with the next try.
func (b *Box) backUpToBox(ctx context.Context) {
	if b.exchange.host == nil || !b.keeper.due(b.clock.Now(), b.backupEvery()) {
		return
	}
	server := b.keeperInReach()
	if server == "" {
		return
	}
	if err := b.bringBackup(ctx, server); err != nil && ctx.Err() == nil {
		b.keeper.mu.Lock()
		b.keeper.tried, b.keeper.err = time.Now(), err
		b.keeper.mu.Unlock()
		b.log.Warn("backup to a paired box failed; it is tried again", "server", server, "err", err)
	}
}

// keeperInReach is the paired box to bring backups to: the one that has the last, otherwise any.
func (b *Box) keeperInReach() string {
	b.keeper.mu.Lock()
	last := b.keeper.last.Place
	b.keeper.mu.Unlock()
	if b.exchange.isBox(last) && b.exchange.host.InReach(last) {
		return last
	}
	for _, p := range b.exchange.paired().All() {
		if b.exchange.host.InReach(p.Server) {
			return p.Server
		}
	}
	return ""
}

func (b *Box) bringBackup(ctx context.Context, server string) error {
	if err := os.MkdirAll(b.outgoing(), 0o700); err != nil {
		return err
	}
	var f backup.Found
	waiting, err := backup.List(b.outgoing())
	if n := len(waiting); err == nil && waiting[n-1].Err == nil && b.clock.Now().Sub(waiting[n-1].Made).Abs() < b.backupEvery() && waiting[n-1].Number != b.lastNumber() {
		f = waiting[n-1] // made already, and not brought yet
	} else if f, err = b.backUp(ctx, b.outgoing(), nil); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, keepWithin)
	defer stop()
	c := &http.Client{Transport: b.exchange.host.RoundTripper()}
	if err := backup.Mirror(ctx, c, "http://"+server, f.Home); err != nil {
		return err
	}
	b.log.Info("a paired box keeps the backup", "server", server, "number", f.Number)
	b.keeper.mu.Lock()
	b.keeper.err = nil
	b.keeper.mu.Unlock()
	return b.noteBackup(f, server)
}

func (b *Box) lastNumber() int {
	b.keeper.mu.Lock()
	defer b.keeper.mu.Unlock()
	return b.keeper.last.Number
}

// exportBackups copies the backups that are kept here for a box to a place, from which a spare box takes over.
func (b *Box) exportBackups(ctx context.Context, server, place string) (admin.Backup, error) {
	if !filepath.IsAbs(place) {
		return admin.Backup{}, &admin.Refusal{Text: "name the whole path of a folder on the box"}
	}
	if err := os.MkdirAll(b.kept(), 0o700); err != nil {
		return admin.Backup{}, err
	}
	done, err := b.writable(ctx, place)
	if err != nil {
		return admin.Backup{}, &admin.Refusal{Text: err.Error()}
	}
	defer done()
	f, err := backup.Copy(ctx, b.kept(), server, place)
	if errors.Is(err, backup.ErrNothing) {
		return admin.Backup{}, &admin.Refusal{Text: "no backup of " + server + " is kept here"}
	}
	if err != nil {
		return admin.Backup{}, &admin.Refusal{Text: err.Error()}
	}
	return admin.Backup{Path: f.Path, Number: f.Number, Made: f.Made, Bytes: f.Bytes()}, nil
}
