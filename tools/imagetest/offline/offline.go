// SPDX-License-Identifier: EUPL-1.2

// Package offline looks at a disk as a firmware and a forensic expert would, while no machine runs: which system would it boot and is that
// system whole, are the file systems sound, is the database, what is in it.
//
// It reads with the tools of the system (e2fsprogs, dosfstools, mtools) and with code of its own, not with the code that wrote the disk, so that
// both cannot share one error. Where the box would mend something at the next start (the journal of ext4, the log of SQLite),
// it lets the tool that does the same mend a copy first, and then accepts no further word of complaint.
package offline

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/tools/imagetest/vm"
)

// System is what a slot must hold: hashes of what stands in it, from a source other than the disk.
type System struct {
	Name   string
	Kernel Content
	Root   Content
	Words  string // that must stand on its command line; the root is checked apart
}

// Content is a file without its padding.
type Content struct {
	SHA512 string
	Size   int64
}

func (c Content) is(r io.ReaderAt, at int64) (bool, error) {
	h := sha512.New()
	if _, err := io.Copy(h, io.NewSectionReader(r, at, c.Size)); err != nil {
		return false, err
	}
	return hex.EncodeToString(h.Sum(nil)) == c.SHA512, nil
}

// rootWord finds the root on a command line: gokrazy counts its partition from the boot partition on.
var rootWord = regexp.MustCompile(`\broot=PARTUUID=[0-9a-fA-F-]+/PARTNROFF=([12])(\s|$)`)

// Boots plays the firmware: it follows what the firmware follows and says which of the systems it comes to, and in which slot. It is an error
// if that is none of them, or only in part.
func (d *Disk) Boots(f vm.Firmware, systems ...System) (System, byte, error) {
	kernelIs, cmdline, err := d.bios()
	if f != vm.BIOS {
		kernelIs, cmdline, err = d.uefi()
	}
	if err != nil {
		return System{}, 0, err
	}
	if strings.Contains(cmdline, "hallig.trial") {
		return System{}, 0, fmt.Errorf("the firmware would boot a system on trial: %q", cmdline)
	}
	g := rootWord.FindStringSubmatch(cmdline)
	if g == nil {
		return System{}, 0, fmt.Errorf("the command line names no root: %q", cmdline)
	}
	slot := "ab"[g[1][0]-'1']
	// the kernel looks at the table at the disk's end only when it is told to (block/partitions/efi.c: gpt)
	parts, err := d.Partitions(hasWord(cmdline, "gpt"))
	if err != nil {
		return System{}, 0, fmt.Errorf("the kernel finds no root: %w", err)
	}
	root := parts[2+int(slot-'a')]
	for _, s := range systems {
		k, err := kernelIs(s.Kernel)
		if err != nil {
			return System{}, 0, err
		}
		r, err := s.Root.is(d, root.Start)
		if err != nil {
			return System{}, 0, err
		}
		switch {
		case k && r:
			return s, slot, nil
		case r: // one kernel may serve several roots, so a kernel alone says nothing
			return System{}, 0, fmt.Errorf("the firmware would boot the root of %s in slot %c with another kernel", s.Name, slot)
		}
	}
	return System{}, 0, fmt.Errorf("the firmware would boot slot %c, whose root is none of those that were ever whole there", slot)
}

func hasWord(line, word string) bool {
	for w := range strings.FieldsSeq(line) {
		if w == word {
			return true
		}
	}
	return false
}

// bios follows the two numbers of sector 0, as gokrazy's loader does.
func (d *Disk) bios() (kernelIs func(Content) (bool, error), cmdline string, err error) {
	mbr := make([]byte, sector)
	if _, err := d.ReadAt(mbr, 0); err != nil {
		return nil, "", fmt.Errorf("read sector 0: %w", err)
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, "", errors.New("sector 0 is no boot sector")
	}
	kernel, line := int64(binary.LittleEndian.Uint32(mbr[432:])), int64(binary.LittleEndian.Uint32(mbr[436:]))
	text := make([]byte, sector) // as much as the loader reads
	if _, err := d.ReadAt(text, line*sector); err != nil {
		return nil, "", fmt.Errorf("read the command line: %w", err)
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	return func(c Content) (bool, error) { return c.is(d, kernel*sector) }, strings.TrimSpace(string(text)), nil
}

// uefi follows loader.conf, as systemd-boot does.
func (d *Disk) uefi() (kernelIs func(Content) (bool, error), cmdline string, err error) {
	parts, err := d.Partitions(true) // a UEFI firmware reads both tables
	if err != nil {
		return nil, "", err
	}
	conf, err := vm.ReadFAT(d.Name(), parts[1].Start, "loader/loader.conf")
	if err != nil {
		return nil, "", err
	}
	name := setting(conf, "default")
	entry, err := vm.ReadFAT(d.Name(), parts[1].Start, "loader/entries/"+strings.TrimSuffix(name, ".conf")+".conf")
	if err != nil {
		return nil, "", fmt.Errorf("loader.conf says %q: %w", name, err)
	}
	kernel, err := vm.ReadFAT(d.Name(), parts[1].Start, strings.TrimPrefix(setting(entry, "linux"), "/"))
	if err != nil {
		return nil, "", fmt.Errorf("entry %s: %w", name, err)
	}
	return func(c Content) (bool, error) {
		return int64(len(kernel)) >= c.Size && c.SHA512 == fmt.Sprintf("%x", sha512.Sum512(kernel[:c.Size])), nil
	}, setting(entry, "options"), nil
}

// setting is the value of a word in a configuration of systemd-boot; lines of one word add up.
func setting(text []byte, word string) string {
	var values []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == word {
			values = append(values, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), word)))
		}
	}
	return strings.Join(values, " ")
}

