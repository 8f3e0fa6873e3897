// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/steward"
	"hallig/appliance/update"
)

// TestNextUpdateIsNoTrial: a box that has kept an update takes the next one in the same life, with its doors open and without a restart.
func TestNextUpdateIsNoTrial(t *testing.T) {
	b := testBox(t)
	b.slot = update.SlotB
	b.trial.Store(true)
	b.deadline = time.Now().Add(-time.Second) // of the trial, which was well before it
	b.record = update.Record{State: update.Trial, Slot: update.SlotB, From: update.SlotA, Version: "2", FromVersion: "1", Trials: 1}
	b.kept(b.record)
	for _, s := range []update.State{update.Idle, update.Written, update.Failed} {
		b.record = update.Record{State: s, Slot: update.SlotA, From: update.SlotB, Version: "3"}
		b.expire()
		if len(b.endings) != 0 {
			t.Fatalf("%s: the box restarts: %+v", s, <-b.endings)
		}
		if args := strings.Join(b.halligArgs(), " "); strings.Contains(args, "--trial") || b.state().Trial {
			t.Errorf("%s: the doors close at the next start of the homeserver: %s", s, args)
		}
	}
}

// TestNotForwardByItself: a stick that installs updates does not undo that somebody went back.
func TestNotForwardByItself(t *testing.T) {
	b := testBox(t)
	b.record = update.Record{State: update.Confirmed, Release: 5, Version: "1.5"}.GoneBack(time.Now())
	b.installFrom(&stick{updates: []steward.Bundle{{Path: "/none", Version: "1.5", Release: 5, Newer: true}}}, true)
	if log := logOf(t, b); !strings.Contains(log, "not tried again") {
		t.Errorf("it is installed again:\n%s", log)
	}
	b.installFrom(&stick{updates: []steward.Bundle{{Path: "/none", Version: "1.6", Release: 6, Newer: true}}}, true)
	if log := logOf(t, b); !strings.Contains(log, "1.6 on stick  is installed") {
		t.Errorf("the next release is not taken:\n%s", log)
	}
}

func logOf(t *testing.T, b *box) string {
	t.Helper()
	var out bytes.Buffer
	if err := b.rings.Copy(&out, "init"); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestNobodyLeadsRootAstray: what the homeserver leaves in its own folders, were it taken over, reaches nothing of root's.
func TestNobodyLeadsRootAstray(t *testing.T) {
	b := testBox(t)
	secret := b.at.system("provision.json")
	if err := os.WriteFile(secret, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(b.at.system(""))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(b.at.Perm, "hallig"), 0o700); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(b.at.Perm, "hallig/tmp")
	if err := os.Symlink(b.at.system(""), tmp); err != nil {
		t.Fatal(err)
	}
	if err := b.emptyTmp(); err != nil {
		t.Error(err)
	}
	if err := ownFolder(tmp, 0o711, os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(tmp); err != nil || !st.IsDir() {
		t.Errorf("%v, %v: no folder of its own", st, err)
	}
	if st, err := os.Stat(b.at.system("")); err != nil || st.Mode() != before.Mode() || read(t, secret) != "{}" {
		t.Errorf("%v, %v: root's folder was touched", st, err)
	}

	screen := filepath.Join(b.at.Run, steward.ScreenFile)
	if err := unix.Mkfifo(screen, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.screenOfServer(); ok { // and it must return
		t.Error("a pipe is a picture")
	}
	os.Remove(screen)
	other := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(other, []byte(`{"server_name":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, screen); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.screenOfServer(); ok {
		t.Error("a link is followed")
	}
	os.Remove(screen)
	if err := os.WriteFile(screen, []byte(`{"server_name":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, ok := b.screenOfServer(); !ok || s.ServerName != "x" {
		t.Errorf("%+v, %v", s, ok)
	}
}

// TestLeash: a slow disk does not make the watchdog bite, one that hangs does.
func TestLeash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := os.Create(filepath.Join(t.TempDir(), "watchdog"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w := &watchdog{f: f}
		pets := func() int64 {
			st, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			return st.Size()
		}
		var late atomic.Int32
		l := w.hold(time.Minute, func() { late.Add(1) })
		for range 4 { // it goes on
			time.Sleep(50 * time.Second)
			l.more()
		}
		if n := pets(); n < 180 || late.Load() != 0 {
			t.Errorf("%d pets in 200 s, late %d", n, late.Load())
		}
		time.Sleep(61 * time.Second) // it hangs
		n := pets()
		time.Sleep(time.Hour)
		if pets() != n || late.Load() != 1 {
			t.Errorf("%d pets in the hour after it hung, late %d", pets()-n, late.Load())
		}
		l.loose()
		l = w.hold(time.Minute, func() { late.Add(1) })
		time.Sleep(time.Second)
		l.loose()
		synctest.Wait()
		n = pets()
		time.Sleep(time.Hour)
		if pets() != n || late.Load() != 1 {
			t.Errorf("let loose: %d pets, late %d", pets()-n, late.Load())
		}
		(*watchdog)(nil).hold(time.Minute, func() {}).loose() // a machine without one
	})
}
