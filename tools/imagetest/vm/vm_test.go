// SPDX-License-Identifier: EUPL-1.2

package vm

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hallig/tools/imagetest/blocklog"
)

// bootSector is a whole operating system: it says something on the serial port and copies itself to the second sector of the disk.
func bootSector() []byte {
	b := make([]byte, 512)
	copy(b, []byte{
		0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // ds = es = 0
		0xbe, 0x40, 0x7c, // si = text
		0xac, 0x84, 0xc0, 0x74, 0x06, // al = *si++; done at 0
		0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5, // out com1, al
		0xb8, 0x01, 0x03, 0xbb, 0x00, 0x7c, 0xb9, 0x02, 0x00, 0xba, 0x80, 0x00, 0xcd, 0x13, // BIOS: write one sector from 7c00 to cylinder 0 sector 2
		0xf4, 0xeb, 0xfd, // halt for ever
	})
	copy(b[0x40:], "\x1b[1mbox on the table\x1b[0m\r\n\x00")
	b[510], b[511] = 0x55, 0xaa
	return b
}

func newMachine(t *testing.T) Config {
	t.Helper()
	if why := Missing(BIOS); why != "" {
		t.Skip(why)
	}
	dir := t.TempDir()
	disk := make([]byte, 1<<20)
	copy(disk, bootSector())
	c := Config{Dir: filepath.Join(dir, "box"), Disk: filepath.Join(dir, "disk.img"), Memory: 32, Ports: []int{80, 443}}
	if err := os.WriteFile(c.Disk, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMachineRecordsWrites(t *testing.T) {
	c := newMachine(t)
	before, err := os.ReadFile(c.Disk)
	if err != nil {
		t.Fatal(err)
	}
	c.Record = filepath.Join(t.TempDir(), "record")
	if err := os.WriteFile(c.Record, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	m, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	if g, err := m.Console.Wait(ctx, `(\w+) on the table`); err != nil || g[1] != "box" {
		t.Fatalf("console: %v %v", g, err)
	}
	if text := m.Console.Text(); strings.ContainsAny(text, "\x1b\r") {
		t.Errorf("console text keeps escapes: %q", text)
	}
	for n := 0; n == 0; time.Sleep(20 * time.Millisecond) {
		if n, err = blocklog.Length(c.Record); err != nil {
			n = 0 // QEMU has not written its head yet
		}
		if ctx.Err() != nil {
			t.Fatal("the write never came into the record:", err)
		}
		if n > 0 {
			break
		}
	}
	pid := m.Pid()
	m.Kill()
	if err := syscall.Kill(pid, 0); err == nil {
		t.Error("the machine still runs after its plug was pulled")
	}
	r, err := blocklog.Open(c.Record)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rebuilt := filepath.Join(t.TempDir(), "rebuilt.img")
	if err := os.WriteFile(rebuilt, before, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(rebuilt, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := r.Apply(f, 0, len(r.Entries)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(rebuilt)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(c.Disk)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || !bytes.Equal(got[512:1024], bootSector()) {
		t.Error("the disk rebuilt from the record is not the disk of the machine")
	}
}

// TestMachinePlugs: ports are forwarded, sticks and serial adapters come and go while the machine runs.
func TestMachinePlugs(t *testing.T) {
	c := newMachine(t)
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	stick := filepath.Join(t.TempDir(), "stick.img")
	if err := NewStick(stick, 64, map[string][]byte{"hallig.json": []byte(`{"hallig":1}`)}); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFAT(stick, StickOffset, "hallig.json"); err != nil || string(got) != `{"hallig":1}` {
		t.Fatalf("stick holds %q, %v", got, err)
	}
	if names, err := ListFAT(stick, StickOffset); err != nil || len(names) != 1 || names[0] != "hallig.json" {
		t.Fatalf("stick lists %q, %v", names, err)
	}
	m, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	if a, b := m.Addr(80), m.Addr(443); a == b || strings.HasSuffix(a, ":0") || strings.HasSuffix(b, ":0") {
		t.Errorf("ports are forwarded from %s and %s", a, b)
	}
	for range 2 {
		if err := m.PlugStick("s0", stick); err != nil {
			t.Fatal(err)
		}
		if err := m.Plug("r0", filepath.Join(c.Dir, "line.sock")); err != nil {
			t.Fatal(err)
		}
		usb, err := m.HMP("info usb")
		if err != nil || strings.Count(usb, "Device") != 2 {
			t.Fatalf("plugged in: %q, %v", usb, err)
		}
		if err := m.Unplug(ctx, "r0"); err != nil {
			t.Fatal(err)
		}
		if err := m.Unplug(ctx, "s0"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.HMP("info nonsense"); err != nil {
		t.Errorf("HMP answers an unknown word with %v", err) // it explains itself in the text
	}
	if err := m.Do("no-such-command", nil, nil); err == nil {
		t.Error("an unknown command is taken")
	}
}

func TestCopySparse(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(256 << 20); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 100 << 20, 256<<20 - 4} {
		if _, err := f.WriteAt([]byte("hold"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := CopySparse(to, from); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("the copy differs")
	}
	var st syscall.Stat_t
	if err := syscall.Stat(to, &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the copy takes %d bytes on the disk, its holes are gone", st.Blocks*512)
	}
}
