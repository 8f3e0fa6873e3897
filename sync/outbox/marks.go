// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// Mark names who has got how far in which log, without the place.
type Mark struct {
	Room  event.RoomID
	Box   peer.ID
	Epoch uint32
	Who   string
}

// Told is what a peer has been told of marks: places by mark, mostTold at most, and the stream position of each user of this box that they came from. The owner
// serialises.
type Told struct {
	Places map[Mark]uint64
	Pos    map[event.UserID]int64
}

// mostTold bounds the marks of one conversation: who is not among them by then is not told of before the next one.
const mostTold = 4096

// NewTold is that nothing has been told.
func NewTold() Told { return Told{map[Mark]uint64{}, map[event.UserID]int64{}} }

// Marks lists what a peer has not been told yet of how far others have got. It hears of its own logs, and of those of boxes that are not in direct reach: it may
// know the way. Of rooms that are left to a nearer neighbour that one tells. shown says up to which stream position this box's users were shown everything.
func (f *Feed) Marks(ctx context.Context, roster peer.Roster, direct func(peer.ID) bool, shown map[event.UserID]int64, told Told) ([]parcel.Mark, error) {
	o, p := f.o, f.p
	m := marker{p: p, roster: roster, told: told, room: mostTold - len(told.Places)}
	for user, pos := range shown {
		if pos > told.Pos[user] {
			m.fresh = append(m.fresh, store.Shows{Who: user, Pos: pos})
		}
	}
	err := o.db.View(ctx, func(r *store.Read) error {
		rooms, err := r.DueRooms(p.Server)
		if err != nil {
			return err
		}
		for _, id := range rooms {
			heirs, err := f.heirs(r, id)
			if err != nil {
				return err
			}
			if len(heirs) > 0 {
				continue
			}
			logs, err := r.Logs(id)
			if err != nil {
				return err
			}
			for _, l := range logs {
				box := peer.ID(l.Box)
				if box != p.ID && (box == o.self || direct(box)) {
					continue
				}
				if err := m.log(r, id, l); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look how far others have got: %w", err)
	}
	return m.out, nil
}

// marker collects marks for one peer.
type marker struct {
	p      peer.Peer
	roster peer.Roster
	told   Told
	fresh  []store.Shows // users of this box who were shown more
	room   int           // for marks of whom the peer was told nothing yet
	out    []parcel.Mark
}

func (m *marker) log(r *store.Read, room event.RoomID, l store.Log) error {
	upto := make(map[string]uint64) // by whoever's word: the far end shows it as ours
	reached, err := r.Reached(l.N)
	if err != nil {
		return err
	}
	for _, x := range reached {
		upto[x.Who] = max(upto[x.Who], x.Upto)
	}
	kept, err := r.KeptBy(l.N)
	if err != nil {
		return err
	}
	for box, n := range kept {
		if q, ok := m.roster.ByID(peer.ID(box)); ok && n > 0 {
			upto[q.Server] = max(upto[q.Server], n)
		}
	}
	for _, who := range slices.Sorted(maps.Keys(upto)) {
		m.add(room, l, who, upto[who])
	}
	var here []store.Shows
	for _, x := range m.fresh {
		in, err := r.MembershipOf(room, x.Who)
		if err != nil {
			return err
		}
		if in.Membership == "join" {
			x.Upto = m.told.Places[Mark{room, peer.ID(l.Box), l.Epoch, string(x.Who)}]
			here = append(here, x)
		}
	}
	if err := r.ShownUpTo(l.N, here); err != nil {
		return err
	}
	for _, x := range here {
		m.add(room, l, string(x.Who), x.Upto)
	}
	return nil
}

func (m *marker) add(room event.RoomID, l store.Log, who string, upto uint64) {
	old, known := m.told.Places[Mark{room, peer.ID(l.Box), l.Epoch, who}]
	if serverOf(who) == m.p.Server || upto <= old {
		return // it knows best itself, or knows already
	}
	if !known {
		if m.room <= 0 {
			return
		}
		m.room--
	}
	m.out = append(m.out, parcel.Mark{Room: room, Box: peer.ID(l.Box), Epoch: l.Epoch, Upto: upto, Who: who})
}

// serverOf is the server of a mark's subject.
func serverOf(who string) string {
	if strings.HasPrefix(who, "@") {
		return event.UserID(who).Server()
	}
	return who
}

// Note takes it that marks have gone out.
func (t Told) Note(marks []parcel.Mark) {
	for _, x := range marks {
		k := Mark{x.Room, x.Box, x.Epoch, x.Who}
		t.Places[k] = max(t.Places[k], x.Upto)
	}
}

// Shown takes it that all marks have gone out that users' devices made.
func (t Told) Shown(shown map[event.UserID]int64) {
	for user, pos := range shown {
		t.Pos[user] = max(t.Pos[user], pos)
	}
}

// TakeMarks stores what a peer says of how far others have got, for rooms that it shares with us and subjects that are in them. It says whether
// anything was new. What it says of its own users is their word; what it says of others, whoever told it, is stored as said by it: a paired box can make people see
// its own claims about others, and nobody's word but its own is changed by them.
func (o *Outbox) TakeMarks(ctx context.Context, p peer.Peer, marks []parcel.Mark) (bool, error) {
	at := o.now()
	by := func(who string) string {
		if serverOf(who) == p.Server {
			return ""
		}
		return p.Server
	}
	type move struct {
		log int64
		x   store.Reach
	}
	var moves []move
	err := o.db.View(ctx, func(r *store.Read) error {
		rooms, err := r.DueRooms(p.Server)
		if err != nil {
			return err
		}
		for _, x := range marks {
			if !slices.Contains(rooms, x.Room) || serverOf(x.Who) == o.server {
				continue
			}
			l, ok, err := r.LogOf(x.Room, string(x.Box), x.Epoch)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if ok, err = isIn(r, x.Room, x.Who); err != nil {
				return err
			}
			if ok {
				moves = append(moves, move{l.N, store.Reach{Who: x.Who, By: by(x.Who), Upto: min(x.Upto, l.Top), At: at}})
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("take marks of %s: %w", p.ID.Short(), err)
	}
	if len(moves) == 0 {
		return false, nil
	}
	news := false
	err = o.db.Do(ctx, func(tx *store.Tx) error {
		news = false
		for _, m := range moves {
			moved, err := tx.Reached(m.log, m.x)
			if err != nil {
				return err
			}
			news = news || moved
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("store marks of %s: %w", p.ID.Short(), err)
	}
	return news, nil
}

// isIn says whether a server or a user is in a room.
func isIn(r *store.Read, room event.RoomID, who string) (bool, error) {
	if strings.HasPrefix(who, "@") {
		m, err := r.MembershipOf(room, event.UserID(who))
		return m.Membership == "join", err
	}
	n, err := r.JoinedOf(room, who)
	return n > 0, err
}

// Places are where items stand in their logs, without the items.
type Places []run

type run struct {
	log         int64
	first, last uint64
}

// With adds the places of items that carry an event.
func (x Places) With(items []Item) Places {
	for _, it := range items {
		if it.Event == nil || it.log == 0 {
			continue
		}
		if n := len(x) - 1; n >= 0 && x[n].log == it.log && it.seq == x[n].last+1 {
			x[n].last = it.seq
			continue
		}
		x = append(x, run{it.log, it.seq, it.seq})
	}
	return x
}

// Left notes by which way events left, without haste.
func (f *Feed) Left(places Places, way string) {
	if len(places) == 0 {
		return
	}
	at := f.o.now()
	f.o.db.Lazy(func(tx *store.Tx) error {
		for _, x := range places {
			if err := tx.Left(string(f.p.ID), x.log, x.first, x.last, way, at); err != nil {
				return err
			}
		}
		return nil
	})
}
