// SPDX-License-Identifier: EUPL-1.2

// Package blocklog reads the record that QEMU's blklogwrites driver makes of every write to a disk, and builds the disks that a power cut
// at some moment could have left behind.
//
// The record is in the format of Linux's dm-log-writes, all numbers little-endian:
//
//	sector 0   magic "jsvsghj" as a number, version 1, number of entries (8 bytes each), size of a sector (4 bytes)
//	then, for each entry, a sector that begins with: disk sector, number of sectors, flags, length of data (8 bytes each),
//	followed by the data, unless the entry is a flush or a discard
//
// What a disk may hold after a power cut: everything written before the last flush that it answered. Of what was written later it may hold any part,
// in whole sectors of 512 bytes. Cut picks such a disk.
package blocklog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
)

// Flags of an entry.
const (
	Flush   = 1 << 0 // all entries before are durable
	FUA     = 1 << 1 // durable itself
	Discard = 1 << 2 // the sectors are not needed any more; no data
	Mark    = 1 << 3 // a note; QEMU writes none
)

const (
	magic   = 0x6a736677736872
	version = 1
	known   = Flush | FUA | Discard | Mark
)

// Tear is the piece of a disk that is written whole or not at all.
const Tear = 512

// Entry is one write, flush or discard.
type Entry struct {
	Disk   int64 // byte offset on the disk
	Size   int64 // bytes on the disk
	Flags  uint64
	offset int64 // of the data in the record
	length int64 // of the data
}

// Record is a record that is written no more.
type Record struct {
	Entries []Entry
	data    io.ReaderAt
}

// ErrNoRecord says that the bytes are no record.
var ErrNoRecord = errors.New("not a record of block writes (dm-log-writes)")

type super struct {
	entries uint64
	sector  int64
}

func readSuper(r io.ReaderAt) (super, error) {
	var b [28]byte
	if _, err := r.ReadAt(b[:], 0); err != nil {
		return super{}, fmt.Errorf("%w: %w", ErrNoRecord, err)
	}
	le := binary.LittleEndian
	s := super{entries: le.Uint64(b[16:]), sector: int64(le.Uint32(b[24:]))}
	if le.Uint64(b[:]) != magic || le.Uint64(b[8:]) != version {
		return s, ErrNoRecord
	}
	if s.sector < 512 || s.sector > 1<<16 || s.sector&(s.sector-1) != 0 {
		return s, fmt.Errorf("%w: sectors of %d bytes", ErrNoRecord, s.sector)
	}
	return s, nil
}

// Length says how many entries a record has that is still being written. What a machine has told the world before this call is within them.
func Length(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("read record: %w", err)
	}
	defer f.Close()
	s, err := readSuper(f)
	return int(s.entries), err
}

// Read reads the entries of a record of size bytes. The data stays where it is and is read when a disk is built.
func Read(r io.ReaderAt, size int64) (*Record, error) {
	s, err := readSuper(r)
	if err != nil {
		return nil, err
	}
	if s.entries > uint64(size/s.sector) {
		return nil, fmt.Errorf("%w: %d entries do not fit into %d bytes", ErrNoRecord, s.entries, size)
	}
	rec := &Record{data: r}
	at := s.sector
	for i := range s.entries {
		var b [32]byte
		if _, err := r.ReadAt(b[:], at); err != nil {
			return nil, fmt.Errorf("read entry %d of the record: %w", i, err)
		}
		at += s.sector
		le := binary.LittleEndian
		sector, count, flags, length := le.Uint64(b[:]), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])
		// QEMU and the kernel count in sectors of the record; a disk of 2^50 bytes is enough for everybody
		limit := uint64(1<<50) / uint64(s.sector)
		if sector > limit || count > limit || flags&^known != 0 {
			return nil, fmt.Errorf("%w: entry %d makes no sense (sector %d, %d sectors, flags %#x)", ErrNoRecord, i, sector, count, flags)
		}
		e := Entry{Disk: int64(sector) * s.sector, Size: int64(count) * s.sector, Flags: flags, offset: at}
		if flags&(Discard|Mark) == 0 {
			e.length = e.Size
		} else if flags&Mark != 0 && length <= uint64(size) {
			e.length = int64(length)
		}
		if e.length > size-at {
			return nil, fmt.Errorf("%w: entry %d has %d bytes, the record ends before", ErrNoRecord, i, e.length)
		}
		at += (e.length + s.sector - 1) / s.sector * s.sector
		rec.Entries = append(rec.Entries, e)
	}
	return rec, nil
}

// Open reads a record from a file. Close it when no disk will be built any more.
func Open(path string) (*Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open record: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open record: %w", err), f.Close())
	}
	r, err := Read(f, st.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("record %s: %w", path, err), f.Close())
	}
	return r, nil
}

