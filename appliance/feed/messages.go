// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"context"
	"encoding/json"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// MessagesRequest asks for a stretch of history.
type MessagesRequest struct {
	From   string // "": from the end (backwards) or the beginning
	To     string
	Dir    string // "b" (default) or "f"
	Limit  int    // 0: 10
	Filter string // JSON or id
}

// MessagesResponse is GET /messages.
type MessagesResponse struct {
	Start string            `json:"start"`
	End   string            `json:"end,omitempty"` // "": the chunk is empty and there is no more
	Chunk []json.RawMessage `json:"chunk"`
	State []json.RawMessage `json:"state,omitempty"`

	// NeedBackfill says that our history ends here while other servers have more.
	NeedBackfill bool `json:"-"`
}

// ContextResponse is GET /context.
type ContextResponse struct {
	Start  string            `json:"start"`
	End    string            `json:"end"`
	Event  json.RawMessage   `json:"event"`
	Before []json.RawMessage `json:"events_before"`
	After  []json.RawMessage `json:"events_after"`
	State  []json.RawMessage `json:"state"`
}

// scan is one walk through a room's history.
type scan struct {
	room   event.RoomID
	past   past
	filter *eventFilter
	back   bool
	lo, hi int64 // events with lo < position <= hi
	limit  int
	keep   func(*store.Event, *body) bool // one more condition; nil: none
}

// walked is what a walk gave: events in its direction, the place it stopped at, and whether the end was reached.
type walked struct {
	events []*store.Event
	at     int64
	done   bool
}

// walk collects visible events that pass the filter.
func (l *look) walk(x scan) (walked, error) {
	w := walked{at: x.lo}
	if x.back {
		w.at = x.hi
	}
	for seen := 0; len(w.events) < x.limit; {
		chunk := min(max(x.limit-len(w.events), 20), 200)
		es, err := l.RoomEventsBetween(x.room, x.lo, x.hi, chunk, x.back)
		if err != nil {
			return w, err
		}
		for _, e := range es {
			if len(w.events) == x.limit {
				return w, nil
			}
			w.at = e.Pos
			if x.back {
				w.at--
				x.hi = w.at
			} else {
				x.lo = w.at
			}
			ok, err := l.wanted(x, e)
			if err != nil {
				return w, err
			}
			if ok {
				w.events = append(w.events, e)
			}
		}
		if len(es) < chunk {
			w.done = true
			return w, nil
		}
		if seen += len(es); seen > maxScan {
			return w, nil
		}
	}
	return w, nil
}

func (l *look) wanted(x scan, e *store.Event) (bool, error) {
	b, err := l.body(e)
	if err != nil {
		return false, err
	}
	if !x.filter.event(e.Type, e.Sender, func() bool { return b.url }) || x.keep != nil && !x.keep(e, b) {
		return false, nil
	}
	return l.visible(e, x.past)
}

// span reads from, to and dir of a request into a scan; end is the last position the reader may see.
func (l *look) span(id event.RoomID, req MessagesRequest, p past, end int64) (scan, string, error) {
	x := scan{room: id, past: p, lo: store.MinPos, hi: end, back: req.Dir != "f", limit: min(req.Limit, maxMessages)}
	if x.limit <= 0 {
		x.limit = 10
	}
	if req.Dir != "" && req.Dir != "b" && req.Dir != "f" {
		return x, "", &room.Error{Code: "M_INVALID_PARAM", Status: 400, Text: `dir must be "b" or "f"`}
	}
	start := req.From
	if start == "" {
		start = place(x.lo)
		if x.back {
			start = place(x.hi)
		}
	}
	for i, s := range []string{req.From, req.To} {
		if s == "" {
			continue
		}
		t, err := parseToken(s)
		if err != nil {
			return x, "", err
		}
		if (i == 0) == x.back {
			x.hi = min(x.hi, t.pos)
		} else {
			x.lo = max(x.lo, t.pos)
		}
	}
	return x, start, nil
}

