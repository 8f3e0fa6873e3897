// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"slices"
	"sync"
)

// places are a number of places; whoever has the highest rank of those that wait gets the next one, at equal rank who came first. Safe for concurrent use.
type places struct {
	mu   sync.Mutex
	free int
	wait []*claim // in the order in which they come to a place
}

type claim struct {
	rank int64
	has  chan struct{} // closed when it has got a place
}

func newPlaces(n int) *places { return &places{free: n} }

// take waits for a place.
func (p *places) take(ctx context.Context, rank int64) error {
	p.mu.Lock()
	if p.free > 0 {
		p.free--
		p.mu.Unlock()
		return nil
	}
	c := &claim{rank: rank, has: make(chan struct{})}
	at := slices.IndexFunc(p.wait, func(o *claim) bool { return o.rank < rank })
	if at < 0 {
		at = len(p.wait)
	}
	p.wait = slices.Insert(p.wait, at, c)
	p.mu.Unlock()
	select {
	case <-c.has:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(p.wait, c)
	if i >= 0 {
		p.wait = slices.Delete(p.wait, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 { // it got one in that moment
		p.leave()
	}
	return ctx.Err()
}

// leave gives a place to the next.
func (p *places) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.wait) == 0 {
		p.free++
		return
	}
	close(p.wait[0].has)
	p.wait = p.wait[1:]
}
