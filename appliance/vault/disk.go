// SPDX-License-Identifier: EUPL-1.2

package vault

import (
	"crypto/aes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/crypto/xts"
	"golang.org/x/sys/unix"
)

// Disk is an opened vault: plain sectors above, encrypted ones below. Safe for concurrent use, as far as the callers' sectors differ.
type Disk struct {
	f      *os.File
	cipher *xts.Cipher
	size   int64
}

// Open opens the vault on a partition (or, for tests, in a file) with a key. The caller keeps the key away from logs.
func Open(name string, k Key) (*Disk, error) {
	f, err := openDirect(name)
	if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	d, err := open(f, k)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open vault on %s: %w", name, err)
	}
	return d, nil
}

// openDirect goes round the kernel's cache: the file system above has one already, and what it flushes must reach the disk without
// waiting for memory that only the same flush would free.
func openDirect(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) { // a file system that cannot; partitions always can
		return os.OpenFile(name, os.O_RDWR, 0)
	}
	return f, err
}

// aligned is a reader for what wants whole pages at page borders.
type aligned struct{ f *os.File }

func (a aligned) ReadAt(p []byte, off int64) (int, error) {
	b, err := newBuffer(len(p))
	if err != nil {
		return 0, err
	}
	defer b.free()
	n, err := a.f.ReadAt(b.bytes[:len(p)], off)
	return copy(p, b.bytes[:n]), err
}

func open(f *os.File, k Key) (*Disk, error) {
	h, err := ReadHeader(aligned{f})
	if err != nil {
		return nil, err
	}
	master, err := h.unseal(k)
	if err != nil {
		return nil, err
	}
	c, err := xts.NewCipher(aes.NewCipher, master)
	if err != nil {
		return nil, err
	}
	end, err := f.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	size := (end - DataStart) &^ 4095
	if size <= 0 {
		return nil, errors.New("the partition is too small for a vault")
	}
	return &Disk{f: f, cipher: c, size: size}, nil
}

// Size is that of the plain disk, bytes: a multiple of 4096.
func (d *Disk) Size() int64 { return d.size }

// Close forgets the vault; whoever still reads gets errors.
func (d *Disk) Close() error { return d.f.Close() }

// Sync returns when all that was written is on the disk itself.
func (d *Disk) Sync() error { return unix.Fdatasync(int(d.f.Fd())) }

func (d *Disk) inside(n int, off int64) error {
	if off < 0 || off%sectorSize != 0 || n%sectorSize != 0 || off+int64(n) > d.size {
		return fmt.Errorf("vault: %d bytes at %d are not whole sectors of this disk", n, off)
	}
	return nil
}

// read fills b with plain sectors; b is page-aligned.
func (d *Disk) read(b []byte, off int64) error {
	if err := d.inside(len(b), off); err != nil {
		return err
	}
	if _, err := d.f.ReadAt(b, DataStart+off); err != nil {
		return err
	}
	for i := 0; i < len(b); i += sectorSize {
		s := b[i : i+sectorSize]
		d.cipher.Decrypt(s, s, uint64(off+int64(i))/sectorSize)
	}
	return nil
}

// write encrypts p into the scratch buffer, which is page-aligned and as long, and writes that.
func (d *Disk) write(p, scratch []byte, off int64) error {
	if err := d.inside(len(p), off); err != nil {
		return err
	}
	for i := 0; i < len(p); i += sectorSize {
		d.cipher.Encrypt(scratch[i:i+sectorSize], p[i:i+sectorSize], uint64(off+int64(i))/sectorSize)
	}
	_, err := d.f.WriteAt(scratch[:len(p)], DataStart+off)
	return err
}

// buffer is memory at page borders, outside the collector's.
type buffer struct{ bytes []byte }

func newBuffer(n int) (*buffer, error) {
	m, err := unix.Mmap(-1, 0, (n+4095)&^4095, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("vault: buffer: %w", err)
	}
	return &buffer{m}, nil
}

func (b *buffer) free() {
	if err := unix.Munmap(b.bytes); err != nil {
		panic("vault: a buffer was freed twice: " + err.Error())
	}
}
