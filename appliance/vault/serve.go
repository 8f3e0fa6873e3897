// SPDX-License-Identifier: EUPL-1.2

package vault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	maxIO    = 128 << 10
	fileName = "disk"
	fileNode = 2
	buffers  = 24 // of maxIO each, made in advance: a flush must not wait for memory
)

// Device is a vault as a block device: Path is what to mount.
type Device struct {
	Path string // /dev/loopN

	disk   *Disk
	dir    string
	server *fuse.Server
	loop   *os.File
}

// Attach serves the disk as a file in a FUSE file system at dir (which is made), with a loop device on it. It needs root. The device lives until Detach, or
// until this process ends: whoever mounts it must keep the process.
func (d *Disk) Attach(dir string) (*Device, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("attach vault: %w", err)
	}
	fs := &fileSystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), disk: d, free: make(chan *buffer, buffers)}
	for range buffers {
		b, err := newBuffer(maxIO)
		if err != nil {
			return nil, err
		}
		fs.free <- b
	}
	server, err := fuse.NewServer(fs, dir, &fuse.MountOptions{
		DirectMountStrict: true, FsName: "hallig-vault", Name: "hallig", MaxWrite: maxIO, MaxReadAhead: maxIO, DisableXAttrs: true,
		Options: []string{"default_permissions"},
	})
	if err != nil {
		return nil, fmt.Errorf("attach vault: mount FUSE on %s: %w", dir, err)
	}
	go server.Serve() // until Detach unmounts it
	if err := server.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("attach vault: %w", err), server.Unmount())
	}
	v := &Device{disk: d, dir: dir, server: server}
	if err := v.attachLoop(filepath.Join(dir, fileName)); err != nil {
		return nil, errors.Join(fmt.Errorf("attach vault: %w", err), server.Unmount())
	}
	return v, nil
}

func (v *Device) attachLoop(file string) error {
	backing, err := os.OpenFile(file, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer backing.Close() // the loop device holds it
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	for range 16 { // somebody else may take the free one first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return fmt.Errorf("find a loop device: %w", err)
		}
		name := fmt.Sprintf("/dev/loop%d", n)
		loop, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: 4096}
		config.Info.Flags = unix.LO_FLAGS_DIRECT_IO
		copy(config.Info.File_name[:], "hallig-vault")
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			v.Path, v.loop = name, loop
			return nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("configure %s: %w", name, err)
		}
	}
	return errors.New("no free loop device")
}

// Detach takes the device away; what is mounted from it must be unmounted before.
func (v *Device) Detach() error {
	_, err := unix.IoctlRetInt(int(v.loop.Fd()), unix.LOOP_CLR_FD)
	errs := []error{err, v.loop.Close(), v.server.Unmount(), v.disk.Sync(), v.disk.Close()}
	return errors.Join(errs...)
}

// fileSystem has one file: the plain disk. Opened directly, so that nothing is cached here.
type fileSystem struct {
	fuse.RawFileSystem
	disk *Disk
	free chan *buffer
}

func (f *fileSystem) attr(node uint64, out *fuse.Attr) fuse.Status {
	out.Ino = node
	switch node {
	case fuse.FUSE_ROOT_ID:
		out.Mode, out.Nlink = syscall.S_IFDIR|0o700, 2
	case fileNode:
		out.Mode, out.Nlink, out.Size, out.Blocks, out.Blksize = syscall.S_IFREG|0o600, 1, uint64(f.disk.size), uint64(f.disk.size/512), 4096
	default:
		return fuse.ENOENT
	}
	return fuse.OK
}

func (f *fileSystem) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if in.NodeId != fuse.FUSE_ROOT_ID || name != fileName {
		return fuse.ENOENT
	}
	out.NodeId, out.Generation, out.EntryValid, out.AttrValid = fileNode, 1, 1<<30, 1<<30
	return f.attr(fileNode, &out.Attr)
}

func (f *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.AttrValid = 1 << 30
	return f.attr(in.NodeId, &out.Attr)
}

// SetAttr: times may be set for all that we care; the size may not.
func (f *fileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.Valid&fuse.FATTR_SIZE != 0 {
		return fuse.EPERM
	}
	return f.attr(in.NodeId, &out.Attr)
}

func (f *fileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId != fileNode {
		return fuse.Status(syscall.EISDIR)
	}
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	return fuse.OK
}

func (f *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Blocks, out.NameLen = 4096, uint64(f.disk.size/4096), 255
	return fuse.OK
}

// lent is a buffer on its way to the kernel.
type lent struct {
	*buffer
	n    int
	back chan<- *buffer
}

func (l *lent) Bytes([]byte) ([]byte, fuse.Status) { return l.bytes[:l.n], fuse.OK }
func (l *lent) Size() int                          { return l.n }
func (l *lent) Done()                              { l.back <- l.buffer }

func (f *fileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	n := int64(in.Size)
	if off := int64(in.Offset); off >= f.disk.size {
		return fuse.ReadResultData(nil), fuse.OK
	} else if off+n > f.disk.size {
		n = f.disk.size - off
	}
	if n > maxIO {
		return nil, fuse.EIO
	}
	b := <-f.free
	if err := f.disk.read(b.bytes[:n], int64(in.Offset)); err != nil {
		f.free <- b
		return nil, status(err)
	}
	return &lent{buffer: b, n: int(n), back: f.free}, fuse.OK
}

func (f *fileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, p []byte) (uint32, fuse.Status) {
	if len(p) > maxIO {
		return 0, fuse.EIO
	}
	b := <-f.free
	defer func() { f.free <- b }()
	if err := f.disk.write(p, b.bytes, int64(in.Offset)); err != nil {
		return 0, status(err)
	}
	return uint32(len(p)), fuse.OK
}

func (f *fileSystem) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return status(f.disk.Sync()) }
func (f *fileSystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }
func (f *fileSystem) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status {
	return fuse.OK
}

// status hands the disk's own error on where it has one, as the file system above acts on it.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return fuse.Status(errno)
	}
	return fuse.EIO
}
