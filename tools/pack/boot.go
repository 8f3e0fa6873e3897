// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hallig/appliance/update"
)

// bootFile is one file of the boot partition.
type bootFile struct {
	name string
	body []byte
	size int64 // on the partition; filled up with zeros
}

// gatherBoot takes kernel, loaders and firmware out of gok's boot partition.
func (j *job) gatherBoot() error {
	if err := os.Mkdir(j.path("gokboot"), 0o755); err != nil {
		return err
	}
	if err := j.tool("mcopy", []string{"-s", "-i", j.path("gok.fat"), "::/", j.path("gokboot")}, j.dir); err != nil {
		return err
	}
	line, err := os.ReadFile(j.path("gokboot/cmdline.txt"))
	if err != nil {
		return err
	}
	j.cmdline = kernelArgs(string(line))
	return nil
}

// kernelArgs gives the arguments of gok's command line but for the root, which differs between slots, and for a delay that the rootwait of
// our instances makes needless: the kernel waits for the disk exactly as long as it takes.
func kernelArgs(line string) (args []string) {
	for _, a := range strings.Fields(line) {
		if !strings.HasPrefix(a, "root=") && !strings.HasPrefix(a, "rootdelay=") && !slices.Contains(args, a) {
			args = append(args, a)
		}
	}
	return args
}

// commandLine is the kernel's command line in slot a; update.ForSlot makes that of slot b from it.
func (j *job) commandLine() string {
	return strings.Join(append([]string{"root=PARTUUID=" + partUUID(1) + "/PARTNROFF=1"}, j.cmdline...), " ")
}

// slotFile is a file that each slot has of its own: name has {slot} in it, body is that of slot a.
type slotFile struct {
	name string
	body []byte
	size int64
	text bool // names its slot, so that of slot b differs
}

// slotFiles lists the files of a slot: what an update carries besides the root.
func (j *job) slotFiles() ([]slotFile, error) {
	kernel, err := os.ReadFile(j.path("gokboot/vmlinuz"))
	if err != nil {
		return nil, err
	}
	if want := int64(len(kernel)) * 5 / 4; j.board.kernelReserve < want {
		return nil, fmt.Errorf("a kernel of %d MiB leaves less than a quarter of its %d MiB to grow: boxes with a larger place are needed", len(kernel)>>20, j.board.kernelReserve>>20)
	}
	line, err := update.PadCmdline(j.commandLine())
	if err != nil {
		return nil, err
	}
	if j.board.uefi {
		entry, err := update.PadText(fmt.Sprintf("title Hallig\nlinux /%s\noptions %s", update.In(update.SlotA, update.KernelFile), j.commandLine()), update.SmallFile)
		return []slotFile{
			{name: update.KernelFile, body: kernel, size: j.board.kernelReserve},
			{name: update.CmdlineFile, body: line, size: update.SmallFile, text: true},
			{name: update.EntryFile, body: entry, size: update.SmallFile, text: true},
		}, err
	}
	files := []slotFile{
		{name: piDir + "vmlinuz", body: kernel, size: j.board.kernelReserve},
		{name: piDir + "cmdline.txt", body: line, size: update.SmallFile, text: true},
	}
	trees, err := j.gokFiles(j.board.perSlot)
	for _, t := range trees {
		if len(t.body) > slotFileReserve*3/4 {
			return nil, fmt.Errorf("%s has %d bytes and no room to grow in its %d", t.name, len(t.body), slotFileReserve)
		}
		files = append(files, slotFile{name: piDir + t.name, body: t.body, size: slotFileReserve})
	}
	return files, err
}

// piDir holds what a slot of a Raspberry Pi has of its own; os_prefix in config.txt names it.
const piDir = "slot-{slot}/"

// gokFiles reads those files of gok's boot partition that pick wants, in the order of their names.
func (j *job) gokFiles(pick func(string) bool) (files []bootFile, err error) {
	base := j.path("gokboot")
	err = filepath.WalkDir(base, func(full string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(base, full)
		if err != nil || !pick(name) {
			return err
		}
		body, err := os.ReadFile(full)
		files = append(files, bootFile{name: name, body: body, size: int64(len(body))})
		return err
	})
	return files, err
}

// switchFiles say which slot the firmware boots.
func (j *job) switchFiles() (files []bootFile, err error) {
	text := func(name, body string) {
		var b []byte
		if err == nil {
			b, err = update.PadText(body, update.SectorSize)
		}
		files = append(files, bootFile{name, b, update.SectorSize})
	}
	if j.board.uefi {
		text(update.LoaderConf, "default hallig-a.conf\ntimeout 0\neditor no")
		return files, err
	}
	// A slot's directory stands before kernel, command line and device trees alike; overlays are for both.
	const common = "arm_64bit=1\nenable_uart=1\nkernel=vmlinuz\ncmdline=cmdline.txt\n"
	text(update.ConfigTxt, common+"os_prefix=slot-a/")
	text(update.TrybootTxt, common+"os_prefix=slot-b/")
	return files, err
}

