// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// This file is what a box carries for others (sync/relay): parcels that only their reader can open. A stick brings them to their reader even if that has never
// heard of the box that filled it, and copies to paired boxes that may meet the reader sooner. A copy on a stick ends nothing: who carries it goes on
// answering for it, until its writer or reader says that it is over. Here a stranger's word counts for nothing either: a parcel is known by its seal.

// copyTo and mailFor are marks in the place of a room, in what an entry of sealed parcels covers.
const (
	mailFor = "mail"   // for its reader itself; Upto is the number of the last one in the store
	copyTo  = "copies" // for others, to a paired box
)

// maxCopies bounds what goes to one box for others with one export: the stick itself travels as well.
const maxCopies = 1 << 20

// sealed writes what this box carries for others.
func (e *export) sealed(ctx context.Context, peers []peer.Peer) error {
	var dests [][]byte
	err := e.c.c.DB.View(ctx, func(r *store.Read) error {
		sums, err := r.CarriedSums()
		for _, s := range sums {
			known := false
			for _, d := range dests {
				known = known || string(d) == string(s.Dest)
			}
			if !known && len(s.Dest) == 32 {
				dests = append(dests, s.Dest)
			}
		}
		return err
	})
	if err != nil || len(dests) == 0 {
		return err
	}
	for _, d := range dests {
		if err := e.carried(ctx, peer.IDOf(d), mailFor, d); err != nil {
			return err
		}
	}
	for _, p := range peers {
		if err := e.carried(ctx, p.ID, copyTo, nil); err != nil {
			return err
		}
	}
	return nil
}

// carried writes segments of sealed parcels for one reader: those to dest, or with nil those to others.
func (e *export) carried(ctx context.Context, reader peer.ID, mark string, dest []byte) error {
	after := int64(0)
	for _, it := range e.x.entries {
		if it.kind == kindSealed && it.reader == reader.Brief() && len(it.covers) == 1 && string(it.covers[0].Room) == mark {
			after = max(after, int64(it.covers[0].Upto))
		}
	}
	for total := 0; total < maxCopies; {
		b := e.c.build(peer.Peer{ID: reader}, kindSealed)
		var rows []store.Carried
		var now int64
		for full := false; !full && b.size < fillTo; {
			err := e.c.c.DB.View(ctx, func(r *store.Read) (err error) {
				if now, err = r.RunTime(); err == nil {
					rows, err = r.CarriedAfter(dest, after, aGulp)
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("read what is carried: %w", err)
			}
			for _, c := range rows {
				after = c.N
				if err := b.carry(c, now); err != nil {
					return err
				}
			}
			full = len(rows) < aGulp || mark == copyTo && b.size > maxCopies
		}
		if err := b.flush(); err != nil || b.events == 0 {
			return err
		}
		it := entry{events: uint64(b.events), covers: []parcel.Vector{{Room: event.RoomID(mark), Box: reader, Upto: uint64(after)}}}
		if err := errors.Join(e.write(b.s, it), e.commit(ctx)); err != nil {
			return err
		}
		if len(rows) < aGulp {
			return nil
		}
		if mark == copyTo {
			total += b.size
		}
	}
	return nil
}

// carry adds a sealed parcel, unless it comes from the reader or is the reader's own and goes apart.
func (b *builder) carry(c store.Carried, now int64) error {
	to, from := peer.IDOf(c.Dest), peer.IDOf(c.Source)
	if from == b.s.reader || peer.IDOf(c.Giver) == b.s.reader || c.Until > 0 && c.Until <= now {
		return nil
	}
	life := byte(0)
	if c.Until > 0 {
		life = parcel.LifeOf(time.Duration(c.Until-now) * time.Second)
	}
	b.events++
	return b.add(&parcel.Sealed{To: to, From: parcel.Origin{Box: from, Epoch: c.Epoch}, Seq: c.Seq, Priority: c.Priority, Hops: c.Hops, Life: life, Body: c.Body})
}

// keepSealed says whether a segment of sealed parcels is still worth its room: while one of them is still carried here.
func (e *export) keepSealed(ctx context.Context, it entry) (keep bool, err error) {
	if len(it.covers) != 1 {
		return false, nil
	}
	v := it.covers[0]
	var dest []byte
	if string(v.Room) == mailFor {
		if dest, err = v.Box.Key(); err != nil {
			return false, nil
		}
	} else if _, ok := byBrief(e.c.c.Roster().All(), it.reader); !ok {
		return false, nil
	}
	err = e.c.c.DB.View(ctx, func(r *store.Read) error {
		rows, err := r.CarriedAfter(dest, 0, 1)
		keep = len(rows) > 0 && uint64(rows[0].N) <= v.Upto
		return err
	})
	return keep, err
}

// strangers takes in sealed parcels that boxes which are not paired with this one have brought for it. Of all else that they put on the stick nothing is
// looked at.
func (c *Courier) strangers(ctx context.Context, d Disk, report *Report) error {
	if c.c.Sealed == nil {
		return nil
	}
	const most = 64
	read := 0
	for name := range c.unknown(d) {
		if read++; read > most || ctx.Err() != nil {
			return ctx.Err()
		}
		id, ok := exporterOf(d, name)
		if !ok {
			continue
		}
		x := readIndex(d, id, report.note)
		if x == nil {
			continue
		}
		box := BoxReport{Server: "box " + id.Short()}
		for i := range x.entries {
			it := &x.entries[i]
			if it.kind != kindSealed || it.reader != c.self.Brief() {
				continue
			}
			raw, err := readSegment(d, id, it)
			if err != nil {
				report.note(it.name(id), err)
				continue
			}
			report.Bytes += it.size
			if err := c.open(ctx, peer.Peer{ID: id}, it, raw, &box, report, it.name(id)); err != nil {
				return err
			}
		}
		if box.Segments > 0 {
			report.Boxes = append(report.Boxes, box)
		}
	}
	return nil
}

// mailFromStrangers says whether a box that is not paired with this one has brought sealed parcels for it.
func (c *Courier) mailFromStrangers(d Disk) bool {
	most := 64
	for name := range c.unknown(d) {
		if most--; most < 0 {
			return false
		}
		id, ok := exporterOf(d, name)
		if !ok {
			continue
		}
		if x := readIndex(d, id, func(string, error) {}); x != nil && slices.ContainsFunc(x.entries, func(it entry) bool { return it.kind == kindSealed && it.reader == c.self.Brief() }) {
			return true
		}
	}
	return false
}

// exporterOf reads whose index it is that begins with a brief id, from the index itself.
func exporterOf(d Disk, name string) (id peer.ID, ok bool) {
	for slot := range 2 {
		raw, err := d.Read(name+"-"+string("ab"[slot])+".idx", -1, maxIndex)
		if err != nil || len(raw) < len(indexMagic)+32 {
			continue
		}
		if id = peer.IDOf(raw[len(indexMagic):][:32]); brief(id) == name {
			return id, true
		}
	}
	return "", false
}

// unknown lists the brief ids on a stick that are not in the roster.
func (c *Courier) unknown(d Disk) map[string]bool {
	names, err := d.Names(20_000)
	if err != nil {
		return nil
	}
	known := map[string]bool{brief(c.self): true}
	for _, p := range c.c.Roster().All() {
		known[brief(p.ID)] = true
	}
	found := map[string]bool{}
	for _, n := range names {
		if len(n) != len("0123456789abcdef-a.idx") || n[16] != '-' || n[18:] != ".idx" || known[n[:16]] {
			continue
		}
		if _, err := hex.DecodeString(n[:16]); err == nil {
			found[n[:16]] = true
		}
	}
	return found
}
