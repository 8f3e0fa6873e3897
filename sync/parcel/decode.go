// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"errors"
	"fmt"

	"hallig/appliance/event"
)

// ErrSession: the message belongs to another session, or to none where one is needed. The answer is a hello.
var ErrSession = errors.New("message of another session")

// Decode reads a message. What cannot be read stands as *Broken in its place; an error means that nothing could be. The
// parcels may keep parts of msg.
func (s *Session) Decode(msg []byte) ([]Parcel, error) {
	if len(msg) < 2 || len(msg) > MaxMessage {
		return nil, fmt.Errorf("decode message: length %d", len(msg))
	}
	if msg[0] != 0 && msg[0] != s.tag {
		return nil, fmt.Errorf("decode message: %w", ErrSession)
	}
	reads := s
	if msg[0] == 0 {
		reads = s.codec.Bare()
	}
	reads.letters = 0
	var out []Parcel
	for b := msg[1:]; ; {
		head := b[0]
		r := reader{b: b[1:], s: reads}
		b = nil
		if head&lastBit == 0 {
			body := r.block()
			if r.err != nil || len(r.b) == 0 {
				return out, fmt.Errorf("decode message: %w", errShort)
			}
			b = r.b
			r.b = body
		}
		kind := Kind(head >> 4)
		if kind == 0 {
			if kind = Kind(r.byte()); kind < firstWide {
				r.fail(fmt.Errorf("kind %d in two bytes", kind))
			}
		}
		out = append(out, reads.decode(&r, kind, head&7))
		if b == nil {
			return out, nil
		}
	}
}

// decode reads one parcel.
func (s *Session) decode(r *reader, kind Kind, form byte) Parcel {
	var p Parcel
	switch kind {
	case KindHello:
		p = r.hello()
	case KindEvent:
		return s.decodeEvent(r, form)
	case KindEDU:
		if form == formReceipt {
			p = r.receipt()
			break
		}
		if r.two = form == formShaped; r.two {
			p = r.edu()
			break
		}
		e := &EDU{Seq: r.uvarint(), Type: r.name(), Origin: r.name()}
		e.Content = r.unpack(r.rest(), event.MaxSize)
		p = e
	case KindRequest:
		r.two = form == formHTTP
		q := &Request{ID: uint32(r.uvarint()), To: r.name(), Method: r.name(), More: r.bool(), Header: r.header()}
		if r.two {
			q.Target, q.Body = r.shapedRest()
		} else {
			q.Target, q.Body = r.httpRest(q.More)
		}
		p = q
	case KindResponse:
		r.two = form == formHTTP
		a := &Response{ID: uint32(r.uvarint()), Status: int(min(r.uvarint(), 999)), More: r.bool(), Header: r.header()}
		if r.two {
			_, a.Body = r.shapedRest()
		} else {
			_, a.Body = r.httpRest(a.More)
		}
		p = a
	case KindChunk:
		c := &Chunk{ID: uint32(r.uvarint())}
		f := r.byte()
		c.Answer, c.Last = f&1 != 0, f&2 != 0
		c.Offset = r.uvarint()
		c.Data = r.rest()
		p = c
	case KindSeen:
		p = r.seen()
	case KindKept:
		p = r.kept()
	case KindWant:
		p = r.want()
	case KindKeys:
		p = &Keys{Document: r.unpack(r.rest(), event.MaxSize)}
	case KindNotice:
		p = r.notice()
	case KindSignature:
		return s.decodeSignature(r)
	case KindBye:
		p = &Bye{Lost: r.bool(), Reason: string(r.rest())}
	case KindSketch:
		p = &Sketch{Body: r.rest()}
	case KindSealed:
		p = r.sealed()
	case KindBroadcast:
		p = r.broadcast()
	case KindForward:
		p = r.forward()
	case KindSend:
		p = r.send()
	default:
		r.fail(fmt.Errorf("kind %d is not known here", kind))
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail(errors.New("longer than it says"))
	}
	if r.err != nil {
		return &Broken{What: kind, Err: r.err}
	}
	return p
}

