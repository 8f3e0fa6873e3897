// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

const (
	maxWait   = 10 * time.Minute // a poll ends by then, whatever was asked
	maxLetter = 200              // to-device messages of one answer
)

// SyncRequest is GET /sync.
type SyncRequest struct {
	Since      string
	Filter     string // id or JSON
	FullState  bool
	Timeout    time.Duration
	StateAfter bool   // https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3sync use_state_after
	Presence   string // set_presence; "" is online
}

// events wraps a list as /sync does.
type events struct {
	Events []json.RawMessage `json:"events"`
}

type syncResponse struct {
	NextBatch   string      `json:"next_batch"`
	AccountData *events     `json:"account_data,omitempty"`
	ToDevice    *events     `json:"to_device,omitempty"`
	Presence    *events     `json:"presence,omitempty"`
	Rooms       *syncRooms  `json:"rooms,omitempty"`
	DeviceLists *deviceList `json:"device_lists,omitempty"`

	OneTimeKeys    map[string]int `json:"device_one_time_keys_count"`
	UnusedFallback []string       `json:"device_unused_fallback_key_types"`
}

type syncRooms struct {
	Join   map[event.RoomID]*joinedRoom  `json:"join,omitempty"`
	Invite map[event.RoomID]*invitedRoom `json:"invite,omitempty"`
	Knock  map[event.RoomID]*knockedRoom `json:"knock,omitempty"`
	Leave  map[event.RoomID]*leftRoom    `json:"leave,omitempty"`
}

type deviceList struct {
	Changed []event.UserID `json:"changed,omitempty"`
	Left    []event.UserID `json:"left,omitempty"`
}

type invitedRoom struct {
	State events `json:"invite_state"`
}

type knockedRoom struct {
	State events `json:"knock_state"`
}

// Sync answers GET /sync as JSON. It waits for news until the timeout when there is a since and nothing newer.
func (f *Feed) Sync(ctx context.Context, user event.UserID, device string, req SyncRequest) ([]byte, error) {
	since := token{}
	if req.Since != "" {
		var err error
		if since, err = parseToken(req.Since); err != nil {
			return nil, err
		}
		since.pos = max(0, since.pos)
	}
	w := f.join(user)
	defer f.leave(w)
	defer f.polling(user, req.Presence)()
	deadline := time.NewTimer(min(max(0, req.Timeout), maxWait))
	defer deadline.Stop()
	patient := req.Since != "" && !req.FullState && req.Timeout > 0
	for {
		s, err := f.look(ctx, user, device, since, req)
		if err != nil {
			return nil, err
		}
		if f.opt.OnShown != nil && !s.first {
			f.opt.OnShown(user, s.since.pos)
		}
		if !patient || !s.empty() {
			f.received(user, device, since.toDevice, s.letters)
			return s.json()
		}
		f.settle(w, s.joined)
		select {
		case <-w.ch:
		case <-deadline.C:
			patient = false // one more look, so that the token moves on
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-f.closed:
			patient = false
		}
	}
}

// received throws away the letters that the device's token has shown to be there.
func (f *Feed) received(user event.UserID, device string, upTo int64, some bool) {
	if !some || device == "" {
		return
	}
	f.db.Lazy(func(tx *store.Tx) error { return tx.DeleteToDevice(user, device, upTo) })
}

// syncer is one look for one answer.
type syncer struct {
	*look
	since  token
	full   bool // no since, or the full state is wanted
	first  bool // no since
	after  bool // state_after
	filter *filter

	recent  recent
	partial map[event.RoomID]store.Partial // rooms that were joined before all their members were known
	ignored map[event.UserID]bool
	typing  map[event.RoomID][]event.UserID // changed since
	data    map[event.RoomID][]json.RawMessage
	rules   *ruleset
	joined  map[event.RoomID]bool
	letters bool // the device's box holds some that are delivered

	came, went map[event.UserID]bool // who may have begun or ceased to share a room
	out        syncResponse
}

func (f *Feed) look(ctx context.Context, user event.UserID, device string, since token, req SyncRequest) (*syncer, error) {
	var s *syncer
	err := f.view(ctx, user, device, func(l *look) error {
		s = &syncer{look: l, since: since, first: req.Since == "", after: req.StateAfter,
			joined: map[event.RoomID]bool{}, came: map[event.UserID]bool{}, went: map[event.UserID]bool{}}
		if since.pos > l.pos {
			// A token from a future that was lost (a backup was restored): begin anew rather than keep silent.
			s.since, s.first = token{}, true
		}
		s.full = s.first || req.FullState
		var err error
		if s.filter, err = l.filter(req.Filter); err != nil {
			return err
		}
		return s.build()
	})
	return s, err
}

