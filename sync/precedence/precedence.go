// SPDX-License-Identifier: EUPL-1.2

// Package precedence says how urgent a stored event is: what its sender asks for, as far as the room's policy (package priority), the sender's power in the room's current
// state and the limits allow it, and as long as that lasts. Every box judges for itself, the one where an event was written and those that pass it on, so that neither
// a client nor a hostile box can raise what the room does not allow.
//
// It keeps in memory, bounded, what it found of rooms (until their state changes) and of raised events (when they came, what they were granted). How long ago an event came is
// counted from when it was appended here; of an event from before a restart, from its own timestamp. Where in doubt an event is younger: a raised priority may last too
// long, never too short.
package precedence

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/room"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// Judge is safe for concurrent use.
type Judge struct {
	mu     sync.Mutex
	rooms  map[event.RoomID]*standing
	raised map[event.ID]grant
	meter  priority.Meter
	ahead  priority.Meter // of what comes ahead of its event, which is counted again when it is there
	news   []News
	rush   map[event.RoomID][]raised // oldest first
	looked map[event.RoomID]bool     // whether what is raised and older than this program was looked for
}

// standing is what of a room's state counts; it is not changed once it is made.
type standing struct {
	cur     int64 // the group of the state it was read from
	version *event.Version
	policy  priority.Policy
	law     map[rules.Key]*rules.Event
}

func (s *standing) power(u event.UserID) int64 {
	return rules.UserLevel(func(k rules.Key) *rules.Event { return s.law[k] }, u)
}

type grant struct {
	level priority.Level // within the limits when it came
	since time.Time
}

// News is an event that came in raised.
type News struct {
	Event  event.ID
	Room   event.RoomID
	Sender event.UserID
	Pos    int64 // in the stream
	Level  priority.Level
	Quiet  time.Duration // of the room's policy
}

const (
	maxRooms  = 1024
	maxRaised = 4096
	maxNews   = 256
)

// New makes a judge that has seen nothing.
func New() *Judge {
	return &Judge{rooms: map[event.RoomID]*standing{}, raised: map[event.ID]grant{}, rush: map[event.RoomID][]raised{}, looked: map[event.RoomID]bool{}}
}

// Appended notes an event that comes in raised; it belongs into room.Options.OnAppend. Of other events it looks at the content once.
func (j *Judge) Appended(tx *store.Tx, e room.AppendInfo) error {
	if e.Outlier || e.Backfill || e.Outcome != room.Accepted || e.PDU.StateKey != nil || !mayAsk(e.PDU.Type) {
		return nil
	}
	if !bytes.Contains(e.PDU.Content, []byte(priority.Type)) && !j.raises(e.Room) {
		return nil
	}
	l, s, err := j.asked(tx.Read, e.PDU)
	if err != nil || l >= priority.Routine {
		return err
	}
	tx.Then(func() { j.came(e, l, s) })
	return nil
}

// came notes a raised event that is in the store.
func (j *Judge) came(e room.AppendInfo, l priority.Level, s *standing) {
	g := j.granted(e.PDU, l, s, time.Now(), 0)
	if g.level >= priority.Routine {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rushed(e.Room, raised{e.PDU.ID, e.NID, g.level, g.since, e.PDU.Sender})
	if len(j.news) < maxNews {
		j.news = append(j.news, News{e.PDU.ID, e.Room, e.PDU.Sender, e.Pos, g.level, s.policy.Quiet})
	}
}

// News gives what came in raised up to a place of the stream, once.
func (j *Judge) News(upTo int64) []News {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for n < len(j.news) && j.news[n].Pos <= upTo {
		n++
	}
	out := j.news[:n:n]
	j.news = j.news[n:]
	return out
}

// mayAsk leaves out what does not speak to people: a redaction that overtakes what it redacts helps nobody.
func mayAsk(typ string) bool { return typ != "m.room.redaction" }

// speaks are the types that have the default of their room.
func speaks(typ string) bool { return typ == "m.room.message" || typ == "m.room.encrypted" }

// raises says whether a room is known to raise messages that do not ask for it.
func (j *Judge) raises(id event.RoomID) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.rooms[id]
	return s != nil && s.policy.Default < priority.Routine
}

// Level is how urgent an event of the store is now. State comes before talk: a text is worth little to a box that does not know who is in the room.
func (j *Judge) Level(r *store.Read, p *event.PDU) (priority.Level, error) {
	if p.StateKey != nil {
		return priority.Priority, nil
	}
	l, s, err := j.asked(r, p)
	if err != nil || l >= priority.Routine {
		return l, err
	}
	now := time.Now()
	g := j.granted(p, l, s, now, now.Sub(time.UnixMilli(p.TS)))
	l = max(l, g.level)
	if s.policy.Left(l, now.Sub(g.since)) == 0 {
		l = priority.Routine
	}
	return l, nil
}

