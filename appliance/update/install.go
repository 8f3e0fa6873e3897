// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// Install writes an update into a slot that nothing boots, reading the file as it comes. running is the slot whose system runs now. When it
// returns nil the slot is whole: it was read back from the medium and every byte is what was signed. Nothing is switched. After an error or a
// power cut the slot is not whole and says so; Install may begin again, and writes only what is not there yet. progress may be nil.
func (d *Disk) Install(ctx context.Context, running Slot, r *Reader, progress func(done, total int64)) error {
	s := running.Other()
	if s == NoSlot {
		return errors.New("install update: it is not known which slot runs")
	}
	for _, p := range d.pointers() {
		if p.slot == s {
			return fmt.Errorf("install update: %s boots slot %s, which does not run; settle that first", p.name, s)
		}
	}
	places, err := d.places(r.Manifest(), s)
	if err != nil {
		return err
	}
	if err := d.describe(s, nil); err != nil { // from here on the slot holds nothing
		return err
	}
	w := writer{d: d, places: places, total: r.Manifest().Size(), progress: progress, old: make([]byte, BlockSize)}
	if err := r.Each(func(p Part, offset int64, block []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return w.block(p, s, offset, block)
	}); err != nil {
		return err
	}
	if err := d.sync(); err != nil {
		return err
	}
	if err := d.checkParts(ctx, r.Manifest(), s); err != nil {
		return refuse("Der Datenträger hat das Update nicht richtig aufgenommen ("+err.Error()+"). Das laufende System ist unberührt; der Datenträger ist wahrscheinlich am Ende und sollte ersetzt werden.",
			"The disk did not take the update properly ("+err.Error()+"). The running system is untouched; the disk is probably worn out and should be replaced.")
	}
	if err := d.tryboot(s); err != nil {
		return err
	}
	return d.describe(s, r.head.all)
}

// writer puts blocks in their places.
type writer struct {
	d           *Disk
	places      []placed
	done, total int64
	progress    func(done, total int64)
	old         []byte
}

func (w *writer) block(p Part, s Slot, offset int64, block []byte) error {
	w.done += int64(len(block))
	if w.progress != nil {
		w.progress(w.done, w.total)
	}
	i := slices.IndexFunc(w.places, func(x placed) bool { return x.File == p.File && x.Slot == p.Slot })
	if i < 0 {
		return nil // for the other slot
	}
	at := w.places[i].span
	if err := w.put(at.at+offset, block); err != nil {
		return fmt.Errorf("write %s: %w", p.At(s), err)
	}
	if end := offset + int64(len(block)); end == p.Size && p.File != RootPart {
		return w.zeros(at.at+sectors(end), at.at+sectors(at.size))
	}
	return nil
}

// sectors rounds up.
func sectors(n int64) int64 { return (n + SectorSize - 1) / SectorSize * SectorSize }

// put writes what is not there yet. The last sector is filled with zeros.
func (w *writer) put(at int64, block []byte) error {
	if n := sectors(int64(len(block))); n > int64(len(block)) {
		block = append(bytes.Clone(block), make([]byte, n-int64(len(block)))...)
	}
	old := w.old[:len(block)]
	if err := readFull(w.d.dev, old, at); err == nil && bytes.Equal(old, block) {
		return nil
	}
	_, err := w.d.dev.WriteAt(block, at)
	return err
}

func (w *writer) zeros(from, to int64) error {
	zero := make([]byte, BlockSize)
	for ; from < to; from += BlockSize {
		if err := w.put(from, zero[:min(BlockSize, to-from)]); err != nil {
			return err
		}
	}
	return nil
}

func (d *Disk) sync() error {
	if err := d.dev.Sync(); err != nil {
		return fmt.Errorf("flush the disk: %w", err)
	}
	return nil
}

// describe writes what a slot holds, the first sector last, or, for nil, that it holds nothing.
func (d *Disk) describe(s Slot, head []byte) error {
	at, err := d.place(s, ManifestFile)
	if err != nil {
		return err
	}
	if int64(len(head)) > at.size {
		return fmt.Errorf("the description of slot %s has %d bytes, its place %d", s, len(head), at.size)
	}
	b := make([]byte, sectors(max(int64(len(head)), 1)))
	copy(b, head)
	if len(b) > SectorSize {
		if _, err := d.dev.WriteAt(b[SectorSize:], at.at+SectorSize); err != nil {
			return fmt.Errorf("describe slot %s: %w", s, err)
		}
		if err := d.sync(); err != nil {
			return err
		}
	}
	return d.writeSector(at.at, b[:SectorSize])
}

// writeSector writes one sector, flushes it and reads it back.
func (d *Disk) writeSector(at int64, b []byte) error {
	if _, err := d.dev.WriteAt(b, at); err != nil {
		return fmt.Errorf("write sector %d: %w", at/SectorSize, err)
	}
	if err := d.sync(); err != nil {
		return err
	}
	back := make([]byte, SectorSize)
	if err := readFull(d.dev, back, at); err != nil {
		return fmt.Errorf("read sector %d back: %w", at/SectorSize, err)
	}
	if !bytes.Equal(b, back) {
		return fmt.Errorf("sector %d does not hold what was written", at/SectorSize)
	}
	return nil
}

// pointer is one of the sectors that say which slot the firmware boots.
type pointer struct {
	name   string
	slot   Slot // NoSlot: it names none, or both
	at     int64
	sector []byte
	text   bool
}

const pointerUEFI = "UEFI"

