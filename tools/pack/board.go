// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"path"
	"slices"
	"strings"
)

// board is what differs between the images.
type board struct {
	name   string
	goarch string
	// kernelReserve is the size of the kernel's file on the boot partition: what a kernel may grow to in the life of a box.
	kernelReserve int64
	bios, uefi    bool
	// take says which of gok's boot files go along for both slots.
	take func(name string) bool
	// perSlot says which of them each slot has a copy of, so that an update can renew them.
	perSlot func(name string) bool
}

// slotFileReserve is the size of a device tree on the boot partition.
const slotFileReserve = 128 << 10

var boards = map[string]board{
	"amd64": {name: "amd64", goarch: "amd64", kernelReserve: 32 << 20, bios: true, uefi: true,
		take: func(name string) bool { return strings.EqualFold(name, "EFI/BOOT/BOOTX64.EFI") }, perSlot: never},
	"arm64": {name: "arm64", goarch: "arm64", kernelReserve: 80 << 20, uefi: true,
		take: func(name string) bool { return strings.EqualFold(name, "EFI/BOOT/BOOTAA64.EFI") }, perSlot: never},
	"rpi": {name: "rpi", goarch: "arm64", kernelReserve: 64 << 20, take: piFirmware, perSlot: piTree},
}

func boardNames() []string { return []string{"amd64", "arm64", "rpi"} }

func never(string) bool { return false }

// piFirmware: the second stage of a Raspberry Pi 4 (a 5 has it in its own memory) and the overlays of both.
func piFirmware(name string) bool {
	return slices.Contains(piStages, name) || path.Dir(name) == "overlays"
}

var piStages = []string{"fixup4.dat", "start4.elf"}

// piTree: the device trees of the Raspberry Pi 4 and 5 and their relatives.
func piTree(name string) bool {
	return path.Dir(name) == "." && path.Ext(name) == ".dtb" && (strings.HasPrefix(name, "bcm2711") || strings.HasPrefix(name, "bcm2712"))
}
