// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"encoding/binary"
	"errors"
	"hash/fnv"

	"hallig/appliance/event"
	"hallig/sync/peer"
)

// Session is what two boxes remember of their conversation. Both ends hold one, made from the same two nonces. It is not
// safe for concurrent use; its owner serialises. It is bounded: maxEntries names per table and direction, maxRecent
// events per log, maxLogs logs.
type Session struct {
	codec *Codec
	tag   byte // first byte of each message of this session; 0: no session at all, everything in full
	model bool // the far end has our text model
	two   bool // the far end reads version 2 of the codec
	out   [tables]numbering
	in    [tables]numbering
	size  [2]int // bytes of the names in out and in
	trail map[logName]*trail
	byID  map[event.ID]place // of the events in trail

	notices notices
	letters int  // that the text model has read of the message that is being decoded
	dry     bool // a reader that only proves what was written: nothing is remembered
}

// The tables of names. Each direction numbers on its own; each side may also use the other's numbers.
const (
	tableText   = iota // string
	tableRoom          // event.RoomID
	tableBox           // peer.ID
	tableLog           // logName
	tableID            // event.ID
	tableAuthor        // author
	tableFrame         // frame
	tableValue         // string: what is worth a number but seldom anybody's name; from version 2 on
	tableShape         // shape
	tables
)

const (
	maxEntries = 4096
	maxName    = 1024    // bytes of a name that is remembered
	maxNames   = 1 << 20 // bytes of all names that this side gives numbers to; it takes twice as much from the far end
	maxLogs    = 4096
	maxRecent  = 96 // events remembered per log
	useRecent  = 48 // of which the encoder refers to the newest: the far end's window may be ahead of ours
)

// numbering is one direction of one table. Number 0 stands for names that are not remembered.
type numbering struct {
	of    map[any]uint64
	names map[uint64]name
}

type name struct {
	value   any
	base    uint64 // of a log: where its positions are counted from
	arrived bool   // only in out: the far end has the explanation
}

func (n *numbering) put(number uint64, v name) {
	if n.of == nil {
		n.of, n.names = make(map[any]uint64), make(map[uint64]name)
	}
	if old, ok := n.names[number]; ok && old.value != v.value {
		delete(n.of, old.value)
	}
	n.of[v.value], n.names[number] = number, v
}

// logName is one numbering of events: the log of a box about a room.
type logName struct {
	room  event.RoomID
	box   peer.ID
	epoch uint32
}

// place is one event of a log.
type place struct {
	log logName
	seq uint64
}

// known is what a later event may be derived from.
type known struct {
	id      event.ID
	depth   int64
	ts      int64
	arrived bool // the far end holds it: it came from there, or its arrival was told
}

// trail is the newest known events of a log.
type trail struct {
	top  uint64
	seqs map[uint64]known
}

// Session starts a memory; mine and theirs are the nonces of both hellos. The far end's is made with the two exchanged,
// and only those two understand each other.
func (c *Codec) Session(mine, theirs uint32) *Session {
	h := fnv.New32a()
	h.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, min(mine, theirs)), max(mine, theirs)))
	return &Session{codec: c, tag: byte(h.Sum32()%255) + 1, trail: make(map[logName]*trail), byID: make(map[event.ID]place)}
}

// Bare is the absence of a session: what it encodes any box can read at any time, and it remembers nothing. Hellos are
// sent so. Its Decode reads such messages only; a real session's reads both.
func (c *Codec) Bare() *Session { return &Session{codec: c} }

// UseModel says that texts may be coded by the text model: the far end has the same (Hello.Features, Hello.Model), and
// the link is so slow that bytes are worth time. It takes 0.4 ms for a message of 100 letters, both ends together, against
// 0.06 ms without. It may be changed between any two messages; what comes in is read either way.
func (s *Session) UseModel(yes bool) { s.model = yes && s.tag != 0 }

// UseVersion2 says that the far end reads version 2 of the codec (Hello.Features). Without it all goes in the forms of
// version 1; what comes in is read either way. It may be changed between any two messages.
func (s *Session) UseVersion2(yes bool) { s.two = yes && s.tag != 0 }

// Worn says that the memory is nearly full of names: what is new will be spelt out each time. A new session, which starts with
// the names that are used now, is shorter.
func (s *Session) Worn() bool {
	if s.size[0] > maxNames*7/8 {
		return true
	}
	for i := range s.out {
		if len(s.out[i].names) > maxEntries*7/8 {
			return true
		}
	}
	return false
}

// Pack packs a body that travels in chunks, in the shortest way that the far end reads; Codec.Unpack undoes it.
func (s *Session) Pack(body []byte) []byte {
	if s.two {
		return s.codec.PackEvents(body)
	}
	return s.codec.Pack(body)
}

// ErrUnknown: a parcel refers to something that this side does not remember. Want it Raw, or start a new session.
var ErrUnknown = errors.New("refers to what this session does not know")

// Ticket is what a message explained; hand it to Arrived when the transport says that the message did.
type Ticket struct {
	told []told
	sent []place
}

// told is a number explained in a message.
type told struct {
	table  int
	number uint64
}

