// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"slices"

	"hallig/appliance/event"
)

// A client takes the last state event it sees in a timeline for the state of the room. Where two halves of a room come together
// again, an event may come up that lost against another: it belongs in the timeline and must not stand. A client that did not
// ask for state_after is told the right state in the state block of its next sync.

type correctionKey struct {
	user   event.UserID
	device string
	room   event.RoomID
}

// correction is what one client has got wrong, with the position of the answer that did it. It is kept in memory only: after
// a restart such a client is right again at the next change or full sync.
type correction struct {
	pos  int64
	keys []stateKey
	told int64 // position of the answer that put it right; 0: not yet
}

func (s *syncer) corrected(id event.RoomID) correctionKey {
	return correctionKey{s.user, s.device, id}
}

// correction gives the keys to put right for a client that has come to since.
func (f *Feed) correction(k correctionKey, since int64) []stateKey {
	c, ok := f.wrong.find(k)
	if !ok || since < c.pos || c.told != 0 && since >= c.told {
		return nil
	}
	return c.keys
}

// correct adds what is due to the state block, and notes what this answer will make the client believe wrongly.
func (s *syncer) correct(id event.RoomID, st *stateChange, pg page, due []stateKey) error {
	if s.after {
		return nil
	}
	for _, k := range due {
		v, err := st.at(k)
		if err != nil {
			return err
		}
		if v != 0 {
			st.values[k] = v
		}
	}
	last := map[stateKey]int64{}
	for _, e := range pg.events {
		if e.StateKey != nil {
			last[stateKey{e.Type, *e.StateKey}] = e.NID
		}
	}
	if len(last)+len(due) == 0 {
		return nil
	}
	var wrong []stateKey
	if len(last) > 0 {
		state, err := s.stateAt(id, s.pos, 0)
		if err != nil {
			return err
		}
		for k, nid := range last {
			n, err := s.f.db.FindStateKey(k.typ, k.key)
			if err != nil {
				return err
			}
			if v := state.Find(n); v != 0 && v != nid {
				wrong = append(wrong, k)
			}
		}
	}
	key := s.corrected(id)
	switch c, _ := s.f.wrong.find(key); {
	case len(wrong) > 0:
		for _, k := range due { // told in the same answer, but it may be lost
			if !slices.Contains(wrong, k) {
				wrong = append(wrong, k)
			}
		}
		s.f.wrong.put(key, correction{pos: s.pos, keys: wrong})
	case len(due) > 0 && c.told == 0:
		c.told = s.pos
		s.f.wrong.put(key, c)
	}
	return nil
}
