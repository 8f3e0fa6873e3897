// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// This file lets a user into a big room before all its members are known (https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid,
// omit_members). While memberships lack,
//
//   - the law is asked with the state that is known, made whole by what the event at hand names as its authority;
//   - everything that is placed is unsure (undecided.go): Complete judges it anew under the whole state, in the order in which it came;
//   - the servers that are said to be in the room count as being in it.
//
// What a redaction has removed meanwhile stays removed though the redaction is found to have been wrong.

// filled is a state in which members are lacking, as the event e may know it better: what e names as its authority comes to it as from another branch of the graph.
// A membership that is lacking is the one that e names; where both know one, the law of forks decides.
func (k *look) filled(state rules.State, e *rules.Event) rules.State {
	named := make(map[rules.Key]*rules.Event)
	apart := false
	for _, id := range e.Auth {
		a, _, err := k.thinID(id)
		if err != nil {
			k.err = err
			return state
		}
		if a == nil || a.Room != k.l.id || a.StateKey == nil || a.Rejected {
			continue
		}
		key := rules.Key{Type: a.Type, StateKey: *a.StateKey}
		named[key] = a
		ours := state(key)
		apart = apart || ours != nil && ours.ID != id
	}
	if apart && k.err == nil {
		if err := k.reconcile(state, named); err != nil {
			k.err = err
		}
	}
	return func(key rules.Key) *rules.Event {
		if a := named[key]; a != nil && (apart || key.Type == "m.room.member") {
			return a
		}
		return state(key)
	}
}

// reconcile puts what the law makes of a state and what an event names as its authority in the place of the latter.
func (k *look) reconcile(state rules.State, named map[rules.Key]*rules.Event) error {
	ours, theirs := make(map[rules.Key]event.ID), make(map[rules.Key]event.ID)
	for _, key := range []rules.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}, {Type: "m.room.join_rules"}} {
		if t := state(key); t != nil {
			ours[key], theirs[key] = t.ID, t.ID
		}
	}
	for key, t := range named {
		theirs[key] = t.ID
		if t := state(key); t != nil {
			ours[key] = t.ID
		}
	}
	if k.err != nil {
		return k.err
	}
	var failed error
	found := make(map[event.ID]*rules.Event)
	result, err := rules.Resolve(k.l.version, []map[rules.Key]event.ID{ours, theirs}, func(id event.ID) *rules.Event {
		t, _, err := k.thinID(id)
		if err != nil {
			failed = err
		}
		found[id] = t
		return t
	})
	if err := cmp.Or(failed, err); err != nil {
		return err
	}
	clear(named)
	for key, id := range result {
		t := found[id]
		if t == nil {
			if t, _, err = k.thinID(id); err != nil {
				return err
			}
		}
		named[key] = t
	}
	return nil
}

// startPartial has the join write that memberships lack, and counts the servers that are said to be in the room. anew: an earlier stay ended in the same way.
func (l *live) startPartial(p *prepared, a Arrival, anew bool) {
	if anew {
		p.ahead = func(tx *store.Tx) error { return tx.DropPartial(l.id) }
	}
	if l.partial == nil || l.partial.Join != p.row.NID {
		return
	}
	var servers []string
	for _, s := range a.Servers {
		if s != l.r.id.Server && event.ValidServerName(s) {
			servers = append(servers, s)
			l.countServer(p, s, 1)
		}
	}
	p.extra = func(tx *store.Tx) error {
		return tx.StartPartial(store.Partial{Room: l.id, Join: p.row.NID, Via: a.From.Server, Pos: p.row.Pos}, servers)
	}
}

// Learn stores events of a room by name: parts of its state and what authorises them, all verified. create is the room's creation. Events whose authorising
// events are neither here nor among them are rejected until those come.
func (r *Rooms) Learn(ctx context.Context, v *event.Version, create *event.PDU, pdus []*event.PDU, from Source) error {
	l, err := r.enter(ctx, create.RoomID)
	if err != nil {
		return err
	}
	known := l.version
	if known == nil {
		l.version = v
	}
	var ps []*prepared
	err = r.view(ctx, func(rd *store.Read) (err error) {
		k := &look{l: l, rd: rd}
		if ps, err = l.outliers(k, append([]*event.PDU{create}, pdus...), from); err != nil {
			return err
		}
		if l.in() {
			ps, err = l.adopted(k, ps, true)
		}
		return err
	})
	if err != nil {
		l.forget()
		l.mu.Unlock()
		return err
	}
	answer := l.submit(ps, func(tx *store.Tx) error {
		if known != nil {
			return nil
		}
		return tx.SetRoom(l.id, v.ID, 0)
	})
	err = l.await(answer)
	for _, p := range ps {
		if p.again != nil {
			r.rethought.Add(1)
			l.forget()
			break
		}
	}
	l.mu.Unlock()
	return tellable(err)
}