func (s *syncer) build() error {
	s.recent = s.f.recent(s.user, s.pos)
	h, err := s.home()
	if err != nil {
		return err
	}
	memberships := h.rooms
	if err := s.partials(); err != nil {
		return err
	}
	s.ignored = h.ignored
	s.recent.rooms(s.f, memberships)
	var typed int64
	s.typing, typed = s.f.typedSince(s.since.typing)
	if err := s.accountData(); err != nil {
		return err
	}
	s.out.Rooms = &syncRooms{Join: map[event.RoomID]*joinedRoom{}, Invite: map[event.RoomID]*invitedRoom{},
		Knock: map[event.RoomID]*knockedRoom{}, Leave: map[event.RoomID]*leftRoom{}}
	for _, m := range memberships {
		if m, err = s.asOf(m); err != nil {
			return err
		}
		if m.Membership == "join" {
			s.joined[m.Room] = true
		}
		if m.Forgotten && (s.full || m.Pos <= s.since.pos) || !s.filter.Room.room(m.Room) {
			continue
		}
		if err := s.room(m); err != nil {
			return err
		}
	}
	if err := s.presence(); err != nil {
		return err
	}
	next := token{pos: s.pos, typing: typed, toDevice: s.pos}
	if err := s.mail(&next); err != nil {
		return err
	}
	if err := s.devices(); err != nil {
		return err
	}
	s.out.NextBatch = next.String()
	return nil
}

// home finds the user's rooms, from memory when nothing has changed for the user.
func (s *syncer) home() (home, error) {
	if h, ok := s.f.homes.find(s.user); ok && !s.full && s.recent.quiet(h.pos) {
		return h, nil
	}
	h := home{pos: s.pos}
	var err error
	if h.rooms, err = s.RoomsOf(s.user); err != nil {
		return h, err
	}
	if h.ignored, err = s.look.ignored(); err != nil {
		return h, err
	}
	s.f.homes.put(s.user, h)
	return h, nil
}

// asOf gives a membership as it was at the look's position; the snapshot may be a little newer.
func (s *syncer) asOf(m store.Membership) (store.Membership, error) {
	if m.Pos <= s.pos {
		return m, nil
	}
	deltas, err := s.StateDeltas(m.Room, s.pos, m.Pos)
	if err != nil {
		return m, err
	}
	m.Membership, m.Pos = "", 0
	for _, d := range deltas {
		if d.Type != "m.room.member" || d.StateKey != string(m.User) {
			continue
		}
		e, err := s.EventByNID(d.Old)
		if err != nil || e == nil {
			return m, err
		}
		x, err := s.fact(d.Old)
		m.Membership, m.Event, m.Pos = x.member, d.Old, max(0, e.Pos)
		return m, err
	}
	return m, nil
}

func (s *syncer) room(m store.Membership) error {
	var err error
	switch m.Membership {
	case "join":
		if s.hidden(m.Room) {
			return nil
		}
		var r *joinedRoom
		if r, err = s.join(m); r != nil {
			s.out.Rooms.Join[m.Room] = r
		}
	case "invite":
		if m.Pos <= s.since.pos && !s.full {
			return nil
		}
		var state []json.RawMessage
		var from event.UserID
		if state, from, err = s.strippedState(m); err == nil && !s.ignored[from] {
			s.out.Rooms.Invite[m.Room] = &invitedRoom{events{state}}
		}
	case "knock":
		if m.Pos <= s.since.pos && !s.full {
			return nil
		}
		var state []json.RawMessage
		if state, _, err = s.strippedState(m); err == nil {
			s.out.Rooms.Knock[m.Room] = &knockedRoom{events{state}}
		}
	case "leave", "ban":
		if m.Pos <= s.since.pos && !s.full || s.first && !s.filter.Room.IncludeLeave {
			return nil
		}
		var r *leftRoom
		if r, err = s.left(m); r != nil {
			s.out.Rooms.Leave[m.Room] = r
		}
	}
	return err
}

