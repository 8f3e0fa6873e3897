// SPDX-License-Identifier: EUPL-1.2

// Package disk gives a box its one writable file system: it finds the disk that the machine was started from, lets the last partition of its GPT
// reach the end of the disk, makes an ext4 there without any program of e2fsprogs, grows it, and erases it for a factory reset.
//
// Every step can be cut off by a power failure and is taken up again at the next start; nothing that somebody else wrote is ever overwritten. What
// cannot be done comes back as a steward.Text, a sentence for people. The order of use is Running, Perm, Ready (or Erase), then the caller mounts and
// calls GrowFS. The image's own layout (p1 FAT, p2 and p3 the roots, p4 this one) is the only one it knows.
package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"hallig/appliance/steward"
)

// The partitions of an image.
const (
	BootPart = 1
	RootA    = 2
	RootB    = 3
	PermPart = 4
)

// System is where the kernel shows devices: "/sys" and "/dev", or a tree of a test.
type System struct {
	Sys, Dev string
}

// Device is the disk that the running root lies on.
type Device struct {
	Name string // sda, vda, nvme0n1, mmcblk0
	Root int    // number of the root's partition
	sys  System
}

// Running finds the disk that holds the running root, by its device number, so that names do not matter.
func (s System) Running() (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		return Device{}, fmt.Errorf("find the disk: %w", err)
	}
	return s.Holding(unix.Major(st.Dev), unix.Minor(st.Dev))
}

// Holding finds the disk whose partition has a device number.
func (s System) Holding(major, minor uint32) (Device, error) {
	p, err := filepath.EvalSymlinks(filepath.Join(s.Sys, "dev", "block", fmt.Sprintf("%d:%d", major, minor)))
	if err != nil {
		return Device{}, foreign("das laufende System liegt auf keinem Datenträger", "the running system lies on no disk", err)
	}
	n, err := number(filepath.Join(p, "partition"))
	if err != nil {
		return Device{}, foreign("das laufende System liegt auf keiner Partition", "the running system lies on no partition", err)
	}
	return Device{Name: filepath.Base(filepath.Dir(p)), Root: int(n), sys: s}, nil
}

func foreign(de, en string, cause error) error {
	return fmt.Errorf("%w (%v)", steward.Text{
		De: "Dieser Datenträger hat nicht den Aufbau eines Hallig-Abbilds: " + de + ". Spielen Sie das Abbild neu auf.",
		En: "This disk does not have the layout of a Hallig image: " + en + ". Write the image to it again.",
	}, cause)
}