// asked is what an event asks for, as far as policy and power allow it.
func (j *Judge) asked(r *store.Read, p *event.PDU) (priority.Level, *standing, error) {
	if !mayAsk(p.Type) {
		return priority.Routine, nil, nil
	}
	says := bytes.Contains(p.Content, []byte(priority.Type))
	if !says && !speaks(p.Type) {
		return priority.Routine, nil, nil
	}
	s, err := j.standing(r, p.RoomID)
	if err != nil || s == nil {
		return priority.Routine, nil, err
	}
	return s.may(p.Type, p.Content, p.Sender), s, nil
}

// may is what a message of that content may have of a room, limits aside.
func (s *standing) may(typ string, content []byte, sender event.UserID) priority.Level {
	l, said, err := priority.Asked(content)
	if err != nil || !said {
		if l = priority.Routine; speaks(typ) {
			l = s.policy.Default
		}
	}
	if l >= priority.Routine {
		return l
	}
	return s.policy.May(l, s.power(sender))
}

// granted is what an event was granted when it was seen first. age is how old it was then at most.
func (j *Judge) granted(p *event.PDU, l priority.Level, s *standing, now time.Time, age time.Duration) grant {
	j.mu.Lock()
	defer j.mu.Unlock()
	if g, ok := j.raised[p.ID]; ok {
		return g
	}
	g := grant{level: l, since: now.Add(-max(age, 0))}
	if s.policy.Left(l, now.Sub(g.since)) > 0 { // what has run out is not counted
		g.level = j.meter.Take(now, string(p.RoomID), string(p.Sender), &s.policy, l, s.power(p.Sender))
	}
	if len(j.raised) >= maxRaised {
		j.forget()
	}
	j.raised[p.ID] = g
	return g
}

// forget drops the older half.
func (j *Judge) forget() {
	var ages []time.Time
	for _, g := range j.raised {
		ages = append(ages, g.since)
	}
	slices.SortFunc(ages, time.Time.Compare)
	for id, g := range j.raised {
		if !g.since.After(ages[len(ages)/2]) {
			delete(j.raised, id)
		}
	}
}

// standing reads what counts of a room, from memory while its state is the same; nil where we hold no state.
func (j *Judge) standing(r *store.Read, id event.RoomID) (*standing, error) {
	row, err := r.Room(id)
	if row == nil || row.Cur == 0 || err != nil {
		return nil, err
	}
	j.mu.Lock()
	old := j.rooms[id]
	j.mu.Unlock()
	if old != nil && old.cur == row.Cur {
		return old, nil
	}
	s, err := read(r, row)
	if err != nil {
		return nil, fmt.Errorf("read the priorities of %s: %w", id, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.rooms) >= maxRooms {
		clear(j.rooms)
	}
	j.rooms[id] = s
	return s, nil
}

func read(r *store.Read, row *store.Room) (*standing, error) {
	v, ok := event.Lookup(row.Version)
	if !ok {
		return nil, fmt.Errorf("room version %q is not known", row.Version)
	}
	s := &standing{cur: row.Cur, version: v, policy: priority.Unset(), law: map[rules.Key]*rules.Event{}}
	for _, typ := range []string{"m.room.create", "m.room.power_levels", priority.Type} {
		e, err := r.CurrentStateEvent(row.ID, typ, "")
		if err != nil {
			return nil, err
		}
		if e == nil {
			continue
		}
		p, err := event.ParseTrusted(v, e.ID, e.JSON)
		if err != nil {
			return nil, err
		}
		if typ == priority.Type {
			s.policy, _ = priority.Parse(p.Content) // what is not sensible in it does not hold
			continue
		}
		thin, err := rules.Thin(p)
		if err != nil {
			return nil, err
		}
		s.law[rules.Key{Type: typ}] = thin
	}
	return s, nil
}

// Ahead is how urgent a message is of which only the text is here, and how long it keeps narrow links quiet. Each call counts as one message.
func (j *Judge) Ahead(r *store.Read, id event.RoomID, sender event.UserID, typ string, content []byte) (priority.Level, time.Duration, error) {
	s, err := j.standing(r, id)
	if err != nil || s == nil {
		return priority.Routine, 0, err
	}
	l := s.may(typ, content, sender)
	if l >= priority.Routine {
		return l, 0, nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ahead.Take(time.Now(), string(id), string(sender), &s.policy, l, s.power(sender)), s.policy.Quiet, nil
}

// Quiet is how long a flash keeps narrow links quiet by a room's policy; not at all where we hold no state.
func (j *Judge) Quiet(r *store.Read, id event.RoomID) (time.Duration, error) {
	s, err := j.standing(r, id)
	if s == nil || err != nil {
		return 0, err
	}
	return s.policy.Quiet, nil
}

// Know reads a room's policy, so that its default is known before the first message.
func (j *Judge) Know(r *store.Read, id event.RoomID) error {
	_, err := j.standing(r, id)
	return err
}
