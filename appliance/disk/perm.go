// SPDX-License-Identifier: EUPL-1.2

package disk

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// seed is an empty ext4 of 64 MiB that can grow to 1 TiB; seed.sh makes it.
//
//go:generate ./seed.sh
//go:embed seed.ext4.gz
var seed []byte

// SeedSize is what the partition of /perm must hold at least.
const SeedSize = 64 * mib

// What may stand in the first sector of the partition of /perm.
const (
	// Fresh is written by the builder of the image: nobody has used this partition. A partition whose first MiB is zero counts as fresh, too.
	Fresh = "HALLIG-FRESH\n"
	// erasing stands there from the begin of an erasure until the new file system is complete.
	erasing = "HALLIG-ERASE\n"
	// vault is the magic of an encrypted partition; appliance/vault makes and opens it.
	vault = "HALLIGV1"
)

// Content is what the partition of /perm holds.
type Content int

const (
	Empty   Content = iota // nobody's yet
	Ext4                   // a file system
	Vault                  // an encrypted one
	Erasing                // a factory reset was begun and is not finished
	Foreign                // something that nobody here made; never touched
)

func (c Content) String() string {
	return [...]string{"empty", "ext4", "vault", "erasing", "foreign"}[c]
}

// The superblock of ext4: https://docs.kernel.org/filesystems/ext4/super.html
const (
	superAt     = 1024
	superMagic  = 0x38
	superUUID   = 0x68
	superHash   = 0xec
	superSum    = 0x3fc
	superLength = 1024
)

