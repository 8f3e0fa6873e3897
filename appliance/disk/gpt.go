// SPDX-License-Identifier: EUPL-1.2

package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	sector  = 512
	entries = 128 // of a table, as gok and every common tool make it
	entry   = 128 // bytes of each
	mib     = 1 << 20
)

// Extent is a piece of a disk, in bytes.
type Extent struct{ Start, Size int64 }

// Table is a GUID partition table as it was read: the header that counts and its entries.
type Table struct {
	header []byte // one sector
	ents   []byte // entries * entry bytes
}

// ReadTable reads the GUID partition table at the start of a disk and checks both sums. The kernel reads the same one, so what is
// damaged here is not what the machine was started from.
func ReadTable(r io.ReaderAt) (*Table, error) {
	t := &Table{header: make([]byte, sector), ents: make([]byte, entries*entry)}
	if _, err := r.ReadAt(t.header, sector); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	le := binary.LittleEndian
	if string(t.header[:8]) != "EFI PART" {
		return nil, errors.New("the disk has no GPT")
	}
	if n, size := le.Uint32(t.header[80:]), le.Uint32(t.header[84:]); n != entries || size != entry {
		return nil, fmt.Errorf("the GPT has %d entries of %d bytes; an image of ours has %d of %d", n, size, entries, entry)
	}
	if headerSum(t.header) != le.Uint32(t.header[16:]) {
		return nil, errors.New("the GPT's header does not fit its sum")
	}
	at := le.Uint64(t.header[72:])
	if at < 2 || at > 1<<40 {
		return nil, fmt.Errorf("the GPT's entries are said to be at sector %d", at)
	}
	if _, err := r.ReadAt(t.ents, int64(at)*sector); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	if crc32.ChecksumIEEE(t.ents) != le.Uint32(t.header[88:]) {
		return nil, errors.New("the GPT's entries do not fit their sum")
	}
	return t, nil
}

// headerSum is the sum of a header, whose own field counts as zero.
func headerSum(h []byte) uint32 {
	c := append([]byte(nil), h[:92]...)
	clear(c[16:20])
	return crc32.ChecksumIEEE(c)
}

// sectors gives first and last sector of partition n, from 1; false when there is none.
func (t *Table) sectors(n int) (first, last uint64, ok bool) {
	if n < 1 || n > entries {
		return 0, 0, false
	}
	e := t.ents[(n-1)*entry : n*entry]
	first, last = binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
	if [16]byte(e[:16]) == [16]byte{} || first == 0 || last < first || last > 1<<50 {
		return 0, 0, false
	}
	return first, last, true
}

// Part is where partition n lies, from 1.
func (t *Table) Part(n int) (Extent, bool) {
	first, last, ok := t.sectors(n)
	if !ok {
		return Extent{}, false
	}
	return Extent{int64(first) * sector, int64(last-first+1) * sector}, true
}

// Disk is what the table is written to: a block device, or a file in tests.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Grow makes partition n end where a disk of size bytes ends (whole MiB) and says where it lies then. It must be the last one.
//
// A power cut may come at any moment. New entries are therefore written where the table in force does not look (behind it, or before it when it
// was moved by an earlier growth), and one write of one sector, the header at the start, puts them in force. Before that write the old table counts
// and is whole; afterwards the new one. Linux without "gpt" on its command line looks at no other table than the one this header names.
func (t *Table) Grow(d Disk, size int64, n int) (Extent, bool, error) {
	first, last, ok := t.sectors(n)
	if !ok {
		return Extent{}, false, fmt.Errorf("the disk has no partition %d", n)
	}
	lowest := first
	for i := 1; i <= entries; i++ {
		f, l, ok := t.sectors(i)
		if i != n && ok && l >= first {
			return Extent{}, false, fmt.Errorf("partition %d lies behind partition %d, so that it cannot grow", i, n)
		}
		if ok {
			lowest = min(lowest, f)
		}
	}
	end := uint64(size/sector) - 1
	want := (end-33+1)/(mib/sector)*(mib/sector) - 1
	if uint64(size/sector) < first+2*mib/sector || want <= last {
		here, _ := t.Part(n)
		return here, false, nil
	}
	const tableSectors = entries * entry / sector
	le := binary.LittleEndian
	place := uint64(2)
	if le.Uint64(t.header[72:]) < 2+tableSectors {
		place = 2 + tableSectors
	}
	if lowest < 2+2*tableSectors {
		return Extent{}, false, fmt.Errorf("the first partition begins at sector %d, which leaves no room for a second table", lowest)
	}
	ents := append([]byte(nil), t.ents...)
	le.PutUint64(ents[(n-1)*entry+40:], want)
	header := func(here, other, at uint64) []byte {
		h := append([]byte(nil), t.header...)
		le.PutUint64(h[24:], here)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[40:], 2+2*tableSectors) // first usable sector
		le.PutUint64(h[48:], end-33)           // last usable sector
		le.PutUint64(h[72:], at)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(ents))
		le.PutUint32(h[16:], headerSum(h))
		return h
	}
	primary := header(1, end, place)
	for _, w := range []struct {
		what string
		b    []byte
		at   uint64
	}{
		{"entries at the end", ents, end - 32},
		{"header at the end", header(end, 1, end-32), end},
		{"entries at the start", ents, place},
		{"header at the start", primary, 1},
	} {
		if _, err := d.WriteAt(w.b, int64(w.at)*sector); err != nil {
			return Extent{}, false, fmt.Errorf("write partition table, %s: %w", w.what, err)
		}
		if err := d.Sync(); err != nil {
			return Extent{}, false, fmt.Errorf("write partition table, %s: %w", w.what, err)
		}
	}
	t.header, t.ents = primary, ents
	here, _ := t.Part(n)
	return here, true, nil
}
