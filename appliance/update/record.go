// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

// RecordFile is where the image keeps its Record.
const RecordFile = "/perm/system/update.json"

// State is where a box is between two systems.
type State string

// The states. idle -> written -> trial -> confirmed or failed; written, trial and failed may begin again with another file.
const (
	Idle      State = "idle"
	Written   State = "written"   // the other slot is whole and waits for its trial
	Trial     State = "trial"     // the other slot has been started once, with nothing switched
	Confirmed State = "confirmed" // the firmware boots it now
	Failed    State = "failed"    // the trial failed, or the file was refused; Reason says why
	Returned  State = "returned"  // somebody went back to the system before
)

// Record is what a box remembers of its last update. It is a value: each act gives the record to keep, and Keep makes it durable before the act is done.
type Record struct {
	State State `json:"state"`
	// Slot holds the update, and From the system that ran when it was written.
	Slot        Slot      `json:"slot,omitempty"`
	From        Slot      `json:"from,omitempty"`
	Version     string    `json:"version,omitempty"` // of the update
	Release     int64     `json:"release,omitempty"`
	Schema      int64     `json:"schema,omitempty"`
	FromVersion string    `json:"from_version,omitempty"` // of the system before
	FromRelease int64     `json:"from_release,omitempty"`
	Trials      int       `json:"trials,omitempty"` // how often it was started
	Reason      *Refusal  `json:"reason,omitempty"` // why it failed
	Changed     time.Time `json:"changed,omitzero"` // by the box's own clock
}

// ReadRecord reads the record. A missing file is an idle one; one that cannot be read is idle as well, with the error: nothing is undecided that the
// disk does not say.
func ReadRecord(path string) (Record, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{State: Idle}, nil
	}
	var r Record
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil || r.State == "" {
		return Record{State: Idle}, fmt.Errorf("read the record of the last update: %w", err)
	}
	return r, nil
}

// Keep writes the record durably: after a power cut the file holds this one or the one before.
func (r Record) Keep(path string) error {
	raw, err := json.MarshalIndent(r, "", "\t")
	if err == nil {
		err = renameio.WriteFile(path, append(raw, '\n'), 0o600)
	}
	if err == nil { // the new name, too, must be there before the act
		var dir *os.File
		if dir, err = os.Open(filepath.Dir(path)); err == nil {
			err = errors.Join(dir.Sync(), dir.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("keep the record of the update: %w", err)
	}
	return nil
}

// NowWritten is the record once Install has succeeded.
func NowWritten(running Slot, now Running, m Manifest, at time.Time) Record {
	return Record{State: Written, Slot: running.Other(), From: running, Version: m.Version, Release: m.Release, Schema: m.Schema,
		FromVersion: now.Version, FromRelease: now.Release, Changed: at}
}

// Starting is the record to keep before the trial is booted.
func (r Record) Starting(at time.Time) (Record, error) {
	switch r.State {
	case Written, Failed:
		if r.Slot != NoSlot {
			r.State, r.Reason, r.Changed = Trial, nil, at
			r.Trials++
			return r, nil
		}
	}
	return r, refuse("Es ist kein Update eingespielt, das gestartet werden könnte.", "There is no installed update that could be started.")
}

// Fail is the record of a trial that failed, or of a file that was refused. The slot keeps what it holds; the trial can be started again.
func (r Record) Fail(why *Refusal, at time.Time) Record {
	r.State, r.Reason, r.Changed = Failed, why, at
	return r
}

// Confirm is the record once Switch has succeeded.
func (r Record) Confirm(at time.Time) Record {
	r.State, r.Reason, r.Changed = Confirmed, nil, at
	return r
}

// GoneBack is the record of going back on purpose, kept before Switch.
func (r Record) GoneBack(at time.Time) Record {
	r.State, r.Reason, r.Changed = Returned, nil, at
	return r
}

// AtBoot says what the record becomes when a system has started: running is the slot that runs, and trial whether the kernel's command line said so.
//
//   - On trial: the record stays; the caller judges the system and then confirms or fails it.
//   - The slot on trial, not on trial any more: the firmware booted it, so the switch had reached the disk before the power went. It is confirmed.
//   - The slot before: the trial ended by itself, by a panic, a hang or a power cut. It failed, unless the trial wrote down why before it ended.
//
// changed says that the record differs and must be kept.
func (r Record) AtBoot(running Slot, trial bool, at time.Time) (next Record, changed bool) {
	if trial || r.State != Trial {
		return r, false
	}
	if running == r.Slot {
		return r.Confirm(at), true
	}
	return r.Fail(refuse(
		fmt.Sprintf("Der Probelauf von %s endete, bevor die Box für gut befunden war (Stromausfall, Absturz oder Stillstand). Es läuft wieder %s, nichts ging verloren. Sie können den Probelauf noch einmal starten.", r.Version, r.FromVersion),
		fmt.Sprintf("The trial of %s ended before the box was found to be well (a power cut, a crash or a hang). %s runs again and nothing was lost. You can start the trial again.", r.Version, r.FromVersion)), at), true
}

// Unhealthy is why a trial failed: what was not well, in both languages.
func Unhealthy(version, from, whatDe, whatEn string) *Refusal {
	return refuse(
		fmt.Sprintf("Das Update %s ist nicht übernommen worden: %s Es läuft wieder %s, nichts ging verloren.", version, sentence(whatDe), from),
		fmt.Sprintf("The update %s was not kept: %s %s runs again and nothing was lost.", version, sentence(whatEn), from))
}

func sentence(s string) string {
	if s != "" && s[len(s)-1] != '.' {
		s += "."
	}
	return s
}

// TrialTime is how long a trial may take until the box is well, by the size of its database, which is copied before a migration and then
// migrated: five minutes, and a second for every 2 MiB.
func TrialTime(databaseBytes int64) time.Duration {
	return 5*time.Minute + time.Duration(databaseBytes>>21)*time.Second
}
