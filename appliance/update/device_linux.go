// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// DeviceFile is a whole disk, or a file that holds one, read and written past the page cache: what is read back comes from the medium, and the
// caches of the partitions' own device files do not matter.
type DeviceFile struct {
	f      *os.File
	size   int64
	direct bool

	mu  sync.Mutex
	buf []byte // page-aligned, as direct input and output want
}

const deviceBuffer = 1 << 20

// OpenDevice opens a disk for Disk. Close it when done.
func OpenDevice(path string) (*DeviceFile, error) {
	d := &DeviceFile{direct: true}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) { // a file system without direct input and output, in tests
		d.direct = false
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	d.f = os.NewFile(uintptr(fd), path)
	if d.size, err = d.f.Seek(0, io.SeekEnd); err != nil {
		d.f.Close()
		return nil, fmt.Errorf("measure disk: %w", err)
	}
	if d.buf, err = unix.Mmap(-1, 0, deviceBuffer, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
		d.f.Close()
		return nil, fmt.Errorf("memory for the disk: %w", err)
	}
	return d, nil
}

// Size is the disk's, in bytes.
func (d *DeviceFile) Size() int64 { return d.size }

// Close lets go of the disk.
func (d *DeviceFile) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := unix.Munmap(d.buf)
	d.buf = nil
	return errors.Join(err, d.f.Close())
}

// ReadAt reads any piece of the disk.
func (d *DeviceFile) ReadAt(b []byte, at int64) (n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n < len(b) {
		from := (at + int64(n)) / SectorSize * SectorSize
		skip := int(at + int64(n) - from)
		want := min(deviceBuffer, int(sectors(int64(skip+len(b)-n))))
		got, err := d.f.ReadAt(d.buf[:want], from)
		if got <= skip {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		n += copy(b[n:], d.buf[skip:got])
		if err != nil && n < len(b) {
			return n, err
		}
	}
	return n, nil
}

// WriteAt writes whole sectors.
func (d *DeviceFile) WriteAt(b []byte, at int64) (n int, err error) {
	if at%SectorSize != 0 || len(b)%SectorSize != 0 {
		return 0, fmt.Errorf("write disk: %d bytes at %d are not whole sectors", len(b), at)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for n < len(b) {
		k := copy(d.buf, b[n:])
		k, err := d.f.WriteAt(d.buf[:k], at+int64(n))
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Sync returns when what was written is on the medium. Where reads go through the page cache, it is emptied, so that they come from the medium too.
func (d *DeviceFile) Sync() error {
	if err := d.f.Sync(); err != nil {
		return err
	}
	if !d.direct {
		return unix.Fadvise(int(d.f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return nil
}
