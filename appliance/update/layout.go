// SPDX-License-Identifier: EUPL-1.2

// Package update is how a box is renewed without fear: the layout of its disk and the update file that replaces one half of it.
package update

import (
	"fmt"
	"strings"
)

// This file is the disk of a box as tools/pack lays it out and as an update finds it. What is written here is fixed for
// every box that was ever flashed: a later release may add files, never move or resize one.
//
//	sector 0      boot code of gokrazy's MBR loader (BIOS), disk signature, hybrid partition table
//	sector 1-33   GPT; its copy lies in the last 33 sectors
//	p1            FAT32, label HALLIG: boot loaders, kernels, command lines; PartBoot
//	p2, p3        root file systems of slot a and b, squashfs, each RootSize; PartRoot
//	p4            /perm; empty in the image, made and grown at the first boot; PartPerm
//
// For each slot S the FAT holds three contiguous files of fixed size: KernelFile(S), CmdlineFile(S), EntryFile(S); and
// once LoaderFile (UEFI) or ConfigFile and TrybootFile (Raspberry Pi). Nothing on a box ever changes the FAT's own
// structures: an update overwrites the inactive slot's sectors in place and then switches by one sector.

// Slot is one half of a box: a kernel, its command line and a root file system.
type Slot string

// The two slots. A fresh image boots SlotA; its slot b holds a copy of the kernel whose command line names the root of a.
const (
	SlotA Slot = "a"
	SlotB Slot = "b"
)

// Other is the slot that is not s.
func (s Slot) Other() Slot {
	if s == SlotA {
		return SlotB
	}
	return SlotA
}

// Partition numbers of the GPT.
const (
	PartBoot  = 1
	PartRootA = 2
	PartRootB = 3
	PartPerm  = 4
)

// Partition is the number of the slot's root file system: 2 or 3.
func (s Slot) Partition() int {
	if s == SlotB {
		return PartRootB
	}
	return PartRootA
}

// SectorSize is the unit that a disk writes whole or not at all.
const SectorSize = 512

// Sizes and places of the partitions, in bytes.
const (
	BootStart = 4 << 20
	BootSize  = 260 << 20
	RootSize  = 256 << 20
)

// RootStart is the first byte of the slot's root partition on the disk.
func (s Slot) RootStart() int64 {
	return BootStart + BootSize + int64(s.Partition()-PartRootA)*RootSize
}

// PermStart is the first byte of /perm on the disk.
const PermStart = BootStart + BootSize + 2*RootSize

// Sizes of the slot files on the FAT. All small ones are one sector, so that each is written whole or not at all.
const (
	TextSize = SectorSize // command line, entry, LoaderFile, ConfigFile, TrybootFile
)

// KernelReserve is the size of the kernel files on the FAT: what a kernel of that board may grow to in the life of a box.
var KernelReserve = map[string]int64{"amd64": 32 << 20, "arm64": 80 << 20, "rpi": 64 << 20}

// Names on the FAT.
const (
	LoaderFile  = "loader/loader.conf"
	ConfigFile  = "config.txt"
	TrybootFile = "tryboot.txt"
)

// KernelFile is the slot's kernel on the FAT, padded with zeros to KernelReserve.
func (s Slot) KernelFile() string { return "vmlinuz-" + string(s) }

// CmdlineFile is the slot's command line on the FAT, in the form of Cmdline.
func (s Slot) CmdlineFile() string { return "cmdline-" + string(s) + ".txt" }

// EntryFile is the slot's boot loader entry on the FAT, in the form of Entry.
func (s Slot) EntryFile() string { return "loader/entries/" + s.entry() }

func (s Slot) entry() string { return "hallig-" + string(s) + ".conf" }

// Hostname is gokrazy's name of the product, from which the partitions' ids are derived. It never changes.
const Hostname = "hallig"

// DiskID is the disk signature of sector 0 and the last block of the partitions' ids: FNV-1a of Hostname.
const DiskID = 0x6b23afd2

// PartUUID is the id of a partition in the GPT; 0 is the disk's own id.
func PartUUID(part int) string {
	return fmt.Sprintf("60c24cc1-f3f9-427a-8199-%08x00%02x", uint32(DiskID), part)
}

// RootArg is the kernel argument that names the slot's root file system.
func (s Slot) RootArg() string {
	return fmt.Sprintf("root=PARTUUID=%s/PARTNROFF=%d", PartUUID(PartBoot), s.Partition()-PartBoot)
}

// Cmdline gives the bytes of CmdlineFile for the arguments args, which name no root; root says whose root file system
// is booted. The BIOS loader hands exactly one sector to the kernel and needs a zero at its end; the firmware of the
// Raspberry Pi wants one line without zeros.
func Cmdline(board string, args []string, root Slot) ([]byte, error) {
	line := cmdline(args, root)
	if len(line) > TextSize-1 {
		return nil, fmt.Errorf("write command line: %d bytes, at most %d fit into one sector", len(line), TextSize-1)
	}
	if board == "rpi" {
		return []byte(line + strings.Repeat(" ", TextSize-1-len(line)) + "\n"), nil
	}
	return append([]byte(line), make([]byte, TextSize-len(line))...), nil
}

func cmdline(args []string, root Slot) string {
	return strings.Join(append([]string{root.RootArg()}, args...), " ")
}

// Entry gives the bytes of EntryFile of slot s: a boot loader entry for systemd-boot, filled up with empty lines.
func Entry(s Slot, args []string, root Slot) ([]byte, error) {
	return padLines(fmt.Sprintf("title Hallig %s\nlinux /%s\noptions %s\n", s, s.KernelFile(), cmdline(args, root)))
}

// Loader gives the bytes of LoaderFile that boots slot s.
func Loader(s Slot) ([]byte, error) {
	return padLines(fmt.Sprintf("default %s\ntimeout 0\neditor no\n", s.entry()))
}

// Config gives the bytes of ConfigFile, or of TrybootFile, for a Raspberry Pi that boots slot s.
func Config(s Slot) ([]byte, error) {
	return padLines(fmt.Sprintf("arm_64bit=1\nenable_uart=1\nkernel=%s\ncmdline=%s\n", s.KernelFile(), s.CmdlineFile()))
}

func padLines(text string) ([]byte, error) {
	if len(text) > TextSize {
		return nil, fmt.Errorf("write boot text: %d bytes, at most %d fit into one sector", len(text), TextSize)
	}
	return []byte(text + strings.Repeat("\n", TextSize-len(text))), nil
}

// Places of the two sector numbers in sector 0 that gokrazy's BIOS loader starts from: where the kernel and where the
// command line begin, counted from the start of the disk, little-endian 32 bit.
const (
	MBRKernelAt  = 432
	MBRCmdlineAt = 436
)
