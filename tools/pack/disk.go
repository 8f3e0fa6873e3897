// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"hallig/appliance/disk"
	"hallig/appliance/update"
)

// The places on a disk, in bytes. They are fixed for every box that was ever flashed: an update writes into them and moves nothing.
const (
	bootStart = 4 << 20
	bootSize  = 260 << 20 // FAT32 with clusters of 4 KiB needs more than 256 MiB
	rootSize  = 256 << 20
	permStart = bootStart + bootSize + 2*rootSize
	permSize  = 64 << 20 // grown to the end of the disk at the first boot
	diskSize  = permStart + permSize + 1<<20
)

// diskID is the disk's signature and the end of its partitions' ids: what gokrazy derives from the host name "hallig", which never changes.
const diskID = 0x6b23afd2

// partUUID is the id that gokrazy gives a partition; 0 is the disk's.
func partUUID(n int) string {
	return fmt.Sprintf("60c24cc1-f3f9-427a-8199-%08x00%02x", uint32(diskID), n)
}

// partitions is the table for sfdisk. The first MiB belongs to no partition: a second place for the table's entries lies there, so that a box
// can grow p4 by one sector's write. The type of the roots is that of general Linux data: nothing but our own command line may choose a root.
func partitions() string {
	const (
		efi  = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
		data = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	)
	var b strings.Builder
	fmt.Fprintf(&b, "label: gpt\nlabel-id: %s\nunit: sectors\nfirst-lba: 2048\n", partUUID(0))
	for i, p := range []struct {
		start, size int64
		kind, name  string
	}{
		{bootStart, bootSize, efi, "hallig-boot"},
		{bootStart + bootSize, rootSize, data, "hallig-root-a"},
		{bootStart + bootSize + rootSize, rootSize, data, "hallig-root-b"},
		{permStart, permSize, data, "hallig-perm"},
	} {
		fmt.Fprintf(&b, "start=%d, size=%d, type=%s, uuid=%s, name=%s\n", p.start/512, p.size/512, p.kind, partUUID(i+1), p.name)
	}
	return b.String()
}

// hybridTable is the old partition table in sector 0. The boot partition stands in it beside the protective entry, and is active: the
// firmware of older Raspberry Pis and some BIOSes look nowhere else.
func hybridTable() []byte {
	entry := func(status, kind byte, start, sectors uint32) []byte {
		far := []byte{0xfe, 0xff, 0xff}
		b := append([]byte{status}, far...)
		b = append(append(b, kind), far...)
		b = binary.LittleEndian.AppendUint32(b, start)
		return binary.LittleEndian.AppendUint32(b, sectors)
	}
	b := append(entry(0x80, 0x0c, bootStart/512, bootSize/512), entry(0, 0xee, 1, bootStart/512-1)...)
	return append(append(b, make([]byte, 32)...), 0x55, 0xaa)
}

// makeDisk puts everything into one disk and looks at it as a box would.
func (j *job) makeDisk() error {
	image := j.path("disk.img")
	if err := truncate(image, diskSize); err != nil {
		return err
	}
	table := exec.CommandContext(j.ctx, "sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", image)
	table.Stdin = strings.NewReader(partitions())
	if out, err := table.CombinedOutput(); err != nil {
		return fmt.Errorf("sfdisk: %w: %s", err, out)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // closed below as well
	for _, part := range []struct {
		file string
		at   int64
	}{{"boot.fat", bootStart}, {"root.squashfs", bootStart + bootSize}} {
		if err := copySparse(f, j.path(part.file), part.at); err != nil {
			return err
		}
	}
	// Tools that leave zeros out when they write an image leave old data where /perm shall be; the mark says that nobody has used it.
	if _, err := f.WriteAt([]byte(disk.Fresh), permStart); err != nil {
		return err
	}
	if err := j.bootSector(f); err != nil {
		return err
	}
	if err := j.checkDisk(f); err != nil {
		return err
	}
	return f.Close()
}

// bootSector writes sector 0: gokrazy's loader, pointed at slot a, the disk's signature and the old partition table.
func (j *job) bootSector(f *os.File) error {
	sector := make([]byte, update.SectorSize)
	if j.board.bios {
		code, err := os.ReadFile(j.path("gok.mbr"))
		if err != nil {
			return err
		}
		if len(code) != 446 {
			return fmt.Errorf("gok's boot sector has %d bytes, 446 are expected", len(code))
		}
		copy(sector, code)
		d, err := update.OpenDisk(f, diskSize)
		if err != nil {
			return err
		}
		kernel, _, err := d.Find(update.In(update.SlotA, update.KernelFile))
		if err != nil {
			return err
		}
		line, _, err := d.Find(update.In(update.SlotA, update.CmdlineFile))
		if err != nil {
			return err
		}
		update.SetBIOSLBAs(sector, uint32(kernel/update.SectorSize), uint32(line/update.SectorSize))
	}
	binary.LittleEndian.PutUint32(sector[440:], diskID)
	copy(sector[446:], hybridTable())
	_, err := f.WriteAt(sector, 0)
	return err
}

// checkDisk reads the finished disk with the very code that updates use: slot a is whole, it is what boots, and every file of the boot
// partition has its bytes, lies in one piece and begins at a page of its own.
func (j *job) checkDisk(f *os.File) error {
	d, err := update.OpenDisk(f, diskSize)
	if err != nil {
		return err
	}
	if _, err := d.Check(j.ctx, update.SlotA); err != nil {
		return err
	}
	if s, err := d.Boots(); err != nil || s != update.SlotA {
		return fmt.Errorf("the disk boots slot %q: %w", s, err)
	}
	for _, b := range j.boot {
		at, size, err := d.Find(b.name)
		if err != nil {
			return err
		}
		if size != b.size || at%4096 != 0 {
			return fmt.Errorf("%s has %d bytes at %d, not %d at a whole page", b.name, size, at, b.size)
		}
		got := make([]byte, size)
		if _, err := f.ReadAt(got, at); err != nil {
			return err
		}
		if !bytes.Equal(got[:len(b.body)], b.body) || len(bytes.Trim(got[len(b.body):], "\x00")) > 0 {
			return fmt.Errorf("%s on the disk is not what was written", b.name)
		}
	}
	return nil
}

// copySparse copies a file into the disk and leaves out its zeros.
func copySparse(f *os.File, name string, at int64) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	buf, zeros := make([]byte, 1<<16), make([]byte, 1<<16)
	for {
		n, err := io.ReadFull(in, buf)
		if n > 0 && !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