// Close closes the file of a record that Open opened.
func (r *Record) Close() error {
	if c, ok := r.data.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Flushes counts them.
func (r *Record) Flushes() (n int) {
	for _, e := range r.Entries {
		if e.Flags&Flush != 0 {
			n++
		}
	}
	return n
}

// Written is how many bytes were written.
func (r *Record) Written() (n int64) {
	for _, e := range r.Entries {
		if e.Flags&Discard == 0 {
			n += e.length
		}
	}
	return n
}

// Disk is what is written to: a file of the size of the disk.
type Disk interface {
	io.WriterAt
}

// Apply writes the entries from..to (to excluded) to the disk, in order and whole.
func (r *Record) Apply(d Disk, from, to int) error {
	for _, e := range r.Entries[from:to] {
		if err := r.write(d, e, nil); err != nil {
			return err
		}
	}
	return nil
}

// write puts an entry on the disk; keep says which of its pieces of Tear bytes arrive (nil: all).
func (r *Record) write(d Disk, e Entry, keep func(piece int64) bool) error {
	if e.Flags&(Discard|Mark) != 0 || e.length == 0 {
		return nil // a discarded sector may keep what it had; that is the worst a reader can meet, so it keeps it
	}
	buf := make([]byte, min(e.length, 1<<20))
	for at := int64(0); at < e.length; at += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), e.length-at)]
		if _, err := r.data.ReadAt(b, e.offset+at); err != nil {
			return fmt.Errorf("read data of the record: %w", err)
		}
		for p := int64(0); p < int64(len(b)); {
			if keep == nil {
				if _, err := d.WriteAt(b, e.Disk+at); err != nil {
					return fmt.Errorf("build disk: %w", err)
				}
				break
			}
			piece := b[p:min(p+Tear, int64(len(b)))]
			if keep((at + p) / Tear) {
				if _, err := d.WriteAt(piece, e.Disk+at+p); err != nil {
					return fmt.Errorf("build disk: %w", err)
				}
			}
			p += Tear
		}
	}
	return nil
}

// A Cut is a moment at which the power fails, and what of the unflushed writes has reached the disk.
type Cut struct {
	Durable int    // entries 0..Durable (excluded) are on the disk for certain
	Issued  int    // the machine has issued the entries up to here (excluded) when the power fails
	Way     string // "none", "all", "some writes", "some sectors"
	Seed    uint64
}

func (c Cut) String() string {
	return fmt.Sprintf("cut after flush at entry %d, issued up to %d, of these %s (seed %d)", c.Durable, c.Issued, c.Way, c.Seed)
}

var ways = []string{"some sectors", "some writes", "some sectors", "some writes", "none", "all"}

// Cut chooses a moment at or after entry from: a random flush, and a random number of the writes until the next one. The same seed chooses the same.
func (r *Record) Cut(seed uint64, from int) Cut {
	rng := rand.New(rand.NewPCG(seed, 0x706f77657263))
	durable := []int{from}
	for i, e := range r.Entries {
		if e.Flags&Flush != 0 && i+1 > from {
			durable = append(durable, i+1)
		}
	}
	c := Cut{Durable: durable[rng.IntN(len(durable))], Seed: seed}
	next := len(r.Entries)
	if i := slices.IndexFunc(r.Entries[c.Durable:], func(e Entry) bool { return e.Flags&Flush != 0 }); i >= 0 {
		next = c.Durable + i
	}
	c.Issued = c.Durable + rng.IntN(next-c.Durable+1)
	c.Way = ways[rng.IntN(len(ways))]
	return c
}

// Around gives moments around each entry that touches the bytes from..to of the disk, between entries first and last: it has not arrived, it has, and
// it is torn in three ways, each time with all that was flushed before it and none of the other unflushed writes certain.
func (r *Record) Around(from, to int64, first, last int, seed uint64) (cuts []Cut) {
	durable := first
	for i := first; i < last; i++ {
		e := r.Entries[i]
		if e.Flags&Flush != 0 {
			durable = i + 1
		}
		if e.length == 0 || e.Disk >= to || e.Disk+e.Size <= from {
			continue
		}
		for k, way := range []string{"none", "all", "some sectors", "some sectors", "some sectors"} {
			cuts = append(cuts, Cut{Durable: durable, Issued: i + 1, Way: way, Seed: seed + uint64(i*5+k)})
		}
	}
	return cuts
}

// Finish writes what of the cut's unflushed writes has arrived to a disk that has all durable ones.
func (r *Record) Finish(d Disk, c Cut) error {
	rng := rand.New(rand.NewPCG(c.Seed, 0x746f726e))
	for _, e := range r.Entries[c.Durable:c.Issued] {
		var keep func(int64) bool
		switch {
		case e.Flags&FUA != 0 || c.Way == "all":
		case c.Way == "none":
			continue
		case c.Way == "some writes":
			if rng.IntN(2) == 0 {
				continue
			}
		default:
			share := rng.Float64()
			keep = func(int64) bool { return rng.Float64() < share }
		}
		if err := r.write(d, e, keep); err != nil {
			return err
		}
	}
	return nil
}
