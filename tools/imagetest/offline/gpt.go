// SPDX-License-Identifier: EUPL-1.2

package offline

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

const sector = 512

// Partition is a piece of the disk, in bytes.
type Partition struct{ Start, Size int64 }

// Disk is an image that no machine uses now.
type Disk struct {
	*os.File
	Size int64
}

// Open opens an image.
func Open(path string) (*Disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open disk: %w", err), f.Close())
	}
	return &Disk{f, st.Size()}, nil
}

// errNoTable says that a partition table is damaged or not there.
var errNoTable = errors.New("no valid partition table")

// Partitions reads the table at the start of the disk, or, where the kernel would do that too (backup), the one at its end. Partition n is at [n].
func (d *Disk) Partitions(backup bool) (map[int]Partition, error) {
	parts, err := readTable(d, d.Size, 1)
	if err != nil && backup {
		if again, err2 := readTable(d, d.Size, d.Size/sector-1); err2 == nil {
			return again, nil
		}
	}
	return parts, err
}

// readTable reads a GPT whose header is at the LBA; as the kernel does, it believes only one whose two checksums are right.
func readTable(r io.ReaderAt, size, lba int64) (map[int]Partition, error) {
	hdr := make([]byte, sector)
	if _, err := r.ReadAt(hdr, lba*sector); err != nil {
		return nil, fmt.Errorf("%w at LBA %d: %w", errNoTable, lba, err)
	}
	le := binary.LittleEndian
	length := le.Uint32(hdr[12:])
	if string(hdr[:8]) != "EFI PART" || length < 92 || length > sector {
		return nil, fmt.Errorf("%w at LBA %d: no header", errNoTable, lba)
	}
	sum := le.Uint32(hdr[16:])
	clear(hdr[16:20])
	if crc32.ChecksumIEEE(hdr[:length]) != sum || int64(le.Uint64(hdr[24:])) != lba {
		return nil, fmt.Errorf("%w at LBA %d: the header is damaged", errNoTable, lba)
	}
	at, n, each := le.Uint64(hdr[72:]), le.Uint32(hdr[80:]), le.Uint32(hdr[84:])
	if n > 1024 || each != 128 || at > uint64(size/sector) {
		return nil, fmt.Errorf("%w at LBA %d: %d entries of %d bytes at %d", errNoTable, lba, n, each, at)
	}
	table := make([]byte, n*each)
	if _, err := r.ReadAt(table, int64(at)*sector); err != nil {
		return nil, fmt.Errorf("%w at LBA %d: %w", errNoTable, lba, err)
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(hdr[88:]) {
		return nil, fmt.Errorf("%w at LBA %d: its entries do not fit its header", errNoTable, lba)
	}
	parts := map[int]Partition{}
	for i := range int(n) {
		e := table[i*128:]
		if [16]byte(e[:16]) == [16]byte{} {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first == 0 || last < first || last >= uint64(size/sector) {
			return nil, fmt.Errorf("%w at LBA %d: partition %d goes from %d to %d", errNoTable, lba, i+1, first, last)
		}
		parts[i+1] = Partition{int64(first) * sector, int64(last-first+1) * sector}
	}
	return parts, nil
}
