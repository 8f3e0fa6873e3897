// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// seenEvery is how long a contact may wait to be written: what a crash takes back.
const seenEvery = 20 * time.Second

type contact struct {
	server       string
	at           time.Time
	way, version string
	health       json.RawMessage
}

// seen holds contacts that are not written yet, the newest of each box.
type seen struct {
	mu  sync.Mutex
	box map[string]contact
}

func (s *seen) note(c contact) {
	c.way, c.version = plain(c.way), plain(c.version)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.box == nil {
		s.box = make(map[string]contact)
	}
	if !c.at.Before(s.box[c.server].at) {
		s.box[c.server] = c
	}
}

// unwritten gives what is to be written, in the order of names, so that nodes which write at once do not wait for each other in a ring.
func (s *seen) unwritten() []contact {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.box), func(a, b contact) int { return strings.Compare(a.server, b.server) })
}

// written forgets contacts that are stored now, where no newer one came meanwhile.
func (s *seen) written(cs []contact) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range cs {
		if s.box[c.server].at.Equal(c.at) {
			delete(s.box, c.server)
		}
	}
}

// over lays what is not written yet over entries as stored.
func (s *seen) over(boxes ...*Box) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range boxes {
		if c, ok := s.box[b.Server]; ok && c.at.After(b.Seen) {
			b.Seen, b.Way, b.Version, b.Health = c.at, c.way, c.version, c.health
		}
	}
}
