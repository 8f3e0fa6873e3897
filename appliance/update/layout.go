// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"
)

// The layout of a disk, agreed with tools/pack, which makes it.
//
// GPT. p1: FAT16 or FAT32, p2: root of slot a, p3: root of slot b, p4: /perm. On p1 each slot has files of fixed size in one piece. They are made
// once, with the image, and their sizes and places never change; a part shorter than its file is followed by zeros.
//
//	vmlinuz-a, vmlinuz-b                       the kernel, with room to grow
//	cmdline-a.txt, cmdline-b.txt               SmallFile bytes: the kernel's command line (the BIOS loader reads the first 512 and stops at a zero)
//	loader/entries/hallig-a.conf, ...-b.conf   SmallFile bytes: the entry of systemd-boot (UEFI)
//	manifest-a, manifest-b                     MaxHead bytes: the head of the update file that is in the slot
//
// What says which slot the firmware boots is one sector each; a disk has those that its board needs:
//
//	sector 0                BIOS: first LBA of the kernel and of the command line, at BIOSKernelAt and BIOSCmdlineAt, as gokrazy's MBR loader wants them
//	loader/loader.conf      UEFI: SectorSize bytes, "default hallig-a.conf"
//	config.txt              Raspberry Pi: SectorSize bytes, names the files of the slot that is confirmed
//	tryboot.txt             Raspberry Pi: SectorSize bytes, names those of the slot on trial
//
// Further files of a slot (device trees of a Pi) have -a or -b in their path as well.
const (
	SectorSize    = 512
	SmallFile     = 4096
	BIOSKernelAt  = 432 // u32, little-endian: LBA on the whole disk
	BIOSCmdlineAt = 436

	KernelFile   = "vmlinuz-{slot}"
	CmdlineFile  = "cmdline-{slot}.txt"
	EntryFile    = "loader/entries/hallig-{slot}.conf"
	ManifestFile = "manifest-{slot}"

	LoaderConf = "loader/loader.conf"
	ConfigTxt  = "config.txt"
	TrybootTxt = "tryboot.txt"

	bootPartition = 1
)

// rootPartition is the number of a slot's root in the GPT, from 1.
func rootPartition(s Slot) int { return 2 + int(s-SlotA) }

// TrialWord stands on the kernel's command line of a system that is on trial.
const TrialWord = "hallig.trial=1"

// In puts a slot's letter into a layout name.
func In(s Slot, name string) string { return strings.Replace(name, "{slot}", s.String(), 1) }

// PadCmdline makes a command line fill its file: text, a newline, then zeros for the BIOS loader and the Pi's firmware alike.
func PadCmdline(text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	if len(text) > SectorSize-2 || strings.ContainsAny(text, "\n\x00") {
		return nil, fmt.Errorf("command line has %d bytes; one line of at most %d is what the BIOS loader reads", len(text), SectorSize-2)
	}
	return append(append([]byte(text), '\n'), make([]byte, SmallFile-len(text)-1)...), nil
}

// PadText fills a text file of systemd-boot or the Pi's firmware to its size with empty lines.
func PadText(text string, size int) ([]byte, error) {
	text = strings.TrimRight(text, "\n") + "\n"
	if len(text) > size {
		return nil, fmt.Errorf("text has %d bytes, its file %d", len(text), size)
	}
	return append([]byte(text), bytes.Repeat([]byte{'\n'}, size-len(text))...), nil
}

// RunningSlot reads from the kernel's command line which slot runs, and whether on trial. gokrazy names the root as an offset from the
// boot partition: 1 is slot a, 2 is slot b.
func RunningSlot(cmdline string) (s Slot, trial bool) {
	for _, w := range strings.Fields(cmdline) {
		switch {
		case w == TrialWord:
			trial = true
		case strings.HasPrefix(w, "root=") && strings.HasSuffix(w, "/PARTNROFF=1"):
			s = SlotA
		case strings.HasPrefix(w, "root=") && strings.HasSuffix(w, "/PARTNROFF=2"):
			s = SlotB
		}
	}
	return s, trial
}

// slotName finds what a boot configuration names of a slot.
var slotName = regexp.MustCompile(`(vmlinuz-|cmdline-|hallig-|slot-)([ab])\b`)

// textSlot says which slot a boot configuration names; NoSlot when it names none or both.
func textSlot(text []byte) Slot {
	s := NoSlot
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
			continue
		}
		for _, m := range slotName.FindAllSubmatch(line, -1) {
			if s != NoSlot && s != Slot(m[2][0]) {
				return NoSlot
			}
			s = Slot(m[2][0])
		}
	}
	return s
}

// retarget makes a boot configuration name the other slot. The length does not change.
func retarget(text []byte, to Slot) []byte {
	return slotName.ReplaceAllFunc(bytes.Clone(text), func(m []byte) []byte {
		m = bytes.Clone(m)
		m[len(m)-1] = byte(to)
		return m
	})
}

// biosLBAs reads the two numbers of sector 0.
func biosLBAs(sector []byte) (kernel, cmdline uint32) {
	return binary.LittleEndian.Uint32(sector[BIOSKernelAt:]), binary.LittleEndian.Uint32(sector[BIOSCmdlineAt:])
}

// SetBIOSLBAs writes them.
func SetBIOSLBAs(sector []byte, kernel, cmdline uint32) {
	binary.LittleEndian.PutUint32(sector[BIOSKernelAt:], kernel)
	binary.LittleEndian.PutUint32(sector[BIOSCmdlineAt:], cmdline)
}

var rootOffset = regexp.MustCompile(`/PARTNROFF=[12]`)

// ForSlot makes a command line or a loader entry that is for one slot fit the other: names and the root's number change, the length does not.
// tools/pack makes those of slot b from those of slot a with it, so that a box can make them from its own.
func ForSlot(text []byte, to Slot) []byte {
	return rootOffset.ReplaceAll(retarget(text, to), fmt.Appendf(nil, "/PARTNROFF=%d", rootPartition(to)-bootPartition))
}
