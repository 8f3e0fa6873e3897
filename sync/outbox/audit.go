// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// Shared lists the rooms that a peer and this box may compare.
func (o *Outbox) Shared(ctx context.Context, p peer.Peer) (rooms []event.RoomID, err error) {
	err = o.db.View(ctx, func(r *store.Read) (err error) {
		rooms, err = r.DueRooms(p.Server)
		return err
	})
	return rooms, err
}

// Ask says which places this box holds of some rooms, for a peer to compare.
func (o *Outbox) Ask(ctx context.Context, salt recon.Salt, rooms []event.RoomID) (recon.Audit, error) {
	a := recon.Audit{Salt: salt}
	for _, id := range rooms { // a view for each: nobody waits for the whole
		err := o.db.View(ctx, func(r *store.Read) error {
			logs, err := r.Logs(id)
			if err != nil {
				return err
			}
			h := recon.Holding{Room: recon.RoomOf(id)}
			for _, l := range logs {
				held, err := heldOf(r, l)
				if err != nil {
					return err
				}
				if held.UpTo > 0 {
					h.Logs = append(h.Logs, held)
				}
			}
			a.Rooms = append(a.Rooms, h)
			return nil
		})
		if err != nil {
			return a, fmt.Errorf("look through the logs of %s: %w", id, err)
		}
	}
	return a, nil
}