// Lacks tells which of the events are not here.
func (r *Rooms) Lacks(ctx context.Context, ids []event.ID) (lack []event.ID, err error) {
	for len(ids) > 0 && err == nil {
		n := min(len(ids), lookAtOnce)
		err = r.view(ctx, func(rd *store.Read) error {
			for _, id := range ids[:n] {
				nid, err := rd.EventNID(id)
				if err != nil {
					return err
				}
				if nid == 0 {
					lack = append(lack, id)
				}
			}
			return nil
		})
		ids = ids[n:]
	}
	return lack, err
}

// lookAtOnce is how many events are looked up in one snapshot.
const lookAtOnce = 5000

// Lacking is a room whose memberships are not all known.
type Lacking struct {
	Room    event.RoomID
	Join    event.ID   // that began it
	Prev    []event.ID // of the join
	Via     string     // the server that was joined through
	Servers []string   // who is said to be in the room, or is known to be
	Here    bool       // somebody of this server is still in it
}

// Lacking tells whether memberships of a room are lacking, and what is known about that; nil when none are.
func (r *Rooms) Lacking(ctx context.Context, room event.RoomID) (out *Lacking, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		p, err := rd.Partial(room)
		if p == nil || err != nil || p.Whole != 0 {
			return err
		}
		row, err := rd.EventByNID(p.Join)
		if err != nil {
			return err
		}
		if row == nil {
			return errors.New("the join of a partial room is missing")
		}
		pdu, err := pduOf(rd, row)
		if err != nil {
			return err
		}
		found := &Lacking{Room: room, Join: row.ID, Prev: pdu.Prev, Via: p.Via}
		if found.Servers, err = rd.Servers(room); err != nil {
			return err
		}
		for _, s := range found.Servers {
			found.Here = found.Here || s == r.id.Server
		}
		out = found
		return nil
	})
	return out, err
}

// LackingRooms lists the rooms whose memberships are not all known.
func (r *Rooms) LackingRooms(ctx context.Context) (rooms []event.RoomID, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		ps, err := rd.Partials()
		for _, p := range ps {
			if p.Whole == 0 {
				rooms = append(rooms, p.Room)
			}
		}
		return err
	})
	return rooms, err
}

// Abandon gives up learning the members of a room in which nobody of this server is left. It answers false when somebody is.
func (r *Rooms) Abandon(ctx context.Context, room event.RoomID) (bool, error) {
	l, err := r.enter(ctx, room)
	if err != nil {
		return false, err
	}
	defer l.mu.Unlock()
	if l.partial == nil {
		return true, nil
	}
	if l.servers[r.id.Server] > 0 {
		return false, nil
	}
	l.drain()
	err = l.await(l.submit(nil, func(tx *store.Tx) error { return tx.DropPartial(room) }))
	l.forget()
	r.whole.ring(room)
	return err == nil, tellable(err)
}

// wholeBell wakes those who wait for a room's members.
type wholeBell struct {
	mu    sync.Mutex
	rooms map[event.RoomID]chan struct{}
}

func (b *wholeBell) wait(room event.RoomID) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rooms == nil {
		b.rooms = make(map[event.RoomID]chan struct{})
	}
	c := b.rooms[room]
	if c == nil {
		c = make(chan struct{})
		b.rooms[room] = c
	}
	return c
}

func (b *wholeBell) ring(room event.RoomID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.rooms[room]; c != nil {
		close(c)
		delete(b.rooms, room)
	}
}

// AwaitWhole waits until all members of a room are known, or nobody of this server is in it any more.
func (r *Rooms) AwaitWhole(ctx context.Context, room event.RoomID) error {
	for {
		bell := r.whole.wait(room)
		p, err := r.Lacking(ctx, room)
		if err != nil || p == nil || !p.Here {
			return err
		}
		again := time.NewTimer(2 * time.Second) // the last of us may leave
		select {
		case <-bell:
		case <-again.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
		again.Stop()
		if err != nil {
			return err
		}
	}
}

// NotWhole reports whether memberships of a room are lacking.
func (r *Rooms) NotWhole(ctx context.Context, room event.RoomID) (lacking bool, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		p, err := rd.Partial(room)
		lacking = p != nil && p.Whole == 0
		return err
	})
	return lacking, err
}