func number(name string) (int64, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// PartName is the kernel's name of partition n.
func (d Device) PartName(n int) string {
	if c := d.Name[len(d.Name)-1]; c >= '0' && c <= '9' {
		return fmt.Sprintf("%sp%d", d.Name, n)
	}
	return fmt.Sprintf("%s%d", d.Name, n)
}

// Path is the device file of the disk; PartPath that of partition n.
func (d Device) Path() string          { return filepath.Join(d.sys.Dev, d.Name) }
func (d Device) PartPath(n int) string { return filepath.Join(d.sys.Dev, d.PartName(n)) }

// Size is that of the whole disk in bytes.
func (d Device) Size() (int64, error) {
	n, err := number(filepath.Join(d.sys.Sys, "class", "block", d.Name, "size"))
	return n * sector, err
}

// Model is what the disk calls itself; "" when it does not.
func (d Device) Model() string {
	for _, f := range []string{"device/model", "device/name"} {
		if b, err := os.ReadFile(filepath.Join(d.sys.Sys, "class", "block", d.Name, f)); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	return ""
}

// Slot is the letter of the root that runs: "a" or "b"; "" for a foreign layout.
func (d Device) Slot() string {
	switch d.Root {
	case RootA:
		return "a"
	case RootB:
		return "b"
	}
	return ""
}

// Grow lets the partition of /perm reach the end of the disk and tells the kernel. It is safe to call at each start.
func (d Device) Grow() (grown bool, err error) {
	if d.Slot() == "" {
		return false, foreign("das System läuft von Partition "+strconv.Itoa(d.Root), "the system runs from partition "+strconv.Itoa(d.Root), errors.New("want 2 or 3"))
	}
	size, err := d.Size()
	if err != nil {
		return false, fmt.Errorf("read size of %s: %w", d.Name, err)
	}
	f, err := os.OpenFile(d.Path(), os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("open disk: %w", err)
	}
	defer f.Close()
	t, err := ReadTable(f)
	if err != nil {
		return false, foreign("die Partitionstabelle fehlt oder ist beschädigt", "the partition table is missing or damaged", err)
	}
	if _, ok := t.Part(PermPart); !ok {
		return false, foreign("die vierte Partition fehlt", "the fourth partition is missing", errors.New("no p4"))
	}
	ext, grown, err := t.Grow(f, size, PermPart)
	if err != nil {
		return false, fmt.Errorf("grow %s: %w", d.PartName(PermPart), err)
	}
	// The kernel may know less than the table: a power cut between both, or a table that another program grew.
	known, err := number(filepath.Join(d.sys.Sys, "class", "block", d.PartName(PermPart), "size"))
	if err != nil {
		return grown, fmt.Errorf("read size of %s: %w", d.PartName(PermPart), err)
	}
	if known*sector != ext.Size {
		if err := resize(f, PermPart, ext); err != nil {
			return grown, fmt.Errorf("tell the kernel that %s has grown: %w", d.PartName(PermPart), err)
		}
	}
	return grown, nil
}

// resize is BLKPG_RESIZE_PARTITION of linux/blkpg.h.
func resize(f *os.File, n int, ext Extent) error {
	type blkpgPartition struct {
		start, length int64
		pno           int32
		dev, vol      [64]byte
	}
	part := blkpgPartition{start: ext.Start, length: ext.Size, pno: int32(n)}
	arg := struct {
		op, flags, datalen int32
		_                  int32
		data               unsafe.Pointer
	}{op: 3, datalen: int32(unsafe.Sizeof(part)), data: unsafe.Pointer(&part)}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); e != 0 {
		return e
	}
	return nil
}

// Look says what the partition of /perm holds.
func (d Device) Look() (Content, error) {
	f, err := os.Open(d.PartPath(PermPart))
	if err != nil {
		return Foreign, fmt.Errorf("open /perm's partition: %w", err)
	}
	defer f.Close()
	return Look(f)
}

// Noted gives the note that Erase left.
func (d Device) Noted() string {
	f, err := os.Open(d.PartPath(PermPart))
	if err != nil {
		return ""
	}
	defer f.Close()
	return Noted(f)
}

// Ready makes the file system on a partition that is empty, and refuses what is foreign. It leaves Ext4 and Vault alone, and an erasure that was cut
// off, which Erase finishes. It says what it found.
func (d Device) Ready() (found Content, err error) {
	f, err := os.OpenFile(d.PartPath(PermPart), os.O_RDWR, 0)
	if err != nil {
		return Foreign, fmt.Errorf("open /perm's partition: %w", err)
	}
	defer f.Close()
	if found, err = Look(f); err != nil {
		return found, err
	}
	switch found {
	case Foreign:
		return found, steward.Text{
			De: "Die vierte Partition enthält Unbekanntes und bleibt unberührt. Spielen Sie das Abbild neu auf, wenn nichts davon gebraucht wird.",
			En: "The fourth partition holds something unknown and is not touched. Write the image to the disk again if nothing of it is needed.",
		}
	case Empty:
		size, err := number(filepath.Join(d.sys.Sys, "class", "block", d.PartName(PermPart), "size"))
		if err != nil {
			return found, fmt.Errorf("read size of /perm's partition: %w", err)
		}
		if size*sector < SeedSize {
			return found, steward.Text{
				De: fmt.Sprintf("Der Datenträger ist zu klein: für Daten bleiben %d MiB, nötig sind %d. Nehmen Sie einen größeren.", size*sector/mib, SeedSize/mib),
				En: fmt.Sprintf("The disk is too small: %d MiB are left for data and %d are needed. Take a bigger one.", size*sector/mib, SeedSize/mib),
			}
		}
		return found, Make(f)
	}
	return found, nil
}

// Erase overwrites the partition of /perm, which must not be mounted, and leaves it empty, with a note for the next start. It goes on where an erasure
// was cut off.
func (d Device) Erase(note string, progress func(float64)) error {
	f, err := os.OpenFile(d.PartPath(PermPart), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open /perm's partition: %w", err)
	}
	defer f.Close()
	if err := d.erase(f, progress); err != nil {
		return err
	}
	return Renew(f, note)
}

func (d Device) erase(f *os.File, progress func(float64)) error {
	n, err := number(filepath.Join(d.sys.Sys, "class", "block", d.PartName(PermPart), "size"))
	if err != nil {
		return fmt.Errorf("read size of /perm's partition: %w", err)
	}
	size := n * sector
	discard := func() error {
		span := [2]uint64{0, uint64(size)}
		for _, req := range []uintptr{0x127d /* BLKSECDISCARD */, 0x1277 /* BLKDISCARD */} {
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, uintptr(unsafe.Pointer(&span))); e == 0 {
				return nil
			}
		}
		return errors.New("the medium has no discard")
	}
	return Erase(f, size, discard, progress)
}

// GrowFS grows the mounted ext4 at mnt to size bytes (EXT4_IOC_RESIZE_FS); it says what it was and is, in bytes. The kernel journals it, so that a
// power cut leaves one of the sizes on the way.
func GrowFS(mnt string, size int64) (before, after int64, err error) {
	d, err := os.Open(mnt)
	if err != nil {
		return 0, 0, fmt.Errorf("grow %s: %w", mnt, err)
	}
	defer d.Close()
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &s); err != nil {
		return 0, 0, fmt.Errorf("grow %s: %w", mnt, err)
	}
	before = int64(s.Blocks) * s.Bsize
	blocks := uint64(size / s.Bsize)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), 0x40086610, uintptr(unsafe.Pointer(&blocks))); e != 0 {
		return before, before, fmt.Errorf("grow %s to %d MiB: %w", mnt, size/mib, e)
	}
	if err := unix.Fstatfs(int(d.Fd()), &s); err != nil {
		return before, before, fmt.Errorf("grow %s: %w", mnt, err)
	}
	return before, int64(s.Blocks) * s.Bsize, nil
}

// PermSize is the size of /perm's partition in bytes.
func (d Device) PermSize() (int64, error) {
	n, err := number(filepath.Join(d.sys.Sys, "class", "block", d.PartName(PermPart), "size"))
	return n * sector, err
}
