// SPDX-License-Identifier: EUPL-1.2

package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CopySparse copies a file and leaves its holes holes: a disk of 4 GiB that holds 60 MiB costs 60 MiB.
func CopySparse(to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy image: %w", err)
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return fmt.Errorf("copy image: %w", err)
	}
	return CopyPart(to, src, 0, st.Size())
}

// CopyPart makes a file of size bytes of src from offset on, with its holes.
func CopyPart(to string, src *os.File, offset, size int64) (err error) {
	dst, err := os.Create(to)
	if err != nil {
		return fmt.Errorf("copy image: %w", err)
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := dst.Truncate(size); err != nil {
		return fmt.Errorf("copy image: %w", err)
	}
	for at := offset; at < offset+size; {
		data, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || data >= offset+size {
			return nil // only a hole is left
		}
		if err != nil {
			return fmt.Errorf("copy image: %w", err)
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("copy image: %w", err)
		}
		hole = min(hole, offset+size)
		if _, err := io.Copy(io.NewOffsetWriter(dst, data-offset), io.NewSectionReader(src, data, hole-data)); err != nil {
			return fmt.Errorf("copy image: %w", err)
		}
		at = hole
	}
	return nil
}

// NewDisk copies an image and makes the copy as big as the disk it is written to; size 0 keeps its size.
func NewDisk(to, image string, size int64) error {
	if err := CopySparse(to, image); err != nil {
		return err
	}
	if size == 0 {
		return nil
	}
	if st, err := os.Stat(to); err != nil || st.Size() > size {
		return fmt.Errorf("make disk of %d bytes: the image does not fit (%v)", size, err)
	}
	return os.Truncate(to, size)
}

// NewStick makes a USB stick as one buys it (one partition table, one FAT file system) of mib MiB with the files on it: name on the stick -> content.
func NewStick(path string, mib int, files map[string][]byte) error {
	const start = 2048 // sectors before the partition
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("make stick: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make stick: %w", err)
	}
	sectors := uint32(mib)<<11 - start
	mbr := make([]byte, 512)
	entry := mbr[446:]
	entry[4] = 0x0c // FAT32, LBA
	binary.LittleEndian.PutUint32(entry[8:], start)
	binary.LittleEndian.PutUint32(entry[12:], sectors)
	mbr[510], mbr[511] = 0x55, 0xaa
	_, err = f.Write(mbr)
	if err := errors.Join(err, f.Truncate(int64(mib)<<20), f.Close()); err != nil {
		return fmt.Errorf("make stick: %w", err)
	}
	fat := path + ".fat"
	defer os.Remove(fat)
	if err := tool("mkfs.fat", "-C", "-F", "32", "-n", "STICK", fat, fmt.Sprint(sectors/2)); err != nil {
		return err
	}
	for name, content := range files {
		if err := PutFAT(fat, 0, name, content); err != nil {
			return err
		}
	}
	dst, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("make stick: %w", err)
	}
	src, err := os.Open(fat)
	if err != nil {
		return errors.Join(fmt.Errorf("make stick: %w", err), dst.Close())
	}
	_, err = io.Copy(io.NewOffsetWriter(dst, start*512), src)
	return errors.Join(err, src.Close(), dst.Close())
}

// StickOffset is where the file system of a stick made by NewStick begins.
const StickOffset = 2048 * 512

// PutFAT writes a file into the FAT file system that begins at offset of an image, as a person with a card reader would.
func PutFAT(image string, offset int64, name string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(image), "put-")
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return tool("mcopy", "-o", "-i", at(image, offset), tmp.Name(), "::"+name)
}

// FolderFAT makes a folder in it.
func FolderFAT(image string, offset int64, name string) error {
	return tool("mmd", "-i", at(image, offset), "::"+name)
}

// ReadFAT reads a file from it.
func ReadFAT(image string, offset int64, name string) ([]byte, error) {
	cmd := exec.Command("mtype", "-i", at(image, offset), "::"+name)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read %s from %s: %w", name, image, explain(err))
	}
	return out, nil
}

// ListFAT names the files in the root of it.
func ListFAT(image string, offset int64) ([]string, error) {
	out, err := exec.Command("mdir", "-b", "-i", at(image, offset), "::/").Output()
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", image, explain(err))
	}
	var names []string
	for f := range strings.FieldsSeq(string(out)) {
		names = append(names, strings.TrimPrefix(f, "::/"))
	}
	return names, nil
}

func at(image string, offset int64) string { return fmt.Sprintf("%s@@%d", image, offset) }

// tool runs a program of the system.
func tool(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s (sudo apt-get install -y mtools dosfstools e2fsprogs)", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func explain(err error) error {
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(ee.Stderr)))
	}
	return err
}