// Boot checks the boot file system: fsck.fat must have nothing to say.
func (d *Disk) Boot(dir string) error {
	parts, err := d.Partitions(true)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("copy boot file system: %w", err)
	}
	fat := filepath.Join(dir, "boot.fat")
	if err := vm.CopyPart(fat, d.File, parts[1].Start, parts[1].Size); err != nil {
		return err
	}
	defer os.Remove(fat)
	if out, err := exec.Command("fsck.fat", "-n", fat).CombinedOutput(); err != nil {
		return fmt.Errorf("fsck.fat: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// ErrNoData says that the box has not come as far as to make its data partition.
var ErrNoData = errors.New("there is no ext4 on the data partition yet")

// mended is what e2fsck may put right after the journal was replayed: the kernel does the same when it mounts, or counts again by itself.
var mended = regexp.MustCompile(`^(|e2fsck .*|Setting free (inodes|blocks) count .*|Free (inodes|blocks) count wrong .*|.*[Oo]rphan(ed)? .*|.*: recovering journal|.*: clean, .*|perm: +\d+/\d+ files.*|perm: \*+ FILE SYSTEM WAS MODIFIED \*+|Pass [1-5].*|.*\d+/\d+ files .*)$`)

// Ext4Size is the size of the file system in a partition, in bytes, as its superblock says.
func (d *Disk) Ext4Size(n int) (int64, error) {
	parts, err := d.Partitions(true)
	if err != nil {
		return 0, err
	}
	sb := make([]byte, 1024)
	if _, err := d.ReadAt(sb, parts[n].Start+1024); err != nil {
		return 0, fmt.Errorf("read superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(sb[0x38:]) != 0xef53 {
		return 0, ErrNoData
	}
	blocks := uint64(le.Uint32(sb[4:]))
	if le.Uint32(sb[0x60:])&0x80 != 0 { // 64-bit
		blocks |= uint64(le.Uint32(sb[0x150:])) << 32
	}
	return int64(blocks << (10 + le.Uint32(sb[0x18:]))), nil
}

// Data replays the journal of the data partition on a copy, checks it, and copies the folder of the box out of it to dir/hallig.
func (d *Disk) Data(dir string) error { return d.DataFolder(dir, "/hallig") }

// DataFolder does the same for another folder of the partition.
func (d *Disk) DataFolder(dir, folder string) error {
	parts, err := d.Partitions(true)
	if err != nil {
		return err
	}
	p4, ok := parts[4]
	if !ok {
		return errors.New("the disk has no fourth partition")
	}
	magic := make([]byte, 2)
	if _, err := d.ReadAt(magic, p4.Start+1024+0x38); err != nil {
		return fmt.Errorf("read data partition: %w", err)
	}
	if magic[0] != 0x53 || magic[1] != 0xef {
		return ErrNoData
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("copy data out: %w", err)
	}
	ext := filepath.Join(dir, "perm.ext4")
	if err := vm.CopyPart(ext, d.File, p4.Start, p4.Size); err != nil {
		return err
	}
	defer os.Remove(ext)
	if err := CheckExt4(ext); err != nil {
		return err
	}
	return dump(ext, folder, dir)
}

// CheckExt4 replays the journal of an ext4 image and checks it: what the kernel would not mend by itself is an error.
func CheckExt4(ext string) error {
	out, err := exec.Command("e2fsck", "-E", "journal_only", "-p", ext).CombinedOutput()
	if code := exitCode(err); code&^1 != 0 {
		return fmt.Errorf("replay the journal: %w: %s", err, bytes.TrimSpace(out))
	}
	out, err = exec.Command("e2fsck", "-f", "-p", ext).CombinedOutput()
	if code := exitCode(err); code&^1 != 0 {
		return fmt.Errorf("e2fsck after the journal: %w: %s", err, bytes.TrimSpace(out))
	}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "perm: ")); !mended.MatchString(line) {
			return fmt.Errorf("e2fsck after the journal had to mend: %s", line)
		}
	}
	if out, err = exec.Command("e2fsck", "-f", "-n", ext).CombinedOutput(); err != nil {
		return fmt.Errorf("e2fsck once more: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func exitCode(err error) int {
	var ee *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ee):
		return ee.ExitCode()
	}
	return 128
}

// dump copies a folder out of an ext4 image.
func dump(ext, folder, dir string) error {
	out, err := exec.Command("debugfs", "-R", fmt.Sprintf("rdump %s %s", folder, dir), ext).CombinedOutput()
	if err != nil {
		return fmt.Errorf("debugfs: %w: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "debugfs ") && !strings.Contains(line, "File not found") && !strings.Contains(line, "changing ownership") {
			return fmt.Errorf("debugfs: %s", strings.TrimSpace(line))
		}
	}
	return nil
}

// Database opens the database of a folder that Data has copied, as the box would at its next start, checks all of it, and
// says which of the ids are not in it. A missing database lacks them all.
func Database(ctx context.Context, hallig string, ids []string) (missing []string, err error) {
	file := filepath.Join(hallig, "hallig.db")
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return ids, nil
	}
	db, err := store.Open(ctx, file, store.Options{Reserve: -1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.Verify(ctx); err != nil {
		return nil, err
	}
	err = db.View(ctx, func(r *store.Read) error {
		for _, id := range ids {
			if e, err := r.Event(event.ID(id)); err != nil {
				return err
			} else if e == nil {
				missing = append(missing, id)
			}
		}
		return nil
	})
	return missing, err
}