// lend lets the rest of a message use what a parcel before it in the same message explained. What was lent is noted in
// t, for takeBack at the message's end.
func (s *Session) lend(t *Ticket, w *writer) {
	for _, e := range w.told {
		if n, ok := s.out[e.table].names[e.number]; ok && !n.arrived {
			n.arrived = true
			s.out[e.table].names[e.number] = n
			t.told = append(t.told, e)
		}
	}
	for _, p := range w.sent {
		if k, ok := s.recall(p); ok && !k.arrived {
			k.arrived = true
			s.trail[p.log].seqs[p.seq] = k
			t.sent = append(t.sent, p)
		}
	}
}

// takeBack undoes lend.
func (s *Session) takeBack(t Ticket) {
	for _, e := range t.told {
		if n, ok := s.out[e.table].names[e.number]; ok {
			n.arrived = false
			s.out[e.table].names[e.number] = n
		}
	}
	for _, p := range t.sent {
		if k, ok := s.recall(p); ok {
			k.arrived = false
			s.trail[p.log].seqs[p.seq] = k
		}
	}
}

// Arrived marks what a message explained as known to the far end. Call it only for messages of this session, when the
// transport's done said nil.
func (s *Session) Arrived(t Ticket) {
	for _, e := range t.told {
		if n, ok := s.out[e.table].names[e.number]; ok {
			n.arrived = true
			s.out[e.table].names[e.number] = n
		}
	}
	for _, p := range t.sent {
		if tr := s.trail[p.log]; tr != nil {
			if k, ok := tr.seqs[p.seq]; ok {
				k.arrived = true
				tr.seqs[p.seq] = k
			}
		}
	}
}

// ref writes a name: its number alone once the far end has it, else number and explanation. The two low bits say
// whether an explanation follows and whose numbering it is. base is that of a name first told now; the one in force is
// given back.
func (w *writer) ref(table int, value any, base uint64, explain func(base uint64)) uint64 {
	if w.inline {
		w.uvarint(1)
		explain(0)
		return 0
	}
	if number, ok := w.s.in[table].of[value]; ok {
		w.uvarint(number<<2 | 2)
		return w.s.in[table].names[number].base
	}
	out := &w.s.out[table]
	number, ok := out.of[value]
	if !ok {
		size := sizeOf(value)
		if len(out.names) >= maxEntries-1 || size > maxName || w.s.size[0]+size > maxNames {
			w.uvarint(1)
			explain(0)
			return 0
		}
		w.s.size[0] += size
		number = uint64(len(out.names)) + 1
		out.put(number, name{value: value, base: base})
	}
	n := out.names[number]
	if w.clear(n, told{table, number}) {
		w.uvarint(number << 2)
		return n.base
	}
	w.uvarint(number<<2 | 1)
	explain(n.base)
	w.told = append(w.told, told{table, number})
	return n.base
}

// deref reads a name; explain reads its explanation where one follows, with the base where the table has one.
func deref[T comparable](r *reader, table int, explain func() (T, uint64)) (T, uint64) {
	var zero T
	v := r.uvarint()
	number := v >> 2
	if v&1 == 0 {
		side := &r.s.in[table]
		if v&2 != 0 {
			side = &r.s.out[table]
		}
		n := side.names[number]
		if got, ok := n.value.(T); ok {
			return got, n.base
		}
		r.fail(ErrUnknown)
		return zero, 0
	}
	got, base := explain()
	switch {
	case r.err != nil:
		return zero, 0
	case number == 0 || r.s.tag == 0 || r.s.dry:
	case number >= maxEntries || sizeOf(got) > maxName:
		r.fail(errors.New("name out of range"))
		return zero, 0
	case r.s.in[table].names[number].value != any(got):
		if r.s.size[1] += sizeOf(got); r.s.size[1] > 2*maxNames {
			r.fail(errors.New("too many names"))
			return zero, 0
		}
		r.s.in[table].put(number, name{value: got, base: base})
	}
	return got, base
}

// remember keeps an event as something later ones may be derived from.
func (s *Session) remember(p place, k known) {
	if s.tag == 0 || p.log.box == "" {
		return
	}
	t := s.trail[p.log]
	if t == nil {
		if len(s.trail) >= maxLogs {
			return
		}
		t = &trail{seqs: make(map[uint64]known)}
		s.trail[p.log] = t
	}
	if old, ok := t.seqs[p.seq]; ok && old.id == k.id {
		k.arrived = k.arrived || old.arrived
	}
	t.seqs[p.seq] = k
	s.byID[k.id] = p
	t.top = max(t.top, p.seq)
	if len(t.seqs) > 2*maxRecent {
		for seq, old := range t.seqs {
			if seq+maxRecent < t.top {
				delete(t.seqs, seq)
				delete(s.byID, old.id)
			}
		}
	}
}

// recall gives an event of a log that both sides may derive from.
func (s *Session) recall(p place) (known, bool) {
	if t := s.trail[p.log]; t != nil {
		k, ok := t.seqs[p.seq]
		return k, ok
	}
	return known{}, false
}
