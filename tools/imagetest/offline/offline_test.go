// SPDX-License-Identifier: EUPL-1.2

package offline

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hallig/appliance/store"
	"hallig/tools/imagetest/vm"
)

const mib = 1 << 20

// part fills what a slot holds with something recognisable.
func part(what string, size int) []byte { return bytes.Repeat([]byte(what), size/len(what)+1)[:size] }

func content(b []byte) Content {
	return Content{SHA512: fmt.Sprintf("%x", sha512.Sum512(b)), Size: int64(len(b))}
}

const cmdline = "console=ttyS0 gpt root=PARTUUID=60c24cc1-f3f9-427a-8199-2e18c40c0001/PARTNROFF=%d panic=10"

type bench struct {
	t        *testing.T
	dir      string
	disk     string
	old, new System
	kernelAt map[byte]int64 // LBAs of the files of each slot
	lineAt   map[byte]int64
}

// newBench makes a small disk as the image has it: old in slot a, new in slot b, a is booted; an ext4 with a database on p4.
func newBench(t *testing.T) *bench {
	t.Helper()
	for _, tool := range []string{"sfdisk", "mkfs.fat", "mcopy", "mke2fs", "debugfs", "e2fsck"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing: %v", tool, err)
		}
	}
	b := &bench{t: t, dir: t.TempDir(), kernelAt: map[byte]int64{}, lineAt: map[byte]int64{}}
	b.disk = filepath.Join(b.dir, "disk.img")
	if err := os.WriteFile(b.disk, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(b.disk, 100*mib); err != nil {
		t.Fatal(err)
	}
	b.run("label: gpt\nstart=2048, size=40960\nstart=43008, size=8192\nstart=51200, size=8192\nstart=59392\n", "sfdisk", "-q", b.disk)
	fat := filepath.Join(b.dir, "fat")
	b.run("", "mkfs.fat", "-C", "-F", "16", "-n", "HALLIG", fat, "20480")
	b.run("", "mmd", "-i", fat, "::loader", "::loader/entries")
	ka, kb, ra, rb := part("kernel old ", 900_000), part("kernel new ", 950_000), part("root old ", 3*mib), part("root new ", 2*mib)
	b.old, b.new = System{Name: "old", Kernel: content(ka), Root: content(ra)}, System{Name: "new", Kernel: content(kb), Root: content(rb)}
	for slot, k := range map[byte][]byte{'a': ka, 'b': kb} {
		line := fmt.Sprintf(cmdline, 1+slot-'a')
		for name, body := range map[string][]byte{
			"vmlinuz-%c":                    append(bytes.Clone(k), make([]byte, mib-len(k))...),
			"cmdline-%c.txt":                append([]byte(line+"\n"), make([]byte, 4096-len(line)-1)...),
			"loader/entries/hallig-%c.conf": fmt.Appendf(nil, "title Hallig\nlinux /vmlinuz-%c\noptions %s\n\n\n", slot, line),
		} {
			if err := vm.PutFAT(fat, 0, fmt.Sprintf(name, slot), body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := vm.PutFAT(fat, 0, "loader/loader.conf", []byte("default hallig-a.conf\ntimeout 0\n")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(fat)
	if err != nil {
		t.Fatal(err)
	}
	b.write(raw, 2048*sector)
	b.write(ra, 43008*sector)
	b.write(rb, 51200*sector)
	for slot, k := range map[byte][]byte{'a': ka, 'b': kb} {
		b.kernelAt[slot] = 2048 + int64(bytes.Index(raw, k[:4096]))/sector
		b.lineAt[slot] = 2048 + int64(bytes.Index(raw, fmt.Appendf(nil, cmdline+"\n\x00", 1+slot-'a')))/sector
	}
	b.pointBIOS('a')
	b.makeData()
	return b
}

func (b *bench) pointBIOS(slot byte) {
	mbr := make([]byte, 8)
	binary.LittleEndian.PutUint32(mbr, uint32(b.kernelAt[slot]))
	binary.LittleEndian.PutUint32(mbr[4:], uint32(b.lineAt[slot]))
	b.write(mbr, 432)
}

func (b *bench) makeData() {
	root := filepath.Join(b.dir, "perm")
	if err := os.MkdirAll(filepath.Join(root, "hallig"), 0o755); err != nil {
		b.t.Fatal(err)
	}
	db, err := store.Open(b.t.Context(), filepath.Join(root, "hallig", "hallig.db"), store.Options{Reserve: -1})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		b.t.Fatal(err)
	}
	ext := filepath.Join(b.dir, "ext")
	size := (100*mib - 59392*sector - mib) / 4096
	b.run("", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", root, ext, fmt.Sprint(size))
	raw, err := os.ReadFile(ext)
	if err != nil {
		b.t.Fatal(err)
	}
	b.write(raw, 59392*sector)
}

func (b *bench) run(in, name string, args ...string) {
	b.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("%s: %v: %s", name, err, out)
	}
}

func (b *bench) write(p []byte, at int64) {
	b.t.Helper()
	f, err := os.OpenFile(b.disk, os.O_WRONLY, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(p, at); err != nil {
		b.t.Fatal(err)
	}
}

// boots is what both firmwares make of the disk.
func (b *bench) boots(f vm.Firmware) string {
	b.t.Helper()
	d, err := Open(b.disk)
	if err != nil {
		b.t.Fatal(err)
	}
	defer d.Close()
	s, slot, err := d.Boots(f, b.old, b.new)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s in %c", s.Name, slot)
}

func TestBoots(t *testing.T) {
	b := newBench(t)
	want := func(when string, f vm.Firmware, want string) {
		t.Helper()
		if got := b.boots(f); !strings.Contains(got, want) {
			t.Errorf("%s, %v: %q, want %q", when, f, got, want)
		}
	}
	want("fresh", vm.BIOS, "old in a")
	want("fresh", vm.UEFI, "old in a")
	b.pointBIOS('b')
	want("BIOS switched", vm.BIOS, "new in b")
	want("BIOS switched", vm.UEFI, "old in a")
	if err := vm.PutFAT(b.disk, 2048*sector, "loader/loader.conf", []byte("default hallig-b.conf\ntimeout 0\n")); err != nil {
		t.Fatal(err)
	}
	want("UEFI switched", vm.UEFI, "new in b")

	b.write([]byte("X"), b.kernelAt['b']*sector+5000)
	want("a byte of the kernel differs", vm.BIOS, "another kernel")
	b.pointBIOS('a')
	want("the other slot", vm.BIOS, "old in a")
	b.write([]byte("X"), 43008*sector+2*mib)
	want("a byte of the root differs", vm.BIOS, "ever whole there")
	b.write(part("root old ", 3*mib), 43008*sector)
	want("the root again", vm.BIOS, "old in a")
	b.write([]byte{1, 2, 3}, sector+20)
	want("primary table torn, the kernel is told to read the other", vm.BIOS, "old in a")
	line := strings.Replace(fmt.Sprintf(cmdline, 1), "gpt", "xxx", 1)
	b.write([]byte(line), b.lineAt['a']*sector)
	want("primary table torn, the kernel is not told", vm.BIOS, "finds no root")
	b.write([]byte(fmt.Sprintf(cmdline, 1)+" hallig.trial=1"), b.lineAt['a']*sector)
	want("trial on the disk", vm.BIOS, "on trial")
	b.pointBIOS('b')
	b.write(make([]byte, 8), 432)
	want("no numbers in sector 0", vm.BIOS, "names no root")
}

func TestBootFileSystem(t *testing.T) {
	b := newBench(t)
	check := func() error {
		d, err := Open(b.disk)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		return d.Boot(filepath.Join(t.TempDir(), "new"))
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	b.write([]byte{0xf8, 0xff, 0xff, 0xff, 9, 9, 9, 9}, 2048*sector+4*sector)
	if check() == nil {
		t.Error("a damaged FAT passes")
	}
}

func (b *bench) data() (missing []string, err error) {
	b.t.Helper()
	d, err := Open(b.disk)
	if err != nil {
		b.t.Fatal(err)
	}
	defer d.Close()
	dir := b.t.TempDir()
	if err := d.Data(dir); err != nil {
		return nil, err
	}
	return Database(b.t.Context(), filepath.Join(dir, "hallig"), []string{"$never-written-by-anybody-0123456789abcdefghi"})
}

func TestData(t *testing.T) {
	b := newBench(t)
	p4 := int64(59392 * sector)
	if missing, err := b.data(); err != nil || len(missing) != 1 {
		t.Fatalf("sound disk: missing %q, %v; want the one id that was never there", missing, err)
	}
	table := make([]byte, 4096)
	for i := range table {
		table[i] = 0x5a
	}
	b.write(table, p4+2*4096) // group descriptors and what follows
	if _, err := b.data(); err == nil {
		t.Error("a damaged ext4 passes")
	}
	b.makeData()
	raw, err := os.ReadFile(b.disk)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw[p4:], []byte("SQLite format 3\x00"))
	if at < 0 {
		t.Fatal("no database on the disk")
	}
	b.write(bytes.Repeat([]byte{0xee}, 20_000), p4+int64(at)+4096)
	if _, err := b.data(); err == nil {
		t.Error("a damaged database passes")
	}
	b.write(make([]byte, 64<<10), p4)
	if _, err := b.data(); !errors.Is(err, ErrNoData) {
		t.Errorf("empty partition: %v, want ErrNoData", err)
	}
}