// Messages answers GET /messages. Strangers get M_FORBIDDEN.
func (f *Feed) Messages(ctx context.Context, user event.UserID, device string, id event.RoomID, req MessagesRequest) (*MessagesResponse, error) {
	var out *MessagesResponse
	err := f.view(ctx, user, device, func(l *look) error {
		p, end, err := l.readable(id)
		if err != nil {
			return err
		}
		x, start, err := l.span(id, req, p, end)
		if err != nil {
			return err
		}
		if x.filter, err = l.eventFilter(req.Filter); err != nil {
			return err
		}
		if x.filter.Limit != nil && req.Limit == 0 {
			x.limit = x.filter.limit(10, maxMessages)
		}
		out = &MessagesResponse{Start: start, Chunk: []json.RawMessage{}}
		if !x.filter.room(id) {
			return nil
		}
		w, err := l.walk(x)
		if err != nil {
			return err
		}
		if out.Chunk, err = l.clients(w.events, shape{room: true}); err != nil {
			return err
		}
		if !w.done || len(w.events) > 0 {
			out.End = place(w.at) // clients take a missing end for a failure when there were events
		}
		if x.back && w.done && req.To == "" {
			gaps, err := l.Gaps(id)
			if err != nil {
				return err
			}
			if out.NeedBackfill = len(gaps) > 0; out.NeedBackfill {
				out.End = place(w.at)
			}
		}
		if x.filter.Lazy {
			out.State, err = l.members(w.events)
		}
		return err
	})
	return out, err
}

