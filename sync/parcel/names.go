// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"encoding/base64"

	"hallig/appliance/event"
	"hallig/sync/peer"
)

// sizeOf is about how much memory a name holds.
func sizeOf(value any) int {
	switch v := value.(type) {
	case string:
		return len(v)
	case event.RoomID:
		return len(v)
	case event.ID:
		return len(v)
	case peer.ID:
		return len(v)
	case logName:
		return len(v.room) + len(v.box)
	case author:
		return len(v.version) + len(v.sender) + len(v.key) + len(v.auth)
	case shape:
		return len(v.typ) + len(v.text)
	case frame:
		return len(v.typ) + len(v.json)
	}
	return maxName + 1 // a table that was forgotten here is not remembered
}

// How each table's names look when they are explained.

func (w *writer) name(s string) {
	w.ref(tableText, s, 0, func(uint64) {
		if w.two {
			w.plain(s, false)
			return
		}
		w.text(s)
	})
}

func (r *reader) name() string {
	s, _ := deref(r, tableText, func() (string, uint64) {
		if r.two {
			return r.plain(), 0
		}
		return r.text(), 0
	})
	return s
}

// hash writes 32 bytes where an id spells them, else the id as text.
func (w *writer) hash(id string, sigil byte) {
	if raw, ok := rawID(id, sigil); ok {
		w.byte(0)
		w.raw(raw)
		return
	}
	if raw, ok := oldID(id, sigil); ok && w.two {
		w.byte(2)
		w.raw(raw)
		return
	}
	w.byte(1)
	w.text(id)
}

func (r *reader) hash(sigil string) string {
	switch r.byte() {
	case 0:
		return sigil + base64.RawURLEncoding.EncodeToString(r.take(32))
	case 2:
		return sigil + base64.RawStdEncoding.EncodeToString(r.take(32))
	}
	return r.text()
}

// oldID is rawID for the other alphabet, in which rooms of version 3 name their events.
func oldID(id string, sigil byte) ([]byte, bool) {
	if len(id) != 44 || id[0] != sigil {
		return nil, false
	}
	raw, err := base64.RawStdEncoding.Strict().DecodeString(id[1:])
	return raw, err == nil && len(raw) == 32 // line feeds are passed over
}

// rawID gives the hash that an id of the form sigil + unpadded URL-safe base64 of 32 bytes spells, if it is one and
// spells it in the one canonical way.
func rawID(id string, sigil byte) ([]byte, bool) {
	if len(id) != 44 || id[0] != sigil {
		return nil, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(id[1:])
	return raw, err == nil && len(raw) == 32 // line feeds are passed over
}

func (w *writer) id(id event.ID) {
	w.ref(tableID, id, 0, func(uint64) { w.hash(string(id), '$') })
}

func (r *reader) id() event.ID {
	id, _ := deref(r, tableID, func() (event.ID, uint64) { return event.ID(r.hash("$")), 0 })
	return id
}

func (w *writer) room(id event.RoomID) {
	w.ref(tableRoom, id, 0, func(uint64) { w.hash(string(id), '!') })
}

func (r *reader) room() event.RoomID {
	id, _ := deref(r, tableRoom, func() (event.RoomID, uint64) { return event.RoomID(r.hash("!")), 0 })
	return id
}

func (w *writer) box(id peer.ID) {
	w.ref(tableBox, id, 0, func(uint64) {
		if key, err := id.Key(); err == nil {
			w.byte(0)
			w.raw(key)
			return
		}
		w.byte(1)
		w.text(string(id))
	})
}

func (r *reader) box() peer.ID {
	id, _ := deref(r, tableBox, func() (peer.ID, uint64) {
		if r.byte() == 0 {
			return peer.IDOf(r.take(32)), 0
		}
		return peer.ID(r.text()), 0
	})
	return id
}

// place writes a position in a log, counted from the log's base: the position that was written when the log was first
// told. So a busy log costs two bytes, not the length of its history.
func (w *writer) place(n logName, seq uint64) {
	base := w.log(n, seq)
	w.varint(int64(seq - base))
}

func (w *writer) log(n logName, seq uint64) uint64 {
	return w.ref(tableLog, n, seq, func(base uint64) {
		w.room(n.room)
		w.box(n.box)
		w.uint32(n.epoch)
		w.uvarint(base)
	})
}

func (r *reader) log() (logName, uint64) {
	return deref(r, tableLog, func() (logName, uint64) {
		n := logName{room: r.room(), box: r.box(), epoch: r.uint32()}
		return n, r.uvarint()
	})
}

func (r *reader) place() (logName, uint64) {
	n, base := r.log()
	return n, base + uint64(r.varint())
}
