// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/steward"
	"hallig/appliance/update"
	"hallig/appliance/wayback"
)

// This file takes updates, tries them, and keeps or gives them up. How a slot is written and switched is package update's; when, and who says so, is
// decided here.

// progress is an update that is being written.
type progress struct {
	version     string
	done, total int64
}

// openSlots opens the disk past the page cache.
func (b *box) openSlots() (*update.DeviceFile, *update.Disk, error) {
	b.mu.Lock()
	dev, slot := b.disk, b.slot
	b.mu.Unlock()
	if dev.Name == "" || slot == update.NoSlot {
		return nil, nil, steward.Text{De: "Dieser Datenträger hat keine zwei Systeme; Updates gehen hier nicht.", En: "This disk does not have two systems; updates do not work here."}
	}
	f, err := update.OpenDevice(dev.Path())
	if err != nil {
		return nil, nil, err
	}
	d, err := update.OpenDisk(f, f.Size())
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, d, nil
}

// runs is the slot whose system this is.
func (b *box) runs() update.Slot {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.slot
}

// thisSystem is what an update is held against.
func (b *box) thisSystem() (update.Running, error) {
	raw, err := os.ReadFile(filepath.Join(b.at.Etc, "hallig/update.json"))
	if err != nil {
		return update.Running{}, fmt.Errorf("read update keys: %w", err)
	}
	keys, err := update.ParseKeys(raw)
	if err != nil {
		return update.Running{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return update.Running{Board: b.boardLocked(), Version: b.image.Version, Release: b.image.Release, Keys: keys}, nil
}

// readSlots asks the disk what this system is and whether it is on trial, before anything else is opened.
func (b *box) readSlots() {
	b.readOwnManifest()
	f, d, err := b.openSlots()
	if err != nil {
		b.trial.Store(false)
		b.say("slots", sentence(err, "Updates sind auf diesem Datenträger nicht möglich.", "Updates are not possible on this disk."))
		return
	}
	defer f.Close()
	slot := b.runs()
	b.trial.Store(d.OnTrial(slot, b.trial.Load()))
	b.mu.Lock()
	b.deadline = time.Now().Add(update.TrialTime(0))
	b.mu.Unlock()
	m, err := d.Holds(slot)
	if err != nil {
		b.log.Printf("read what this system is: %v", err)
	} else {
		b.mu.Lock()
		b.image = release{Version: m.Version, Release: m.Release, Board: m.Board, Schema: m.Schema}
		b.mu.Unlock()
		b.log.Printf("this is %s, release %d for %s, in slot %s, on trial: %v", m.Version, m.Release, m.Board, slot, b.trial.Load())
	}
	if !b.trial.Load() {
		if err := d.Settle(slot); err != nil {
			b.log.Printf("settle what the firmware boots: %v", err)
		}
	}
}

// readOwnManifest takes what the root file system says of itself. The signed description of the slot counts before it; but that lies on a FAT, and a
// box that cannot read it any more must not be release 0, which every older system that was signed once would be an update for.
func (b *box) readOwnManifest() {
	raw, err := os.ReadFile(filepath.Join(b.at.Etc, "hallig/manifest.json"))
	var own release
	if err == nil {
		err = json.Unmarshal(raw, &own)
	}
	if err == nil && (own.Version == "" || own.Release <= 0) {
		err = errors.New("no version or no release")
	}
	if err != nil {
		b.log.Printf("read what the root file system is: %v", err)
		return
	}
	b.mu.Lock()
	b.image = own
	b.mu.Unlock()
}

// readRecord takes up the record of the last update and says what has become of it by this start.
func (b *box) readRecord() error {
	r, err := update.ReadRecord(b.at.system("update.json"))
	if err != nil {
		b.log.Printf("%v", err)
	}
	trial := b.trial.Load()
	next, changed := r.AtBoot(b.runs(), trial, time.Now())
	b.mu.Lock()
	b.record = next
	if trial {
		b.deadline = time.Now().Add(update.TrialTime(b.databaseBytes()))
	}
	b.mu.Unlock()
	if trial {
		b.log.Printf("this start is a trial; the box must be well within %s", update.TrialTime(b.databaseBytes()))
	}
	if !changed {
		return nil
	}
	if next.Reason != nil {
		b.log.Printf("%s", next.Reason.En)
	}
	return next.Keep(b.at.system("update.json"))
}

func (b *box) databaseBytes() int64 {
	st, err := os.Stat(filepath.Join(b.at.Perm, "hallig", "hallig.db"))
	if err != nil {
		return 0
	}
	return st.Size()
}

func (b *box) confirmed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.confirmedLocked()
}

func (b *box) confirmedLocked() bool { return b.record.State == update.Confirmed }

// keep makes a record durable and then true.
func (b *box) keep(r update.Record) error {
	if err := r.Keep(b.at.system("update.json")); err != nil {
		return err
	}
	b.mu.Lock()
	b.record = r
	b.mu.Unlock()
	return nil
}

// trialFailure is what to show of an update that was not kept; the caller holds the lock.
func (b *box) trialFailure() steward.Text {
	if b.record.State == update.Failed && b.record.Reason != nil {
		return steward.Text{De: b.record.Reason.De, En: b.record.Reason.En}
	}
	return steward.Text{}
}

// updateState is for State; the caller holds the lock.
func (b *box) updateState() steward.Update {
	u := steward.Update{Version: b.record.Version, Release: b.record.Release, Error: b.trialFailure(), Back: b.back, BackSays: b.backSays}
	switch b.record.State {
	case update.Written:
		u.State, u.Progress = steward.UpdateWritten, 1
	case update.Trial:
		u.State, u.Deadline, u.Progress = steward.UpdateTrial, b.deadline, 1
	case update.Confirmed:
		u.State = steward.UpdateDone
	case update.Failed:
		u.State = steward.UpdateFailed
		if b.record.Slot != update.NoSlot { // it is whole in the other slot: its trial can be started again
			u.Progress = 1
		}
	default:
		u.State = steward.UpdateNone
	}
	if w := b.writing; w != nil {
		u.State, u.Version, u.Error = steward.UpdateWriting, w.version, steward.Text{}
		u.Progress = 0
		if w.total > 0 {
			u.Progress = float64(w.done) / float64(w.total)
		}
	}
	return u
}

var errBusy = steward.Text{De: "Es wird schon ein Update eingespielt.", En: "An update is being installed already."}

// install writes an update file into the slot that does not run.
func (b *box) install(ctx context.Context, file io.Reader) error {
	b.mu.Lock()
	busy, perm := b.writing != nil, b.perm
	if !busy {
		b.writing = &progress{}
	}
	b.mu.Unlock()
	if busy {
		return errBusy
	}
	defer func() {
		b.mu.Lock()
		b.writing = nil
		b.mu.Unlock()
	}()
	switch {
	case b.trial.Load() && !b.confirmed():
		return steward.Text{De: "Die Box probiert gerade ein Update aus. Warten Sie, bis es übernommen ist.", En: "The box is trying an update. Wait until it is kept."}
	case !perm:
		return steward.Text{De: "Ohne die Daten der Box wird kein Update eingespielt.", En: "No update is installed while the box's data cannot be reached."}
	}
	now, err := b.thisSystem()
	if err != nil {
		return err
	}
	// A refusal of the file itself changes nothing: what was written before stays good.
	r, err := update.Open(file, now)
	if err != nil {
		b.log.Printf("update refused: %v", err)
		return err
	}
	defer r.Close()
	m := r.Manifest()
	f, d, err := b.openSlots()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := b.roomFor(m, d); err != nil {
		return err
	}
	b.mu.Lock()
	b.writing = &progress{version: m.Version, total: m.Size()}
	b.mu.Unlock()
	b.log.Printf("update %s (release %d) is being written", m.Version, m.Release)
	if err := b.keep(update.Record{State: update.Idle, Changed: time.Now()}); err != nil {
		return err
	}
	err = d.Install(ctx, b.runs(), r, func(done, total int64) {
		b.mu.Lock()
		b.writing.done, b.writing.total = done, total
		b.mu.Unlock()
	})
	if err != nil {
		b.log.Printf("update %s: %v", m.Version, err)
		t := sentence(err, "Das Update ist nicht eingespielt worden.", "The update was not installed.")
		failed := update.Record{State: update.Failed, Version: m.Version, Release: m.Release, Reason: &update.Refusal{De: t.De, En: t.En}, Changed: time.Now()}
		return errors.Join(t, b.keep(failed))
	}
	if err := b.keep(update.NowWritten(b.runs(), now, m, time.Now())); err != nil {
		return err
	}
	b.log.Printf("update %s is written and whole", m.Version)
	b.lookBack()
	return nil
}

// installPath installs a file that lies on a stick.
func (b *box) installPath(ctx context.Context, path string) error {
	b.mu.Lock()
	known := slices.ContainsFunc(b.sticks, func(s *stick) bool {
		return slices.ContainsFunc(s.updates, func(u steward.Bundle) bool { return u.Path == path })
	})
	b.mu.Unlock()
	if !known {
		return steward.Text{De: "Diese Update-Datei liegt auf keinem Stick, der steckt.", En: "This update file is on no stick that is plugged in."}
	}
	f, err := os.Open(path)
	if err != nil {
		return sentence(err, "Die Update-Datei kann nicht gelesen werden.", "The update file cannot be read.")
	}
	defer f.Close()
	return b.install(ctx, f)
}

// inspect looks at the head of an update file on a stick.
func (b *box) inspect(path string) steward.Bundle {
	u := steward.Bundle{Path: path}
	f, err := os.Open(path)
	if err != nil {
		u.Error = sentence(err, "Die Update-Datei kann nicht gelesen werden.", "The update file cannot be read.")
		return u
	}
	defer f.Close()
	if _, m, err := update.Head(f); err == nil {
		u.Version, u.Release = m.Version, m.Release
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		u.Error = sentence(err, "Die Update-Datei kann nicht gelesen werden.", "The update file cannot be read.")
		return u
	}
	now, err := b.thisSystem()
	if err == nil {
		var r *update.Reader
		if r, err = update.Open(f, now); err == nil {
			r.Close()
			u.Newer = true
			return u
		}
	}
	u.Error = sentence(err, "Die Update-Datei wird nicht angenommen.", "The update file is not taken.")
	return u
}

// installFrom installs and tries the newest good file of a stick, when somebody has consented: by a file beside it, or by the provisioning file.
// Otherwise it is only offered.
func (b *box) installFrom(s *stick, consent bool) {
	b.mu.Lock()
	consent = consent || b.accepted.Updates.Automatic
	record := b.record
	b.mu.Unlock()
	var best steward.Bundle
	for _, u := range s.updates {
		if u.Newer && u.Release > best.Release {
			best = u
		}
	}
	if best.Path == "" || !consent {
		return
	}
	if (record.State == update.Failed && record.Trials > 0 || record.State == update.Returned) && record.Release == best.Release {
		b.log.Printf("update %s on stick %s failed before, or somebody went back from it: it is not tried again by itself", best.Version, s.Name)
		return
	}
	b.log.Printf("update %s on stick %s is installed: somebody has consented", best.Version, s.Name)
	b.help("update from a stick", func() error {
		f, err := os.Open(best.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := b.install(b.running, f); err != nil {
			return err
		}
		return b.startTrial()
	})
}

// roomFor refuses an update that would have no room for the copy of the database.
func (b *box) roomFor(next update.Manifest, d *update.Disk) error {
	running, err := d.Holds(b.runs())
	if err != nil {
		b.log.Printf("read what this system is: %v", err)
		now := b.system()
		if now.Release == 0 {
			return nil // no description, no schema to compare
		}
		running = update.Manifest{Version: now.Version, Release: now.Release, Board: now.Board, Schema: now.Schema}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(b.at.Perm, &st); err != nil {
		return fmt.Errorf("measure /perm: %w", err)
	}
	return update.RoomFor(b.database(), running, next, int64(st.Bavail)*st.Bsize, wayback.Reserve)
}

func (b *box) database() string { return filepath.Join(b.at.Perm, "hallig", "hallig.db") }

// giveUpdate answers with the update file of the running system.
func (b *box) giveUpdate(w http.ResponseWriter, r *http.Request) {
	f, d, err := b.openSlots()
	if err != nil {
		refuse(w, err)
		return
	}
	defer f.Close()
	b.mu.Lock()
	slot := b.slot
	b.mu.Unlock()
	if _, err := d.Holds(slot); err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := d.Stream(r.Context(), w, slot); err != nil {
		b.log.Printf("hand on the update file: %v", err)
		panic(http.ErrAbortHandler) // the other side must not take what came for the whole
	}
}
