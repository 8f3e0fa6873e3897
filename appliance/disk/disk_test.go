// SPDX-License-Identifier: EUPL-1.2

package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// memory is a disk that can lose its power: every write is kept until a Sync, and cut can build what is left after any of them.
type memory struct {
	b    []byte
	base []byte
	log  []write
}

type write struct {
	b  []byte
	at int64
}

func (m *memory) ReadAt(p []byte, at int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, at) }
func (m *memory) Sync() error                            { return nil }
func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	m.log = append(m.log, write{append([]byte(nil), p...), at})
	return copy(m.b[at:], p), nil
}

func newMemory(b []byte) *memory { return &memory{b: b, base: append([]byte(nil), b...)} }

// cut is the disk after n whole writes and the first part sectors of the next.
func (m *memory) cut(n, part int) []byte {
	b := append([]byte(nil), m.base...)
	for _, w := range m.log[:n] {
		copy(b[w.at:], w.b)
	}
	if n < len(m.log) {
		w := m.log[n]
		copy(b[w.at:], w.b[:min(len(w.b), part*sector)])
	}
	return b
}

// image is a disk as the builder makes it for size bytes, lying on a medium of medium bytes.
func image(size, medium int64, parts [][2]uint64) []byte {
	b := make([]byte, medium)
	le := binary.LittleEndian
	ents := make([]byte, entries*entry)
	for i, p := range parts {
		e := ents[i*entry:]
		e[0], e[16] = 1, byte(i+1)
		le.PutUint64(e[32:], p[0])
		le.PutUint64(e[40:], p[1])
	}
	end := uint64(size/sector) - 1
	h := make([]byte, sector)
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x10000)
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[32:], end)
	le.PutUint64(h[40:], 34)
	le.PutUint64(h[48:], end-33)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], entries)
	le.PutUint32(h[84:], entry)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(ents))
	le.PutUint32(h[16:], headerSum(h))
	copy(b[sector:], h)
	copy(b[2*sector:], ents)
	return b
}

var layout = [][2]uint64{{2048, 4095}, {4096, 6143}, {6144, 8191}, {8192, 10239}}

func TestGrowSurvivesEveryCut(t *testing.T) {
	const size, medium = 6 * mib, 20*mib + 3*sector
	m := newMemory(image(size, medium, layout))
	tab, err := ReadTable(m)
	if err != nil {
		t.Fatal(err)
	}
	ext, grown, err := tab.Grow(m, medium, 4)
	if err != nil || !grown || ext.Start != 4*mib || ext.Size != 15*mib {
		t.Fatalf("Grow: %+v, %v, %v; want 15 MiB from 4 MiB", ext, grown, err)
	}
	old, now := 0, 0
	for n := range m.log {
		for part := 0; part <= len(m.log[n].b)/sector; part++ {
			d := newMemory(m.cut(n, part))
			tab, err := ReadTable(d)
			if err != nil {
				t.Fatalf("cut in write %d after %d sectors: %v", n, part, err)
			}
			switch p, _ := tab.Part(4); p.Size {
			case 1 * mib:
				old++
			case 15 * mib:
				now++
			default:
				t.Fatalf("cut in write %d after %d sectors: p4 has %d bytes", n, part, p.Size)
			}
			if p, _, err := tab.Grow(d, medium, 4); err != nil || p.Size != 15*mib {
				t.Fatalf("cut in write %d after %d sectors: the next start gets %+v, %v", n, part, p, err)
			}
		}
	}
	if old == 0 || now == 0 {
		t.Fatalf("%d cuts left the old table and %d the new one; want some of each", old, now)
	}
	// A move to a still bigger disk takes the other place, so that the table in force is again not touched.
	bigger := newMemory(append(append([]byte(nil), m.b...), make([]byte, 20*mib)...))
	tab, err = ReadTable(bigger)
	if err != nil {
		t.Fatal(err)
	}
	if _, grown, err := tab.Grow(bigger, 40*mib, 4); err != nil || !grown {
		t.Fatalf("second growth: %v, %v", grown, err)
	}
	for n := range bigger.log {
		if _, err := ReadTable(newMemory(bigger.cut(n, 1))); err != nil {
			t.Fatalf("second growth, cut in write %d: %v", n, err)
		}
	}
}

