// SPDX-License-Identifier: EUPL-1.2

package plug

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"
)

// Volume is a file system on something that can be pulled out.
type Volume struct {
	Name   string // for people and paths: the label, or the device's name
	Device string // device file
	Kernel string // the kernel's name, sdb1
	Format Format
	Size   int64
}

// Format is what the first sectors of a volume say.
type Format struct {
	FS    string // "vfat", "exfat", "ntfs", "ext4"; "": unknown
	Label string
	ID    string // serial number of the file system, hex
}

// Volumes lists the volumes on removable media of a machine whose tree of devices is at sys and whose device files are at dev. own is the disk
// that the box runs from, which is never a stick, though it may be one.
func Volumes(sys, dev, own string) []Volume {
	var volumes []Volume
	list, _ := os.ReadDir(filepath.Join(sys, "class/block"))
	for _, e := range list {
		name := e.Name()
		dir, err := filepath.EvalSymlinks(filepath.Join(sys, "class/block", name))
		if err != nil {
			continue
		}
		disk := dir
		if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
			disk = filepath.Dir(dir)
		} else if hasPartitions(dir) {
			continue // its partitions are listed by themselves
		}
		if filepath.Base(disk) == own || !removable(sys, disk) || number(dir, "size") == 0 {
			continue
		}
		v := Volume{Device: filepath.Join(dev, name), Kernel: name, Size: number(dir, "size") * 512}
		f, err := os.Open(v.Device)
		if err != nil {
			continue // no medium in the reader
		}
		v.Format = Probe(f)
		f.Close()
		v.Name = safe(v.Format.Label)
		if v.Name == "" {
			v.Name = name
		}
		volumes = append(volumes, v)
	}
	slices.SortFunc(volumes, func(a, b Volume) int { return strings.Compare(a.Kernel, b.Kernel) })
	seen := make(map[string]bool)
	for i := range volumes {
		if seen[volumes[i].Name] {
			volumes[i].Name += "-" + volumes[i].Kernel
		}
		seen[volumes[i].Name] = true
	}
	return volumes
}

func hasPartitions(dir string) bool {
	inside, _ := os.ReadDir(dir)
	for _, e := range inside {
		if _, err := os.Stat(filepath.Join(dir, e.Name(), "partition")); err == nil {
			return true
		}
	}
	return false
}

// removable says whether a disk is a stick or a card. The built-in disks of a PC are none, whatever is on them.
func removable(sys, disk string) bool {
	name := filepath.Base(disk)
	for _, virtual := range []string{"loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"} {
		if strings.HasPrefix(name, virtual) {
			return false
		}
	}
	rel := strings.TrimPrefix(disk, sys)
	return strings.Contains(rel, "/usb") || strings.Contains(rel, "/mmc_host/") || text(disk, "removable") == "1"
}

// Probe tells the file system by its first sectors. Anything else than a known one is the zero Format.
func Probe(r io.ReaderAt) Format {
	b := make([]byte, 4096)
	if n, err := r.ReadAt(b, 0); n < len(b) && err != nil && n < 512 {
		return Format{}
	}
	le := binary.LittleEndian
	switch {
	case string(b[3:11]) == "EXFAT   ":
		return Format{FS: "exfat", ID: fmt.Sprintf("%08x", le.Uint32(b[100:])), Label: exfatLabel(r, b)}
	case string(b[3:11]) == "NTFS    ":
		return Format{FS: "ntfs", ID: fmt.Sprintf("%016x", le.Uint64(b[72:]))}
	case b[510] == 0x55 && b[511] == 0xaa && string(b[82:87]) == "FAT32":
		return Format{FS: "vfat", ID: fmt.Sprintf("%08x", le.Uint32(b[67:])), Label: fatLabel(r, b, b[71:82])}
	case b[510] == 0x55 && b[511] == 0xaa && string(b[54:57]) == "FAT":
		return Format{FS: "vfat", ID: fmt.Sprintf("%08x", le.Uint32(b[39:])), Label: fatLabel(r, b, b[43:54])}
	case le.Uint16(b[1080:]) == 0xef53:
		return Format{FS: "ext4", ID: fmt.Sprintf("%x", b[1128:1144])}
	}
	return Format{}
}

// fatLabel is the label in the root folder, where Windows writes it, or the one in the boot sector.
func fatLabel(r io.ReaderAt, boot, inBoot []byte) string {
	le := binary.LittleEndian
	perSector, perCluster := int64(le.Uint16(boot[11:])), int64(boot[13])
	reserved, fats := int64(le.Uint16(boot[14:])), int64(boot[16])
	sectors16, sectors32 := int64(le.Uint16(boot[22:])), int64(le.Uint32(boot[36:]))
	root := (reserved + fats*max(sectors16, 0)) * perSector
	if sectors16 == 0 {
		cluster := int64(le.Uint32(boot[44:]))
		root = (reserved + fats*sectors32 + (cluster-2)*perCluster) * perSector
	}
	dir := make([]byte, 2048)
	n := 0
	if root > 0 && root < 1<<45 {
		n, _ = r.ReadAt(dir, root)
	}
	for ; len(dir) >= 32 && n >= 32 && dir[0] != 0; dir, n = dir[32:], n-32 {
		if dir[0] != 0xe5 && dir[11]&0x3f == 0x08 { // a volume label, not a long name
			return trimLabel(dir[:11])
		}
	}
	return trimLabel(inBoot)
}

func trimLabel(b []byte) string {
	s := strings.TrimSpace(strings.TrimRight(string(b), "\x00"))
	if s == "NO NAME" {
		return ""
	}
	return s
}

// exfatLabel is entry 0x83 of the root folder, most often its first.
func exfatLabel(r io.ReaderAt, boot []byte) string {
	le := binary.LittleEndian
	shift, clusterShift := uint(boot[108]), uint(boot[109])
	heap, first := int64(le.Uint32(boot[88:])), int64(le.Uint32(boot[96:]))
	if shift < 9 || shift > 12 || clusterShift > 16 || first < 2 {
		return ""
	}
	dir := make([]byte, 1024)
	n, _ := r.ReadAt(dir, (heap+(first-2)<<clusterShift)<<shift)
	for ; n >= 32 && dir[0] != 0; dir, n = dir[32:], n-32 {
		if dir[0] == 0x83 {
			var u []uint16
			for i := range min(int(dir[1]), 11) {
				u = append(u, le.Uint16(dir[2+2*i:]))
			}
			return string(utf16.Decode(u))
		}
	}
	return ""
}