// loaderText is the whole of LoaderConf.
func loaderText(s Slot) []byte {
	text := "default " + strings.TrimPrefix(In(s, EntryFile), "loader/entries/") + "\ntimeout 0\neditor no\n"
	return append([]byte(text), bytes.Repeat([]byte{'\n'}, SectorSize-len(text))...)
}

var loaderDefault = regexp.MustCompile(`(?m)^default +(.*)$`)

// loaderSlot says which slot LoaderConf names, as systemd-boot reads it: one line with the name of an entry.
func loaderSlot(text []byte) Slot {
	lines := loaderDefault.FindAllSubmatch(text, -1)
	if len(lines) == 1 {
		for _, s := range []Slot{SlotA, SlotB} {
			if name := In(s, EntryFile); strings.HasSuffix(name, "/"+strings.TrimSpace(string(lines[0][1]))) {
				return s
			}
		}
	}
	return NoSlot
}

// pointers reads those that the disk has.
func (d *Disk) pointers() (list []pointer) {
	if p, ok := d.bios(); ok {
		list = append(list, p)
	}
	for _, f := range []struct{ name, file string }{{pointerUEFI, LoaderConf}, {"the Pi's firmware", ConfigTxt}} {
		at, b, err := d.oneSector(f.file)
		switch {
		case err != nil:
		case f.file == LoaderConf:
			list = append(list, pointer{name: f.name, slot: loaderSlot(b), at: at, sector: b, text: true})
		case textSlot(b) != NoSlot:
			list = append(list, pointer{name: f.name, slot: textSlot(b), at: at, sector: b, text: true})
		}
	}
	return list
}

// oneSector reads a file that is one sector long.
func (d *Disk) oneSector(name string) (at int64, b []byte, err error) {
	f, err := d.vol.find(name)
	if err != nil {
		return 0, nil, err
	}
	if f.size != SectorSize {
		return 0, nil, fmt.Errorf("%s has %d bytes and not %d", name, f.size, SectorSize)
	}
	b = make([]byte, SectorSize)
	return f.at, b, readFull(d.dev, b, f.at)
}

// bios reads sector 0. It counts as a pointer when one of its numbers is a slot's.
func (d *Disk) bios() (pointer, bool) {
	p := pointer{name: "BIOS", sector: make([]byte, SectorSize)}
	if err := readFull(d.dev, p.sector, 0); err != nil {
		return p, false
	}
	kernel, cmdline := biosLBAs(p.sector)
	known := false
	for _, s := range []Slot{SlotA, SlotB} {
		k, c, err := d.lbas(s)
		if err != nil {
			return p, false
		}
		if kernel == k && cmdline == c {
			p.slot = s
		}
		known = known || kernel == k || cmdline == c
	}
	return p, known
}

func (d *Disk) lbas(s Slot) (kernel, cmdline uint32, err error) {
	k, err := d.place(s, KernelFile)
	if err != nil {
		return 0, 0, err
	}
	c, err := d.place(s, CmdlineFile)
	return uint32(k.at / SectorSize), uint32(c.at / SectorSize), err
}

// Boots says which slot the firmware boots. NoSlot: its parts (BIOS, UEFI) disagree, as after a power cut during Switch; Settle makes them agree.
func (d *Disk) Boots() (Slot, error) {
	all := d.pointers()
	if len(all) == 0 {
		return NoSlot, errors.New("nothing on the disk says which slot is booted")
	}
	for _, p := range all[1:] {
		if p.slot != all[0].slot {
			return NoSlot, nil
		}
	}
	return all[0].slot, nil
}

// Switch makes the firmware boot a slot from now on, once it has read the slot from the medium and found it whole.
func (d *Disk) Switch(ctx context.Context, s Slot) error {
	if _, err := d.Check(ctx, s); err != nil {
		return refuse("Es wird nicht umgeschaltet, denn das andere System ist nicht heil ("+err.Error()+"). Spielen Sie das Update noch einmal ein.",
			"Nothing is switched, as the other system is not whole ("+err.Error()+"). Install the update again.")
	}
	return d.point(s)
}

// Settle makes everything that chooses agree with the slot that the firmware has booted, as a power cut during Switch may have left them apart.
// It must not be called on trial.
func (d *Disk) Settle(running Slot) error {
	if running == NoSlot {
		return errors.New("it is not known which slot runs")
	}
	return d.point(running)
}

func (d *Disk) point(s Slot) error {
	all := d.pointers()
	if len(all) == 0 {
		return errors.New("nothing on the disk says which slot is booted")
	}
	for _, p := range all {
		if p.slot == s {
			continue
		}
		b := bytes.Clone(p.sector)
		if p.text {
			b = retarget(b, s)
			switch {
			case p.name == pointerUEFI && loaderSlot(b) != s:
				b = loaderText(s) // it has rotted, and is simple enough to be written anew
			case p.name != pointerUEFI && textSlot(b) != s:
				return fmt.Errorf("the configuration of %s cannot be read", p.name)
			}
		} else {
			k, c, err := d.lbas(s)
			if err != nil {
				return err
			}
			SetBIOSLBAs(b, k, c)
		}
		if err := d.writeSector(p.at, b); err != nil {
			return fmt.Errorf("switch %s to slot %s: %w", p.name, s, err)
		}
	}
	return nil
}

// tryboot has a Raspberry Pi's firmware find the slot on trial when it is rebooted with the word for it.
func (d *Disk) tryboot(s Slot) error {
	at, b, err := d.oneSector(TrybootTxt)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if textSlot(b) == s {
		return nil
	}
	if b = retarget(b, s); textSlot(b) != s {
		return fmt.Errorf("%s names no slot", TrybootTxt)
	}
	return d.writeSector(at, b)
}
