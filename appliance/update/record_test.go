// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestRecordStory(t *testing.T) {
	at := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "update.json")
	r, err := ReadRecord(path)
	if err != nil || r.State != Idle {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := r.Starting(at); err == nil {
		t.Error("a trial of nothing")
	}
	keep := func(next Record) {
		t.Helper()
		if err := next.Keep(path); err != nil {
			t.Fatal(err)
		}
		if r, err = ReadRecord(path); err != nil {
			t.Fatal(err)
		}
	}
	keep(NowWritten(SlotA, Running{Version: "1.0", Release: 1}, Manifest{Version: "1.1", Release: 2, Schema: 9}, at))
	if r.State != Written || r.Slot != SlotB || r.From != SlotA || r.Version != "1.1" || r.FromVersion != "1.0" {
		t.Fatalf("%+v", r)
	}
	trial, err := r.Starting(at)
	if err != nil {
		t.Fatal(err)
	}
	keep(trial)
	for _, x := range []struct {
		what    string
		running Slot
		trial   bool
		want    State
		changed bool
	}{
		{"the trial itself", SlotB, true, Trial, false},
		{"the firmware booted the old system", SlotA, false, Failed, true},
		{"the firmware booted the new system", SlotB, false, Confirmed, true},
	} {
		next, changed := trial.AtBoot(x.running, x.trial, at)
		if next.State != x.want || changed != x.changed || (next.Reason != nil) != (x.want == Failed) {
			t.Errorf("%s: %+v, changed %v", x.what, next, changed)
		}
	}
	// the trial wrote down why it failed: that reason stays
	keep(trial.Fail(Unhealthy("1.1", "1.0", "Die Datenbank geht nicht auf", "The database does not open"), at))
	next, changed := r.AtBoot(SlotA, false, at)
	if changed || next.Reason == nil || next.Reason.En != "The update 1.1 was not kept: The database does not open. 1.0 runs again and nothing was lost." {
		t.Errorf("%+v", next.Reason)
	}
	if again, err := next.Starting(at); err != nil || again.Trials != 2 || again.Reason != nil {
		t.Errorf("a second trial: %+v, %v", again, err)
	}
	for _, done := range []Record{trial.Confirm(at), trial.GoneBack(at), {State: Idle}} {
		if _, err := done.Starting(at); err == nil {
			t.Errorf("%s starts a trial", done.State)
		}
		if next, changed := done.AtBoot(SlotA, false, at); changed || next.State != done.State {
			t.Errorf("%s becomes %s at boot", done.State, next.State)
		}
	}
	if err := os.WriteFile(path, []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := ReadRecord(path); err == nil || r.State != Idle {
		t.Errorf("a damaged record: %+v, %v", r, err)
	}
}

func TestRunningSlot(t *testing.T) {
	for line, want := range map[string]struct {
		s     Slot
		trial bool
	}{
		"root=PARTUUID=60c24cc1-f3f9-427a-8199-000000000001/PARTNROFF=1 ro":                {SlotA, false},
		"ro root=PARTUUID=60c24cc1-f3f9-427a-8199-000000000001/PARTNROFF=2 hallig.trial=1": {SlotB, true},
		"root=/dev/sda2 hallig.trial=10":                                                   {NoSlot, false},
		"":                                                                                 {NoSlot, false},
		"xroot=/PARTNROFF=1":                                                               {NoSlot, false},
	} {
		if s, trial := RunningSlot(line); s != want.s || trial != want.trial {
			t.Errorf("%q: slot %s, trial %v", line, s, trial)
		}
	}
}

// On a Raspberry Pi nothing on the command line says that a system is on trial: the firmware's own file does.
func TestOnTrial(t *testing.T) {
	for name, b := range boards {
		disk := makeDisk(t, b, makeSystem(1))
		d := must(OpenDisk(disk, int64(len(disk.b))))
		if d.HasTryboot() != b.pi {
			t.Errorf("%s: tryboot %v", name, d.HasTryboot())
		}
		for _, x := range []struct {
			running Slot
			word    bool
			want    bool
		}{{SlotA, false, false}, {SlotB, true, true}, {SlotB, false, b.pi}} {
			if got := d.OnTrial(x.running, x.word); got != x.want {
				t.Errorf("%s: slot %s, word %v: on trial %v", name, x.running, x.word, got)
			}
		}
		if !b.pi {
			if line, err := d.TrialCmdline(SlotA); err != nil || line != makeSystem(1).cmdline+" hallig.trial=1" {
				t.Errorf("%s: %q, %v", name, line, err)
			}
			if _, err := d.TrialCmdline(SlotB); err == nil {
				t.Errorf("%s: a fresh image's slot b names root a, and may be tried", name)
			}
			k := must(d.Kernel(SlotA))
			if k.Size() != int64(len(makeSystem(1).kernel)) {
				t.Errorf("%s: the kernel has %d bytes with the zeros behind it", name, k.Size())
			}
		}
	}
}

// A real file, past the page cache where its file system can.
func TestDeviceFile(t *testing.T) {
	b := board{wide: true}
	one, two := makeSystem(1), makeSystem(50)
	disk := makeDisk(t, b, one)
	path := onDisk(t, disk.b)
	dev, err := OpenDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("direct: %v", dev.direct)
	d := must(OpenDisk(dev, dev.Size()))
	if err := install(d, b, SlotA, two.file(t, b, 2), 1); err != nil {
		t.Fatal(err)
	}
	if err := d.Switch(t.Context(), SlotB); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3000)
	at := must(d.place(SlotB, RootPart)).at
	if n, err := dev.ReadAt(got, at+777); n != len(got) || err != nil || !bytes.Equal(got, two.root[777:3777]) {
		t.Errorf("read at an odd place: %d, %v", n, err)
	}
	if n, err := dev.ReadAt(got, dev.Size()-100); n != 100 || err == nil {
		t.Errorf("read past the end: %d, %v", n, err)
	}
	if _, err := dev.WriteAt(got[:100], 0); err == nil {
		t.Error("part of a sector is written")
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range b.firmwares() {
		if w, s, err := boots(raw, f, one, two); w != 1 || s != SlotB || err != nil {
			t.Errorf("%s boots %d, %s, %v", name, w, s, err)
		}
	}
}
