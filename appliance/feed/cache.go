// SPDX-License-Identifier: EUPL-1.2

package feed

import "sync"

// cache is a map of bounded size. When it is full, the older half goes: two generations, of which the elder is dropped.
type cache[K comparable, V any] struct {
	mu       sync.Mutex
	limit    int
	now, old map[K]V
}

func newCache[K comparable, V any](limit int) *cache[K, V] {
	return &cache[K, V]{limit: limit / 2, now: make(map[K]V)}
}

func (c *cache[K, V]) find(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.now[k]; ok {
		return v, true
	}
	v, ok := c.old[k]
	if ok {
		c.putLocked(k, v)
	}
	return v, ok
}

func (c *cache[K, V]) put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(k, v)
}

func (c *cache[K, V]) putLocked(k K, v V) {
	if len(c.now) >= c.limit {
		c.old, c.now = c.now, make(map[K]V)
	}
	c.now[k] = v
}
