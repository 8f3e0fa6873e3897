// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/klauspost/compress/zstd"
)

// Device is a whole disk, or the file of one. Writes are whole sectors. Sync returns when what was written is on the medium.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Disk is a disk with two slots. One goroutine at a time.
type Disk struct {
	dev   Device
	parts map[int]span
	vol   *volume
}

// OpenDisk finds the slots on a disk.
func OpenDisk(dev Device, size int64) (*Disk, error) {
	parts, err := readGPT(dev, size)
	if err != nil {
		return nil, err
	}
	for _, n := range []int{bootPartition, rootPartition(SlotA), rootPartition(SlotB)} {
		if parts[n].size == 0 {
			return nil, fmt.Errorf("the disk has no partition %d", n)
		}
	}
	vol, err := openVolume(dev, parts[bootPartition])
	if err != nil {
		return nil, fmt.Errorf("read the boot file system: %w", err)
	}
	return &Disk{dev: dev, parts: parts, vol: vol}, nil
}

// place is where a part or layout file of a slot lies.
func (d *Disk) place(s Slot, file string) (span, error) {
	if file == RootPart {
		return d.parts[rootPartition(s)], nil
	}
	return d.vol.find(In(s, file))
}

// placed is a part with its place.
type placed struct {
	Part
	span
}

// places finds room for the parts of a manifest in a slot. Nothing of it lies in the other slot or in what chooses between them.
func (d *Disk) places(m Manifest, s Slot) (list []placed, err error) {
	taken, err := d.claimed(s.Other())
	if err != nil {
		return nil, err
	}
	keep, err := d.place(s, ManifestFile)
	if err != nil {
		return nil, err
	}
	taken = append(taken, keep)
	for _, p := range m.For(s) {
		at, err := d.place(s, p.File)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, refuse(fmt.Sprintf("Dieses Update braucht die Datei %s, für die der Datenträger keinen Platz vorgesehen hat. Es muss einmal ganz neu aufgespielt werden; die Sicherung nimmt die Daten mit.", p.At(s)),
				fmt.Sprintf("This update needs the file %s, for which the disk has no room set aside. It has to be installed afresh once; the backup takes the data along.", p.At(s)))
		}
		if err != nil {
			return nil, err
		}
		if p.Size > at.size {
			return nil, refuse(fmt.Sprintf("Dieses Update ist zu groß für den Datenträger (%s: %d statt höchstens %d Bytes). Es muss einmal ganz neu aufgespielt werden; die Sicherung nimmt die Daten mit.", p.At(s), p.Size, at.size),
				fmt.Sprintf("This update is too big for the disk (%s: %d bytes, at most %d). It has to be installed afresh once; the backup takes the data along.", p.At(s), p.Size, at.size))
		}
		for _, t := range taken {
			if at.overlaps(t) {
				return nil, fmt.Errorf("%s lies where something else lies that must not change", p.At(s))
			}
		}
		taken = append(taken, at)
		list = append(list, placed{p, at})
	}
	return list, nil
}

