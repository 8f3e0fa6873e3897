// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// span is a piece of the disk, in bytes.
type span struct{ at, size int64 }

func (s span) overlaps(o span) bool { return s.at < o.at+o.size && o.at < s.at+s.size }

// readGPT finds the partitions by number, from 1. Where the table at the start is damaged it takes the one at the end.
func readGPT(disk io.ReaderAt, size int64) (map[int]span, error) {
	parts, err := readTable(disk, size, SectorSize)
	if err != nil {
		var again error
		if parts, again = readTable(disk, size, size/SectorSize*SectorSize-SectorSize); again != nil {
			return nil, fmt.Errorf("read partition table: %w", err)
		}
	}
	return parts, nil
}

func readTable(disk io.ReaderAt, size, at int64) (map[int]span, error) {
	if size < 128*SectorSize {
		return nil, errors.New("the disk is too small")
	}
	hdr := make([]byte, SectorSize)
	if err := readFull(disk, hdr, at); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if string(hdr[:8]) != "EFI PART" {
		return nil, errors.New("no GPT")
	}
	want := le.Uint32(hdr[16:])
	clear(hdr[16:20])
	if crc32.ChecksumIEEE(hdr[:92]) != want {
		return nil, errors.New("the GPT's header is damaged")
	}
	first, count, each := le.Uint64(hdr[72:]), le.Uint32(hdr[80:]), le.Uint32(hdr[84:])
	if count == 0 || count > 128 || each != 128 || first > uint64(size/SectorSize) {
		return nil, fmt.Errorf("an unexpected GPT: %d entries of %d bytes at %d", count, each, first)
	}
	table := make([]byte, count*each)
	if err := readFull(disk, table, int64(first)*SectorSize); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(hdr[88:]) {
		return nil, errors.New("the GPT's table is damaged")
	}
	parts := make(map[int]span)
	for i := range int(count) {
		e := table[i*128:]
		from, to := le.Uint64(e[32:]), le.Uint64(e[40:])
		if [16]byte(e[:16]) == [16]byte{} {
			continue
		}
		if from == 0 || to < from || to >= uint64(size/SectorSize) {
			return nil, fmt.Errorf("partition %d lies outside the disk", i+1)
		}
		parts[i+1] = span{int64(from) * SectorSize, int64(to-from+1) * SectorSize}
	}
	for i, p := range parts {
		for j, q := range parts {
			if i < j && p.overlaps(q) {
				return nil, fmt.Errorf("partitions %d and %d overlap", i, j)
			}
		}
	}
	return parts, nil
}
