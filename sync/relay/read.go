// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"encoding/binary"
	"errors"
	"time"

	"hallig/sync/parcel"
)

// Bounds of what is put together in memory: a part that is pushed out was not answered for to its writer.
const (
	maxParts    = maxMessage/partSize + 1
	maxAssembly = 256 << 10 // of one life of one box
	maxLives    = 4         // of one box
)

// answerAfter is how long an answer waits for something to ride on.
const answerAfter = 8 * time.Second

var errText = errors.New("relay: a sealed text that cannot be read")

// letterIn is the text of a part that was sealed for this box.
type letterIn struct {
	flags    byte
	epoch    uint32 // of ours, that the answer is about
	read     spans
	floor    uint64
	index, n uint64
	rest     []byte
}

func parseText(seq uint64, text []byte) (x letterIn, err error) {
	if len(text) == 0 {
		return x, errText
	}
	x.flags, text = text[0], text[1:]
	if x.flags&^(flagAnswer|flagPart|flagMessage) != 0 {
		return x, errText
	}
	uvarint := func() uint64 {
		v, n := binary.Uvarint(text)
		if n <= 0 {
			err = errText
			return 0
		}
		text = text[n:]
		return v
	}
	if x.flags&flagAnswer != 0 {
		if len(text) < 5 {
			return x, errText
		}
		x.epoch, text = binary.BigEndian.Uint32(text), text[4:]
		n := uvarint()
		if err != nil || n > maxAnswer {
			return x, errText
		}
		var ok bool
		if x.read, text, ok = parseSpans(text, int(n)); !ok {
			return x, errText
		}
	}
	back := uvarint()
	if err != nil || back >= seq {
		return x, errText
	}
	x.floor, x.n = seq-back, 1
	if x.flags&flagPart != 0 {
		x.index, x.n = uvarint(), uvarint()
		if err != nil || x.n > maxParts || x.index >= x.n || x.index >= seq {
			return x, errText
		}
	}
	x.rest = text
	return x, nil
}

// open reads a parcel that is for this box. ok is false when nothing came of it that must be answered for: it can be neither read nor
// mended, or it was read before.
func (r *Relay) open(p *parcel.Sealed, now time.Time) (message []byte, complete []uint64, ok bool) {
	b, err := r.mailbox(p.From.Box)
	if err != nil {
		r.count.Strange++
		return nil, nil, false
	}
	text, err := b.seal.Open(p.From.Epoch, p.Seq, p.With(), p.Body)
	if err != nil {
		r.count.Forged++
		return nil, nil, false
	}
	x, err := parseText(p.Seq, text)
	if err != nil {
		r.count.Forged++
		r.log.Warn("a paired box writes what cannot be read", "box", b.id.Short())
		return nil, nil, false
	}
	if x.flags&flagAnswer != 0 {
		r.answered(b, x.epoch, x.read, now) // old or new, what was read stays read
	}
	h := b.heard[p.From.Epoch]
	if h == nil {
		return nil, nil, false // take has read it from the store, unless that failed
	}
	b.newest = p.From.Epoch
	if h.met.has(p.Seq) {
		r.count.Twice++
		if x.flags&flagMessage != 0 {
			b.answerSoon(now) // the answer may have been lost
		}
		return nil, nil, false
	}
	h.met.raise(x.floor)
	for first := range h.parts {
		if first < x.floor {
			h.drop(first)
		}
	}
	if x.flags&flagMessage == 0 {
		return nil, []uint64{p.Seq}, true
	}
	if x.n == 1 {
		b.answerSoon(now)
		return x.rest, []uint64{p.Seq}, true
	}
	return h.put(p.Seq-x.index, x, func() { b.answerSoon(now) })
}

func (b *mailbox) answerSoon(now time.Time) {
	if b.answerAt.IsZero() {
		b.answerAt = now.Add(answerAfter)
	}
}

// put adds a part of a message; when it was the last one the message and its numbers come out.
func (h *hearing) put(first uint64, x letterIn, whole func()) (message []byte, complete []uint64, ok bool) {
	a := h.parts[first]
	if a == nil {
		a = &assembly{parts: make([][]byte, x.n), lacks: int(x.n)}
		h.parts[first] = a
	}
	if uint64(len(a.parts)) != x.n {
		return nil, nil, false
	}
	if a.parts[x.index] == nil {
		a.parts[x.index] = append([]byte{}, x.rest...)
		a.lacks--
		h.size += len(x.rest)
	}
	if a.lacks > 0 {
		for h.size > maxAssembly { // the oldest goes
			oldest := first
			for f := range h.parts {
				oldest = min(oldest, f)
			}
			h.drop(oldest)
		}
		return nil, nil, true
	}
	for i, part := range a.parts {
		message = append(message, part...)
		complete = append(complete, first+uint64(i))
	}
	h.drop(first)
	whole()
	return message, complete, true
}

func (h *hearing) drop(first uint64) {
	if a := h.parts[first]; a != nil {
		for _, p := range a.parts {
			h.size -= len(p)
		}
		delete(h.parts, first)
	}
}

// answer writes the answers that found nothing to ride on.
func (r *Relay) answer(now time.Time) {
	for _, b := range r.boxes {
		if b.answerAt.IsZero() || now.Before(b.answerAt) {
			continue
		}
		b.last = nil
		l := &letter{to: b.id, priority: parcel.Priority, posted: now, over: now.Add(7 * 24 * time.Hour)}
		if err := r.seal(b, l, 0, nil, nil); err != nil {
			r.log.Error("answer could not be written", "box", b.id.Short(), "err", err)
			b.answerAt = time.Time{}
			continue
		}
		b.last = l
		r.hunger(b.id)
	}
}
