// SPDX-License-Identifier: EUPL-1.2

// Package update changes the system of an image without fear: it makes and checks signed update files, writes one into the slot that does
// not run, tries it and switches by one sector. It knows the layout of the disk (layout.go) and nothing of how a box is supervised: cmd/init calls it.
//
// It promises: nothing unsigned is written; nothing is decided on bytes that were not read back; the slot that the firmware boots is never
// written to; the FAT's own tables are never written to, only the sectors of files that were laid out for it; after a power cut at any
// write the firmware finds a whole slot. It leaves to others when to update, what healthy means, and the database (package wayback).
//
// The file, suffix .hallig-update, numbers little-endian:
//
//	"hallig-update 1\n"
//	u32 n, then n bytes: the manifest, JSON. What is signed is the 16 bytes of the magic and these bytes
//	u32 n, then n bytes: the signatures, JSON: [{"key":"BASE64 of the public key","sig":"BASE64"}]
//	for each part, in the manifest's order, for each MiB of it (the last may be shorter):
//	    u32 n; with the highest bit set n bytes as they are, otherwise n bytes of one zstd frame
//	64 bytes: the SHA-512 of everything before
//
// Everything up to the parts is the head. A slot keeps the head of what is in it, so that a box can check its slots and hand the file on
// to another box from the slot's own bytes.
package update

import (
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

const (
	magic = "hallig-update 1\n"
	// BlockSize is how much of a part is hashed, packed and written at a time.
	BlockSize = 1 << 20
	// MaxHead bounds manifest and signatures, and is the size of a slot's file that keeps them.
	MaxHead = 128 << 10
	// MaxPart bounds one part.
	MaxPart = 1 << 30
	// MaxParts bounds how many there are.
	MaxParts = 128
	hashSize = sha512.Size
)

// Product is what a manifest's product field must say.
const Product = "hallig"

// RootPart is the name of the part that goes into the slot's root partition.
const RootPart = "root"

// Slot is one of the two systems on a disk.
type Slot byte

// The slots.
const (
	NoSlot Slot = 0
	SlotA  Slot = 'a'
	SlotB  Slot = 'b'
)

// Other gives the slot beside this one.
func (s Slot) Other() Slot {
	switch s {
	case SlotA:
		return SlotB
	case SlotB:
		return SlotA
	}
	return NoSlot
}

func (s Slot) String() string {
	if s == NoSlot {
		return ""
	}
	return string(rune(s))
}

// MarshalText and UnmarshalText let a slot stand in JSON as "a" or "b".
func (s Slot) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s *Slot) UnmarshalText(text []byte) error {
	switch string(text) {
	case "":
		*s = NoSlot
	case "a", "b":
		*s = Slot(text[0])
	default:
		return fmt.Errorf("%q is no slot", text)
	}
	return nil
}

// Manifest says what an update file holds. It is what is signed.
type Manifest struct {
	Product string `json:"product"`
	Board   string `json:"board"`   // amd64, arm64, rpi
	Version string `json:"version"` // for people
	Release int64  `json:"release"` // rises with each release; an older one is refused
	Schema  int64  `json:"schema"`  // of the database that this release keeps
	Commit  string `json:"commit,omitempty"`
	// Security says that the release mends a weakness and changes nothing else.
	Security bool `json:"security,omitempty"`
	// De and En say to people in a sentence or two what is new.
	De    string `json:"de,omitempty"`
	En    string `json:"en,omitempty"`
	Parts []Part `json:"parts"`
}

// Part is one file or partition of a slot. On the disk it is followed by zeros up to the place's size.
type Part struct {
	// File is "root", or a path on the boot file system with {slot} in it: "vmlinuz-{slot}".
	File string `json:"file"`
	// Slot says that the part is for this slot only; NoSlot: for both.
	Slot   Slot   `json:"slot,omitempty"`
	Size   int64  `json:"size"`
	SHA512 string `json:"sha512"` // of the whole part, hexadecimal
	Blocks []byte `json:"blocks"` // SHA-512 of each MiB, one after the other
}

