// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"hallig/appliance/admin"
	"hallig/appliance/backup"
	"hallig/appliance/health"
	"hallig/appliance/provision"
	"hallig/appliance/steward"
	"hallig/appliance/store"
	"hallig/appliance/wayback"
	"hallig/sync/identity"
)

// This file makes backups when they are due, and has a new box take over from one.

const (
	backupDefault = 24 * time.Hour
	backupLook    = time.Minute      // how often the box looks whether one is due, and whether there is a stick
	backupRetry   = 15 * time.Minute // after one that failed
	restoreWait   = 30 * time.Second // for the stick with the backup, at the start
	backupNote    = "backup/last.json"
)

// keeper remembers the backups of a box. The zero value works after load.
type keeper struct {
	busy sync.Mutex                      // held while one is made
	free func(dir string) (int64, error) // tests; nil: freeBytes

	mu       sync.Mutex
	last     lastBackup
	tried    time.Time     // monotonic, of this process
	err      error         // of the last try
	restored *restoredMark // the box came from a backup; nil: it did not, or that is long ago
}

// lastBackup is the last good one.
type lastBackup struct {
	Made   time.Time `json:"made"` // by the box's clock
	Place  string    `json:"place"`
	Number int       `json:"number"`
	Bytes  int64     `json:"bytes"`
}

func (k *keeper) load(data string) error {
	raw, err := os.ReadFile(filepath.Join(data, backupNote))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read when the last backup was: %w", err)
	}
	if json.Unmarshal(raw, &k.last) != nil {
		k.last = lastBackup{} // one backup too many
	}
	return nil
}

// due says whether a backup is to be made now. A clock that was set back makes one too many rather than none for years.
func (k *keeper) due(now time.Time, every time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil && time.Since(k.tried) < backupRetry {
		return false
	}
	age := now.Sub(k.last.Made)
	return age >= every || age < -time.Hour
}

func (b *Box) backupEvery() time.Duration {
	if d := b.cfg.Backup.Interval(); d > 0 {
		return d
	}
	return backupDefault
}

// runBackups makes backups by schedule until ctx ends.
func (b *Box) runBackups(ctx context.Context, g *errgroup.Group) {
	if b.cfg.Backup.To == "" {
		return
	}
	g.Go(func() error {
		every(ctx, backupLook, func() {
			if b.cfg.Backup.To == "peer" {
				b.backUpToBox(ctx)
				return
			}
			place := b.backupPlace()
			if place == "" || !b.keeper.due(b.clock.Now(), b.backupEvery()) {
				return
			}
			if _, err := b.backUp(ctx, place, nil); err != nil && ctx.Err() == nil {
				b.log.Warn("backup failed; it is tried again", "place", place, "err", err)
			}
		})
		return nil
	})
}

// backupPlace is where scheduled backups go: the folder, or a stick that has a folder for them, or the only stick; "": nowhere now.
func (b *Box) backupPlace() string {
	if b.cfg.Backup.To == "folder" {
		return b.cfg.Backup.Folder
	}
	places := sticks(b.cfg.Run)
	for _, p := range places {
		if info, err := os.Stat(filepath.Join(p, backup.Folder)); err == nil && info.IsDir() {
			return p
		}
	}
	if len(places) == 1 {
		return places[0]
	}
	return ""
}

// sticks are the folders where sticks are mounted.
func sticks(run string) (out []string) {
	if run == "" {
		return nil
	}
	dir := filepath.Join(run, "sticks")
	entries, _ := os.ReadDir(dir) // without the folder there are none
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}

// stickWrites is how often the steward is told that a stick is still written to; it makes sticks read-only when it hears nothing for a minute.
const stickWrites = 20 * time.Second

