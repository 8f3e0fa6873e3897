// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"cmp"
	"context"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// finish plays what came meanwhile and puts everything in place, in one act that nobody can come between.
func (c *completion) finish(ctx context.Context) (done bool, err error) {
	l, err := c.r.enter(ctx, c.w.Room)
	if err != nil {
		return false, err
	}
	defer l.mu.Unlock()
	l.drain()
	if l.flight.failed(l.gen) || c.r.rethought.Load() != c.rethought {
		return false, nil
	}
	if l.partial == nil || l.partial.Join != c.join {
		return true, nil // somebody else has done it, or the room was joined anew
	}
	var ps []*prepared
	f := &finishing{completion: c, l: l}
	err = c.r.view(ctx, func(rd *store.Read) error {
		k := &look{l: c.sh, rd: rd}
		if n, err := c.play(k, stepEvents); n == stepEvents || err != nil {
			return cmp.Or(err, errMore)
		}
		if ps, err = f.changed(rd); err != nil {
			return err
		}
		return f.compare(k)
	})
	if err != nil {
		return false, err
	}
	l.unsaved = append(l.unsaved, c.groups...)
	err = l.await(l.submit(ps, f.write))
	l.forget()
	if err == nil {
		c.r.rethought.Add(1)
		c.r.whole.ring(c.w.Room)
	}
	return true, err
}

// finishing is the last step of a completion.
type finishing struct {
	*completion
	l       *live
	told    store.State // the current state as it was
	delta   []store.StateEntry
	members []memberChange
}

// changed prepares the events of which something else became.
func (f *finishing) changed(rd *store.Read) (ps []*prepared, err error) {
	for _, v := range f.verdicts {
		if v.outcome == v.was {
			continue
		}
		row, err := rd.EventByNID(v.nid)
		if err != nil {
			return nil, err
		}
		pdu, err := event.ParseTrusted(f.l.version, row.ID, row.JSON)
		if err != nil {
			return nil, err
		}
		p := &prepared{r: f.r, version: f.l.version, pdu: pdu, thin: f.sh.fresh[v.nid].thin, row: row, replace: true, waits: v.waits,
			again: &again{quiet: v.outcome == Rejected || v.was == Accepted}}
		row.Flags &^= store.Rejected | store.SoftFailed
		switch v.outcome {
		case Rejected:
			row.Flags |= store.Rejected
		case SoftFailed:
			row.Flags |= store.SoftFailed
		}
		row.Reason, row.Pos, row.Before, row.After = v.reason, 0, v.before, v.after
		p.result = Result{Outcome: v.outcome, Reason: v.reason}
		p.info = AppendInfo{PDU: pdu, Room: f.l.id, From: Source{Kind: "federation", Server: pdu.Sender.Server()}, Again: true, Outcome: v.outcome, Servers: f.l.serverList()}
		f.r.thins.drop(v.nid)
		ps = append(ps, p)
	}
	return ps, nil
}

// compare finds what is another current state now. A member who was there all along is no news.
func (f *finishing) compare(k *look) error {
	f.told = f.l.cur.state
	for _, d := range f.told.Diff(f.sh.cur.state) {
		typ, key, err := f.r.db.StateKeyText(d.Key)
		if err != nil {
			return err
		}
		if typ == "m.room.member" {
			m := memberChange{user: event.UserID(key), event: d.Event, membership: f.completion.members[d.Event]}
			if m.membership == "" && d.Event != 0 {
				if m.membership, err = f.sh.membership(k, &prepared{row: &store.Event{}}, d.Event); err != nil {
					return err
				}
			}
			f.members = append(f.members, m)
			if f.told.Find(d.Key) == 0 {
				continue
			}
		}
		f.delta = append(f.delta, d)
	}
	return nil
}

// write is the transaction, behind the events of which something else became.
func (f *finishing) write(tx *store.Tx) error {
	id := f.w.Room
	for _, v := range f.verdicts {
		if v.outcome == v.was {
			if err := tx.MoveEvent(v.nid, v.before, v.after); err != nil {
				return err
			}
		}
		if !v.unsure {
			if err := tx.DropUnsure(v.nid); err != nil {
				return err
			}
		}
	}
	if err := tx.SetTips(id, nids(f.sh.tips)); err != nil {
		return err
	}
	if err := tx.SetRoom(id, f.l.version.ID, f.sh.cur.nid); err != nil {
		return err
	}
	pos := tx.NextPos()
	tx.TouchRoom(id)
	if err := tx.LogState(id, pos, f.told, f.delta); err != nil {
		return err
	}
	for _, m := range f.members {
		if err := tx.SetMember(store.Membership{Room: id, User: m.user, Membership: m.membership, Event: m.event, Pos: pos}); err != nil {
			return err
		}
		if m.user.Server() == f.r.id.Server {
			tx.TouchUser(m.user)
		}
	}
	if err := tx.EndPartial(id, pos); err != nil || f.r.opt.OnWhole == nil {
		return err
	}
	return f.r.opt.OnWhole(tx, id, f.l.partial.Pos)
}
