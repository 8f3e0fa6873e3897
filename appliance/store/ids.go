// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"hallig/appliance/event"
	"hallig/appliance/store/compact"
)

// A row's JSON names other events by number (package compact). A number means the same event as long as the process lives, also when the
// write that was to bring it failed: then nobody ever asks for it.

// idCache remembers the ids of event numbers, for readers.
type idCache struct {
	mu  sync.Mutex
	ids []idEntry
}

type idEntry struct {
	nid int64
	id  event.ID
}

// idEntries bounds both caches.
const idEntries = 1 << 10

func (c *idCache) find(nid int64) event.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil {
		return ""
	}
	if e := &c.ids[nid&(idEntries-1)]; e.nid == nid {
		return e.id
	}
	return ""
}

func (c *idCache) put(nid int64, id event.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil {
		c.ids = make([]idEntry, idEntries)
	}
	c.ids[nid&(idEntries-1)] = idEntry{nid, id}
}

// written remembers the numbers of events whose rows the writer sees. It is the writer's own and forgets all when a write is undone.
type written []idEntry

func slot(id []byte) int {
	var b [8]byte
	copy(b[:], id[max(0, len(id)-8):])
	return int(binary.LittleEndian.Uint64(b[:]) * 0x9e3779b97f4a7c15 >> 54) // ten bits
}

func (w written) find(id []byte) int64 {
	if w == nil {
		return 0
	}
	if e := &w[slot(id)]; string(e.id) == string(id) {
		return e.nid
	}
	return 0
}

func (w *written) put(nid int64, id event.ID) {
	if *w == nil {
		*w = make(written, idEntries)
	}
	(*w)[slot([]byte(id))] = idEntry{nid, event.ID(strings.Clone(string(id)))} // it may point into a whole event
}

func (e *Event) columns() *compact.Columns {
	return &compact.Columns{NID: e.NID, ID: string(e.ID), Room: string(e.Room), Sender: string(e.Sender), Type: e.Type, StateKey: e.StateKey, Depth: e.Depth, TS: e.TS}
}

// packed is the form in which the row of e keeps an event's JSON, valid until the next one is made.
func (tx *Tx) packed(e *Event, json []byte) ([]byte, error) {
	var failed error
	row := tx.db.encoder.Encode(json, e.columns(), func(id []byte) int64 {
		nid := tx.db.written.find(id)
		if nid == 0 {
			var err error
			if nid, err = tx.EventNID(event.ID(id)); err != nil {
				failed = errors.Join(failed, err)
			}
			if nid != 0 {
				tx.db.written.put(nid, event.ID(id))
			}
		}
		return nid
	})
	return row, failed
}

// unpack turns what a row keeps into the JSON.
func (r *Read) unpack(e *Event) error {
	if !compact.IsCompact(e.JSON) {
		return nil
	}
	json, err := compact.Decode(e.JSON, e.columns(), func(nid int64) (string, error) {
		if id := r.db.ids.find(nid); id != "" {
			return string(id), nil
		}
		id, err := r.EventID(nid)
		if err == nil && id == "" {
			err = fmt.Errorf("event number %d is missing", nid)
		}
		if err == nil {
			r.db.ids.put(nid, id)
		}
		return string(id), err
	})
	if err != nil {
		return fmt.Errorf("read event %s: %w", e.ID, err)
	}
	e.JSON = json
	return nil
}