// bootFiles lists everything on the boot partition. In a fresh image slot b boots the root of slot a: both slots start whatever is chosen.
func (j *job) bootFiles() ([]bootFile, error) {
	files, err := j.switchFiles()
	if err != nil {
		return nil, err
	}
	perSlot, err := j.slotFiles()
	if err != nil {
		return nil, err
	}
	for _, s := range []update.Slot{update.SlotA, update.SlotB} {
		for _, f := range perSlot {
			if int64(len(f.body)) > f.size {
				return nil, fmt.Errorf("%s has %d bytes, its place %d", f.name, len(f.body), f.size)
			}
			// ForSlot would change the root as well, and the root of slot b is empty yet.
			body := f.body
			if f.name == update.EntryFile {
				body = forKernel(body, s)
			}
			files = append(files, bootFile{update.In(s, f.name), body, f.size})
		}
		head := bootFile{name: update.In(s, update.ManifestFile), size: update.MaxHead}
		if s == update.SlotA {
			if head.body, err = j.updateHead(); err != nil {
				return nil, err
			}
		}
		files = append(files, head)
	}
	more, err := j.gokFiles(j.board.take)
	if err != nil {
		return nil, err
	}
	readme := []byte(strings.ReplaceAll(bootReadme, "\n", "\r\n"))
	return append(append(files, more...), bootFile{"README.TXT", readme, int64(len(readme))}), nil
}

// forKernel makes a loader entry of slot a start the kernel of slot s with the root of slot a.
func forKernel(entry []byte, s update.Slot) []byte {
	return []byte(strings.Replace(string(entry), update.In(update.SlotA, update.KernelFile), update.In(s, update.KernelFile), 1))
}

const bootReadme = `Hallig

DE: Diese Partition startet die Box. Bitte nichts loeschen oder verschieben.
    Nur eine Datei darf hier dazukommen: hallig.json (Einrichtung der Box).
EN: This partition starts the box. Please delete or move nothing.
    Only one file may be added here: hallig.json (set-up of the box).
`

// makeBoot makes the boot partition. mkfs.fat and mcopy give every new file the next free clusters, so on a fresh file system each one lies in
// one piece; checkDisk makes sure. A cluster is 4 KiB, so that no small file shares a page of the disk with another.
func (j *job) makeBoot() error {
	files, err := j.bootFiles()
	if err != nil {
		return err
	}
	fat, tree := j.path("boot.fat"), j.path("boot")
	if err := truncate(fat, bootSize); err != nil {
		return err
	}
	err = j.tool("mkfs.fat", []string{"-F", "32", "-s", "8", "-S", "512", "-n", "HALLIG", "-i", fmt.Sprintf("%08x", diskID), "-g", "255/63", "-h", fmt.Sprint(bootStart / 512), "--invariant", fat}, j.dir)
	if err != nil {
		return err
	}
	var dirs []string
	for _, f := range files {
		full := filepath.Join(tree, f.name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, f.body, 0o644); err != nil {
			return err
		}
		if err := os.Truncate(full, f.size); err != nil {
			return err
		}
		if err := os.Chtimes(full, j.src.Time, j.src.Time); err != nil {
			return err
		}
		for dir := filepath.Dir(f.name); dir != "."; dir = filepath.Dir(dir) {
			if !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	slices.Sort(dirs)
	for _, dir := range dirs {
		if err := j.tool("mmd", []string{"-i", fat, "::" + dir}, j.dir, "MTOOLS_SKIP_CHECK=1"); err != nil {
			return err
		}
	}
	for dir, names := range byDirectory(files) {
		args := []string{"-m", "-i", fat}
		for _, n := range names {
			args = append(args, filepath.Join(tree, n))
		}
		if err := j.tool("mcopy", append(args, "::"+dir), j.dir, "MTOOLS_SKIP_CHECK=1"); err != nil {
			return err
		}
	}
	j.boot = files
	return nil
}

// byDirectory groups the files by their directory, in an order that does not change.
func byDirectory(files []bootFile) func(func(string, []string) bool) {
	return func(yield func(string, []string) bool) {
		var done []string
		for _, f := range files {
			dir := filepath.Dir(f.name)
			if slices.Contains(done, dir) {
				continue
			}
			done = append(done, dir)
			var names []string
			for _, g := range files {
				if filepath.Dir(g.name) == dir {
					names = append(names, g.name)
				}
			}
			if !yield("/"+strings.TrimPrefix(dir, "."), names) {
				return
			}
		}
	}
}

func truncate(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		f.Close() //nolint:errcheck // the other error is told
		return err
	}
	return f.Close()
}
