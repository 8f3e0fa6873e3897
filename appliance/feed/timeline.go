// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"encoding/json"
	"maps"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// maxScan bounds how many events one answer looks at to find those that pass a filter.
const maxScan = 2000

type timeline struct {
	Events    []json.RawMessage `json:"events"`
	Limited   bool              `json:"limited"`
	PrevBatch string            `json:"prev_batch,omitempty"`
}

// joinedRoom is a room of rooms.join.
type joinedRoom struct {
	Timeline    timeline `json:"timeline"`
	State       *events  `json:"state,omitempty"`
	StateAfter  *events  `json:"state_after,omitempty"`
	Ephemeral   events   `json:"ephemeral"`
	AccountData events   `json:"account_data"`
	Summary     *summary `json:"summary,omitempty"`
	Unread      unreads  `json:"unread_notifications"`

	Threads map[string]unreads `json:"unread_thread_notifications,omitempty"`
}

type leftRoom struct {
	Timeline    timeline `json:"timeline"`
	State       *events  `json:"state,omitempty"`
	StateAfter  *events  `json:"state_after,omitempty"`
	AccountData events   `json:"account_data"`
}

type summary struct {
	Heroes  []event.UserID `json:"m.heroes,omitempty"`
	Joined  *int64         `json:"m.joined_member_count,omitempty"`
	Invited *int64         `json:"m.invited_member_count,omitempty"`
}

type unreads struct {
	Notifications int `json:"notification_count"`
	Highlights    int `json:"highlight_count"`
}

// page is a stretch of a room's timeline, oldest first.
type page struct {
	events  []*store.Event
	limited bool // there is more before it
}

// page collects the newest events in (after, to] that pass.
func (s *syncer) page(id event.RoomID, after, to int64, p past) (page, error) {
	x := &s.filter.Room.Timeline
	if !x.room(id) {
		return page{}, nil
	}
	limit := x.limit(defaultTimeline, maxTimeline)
	var out page
	for seen := 0; ; {
		chunk := limit + 1 - len(out.events)
		if seen > 0 {
			chunk = max(chunk, 50) // a filter or the past is in the way
		}
		es, err := s.RoomEventsBetween(id, after, to, chunk, true)
		if err != nil {
			return out, err
		}
		for _, e := range es {
			ok, err := s.passes(x, e, p)
			if err != nil {
				return out, err
			}
			if !ok {
				continue
			}
			if len(out.events) == limit {
				out.limited = true
				slices.Reverse(out.events)
				return out, nil
			}
			out.events = append(out.events, e)
		}
		if len(es) < chunk {
			break
		}
		to = es[len(es)-1].Pos - 1
		if seen += len(es); seen > maxScan {
			out.limited = true
			break
		}
	}
	slices.Reverse(out.events)
	return out, nil
}

// passes says whether an event is shown under a filter.
func (s *syncer) passes(x *eventFilter, e *store.Event, p past) (bool, error) {
	if s.ignored[e.Sender] && e.StateKey == nil {
		return false, nil
	}
	b, err := s.body(e)
	if err != nil {
		return false, err
	}
	if !x.event(e.Type, e.Sender, func() bool { return b.url }) {
		return false, nil
	}
	return s.visible(e, p)
}

// timeline writes a page; to is where it ends.
func (s *syncer) timeline(pg page, to int64) (timeline, error) {
	t := timeline{Limited: pg.limited, PrevBatch: place(to)}
	if len(pg.events) > 0 {
		t.PrevBatch = place(pg.events[0].Pos - 1)
	}
	var err error
	t.Events, err = s.clients(pg.events, shape{})
	return t, err
}

// join builds a joined room, or nil when nothing is to be told.
func (s *syncer) join(m store.Membership) (*joinedRoom, error) {
	typing, news := s.typing[m.Room]
	data := s.data[m.Room]
	was := !s.first
	if was && m.Pos > s.since.pos {
		var err error
		if was, err = s.wasJoined(m.Room, s.since.pos, m.Pos); err != nil {
			return nil, err
		}
	}
	full := s.full || !was
	if !full && !news && len(data) == 0 && !s.recent.mayHaveChanged(m.Room, s.since.pos) {
		return nil, nil
	}
	after := s.since.pos
	if !was {
		after = store.MinPos
	}
	p := past{now: m, joined: true, until: 1 << 62}
	pg, err := s.page(m.Room, after, s.pos, p)
	if err != nil {
		return nil, err
	}
	if !pg.limited && !was && len(pg.events) > 0 {
		gaps, err := s.Gaps(m.Room)
		if err != nil {
			return nil, err
		}
		pg.limited = len(gaps) > 0 // there is more, at other servers
	}
	window := s.since.pos
	if !was {
		window = s.pos // what changed before does not matter: the whole state is told
	}
	st, err := s.changes(m.Room, window, s.pos, full, 0, pg)
	if err != nil {
		return nil, err
	}
	out := &joinedRoom{AccountData: events{orEmpty(data)}, Ephemeral: events{[]json.RawMessage{}}}
	var heroes []event.UserID
	if full || st.members {
		if out.Summary, heroes, err = s.summary(m.Room); err != nil {
			return nil, err
		}
	}
	s.shared(m, st, !was)
	list, err := s.stateBlock(st, pg, heroes)
	if err != nil {
		return nil, err
	}
	if s.after {
		out.StateAfter = &events{list}
	} else {
		out.State = &events{list}
	}
	if out.Timeline, err = s.timeline(pg, s.pos); err != nil {
		return nil, err
	}
	own, err := s.ephemeral(m.Room, full, typing, news, out)
	if err != nil {
		return nil, err
	}
	if !full && !own && !pg.limited && len(pg.events)+len(list)+len(out.Ephemeral.Events)+len(data) == 0 {
		return nil, nil
	}
	return out, s.unread(m, pg, out)
}

