// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Folder is the name of the directory on the stick.
const Folder = "hallig-courier"

// Disk is the courier's directory on one stick. What Create, Rename and Remove did is durable after File.Sync and Sync, and not before. It is used by one
// goroutine.
type Disk interface {
	// Read gives a whole regular file of exactly size bytes; size below 0: of any size up to most.
	Read(name string, size, most int64) ([]byte, error)
	// Open gives a regular file of up to most bytes, to be read from its beginning, and its size.
	Open(name string, most int64) (r io.ReadCloser, size int64, err error)
	Create(name string) (File, error) // in place of what there is
	Rename(from, to string) error
	Remove(name string) error
	Sync() error                      // the directory
	Free() (int64, error)             // bytes
	Names(most int) ([]string, error) // up to most names, in any order
}

// File is a file that is being written.
type File interface {
	io.Writer
	Sync() error
	Close() error
}

// ErrNoCourier says that a place holds no courier's directory.
var ErrNoCourier = errors.New("there is no folder " + Folder)

// dir is a Disk in a real directory.
type dir struct {
	root *os.Root
	path string
}

// Open opens the courier's directory of a stick; create makes it where there is none. Close lets go of the stick.
func Open(place string, create bool) (interface {
	Disk
	io.Closer
}, error) {
	path := filepath.Join(place, Folder)
	if create {
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make folder for the courier: %w", err)
		}
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: %w", place, ErrNoCourier)
	}
	if err == nil && !info.IsDir() {
		err = errors.New("it is not a folder")
	}
	if err != nil {
		return nil, fmt.Errorf("open folder of the courier: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open folder of the courier: %w", err)
	}
	if create {
		if err := syncDir(place); err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	return &dir{root, path}, nil
}

func (d *dir) Close() error { return d.root.Close() }

func (d *dir) Read(name string, size, most int64) ([]byte, error) {
	f, n, err := d.Open(name, most)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size >= 0 && n != size {
		return nil, errSize
	}
	b := make([]byte, n)
	_, err = io.ReadFull(f, b)
	return b, err
}

func (d *dir) Open(name string, most int64) (io.ReadCloser, int64, error) {
	// Not blocking: what is there may be a pipe, which nobody will write to.
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() > most) {
		err = errSize
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// errSize says that a file is not what was promised, before anything of it was read.
var errSize = errors.New("another size, or no file")

func (d *dir) Create(name string) (File, error) {
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}

func (d *dir) Rename(from, to string) error { return d.root.Rename(from, to) }
func (d *dir) Remove(name string) error     { return d.root.Remove(name) }
func (d *dir) Sync() error                  { return syncDir(d.path) }

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil // a file system that cannot
	}
	return errors.Join(err, f.Close())
}

func (d *dir) Free() (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.path, &s); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: d.path, Err: err}
	}
	return int64(s.Bavail) * s.Bsize, nil
}

func (d *dir) Names(most int) ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(most)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// put writes a file so that it is there whole, for good, or not at all.
func put(d Disk, self, name string, data []byte) error {
	tmp := self + ".tmp"
	f, err := d.Create(tmp)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.Rename(tmp, name)
	} else {
		err = errors.Join(err, d.Remove(tmp))
	}
	if err == nil {
		err = d.Sync()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
