// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"hallig/appliance/event"
	"hallig/sync/peer"
)

// KindSeen tells how far others have got.
const KindSeen Kind = 16

// Mark says that Who has everything of one log up to and including Upto: a server's box keeps it, or a device of a user
// was shown it. Cumulative, as vectors are.
type Mark struct {
	Room  event.RoomID
	Box   peer.ID
	Epoch uint32
	Upto  uint64
	Who   string // a server name, or a user id
}

// Seen passes on how far others have got, for people to see. Nothing depends on it: cursors move by Kept alone, so a box
// that tells lies here shows wrong ticks and no more.
type Seen struct{ Marks []Mark }

// Kind is KindSeen.
func (*Seen) Kind() Kind { return KindSeen }

func (w *writer) seen(p *Seen) {
	w.uvarint(uint64(len(p.Marks)))
	for _, m := range p.Marks {
		w.place(logName{m.Room, m.Box, m.Epoch}, m.Upto)
		w.name(m.Who)
	}
}

func (r *reader) seen() *Seen {
	p := &Seen{}
	for range r.count() {
		n, upto := r.place()
		who := r.name()
		if r.err != nil {
			return p
		}
		p.Marks = append(p.Marks, Mark{n.room, n.box, n.epoch, upto, who})
	}
	return p
}
