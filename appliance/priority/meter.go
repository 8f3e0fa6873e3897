// SPDX-License-Identifier: EUPL-1.2

package priority

import "time"

// Meter counts what senders have had, for the limits. The zero Meter is ready; it is not safe for concurrent use and bounded: where it has forgotten a sender, they begin
// anew.
type Meter struct {
	had map[meterKey][]time.Time // oldest first
}

type meterKey struct {
	room, sender string
	level        Level
}

// maxMetered is how many senders are remembered.
const maxMetered = 2048

// Take gives the most urgent level, not above asked, that a sender of that power may have and whose limit is not used up, and counts it.
func (m *Meter) Take(now time.Time, room, sender string, p *Policy, asked Level, power int64) Level {
	for l := p.May(asked, power); l < Routine; l = p.May(l+1, power) {
		if p.Most[l] == 0 || m.take(now, meterKey{room, sender, l}, p.Most[l]) {
			return l
		}
	}
	return max(Routine, min(asked, Bulk))
}

func (m *Meter) take(now time.Time, k meterKey, most int) bool {
	had := m.had[k]
	for len(had) > 0 && now.Sub(had[0]) >= Window {
		had = had[1:]
	}
	ok := len(had) < most
	if ok {
		had = append(had, now)
	}
	if m.had == nil {
		m.had = make(map[meterKey][]time.Time)
	}
	if len(m.had) >= maxMetered {
		m.forget(now)
	}
	m.had[k] = had
	return ok
}

// forget drops those whose window has passed; where that is not enough, all.
func (m *Meter) forget(now time.Time) {
	for k, had := range m.had {
		if len(had) == 0 || now.Sub(had[len(had)-1]) >= Window {
			delete(m.had, k)
		}
	}
	if len(m.had) >= maxMetered {
		clear(m.had)
	}
}
