// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"errors"
	"fmt"

	"hallig/appliance/event"
)

// Wire format of a message: the session's tag (1 byte), then parcels. A parcel: one byte kind<<4 | last<<3 | form, a
// uvarint length unless last, and the kind's bytes. form is used by events and EDUs, else 0. A kind from firstWide on does
// not fit: kind 0 stands there, and the kind is the first of its bytes.
const (
	lastBit   = 1 << 3
	firstWide = 16
)

// Encode writes as many of the parcels, from the front, as fit into limit bytes; at least one, whatever its size, unless
// it exceeds MaxMessage. It says how many it took. The ticket is for Arrived.
func (s *Session) Encode(limit int, parcels ...Parcel) (msg []byte, took int, ticket Ticket, err error) {
	limit = min(limit, MaxMessage)
	msg = []byte{s.tag}
	lastAt := -1 // where the head of the last parcel stands
	var lent Ticket
	defer func() { s.takeBack(lent) }()
	for i, p := range parcels {
		p = s.settled(p, &ticket)
		w := &writer{s: s, inline: s.tag == 0, before: &ticket}
		form, err := s.encode(w, p)
		if err != nil {
			if took > 0 {
				break // the caller hears of it when it is the first
			}
			return nil, 0, Ticket{}, fmt.Errorf("encode parcel of kind %d: %w", p.Kind(), err)
		}
		head := []byte{byte(p.Kind())<<4 | form}
		if p.Kind() >= firstWide {
			head = []byte{form, byte(p.Kind())}
		}
		size := len(msg) + len(head) + len(w.b)
		if lastAt >= 0 {
			size += uvarintLen(uint64(len(msg) - lastAt - 1))
		}
		if i > 0 && size > limit {
			break
		}
		if size > MaxMessage {
			return nil, 0, Ticket{}, fmt.Errorf("encode parcel of kind %d: %d bytes are more than a message holds", p.Kind(), size)
		}
		if lastAt >= 0 {
			msg = withLength(msg, lastAt)
		}
		lastAt = len(msg)
		msg = append(append(msg, head...), w.b...)
		ticket.told = append(ticket.told, w.told...)
		ticket.sent = append(ticket.sent, w.sent...)
		took++
		s.went(p)
		s.lend(&lent, w) // whoever reads the next parcel of this message has read this one
	}
	if lastAt < 0 {
		return nil, 0, Ticket{}, errors.New("encode message: no parcels")
	}
	msg[lastAt] |= lastBit
	return msg, took, ticket, nil
}