// strippedTypes are shown with an invite: https://spec.matrix.org/latest/client-server-api/#stripped-state
var strippedTypes = []string{"m.room.create", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.join_rules", "m.room.canonical_alias", "m.room.encryption"}

// strippedState is what came with an invite or knock, or the room's own state when it is here, with the member event
// itself; from is its sender.
func (s *syncer) strippedState(m store.Membership) (state []json.RawMessage, from event.UserID, err error) {
	given, err := s.Stripped(m.Room, m.User)
	if err != nil {
		return nil, "", err
	}
	own := false
	for _, raw := range given {
		raw, x, err := pruned(raw)
		if err != nil {
			return nil, "", err
		}
		if raw == nil {
			continue
		}
		state = append(state, raw)
		own = own || x.Type == "m.room.member" && x.StateKey == string(m.User)
	}
	if given == nil {
		for _, typ := range strippedTypes {
			e, err := s.CurrentStateEvent(m.Room, typ, "")
			if err != nil {
				return nil, "", err
			}
			if e == nil {
				continue
			}
			raw, err := s.stripped(e)
			if err != nil {
				return nil, "", err
			}
			state = append(state, raw)
		}
	}
	e, err := s.EventByNID(m.Event)
	if err != nil || e == nil {
		return state, "", err
	}
	if own {
		return state, e.Sender, nil
	}
	raw, err := s.stripped(e)
	return append(state, raw), e.Sender, err
}

// accountData collects what changed, by room; "" is global.
func (s *syncer) accountData() error {
	after := s.since.pos
	s.data = map[event.RoomID][]json.RawMessage{}
	s.out.AccountData = &events{[]json.RawMessage{}}
	if s.full {
		after = 0
	} else if s.recent.quiet(after) {
		return nil
	}
	rows, err := s.AccountDataSince(s.user, after, s.pos)
	if err != nil {
		return err
	}
	global := []json.RawMessage{}
	hasRules := false
	for _, row := range rows {
		raw := typed(row.Type, row.Content)
		switch {
		case row.Room != "":
			if x := &s.filter.Room.AccountData; x.kind(row.Type) && x.room(row.Room) {
				s.data[row.Room] = append(s.data[row.Room], raw)
			}
		case s.filter.AccountData.kind(row.Type):
			hasRules = hasRules || row.Type == "m.push_rules"
			global = append(global, raw)
		}
	}
	if s.full && !hasRules && s.filter.AccountData.kind("m.push_rules") {
		raw, err := s.defaultRules()
		if err != nil {
			return err
		}
		global = append(global, typed("m.push_rules", raw))
	}
	s.out.AccountData = &events{global}
	return nil
}

// typed writes {"content":…,"type":…}.
func typed(typ string, content json.RawMessage) json.RawMessage {
	out := append([]byte(`{"content":`), content...)
	out = append(append(out, `,"type":`...), quoted(typ)...)
	return append(out, '}')
}

// mail adds the device's letters and the counts of its keys.
func (s *syncer) mail(next *token) error {
	s.out.ToDevice = &events{[]json.RawMessage{}}
	b, err := s.box()
	if err != nil {
		return err
	}
	s.out.OneTimeKeys, s.out.UnusedFallback = b.keys, b.fallback
	if !b.letters {
		return nil
	}
	if !s.first {
		if s.letters, err = s.HasToDevice(s.user, s.device, s.since.toDevice); err != nil {
			return err
		}
	}
	letters, err := s.ToDevice(s.user, s.device, s.since.toDevice, s.pos, maxLetter)
	if err != nil {
		return err
	}
	for _, l := range letters {
		s.out.ToDevice.Events = append(s.out.ToDevice.Events, l.Body)
	}
	if len(letters) == maxLetter {
		next.toDevice = letters[maxLetter-1].Pos
	}
	return nil
}

// box looks what lies in store for the device, from memory when nothing has changed for its user.
func (s *syncer) box() (box, error) {
	key := boxKey{s.user, s.device}
	// While letters lie there, the deletion of what was received is what changes; it touches nobody, so look again.
	if b, ok := s.f.boxes.find(key); ok && !s.full && !b.letters && s.recent.quiet(b.pos) {
		return b, nil
	}
	b := box{pos: s.pos, keys: map[string]int{}, fallback: []string{}}
	var err error
	if s.device != "" {
		if b.letters, err = s.HasToDevice(s.user, s.device, 1<<62); err != nil {
			return b, err
		}
		if b.keys, err = s.OneTimeKeyCounts(s.user, s.device); err != nil {
			return b, err
		}
		if b.fallback, err = s.UnusedFallback(s.user, s.device); err != nil {
			return b, err
		}
	}
	if _, ok := b.keys["signed_curve25519"]; !ok {
		b.keys["signed_curve25519"] = 0
	}
	s.f.boxes.put(key, b)
	return b, nil
}

// devices adds what a client needs to keep its picture of others' devices.
func (s *syncer) devices() error {
	s.out.DeviceLists = &deviceList{}
	if s.first {
		return nil
	}
	changed, left, err := s.listChanges(s.since.pos, s.pos)
	s.out.DeviceLists.Changed, s.out.DeviceLists.Left = changed, left
	return err
}

// empty says that there is nothing to tell.
func (s *syncer) empty() bool {
	r := s.out.Rooms
	return len(r.Join)+len(r.Invite)+len(r.Knock)+len(r.Leave) == 0 && len(s.out.AccountData.Events) == 0 &&
		len(s.out.ToDevice.Events) == 0 && len(s.out.Presence.Events) == 0 && len(s.out.DeviceLists.Changed)+len(s.out.DeviceLists.Left) == 0
}

func (s *syncer) json() ([]byte, error) {
	if len(s.out.AccountData.Events) == 0 {
		s.out.AccountData = nil
	}
	if len(s.out.ToDevice.Events) == 0 {
		s.out.ToDevice = nil
	}
	if len(s.out.Presence.Events) == 0 {
		s.out.Presence = nil
	}
	if d := s.out.DeviceLists; len(d.Changed)+len(d.Left) == 0 {
		s.out.DeviceLists = nil
	}
	if r := s.out.Rooms; len(r.Join)+len(r.Invite)+len(r.Knock)+len(r.Leave) == 0 {
		s.out.Rooms = nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&s.out); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