// members gives the member events of the senders of events, as of the newest of each.
func (l *look) members(es []*store.Event) ([]json.RawMessage, error) {
	seen := map[event.UserID]bool{}
	out := []json.RawMessage{}
	for _, e := range es {
		if seen[e.Sender] {
			continue
		}
		seen[e.Sender] = true
		before, _, err := l.groups(e)
		if err != nil {
			return nil, err
		}
		m, err := l.StateEventAt(before, "m.room.member", string(e.Sender))
		if err == nil && m == nil {
			m, err = l.CurrentStateEvent(e.Room, "m.room.member", string(e.Sender))
		}
		if err != nil {
			return nil, err
		}
		if m == nil {
			continue
		}
		raw, err := l.client(m, shape{room: true})
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

func noEvent() error {
	return &room.Error{Code: "M_NOT_FOUND", Status: 404, Text: "there is no such event, or you may not see it"}
}

// shown finds an event of a room that the reader may see.
func (l *look) shown(room event.RoomID, id event.ID) (*store.Event, past, error) {
	e, err := l.Event(id)
	if err != nil {
		return nil, past{}, err
	}
	if e == nil || e.Room != room || e.Is(store.Rejected) || e.Is(store.SoftFailed) {
		return nil, past{}, noEvent()
	}
	p, err := l.past(room)
	if err != nil {
		return nil, p, err
	}
	if e.Pos == 0 && e.StateKey != nil && p.now.Membership == "join" {
		return e, p, nil // state from before we came, known from the joining
	}
	ok, err := l.visible(e, p)
	if err == nil && (!ok || e.Pos == 0) {
		err = noEvent()
	}
	return e, p, err
}

// Event answers GET /event; M_NOT_FOUND also for what the user may not see.
func (f *Feed) Event(ctx context.Context, user event.UserID, device string, room event.RoomID, id event.ID) (json.RawMessage, error) {
	var out json.RawMessage
	err := f.view(ctx, user, device, func(l *look) error {
		e, _, err := l.shown(room, id)
		if err != nil {
			return err
		}
		out, err = l.client(e, shape{room: true})
		return err
	})
	return out, err
}

// Context answers GET /context: the event, and up to limit events around it.
func (f *Feed) Context(ctx context.Context, user event.UserID, device string, room event.RoomID, id event.ID, limit int, filterText string) (*ContextResponse, error) {
	var out *ContextResponse
	err := f.view(ctx, user, device, func(l *look) error {
		e, p, err := l.shown(room, id)
		if err != nil {
			return err
		}
		if e.Pos == 0 {
			return noEvent()
		}
		x := scan{room: room, past: p, lo: store.MinPos, hi: e.Pos - 1, back: true}
		if x.filter, err = l.eventFilter(filterText); err != nil {
			return err
		}
		limit = min(max(limit, 0), maxMessages)
		x.limit = limit / 2
		before, err := l.walk(x)
		if err != nil {
			return err
		}
		x.back, x.lo, x.hi, x.limit = false, e.Pos, l.pos, limit-limit/2
		if p.joined {
			x.hi = min(x.hi, p.until)
		}
		after, err := l.walk(x)
		if err != nil {
			return err
		}
		out = &ContextResponse{Start: place(before.at), End: place(after.at)}
		if out.Event, err = l.client(e, shape{room: true}); err != nil {
			return err
		}
		if out.Before, err = l.clients(before.events, shape{room: true}); err != nil {
			return err
		}
		if out.After, err = l.clients(after.events, shape{room: true}); err != nil {
			return err
		}
		out.State, err = l.contextState(x.filter, e, before.events, after.events)
		return err
	})
	return out, err
}

// contextState is the state at the last event shown; with lazy members only those who speak.
func (l *look) contextState(x *eventFilter, e *store.Event, before, after []*store.Event) ([]json.RawMessage, error) {
	last := e
	if len(after) > 0 {
		last = after[len(after)-1]
	}
	_, group, err := l.groups(last)
	if err != nil {
		return nil, err
	}
	speak := map[string]bool{string(e.Sender): true}
	for _, o := range slices.Concat(before, after) {
		speak[string(o.Sender)] = true
	}
	return l.state(group, func(typ, key string) bool {
		return !x.Lazy || typ != "m.room.member" || speak[key]
	})
}

// state writes a state group's events that keep lets through.
func (l *look) state(group int64, keep func(typ, key string) bool) ([]json.RawMessage, error) {
	s, err := l.Group(group)
	if err != nil {
		return nil, err
	}
	out := []json.RawMessage{}
	for _, x := range s {
		typ, key, err := l.f.db.StateKeyText(x.Key)
		if err != nil {
			return nil, err
		}
		if !keep(typ, key) {
			continue
		}
		e, err := l.EventByNID(x.Event)
		if err != nil {
			return nil, err
		}
		if e == nil {
			continue
		}
		raw, err := l.client(e, shape{room: true})
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

// Relations answers GET /relations: the events that point to parent, newest first unless dir is "f".
func (f *Feed) Relations(ctx context.Context, user event.UserID, device string, id event.RoomID, parent event.ID, rel, typ string, req MessagesRequest, recurse bool) (json.RawMessage, error) {
	var out struct {
		Chunk []json.RawMessage `json:"chunk"`
		Next  string            `json:"next_batch,omitempty"`
		Prev  string            `json:"prev_batch,omitempty"`
		Depth int               `json:"recursion_depth,omitempty"`
	}
	err := f.view(ctx, user, device, func(l *look) error {
		e, p, err := l.shown(id, parent)
		if err != nil {
			return err
		}
		_, end, err := l.readable(id)
		if err != nil {
			return err
		}
		x, _, err := l.span(id, req, p, end)
		if err != nil {
			return err
		}
		// What points to an event comes after it, in our order too, unless it was fetched as history.
		if e.Pos > 0 {
			x.lo = max(x.lo, e.Pos)
		}
		parents := map[event.ID]bool{parent: true}
		if recurse {
			out.Depth = 3
			if err := l.descendants(x, parents); err != nil {
				return err
			}
		}
		x.filter = &eventFilter{}
		x.keep = func(e *store.Event, b *body) bool {
			return parents[b.rel.Parent] && (rel == "" || b.rel.Type == rel) && (typ == "" || e.Type == typ) && b.rel.Type != ""
		}
		w, err := l.walk(x)
		if err != nil {
			return err
		}
		if !w.done {
			out.Next = place(w.at)
		}
		out.Prev = req.From
		out.Chunk, err = l.clients(w.events, shape{room: true})
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// descendants adds what points to what is in parents, in one walk forward.
func (l *look) descendants(x scan, parents map[event.ID]bool) error {
	x.back, x.filter, x.limit = false, &eventFilter{}, 1<<30
	x.keep = func(e *store.Event, b *body) bool {
		if b.rel.Parent != "" && parents[b.rel.Parent] {
			parents[e.ID] = true
		}
		return false
	}
	for {
		w, err := l.walk(x)
		if err != nil || w.done {
			return err
		}
		x.lo = w.at
	}
}