// withLength puts the length of the parcel that starts at head, and reaches to the end, behind its head.
func withLength(msg []byte, head int) []byte {
	body := append([]byte(nil), msg[head+1:]...)
	w := writer{b: msg[:head+1]}
	w.block(body)
	return w.b
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

func (s *Session) encode(w *writer, p Parcel) (form byte, err error) {
	switch p := p.(type) {
	case *Hello:
		w.hello(p)
	case *Event:
		return s.encodeEvent(w, p)
	case *EDU:
		if x, ok := parseReceipt(p.Content); ok && p.Type == typeReceipt && p.Origin == "" && s.tag != 0 {
			w.receipt(p.Seq, x)
			return formReceipt, nil
		}
		if s.two && s.encodeEDU(w, p) {
			return formShaped, nil
		}
		w.uvarint(p.Seq)
		w.name(p.Type)
		w.name(p.Origin)
		w.raw(s.codec.Pack(p.Content))
	case *Request:
		if s.two && !p.More && s.encodeRequest(w, p) {
			return formHTTP, nil
		}
		w.uvarint(uint64(p.ID))
		w.name(p.To)
		w.name(p.Method)
		w.bool(p.More)
		w.header(p.Header)
		w.httpRest(p.Target, p.Body, p.More)
	case *Response:
		if s.two && !p.More && s.encodeResponse(w, p) {
			return formHTTP, nil
		}
		w.uvarint(uint64(p.ID))
		w.uvarint(uint64(p.Status))
		w.bool(p.More)
		w.header(p.Header)
		w.httpRest("", p.Body, p.More)
	case *Chunk:
		w.uvarint(uint64(p.ID))
		w.byte(flags(p.Answer, p.Last))
		w.uvarint(p.Offset)
		w.raw(p.Data)
	case *Seen:
		w.seen(p)
	case *Kept:
		w.kept(p)
	case *Want:
		w.want(p)
	case *Notice:
		return 0, w.notice(p)
	case *Signature:
		if !s.signs(w, p.Event) {
			return 0, errors.New("the event does not come out of its notice")
		}
		s.sent(w, p.Event)
	case *Keys:
		w.raw(s.codec.Pack(p.Document))
	case *Bye:
		w.bool(p.Lost)
		w.raw([]byte(p.Reason))
	case *Sketch:
		w.raw(p.Body)
	case *Sealed:
		return 0, w.sealed(p)
	case *Broadcast:
		w.broadcast(p)
	case *Forward:
		return 0, w.forward(p)
	case *Send:
		return 0, w.send(p)
	default:
		return 0, fmt.Errorf("%T is not for sending", p)
	}
	return 0, nil
}

func flags(bits ...bool) (b byte) {
	for i, set := range bits {
		if set {
			b |= 1 << i
		}
	}
	return b
}

func (w *writer) hello(p *Hello) {
	w.byte(p.Step<<4 | p.Clock&0x0f)
	w.raw(p.From[:])
	w.uint32(p.Session)
	w.uint32(p.Yours)
	w.uvarint(uint64(p.Features))
	w.raw(p.Model[:])
	w.raw(p.Noise)
}

// httpRest packs what is free text in a request: the target and the body. A body that is continued in chunks is the
// beginning of packed bytes already and is not packed again.
func (w *writer) httpRest(target string, body []byte, more bool) {
	inner := writer{}
	inner.text(target)
	if more {
		w.block(w.s.codec.Pack(inner.b))
		w.raw(body)
		return
	}
	inner.raw(body)
	w.raw(w.s.Pack(inner.b))
}

func (w *writer) kept(p *Kept) {
	w.uvarint(uint64(len(p.Vectors))<<2 | uint64(flags(p.EDUs != 0, p.All)))
	if p.EDUs != 0 {
		w.uvarint(p.EDUs)
	}
	for _, v := range p.Vectors {
		w.place(logName{v.Room, v.Box, v.Epoch}, v.Upto)
	}
}

func (w *writer) want(p *Want) {
	w.uvarint(uint64(len(p.IDs))<<1 | uint64(flags(p.Raw)))
	if len(p.IDs) > 0 {
		w.room(p.Room)
		for _, id := range p.IDs {
			w.hash(string(id), '$') // an id asked for once is not worth a number
		}
	}
	w.uvarint(uint64(len(p.Ranges)))
	for _, g := range p.Ranges {
		w.place(logName{g.Room, g.Box, g.Epoch}, g.From)
		w.varint(int64(g.To - g.From))
	}
}

// The forms of an event parcel.
const (
	formRaw     = 0 // name of the version, optional log position, canonical JSON
	formPacked  = 1 // the same, JSON packed
	formCompact = 2 // see codec.go
	formSecond  = 3 // the same of version 2
)

func (s *Session) encodeEvent(w *writer, p *Event) (byte, error) {
	if p.PDU == nil || len(p.PDU.JSON()) > event.MaxSize {
		return 0, errors.New("no event, or too large")
	}
	if !p.Raw && s.tag != 0 && s.encodeCompact(w, p) {
		s.sent(w, p)
		if s.two {
			return formSecond, nil
		}
		return formCompact, nil
	}
	w.inline = w.inline || p.Raw
	w.name(p.PDU.Version.ID)
	w.bool(p.Log.Box != "")
	if p.Log.Box != "" {
		w.place(logName{p.PDU.RoomID, p.Log.Box, p.Log.Epoch}, p.Log.Seq)
	}
	if packed := s.codec.Pack(p.PDU.JSON()); packed[0] != 0 {
		w.raw(packed)
		s.sent(w, p)
		return formPacked, nil
	}
	w.raw(p.PDU.JSON())
	s.sent(w, p)
	return formRaw, nil
}

// sent remembers an event that goes out, as one the far end will know when the message has arrived.
func (s *Session) sent(w *writer, p *Event) {
	at := place{logName{p.PDU.RoomID, p.Log.Box, p.Log.Epoch}, p.Log.Seq}
	s.remember(at, known{id: p.PDU.ID, depth: p.PDU.Depth, ts: p.PDU.TS})
	w.sent = append(w.sent, at)
}