func heldOf(r *store.Read, l store.Log) (recon.Held, error) {
	h := recon.Held{Box: recon.Box(peer.ID(l.Box).Brief()), Epoch: l.Epoch, UpTo: l.Top}
	at := uint64(0)
	err := r.EachPlace(l.N, l.Top, func(seq uint64, n int64, _ event.ID) error {
		if seq > at+1 && !h.Skip(at, seq-1) || n == 0 && !h.Skip(seq-1, seq) {
			return errEnough
		}
		at = seq
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return h, err
}

var errEnough = errors.New("enough")

// Answer compares what a peer says it holds with what is here: its places that are ours as well, and the sum over the events there.
// owed are places of our own logs that the peer takes for none of its business and that are: somebody told it so.
func (o *Outbox) Answer(ctx context.Context, p peer.Peer, f *Feed, ask recon.Audit) (answer recon.Audit, owed []recon.Have, err error) {
	answer = recon.Audit{Salt: ask.Salt, Answer: true}
	shared, err := o.Shared(ctx, p)
	if err != nil {
		return answer, nil, err
	}
	rooms := make(map[recon.Room]event.RoomID, len(shared))
	for _, id := range shared {
		rooms[recon.RoomOf(id)] = id
	}
	for _, theirs := range ask.Rooms {
		id, ok := rooms[theirs.Room]
		if !ok {
			continue
		}
		delete(rooms, theirs.Room) // asked twice, it is answered once
		err := o.db.View(ctx, func(r *store.Read) error {
			h := recon.Holding{Room: theirs.Room}
			if err := eachCommon(r, id, theirs, func(l store.Log, far recon.Held) error {
				near, err := heldOf(r, l)
				if err != nil {
					return err
				}
				if common := near.Common(far); common.UpTo > 0 {
					h.Logs = append(h.Logs, common)
				}
				if l.Box == string(o.self) { // of whatever epoch
					owed, err = f.owed(r, id, l, far, owed)
				}
				return err
			}); err != nil {
				return err
			}
			h.Sum, err = sumOf(r, id, ask.Salt, h)
			answer.Rooms = append(answer.Rooms, h)
			return err
		})
		if err != nil {
			return answer, nil, fmt.Errorf("compare %s: %w", id, err)
		}
	}
	return answer, owed, nil
}

// eachCommon goes through the logs of a room that a holding speaks of and that are here.
func eachCommon(r *store.Read, id event.RoomID, h recon.Holding, f func(store.Log, recon.Held) error) error {
	logs, err := r.Logs(id)
	if err != nil {
		return err
	}
	for _, l := range logs {
		brief := recon.Box(peer.ID(l.Box).Brief())
		i := slices.IndexFunc(h.Logs, func(k recon.Held) bool { return k.Box == brief && k.Epoch == l.Epoch })
		if i < 0 {
			continue
		}
		if err := f(l, h.Logs[i]); err != nil {
			return err
		}
	}
	return nil
}

// eachHeld goes through the places of a holding that are filled here; id is "" where the event is lost.
func eachHeld(r *store.Read, room event.RoomID, h recon.Holding, f func(l store.Log, seq uint64, id event.ID) error) error {
	return eachCommon(r, room, h, func(l store.Log, held recon.Held) error {
		return r.EachPlace(l.N, held.UpTo, func(seq uint64, n int64, id event.ID) error {
			if n == 0 || !held.Has(seq) {
				return nil
			}
			return f(l, seq, id)
		})
	})
}

func sumOf(r *store.Read, room event.RoomID, salt recon.Salt, h recon.Holding) (sum recon.Sum, err error) {
	err = eachHeld(r, room, h, func(_ store.Log, _ uint64, id event.ID) error {
		sum.Add(salt, id)
		return nil
	})
	return sum, err
}

// maxOwed bounds what one answer offers again.
const maxOwed = 1000

// owed finds places of our own log that the peer skips although their events are its business.
func (f *Feed) owed(r *store.Read, room event.RoomID, l store.Log, far recon.Held, out []recon.Have) ([]recon.Have, error) {
	if len(far.Skips) == 0 {
		return out, nil
	}
	due, err := f.due(r, room)
	if due == nil || err != nil {
		return out, err
	}
	h := recon.Have{Log: reconLog(room, l)}
	err = r.EachPlace(l.N, far.UpTo, func(seq uint64, n int64, id event.ID) error {
		if !far.Has(seq) && id != "" && due.holds(n) && len(h.Places) < maxOwed {
			h.Places = append(h.Places, recon.Place{Seq: seq, Event: recon.ShortOf(id)})
		}
		return nil
	})
	if len(h.Places) > 0 {
		out = append(out, h)
	}
	return out, err
}

// Differing lists the rooms of an answer whose sum is another one here; owed is as in Answer.
func (o *Outbox) Differing(ctx context.Context, p peer.Peer, f *Feed, answer recon.Audit) (out []recon.Holding, owed []recon.Have, err error) {
	shared, err := o.Shared(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	for _, h := range answer.Rooms {
		i := slices.IndexFunc(shared, func(id event.RoomID) bool { return recon.RoomOf(id) == h.Room })
		if i < 0 {
			continue
		}
		err := o.db.View(ctx, func(r *store.Read) error {
			sum, err := sumOf(r, shared[i], answer.Salt, h)
			if err != nil {
				return err
			}
			if sum != h.Sum {
				out = append(out, h)
			}
			return eachCommon(r, shared[i], h, func(l store.Log, common recon.Held) error {
				if l.Box == string(o.self) {
					owed, err = f.owed(r, shared[i], l, common, owed)
				}
				return err
			})
		})
		if err != nil {
			return nil, nil, fmt.Errorf("compare %s: %w", shared[i], err)
		}
	}
	return out, owed, nil
}

// Set is the events at the places of a holding, for a sketch.
type Set struct {
	Room     event.RoomID
	Elements []recon.Element // in rising order
	places   []setPlace      // of each element
	logs     []store.Log
}

type setPlace struct {
	log int32
	seq uint64
}

// maxSet bounds a set: 24 MB while two boxes compare a room that is larger than any known.
const maxSet = 1 << 20

// SetOf reads a set.
func (o *Outbox) SetOf(ctx context.Context, p peer.Peer, salt recon.Salt, h recon.Holding) (*Set, error) {
	shared, err := o.Shared(ctx, p)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(shared, func(id event.RoomID) bool { return recon.RoomOf(id) == h.Room })
	if i < 0 {
		return nil, errors.New("outbox: a room that is not shared")
	}
	s := &Set{Room: shared[i]}
	type entry struct {
		e recon.Element
		p setPlace
	}
	var all []entry
	err = o.db.View(ctx, func(r *store.Read) error {
		return eachHeld(r, s.Room, h, func(l store.Log, seq uint64, id event.ID) error {
			if id == "" {
				return nil
			}
			if len(all) == maxSet {
				return fmt.Errorf("outbox: more than %d events to compare", maxSet)
			}
			if n := len(s.logs); n == 0 || s.logs[n-1].N != l.N {
				s.logs = append(s.logs, l)
			}
			all = append(all, entry{salt.Element(id), setPlace{int32(len(s.logs) - 1), seq}})
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the events of %s: %w", s.Room, err)
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.e, b.e) })
	for _, x := range all {
		if n := len(s.Elements); n > 0 && s.Elements[n-1] == x.e {
			continue // it stands in several logs
		}
		s.Elements, s.places = append(s.Elements, x.e), append(s.places, x.p)
	}
	return s, nil
}

// Split tells which of some elements are in the set.
func (s *Set) Split(es []recon.Element) (here, not []recon.Element) {
	for _, e := range es {
		if _, ok := slices.BinarySearch(s.Elements, e); ok {
			here = append(here, e)
		} else {
			not = append(not, e)
		}
	}
	return here, not
}

// Haves names the places of elements of the set in notes of at most n places each. Whoever lacks the events wants them then.
func (s *Set) Haves(ctx context.Context, o *Outbox, es []recon.Element, n int) (out []Named, err error) {
	places := make([]setPlace, 0, len(es))
	for _, e := range es {
		if i, ok := slices.BinarySearch(s.Elements, e); ok {
			places = append(places, s.places[i])
		}
	}
	slices.SortFunc(places, func(a, b setPlace) int { return cmp.Or(cmp.Compare(a.log, b.log), cmp.Compare(a.seq, b.seq)) })
	err = o.db.View(ctx, func(r *store.Read) error {
		for _, p := range places {
			l := s.logs[p.log]
			entries, err := r.LogEntries(l.N, p.seq-1, 1)
			if err != nil {
				return err
			}
			if len(entries) == 0 || entries[0].Seq != p.seq {
				continue
			}
			id, err := r.EventID(entries[0].Event)
			if err != nil {
				return err
			}
			if id == "" {
				continue
			}
			name := reconLog(s.Room, l)
			if k := len(out); k == 0 || out[k-1].Have.Log != name || len(out[k-1].Have.Places) == n {
				out = append(out, Named{Box: peer.ID(l.Box), Have: recon.Have{Log: name}})
			}
			h := &out[len(out)-1].Have
			h.Places = append(h.Places, recon.Place{Seq: p.seq, Event: recon.ShortOf(id)})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("name events of %s: %w", s.Room, err)
	}
	return out, nil
}

// Named is places of one log, and whose log it is.
type Named struct {
	Box  peer.ID
	Have recon.Have
}
