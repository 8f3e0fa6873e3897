// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"filippo.io/age"

	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// An index, integers as in a segment:
//
//	magic exporter(32) epoch(4) serial n { kind(1) reader(8) hash(32) size events }* length own, signature(64)
//
// own is for the exporter alone (age, JSON within): how far the logs are with each entry.
const (
	indexMagic   = "hallig courier index 1\n"
	indexContext = "hallig courier index 1\x00"

	maxIndex   = 4 << 20
	maxEntries = 8192
)

// entry is one segment in an index.
type entry struct {
	kind   byte
	reader peer.Brief
	hash   [32]byte
	size   int64
	events uint64
	covers []parcel.Vector // how far its reader is with it; known to the exporter only
}

func (e *entry) name(exporter peer.ID) string {
	return brief(exporter) + "-" + hex.EncodeToString(e.hash[:16]) + ".seg"
}

// index is what one box has put on a stick.
type index struct {
	epoch   uint32
	serial  uint64
	slot    int // where it stands
	entries []entry
	own     []byte // sealed
}

func brief(id peer.ID) string {
	b := id.Brief()
	return hex.EncodeToString(b[:])
}

func slotName(id peer.ID, slot int) string {
	return brief(id) + "-" + string("ab"[slot&1]) + ".idx"
}

// seal makes the file of an index.
func (x *index) seal(key ed25519.PrivateKey) ([]byte, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("seal index: no box key")
	}
	covers := make([][]parcel.Vector, len(x.entries))
	for i, e := range x.entries {
		covers[i] = e.covers
	}
	plain, err := json.Marshal(covers)
	if err != nil {
		return nil, fmt.Errorf("seal index: %w", err)
	}
	own, err := encrypt(plain, public)
	if err != nil {
		return nil, err
	}
	b := append([]byte(indexMagic), public...)
	b = binary.BigEndian.AppendUint32(b, x.epoch)
	b = binary.AppendUvarint(binary.AppendUvarint(b, x.serial), uint64(len(x.entries)))
	for _, e := range x.entries {
		b = append(append(append(b, e.kind), e.reader[:]...), e.hash[:]...)
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(e.size)), e.events)
	}
	b = append(binary.AppendUvarint(b, uint64(len(own))), own...)
	return append(b, ed25519.Sign(key, append([]byte(indexContext), b...))...), nil
}

// parseIndex reads an index that is said to be a box's.
func parseIndex(b []byte, from peer.ID) (*index, error) {
	key, err := from.Key()
	if err != nil {
		return nil, errMalformed
	}
	cut := len(b) - ed25519.SignatureSize
	r := reader{b: b[:max(cut, 0)]}
	if string(r.take(len(indexMagic))) != indexMagic {
		return nil, errMalformed
	}
	if id := peer.IDOf(r.take(32)); r.bad || id != from || !ed25519.Verify(key, append([]byte(indexContext), b[:cut]...), b[cut:]) {
		return nil, errForged
	}
	x := &index{epoch: r.uint32(), serial: r.uvarint()}
	n := r.uvarint()
	if n > maxEntries {
		return nil, errMalformed
	}
	for range n {
		e := entry{kind: r.byte()}
		copy(e.reader[:], r.take(8))
		copy(e.hash[:], r.take(32))
		e.size, e.events = int64(min(r.uvarint(), 1<<40)), r.uvarint()
		if r.bad {
			return nil, errMalformed
		}
		x.entries = append(x.entries, e)
	}
	x.own = r.block()
	if r.bad || len(r.b) > 0 {
		return nil, errMalformed
	}
	return x, nil
}

// open reads what only the exporter can.
func (x *index) open(id age.Identity) error {
	plain, err := decrypt(x.own, id)
	if err != nil {
		return fmt.Errorf("open own index: %w", err)
	}
	var covers [][]parcel.Vector
	if err := json.Unmarshal(plain, &covers); err != nil || len(covers) != len(x.entries) {
		return errors.Join(errMalformed, err)
	}
	for i := range x.entries {
		x.entries[i].covers = covers[i]
	}
	return nil
}

// readIndex gives the index of a box that is in force on a stick; nil when there is none. bad is told of each that is none.
func readIndex(d Disk, id peer.ID, bad func(name string, err error)) *index {
	var best *index
	for slot := range 2 {
		name := slotName(id, slot)
		raw, err := d.Read(name, -1, maxIndex)
		if err != nil {
			if !isAbsent(err) {
				bad(name, err)
			}
			continue
		}
		x, err := parseIndex(raw, id)
		if err != nil {
			bad(name, err)
			continue
		}
		x.slot = slot
		if best == nil || x.serial > best.serial {
			best = x
		}
	}
	return best
}

// readSegment gives the file of an entry, if it is what the index says.
func readSegment(d Disk, exporter peer.ID, e *entry) ([]byte, error) {
	if e.size > maxSegment {
		return nil, errSize
	}
	raw, err := d.Read(e.name(exporter), e.size, maxSegment)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(raw) != e.hash {
		return nil, errChanged
	}
	return raw, nil
}

var errChanged = errors.New("it was changed since it was written")
