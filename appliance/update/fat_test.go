// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Volumes that mkfs.fat and mtools made are read as ours are, where these tools are installed.
func TestForeignVolumes(t *testing.T) {
	for _, tool := range []string{"mkfs.fat", "mcopy", "mmd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	for _, x := range []struct {
		name string
		args []string
		size int64
	}{
		{"FAT16", []string{"-F", "16"}, 16 << 20},
		{"FAT16, large clusters", []string{"-F", "16", "-s", "8"}, 32 << 20},
		{"FAT32", []string{"-F", "32", "-s", "1"}, 48 << 20},
		{"FAT32, one table", []string{"-F", "32", "-s", "1", "-f", "1"}, 48 << 20},
	} {
		t.Run(x.name, func(t *testing.T) {
			dir := t.TempDir()
			img := filepath.Join(dir, "fat")
			run := func(name string, args ...string) {
				t.Helper()
				if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", name, err, out)
				}
			}
			if err := os.WriteFile(img, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(img, x.size); err != nil {
				t.Fatal(err)
			}
			run("mkfs.fat", append(append([]string{"-n", "HALLIG"}, x.args...), img)...)
			run("mmd", "-i", img, "::/loader", "::/loader/entries")
			put := func(name string, n int) []byte {
				t.Helper()
				b := noise(uint64(n), n)
				if err := os.WriteFile(filepath.Join(dir, "f"), b, 0o600); err != nil {
					t.Fatal(err)
				}
				run("mcopy", "-i", img, filepath.Join(dir, "f"), "::/"+name)
				return b
			}
			files := map[string][]byte{}
			for name, n := range map[string]int{"vmlinuz-a": 3<<20 + 5, "loader/entries/hallig-a.conf": 4096, "loader/loader.conf": 512, "CMDLINE.TXT": 4097, "a name that is rather longer than thirteen letters.txt": 1} {
				files[name] = put(name, n)
			}
			// a file in several pieces: holes of one cluster, then a file that is bigger
			for _, name := range []string{"h1", "h2", "h3"} {
				put(name, 1000)
			}
			run("mdel", "-i", img, "::/h2")
			if err := os.WriteFile(filepath.Join(dir, "f"), noise(3, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(img)
			if err != nil {
				t.Fatal(err)
			}
			v, err := openVolume(bytes.NewReader(raw), span{0, x.size})
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range files {
				at, err := v.find(name)
				if err != nil || !bytes.Equal(raw[at.at:at.at+at.size], want) {
					t.Errorf("%s: %v, %v", name, at, err)
				}
			}
			for _, name := range []string{"nothing", "loader/nothing", "vmlinuz-a/x", "h2"} {
				if _, err := v.find(name); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := v.find("loader"); err == nil {
				t.Error("a directory is taken for a file")
			}
		})
	}
}

func TestFileInPieces(t *testing.T) {
	for _, wide := range []bool{false, true} {
		vol := makeFAT(4<<20, wide, 1, []fatFile{{"first", noise(1, 2000)}, {"second", noise(2, 2000)}})
		v := must(openVolume(bytes.NewReader(vol), span{0, int64(len(vol))}))
		a, b := must(v.lookup("first")), must(v.lookup("second"))
		at, width := v.fat+int64(a.first+1)*2, 2
		if wide {
			at, width = v.fat+int64(a.first+1)*4, 4
		}
		put := func(c uint32) {
			var w [4]byte
			binary.LittleEndian.PutUint32(w[:], c)
			copy(vol[at:], w[:width])
		}
		for what, c := range map[string]uint32{"in pieces": b.first, "too short": 0xffff, "a loop": a.first, "into nothing": 0, "outside": v.clusters + 2} {
			put(c)
			if s, err := v.find("first"); err == nil {
				t.Errorf("wide %v: %s: found at %v", wide, what, s)
			}
		}
		put(a.first + 2)
		if _, err := v.find("first"); err != nil {
			t.Error(err)
		}
	}
}

// FuzzVolume alters a disk at some places: partition table, boot sector, tables, directories. Whatever it says, reading ends, and what is found lies inside the volume.
func FuzzVolume(f *testing.F) {
	files := []fatFile{{"loader/loader.conf", make([]byte, 512)}, {"a name that is longer.txt", make([]byte, 5000)}}
	disks := make([][]byte, 2)
	for i := range disks {
		disks[i] = make([]byte, 4<<20)
		p1 := span{64 << 10, 3 << 20}
		copy(disks[i][p1.at:], makeFAT(int(p1.size), i == 1, 1, files))
		makeGPT(disks[i], p1, span{3200 << 10, 4096}, span{3300 << 10, 4096})
	}
	f.Add(false, []byte{})
	f.Add(true, []byte{11, 0, 1, 0, 13, 0, 1, 255})
	f.Add(true, []byte{0x2c, 0, 1, 9})
	f.Fuzz(func(t *testing.T, wide bool, patches []byte) {
		disk := bytes.Clone(disks[0])
		if wide {
			disk = bytes.Clone(disks[1])
		}
		for ; len(patches) >= 4; patches = patches[4:] {
			disk[(int(patches[0])|int(patches[1])<<8|int(patches[2])<<16)%len(disk)] = patches[3]
		}
		v, err := openVolume(bytes.NewReader(disk), span{64 << 10, 3 << 20})
		if err == nil {
			for _, name := range []string{"loader/loader.conf", "A NAME THAT IS LONGER.TXT", "loader"} {
				if s, err := v.find(name); err == nil && (s.at < 64<<10 || s.at+s.size > 64<<10+3<<20) {
					t.Fatalf("%s found outside: %v", name, s)
				}
			}
		}
		if d, err := OpenDisk(&ram{disk}, int64(len(disk))); err == nil {
			_, _ = d.Boots()
			_, _ = d.Holds(SlotA)
		}
	})
}
