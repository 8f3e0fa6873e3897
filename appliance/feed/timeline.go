// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"encoding/json"
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

// cutAtHole lets a page begin at its newest event that builds on something we lack: a timeline must not look whole where other servers
// have more between two of its events.
func (s *syncer) cutAtHole(id event.RoomID, pg *page) error {
	if len(pg.events) == 0 {
		return nil
	}
	holes, err := s.AboveGaps(id)
	if err != nil || len(holes) == 0 {
		return err
	}
	for i, e := range slices.Backward(pg.events) {
		if holes[e.NID] {
			pg.events, pg.limited = pg.events[i:], true
			break
		}
	}
	return nil
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
	was = was && !s.unveiled(m.Room)
	full := s.full || !was
	due := s.f.correction(s.corrected(m.Room), s.since.pos)
	if !full && !news && len(due) == 0 && len(data) == 0 && !s.recent.mayHaveChanged(m.Room, s.since.pos) {
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
	if err := s.cutAtHole(m.Room, &pg); err != nil {
		return nil, err
	}
	pg.limited = pg.limited || !was && !s.first // whoever comes into a room has seen nothing of it: a client must page back for what was before
	window := s.since.pos
	if !was {
		window = s.pos // what changed before does not matter: the whole state is told
	}
	st, err := s.changes(m.Room, window, s.pos, full, 0, pg)
	if err != nil {
		return nil, err
	}
	if err := s.correct(m.Room, st, pg, due); err != nil {
		return nil, err
	}
	out := &joinedRoom{AccountData: events{orEmpty(data)}, Ephemeral: events{[]json.RawMessage{}}}
	var heroes []event.UserID
	if full || st.members || s.completed(m.Room) {
		if out.Summary, heroes, err = s.summary(m.Room); err != nil {
			return nil, err
		}
	}
	newly, err := s.nowShared(m.Room, !was)
	if err != nil {
		return nil, err
	}
	s.shared(m, st, newly)
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
	if !full && !own && !pg.limited && !s.completed(m.Room) && len(pg.events)+len(list)+len(out.Ephemeral.Events)+len(data) == 0 {
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

func orEmpty(l []json.RawMessage) []json.RawMessage {
	if l == nil {
		return []json.RawMessage{}
	}
	return l
}
