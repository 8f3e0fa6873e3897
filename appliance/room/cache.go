// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"container/list"
	"crypto/sha256"
	"sync"

	"hallig/appliance/event"
	"hallig/appliance/rules"
)

// thinCache keeps what the law needs of events, least recently used out first, bounded by bytes. Its entries are shared and never changed.
type thinCache struct {
	mu    sync.Mutex
	limit int
	size  int
	byNID map[int64]*list.Element
	byID  map[event.ID]*list.Element
	order *list.List
}

type thinItem struct {
	nid  int64
	thin *rules.Event
	size int
}

func newThinCache(limit int) *thinCache {
	return &thinCache{limit: limit, byNID: make(map[int64]*list.Element), byID: make(map[event.ID]*list.Element), order: list.New()}
}

func thinSize(e *rules.Event) int {
	n := 700 + 64*(len(e.Prev)+len(e.Auth)) + len(e.Sender) + len(e.Type)
	if e.Power != nil {
		n += 2000
	}
	return n
}

func (c *thinCache) nid(nid int64) *rules.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byNID[nid]; e != nil {
		c.order.MoveToFront(e)
		return e.Value.(*thinItem).thin
	}
	return nil
}

func (c *thinCache) id(id event.ID) (*rules.Event, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byID[id]; e != nil {
		c.order.MoveToFront(e)
		it := e.Value.(*thinItem)
		return it.thin, it.nid
	}
	return nil, 0
}

func (c *thinCache) put(nid int64, t *rules.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byNID[nid] != nil {
		return
	}
	it := &thinItem{nid: nid, thin: t, size: thinSize(t)}
	e := c.order.PushFront(it)
	c.byNID[nid], c.byID[t.ID] = e, e
	c.size += it.size
	for c.size > c.limit && c.order.Len() > 1 {
		c.removeLocked(c.order.Back())
	}
}

// drop forgets an event whose stored form has changed (redacted, found its place, accepted after all).
func (c *thinCache) drop(nid int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byNID[nid]; e != nil {
		c.removeLocked(e)
	}
}

// clear forgets all.
func (c *thinCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.byNID)
	clear(c.byID)
	c.order.Init()
	c.size = 0
}

func (c *thinCache) removeLocked(e *list.Element) {
	it := c.order.Remove(e).(*thinItem)
	delete(c.byNID, it.nid)
	delete(c.byID, it.thin.ID)
	c.size -= it.size
}

// txnMemory remembers the last transaction ids, so that a repeated request does not disturb the room's pipeline. The store's table is the truth; this is a shortcut.
type txnMemory struct {
	mu    sync.Mutex
	limit int
	m     map[[16]byte]event.ID
	ring  [][16]byte
	at    int
}

func newTxnMemory(limit int) *txnMemory {
	return &txnMemory{limit: limit, m: make(map[[16]byte]event.ID)}
}

func txnHash(user event.UserID, t *Txn) (k [16]byte) {
	h := sha256.Sum256([]byte(string(user) + "\x00" + t.Device + "\x00" + t.Path + "\x00" + t.ID))
	copy(k[:], h[:])
	return k
}

func (m *txnMemory) find(k [16]byte) event.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.m[k]
}

// put is called after the commit.
func (m *txnMemory) put(k [16]byte, id event.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.m[k]; ok {
		return
	}
	if len(m.ring) < m.limit {
		m.ring = append(m.ring, k)
	} else {
		delete(m.m, m.ring[m.at])
		m.ring[m.at] = k
		m.at = (m.at + 1) % m.limit
	}
	m.m[k] = id
}