func (r *reader) unpack(packed []byte, limit int) []byte {
	if r.err != nil {
		return nil
	}
	body, err := r.s.codec.Unpack(packed, limit)
	if err != nil {
		r.fail(err)
	}
	return body
}

func (r *reader) hello() *Hello {
	b := r.byte()
	p := &Hello{Step: b >> 4, Clock: b & 0x0f}
	copy(p.From[:], r.take(len(p.From)))
	p.Session, p.Yours = r.uint32(), r.uint32()
	p.Features = uint32(r.uvarint())
	copy(p.Model[:], r.take(len(p.Model)))
	p.Noise = r.rest()
	return p
}

func (r *reader) httpRest(more bool) (target string, body []byte) {
	if more {
		inner := reader{b: r.unpack(r.block(), event.MaxSize)}
		target = inner.text()
		if inner.err != nil {
			r.fail(inner.err)
		}
		return target, r.rest()
	}
	inner := reader{b: r.unpack(r.rest(), maxUnpacked)}
	target = inner.text()
	if inner.err != nil {
		r.fail(inner.err)
	}
	return target, inner.rest()
}

func (r *reader) kept() *Kept {
	v := r.uvarint()
	p := &Kept{All: v&2 != 0}
	if v&1 != 0 {
		p.EDUs = r.uvarint()
	}
	for range r.limited(v >> 2) {
		n, upto := r.place()
		p.Vectors = append(p.Vectors, Vector{n.room, n.box, n.epoch, upto})
	}
	return p
}

// limited checks a number of things that take at least one byte each.
func (r *reader) limited(n uint64) int {
	if n > uint64(len(r.b)) {
		r.fail(errShort)
		return 0
	}
	return int(n)
}

func (r *reader) want() *Want {
	v := r.uvarint()
	p := &Want{Raw: v&1 != 0}
	if n := r.limited(v >> 1); n > 0 {
		p.Room = r.room()
		for range n {
			if r.err != nil {
				return p
			}
			p.IDs = append(p.IDs, event.ID(r.hash("$")))
		}
	}
	for range r.count() {
		n, from := r.place()
		if r.err != nil {
			return p
		}
		p.Ranges = append(p.Ranges, Range{n.room, n.box, n.epoch, from, from + uint64(r.varint())})
	}
	return p
}

func (s *Session) decodeEvent(r *reader, form byte) Parcel {
	var (
		version string
		n       logName
		seq     uint64
		raw     []byte
	)
	switch form {
	case formRaw, formPacked:
		version = r.name()
		if r.bool() {
			n, seq = r.place()
		}
		raw = r.rest()
		if form == formPacked {
			raw = r.unpack(raw, event.MaxSize)
		}
	case formCompact, formSecond:
		r.two = form == formSecond
		version, n, seq, raw = s.decodeCompact(r)
	default:
		r.fail(fmt.Errorf("event form %d is not known here", form))
	}
	broken := func(err error) Parcel {
		return &Broken{What: KindEvent, Room: n.room, Log: LogRef{n.box, n.epoch, seq}, Err: err}
	}
	if r.err != nil {
		return broken(r.err)
	}
	v, ok := event.Lookup(version)
	if !ok {
		return broken(fmt.Errorf("room version %q is not known", version))
	}
	pdu, err := event.Parse(v, raw)
	if err != nil {
		return broken(err)
	}
	if n.box != "" && pdu.RoomID != n.room {
		return broken(errors.New("event is not of the room of its log"))
	}
	s.remember(place{n, seq}, known{id: pdu.ID, depth: pdu.Depth, ts: pdu.TS, arrived: true})
	return &Event{Log: LogRef{n.box, n.epoch, seq}, PDU: pdu}
}
