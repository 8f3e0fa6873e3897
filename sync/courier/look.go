// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"context"

	"hallig/appliance/store"
	"hallig/sync/peer"
)

// Look says what is on a stick without taking or writing anything: for each box that has put something there for this one, or has something of this one to
// fetch, what waits. Of entries for others nothing is told but that there are boxes (Foreign).
func (c *Courier) Look(ctx context.Context, d Disk) (*Report, error) {
	report := &Report{}
	for _, p := range c.c.Roster().All() {
		if x := readIndex(d, p.ID, report.note); x != nil {
			if err := c.lookAt(ctx, d, p, x, report); err != nil {
				return nil, err
			}
		}
	}
	if x := readIndex(d, c.self, report.note); x != nil {
		boxes := map[peer.Brief]*BoxReport{}
		for _, it := range x.entries {
			p, ok := c.c.Roster().ByBrief(it.reader)
			if !ok {
				continue
			}
			if boxes[it.reader] == nil {
				boxes[it.reader] = &BoxReport{Server: c.c.Server + " -> " + p.Server}
			}
			boxes[it.reader].Segments++
			boxes[it.reader].Events += int(it.events)
			report.Bytes += it.size
		}
		for _, p := range c.c.Roster().All() {
			if b := boxes[p.ID.Brief()]; b != nil {
				report.Boxes = append(report.Boxes, *b)
			}
		}
	}
	report.Foreign = len(c.unknown(d))
	return report, nil
}

func (c *Courier) lookAt(ctx context.Context, d Disk, p peer.Peer, x *index, report *Report) error {
	box := BoxReport{Server: p.Server + " -> " + c.c.Server}
	for i := range x.entries {
		it := &x.entries[i]
		if it.reader != c.self.Brief() {
			continue
		}
		err := c.c.DB.View(ctx, func(r *store.Read) error {
			known, err := r.TakenSegment(it.hash)
			if known {
				box.Known++
			}
			return err
		})
		if err != nil {
			return err
		}
		if _, err := readSegment(d, p.ID, it); err != nil {
			report.note(it.name(p.ID), err)
			continue
		}
		box.Segments++
		box.Events += int(it.events)
		report.Bytes += it.size
	}
	report.Boxes = append(report.Boxes, box)
	return nil
}
