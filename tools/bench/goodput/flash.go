// SPDX-License-Identifier: EUPL-1.2

package goodput

import (
	"math/rand/v2"
	"time"

	"hallig/radio/arq"
)

// Flash measures how long flash messages of a size take, in seconds, while end 0 sends a file that never ends: from the moment they
// are queued at random at an end (0: same direction as the file) until the far end has them. The link has to be up.
func (s *Sim) Flash(end, size, count int, seed uint64) (took []float64) {
	rng := rand.New(rand.NewPCG(seed, 5))
	var sent time.Time
	next := s.Now.Add(time.Minute)
	s.On = func(to int, e arq.Event) {
		if to == 1-end && e.Kind == arq.Received && len(e.Message) == size {
			took = append(took, s.Now.Sub(sent).Seconds())
			sent, next = time.Time{}, s.Now.Add(time.Duration(30+rng.IntN(30_000))*time.Millisecond)
		}
	}
	for len(took) < count && s.Ends[end].Up() {
		for s.Ends[0].Free(4) > 0 {
			s.Ends[0].Send(4, make([]byte, 2000), nil)
			s.Kick(0)
		}
		if sent.IsZero() && !next.After(s.Now) {
			sent = s.Now
			s.Ends[end].Send(0, make([]byte, size), nil)
			s.Kick(end)
		}
		limit := s.Now.Add(time.Second)
		if sent.IsZero() && next.Before(limit) && next.After(s.Now) {
			limit = next
		}
		s.Step(limit)
	}
	return took
}