// writable has the steward make a stick writable, and keep it so until done is called. Other places are left as they are.
func (b *Box) writable(ctx context.Context, place string) (done func(), err error) {
	rel, err := filepath.Rel(filepath.Join(b.cfg.Run, "sticks"), place)
	if b.steward == nil || err != nil || !filepath.IsLocal(rel) || rel == "." {
		return func() {}, nil
	}
	name, _, _ := strings.Cut(rel, string(filepath.Separator))
	if err := b.steward.WriteStick(ctx, name); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { // done waits for it
		defer close(ended)
		every(ctx, stickWrites, func() {
			if err := b.steward.WriteStick(ctx, name); err != nil {
				b.log.Debug("stick not kept writable", "stick", name, "err", err)
			}
		})
	}()
	return func() { stop(); <-ended }, nil
}

// backUp makes one backup; recipients nil are the configured ones.
func (b *Box) backUp(ctx context.Context, place string, recipients []string) (_ backup.Found, err error) {
	if !b.keeper.busy.TryLock() {
		return backup.Found{}, &admin.Refusal{Text: "a backup is being made already; wait until it is done", DE: "Es wird schon eine Sicherung gemacht; bitte warten, bis sie fertig ist."}
	}
	defer b.keeper.busy.Unlock()
	defer func() {
		b.keeper.mu.Lock()
		b.keeper.tried, b.keeper.err = time.Now(), err
		b.keeper.mu.Unlock()
	}()
	if len(recipients) == 0 {
		recipients = b.cfg.Backup.Recipients
	}
	to, err := backup.ParseRecipients(recipients)
	if err != nil {
		return backup.Found{}, &admin.Refusal{Text: err.Error()}
	}
	if err := b.keepTime(ctx); err != nil {
		return backup.Found{}, err
	}
	done, err := b.writable(ctx, place)
	if err != nil {
		return backup.Found{}, err
	}
	defer done()
	started := time.Now()
	f, err := backup.Make(ctx, place, backup.Source{
		Data: b.cfg.Data, Snapshot: b.snapshot, Free: b.freeFor(place), ServerName: b.id.Server, BoxID: string(b.boxID()), Version: b.cfg.Version,
		Now: b.clock.Now(), Trusted: b.clock.Trusted(), Recipients: to, Keep: b.cfg.Backup.Keep,
	})
	if err != nil {
		return f, err
	}
	debug.FreeOSMemory() // a small machine has better use for what this took
	b.log.Info("backup made and read back", "place", f.Path, "bytes", f.Bytes(), "took", time.Since(started).Round(time.Millisecond))
	if place == b.outgoing() {
		return f, nil // it counts when another box has it
	}
	return f, b.noteBackup(f, f.Path)
}

// errNoRoom says that the box's own disk has no room for what a backup needs there for a while.
var errNoRoom = errors.New("the disk of the box has no room for the copy that a backup needs; remove large files from it")

// snapshot copies the database. It leaves the store the room that it wants to keep free: a backup must not stop messages.
func (b *Box) snapshot(ctx context.Context, path string) error {
	var need int64
	for _, name := range []string{"hallig.db", "hallig.db-wal"} {
		if info, err := os.Stat(filepath.Join(b.cfg.Data, name)); err == nil {
			need += info.Size()
		}
	}
	if free, err := b.freeFor(b.outgoing())(b.cfg.Data); err != nil || free < need {
		return errors.Join(errNoRoom, err)
	}
	return b.db.Backup(ctx, path)
}

// freeFor gives what a place has left: all of it on a stick, less than all where the box itself lives.
func (b *Box) freeFor(place string) func(string) (int64, error) {
	free := b.keeper.free
	if free == nil {
		free = freeBytes
	}
	var here, there syscall.Stat_t
	if place != b.outgoing() && (syscall.Stat(b.cfg.Data, &here) != nil || syscall.Stat(place, &there) != nil || here.Dev != there.Dev) {
		return free
	}
	return func(dir string) (int64, error) {
		n, err := free(dir)
		return n - 2*wayback.Reserve, err
	}
}

