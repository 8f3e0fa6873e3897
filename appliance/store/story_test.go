// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hallig/appliance/update"
	"hallig/appliance/wayback"
)

// machine is a box of the image as far as an update goes: its record, its database, what the firmware boots, and what runs. The older system is slot
// a, the newer one, which has one migration more, slot b.
type machine struct {
	t      *testing.T
	dir    string
	boots  update.Slot
	runs   update.Slot
	record update.Record
	acked  []string // what was acknowledged to somebody
}

var storyTime = time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)

func (m *machine) db() string { return filepath.Join(m.dir, "hallig.db") }

func (m *machine) program(trial bool) Options {
	if m.runs == update.SlotB {
		return Options{newer: []string{`CREATE TABLE novelty (n INTEGER PRIMARY KEY) STRICT`}, Trial: trial}
	}
	return Options{Trial: trial}
}

func (m *machine) with(trial bool, f func(*DB) error) {
	m.t.Helper()
	db, err := Open(m.t.Context(), m.db(), m.program(trial))
	if err != nil {
		m.t.Fatalf("slot %s opens the database: %v", m.runs, err)
	}
	if err := f(db); err != nil {
		m.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) keep(r update.Record) {
	m.t.Helper()
	if err := r.Keep(filepath.Join(m.dir, "update.json")); err != nil {
		m.t.Fatal(err)
	}
	m.record = r
}

// say acknowledges something, which must never be lost unless somebody goes back on purpose.
func (m *machine) say(db *DB, what string) error {
	alias := "#" + what + ":x"
	err := db.Do(m.t.Context(), func(tx *Tx) error { _, err := tx.SetAlias(alias, "!r:x", "@u:x"); return err })
	m.acked = append(m.acked, alias)
	return err
}

func (m *machine) hears(db *DB) error {
	return db.View(m.t.Context(), func(r *Read) error {
		for _, alias := range m.acked {
			if room, _, err := r.Alias(alias); err != nil || room != "!r:x" {
				return fmt.Errorf("slot %s: %s is gone (%q, %v)", m.runs, alias, room, err)
			}
		}
		return nil
	})
}

// boot is a start after the power went: what the first process and the homeserver do.
func (m *machine) boot() {
	m.t.Helper()
	r, err := update.ReadRecord(filepath.Join(m.dir, "update.json"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.runs, m.record = m.boots, r
	if next, changed := r.AtBoot(m.runs, false, storyTime); changed {
		m.keep(next)
	}
	m.with(false, m.hears)
}

// steps is an update that goes well, in the order in which cmd/init and the homeserver do it.
func (m *machine) steps() []func() {
	manifest := update.Manifest{Version: "1.1", Release: 2, Schema: schemaVersion + 1}
	return []func(){
		func() { m.with(false, func(db *DB) error { return m.say(db, "before") }) },
		func() {
			m.keep(update.NowWritten(update.SlotA, update.Running{Version: "1.0", Release: 1}, manifest, storyTime))
		},
		func() {
			r, err := m.record.Starting(storyTime)
			if err != nil {
				m.t.Fatal(err)
			}
			m.keep(r)
		},
		func() { m.runs = update.SlotB }, // kexec; nothing on the disk
		func() { // the newer homeserver is cut off in the middle of its start: after the copy
			f, err := os.Open(m.db())
			if err != nil {
				m.t.Fatal(err)
			}
			defer f.Close()
			if err := wayback.Make(f, m.db(), schemaVersion, 1<<40); err != nil {
				m.t.Fatal(err)
			}
		},
		func() { // after the note
			if err := wayback.Leave(m.db(), wayback.Note{Act: wayback.Trial, Schema: schemaVersion}); err != nil {
				m.t.Fatal(err)
			}
		},
		func() { m.with(true, m.hears) }, // after the migration
		func() { m.with(true, m.hears) }, // it crashed and was started again, still on trial
		func() { m.boots = update.SlotB },
		func() { m.keep(m.record.Confirm(storyTime)) },
		func() { m.with(true, (*DB).Confirm) },
		func() { m.with(false, func(db *DB) error { return m.say(db, "after") }) },
	}
}

// The power goes after each step of an update, and the box starts again from what is on its disk, twice: nothing that was acknowledged is lost, and record,
// database and firmware agree. Then the update is made once more, to its end.
func TestUpdateStory(t *testing.T) {
	all := len((&machine{}).steps())
	for cut := 1; cut <= all; cut++ {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			m := &machine{t: t, dir: t.TempDir(), boots: update.SlotA, runs: update.SlotA}
			for _, step := range m.steps()[:cut] {
				step()
			}
			for range 2 {
				m.boot()
			}
			want := map[update.Slot][]update.State{update.SlotA: {update.Idle, update.Written, update.Failed}, update.SlotB: {update.Confirmed}}
			ok := false
			for _, s := range want[m.runs] {
				ok = ok || s == m.record.State
			}
			if !ok {
				t.Fatalf("slot %s runs, and the record says %s", m.runs, m.record.State)
			}
			if m.record.State == update.Failed && (m.record.Reason == nil || m.record.Reason.De == "") {
				t.Error("a failed trial without a reason")
			}
			if m.runs == update.SlotB {
				return
			}
			if n, err := wayback.ReadNote(m.db()); err != nil || n.Act != "" {
				t.Fatalf("the older system runs with a note beside its database: %+v, %v", n, err)
			}
			for _, step := range m.steps() {
				step()
			}
			m.boot()
			if m.runs != update.SlotB || m.record.State != update.Confirmed {
				t.Errorf("the second try ends in slot %s, %s", m.runs, m.record.State)
			}
		})
	}
}
