// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A built image and its update file, named by HALLIG_IMAGE and HALLIG_UPDATE (make image makes both), are what this package expects: slot a is whole, the
// update goes into slot b, the FAT stays clean, and the slot gives the file on.
func TestBuiltImage(t *testing.T) {
	image, file := os.Getenv("HALLIG_IMAGE"), os.Getenv("HALLIG_UPDATE")
	if image == "" || file == "" {
		t.Skip("HALLIG_IMAGE and HALLIG_UPDATE name no built image")
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if out, err := exec.Command("cp", "--sparse=always", image, disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dev, err := OpenDevice(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	d, err := OpenDisk(dev, dev.Size())
	if err != nil {
		t.Fatal(err)
	}
	timed := func(what string, f func() error) {
		t.Helper()
		start := time.Now()
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%-28s %s", what, time.Since(start).Round(time.Millisecond))
	}
	timed("check slot a", func() error { _, err := d.Check(t.Context(), SlotA); return err })
	if s, err := d.Boots(); s != SlotA || err != nil {
		t.Errorf("the firmware boots slot %s, %v", s, err)
	}
	for _, p := range d.pointers() {
		t.Logf("chosen by %s: slot %s", p.name, p.slot)
	}
	if _, err := d.Check(t.Context(), SlotB); !errors.Is(err, errNoSystem) {
		t.Errorf("slot b: %v", err)
	}
	if !d.HasTryboot() {
		if line, err := d.TrialCmdline(SlotA); err != nil {
			t.Errorf("%q, %v", line, err)
		}
		if _, err := d.Kernel(SlotA); err != nil {
			t.Error(err)
		}
	}
	open := func() io.ReadCloser { return must(os.Open(file)) }
	f := open()
	m, by, err := Inspect(f)
	f.Close()
	if err != nil || len(by) == 0 {
		t.Fatalf("%v, signed by %v", err, by)
	}
	now := Running{Board: m.Board, Version: "0", Release: m.Release - 1, Keys: Keys{Threshold: 1, Keys: by}}
	installFrom := func(r io.Reader) error {
		rd, err := Open(r, now)
		if err != nil {
			return err
		}
		defer rd.Close()
		return d.Install(t.Context(), SlotA, rd, nil)
	}
	clean(t, d)
	f = open()
	defer f.Close()
	timed("install into slot b", func() error { return installFrom(f) })
	clean(t, d)
	timed("switch, with the check", func() error { return d.Switch(t.Context(), SlotB) })
	clean(t, d)
	if !d.HasTryboot() {
		if line, err := d.TrialCmdline(SlotB); err != nil {
			t.Errorf("%q, %v", line, err)
		}
	}
	var again bytes.Buffer
	timed("give slot b on", func() error { return d.Stream(t.Context(), &again, SlotB) })
	t.Logf("the file has %d bytes, given on %d", must(os.Stat(file)).Size(), again.Len())
	if err := d.Switch(t.Context(), SlotA); err != nil {
		t.Fatal(err)
	}
	timed("take it again", func() error { return installFrom(&again) })
}

// clean holds that fsck.fat, where it is installed, finds nothing.
func clean(t *testing.T, d *Disk) {
	t.Helper()
	fsck, err := exec.LookPath("fsck.fat")
	if err != nil {
		return
	}
	part := filepath.Join(t.TempDir(), "p1")
	raw := make([]byte, d.parts[bootPartition].size)
	if err := readFull(d.dev, raw, d.parts[bootPartition].at); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(part, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(fsck, "-n", part).CombinedOutput(); err != nil {
		t.Errorf("fsck.fat: %v: %s", err, out)
	}
	if err := os.Remove(part); err != nil {
		t.Fatal(err)
	}
}
