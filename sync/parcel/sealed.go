// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"encoding/binary"
	"errors"

	"hallig/sync/peer"
)

// What boxes carry for each other. The numbers are wire format.
const (
	KindSealed  Kind = 11
	KindForward Kind = 15
)

// FeatureRelay: the box takes sealed parcels for others.
const FeatureRelay uint32 = 1 << 2

// Origin is who sealed a parcel, and in which life: Epoch is drawn at each of its starts, and numbers count anew.
type Origin struct {
	Box   peer.ID
	Epoch uint64
}

// Sealed is a parcel that only the box To can read. To, Origin and Seq name it between a giver and a taker; that it is the one its writer made only the reader
// can tell, so several may bear one name.
// Once a link knows the two boxes, all but Body takes about eight bytes:
//
//	to, origin (handles)  seq  priority(3 bits) hops(5 bits)  life(1)  body
//
// Life is how long it is still worth carrying (LifeOf), counted down by each holder while it runs; Hops how often it was handed
// on. Both are written by holders and proved by nobody.
type Sealed struct {
	To       peer.ID
	From     Origin
	Seq      uint64
	Priority int
	Hops     int
	Life     byte
	Body     []byte
}

// MaxHops is the most that a parcel can count.
const MaxHops = 31

// With is what the seal binds to the body.
func (p *Sealed) With() []byte { return []byte{byte(p.Priority)} }

// Custody groups names of sealed parcels.
type Custody struct {
	To   peer.ID
	From Origin
	Seqs []uint64 // rising
}

// Reach is how near a box is to a neighbour: see sync/relay for the meaning of Cost.
type Reach struct {
	Box  peer.ID
	Cost byte
}

// Forward is what neighbours tell each other about the parcels that they carry.
//
//	Taken  parcels that the speaker answers for from now on: stored, or its own and read
//	Seen   parcels that it had before and has handed on: it does not take them again
//	Full   parcels that it has no room for
//	Done   parcels up to the (only) number that are over, said by their writer or by their reader
//	Reach  which boxes the speaker reaches, as far as that has changed
type Forward struct {
	Taken, Seen, Full, Done []Custody
	Reach                   []Reach
}

// Empty says whether there is nothing to tell.
func (p *Forward) Empty() bool {
	return len(p.Taken)+len(p.Seen)+len(p.Full)+len(p.Done)+len(p.Reach) == 0
}

func (*Sealed) Kind() Kind  { return KindSealed }
func (*Forward) Kind() Kind { return KindForward }

// origin writes a box with its life as one name.
func (w *writer) origin(o Origin) error {
	key, err := o.Box.Key()
	if err != nil {
		return err
	}
	w.name(string(binary.BigEndian.AppendUint64(append([]byte(nil), key...), o.Epoch)))
	return nil
}

func (r *reader) origin() Origin {
	s := r.name()
	if r.err == nil && len(s) != 40 {
		r.fail(errors.New("an origin that is none"))
	}
	if r.err != nil {
		return Origin{}
	}
	return Origin{peer.IDOf([]byte(s[:32])), binary.BigEndian.Uint64([]byte(s[32:]))}
}

func (w *writer) sealed(p *Sealed) error {
	if p.Priority < Flash || p.Priority > Bulk || p.Hops < 0 || p.Hops > MaxHops {
		return errors.New("a sealed parcel with an impossible head")
	}
	w.box(p.To)
	if err := w.origin(p.From); err != nil {
		return err
	}
	w.uvarint(p.Seq)
	w.byte(byte(p.Priority<<5 | p.Hops))
	w.byte(p.Life)
	w.raw(p.Body)
	return nil
}

func (r *reader) sealed() *Sealed {
	p := &Sealed{To: r.box(), From: r.origin(), Seq: r.uvarint()}
	b := r.byte()
	p.Priority, p.Hops = int(b>>5), int(b&MaxHops)
	p.Life, p.Body = r.byte(), r.rest()
	if p.Priority > Bulk {
		r.fail(errors.New("unknown priority"))
	}
	return p
}

const (
	forwardTaken = iota
	forwardSeen
	forwardFull
	forwardDone
	forwardLists
)

func (p *Forward) lists() [forwardLists]*[]Custody {
	return [...]*[]Custody{&p.Taken, &p.Seen, &p.Full, &p.Done}
}

func (w *writer) forward(p *Forward) error {
	n := 0
	for _, list := range p.lists() {
		n += len(*list)
	}
	w.uvarint(uint64(n))
	for what, list := range p.lists() {
		for _, c := range *list {
			w.byte(byte(what))
			w.box(c.To)
			if err := w.origin(c.From); err != nil {
				return err
			}
			w.uvarint(uint64(len(c.Seqs)))
			last := uint64(0)
			for _, seq := range c.Seqs {
				w.uvarint(seq - last)
				last = seq
			}
		}
	}
	w.uvarint(uint64(len(p.Reach)))
	for _, x := range p.Reach {
		w.box(x.Box)
		w.byte(x.Cost)
	}
	return nil
}

func (r *reader) forward() *Forward {
	p := &Forward{}
	lists := p.lists()
	for range r.count() {
		what := r.byte()
		c := Custody{To: r.box(), From: r.origin()}
		last := uint64(0)
		for range r.count() {
			last += r.uvarint()
			c.Seqs = append(c.Seqs, last)
		}
		if r.err != nil || what >= forwardLists {
			r.fail(errors.New("unknown answer"))
			return nil
		}
		*lists[what] = append(*lists[what], c)
	}
	for range r.count() {
		p.Reach = append(p.Reach, Reach{r.box(), r.byte()})
		if r.err != nil {
			return nil
		}
	}
	return p
}
