// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"context"
	"fmt"

	"hallig/appliance/event"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// The types of EDU parcels that the exchange itself uses, as on a link.
const (
	eduHello     = "hallig.hello"     // recon.Hello
	eduNote      = "hallig.note"      // recon.Note
	eduStatement = "hallig.statement" // peer.State
)

const (
	perMessage = 32 << 10 // bytes of one message
	atOnce     = 128      // parcels that are offered to one
)

// builder fills a segment.
type builder struct {
	c       *Courier
	p       peer.Peer
	s       *segment
	session *parcel.Session
	waiting []parcel.Parcel
	size    int // of the messages
	events  int
	covers  map[logName]parcel.Vector
	told    []told
	met     map[peer.ID]bool
	docs    map[string]bool
}

type logName struct {
	room  event.RoomID
	box   peer.ID
	epoch uint32
}

func (c *Courier) build(p peer.Peer, kind byte) *builder {
	s := &segment{kind: kind, exporter: c.self, reader: p.ID, epoch: c.c.Outbox.Epoch(), nonce: [2]uint32{draw(), draw()}}
	return &builder{c: c, p: p, s: s, session: c.c.Codec.Session(s.nonce[0], s.nonce[1]), covers: map[logName]parcel.Vector{},
		met: map[peer.ID]bool{}, docs: map[string]bool{c.c.Server: true, p.Server: true}}
}

// add adds parcels, in messages that are as full as they may be.
func (b *builder) add(ps ...parcel.Parcel) error {
	b.waiting = append(b.waiting, ps...)
	if len(b.waiting) < atOnce {
		return nil
	}
	return b.drain(atOnce / 2)
}

// flush writes what waits.
func (b *builder) flush() error { return b.drain(0) }

func (b *builder) drain(to int) error {
	for len(b.waiting) > to {
		msg, took, ticket, err := b.session.Encode(perMessage, b.waiting...)
		if err != nil {
			// It cannot be written in any form; the link drops it as well.
			b.c.log.Error("parcel could not be written and stays here", "peer", b.p.Server, "kind", b.waiting[0].Kind(), "err", err)
			b.waiting = b.waiting[1:]
			continue
		}
		b.session.Arrived(ticket) // whoever reads the next message has read this one
		b.s.messages = append(b.s.messages, msg)
		b.size += len(msg) + 3
		b.waiting = b.waiting[took:]
	}
	return nil
}

// items adds what a feed gives.
func (b *builder) items(ctx context.Context, items []outbox.Item) error {
	for _, it := range items {
		if it.Skip != nil {
			n := recon.Note{Skips: []recon.Range{*it.Skip}}
			b.introduce(&n, it.Box)
			if err := b.add(&parcel.EDU{Type: eduNote, Content: n.Append(nil)}); err != nil {
				return err
			}
		}
		if it.Event == nil {
			continue
		}
		if err := b.key(ctx, it.Event.PDU.Sender.Server()); err != nil {
			return err
		}
		if err := b.add(it.Event); err != nil {
			return err
		}
		b.events++
		b.told = append(b.told, told{it.Room, it.ID, ""})
		if v := it.At(); v.Upto > 0 {
			b.covers[logName{v.Room, v.Box, v.Epoch}] = v
		}
	}
	return nil
}

// introduce names a box in full that the reader may never have met.
func (b *builder) introduce(n *recon.Note, id peer.ID) {
	key, err := id.Key()
	if id == b.c.self || id == b.p.ID || b.met[id] || err != nil {
		return
	}
	b.met[id] = true
	n.Boxes = append(n.Boxes, [32]byte(key))
}

// key adds the key document of a server whose events follow, once.
func (b *builder) key(ctx context.Context, server string) error {
	if b.docs[server] || b.c.c.KeyDocument == nil {
		return nil
	}
	b.docs[server] = true
	if doc := b.c.c.KeyDocument(ctx, server); doc != nil {
		return b.add(&parcel.Keys{Document: doc})
	}
	return nil
}

