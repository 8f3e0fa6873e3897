// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"encoding/json"
	"maps"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// stateKey names a piece of state.
type stateKey struct{ typ, key string }

// stateChange is what the client is told of a room's state: which event holds each key.
type stateChange struct {
	values  map[stateKey]int64 // at the start of the timeline, or after it
	joins   []event.UserID     // who joined in the window
	leaves  []event.UserID     // who left
	members bool               // any membership changed
	full    bool
	at      func(stateKey) (int64, error) // any key's value at the same place
}

// window is how state changed in a stretch of the stream, as the log of the current state tells it.
type window struct {
	before map[stateKey]int64 // value that the timeline's first change of a key replaced
	base   map[stateKey]int64 // value at the start of the stretch
	last   map[stateKey]int64 // value at its end
}

// window reads the log for (since, to], and further back as far as the timeline goes.
func (s *syncer) window(id event.RoomID, since, to int64, pg page, st *stateChange) (window, error) {
	w := window{before: map[stateKey]int64{}, base: map[stateKey]int64{}, last: map[stateKey]int64{}}
	inTimeline := map[stateKey]map[int64]bool{} // positions at which the timeline changes a key
	lo := since
	for _, e := range pg.events {
		if e.StateKey == nil {
			continue
		}
		k := stateKey{e.Type, *e.StateKey}
		if inTimeline[k] == nil {
			inTimeline[k] = map[int64]bool{}
		}
		inTimeline[k][e.Pos] = true
		lo = min(lo, e.Pos-1)
	}
	deltas, err := s.StateDeltas(id, max(0, lo), to)
	if err != nil {
		return w, err
	}
	for _, d := range deltas {
		k := stateKey{d.Type, d.StateKey}
		if _, ok := w.before[k]; !ok && inTimeline[k][d.Pos] {
			w.before[k] = d.Old
		}
		if d.Pos <= since {
			continue
		}
		if _, ok := w.base[k]; !ok {
			w.base[k] = d.Old
		}
		w.last[k] = d.Event
		if d.Type == "m.room.member" {
			if err := s.memberChange(st, d); err != nil {
				return w, err
			}
		}
	}
	if s.after {
		clear(w.before) // what is told is the state after the timeline
	}
	return w, nil
}

// changes finds what the state block must say so that a client which lays the timeline's state events over it has the state
// at to. group is the state at to, 0: the current one.
func (s *syncer) changes(id event.RoomID, since, to int64, full bool, group int64, pg page) (*stateChange, error) {
	st := &stateChange{values: map[stateKey]int64{}, full: full}
	w, err := s.window(id, since, to, pg, st)
	if err != nil {
		return nil, err
	}
	st.at = func(k stateKey) (int64, error) {
		if v, ok := w.before[k]; ok {
			return v, nil
		}
		n, err := s.f.db.FindStateKey(k.typ, k.key)
		if err != nil {
			return 0, err
		}
		state, err := s.stateAt(id, to, group)
		return state.Find(n), err
	}
	if !full {
		for k, v := range w.last {
			if b, ok := w.before[k]; ok {
				v = b
			}
			if v != 0 && v != w.base[k] {
				st.values[k] = v
			}
		}
		return st, nil
	}
	state, err := s.stateAt(id, to, group)
	if err != nil {
		return nil, err
	}
	for _, x := range state {
		typ, key, err := s.f.db.StateKeyText(x.Key)
		if err != nil {
			return nil, err
		}
		k, v := stateKey{typ, key}, x.Event
		if b, ok := w.before[k]; ok {
			v = b
		}
		if v != 0 {
			st.values[k] = v
		}
	}
	return st, nil
}

// stateAt is the state of a group, or the current one without what came after the look's position.
func (s *syncer) stateAt(id event.RoomID, to, group int64) (store.State, error) {
	if group != 0 {
		return s.Group(group)
	}
	state, err := s.CurrentState(id)
	if err != nil {
		return nil, err
	}
	later, err := s.StateDeltas(id, to, 1<<62)
	if err != nil {
		return nil, err
	}
	for _, d := range slices.Backward(later) {
		k, err := s.f.db.StateKey(d.Type, d.StateKey)
		if err != nil {
			return nil, err
		}
		state = state.With(k, d.Old)
	}
	return state, nil
}

