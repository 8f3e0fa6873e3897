// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"sync"
)

// This file has one transaction of a server under way to another at a time. A Synapse answers a second one 429, and the box, or its letter, waits for longer than the first would have taken. Two would be there
// when a box dies over its transaction, which the hub sees through, and sends the next when it is back; when it gives a sign of life while a letter is being brought; and when the hub itself sends what two
// boxes have left for one server.

// pair is who sends, and to whom.
type pair struct{ origin, to string }

// singles are the transactions that are under way or wait, of this node.
type singles struct {
	mu sync.Mutex
	of map[pair]*single
}

type single struct {
	place chan struct{} // whoever is in it is under way
	all   int           // with those that wait; under singles.mu
}

// enter waits until nothing else of origin is under way to a server. leave is called once, when the server has answered or will not any more. An error is that of ctx, and nobody has entered.
func (s *singles) enter(ctx context.Context, origin, to string) (leave func(), err error) {
	k := pair{origin, to}
	s.mu.Lock()
	if s.of == nil {
		s.of = map[pair]*single{}
	}
	one := s.of[k]
	if one == nil {
		one = &single{place: make(chan struct{}, 1)}
		s.of[k] = one
	}
	one.all++
	s.mu.Unlock()
	gone := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if one.all--; one.all == 0 {
			delete(s.of, k)
		}
	}
	select {
	case one.place <- struct{}{}:
		return func() { <-one.place; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, ctx.Err()
	}
}