// letters writes what is said anew with each export: where this box stands, who it is, what it asks for, and the queued EDUs.
func (e *export) letters(ctx context.Context, p peer.Peer, box *BoxReport) error {
	c := e.c
	serial, err := c.serial(ctx, e.seen)
	if err != nil {
		return err
	}
	b, err := c.greet(ctx, p)
	if err != nil {
		return err
	}
	var fresh []*segment
	after := uint64(0)
	for {
		b.s.serial = serial
		edus, last, err := c.c.Outbox.Letters(ctx, p, after, aGulp)
		if err != nil {
			return err
		}
		for _, edu := range edus {
			if err := b.add(edu); err != nil {
				return err
			}
		}
		if err := b.flush(); err != nil {
			return err
		}
		box.EDUs += len(edus)
		if last != after && b.size < fillTo {
			after = last
			continue
		}
		fresh = append(fresh, b.s)
		if last == after {
			break
		}
		after = last
		b = c.build(p, kindLetter)
		b.s.after = after
	}
	return e.replace(p, fresh, box)
}

// greet begins a letter.
func (c *Courier) greet(ctx context.Context, p peer.Peer) (*builder, error) {
	b := c.build(p, kindLetter)
	h, err := c.c.Outbox.Greeting(ctx, p)
	if err != nil {
		return nil, err
	}
	h.Session, b.s.epoch = 1, h.Epoch // there is no conversation
	var ps []parcel.Parcel
	for _, part := range h.Split(perMessage - 1024) {
		ps = append(ps, &parcel.EDU{Type: eduHello, Content: part.Append(nil)})
	}
	if c.c.Statement != nil {
		ps = append(ps, &parcel.EDU{Type: eduStatement, Content: c.c.Statement()})
	}
	if c.c.KeyDocument != nil {
		if doc := c.c.KeyDocument(ctx, c.c.Server); doc != nil {
			ps = append(ps, &parcel.Keys{Document: doc})
		}
	}
	if c.c.KeepMedia != nil {
		edu, err := c.tellMedia(ctx, p)
		if err != nil {
			return nil, err
		}
		if edu != nil {
			ps = append(ps, edu)
		}
	}
	for _, w := range c.asks[p.ID] {
		ps = append(ps, w)
	}
	if err := b.add(ps...); err != nil {
		return nil, fmt.Errorf("write letter: %w", err)
	}
	return b, nil
}

// replace puts new letters in the place of the old ones.
func (e *export) replace(p peer.Peer, fresh []*segment, box *BoxReport) error {
	old := e.x.entries
	e.x = &index{epoch: e.x.epoch, serial: e.x.serial, slot: e.x.slot}
	for _, s := range fresh {
		if err := e.write(s, entry{}); err != nil {
			e.x.entries = old
			return err
		}
		box.Segments++
	}
	for _, it := range old {
		if it.kind == kindLetter && it.reader == p.ID.Brief() {
			e.gone = append(e.gone, it.name(e.c.self))
			continue
		}
		e.x.entries = append(e.x.entries, it)
	}
	return nil
}

// explain leaves a word for who finds the stick.
func explain(d Disk, self peer.ID) error {
	const name = "LIESMICH.txt"
	if _, err := d.Read(name, int64(len(finder)), int64(len(finder))); err == nil {
		return nil
	}
	return put(d, brief(self), name, []byte(finder))
}

const finder = "Dieser Stick trägt Nachrichten zwischen Hallig-Boxen. Der Inhalt ist verschlüsselt und nur für die Boxen lesbar.\r\n" +
	"Wer ihn findet: bitte bei der nächsten Feuerwehr oder Gemeinde abgeben.\r\n\r\n" +
	"This stick carries messages between Hallig boxes. Its content is encrypted; only the boxes can read it.\r\n" +
	"If you find it, please hand it in at the nearest fire station or town hall.\r\n"