// At is where the part goes in a slot: RootPart, or a path on the boot file system.
func (p Part) At(s Slot) string { return strings.Replace(p.File, "{slot}", s.String(), 1) }

func (p Part) blocks() int64 { return (p.Size + BlockSize - 1) / BlockSize }

func (p Part) blockLen(i int64) int64 { return min(BlockSize, p.Size-i*BlockSize) }

func (p Part) blockSum(i int64) []byte { return p.Blocks[i*hashSize : (i+1)*hashSize] }

// For lists the parts of one slot.
func (m Manifest) For(s Slot) (parts []Part) {
	for _, p := range m.Parts {
		if p.Slot == NoSlot || p.Slot == s {
			parts = append(parts, p)
		}
	}
	return parts
}

// Size is how many bytes the parts have, unpacked.
func (m Manifest) Size() (n int64) {
	for _, p := range m.Parts {
		n += p.Size
	}
	return n
}

var partPath = regexp.MustCompile(`^[A-Za-z0-9._{}-]+(/[A-Za-z0-9._{}-]+){0,4}$`)

// check holds a manifest against the bounds that the rest of the package relies on.
func (m Manifest) check() error {
	switch {
	case m.Product != Product:
		return fmt.Errorf("it is for %.40q", m.Product)
	case m.Board == "" || len(m.Board) > 20 || m.Version == "" || len(m.Version) > 80 || len(m.De) > 4000 || len(m.En) > 4000 || len(m.Commit) > 100:
		return fmt.Errorf("board, version or words are missing or too long")
	case m.Release <= 0 || m.Schema < 0:
		return fmt.Errorf("release %d, schema %d", m.Release, m.Schema)
	case len(m.Parts) == 0 || len(m.Parts) > MaxParts:
		return fmt.Errorf("%d parts", len(m.Parts))
	}
	seen := make(map[string]bool)
	for _, p := range m.Parts {
		if err := p.check(); err != nil {
			return fmt.Errorf("part %.60q: %w", p.File, err)
		}
		for _, s := range []Slot{SlotA, SlotB} {
			if p.Slot != NoSlot && p.Slot != s {
				continue
			}
			name := s.String() + " " + strings.ToLower(p.At(s))
			if seen[name] {
				return fmt.Errorf("part %q is there twice", p.File)
			}
			seen[name] = true
		}
	}
	if !seen["a "+RootPart] || !seen["b "+RootPart] {
		return fmt.Errorf("no root")
	}
	return nil
}

func (p Part) check() error {
	sum, err := hex.DecodeString(p.SHA512)
	switch {
	case p.Slot != NoSlot && p.Slot != SlotA && p.Slot != SlotB:
		return fmt.Errorf("slot %q", p.Slot)
	case p.File == RootPart && p.Slot != NoSlot:
		return fmt.Errorf("the root is for both slots")
	case p.File != RootPart && (len(p.File) > 100 || !partPath.MatchString(p.File) || strings.Count(p.File, "{slot}") != 1 || strings.ContainsAny(strings.Replace(p.File, "{slot}", "", 1), "{}")):
		return fmt.Errorf("not a path with {slot} in it")
	case p.Size <= 0 || p.Size > MaxPart:
		return fmt.Errorf("%d bytes", p.Size)
	case err != nil || len(sum) != hashSize || int64(len(p.Blocks)) != p.blocks()*hashSize:
		return fmt.Errorf("its hashes do not fit its size")
	}
	return nil
}

// Refusal is why an update is not done, or what went wrong with it, as a sentence for people that says what to do.
type Refusal struct {
	De string `json:"de"`
	En string `json:"en"`
}

func (r *Refusal) Error() string { return r.En }

func refuse(de, en string) *Refusal { return &Refusal{De: de, En: en} }
