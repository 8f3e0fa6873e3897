// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf16"
)

// volume reads a FAT16 or FAT32 file system, only to find where files lie. It never writes and follows no chain longer than the volume.
// Layout: Microsoft's FAT specification, "fatgen103".
type volume struct {
	disk     io.ReaderAt
	base     int64 // of the partition on the disk
	cluster  int64 // bytes
	fat      int64 // first table, bytes from base
	fatLen   int64
	root     int64 // FAT16: the root directory, bytes from base
	rootLen  int64
	rootAt   uint32 // FAT32: its first cluster
	data     int64  // cluster 2, bytes from base
	clusters uint32 // how many
	wide     bool   // FAT32

	// piece is the part of the table that was read last in this search: a kernel's chain has thousands of entries, and past the page cache each read is one of the medium.
	piece   []byte
	pieceAt int64
}

const pieceBytes = 64 << 10

const maxDirBytes = 1 << 20

func openVolume(disk io.ReaderAt, at span) (*volume, error) {
	b := make([]byte, SectorSize)
	if err := readFull(disk, b, at.at); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	sector, perCluster, reserved := int64(le.Uint16(b[11:])), int64(b[13]), int64(le.Uint16(b[14:]))
	fats, rootEntries := int64(b[16]), int64(le.Uint16(b[17:]))
	total, fatLen := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	v := &volume{disk: disk, base: at.at}
	if fatLen == 0 {
		fatLen, v.rootAt, v.wide = int64(le.Uint32(b[36:])), le.Uint32(b[44:]), true
	}
	if b[510] != 0x55 || b[511] != 0xaa || sector != SectorSize || perCluster == 0 || perCluster&(perCluster-1) != 0 || reserved == 0 || fats == 0 || fats > 2 ||
		total*sector > at.size || v.wide != (rootEntries == 0) {
		return nil, errors.New("no FAT16 or FAT32 with sectors of 512 bytes")
	}
	v.cluster, v.fat, v.fatLen = perCluster*sector, reserved*sector, fatLen*sector
	v.root, v.rootLen = v.fat+fats*v.fatLen, rootEntries*32
	v.data = v.root + (v.rootLen+sector-1)/sector*sector
	n := (total*sector - v.data) / v.cluster
	width := int64(2)
	if v.wide {
		width = 4
	}
	if n < 4085 && !v.wide || n <= 0 || n > 1<<28 || (n+2)*width > v.fatLen || !v.wide && n >= 65525 {
		return nil, fmt.Errorf("a FAT with %d clusters", n)
	}
	v.clusters = uint32(n)
	return v, nil
}

// entry is a file or a directory.
type entry struct {
	name  string
	short string
	dir   bool
	first uint32
	size  int64
}

// find gives where a file lies on the disk, in one piece; a file in several pieces is an error.
func (v *volume) find(path string) (span, error) {
	e, err := v.lookup(path)
	if err != nil {
		return span{}, fmt.Errorf("%s: %w", path, err)
	}
	if e.dir || e.size == 0 {
		return span{}, fmt.Errorf("%s: not a file with content", path)
	}
	c := e.first
	for have := v.cluster; ; have += v.cluster {
		if !v.holds(c) {
			return span{}, fmt.Errorf("%s: its chain is damaged", path)
		}
		next, err := v.next(c)
		if err != nil {
			return span{}, err
		}
		if have >= e.size {
			if v.holds(next) {
				return span{}, fmt.Errorf("%s: its chain is longer than the file", path)
			}
			return span{v.clusterAt(e.first), e.size}, nil
		}
		if next != c+1 {
			return span{}, fmt.Errorf("%s: it lies on the disk in several pieces", path)
		}
		c = next
	}
}

func (v *volume) holds(c uint32) bool { return c >= 2 && c-2 < v.clusters }

// clusterAt is where a cluster begins on the disk.
func (v *volume) clusterAt(c uint32) int64 { return v.base + v.data + int64(c-2)*v.cluster }

func (v *volume) next(c uint32) (uint32, error) {
	width := int64(2)
	if v.wide {
		width = 4
	}
	at := int64(c) * width
	if from := at / pieceBytes * pieceBytes; v.piece == nil || from != v.pieceAt {
		b := make([]byte, min(pieceBytes, v.fatLen-from))
		if err := readFull(v.disk, b, v.base+v.fat+from); err != nil {
			return 0, err
		}
		v.piece, v.pieceAt = b, from
	}
	b := v.piece[at-v.pieceAt:]
	if v.wide {
		return binary.LittleEndian.Uint32(b) & 0x0fffffff, nil
	}
	return uint32(binary.LittleEndian.Uint16(b)), nil
}

func (v *volume) lookup(path string) (entry, error) {
	v.piece = nil // for one search only: what lies on the medium counts
	e := entry{dir: true, first: v.rootAt}
	root := true
	for word := range strings.SplitSeq(path, "/") {
		if !e.dir {
			return entry{}, fs.ErrNotExist
		}
		raw, err := v.directory(e.first, root)
		if err != nil {
			return entry{}, err
		}
		found := false
		for _, x := range entries(raw) {
			if strings.EqualFold(x.name, word) || strings.EqualFold(x.short, word) {
				e, found = x, true
				break
			}
		}
		if !found {
			return entry{}, fs.ErrNotExist
		}
		root = false
	}
	return e, nil
}

// directory reads the bytes of a directory.
func (v *volume) directory(first uint32, root bool) ([]byte, error) {
	if root && !v.wide {
		b := make([]byte, v.rootLen)
		return b, readFull(v.disk, b, v.base+v.root)
	}
	var all []byte
	for c := first; v.holds(c); {
		b := make([]byte, v.cluster)
		if err := readFull(v.disk, b, v.clusterAt(c)); err != nil {
			return nil, err
		}
		if all = append(all, b...); len(all) > maxDirBytes {
			return nil, errors.New("a directory without end")
		}
		var err error
		if c, err = v.next(c); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// entries reads directory entries, with their long names.
func entries(raw []byte) (list []entry) {
	var long []uint16
	var sum byte
	for ; len(raw) >= 32 && raw[0] != 0; raw = raw[32:] {
		e, attr := raw[:32], raw[11]
		switch {
		case e[0] == 0xe5:
			long = nil
		case attr&0x3f == 0x0f:
			if e[0]&0x40 != 0 {
				long, sum = nil, e[13]
			}
			if part := longPart(e); e[13] == sum && len(long) < 256 {
				long = append(part, long...)
			}
		case attr&0x08 != 0: // the volume's label
			long = nil
		default:
			x := entry{short: shortName(e), dir: attr&0x10 != 0, size: int64(binary.LittleEndian.Uint32(e[28:])),
				first: uint32(binary.LittleEndian.Uint16(e[20:]))<<16 | uint32(binary.LittleEndian.Uint16(e[26:]))}
			x.name = x.short
			if len(long) > 0 && checksum(e) == sum {
				x.name = string(utf16.Decode(long))
			}
			list, long = append(list, x), nil
		}
	}
	return list
}

// longPart is the up to 13 characters of one long-name entry.
func longPart(e []byte) (part []uint16) {
	for _, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
		c := binary.LittleEndian.Uint16(e[at:])
		if c == 0 {
			break
		}
		part = append(part, c)
	}
	return part
}

func shortName(e []byte) string {
	name, ext := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if ext != "" {
		name += "." + ext
	}
	return name
}

// checksum ties a long name to its short one.
func checksum(e []byte) (sum byte) {
	for _, c := range e[:11] {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}
