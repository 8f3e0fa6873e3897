// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// Fork is what OnFork is told: an event from elsewhere has come by a branch whose state differs from that of another one.
type Fork struct {
	Room  event.RoomID
	Event int64       // by which it was seen
	Pos   int64       // of that event: what has less was here before
	Ours  int64       // group of the state that was in force until then
	Apart []rules.Key // what the branches do not agree on; of memberships only those of our users
}

// noteFork finds out, before the current state moves, what an event's branch and the others do not agree on. A message on a branch that was there before
// tells nothing new, so that a long branch costs no more than its first event and its changes of state.
func (l *live) noteFork(p *prepared, tips []tip, after group, was int) error {
	if l.r.opt.OnFork == nil || l.shadow || p.info.From.Kind == "local" || was > 1 && p.pdu.StateKey == nil && !p.given {
		return nil
	}
	var keys []int64
	for _, t := range tips {
		if t.after.nid == after.nid {
			continue
		}
		for _, d := range t.after.state.Diff(after.state) {
			keys = append(keys, d.Key)
		}
	}
	slices.Sort(keys)
	var apart []rules.Key
	for _, k := range slices.Compact(keys) {
		typ, key, err := l.r.db.StateKeyText(k)
		if err != nil {
			return err
		}
		if typ != "m.room.member" || event.UserID(key).Server() == l.r.id.Server {
			apart = append(apart, rules.Key{Type: typ, StateKey: key})
		}
	}
	if len(apart) > 0 {
		p.fork = &Fork{Room: l.id, Event: p.row.NID, Ours: l.cur.nid, Apart: apart}
	}
	return nil
}

// writeFork tells of it in the transaction that stores the event.
func (p *prepared) writeFork(tx *store.Tx) error {
	if p.fork == nil {
		return nil
	}
	p.fork.Pos = p.row.Pos
	return p.r.opt.OnFork(tx, *p.fork)
}