// noteBackup notes the last good backup.
func (b *Box) noteBackup(f backup.Found, place string) error {
	last := lastBackup{Made: f.Made, Place: place, Number: f.Number, Bytes: f.Bytes()}
	b.keeper.mu.Lock()
	b.keeper.last = last
	b.keeper.mu.Unlock()
	raw, err := json.Marshal(last)
	if err == nil {
		err = renameio.WriteFile(filepath.Join(b.cfg.Data, backupNote), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note the backup: %w", err)
	}
	return nil
}

// backupFacts tells how the backups stand.
func (b *Box) backupFacts() *health.BackupFacts {
	k := &b.keeper
	f := &health.BackupFacts{Wanted: b.cfg.Backup.To != "", Every: b.backupEvery(), Restored: b.tellRestored(), ToStick: b.cfg.Backup.To == "stick"}
	if f.Wanted && b.cfg.Backup.To != "peer" {
		f.Starting = b.backupPlace() != "" && k.due(b.clock.Now(), f.Every)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.last.Made.IsZero() {
		f.Age = max(time.Second, b.clock.Now().Sub(k.last.Made))
	}
	if k.err == nil || !f.Wanted {
		return f
	}
	f.Detail = k.err.Error()
	var full *backup.Full
	var refused *backup.Refused
	if b.cfg.Backup.To == "peer" {
		f.Err = health.Sentence{DE: "Die Sicherung auf die andere Box ist misslungen; sie wird wieder versucht.", EN: "The backup to the other box failed; it is tried again."}
		if errors.As(k.err, &refused) && refused.Full() {
			f.Err = health.Sentence{DE: "Die andere Box hat keinen Platz für die Sicherung: dort keep_for_boxes_bytes erhöhen, oder einen Stick nehmen.", EN: "The other box has no room for the backup: raise keep_for_boxes_bytes there, or take a stick."}
		}
	} else if errors.Is(k.err, errNoRoom) {
		f.Err = health.Sentence{DE: "Auf der Box ist zu wenig Platz, um eine Sicherung zu machen: große Dateien löschen.", EN: "The box has too little room to make a backup: delete large files."}
	} else if t := (steward.Text{}); errors.As(k.err, &t) {
		f.Err = textOf(t)
	} else if errors.As(k.err, &full) {
		f.Err = health.Sentence{DE: "Für die Sicherung ist kein Platz: einen größeren Stick nehmen.", EN: "There is no room for the backup: take a larger stick."}
	} else {
		f.Err = health.Sentence{DE: "Die Sicherung ist misslungen: den Stick prüfen oder einen anderen nehmen.", EN: "The backup failed: check the stick, or take another one."}
	}
	return f
}

// BackUp makes a backup of a box that does not run.
func BackUp(ctx context.Context, cfg Config, place string, recipients []string, log *slog.Logger) (f backup.Found, err error) {
	b := &Box{cfg: cfg, log: log}
	if b.cfg.system == nil {
		b.cfg.system = cfg.systemClock
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for _, name := range []string{identity.SigningKeyFile, identity.BoxKeyFile} { // nothing is made where there is no box
		if _, err := os.Stat(filepath.Join(cfg.Data, name)); err != nil {
			return f, fmt.Errorf("back up: there is no box in %s: %w", cfg.Data, err)
		}
	}
	if err := b.lockData(); err != nil {
		return f, err
	}
	if b.db, err = store.Open(ctx, filepath.Join(cfg.Data, "hallig.db"), store.Options{Log: log.With("room", "store")}); err != nil {
		return f, err
	}
	if err := b.openClock(ctx); err != nil {
		return f, err
	}
	if b.id, err = identity.Load(cfg.Data, "", true); err != nil {
		return f, err
	}
	return b.backUp(ctx, place, recipients)
}

// Restore brings a backup into a data directory in which no box lives; text holds its secret key.
func Restore(ctx context.Context, place, data, text string, note func(stage string, n, of int64)) (backup.Restored, error) {
	ids, err := backup.ParseIdentities(text)
	if err != nil {
		return backup.Restored{}, err
	}
	b := &Box{cfg: Config{Data: data}}
	if err := b.lockData(); err != nil {
		return backup.Restored{}, err
	}
	r, err := backup.Restore(ctx, place, backup.Target{Data: data, Identities: ids, Note: note})
	return r, errors.Join(err, b.lock.Close())
}

// TakeOver has a new box become the one whose backup is plugged in, when the provisioning file holds the backup's key and nobody has an account yet.
// It is to be called before the configuration is read, which comes with the backup. A sentence says why it did not take over though it should have.
func TakeOver(ctx context.Context, data, file, run string, log *slog.Logger) (trouble provision.Error, err error) {
	b := &Box{cfg: Config{Data: data}, log: log}
	if err := b.lockData(); err != nil {
		return trouble, err
	}
	defer func() { err = errors.Join(err, b.lock.Close()) }()
	if err := backup.Finish(data); err != nil {
		return trouble, err
	}
	if file == "" || run == "" {
		return trouble, nil
	}
	f, _, err := readProvision(file)
	if err != nil || f.Restore.Identity == "" {
		return trouble, nil // LoadProvisioned says what is wrong with the file
	}
	used, err := inUse(ctx, data, log)
	if err != nil || used {
		return trouble, err
	}
	ids, err := backup.ParseIdentities(f.Restore.Identity)
	if err != nil {
		return trouble, err
	}
	until := time.Now().Add(restoreWait)
	for {
		r, err := takeOverFrom(ctx, sticks(run), f.ServerName, backup.Target{Data: data, Identities: ids, Replace: true})
		if err == nil {
			log.Info("took over from a backup", "server", r.ServerName, "box", r.BoxID, "made", r.Made, "media", r.MediaFiles, "missing", r.Missing)
			return trouble, nil
		}
		if !errors.Is(err, backup.ErrNothing) {
			log.Error("the backup was not restored", "err", err)
			return provision.Error{
				De: "Die Sicherung auf dem Stick wurde nicht zurückgespielt: " + err.Error() + ". Noch kein Konto anlegen; Stick und Schlüssel prüfen und die Box neu starten.",
				En: "The backup on the stick was not restored: " + err.Error() + ". Make no account yet; check stick and key, and restart the box.",
			}, nil
		}
		if time.Now().After(until) || ctx.Err() != nil {
			return provision.Error{
				De: "hallig.json hat den Schlüssel einer Sicherung, aber kein Stick hat eine Sicherung. Noch kein Konto anlegen; den Stick einstecken und die Box neu starten.",
				En: "hallig.json has the key of a backup, but no stick has a backup. Make no account yet; plug in the stick and restart the box.",
			}, ctx.Err()
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// takeOverFrom restores from the first stick that has backups: those under the provisioned name when there are any, otherwise those of the one box.
func takeOverFrom(ctx context.Context, places []string, server string, t backup.Target) (backup.Restored, error) {
	for _, place := range places {
		found, err := backup.List(place)
		if errors.Is(err, backup.ErrNothing) {
			continue
		}
		if err != nil {
			return backup.Restored{}, err
		}
		if slices.ContainsFunc(found, func(f backup.Found) bool { return f.ServerName == server }) {
			t.ServerName = server
		}
		return backup.Restore(ctx, place, t)
	}
	return backup.Restored{}, backup.ErrNothing
}

// inUse says whether somebody has an account in the data directory.
func inUse(ctx context.Context, data string, log *slog.Logger) (bool, error) {
	name := filepath.Join(data, "hallig.db")
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	db, err := store.Open(ctx, name, store.Options{Log: log.With("room", "store")})
	if err != nil {
		return true, nil // whatever it is, it is not put away; opening the box says why
	}
	n := 0
	err = db.View(ctx, func(r *store.Read) (err error) {
		n, err = r.CountAccounts()
		return err
	})
	return n > 0, errors.Join(err, db.Close())
}