// left builds a room the reader has left, or was thrown out of.
func (s *syncer) left(m store.Membership) (*leftRoom, error) {
	p, err := s.past(m.Room)
	if err != nil {
		return nil, err
	}
	end, err := s.EventByNID(m.Event)
	if err != nil {
		return nil, err
	}
	after := s.since.pos
	if s.first {
		after = store.MinPos
	}
	was := false
	if !s.first {
		if was, err = s.wasJoined(m.Room, s.since.pos, m.Pos); err != nil {
			return nil, err
		}
	}
	out := &leftRoom{AccountData: events{orEmpty(s.data[m.Room])}}
	pg, err := s.page(m.Room, after, m.Pos, p)
	if err != nil {
		return nil, err
	}
	if len(pg.events) == 0 && end != nil && end.Pos == 0 && s.filter.Room.Timeline.limit(defaultTimeline, maxTimeline) > 0 {
		b, err := s.body(end)
		if err != nil {
			return nil, err
		}
		if b.member == m.Membership {
			pg.events = append(pg.events, end) // of a room we have no history of: an invite that was declined
		}
	}
	list := []json.RawMessage{}
	if p.joined {
		group := int64(0)
		if end != nil {
			group = end.After
		}
		window := s.since.pos
		if !was {
			window = m.Pos
		}
		st, err := s.changes(m.Room, window, m.Pos, s.full || !was, group, pg)
		if err != nil {
			return nil, err
		}
		if was {
			if err := s.parted(m.Room); err != nil {
				return nil, err
			}
		}
		if list, err = s.stateBlock(st, pg, nil); err != nil {
			return nil, err
		}
	}
	if s.after {
		out.StateAfter = &events{list}
	} else {
		out.State = &events{list}
	}
	out.Timeline, err = s.timeline(pg, m.Pos)
	return out, err
}

// wasJoined says whether the reader was joined at a position, given that the membership changed in (since, to].
func (s *syncer) wasJoined(id event.RoomID, since, to int64) (bool, error) {
	deltas, err := s.StateDeltas(id, since, to)
	if err != nil {
		return false, err
	}
	for _, d := range deltas {
		if d.Type == "m.room.member" && d.StateKey == string(s.user) {
			if d.Old == 0 {
				return false, nil
			}
			x, err := s.fact(d.Old)
			return x.member == "join", err
		}
	}
	return false, nil
}

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

// changes finds what the state block must say so that a client which lays the timeline's state events over it has the state
// at to. group is the state at to, 0: the current one.
func (s *syncer) changes(id event.RoomID, since, to int64, full bool, group int64, pg page) (*stateChange, error) {
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
		return nil, err
	}
	st := &stateChange{values: map[stateKey]int64{}, full: full}
	before := map[stateKey]int64{} // value that the timeline's first change replaced
	base, last := map[stateKey]int64{}, map[stateKey]int64{}
	for _, d := range deltas {
		k := stateKey{d.Type, d.StateKey}
		if _, ok := before[k]; !ok && inTimeline[k][d.Pos] {
			before[k] = d.Old
		}
		if d.Pos <= since {
			continue
		}
		if _, ok := base[k]; !ok {
			base[k] = d.Old
		}
		last[k] = d.Event
		if d.Type == "m.room.member" {
			if err := s.memberChange(st, d); err != nil {
				return nil, err
			}
		}
	}
	st.at = func(k stateKey) (int64, error) {
		if v, ok := before[k]; ok && !s.after {
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
		for k, v := range last {
			if b, ok := before[k]; ok && !s.after {
				v = b
			}
			if v != 0 && v != base[k] {
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
		if b, ok := before[k]; ok && !s.after {
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
func (s *syncer) heroes(id event.RoomID) ([]event.UserID, error) {
	all, err := s.Members(id, "")
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b store.Membership) int { return int(min(1, max(-1, a.Event-b.Event))) })
	var here, gone []event.UserID
	for _, m := range all {
		switch {
		case m.User == s.user:
		case m.Membership == "join" || m.Membership == "invite":
			here = append(here, m.User)
		case m.Membership == "leave" || m.Membership == "ban":
			gone = append(gone, m.User)
		}
	}
	if len(here) == 0 {
		here = gone
	}
	return here[:min(5, len(here))], nil
}

func orEmpty(l []json.RawMessage) []json.RawMessage {
	if l == nil {
		return []json.RawMessage{}
	}
	return l
}
