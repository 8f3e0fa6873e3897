// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"fmt"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// redact applies a redaction to its target, or redactions that waited for this event. It runs in the event's transaction: redactions are rare.
// https://spec.matrix.org/v1.19/rooms/v11/#handling-redactions
func (p *prepared) redact(tx *store.Tx) error {
	if p.row.Flags&(store.Rejected|store.SoftFailed|store.Outlier) == 0 && p.pdu.Type == "m.room.redaction" && p.pdu.Redacts != "" {
		target, err := tx.Event(p.pdu.Redacts)
		if err != nil {
			return err
		}
		if target == nil {
			return tx.AwaitRedaction(p.pdu.Redacts, p.row.NID)
		}
		return p.r.applyRedaction(tx, p.version, p.row, target)
	}
	waiting, err := tx.WaitingRedactions(p.row.ID)
	if err != nil || len(waiting) == 0 {
		return err
	}
	for _, nid := range waiting {
		by, err := tx.EventByNID(nid)
		if err != nil {
			return err
		}
		if by == nil {
			continue
		}
		if err := p.r.applyRedaction(tx, p.version, by, p.row); err != nil {
			return err
		}
	}
	return tx.DropWaitingRedactions(p.row.ID)
}

// applyRedaction puts the redacted form in the target's row if the redaction may: same room, and its sender has the level or is of the target's server.
func (r *Rooms) applyRedaction(tx *store.Tx, v *event.Version, by, target *store.Event) error {
	if target.Room != by.Room || target.Is(store.Redacted) || target.Type == "m.room.create" {
		return nil
	}
	s, err := tx.Group(by.Before)
	if err != nil {
		return err
	}
	k := &look{l: &live{r: r, version: v}, rd: tx.Read}
	if can := rules.CanRedact(k.state(s), by.Sender, target.Sender); !can || k.err != nil {
		return k.err
	}
	pdu, err := event.ParseTrusted(v, target.ID, target.JSON)
	if err != nil {
		return fmt.Errorf("read event to redact: %w", err)
	}
	red, err := pdu.Redacted()
	if err != nil {
		return fmt.Errorf("redact event: %w", err)
	}
	r.thins.drop(target.NID)
	return tx.Redact(target.NID, by.NID, red.JSON())
}