// Look says what a partition holds.
func Look(part io.ReaderAt) (Content, error) {
	head := make([]byte, mib)
	if _, err := part.ReadAt(head, 0); err != nil {
		return Foreign, fmt.Errorf("read /perm's partition: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte(erasing)):
		return Erasing, nil
	case bytes.HasPrefix(head, []byte(vault)):
		return Vault, nil
	case binary.LittleEndian.Uint16(head[superAt+superMagic:]) == 0xef53:
		return Ext4, nil
	case bytes.HasPrefix(head, []byte(Fresh)), len(bytes.TrimLeft(head, "\x00")) == 0:
		return Empty, nil
	}
	return Foreign, nil
}

// Make writes an empty ext4 with a UUID of its own. A power cut at any moment leaves what was there before in force, so that the next start makes it
// again: the one sector with the superblock's magic goes last, and only then the mark of the first sector goes away.
func Make(part Disk) error {
	zr, err := gzip.NewReader(bytes.NewReader(seed))
	if err != nil {
		return fmt.Errorf("read seed of /perm: %w", err)
	}
	head := make([]byte, mib)
	if _, err := io.ReadFull(zr, head); err != nil {
		return fmt.Errorf("read seed of /perm: %w", err)
	}
	if err := individual(head[superAt : superAt+superLength]); err != nil {
		return err
	}
	buf := make([]byte, mib)
	for at := int64(mib); ; at += mib {
		n, err := io.ReadFull(zr, buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read seed of /perm: %w", err)
		}
		if _, err := part.WriteAt(buf[:n], at); err != nil {
			return fmt.Errorf("make /perm: %w", err)
		}
	}
	magic := head[superAt : superAt+sector]
	for _, w := range []struct {
		b  []byte
		at int64
	}{
		{make([]byte, sector), superAt}, // an older file system ends here
		{head[superAt+sector:], superAt + sector},
		{magic, superAt},
		{head[:superAt], 0},
	} {
		if err := part.Sync(); err != nil {
			return fmt.Errorf("make /perm: %w", err)
		}
		if _, err := part.WriteAt(w.b, w.at); err != nil {
			return fmt.Errorf("make /perm: %w", err)
		}
	}
	if err := part.Sync(); err != nil {
		return fmt.Errorf("make /perm: %w", err)
	}
	return nil
}

// individual gives a superblock of the seed its own UUID and its own key for the hashes of directories. The seed's other sums do not hang on
// either (metadata_csum_seed).
func individual(super []byte) error {
	for _, at := range []int{superUUID, superHash} {
		if _, err := rand.Read(super[at : at+16]); err != nil {
			return fmt.Errorf("make /perm: %w", err)
		}
		super[at+6] = super[at+6]&0x0f | 0x40 // a random UUID, RFC 9562 version 4
		super[at+8] = super[at+8]&0x3f | 0x80
	}
	// The kernel's crc32c begins with all ones and is not inverted at its end.
	binary.LittleEndian.PutUint32(super[superSum:], ^crc32.Checksum(super[:superSum], crc32.MakeTable(crc32.Castagnoli)))
	return nil
}

// Renew ends an erasure: the partition is nobody's again, as in a fresh image, so that the next start decides anew whether it is encrypted. note is a
// word for that start, which Noted gives.
func Renew(part Disk, note string) error {
	first := make([]byte, sector)
	if len(Fresh)+len(note)+1 > len(first) || bytes.ContainsAny([]byte(note), "\n\x00") {
		return errors.New("renew /perm: the note is no word of one line")
	}
	copy(first, Fresh+note+"\n")
	if _, err := part.WriteAt(first, 0); err != nil {
		return fmt.Errorf("renew /perm: %w", err)
	}
	if err := part.Sync(); err != nil {
		return fmt.Errorf("renew /perm: %w", err)
	}
	return nil
}

// Noted gives the note of Renew; "" when there is none.
func Noted(part io.ReaderAt) string {
	first := make([]byte, sector)
	if _, err := part.ReadAt(first, 0); err != nil {
		return ""
	}
	rest, ok := bytes.CutPrefix(first, []byte(Fresh))
	note, _, ended := bytes.Cut(rest, []byte{'\n'})
	if !ok || !ended {
		return ""
	}
	return string(note)
}

// Erase overwrites all of a partition, and goes on where an erasure that was cut off had come to. Renew or Make comes after it; until
// that is complete, Look says Erasing. progress is told the share that is done; it may be nil. discard, where the medium has one, is asked to forget
// the whole partition first.
//
// What flash memory keeps in blocks that it no longer shows cannot be reached from here.
func Erase(part Disk, size int64, discard func() error, progress func(done float64)) error {
	mark := make([]byte, sector)
	if _, err := part.ReadAt(mark, 0); err != nil {
		return fmt.Errorf("erase /perm: %w", err)
	}
	var from int64 = mib
	if bytes.HasPrefix(mark, []byte(erasing)) {
		if at := int64(binary.LittleEndian.Uint64(mark[16:])); at%mib == 0 && at >= mib && at <= size {
			from = at
		}
	}
	note := func(at int64) error {
		m := make([]byte, sector)
		copy(m, erasing)
		binary.LittleEndian.PutUint64(m[16:], uint64(at))
		if _, err := part.WriteAt(m, 0); err != nil {
			return fmt.Errorf("erase /perm: %w", err)
		}
		if err := part.Sync(); err != nil {
			return fmt.Errorf("erase /perm: %w", err)
		}
		return nil
	}
	if err := note(from); err != nil {
		return err
	}
	// The first MiB holds the superblock, or the keys of a vault: without it the rest is hard to read already.
	if _, err := part.WriteAt(make([]byte, mib-sector), sector); err != nil {
		return fmt.Errorf("erase /perm: %w", err)
	}
	if err := part.Sync(); err != nil {
		return fmt.Errorf("erase /perm: %w", err)
	}
	if discard != nil && from == mib {
		if err := discard(); err == nil { // it takes the mark along
			if err := note(from); err != nil {
				return err
			}
		}
	}
	// Reading is faster than writing on all flash: what is zero already stays.
	buf, zero := make([]byte, mib), make([]byte, mib)
	for at := from; at < size; at += mib {
		n := min(mib, size-at)
		if _, err := part.ReadAt(buf[:n], at); err != nil || !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := part.WriteAt(zero[:n], at); err != nil {
				return fmt.Errorf("erase /perm at %d MiB: %w", at/mib, err)
			}
		}
		if at/mib%256 == 0 {
			if err := part.Sync(); err != nil {
				return fmt.Errorf("erase /perm: %w", err)
			}
			if err := note(at); err != nil {
				return err
			}
			if progress != nil {
				progress(float64(at) / float64(size))
			}
		}
	}
	if err := part.Sync(); err != nil {
		return fmt.Errorf("erase /perm: %w", err)
	}
	return note(size / mib * mib)
}