func (s *syncer) memberChange(st *stateChange, d store.StateDelta) error {
	was, err := s.fact(d.Old)
	if err != nil {
		return err
	}
	is, err := s.fact(d.Event)
	if err != nil {
		return err
	}
	st.members = true
	switch user := event.UserID(d.StateKey); {
	case is.member == "join" && was.member != "join":
		st.joins = append(st.joins, user)
	case is.member != "join" && was.member == "join":
		st.leaves = append(st.leaves, user)
	}
	return nil
}

// sentKey is one member event given to one device.
type sentKey struct {
	user   event.UserID
	device string
	event  int64
}

// stateBlock chooses and writes the events of the state block.
func (s *syncer) stateBlock(st *stateChange, pg page, heroes []event.UserID) ([]json.RawMessage, error) {
	x := &s.filter.Room.State
	want := map[event.UserID]bool{}
	if x.Lazy {
		want[s.user] = st.full
		for _, u := range heroes {
			want[u] = true
		}
		for _, e := range pg.events {
			want[e.Sender] = true
		}
		for u, ok := range want {
			k := stateKey{"m.room.member", string(u)}
			if _, have := st.values[k]; have || !ok {
				continue
			}
			v, err := st.at(k)
			if err != nil {
				return nil, err
			}
			if v == 0 {
				if v, err = s.senderOf(pg, u); err != nil {
					return nil, err
				}
			}
			if v != 0 && (x.Redundant || !s.wasSent(v)) {
				st.values[k] = v
			}
		}
	}
	out := []json.RawMessage{}
	if x.Limit != nil && *x.Limit == 0 {
		return out, nil
	}
	keys := slices.SortedFunc(maps.Keys(st.values), func(a, b stateKey) int {
		return int(min(1, max(-1, st.values[a]-st.values[b])))
	})
	for _, k := range keys {
		if !x.kind(k.typ) || x.Lazy && st.full && k.typ == "m.room.member" && !want[event.UserID(k.key)] {
			continue
		}
		e, err := s.EventByNID(st.values[k])
		if err != nil {
			return nil, err
		}
		if e == nil || !x.room(e.Room) {
			continue
		}
		b, err := s.body(e)
		if err != nil {
			return nil, err
		}
		if !x.event(e.Type, e.Sender, func() bool { return b.url }) {
			continue
		}
		raw, err := s.client(e, shape{})
		if err != nil {
			return nil, err
		}
		if x.Lazy && k.typ == "m.room.member" {
			s.f.sent.put(sentKey{s.user, s.device, e.NID}, s.pos)
		}
		out = append(out, raw)
	}
	return out, nil
}

// wasSent says whether the device has shown, by its token, that it has a member event.
func (s *syncer) wasSent(nid int64) bool {
	at, ok := s.f.sent.find(sentKey{s.user, s.device, nid})
	return ok && !s.first && at <= s.since.pos
}

// summary counts members and names some when the room has no name of its own.
func (s *syncer) summary(id event.RoomID) (*summary, []event.UserID, error) {
	joined, invited, err := s.CountMembers(id)
	if err != nil {
		return nil, nil, err
	}
	out := &summary{Joined: &joined, Invited: &invited}
	for _, typ := range []string{"m.room.name", "m.room.canonical_alias"} {
		e, err := s.CurrentStateEvent(id, typ, "")
		if err != nil {
			return nil, nil, err
		}
		if e == nil {
			continue
		}
		b, err := s.body(e)
		if err != nil {
			return nil, nil, err
		}
		var c struct {
			Name  string `json:"name"`
			Alias string `json:"alias"`
		}
		if json.Unmarshal(b.content, &c) == nil && c.Name+c.Alias != "" {
			return out, nil, nil
		}
	}
	out.Heroes, err = s.heroes(id)
	return out, out.Heroes, err
}

// heroes are up to five others: those in the room or invited, or else those who were.
func (s *syncer) heroes(id event.RoomID) (us []event.UserID, err error) {
	const most = 5
	for _, here := range []bool{true, false} {
		first, err := s.FirstMembers(id, here, most+1)
		if err != nil {
			return nil, err
		}
		for _, m := range first {
			if m.User != s.user && len(us) < most {
				us = append(us, m.User)
			}
		}
		if len(us) > 0 {
			break
		}
	}
	return us, nil
}