// TestTableForOthers lets sfdisk, which nobody here wrote, read what Grow wrote.
func TestTableForOthers(t *testing.T) {
	if _, err := exec.LookPath("sfdisk"); err != nil {
		t.Skip("no sfdisk")
	}
	name := filepath.Join(t.TempDir(), "disk")
	if out, err := exec.Command("truncate", "-s", "8M", name).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	cmd := exec.Command("sfdisk", "-q", name)
	cmd.Stdin = bytes.NewReader([]byte("label: gpt\nstart=2048,size=2048\nstart=4096,size=2048\nstart=6144,size=2048\nstart=8192,size=2048\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	if err := os.Truncate(name, 64*mib); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tab, err := ReadTable(f)
	if err != nil {
		t.Fatal(err)
	}
	if _, grown, err := tab.Grow(f, 64*mib, 4); err != nil || !grown {
		t.Fatal(grown, err)
	}
	out, err := exec.Command("sfdisk", "--verify", name).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("No errors detected")) {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	out, _ = exec.Command("sfdisk", "-d", name).CombinedOutput()
	if !bytes.Contains(out, []byte(fmt.Sprintf("size= %11d", (63*mib-4*mib)/sector))) {
		t.Errorf("p4 is not 59 MiB for sfdisk:\n%s", out)
	}
}

func TestForeignTables(t *testing.T) {
	good := func() []byte { return image(6*mib, 20*mib, layout) }
	for name, b := range map[string][]byte{
		"empty":          make([]byte, mib),
		"short":          make([]byte, 100),
		"header changed": func() []byte { b := good(); b[sector+50]++; return b }(),
		"entry changed":  func() []byte { b := good(); b[2*sector+40]++; return b }(),
	} {
		if _, err := ReadTable(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for name, parts := range map[string][][2]uint64{
		"no fourth":        layout[:3],
		"not the last":     {layout[0], layout[1], layout[2], {8192, 10239}, {10240, 12287}},
		"begins too early": {{40, 4095}, layout[1], layout[2], layout[3]},
	} {
		m := newMemory(image(6*mib, 20*mib, parts))
		tab, err := ReadTable(m)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, grown, err := tab.Grow(m, 20*mib, 4); err == nil || grown || len(m.log) > 0 {
			t.Errorf("%s: grown %v, %v, %d writes", name, grown, err, len(m.log))
		}
	}
	// A table that already fits, or a smaller disk, changes nothing.
	m := newMemory(image(6*mib, 6*mib, layout))
	tab, _ := ReadTable(m)
	if _, grown, err := tab.Grow(m, 6*mib, 4); err != nil || grown || len(m.log) > 0 {
		t.Errorf("fitting table: grown %v, %v, %d writes", grown, err, len(m.log))
	}
}

func FuzzReadTable(f *testing.F) {
	f.Add(image(6*mib, 6*mib, layout)[:64*sector])
	f.Add(make([]byte, 34*sector))
	f.Fuzz(func(t *testing.T, b []byte) {
		tab, err := ReadTable(bytes.NewReader(b))
		if err != nil {
			return
		}
		m := newMemory(make([]byte, 20*mib))
		copy(m.b, b[:min(len(b), len(m.b))])
		if ext, grown, err := tab.Grow(m, 20*mib, 4); err == nil && grown && ext.Start+ext.Size > 20*mib {
			t.Errorf("grown past the disk: %+v", ext)
		}
	})
}

func TestMakeSurvivesEveryCut(t *testing.T) {
	garbage := bytes.Repeat([]byte("old data "), SeedSize/9+1)[:SeedSize]
	copy(garbage, make([]byte, mib))
	copy(garbage, Fresh)
	m := newMemory(garbage)
	if err := Make(m); err != nil {
		t.Fatal(err)
	}
	if c, err := Look(m); err != nil || c != Ext4 {
		t.Fatalf("Look: %v, %v", c, err)
	}
	first := -1
	for n := 60; n < len(m.log); n++ {
		for part := range 3 {
			c, err := Look(newMemory(m.cut(n, part)))
			if err != nil || c != Empty && c != Ext4 {
				t.Fatalf("cut in write %d after %d sectors: %v, %v", n, part, c, err)
			}
			if c == Ext4 && first < 0 {
				first = n
			}
		}
	}
	if first < len(m.log)-2 {
		t.Errorf("the file system counts from write %d of %d: others come after it", first, len(m.log))
	}
	fsck(t, m.b)
	// As soon as it counts it is whole, though the mark is not gone yet.
	fsck(t, m.cut(len(m.log)-1, 0))
	other := newMemory(make([]byte, SeedSize))
	if err := Make(other); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(m.b[superAt+superUUID:superAt+superUUID+16], other.b[superAt+superUUID:superAt+superUUID+16]) {
		t.Error("two boxes have the same UUID")
	}
}

func fsck(t *testing.T, b []byte) {
	t.Helper()
	if _, err := exec.LookPath("e2fsck"); err != nil {
		t.Log("no e2fsck here: not checked")
		return
	}
	name := filepath.Join(t.TempDir(), "fs")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("e2fsck", "-fn", name).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

func TestLook(t *testing.T) {
	blank := func(s string) []byte { b := make([]byte, 2*mib); copy(b, s); return b }
	foreign := blank("")
	foreign[mib-1] = 1
	for name, tc := range map[string]struct {
		b    []byte
		want Content
	}{
		"zero":    {blank(""), Empty},
		"fresh":   {append(blank(Fresh)[:mib-10], bytes.Repeat([]byte("x"), mib)...), Empty},
		"vault":   {blank("HALLIGV1\x01"), Vault},
		"foreign": {foreign, Foreign},
		"ntfs":    {blank("\xebR\x90NTFS    "), Foreign},
	} {
		if got, err := Look(bytes.NewReader(tc.b)); err != nil || got != tc.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, tc.want)
		}
	}
	if _, err := Look(bytes.NewReader(make([]byte, 100))); err == nil {
		t.Error("a partition of 100 bytes: no error")
	}
}

func TestEraseSurvivesEveryCut(t *testing.T) {
	const size = 70*mib + 4*sector
	m := newMemory(bytes.Repeat([]byte("secret! "), size/8))
	if err := Make(m); err != nil {
		t.Fatal(err)
	}
	copy(m.b[66*mib:], "a message")
	m = newMemory(m.b)
	if err := Erase(m, size, nil, nil); err != nil {
		t.Fatal(err)
	}
	if c, _ := Look(m); c != Erasing {
		t.Fatalf("after Erase: %v; only Make ends it", c)
	}
	clean := func(b []byte) bool { return len(bytes.TrimLeft(b[sector:], "\x00")) == 0 }
	if !clean(m.b) {
		t.Fatal("something is left")
	}
	renewed := newMemory(bytes.Clone(m.b))
	if err := Renew(renewed, "0123abcd"); err != nil {
		t.Fatal(err)
	}
	if c, _ := Look(renewed); c != Empty || Noted(renewed) != "0123abcd" {
		t.Fatalf("after Renew: %v, note %q", c, Noted(renewed))
	}
	if err := Make(renewed); err != nil {
		t.Fatal(err)
	}
	if c, _ := Look(renewed); c != Ext4 || Noted(renewed) != "" {
		t.Fatalf("after Make: %v, note %q", c, Noted(renewed))
	}
	if err := Renew(renewed, "two\nlines"); err == nil || Noted(renewed) != "" {
		t.Error("a note of two lines")
	}
	if n := Noted(bytes.NewReader(append([]byte(Fresh), make([]byte, sector)...))); n != "" {
		t.Errorf("a fresh image has the note %q", n)
	}
	for n := 1; n <= len(m.log); n += 5 {
		d := newMemory(m.cut(n, 0))
		if c, _ := Look(d); c != Erasing {
			t.Fatalf("cut before write %d: %v", n, c)
		}
		if err := Erase(d, size, nil, nil); err != nil || !clean(d.b) {
			t.Fatalf("cut before write %d: taken up again: %v, clean %v", n, err, clean(d.b))
		}
		if err := Make(d); err != nil {
			t.Fatal(err)
		}
		if c, _ := Look(d); c != Ext4 {
			t.Fatalf("cut before write %d: %v after Make", n, c)
		}
	}
}

func TestHolding(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"devices/usb/block/sdb/sdb2", "dev/block", "class/block"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("devices/usb/block/sdb/sdb2/partition", "2\n")
	put("devices/usb/block/sdb/size", "2048\n")
	for link, to := range map[string]string{"dev/block/8:18": "../../devices/usb/block/sdb/sdb2", "dev/block/8:16": "../../devices/usb/block/sdb", "class/block/sdb": "../../devices/usb/block/sdb"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	s := System{Sys: dir, Dev: "/dev"}
	d, err := s.Holding(8, 18)
	if err != nil || d.Name != "sdb" || d.Slot() != "a" || d.PartPath(4) != "/dev/sdb4" {
		t.Fatalf("%+v, %v", d, err)
	}
	if n, err := d.Size(); err != nil || n != mib {
		t.Errorf("size %d, %v", n, err)
	}
	if got := (Device{Name: "mmcblk0"}).PartName(4); got != "mmcblk0p4" {
		t.Error(got)
	}
	for _, minor := range []uint32{16, 99} {
		if _, err := s.Holding(8, minor); err == nil {
			t.Errorf("8:%d is no partition, and no error", minor)
		}
	}
}