// claimed lists what belongs to a slot, and to the choice between the slots.
func (d *Disk) claimed(s Slot) (list []span, err error) {
	list = append(list, span{0, SectorSize}, d.parts[rootPartition(s)])
	for _, name := range []string{KernelFile, CmdlineFile, EntryFile, ManifestFile, LoaderConf, ConfigTxt, TrybootTxt} {
		switch at, err := d.place(s, name); {
		case err == nil:
			list = append(list, at)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	if h, err := d.head(s); err == nil {
		for _, p := range h.For(s) {
			if at, err := d.place(s, p.File); err == nil {
				list = append(list, at)
			}
		}
	}
	return list, nil
}

// errNoSystem says that a slot's own description is not there: it was never written, or only in part.
var errNoSystem = errors.New("there is no whole system in the slot")

// head reads the description of what a slot holds.
func (d *Disk) head(s Slot) (*head, error) {
	at, err := d.place(s, ManifestFile)
	if err != nil {
		return nil, err
	}
	h, err := readHead(newHashing(io.NewSectionReader(d.dev, at.at, min(at.size, MaxHead))))
	if r := (*Refusal)(nil); errors.As(err, &r) {
		return nil, errNoSystem
	}
	return h, err
}

// Holds says what is in a slot by its description, without looking whether it is whole.
func (d *Disk) Holds(s Slot) (Manifest, error) {
	h, err := d.head(s)
	if err != nil {
		return Manifest{}, fmt.Errorf("slot %s: %w", s, err)
	}
	return h.Manifest, nil
}

// Check reads a slot from the medium and holds every byte against its description. It takes as long as reading takes.
func (d *Disk) Check(ctx context.Context, s Slot) (Manifest, error) {
	h, err := d.head(s)
	if err == nil {
		err = d.checkParts(ctx, h.Manifest, s)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("slot %s: %w", s, err)
	}
	return h.Manifest, nil
}

func (d *Disk) checkParts(ctx context.Context, m Manifest, s Slot) error {
	buf := make([]byte, BlockSize)
	for _, p := range m.For(s) {
		at, err := d.place(s, p.File)
		if err != nil {
			return err
		}
		if p.Size > at.size {
			return fmt.Errorf("%s: longer than its place", p.At(s))
		}
		for i := range p.blocks() {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:p.blockLen(i)]
			if err := readFull(d.dev, b, at.at+i*BlockSize); err != nil {
				return fmt.Errorf("read %s: %w", p.At(s), err)
			}
			if checkBlock(p, i, b) != nil {
				return fmt.Errorf("%s: byte %d to %d are not what they should be", p.At(s), i*BlockSize, i*BlockSize+int64(len(b)))
			}
		}
	}
	return nil
}

// Kernel gives the kernel of a slot, without the zeros behind it.
func (d *Disk) Kernel(s Slot) (*io.SectionReader, error) {
	h, err := d.head(s)
	if err != nil {
		return nil, fmt.Errorf("slot %s: %w", s, err)
	}
	for _, p := range h.For(s) {
		if p.File == KernelFile {
			at, err := d.place(s, KernelFile)
			return io.NewSectionReader(d.dev, at.at, p.Size), err
		}
	}
	return nil, fmt.Errorf("slot %s has no kernel", s)
}

// Cmdline gives the command line of a slot's kernel.
func (d *Disk) Cmdline(s Slot) (string, error) {
	at, err := d.place(s, CmdlineFile)
	if err != nil {
		return "", err
	}
	b := make([]byte, min(at.size, SmallFile))
	if err := readFull(d.dev, b, at.at); err != nil {
		return "", err
	}
	line, _, _ := bytes.Cut(b, []byte{0})
	line, _, _ = bytes.Cut(line, []byte{'\n'})
	return string(bytes.TrimSpace(line)), nil
}

// Stream writes the update file of what is in a slot, for another box. Head and hashes are those that were signed.
func (d *Disk) Stream(ctx context.Context, w io.Writer, s Slot) error {
	h, err := d.head(s)
	if err != nil {
		return fmt.Errorf("slot %s: %w", s, err)
	}
	out, err := newStream(w, zstd.SpeedFastest)
	if err != nil {
		return err
	}
	defer out.close()
	if err := out.write(h.all); err != nil {
		return err
	}
	buf := make([]byte, BlockSize)
	for _, p := range h.Parts {
		from, err := d.source(p, s)
		if err != nil {
			return fmt.Errorf("slot %s: %w", s, err)
		}
		if err := out.part(p, ctxReader{ctx, from}, buf); err != nil {
			return fmt.Errorf("slot %s: %s: %w", s, p.File, err)
		}
	}
	return out.end()
}

// source finds a part's bytes: in the slot, or, when it is for the other slot only, made from this slot's.
func (d *Disk) source(p Part, s Slot) (io.ReaderAt, error) {
	if p.Slot == NoSlot || p.Slot == s {
		at, err := d.place(s, p.File)
		return io.NewSectionReader(d.dev, at.at, at.size), err
	}
	at, err := d.place(s, p.File)
	if err != nil {
		return nil, err
	}
	if p.Size > min(at.size, BlockSize) {
		return nil, fmt.Errorf("%s: too long to be made from the other slot's", p.At(p.Slot))
	}
	b := make([]byte, p.Size)
	if err := readFull(d.dev, b, at.at); err != nil {
		return nil, err
	}
	return bytes.NewReader(ForSlot(b, p.Slot)), nil
}

// ctxReader ends reading when its context ends.
type ctxReader struct {
	ctx context.Context
	r   io.ReaderAt
}

func (c ctxReader) ReadAt(b []byte, at int64) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.ReadAt(b, at)
}
